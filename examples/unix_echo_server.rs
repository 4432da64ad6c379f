//! Echoes what comes over Unix connections until it is killed.
//!
//! `unix_echo_server PATH`, where `@name` is an abstract name (Linux)

#[cfg(unix)]
mod server {
    use std::io;

    use coracle::{create_unix_server, Protocol, Transport, UnixServerOptions};

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

    pub(crate) async fn serve(path: String) -> io::Result<()> {
        let options = UnixServerOptions::new().path(path).backlog(1024);
        let server = create_unix_server(|| Echo, options).await?;
        for addr in server.local_addrs() {
            println!("listening on {addr}");
        }
        server.serve_forever().await
    }
}

#[cfg(unix)]
fn main() -> std::io::Result<()> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: unix_echo_server PATH");
        std::process::exit(2);
    };
    coracle::block_on(server::serve(path))
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this platform has no Unix connections");
    std::process::exit(1);
}
