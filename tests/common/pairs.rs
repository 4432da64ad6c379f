//! What the tests of connections share: a connection, and its other end.
// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

use std::io::{self, ErrorKind};

use coracle::{ProtocolHandle, StreamProtocol, Transport};

#[cfg(unix)]
pub(crate) use super::blocking::unix_pair;
#[cfg(not(target_os = "wasi"))]
pub(crate) use super::blocking::{make, make_with_driver, tcp_pair, Ours, Peer};
#[cfg(target_os = "wasi")]
pub(crate) use super::guest::{make, make_with_driver, tcp_pair, Ours, Peer};
use super::stream::{Event, Log};
use super::{block_on_within, settle, within};

/// More than the system takes without a reader.
pub(crate) const LARGE: usize = 10 << 20;

pub(crate) type Pair = fn() -> (Ours, Peer);

/// Each kind of connection that there is.
pub(crate) const PAIRS: &[Pair] = &[
    tcp_pair,
    #[cfg(unix)]
    unix_pair,
];

/// Runs a test over each kind of connection.
pub(crate) fn over_each(test: impl AsyncFn(Ours, Peer)) {
    over(PAIRS, test);
}

pub(crate) fn over(pairs: &[Pair], test: impl AsyncFn(Ours, Peer)) {
    for pair in pairs {
        let (ours, peer) = pair();
        block_on_within(test(ours, peer));
    }
}

pub(crate) async fn connected<P, K>(ours: Ours, protocol: P) -> (Transport, ProtocolHandle<P>)
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    within(make(|| protocol, ours)).await.unwrap()
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
