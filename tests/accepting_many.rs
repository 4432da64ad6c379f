//! Accepting many connections, and with few descriptors, in processes of their own.
#![cfg(target_os = "linux")]

mod common;
#[path = "peers/process.rs"]
mod process;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::server::{ip, local, until_left};
use common::stream::{Event, Log, Recorder};
use common::{in_process, raw_code, within};
use coracle::net::{TcpListener, TcpStream};
use coracle::time::sleep;
use coracle::{create_connection, create_server, create_unix_connection, create_unix_server};
use coracle::{spawn, yield_now, Address, Server, TcpOptions, Transport};
use coracle::{UnixOptions, UnixServerOptions};
use process::tool;

/// A program with so many descriptors.
fn limited(mut command: Command, program: &Path, descriptors: usize) -> Command {
    let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(program);
    command
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The total of strace's table.
fn total(summary: &Path) -> u64 {
    let text = fs::read_to_string(summary).unwrap();
    let line = text.lines().find(|line| line.ends_with(" total")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_server_without_descriptors_rests_and_then_goes_on() {
    const TEST: &str = "a_server_without_descriptors_rests_and_then_goes_on";
    const STARVED: &str = "CORACLE_TEST_STARVED";
    if let Ok(millis) = std::env::var(STARVED) {
        return coracle::block_on(starve(Duration::from_millis(millis.parse().unwrap())));
    }
    let folder = tempfile::tempdir().unwrap();
    let [short, long] = ["0", "1300"].map(|millis| {
        let summary = folder.path().join(millis);
        let traced = |program: &Path| {
            let mut strace = tool("strace", "strace");
            strace.args(["-f", "-c", "-o"]).arg(&summary).arg("sh");
            strace.env(STARVED, millis);
            limited(strace, program, 48)
        };
        in_process(TEST, traced, || unreachable!("it has returned above"));
        total(&summary)
    });
    let calls = long.saturating_sub(short);

    assert!(calls < 50, "{calls} system calls in a second of waiting");
}

/// A server and a listener that have run out of descriptors, for so long.
async fn starve(time: Duration) {
    let server = create_server(|| Recorder::echoing(&Log::new()), local())
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener_addr = listener.local_addr().unwrap().as_ip().unwrap();
    let clients = [ip(&server), ip(&server), listener_addr].map(|addr| {
        let ipv4 = socket2::Domain::IPV4;
        (
            socket2::Socket::new(ipv4, socket2::Type::STREAM, None).unwrap(),
            addr,
        )
    });
    // What is opened when it is first used.
    yield_now().await;
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    let clients = clients.map(|(socket, addr)| {
        socket.connect(&addr.into()).unwrap();
        socket
    });
    within(async {
        while server.accept_errors() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let error = server.last_accept_error().unwrap();
    assert!(error.to_string().contains("accept"), "{error}");
    for _ in 0..2 {
        let error = within(listener.accept()).await.unwrap_err();
        assert_eq!(raw_code(&error), Some(libc::EMFILE));
    }
    sleep(time).await;
    let errors = server.accept_errors();
    assert!(errors <= 1 + time.as_secs() + 1, "{errors}");
    assert!(server.is_serving() && server.connections() == 0);
    drop(hoard);
    let (taken, _) = within(listener.accept()).await.unwrap();
    spawn(async move {
        let mut buf = [0; 8];
        let len = taken.read(&mut buf).await.unwrap();
        taken.write_all(&buf[..len]).await.unwrap();
    })
    .detach();
    for socket in clients {
        let client = TcpStream::try_from(socket).unwrap();
        within(client.write_all(b"patient")).await.unwrap();
        let mut buf = [0; 8];
        assert_eq!(within(client.read(&mut buf)).await.unwrap(), 7);
    }
}

/// An echoing server whose protocols each hold a token: TCP, or Unix at a path.
async fn server(path: Option<&Path>, backlog: u32, token: &Arc<()>) -> Server {
    let token = token.clone();
    let factory = move || {
        let token = token.clone();
        Recorder::reacting(&Log::new(), move |transport, event| {
            let _ = &token;
            match event {
                Event::Data(data) => transport.write(data),
                _ => Ok(()),
            }
        })
    };
    match path {
        None => create_server(factory, local().backlog(1_000)).await,
        Some(path) => {
            let options = UnixServerOptions::new().path(path).backlog(backlog);
            create_unix_server(factory, options).await
        }
    }
    .unwrap()
}

async fn connect(addr: Address) -> (Transport, Log) {
    let log = Log::new();
    let recorder = || Recorder::new(&log);
    let (transport, _) = match addr {
        Address::Ip(_) => {
            let options = TcpOptions::new().remote_addr(addr);
            within(create_connection(recorder, options)).await.unwrap()
        }
        Address::Unix(_) => {
            let options = UnixOptions::new().path(addr);
            within(create_unix_connection(recorder, options))
                .await
                .unwrap()
        }
    };
    (transport, log)
}

/// A message of its own for each connection, and back.
async fn exchange(addr: Address, number: usize, rounds: usize) -> Transport {
    let (client, log) = connect(addr).await;
    let message = number.to_string().repeat(50);
    for round in 1..=rounds {
        client.write(message.as_bytes()).unwrap();
        log.until_len(message.len() * round).await;
    }
    assert_eq!(log.data(), message.repeat(rounds).into_bytes());
    client
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    const TEST: &str = "ten_thousand_connections_leave_nothing_behind";
    const GROUP: usize = 100;
    in_process(
        TEST,
        |program| Command::new(program),
        || {
            coracle::block_on(async {
                let folder = tempfile::tempdir().unwrap();
                for path in [None, Some(&*folder.path().join("server"))] {
                    let token = Arc::new(());
                    // Who finds the backlog full tries again.
                    let server = server(path, 10, &token).await;
                    let addr = server.local_addrs()[0];
                    exchange(addr, 0, 1).await.close();
                    until_left(&server, 0).await;
                    let before = (descriptors(), Arc::strong_count(&token));
                    for number in 0..5_000 {
                        let client = exchange(addr, number, 1).await;
                        client.close();
                        within(client.closed()).await.unwrap();
                    }
                    for group in 0..5_000 / GROUP {
                        let connecting: Vec<_> = (0..GROUP)
                            .map(|number| spawn(exchange(addr, group * GROUP + number, 1)))
                            .collect();
                        let mut clients = Vec::new();
                        for client in connecting {
                            clients.push(client.await);
                        }
                        assert_eq!(server.connections(), GROUP);
                        match group % 2 {
                            0 => clients.iter().for_each(Transport::close),
                            _ => server.close_clients(),
                        }
                        until_left(&server, 0).await;
                        for client in clients {
                            within(client.closed()).await.unwrap();
                        }
                    }
                    assert_eq!(server.accept_errors(), 0);
                    assert_eq!((descriptors(), Arc::strong_count(&token)), before);
                }
            });
        },
    );
}

#[test]
fn a_thousand_connections_are_served_side_by_side() {
    const TEST: &str = "a_thousand_connections_are_served_side_by_side";
    let roomy = |program: &Path| limited(Command::new("sh"), program, 4_096);
    in_process(TEST, roomy, || {
        coracle::block_on(async {
            let folder = tempfile::tempdir().unwrap();
            for path in [None, Some(&*folder.path().join("server"))] {
                let server = server(path, 1_000, &Arc::default()).await;
                let addr = server.local_addrs()[0];
                let clients: Vec<_> = (0..1_000)
                    .map(|number| spawn(exchange(addr, number, 10)))
                    .collect();
                let mut transports = Vec::new();
                for client in clients {
                    transports.push(client.await);
                }
                assert_eq!(server.connections(), 1_000);
                server.close();
                server.close_clients();
                within(server.wait_closed()).await;
            }
        });
    });
}
