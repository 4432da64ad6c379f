//! Echoes what comes over TCP connections until it is killed.
//!
//! `tcp_echo_server [ADDR]` (127.0.0.1:9999); with TLS,
//! `tcp_echo_server [ADDR] --tls-cert FILE --tls-key FILE`

#[path = "support/tls.rs"]
mod tls;

use std::io;

use coracle::{create_server, Protocol, TcpServerOptions, Transport};
use tls::ServerTls;

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

#[cfg(feature = "tls")]
fn with_tls(options: TcpServerOptions, tls: ServerTls) -> io::Result<TcpServerOptions> {
    Ok(match tls.config()? {
        Some(config) => options.tls(config),
        None => options,
    })
}

#[cfg(not(feature = "tls"))]
fn with_tls(options: TcpServerOptions, _: ServerTls) -> io::Result<TcpServerOptions> {
    Ok(options)
}

// On WASI 0.3 this has main started; elsewhere it is nothing.
coracle::wasi_main!();

fn main() -> io::Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let tls = ServerTls::take(&mut args);
    let addr = args.into_iter().next().unwrap_or("127.0.0.1:9999".into());
    coracle::block_on(async {
        let options = TcpServerOptions::new().local_addr(addr).backlog(1024);
        let server = create_server(|| Echo, with_tls(options, tls)?).await?;
        for addr in server.local_addrs() {
            println!("listening on {addr}");
        }
        server.serve_forever().await
    })
}
