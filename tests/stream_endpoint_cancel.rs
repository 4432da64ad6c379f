//! Calls of connections and servers that are given up half-way: nothing is lost, nothing is left
//! open, and everybody else goes on.

mod common;

use std::future::{poll_fn, Future};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::{pin, Pin};
use std::process::Command;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, in_process, settle, within, PATIENCE};
use coracle::{
    connect_accepted_socket, connect_accepted_socket_with_driver, create_connection,
    create_connection_with_driver, create_server, create_server_with_driver, on_data, spawn,
    yield_now, AcceptedOptions, ProtocolHandle, Server, TcpOptions, TcpServerOptions, Transport,
};
use futures_lite::future::poll_once;

/// Polls a future so many times, each time when it has been woken, and drops it unless it has
/// ended: at once after the last poll or, if `late`, when what it waits for may have happened.
async fn give_up_after<F: Future>(polls: usize, late: bool, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polled = 0;
    let output = poll_fn(|cx| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polled == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    let output = output.await;
    if output.is_none() && late {
        settle().await;
    }
    output
}

/// How often to poll, and whether to give up late.
fn ways_to_give_up() -> impl Iterator<Item = (usize, bool)> {
    (0..7).flat_map(|polls| [(polls, false), (polls, true)])
}

/// How many descriptors this process has open, where it is easy to tell.
fn descriptors() -> usize {
    match cfg!(target_os = "linux") {
        true => std::fs::read_dir("/proc/self/fd").unwrap().count(),
        false => 0,
    }
}

/// Lookups have descriptors of their own, on another thread and for a moment; and a connection is
/// closed when its driver has had its turn.
async fn descriptors_come_down_to(count: usize, what: impl std::fmt::Debug) {
    let give_up = Instant::now() + PATIENCE;
    while descriptors() > count {
        assert!(Instant::now() < give_up, "{what:?}: {} are open", descriptors());
        yield_now().await;
    }
}

fn std_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    (listener.accept().unwrap().0, client)
}

/// A connection that records and echoes, and its peer.
async fn connected(log: &Log) -> (Transport, ProtocolHandle<Recorder>, coracle::net::TcpStream) {
    let (ours, theirs) = std_pair();
    let protocol = || Recorder::echoing(log);
    let made = connect_accepted_socket(protocol, ours, AcceptedOptions::new()).await;
    let (transport, handle) = made.unwrap();
    (transport, handle, theirs.try_into().unwrap())
}

/// Bytes there and back.
async fn exchange(peer: &coracle::net::TcpStream) {
    peer.write_all(b"ping").await.unwrap();
    let (mut buf, mut len) = ([0; 8], 0);
    while len < 4 {
        len += peer.read(&mut buf[len..]).await.unwrap();
    }
    assert_eq!(&buf[..len], b"ping");
}

/// A call that makes a connection, with its driver at work.
type Making = Pin<Box<dyn Future<Output = io::Result<Transport>>>>;

/// The ways to make a connection to a server.
fn connecting(addr: SocketAddr) -> Vec<Box<dyn Fn(Log) -> Making>> {
    let connect = |options: fn(SocketAddr) -> TcpOptions| -> Box<dyn Fn(Log) -> Making> {
        Box::new(move |log| {
            Box::pin(async move {
                let made = create_connection(|| Recorder::new(&log), options(addr)).await;
                made.map(|(transport, _)| transport)
            })
        })
    };
    vec![
        connect(|addr| TcpOptions::new().remote_addr(addr)),
        connect(|addr| TcpOptions::new().remote_addr(("localhost", addr.port()))),
        connect(|addr| {
            let options = TcpOptions::new().remote_addr(("localhost", addr.port()));
            options.happy_eyeballs_delay(Duration::ZERO)
        }),
        connect(|addr| {
            let options = TcpOptions::new().remote_addr(addr);
            options.local_addr("localhost:0")
        }),
        Box::new(move |log| {
            Box::pin(async move {
                let options = TcpOptions::new().remote_addr(("localhost", addr.port()));
                let protocol = || Recorder::new(&log);
                let (transport, _, driver) =
                    create_connection_with_driver(protocol, options).await?;
                spawn(driver).detach();
                Ok(transport)
            })
        }),
        Box::new(move |log| {
            let sock = TcpStream::connect(addr).unwrap();
            Box::pin(async move {
                let protocol = || Recorder::new(&log);
                let options = AcceptedOptions::new();
                let made = connect_accepted_socket(protocol, sock, options).await;
                made.map(|(transport, _)| transport)
            })
        }),
        Box::new(move |log| {
            let sock = TcpStream::connect(addr).unwrap();
            Box::pin(async move {
                let protocol = || Recorder::new(&log);
                let options = AcceptedOptions::new();
                let (transport, _, driver) =
                    connect_accepted_socket_with_driver(protocol, sock, options).await?;
                // It ends with the call.
                let until_made = futures_lite::future::or(driver, std::future::pending());
                drop(poll_once(until_made).await);
                Ok(transport)
            })
        }),
    ]
}
