//! Connecting a UDP socket, for the first time and again: where it is bound, and whose datagrams
//! it takes from then on.

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use common::{block_on_within, within};
use coracle::net::{Family, RecvBatch, UdpSocket};
use coracle::time::{sleep, timeout};
use coracle::Address;

async fn socket() -> (UdpSocket, Address) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// What comes before anything else does, by its first byte.
async fn received(socket: &UdpSocket) -> u8 {
    let mut buf = [0; 8];
    within(socket.recv(&mut buf)).await.unwrap();
    buf[0]
}

#[test]
fn connecting_again_leaves_the_socket_at_its_port() {
    block_on_within(async {
        for bound in [true, false] {
            let socket = UdpSocket::unbound(Family::Inet).await.unwrap();
            if bound {
                let any = "127.0.0.1:0".parse().unwrap();
                socket.bind_to(&any).await.unwrap();
            }
            let mut port = None;
            for _ in 0..3 {
                let (peer, addr) = self::socket().await;
                socket.connect(addr).await.unwrap();
                assert_eq!(socket.peer_addr().unwrap(), addr);
                let ours = socket.local_addr().unwrap();
                let now = ours.as_ip().unwrap().port();
                assert_eq!(*port.get_or_insert(now), now, "bound: {bound}");
                socket.send(b"1").await.unwrap();
                let (_, from) = within(peer.recv_from(&mut [0; 8])).await.unwrap();
                assert_eq!(from, ours);
                within(peer.send_to(b"2", &ours)).await.unwrap();
                assert_eq!(received(&socket).await, b'2');
            }
        }
    });
}

#[derive(Clone, Copy)]
enum By {
    One,
    Peek,
    Batch,
}

#[test]
fn what_others_had_sent_before_is_not_taken_any_more() {
    for by in [By::One, By::Peek, By::Batch] {
        block_on_within(others_sent_before(by));
    }
}

async fn others_sent_before(by: By) {
    for again in [false, true] {
        for waits in [false, true] {
            let (socket, ours) = socket().await;
            let (stranger, strange) = self::socket().await;
            let (peer, addr) = self::socket().await;
            if again {
                socket.connect(strange).await.unwrap();
            }
            if waits {
                // With a receive that waits, and is given up.
                let mut buf = [0; 8];
                let receive = timeout(Duration::from_millis(1), socket.recv(&mut buf));
                assert!(receive.await.is_err());
            }
            // More than a receive goes over at a time, before and behind the peer's own.
            for _ in 0..100 {
                within(stranger.send_to(b"s", &ours)).await.unwrap();
            }
            if !again {
                within(peer.send_to(b"p", &ours)).await.unwrap();
            }
            within(stranger.send_to(b"s", &ours)).await.unwrap();
            sleep(Duration::from_millis(2)).await;
            socket.connect(addr).await.unwrap();
            within(peer.send_to(b"q", &ours)).await.unwrap();
            let expected: &[u8] = if again { b"q" } else { b"pq" };
            for (index, byte) in expected.iter().enumerate() {
                let what = format!("{index}, again: {again}, waits: {waits}");
                let got = match by {
                    By::One => received(&socket).await,
                    By::Peek => {
                        let mut buf = [0; 8];
                        within(socket.peek_from(&mut buf)).await.unwrap();
                        assert_eq!(received(&socket).await, buf[0], "{what}");
                        buf[0]
                    }
                    By::Batch => {
                        let mut batch = RecvBatch::with_capacity(1, 8);
                        within(socket.recv_batch(&mut batch)).await.unwrap();
                        let (data, _) = batch.iter().next().unwrap();
                        data[0]
                    }
                };
                assert_eq!(got, *byte, "{what}");
            }
            let mut batch = RecvBatch::with_capacity(8, 8);
            assert!(socket.try_recv_batch(&mut batch).is_err());
            assert!(socket.try_recv_from(&mut [0; 8]).is_err());
        }
    }
}

#[test]
fn a_socket_that_is_bound_is_not_bound_again() {
    block_on_within(async {
        let any: Address = "127.0.0.1:0".parse().unwrap();
        let (bound, _) = socket().await;
        let (peer, addr) = socket().await;
        let implicitly = UdpSocket::unbound(Family::Inet).await.unwrap();
        within(implicitly.send_to(b"1", &addr)).await.unwrap();
        let connected = UdpSocket::unbound(Family::Inet).await.unwrap();
        connected.connect(addr).await.unwrap();
        for socket in [bound, implicitly, connected] {
            let before = socket.local_addr().unwrap();
            let error = socket.bind_to(&any).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains("bind 127.0.0.1:0"), "{error}");
            assert_eq!(socket.local_addr().unwrap(), before);
            within(socket.send_to(b"2", &addr)).await.ok();
        }
        assert_eq!(received(&peer).await, b'1');
    });
}
