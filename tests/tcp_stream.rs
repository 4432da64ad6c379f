//! Streams with async methods: what TCP's and Unix' have in common, and TCP's own.

mod common;

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::time::Duration;

use common::{block_on_within, raw_code};
use coracle::net::{Keepalive, TcpListener, TcpStream};
use coracle::{spawn, yield_now};
use futures_lite::future::poll_once;
use futures_lite::{io as aio, StreamExt};

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await;
    (client.unwrap(), listener.accept().await.unwrap().0)
}

/// The same with the two ends of a connection of either kind.
macro_rules! on_both {
    (|$a:ident, $b:ident| $body:block) => {
        block_on_within(async {
            let ($a, $b) = tcp_pair().await;
            $body
        });
        #[cfg(unix)]
        block_on_within(async {
            let ($a, $b) = coracle::net::UnixStream::pair().unwrap();
            $body
        });
    };
}

/// Bytes that show where one is missing or out of its place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn bytes_come_in_order_as_far_as_they_fit_and_then_the_end() {
    on_both!(|a, b| {
        a.write_all(b"abcdef").await.unwrap();
        assert_eq!(a.write(b"").await.unwrap(), 0);
        let mut buf = [0; 4];
        assert_eq!(b.read(&mut []).await.unwrap(), 0, "not the end");
        assert_eq!(b.read(&mut buf).await.unwrap(), 4);
        assert_eq!(&buf, b"abcd");
        assert_eq!(b.read(&mut buf).await.unwrap(), 2);
        assert_eq!(&buf[..2], b"ef");
        assert!(poll_once(b.read(&mut buf)).await.is_none());
        b.write_all(b"back").await.unwrap();
        assert_eq!(a.read(&mut buf).await.unwrap(), 4);
        drop(a);
        for _ in 0..3 {
            assert_eq!(b.read(&mut buf).await.unwrap(), 0);
            assert_eq!(b.try_read(&mut buf).unwrap(), 0);
        }
    });
}

#[test]
fn peeked_bytes_stay() {
    on_both!(|a, b| {
        let mut buf = [0; 8];
        assert!(poll_once(b.peek(&mut buf)).await.is_none());
        a.write_all(b"stays").await.unwrap();
        for _ in 0..3 {
            assert_eq!(b.peek(&mut buf).await.unwrap(), 5);
            assert_eq!(&buf[..5], b"stays");
        }
        assert_eq!(b.read(&mut buf).await.unwrap(), 5);
        drop(a);
        assert_eq!(b.peek(&mut buf).await.unwrap(), 0);
    });
}

#[test]
fn more_slices_than_the_system_takes_are_written_and_read_in_parts() {
    on_both!(|a, b| {
        let data = pattern(3_000);
        let slices: Vec<_> = data.chunks(1).map(IoSlice::new).collect();
        let (mut sent, mut back) = (0, vec![0; data.len()]);
        while sent < data.len() {
            sent += match sent % 2 {
                0 => a.write_vectored(&slices[sent..]).await.unwrap(),
                _ => a.try_write_vectored(&slices[sent..]).unwrap(),
            };
        }
        let mut into: Vec<_> = back.chunks_mut(1).map(IoSliceMut::new).collect();
        let mut got = 0;
        while got < data.len() {
            let read = b.read_vectored(&mut into[got..]).await.unwrap();
            assert!(read > 0, "the end after {got}");
            got += read;
        }
        let nothing = b.try_read_vectored(&mut into);
        assert_eq!(kind(nothing), ErrorKind::WouldBlock);
        assert!(back == data);
    });
}

#[test]
fn empty_slices_in_front_are_not_taken_for_the_end() {
    on_both!(|a, b| {
        let mut slices = vec![IoSlice::new(b""); 2_000];
        slices.push(IoSlice::new(b"xyz"));
        assert!(a.write_vectored(&slices).await.unwrap() > 0);
        a.write_all(b"more").await.unwrap();
        let (mut empty, mut buf) = (vec![[0; 0]; 2_000], [0; 2]);
        let mut slices: Vec<_> = empty.iter_mut().map(|e| IoSliceMut::new(e)).collect();
        slices.push(IoSliceMut::new(&mut buf));
        assert!(b.read_vectored(&mut slices).await.unwrap() > 0);
    });
}

#[test]
fn either_direction_can_be_shut_down() {
    on_both!(|a, b| {
        let mut buf = [0; 8];
        a.write_all(b"last").await.unwrap();
        a.shutdown(Shutdown::Write).unwrap();
        assert_eq!(kind(a.write(b"x").await), ErrorKind::BrokenPipe);
        assert_eq!(b.read(&mut buf).await.unwrap(), 4);
        assert_eq!(b.read(&mut buf).await.unwrap(), 0);
        // The other direction goes on.
        b.write_all(b"reply").await.unwrap();
        assert_eq!(a.read(&mut buf).await.unwrap(), 5);
        b.shutdown(Shutdown::Both).unwrap();
        assert_eq!(a.read(&mut buf).await.unwrap(), 0);
        assert_eq!(kind(b.write(b"x").await), ErrorKind::BrokenPipe);
        assert_eq!(b.read(&mut buf).await.unwrap(), 0);
    });
}

#[test]
fn the_tools_of_futures_io_work_on_streams_and_references() {
    use futures_lite::{AsyncReadExt, AsyncWriteExt};
    on_both!(|a, b| {
        let data = pattern(300_000);
        let echoing = spawn(async move {
            let echoed = aio::copy(&b, &b).await;
            let closed = (&b).close().await;
            (echoed, closed)
        });
        // By reference, then by value.
        let mut received = vec![0; 100_000];
        let (written, read) = futures_lite::future::zip(
            async { AsyncWriteExt::write_all(&mut &a, &data[..100_000]).await },
            async { (&a).read_exact(&mut received).await },
        )
        .await;
        written.and(read).unwrap();
        let (mut reader, mut writer) = aio::split(a);
        let (written, read) = futures_lite::future::zip(
            async {
                writer.write_all(&data[100_000..]).await?;
                writer.close().await?;
                // Again, it does nothing.
                writer.close().await
            },
            reader.read_to_end(&mut received),
        )
        .await;
        written.unwrap();
        assert_eq!(read.unwrap(), 200_000);
        assert!(received == data);
        let (echoed, closed) = echoing.await;
        closed.unwrap();
        assert_eq!(echoed.unwrap(), 300_000);
    });
}

#[test]
fn lines_and_slices_go_through_the_traits() {
    use futures_lite::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
    on_both!(|a, b| {
        let (mut a, mut b) = (a, b);
        let slices = [&b"one\n"[..], b"", b"two\nthr", b"ee"].map(IoSlice::new);
        assert_eq!(
            AsyncWriteExt::write_vectored(&mut a, &slices)
                .await
                .unwrap(),
            13
        );
        let (mut x, mut y) = ([0; 2], [0; 2]);
        let mut into = [IoSliceMut::new(&mut x), IoSliceMut::new(&mut y)];
        assert_eq!(
            AsyncReadExt::read_vectored(&mut b, &mut into)
                .await
                .unwrap(),
            4
        );
        assert_eq!((&x, &y), (b"on", b"e\n"));
        a.flush().await.unwrap();
        a.close().await.unwrap();
        assert_eq!(
            kind(AsyncWriteExt::write(&mut a, b"x").await),
            ErrorKind::BrokenPipe
        );
        let lines = aio::BufReader::new(b).lines();
        let lines: Vec<_> = lines.try_collect().await.unwrap();
        assert_eq!(lines, ["two", "three"]);
    });
}

#[test]
fn halves_work_in_tasks_of_their_own() {
    on_both!(|a, b| {
        let data = pattern(1 << 20);
        let expected = data.clone();
        let (read, write) = a.into_split();
        let writing = spawn(async move { write.write_all(&data).await });
        let reading = spawn(async move {
            let mut read = read;
            let mut back = Vec::new();
            let read = aio::AsyncReadExt::read_to_end(&mut read, &mut back).await;
            read.map(|_| back)
        });
        // The echo ends only when the writing half has been dropped.
        aio::copy(&b, &b).await.unwrap();
        writing.await.unwrap();
        drop(b);
        assert!(reading.await.unwrap() == expected);
    });
}

#[test]
fn halves_are_put_together_again_but_only_those_of_one_stream() {
    on_both!(|a, b| {
        let (a_read, a_write) = a.into_split();
        let (b_read, b_write) = b.into_split();
        let error = a_read.reunite(b_write).unwrap_err();
        assert!(error.to_string().contains("different streams"), "{error}");
        let (a_read, b_write) = (error.0, error.1);
        let error = a_write.reunite(b_read).unwrap_err();
        let (a_write, b_read) = (error.1, error.0);
        let a = a_read.reunite(a_write).unwrap();
        let b = b_write.reunite(b_read).unwrap();
        // Nothing was shut down on the way.
        let mut buf = [0; 8];
        assert!(poll_once(b.read(&mut buf)).await.is_none());
        a.write_all(b"whole").await.unwrap();
        assert_eq!(b.read(&mut buf).await.unwrap(), 5);
        // The reading half alone leaves writing as it is, and the other way round.
        let (read, write) = a.into_split();
        drop(read);
        write.write_all(b"half").await.unwrap();
        assert_eq!(b.read(&mut buf).await.unwrap(), 4);
        let (b_read, b_write) = b.into_split();
        drop(b_write);
        assert_eq!(write.read(&mut buf).await.unwrap(), 0);
        write.write_all(b"on").await.unwrap();
        assert_eq!(b_read.read(&mut buf).await.unwrap(), 2);
    });
}

#[test]
fn operations_of_the_users_own_wait_like_the_others() {
    on_both!(|a, b| {
        let mut buf = [std::mem::MaybeUninit::uninit(); 8];
        let mut reading = std::pin::pin!(b.read_with(|socket| socket.recv(&mut buf)));
        assert!(poll_once(&mut reading).await.is_none());
        let sent = a.write_with(|socket| socket.send(b"abc")).await;
        assert_eq!(sent.unwrap(), 3);
        assert_eq!(reading.await.unwrap(), 3);
        let mut buf = [std::mem::MaybeUninit::uninit(); 8];
        let nothing = b.try_io(|socket| socket.recv(&mut buf));
        assert_eq!(kind(nothing), ErrorKind::WouldBlock);
        a.write_all(b"to be readable").await.unwrap();
        let mine = b
            .read_with(|_| Err::<(), _>(io::Error::other("mine")))
            .await;
        assert_eq!(mine.unwrap_err().to_string(), "mine");
    });
}

#[test]
fn a_reset_is_an_error_and_no_end() {
    on_both!(|a, b| {
        let mut buf = [0; 8];
        assert!(poll_once(a.read(&mut buf)).await.is_none());
        assert!(a.take_error().unwrap().is_none());
        b.set_linger(Some(Duration::ZERO)).unwrap();
        // Unread data does the same to a Unix connection.
        a.write_all(b"unread").await.unwrap();
        drop(b);
        assert_eq!(kind(a.read(&mut buf).await), ErrorKind::ConnectionReset);
        let error = loop {
            if let Err(error) = a.write(b"anybody?").await {
                break error.kind();
            }
        };
        assert_eq!(error, ErrorKind::BrokenPipe);
    });
    block_on_within(async {
        let (a, b) = tcp_pair().await;
        b.set_linger(Some(Duration::ZERO)).unwrap();
        drop(b);
        let error = loop {
            if let Some(error) = a.take_error().unwrap() {
                break error;
            }
            yield_now().await;
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(a.take_error().unwrap().is_none(), "it was taken");
    });
}

#[test]
fn connections_are_made_over_both_families_and_by_name() {
    block_on_within(async {
        for local in ["127.0.0.1:0", "[::1]:0", "localhost:0"] {
            let listener = TcpListener::bind(local).await.unwrap();
            let addr = listener.local_addr().unwrap();
            let client = match local {
                "localhost:0" => {
                    TcpStream::connect(("localhost", addr.as_ip().unwrap().port())).await
                }
                _ => TcpStream::connect(addr).await,
            };
            let client = client.unwrap();
            let (server, from) = listener.accept().await.unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            assert_eq!(server.peer_addr().unwrap(), from);
            assert_eq!(client.peer_addr().unwrap(), addr);
            assert_eq!(server.local_addr().unwrap(), addr);
            for stream in [&client, &server] {
                assert!(stream.nodelay().unwrap(), "small writes go out at once");
            }
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 1);
        }
    });
}

// Elsewhere the system may forget a connection that is gone before it is accepted.
#[cfg(target_os = "linux")]
#[test]
fn the_peer_of_an_accepted_connection_is_known_even_if_it_is_gone() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let client = client.unwrap();
        let addr = client.local_addr().unwrap();
        client.set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let (server, from) = listener.accept().await.unwrap();
        assert_eq!((from, server.peer_addr().unwrap()), (addr, addr));
        assert!(
            server.try_io(|socket| socket.peer_addr()).is_err(),
            "the system has forgotten"
        );
    });
}

// What the wildcard stands for as a destination is Linux' own.
#[cfg(target_os = "linux")]
#[test]
fn the_peer_is_who_answered_not_what_was_asked_for() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let port = addr.as_ip().unwrap().port();
        let client = TcpStream::connect(("0.0.0.0", port)).await.unwrap();
        assert_eq!(client.peer_addr().unwrap(), addr);
    });
}

#[test]
fn connections_are_accepted_one_by_one_and_as_a_stream() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(kind(listener.try_accept()), ErrorKind::WouldBlock);
        assert!(poll_once(listener.accept()).await.is_none());
        let mut clients = Vec::new();
        for _ in 0..40 {
            let client = TcpStream::connect(addr).await.unwrap();
            clients.push(client.local_addr().unwrap());
            if clients.len() == 20 {
                listener.readable().await.unwrap();
                assert_eq!(listener.try_accept().unwrap().1, clients[0]);
            }
        }
        let accepted = listener
            .incoming()
            .take(39)
            .map(|stream| stream?.peer_addr());
        let accepted: Vec<_> = accepted.try_collect().await.unwrap();
        assert!(accepted == clients[1..]);
        let mut left = 100;
        let accepting = async {
            loop {
                left -= 1;
                assert!(left > 0, "it says ready again and again");
                listener.readable().await.unwrap();
                if let Ok(accepted) = listener.try_accept() {
                    break accepted;
                }
            }
        };
        assert!(poll_once(accepting).await.is_none());
    });
}

#[test]
fn errors_say_what_was_to_be_connected_or_bound() {
    block_on_within(async {
        // Taken, but nobody listens.
        let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let taken = taken.unwrap();
        taken
            .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        let addr = taken.local_addr().unwrap().as_socket().unwrap();
        let error = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(raw_code(&error).is_some() && error.to_string().contains(&addr.to_string()));
        let error = TcpStream::connect(("localhost", addr.port()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains("localhost"), "{error}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let error = TcpListener::bind(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");

        // No label is so long: the resolver need not ask anybody.
        let name = format!("{}.invalid:80", "x".repeat(70));
        for (target, expected) in [
            (&name[..], ErrorKind::NotFound),
            ("/a/path", ErrorKind::InvalidInput),
            ("localhost", ErrorKind::InvalidInput),
        ] {
            for error in [
                TcpStream::connect(target).await.unwrap_err(),
                TcpListener::bind(target).await.unwrap_err(),
            ] {
                assert_eq!(error.kind(), expected, "{error}");
                let is_named = error.to_string().contains(target.trim_end_matches(":80"));
                assert!(is_named || target == "/a/path", "{error}");
            }
        }
    });
}

#[test]
fn options_come_back_as_they_were_set() {
    on_both!(|a, _b| {
        assert_eq!(a.linger().unwrap(), None);
        for linger in [Some(Duration::from_secs(3)), Some(Duration::ZERO), None] {
            a.set_linger(linger).unwrap();
            assert_eq!(a.linger().unwrap(), linger);
        }
        a.set_send_buffer_size(20_000).unwrap();
        assert!(a.send_buffer_size().unwrap() >= 20_000);
        a.set_recv_buffer_size(20_000).unwrap();
        assert!(a.recv_buffer_size().unwrap() >= 20_000);
    });
    block_on_within(async {
        let (a, _b) = tcp_pair().await;
        for on in [false, true] {
            a.set_nodelay(on).unwrap();
            assert_eq!(a.nodelay().unwrap(), on);
        }
        a.set_ttl(17).unwrap();
        assert_eq!(a.ttl().unwrap(), 17);
        let error = a.set_ttl(256).unwrap_err();
        assert!(error.to_string().contains("ttl = 256"), "{error}");
        assert!(!a.keepalive().unwrap());
        a.set_keepalive(Some(Keepalive::new())).unwrap();
        assert!(a.keepalive().unwrap());
        a.set_keepalive(None).unwrap();
        assert!(!a.keepalive().unwrap());
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).await;
        let a = a.unwrap();
        a.set_ttl(17).unwrap();
        assert_eq!(a.ttl().unwrap(), 17);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_times_of_keepalive_reach_the_system() {
    block_on_within(async {
        let (a, _b) = tcp_pair().await;
        let seconds = Duration::from_secs;
        let times = Keepalive::new()
            .time(seconds(61))
            .interval(seconds(7))
            .retries(5);
        a.set_keepalive(Some(times)).unwrap();
        // What is not given stays.
        a.set_keepalive(Some(Keepalive::new().time(seconds(62))))
            .unwrap();
        let read_back = a.try_io(|socket| {
            let (time, interval) = (
                socket.tcp_keepalive_time()?,
                socket.tcp_keepalive_interval()?,
            );
            Ok((
                socket.keepalive()?,
                time,
                interval,
                socket.tcp_keepalive_retries()?,
            ))
        });
        assert_eq!(read_back.unwrap(), (true, seconds(62), seconds(7), 5));
    });
}

#[test]
fn what_is_accepted_by_a_listener_from_elsewhere_is_as_usual() {
    block_on_within(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut listener = TcpListener::try_from(listener).unwrap();
        for round in 0..3 {
            assert!(poll_once(listener.accept()).await.is_none(), "not blocking");
            let client = TcpStream::connect(listener.local_addr().unwrap()).await;
            let (server, from) = listener.accept().await.unwrap();
            assert_eq!(from, client.unwrap().local_addr().unwrap());
            assert!(server.nodelay().unwrap(), "as for all that coracle accepts");
            listener = match round {
                0 => std::net::TcpListener::try_from(listener)
                    .unwrap()
                    .try_into()
                    .unwrap(),
                _ => socket2::Socket::try_from(listener)
                    .unwrap()
                    .try_into()
                    .unwrap(),
            };
        }
    });
}

#[test]
fn streams_are_converted_both_ways_and_others_refused() {
    block_on_within(async {
        let (mut a, b) = tcp_pair().await;
        let names = (a.local_addr().unwrap(), a.peer_addr().unwrap());
        for round in 0..5 {
            let mut buf = [0; 8];
            assert!(poll_once(a.read(&mut buf)).await.is_none(), "not blocking");
            b.write_all(b"to").await.unwrap();
            assert_eq!(a.read(&mut buf).await.unwrap(), 2);
            a.write_all(b"from").await.unwrap();
            assert_eq!(b.read(&mut buf).await.unwrap(), 4);
            assert_eq!((a.local_addr().unwrap(), a.peer_addr().unwrap()), names);
            a = match round {
                0 => coracle::net::Socket::try_from(a)
                    .unwrap()
                    .try_into()
                    .unwrap(),
                1 => socket2::Socket::try_from(a).unwrap().try_into().unwrap(),
                #[cfg(unix)]
                2 => std::os::fd::OwnedFd::try_from(a)
                    .unwrap()
                    .try_into()
                    .unwrap(),
                #[cfg(feature = "async-io")]
                3 => {
                    let a = async_io::Async::<std::net::TcpStream>::try_from(a).unwrap();
                    aio::AsyncWriteExt::write_all(&mut &a, b"theirs")
                        .await
                        .unwrap();
                    assert_eq!(b.read(&mut buf).await.unwrap(), 6);
                    a.try_into().unwrap()
                }
                _ => {
                    let a = std::net::TcpStream::try_from(a).unwrap();
                    a.set_nonblocking(false).unwrap();
                    a.try_into().unwrap()
                }
            };
        }
    });
    let datagram = || socket2::Socket::from(common::std_udp());
    for error in [
        TcpStream::try_from(datagram()).unwrap_err(),
        TcpListener::try_from(datagram()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("datagram"), "{error}");
    }
    #[cfg(unix)]
    {
        let (unix, other) = std::os::unix::net::UnixStream::pair().unwrap();
        for error in [
            TcpStream::try_from(socket2::Socket::from(unix)).unwrap_err(),
            TcpListener::try_from(socket2::Socket::from(other)).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("Unix"), "{error}");
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(TcpStream::try_from(std::os::fd::OwnedFd::from(file)).is_err());
    }
}
