//! UDP sockets with async methods.
//!
//! WASI has no groups, no broadcasting, and no sockets of other crates.

mod common;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use common::{block_on_within, raw_code};
use coracle::net::{resolve, Ecn, Interface, Meta, RecvBatch, SendBatch, SendMeta, UdpSocket};
use coracle::{spawn, yield_now, Address};
use futures_lite::future::poll_once;

async fn bound(addr: &str) -> (UdpSocket, Address) {
    let socket = UdpSocket::bind(addr).await.unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

async fn v4() -> (UdpSocket, Address) {
    bound("127.0.0.1:0").await
}

async fn send_all(socket: &UdpSocket, batch: &mut SendBatch) {
    while !batch.is_empty() {
        assert!(socket.send_batch(batch).await.unwrap() > 0);
    }
}

/// So many datagrams, by batches.
async fn receive(socket: &UdpSocket, count: usize) -> Vec<(Vec<u8>, Address)> {
    let mut batch = RecvBatch::new();
    let mut all = Vec::new();
    while all.len() < count {
        let len = socket.recv_batch(&mut batch).await.unwrap();
        assert_eq!(len, batch.iter().count());
        all.extend(batch.iter().map(|(data, meta)| {
            assert!(!meta.truncated);
            (data.to_vec(), meta.from)
        }));
    }
    all
}

/// Sends `data` as one batch, and checks that it comes whole and in order.
async fn batch_arrives(data: &[Vec<u8>]) {
    let (from, from_addr) = v4().await;
    let (to, to_addr) = v4().await;
    let mut batch = SendBatch::new();
    data.iter().for_each(|data| batch.push(data, &to_addr));
    send_all(&from, &mut batch).await;
    let received = receive(&to, data.len()).await;
    assert_eq!(received.len(), data.len());
    for (expected, (data, addr)) in data.iter().zip(&received) {
        assert!(
            expected == data,
            "{} bytes for {}",
            data.len(),
            expected.len()
        );
        assert_eq!(*addr, from_addr);
    }
}

fn numbered(number: usize, len: usize) -> Vec<u8> {
    let number = number.to_le_bytes();
    (0..len).map(|i| number[i % number.len()]).collect()
}

#[test]
fn datagrams_go_both_ways_over_both_families() {
    block_on_within(async {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (server, addr) = bound(local).await;
            let (client, client_addr) = bound(local).await;
            client.connect(&addr).await.unwrap();
            assert_eq!(client.peer_addr().unwrap(), addr);
            assert_eq!(client.send(b"ping").await.unwrap(), 4);
            let mut buf = [0; 16];
            let (len, from) = server.recv_from(&mut buf).await.unwrap();
            assert_eq!((&buf[..len], from), (&b"ping"[..], client_addr));
            assert_eq!(server.send_to(b"pong!", &from).await.unwrap(), 5);
            assert_eq!(client.recv(&mut buf).await.unwrap(), 5);
            assert_eq!(
                server.peer_addr().unwrap_err().kind(),
                ErrorKind::NotConnected
            );
        }
    });
}

#[test]
fn names_are_looked_up() {
    block_on_within(async {
        let addrs = resolve("localhost:7").await.unwrap();
        assert!(!addrs.is_empty());
        assert!(addrs
            .iter()
            .all(|addr| addr.ip().is_loopback() && addr.port() == 7));
        let server = UdpSocket::bind(("localhost", 0)).await.unwrap();
        let addr = server.local_addr().unwrap().as_ip().unwrap();
        let client = UdpSocket::bind("localhost:0").await.unwrap();
        client.connect(("localhost", addr.port())).await.unwrap();
        client.send(b"x").await.unwrap();
        assert_eq!(server.recv(&mut [0; 8]).await.unwrap(), 1);
    });
}

#[test]
fn a_peeked_datagram_stays() {
    block_on_within(async {
        let (socket, addr) = v4().await;
        socket.send_to(b"stays", &addr).await.unwrap();
        let mut buf = [0; 16];
        for _ in 0..2 {
            let (len, meta) = socket.peek_from(&mut buf).await.unwrap();
            assert_eq!((&buf[..len], meta.from), (&b"stays"[..], addr));
        }
        assert_eq!(socket.recv_from(&mut buf).await.unwrap(), (5, addr));
        assert_eq!(
            socket.try_recv_from(&mut buf).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
    });
}

#[test]
fn an_empty_datagram_is_a_datagram() {
    block_on_within(async {
        let (socket, addr) = v4().await;
        socket.send_to(b"", &addr).await.unwrap();
        socket.send_to(b"x", &addr).await.unwrap();
        socket.send_to(b"", &addr).await.unwrap();
        let mut buf = [0; 16];
        assert_eq!(socket.recv_from(&mut buf).await.unwrap(), (0, addr));
        let received = receive(&socket, 2).await;
        assert_eq!(received, [(b"x".to_vec(), addr), (Vec::new(), addr)]);
    });
}

#[test]
fn a_cut_off_datagram_says_so() {
    block_on_within(async {
        let (socket, addr) = v4().await;
        let mut buf = [0; 4];
        for (data, truncated) in [(&b"four"[..], false), (b"fives", true), (b"", false)] {
            socket.send_to(data, &addr).await.unwrap();
            let (len, meta) = socket.recv_meta(&mut buf).await.unwrap();
            assert_eq!(
                (&buf[..len], meta.truncated),
                (&data[..data.len().min(4)], truncated)
            );
            socket.send_to(data, &addr).await.unwrap();
            if !cfg!(target_os = "wasi") {
                let (len, meta) = socket.peek_from(&mut buf).await.unwrap();
                assert_eq!((len, meta.truncated), (data.len().min(4), truncated));
            }
            let mut batch = RecvBatch::with_capacity(4, 4);
            socket.recv_batch(&mut batch).await.unwrap();
            let (received, meta) = batch.iter().next().unwrap();
            assert_eq!(
                (received.len(), meta.truncated),
                (data.len().min(4), truncated)
            );
        }
    });
}

#[test]
fn a_batch_takes_all_that_is_there_however_much() {
    block_on_within(async {
        let sizes = [(64, 128), (33, 33), (100, 70), (1, 3), (32, 64)];
        let all =
            [0, 1, 3].map(|singles| sizes.map(|(capacity, queued)| (singles, capacity, queued)));
        for (singles, capacity, queued) in all.into_iter().flatten() {
            let (from, _) = v4().await;
            let (to, addr) = v4().await;
            let mut batch = RecvBatch::with_capacity(capacity, 16);
            // A few that have come alone tell nothing of those that come then.
            for _ in 0..singles {
                from.send_to(b"alone", &addr).await.unwrap();
                assert_eq!(to.recv_batch(&mut batch).await.unwrap(), 1);
            }
            for i in 0..queued {
                from.send_to(&numbered(i, 8), &addr).await.unwrap();
            }
            if singles > 0 {
                to.readable().await.unwrap();
            }
            let mut left = queued;
            let mut next = 0;
            while left > 0 {
                // A batch that is full, or all that is left.
                let taken = if cfg!(target_os = "wasi") {
                    to.recv_batch(&mut batch).await.unwrap()
                } else {
                    // Every so often a task has to yield; twice would be a wait.
                    match poll_once(to.recv_batch(&mut batch)).await {
                        Some(taken) => taken.unwrap(),
                        None => poll_once(to.recv_batch(&mut batch)).await.unwrap().unwrap(),
                    }
                };
                if !cfg!(target_os = "wasi") {
                    assert_eq!(taken, left.min(capacity), "{capacity} of {queued}");
                }
                for (data, _) in batch.iter() {
                    assert_eq!(data, numbered(next, 8));
                    next += 1;
                }
                left -= taken;
            }
            let nothing = poll_once(to.recv_batch(&mut batch)).await;
            assert!(nothing.is_none(), "{nothing:?}");
        }
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_batch_is_sent_with_one_call_however_long() {
    block_on_within(async {
        let (from, _) = v4().await;
        let (to, addr) = v4().await;
        let mut batch = SendBatch::new();
        for i in 0..200 {
            // Neighbours of two sizes are not sent as one.
            batch.push(&numbered(i, 8 + i % 2), &addr);
        }
        assert_eq!(from.send_batch(&mut batch).await.unwrap(), 200);
        assert!(batch.is_empty());
        assert_eq!(receive(&to, 200).await.len(), 200);
    });
}

#[test]
fn a_batch_of_buffers_without_room_tells_of_each_datagram() {
    block_on_within(async {
        let (from, _) = v4().await;
        let (to, addr) = v4().await;
        let mut batch = RecvBatch::with_capacity(4, 0);
        for len in [1, 1, 0] {
            from.send_to(&[7; 1][..len], &addr).await.unwrap();
        }
        let mut cut_off = Vec::new();
        while cut_off.len() < 3 {
            to.recv_batch(&mut batch).await.unwrap();
            cut_off.extend(batch.iter().map(|(data, meta)| {
                assert!(data.is_empty());
                meta.truncated
            }));
        }
        assert_eq!(cut_off, [true, true, false]);
    });
}

#[test]
fn a_batch_keeps_order_and_sources() {
    block_on_within(async {
        let (server, addr) = v4().await;
        let mut senders = Vec::new();
        for _ in 0..3 {
            senders.push(v4().await);
        }
        let mut expected = Vec::new();
        for i in 0..90 {
            let (socket, from) = &senders[i % 7 % 3];
            let data = numbered(i, i * 53 % 1400);
            socket.send_to(&data, &addr).await.unwrap();
            expected.push((data, *from));
        }
        assert_eq!(receive(&server, 90).await, expected);
        let mut batch = RecvBatch::new();
        assert_eq!(
            server.try_recv_batch(&mut batch).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        assert!(batch.is_empty());
    });
}

#[test]
fn thousands_of_datagrams_go_as_one_batch() {
    block_on_within(async {
        for connected in [false, true] {
            let (from, from_addr) = v4().await;
            let (to, to_addr) = v4().await;
            from.connect(&to_addr).await.unwrap();
            to.set_recv_buffer_size(8 << 20).unwrap();
            // As many as the system has room for, however small it keeps its buffers.
            let count = (to.recv_buffer_size().unwrap() / 2048).min(3_000);
            let mut batch = SendBatch::new();
            for i in 0..count {
                match connected {
                    true => batch.push_connected(&numbered(i, 100)),
                    false => batch.push(&numbered(i, 100), &to_addr),
                }
            }
            assert_eq!((batch.len(), batch.size()), (count, 100 * count));
            send_all(&from, &mut batch).await;
            let received = receive(&to, count).await;
            for (i, (data, addr)) in received.iter().enumerate() {
                assert!(
                    (data, addr) == (&numbered(i, 100), &from_addr),
                    "datagram {i}"
                );
            }
        }
    });
}

#[test]
fn batches_of_all_sizes_arrive_whole() {
    block_on_within(async {
        let sized = |lens: &[usize]| -> Vec<Vec<u8>> {
            lens.iter()
                .enumerate()
                .map(|(i, len)| numbered(i, *len))
                .collect()
        };
        // Empty ones between equal ones, and runs that end with a shorter or a longer one.
        batch_arrives(&sized(&[9, 9, 0, 9, 9, 0, 0, 9, 3, 3, 3, 1, 3, 7, 7, 8, 1])).await;
        batch_arrives(&sized(&[0; 40])).await;
        let growing: Vec<usize> = (0..60).collect();
        batch_arrives(&sized(&growing)).await;
        // Beyond the MTU of a usual network, up to that of a large one.
        for len in [1400, 1472, 1500, 4000, 9000] {
            batch_arrives(&sized(&[len; 10])).await;
        }
        let falling: Vec<usize> = (0..15).map(|i| 9000 - 600 * i).collect();
        batch_arrives(&sized(&falling)).await;
        batch_arrives(&sized(&[32_000, 32_000, 31_999])).await;
        #[cfg(target_os = "linux")]
        batch_arrives(&sized(&[65_507, 65_507, 1])).await;
    });
}

#[test]
fn a_connected_socket_takes_datagrams_of_its_peer_only() {
    block_on_within(async {
        let (socket, addr) = v4().await;
        let (peer, peer_addr) = v4().await;
        let (stranger, _) = v4().await;
        socket.connect(&peer_addr).await.unwrap();
        stranger.send_to(b"stranger", &addr).await.unwrap();
        peer.send_to(b"peer", &addr).await.unwrap();
        assert_eq!(receive(&socket, 1).await, [(b"peer".to_vec(), peer_addr)]);
        let unconnected = stranger.send(b"nowhere").await.unwrap_err();
        assert!(
            matches!(
                unconnected.kind(),
                ErrorKind::NotConnected | ErrorKind::InvalidInput
            ) || cfg!(unix) && raw_code(&unconnected).is_some(),
            "{unconnected}"
        );
    });
}

#[test]
fn readiness_can_be_waited_for() {
    block_on_within(async {
        let (socket, addr) = v4().await;
        socket.writable().await.unwrap();
        let mut buf = [0; 8];
        // The first answer may be a guess; after a try it is not.
        assert!(poll_once(socket.recv(&mut buf)).await.is_none());
        assert!(poll_once(socket.readable()).await.is_none());
        socket.try_send_to(b"x", &addr).unwrap();
        socket.readable().await.unwrap();
        assert_eq!(socket.try_recv_from(&mut buf).unwrap(), (1, addr));
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn operations_of_the_users_own_wait_like_the_others() {
    block_on_within(async {
        let (socket, addr) = v4().await;
        let socket = Arc::new(socket);
        let received = spawn({
            let socket = socket.clone();
            async move {
                let mut buf = [std::mem::MaybeUninit::uninit(); 8];
                socket.read_with(|socket| socket.recv(&mut buf)).await
            }
        });
        yield_now().await;
        assert!(!received.is_finished());
        let to = socket2::SockAddr::from(addr.as_ip().unwrap());
        let sent = socket
            .write_with(|socket| socket.send_to(b"abc", &to))
            .await;
        assert_eq!(sent.unwrap(), 3);
        assert_eq!(received.await.unwrap(), 3);

        let error = socket
            .try_io(|_| Err::<(), _>(ErrorKind::WouldBlock.into()))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let error = socket
            .read_with(|_| Err::<(), _>(io::Error::other("mine")))
            .await;
        assert_eq!(error.unwrap_err().to_string(), "mine");
    });
}

#[test]
fn options_come_back_as_they_were_set() {
    block_on_within(async {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, _) = bound(local).await;
            for hops in [1, 64, 255] {
                socket.set_ttl(hops).unwrap();
                assert_eq!(socket.ttl().unwrap(), hops);
            }
            socket.set_recv_buffer_size(20_000).unwrap();
            assert!(socket.recv_buffer_size().unwrap() >= 20_000);
            socket.set_send_buffer_size(20_000).unwrap();
            assert!(socket.send_buffer_size().unwrap() >= 20_000);
            assert!(!socket.reuse_port().unwrap());
        }
        let (v4, _) = v4().await;
        let error = v4.set_ttl(256).unwrap_err();
        assert!(error.to_string().contains("ttl"), "{error}");
        assert!(v4.only_v6().is_err());
    });
}

#[cfg(target_os = "wasi")]
#[test]
fn what_the_host_has_no_call_for_is_refused_by_name() {
    block_on_within(async {
        let (v4, _) = v4().await;
        let (v6, _) = bound("[::1]:0").await;
        let group = Ipv4Addr::new(239, 255, 77, 9);
        for (error, name) in [
            (v4.set_broadcast(true).unwrap_err(), "broadcast"),
            (v4.set_multicast_ttl(1).unwrap_err(), "multicast_ttl"),
            (v4.set_multicast_loop(true).unwrap_err(), "multicast_loop"),
            (
                v4.set_multicast_interface(Ipv4Addr::LOCALHOST).unwrap_err(),
                "multicast_interface",
            ),
            (
                v4.join_multicast(group, Interface::Any).unwrap_err(),
                "239.255.77.9",
            ),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("WASI 0."), "{text}");
        }
        assert!(!v4.broadcast().unwrap());
        assert!(v6.only_v6().unwrap(), "always so");
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn options_of_groups_and_families_come_back_as_they_were_set() {
    block_on_within(async {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, _) = bound(local).await;
            for hops in [1, 64, 255] {
                socket.set_multicast_ttl(hops).unwrap();
                assert_eq!(socket.multicast_ttl().unwrap(), hops);
            }
            for on in [true, false, true] {
                socket.set_broadcast(on).unwrap();
                assert_eq!(socket.broadcast().unwrap(), on);
                socket.set_multicast_loop(on).unwrap();
                assert_eq!(socket.multicast_loop().unwrap(), on);
            }
            let error = socket.set_multicast_ttl(256).unwrap_err();
            assert!(error.to_string().contains("multicast_ttl"), "{error}");
        }
        let v6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        for on in [true, false] {
            v6.set_only_v6(on).unwrap();
            let socket = UdpSocket::try_from(v6.try_clone().unwrap()).unwrap();
            assert_eq!(socket.only_v6().unwrap(), on);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_socket_for_both_versions_is_told_holds_for_ipv4_too() {
    block_on_within(async {
        let (socket, _) = bound("[::]:0").await;
        socket.set_ttl(7).unwrap();
        socket.set_multicast_ttl(8).unwrap();
        socket.set_multicast_loop(false).unwrap();
        let v4 = |socket: socket2::SockRef<'_>| {
            let hops = (socket.ttl_v4()?, socket.multicast_ttl_v4()?);
            Ok((hops, socket.multicast_loop_v4()?))
        };
        assert_eq!(socket.try_io(v4).unwrap(), ((7, 8), false));
    });
}

#[cfg(unix)]
#[test]
fn two_sockets_share_a_port_when_both_ask_for_it() {
    block_on_within(async {
        let share = |addr: SocketAddr| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
            let socket = socket.unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&addr.into()).unwrap();
            UdpSocket::try_from(socket).unwrap()
        };
        let first = share(([127, 0, 0, 1], 0).into());
        let addr = first.local_addr().unwrap();
        let second = share(addr.as_ip().unwrap());
        assert!(first.reuse_port().unwrap() && second.reuse_port().unwrap());
        assert_eq!(second.local_addr().unwrap(), addr);
        common::std_udp()
            .send_to(b"one of you", addr.as_ip().unwrap())
            .unwrap();
        let (mut a, mut b) = ([0; 16], [0; 16]);
        let either = futures_lite::future::or(first.recv(&mut a), second.recv(&mut b));
        assert_eq!(either.await.unwrap(), 10);
    });
}

#[test]
fn the_destination_is_told_where_the_system_can() {
    block_on_within(async {
        let (socket, addr) = bound("0.0.0.0:0").await;
        if !socket.caps().destination {
            let error = socket.set_receive_destination(true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            return;
        }
        let (sender, _) = v4().await;
        let to = Address::from((Ipv4Addr::new(127, 0, 0, 2), addr.as_ip().unwrap().port()));
        let mut buf = [0; 8];
        for on in [true, false] {
            socket.set_receive_destination(on).unwrap();
            sender.send_to(b"x", &to).await.unwrap();
            let (_, meta) = socket.recv_meta(&mut buf).await.unwrap();
            let expected = on.then_some(to.as_ip().unwrap().ip());
            assert_eq!(meta.destination, expected);
            assert_eq!(meta.interface.is_some(), on);
        }
        socket.set_receive_destination(true).unwrap();
        sender.send_to(b"x", &to).await.unwrap();
        sender.send_to(b"y", &to).await.unwrap();
        let mut batch = RecvBatch::new();
        socket.recv_batch(&mut batch).await.unwrap();
        for (_, meta) in batch.iter() {
            assert_eq!(meta.destination, Some(to.as_ip().unwrap().ip()));
        }
    });
}

#[test]
fn a_datagram_can_be_sent_from_another_of_the_machines_addresses() {
    block_on_within(async {
        let (from, addr) = bound("0.0.0.0:0").await;
        let (to, to_addr) = v4().await;
        let source = IpAddr::from([127, 0, 0, 2]);
        let mut batch = SendBatch::new();
        for _ in 0..3 {
            batch.push_with(
                b"x",
                Some(&to_addr),
                SendMeta::default().with_source(source),
            );
        }
        if !from.caps().destination {
            let error = from.send_batch(&mut batch).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            return;
        }
        batch.push(b"y", &to_addr);
        send_all(&from, &mut batch).await;
        let port = addr.as_ip().unwrap().port();
        let sources: Vec<Address> = receive(&to, 4)
            .await
            .iter()
            .map(|(_, from)| *from)
            .collect();
        let (other, usual) = (
            Address::from((source, port)),
            Address::from(([127, 0, 0, 1], port)),
        );
        assert_eq!(sources, [other, other, other, usual]);
    });
}

#[test]
fn congestion_marks_go_along_where_the_system_can() {
    const MARKS: [Ecn; 4] = [
        Ecn::NotCapable,
        Ecn::Capable1,
        Ecn::Capable0,
        Ecn::CongestionExperienced,
    ];
    block_on_within(async {
        for (local, from) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:0", "[::1]:0"),
            // An IPv6 socket that takes IPv4 too.
            ("[::]:0", "127.0.0.1:0"),
        ] {
            let (to, addr) = bound(local).await;
            let (from, _) = bound(from).await;
            let mut batch = SendBatch::new();
            if !to.caps().ecn {
                assert_eq!(
                    to.set_receive_ecn(true).unwrap_err().kind(),
                    ErrorKind::Unsupported
                );
                batch.push_with(
                    b"x",
                    Some(&addr),
                    SendMeta::default().with_ecn(Ecn::Capable0),
                );
                let error = from.send_batch(&mut batch).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                continue;
            }
            to.set_receive_ecn(true).unwrap();
            let ip = addr.as_ip().unwrap();
            let target = match from.local_addr().unwrap().as_ip().unwrap() {
                SocketAddr::V4(_) => Address::from(([127, 0, 0, 1], ip.port())),
                SocketAddr::V6(_) => addr,
            };
            for mark in MARKS {
                // Two of each, so that they may go as one.
                for _ in 0..2 {
                    batch.push_with(b"x", Some(&target), SendMeta::default().with_ecn(mark));
                }
            }
            send_all(&from, &mut batch).await;
            let mut marks = Vec::new();
            while marks.len() < 8 {
                let mut into = RecvBatch::new();
                to.recv_batch(&mut into).await.unwrap();
                marks.extend(into.iter().map(|(_, meta)| meta.ecn.unwrap()));
            }
            let expected: Vec<Ecn> = MARKS.iter().flat_map(|mark| [*mark; 2]).collect();
            assert_eq!(marks, expected, "{local}");
        }
    });
}

#[test]
fn merged_datagrams_come_apart_in_batches_and_single_receives_are_refused() {
    block_on_within(async {
        let (to, addr) = v4().await;
        let (from, from_addr) = v4().await;
        if !to.caps().receive_offload {
            let error = to.set_receive_offload(true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            return;
        }
        to.set_receive_offload(true).unwrap();
        let mut buf = [0; 8];
        for _ in 0..2 {
            let refused = to.recv(&mut buf).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
            assert!(refused.to_string().contains("receive_offload"), "{refused}");
            // Also if nothing has come, as is known then.
            let nothing = to.try_recv_batch(&mut RecvBatch::new()).unwrap_err();
            assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        }
        assert_eq!(
            to.try_recv_from(&mut buf).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );

        let lens = [500, 500, 500, 200, 500, 0, 500, 500];
        let data: Vec<_> = lens
            .iter()
            .enumerate()
            .map(|(i, len)| numbered(i, *len))
            .collect();
        let mut batch = SendBatch::new();
        data.iter().for_each(|data| batch.push(data, &addr));
        send_all(&from, &mut batch).await;
        let expected: Vec<_> = data.into_iter().map(|data| (data, from_addr)).collect();
        assert_eq!(receive(&to, 8).await, expected);
        to.set_receive_offload(false).unwrap();
        from.send_to(b"single", &addr).await.unwrap();
        assert_eq!(to.recv(&mut buf).await.unwrap(), 6);
    });
}

#[test]
fn merged_datagrams_are_not_received_into_buffers_that_are_too_small() {
    block_on_within(async {
        let (to, addr) = v4().await;
        let (from, _) = v4().await;
        if !to.caps().receive_offload {
            return;
        }
        to.set_receive_offload(true).unwrap();
        let mut batch = SendBatch::new();
        (0..20).for_each(|i| batch.push(&numbered(i, 1200), &addr));
        send_all(&from, &mut batch).await;
        for size in [0, 1500, 65_534] {
            let mut small = RecvBatch::with_capacity(32, size);
            for error in [
                to.recv_batch(&mut small).await.unwrap_err(),
                to.try_recv_batch(&mut small).unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                let text = error.to_string();
                assert!(text.contains("receive_offload"), "{text}");
                assert!(text.contains(&size.to_string()), "{text}");
            }
        }
        // What may be merged already stays so.
        let early = to.set_receive_offload(false).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::ResourceBusy);
        assert!(early.to_string().contains("receive_offload"), "{early}");
        let mut large = RecvBatch::with_capacity(32, 65_535);
        let mut all = Vec::new();
        while all.len() < 20 {
            to.recv_batch(&mut large).await.unwrap();
            all.extend(large.iter().map(|(data, _)| data.to_vec()));
        }
        let expected: Vec<_> = (0..20).map(|i| numbered(i, 1200)).collect();
        assert_eq!(all, expected);

        to.set_receive_offload(false).unwrap();
        (0..3).for_each(|i| batch.push(&numbered(i, 1200), &addr));
        send_all(&from, &mut batch).await;
        for i in 0..3 {
            let mut buf = [0; 1500];
            let len = to.recv(&mut buf).await.unwrap();
            assert_eq!(buf[..len], numbered(i, 1200));
        }
    });
}

/// Sends one datagram as `meta` says, and gives what is known of it at the other end.
async fn goes(
    from: &UdpSocket,
    dest: Option<&Address>,
    meta: SendMeta,
    to: &UdpSocket,
) -> io::Result<Meta> {
    let mut batch = SendBatch::new();
    batch.push_with(b"x", dest, meta);
    from.send_batch(&mut batch).await?;
    Ok(to.recv_meta(&mut [0; 8]).await?.1)
}

/// Of both versions, at `addr` with the port of `socket`.
fn at(addr: &str, socket: &UdpSocket) -> Address {
    let port = socket.local_addr().unwrap().as_ip().unwrap().port();
    Address::from((addr.parse::<IpAddr>().unwrap(), port))
}

#[test]
fn a_source_of_the_other_ip_version_is_refused_by_name() {
    block_on_within(async {
        let (v4, _) = bound("0.0.0.0:0").await;
        let (v6, _) = bound("[::]:0").await;
        let (to, _) = bound("[::]:0").await;
        if !v4.caps().destination {
            return;
        }
        let plain = at("127.0.0.1", &to);
        let mapped = at("::ffff:127.0.0.1", &to);
        let six = at("::1", &to);
        let source = |text: &str| SendMeta::default().with_source(text.parse().unwrap());
        let connected = async |dest: &Address| {
            let (socket, _) = bound("[::]:0").await;
            socket.connect(*dest).await.unwrap();
            socket
        };
        let (to_four, to_six) = (connected(&mapped).await, connected(&six).await);
        for (from, dest, refused) in [
            (&v4, Some(&plain), "::1"),
            (&v6, Some(&mapped), "::1"),
            (&v6, Some(&six), "127.0.0.2"),
            (&v6, Some(&six), "::ffff:127.0.0.2"),
            (&to_four, None, "::1"),
            (&to_six, None, "127.0.0.2"),
        ] {
            let error = goes(from, dest, source(refused), &to).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            let address = refused.trim_start_matches("::ffff:");
            assert!(error.to_string().contains(address), "{error}");
        }
        // One that comes behind others costs them nothing.
        let mut batch = SendBatch::new();
        batch.push(b"x", &six);
        batch.push_with(b"y", Some(&six), source("127.0.0.2"));
        batch.push(b"z", &six);
        assert_eq!(v6.send_batch(&mut batch).await.unwrap(), 1);
        v6.send_batch(&mut batch).await.unwrap_err();
        assert_eq!(v6.send_batch(&mut batch).await.unwrap(), 1);
        assert_eq!(to.recv_meta(&mut [0; 8]).await.unwrap().0, 1);
        assert_eq!(to.recv_meta(&mut [0; 8]).await.unwrap().0, 1);

        for (from, dest, taken) in [
            (&v4, Some(&plain), "127.0.0.2"),
            (&v4, Some(&plain), "::ffff:127.0.0.2"),
            (&v6, Some(&mapped), "127.0.0.2"),
            (&v6, Some(&mapped), "::ffff:127.0.0.2"),
            (&v6, Some(&six), "::1"),
            (&to_four, None, "127.0.0.1"),
            (&to_six, None, "::1"),
        ] {
            let meta = goes(from, dest, source(taken), &to).await.unwrap();
            let came_from = meta.from.as_ip().unwrap().ip().to_canonical();
            let expected: IpAddr = taken.parse().unwrap();
            assert_eq!(came_from, expected.to_canonical());
        }
    });
}

#[test]
fn replies_come_from_where_the_question_went() {
    block_on_within(async {
        let (probe, _) = v4().await;
        if !probe.caps().destination {
            return;
        }
        for (server, client, dest) in [
            ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.3"),
            ("[::]:0", "127.0.0.1:0", "127.0.0.3"),
            ("[::]:0", "[::1]:0", "::1"),
            // A broadcast address is nobody's to send from.
            ("0.0.0.0:0", "127.0.0.1:0", "127.255.255.255"),
            ("[::]:0", "127.0.0.1:0", "127.255.255.255"),
        ] {
            let (server, _) = bound(server).await;
            let (client, _) = bound(client).await;
            server.set_receive_destination(true).unwrap();
            client.set_broadcast(true).unwrap();
            let asked = at(dest, &server);
            client.send_to(b"?", &asked).await.unwrap();
            let (_, meta) = server.recv_meta(&mut [0; 8]).await.unwrap();
            let was: IpAddr = dest.parse().unwrap();
            assert_eq!(meta.destination.unwrap().to_canonical(), was);
            let reply = SendMeta::reply_to(&meta);
            let came = goes(&server, Some(&meta.from), reply, &client)
                .await
                .unwrap();
            if dest.ends_with("255") {
                assert_eq!(came.from, at("127.0.0.1", &server));
            } else {
                assert_eq!(came.from, asked);
            }
        }
    });
}

#[test]
fn congestion_marks_leave_the_other_bits_alone() {
    block_on_within(async {
        let (to, _) = bound("[::]:0").await;
        if !to.caps().ecn {
            return;
        }
        to.set_receive_ecn(true).unwrap();
        let targets = [
            at("127.0.0.1", &to),
            at("::ffff:127.0.0.1", &to),
            at("::1", &to),
        ];
        for (local, target) in ["127.0.0.1:0", "[::]:0", "[::]:0"].into_iter().zip(targets) {
            for is_connected in [false, true] {
                let (from, _) = bound(local).await;
                if is_connected {
                    from.connect(target).await.unwrap();
                }
                let dest = Some(&target).filter(|_| !is_connected);
                for mark in [Ecn::Capable1, Ecn::CongestionExperienced, Ecn::NotCapable] {
                    let meta = SendMeta::default().with_ecn(mark);
                    let meta = goes(&from, dest, meta, &to).await.unwrap();
                    assert_eq!(meta.ecn, Some(mark), "{local} to {target}, {is_connected}");
                }
            }
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_group_is_received_while_it_is_joined() {
    let index: u32 = std::fs::read_to_string("/sys/class/net/lo/ifindex")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    block_on_within(async {
        for (i, interface) in [Ipv4Addr::LOCALHOST.into(), Interface::Index(index)]
            .into_iter()
            .enumerate()
        {
            let (member, addr) = bound("0.0.0.0:0").await;
            let port = addr.as_ip().unwrap().port();
            let (sender, sender_addr) = v4().await;
            let group = Ipv4Addr::new(239, 255, 77, 1 + i as u8);
            let to_group = Address::from((group, port));
            let to_itself = Address::from(([127, 0, 0, 1], port));
            sender.set_multicast_interface(Ipv4Addr::LOCALHOST).unwrap();
            sender.set_multicast_loop(true).unwrap();

            member.join_multicast(group, interface).unwrap();
            let twice = member.join_multicast(group, interface).unwrap_err();
            assert_eq!(twice.kind(), ErrorKind::AddrInUse, "{twice}");
            sender.send_to(b"all", &to_group).await.unwrap();
            assert_eq!(receive(&member, 1).await, [(b"all".to_vec(), sender_addr)]);

            member.leave_multicast(group, interface).unwrap();
            sender.send_to(b"the others", &to_group).await.unwrap();
            sender.send_to(b"you", &to_itself).await.unwrap();
            assert_eq!(receive(&member, 1).await[0].0, b"you");
            let again = member.leave_multicast(group, interface).unwrap_err();
            assert!(again.to_string().contains(&group.to_string()), "{again}");
        }
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn what_is_no_group_or_no_interface_is_refused() {
    block_on_within(async {
        let (v4, _) = v4().await;
        let (v6, _) = bound("[::1]:0").await;
        let group = Ipv4Addr::new(239, 255, 77, 9);
        let group_v6: IpAddr = "ff01::77".parse().unwrap();
        let by_v6 = Interface::Address("::1".parse().unwrap());
        for error in [
            v4.join_multicast(Ipv4Addr::LOCALHOST, Interface::Any)
                .unwrap_err(),
            v4.join_multicast(group, by_v6).unwrap_err(),
            v6.join_multicast(group_v6, by_v6).unwrap_err(),
            v6.join_multicast(group_v6, Ipv4Addr::LOCALHOST)
                .unwrap_err(),
            v4.set_multicast_interface(by_v6).unwrap_err(),
            v4.set_multicast_interface(1).unwrap_err(),
            v6.set_multicast_interface(by_v6).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let unknown = Interface::Index(999_999);
        for (error, about) in [
            (
                v4.join_multicast(group, unknown).unwrap_err(),
                "239.255.77.9",
            ),
            (
                v6.join_multicast(group_v6, unknown).unwrap_err(),
                "ff01::77",
            ),
            (
                v4.leave_multicast(group, Interface::Any).unwrap_err(),
                "leave",
            ),
        ] {
            assert!(error.to_string().contains(about), "{error}");
        }
    });
}

#[test]
fn several_tasks_receive_and_send_on_one_socket() {
    block_on_within(async {
        let (socket, addr) = v4().await;
        let socket = Arc::new(socket);
        let receiver = || {
            let socket = socket.clone();
            spawn(async move { socket.recv(&mut [0; 8]).await.unwrap() })
        };
        for _ in 0..50 {
            // Both wait before anything is sent: one datagram each.
            let (a, b) = (receiver(), receiver());
            yield_now().await;
            let sender = socket.clone();
            let sending = spawn(async move {
                sender.send_to(b"1", &addr).await.unwrap();
                yield_now().await;
                sender.send_to(b"22", &addr).await.unwrap();
            });
            let mut lens = [a.await, b.await];
            lens.sort();
            assert_eq!(lens, [1, 2]);
            sending.await;
        }
    });
}
