//! What the tests of `create_connection` share: whom to connect to, and what is refused.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use coracle::net::Target;
use coracle::{create_connection, ProtocolHandle, TcpOptions, Transport};

use super::stream::{Log, Recorder};
use super::within;

pub(crate) fn options() -> TcpOptions {
    TcpOptions::new()
}

pub(crate) fn to(addr: impl Into<Target>) -> TcpOptions {
    options().remote_addr(addr)
}

pub(crate) fn listening(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// The peer of the next connection, which fails instead of hanging.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (peer, _) = listener.accept().unwrap();
    #[cfg(not(target_os = "wasi"))]
    peer.set_read_timeout(Some(super::PATIENCE)).unwrap();
    peer
}

pub(crate) fn std_pair() -> (TcpStream, TcpStream) {
    let (listener, addr) = listening("127.0.0.1");
    let client = TcpStream::connect(addr).unwrap();
    (client, accept(&listener))
}

/// An address where nobody listens, as long as the socket is held.
#[cfg(not(target_os = "wasi"))]
pub(crate) fn dead(addr: SocketAddr) -> (socket2::Socket, SocketAddr) {
    let domain = socket2::Domain::for_address(addr);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.bind(&addr.into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

/// An address where somebody listened a moment ago, and which is nobody else's if it is of IPv4.
#[cfg(target_os = "wasi")]
pub(crate) fn dead(mut addr: SocketAddr) -> ((), SocketAddr) {
    if addr.is_ipv4() {
        addr.set_ip(super::own_ip().into());
    }
    let taken = TcpListener::bind(addr).unwrap();
    ((), taken.local_addr().unwrap())
}

pub(crate) async fn echoing(
    log: &Log,
    options: TcpOptions,
) -> (Transport, ProtocolHandle<Recorder>) {
    within(create_connection(|| Recorder::echoing(log), options))
        .await
        .unwrap()
}

pub(crate) fn peer_of(transport: &Transport) -> SocketAddr {
    transport.peer_addr().unwrap().as_ip().unwrap()
}

pub(crate) fn local_of(transport: &Transport) -> SocketAddr {
    transport.local_addr().unwrap().as_ip().unwrap()
}

/// Something there and back again; then the peer's end ends the connection.
pub(crate) async fn exchange(transport: &Transport, mut peer: TcpStream) {
    peer.write_all(b"hello").unwrap();
    let mut buf = [0; 5];
    #[cfg(not(target_os = "wasi"))]
    let exchanged = smol::unblock(move || {
        peer.read_exact(&mut buf).unwrap();
        assert_eq!(buf, *b"hello");
    });
    #[cfg(target_os = "wasi")]
    let exchanged = async {
        peer.set_nonblocking(true).unwrap();
        let mut read = 0;
        while read < 5 {
            match peer.read(&mut buf[read..]) {
                Ok(more) => read += more,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            coracle::yield_now().await;
        }
        assert_eq!(buf, *b"hello");
        drop(peer);
    };
    within(exchanged).await;
    within(transport.closed()).await.unwrap();
}

/// What a connection with these options is refused with; its protocol is never made.
pub(crate) async fn refusal(options: TcpOptions) -> io::Error {
    let text = format!("{options:?}");
    let factory = || -> Recorder { panic!("the factory was called: {text}") };
    match within(create_connection(factory, options)).await {
        Ok(_) => unreachable!(),
        Err(error) => error,
    }
}
