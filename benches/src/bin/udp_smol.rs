//! An echo server on smol.

use std::io;

use coracle_benches::{contract, BUFFER};
use smol::net::UdpSocket;

fn main() -> io::Result<()> {
    let socket = contract::bind()?;
    smol::block_on(async {
        let socket = UdpSocket::try_from(socket)?;
        contract::announce(socket.local_addr()?)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await?;
            socket.send_to(&buffer[..len], peer).await?;
        }
    })
}
