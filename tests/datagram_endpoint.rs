//! What a datagram endpoint does: callbacks, sending, receiving, errors, the end.
//!
//! WASI has no threads, and panics cannot be caught there.

mod common;

use std::io::ErrorKind;
#[cfg(not(target_os = "wasi"))]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

#[cfg(panic = "unwind")]
use common::panic_message;
use common::{
    block_on_within, close, echoing, ip, local_v4, numbers, own_v4, reacting, recording,
    send_numbers, settle, std_udp, to, within, Event, Log, Recorder, BROADCAST,
};
use coracle::net::UdpSocket;
#[cfg(panic = "unwind")]
use coracle::ProtocolHandle;
use coracle::{
    create_datagram_endpoint, create_datagram_endpoint_with_driver, spawn, yield_now, Address,
    DatagramOptions, DatagramTransport, Family,
};
use futures_lite::future::poll_once;

#[test]
fn callbacks_come_in_order_and_connection_lost_last() {
    block_on_within(async {
        let log = Log::new();
        let mut made = 0;
        let factory = || {
            made += 1;
            Recorder::new(&log)
        };
        let (transport, handle) = create_datagram_endpoint(factory, local_v4()).await.unwrap();
        assert_eq!(made, 1);
        assert_eq!(
            log.events(),
            [Event::Made],
            "called before creation returns"
        );
        let peer = std_udp();
        let from = Address::from(peer.local_addr().unwrap());
        peer.send_to(b"one", ip(&transport)).unwrap();
        log.until_received(1).await;
        peer.send_to(b"two", ip(&transport)).unwrap();
        log.until_received(2).await;
        transport.close();
        transport.close();
        transport.abort();
        assert!(transport.is_closing() && !transport.is_reading());
        let (_, result) = within(handle.lost()).await;
        result.unwrap();
        transport.abort();
        peer.send_to(b"three", ip(&transport)).unwrap();
        settle().await;
        let received = |data: &[u8]| Event::Received(data.to_vec(), from);
        let expected = [
            Event::Made,
            received(b"one"),
            received(b"two"),
            Event::Lost(None),
        ];
        assert_eq!(log.events(), expected);
    });
}

#[test]
fn closing_in_connection_made_still_gives_an_endpoint() {
    block_on_within(async {
        for end in [DatagramTransport::close, DatagramTransport::abort] {
            let log = Log::new();
            let (transport, _) = reacting(&log, local_v4(), move |transport, event| {
                if *event == Event::Made {
                    end(transport);
                }
            })
            .await;
            assert!(transport.is_closing());
            within(transport.closed()).await.unwrap();
            assert_eq!(log.events(), [Event::Made, Event::Lost(None)]);
        }
    });
}

#[test]
fn closing_on_the_first_datagram_delivers_no_second() {
    block_on_within(async {
        for end in [DatagramTransport::close, DatagramTransport::abort] {
            let log = Log::new();
            let (transport, _) = reacting(&log, local_v4(), move |transport, event| {
                if let Event::Received(..) = event {
                    end(transport);
                }
            })
            .await;
            let peer = std_udp();
            // All are there before the endpoint gets its turn.
            for i in 0..5 {
                peer.send_to(&[i], ip(&transport)).unwrap();
            }
            within(transport.closed()).await.unwrap();
            assert_eq!(log.received(), numbers(0..1));
            assert_eq!(log.events().last(), Some(&Event::Lost(None)));
        }
    });
}

#[test]
fn sending_is_refused_once_closed_and_counted() {
    block_on_within(async {
        let log = Log::new();
        let refused = Arc::new(Mutex::new(None));
        let slot = refused.clone();
        let peer = std_udp();
        let addr = peer.local_addr().unwrap();
        let (transport, _) = reacting(&log, own_v4(), move |transport, event| {
            if let Event::Lost(_) = event {
                *slot.lock().unwrap() = Some(transport.send_to(b"x", &addr.into()));
            }
        })
        .await;
        let local = ip(&transport);
        transport.close();
        let now = transport.send_to(b"x", &addr.into()).unwrap_err();
        assert_eq!(now.kind(), ErrorKind::NotConnected);
        within(transport.closed()).await.unwrap();
        let in_lost = refused.lock().unwrap().take().unwrap().unwrap_err();
        assert_eq!(in_lost.kind(), ErrorKind::NotConnected);
        let after = transport.send_to(b"x", &addr.into()).unwrap_err();
        assert_eq!(after.kind(), ErrorKind::NotConnected);
        assert_eq!(transport.dropped(), 3);
        assert_eq!(ip(&transport), local, "remembered");
        assert_eq!(
            transport.drain().await.unwrap_err().kind(),
            ErrorKind::NotConnected
        );
        assert_eq!(
            transport.udp_socket().unwrap_err().kind(),
            ErrorKind::NotConnected
        );
        UdpSocket::bind(local).await.expect("the port is free");
    });
}

/// Many datagrams of many sizes to an echo server and back, all whole and in order.
async fn echoes_all(server: DatagramOptions, client: DatagramOptions, sizes: usize) {
    let server = echoing(server).await;
    let addr = server.local_addr().unwrap();
    let log = Log::new();
    let (client, _) = recording(&log, client.remote_addr(addr)).await;
    assert_eq!(client.peer_addr(), Some(addr));
    let mut expected = Vec::new();
    for round in 0..60 {
        for i in 0..8 {
            let number = round * 8 + i;
            let data: Vec<u8> = (0..number * 131 % sizes)
                .map(|i| (i ^ number) as u8)
                .collect();
            client.send(&data).unwrap();
            expected.push(data);
        }
        log.until_received(expected.len()).await;
    }
    assert!(log.received() == expected);
    assert_eq!(log.errors(), []);
    close(&client).await;
    close(&server).await;
}

#[test]
fn everything_comes_back_over_ip() {
    block_on_within(async {
        let options = DatagramOptions::new;
        echoes_all(local_v4(), options(), 1_400).await;
        echoes_all(options().local_addr("[::1]:0"), options(), 9_000).await;
    });
}

#[cfg(unix)]
#[test]
fn everything_comes_back_over_unix_sockets() {
    block_on_within(async {
        let options = DatagramOptions::new;
        let folder = tempfile::tempdir().unwrap();
        let (server, client) = (folder.path().join("server"), folder.path().join("client"));
        echoes_all(
            options().local_addr(server),
            options().local_addr(client),
            1_400,
        )
        .await;
        if cfg!(target_os = "linux") {
            let auto = || options().local_addr(Address::UNNAMED);
            echoes_all(auto(), auto(), 60_000).await;
        }
    });
}

#[test]
fn an_empty_datagram_goes_both_ways() {
    block_on_within(async {
        let echo = echoing(local_v4()).await;
        let log = Log::new();
        let (client, _) = recording(&log, to(ip(&echo))).await;
        client.send(b"").unwrap();
        log.until_received(1).await;
        assert_eq!(log.received(), [b""]);
    });
}

#[test]
fn a_fixed_peer_is_the_only_destination() {
    block_on_within(async {
        let (peer, other) = (std_udp(), std_udp());
        let (addr, other_addr) = (peer.local_addr().unwrap(), other.local_addr().unwrap());
        for &broadcast in BROADCAST {
            let log = Log::new();
            let (transport, _) = recording(&log, to(addr).allow_broadcast(broadcast)).await;
            transport.send(b"a").unwrap();
            transport.send_to(b"b", &addr.into()).unwrap();
            let error = transport.send_to(b"c", &other_addr.into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            for named in [addr, other_addr] {
                assert!(error.to_string().contains(&named.to_string()), "{error}");
            }
            transport.send(b"d").unwrap();
            let mut buf = [0; 8];
            for expected in *b"abd" {
                assert_eq!(peer.recv(&mut buf).unwrap(), 1);
                assert_eq!(buf[0], expected);
            }
            assert_eq!(log.events(), [Event::Made], "nothing was reported");
        }
    });
}

/// The peer that was asked for as `given` is `known` to the system; both are its names, and no
/// other is.
#[cfg(not(target_os = "wasi"))]
async fn has_two_names(given: Address, known: Address, broadcast: bool) -> DatagramTransport {
    let log = Log::new();
    let options = DatagramOptions::new()
        .remote_addr(given)
        .allow_broadcast(broadcast);
    let (transport, _) = recording(&log, options).await;
    let expected = if broadcast { given } else { known };
    assert_eq!(transport.peer_addr(), Some(expected), "{given}");
    transport.send(b"0").unwrap();
    for (i, name) in [given, expected].into_iter().enumerate() {
        transport.send_to(&[b'1' + i as u8], &name).unwrap();
    }
    let other = match known {
        Address::Ip(addr) => Address::from((addr.ip(), addr.port() ^ 1)),
        Address::Unix(_) => "/other".parse().unwrap(),
    };
    let error = transport.send_to(b"x", &other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(&expected.to_string()), "{error}");
    assert_eq!(log.events(), [Event::Made], "nothing was reported");
    transport
}

// A host of WASI takes no such address for a peer's.
#[cfg(not(target_os = "wasi"))]
#[test]
fn a_peer_is_named_as_the_system_names_it() {
    block_on_within(async {
        for (local, given) in [
            ("127.0.0.1:0", [0, 0, 0, 0].into()),
            ("[::1]:0", std::net::IpAddr::from([0; 16])),
        ] {
            let peer = std::net::UdpSocket::bind(local).unwrap();
            peer.set_read_timeout(Some(common::PATIENCE)).unwrap();
            let known = peer.local_addr().unwrap();
            let given = Address::from((given, known.port()));
            for broadcast in [false, true] {
                let transport = has_two_names(given, known.into(), broadcast).await;
                let mut buf = [0; 8];
                for expected in *b"012" {
                    let (len, from) = peer.recv_from(&mut buf).unwrap();
                    assert_eq!(buf[..len], [expected]);
                    assert_eq!(from.port(), ip(&transport).port());
                }
                close(&transport).await;
                let after = transport.peer_addr().unwrap();
                let expected = if broadcast { given } else { known.into() };
                assert_eq!(after, expected, "remembered");
            }
        }
    });
}

#[cfg(unix)]
#[test]
fn a_unix_peer_is_named_as_it_is_bound() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let peer = std::os::unix::net::UnixDatagram::bind(path("bound")).unwrap();
        peer.set_read_timeout(Some(common::PATIENCE)).unwrap();
        std::os::unix::fs::symlink(path("bound"), path("link")).unwrap();
        std::fs::hard_link(path("bound"), path("twin")).unwrap();
        let address = |name: &str| -> Address { path(name).to_str().unwrap().parse().unwrap() };
        for given in ["bound", "link", "twin"] {
            for broadcast in [false, true] {
                let transport = has_two_names(address(given), address("bound"), broadcast).await;
                let mut buf = [0; 8];
                for expected in *b"012" {
                    let (len, _) = peer.recv_from(&mut buf).unwrap();
                    assert_eq!(buf[..len], [expected]);
                }
                close(&transport).await;
            }
        }
    });
}

#[test]
fn without_a_peer_the_destination_must_be_named_and_of_the_family() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _) = recording(&log, local_v4()).await;
        assert_eq!(transport.peer_addr(), None);
        let error = transport.send(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("remote_addr"), "{error}");
        for wrong in ["[::1]:9", "/a/path", "@name"] {
            let error = transport
                .send_to(b"x", &wrong.parse().unwrap())
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("IPv4"), "{error}");
        }
        let peer = std_udp();
        transport
            .send_to(b"ok", &peer.local_addr().unwrap().into())
            .unwrap();
        assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 2);
        assert_eq!((log.events(), transport.dropped()), (vec![Event::Made], 0));
    });
}

#[test]
fn only_the_peers_datagrams_are_received_unless_broadcasting() {
    block_on_within(async {
        for &broadcast in BROADCAST {
            let (peer, stranger) = (std_udp(), std_udp());
            let log = Log::new();
            let options = local_v4().remote_addr(peer.local_addr().unwrap());
            let (transport, _) = recording(&log, options.allow_broadcast(broadcast)).await;
            stranger.send_to(b"stranger", ip(&transport)).unwrap();
            peer.send_to(b"peer", ip(&transport)).unwrap();
            let expected: &[&[u8]] = match broadcast {
                true => &[b"stranger", b"peer"],
                false => &[b"peer"],
            };
            log.until_received(expected.len()).await;
            assert_eq!(log.received(), expected);
        }
    });
}

// The only loopback interface with a broadcast address.
#[cfg(target_os = "linux")]
#[test]
fn a_broadcast_reaches_a_server_and_its_reply_comes_back() {
    block_on_within(async {
        let server = echoing(DatagramOptions::new().local_addr("0.0.0.0:0")).await;
        let all = std::net::SocketAddr::from(([127, 255, 255, 255], ip(&server).port()));
        let log = Log::new();
        let (client, _) = recording(&log, to(all).allow_broadcast(true)).await;
        client.send(b"who is there?").unwrap();
        log.until_received(1).await;
        let from = Address::from(([127, 0, 0, 1], all.port()));
        assert_eq!(
            log.events()[1],
            Event::Received(b"who is there?".to_vec(), from)
        );
    });
}

#[test]
fn the_protocol_is_reached_from_outside_and_given_back() {
    block_on_within(async {
        let (transport, handle) = create_datagram_endpoint(Counting::default, local_v4())
            .await
            .unwrap();
        assert_eq!(handle.with(|counting| counting.0), 0);
        handle.with(|counting| counting.0 = 10);
        let peer = std_udp();
        peer.send_to(b"x", ip(&transport)).unwrap();
        while handle.with(|counting| counting.0) == 10 {
            yield_now().await;
        }
        transport.close();
        let (counting, result) = within(handle.lost()).await;
        assert_eq!((counting.0, result.is_ok()), (11, true));
    });
}

#[derive(Default)]
struct Counting(usize);

impl coracle::DatagramProtocol for Counting {
    fn datagram_received(&mut self, _: &DatagramTransport, _: &[u8], _: &Address) {
        self.0 += 1;
    }
}

#[cfg(panic = "unwind")]
#[test]
fn reaching_for_the_protocol_inside_its_callback_panics_clearly() {
    block_on_within(async {
        let own: Arc<Mutex<Option<ProtocolHandle<Recorder>>>> = Arc::default();
        let message = Arc::new(Mutex::new(String::new()));
        let log = Log::new();
        let (inside, said) = (own.clone(), message.clone());
        let (transport, handle) = reacting(&log, local_v4(), move |_, event| {
            if let Event::Received(..) = event {
                let handle = inside.lock().unwrap().take().unwrap();
                *said.lock().unwrap() = common::panics(|| handle.with(|_| ()));
            }
        })
        .await;
        *own.lock().unwrap() = Some(handle);
        std_udp().send_to(b"x", ip(&transport)).unwrap();
        log.until_received(1).await;
        let message = message.lock().unwrap().clone();
        assert!(message.contains("ProtocolHandle::with"), "{message}");
        close(&transport).await;
    });
}

#[cfg(panic = "unwind")]
#[test]
fn a_panic_in_a_callback_ends_its_endpoint_only() {
    block_on_within(async {
        let echo = echoing(local_v4()).await;
        let log = Log::new();
        let (failing, handle) = reacting(&log, own_v4(), |_, event| {
            if let Event::Received(..) = event {
                panic!("on purpose");
            }
        })
        .await;
        let local = ip(&failing);
        std_udp().send_to(b"x", local).unwrap();
        let error = within(failing.closed()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Other);
        assert!(error.to_string().contains("panicked"), "{error}");
        let (_, result) = within(handle.lost()).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Other);
        assert!(
            !log.events().contains(&Event::Lost(None)),
            "it is not called any more"
        );
        assert_eq!(
            failing.send(b"x").unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        UdpSocket::bind(local).await.expect("the port is free");

        let made = create_datagram_endpoint(
            || Recorder::reacting(&Log::new(), |_, _| panic!("at once")),
            local_v4(),
        );
        assert_eq!(within(made).await.unwrap_err().kind(), ErrorKind::Other);

        let (client, _) = recording(&log, to(ip(&echo))).await;
        client.send(b"still there").unwrap();
        log.until(|events| {
            events
                .iter()
                .any(|event| matches!(event, Event::Received(data, _) if data.len() > 1))
        })
        .await;
    });
}

#[cfg(panic = "unwind")]
#[test]
fn a_panic_in_the_factory_reaches_the_caller_and_closes_the_socket() {
    let peer = std_udp();
    let payload = std::panic::catch_unwind(|| {
        block_on_within(create_datagram_endpoint(
            || -> Counting { panic!("no protocol") },
            to(peer.local_addr().unwrap()),
        ))
        .map(drop)
    });
    assert_eq!(panic_message(&*payload.unwrap_err()), "no protocol");
}

#[test]
fn endpoints_are_independent_and_live_without_their_transports() {
    block_on_within(async {
        let (first, second) = (Log::new(), Log::new());
        let (a, handle) = recording(&first, local_v4()).await;
        let (b, _) = recording(&second, local_v4()).await;
        let addr = ip(&a);
        drop((a, handle));
        b.pause_reading();
        send_numbers(&b, 0..5, addr);
        first.until_received(5).await;
        close(&b).await;
        std_udp().send_to(&[5], addr).unwrap();
        first.until_received(6).await;
        assert_eq!(first.received(), numbers(0..6));
        assert_eq!(second.events(), [Event::Made, Event::Lost(None)]);
    });
}

#[test]
fn a_dropped_driver_is_an_abortion_without_callbacks() {
    block_on_within(async {
        let log = Log::new();
        let make = || create_datagram_endpoint_with_driver(|| Recorder::new(&log), own_v4());
        let (transport, handle, driver) = make().await.unwrap();
        drop(driver);
        let error = within(transport.closed()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let (_, result) = within(handle.lost()).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(log.events(), [], "the driver never ran");

        let (transport, _, driver) = make().await.unwrap();
        let local = ip(&transport);
        let driver = spawn(driver);
        log.until(|events| events == [Event::Made]).await;
        let waiting = spawn({
            let transport = transport.clone();
            async move { transport.closed().await.unwrap_err().kind() }
        });
        yield_now().await;
        driver.cancel().await;
        assert_eq!(waiting.await, ErrorKind::ConnectionAborted);
        let error = transport.send_to(b"x", &local.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        assert_eq!(log.events(), [Event::Made]);
        UdpSocket::bind(local).await.expect("the port is free");
    });
}

#[test]
fn the_end_of_the_runtime_ends_its_endpoints() {
    let log = Log::new();
    let (transport, _) = coracle::block_on(recording(&log, own_v4()));
    let error = block_on_within(transport.closed()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    assert_eq!(log.events(), [Event::Made]);
    std::net::UdpSocket::bind(ip(&transport)).expect("the port is free");
}

#[test]
fn addresses_and_options_are_those_of_the_socket() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _) = recording(&log, DatagramOptions::new().family(Family::Inet)).await;
        // On WASI whoever waits for a socket binds it.
        assert!(ip(&transport).port() == 0 || cfg!(target_os = "wasi"));
        let peer = std_udp();
        let addr = peer.local_addr().unwrap();
        transport.send_to(b"x", &addr.into()).unwrap();
        let (_, from) = peer.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(
            ip(&transport).port(),
            from.port(),
            "bound by the first send"
        );
        let socket = transport.udp_socket().unwrap();
        socket.set_ttl(17).unwrap();
        assert_eq!(transport.udp_socket().unwrap().ttl().unwrap(), 17);
        #[cfg(unix)]
        assert_eq!(
            transport.unix_socket().unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        close(&transport).await;
        assert_eq!(ip(&transport).port(), from.port(), "remembered");
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn other_tasks_and_threads_may_send() {
    const EACH: usize = 20;
    block_on_within(async {
        let log = Log::new();
        let (sink, _) = recording(&log, local_v4()).await;
        let (transport, _) = recording(&Log::new(), to(ip(&sink))).await;
        let sent = Arc::new(AtomicUsize::new(0));
        let send = |name: u8| {
            let (transport, sent) = (transport.clone(), sent.clone());
            move || {
                for i in 0..EACH {
                    transport.send(&[name, i as u8]).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let threads: Vec<_> = (0..4).map(|name| std::thread::spawn(send(name))).collect();
        let task = send(4);
        spawn(async move { task() }).await;
        log.until_received(5 * EACH).await;
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(sent.load(Ordering::Relaxed), 5 * EACH);
        for name in 0..5 {
            let mut of_one = log.received();
            of_one.retain(|data| data[0] == name);
            let expected: Vec<_> = (0..EACH).map(|i| vec![name, i as u8]).collect();
            assert_eq!(of_one, expected, "in the order of its sender");
        }
        let other = transport.clone();
        std::thread::spawn(move || other.close()).join().unwrap();
        within(transport.closed()).await.unwrap();
    });
}

#[test]
fn closed_is_told_to_everyone_who_waits() {
    block_on_within(async {
        let (transport, _) = recording(&Log::new(), local_v4()).await;
        let mut waiting = Vec::new();
        for _ in 0..40 {
            let transport = transport.clone();
            waiting.push(spawn(async move { transport.closed().await }));
        }
        yield_now().await;
        transport.close();
        for task in waiting {
            task.await.unwrap();
        }
        assert!(poll_once(transport.closed()).await.is_some());
    });
}

// Elsewhere a Unix datagram has at most a few KiB.
#[cfg(target_os = "linux")]
#[test]
fn a_huge_unix_datagram_arrives_whole_or_is_reported() {
    block_on_within(async {
        let log = Log::new();
        let auto = DatagramOptions::new().local_addr(Address::UNNAMED);
        let (server, _) = recording(&log, auto).await;
        let addr = server.local_addr().unwrap();
        let options = DatagramOptions::new().remote_addr(addr);
        let (client, _) = recording(&Log::new(), options).await;
        client
            .unix_socket()
            .unwrap()
            .set_send_buffer_size(1 << 20)
            .unwrap();
        assert_eq!(
            server.udp_socket().unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        let data: Vec<u8> = (0..300_000_u32).map(|i| (i / 5) as u8).collect();
        for len in [70_000, 256 * 1024, 256 * 1024 + 1, 5] {
            client.send(&data[..len]).unwrap();
        }
        log.until_received(3).await;
        let received = log.received();
        let lens: Vec<usize> = received.iter().map(Vec::len).collect();
        assert_eq!(lens, [70_000, 256 * 1024, 5]);
        assert!(received.iter().all(|received| data.starts_with(received)));
        let errors = log.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].0, ErrorKind::InvalidData);
    });
}
