//! Unix datagram sockets.
#![cfg(unix)]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;

use common::{block_on_within, raw_code};
use coracle::net::UnixDatagram;
#[cfg(target_os = "linux")]
use coracle::net::{RecvBatch, SendBatch};
use coracle::{spawn, yield_now, Address, UnixAddress};
use futures_lite::future::poll_once;
use tempfile::TempDir;

/// A socket at a path of its own, which is removed with the folder.
fn at_path(folder: &TempDir, name: &str) -> (UnixDatagram, Address) {
    let path = folder.path().join(name);
    let socket = UnixDatagram::bind(&path).unwrap();
    let addr = Address::from(UnixAddress::from_path(&path).unwrap());
    assert_eq!(socket.local_addr().unwrap(), addr);
    (socket, addr)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_pair_talks_both_ways() {
    block_on_within(async {
        let (a, b) = UnixDatagram::pair().unwrap();
        let mut buf = [0; 16];
        assert_eq!(a.send(b"ping").await.unwrap(), 4);
        let (len, from) = b.recv_from(&mut buf).await.unwrap();
        assert_eq!((&buf[..len], from), (&b"ping"[..], Address::UNNAMED));
        b.send(b"").await.unwrap();
        assert_eq!(a.recv(&mut buf).await.unwrap(), 0);
        assert_eq!(a.local_addr().unwrap(), Address::UNNAMED);
        assert!(a.try_recv_from(&mut buf).is_err());
    });
}

#[test]
fn receivers_learn_the_name_of_the_sender() {
    block_on_within(async {
        let folder = folder();
        let (server, addr) = at_path(&folder, "server");
        let (client, client_addr) = at_path(&folder, "client");
        let mut buf = [0; 16];
        client.send_to(b"from a path", &addr).await.unwrap();
        let (len, from) = server.recv_from(&mut buf).await.unwrap();
        assert_eq!(from, client_addr);
        server.send_to(&buf[..len], &from).await.unwrap();
        assert_eq!(client.recv_from(&mut buf).await.unwrap(), (11, addr));

        let nameless = UnixDatagram::unbound().unwrap();
        nameless.send_to(b"from nowhere", &addr).await.unwrap();
        let (_, from) = server.recv_from(&mut buf).await.unwrap();
        assert_eq!(from, Address::UNNAMED);
        assert!(server.send_to(b"reply", &from).await.is_err());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_names_need_no_file() {
    block_on_within(async {
        let chosen = UnixDatagram::bind(Address::UNNAMED).unwrap();
        let chosen_addr = chosen.local_addr().unwrap();
        let name = chosen_addr.as_unix().unwrap().as_abstract_name().unwrap();
        assert!(!name.is_empty(), "the system has chosen one");

        // With bytes that no path could have.
        let own = [
            b"\0coracle",
            &std::process::id().to_ne_bytes()[..],
            b"\0\xff",
        ]
        .concat();
        let own = Address::from(UnixAddress::from_bytes(&own).unwrap());
        let socket = UnixDatagram::bind(own).unwrap();
        assert_eq!(socket.local_addr().unwrap(), own);
        socket.connect(chosen_addr).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), chosen_addr);
        socket.send(b"x").await.unwrap();
        assert_eq!(chosen.recv_from(&mut [0; 8]).await.unwrap(), (1, own));
        let taken = UnixDatagram::bind(own).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        drop(socket);
        UnixDatagram::bind(own).expect("the name goes with its socket");
    });
}

#[test]
fn names_that_are_none_are_refused() {
    let folder = folder();
    let long = folder.path().join("x".repeat(200));
    for error in [
        UnixDatagram::bind(&long).unwrap_err(),
        UnixDatagram::bind("").unwrap_err(),
        UnixDatagram::bind("a\0b").unwrap_err(),
        UnixDatagram::bind(format!("@{}", "x".repeat(108))).unwrap_err(),
        UnixDatagram::bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap_err(),
        UnixDatagram::unbound().unwrap().connect(&long).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[test]
fn what_is_at_the_path_is_left_alone() {
    let folder = folder();
    let (socket, addr) = at_path(&folder, "taken");
    let path = folder.path().join("taken");
    let error = UnixDatagram::bind(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    drop(socket);
    assert!(path.exists(), "the file outlives its socket");
    assert_eq!(
        UnixDatagram::bind(&path).unwrap_err().kind(),
        ErrorKind::AddrInUse
    );
}

#[test]
fn nobody_at_the_other_end_is_told() {
    block_on_within(async {
        let folder = folder();
        let (server, addr) = at_path(&folder, "server");
        let (client, _) = at_path(&folder, "client");
        let missing = folder.path().join("missing");
        assert_eq!(
            client.connect(&missing).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        let missing = UnixAddress::from_path(&missing).unwrap().into();
        let error = client.send_to(b"x", &missing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(&missing.to_string()), "{error}");

        client.connect(addr).unwrap();
        drop(server);
        let error = client.send(b"x").await.unwrap_err();
        let kinds = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset];
        assert!(kinds.contains(&error.kind()), "{error}");
        let stranger = UnixDatagram::unbound().unwrap();
        let error = stranger.send_to(b"x", &addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        let error = stranger.send(b"x").await.unwrap_err();
        assert!(raw_code(&error).is_some(), "{error}");
    });
}

// Elsewhere a full queue is an error (ENOBUFS).
#[cfg(target_os = "linux")]
#[test]
fn a_sender_waits_while_the_receiver_is_full() {
    const COUNT: usize = 500;
    for connected in [true, false] {
        block_on_within(async {
            let folder = folder();
            let (server, addr) = at_path(&folder, "server");
            let client = UnixDatagram::unbound().unwrap();
            if connected {
                client.connect(addr).unwrap();
            }
            let mut full = 0;
            while client
                .try_send_to(&full.to_string().into_bytes(), &addr)
                .is_ok()
            {
                full += 1;
            }
            assert!(full > 0 && full < COUNT, "{full} fit");
            let error = client.try_send_to(b"x", &addr).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);

            let sending = spawn(async move {
                for i in full..COUNT {
                    let data = i.to_string().into_bytes();
                    let sent = match connected {
                        true => client.send(&data).await,
                        false => client.send_to(&data, &addr).await,
                    };
                    assert_eq!(sent.unwrap(), data.len());
                }
            });
            yield_now().await;
            assert!(!sending.is_finished());
            let mut buf = [0; 16];
            for i in 0..COUNT {
                let len = server.recv(&mut buf).await.unwrap();
                assert_eq!(buf[..len], *i.to_string().as_bytes());
            }
            sending.await;
            assert!(server.try_recv_from(&mut buf).is_err());
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_batch_waits_while_the_receiver_is_full() {
    const COUNT: usize = 300;
    for connected in [true, false] {
        block_on_within(async {
            let folder = folder();
            let (server, addr) = at_path(&folder, "server");
            let client = UnixDatagram::unbound().unwrap();
            let mut batch = SendBatch::new();
            for i in 0..COUNT {
                let data = vec![i as u8; i % 17];
                match connected {
                    true => batch.push_connected(&data),
                    false => batch.push(&data, &addr),
                }
            }
            if connected {
                client.connect(addr).unwrap();
            }
            let sending = spawn(async move {
                while !batch.is_empty() {
                    client.send_batch(&mut batch).await.unwrap();
                }
            });
            let mut received = Vec::new();
            let mut into = RecvBatch::new();
            while received.len() < COUNT {
                server.recv_batch(&mut into).await.unwrap();
                received.extend(into.iter().map(|(data, _)| data.to_vec()));
            }
            let expected: Vec<_> = (0..COUNT).map(|i| vec![i as u8; i % 17]).collect();
            assert_eq!(received, expected);
            sending.await;
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_send_that_is_given_up_sends_nothing() {
    block_on_within(async {
        let folder = folder();
        let (server, addr) = at_path(&folder, "server");
        let client = UnixDatagram::unbound().unwrap();
        let mut sent = 0;
        while client.try_send_to(b"sent", &addr).is_ok() {
            sent += 1;
        }
        for _ in 0..20 {
            assert!(poll_once(client.send_to(b"given up", &addr))
                .await
                .is_none());
        }
        let mut buf = [0; 16];
        for _ in 0..sent {
            assert_eq!(server.recv(&mut buf).await.unwrap(), 4);
        }
        client.send_to(b"after", &addr).await.unwrap();
        let len = server.recv(&mut buf).await.unwrap();
        assert_eq!(&buf[..len], b"after");
    });
}

#[test]
fn a_receiver_is_woken_and_sees_what_was_cut_off() {
    block_on_within(async {
        let (a, b) = UnixDatagram::pair().unwrap();
        let b = Arc::new(b);
        let receiving = spawn({
            let b = b.clone();
            async move { b.recv_meta(&mut [0; 4]).await.unwrap() }
        });
        yield_now().await;
        assert!(!receiving.is_finished());
        a.send(b"more than four").await.unwrap();
        let (len, meta) = receiving.await;
        assert_eq!((len, meta.truncated), (4, true));
        a.send(b"four").await.unwrap();
        let mut buf = [0; 4];
        assert_eq!(b.peek_from(&mut buf).await.unwrap().0, 4);
        let (len, meta) = b.recv_meta(&mut buf).await.unwrap();
        assert_eq!((len, meta.truncated), (4, false));
    });
}

// Elsewhere a datagram has at most a few KiB.
#[cfg(target_os = "linux")]
#[test]
fn datagrams_may_be_larger_than_those_of_udp() {
    block_on_within(async {
        let (a, b) = UnixDatagram::pair().unwrap();
        a.set_send_buffer_size(1 << 20).unwrap();
        let data: Vec<u8> = (0..200_000_u32).map(|i| (i / 7) as u8).collect();
        let mut buf = vec![0; 300_000];
        a.send(&data).await.unwrap();
        let len = b.recv(&mut buf).await.unwrap();
        assert!(buf[..len] == data);
        let error = a.send(&vec![0; 16 << 20]).await.unwrap_err();
        assert_eq!(raw_code(&error), Some(libc::EMSGSIZE), "{error}");
    });
}

#[test]
fn sockets_are_converted_both_ways_and_others_refused() {
    block_on_within(async {
        let (a, b) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let mut a = UnixDatagram::try_from(a).unwrap();
        let works = async |socket: UnixDatagram| {
            let mut buf = [0; 8];
            assert!(
                poll_once(socket.recv(&mut buf)).await.is_none(),
                "not blocking"
            );
            b.send(b"x").unwrap();
            assert_eq!(socket.recv(&mut buf).await.unwrap(), 1);
            socket
        };
        a = works(a).await;
        a = works(
            std::os::unix::net::UnixDatagram::try_from(a)
                .unwrap()
                .try_into()
                .unwrap(),
        )
        .await;
        a = works(socket2::Socket::try_from(a).unwrap().try_into().unwrap()).await;
        a = works(
            std::os::fd::OwnedFd::try_from(a)
                .unwrap()
                .try_into()
                .unwrap(),
        )
        .await;
        #[cfg(feature = "async-io")]
        {
            type Std = std::os::unix::net::UnixDatagram;
            let theirs = async_io::Async::<Std>::try_from(a).unwrap();
            theirs.send(b"theirs").await.unwrap();
            a = works(theirs.try_into().unwrap()).await;
        }
        drop(a);

        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for (fd, text) in [
            (std::os::fd::OwnedFd::from(stream), "stream"),
            (std::os::fd::OwnedFd::from(udp), "IP socket"),
        ] {
            let error = UnixDatagram::try_from(fd).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(text), "{error}");
        }
    });
}

#[test]
fn the_name_that_a_peer_has_chosen_stays_on_its_line() {
    block_on_within(async {
        let folder = folder();
        let (ours, _) = at_path(&folder, "ours");
        // What a log would show as a line of its own, in colour.
        let name = "x\nERROR forged \u{1b}[31m";
        let shown = r"x\nERROR forged \u{1b}[31m";
        let (peer, addr) = at_path(&folder, name);
        peer.send_to(b"hello", &ours.local_addr().unwrap())
            .await
            .unwrap();
        let (_, meta) = ours.recv_meta(&mut [0; 16]).await.unwrap();
        assert_eq!(meta.from, addr);
        ours.connect(addr).unwrap();
        drop(peer);
        let refused = ours.send_to(b"reply", &meta.from).await.unwrap_err();

        let listener_path = folder.path().join("listener");
        let listener = coracle::net::UnixListener::bind(&listener_path).unwrap();
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let client = client.unwrap();
        let path = folder.path().join(format!("stream {name}"));
        client
            .bind(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        client
            .connect(&socket2::SockAddr::unix(&listener_path).unwrap())
            .unwrap();
        let (stream, from) = listener.accept().await.unwrap();

        let missing = coracle::net::UnixStream::connect(&path).await.unwrap_err();
        for text in [
            meta.from.to_string(),
            format!("{:?}", meta.from),
            format!("{meta:?}"),
            format!("{ours:?}"),
            refused.to_string(),
            format!("{refused:?}"),
            from.to_string(),
            format!("{stream:?}"),
            missing.to_string(),
        ] {
            assert!(!text.contains(char::is_control), "{text:?}");
            // Debug of the text in an error escapes the backslashes once more.
            assert!(text.replace(r"\\", r"\").contains(shown), "{text}");
        }
    });
}
