//! Errors: their kinds, what they name, and that sockets and endpoints go on after them.

mod common;

use std::io::{self, ErrorKind};
#[cfg(unix)]
use std::process::Command;
#[cfg(unix)]
use std::sync::{Arc, Mutex};

#[cfg(any(unix, target_os = "wasi"))]
use common::dead_addr;
use common::{
    block_on_within, local_v4, raw_code, reacting, recording, refusal, std_udp, to, Event, Log,
};
#[cfg(unix)]
use common::{close, echoing, ip, within};
use coracle::net::{SendBatch, UdpSocket};
#[cfg(unix)]
use coracle::DatagramTransport;
use coracle::{Address, DatagramOptions};

async fn v4() -> (UdpSocket, Address) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// The kind is as expected, the text names `about`, and the system's code can be found.
#[track_caller]
fn is_the_systems(error: &io::Error, kind: ErrorKind, about: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(about), "{error}");
    if cfg!(target_os = "wasi") {
        // The host's codes have names instead of numbers.
        let name = match kind {
            ErrorKind::AddrInUse => "address-in-use",
            ErrorKind::AddrNotAvailable => "address-not-bindable",
            other => panic!("{other:?}: {error}"),
        };
        return assert!(error.to_string().contains(name), "{error}");
    }
    let code = raw_code(error).expect("the raw code is lost");
    assert_eq!(io::Error::from_raw_os_error(code).kind(), kind);
}

#[test]
fn an_address_in_use_or_of_no_interface_is_named() {
    block_on_within(async {
        let taken = std_udp();
        let addr = taken.local_addr().unwrap().to_string();
        let local = |addr: &str| DatagramOptions::new().local_addr(addr);
        is_the_systems(&refusal(local(&addr)).await, ErrorKind::AddrInUse, &addr);
        is_the_systems(
            &UdpSocket::bind(&addr).await.unwrap_err(),
            ErrorKind::AddrInUse,
            &addr,
        );
        // From a block for documentation: no machine's.
        let foreign = "203.0.113.1:0";
        let error = refusal(local(foreign)).await;
        is_the_systems(&error, ErrorKind::AddrNotAvailable, foreign);
        let error = refusal(local(foreign).remote_addr(addr)).await;
        is_the_systems(&error, ErrorKind::AddrNotAvailable, foreign);
    });
}

#[cfg(unix)]
#[test]
fn nobody_at_a_unix_path_is_told_by_name() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let name = missing.to_str().unwrap();
        let remote = |path: &std::path::Path| DatagramOptions::new().remote_addr(path);
        is_the_systems(&refusal(remote(&missing)).await, ErrorKind::NotFound, name);
        let stale = folder.path().join("stale");
        drop(std::os::unix::net::UnixDatagram::bind(&stale).unwrap());
        let error = refusal(remote(&stale)).await;
        is_the_systems(
            &error,
            ErrorKind::ConnectionRefused,
            stale.to_str().unwrap(),
        );
        let nowhere = missing.join("socket");
        let error = refusal(DatagramOptions::new().local_addr(&nowhere)).await;
        is_the_systems(&error, ErrorKind::NotFound, nowhere.to_str().unwrap());

        // Not connected, so that it is not noticed before something is sent.
        let log = Log::new();
        let (transport, _) = recording(&log, remote(&missing).allow_broadcast(true)).await;
        transport.send(b"x").unwrap();
        log.until_errors(1).await;
        let (kind, text) = log.errors().remove(0);
        assert_eq!(kind, ErrorKind::NotFound);
        assert!(text.contains(name), "{text}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_connected_unix_endpoint_survives_the_end_of_its_peer() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer");
        let peer = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let log = Log::new();
        let (transport, _) = recording(&log, DatagramOptions::new().remote_addr(&path)).await;
        transport.send(b"x").unwrap();
        drop(peer);
        for i in 1..=3 {
            transport.send(b"anyone?").unwrap();
            log.until_errors(i).await;
        }
        let kinds: Vec<_> = log.errors().iter().map(|(kind, _)| *kind).collect();
        // The first refusal disconnects the socket.
        let expected = [
            ErrorKind::ConnectionRefused,
            ErrorKind::NotConnected,
            ErrorKind::NotConnected,
        ];
        assert_eq!(kinds, expected);
        assert!(!transport.is_closing());
        close(&transport).await;
    });
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_not_permitted_is_named() {
    let name = "what_is_not_permitted_is_named";
    let folder = tempfile::tempdir().unwrap();
    let command = |program: &std::path::Path| common::as_nobody(program, folder.path());
    common::in_process(name, command, || {
        block_on_within(async {
            let path = "/proc/no-such-socket";
            let error = refusal(DatagramOptions::new().local_addr("/socket")).await;
            is_the_systems(&error, ErrorKind::PermissionDenied, "/socket");
            assert!(!refusal(DatagramOptions::new().local_addr(path))
                .await
                .to_string()
                .is_empty());
            let first: u16 =
                std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
                    .unwrap()
                    .trim()
                    .parse()
                    .unwrap();
            // Some containers let everybody bind all ports.
            if first > 1 {
                let error = refusal(DatagramOptions::new().local_addr("127.0.0.1:1")).await;
                is_the_systems(&error, ErrorKind::PermissionDenied, "127.0.0.1:1");
            }
        });
    });
}

/// The program again, with room for few descriptors.
#[cfg(unix)]
fn with_few_descriptors(program: &std::path::Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 48; exec \"$0\" \"$@\""])
        .arg(program);
    command
}

#[cfg(unix)]
#[test]
fn without_descriptors_making_fails_and_what_is_open_goes_on() {
    const EMFILE: Option<i32> = Some(24);
    let name = "without_descriptors_making_fails_and_what_is_open_goes_on";
    common::in_process(name, with_few_descriptors, || {
        block_on_within(async {
            let echo = echoing(local_v4()).await;
            let log = Log::new();
            let (client, _) = recording(&log, to(ip(&echo))).await;
            let mut open = Vec::new();
            let error = loop {
                let made = coracle::create_datagram_endpoint(
                    || common::Recorder::new(&Log::new()),
                    local_v4(),
                );
                match made.await {
                    Ok((transport, _)) => open.push(transport),
                    Err(error) => break error,
                }
                assert!(open.len() < 48);
            };
            assert_eq!(raw_code(&error), EMFILE, "{error}");
            assert!(open.len() > 10, "{}", open.len());
            let error = UdpSocket::bind("127.0.0.1:0").await.unwrap_err();
            assert_eq!(raw_code(&error), EMFILE, "{error}");
            let error = coracle::net::UnixDatagram::pair().unwrap_err();
            assert_eq!(raw_code(&error), EMFILE, "{error}");
            // The table of hosts cannot be opened.
            coracle::net::resolve("localhost:1").await.unwrap_err();
            refusal(DatagramOptions::new().local_addr("localhost:0")).await;
            let other = std::thread::spawn(|| {
                let error = coracle::try_block_on(async {}).unwrap_err();
                assert_eq!(raw_code(&error), EMFILE, "{error}");
                common::panics(|| coracle::block_on(async {}))
            });
            let message = other.join().unwrap();
            assert!(message.contains("coracle::block_on"), "{message}");

            for i in 1..=100 {
                client.send(b"still there").unwrap();
                log.until_received(i).await;
            }
            // No callback but those: nobody is busy with an error that stays.
            assert_eq!(log.events().len(), 101);
            for transport in open.drain(..3) {
                close(&transport).await;
            }
            let (transport, _) = recording(&Log::new(), local_v4()).await;
            transport
                .send_to(b"works", &echo.local_addr().unwrap())
                .unwrap();
            UdpSocket::bind("localhost:0").await.unwrap();
        });
    });
}

#[test]
fn broadcasting_without_permission_is_reported() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _) = recording(&log, local_v4()).await;
        let all: Address = match cfg!(target_os = "linux") {
            true => "127.255.255.255:9".parse().unwrap(),
            false => "255.255.255.255:9".parse().unwrap(),
        };
        transport.send_to(b"x", &all).unwrap();
        log.until_errors(1).await;
        let (kind, text) = log.errors().remove(0);
        assert_eq!(kind, ErrorKind::PermissionDenied);
        assert!(text.contains(&all.to_string()), "{text}");
    });
}

#[test]
fn a_datagram_too_large_is_reported_and_its_neighbours_are_sent() {
    block_on_within(async {
        let peer = std_udp();
        let addr = peer.local_addr().unwrap();
        let log = Log::new();
        let large = vec![0; 70_000];
        // Inside a callback the datagrams are sent together, outside one by one.
        let (transport, _) = reacting(&log, to(addr), move |transport, event| {
            if *event == Event::Made {
                transport.send(b"1").unwrap();
                transport.send(&large).unwrap();
                transport.send(b"22").unwrap();
            }
        })
        .await;
        transport.send(&[0; 70_000]).unwrap();
        transport.send(b"333").unwrap();
        log.until_errors(2).await;
        for (_, text) in log.errors() {
            assert!(
                text.contains("70000") && text.contains(&addr.to_string()),
                "{text}"
            );
        }
        for len in 1..=3 {
            assert_eq!(peer.recv(&mut [0; 8]).unwrap(), len);
        }
        assert!(!transport.is_closing());
    });
}

#[cfg(any(unix, target_os = "wasi"))]
#[test]
fn a_peer_that_is_not_there_yet_is_reported_and_reached_later() {
    block_on_within(async {
        let addr = dead_addr();
        let log = Log::new();
        let (transport, _) = recording(&log, to(addr)).await;
        for i in 1..=3 {
            transport.send(b"anyone?").unwrap();
            log.until_errors(i).await;
        }
        let refused = |(kind, _): &(ErrorKind, String)| *kind == ErrorKind::ConnectionRefused;
        assert!(log.errors().iter().all(refused), "{:?}", log.errors());

        // The next send finds the error of the one before it; it is sent all the same.
        transport.send(b"lost").unwrap();
        let server = UdpSocket::bind(addr).await.unwrap();
        transport.send(b"first").unwrap();
        transport.send(b"second").unwrap();
        let mut buf = [0; 16];
        for expected in [&b"first"[..], b"second"] {
            let (len, from) = server.recv_from(&mut buf).await.unwrap();
            assert_eq!(&buf[..len], expected);
            server.send_to(b"reply", &from).await.unwrap();
        }
        log.until_received(2).await;
        assert!(log.errors().len() > 3, "the last one was reported too");
        assert!(!transport.is_closing());
    });
}

#[cfg(unix)]
#[test]
fn datagrams_sent_together_survive_the_error_of_an_earlier_one() {
    block_on_within(async {
        let addr = dead_addr();
        let log = Log::new();
        let server = Arc::new(Mutex::new(None));
        let slot = server.clone();
        let (transport, _) = reacting(&log, to(addr), move |transport, event| match event {
            Event::Made => transport.send(b"lost").unwrap(),
            Event::Error(..) if slot.lock().unwrap().is_none() => {
                // An error waits in the socket while these are sent.
                let late = transport.udp_socket().unwrap();
                late.try_io(|socket| socket.send(b"lost too")).unwrap();
                *slot.lock().unwrap() = Some(std::net::UdpSocket::bind(addr).unwrap());
                send_together(transport);
            }
            _ => {}
        })
        .await;
        fn send_together(transport: &DatagramTransport) {
            for i in 0..5 {
                transport.send(&[i]).unwrap();
            }
        }
        log.until_errors(1).await;
        log.until(|_| server.lock().unwrap().is_some()).await;
        let server: UdpSocket = server.lock().unwrap().take().unwrap().try_into().unwrap();
        let mut buf = [0; 8];
        for i in 0..5 {
            let len = within(server.recv(&mut buf)).await.unwrap();
            assert_eq!(buf[..len], [i]);
        }
        log.until_errors(2).await;
        close(&transport).await;
    });
}

#[test]
fn what_cannot_be_bound_is_refused_by_name() {
    // WASI knows no service by name.
    let no_service = match cfg!(target_os = "wasi") {
        true => ErrorKind::Unsupported,
        false => ErrorKind::InvalidInput,
    };
    block_on_within(async {
        for (addr, kind) in [
            ("no-port", ErrorKind::InvalidInput),
            (":53", ErrorKind::InvalidInput),
            ("localhost:no-such-service", no_service),
            ("@abstract", ErrorKind::InvalidInput),
            ("/a/path", ErrorKind::InvalidInput),
            ("192.0.2.1:0", ErrorKind::AddrNotAvailable),
        ] {
            let error = UdpSocket::bind(addr).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(addr), "{error}");
            if kind != ErrorKind::AddrNotAvailable {
                let (socket, _) = v4().await;
                assert_eq!(socket.connect(addr).await.unwrap_err().kind(), kind);
            }
        }
    });
}

#[cfg(any(unix, target_os = "wasi"))]
#[test]
fn a_connected_socket_learns_that_nobody_listens_and_goes_on() {
    block_on_within(async {
        let dead = dead_addr();
        let socket = UdpSocket::bind((dead.ip(), 0)).await.unwrap();
        socket.connect(dead).await.unwrap();
        let mut buf = [0; 8];
        for _ in 0..3 {
            socket.send(b"anyone?").await.unwrap();
            let error = socket.recv(&mut buf).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        let server = UdpSocket::bind(dead).await.unwrap();
        socket.send(b"now").await.unwrap();
        assert_eq!(server.recv(&mut buf).await.unwrap(), 3);
        assert!(socket.take_error().unwrap().is_none());
    });
}

#[test]
fn broadcasting_has_to_be_allowed() {
    block_on_within(async {
        let (socket, _) = v4().await;
        let to = match cfg!(target_os = "linux") {
            true => Address::from(([127, 255, 255, 255], 9)),
            // Only Linux has a broadcast address on the loopback interface.
            false => Address::from(([255, 255, 255, 255], 9)),
        };
        let error = socket.send_to(b"x", &to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        if cfg!(target_os = "linux") {
            socket.set_broadcast(true).unwrap();
            socket.send_to(b"x", &to).await.unwrap();
        }
    });
}

#[test]
fn a_datagram_too_large_is_reported_and_the_others_are_sent() {
    // EMSGSIZE, WSAEMSGSIZE; the host's codes have names instead of numbers.
    const CODE: Option<i32> = match () {
        _ if cfg!(target_os = "wasi") => None,
        _ if cfg!(windows) => Some(10040),
        _ if cfg!(target_os = "linux") => Some(90),
        _ => Some(40),
    };
    #[track_caller]
    fn is_too_large(error: &io::Error) {
        assert_eq!(raw_code(error), CODE, "{error}");
        let named = error.to_string().contains("datagram-too-large");
        assert!(named || CODE.is_some(), "{error}");
    }
    block_on_within(async {
        let (from, _) = v4().await;
        let (to, to_addr) = v4().await;
        let error = from.send_to(&[0; 65_508], &to_addr).await.unwrap_err();
        assert!(error.to_string().contains(&to_addr.to_string()), "{error}");
        assert!(error.to_string().contains("65508"), "{error}");
        is_too_large(&error);
        is_too_large(&from.try_send_to(&[0; 65_508], &to_addr).unwrap_err());

        let mut batch = SendBatch::new();
        for len in [10, 10, 65_508, 10, 10, 65_508, 20, 0] {
            batch.push(&vec![7; len], &to_addr);
        }
        let mut errors = 0;
        while !batch.is_empty() {
            let before = batch.len();
            match from.send_batch(&mut batch).await {
                Ok(sent) => assert_eq!(batch.len(), before - sent),
                Err(error) => {
                    errors += 1;
                    is_too_large(&error);
                    assert_eq!(batch.len(), before - 1, "it is taken off");
                }
            }
        }
        assert_eq!(errors, 2);
        for expected in [10, 10, 10, 10, 20, 0] {
            assert_eq!(to.recv(&mut [0; 32]).await.unwrap(), expected);
        }
        assert_eq!(
            from.send_batch(&mut batch).await.unwrap(),
            0,
            "an empty batch"
        );
    });
}
