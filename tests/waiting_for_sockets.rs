//! Waiting for sockets: nobody who waits is forgotten, whoever else waits for the same.

mod common;

use std::rc::Rc;

use common::{block_on_within, settle, std_udp, within};
use coracle::net::UdpSocket;
use coracle::{spawn, yield_now};
use futures_lite::future::poll_once;

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
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
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
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let addr = socket.local_addr().unwrap();
        let receiver = socket.clone();
        let mut receive = Box::pin(async move { receiver.recv(&mut [0; 8]).await.unwrap() });
        // Polled here, then in a task that gives it away, then in another.
        assert!(poll_once(receive.as_mut()).await.is_none());
        let task = spawn(async move {
            assert!(poll_once(receive.as_mut()).await.is_none());
            Some(receive)
        });
        let receive = task.await.unwrap();
        let task = spawn(receive);
        settle().await;
        within(socket.send_to(b"here", &addr)).await.unwrap();
        assert_eq!(within(task).await, 4);
    });
}
