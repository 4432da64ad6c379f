//! Stream sockets and connections on the way between coracle's runtime and others.
#![cfg(all(feature = "async-io", not(target_os = "wasi")))]

mod common;

use std::sync::Arc;
use std::thread;

use common::foreign::{connect, echo, on_smol, smol_within};
use common::server::local;
use common::{block_on_within, within, PATIENCE};
use coracle::create_server;
use coracle::net::{TcpListener, TcpStream};
#[cfg(unix)]
use coracle::{create_unix_server, UnixServerOptions};
use futures_lite::future::poll_once;
use smol::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn a_stream_goes_from_smol_to_coracle_and_back() {
    let (ours, theirs) = smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await;
        (ours.unwrap(), listener.accept().await.unwrap().0)
    });
    let theirs = Arc::new(theirs);
    let mut number = 0;
    let mut works = async |stream: TcpStream| {
        number += 1;
        let mut buf = [0; 8];
        // Waiting hands it over.
        assert!(poll_once(stream.read(&mut buf)).await.is_none());
        let late = thread::spawn({
            let theirs = theirs.clone();
            move || theirs.try_write(&[number]).unwrap()
        });
        assert_eq!(stream.read(&mut buf).await.unwrap(), 1);
        assert_eq!(buf[0], number);
        late.join().unwrap();
        // More than there is room for.
        let data = vec![number; 8 << 20];
        let reading = thread::spawn({
            let (theirs, expected) = (theirs.clone(), data.clone());
            move || {
                let mut read = vec![0; expected.len()];
                smol_within((&*theirs).read_exact(&mut read)).unwrap();
                assert!(read == expected);
            }
        });
        stream.write_all(&data).await.unwrap();
        reading.join().unwrap();
        stream
    };
    let ours = smol_within(works(ours));
    let ours = block_on_within(works(ours));
    let ours = thread::scope(|scope| {
        let moved = scope.spawn(|| smol_within(works(ours)));
        moved.join().unwrap()
    });
    block_on_within(works(ours));
}

#[test]
fn a_listener_goes_from_smol_to_coracle_and_back() {
    let listener = smol::block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap().as_ip().unwrap();
    let works = async |listener: TcpListener| {
        assert!(poll_once(listener.accept()).await.is_none());
        let late = thread::spawn(move || std::net::TcpStream::connect(addr).unwrap());
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(from, late.join().unwrap().local_addr().unwrap().into());
        listener
    };
    let listener = smol_within(works(listener));
    let listener = block_on_within(works(listener));
    let listener = smol_within(works(listener));
    block_on_within(works(listener));
}

#[test]
fn halves_work_on_two_executors() {
    let (reader, writer, peer) = smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (reader, writer) = ours.unwrap().into_split();
        (reader, writer, listener.accept().await.unwrap().0)
    });
    let data: Arc<Vec<u8>> = Arc::new((0..8_u32 << 20).map(|i| (i >> 4) as u8).collect());
    let echoing = thread::spawn(move || {
        block_on_within(async { smol::io::copy(&peer, &mut &peer).await.unwrap() })
    });
    let writing = thread::spawn({
        let (mut writer, data) = (writer, data.clone());
        move || smol_within(async move { writer.write_all(&data).await.unwrap() })
    });
    let reading = thread::spawn({
        let (mut reader, data) = (reader, data.clone());
        move || {
            block_on_within(async move {
                let mut read = vec![0; data.len()];
                reader.read_exact(&mut read).await.unwrap();
                assert!(read == *data);
            })
        }
    });
    writing.join().unwrap();
    reading.join().unwrap();
    // The writing half was dropped: the end.
    assert_eq!(echoing.join().unwrap(), data.len() as u64);
}

#[test]
fn a_server_of_coracle_serves_connections_of_smol() {
    let folder = tempfile::tempdir().unwrap();
    let (send, received) = std::sync::mpsc::channel();
    let path = folder.path().join("server");
    let coracle = thread::spawn(move || {
        block_on_within(async move {
            let mut servers = vec![create_server(echo, local()).await.unwrap()];
            #[cfg(unix)]
            {
                let options = UnixServerOptions::new().path(&path);
                servers.push(create_unix_server(echo, options).await.unwrap());
            }
            let _ = &path;
            send.send(servers.clone()).unwrap();
            for server in &mut servers {
                server.wait_closed().await;
            }
        })
    });
    let servers = received.recv_timeout(PATIENCE).unwrap();
    smol_within(async {
        for server in servers {
            let (client, log) = connect(server.local_addrs()[0], &on_smol()).await;
            for round in 1..=50 {
                client.write(b"across").unwrap();
                log.until_len(6 * round).await;
            }
            server.close();
            server.close_clients();
            within(server.wait_closed()).await;
            within(client.closed()).await.unwrap();
        }
    });
    coracle.join().unwrap();
}
