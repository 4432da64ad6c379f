//! What routers and peers answer to one datagram costs no other, and is not charged to another.
//!
//! Each test is alone in a network of its own, in which it may forge such answers.
#![cfg(target_os = "linux")]

mod common;

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use common::network::in_network;
use common::{
    block_on_within, close, local_v4, raw_code, reacting, recording, to, within, Event, Log,
};
use coracle::net::{RecvBatch, SendBatch, UdpSocket};
use coracle::{Address, DatagramTransport};
use futures_lite::future::poll_once;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// What comes back: type and code of ICMP, and the error that Linux makes of it.
const ANSWERS: [(u8, u8, i32); 5] = [
    (3, 2, libc::ENOPROTOOPT),
    (3, 3, libc::ECONNREFUSED),
    (3, 4, libc::EMSGSIZE),
    // Administratively prohibited.
    (3, 13, libc::EHOSTUNREACH),
    // A parameter problem.
    (12, 0, libc::EPROTO),
];

/// The same for IPv6.
const ANSWERS_V6: [(u8, u8, i32); 3] = [
    (1, 1, libc::EACCES),
    (1, 4, libc::ECONNREFUSED),
    (4, 0, libc::EPROTO),
];

/// The start of a datagram with the headers that it has on its way.
fn headers(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut bytes = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let mut ip = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
            ip.extend(from.ip().octets());
            ip.extend(to.ip().octets());
            ip
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let mut ip = vec![0x60, 0, 0, 0, 0, 9, 17, 64];
            ip.extend(from.ip().octets());
            ip.extend(to.ip().octets());
            ip
        }
        _ => panic!("{from} and {to} are of two families"),
    };
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend([0, 9, 0, 0, b'x']);
    bytes
}

/// Has an answer come to what the socket `from` has sent, or never sent, to `to`.
fn answer(from: SocketAddr, to: SocketAddr, kind: u8, code: u8) {
    // For too large a datagram: what the way would take.
    let mut message = vec![kind, code, 0, 0, 0, 0, 0x05, 0x78];
    message.extend(headers(from, to));
    let (domain, protocol) = match from {
        SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        // The system computes the sum.
        SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    if from.is_ipv4() {
        let mut sum: u32 = message
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        message[2..4].copy_from_slice(&(!sum as u16).to_be_bytes());
    }
    let raw = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    let mut target = from;
    target.set_port(0);
    raw.send_to(&message, &target.into()).unwrap();
}

/// Waits, and keeps the thread, until an error waits in the socket.
fn until_error(socket: &UdpSocket) {
    let has_error = |socket: SockRef<'_>| {
        let mut poll = libc::pollfd {
            fd: socket.as_raw_fd(),
            events: 0,
            revents: 0,
        };
        // SAFETY: one pollfd, which is alive.
        let count = unsafe { libc::poll(&mut poll, 1, common::PATIENCE.as_millis() as i32) };
        Ok(count == 1 && poll.revents & libc::POLLERR != 0)
    };
    assert!(socket.try_io(has_error).unwrap(), "no error came");
}

fn ip(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap().as_ip().unwrap()
}

/// Has the system queue errors, of all destinations, for a socket that is not connected too.
fn queue_errors(socket: &UdpSocket) {
    let set = |socket: SockRef<'_>| {
        let on: libc::c_int = 1;
        // SAFETY: the value is an int, and its size is told.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_RECVERR,
                std::ptr::from_ref(&on).cast(),
                size_of::<libc::c_int>() as _,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    socket.try_io(set).unwrap();
}

/// A connected socket, and its peer.
async fn connected(local: &str) -> (UdpSocket, UdpSocket) {
    let peer = UdpSocket::bind(local).await.unwrap();
    let socket = UdpSocket::bind(local).await.unwrap();
    socket.connect(ip(&peer)).await.unwrap();
    (socket, peer)
}

/// What is there, in order.
fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut buf = [0; 64];
    let next = || match socket.try_recv_from(&mut buf) {
        Ok((len, _)) => Some(buf[..len].to_vec()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    };
    std::iter::from_fn(next).collect()
}

/// It is what the system said of another datagram: it names no destination.
#[track_caller]
fn is_earlier(error: &io::Error, code: i32) {
    assert_eq!(raw_code(error), Some(code), "{error}");
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    assert!(!error.to_string().contains("::1"), "{error}");
}

#[test]
fn a_socket_sends_in_spite_of_an_error_that_waits() {
    in_network("a_socket_sends_in_spite_of_an_error_that_waits", "", || {
        let both = [("127.0.0.1:0", &ANSWERS[..]), ("[::1]:0", &ANSWERS_V6)];
        for (local, answers) in both {
            for (kind, code, expected) in answers.iter().copied() {
                block_on_within(async {
                    let (socket, peer) = connected(local).await;
                    let peer_addr = Address::from(ip(&peer));
                    let mut buf = [0; 64];
                    let error = || {
                        answer(ip(&socket), ip(&peer), kind, code);
                        until_error(&socket);
                    };
                    error();
                    if expected == libc::ECONNREFUSED {
                        // That is about this peer, and not sent is not sent.
                        is_earlier(&socket.send(b"1").await.unwrap_err(), expected);
                        assert_eq!(socket.send(b"1").await.unwrap(), 1);
                    } else {
                        assert_eq!(socket.send(b"1").await.unwrap(), 1);
                        is_earlier(&socket.recv(&mut buf).await.unwrap_err(), expected);
                    }
                    error();
                    assert_eq!(socket.send_to(b"2", &peer_addr).await.unwrap(), 1);
                    is_earlier(&socket.try_recv_from(&mut buf).unwrap_err(), expected);
                    error();
                    assert_eq!(socket.try_send_to(b"3", &peer_addr).unwrap(), 1);
                    is_earlier(&socket.take_error().unwrap().unwrap(), expected);
                    assert!(socket.take_error().unwrap().is_none());
                    error();
                    let mut into = RecvBatch::new();
                    socket.send_to(b"4", &peer_addr).await.unwrap();
                    is_earlier(&socket.recv_batch(&mut into).await.unwrap_err(), expected);
                    let nothing = poll_once(socket.recv(&mut buf)).await;
                    assert!(nothing.is_none(), "told once: {nothing:?}");
                    assert_eq!(received(&peer), [b"1", b"2", b"3", b"4"], "{expected}");
                });
            }
        }
    });
}

#[test]
fn who_waits_to_receive_is_told_what_a_send_has_found() {
    let name = "who_waits_to_receive_is_told_what_a_send_has_found";
    in_network(name, "", || {
        block_on_within(async {
            let (socket, peer) = connected("127.0.0.1:0").await;
            let socket = std::sync::Arc::new(socket);
            for how in 0..10 {
                let receiver = socket.clone();
                let waiting =
                    coracle::spawn(async move { receiver.recv(&mut [0; 8]).await.unwrap_err() });
                common::settle().await;
                answer(ip(&socket), ip(&peer), 3, 13);
                until_error(&socket);
                // The receiver's turn comes after, and then nothing is in the system any more.
                let to = ip(&peer).into();
                match how % 5 {
                    0 => socket.try_send_to(b"x", &to),
                    1 => socket.send_to(b"x", &to).await,
                    2 => socket.send(b"x").await,
                    3 => socket.connect(ip(&peer)).await.map(|()| 0),
                    _ => poll_fn(|cx| socket.poll_send_to(cx, b"x", &to)).await,
                }
                .unwrap();
                is_earlier(&within(waiting).await, libc::EHOSTUNREACH);
                let readable = socket.clone();
                let waiting = coracle::spawn(async move { readable.readable().await });
                common::settle().await;
                answer(ip(&socket), ip(&peer), 3, 13);
                until_error(&socket);
                socket.try_send_to(b"x", &ip(&peer).into()).unwrap();
                within(waiting).await.unwrap();
                socket.take_error().unwrap().unwrap();
            }
            assert_eq!(received(&peer).len(), 18);
        });
    });
}

#[test]
fn a_batch_loses_nothing_to_an_error_that_waits() {
    in_network("a_batch_loses_nothing_to_an_error_that_waits", "", || {
        for (kind, code, expected) in ANSWERS {
            // Of one size, which go as one, and of several; and one alone.
            for sizes in [&[4; 5][..], &[1, 2, 3], &[1]] {
                block_on_within(async {
                    let (socket, peer) = connected("127.0.0.1:0").await;
                    let mut batch = SendBatch::new();
                    for (i, size) in sizes.iter().enumerate() {
                        batch.push_connected(&vec![i as u8; *size]);
                    }
                    answer(ip(&socket), ip(&peer), kind, code);
                    until_error(&socket);
                    let mut errors = Vec::new();
                    while !batch.is_empty() {
                        errors.extend(socket.send_batch(&mut batch).await.err());
                    }
                    assert_eq!(errors.len(), 1);
                    is_earlier(&errors[0], expected);
                    let sent = sizes.iter().enumerate();
                    let sent: Vec<_> = sent.map(|(i, size)| vec![i as u8; *size]).collect();
                    assert_eq!(received(&peer), sent);
                });
            }
        }
    });
}

#[test]
fn an_error_that_waits_is_of_no_destination_of_a_socket_with_many() {
    let name = "an_error_that_waits_is_of_no_destination_of_a_socket_with_many";
    in_network(name, "", || {
        block_on_within(async {
            let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let peer_addr = Address::from(ip(&peer));
            queue_errors(&socket);
            let dead = common::dead_addr();
            for i in 0..5 {
                socket.send_to(b"lost", &dead.into()).await.unwrap();
                until_error(&socket);
                socket.send_to(&[i], &peer_addr).await.unwrap();
                let error = socket.recv(&mut [0; 8]).await.unwrap_err();
                is_earlier(&error, libc::ECONNREFUSED);
            }
            assert_eq!(received(&peer), common::numbers(0..5));
        });
    });
}

/// Sends to an address, in a callback or outside.
fn sends(transport: &DatagramTransport, peer: SocketAddr, numbers: std::ops::Range<u8>) {
    common::send_numbers(transport, numbers, peer);
}

#[test]
fn an_endpoint_delivers_in_spite_of_an_error_that_waits() {
    let name = "an_endpoint_delivers_in_spite_of_an_error_that_waits";
    in_network(name, "", || {
        for (kind, code, expected) in ANSWERS {
            for together in [false, true] {
                block_on_within(async {
                    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                    let peer_addr = ip(&peer);
                    let log = Log::new();
                    let error = move |transport: &DatagramTransport| {
                        let socket = transport.udp_socket().unwrap();
                        answer(ip(&socket), peer_addr, kind, code);
                        until_error(&socket);
                    };
                    // Those of a callback go together, when it has returned.
                    let (transport, _) = reacting(&log, to(peer_addr), move |transport, event| {
                        if together && *event == Event::Made {
                            error(transport);
                            sends(transport, peer_addr, 0..5);
                        }
                    })
                    .await;
                    if !together {
                        error(&transport);
                        sends(&transport, peer_addr, 0..5);
                    }
                    log.until_errors(1).await;
                    common::settle().await;
                    let errors = log.errors();
                    assert_eq!(errors.len(), 1, "{errors:?}");
                    let kind = io::Error::from_raw_os_error(expected).kind();
                    assert_eq!(errors[0].0, kind);
                    assert!(!errors[0].1.contains("127.0.0.1"), "{errors:?}");
                    assert_eq!(received(&peer), common::numbers(0..5));
                    assert_eq!(transport.dropped(), 0);
                    close(&transport).await;
                });
            }
        }
    });
}

#[test]
fn an_endpoint_with_many_peers_charges_none_with_the_error_of_another() {
    let name = "an_endpoint_with_many_peers_charges_none_with_the_error_of_another";
    in_network(name, "", || {
        block_on_within(async {
            let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let log = Log::new();
            let (transport, _) = recording(&log, local_v4()).await;
            let socket = transport.udp_socket().unwrap();
            queue_errors(&socket);
            let dead = common::dead_addr();
            for i in 0..5 {
                transport.send_to(b"lost", &dead.into()).unwrap();
                until_error(&socket);
                sends(&transport, ip(&peer), i..i + 1);
                log.until_errors(usize::from(i) + 1).await;
            }
            let errors = log.errors();
            assert!(errors.iter().all(|(kind, text)| {
                *kind == ErrorKind::ConnectionRefused && !text.contains("127.")
            }));
            assert_eq!(received(&peer), common::numbers(0..5));
            close(&transport).await;
        });
    });
}

/// How the datagrams of a batch arrive at a socket that takes merged ones: each one's mark of the
/// run that it came in.
async fn runs(from: &UdpSocket, batch: &mut SendBatch, to: &UdpSocket) -> Vec<Option<usize>> {
    let count = batch.len();
    while !batch.is_empty() {
        from.send_batch(batch).await.unwrap();
    }
    let mut into = RecvBatch::new();
    let mut marks = Vec::new();
    while marks.len() < count {
        to.recv_batch(&mut into).await.unwrap();
        marks.extend(into.iter().map(|(_, meta)| meta.segment_size));
    }
    marks
}

#[test]
fn one_bad_destination_costs_the_others_no_offload() {
    // The way to 10.9.9.9 takes less than the others.
    let setup = "ip addr add 10.9.9.9 dev lo; ip route del table local local 10.9.9.9; \
                 ip route add table local local 10.9.9.9 dev lo mtu 600";
    in_network(
        "one_bad_destination_costs_the_others_no_offload",
        setup,
        || {
            block_on_within(async {
                let from = UdpSocket::bind("0.0.0.0:0").await.unwrap();
                if from.caps().max_segments == 1 {
                    return;
                }
                let good = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let small = UdpSocket::bind("10.9.9.9:0").await.unwrap();
                good.set_receive_offload(true).unwrap();
                small.set_receive_offload(true).unwrap();
                let batch = |to: SocketAddr| {
                    let mut batch = SendBatch::new();
                    (0..5).for_each(|i| batch.push(&[i; 1000], &to.into()));
                    batch
                };
                let merged = [Some(1000); 5];
                let goes_as_one = async || {
                    assert_eq!(runs(&from, &mut batch(ip(&good)), &good).await, merged);
                };
                goes_as_one().await;

                let mut nowhere = batch(([127, 0, 0, 1], 0).into());
                for left in (0..5).rev() {
                    let error = from.send_batch(&mut nowhere).await.unwrap_err();
                    assert_eq!(raw_code(&error), Some(libc::EINVAL), "{error}");
                    assert!(error.to_string().contains("127.0.0.1:0"), "{error}");
                    assert_eq!(nowhere.len(), left);
                }
                goes_as_one().await;

                // In fragments, but whole.
                let single = runs(&from, &mut batch(ip(&small)), &small).await;
                assert_eq!(single, [None; 5]);
                goes_as_one().await;
                let mut shorter = SendBatch::new();
                (0..5).for_each(|i| shorter.push(&[i; 500], &ip(&small).into()));
                let marks = runs(&from, &mut shorter, &small).await;
                assert_eq!(marks, [Some(500); 5], "they fit");

                // An error that waits says nothing about segments.
                from.connect(ip(&good)).await.unwrap();
                for (kind, code, _) in ANSWERS {
                    answer(ip(&from), ip(&good), kind, code);
                    until_error(&from);
                    let mut connected = SendBatch::new();
                    (0..5).for_each(|i| connected.push_connected(&[i; 1000]));
                    let error = from.send_batch(&mut connected).await.unwrap_err();
                    assert!(!error.to_string().contains("127."), "{error}");
                    assert!(connected.is_empty());
                    let mut into = RecvBatch::new();
                    assert_eq!(good.recv_batch(&mut into).await.unwrap(), 5);
                    assert!(into.iter().all(|(_, meta)| meta.segment_size == Some(1000)));
                }
            });
        },
    );
}
