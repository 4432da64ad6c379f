//! What the servers directly on the host's interface share: sockets, bound and ready.

use std::io;
use std::net::SocketAddr;

use wasip2::io::poll::Pollable;
use wasip2::io::streams::StreamError;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasip2::sockets::udp_create_socket::create_udp_socket;

/// A bound UDP socket.
pub struct Udp {
    // In this order: the host wants pollables gone before their streams, and those before the
    // socket.
    pub readable: Pollable,
    pub incoming: IncomingDatagramStream,
    pub outgoing: OutgoingDatagramStream,
    socket: UdpSocket,
}

impl Udp {
    pub fn bind(address: &str) -> io::Result<Udp> {
        let (family, address) = to_wasi(address)?;
        let socket = create_udp_socket(family).map_err(failed)?;
        socket
            .start_bind(&instance_network(), address)
            .map_err(failed)?;
        finish(|| socket.finish_bind(), || socket.subscribe())?;
        let (incoming, outgoing) = socket.stream(None).map_err(failed)?;
        Ok(Udp {
            readable: incoming.subscribe(),
            incoming,
            outgoing,
            socket,
        })
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(from_wasi(self.socket.local_address().map_err(failed)?))
    }

    /// Sends all of them, in as many turns as the host wants.
    pub fn send(&self, mut datagrams: &[OutgoingDatagram]) -> io::Result<()> {
        while !datagrams.is_empty() {
            let permits = self.outgoing.check_send().map_err(failed)? as usize;
            if permits == 0 {
                self.outgoing.subscribe().block();
                continue;
            }
            let now = &datagrams[..permits.min(datagrams.len())];
            let sent = self.outgoing.send(now).map_err(failed)? as usize;
            datagrams = &datagrams[sent..];
        }
        Ok(())
    }
}

/// A socket that listens, and the address it is bound to.
pub fn listen(address: &str) -> io::Result<(TcpSocket, SocketAddr)> {
    let (family, address) = to_wasi(address)?;
    let socket = create_tcp_socket(family).map_err(failed)?;
    socket
        .start_bind(&instance_network(), address)
        .map_err(failed)?;
    finish(|| socket.finish_bind(), || socket.subscribe())?;
    socket.start_listen().map_err(failed)?;
    finish(|| socket.finish_listen(), || socket.subscribe())?;
    let address = from_wasi(socket.local_address().map_err(failed)?);
    Ok((socket, address))
}

/// Repeats an operation until it does not have to wait any longer.
pub fn finish<T>(
    operation: impl Fn() -> Result<T, ErrorCode>,
    subscribe: impl Fn() -> Pollable,
) -> io::Result<T> {
    loop {
        match operation() {
            Ok(value) => return Ok(value),
            Err(ErrorCode::WouldBlock) => subscribe().block(),
            Err(code) => return Err(failed(code)),
        }
    }
}

pub fn failed(code: ErrorCode) -> io::Error {
    io::Error::other(code.name())
}

pub fn broken(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(error) => io::Error::other(error.to_debug_string()),
    }
}

fn to_wasi(address: &str) -> io::Result<(IpAddressFamily, IpSocketAddress)> {
    let address: SocketAddr = address
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(match address {
        SocketAddr::V4(address) => {
            let [a, b, c, d] = address.ip().octets();
            let address = Ipv4SocketAddress {
                port: address.port(),
                address: (a, b, c, d),
            };
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(address))
        }
        SocketAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.ip().segments();
            let address = Ipv6SocketAddress {
                port: address.port(),
                flow_info: address.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: address.scope_id(),
            };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    })
}

fn from_wasi(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(address) => {
            let (a, b, c, d) = address.address;
            ([a, b, c, d], address.port).into()
        }
        IpSocketAddress::Ipv6(address) => {
            let (a, b, c, d, e, f, g, h) = address.address;
            ([a, b, c, d, e, f, g, h], address.port).into()
        }
    }
}
