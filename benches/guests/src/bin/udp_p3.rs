//! A UDP echo server directly on the interface of WASI 0.3: one datagram received, the same sent.
//! With `--idle=N` a receive is under way on so many idle sockets besides.

use std::io;

use coracle_guests::{address, announce, number};
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, UdpSocket,
};

struct Program;

wasip3::cli::command::export!(Program);

impl wasip3::exports::cli::run::Guest for Program {
    async fn run() -> Result<(), ()> {
        match serve().await {
            Ok(()) => Ok(()),
            Err(error) => {
                eprintln!("{error}");
                Err(())
            }
        }
    }
}

fn failed(code: ErrorCode) -> io::Error {
    io::Error::other(code)
}

fn bind(address: &str) -> io::Result<UdpSocket> {
    let address: std::net::SocketAddrV4 = address.parse().map_err(io::Error::other)?;
    let [a, b, c, d] = address.ip().octets();
    let socket = UdpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
    let local = Ipv4SocketAddress {
        port: address.port(),
        address: (a, b, c, d),
    };
    socket.bind(IpSocketAddress::Ipv4(local)).map_err(failed)?;
    Ok(socket)
}

async fn serve() -> io::Result<()> {
    for _ in 0..number("--idle")?.unwrap_or(0) {
        let idle = bind("127.0.0.1:0")?;
        wasip3::spawn_local(async move {
            let _ = idle.receive().await;
        });
    }
    let socket = bind(&address())?;
    if let IpSocketAddress::Ipv4(local) = socket.get_local_address().map_err(failed)? {
        announce(format_args!("127.0.0.1:{}", local.port))?;
    }
    loop {
        let (data, from) = socket.receive().await.map_err(failed)?;
        socket.send(data, Some(from)).await.map_err(failed)?;
    }
}

fn main() {}
