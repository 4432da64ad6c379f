//! What only Unix streams have: names, credentials, and listeners that are full.
#![cfg(unix)]

mod common;

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::path::Path;

use common::sockets::kind;
use common::{block_on_within, left_behind, raw_code};
use coracle::net::{UnixListener, UnixStream};
use coracle::{spawn, yield_now, Address};
use futures_lite::future::poll_once;
use futures_lite::StreamExt;
use rustix::io::FdFlags;

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
        left_behind(at("stale"));
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

/// As in a container, with a socket of the host's. The peer's process number is 0 there, of which
/// its credentials consist, too.
#[cfg(target_os = "linux")]
#[test]
fn a_peer_in_another_pid_namespace_has_no_pid() {
    const LISTENER: &str = "CORACLE_TEST_LISTENER";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("listener");
    if std::env::var_os(LISTENER).is_none() {
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let peer = move || {
            let stream = UnixStream::try_from(listener.accept().unwrap().0).unwrap();
            let file = std::fs::File::open("/dev/null").unwrap();
            block_on_within(async {
                // Not before the other end asks for credentials.
                stream.read(&mut [0; 1]).await.unwrap();
                let fds = [std::os::fd::AsFd::as_fd(&file)];
                stream.send_fds(b"take this", &fds).await.unwrap();
            });
        };
        std::thread::spawn(peer);
    }
    let elsewhere = |program: &std::path::Path| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--map-root-user", "--pid", "--fork"]);
        command.arg(program).env(LISTENER, &path);
        command
    };
    common::in_process(
        "a_peer_in_another_pid_namespace_has_no_pid",
        elsewhere,
        || {
            block_on_within(async {
                let path = std::env::var_os(LISTENER).unwrap();
                let path = std::path::PathBuf::from(path);
                let stream = UnixStream::connect(path).await.unwrap();
                let cred = stream.peer_cred().unwrap();
                // SAFETY: both only ask, and always succeed.
                let ids = unsafe { (libc::geteuid(), libc::getegid()) };
                assert_eq!((cred.uid, cred.gid, cred.pid), (ids.0, ids.1, None));

                let asks = |socket: socket2::SockRef<'_>| {
                    Ok(rustix::net::sockopt::set_socket_passcred(&*socket, true)?)
                };
                stream.try_io(asks).unwrap();
                stream.write_all(b"x").await.unwrap();
                let (mut buf, mut fds) = ([0; 16], Vec::new());
                let received = stream.recv_fds(&mut buf, &mut fds).await.unwrap();
                assert_eq!((received.len, fds.len(), received.truncated), (9, 1, false));
            });
        },
    );
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
