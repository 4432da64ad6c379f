//! Echoes what comes over Unix connections until it is killed.
//!
//! `unix_echo_server PATH`, where `@name` is an abstract name (Linux); with TLS,
//! `unix_echo_server PATH --tls-cert FILE --tls-key FILE`

#[cfg(unix)]
#[path = "support/tls.rs"]
mod tls;

#[cfg(unix)]
mod server {
    use std::io;

    use coracle::{create_unix_server, Protocol, Transport, UnixServerOptions};

    use super::tls::ServerTls;

    struct Echo;

    impl Protocol for Echo {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
            transport.write(data)
        }

        // A client that reads nothing is not read from either, lest its echo fill the memory.
        fn pause_writing(&mut self, transport: &Transport) {
            transport.pause_reading();
        }

        fn resume_writing(&mut self, transport: &Transport) {
            transport.resume_reading();
        }
    }

    pub(crate) async fn serve(path: &str, tls: ServerTls) -> io::Result<()> {
        let options = UnixServerOptions::new().path(path).backlog(1024);
        let options = with_tls(options, tls)?;
        let server = create_unix_server(|| Echo, options).await?;
        for addr in server.local_addrs() {
            println!("listening on {addr}");
        }
        server.serve_forever().await
    }

    #[cfg(feature = "tls")]
    fn with_tls(options: UnixServerOptions, tls: ServerTls) -> io::Result<UnixServerOptions> {
        Ok(match tls.config()? {
            Some(config) => options.tls(config),
            None => options,
        })
    }

    #[cfg(not(feature = "tls"))]
    fn with_tls(options: UnixServerOptions, _: ServerTls) -> io::Result<UnixServerOptions> {
        Ok(options)
    }
}

#[cfg(unix)]
fn main() -> std::io::Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let tls = tls::ServerTls::take(&mut args);
    let [path] = &args[..] else {
        eprintln!("usage: unix_echo_server PATH [--tls-cert FILE --tls-key FILE]");
        std::process::exit(2);
    };
    coracle::block_on(server::serve(path, tls))
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this platform has no Unix connections");
    std::process::exit(1);
}
