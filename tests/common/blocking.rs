//! The other end of a connection: a blocking socket of the system.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use coracle::{
    connect_accepted_socket, connect_accepted_socket_with_driver, AcceptedOptions,
    ConnectionDriver, ProtocolHandle, StreamProtocol, Transport,
};
use socket2::Socket;

use super::{within, PATIENCE};

/// The other end, which fails instead of hanging.
#[derive(Clone)]
pub(crate) struct Peer(pub(crate) Arc<Socket>);

impl Peer {
    pub(crate) fn new(socket: Socket) -> Peer {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Peer(Arc::new(socket))
    }

    /// Writes what the system takes without a reader.
    pub(crate) fn write(&self, data: &[u8]) {
        (&*self.0).write_all(data).unwrap();
    }

    pub(crate) fn end(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    pub(crate) async fn read(&self, len: usize) -> Vec<u8> {
        let socket = self.0.clone();
        let reading = smol::unblock(move || {
            let mut data = vec![0; len];
            (&*socket).read_exact(&mut data).map(|()| data)
        });
        within(reading).await.unwrap()
    }

    pub(crate) async fn read_to_end(&self) -> Vec<u8> {
        let socket = self.0.clone();
        let reading = smol::unblock(move || {
            let mut data = Vec::new();
            (&*socket).read_to_end(&mut data).map(|_| data)
        });
        within(reading).await.unwrap()
    }

    /// Writes all, then the end, while others go on.
    pub(crate) fn sending(&self, data: Vec<u8>) -> impl Future<Output = ()> {
        let peer = self.clone();
        smol::unblock(move || {
            peer.write(&data);
            peer.end();
        })
    }

    pub(crate) fn set_recv_buffer_size(&self, size: usize) -> io::Result<()> {
        self.0.set_recv_buffer_size(size)
    }

    /// Goes away so that the other end has an error of it. A Unix socket does if it leaves
    /// something unread.
    pub(crate) fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).unwrap();
        Arc::try_unwrap(self.0).unwrap();
    }
}

/// What becomes coracle's end.
pub(crate) type Ours = Socket;

pub(crate) fn tcp_pair() -> (Socket, Peer) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (ours.into(), Peer::new(theirs.into()))
}

#[cfg(unix)]
pub(crate) fn unix_pair() -> (Socket, Peer) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    (ours.into(), Peer::new(theirs.into()))
}

/// Makes a connection of it.
pub(crate) async fn make<P, K>(
    factory: impl FnOnce() -> P,
    ours: Ours,
) -> io::Result<(Transport, ProtocolHandle<P>)>
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    connect_accepted_socket(factory, ours, AcceptedOptions::new()).await
}

/// The same in the form with a driver.
pub(crate) async fn make_with_driver<P: StreamProtocol<K>, K>(
    factory: impl FnOnce() -> P,
    ours: Ours,
) -> io::Result<(Transport, ProtocolHandle<P>, ConnectionDriver<P, K>)> {
    connect_accepted_socket_with_driver(factory, ours, AcceptedOptions::new()).await
}
