//! Sends a message over a Unix connection, and prints the reply.
//!
//! `unix_echo_client PATH MESSAGE`, where `@name` is an abstract name (Linux); with TLS,
//! `unix_echo_client PATH MESSAGE --tls-ca FILE --server-hostname NAME`

use std::process::ExitCode;

#[cfg(unix)]
#[path = "support/tls.rs"]
mod tls;

#[cfg(unix)]
mod client {
    use std::io;

    use coracle::{create_unix_connection, Protocol, Transport, UnixOptions};

    use super::tls::ClientTls;

    /// Says something, ends its direction, and collects what comes back until the server ends the
    /// other.
    struct Client {
        message: String,
        reply: Vec<u8>,
    }

    impl Client {
        /// TLS has no end of one direction: there, the echo of the last byte is the end.
        fn close_at_the_end(&self, transport: &Transport) {
            if !transport.can_write_eof() && self.reply.len() >= self.message.len() {
                transport.close();
            }
        }
    }

    impl Protocol for Client {
        fn connection_made(&mut self, transport: &Transport) {
            let _ = transport.write(self.message.as_bytes());
            if transport.can_write_eof() {
                let _ = transport.write_eof();
            }
            self.close_at_the_end(transport);
        }

        fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
            self.reply.extend(data);
            self.close_at_the_end(transport);
            Ok(())
        }
    }

    pub(crate) async fn exchange(path: &str, message: &str, tls: ClientTls) -> io::Result<String> {
        let client = || Client {
            message: message.into(),
            reply: Vec::new(),
        };
        let options = with_tls(UnixOptions::new().path(path), tls)?;
        let (_transport, protocol) = create_unix_connection(client, options).await?;
        let (client, result) = protocol.lost().await;
        result.map(|()| String::from_utf8_lossy(&client.reply).into_owned())
    }

    #[cfg(feature = "tls")]
    fn with_tls(mut options: UnixOptions, tls: ClientTls) -> io::Result<UnixOptions> {
        if let Some(config) = tls.config()? {
            options = options.tls(config);
        }
        if let Some(name) = tls.server_hostname {
            options = options.server_hostname(name);
        }
        Ok(options)
    }

    #[cfg(not(feature = "tls"))]
    fn with_tls(options: UnixOptions, _: ClientTls) -> io::Result<UnixOptions> {
        Ok(options)
    }
}

#[cfg(unix)]
fn main() -> ExitCode {
    use coracle::time::timeout;
    use std::time::Duration;

    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let tls = tls::ClientTls::take(&mut args);
    let [path, message] = &args[..] else {
        eprintln!("usage: unix_echo_client PATH MESSAGE [--tls-ca FILE --server-hostname NAME]");
        return ExitCode::from(2);
    };
    let exchange = client::exchange(path, message, tls);
    match coracle::block_on(timeout(Duration::from_secs(2), exchange)) {
        Ok(Ok(reply)) => {
            println!("{reply}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("no reply from {path} in 2 s");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("this platform has no Unix connections");
    ExitCode::FAILURE
}
