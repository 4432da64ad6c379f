//! Accepting: many connections, few descriptors, and peers that do not behave.

mod common;
#[path = "peers/process.rs"]
mod process;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, within, PATIENCE};
use coracle::net::{TcpListener, TcpStream};
use coracle::time::timeout;
use coracle::{create_server, spawn, yield_now, Server, TcpServerOptions, Transport};
use futures_lite::future::poll_once;
use futures_lite::StreamExt;

fn local() -> TcpServerOptions {
    TcpServerOptions::new().local_addr("127.0.0.1:0")
}

fn ip(server: &Server) -> SocketAddr {
    server.local_addrs()[0].as_ip().unwrap()
}

/// A connection whose end is a reset.
fn resetting(addr: SocketAddr) -> StdTcpStream {
    let client = StdTcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    client
}

#[cfg(target_os = "linux")]
mod in_a_process_of_its_own {
    use super::*;

    use std::fs::{self, File};
    use std::path::Path;
    use std::process::Command;

    use super::common::{in_process, raw_code};
    use super::process::tool;
    use coracle::time::sleep;
    use coracle::{create_connection, create_unix_connection, create_unix_server};
    use coracle::{Address, TcpOptions, UnixOptions, UnixServerOptions};

    async fn until_left(server: &Server, count: usize) {
        within(async {
            while server.connections() != count {
                yield_now().await;
            }
        })
        .await;
    }

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
        const TEST: &str =
            "in_a_process_of_its_own::a_server_without_descriptors_rests_and_then_goes_on";
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
        const TEST: &str = "in_a_process_of_its_own::ten_thousand_connections_leave_nothing_behind";
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
        const TEST: &str =
            "in_a_process_of_its_own::a_thousand_connections_are_served_side_by_side";
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
}

/// A server that records all its connections into one log, and the last transport.
async fn recording(
    log: &Log,
    reaction: impl FnMut(&Transport, &Event) -> io::Result<()> + Clone + Send + 'static,
) -> (Server, Arc<Mutex<Option<Transport>>>) {
    let (log, last) = (log.clone(), Arc::default());
    let made: Arc<Mutex<Option<Transport>>> = Arc::clone(&last);
    let factory = move || {
        let (made, mut reaction) = (made.clone(), reaction.clone());
        Recorder::reacting(&log, move |transport, event| {
            *made.lock().unwrap() = Some(transport.clone());
            reaction(transport, event)
        })
    };
    (within(create_server(factory, local())).await.unwrap(), last)
}

const RESET: Event = Event::Lost(Some(ErrorKind::ConnectionReset));

#[cfg(target_os = "linux")] // what others tell of a connection that is gone already varies
#[test]
fn a_peer_that_resets_before_it_is_accepted_disturbs_nobody() {
    block_on_within(async {
        let log = Log::new();
        let (server, last) = recording(&log, |_, _| Ok(())).await;
        let client = resetting(ip(&server));
        let addr = client.local_addr().unwrap();
        drop(client);
        log.until_lost().await;
        assert_eq!(log.events(), [Event::Made, RESET]);
        let transport = last.lock().unwrap().take().unwrap();
        assert_eq!(transport.peer_addr(), Some(addr.into()));
        assert_eq!(server.accept_errors(), 0);
        assert!(server.is_serving());
    });
}

#[test]
fn a_peer_that_resets_is_lost_with_that_error_at_every_stage() {
    block_on_within(async {
        let log = Log::new();
        let (server, last) = recording(&log, |transport, event| match event {
            Event::Data(data) if data == b"pause" => {
                transport.pause_reading();
                Ok(())
            }
            Event::Data(data) if data == b"more" || data == b"close" => {
                transport.write(&vec![7; 32 << 20])?;
                if data == b"close" {
                    transport.close();
                }
                Ok(())
            }
            _ => Ok(()),
        })
        .await;
        let calls = |events: &[Event]| {
            let is_call = |event: &&Event| **event != Event::Pause;
            events.iter().filter(is_call).cloned().collect::<Vec<_>>()
        };
        for stage in ["", "half", "pause", "more", "close"] {
            let mut client = resetting(ip(&server));
            let mut expected = calls(&log.events());
            expected.push(Event::Made);
            log.until(|events| calls(events) == expected).await;
            if !stage.is_empty() {
                client.write_all(stage.as_bytes()).unwrap();
                expected.push(Event::Data(stage.into()));
                log.until(|events| calls(events) == expected).await;
            }
            let transport = last.lock().unwrap().take().unwrap();
            if stage == "pause" {
                assert!(!transport.is_reading());
                drop(client);
                common::settle().await;
                assert_eq!(calls(&log.events()), expected, "not yet");
                transport.resume_reading();
            } else {
                if stage == "more" || stage == "close" {
                    assert_eq!(client.read(&mut [0; 8]).unwrap(), 8);
                    assert!(transport.write_buffer_size() > 0);
                }
                drop(client);
            }
            let error = within(transport.closed()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{stage}");
            expected.push(RESET);
            assert_eq!(calls(&log.events()), expected, "{stage}");
            assert_eq!(transport.dropped() > 0, stage == "more" || stage == "close");
            assert_eq!(server.connections(), 0);
        }
        assert_eq!(server.accept_errors(), 0);
    });
}

#[test]
fn clients_that_leave_at_once_come_and_go() {
    const COUNT: usize = 500;
    block_on_within(async {
        let log = Log::new();
        let (server, _) = recording(&log, |_, _| Ok(())).await;
        let addr = ip(&server);
        let leaving = thread::spawn(move || {
            for _ in 0..COUNT {
                drop(StdTcpStream::connect(addr).unwrap());
            }
        });
        let count = |events: &[Event], wanted: Event| {
            events.iter().filter(|event| **event == wanted).count()
        };
        log.until(|events| count(events, Event::Lost(None)) == COUNT)
            .await;
        leaving.join().unwrap();
        assert_eq!(count(&log.events(), Event::Made), COUNT);
        assert_eq!(count(&log.events(), Event::Eof), COUNT);
        assert_eq!((server.connections(), server.accept_errors()), (0, 0));
    });
}

#[test]
fn a_server_can_be_closed_in_the_middle_of_a_storm() {
    /// Connects again and again, for one exchange each, as long as there is a server. No
    /// connection may be left without an end.
    fn storm(addr: SocketAddr, served: &AtomicUsize) {
        while let Ok(mut client) = StdTcpStream::connect_timeout(&addr, PATIENCE) {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buf = [0; 8];
            match client
                .write_all(b"storm")
                .and_then(|()| client.read(&mut buf))
            {
                Ok(0) => {}
                Ok(_) => {
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let kind = error.kind();
                    let is_end = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                    assert!(is_end.contains(&kind), "{error}");
                }
            }
        }
    }
    for round in 0..10 {
        block_on_within(async {
            let server = create_server(|| Recorder::echoing(&Log::new()), local());
            let server = server.await.unwrap();
            let addr = ip(&server);
            let served = Arc::new(AtomicUsize::new(0));
            let clients = [(); 4].map(|()| {
                let served = served.clone();
                thread::spawn(move || storm(addr, &served))
            });
            while served.load(Ordering::Relaxed) < 5 * round {
                yield_now().await;
            }
            server.close();
            server.close_clients();
            within(server.wait_closed()).await;
            assert_eq!(server.connections(), 0);
            clients
                .into_iter()
                .for_each(|client| client.join().unwrap());
            assert_eq!(server.accept_errors(), 0);
        });
    }
}

#[test]
fn a_listener_gives_its_connections_as_a_stream() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let error = listener.try_accept().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let mut incoming = listener.incoming();
        assert!(poll_once(incoming.next()).await.is_none());
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(TcpStream::connect(addr).await.unwrap());
        }
        let streams: Vec<_> = within(incoming.take(5).collect()).await;
        for (client, stream) in clients.iter().zip(streams) {
            let stream: TcpStream = stream.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), client.local_addr().unwrap());
            stream.write_all(b"hello").await.unwrap();
            assert_eq!(within(client.read(&mut [0; 8])).await.unwrap(), 5);
        }
        let late = TcpStream::connect(addr).await.unwrap();
        within(listener.readable()).await.unwrap();
        let (_, from) = listener.try_accept().unwrap();
        assert_eq!(from, late.local_addr().unwrap());
        assert_eq!(
            listener.try_accept().unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
    });
}

#[cfg(unix)]
#[test]
fn a_unix_listener_gives_its_connections_as_a_stream() {
    use coracle::net::{UnixListener, UnixStream};
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        let error = listener.try_accept().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let mut incoming = listener.incoming();
        assert!(poll_once(incoming.next()).await.is_none());
        for number in 0..5 {
            let client = UnixStream::connect(&path).await.unwrap();
            client.write_all(&[number]).await.unwrap();
            let stream: UnixStream = within(incoming.next()).await.unwrap().unwrap();
            let mut buf = [0; 8];
            assert_eq!(within(stream.read(&mut buf)).await.unwrap(), 1);
            assert_eq!(buf[0], number);
        }
        let _client = UnixStream::connect(&path).await.unwrap();
        within(listener.readable()).await.unwrap();
        let (_, from) = listener.try_accept().unwrap();
        assert!(from.as_unix().is_some_and(|from| from.is_unnamed()));
    });
}

#[test]
fn accepts_that_are_given_up_lose_no_connection() {
    const COUNT: usize = 600;
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().as_ip().unwrap();
        let connecting = thread::spawn(move || {
            let connect = |number: usize| {
                if number % 3 == 0 {
                    thread::sleep(Duration::from_micros(number as u64 % 7 * 40));
                }
                StdTcpStream::connect(addr).unwrap()
            };
            (0..COUNT).map(connect).collect::<Vec<_>>()
        });
        let (mut accepted, mut given_up) = (Vec::new(), 0);
        for round in 0.. {
            let span = Duration::from_micros(round % 11 * 13);
            match timeout(span, listener.accept()).await {
                Ok(result) => accepted.push(result.unwrap().1),
                Err(_) => given_up += 1,
            }
            if accepted.len() == COUNT {
                break;
            }
        }
        let clients = connecting.join().unwrap();
        let addrs = clients
            .iter()
            .map(|client| client.local_addr().unwrap().into());
        assert!(accepted.into_iter().eq(addrs), "each once and in order");
        assert!(given_up > 10, "{given_up}");
    });
}

#[test]
fn an_accept_that_is_given_up_leaves_the_connection_to_another() {
    block_on_within(async {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let addr = listener.local_addr().unwrap().as_ip().unwrap();
        for round in 0..100 {
            let mut first = Box::pin(listener.accept());
            assert!(poll_once(&mut first).await.is_none());
            let second = spawn({
                let listener = listener.clone();
                async move { listener.accept().await.unwrap() }
            });
            yield_now().await;
            let client = StdTcpStream::connect(addr).unwrap();
            for _ in 0..round % 4 {
                yield_now().await;
            }
            drop(first);
            let (_, from) = within(second).await;
            assert_eq!(from, client.local_addr().unwrap().into());
        }
    });
}
