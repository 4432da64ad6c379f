//! What the network says of a datagram is told as that, and costs no other datagram.
#![cfg(target_os = "wasi")]

mod common;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::{block_on_within, dead_addr, recording, to, within, Log};
use coracle::net::{SendBatch, UdpSocket};
use coracle::time::sleep;
use coracle::{spawn, yield_now};
use futures_lite::future::poll_once;

/// An address where nobody listens, nor will: no other test binds to this IP where the host has
/// more than one.
fn nobody() -> SocketAddr {
    let [a, b, c, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    let ip = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
    match std::net::UdpSocket::bind((ip, 0)) {
        Ok(socket) => socket.local_addr().unwrap(),
        Err(_) => dead_addr(),
    }
}

/// A socket connected to an address where there was nobody when it sent something, and somebody
/// has come since: the refusal waits.
async fn refused() -> (UdpSocket, UdpSocket) {
    let addr = nobody();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(addr).await.unwrap();
    within(socket.send(b"lost")).await.unwrap();
    sleep(Duration::from_millis(2)).await;
    (socket, UdpSocket::bind(addr).await.unwrap())
}

async fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut buf = [0; 16];
    let len = within(socket.recv(&mut buf)).await.unwrap();
    buf[..len].to_vec()
}

fn assert_refused(error: &io::Error) {
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn a_refusal_of_a_datagram_is_told_once_and_costs_no_other_that_counts_as_sent() {
    block_on_within(async {
        for round in 0..20 {
            let (socket, peer) = refused().await;
            let addr = peer.local_addr().unwrap();
            let mut told = 0;
            for datagram in [b"one", b"two"] {
                let sent = match round % 2 {
                    0 => within(socket.send(datagram)).await,
                    _ => within(socket.send_to(datagram, &addr)).await,
                };
                if let Err(error) = sent {
                    assert_refused(&error);
                    assert_eq!(round % 2, 0, "where it goes is said, and it goes there");
                    told += 1;
                    within(socket.send(datagram)).await.unwrap();
                }
            }
            assert_eq!(received(&peer).await, b"one");
            assert_eq!(received(&peer).await, b"two");
            if told == 0 {
                assert_refused(&within(socket.recv(&mut [0; 8])).await.unwrap_err());
            }
            assert!(told <= 1);
            assert!(socket.take_error().unwrap().is_none());
            assert!(poll_once(socket.recv(&mut [0; 8])).await.is_none());
        }
    });
}

#[test]
fn a_refusal_is_told_to_who_waits_for_something_to_receive() {
    block_on_within(async {
        for _ in 0..20 {
            let (socket, peer) = refused().await;
            let addr = peer.local_addr().unwrap();
            let socket = std::rc::Rc::new(socket);
            let receiver = socket.clone();
            let receiving = spawn(async move { receiver.recv(&mut [0; 8]).await });
            yield_now().await;
            within(socket.send_to(b"one", &addr)).await.unwrap();
            assert_eq!(received(&peer).await, b"one");
            assert_refused(&within(receiving).await.unwrap_err());
        }
    });
}

#[test]
fn a_refusal_costs_no_datagram_of_a_batch() {
    block_on_within(async {
        for _ in 0..20 {
            let (socket, peer) = refused().await;
            let mut batch = SendBatch::new();
            for datagram in [b"one", b"two", b"six"] {
                batch.push_connected(datagram);
            }
            let mut refusals = 0;
            while !batch.is_empty() {
                match within(socket.send_batch(&mut batch)).await {
                    Ok(_) => {}
                    Err(error) => {
                        assert_refused(&error);
                        refusals += 1;
                    }
                }
            }
            for datagram in [b"one", b"two", b"six"] {
                assert_eq!(received(&peer).await, datagram);
            }
            if refusals == 0 {
                assert_refused(&within(socket.recv(&mut [0; 8])).await.unwrap_err());
            }
            assert!(refusals <= 1);
        }
    });
}

#[test]
fn a_refusal_costs_no_datagram_of_an_endpoint() {
    block_on_within(async {
        for count in [1, 3, 50] {
            let addr = nobody();
            let log = Log::new();
            let (endpoint, _) = recording(&log, to(addr)).await;
            endpoint.send(b"lost").unwrap();
            sleep(Duration::from_millis(2)).await;
            let peer = UdpSocket::bind(addr).await.unwrap();
            for i in 0..count {
                endpoint.send(&[i]).unwrap();
            }
            for i in 0..count {
                assert_eq!(received(&peer).await, [i]);
            }
            log.until_errors(1).await;
            let (kind, text) = log.errors().remove(0);
            assert_eq!(kind, ErrorKind::ConnectionRefused, "{text}");
        }
    });
}

/// An address that no datagram goes to, as the host says when it is to send one.
const NO_WAY: &str = "255.255.255.255:9";

#[test]
fn a_datagram_that_cannot_be_sent_costs_no_other_and_is_told_as_what_it_is() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (addr, no_way) = (peer.local_addr().unwrap(), NO_WAY.parse().unwrap());
        // Often enough that the host takes its time now and then.
        for round in 0..500 {
            let mut told = 0;
            for send in 0..4_u8 {
                // The host may say it at once, and later otherwise.
                if let Err(error) = within(socket.send_to(b"nowhere", &no_way)).await {
                    let text = error.to_string();
                    assert!(text.contains("7 bytes to 255.255.255.255:9"), "{text}");
                    told += 1;
                }
                within(socket.send_to(&[send], &addr)).await.unwrap();
            }
            for send in 0..4 {
                assert_eq!(received(&peer).await, [send], "round {round}");
            }
            if told == 0 {
                let error = within(socket.recv(&mut [0; 8])).await.unwrap_err();
                let text = error.to_string();
                assert!(text.contains("7 bytes to 255.255.255.255:9"), "{text}");
            }
        }
    });
}
