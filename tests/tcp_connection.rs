//! `create_connection` and `connect_accepted_socket`: names and their addresses, what is refused,
//! attempts that overlap, giving up.

mod common;
#[cfg(target_os = "linux")]
#[path = "common/giving_up.rs"]
mod giving_up;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, within, PATIENCE};
use coracle::net::{ResolveFlags, Socket, Target};
use coracle::{
    connect_accepted_socket, create_connection, create_connection_with_driver, spawn,
    AcceptedOptions, ConnectErrors, Family, ProtocolHandle, TcpOptions, Transport,
};

fn options() -> TcpOptions {
    TcpOptions::new()
}

fn to(addr: impl Into<Target>) -> TcpOptions {
    options().remote_addr(addr)
}

fn listening(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// The peer of the next connection, which fails instead of hanging.
fn accept(listener: &TcpListener) -> TcpStream {
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer
}

fn std_pair() -> (TcpStream, TcpStream) {
    let (listener, addr) = listening("127.0.0.1");
    let client = TcpStream::connect(addr).unwrap();
    (client, accept(&listener))
}

/// An address where nobody listens, as long as the socket is held.
fn dead(addr: SocketAddr) -> (socket2::Socket, SocketAddr) {
    let domain = socket2::Domain::for_address(addr);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.bind(&addr.into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

async fn echoing(log: &Log, options: TcpOptions) -> (Transport, ProtocolHandle<Recorder>) {
    within(create_connection(|| Recorder::echoing(log), options))
        .await
        .unwrap()
}

fn peer_of(transport: &Transport) -> SocketAddr {
    transport.peer_addr().unwrap().as_ip().unwrap()
}

fn local_of(transport: &Transport) -> SocketAddr {
    transport.local_addr().unwrap().as_ip().unwrap()
}

/// Something there and back again; then the peer's end ends the connection.
async fn exchange(transport: &Transport, mut peer: TcpStream) {
    peer.write_all(b"hello").unwrap();
    let exchanged = smol::unblock(move || {
        let mut buf = [0; 5];
        peer.read_exact(&mut buf).unwrap();
        assert_eq!(buf, *b"hello");
    });
    within(exchanged).await;
    within(transport.closed()).await.unwrap();
}

/// What a connection with these options is refused with; its protocol is never made.
async fn refusal(options: TcpOptions) -> io::Error {
    let text = format!("{options:?}");
    let factory = || -> Recorder { panic!("the factory was called: {text}") };
    match within(create_connection(factory, options)).await {
        Ok(_) => unreachable!(),
        Err(error) => error,
    }
}

/// Checks that the options are refused for what this names.
async fn refused_for(name: &str, options: TcpOptions) {
    let text = format!("{options:?}");
    let error = refusal(options).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}: {text}");
    assert!(error.to_string().contains(name), "{error}: {text}");
}

#[test]
fn an_address_is_given_in_any_form() {
    block_on_within(async {
        for ip in ["127.0.0.1", "::1"] {
            let (listener, addr) = listening(ip);
            let forms: [Target; 4] = [
                addr.into(),
                addr.to_string().into(),
                (ip, addr.port()).into(),
                coracle::Address::from(addr).into(),
            ];
            for form in forms {
                let log = Log::new();
                let (transport, _) = echoing(&log, to(form)).await;
                assert_eq!(log.events(), [Event::Made], "before creation returns");
                let peer = accept(&listener);
                let local = peer.peer_addr().unwrap();
                assert_eq!((local_of(&transport), peer_of(&transport)), (local, addr));
                exchange(&transport, peer).await;
                let remembered = (local_of(&transport), peer_of(&transport));
                assert_eq!(remembered, (local, addr));
            }
        }
    });
}

#[test]
fn a_name_is_looked_up() {
    block_on_within(async {
        let (listener, addr) = listening("127.0.0.1");
        let named = |text: String| to(text).family(Family::Inet);
        for given in [
            to(("localhost", addr.port())),
            to(format!("localhost:{}", addr.port())),
            named(format!("localhost:{}", addr.port())).proto(6),
        ] {
            let (transport, _) = echoing(&Log::new(), given).await;
            assert_eq!(peer_of(&transport), addr);
            exchange(&transport, accept(&listener)).await;
        }
        let numeric = named("localhost:1".into()).flags(ResolveFlags::NUMERIC_HOST);
        let error = refusal(numeric).await;
        assert!(error.to_string().contains("localhost"), "{error}");
    });
}

#[test]
fn addresses_are_remembered_after_a_reset() {
    block_on_within(async {
        for accepted in [false, true] {
            let (listener, addr) = listening("127.0.0.1");
            let log = Log::new();
            let (transport, peer) = match accepted {
                false => {
                    let (transport, _) = echoing(&log, to(addr)).await;
                    (transport, accept(&listener))
                }
                true => {
                    let peer = TcpStream::connect(addr).unwrap();
                    let ours = accept(&listener);
                    let factory = || Recorder::new(&log);
                    let made = connect_accepted_socket(factory, ours, AcceptedOptions::new());
                    (made.await.unwrap().0, peer)
                }
            };
            let addrs = (peer.peer_addr().unwrap(), peer.local_addr().unwrap());
            assert_eq!((local_of(&transport), peer_of(&transport)), addrs);
            let peer = socket2::Socket::from(peer);
            peer.set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            let error = within(transport.closed()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            assert_eq!(local_of(&transport), addrs.0);
            assert_eq!(transport.peer_addr(), Some(addrs.1.into()), "{accepted}");
        }
    });
}

#[test]
fn a_local_address_is_bound_to() {
    block_on_within(async {
        for ip in ["127.0.0.1", "::1"] {
            let (listener, addr) = listening(ip);
            let (transport, _) = echoing(&Log::new(), to(addr).local_addr((ip, 0))).await;
            assert_eq!(local_of(&transport).ip().to_string(), ip);
            let mut local = local_of(&transport);
            exchange(&transport, accept(&listener)).await;
            // A port that was nobody's a moment ago.
            local.set_port(dead((local.ip(), 0).into()).1.port());
            let (transport, _) = echoing(&Log::new(), to(addr).local_addr(local)).await;
            let peer = accept(&listener);
            assert_eq!(peer.peer_addr().unwrap(), local);
            exchange(&transport, peer).await;
        }
        let (_listener, addr) = listening("127.0.0.1");
        let (_held, taken) = listening("127.0.0.1");
        let error = refusal(to(addr).local_addr(taken)).await;
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        refused_for("local_addr", to(addr).local_addr("[::1]:0")).await;
        let other = to(addr).local_addr("[::1]:0").family(Family::Inet);
        refused_for("[::1]:0", other).await;
        refused_for("/socket", to(addr).local_addr("/socket")).await;
    });
}

#[test]
fn where_nobody_listens_it_is_refused_by_address() {
    block_on_within(async {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let (_held, addr) = dead(ip.parse().unwrap());
            let error = refusal(to(addr)).await;
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            assert!(error.to_string().contains(&addr.to_string()), "{error}");
            assert!(common::raw_code(&error).is_some());
            let eager = to(addr).happy_eyeballs_delay(Duration::from_secs(3600));
            let error = refusal(eager.all_errors(true)).await;
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            let errors: &ConnectErrors = error.get_ref().unwrap().downcast_ref().unwrap();
            let kinds: Vec<_> = errors.errors().iter().map(io::Error::kind).collect();
            assert_eq!(kinds, [ErrorKind::ConnectionRefused]);
        }
    });
}

#[test]
fn contradictory_options_are_refused_by_name() {
    block_on_within(async {
        let (_listener, addr) = listening("127.0.0.1");
        let at = || to(addr);
        let sock = || options().sock(std_pair().0);
        refused_for("remote_addr", options()).await;
        refused_for("sock", options()).await;
        refused_for("remote_addr", sock().remote_addr(addr)).await;
        refused_for("sock", sock().remote_addr(addr)).await;
        refused_for("local_addr", sock().local_addr("127.0.0.1:0")).await;
        refused_for("remote_addr", options().local_addr("127.0.0.1:0")).await;
        refused_for("interleave", at().interleave(0)).await;
        refused_for("family", at().family(Family::Unix)).await;
        refused_for("family", at().family(Family::Inet6)).await;
        refused_for("family", to("[::1]:1").family(Family::Inet)).await;
        for wrong in [
            "",
            "localhost",
            "::1",
            ":1",
            "localhost:",
            "x:70000",
            "/path",
            "@name",
        ] {
            refused_for(&format!("'{wrong}"), to(wrong)).await;
        }
        for name in ["", "localhost"] {
            refused_for("server_hostname", at().server_hostname(name)).await;
            refused_for("server_hostname", sock().server_hostname(name)).await;
        }
        let tls = || at().tls(true);
        for time in [Duration::from_secs(1), Duration::ZERO] {
            refused_for("tls_handshake_timeout", at().tls_handshake_timeout(time)).await;
            refused_for("tls_shutdown_timeout", at().tls_shutdown_timeout(time)).await;
        }
        let zero = Duration::ZERO;
        refused_for("tls_handshake_timeout", tls().tls_handshake_timeout(zero)).await;
        refused_for("tls_shutdown_timeout", tls().tls_shutdown_timeout(zero)).await;
        refused_for("server_hostname", sock().tls(true)).await;
        refused_for("interleave", tls().interleave(0)).await;
        refused_for(
            "local_addr",
            sock().local_addr(addr).tls(true).server_hostname(""),
        )
        .await;
    });
}

#[test]
fn tls_is_unsupported_when_all_else_is_right() {
    block_on_within(async {
        let (_listener, addr) = listening("127.0.0.1");
        let second = Duration::from_secs(1);
        for given in [
            to(addr),
            to(addr).server_hostname("localhost"),
            options().sock(std_pair().0).server_hostname(""),
        ] {
            let given = given.tls(true);
            let given = given
                .tls_handshake_timeout(second)
                .tls_shutdown_timeout(second);
            let error = refusal(given).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("tls"), "{error}");
        }
    });
}

#[test]
fn a_socket_of_any_stream_family_may_be_brought() {
    block_on_within(async {
        let (ours, peer) = std_pair();
        let (transport, _) = echoing(&Log::new(), options().sock(ours)).await;
        assert_eq!(peer_of(&transport), peer.local_addr().unwrap());
        exchange(&transport, peer).await;
        #[cfg(unix)]
        {
            let (ours, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
            let (transport, _) = echoing(&Log::new(), options().sock(ours)).await;
            assert_eq!(transport.peer_addr(), Some(coracle::Address::UNNAMED));
            assert!(transport.unix_socket().is_ok());
            let no_tcp = transport.tcp_socket().unwrap_err();
            assert_eq!(no_tcp.kind(), ErrorKind::InvalidInput);
            transport.write(b"x").unwrap();
            transport.close();
            within(transport.closed()).await.unwrap();
            let mut data = Vec::new();
            peer.read_to_end(&mut data).unwrap();
            assert_eq!(data, b"x");
        }
    });
}

/// Sockets that no connection can have.
fn wrong_sockets() -> Vec<Socket> {
    vec![
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        #[cfg(unix)]
        std::os::unix::net::UnixDatagram::unbound().unwrap().into(),
        #[cfg(target_os = "linux")]
        {
            let kind = socket2::Type::SEQPACKET;
            let pair = socket2::Socket::pair(socket2::Domain::UNIX, kind, None);
            pair.unwrap().0.into()
        },
    ]
}

#[test]
fn sockets_that_are_no_streams_are_refused() {
    block_on_within(async {
        for wrong in wrong_sockets() {
            refused_for("sock", options().sock(wrong)).await;
        }
        for wrong in wrong_sockets() {
            let factory = || -> Recorder { panic!("the factory was called") };
            let made = connect_accepted_socket(factory, wrong, AcceptedOptions::new());
            let error = within(made).await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("sock"), "{error}");
        }
    });
}

#[test]
fn a_socket_that_is_not_connected_is_lost_at_once() {
    block_on_within(async {
        let (socket, _) = dead(([127, 0, 0, 1], 0).into());
        let log = Log::new();
        let (transport, _) = echoing(&log, options().sock(socket)).await;
        let error = within(transport.closed()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        let lost = Event::Lost(Some(ErrorKind::NotConnected));
        assert_eq!(log.events(), [Event::Made, lost]);
    });
}

#[test]
fn an_accepted_socket_becomes_a_connection() {
    block_on_within(async {
        let (peer, accepted) = std_pair();
        let addr = peer.local_addr().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let factory = || Recorder::echoing(&Log::new());
        let made = connect_accepted_socket(factory, accepted, AcceptedOptions::new());
        let (transport, _) = within(made).await.unwrap();
        assert_eq!(peer_of(&transport), addr);
        exchange(&transport, peer).await;
        assert_eq!(peer_of(&transport), addr);

        let second = Duration::from_secs(1);
        let accepted = AcceptedOptions::new;
        let (kind, unsupported) = (ErrorKind::InvalidInput, ErrorKind::Unsupported);
        for (name, kind, given) in [
            (
                "tls_handshake_timeout",
                kind,
                accepted().tls_handshake_timeout(second),
            ),
            (
                "tls_shutdown_timeout",
                kind,
                accepted().tls_shutdown_timeout(second),
            ),
            (
                "tls_handshake_timeout",
                kind,
                accepted().tls(true).tls_handshake_timeout(Duration::ZERO),
            ),
            (
                "tls",
                unsupported,
                accepted().tls(true).tls_shutdown_timeout(second),
            ),
        ] {
            let factory = || -> Recorder { panic!("the factory was called") };
            let (ours, mut peer) = std_pair();
            let made = connect_accepted_socket(factory, ours, given);
            let error = within(made).await.map(drop).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "it is closed");
        }
    });
}

#[test]
fn small_writes_go_out_at_once_and_the_socket_can_be_reached_while_it_is_open() {
    block_on_within(async {
        let (listener, addr) = listening("127.0.0.1");
        let (client, _) = echoing(&Log::new(), to(addr)).await;
        let factory = || Recorder::new(&Log::new());
        let ours = accept(&listener);
        assert!(!ours.nodelay().unwrap(), "not of itself");
        let made = connect_accepted_socket(factory, ours, AcceptedOptions::new());
        let (accepted, _) = within(made).await.unwrap();
        let (brought, _peer) = std_pair();
        brought.set_nodelay(false).unwrap();
        let (brought, _) = echoing(&Log::new(), options().sock(brought)).await;
        for transport in [client, accepted, brought] {
            let socket = transport.tcp_socket().unwrap();
            assert!(socket.nodelay().unwrap());
            socket.set_ttl(17).unwrap();
            assert_eq!(transport.tcp_socket().unwrap().ttl().unwrap(), 17);
            #[cfg(unix)]
            {
                let no_unix = transport.unix_socket().unwrap_err();
                assert_eq!(no_unix.kind(), ErrorKind::InvalidInput);
            }
            transport.abort();
            within(transport.closed()).await.unwrap();
            let gone = transport.tcp_socket().unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::NotConnected);
        }
    });
}

#[test]
fn without_a_runtime_there_is_the_form_with_a_driver() {
    let (ours, _peer) = std_pair();
    let made = create_connection(|| Recorder::new(&Log::new()), options().sock(ours));
    let error = smol::block_on(made).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("_with_driver"), "{error}");

    block_on_within(async {
        let (listener, addr) = listening("127.0.0.1");
        let log = Log::new();
        let made = create_connection_with_driver(|| Recorder::echoing(&log), to(addr));
        let (transport, _, driver) = within(made).await.unwrap();
        let peer = accept(&listener);
        common::settle().await;
        assert_eq!(log.events(), [], "the driver does not run");
        let driver = spawn(driver);
        exchange(&transport, peer).await;
        within(driver).await;
    });
}

/// Tests that need names with several addresses, which they give themselves, and addresses that
/// do not answer.
#[cfg(target_os = "linux")]
mod several_addresses {
    use std::process::Command;

    use coracle::time::timeout;

    use super::giving_up::{
        descriptors, descriptors_come_down_to, give_up_after, give_up_when_woken, ways_to_give_up,
    };
    use super::*;

    const HOSTS: &str = "127.0.0.1 localhost\n\
        127.0.0.2 two.test\n127.0.0.3 two.test\n\
        ::1 mixed.test\n127.0.0.2 mixed.test\n127.0.0.3 mixed.test\n::ffff:127.0.0.4 mixed.test\n";

    /// Runs the body of a test in a process that has these names.
    fn with_names(test: &str, body: impl FnOnce()) {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, HOSTS).unwrap();
        let command = |program: &std::path::Path| {
            let mut command = Command::new("unshare");
            let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
            command.args(["--map-root-user", "--mount", "sh", "-c", script]);
            command.arg(&hosts).arg(program);
            command
        };
        let name = format!("several_addresses::{test}");
        common::in_process(&name, command, body);
    }

    /// The two addresses of a name, first the one that is tried first, with a port that is free
    /// at both.
    async fn two() -> (Target, [SocketAddr; 2]) {
        let port = dead(([0, 0, 0, 0], 0).into()).1.port();
        let addrs = coracle::net::resolve(("two.test", port)).await.unwrap();
        (("two.test", port).into(), addrs.try_into().unwrap())
    }

    /// A listener at which no connection more is let in, and those that wait there.
    fn silent(addr: SocketAddr) -> (socket2::Socket, Vec<socket2::Socket>) {
        let domain = socket2::Domain::for_address(addr);
        let socket = || socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&addr.into()).unwrap();
        listener.listen(0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let next = socket();
            next.set_nonblocking(true).unwrap();
            let _ = next.connect(&addr.into());
            if next.peer_addr().is_err() {
                return (listener, waiting);
            }
            waiting.push(next);
        }
    }

    #[test]
    fn an_address_that_does_not_answer_is_overtaken() {
        with_names("an_address_that_does_not_answer_is_overtaken", || {
            block_on_within(async {
                let (target, [first, second]) = two().await;
                let _silent = silent(first);
                let listener = TcpListener::bind(second).unwrap();
                common::settle().await;
                let before = descriptors();
                let soon = to(target.clone()).happy_eyeballs_delay(Duration::from_millis(1));
                let (transport, _) = echoing(&Log::new(), soon).await;
                assert_eq!(peer_of(&transport), second);
                descriptors_come_down_to(before + 1, "overtaken").await;
                exchange(&transport, accept(&listener)).await;

                // Not before its time, and not at all unless it is asked for.
                let later = to(target.clone()).happy_eyeballs_delay(Duration::from_secs(3600));
                for patient in [to(target), later] {
                    let factory = || -> Recorder { panic!("the factory was called") };
                    let connecting = create_connection(factory, patient);
                    let some_time = Duration::from_millis(50);
                    assert!(timeout(some_time, connecting).await.is_err());
                    descriptors_come_down_to(before, "given up").await;
                }
                listener.set_nonblocking(true).unwrap();
                let nobody = listener.accept().unwrap_err();
                assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
            });
        });
    }

    #[test]
    fn an_address_that_refuses_is_followed_by_the_next() {
        with_names("an_address_that_refuses_is_followed_by_the_next", || {
            block_on_within(async {
                let (target, [first, second]) = two().await;
                let listener = TcpListener::bind(second).unwrap();
                let _dead = dead(first);
                // At once, however long an answer may take.
                let later = to(target.clone()).happy_eyeballs_delay(Duration::from_secs(3600));
                for given in [to(target), later] {
                    let (transport, _) = echoing(&Log::new(), given).await;
                    assert_eq!(peer_of(&transport), second);
                    exchange(&transport, accept(&listener)).await;
                }
            });
        });
    }

    #[test]
    fn the_error_of_several_attempts_has_them_all() {
        with_names("the_error_of_several_attempts_has_them_all", || {
            block_on_within(async {
                let (target, [first, second]) = two().await;
                let _dead = [dead(first), dead(second)];
                for all in [false, true] {
                    let error = refusal(to(target.clone()).all_errors(all)).await;
                    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                    for addr in [first, second] {
                        assert!(error.to_string().contains(&addr.to_string()), "{error}");
                    }
                }
                // They do not agree: one has no address to bind to.
                let taken = TcpListener::bind("127.0.0.1:0").unwrap();
                let local = taken.local_addr().unwrap();
                let error = refusal(to(("mixed.test", 1)).local_addr(local)).await;
                assert_eq!(error.kind(), ErrorKind::Other);
            });
        });
    }

    #[test]
    fn families_take_turns_when_they_are_asked_to() {
        with_names("families_take_turns_when_they_are_asked_to", || {
            block_on_within(async {
                // Held at all addresses, and nobody listens.
                let held = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None);
                let held = held.unwrap();
                held.set_only_v6(false).unwrap();
                held.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into())
                    .unwrap();
                let port = held.local_addr().unwrap().as_socket().unwrap().port();
                let mixed = || to(("mixed.test", port)).all_errors(true);
                let delay = Duration::from_secs(3600);
                let resolved = ["::1", "127.0.0.2", "127.0.0.3", "::ffff:127.0.0.4"];
                let in_turns = ["::1", "127.0.0.2", "::ffff:127.0.0.4", "127.0.0.3"];
                let two_first = ["::1", "::ffff:127.0.0.4", "127.0.0.2", "127.0.0.3"];
                for (given, order) in [
                    (mixed(), &resolved[..]),
                    (mixed().interleave(1), &in_turns),
                    (mixed().interleave(2), &two_first),
                    (mixed().happy_eyeballs_delay(delay), &in_turns),
                    (
                        mixed().happy_eyeballs_delay(delay).interleave(2),
                        &two_first,
                    ),
                    (mixed().family(Family::Inet6), &two_first[..2]),
                ] {
                    let text = format!("{given:?}");
                    let error = refusal(given).await;
                    let errors: &ConnectErrors = error.get_ref().unwrap().downcast_ref().unwrap();
                    let tried: Vec<_> = errors.errors().iter().map(io::Error::to_string).collect();
                    assert_eq!(tried.len(), order.len(), "{tried:?}: {text}");
                    for (tried, ip) in tried.iter().zip(order) {
                        let addr = SocketAddr::new(ip.parse().unwrap(), port).to_string();
                        assert!(
                            tried.contains(&format!("connect {addr}: ")),
                            "{tried}: {text}"
                        );
                    }
                }
            });
        });
    }

    #[test]
    fn of_several_local_addresses_the_first_that_works_is_bound_to() {
        let name = "of_several_local_addresses_the_first_that_works_is_bound_to";
        with_names(name, || {
            block_on_within(async {
                let (listener, addr) = listening("127.0.0.1");
                let (local, [first, second]) = two().await;
                let taken = TcpListener::bind(first).unwrap();
                let given = to(addr).local_addr(local.clone());
                let (transport, _) = echoing(&Log::new(), given).await;
                assert_eq!(local_of(&transport), second);
                exchange(&transport, accept(&listener)).await;
                // Both.
                drop(taken);
                let _taken = [first, second].map(|addr| TcpListener::bind(addr).unwrap());
                let error = refusal(to(addr).local_addr(local)).await;
                assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            });
        });
    }

    /// Checks that nothing is left of a connection that was given up, or is given up now; tells
    /// whether it was made in time.
    async fn leaves_nothing(
        made: Option<io::Result<(Transport, ProtocolHandle<Recorder>)>>,
        log: &Log,
        open_before: usize,
    ) -> bool {
        let is_made = made.is_some();
        if let Some(made) = made {
            made.unwrap().0.close();
        }
        let whole = [Event::Made, Event::Lost(None)];
        log.until(|events| events.is_empty() || events == whole)
            .await;
        descriptors_come_down_to(open_before, log.events()).await;
        is_made
    }

    #[test]
    fn a_connection_that_is_given_up_anywhere_leaves_nothing_open() {
        let name = "a_connection_that_is_given_up_anywhere_leaves_nothing_open";
        with_names(name, || {
            block_on_within(async {
                let (target, [first, second]) = two().await;
                let _silent = [silent(first), silent(second)];
                let (_listener, addr) = listening("127.0.0.1");
                common::settle().await;
                let before = descriptors();
                let mut made = [0; 3];
                for way in ways_to_give_up() {
                    let (ours, peer) = std_pair();
                    let named = to(("localhost", addr.port()));
                    let ways = [options().sock(ours), to(addr), named];
                    for (given, made) in ways.into_iter().zip(&mut made) {
                        let log = Log::new();
                        let connecting = create_connection(|| Recorder::new(&log), given);
                        let result = give_up_when_woken(way, connecting).await;
                        // The peer's is open.
                        *made += usize::from(leaves_nothing(result, &log, before + 1).await);
                    }
                    drop(peer);
                    let log = Log::new();
                    let soon = to(target.clone()).happy_eyeballs_delay(Duration::ZERO);
                    let connecting = create_connection(|| Recorder::new(&log), soon);
                    let result = give_up_after(way.0, connecting).await;
                    assert!(!leaves_nothing(result, &log, before).await);
                }
                assert!(made.iter().all(|&made| made > 0), "{made:?}");
            });
        });
    }
}
