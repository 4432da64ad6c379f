//! Echoes UDP datagrams until it is killed.
//!
//! `udp_echo_server [ADDR]` (127.0.0.1:9999)

use coracle::{create_datagram_endpoint, Address, DatagramOptions};
use coracle::{DatagramProtocol, DatagramTransport};

struct Echo;

impl DatagramProtocol for Echo {
    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
        if let Err(error) = transport.send_to(data, from) {
            eprintln!("no reply to {from}: {error}");
        }
    }

    fn error_received(&mut self, _: &DatagramTransport, error: std::io::Error) {
        eprintln!("{error}");
    }
}

// On WASI 0.3 this has main started; elsewhere it is nothing.
coracle::wasi_main!();

fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:9999".into());
    coracle::block_on(async {
        let options = DatagramOptions::new().local_addr(addr);
        let (transport, _echo) = create_datagram_endpoint(|| Echo, options).await?;
        println!("listening on {}", transport.local_addr()?);
        transport.closed().await
    })
}
