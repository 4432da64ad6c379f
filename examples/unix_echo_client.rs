//! Sends a message over a Unix connection, and prints the reply.
//!
//! `unix_echo_client PATH MESSAGE`, where `@name` is an abstract name (Linux)

use std::process::ExitCode;

#[cfg(unix)]
mod client {
    use std::io;

    use coracle::{create_unix_connection, Protocol, Transport, UnixOptions};

    /// Says something, ends its direction, and collects what comes back until the server ends the
    /// other.
    struct Client {
        message: String,
        reply: Vec<u8>,
    }

    impl Protocol for Client {
        fn connection_made(&mut self, transport: &Transport) {
            let _ = transport.write(self.message.as_bytes());
            let _ = transport.write_eof();
        }

        fn data_received(&mut self, _: &Transport, data: &[u8]) -> io::Result<()> {
            self.reply.extend(data);
            Ok(())
        }
    }

    pub(crate) async fn exchange(path: &str, message: &str) -> io::Result<String> {
        let client = || Client {
            message: message.into(),
            reply: Vec::new(),
        };
        let options = UnixOptions::new().path(path);
        let (_transport, protocol) = create_unix_connection(client, options).await?;
        let (client, result) = protocol.lost().await;
        result.map(|()| String::from_utf8_lossy(&client.reply).into_owned())
    }
}

#[cfg(unix)]
fn main() -> ExitCode {
    use coracle::time::timeout;
    use std::time::Duration;

    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, message] = &args[..] else {
        eprintln!("usage: unix_echo_client PATH MESSAGE");
        return ExitCode::from(2);
    };
    let exchange = client::exchange(path, message);
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
