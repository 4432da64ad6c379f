//! Operations of streams and listeners that are given up half-way: nothing is lost, nothing is
//! done twice, nothing is left open.

mod common;
#[path = "common/giving_up.rs"]
mod giving_up;

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::pin::{pin, Pin};
use std::process::Command;
use std::rc::Rc;

use common::sockets::{on_both, pattern};
use common::{block_on_within, in_process, settle};
use coracle::net::{TcpListener, TcpStream};
use coracle::{spawn, yield_now};
use futures_lite::future::poll_once;
use futures_lite::{AsyncReadExt, AsyncWriteExt, StreamExt};
use giving_up::{
    descriptors, descriptors_come_down_to, give_up_after, give_up_when_woken, ways_to_give_up,
};

#[test]
fn reads_that_are_given_up_lose_nothing() {
    on_both!(|a, b| {
        let expected = pattern(300_000);
        let data = expected.clone();
        let writing = spawn(async move {
            for (i, chunk) in data.chunks(251).enumerate() {
                for _ in 0..i % 5 {
                    yield_now().await;
                }
                a.write_all(chunk).await.unwrap();
            }
        });
        let (mut received, mut given_up) = (Vec::<u8>::new(), 0);
        for round in 0.. {
            let (way, polls) = (round % 6, round / 6 % 4);
            let mut buf = [0; 350];
            let result = match way {
                0 => give_up_after(polls, b.read(&mut buf)).await,
                1 => {
                    let (front, back) = buf.split_at_mut(100);
                    let mut both = [IoSliceMut::new(front), IoSliceMut::new(back)];
                    give_up_after(polls, b.read_vectored(&mut both)).await
                }
                2 => give_up_after(polls, AsyncReadExt::read(&mut &b, &mut buf)).await,
                #[cfg(not(target_os = "wasi"))]
                3 => {
                    let reading = b.read_with(|socket| io::Read::read(&mut &*socket, &mut buf));
                    give_up_after(polls, reading).await
                }
                4 => give_up_after(polls, b.peek(&mut buf)).await,
                _ => {
                    let ready = give_up_after(polls, b.readable()).await;
                    ready.map(|ready| ready.and_then(|()| b.try_read(&mut buf)))
                }
            };
            match result {
                Some(Ok(0)) => break,
                Some(Ok(len)) if way == 4 => {
                    // It stays to be read.
                    assert_eq!(buf[..len], expected[received.len()..][..len]);
                }
                Some(Ok(len)) => received.extend(&buf[..len]),
                Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                None if polls > 0 => given_up += 1,
                None => {}
            }
        }
        writing.await;
        assert!(received == expected, "each byte once and in order");
        assert!(given_up > 100, "{given_up}");
    });
}

#[test]
fn writes_that_are_given_up_have_written_nothing() {
    on_both!(|a, b| {
        let reading = spawn(async move {
            let mut received = Vec::<u8>::new();
            let mut buf = vec![0; 5_000];
            loop {
                match b.read(&mut buf).await.unwrap() {
                    0 => break received,
                    len => received.extend(&buf[..len]),
                }
                for _ in 0..received.len() % 3 {
                    yield_now().await;
                }
            }
        });
        let (mut written, mut given_up) = (Vec::<u8>::new(), 0);
        // Until there is no room.
        while let Ok(len) = a.try_write(&[0; 1 << 16]) {
            written.resize(written.len() + len, 0);
        }
        for round in 0..3_000 {
            let (way, polls) = (round % 5, round / 5 % 4);
            // None is like the one before.
            let data = vec![(round % 251) as u8; 1_000 + round];
            let result = match way {
                0 => give_up_after(polls, a.write(&data)).await,
                1 => {
                    let (front, back) = data.split_at(round % 1_000);
                    let both = [IoSlice::new(front), IoSlice::new(back)];
                    give_up_after(polls, a.write_vectored(&both)).await
                }
                2 => give_up_after(polls, AsyncWriteExt::write(&mut &a, &data)).await,
                #[cfg(not(target_os = "wasi"))]
                3 => {
                    let writing = a.write_with(|socket| io::Write::write(&mut &*socket, &data));
                    give_up_after(polls, writing).await
                }
                _ => {
                    let ready = give_up_after(polls, a.writable()).await;
                    ready.map(|ready| ready.and_then(|()| a.try_write(&data)))
                }
            };
            match result {
                Some(Ok(len)) => written.extend(&data[..len]),
                Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                None if polls > 0 => given_up += 1,
                None => {}
            }
        }
        drop(a);
        assert!(
            reading.await == written,
            "no more and no less than was told"
        );
        assert!(given_up > 100, "{given_up}");
    });
}

#[test]
fn a_write_of_all_that_is_given_up_has_written_from_the_front() {
    // More than the system takes.
    let data = pattern(251).repeat(60_000);
    // A host takes 64 KiB at a time.
    let part = if cfg!(target_os = "wasi") {
        10_000
    } else {
        30_000
    };
    for polls in 0..6 {
        on_both!(|a, b| {
            let (mut received, mut buf) = (Vec::<u8>::new(), vec![0; part]);
            {
                let mut writing = pin!(a.write_all(&data));
                for _ in 0..polls {
                    assert!(poll_once(&mut writing).await.is_none());
                    // Makes room for a part.
                    let len = b.read(&mut buf).await.unwrap();
                    received.extend(&buf[..len]);
                }
            }
            drop(a);
            b.into_split().0.read_to_end(&mut received).await.unwrap();
            assert_eq!(received.is_empty(), polls == 0);
            assert!(data.starts_with(&received));
        });
    }
}

#[test]
fn who_gives_up_does_not_take_anothers_turn() {
    on_both!(|a, b| {
        let (a, b) = (Rc::new(a), Rc::new(b));
        // Patient or so fickle.
        let reader = |polls: Option<usize>| {
            let b = b.clone();
            spawn(async move {
                let (mut buf, mut received) = ([0; 3_000], 0);
                loop {
                    let result = match polls {
                        None => Some(b.read(&mut buf).await),
                        Some(polls) => give_up_after(polls, b.read(&mut buf)).await,
                    };
                    match result.map(Result::unwrap) {
                        Some(0) => break received,
                        Some(len) => received += len,
                        None => {}
                    }
                    yield_now().await;
                }
            })
        };
        let writer = |polls: Option<usize>| {
            let a = a.clone();
            spawn(async move {
                let mut written = 0;
                let data = vec![7; 20_000];
                for _ in 0..300 {
                    let result = match polls {
                        None => Some(a.write(&data).await),
                        Some(polls) => give_up_after(polls, a.write(&data)).await,
                    };
                    written += result.map_or(0, Result::unwrap);
                    yield_now().await;
                }
                written
            })
        };
        let writers = [writer(Some(1)), writer(None), writer(Some(2))];
        let readers = [reader(Some(2)), reader(None), reader(Some(1))];
        let (mut written, mut received) = (0, 0);
        for writer in writers {
            written += writer.await;
        }
        drop(a);
        for reader in readers {
            received += reader.await;
        }
        assert_eq!(received, written);
        assert!(written >= 300, "the patient one had all its turns");
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_stream_that_was_waited_for_in_vain_is_converted_as_any_other() {
    const NAME: &str = "a_stream_that_was_waited_for_in_vain_is_converted_as_any_other";
    in_process(
        NAME,
        |program| Command::new(program),
        || {
            on_both!(|a, b| {
                let before = descriptors();
                while b.try_write(&[0; 1 << 16]).is_ok() {}
                for polls in 0..4 {
                    assert!(give_up_after(polls, b.read(&mut [0])).await.is_none());
                    assert!(give_up_after(polls, b.write(&[0])).await.is_none());
                }
                let b = coracle::net::Socket::try_from(b).unwrap();
                assert_eq!(descriptors(), before, "it is the very same");
                drop((a, b));
                assert!(descriptors() < before);
            });
        },
    );
}

#[test]
fn accepts_that_are_given_up_lose_no_connection_and_leave_none_open() {
    const NAME: &str = "accepts_that_are_given_up_lose_no_connection_and_leave_none_open";
    macro_rules! accepting {
        ($listener:ident, $connect:expr) => {
            settle().await;
            let before = descriptors();
            let clients = spawn(async move {
                let mut clients = Vec::new();
                for number in 0..200_u8 {
                    let client = $connect.await.unwrap();
                    client.write_all(&[number]).await.unwrap();
                    clients.push(client);
                    for _ in 0..number % 5 {
                        yield_now().await;
                    }
                }
                clients
            });
            let (mut accepted, mut given_up) = (Vec::new(), 0);
            for round in 0.. {
                let polls = round / 3 % 4;
                let result = match round % 3 {
                    0 => give_up_after(polls, $listener.accept())
                        .await
                        .map(|result| result.map(|(stream, _)| stream)),
                    1 => give_up_after(polls, $listener.incoming().next())
                        .await
                        .map(Option::unwrap),
                    _ => {
                        let ready = give_up_after(polls, $listener.readable()).await;
                        ready.map(|_| $listener.try_accept().map(|(stream, _)| stream))
                    }
                };
                match result {
                    Some(Ok(stream)) => accepted.push(stream),
                    Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    None if polls > 0 => given_up += 1,
                    None => {}
                }
                if accepted.len() == 200 {
                    break;
                }
            }
            let clients = clients.await;
            for (number, stream) in (0..).zip(&accepted) {
                let mut buf = [0; 8];
                assert_eq!(stream.read(&mut buf).await.unwrap(), 1);
                assert_eq!(buf[0], number, "each once and in order");
            }
            assert!(given_up > 20, "{given_up}");
            drop((clients, accepted));
            assert!(descriptors() <= before);
        };
    }
    let body = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        accepting!(listener, TcpStream::connect(addr));
        #[cfg(unix)]
        {
            use coracle::net::{UnixListener, UnixStream};
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("listener");
            let listener = UnixListener::bind(&path).unwrap();
            accepting!(listener, UnixStream::connect(&*path));
        }
    };
    in_process(
        NAME,
        |program| Command::new(program),
        || block_on_within(body),
    );
}

type Making = Pin<Box<dyn Future<Output = io::Result<()>>>>;

fn making<T>(future: impl Future<Output = io::Result<T>> + 'static) -> Making {
    Box::pin(async { future.await.map(drop) })
}

/// A listener with a backlog that is full, and those who have filled it.
#[cfg(target_os = "linux")]
fn full_listener(path: &std::path::Path) -> Vec<socket2::Socket> {
    let socket =
        || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let addr = socket2::SockAddr::unix(path).unwrap();
    let mut sockets = vec![socket()];
    sockets[0].bind(&addr).unwrap();
    sockets[0].listen(1).unwrap();
    loop {
        let next = socket();
        next.set_nonblocking(true).unwrap();
        if next.connect(&addr).is_err() {
            return sockets;
        }
        sockets.push(next);
    }
}

#[test]
fn connecting_and_binding_leave_nothing_open_when_they_are_given_up() {
    const NAME: &str = "connecting_and_binding_leave_nothing_open_when_they_are_given_up";
    let body = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let named = ("localhost", addr.as_ip().unwrap().port());
        // How each is made, and whether it can be.
        #[allow(unused_mut)] // where there are no others
        let mut ways: Vec<(Box<dyn Fn() -> Making>, bool)> = vec![
            (Box::new(move || making(TcpStream::connect(addr))), true),
            (Box::new(move || making(TcpStream::connect(named))), true),
            (Box::new(|| making(TcpListener::bind("localhost:0"))), true),
        ];
        #[cfg(unix)]
        let folder = tempfile::tempdir().unwrap();
        #[cfg(unix)]
        let unix = {
            use coracle::net::{UnixListener, UnixStream};
            let path = folder.path().join("listener");
            let unix = UnixListener::bind(&path).unwrap();
            let connect = move || making(UnixStream::connect(path.clone()));
            ways.push((Box::new(connect), true));
            unix
        };
        // Elsewhere it is refused.
        #[cfg(target_os = "linux")]
        let _full = {
            let path = folder.path().join("full");
            let full = full_listener(&path);
            let connect = move || making(coracle::net::UnixStream::connect(path.clone()));
            ways.push((Box::new(connect), false));
            full
        };
        settle().await;
        let before = descriptors();
        for (number, (make, can_be)) in ways.iter().enumerate() {
            let mut made = 0;
            for when in ways_to_give_up() {
                let result = give_up_when_woken(when, make()).await;
                made += result.map_or(0, |result| result.map(|()| 1).unwrap());
                while let Ok((stream, _)) = listener.try_accept() {
                    // If it is not reset, it is closed.
                    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
                }
                #[cfg(unix)]
                while let Ok((stream, _)) = unix.try_accept() {
                    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
                }
                descriptors_come_down_to(before, (number, when)).await;
            }
            assert_eq!(made > 0, *can_be, "way {number}");
        }
    };
    in_process(
        NAME,
        |program| Command::new(program),
        || block_on_within(body),
    );
}
