//! Descriptors that go over Unix connections.
#![cfg(unix)]

mod common;
#[cfg(target_os = "linux")]
#[path = "common/giving_up.rs"]
mod giving_up;

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::process::Command;

use common::block_on_within;
#[cfg(target_os = "linux")]
use common::in_process;
use coracle::net::UnixStream;
use coracle::{spawn, yield_now};
use futures_lite::future::poll_once;
#[cfg(target_os = "linux")]
use giving_up::{descriptors, give_up_after};
use rustix::io::FdFlags;

/// A file to be sent, which shows when its last copy is closed: the other end reads the end.
fn pipe() -> (UnixStream, OwnedFd) {
    let (end, other) = UnixStream::pair().unwrap();
    (end, other.try_into().unwrap())
}

#[test]
fn descriptors_arrive_with_the_data_and_can_be_used() {
    block_on_within(async {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut buf, mut fds) = ([0; 64], Vec::new());
        assert!(poll_once(b.recv_fds(&mut buf, &mut fds)).await.is_none());
        let ((first, one), (second, two), (third, three)) = (pipe(), pipe(), pipe());
        let sent = a.send_fds(b"two", &[one.as_fd(), two.as_fd()]).await;
        assert_eq!(sent.unwrap(), 3);
        let received = b.recv_fds(&mut buf, &mut fds).await.unwrap();
        assert_eq!((received.len, received.truncated), (3, false));
        assert_eq!((&buf[..3], fds.len()), (&b"two"[..], 2));
        // What there is already stays.
        a.send_fds(b"more", &[three.as_fd()]).await.unwrap();
        drop((one, two, three));
        b.recv_fds(&mut buf, &mut fds).await.unwrap();
        assert_eq!(fds.len(), 3);
        for fd in &fds {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(FdFlags::CLOEXEC));
        }
        for (end, fd) in [first, second, third].iter().zip(fds) {
            let stream = UnixStream::try_from(fd).unwrap();
            stream.write_all(b"through it").await.unwrap();
            assert_eq!(end.read(&mut buf).await.unwrap(), 10);
        }
        drop(a);
        let end = b.recv_fds(&mut buf, &mut Vec::new()).await.unwrap();
        assert_eq!((end.len, end.truncated), (0, false));
    });
}

#[test]
fn a_read_ends_where_other_descriptors_begin() {
    block_on_within(async {
        let (a, b) = UnixStream::pair().unwrap();
        let (_one, fd_one) = pipe();
        let (_two, fd_two) = pipe();
        a.send_fds(b"one", &[fd_one.as_fd()]).await.unwrap();
        a.send_fds(b"two", &[fd_two.as_fd(), fd_one.as_fd()])
            .await
            .unwrap();
        a.write_all(b"three").await.unwrap();
        let mut buf = [0; 64];
        for (text, count) in [("one", 1), ("two", 2), ("three", 0)] {
            let mut fds = Vec::new();
            let received = b.recv_fds(&mut buf, &mut fds).await.unwrap();
            assert_eq!((&buf[..received.len], fds.len()), (text.as_bytes(), count));
        }
        // They come with the first byte, be it the only one that is read.
        a.send_fds(b"xy", &[fd_one.as_fd()]).await.unwrap();
        for count in [1, 0] {
            let mut fds = Vec::new();
            let received = b.recv_fds(&mut buf[..1], &mut fds).await.unwrap();
            assert_eq!((received.len, fds.len()), (1, count));
        }
    });
}

#[test]
fn as_many_descriptors_go_as_the_system_takes_and_never_without_data() {
    block_on_within(async {
        let (a, b) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let many = |count| vec![file.as_fd(); count];
        for (data, fds, text) in [
            (&b"x"[..], many(254), "254"),
            (b"", many(1), "byte"),
            (b"", many(0), "byte"),
        ] {
            let error = a.send_fds(data, &fds).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(b.try_read(&mut [0]).is_err(), "nothing was sent");
        let (mut buf, mut fds) = ([0; 8], Vec::new());
        a.send_fds(b"none", &[]).await.unwrap();
        assert_eq!(b.recv_fds(&mut buf, &mut fds).await.unwrap().len, 4);
        assert!(fds.is_empty());
        #[cfg(target_os = "linux")]
        {
            a.send_fds(b"all", &many(253)).await.unwrap();
            let received = b.recv_fds(&mut buf, &mut fds).await.unwrap();
            assert_eq!(
                (received.len, received.truncated, fds.len()),
                (3, false, 253)
            );
        }
    });
}

#[test]
fn descriptors_wait_for_room_as_data_does() {
    block_on_within(async {
        let (a, b) = UnixStream::pair().unwrap();
        let mut filled = 0;
        while let Ok(written) = a.try_write(&[0; 4096]) {
            filled += written;
        }
        let (end, fd) = pipe();
        let sending = spawn(async move { a.send_fds(b"at last", &[fd.as_fd()]).await });
        yield_now().await;
        assert!(!sending.is_finished());
        let mut fds = Vec::new();
        let (mut buf, mut read) = (vec![0; 65536], 0);
        while fds.is_empty() {
            read += b.recv_fds(&mut buf, &mut fds).await.unwrap().len;
        }
        assert_eq!(sending.await.unwrap(), 7);
        assert_eq!(read, filled + 7);
        drop(fds);
        assert_eq!(
            end.read(&mut buf).await.unwrap(),
            0,
            "its last copy was closed"
        );
    });
}

#[cfg(target_os = "linux")]
#[test]
fn descriptors_that_nobody_takes_are_closed() {
    const NAME: &str = "descriptors_that_nobody_takes_are_closed";
    let body = async {
        for way in 0..7 {
            let (a, b) = UnixStream::pair().unwrap();
            let (end, fd) = pipe();
            a.send_fds(b"fd", &[fd.as_fd(), fd.as_fd()]).await.unwrap();
            drop(fd);
            let (mut buf, mut fds) = ([0; 8], Vec::new());
            let before = descriptors();
            match way {
                0 => assert_eq!(b.read(&mut buf).await.unwrap(), 2),
                1 => assert_eq!(b.try_read(&mut buf).unwrap(), 2),
                2 => {
                    let read = futures_lite::AsyncReadExt::read(&mut &b, &mut buf).await;
                    assert_eq!(read.unwrap(), 2);
                }
                3 => {
                    assert_eq!(b.peek(&mut buf).await.unwrap(), 2);
                    assert_eq!(b.read(&mut buf).await.unwrap(), 2);
                }
                4 => {
                    b.recv_fds(&mut buf, &mut fds).await.unwrap();
                    assert_eq!(descriptors(), before + 2);
                    fds.clear();
                }
                5 => drop(b),
                _ => drop((a, b)),
            }
            assert!(descriptors() <= before, "way {way}");
            let len = end.read(&mut buf).await.unwrap();
            assert_eq!(len, 0, "way {way}: the last copy is closed");
        }
    };
    in_process(
        NAME,
        |program| Command::new(program),
        || block_on_within(body),
    );
}

#[cfg(target_os = "linux")]
#[test]
fn descriptors_that_may_not_be_opened_are_told_of() {
    const NAME: &str = "descriptors_that_may_not_be_opened_are_told_of";
    let body = async {
        let (a, b) = UnixStream::pair().unwrap();
        let (end, fd) = pipe();
        let (mut buf, mut fds) = ([0; 8], Vec::new());
        // What waiting needs is opened before there is nothing left.
        assert!(poll_once(b.recv_fds(&mut buf, &mut fds)).await.is_none());
        let limit = libc::rlimit {
            rlim_cur: 64,
            rlim_max: 64,
        };
        // SAFETY: the pointer is to a limit that outlives the call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let mut fillers = Vec::new();
        while let Ok(filler) = fd.try_clone() {
            fillers.push(filler);
        }
        for room in [0, 2] {
            fillers.truncate(fillers.len() - room);
            a.send_fds(b"five", &[fd.as_fd(); 5]).await.unwrap();
            let received = b.recv_fds(&mut buf, &mut fds).await.unwrap();
            assert_eq!(
                (received.len, received.truncated, fds.len()),
                (4, true, room)
            );
        }
        // The stream goes on, and nothing has been left open on the way.
        fds.clear();
        a.send_fds(b"two", &[fd.as_fd(); 2]).await.unwrap();
        let received = b.recv_fds(&mut buf, &mut fds).await.unwrap();
        assert_eq!((received.len, received.truncated, fds.len()), (3, false, 2));
        drop((fds, fillers, fd));
        assert_eq!(end.read(&mut buf).await.unwrap(), 0);
    };
    in_process(
        NAME,
        |program| Command::new(program),
        || block_on_within(body),
    );
}

#[cfg(target_os = "linux")]
#[test]
fn who_gives_up_neither_loses_descriptors_nor_leaves_them_open() {
    const NAME: &str = "who_gives_up_neither_loses_descriptors_nor_leaves_them_open";
    let body = async {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_send_buffer_size(4096).unwrap();
        let before = descriptors();
        let sending = spawn(async move {
            let (mut sent, mut given_up) = (Vec::new(), 0);
            for number in 0..400_usize {
                let (end, fd) = pipe();
                let data = number.to_le_bytes();
                let polls = number % 4;
                match give_up_after(polls, a.send_fds(&data, &[fd.as_fd()])).await {
                    Some(len) => {
                        assert_eq!(len.unwrap(), data.len());
                        sent.push((number, end));
                    }
                    None => {
                        given_up += usize::from(polls > 0);
                        drop(fd);
                        assert_eq!(end.try_read(&mut [0]).unwrap(), 0, "nobody else has it");
                    }
                }
            }
            assert!(given_up > 50, "{given_up}");
            sent
        });
        let (mut received, mut given_up) = (Vec::new(), 0);
        for round in 0.. {
            let (mut buf, mut fds) = ([0; 64], Vec::new());
            match give_up_after(round % 4, b.recv_fds(&mut buf, &mut fds)).await {
                Some(result) => match result.unwrap().len {
                    0 => break,
                    len => {
                        let number = usize::from_le_bytes(buf[..len].try_into().unwrap());
                        let fd = fds.pop().unwrap();
                        assert!(fds.is_empty());
                        received.push((number, UnixStream::try_from(fd).unwrap()));
                    }
                },
                None => {
                    assert!(fds.is_empty());
                    given_up += usize::from(round % 4 > 0);
                }
            }
            for _ in 0..round % 7 {
                yield_now().await;
            }
        }
        let sent = sending.await;
        assert!(given_up > 50, "{given_up}");
        assert_eq!(received.len(), sent.len());
        for ((number, end), (received, stream)) in sent.into_iter().zip(received) {
            assert_eq!(received, number, "each once and in order");
            stream.write_all(&[1]).await.unwrap();
            assert_eq!(end.try_read(&mut [0; 8]).unwrap(), 1);
            drop(stream);
            assert_eq!(
                end.try_read(&mut [0; 8]).unwrap(),
                0,
                "its last copy is closed"
            );
        }
        drop(b);
        assert_eq!(descriptors(), before - 2);
    };
    in_process(
        NAME,
        |program| Command::new(program),
        || block_on_within(body),
    );
}
