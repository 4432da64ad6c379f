//! `readable()` and `writable()` tell what is so, on a new socket as on one that was used: an idle
//! check is one.
#![cfg(not(target_os = "wasi"))]

mod common;

use std::future::Future;
use std::io;
use std::time::Duration;

use common::block_on_within;
use coracle::net::{RecvBatch, TcpListener, TcpStream, UdpSocket};
#[cfg(unix)]
use coracle::net::{UnixDatagram, UnixListener, UnixStream};
use coracle::time::timeout;

const WHILE: Duration = Duration::from_millis(30);

/// Runs a test on each reactor that there is.
fn everywhere(test: impl AsyncFn()) {
    block_on_within(test());
    #[cfg(feature = "async-io")]
    common::foreign::smol_within(test());
}

async fn is_idle(readable: impl Future<Output = io::Result<()>>) -> bool {
    match timeout(WHILE, readable).await {
        Ok(result) => {
            result.unwrap();
            false
        }
        Err(_) => true,
    }
}

#[test]
fn a_udp_socket_is_readable_when_there_is_a_datagram() {
    everywhere(async || {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        let mut buf = [0; 4];
        let mut batch = RecvBatch::with_capacity(4, 16);
        assert!(is_idle(socket.readable()).await, "nothing has come yet");
        for round in 0..40 {
            peer.send_to(b"data", &to).await.unwrap();
            assert!(!is_idle(socket.readable()).await, "{round}");
            assert!(!is_idle(socket.readable()).await, "it is still there");
            match round % 4 {
                0 => drop(socket.recv(&mut buf).await.unwrap()),
                1 => drop(socket.try_recv_from(&mut buf).unwrap()),
                2 => drop(socket.recv_batch(&mut batch).await.unwrap()),
                _ => drop(socket.try_recv_batch(&mut batch).unwrap()),
            }
            if round % 10 < 4 {
                assert!(is_idle(socket.readable()).await, "{round}: it was taken");
            }
        }
        socket.writable().await.unwrap();
    });
}

#[test]
fn a_connected_udp_socket_is_readable_when_there_is_a_datagram() {
    everywhere(async || {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(peer.local_addr().unwrap()).await.unwrap();
        assert!(is_idle(socket.readable()).await);
        let to = socket.local_addr().unwrap();
        socket.send(b"first").await.unwrap();
        assert!(is_idle(socket.readable()).await, "sending changes nothing");
        peer.send_to(b"data", &to).await.unwrap();
        socket.readable().await.unwrap();
        assert_eq!(socket.peek_from(&mut [0; 4]).await.unwrap().0, 4);
        assert!(!is_idle(socket.readable()).await, "it was left");
        socket.recv(&mut [0; 4]).await.unwrap();
        assert!(is_idle(socket.readable()).await);
    });
}

#[test]
fn several_datagrams_are_several() {
    everywhere(async || {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        for _ in 0..3 {
            peer.send_to(b"data", &to).await.unwrap();
        }
        for left in (0..3).rev() {
            assert!(!is_idle(socket.readable()).await);
            socket.recv(&mut [0; 4]).await.unwrap();
            assert_eq!(is_idle(socket.readable()).await, left == 0);
        }
    });
}

#[test]
fn a_tcp_stream_is_readable_when_there_is_something() {
    everywhere(async || {
        let (a, b) = common::sockets::tcp_pair().await;
        for (reader, writer) in [(&a, &b), (&b, &a)] {
            assert!(is_idle(reader.readable()).await, "nothing has come yet");
            for room in [16, 4, 2] {
                writer.write_all(b"data").await.unwrap();
                assert!(!is_idle(reader.readable()).await);
                let mut buf = vec![0; room];
                reader.read(&mut buf).await.unwrap();
                if room == 2 {
                    assert!(!is_idle(reader.readable()).await, "half of it is left");
                    reader.read(&mut buf).await.unwrap();
                }
                assert!(is_idle(reader.readable()).await, "it was taken: {room}");
            }
        }
        drop(a);
        b.readable().await.unwrap();
        assert_eq!(b.read(&mut [0; 16]).await.unwrap(), 0);
    });
}

#[test]
fn a_tcp_stream_is_writable_when_there_is_room() {
    everywhere(async || {
        let (ours, theirs) = common::sockets::tcp_pair().await;
        assert!(!is_idle(ours.writable()).await);
        assert!(!is_idle(theirs.writable()).await);
        ours.write_all(b"some").await.unwrap();
        assert!(!is_idle(ours.writable()).await, "there is more room");
    });
}

#[test]
fn a_listener_is_readable_when_there_is_a_connection() {
    everywhere(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(is_idle(listener.readable()).await, "nobody has come yet");
        for round in 0..20 {
            let _client = TcpStream::connect(addr).await.unwrap();
            assert!(!is_idle(listener.readable()).await, "{round}");
            listener.accept().await.unwrap();
            if round % 8 == 0 {
                assert!(is_idle(listener.readable()).await, "{round}");
            }
        }
    });
}

#[cfg(unix)]
#[test]
fn a_unix_datagram_socket_is_readable_when_there_is_a_datagram() {
    everywhere(async || {
        let (socket, peer) = UnixDatagram::pair().unwrap();
        assert!(is_idle(socket.readable()).await, "nothing has come yet");
        for _ in 0..3 {
            peer.send(b"data").await.unwrap();
            assert!(!is_idle(socket.readable()).await);
            socket.recv(&mut [0; 4]).await.unwrap();
            assert!(is_idle(socket.readable()).await, "it was taken");
        }
        assert!(!is_idle(peer.writable()).await);
    });
}

#[cfg(unix)]
#[test]
fn unix_streams_and_their_listener_are_readable_when_there_is_something() {
    let folder = tempfile::tempdir().unwrap();
    everywhere(async || {
        let path = folder.path().join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(is_idle(listener.readable()).await, "nobody has come yet");
        let client = UnixStream::connect(&path).await.unwrap();
        assert!(!is_idle(listener.readable()).await);
        let (server, _) = listener.accept().await.unwrap();
        assert!(is_idle(listener.readable()).await);
        for (reader, writer) in [(&client, &server), (&server, &client)] {
            assert!(is_idle(reader.readable()).await, "nothing has come yet");
            writer.write_all(b"data").await.unwrap();
            assert!(!is_idle(reader.readable()).await);
            reader.read(&mut [0; 4]).await.unwrap();
            assert!(is_idle(reader.readable()).await, "it was taken");
        }
        std::fs::remove_file(path).unwrap();
    });
}

#[cfg(unix)]
#[test]
fn a_socket_that_the_user_brings_is_as_it_is() {
    everywhere(async || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while io::Write::write(&mut &ours, &[7; 1 << 12]).is_ok() {}
        let ours = UnixStream::try_from(ours).unwrap();
        let theirs = UnixStream::try_from(theirs).unwrap();
        assert!(is_idle(ours.writable()).await, "it was full before");
        assert!(is_idle(ours.readable()).await);
        assert!(!is_idle(theirs.readable()).await, "it was there before");
        let mut buf = vec![0; 1 << 20];
        while theirs.try_read(&mut buf).is_ok() {}
        assert!(!is_idle(ours.writable()).await);
        assert!(is_idle(theirs.readable()).await);
    });
}

#[cfg(unix)]
#[test]
fn a_stream_that_took_a_part_is_writable_when_there_is_room_again() {
    everywhere(async || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut large = vec![7; 16 << 20];
        for is_method in [true, false] {
            let written = match is_method {
                true => ours.write(&large).await.unwrap(),
                false => ours.try_write(&large).unwrap(),
            };
            assert!(written < large.len());
            assert!(is_idle(ours.writable()).await, "no more goes");
            while theirs.try_read(&mut large).is_ok() {}
            assert!(!is_idle(ours.writable()).await);
        }
    });
}

#[cfg(unix)]
#[test]
fn readable_waits_after_an_operation_of_the_users_own_that_would_block() {
    everywhere(async || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let read = |socket: socket2::SockRef<'_>| io::Read::read(&mut &*socket, &mut [0; 4]);
        for _ in 0..3 {
            let error = ours.try_io(read).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert!(is_idle(ours.readable()).await);
            assert!(
                !is_idle(ours.writable()).await,
                "there is room all the time"
            );
            theirs.write_all(b"data").await.unwrap();
            ours.readable().await.unwrap();
            assert_eq!(ours.try_io(read).unwrap(), 4);
        }
    });
}
