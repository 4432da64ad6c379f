//! `create_connection` and `connect_accepted_socket`: addresses and names, what is refused, sockets
//! that are brought, as they cannot be on WASI.

mod common;

#[cfg(not(target_os = "wasi"))]
use std::io::Read;
use std::io::{self, ErrorKind};
#[cfg(not(target_os = "wasi"))]
use std::net::TcpStream;
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::tcp_connection::{
    accept, dead, echoing, exchange, listening, local_of, options, peer_of, refusal, std_pair, to,
};
#[cfg(not(target_os = "wasi"))]
use common::PATIENCE;
use common::{block_on_within, within};
#[cfg(not(target_os = "wasi"))]
use coracle::net::Socket;
use coracle::net::{ResolveFlags, Target};
#[cfg(not(target_os = "wasi"))]
use coracle::{connect_accepted_socket, AcceptedOptions};
use coracle::{
    create_connection, create_connection_with_driver, spawn, ConnectErrors, Family, TcpOptions,
};

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

#[cfg(not(target_os = "wasi"))]
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
            let mut made = None;
            // A port that was nobody's a moment ago. Somebody else may take it, but not each time.
            for _ in 0..10 {
                local.set_port(dead((local.ip(), 0).into()).1.port());
                let factory = || Recorder::echoing(&Log::new());
                let given = to(addr).local_addr(local);
                if let Ok((transport, _)) = within(create_connection(factory, given)).await {
                    made = Some(transport);
                    break;
                }
            }
            let transport = made.expect("the port is never free");
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
            assert!(common::raw_code(&error).is_some() || cfg!(target_os = "wasi"));
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
        for time in [Duration::from_secs(1), Duration::ZERO] {
            refused_for("tls_handshake_timeout", at().tls_handshake_timeout(time)).await;
            refused_for("tls_shutdown_timeout", at().tls_shutdown_timeout(time)).await;
        }
    });
}

#[cfg(not(target_os = "wasi"))]
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
#[cfg(not(target_os = "wasi"))]
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

#[cfg(not(target_os = "wasi"))]
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

#[cfg(not(target_os = "wasi"))]
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

#[cfg(not(target_os = "wasi"))]
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
        for (name, given) in [
            (
                "tls_handshake_timeout",
                accepted().tls_handshake_timeout(second),
            ),
            (
                "tls_shutdown_timeout",
                accepted().tls_shutdown_timeout(second),
            ),
        ] {
            let factory = || -> Recorder { panic!("the factory was called") };
            let (ours, mut peer) = std_pair();
            let made = connect_accepted_socket(factory, ours, given);
            let error = within(made).await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "it is closed");
        }
    });
}

#[cfg(not(target_os = "wasi"))]
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
    let made = create_connection(|| Recorder::new(&Log::new()), to("127.0.0.1:1"));
    let error = futures_lite::future::block_on(made).map(drop).unwrap_err();
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
