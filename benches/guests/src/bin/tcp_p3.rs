//! A TCP echo server directly on the interface of WASI 0.3: one connection after the other, each
//! read written back. It reads as much at a time as `--read=N` says.

use std::io;

use coracle_guests::{address, announce, number};
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket,
};
use wasip3::wit_bindgen::StreamResult;
use wasip3::wit_stream;

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

async fn serve() -> io::Result<()> {
    let most = number("--read")?.unwrap_or(1024);
    let address: std::net::SocketAddrV4 = address().parse().map_err(io::Error::other)?;
    let [a, b, c, d] = address.ip().octets();
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
    let local = Ipv4SocketAddress {
        port: address.port(),
        address: (a, b, c, d),
    };
    socket.bind(IpSocketAddress::Ipv4(local)).map_err(failed)?;
    let mut connections = socket.listen().map_err(failed)?;
    if let IpSocketAddress::Ipv4(local) = socket.get_local_address().map_err(failed)? {
        announce(format_args!("127.0.0.1:{}", local.port))?;
    }
    while let Some(connection) = connections.next().await {
        echo(&connection, most).await;
    }
    Ok(())
}

async fn echo(socket: &TcpSocket, most: usize) {
    let (mut writer, reader) = wit_stream::new();
    let sent = socket.send(reader);
    let (mut input, _) = socket.receive();
    let mut buf = Vec::with_capacity(most);
    loop {
        let (result, data) = input.read(buf).await;
        if !matches!(result, StreamResult::Complete(_)) {
            break;
        }
        buf = writer.write_all(data).await;
        buf.clear();
        buf.reserve_exact(most);
    }
    drop(writer);
    let _ = sent.await;
}

fn main() {}
