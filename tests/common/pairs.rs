//! What the tests of connections share: a connected pair of sockets, one of them coracle's. The
//! other end is a blocking socket of the system.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use coracle::{
    connect_accepted_socket, AcceptedOptions, ProtocolHandle, StreamProtocol, Transport,
};
use socket2::Socket;

use super::stream::{Event, Log};
use super::{block_on_within, settle, within, PATIENCE};

/// More than the system takes without a reader.
pub(crate) const LARGE: usize = 10 << 20;

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

    /// Goes away so that the other end has an error of it. A Unix socket does if it leaves
    /// something unread.
    pub(crate) fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).unwrap();
        Arc::try_unwrap(self.0).unwrap();
    }
}

impl std::ops::Deref for Peer {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.0
    }
}

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

pub(crate) type Pair = fn() -> (Socket, Peer);

/// Each kind of connection that there is.
pub(crate) const PAIRS: &[Pair] = &[
    tcp_pair,
    #[cfg(unix)]
    unix_pair,
];

/// Runs a test over each kind of connection.
pub(crate) fn over_each(test: impl AsyncFn(Socket, Peer)) {
    over(PAIRS, test);
}

pub(crate) fn over(pairs: &[Pair], test: impl AsyncFn(Socket, Peer)) {
    for pair in pairs {
        let (ours, peer) = pair();
        block_on_within(test(ours, peer));
    }
}

pub(crate) async fn connected<P, K>(ours: Socket, protocol: P) -> (Transport, ProtocolHandle<P>)
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let made = connect_accepted_socket(|| protocol, ours, AcceptedOptions::new());
    within(made).await.unwrap()
}

/// Bytes of which no piece is like another nearby.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let byte = |i: usize| (i ^ (i >> 8) ^ (i >> 15)) as u8;
    let mut pattern = (0..300_007).map(byte).collect::<Vec<_>>();
    pattern = pattern.repeat(len / pattern.len() + 1);
    pattern.truncate(len);
    pattern
}

pub(crate) fn data(text: &str) -> Event {
    Event::Data(text.into())
}

/// The callbacks so far, but those of flow control.
pub(crate) fn told(log: &Log) -> Vec<Event> {
    let mut events = log.events();
    events.retain(|event| !matches!(event, Event::Pause | Event::Resume));
    events
}

/// Waits for the end, and checks what the protocol was told: `between` after `connection_made`,
/// then the end with the kind of its error.
pub(crate) async fn ends(
    log: &Log,
    transport: &Transport,
    between: &[Event],
    kind: Option<ErrorKind>,
) {
    let result = within(transport.closed()).await;
    assert_eq!(result.as_ref().err().map(io::Error::kind), kind);
    let expected = [&[Event::Made], between, &[Event::Lost(kind)]].concat();
    assert_eq!(told(log), expected);
    transport.close();
    transport.abort();
    transport.resume_reading();
    settle().await;
    assert_eq!(told(log), expected, "nothing follows");
    assert!(transport.is_closing() && !transport.is_reading());
}
