//! TCP streams and listeners: addresses, errors, options and conversions.

mod common;

use std::io::ErrorKind;
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::time::Duration;

use common::sockets::{kind, tcp_pair};
use common::{block_on_within, raw_code};
use coracle::net::{Keepalive, TcpListener, TcpStream};
use futures_lite::future::poll_once;
use futures_lite::StreamExt;

#[test]
fn connections_are_made_over_both_families_and_by_name() {
    block_on_within(async {
        for local in ["127.0.0.1:0", "[::1]:0", "localhost:0"] {
            let listener = TcpListener::bind(local).await.unwrap();
            let addr = listener.local_addr().unwrap();
            let client = match local {
                "localhost:0" => {
                    TcpStream::connect(("localhost", addr.as_ip().unwrap().port())).await
                }
                _ => TcpStream::connect(addr).await,
            };
            let client = client.unwrap();
            let (server, from) = listener.accept().await.unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            assert_eq!(server.peer_addr().unwrap(), from);
            assert_eq!(client.peer_addr().unwrap(), addr);
            assert_eq!(server.local_addr().unwrap(), addr);
            // WASI has no such option; what is written together is sent together.
            #[cfg(not(target_os = "wasi"))]
            for stream in [&client, &server] {
                assert!(stream.nodelay().unwrap(), "small writes go out at once");
            }
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 1);
        }
    });
}

// Elsewhere the system may forget a connection that is gone before it is accepted.
#[cfg(target_os = "linux")]
#[test]
fn the_peer_of_an_accepted_connection_is_known_even_if_it_is_gone() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let client = client.unwrap();
        let addr = client.local_addr().unwrap();
        client.set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let (server, from) = listener.accept().await.unwrap();
        assert_eq!((from, server.peer_addr().unwrap()), (addr, addr));
        assert!(
            server.try_io(|socket| socket.peer_addr()).is_err(),
            "the system has forgotten"
        );
    });
}

// What the wildcard stands for as a destination is Linux' own.
#[cfg(target_os = "linux")]
#[test]
fn the_peer_is_who_answered_not_what_was_asked_for() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let port = addr.as_ip().unwrap().port();
        let client = TcpStream::connect(("0.0.0.0", port)).await.unwrap();
        assert_eq!(client.peer_addr().unwrap(), addr);
    });
}

#[test]
fn connections_are_accepted_one_by_one_and_as_a_stream() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(kind(listener.try_accept()), ErrorKind::WouldBlock);
        assert!(poll_once(listener.accept()).await.is_none());
        let mut clients = Vec::new();
        for _ in 0..40 {
            let client = TcpStream::connect(addr).await.unwrap();
            clients.push(client.local_addr().unwrap());
            if clients.len() == 20 {
                listener.readable().await.unwrap();
                assert_eq!(listener.try_accept().unwrap().1, clients[0]);
            }
        }
        let accepted = listener
            .incoming()
            .take(39)
            .map(|stream| stream?.peer_addr());
        let accepted: Vec<_> = accepted.try_collect().await.unwrap();
        assert!(accepted == clients[1..]);
        let mut left = 100;
        let accepting = async {
            loop {
                left -= 1;
                assert!(left > 0, "it says ready again and again");
                listener.readable().await.unwrap();
                if let Ok(accepted) = listener.try_accept() {
                    break accepted;
                }
            }
        };
        assert!(poll_once(accepting).await.is_none());
    });
}

/// An address where nobody listens: it is taken.
#[cfg(not(target_os = "wasi"))]
fn dead() -> (socket2::Socket, SocketAddr) {
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken
        .bind(&SocketAddr::from((common::own_ip(), 0)).into())
        .unwrap();
    let addr = taken.local_addr().unwrap().as_socket().unwrap();
    (taken, addr)
}

/// The same where only a listener can be bound: it was taken a moment ago, and is nobody else's.
#[cfg(target_os = "wasi")]
fn dead() -> ((), SocketAddr) {
    let taken = std::net::TcpListener::bind((common::own_ip(), 0)).unwrap();
    ((), taken.local_addr().unwrap())
}

#[test]
fn errors_say_what_was_to_be_connected_or_bound() {
    block_on_within(async {
        let (_taken, addr) = dead();
        let error = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(raw_code(&error).is_some() || cfg!(target_os = "wasi"));
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
        let SocketAddr::V4(v4) = addr else {
            panic!("not of IPv4");
        };
        let name = common::name_of(*v4.ip());
        let error = TcpStream::connect((&*name, addr.port())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&name), "{error}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let error = TcpListener::bind(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");

        // No label is so long: the resolver need not ask anybody.
        let name = format!("{}.invalid:80", "x".repeat(70));
        for (target, expected) in [
            (&name[..], ErrorKind::NotFound),
            ("/a/path", ErrorKind::InvalidInput),
            ("localhost", ErrorKind::InvalidInput),
        ] {
            for error in [
                TcpStream::connect(target).await.unwrap_err(),
                TcpListener::bind(target).await.unwrap_err(),
            ] {
                assert_eq!(error.kind(), expected, "{error}");
                let is_named = error.to_string().contains(target.trim_end_matches(":80"));
                assert!(is_named || target == "/a/path", "{error}");
            }
        }
    });
}

#[test]
fn options_come_back_as_they_were_set() {
    block_on_within(async {
        let (a, _b) = tcp_pair().await;
        #[cfg(not(target_os = "wasi"))]
        for on in [false, true] {
            a.set_nodelay(on).unwrap();
            assert_eq!(a.nodelay().unwrap(), on);
        }
        #[cfg(target_os = "wasi")]
        for error in [a.nodelay().unwrap_err(), a.set_nodelay(true).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("nodelay"), "{error}");
        }
        a.set_ttl(17).unwrap();
        assert_eq!(a.ttl().unwrap(), 17);
        let error = a.set_ttl(256).unwrap_err();
        assert!(error.to_string().contains("ttl = 256"), "{error}");
        assert!(!a.keepalive().unwrap());
        a.set_keepalive(Some(Keepalive::new())).unwrap();
        assert!(a.keepalive().unwrap());
        a.set_keepalive(None).unwrap();
        assert!(!a.keepalive().unwrap());
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).await;
        let a = a.unwrap();
        a.set_ttl(17).unwrap();
        assert_eq!(a.ttl().unwrap(), 17);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_times_of_keepalive_reach_the_system() {
    block_on_within(async {
        let (a, _b) = tcp_pair().await;
        let seconds = Duration::from_secs;
        let times = Keepalive::new()
            .time(seconds(61))
            .interval(seconds(7))
            .retries(5);
        a.set_keepalive(Some(times)).unwrap();
        // What is not given stays.
        a.set_keepalive(Some(Keepalive::new().time(seconds(62))))
            .unwrap();
        let read_back = a.try_io(|socket| {
            let (time, interval) = (
                socket.tcp_keepalive_time()?,
                socket.tcp_keepalive_interval()?,
            );
            Ok((
                socket.keepalive()?,
                time,
                interval,
                socket.tcp_keepalive_retries()?,
            ))
        });
        assert_eq!(read_back.unwrap(), (true, seconds(62), seconds(7), 5));
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn what_is_accepted_by_a_listener_from_elsewhere_is_as_usual() {
    block_on_within(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut listener = TcpListener::try_from(listener).unwrap();
        for round in 0..3 {
            assert!(poll_once(listener.accept()).await.is_none(), "not blocking");
            let client = TcpStream::connect(listener.local_addr().unwrap()).await;
            let (server, from) = listener.accept().await.unwrap();
            assert_eq!(from, client.unwrap().local_addr().unwrap());
            assert!(server.nodelay().unwrap(), "as for all that coracle accepts");
            listener = match round {
                0 => std::net::TcpListener::try_from(listener)
                    .unwrap()
                    .try_into()
                    .unwrap(),
                _ => socket2::Socket::try_from(listener)
                    .unwrap()
                    .try_into()
                    .unwrap(),
            };
        }
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn streams_are_converted_both_ways_and_others_refused() {
    block_on_within(async {
        let (mut a, b) = tcp_pair().await;
        let names = (a.local_addr().unwrap(), a.peer_addr().unwrap());
        for round in 0..5 {
            let mut buf = [0; 8];
            assert!(poll_once(a.read(&mut buf)).await.is_none(), "not blocking");
            b.write_all(b"to").await.unwrap();
            assert_eq!(a.read(&mut buf).await.unwrap(), 2);
            a.write_all(b"from").await.unwrap();
            assert_eq!(b.read(&mut buf).await.unwrap(), 4);
            assert_eq!((a.local_addr().unwrap(), a.peer_addr().unwrap()), names);
            a = match round {
                0 => coracle::net::Socket::try_from(a)
                    .unwrap()
                    .try_into()
                    .unwrap(),
                1 => socket2::Socket::try_from(a).unwrap().try_into().unwrap(),
                #[cfg(unix)]
                2 => std::os::fd::OwnedFd::try_from(a)
                    .unwrap()
                    .try_into()
                    .unwrap(),
                #[cfg(feature = "async-io")]
                3 => {
                    let a = async_io::Async::<std::net::TcpStream>::try_from(a).unwrap();
                    futures_lite::AsyncWriteExt::write_all(&mut &a, b"theirs")
                        .await
                        .unwrap();
                    assert_eq!(b.read(&mut buf).await.unwrap(), 6);
                    a.try_into().unwrap()
                }
                _ => {
                    let a = std::net::TcpStream::try_from(a).unwrap();
                    a.set_nonblocking(false).unwrap();
                    a.try_into().unwrap()
                }
            };
        }
    });
    let datagram = || socket2::Socket::from(common::std_udp());
    for error in [
        TcpStream::try_from(datagram()).unwrap_err(),
        TcpListener::try_from(datagram()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("datagram"), "{error}");
    }
    #[cfg(unix)]
    {
        let (unix, other) = std::os::unix::net::UnixStream::pair().unwrap();
        for error in [
            TcpStream::try_from(socket2::Socket::from(unix)).unwrap_err(),
            TcpListener::try_from(socket2::Socket::from(other)).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("Unix"), "{error}");
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(TcpStream::try_from(std::os::fd::OwnedFd::from(file)).is_err());
    }
}
