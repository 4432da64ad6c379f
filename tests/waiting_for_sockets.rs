//! Waiting until a socket is readable or writable: it is right from the first time on, and nobody
//! who waits is forgotten.

mod common;

use std::future::Future;
use std::io;
use std::time::Duration;

use common::{block_on_within, settle, std_udp, within};
use coracle::net::{TcpListener, TcpStream, UdpSocket};
use coracle::time::timeout;
use coracle::{spawn, yield_now};
use futures_lite::future::{poll_once, zip};

/// Whether nothing comes for a while.
async fn is_idle(readable: impl Future<Output = io::Result<()>>) -> bool {
    match timeout(Duration::from_millis(5), readable).await {
        Ok(result) => {
            result.unwrap();
            false
        }
        Err(_) => true,
    }
}

async fn pair() -> (TcpStream, TcpStream, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (one, two) = zip(connect, listener.accept()).await;
    (one.unwrap(), two.unwrap().0, listener)
}

#[test]
fn a_datagram_socket_is_readable_only_while_something_is_there() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        assert!(is_idle(socket.readable()).await, "nothing has come yet");
        within(socket.writable()).await.unwrap();
        for count in [1, 3] {
            for _ in 0..count {
                within(socket.send_to(b"x", &addr)).await.unwrap();
            }
            for _ in 0..count {
                within(socket.readable()).await.unwrap();
                within(socket.recv(&mut [0; 8])).await.unwrap();
            }
            assert!(is_idle(socket.readable()).await, "{count} were there");
        }
    });
}

#[test]
fn a_stream_is_readable_only_while_something_is_there() {
    block_on_within(async {
        let (one, two, _listener) = pair().await;
        for stream in [&one, &two] {
            assert!(is_idle(stream.readable()).await, "nothing has come yet");
            within(stream.writable()).await.unwrap();
        }
        for len in [3, 8, 20] {
            one.write_all(&[7; 20][..len]).await.unwrap();
            let mut got = 0;
            while got < len {
                within(two.readable()).await.unwrap();
                got += within(two.read(&mut [0; 8])).await.unwrap();
            }
            assert!(is_idle(two.readable()).await, "{len} were there");
        }
        drop(one);
        // The end is something.
        assert!(!is_idle(two.readable()).await);
        assert_eq!(within(two.read(&mut [0; 8])).await.unwrap(), 0);
    });
}

#[test]
fn a_listener_is_readable_only_while_a_connection_is_there() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(is_idle(listener.readable()).await, "nobody has come yet");
        for _ in 0..2 {
            let _stream = within(TcpStream::connect(addr)).await.unwrap();
            within(listener.readable()).await.unwrap();
            within(listener.accept()).await.unwrap();
            assert!(is_idle(listener.readable()).await, "one was there");
        }
    });
}

#[test]
fn a_datagram_socket_becomes_writable_again() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = std_udp();
        let addr = to.local_addr().unwrap().into();
        for round in 0..1_000 {
            // As many as go without waiting.
            let mut sent = 0;
            while sent < 200 && socket.try_send_to(&[7; 1_000], &addr).is_ok() {
                sent += 1;
            }
            within(socket.writable()).await.unwrap();
            if round % 10 == 0 {
                yield_now().await;
            }
        }
    });
}

#[test]
fn all_who_wait_for_the_same_socket_get_their_turn() {
    block_on_within(async {
        let socket = std::rc::Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let addr = socket.local_addr().unwrap();
        for readable in [false, true] {
            let tasks: Vec<_> = (0..20)
                .map(|_| {
                    let socket = socket.clone();
                    spawn(async move {
                        loop {
                            if !readable {
                                return socket.recv(&mut [0; 8]).await.unwrap();
                            }
                            socket.readable().await.unwrap();
                            if let Ok((len, _)) = socket.try_recv_from(&mut [0; 8]) {
                                return len;
                            }
                        }
                    })
                })
                .collect();
            settle().await;
            // One of them gives up.
            assert!(poll_once(socket.recv(&mut [0; 8])).await.is_none());
            for _ in &tasks {
                within(socket.send_to(b"here", &addr)).await.unwrap();
            }
            for task in tasks {
                assert_eq!(within(task).await, 4);
            }
        }
    });
}

#[test]
fn a_waiter_goes_from_task_to_task() {
    block_on_within(async {
        let socket = std::rc::Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let addr = socket.local_addr().unwrap();
        let receiver = socket.clone();
        let mut receive = Box::pin(async move { receiver.recv(&mut [0; 8]).await.unwrap() });
        // Polled here, then in a task that gives it away, then in another.
        assert!(poll_once(receive.as_mut()).await.is_none());
        let task = spawn(async move {
            assert!(poll_once(receive.as_mut()).await.is_none());
            receive
        });
        let receive = task.await;
        let task = spawn(receive);
        settle().await;
        within(socket.send_to(b"here", &addr)).await.unwrap();
        assert_eq!(within(task).await, 4);
    });
}
