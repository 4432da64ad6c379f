//! Connections, servers and stream sockets where no coracle runtime is running.
#![cfg(all(feature = "async-io", not(target_os = "wasi")))]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use async_executor::Executor;
use common::foreign::{connect, echo, on_smol, smol_within, Spawn};
use common::server::{ip, local};
use common::stream::{Event, Log, Recorder};
use common::{within, PATIENCE};
use coracle::net::{TcpListener, TcpStream};
use coracle::{
    connect_accepted_socket, connect_accepted_socket_with_driver, create_connection,
    create_connection_with_driver, create_server, create_server_with_driver,
};
#[cfg(unix)]
use coracle::{
    create_unix_connection, create_unix_server, create_unix_server_with_driver, UnixOptions,
    UnixServerOptions,
};
use coracle::{AcceptedOptions, Server, TcpOptions};
use futures_lite::future::poll_once;
use smol::io::{AsyncReadExt, AsyncWriteExt};

/// A server of each kind that sends everything back, driven by `spawn`.
async fn servers(folder: &tempfile::TempDir, spawn: &Spawn) -> Vec<Server> {
    #[allow(unused_mut)] // where there are no others
    let mut servers = Vec::new();
    let spawning = spawn.clone();
    let made = create_server_with_driver(echo, local(), move |driver| spawning(Box::pin(driver)));
    let (server, driver) = made.await.unwrap();
    spawn(Box::pin(driver));
    servers.push(server);
    let _ = folder;
    #[cfg(unix)]
    {
        let spawning = spawn.clone();
        let options = UnixServerOptions::new().path(folder.path().join("server"));
        let spawning = move |driver| spawning(Box::pin(driver));
        let (server, driver) = create_unix_server_with_driver(echo, options, spawning)
            .await
            .unwrap();
        spawn(Box::pin(driver));
        servers.push(server);
    }
    servers
}

#[test]
fn without_a_runtime_everything_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    smol_within(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let options = TcpOptions::new().remote_addr(addr);
        let sock = std::net::TcpStream::connect(addr).unwrap();
        #[allow(unused_mut)] // where there are no others
        let mut refused = vec![
            (
                create_connection(echo, options).await.err(),
                "create_connection",
            ),
            (create_server(echo, local()).await.err(), "create_server"),
            (
                connect_accepted_socket(echo, sock, AcceptedOptions::new())
                    .await
                    .err(),
                "connect_accepted_socket",
            ),
        ];
        #[cfg(unix)]
        {
            let path = folder.path().join("server");
            let options = UnixServerOptions::new().path(&path);
            let server = create_unix_server(echo, options).await.err();
            refused.push((server, "create_unix_server"));
            let client = create_unix_connection(echo, UnixOptions::new().path(path))
                .await
                .err();
            refused.push((client, "create_unix_connection"));
        }
        for (error, call) in refused {
            let error = error.unwrap();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let text = error.to_string();
            assert!(text.contains("coracle::block_on"), "{text}");
            assert!(text.contains(&format!("{call}_with_driver")), "{text}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    });
}

#[test]
fn servers_and_connections_work_under_smol() {
    let folder = tempfile::tempdir().unwrap();
    smol_within(async {
        for server in servers(&folder, &on_smol()).await {
            let addr = server.local_addrs()[0];
            let (client, log) = connect(addr, &on_smol()).await;
            // More than the system's buffers take.
            let data: Vec<u8> = (0..16_u32 << 20).map(|i| (i >> 3) as u8).collect();
            client.write(&data).unwrap();
            client.drain().await.unwrap();
            client.write_eof().unwrap();
            within(client.closed()).await.unwrap();
            assert!(log.data() == data, "all of it came back, in order");
            let mut events = log.events();
            events.retain(|event| !matches!(event, Event::Data(_)));
            let [made, pause, resume] = [Event::Made, Event::Pause, Event::Resume];
            assert_eq!(events, [made, pause, resume, Event::Eof, Event::Lost(None)]);
            server.close();
            within(server.wait_closed()).await;
            assert_eq!(server.accept_errors(), 0);
        }
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_connection_works_while_its_driver_runs() {
    smol_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = TcpOptions::new().remote_addr(listener.local_addr().unwrap());
        let log = Log::new();
        let made = create_connection_with_driver(|| Recorder::new(&log), options).await;
        let (transport, handle, driver) = made.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        peer.write_all(b"early").await.unwrap();
        assert_eq!(log.events(), [], "nobody drives it");
        // Writing needs nobody else as long as there is room.
        transport.write(b"from outside").unwrap();
        let mut buf = [0; 64];
        assert_eq!(within(peer.read(&mut buf)).await.unwrap(), 12);
        let driver = smol::spawn(driver);
        log.until_len(5).await;
        assert_eq!(log.events(), [Event::Made, Event::Data(b"early".to_vec())]);
        transport.close();
        within(handle.lost()).await.1.unwrap();
        within(driver).await;
        assert_eq!(log.events().last(), Some(&Event::Lost(None)));
        assert_eq!(within(peer.read(&mut buf)).await.unwrap(), 0);
    });
}

#[test]
fn an_accepted_socket_is_served_under_smol() {
    smol_within(async {
        let listener = smol::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut client = smol::net::TcpStream::connect(addr).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted: async_io::Async<std::net::TcpStream> =
            Arc::<async_io::Async<_>>::try_unwrap(accepted.into()).unwrap();
        let sock = TcpStream::try_from(accepted).unwrap();
        let sock = coracle::net::Socket::try_from(sock).unwrap();
        let options = AcceptedOptions::new();
        let made = connect_accepted_socket_with_driver(echo, sock, options).await;
        let (transport, _, driver) = made.unwrap();
        smol::spawn(driver).detach();
        client.write_all(b"accepted elsewhere").await.unwrap();
        let mut buf = [0; 18];
        within(client.read_exact(&mut buf)).await.unwrap();
        assert_eq!(&buf, b"accepted elsewhere");
        drop(client);
        within(transport.closed()).await.unwrap();
    });
}

#[test]
fn a_driver_that_is_dropped_closes_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    smol_within(async {
        for server in servers(&folder, &on_smol()).await {
            let addr = server.local_addrs()[0];
            for is_running in [false, true] {
                let task = Arc::new(Mutex::new(None));
                let keep: Spawn = {
                    let task = task.clone();
                    Arc::new(move |driver| *task.lock().unwrap() = Some(smol::spawn(driver)))
                };
                let hold: Spawn = {
                    let task = task.clone();
                    Arc::new(move |driver| {
                        // Never polled.
                        let never = async move {
                            std::future::pending::<()>().await;
                            driver.await
                        };
                        *task.lock().unwrap() = Some(smol::spawn(never));
                    })
                };
                let (client, log) = connect(addr, if is_running { &keep } else { &hold }).await;
                client.write(b"sent at once").unwrap();
                if is_running {
                    log.until_len(12).await;
                }
                let task = task.lock().unwrap().take().unwrap();
                assert_eq!(within(task.cancel()).await, None);
                let error = within(client.closed()).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
                let error = client.write(b"late").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotConnected);
                let is_lost = |event: &Event| matches!(event, Event::Lost(_));
                assert!(!log.events().iter().any(is_lost), "no callback");
            }
            server.close();
            within(server.wait_closed()).await;
        }
    });
}

#[test]
fn a_server_whose_future_is_dropped_is_closed() {
    smol_within(async {
        for is_running in [false, true] {
            let spawning = |driver| smol::spawn(driver).detach();
            let made = create_server_with_driver(echo, local(), spawning).await;
            let (server, driver) = made.unwrap();
            let addr = ip(&server);
            if is_running {
                let driver = smol::spawn(driver);
                let (client, log) = connect(addr.into(), &on_smol()).await;
                client.write(b"one").unwrap();
                log.until_len(3).await;
                driver.cancel().await;
                assert!(poll_once(server.wait_closed()).await.is_none());
                client.write(b"two").unwrap();
                log.until_len(6).await;
                client.close();
            } else {
                drop(driver);
            }
            assert!(!server.is_serving());
            let refused = std::net::TcpStream::connect(addr).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            within(server.wait_closed()).await;
        }
    });
}

#[test]
fn a_connection_that_nobody_drives_is_closed() {
    smol_within(async {
        let made = create_server_with_driver(echo, local(), drop).await;
        let (server, driver) = made.unwrap();
        let driver = smol::spawn(driver);
        for _ in 0..2 {
            let (client, log) = connect(server.local_addrs()[0], &on_smol()).await;
            within(client.closed()).await.unwrap();
            assert_eq!(log.events(), [Event::Made, Event::Eof, Event::Lost(None)]);
            assert!(server.is_serving() && server.connections() == 0);
        }
        server.close();
        within(driver).await;
        within(server.wait_closed()).await;
    });
}

/// Runs `body` beside an executor of several threads.
fn with_executor(body: impl FnOnce(Arc<Executor<'static>>)) {
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = smol::channel::unbounded::<()>();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            thread::spawn(move || {
                let _ = smol::block_on(executor.run(stopped.recv()));
            })
        })
        .collect();
    body(executor);
    drop(stop);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn connections_echo_on_an_executor_of_several_threads() {
    const CLIENTS: u8 = 16;
    let folder = tempfile::tempdir().unwrap();
    with_executor(|executor| {
        let spawn: Spawn = {
            let executor = executor.clone();
            Arc::new(move |future| executor.spawn(future).detach())
        };
        for server in smol_within(servers(&folder, &spawn)) {
            let addr = server.local_addrs()[0];
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let spawn = spawn.clone();
                    executor.spawn(async move {
                        let (client, log) = connect(addr, &spawn).await;
                        let mut expected = Vec::new();
                        for round in 0..100 {
                            let message = [number, round].repeat(1 + usize::from(round) * 50);
                            client.write(&message).unwrap();
                            expected.extend(message);
                            log.until_len(expected.len()).await;
                        }
                        assert!(log.data() == expected);
                        client
                    })
                })
                .collect();
            let clients: Vec<_> = clients.into_iter().map(smol_within).collect();
            assert_eq!(server.connections(), usize::from(CLIENTS));
            server.close();
            server.close_clients();
            smol_within(server.wait_closed());
            for client in clients {
                smol_within(client.closed()).unwrap();
            }
        }
    });
}

#[test]
fn serve_forever_leaves_no_connection_behind_on_an_executor_of_several_threads() {
    for round in 0..60 {
        with_executor(|executor| {
            let spawning = executor.clone();
            let spawning = move |driver| spawning.spawn(driver).detach();
            let made = create_server_with_driver(echo, local().backlog(1_000), spawning);
            let (server, driver) = smol_within(made).unwrap();
            executor.spawn(driver).detach();
            let mut serving = Box::pin(server.serve_forever());
            assert!(smol::block_on(poll_once(&mut serving)).is_none());
            let addr = ip(&server);
            let held = Arc::new(AtomicUsize::new(0));
            // They connect and stay until the server ends the connection.
            let clients = [(); 4].map(|()| {
                let held = held.clone();
                thread::spawn(move || {
                    let mut clients = Vec::new();
                    while clients.len() < 100 {
                        match std::net::TcpStream::connect_timeout(&addr, PATIENCE) {
                            Ok(client) => clients.push(client),
                            Err(_) => break,
                        }
                        held.fetch_add(1, Ordering::Relaxed);
                    }
                    for mut client in clients {
                        client.set_read_timeout(Some(PATIENCE)).unwrap();
                        // Closing a listener, Linux forgets some that are half-way: those learn
                        // of it when they write.
                        let written = client.write_all(b"?");
                        match written.and_then(|()| client.read_to_end(&mut Vec::new())) {
                            Ok(len) => assert!(len <= 1),
                            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock),
                        }
                    }
                })
            });
            while held.load(Ordering::Relaxed) < round {
                thread::yield_now();
            }
            server.close();
            smol_within(serving).unwrap();
            assert_eq!(server.connections(), 0);
            clients
                .into_iter()
                .for_each(|client| client.join().unwrap());
        });
    }
}
