//! Servers: from bound to closed, their connections, and the options of those over TCP.

mod common;

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, within, PATIENCE};
use coracle::net::{ResolveFlags, TcpStream};
use coracle::{create_connection, create_server, spawn, yield_now};
use coracle::{Address, Family, Server, ServerSocket, TcpOptions, TcpServerOptions, Transport};
#[cfg(unix)]
use coracle::{create_unix_connection, create_unix_server, UnixOptions, UnixServerOptions};
use futures_lite::future::poll_once;

fn local() -> TcpServerOptions {
    TcpServerOptions::new().local_addr("127.0.0.1:0")
}

fn ip(server: &Server) -> SocketAddr {
    server.local_addrs()[0].as_ip().unwrap()
}

/// A server that sends everything back, with one log for all its connections.
async fn echoing(log: &Log, options: TcpServerOptions) -> Server {
    let log = log.clone();
    let made = create_server(move || Recorder::echoing(&log), options);
    within(made).await.unwrap()
}

struct Served {
    server: Server,
    log: Log,
    addr: Address,
    /// Removed at the end, with the server's file.
    _folder: Option<tempfile::TempDir>,
}

/// An echoing server of each kind.
async fn each_kind(start: bool) -> Vec<Served> {
    let log = Log::new();
    let server = echoing(&log, local().start_serving(start)).await;
    #[allow(unused_mut)]
    let mut served = vec![Served {
        addr: server.local_addrs()[0],
        server,
        log,
        _folder: None,
    }];
    #[cfg(unix)]
    {
        let folder = tempfile::tempdir().unwrap();
        let (log, factory_log) = (Log::new(), Log::new());
        let shared = log.clone();
        drop(factory_log);
        let options = UnixServerOptions::new()
            .path(folder.path().join("server"))
            .start_serving(start);
        let made = create_unix_server(move || Recorder::echoing(&shared), options);
        let server = within(made).await.unwrap();
        served.push(Served {
            addr: server.local_addrs()[0],
            server,
            log,
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
            let server = echoing(&Log::new(), local().start_serving(start)).await;
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
            let factory_log = log.clone();
            let talkative = move || {
                Recorder::reacting(&factory_log, |transport, event| match event {
                    Event::Made => transport.write(&vec![7; LEN]),
                    _ => Ok(()),
                })
            };
            let server = create_server(talkative, local()).await.unwrap();
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
            let lost: Vec<_> = lost.filter(|event| matches!(event, Event::Lost(_))).collect();
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
fn a_server_that_its_factory_closes_goes_on_with_that_connection() {
    block_on_within(async {
        let slot: Arc<Mutex<Option<Server>>> = Arc::default();
        let only_one = {
            let slot = slot.clone();
            move || {
                slot.lock().unwrap().take().unwrap().close();
                Recorder::echoing(&Log::new())
            }
        };
        let server = create_server(only_one, local()).await.unwrap();
        *slot.lock().unwrap() = Some(server.clone());
        let waiting = spawn({
            let server = server.clone();
            async move { server.wait_closed().await }
        });
        let client = connect(server.local_addrs()[0]).await.unwrap();
        works(&client).await;
        assert!(!server.is_serving() && !waiting.is_finished());
        client.0.close();
        within(waiting).await;
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
    let alive = Arc::new(());
    let (held, log) = (alive.clone(), Log::new());
    let transports: Arc<Mutex<Vec<Transport>>> = Arc::default();
    let (server, addr, mut client) = block_on_within(async {
        let (log, transports) = (log.clone(), transports.clone());
        let factory = move || {
            let (held, transports) = (held.clone(), transports.clone());
            Recorder::reacting(&log, move |transport, _| {
                let _ = &held;
                transports.lock().unwrap().push(transport.clone());
                Ok(())
            })
        };
        let server = create_server(factory, local()).await.unwrap();
        let addr = ip(&server);
        let client = StdTcpStream::connect(addr).unwrap();
        until_left(&server, 1).await;
        while transports_is_empty(&server).await {}
        (server, addr, client)
    });
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert!(refused(StdTcpStream::connect(addr)));
    assert!(!server.is_serving());
    assert_eq!(log.events(), [Event::Made], "no callback outside the runtime");
    let transport = transports.lock().unwrap().pop().unwrap();
    block_on_within(async {
        server.wait_closed().await;
        let error = transport.closed().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    });
    assert_eq!(Arc::strong_count(&alive), 1, "protocol and factory are dropped");
}
