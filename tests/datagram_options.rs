//! The options of datagram endpoints: what is refused, and what becomes of what is not.
//!
//! WASI has no sockets that could be brought, no broadcasting, and no names of services.

mod common;

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV6};

#[cfg(not(target_os = "wasi"))]
use common::close;
use common::{block_on_within, ip, local_v4, recording, refusal, std_udp, Log, BROADCAST};
use coracle::net::ResolveFlags;
#[cfg(unix)]
use coracle::{Address, UnixAddress};
use coracle::{DatagramOptions, Family};

fn options() -> DatagramOptions {
    DatagramOptions::new()
}

fn sock() -> DatagramOptions {
    options().sock(std_udp())
}

#[test]
fn sock_goes_with_no_other_option_and_the_refusal_names_it() {
    block_on_within(async {
        let names = "local_addr remote_addr family proto flags reuse_port allow_broadcast";
        for (given, name) in [
            (sock().local_addr("127.0.0.1:0"), "local_addr"),
            (sock().remote_addr("127.0.0.1:9"), "remote_addr"),
            (sock().family(Family::Inet), "family"),
            (sock().proto(17), "proto"),
            (sock().flags(ResolveFlags::PASSIVE), "flags"),
            (sock().reuse_port(true), "reuse_port"),
            (sock().allow_broadcast(true), "allow_broadcast"),
        ] {
            let error = refusal(given).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let text = error.to_string();
            for other in names.split(' ') {
                assert_eq!(text.contains(other), other == name, "{text}");
            }
        }
        let text = refusal(sock().family(Family::Inet).proto(17))
            .await
            .to_string();
        assert!(text.contains("family, proto"), "{text}");
        // What says nothing is no option.
        let flags = ResolveFlags::default();
        let nothing = sock()
            .proto(0)
            .flags(flags)
            .reuse_port(false)
            .allow_broadcast(false);
        #[cfg(not(target_os = "wasi"))]
        {
            let (transport, _) = recording(&Log::new(), nothing).await;
            close(&transport).await;
        }
        #[cfg(target_os = "wasi")]
        assert_eq!(refusal(nothing).await.kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn something_must_be_said() {
    block_on_within(async {
        for nothing in [
            options(),
            options().proto(17).reuse_port(true).allow_broadcast(true),
        ] {
            let error = refusal(nothing).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            for name in ["local_addr", "remote_addr", "family", "sock"] {
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    });
}

#[test]
fn families_must_agree() {
    block_on_within(async {
        let v6 = SocketAddr::from(SocketAddrV6::new([0, 0, 0, 0, 0, 0, 0, 1].into(), 9, 0, 0));
        for (mixed, about) in [
            (
                options().local_addr("127.0.0.1:0").remote_addr(v6),
                "[::1]:9",
            ),
            (
                options().local_addr("[::1]:0").remote_addr("127.0.0.1:9"),
                "[::1]:0",
            ),
            (
                options().local_addr("127.0.0.1:0").family(Family::Inet6),
                "IPv6",
            ),
            (options().remote_addr(v6).family(Family::Inet), "IPv4"),
            (
                options().local_addr("/a/path").family(Family::Inet),
                "/a/path",
            ),
            (
                options().local_addr("/a/path").remote_addr("127.0.0.1:9"),
                "/a/path",
            ),
            (
                options().local_addr("127.0.0.1:0").remote_addr("@name"),
                "@name",
            ),
            (options().local_addr(v6).family(Family::Unix), "Unix"),
        ] {
            let error = refusal(mixed).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(about), "{error}");
        }
        assert!(!std::path::Path::new("/a/path").exists());
    });
}

#[test]
fn what_is_no_address_is_refused_by_name_on_either_side() {
    block_on_within(async {
        let wrong = [
            "",
            "nonsense",
            "127.0.0.1",
            "::1",
            "[::1",
            "[::1]",
            "127.0.0.1:",
            "127.0.0.1:70000",
            "host:65536",
            ":80",
            "a\0b:80",
        ];
        for addr in wrong {
            for given in [options().local_addr(addr), options().remote_addr(addr)] {
                let error = refusal(given).await;
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
                let named = error.to_string().contains(addr) || addr.contains('\0');
                assert!(named, "{addr:?}: {error}");
            }
        }
        let empty_host = refusal(options().local_addr(("", 80))).await;
        assert!(empty_host.to_string().contains("empty"), "{empty_host}");
        let too_large = refusal(options().local_addr(("127.0.0.1", "65536"))).await;
        assert!(too_large.to_string().contains("65535"), "{too_large}");
        for port_0 in ["127.0.0.1:0", "[::1]:0"] {
            let error = refusal(options().remote_addr(port_0)).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(port_0), "{error}");
        }
    });
}

#[test]
fn unknown_names_and_services_are_errors_that_name_them() {
    block_on_within(async {
        let error = refusal(options().local_addr(("localhost", "no-such-service"))).await;
        let kind = match cfg!(target_os = "wasi") {
            true => ErrorKind::Unsupported,
            false => ErrorKind::InvalidInput,
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("no-such-service"), "{error}");
        // With this flag no name server is asked.
        let numeric = options()
            .remote_addr("some-name:9")
            .flags(ResolveFlags::NUMERIC_HOST);
        let error = refusal(numeric).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("some-name"), "{error}");
        // No label is so long: the resolver need not ask anybody either.
        let name = format!("{}.invalid", "x".repeat(70));
        let error = refusal(options().remote_addr((name.as_str(), 9))).await;
        assert!(error.to_string().contains(&name), "{error}");
    });
}

#[test]
fn names_are_looked_up_on_both_sides_and_filtered_by_family() {
    block_on_within(async {
        let server = std_udp();
        let port = server.local_addr().unwrap().port();
        let named = options()
            .local_addr(("localhost", 0))
            .remote_addr(("localhost", port));
        let (transport, _) = recording(&Log::new(), named.family(Family::Inet)).await;
        assert_eq!(
            transport.peer_addr(),
            Some(server.local_addr().unwrap().into())
        );
        transport.send(b"x").unwrap();
        let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from, ip(&transport));

        let (transport, _) = recording(&Log::new(), options().local_addr("localhost:0")).await;
        assert!(ip(&transport).ip().is_loopback());
        // Not every machine has the name for both families.
        let v6 = options().local_addr("localhost:0").family(Family::Inet6);
        let made = coracle::create_datagram_endpoint(|| common::Recorder::new(&Log::new()), v6);
        match made.await {
            Ok((transport, _)) => assert!(ip(&transport).is_ipv6()),
            Err(error) => assert!(error.to_string().contains("localhost"), "{error}"),
        }
        // A numeric local address decides among the families of a name.
        let half = local_v4().remote_addr(("localhost", port));
        let (transport, _) = recording(&Log::new(), half).await;
        assert_eq!(
            transport.peer_addr(),
            Some(server.local_addr().unwrap().into())
        );
    });
}

#[test]
fn a_family_alone_makes_an_unbound_endpoint() {
    block_on_within(async {
        for (family, local) in [(Family::Inet, "127.0.0.1:0"), (Family::Inet6, "[::1]:0")] {
            let log = Log::new();
            let (server, _) = recording(&log, options().local_addr(local)).await;
            let (client, _) = recording(&Log::new(), options().family(family)).await;
            client.send_to(b"x", &server.local_addr().unwrap()).unwrap();
            log.until_received(1).await;
        }
    });
}

#[cfg(unix)]
#[test]
fn an_address_is_shared_if_all_ask_for_it() {
    block_on_within(async {
        let log = Log::new();
        let (first, _) = recording(&log, local_v4().reuse_port(true)).await;
        let same = || options().local_addr(ip(&first));
        let (second, _) = recording(&log, same().reuse_port(true)).await;
        assert_eq!(ip(&first), ip(&second));
        std_udp().send_to(b"one of you", ip(&first)).unwrap();
        log.until_received(1).await;
        assert_eq!(
            refusal(same()).await.kind(),
            ErrorKind::AddrInUse,
            "one that does not"
        );

        let (alone, _) = recording(&log, local_v4()).await;
        let second = options().local_addr(ip(&alone)).reuse_port(true);
        assert_eq!(refusal(second).await.kind(), ErrorKind::AddrInUse);
        assert!(first.udp_socket().unwrap().reuse_port().unwrap());
        assert!(!alone.udp_socket().unwrap().reuse_port().unwrap());
    });
}

#[test]
fn reuse_port_where_there_is_none_is_unsupported() {
    block_on_within(async {
        for unix in [
            options().local_addr("/a/path"),
            options().remote_addr("@name"),
            options().family(Family::Unix),
        ] {
            let error = refusal(unix.reuse_port(true)).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("reuse_port"), "{error}");
        }
        if cfg!(any(windows, target_os = "wasi")) {
            let error = refusal(local_v4().reuse_port(true)).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("reuse_port"), "{error}");
        }
    });
}

#[test]
fn broadcast_is_set_only_if_asked_for() {
    block_on_within(async {
        for &on in BROADCAST {
            let (transport, _) = recording(&Log::new(), local_v4().allow_broadcast(on)).await;
            assert_eq!(transport.udp_socket().unwrap().broadcast().unwrap(), on);
        }
    });
}

#[cfg(target_os = "wasi")]
#[test]
fn what_the_platform_lacks_is_refused_by_name() {
    block_on_within(async {
        for (given, name) in [
            (sock(), "sock"),
            (local_v4().allow_broadcast(true), "allow_broadcast"),
            (local_v4().reuse_port(true), "reuse_port"),
            (local_v4().proto(136), "proto 136"),
            (options().local_addr("/a/path"), "Unix"),
            (options().family(Family::Unix), "Unix"),
        ] {
            let error = refusal(given).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("WASI 0."), "{text}");
        }
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_socket_that_was_brought_is_used_as_it_is() {
    block_on_within(async {
        let peer = std_udp();
        let addr = peer.local_addr().unwrap();
        let log = Log::new();
        // Unbound.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
        let (unbound, _) = recording(&log, options().sock(socket.unwrap())).await;
        unbound.send_to(b"x", &addr.into()).unwrap();
        let (_, from) = peer.recv_from(&mut [0; 8]).unwrap();
        peer.send_to(b"reply", from).unwrap();
        log.until_received(1).await;
        // Bound, and still blocking.
        let bound = std::net::UdpSocket::bind((common::own_ip(), 0)).unwrap();
        let local = bound.local_addr().unwrap();
        let log = Log::new();
        let (bound, _) = recording(&log, options().sock(bound)).await;
        assert_eq!((ip(&bound), bound.peer_addr()), (local, None));
        peer.send_to(b"x", local).unwrap();
        log.until_received(1).await;
        assert_eq!(
            bound.send(b"x").unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        // Connected.
        let connected = std_udp();
        connected.connect(addr).unwrap();
        let (connected, _) = recording(&Log::new(), options().sock(connected)).await;
        assert_eq!(connected.peer_addr(), Some(addr.into()));
        connected.send(b"a").unwrap();
        connected.send_to(b"b", &addr.into()).unwrap();
        let other = connected.send_to(b"c", &local.into()).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::InvalidInput);
        for _ in 0..2 {
            assert_eq!(peer.recv_from(&mut [0; 8]).unwrap().1, ip(&connected));
        }
        close(&bound).await;
        std::net::UdpSocket::bind(local).expect("the endpoint has closed it");
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn sockets_that_are_none_for_datagrams_are_refused() {
    block_on_within(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for given in [options().sock(listener), options().sock(stream)] {
            let error = refusal(given).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("stream socket"), "{error}");
        }
        #[cfg(target_os = "linux")]
        {
            let kind = socket2::Type::SEQPACKET;
            let (a, _b) = socket2::Socket::pair(socket2::Domain::UNIX, kind, None).unwrap();
            let error = refusal(options().sock(a)).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("sequenced"), "{error}");
        }
    });
}

#[cfg(unix)]
#[test]
fn one_of_a_pair_sends_to_the_other_though_it_has_no_name() {
    block_on_within(async {
        let (a, b) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let log = Log::new();
        let (a, _) = recording(&log, options().sock(a)).await;
        let (b, _) = recording(&log, options().sock(b)).await;
        a.send(b"to b").unwrap();
        b.send(b"to a").unwrap();
        log.until_received(2).await;
        let mut received = log.received();
        received.sort();
        assert_eq!(received, [b"to a", b"to b"]);
        assert_eq!(a.peer_addr(), Some(Address::UNNAMED));
    });
}

#[cfg(unix)]
#[test]
fn a_stale_socket_file_is_removed_and_any_other_left_alone() {
    use std::os::unix::net::UnixDatagram;
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixDatagram::bind(&path).unwrap());
        let log = Log::new();
        let (first, _) = recording(&log, options().local_addr(&path)).await;
        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"x", &path)
            .unwrap();
        log.until_received(1).await;
        // A living one loses its name too, as in asyncio.
        let second_log = Log::new();
        let (second, _) = recording(&second_log, options().local_addr(&path)).await;
        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"x", &path)
            .unwrap();
        second_log.until_received(1).await;
        assert_eq!(log.received().len(), 1);
        close(&first).await;
        close(&second).await;
        assert!(path.exists(), "the file stays");

        let file = folder.path().join("file");
        std::fs::write(&file, "content").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for taken in [&file, &link, &folder.path().to_path_buf()] {
            let error = refusal(options().local_addr(taken)).await;
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            assert!(
                error.to_string().contains(taken.to_str().unwrap()),
                "{error}"
            );
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "content");
        assert!(link.symlink_metadata().unwrap().is_symlink() && path.exists());
    });
}

#[cfg(unix)]
#[test]
fn paths_that_are_too_long_or_hold_a_nul_are_refused() {
    block_on_within(async {
        let long = format!("/tmp/{}", "x".repeat(150));
        for given in [
            options().local_addr(&long),
            options().remote_addr(&long),
            options().local_addr("/tmp/a\0b"),
            options().local_addr("").family(Family::Unix),
        ] {
            assert_eq!(refusal(given).await.kind(), ErrorKind::InvalidInput);
        }
    });
}

#[cfg(unix)]
#[test]
fn with_the_family_a_bare_file_name_is_a_path() {
    let name = "with_the_family_a_bare_file_name_is_a_path";
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |program: &std::path::Path| {
        let mut command = std::process::Command::new(program);
        command.current_dir(folder.path());
        command
    };
    common::in_process(name, in_folder, || {
        block_on_within(async {
            for bare in ["socket", "looks-like:9"] {
                let log = Log::new();
                let unix = || options().family(Family::Unix);
                let (server, _) = recording(&log, unix().local_addr(bare)).await;
                assert!(std::path::Path::new(bare).exists());
                let expected = UnixAddress::from_path(bare).unwrap();
                assert_eq!(server.local_addr().unwrap(), expected.into());
                let (client, _) = recording(&Log::new(), unix().remote_addr(bare)).await;
                client.send(b"x").unwrap();
                log.until_received(1).await;
            }
            assert_eq!(
                refusal(options().local_addr("socket")).await.kind(),
                ErrorKind::InvalidInput
            );
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_names_and_automatic_ones_leave_no_file() {
    block_on_within(async {
        let text = format!("@coracle-options-{}", std::process::id());
        let bytes = text.replacen('@', "\0", 1).into_bytes();
        let addr = Address::from(UnixAddress::from_bytes(&bytes).unwrap());
        let log = Log::new();
        let (server, _) = recording(&log, options().local_addr(text.as_str())).await;
        assert_eq!(server.local_addr().unwrap(), addr);
        let again = refusal(options().local_addr(addr)).await;
        assert_eq!(
            again.kind(),
            ErrorKind::AddrInUse,
            "nothing is taken over: {again}"
        );

        let client_log = Log::new();
        let auto = options().local_addr(Address::UNNAMED).remote_addr(addr);
        let (client, _) = recording(&client_log, auto).await;
        let chosen = client.local_addr().unwrap();
        assert!(chosen.as_unix().unwrap().as_abstract_name().is_some());
        client.send(b"x").unwrap();
        log.until_received(1).await;
        let Some(common::Event::Received(_, from)) = log.events().pop() else {
            panic!("{:?}", log.events());
        };
        assert_eq!(from, chosen);
        server.send_to(b"reply", &from).unwrap();
        client_log.until_received(1).await;
        close(&server).await;
        recording(&log, options().local_addr(addr)).await;
    });
}

#[cfg(unix)]
#[test]
fn a_unix_endpoint_without_a_name_can_send() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        let log = Log::new();
        let (server, _) = recording(&log, options().local_addr(path.as_path())).await;
        let addr = server.local_addr().unwrap();
        let (unbound, _) = recording(&Log::new(), options().family(Family::Unix)).await;
        let (remote, _) = recording(&Log::new(), options().remote_addr(&path)).await;
        unbound.send_to(b"x", &addr).unwrap();
        remote.send(b"y").unwrap();
        log.until_received(2).await;
        for event in &log.events()[1..] {
            let common::Event::Received(_, from) = event else {
                panic!("{event:?}");
            };
            assert_eq!(*from, Address::UNNAMED);
        }
        assert_eq!(unbound.local_addr().unwrap(), Address::UNNAMED);
    });
}
