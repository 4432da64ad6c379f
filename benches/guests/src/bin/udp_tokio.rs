//! A UDP echo server on tokio's current-thread runtime, with its I/O driver and nothing else.

use std::io;

use coracle_guests::{address, announce};
use tokio::net::UdpSocket;

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let socket = UdpSocket::bind(address()).await?;
        announce(socket.local_addr()?)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await?;
            socket.send_to(&buffer[..len], peer).await?;
        }
    })
}
