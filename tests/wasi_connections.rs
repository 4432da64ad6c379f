//! Connections in a component whose peers vanish or do not read.
#![cfg(target_os = "wasi")]

mod common;

use std::future::pending;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, settle, within};
use coracle::net::{TcpListener, TcpStream};
use coracle::time::sleep;
use coracle::{
    create_connection, create_server, spawn, yield_now, Server, TcpOptions, TcpServerOptions,
    Transport,
};
use futures_lite::future::zip;
use wasip2::io::streams::{InputStream, OutputStream};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket as RawSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

/// A TCP server on loopback, that records with `log`.
async fn server(protocol: impl FnMut() -> Recorder + 'static) -> (Server, SocketAddr) {
    let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
    let server = within(create_server(protocol, options)).await.unwrap();
    let addr = server.local_addrs()[0].as_ip().unwrap();
    (server, addr)
}

/// A connection to `addr` that records.
async fn connection(log: &Log, addr: SocketAddr) -> Transport {
    let options = TcpOptions::new().remote_addr(addr);
    let made = create_connection(|| Recorder::new(log), options);
    within(made).await.unwrap().0
}

/// Where tests/wasi_host.rs listens, which resets connections as no peer in a component can: what
/// is dropped there ends its direction first.
const RESETTER: &str = "CORACLE_TEST_RESETTER";

/// The other end of a connection, which vanishes.
enum Peer {
    /// Obeys a second connection.
    Native(std::net::TcpStream),
    Own(InputStream, #[allow(dead_code)] OutputStream, RawSocket),
}

impl Peer {
    /// Connects with `options`, which a listener is added to.
    async fn connect(log: &Log) -> (Transport, Peer) {
        let connect = |addr: SocketAddr| async move {
            let options = TcpOptions::new().remote_addr(addr);
            let made = create_connection(|| Recorder::new(log).keeping_open(), options);
            within(made).await.unwrap().0
        };
        if let Ok(addr) = std::env::var(RESETTER) {
            let transport = connect(addr.parse().unwrap()).await;
            let control = std::net::TcpStream::connect(addr).unwrap();
            return (transport, Peer::Native(control));
        }
        let listener = create_tcp_socket(IpAddressFamily::Ipv4).unwrap();
        let local = Ipv4SocketAddress {
            port: 0,
            address: (127, 0, 0, 1),
        };
        let start = listener.start_bind(&instance_network(), IpSocketAddress::Ipv4(local));
        start.and_then(|()| listener.finish_bind()).unwrap();
        listener.start_listen().unwrap();
        listener.finish_listen().unwrap();
        let Ok(IpSocketAddress::Ipv4(addr)) = listener.local_address() else {
            panic!("it was bound to IPv4");
        };
        let transport = connect((Ipv4Addr::LOCALHOST, addr.port).into()).await;
        listener.subscribe().block();
        let (socket, input, output) = listener.accept().unwrap();
        (transport, Peer::Own(input, output, socket))
    }

    /// Ends its direction.
    fn end(&mut self) {
        match self {
            Peer::Native(control) => control.write_all(b"e").unwrap(),
            Peer::Own(_, _, socket) => socket.shutdown(ShutdownType::Send).unwrap(),
        }
    }

    /// Resets the connection; one of our own can but close it without having read all.
    fn vanish(self) {
        match self {
            Peer::Native(mut control) => control.write_all(b"r").unwrap(),
            Peer::Own(input, ..) => assert_eq!(input.blocking_read(1).unwrap().len(), 1),
        }
    }
}

#[test]
fn a_peer_that_vanishes_is_told_at_each_stage_of_a_connection() {
    let stages: &[&str] = match std::env::var(RESETTER) {
        Ok(_) => &[
            "idle",
            "paused",
            "full",
            "half closed",
            "half open",
            "closing",
        ],
        Err(_) => &["paused", "full", "half open", "closing"],
    };
    for stage in stages {
        block_on_within(async {
            println!("{stage}");
            let log = Log::new();
            let (transport, mut peer) = Peer::connect(&log).await;
            transport.write(b"ab").unwrap();
            if ["paused", "full", "closing"].contains(stage) {
                transport.write(&vec![7; 20_000_000]).unwrap();
            }
            match *stage {
                "paused" => transport.pause_reading(),
                "half closed" => transport.write_eof().unwrap(),
                "half open" => {
                    peer.end();
                    log.until_event(Event::Eof).await;
                }
                "closing" => transport.close(),
                _ => {}
            }
            settle().await;
            peer.vanish();
            // There is nothing to read any longer that could tell.
            while *stage == "half open" && !transport.is_closing() {
                let _ = transport.write(b"more");
                sleep(Duration::from_millis(1)).await;
            }
            log.until_lost().await;
            let Some(Event::Lost(Some(kind))) = log.events().pop() else {
                panic!("{:?}", log.events());
            };
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&kind), "{kind:?}");
            assert_eq!(transport.closed().await.unwrap_err().kind(), kind);
        });
    }
}

#[test]
fn a_server_outlives_clients_that_vanish() {
    block_on_within(async {
        let (server, addr) = server(|| Recorder::echoing(&Log::new())).await;
        for _ in 0..20 {
            let client = TcpStream::connect(addr).await.unwrap();
            client.write_all(&[7; 100_000]).await.unwrap();
            // Half of the echo is read.
            client.read(&mut [0; 50_000]).await.unwrap();
        }
        while server.connections() > 0 {
            settle().await;
        }
        let log = Log::new();
        let client = connection(&log, addr).await;
        client.write(b"still").unwrap();
        log.until_len(5).await;
        assert_eq!(server.accept_errors(), 0);
    });
}

#[test]
fn what_was_written_arrives_though_the_stream_is_dropped_at_once() {
    block_on_within(async {
        for len in [1, 50_000] {
            let (one, two) = pair().await;
            let written = one.try_write(&vec![7; len]).unwrap();
            drop(one);
            assert_eq!(read_all(&two).await, written);
        }
    });
}

#[test]
fn what_was_written_arrives_though_the_connection_is_closed_at_once() {
    block_on_within(async {
        for len in [1, 1_000_000, 10_000_000] {
            let log = Log::new();
            let recorder = log.clone();
            let (_server, addr) = server(move || Recorder::new(&recorder)).await;
            let client = connection(&Log::new(), addr).await;
            client.write(&vec![7; len]).unwrap();
            client.close();
            within(client.closed()).await.unwrap();
            drop(client);
            log.until_lost().await;
            assert_eq!(log.data().len(), len);
            assert_eq!(log.events().pop(), Some(Event::Lost(None)));
        }
    });
}

/// A connection and its other end.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (one, two) = zip(TcpStream::connect(addr), listener.accept()).await;
    let (one, two) = (one.unwrap(), two.unwrap().0);
    one.writable().await.unwrap();
    settle().await;
    (one, two)
}

/// The same with all written that the host takes while nobody reads, and how much that is.
async fn full() -> (TcpStream, TcpStream, usize) {
    let (one, two) = pair().await;
    let data = [7; 50_000];
    let mut taken = 0;
    loop {
        match one.try_write(&data) {
            Ok(len) => taken += len,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return (one, two, taken);
            }
        }
    }
}

/// How much there is to read up to the end.
async fn read_all(socket: &TcpStream) -> usize {
    let mut buf = vec![0; 100_000];
    let mut got = 0;
    loop {
        match within(socket.read(&mut buf)).await.unwrap() {
            0 => return got,
            len => got += len,
        }
    }
}

#[test]
fn a_connection_whose_peer_does_not_read_is_dropped_without_holding_up_the_rest() {
    block_on_within(async {
        let mut silent = Vec::new();
        for _ in 0..5 {
            let (one, two, taken) = full().await;
            drop(one);
            silent.push((two, taken));
            settle().await;
        }
        // All that was taken comes, whenever it is wanted, and then the end.
        for (two, taken) in &silent {
            assert_eq!(read_all(two).await, *taken);
        }
    });
}

#[test]
fn a_connection_whose_peer_does_not_read_is_aborted_without_holding_up_the_rest() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let log = Log::new();
        let transport = connection(&log, listener.local_addr().unwrap().as_ip().unwrap()).await;
        let (silent, _) = within(listener.accept()).await.unwrap();
        transport.write(&vec![7; 20_000_000]).unwrap();
        // As much as the host takes.
        let mut size = 0;
        while size != transport.write_buffer_size() {
            size = transport.write_buffer_size();
            settle().await;
        }
        transport.abort();
        within(transport.closed()).await.unwrap();
        settle().await;
        assert_eq!(transport.dropped(), size as u64);
        // On 0.3 a piece may be under way between us and the host, for which nothing waits then.
        let (got, given) = (read_all(&silent).await, 20_000_000 - size);
        assert!(got <= given && got + 65_536 >= given, "{got} of {given}");
    });
}

#[test]
fn peers_that_do_not_read_cannot_use_up_what_the_host_has() {
    block_on_within(async {
        let mut silent = Vec::new();
        for count in 0..300 {
            let (one, two) = pair().await;
            one.set_send_buffer_size(16_384).unwrap();
            let mut taken = 0;
            while let Ok(len) = one.try_write(&[7; 50_000]) {
                taken += len;
            }
            match count % 3 {
                0 => drop(one),
                _ => spawn(async move { drop(one) }).detach(),
            }
            silent.push((two, taken));
        }
        // There is still room for others.
        let (one, two) = pair().await;
        one.write_all(b"hello").await.unwrap();
        assert_eq!(within(two.read(&mut [0; 8])).await.unwrap(), 5);
        // The first have been cut off, if the host had not even taken all; not the last.
        for index in [0, 1, 2, 297, 298, 299] {
            let (two, taken) = &silent[index];
            let got = read_all(two).await;
            assert!(got <= *taken);
            assert!(got == *taken || index < 3, "{got} of {taken} at {index}");
        }
    });
}

#[test]
fn a_runtime_ends_though_a_peer_does_not_read() {
    // The peer outlives the runtime that the connection ends with.
    let (peer, taken) = block_on_within(async {
        let (connection, peer, taken) = full().await;
        let keep = async move {
            pending::<()>().await;
            drop(connection);
        };
        spawn(keep).detach();
        yield_now().await;
        (peer, taken)
    });
    // Even so, what was taken is not lost.
    assert_eq!(block_on_within(read_all(&peer)), taken);
}
