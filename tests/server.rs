//! Servers: from bound to closed, their connections, and the options of those over TCP.

mod common;

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv6Addr, SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, within, PATIENCE};
use coracle::net::{ResolveFlags, TcpStream};
use coracle::{create_connection, create_server, spawn, yield_now};
#[cfg(unix)]
use coracle::{create_unix_connection, create_unix_server, UnixOptions, UnixServerOptions};
use coracle::{Address, Family, Server, ServerSocket, TcpOptions, TcpServerOptions, Transport};
use futures_lite::future::poll_once;

fn local() -> TcpServerOptions {
    TcpServerOptions::new().local_addr("127.0.0.1:0")
}

fn ip(server: &Server) -> SocketAddr {
    server.local_addrs()[0].as_ip().unwrap()
}

/// A server that sends everything back.
async fn echoing(options: TcpServerOptions) -> Server {
    let made = create_server(|| Recorder::echoing(&Log::new()), options);
    within(made).await.unwrap()
}

/// A server that does this with each connection, and the transports of all of them.
async fn doing(
    log: &Log,
    reaction: impl FnMut(&Transport, &Event) -> io::Result<()> + Clone + Send + 'static,
) -> (Server, Transports) {
    let (log, transports) = (log.clone(), Transports::default());
    let made = transports.clone();
    let factory = move || {
        let (made, mut reaction) = (made.clone(), reaction.clone());
        Recorder::reacting(&log, move |transport, event| {
            if *event == Event::Made {
                made.lock().unwrap().push(transport.clone());
            }
            reaction(transport, event)
        })
    };
    (
        within(create_server(factory, local())).await.unwrap(),
        transports,
    )
}

type Transports = Arc<Mutex<Vec<Transport>>>;

struct Served {
    server: Server,
    addr: Address,
    /// Removed at the end, with the server's file.
    _folder: Option<tempfile::TempDir>,
}

/// An echoing server of each kind.
async fn each_kind(start: bool) -> Vec<Served> {
    let server = echoing(local().start_serving(start)).await;
    #[allow(unused_mut)] // where there are no others
    let mut served = vec![Served {
        addr: server.local_addrs()[0],
        server,
        _folder: None,
    }];
    #[cfg(unix)]
    {
        let folder = tempfile::tempdir().unwrap();
        let options = UnixServerOptions::new()
            .path(folder.path().join("server"))
            .start_serving(start);
        let made = create_unix_server(|| Recorder::echoing(&Log::new()), options);
        let server = within(made).await.unwrap();
        served.push(Served {
            addr: server.local_addrs()[0],
            server,
            _folder: Some(folder),
        });
    }
    served
}

async fn connect(addr: Address) -> io::Result<(Transport, Log)> {
    let log = Log::new();
    let recorder = || Recorder::new(&log);
    #[cfg(unix)]
    if addr.as_unix().is_some() {
        let made = create_unix_connection(recorder, UnixOptions::new().path(addr));
        let (transport, _) = within(made).await?;
        return Ok((transport, log));
    }
    let made = create_connection(recorder, TcpOptions::new().remote_addr(addr));
    let (transport, _) = within(made).await?;
    Ok((transport, log))
}

/// The bytes go there and come back.
async fn works((client, log): &(Transport, Log)) {
    let before = log.data().len();
    client.write(b"there and back").unwrap();
    log.until_len(before + 14).await;
}

/// Waits for so many connections since the start.
async fn until_made(log: &Log, count: usize) {
    let is_made = |event: &&Event| **event == Event::Made;
    log.until(|events| events.iter().filter(is_made).count() >= count)
        .await;
}

fn refused(result: io::Result<impl Sized>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Waits until so many connections are left.
async fn until_left(server: &Server, count: usize) {
    within(async {
        while server.connections() != count {
            yield_now().await;
        }
    })
    .await;
}

#[test]
fn a_server_listens_from_the_start_until_it_is_closed() {
    block_on_within(async {
        for Served { server, addr, .. } in each_kind(true).await {
            assert!(server.is_serving());
            assert_eq!(server.sockets().len(), 1);
            assert_eq!(server.sockets()[0].local_addr().unwrap(), addr);
            let client = connect(addr).await.unwrap();
            works(&client).await;
            assert_eq!(server.connections(), 1);
            for _ in 0..2 {
                server.close();
                assert!(!server.is_serving());
                assert!(server.sockets().is_empty() && server.local_addrs().is_empty());
            }
            assert_eq!(server.connections(), 1);
            works(&client).await;
            client.0.close();
            within(server.wait_closed()).await;
            assert_eq!((server.connections(), server.accept_errors()), (0, 0));
        }
    });
}

#[test]
fn a_server_that_is_not_started_refuses_until_it_is() {
    block_on_within(async {
        for Served { server, addr, .. } in each_kind(false).await {
            assert!(!server.is_serving());
            assert_eq!(server.local_addrs(), [addr], "it is bound");
            assert!(refused(connect(addr).await));
            for _ in 0..2 {
                server.start_serving().await.unwrap();
                assert!(server.is_serving());
            }
            works(&connect(addr).await.unwrap()).await;
            server.close();
            let error = server.start_serving().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            assert!(!server.is_serving());
        }
    });
}

#[test]
fn close_is_done_when_it_returns() {
    block_on_within(async {
        for start in [true, false] {
            let server = echoing(local().start_serving(start)).await;
            let addr = ip(&server);
            // Nothing else runs from here on, so that it is not accepted.
            let waiting = start.then(|| StdTcpStream::connect(addr).unwrap());
            server.close();
            assert!(refused(StdTcpStream::connect(addr)));
            StdTcpListener::bind(addr).unwrap();
            if let Some(mut waiting) = waiting {
                waiting.set_read_timeout(Some(PATIENCE)).unwrap();
                match waiting.read(&mut [0; 8]) {
                    Ok(len) => assert_eq!(len, 0),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                }
            }
            within(server.wait_closed()).await;
            assert_eq!(server.connections(), 0);
        }
    });
}

#[test]
fn a_socket_that_is_held_goes_on_listening() {
    block_on_within(async {
        let server = echoing(local()).await;
        let (addr, held) = (ip(&server), server.sockets());
        server.close();
        let ServerSocket::Tcp(listener) = &held[0] else {
            panic!("not TCP: {held:?}");
        };
        let waiting = StdTcpStream::connect(addr).unwrap();
        let (_, from) = within(listener.accept()).await.unwrap();
        assert_eq!(from, waiting.local_addr().unwrap().into());
        drop(held);
        assert!(refused(StdTcpStream::connect(addr)));
    });
}

#[test]
fn a_server_is_closed_from_another_thread() {
    block_on_within(async {
        for Served { server, addr, .. } in each_kind(true).await {
            let client = connect(addr).await.unwrap();
            works(&client).await;
            let closing = std::thread::spawn({
                let server = server.clone();
                move || {
                    server.close();
                    server.close_clients();
                }
            });
            within(server.wait_closed()).await;
            closing.join().unwrap();
            assert!(connect(addr).await.is_err());
            within(client.0.closed()).await.unwrap();
        }
    });
}

#[test]
fn clients_are_closed_with_what_is_queued_or_aborted_without() {
    const LEN: usize = 64 << 20;
    for abort in [false, true] {
        block_on_within(async {
            let log = Log::new();
            let (server, _) = doing(&log, |transport, event| match event {
                Event::Made => transport.write(&vec![7; LEN]),
                _ => Ok(()),
            })
            .await;
            let client = TcpStream::connect(ip(&server)).await.unwrap();
            let other = TcpStream::connect(ip(&server)).await.unwrap();
            until_made(&log, 2).await;
            match abort {
                false => server.close_clients(),
                true => server.abort_clients(),
            }
            assert!(server.is_serving());
            for client in [client, other] {
                let (mut buf, mut len) = (vec![0; 1 << 20], 0);
                loop {
                    match within(client.read(&mut buf)).await.unwrap() {
                        0 => break,
                        more => len += more,
                    }
                }
                assert_eq!(len < LEN, abort, "{len}");
            }
            until_left(&server, 0).await;
            let lost = log.events().into_iter();
            let lost: Vec<_> = lost
                .filter(|event| matches!(event, Event::Lost(_)))
                .collect();
            assert_eq!(lost, [Event::Lost(None), Event::Lost(None)]);
        });
    }
}

#[test]
fn wait_closed_waits_for_the_server_and_for_its_connections() {
    block_on_within(async {
        for is_closed_first in [true, false] {
            for Served { server, addr, .. } in each_kind(true).await {
                let clients = [connect(addr).await.unwrap(), connect(addr).await.unwrap()];
                works(&clients[0]).await;
                works(&clients[1]).await;
                let waiting = [0, 1].map(|_| {
                    let server = server.clone();
                    spawn(async move { server.wait_closed().await })
                });
                let close_clients = async || {
                    for (left, (client, _)) in [1, 0].into_iter().zip(&clients) {
                        assert!(poll_once(server.wait_closed()).await.is_none());
                        client.close();
                        until_left(&server, left).await;
                    }
                };
                match is_closed_first {
                    true => server.close(),
                    false => close_clients().await,
                }
                yield_now().await;
                assert!(!waiting.iter().any(|waiting| waiting.is_finished()));
                assert!(poll_once(server.wait_closed()).await.is_none());
                match is_closed_first {
                    true => close_clients().await,
                    false => server.close(),
                }
                for waiting in waiting {
                    within(waiting).await;
                }
                assert!(poll_once(server.wait_closed()).await.is_some());
            }
        }
    });
}

#[test]
fn a_server_may_be_closed_by_its_first_connection() {
    block_on_within(async {
        let slot: Arc<Mutex<Option<Server>>> = Arc::default();
        let close = {
            let slot = slot.clone();
            move || {
                if let Some(server) = slot.lock().unwrap().take() {
                    server.close();
                }
            }
        };
        for by_factory in [false, true] {
            let log = Log::new();
            let close = close.clone();
            let factory = move || {
                if by_factory {
                    close();
                }
                let close = close.clone();
                Recorder::reacting(&log, move |transport, event| match event {
                    Event::Data(data) => transport.write(data),
                    _ => {
                        close();
                        Ok(())
                    }
                })
            };
            let server = within(create_server(factory, local())).await.unwrap();
            *slot.lock().unwrap() = Some(server.clone());
            let (client, log) = connect(server.local_addrs()[0]).await.unwrap();
            match by_factory {
                // It was not accepted yet.
                true => within(client.closed()).await.unwrap(),
                false => {
                    works(&(client.clone(), log)).await;
                    assert!(poll_once(server.wait_closed()).await.is_none());
                    client.close();
                }
            }
            assert!(!server.is_serving());
            within(server.wait_closed()).await;
        }
    });
}

#[test]
fn serve_forever_starts_and_lasts_until_the_server_is_closed() {
    block_on_within(async {
        for Served { server, addr, .. } in each_kind(false).await {
            let serving = spawn({
                let server = server.clone();
                async move { server.serve_forever().await }
            });
            yield_now().await;
            let client = connect(addr).await.unwrap();
            works(&client).await;
            let error = within(server.serve_forever()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("serve_forever"), "{error}");
            works(&client).await;
            assert!(server.is_serving(), "the refused call has changed nothing");
            server.close();
            within(serving).await.unwrap();
            assert_eq!(server.connections(), 0);
            within(client.0.closed()).await.unwrap();
            let events = client.1.events();
            assert_eq!(events[events.len() - 2..], [Event::Eof, Event::Lost(None)]);
            let error = within(server.serve_forever()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        }
    });
}

#[test]
fn serve_forever_that_is_dropped_closes_the_server_and_its_clients() {
    block_on_within(async {
        for Served { server, addr, .. } in each_kind(true).await {
            let client = connect(addr).await.unwrap();
            works(&client).await;
            assert!(poll_once(server.serve_forever()).await.is_none());
            assert!(!server.is_serving());
            within(server.wait_closed()).await;
            within(client.0.closed()).await.unwrap();
            assert!(connect(addr).await.is_err());
        }
    });
}

#[test]
fn a_server_without_handles_goes_on() {
    block_on_within(async {
        for Served { server, addr, .. } in each_kind(true).await {
            drop(server);
            for _ in 0..3 {
                works(&connect(addr).await.unwrap()).await;
            }
        }
    });
}

#[test]
fn the_end_of_the_runtime_closes_the_server_and_its_connections() {
    let (alive, log) = (Arc::new(()), Log::new());
    let held = alive.clone();
    let (server, addr, transports, mut client) = block_on_within(async {
        let (server, transports) = doing(&log, move |_, _| {
            let _ = &held;
            Ok(())
        })
        .await;
        let addr = ip(&server);
        let client = StdTcpStream::connect(addr).unwrap();
        until_made(&log, 1).await;
        (server, addr, transports, client)
    });
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert!(refused(StdTcpStream::connect(addr)));
    assert!(!server.is_serving());
    assert_eq!(log.events(), [Event::Made], "no callback after the runtime");
    assert_eq!(Arc::strong_count(&alive), 1, "all protocols are dropped");
    let transport = transports.lock().unwrap().pop().unwrap();
    block_on_within(async {
        server.wait_closed().await;
        let error = transport.closed().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    });
}

#[test]
fn a_panic_of_the_factory_costs_that_connection_and_is_counted() {
    block_on_within(async {
        let mut number = 0;
        let factory = move || {
            number += 1;
            assert!(number % 2 == 0, "this one is not made");
            Recorder::echoing(&Log::new())
        };
        let server = create_server(factory, local()).await.unwrap();
        assert!(server.last_accept_error().is_none());
        let addr = server.local_addrs()[0];
        for round in 1..=3 {
            let lost = connect(addr).await.unwrap();
            within(lost.0.closed()).await.unwrap();
            assert_eq!((server.accept_errors(), server.connections()), (round, 0));
            let error = server.last_accept_error().unwrap();
            assert!(error.to_string().contains("factory"), "{error}");
            let client = connect(addr).await.unwrap();
            works(&client).await;
            client.0.close();
            until_left(&server, 0).await;
        }
        server.close();
        within(server.wait_closed()).await;
    });
}

#[test]
fn a_panic_of_a_callback_costs_that_connection_alone() {
    block_on_within(async {
        for fatal in [
            Event::Made,
            Event::Data(b"x".to_vec()),
            Event::Eof,
            Event::Lost(None),
        ] {
            let log = Log::new();
            let (server, transports) = doing(&log, {
                let fatal = fatal.clone();
                move |transport, event| match event {
                    event if *event == fatal => panic!("at {fatal:?}"),
                    Event::Data(data) => transport.write(data),
                    _ => Ok(()),
                }
            })
            .await;
            let addr = server.local_addrs()[0];
            let bystander = match fatal {
                Event::Made => None,
                _ => Some(connect(addr).await.unwrap()),
            };
            let (client, _) = connect(addr).await.unwrap();
            let _ = client.write(b"x");
            let _ = client.write_eof();
            let _ = within(client.closed()).await;
            until_left(&server, usize::from(bystander.is_some())).await;
            let transport = transports.lock().unwrap().last().unwrap().clone();
            let error = within(transport.closed()).await.unwrap_err();
            assert!(error.to_string().contains("panicked"), "{fatal:?}: {error}");
            if let Some(bystander) = bystander {
                works(&bystander).await;
            }
            assert!(server.is_serving());
            assert!(connect(addr).await.is_ok());
        }
    });
}

#[test]
fn a_server_has_a_socket_for_each_of_its_addresses() {
    block_on_within(async {
        let options = local().local_addr(("127.0.0.1", 0)).local_addr("[::1]:0");
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
        let taken = StdTcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let server = echoing(TcpServerOptions::new().local_addr(("::", port))).await;
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
        let free = StdTcpListener::bind("[::1]:0")
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

/// What making a server with these options is refused with.
async fn refusal(options: TcpServerOptions) -> io::Error {
    let text = format!("{options:?}");
    match within(create_server(|| Recorder::new(&Log::new()), options)).await {
        Ok(_) => panic!("was accepted: {text}"),
        Err(error) => error,
    }
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
            let bound = || StdTcpListener::bind("127.0.0.1:0").unwrap();
            for options in [local(), TcpServerOptions::new().sock(bound())] {
                let log = Log::new();
                let asked = Arc::new(Mutex::new(None));
                let factory = {
                    let (log, asked) = (log.clone(), asked.clone());
                    move || {
                        let asked = asked.clone();
                        Recorder::reacting(&log, move |transport, _| {
                            let socket = transport.tcp_socket()?;
                            *asked.lock().unwrap() = Some((socket.keepalive()?, socket.nodelay()?));
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

#[test]
fn a_socket_of_the_users_serves_those_who_wait_already() {
    block_on_within(async {
        let listening = StdTcpListener::bind("127.0.0.1:0").unwrap();
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
            (
                local().tls(true).tls_handshake_timeout(Duration::ZERO),
                "tls_handshake_timeout",
            ),
            (
                local().tls(true).tls_shutdown_timeout(Duration::ZERO),
                "tls_shutdown_timeout",
            ),
            (sock().tls(true).reuse_port(true), "reuse_port"),
            (TcpServerOptions::new().tls(true), "sock local_addr"),
        ] {
            let text = format!("{options:?}");
            let error = refusal(options).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}: {error}");
            for name in names.split(' ') {
                assert!(error.to_string().contains(name), "{text}: {error}");
            }
        }
        for tls in [
            local().tls(true),
            local().tls(true).tls_handshake_timeout(second),
        ] {
            let error = refusal(tls).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("tls"), "{error}");
        }
        let datagrams = socket2::Socket::from(common::std_udp());
        let error = refusal(TcpServerOptions::new().sock(datagrams)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("datagram"), "{error}");
        let numeric = TcpServerOptions::new().flags(ResolveFlags::NUMERIC_HOST);
        let error = refusal(numeric.local_addr("localhost:0")).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    });
}
