//! The crate's UDP echo server with idle endpoints beside it, as many as `--idle=N` says.

use std::io;

use coracle::{create_datagram_endpoint, Address, DatagramOptions};
use coracle::{DatagramProtocol, DatagramTransport};
use coracle_guests::{address, announce, number};

struct Echo;

impl DatagramProtocol for Echo {
    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
        if let Err(error) = transport.send_to(data, from) {
            eprintln!("no reply to {from}: {error}");
        }
    }
}

coracle::wasi_main!();

fn main() -> io::Result<()> {
    let idle = number("--idle")?.unwrap_or(0);
    coracle::block_on(async {
        let mut endpoints = Vec::new();
        for _ in 0..idle {
            let options = DatagramOptions::new().local_addr("127.0.0.1:0");
            endpoints.push(create_datagram_endpoint(|| Echo, options).await?);
        }
        let options = DatagramOptions::new().local_addr(address());
        let (transport, _echo) = create_datagram_endpoint(|| Echo, options).await?;
        announce(transport.local_addr()?)?;
        transport.closed().await
    })
}
