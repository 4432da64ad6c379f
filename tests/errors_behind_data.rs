//! An error that the network has reported behind datagrams comes with the next receive, whoever's
//! and of whatever kind that is: it waits for no further datagram.
//!
//! The code for platforms that receive one datagram a call; Linux' own leaves it to the kernel.
#![cfg(all(
    target_os = "linux",
    any(coracle_force_portable, polling_test_poll_backend)
))]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/trace.rs"]
mod trace;

use std::io;
use std::rc::Rc;
use std::time::Duration;

use coracle::net::{RecvBatch, UdpSocket};
use coracle::time::timeout;
use coracle::{create_datagram_endpoint, spawn, yield_now, Address};
use coracle::{DatagramOptions, DatagramProtocol, DatagramTransport};
use trace::{calls_with, own_role};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the other tests run: no test in itself. Every second receive finds an error.
#[test]
fn as_a_child() {
    let Some((role, _)) = own_role() else {
        return;
    };
    let all = async {
        match &role[..] {
            "endpoint" => endpoint().await,
            "another_task" => another_task().await,
            other => next(other).await,
        }
    };
    coracle::block_on(timeout(PATIENCE, all)).unwrap().unwrap();
}

async fn socket() -> io::Result<(UdpSocket, UdpSocket)> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    Ok((socket, peer))
}

fn assert_refused<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

/// What follows a batch of one datagram and the error.
async fn next(how: &str) -> io::Result<()> {
    let (socket, peer) = socket().await?;
    peer.send_to(b"data", &socket.local_addr()?).await?;
    let mut batch = RecvBatch::with_capacity(4, 16);
    assert_eq!(socket.recv_batch(&mut batch).await?, 1);
    match how {
        "recv_batch" => assert_refused(socket.recv_batch(&mut batch).await),
        "try_recv_batch" => assert_refused(socket.try_recv_batch(&mut batch)),
        "recv" => assert_refused(socket.recv(&mut [0; 16]).await),
        "try_recv" => assert_refused(socket.try_recv_from(&mut [0; 16])),
        "peek" => assert_refused(socket.peek_from(&mut [0; 16]).await),
        "readable" => {
            socket.readable().await?;
            assert_refused(socket.try_recv_from(&mut [0; 16]));
            let more = timeout(Duration::from_millis(10), socket.readable()).await;
            assert!(more.is_err(), "it comes once");
        }
        other => panic!("there is no role {other}"),
    }
    Ok(())
}

async fn another_task() -> io::Result<()> {
    let (socket, peer) = socket().await?;
    let socket = Rc::new(socket);
    let to = socket.local_addr()?;
    let batches = spawn({
        let socket = socket.clone();
        async move {
            let mut batch = RecvBatch::with_capacity(4, 16);
            socket.recv_batch(&mut batch).await
        }
    });
    yield_now().await;
    let single = spawn(async move { socket.recv(&mut [0; 16]).await });
    yield_now().await;
    peer.send_to(b"data", &to).await?;
    assert_eq!(batches.await?, 1);
    assert_refused(single.await);
    Ok(())
}

struct UntilError;

impl DatagramProtocol for UntilError {
    fn error_received(&mut self, transport: &DatagramTransport, _: io::Error) {
        transport.close();
    }

    fn datagram_received(&mut self, _: &DatagramTransport, data: &[u8], _: &Address) {
        assert_eq!(data, b"data");
    }
}

async fn endpoint() -> io::Result<()> {
    let options = DatagramOptions::new().local_addr("127.0.0.1:0");
    let (transport, _) = create_datagram_endpoint(|| UntilError, options).await?;
    let peer = UdpSocket::bind("127.0.0.1:0").await?;
    peer.send_to(b"data", &transport.local_addr()?).await?;
    transport.closed().await
}

/// The first receive of each role that waits finds nothing yet; every other time the second one
/// is the error.
fn run(role: &str, when: &str) {
    let options = format!("inject=recvmsg:error=ECONNREFUSED:when={when}");
    calls_with(&["-e", &options], role, 1);
}

#[test]
fn the_next_receive_has_the_error() {
    for role in [
        "recv_batch",
        "try_recv_batch",
        "recv",
        "try_recv",
        "peek",
        "readable",
    ] {
        run(role, "2");
    }
}

#[test]
fn another_task_that_waits_has_the_error() {
    run("another_task", "3");
}

#[test]
fn an_endpoint_is_told_of_the_error() {
    for when in 2..=3 {
        run("endpoint", &when.to_string());
    }
}
