//! Accepting: peers that do not behave, listeners, accepts that are given up.
// On WASI there are neither threads nor resets for such peers.
#![cfg(not(target_os = "wasi"))]

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::server::{ip, local};
use common::stream::{Event, Log, Recorder};
use common::{block_on_within, within, PATIENCE};
use coracle::net::{TcpListener, TcpStream};
use coracle::time::timeout;
use coracle::{create_server, spawn, yield_now, Server, Transport};
use futures_lite::future::poll_once;
use futures_lite::StreamExt;

/// A connection whose end is a reset.
fn resetting(addr: SocketAddr) -> StdTcpStream {
    let client = StdTcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    client
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
