//! Streams with async methods: what TCP's and Unix' have in common.

mod common;

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::Shutdown;
#[cfg(not(target_os = "wasi"))]
use std::time::Duration;

use common::sockets::{kind, on_both, pattern};
use coracle::spawn;
#[cfg(not(target_os = "wasi"))]
use coracle::yield_now;
use futures_lite::future::poll_once;
use futures_lite::{io as aio, StreamExt};

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

#[cfg(not(target_os = "wasi"))]
#[test]
fn more_slices_than_the_system_takes_do_not_make_what_is_left_wait() {
    on_both!(|a, b| {
        let data = pattern(5000);
        a.write_all(&data).await.unwrap();
        b.readable().await.unwrap();
        let mut read: Vec<u8> = Vec::new();
        while read.len() < 5000 {
            let mut bytes = [0; 2000];
            let mut slices: Vec<_> = bytes.chunks_mut(1).map(IoSliceMut::new).collect();
            let len = match poll_once(b.read_vectored(&mut slices)).await {
                Some(len) => len.unwrap(),
                // Every so often a task has to yield; twice would be a wait.
                None => poll_once(b.read_vectored(&mut slices))
                    .await
                    .unwrap()
                    .unwrap(),
            };
            read.extend(&bytes[..len]);
        }
        assert!(read == data);
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

#[cfg(not(target_os = "wasi"))]
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
            .read_with(|_| Err::<(), _>(std::io::Error::other("mine")))
            .await;
        assert_eq!(mine.unwrap_err().to_string(), "mine");
    });
}

// A WASI host sends the end of a connection before it resets it.
#[cfg(not(target_os = "wasi"))]
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
    common::block_on_within(async {
        let (a, b) = common::sockets::tcp_pair().await;
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
fn options_come_back_as_they_were_set() {
    on_both!(|a, _b| {
        #[cfg(target_os = "wasi")]
        for error in [a.linger().unwrap_err(), a.set_linger(None).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("linger"), "{error}");
        }
        #[cfg(not(target_os = "wasi"))]
        assert_eq!(a.linger().unwrap(), None);
        #[cfg(not(target_os = "wasi"))]
        for linger in [Some(Duration::from_secs(3)), Some(Duration::ZERO), None] {
            a.set_linger(linger).unwrap();
            assert_eq!(a.linger().unwrap(), linger);
        }
        a.set_send_buffer_size(20_000).unwrap();
        assert!(a.send_buffer_size().unwrap() >= 20_000);
        a.set_recv_buffer_size(20_000).unwrap();
        assert!(a.recv_buffer_size().unwrap() >= 20_000);
    });
}

#[cfg(unix)]
#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    use common::stream::Recorder;
    use coracle::net::UnixStream;
    use coracle::{connect_accepted_socket, AcceptedOptions};
    use futures_lite::AsyncWriteExt;
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::Command;

    const NAME: &str = "a_peer_that_is_gone_is_an_error_and_no_signal";
    let unix = || {
        let (a, b) = UnixStream::pair().unwrap();
        drop(b);
        a
    };
    let body = async {
        // SAFETY: no handler is installed; the default is to end the process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let file = std::fs::File::open("/dev/null").unwrap();
        let slices = [IoSlice::new(b"x"), IoSlice::new(b"y")];
        for result in [
            unix().write(b"x").await,
            unix().try_write(b"x"),
            unix().write_vectored(&slices).await,
            unix().try_write_vectored(&slices),
            unix().send_fds(b"x", &[file.as_fd()]).await,
            AsyncWriteExt::write(&mut unix(), b"x").await,
        ] {
            assert_eq!(kind(result), ErrorKind::BrokenPipe);
        }
        let (tcp, peer) = common::sockets::tcp_pair().await;
        drop(peer);
        // The first bytes find out.
        while tcp.write(b"x").await.is_ok() {
            yield_now().await;
        }
        assert_eq!(kind(tcp.write(b"x").await), ErrorKind::BrokenPipe);
        let log = common::stream::Log::new();
        let protocol = || Recorder::new(&log).keeping_open();
        let sock = OwnedFd::try_from(unix()).unwrap();
        let made = connect_accepted_socket(protocol, sock, AcceptedOptions::new()).await;
        let (transport, _) = made.unwrap();
        transport.write(b"x").unwrap();
        assert_eq!(kind(transport.closed().await), ErrorKind::BrokenPipe);
    };
    common::in_process(
        NAME,
        |program| Command::new(program),
        || common::block_on_within(body),
    );
}
