//! Echoes what comes over TCP connections until it is killed.
//!
//! `tcp_echo_server [ADDR]` (127.0.0.1:9999)

use coracle::{create_server, on_data, TcpServerOptions};

fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:9999".into());
    coracle::block_on(async {
        let echo = || on_data(|transport, data| transport.write(data));
        let options = TcpServerOptions::new().local_addr(addr).backlog(1024);
        let server = create_server(echo, options).await?;
        for addr in server.local_addrs() {
            println!("listening on {addr}");
        }
        server.serve_forever().await
    })
}
