//! Bad input and faults, in a component: what the host refuses or lacks, peers that vanish, and
//! more than it has room for. A host that is misused ends the program, so each test also shows
//! that it goes on.
#![cfg(target_os = "wasi")]

mod common;

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use common::stream::{Log as StreamLog, Recorder as StreamRecorder};
use common::{
    block_on_within, close, dead_addr, echoing, ip, local_v4, recording, refusal, settle, std_udp,
    to, within, Event, Log,
};
use coracle::net::{Family, SendBatch, TcpListener, TcpStream, UdpSocket};
use coracle::time::sleep;
use coracle::{
    create_connection, create_server, spawn, Address, DatagramOptions, Server, TcpOptions,
    TcpServerOptions, Transport,
};
use futures_lite::future::poll_once;

/// Of a network that is set aside for documents: no machine's own.
const ELSEWHERE: &str = "192.0.2.1:0";

/// The largest datagram over IPv4.
const LARGEST: usize = 65_507;

/// The error's kind and words are as wanted.
#[track_caller]
fn assert_error<T: Debug>(result: io::Result<T>, kind: ErrorKind, words: &[&str]) {
    let error = result.expect_err("it cannot work");
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} in {error}");
    }
}

/// What making a TCP server with these options is refused with.
async fn no_server(options: TcpServerOptions) -> io::Result<()> {
    let log = StreamLog::new();
    let made = create_server(move || StreamRecorder::new(&log), options);
    within(made).await.map(|_| ())
}

/// What connecting with these options is refused with.
async fn no_connection(options: TcpOptions) -> io::Result<()> {
    let made = create_connection(|| StreamRecorder::new(&StreamLog::new()), options);
    within(made).await.map(|_| ())
}

/// A TCP server on loopback, that records with `log`.
async fn server(protocol: impl FnMut() -> StreamRecorder + 'static) -> (Server, SocketAddr) {
    let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
    let server = within(create_server(protocol, options)).await.unwrap();
    let addr = server.local_addrs()[0].as_ip().unwrap();
    (server, addr)
}

/// A connection to `addr` that records.
async fn connection(log: &StreamLog, addr: SocketAddr) -> Transport {
    let options = TcpOptions::new().remote_addr(addr);
    let made = create_connection(|| StreamRecorder::new(log), options);
    within(made).await.unwrap().0
}

#[test]
fn an_address_in_use_is_refused_by_name_and_stays_with_its_owner() {
    block_on_within(async {
        let echo = echoing(local_v4()).await;
        let addr = ip(&echo).to_string();
        let in_use = |result| assert_error(result, ErrorKind::AddrInUse, &[&addr, "bind"]);
        in_use(UdpSocket::bind(&addr[..]).await.map(|_| ()));
        in_use(Err(
            refusal(DatagramOptions::new().local_addr(&addr[..])).await
        ));
        // A socket that could not be bound may still be.
        let socket = UdpSocket::unbound(Family::Inet).await.unwrap();
        in_use(socket.bind_to(&addr.parse().unwrap()).await);
        socket
            .bind_to(&"127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();

        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(b"still", &ip(&echo).into()).await.unwrap();
        let mut buf = [0; 8];
        assert_eq!(within(socket.recv(&mut buf)).await.unwrap(), 5);
    });
}

#[test]
fn a_listeners_address_in_use_is_refused_by_name_and_stays_with_its_owner() {
    block_on_within(async {
        let log = StreamLog::new();
        let recorder = log.clone();
        let (_server, addr) = server(move || StreamRecorder::new(&recorder)).await;
        let text = addr.to_string();
        let in_use = |result| assert_error(result, ErrorKind::AddrInUse, &[&text]);
        in_use(TcpListener::bind(addr).await.map(|_| ()));
        in_use(no_server(TcpServerOptions::new().local_addr(addr)).await);
        let both = TcpServerOptions::new()
            .local_addr("127.0.0.1:0")
            .local_addr(addr);
        in_use(no_server(both).await);

        let client = connection(&StreamLog::new(), addr).await;
        client.write(b"still").unwrap();
        log.until_len(5).await;
    });
}

#[test]
fn an_address_that_is_another_machines_is_refused_by_name() {
    block_on_within(async {
        let elsewhere = |result| assert_error(result, ErrorKind::AddrNotAvailable, &[ELSEWHERE]);
        elsewhere(UdpSocket::bind(ELSEWHERE).await.map(|_| ()));
        elsewhere(Err(
            refusal(DatagramOptions::new().local_addr(ELSEWHERE)).await
        ));
        elsewhere(TcpListener::bind(ELSEWHERE).await.map(|_| ()));
        elsewhere(no_server(TcpServerOptions::new().local_addr(ELSEWHERE)).await);
        let options = TcpOptions::new()
            .local_addr(ELSEWHERE)
            .remote_addr("127.0.0.1:9");
        elsewhere(no_connection(options).await);
    });
}

#[test]
fn ipv6_works_as_ipv4_does() {
    block_on_within(async {
        let local = || DatagramOptions::new().local_addr("[::1]:0");
        let echo = echoing(local()).await;
        let log = Log::new();
        let (client, _) = recording(&log, to(ip(&echo))).await;
        client.send(b"over six").unwrap();
        log.until_received(1).await;
        let from = ip(&echo).into();
        assert_eq!(log.events()[1], Event::Received(b"over six".to_vec(), from));

        let log = StreamLog::new();
        let options = TcpServerOptions::new().local_addr("[::1]:0");
        let echo = create_server(|| StreamRecorder::echoing(&StreamLog::new()), options);
        let server = within(echo).await.unwrap();
        let addr = server.local_addrs()[0].as_ip().unwrap();
        assert!(addr.is_ipv6());
        let client = connection(&log, addr).await;
        client.write(b"over six").unwrap();
        log.until_len(8).await;
        assert_eq!(client.peer_addr(), Some(addr.into()));
    });
}

/// A host need not bear such a destination; it is not asked.
#[track_caller]
fn assert_refused_here(error: io::Error, addr: &str) {
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{addr}: {error}");
    let text = error.to_string();
    assert!(text.contains(addr), "{addr} in {text}");
    assert!(!text.contains("invalid-argument"), "the host said: {text}");
}

#[test]
fn datagrams_to_what_is_no_peer_are_refused_before_the_host_is_asked() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let log = Log::new();
        let (endpoint, _) = recording(&log, local_v4()).await;
        // No port, no address, another family.
        for text in [
            "127.0.0.1:0",
            "0.0.0.0:9",
            "[::1]:9",
            "[::ffff:127.0.0.1]:9",
        ] {
            let addr: Address = text.parse().unwrap();
            assert_refused_here(socket.send_to(b"x", &addr).await.unwrap_err(), text);
            assert_refused_here(socket.try_send_to(b"x", &addr).unwrap_err(), text);
            assert_refused_here(socket.connect(addr).await.unwrap_err(), text);
            let mut batch = SendBatch::new();
            batch.push(b"x", &addr);
            assert_refused_here(socket.send_batch(&mut batch).await.unwrap_err(), text);
            let before = log.errors().len();
            match endpoint.send_to(b"x", &addr) {
                Err(error) => assert_refused_here(error, text),
                Ok(()) => {
                    log.until_errors(before + 1).await;
                    let (kind, said) = log.errors().pop().unwrap();
                    assert_refused_here(io::Error::new(kind, said), text);
                }
            }
        }
        // It has harmed neither.
        let addr = endpoint.local_addr().unwrap();
        within(socket.send_to(b"fine", &addr)).await.unwrap();
        log.until_received(1).await;
    });
}

#[test]
fn connections_to_what_is_no_peer_are_refused_before_the_host_is_asked() {
    block_on_within(async {
        for text in [
            "127.0.0.1:0",
            "0.0.0.0:9",
            "[::1]:0",
            "[::]:9",
            "[::ffff:127.0.0.1]:9",
        ] {
            assert_refused_here(TcpStream::connect(text).await.unwrap_err(), text);
            let options = TcpOptions::new().remote_addr(text);
            assert_refused_here(no_connection(options).await.unwrap_err(), text);
            let options = DatagramOptions::new().remote_addr(text);
            assert_refused_here(refusal(options).await, text);
        }
    });
}

#[test]
fn a_connect_that_the_host_refuses_leaves_the_socket_as_it_was() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let other = std_udp();
        other.send_to(b"before", addr.as_ip().unwrap()).unwrap();
        // Broadcast, for which there is no option.
        let error = socket.connect("255.255.255.255:9").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let mut buf = [0; 8];
        let (len, from) = within(socket.recv_from(&mut buf)).await.unwrap();
        assert_eq!(&buf[..len], b"before");
        within(socket.send_to(b"after", &from)).await.unwrap();
        assert_eq!(other.recv(&mut buf).unwrap(), 5);
        assert_eq!(socket.local_addr().unwrap(), addr);
    });
}

#[test]
fn datagrams_may_be_empty_and_as_large_as_they_get_but_no_larger() {
    block_on_within(async {
        let log = Log::new();
        let (endpoint, _) = recording(&log, local_v4()).await;
        let addr = endpoint.local_addr().unwrap();
        let data = vec![7; LARGEST + 1];
        for len in [0, LARGEST] {
            endpoint.send_to(&data[..len], &addr).unwrap();
        }
        endpoint.send_to(&data, &addr).unwrap();
        log.until_errors(1).await;
        log.until_received(2).await;
        let lens: Vec<_> = log.received().iter().map(Vec::len).collect();
        assert_eq!(lens, [0, LARGEST]);
        let (kind, said) = log.errors().pop().unwrap();
        assert_eq!(kind, ErrorKind::InvalidInput);
        let words = ["datagram-too-large", "65508 bytes", &addr.to_string()];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");

        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let result = within(socket.send_to(&data, &addr)).await;
        assert_error(result, ErrorKind::InvalidInput, &["datagram-too-large"]);
        // In a batch, those before it go.
        let mut batch = SendBatch::new();
        for len in [1, LARGEST + 1, 2] {
            batch.push(&data[..len], &addr);
        }
        within(socket.send_batch(&mut batch)).await.unwrap();
        let result = within(socket.send_batch(&mut batch)).await;
        assert_error(result, ErrorKind::InvalidInput, &["datagram-too-large"]);
        log.until_received(3).await;
    });
}

#[test]
fn a_flood_beyond_the_hosts_buffers_leaves_the_endpoints_working() {
    block_on_within(async {
        let echo = echoing(local_v4()).await;
        let log = Log::new();
        let (victim, _) = recording(&log, local_v4()).await;
        // Nobody gets a turn meanwhile. The echoes go where nobody reads.
        let flooder = std_udp();
        let data = [7; 1_000];
        for _ in 0..5_000 {
            flooder.send_to(&data, ip(&echo)).unwrap();
            flooder.send_to(&data, ip(&victim)).unwrap();
            victim.send_to(&data, &ip(&echo).into()).unwrap();
        }
        log.until_received(100).await;
        settle().await;
        // Whatever has been lost: what comes now is not.
        let is_last = |event: &Event| matches!(event, Event::Received(data, _) if data == b"last");
        let came = log.until(|events| events.iter().any(is_last));
        let tries = async {
            loop {
                victim.send_to(b"last", &ip(&echo).into()).unwrap();
                sleep(Duration::from_millis(5)).await;
            }
        };
        futures_lite::future::or(came, tries).await;
        assert_eq!(log.errors(), []);
        close(&victim).await;
    });
}

#[test]
fn an_unreachable_port_is_told_and_the_endpoint_lives() {
    block_on_within(async {
        let addr = dead_addr();
        let log = Log::new();
        let (endpoint, _) = recording(&log, to(addr)).await;
        for count in 1..=3 {
            endpoint.send(b"anybody?").unwrap();
            log.until_errors(count).await;
        }
        let refused = |(kind, _): &(ErrorKind, String)| *kind == ErrorKind::ConnectionRefused;
        assert!(log.errors().iter().all(refused), "{:?}", log.errors());

        let late = UdpSocket::bind(addr).await.unwrap();
        endpoint.send(b"now?").unwrap();
        let mut buf = [0; 8];
        let (len, from) = within(late.recv_from(&mut buf)).await.unwrap();
        assert_eq!(&buf[..len], b"now?");
        within(late.send_to(b"yes", &from)).await.unwrap();
        log.until_received(1).await;
        assert_eq!(log.received(), [b"yes"]);
    });
}

#[test]
fn an_unreachable_port_is_told_to_a_socket_once_for_each_datagram() {
    block_on_within(async {
        let addr = dead_addr();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(addr).await.unwrap();
        for _ in 0..3 {
            within(socket.send(b"anybody?")).await.unwrap();
            let result = within(socket.recv(&mut [0; 8])).await;
            assert_error(
                result,
                ErrorKind::ConnectionRefused,
                &["connection-refused"],
            );
        }
        // Nor is there anybody for a connection.
        let text = addr.to_string();
        let result = within(TcpStream::connect(addr)).await;
        assert_error(result, ErrorKind::ConnectionRefused, &[&text]);
        let result = no_connection(TcpOptions::new().remote_addr(addr)).await;
        assert_error(result, ErrorKind::ConnectionRefused, &[&text]);
    });
}

#[test]
fn as_many_sockets_as_the_host_allows_are_opened_polled_and_dropped() {
    for _ in 0..2 {
        block_on_within(async {
            let mut sockets = Vec::new();
            while sockets.len() < 2_000 {
                match UdpSocket::bind("127.0.0.1:0").await {
                    Ok(socket) => sockets.push(socket),
                    // The host's own limit of open files. Some room for the rest of the test.
                    Err(error) => {
                        println!("{error} after {} sockets", sockets.len());
                        sockets.truncate(sockets.len() - 20);
                        break;
                    }
                }
            }
            assert!(sockets.len() > 200, "{}", sockets.len());
            let mut buf = [0; 8];
            for socket in &sockets {
                assert!(poll_once(socket.recv(&mut buf)).await.is_none());
            }
            sleep(Duration::from_millis(2)).await;
            let last = sockets.last().unwrap();
            let addr = last.local_addr().unwrap();
            within(sockets[0].send_to(b"ping", &addr)).await.unwrap();
            assert_eq!(within(last.recv(&mut buf)).await.unwrap(), 4);
            // Some go with the tasks that wait for them.
            for socket in sockets.drain(..100) {
                spawn(async move { socket.recv(&mut [0; 8]).await }).detach();
            }
            settle().await;
        });
    }
}
