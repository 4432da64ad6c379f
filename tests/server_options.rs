//! The options of servers over TCP: addresses, sockets that are brought, what is refused.

mod common;

use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::server::{connect, echoing, ip, local, refused, until_made, works};
use common::stream::{Log, Recorder};
use common::{block_on_within, own_ip, within};
use coracle::net::ResolveFlags;
#[cfg(target_os = "linux")]
use coracle::Server;
#[cfg(not(target_os = "wasi"))]
use coracle::ServerSocket;
use coracle::{create_server, Family, TcpServerOptions};

/// What making a server with these options is refused with.
async fn refusal(options: TcpServerOptions) -> io::Error {
    let text = format!("{options:?}");
    match within(create_server(|| Recorder::new(&Log::new()), options)).await {
        Ok(_) => panic!("was accepted: {text}"),
        Err(error) => error,
    }
}

#[test]
fn a_server_has_a_socket_for_each_of_its_addresses() {
    block_on_within(async {
        let own = own_ip();
        let options = TcpServerOptions::new()
            .local_addr((own, 0))
            .local_addr(format!("{own}:0"))
            .local_addr("[::1]:0");
        let server = echoing(options).await;
        let addrs = server.local_addrs();
        assert_eq!(addrs.len(), 2, "each once: {addrs:?}");
        let mut clients = Vec::new();
        for addr in &addrs {
            clients.push(connect(*addr).await.unwrap());
        }
        for client in &clients {
            works(client).await;
        }
        assert_eq!(server.connections(), 2);
        server.close();
        for addr in addrs {
            assert!(refused(connect(addr).await), "{addr}");
        }

        let server = echoing(TcpServerOptions::new().port(0)).await;
        let families: Vec<_> = server.local_addrs().iter().map(Family::of).collect();
        assert_eq!(families, [Family::Inet6, Family::Inet]);
        for addr in server.local_addrs() {
            assert!(addr.as_ip().unwrap().ip().is_unspecified());
        }

        for family in [Family::Inet, Family::Inet6] {
            let options = TcpServerOptions::new().port(0).family(family);
            let addrs = echoing(options).await.local_addrs();
            assert_eq!((addrs.len(), Family::of(&addrs[0])), (1, family));
        }
        let named = TcpServerOptions::new().local_addr(("localhost", 0));
        let server = echoing(named.family(Family::Inet)).await;
        assert!(server.local_addrs()[0].as_ip().unwrap().ip().is_loopback());
    });
}

#[test]
fn an_ipv6_server_leaves_ipv4_alone() {
    block_on_within(async {
        let mut made = None;
        // Somebody else may have the port there, but not each time.
        for _ in 0..10 {
            let taken = StdTcpListener::bind("0.0.0.0:0").unwrap();
            let port = taken.local_addr().unwrap().port();
            let options = TcpServerOptions::new().local_addr(("::", port));
            let factory = || Recorder::echoing(&Log::new());
            if let Ok(server) = within(create_server(factory, options)).await {
                made = Some((taken, port, server));
                break;
            }
        }
        let (taken, port, server) = made.expect("the port is never free");
        works(
            &connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port)).into())
                .await
                .unwrap(),
        )
        .await;
        StdTcpStream::connect(("127.0.0.1", port)).unwrap();
        taken.accept().unwrap();
        assert_eq!(server.connections(), 1);
    });
}

#[test]
fn an_address_that_the_machine_does_not_have_is_left_out_if_there_are_others() {
    // For documentation only, RFC 5737: nobody's.
    const NOBODYS: &str = "192.0.2.1:0";
    block_on_within(async {
        let alone = TcpServerOptions::new().local_addr(NOBODYS);
        let error = refusal(alone).await;
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        assert!(error.to_string().contains(NOBODYS), "{error}");
        for options in [
            local().local_addr(NOBODYS),
            TcpServerOptions::new()
                .local_addr(NOBODYS)
                .local_addr("127.0.0.1:0"),
        ] {
            let server = echoing(options).await;
            assert_eq!(server.local_addrs().len(), 1);
            works(&connect(server.local_addrs()[0]).await.unwrap()).await;
        }
    });
}

#[test]
fn an_address_that_is_taken_is_named_and_the_others_are_given_back() {
    block_on_within(async {
        let holder = echoing(local()).await;
        let taken = ip(&holder);
        let free = StdTcpListener::bind((own_ip(), 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let options = TcpServerOptions::new().local_addr(free).local_addr(taken);
        let error = refusal(options).await;
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        StdTcpListener::bind(free).unwrap();
        assert!(holder.is_serving());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn who_starts_second_at_the_same_address_is_told() {
    block_on_within(async {
        let first = echoing(local().start_serving(false)).await;
        let addr = ip(&first);
        let same = TcpServerOptions::new().local_addr(addr);
        let second = echoing(same.start_serving(false)).await;
        second.start_serving().await.unwrap();
        for error in [first.start_serving().await, first.serve_forever().await] {
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&addr.to_string()), "{error}");
            assert!(!first.is_serving());
        }
        second.close();
        first.start_serving().await.unwrap();
        works(&connect(addr.into()).await.unwrap()).await;
    });
}

#[cfg(target_os = "linux")]
#[test]
fn servers_share_an_address_if_all_of_them_ask_for_it() {
    const CLIENTS: usize = 64;
    block_on_within(async {
        let first = echoing(local().reuse_port(true)).await;
        let addr = ip(&first);
        let same = || TcpServerOptions::new().local_addr(addr);
        assert_eq!(refusal(same()).await.kind(), ErrorKind::AddrInUse);
        let second = echoing(same().reuse_port(true)).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = connect(addr.into()).await.unwrap();
            works(&client).await;
            clients.push(client);
        }
        let [some, others] = [&first, &second].map(Server::connections);
        assert_eq!(some + others, CLIENTS);
        assert!(some > 0 && others > 0, "{some} and {others}");
        first.close();
        for _ in 0..8 {
            let client = connect(addr.into()).await.unwrap();
            works(&client).await;
            clients.push(client);
        }
        assert_eq!(second.connections(), others + 8);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_address_is_taken_again_while_its_connections_are_being_forgotten() {
    block_on_within(async {
        let server = echoing(local()).await;
        let addr = ip(&server);
        let client = connect(addr.into()).await.unwrap();
        works(&client).await;
        // Who closes first has to remember.
        server.close();
        server.close_clients();
        within(server.wait_closed()).await;
        within(client.0.closed()).await.unwrap();
        let again = || TcpServerOptions::new().local_addr(addr);
        let error = refusal(again().reuse_address(false)).await;
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        works(
            &connect(echoing(again()).await.local_addrs()[0])
                .await
                .unwrap(),
        )
        .await;
    });
}

#[test]
fn connections_inherit_keep_alive_and_send_at_once() {
    block_on_within(async {
        for on in [false, true] {
            let ways = [
                local(),
                #[cfg(not(target_os = "wasi"))]
                TcpServerOptions::new().sock(StdTcpListener::bind("127.0.0.1:0").unwrap()),
            ];
            for options in ways {
                let log = Log::new();
                let asked = Arc::new(Mutex::new(None));
                let factory = {
                    let (log, asked) = (log.clone(), asked.clone());
                    move || {
                        let asked = asked.clone();
                        Recorder::reacting(&log, move |transport, _| {
                            let socket = transport.tcp_socket()?;
                            // WASI has no such option.
                            let at_once = cfg!(target_os = "wasi") || socket.nodelay()?;
                            *asked.lock().unwrap() = Some((socket.keepalive()?, at_once));
                            Ok(())
                        })
                    }
                };
                let server = create_server(factory, options.keep_alive(on))
                    .await
                    .unwrap();
                let _client = connect(server.local_addrs()[0]).await.unwrap();
                until_made(&log, 1).await;
                assert_eq!(*asked.lock().unwrap(), Some((on, true)));
            }
        }
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_socket_of_the_users_serves_those_who_wait_already() {
    block_on_within(async {
        let listening = StdTcpListener::bind((own_ip(), 0)).unwrap();
        let addr = listening.local_addr().unwrap();
        let early = connect(addr.into()).await.unwrap();
        let server = echoing(TcpServerOptions::new().sock(listening)).await;
        assert_eq!(server.local_addrs(), [addr.into()]);
        assert!(matches!(server.sockets()[..], [ServerSocket::Tcp(_)]));
        works(&early).await;
        works(&connect(addr.into()).await.unwrap()).await;
        server.close();
        assert!(refused(StdTcpStream::connect(addr)), "it is the server's");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_that_is_not_bound_gets_a_port() {
    use socket2::{Domain, Socket, Type};
    block_on_within(async {
        let unbound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let server = echoing(TcpServerOptions::new().sock(unbound)).await;
        let port = ip(&server).port();
        works(&connect(([127, 0, 0, 1], port).into()).await.unwrap()).await;
    });
}

#[test]
fn contradictory_options_are_refused_by_name() {
    let sock = || TcpServerOptions::new().sock(StdTcpListener::bind("127.0.0.1:0").unwrap());
    let second = Duration::from_secs(1);
    block_on_within(async {
        for (options, names) in [
            (TcpServerOptions::new(), "sock local_addr"),
            (sock().local_addr("127.0.0.1:0"), "sock local_addr"),
            (sock().port(0), "sock local_addr"),
            (sock().reuse_port(true), "sock reuse_port"),
            (sock().reuse_address(false), "sock reuse_address"),
            (local().family(Family::Unix), "family Unix"),
            (local().family(Family::Inet6), "local_addr IPv6"),
            (TcpServerOptions::new().local_addr("@name"), "@name"),
            (TcpServerOptions::new().local_addr("127.0.0.1"), "127.0.0.1"),
            (
                local().tls_handshake_timeout(second),
                "tls_handshake_timeout",
            ),
            (local().tls_shutdown_timeout(second), "tls_shutdown_timeout"),
        ] {
            let text = format!("{options:?}");
            let error = refusal(options).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}: {error}");
            for name in names.split(' ') {
                assert!(error.to_string().contains(name), "{text}: {error}");
            }
        }
        let datagrams = TcpServerOptions::new().sock(common::std_udp());
        let error = refusal(datagrams).await;
        if cfg!(target_os = "wasi") {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("sock"), "{error}");
        } else {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("datagram"), "{error}");
        }
        let numeric = TcpServerOptions::new().flags(ResolveFlags::NUMERIC_HOST);
        let error = refusal(numeric.local_addr("localhost:0")).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_cannot_listen_at_all_of_its_addresses_listens_at_none() {
    block_on_within(async {
        let taken = echoing(local().start_serving(false)).await;
        let options = local().local_addr(ip(&taken)).start_serving(false);
        let server = echoing(options).await;
        let first = server.local_addrs()[0];
        taken.start_serving().await.unwrap();
        let error = server.start_serving().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(server.local_addrs().is_empty());
        let refused = coracle::net::TcpStream::connect(first).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}
