//! Calls of connections that are given up half-way: nothing is lost, nothing is left open, and
//! everybody else goes on.

mod common;
#[path = "common/giving_up.rs"]
mod giving_up;

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::{pin, Pin};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, in_process, settle, within};
use coracle::net::{TcpListener, TcpStream};
use coracle::time::sleep;
use coracle::{
    create_connection, create_connection_with_driver, on_data, spawn, yield_now, ProtocolHandle,
    StreamProtocol, TcpOptions, Transport,
};
use futures_lite::future::{or, poll_once};
use giving_up::{
    descriptors, descriptors_come_down_to, give_up_after, give_up_when_woken, ways_to_give_up,
};

/// Where to connect to.
async fn listening() -> (TcpListener, TcpOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = TcpOptions::new().remote_addr(listener.local_addr().unwrap());
    (listener, to)
}

/// A connection, and its peer.
async fn connected<P, K>(protocol: P) -> (Transport, ProtocolHandle<P>, TcpStream)
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let (listener, to) = listening().await;
    let (transport, handle) = create_connection(|| protocol, to).await.unwrap();
    (transport, handle, listener.accept().await.unwrap().0)
}

/// Polls a future so many times and drops it; whether it was still waiting.
async fn pending_after(polls: usize, future: impl Future) -> bool {
    give_up_after(polls, future).await.is_none()
}

/// A connection that echoes, and its peer.
async fn echoing() -> (Transport, TcpStream) {
    let echo = on_data(|transport: &Transport, data: &[u8]| transport.write(data));
    let (transport, _, peer) = connected(echo).await;
    (transport, peer)
}

/// Bytes there and back.
async fn exchange(peer: &TcpStream) {
    peer.write_all(b"ping").await.unwrap();
    assert_eq!(read_of(peer, 4).await, b"ping");
}

/// So many bytes, or fewer if that is the end.
async fn read_of(peer: &TcpStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    let mut read = 0;
    while read < len {
        match peer.read(&mut data[read..]).await.unwrap() {
            0 => break,
            more => read += more,
        }
    }
    data.truncate(read);
    data
}

type Making<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// A call that makes a connection with a protocol that records in this log. Its driver, if it is
/// given one, is dropped.
macro_rules! connection {
    ($call:ident($($argument:expr),*)) => {
        Box::new(move |log: Log| -> Making<Transport> {
            let making = $call(move || Recorder::new(&log), $($argument),*);
            Box::pin(async { Ok(making.await?.0) })
        })
    };
}

#[test]
fn connections_whose_making_is_given_up_are_closed() {
    const NAME: &str = "connections_whose_making_is_given_up_are_closed";
    let body = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().as_ip().unwrap();
        let plain = move || TcpOptions::new().remote_addr(addr);
        let named = move || TcpOptions::new().remote_addr(("localhost", addr.port()));
        let racing = move || named().happy_eyeballs_delay(Duration::ZERO);
        #[cfg_attr(target_os = "wasi", allow(unused_mut))]
        let mut ways: Vec<Box<dyn Fn(Log) -> Making<Transport>>> = vec![
            connection!(create_connection(plain())),
            connection!(create_connection(plain().local_addr("localhost:0"))),
            connection!(create_connection(named())),
            connection!(create_connection(racing())),
            connection!(create_connection_with_driver(racing())),
        ];
        #[cfg(not(target_os = "wasi"))]
        {
            use coracle::{
                connect_accepted_socket, connect_accepted_socket_with_driver, AcceptedOptions,
            };
            let accepted = move || std::net::TcpStream::connect(addr).unwrap();
            let sock = move || TcpOptions::new().sock(accepted());
            let none = AcceptedOptions::new;
            ways.extend::<[Box<dyn Fn(Log) -> Making<Transport>>; 3]>([
                connection!(create_connection(sock())),
                connection!(connect_accepted_socket(accepted(), none())),
                connection!(connect_accepted_socket_with_driver(accepted(), none())),
            ]);
        }
        #[cfg(unix)]
        let (_folder, unix) = {
            use coracle::{
                create_unix_connection, create_unix_connection_with_driver, UnixOptions,
            };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("listener");
            let unix = coracle::net::UnixListener::bind(&path).unwrap();
            let given = move || UnixOptions::new().path(path.clone());
            let again = given.clone();
            ways.push(connection!(create_unix_connection(given())));
            ways.push(connection!(create_unix_connection_with_driver(again())));
            (folder, unix)
        };
        settle().await;
        let before = descriptors();
        let mut made_too_late = 0;
        for (number, make) in ways.iter().enumerate() {
            let mut made = 0;
            for when in ways_to_give_up() {
                let log = Log::new();
                let result = give_up_when_woken(when, make(log.clone())).await;
                let is_made = result.is_some();
                if let Some(transport) = result {
                    made += 1;
                    let transport = transport.unwrap();
                    transport.close();
                    // If its driver was dropped, it has ended already, and not in the usual way.
                    let _ = transport.closed().await;
                }
                while let Ok((peer, _)) = listener.try_accept() {
                    assert!(matches!(peer.read(&mut [0]).await, Ok(0) | Err(_)));
                }
                #[cfg(unix)]
                while let Ok((peer, _)) = unix.try_accept() {
                    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
                }
                descriptors_come_down_to(before, (number, when)).await;
                let events = log.events();
                let whole = [Event::Made, Event::Lost(None)];
                assert!(events.is_empty() || events == whole, "{events:?}");
                made_too_late += usize::from(!is_made && events == whole);
            }
            assert!(made > 0, "way {number}");
        }
        assert!(
            made_too_late > 0,
            "some are given up when the driver has begun"
        );
    };
    in_process(
        NAME,
        |program| Command::new(program),
        || block_on_within(body),
    );
}

#[test]
fn the_end_of_a_connection_can_be_waited_for_again() {
    block_on_within(async {
        for polls in 0..4 {
            let (transport, peer) = echoing().await;
            let patient = spawn({
                let transport = transport.clone();
                async move { transport.closed().await }
            });
            for _ in 0..50 {
                assert!(pending_after(polls, transport.closed()).await);
            }
            exchange(&peer).await;
            assert!(!patient.is_finished());
            transport.close();
            assert!(
                pending_after(1, transport.closed()).await,
                "not before its last callback"
            );
            patient.await.unwrap();
            transport.closed().await.unwrap();
        }
    });
}

#[test]
fn a_protocol_that_nobody_waits_for_any_more_is_dropped_with_its_connection() {
    block_on_within(async {
        for (polls, after_the_end) in (0..4).flat_map(|polls| [(polls, false), (polls, true)]) {
            let alive = Arc::new(());
            let guard = alive.clone();
            let echo = on_data(move |transport, data| {
                let _ = &guard;
                transport.write(data)
            });
            let (transport, handle, peer) = connected(echo).await;
            {
                let mut lost = pin!(handle.lost());
                for _ in 0..polls {
                    assert!(poll_once(&mut lost).await.is_none());
                    yield_now().await;
                }
                exchange(&peer).await;
                if after_the_end {
                    transport.close();
                    transport.closed().await.unwrap();
                }
            }
            if !after_the_end {
                exchange(&peer).await;
                assert_eq!(Arc::strong_count(&alive), 2, "it goes on");
                transport.close();
                transport.closed().await.unwrap();
            }
            settle().await;
            assert_eq!(Arc::strong_count(&alive), 1);
        }
    });
}

#[test]
fn a_drain_that_is_given_up_leaves_what_is_queued_and_the_others_who_wait() {
    block_on_within(async {
        for polls in 0..4 {
            let (transport, peer) = echoing().await;
            // So that the system cannot find room for all of it in time.
            let socket = transport.tcp_socket().unwrap();
            socket.set_send_buffer_size(1 << 16).unwrap();
            peer.set_recv_buffer_size(1 << 16).unwrap();
            let mut written = Vec::<u8>::new();
            while transport.write_buffer_size() < 1 << 20 {
                let data = vec![(written.len() % 251) as u8; 10_007];
                transport.write(&data).unwrap();
                written.extend(data);
            }
            let patient = spawn({
                let transport = transport.clone();
                async move { transport.drain().await }
            });
            for _ in 0..50 {
                assert!(pending_after(polls, transport.drain()).await);
            }
            assert!(!patient.is_finished());
            // One that is given up when it has been woken.
            let mut fickle = Box::pin(transport.drain());
            assert!(poll_once(&mut fickle).await.is_none());
            let received = read_of(&peer, written.len()).await;
            drop(fickle);
            patient.await.unwrap();
            transport.drain().await.unwrap();
            assert!(received == written);
        }
    });
}

#[test]
fn a_driver_that_is_dropped_at_any_time_sends_what_goes_and_counts_the_rest() {
    block_on_within(async {
        for polls in 0..5 {
            let (listener, to) = listening().await;
            let log = Log::new();
            let made = create_connection_with_driver(|| Recorder::new(&log), to).await;
            let (transport, _, driver) = made.unwrap();
            let (peer, _) = listener.accept().await.unwrap();
            let (mut written, mut received) = (Vec::<u8>::new(), Vec::<u8>::new());
            let fill = |written: &mut Vec<u8>| {
                while transport.write_buffer_size() < 1 << 18 {
                    let data = vec![(written.len() % 251) as u8; 10_007];
                    transport.write(&data).unwrap();
                    written.extend(data);
                }
                transport.write_buffer_size()
            };
            let mut queued = fill(&mut written);
            {
                let mut driver = pin!(driver);
                for _ in 0..polls {
                    assert!(poll_once(&mut driver).await.is_none());
                    queued = fill(&mut written);
                    // Makes room for more.
                    let mut buf = [0; 10_000];
                    let reading = async {
                        loop {
                            while let Ok(len) = peer.try_read(&mut buf) {
                                received.extend(&buf[..len]);
                            }
                            sleep(Duration::from_millis(1)).await;
                        }
                    };
                    let socket = transport.tcp_socket().unwrap();
                    within(or(socket.writable(), reading)).await.unwrap();
                }
            }
            let error = transport.closed().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            received.extend(read_of(&peer, written.len()).await);
            let dropped = usize::try_from(transport.dropped()).unwrap();
            assert_eq!(received.len() + dropped, written.len());
            assert!(polls == 0 || dropped < queued, "there was room");
            assert!(written.starts_with(&received));
            let may_be_told =
                |event: &Event| matches!(event, Event::Made | Event::Pause | Event::Resume);
            let events = log.events();
            assert!(events.iter().all(may_be_told), "{events:?}");
            assert_eq!(events.is_empty(), polls == 0, "{events:?}");
        }
    });
}
