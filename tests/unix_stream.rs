//! What only Unix streams have: names, credentials, descriptors, and listeners that are full.
#![cfg(unix)]

mod common;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::path::Path;
#[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
use std::process::Command;

#[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
use common::in_process;
use common::{block_on_within, raw_code};
use coracle::net::{UnixListener, UnixStream};
use coracle::{spawn, yield_now, Address};
use futures_lite::future::poll_once;
use futures_lite::StreamExt;
use rustix::io::FdFlags;

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn socket2_unix(kind: socket2::Type) -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::UNIX, kind, None).unwrap()
}

/// A listener at which `backlog` connections, or a few more, may wait.
#[cfg(target_os = "linux")]
fn listening(path: &Path, backlog: i32) -> UnixListener {
    let socket = socket2_unix(socket2::Type::STREAM);
    socket
        .bind(&socket2::SockAddr::unix(path).unwrap())
        .unwrap();
    socket.listen(backlog).unwrap();
    socket.try_into().unwrap()
}

#[test]
fn listeners_have_names_and_clients_have_none() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(addr.as_unix().unwrap().as_path(), Some(path.as_path()));
        assert_eq!(kind(listener.try_accept()), ErrorKind::WouldBlock);
        let text = path.to_str().unwrap();
        let clients = [
            UnixStream::connect(&path).await.unwrap(),
            UnixStream::connect(text).await.unwrap(),
            UnixStream::connect(text.as_bytes()).await.unwrap(),
            UnixStream::connect(addr).await.unwrap(),
        ];
        for client in &clients {
            let (server, from) = listener.accept().await.unwrap();
            assert_eq!(
                (from, server.peer_addr().unwrap()),
                (Address::UNNAMED, Address::UNNAMED)
            );
            assert_eq!(client.local_addr().unwrap(), Address::UNNAMED);
            assert_eq!(client.peer_addr().unwrap(), addr);
            assert_eq!(server.local_addr().unwrap(), addr);
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 1);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_names_are_names_too() {
    block_on_within(async {
        let name = format!("@coracle-test-{}-stream", std::process::id());
        let listener = UnixListener::bind(&name).unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(addr.to_string(), name);
        let mut bytes = name.clone().into_bytes();
        bytes[0] = 0;
        for client in [
            UnixStream::connect(&name).await.unwrap(),
            UnixStream::connect(&bytes[..]).await.unwrap(),
        ] {
            assert_eq!(client.peer_addr().unwrap(), addr);
            assert_eq!(listener.accept().await.unwrap().1, Address::UNNAMED);
        }
        assert_eq!(kind(UnixListener::bind(&name)), ErrorKind::AddrInUse);
        drop(listener);
        assert_eq!(
            kind(UnixStream::connect(&name).await),
            ErrorKind::ConnectionRefused
        );
        UnixListener::bind(&name).unwrap();
    });
}

#[test]
fn the_name_of_a_client_is_known_even_if_it_is_gone() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let (path, own) = (folder.path().join("listener"), folder.path().join("client"));
        let listener = UnixListener::bind(&path).unwrap();
        let client = socket2_unix(socket2::Type::STREAM);
        client
            .bind(&socket2::SockAddr::unix(&own).unwrap())
            .unwrap();
        client
            .connect(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        let client = UnixStream::try_from(client).unwrap();
        let addr = client.local_addr().unwrap();
        client.write_all(b"last words").await.unwrap();
        drop(client);
        let (server, from) = listener.accept().await.unwrap();
        assert_eq!(from.as_unix().unwrap().as_path(), Some(own.as_path()));
        assert_eq!((from, server.peer_addr().unwrap()), (addr, addr));
        assert_eq!(server.read(&mut [0; 16]).await.unwrap(), 10);
        assert_eq!(server.read(&mut [0; 16]).await.unwrap(), 0);
        assert_eq!(server.peer_addr().unwrap(), addr);
    });
}

#[test]
fn connections_come_as_a_stream() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        let accepting = spawn(async move {
            let accepted: Vec<_> = listener.incoming().take(30).try_collect().await.unwrap();
            for (number, stream) in accepted.iter().enumerate() {
                stream.write_all(&[number as u8]).await.unwrap();
            }
        });
        let mut clients = Vec::new();
        for number in 0..30 {
            clients.push(UnixStream::connect(&path).await.unwrap());
            if number % 3 == 0 {
                yield_now().await;
            }
        }
        for (number, client) in clients.iter().enumerate() {
            let mut buf = [0; 8];
            assert_eq!(client.read(&mut buf).await.unwrap(), 1);
            assert_eq!(usize::from(buf[0]), number, "in the order of their coming");
        }
        accepting.await;
    });
}

#[test]
fn errors_name_the_path() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        drop(UnixListener::bind(at("stale")).unwrap());
        let _datagram = coracle::net::UnixDatagram::bind(at("datagram")).unwrap();
        for (name, expected) in [
            ("missing", Some(ErrorKind::NotFound)),
            ("file", Some(ErrorKind::ConnectionRefused)),
            ("stale", Some(ErrorKind::ConnectionRefused)),
            ("datagram", None),
        ] {
            let error = UnixStream::connect(at(name)).await.unwrap_err();
            assert!(
                error.to_string().contains(at(name).to_str().unwrap()),
                "{error}"
            );
            match expected {
                Some(expected) => assert_eq!(error.kind(), expected, "{error}"),
                None => assert_eq!(raw_code(&error), Some(libc::EPROTOTYPE), "{error}"),
            }
        }
        // A listener leaves alone what is there, be it its own of old, and what it has made.
        for (path, expected) in [
            (at("file"), ErrorKind::AddrInUse),
            (at("stale"), ErrorKind::AddrInUse),
            (at("missing").join("listener"), ErrorKind::NotFound),
        ] {
            let error = UnixListener::bind(&path).unwrap_err();
            assert_eq!(error.kind(), expected, "{error}");
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
    });
}

#[test]
fn what_is_no_unix_address_is_refused() {
    block_on_within(async {
        let refused = |error: io::Error| {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            error.to_string()
        };
        let long = "x/".repeat(100);
        let text = refused(UnixStream::connect(&long).await.unwrap_err());
        assert!(text.contains("at most"), "{text}");
        refused(UnixListener::bind(&long).unwrap_err());
        refused(UnixStream::connect("").await.unwrap_err());
        refused(UnixListener::bind("").unwrap_err());
        let ip = Address::from(([127, 0, 0, 1], 9));
        let text = refused(UnixStream::connect(ip).await.unwrap_err());
        assert!(text.contains("127.0.0.1:9"), "{text}");
        refused(UnixListener::bind(ip).unwrap_err());
        refused(UnixStream::connect(Address::UNNAMED).await.unwrap_err());
        // A string is a path, whatever it looks like.
        let error = UnixStream::connect("127.0.0.1:9").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

// Other systems refuse.
#[cfg(target_os = "linux")]
#[test]
fn connecting_waits_while_the_listener_is_full() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listener");
        let listener = listening(&path, 2);
        let mut waiting = Vec::new();
        for number in 0..20_u8 {
            let path = path.clone();
            waiting.push(spawn(async move {
                let stream = UnixStream::connect(path).await?;
                stream.write_all(&[number]).await.map(|()| stream)
            }));
        }
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(waiting.iter().filter(|task| !task.is_finished()).count() >= 17);
        let mut numbers = Vec::new();
        for _ in 0..20 {
            let (stream, _) = listener.accept().await.unwrap();
            let mut buf = [0];
            assert_eq!(stream.read(&mut buf).await.unwrap(), 1);
            numbers.push(buf[0]);
        }
        numbers.sort();
        assert!(numbers.into_iter().eq(0..20), "each once");
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(kind(listener.try_accept()), ErrorKind::WouldBlock);
    });
}

#[test]
fn a_pair_is_two_streams_without_names_connected_to_each_other() {
    block_on_within(async {
        let (a, b) = UnixStream::pair().unwrap();
        for stream in [&a, &b] {
            assert_eq!(stream.local_addr().unwrap(), Address::UNNAMED);
            assert_eq!(stream.peer_addr().unwrap(), Address::UNNAMED);
            let flags = stream.try_io(|socket| Ok(rustix::io::fcntl_getfd(&*socket)?));
            assert!(flags.unwrap().contains(FdFlags::CLOEXEC));
        }
        a.write_all(b"there").await.unwrap();
        b.write_all(b"and back").await.unwrap();
        assert_eq!(b.read(&mut [0; 16]).await.unwrap(), 5);
        assert_eq!(a.read(&mut [0; 16]).await.unwrap(), 8);
    });
}

#[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
#[test]
fn the_system_vouches_for_the_peer() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        // SAFETY: both only ask, and always succeed.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        for stream in [client, server, a, b] {
            let cred = stream.peer_cred().unwrap();
            assert_eq!((cred.uid, cred.gid), (uid, gid));
            if cfg!(target_os = "linux") {
                assert_eq!(cred.pid, Some(std::process::id() as i32));
            }
        }
    });
}

#[test]
fn streams_and_listeners_are_converted_both_ways_and_others_refused() {
    block_on_within(async {
        let (mut a, b) = UnixStream::pair().unwrap();
        for round in 0..5 {
            let mut buf = [0; 8];
            assert!(poll_once(a.read(&mut buf)).await.is_none(), "not blocking");
            b.write_all(b"to").await.unwrap();
            assert_eq!(a.read(&mut buf).await.unwrap(), 2);
            a.write_all(b"from").await.unwrap();
            assert_eq!(b.read(&mut buf).await.unwrap(), 4);
            a = match round {
                0 => coracle::net::Socket::try_from(a)
                    .unwrap()
                    .try_into()
                    .unwrap(),
                1 => socket2::Socket::try_from(a).unwrap().try_into().unwrap(),
                2 => OwnedFd::try_from(a).unwrap().try_into().unwrap(),
                #[cfg(feature = "async-io")]
                3 => {
                    type Std = std::os::unix::net::UnixStream;
                    let a = async_io::Async::<Std>::try_from(a).unwrap();
                    futures_lite::AsyncWriteExt::write_all(&mut &a, b"theirs")
                        .await
                        .unwrap();
                    assert_eq!(b.read(&mut buf).await.unwrap(), 6);
                    a.try_into().unwrap()
                }
                _ => {
                    let a = std::os::unix::net::UnixStream::try_from(a).unwrap();
                    a.set_nonblocking(false).unwrap();
                    a.try_into().unwrap()
                }
            };
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listener");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut listener = UnixListener::try_from(listener).unwrap();
        for round in 0..3 {
            assert!(poll_once(listener.accept()).await.is_none(), "not blocking");
            let _client = UnixStream::connect(&path).await.unwrap();
            listener.accept().await.unwrap();
            listener = match round {
                0 => OwnedFd::try_from(listener).unwrap().try_into().unwrap(),
                _ => std::os::unix::net::UnixListener::try_from(listener)
                    .unwrap()
                    .try_into()
                    .unwrap(),
            };
        }
    });
    let unix = |kind| OwnedFd::from(socket2_unix(kind));
    let tcp = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    for (fd, twin, text) in [
        (
            unix(socket2::Type::DGRAM),
            unix(socket2::Type::DGRAM),
            "datagram",
        ),
        (tcp(), tcp(), "IP socket"),
        #[cfg(target_os = "linux")]
        (
            unix(socket2::Type::SEQPACKET),
            unix(socket2::Type::SEQPACKET),
            "no stream",
        ),
    ] {
        for error in [
            UnixStream::try_from(fd).unwrap_err(),
            UnixListener::try_from(twin).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}

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
        assert!(poll_once(b.readable()).await.is_some() && b.try_read(&mut [0]).is_err());
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

/// How many descriptors this process has.
#[cfg(target_os = "linux")]
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
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

// illumos knows no flag against the signal: there it is ignored, as std has it.
#[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    use common::stream::Recorder;
    use coracle::{connect_accepted_socket, AcceptedOptions};
    use futures_lite::AsyncWriteExt;

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
        let slices = [io::IoSlice::new(b"x"), io::IoSlice::new(b"y")];
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
        let listener = coracle::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let tcp = coracle::net::TcpStream::connect(addr).await.unwrap();
        drop(listener.accept().await.unwrap());
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
    in_process(
        NAME,
        |program| Command::new(program),
        || block_on_within(body),
    );
}
