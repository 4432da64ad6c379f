//! A UDP echo server directly on the host's interface: one datagram received, the same sent, and a
//! wait on the pollable that is kept. With `--idle=N` so many idle sockets are polled besides.

use std::io;

use coracle_guests::bare::{failed, Udp};
use coracle_guests::{address, announce, number};
use wasip2::io::poll::{poll, Pollable};
use wasip2::sockets::udp::OutgoingDatagram;

fn main() -> io::Result<()> {
    let idle = (0..number("--idle")?.unwrap_or(0))
        .map(|_| Udp::bind("127.0.0.1:0"))
        .collect::<io::Result<Vec<Udp>>>()?;
    let socket = Udp::bind(&address())?;
    announce(socket.local_address()?)?;
    let pollables: Vec<&Pollable> = std::iter::once(&socket)
        .chain(&idle)
        .map(|socket| &socket.readable)
        .collect();
    loop {
        match pollables[..] {
            [only] => only.block(),
            _ => drop(poll(&pollables)),
        }
        for datagram in socket.incoming.receive(1).map_err(failed)? {
            socket.send(&[OutgoingDatagram {
                data: datagram.data,
                remote_address: Some(datagram.remote_address),
            }])?;
        }
    }
}
