//! Servers: from bound to closed, and their connections.
//!
//! WASI has no threads, and panics cannot be caught there.

mod common;

use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::sync::{Arc, Mutex};

use common::server::{connect, echoing, ip, local, refused, until_left, until_made, works};
use common::stream::{Event, Log, Recorder};
#[cfg(not(target_os = "wasi"))]
use common::PATIENCE;
use common::{block_on_within, within};
use coracle::net::TcpStream;
use coracle::{create_server, spawn, yield_now, Address, Server, ServerSocket, Transport};
#[cfg(unix)]
use coracle::{create_unix_server, UnixServerOptions};
use futures_lite::future::poll_once;

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
                #[cfg(not(target_os = "wasi"))]
                waiting.set_read_timeout(Some(PATIENCE)).unwrap();
                match waiting.read(&mut [0; 8]) {
                    Ok(len) => assert_eq!(len, 0),
                    // On WASI std does not tell which error it was.
                    Err(error) => assert!(
                        error.kind() == ErrorKind::ConnectionReset || cfg!(target_os = "wasi"),
                        "{error}"
                    ),
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

#[cfg(not(target_os = "wasi"))]
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
    #[cfg(not(target_os = "wasi"))]
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

#[cfg(panic = "unwind")]
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

#[cfg(panic = "unwind")]
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
