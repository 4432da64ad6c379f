//! A UDP echo server directly on the host's interface that receives and sends lists: of 8 datagrams,
//! or as many as `--list=N` says, of which the host gives 16 at most.

use std::io;

use coracle_guests::bare::{failed, Udp};
use coracle_guests::{address, announce, number};
use wasip2::sockets::udp::OutgoingDatagram;

fn main() -> io::Result<()> {
    let most = number("--list")?.unwrap_or(8);
    let socket = Udp::bind(&address())?;
    announce(socket.local_address()?)?;
    loop {
        socket.readable.block();
        let received = socket.incoming.receive(most).map_err(failed)?;
        let replies: Vec<OutgoingDatagram> = received
            .into_iter()
            .map(|datagram| OutgoingDatagram {
                data: datagram.data,
                remote_address: Some(datagram.remote_address),
            })
            .collect();
        socket.send(&replies)?;
    }
}
