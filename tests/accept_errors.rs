//! A connection that is gone before it is accepted is its own fault: the listener goes on, and
//! everybody else, too.
#![cfg(target_os = "linux")]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/trace.rs"]
mod trace;

use std::io::{self, Read, Write};
use std::net::TcpStream as StdTcpStream;
use std::time::Duration;

use coracle::net::{TcpListener, TcpStream};
use coracle::time::timeout;
use coracle::{create_server, on_data, spawn, yield_now, Server, TcpServerOptions};
use trace::{calls_with, own_role};

const PATIENCE: Duration = Duration::from_secs(20);

/// What accept(2) says of the connection, not of the listener.
const GONE: [&str; 10] = [
    "ECONNABORTED",
    "EPROTO",
    "ENETDOWN",
    "ENOPROTOOPT",
    "EHOSTDOWN",
    "ENONET",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ENETUNREACH",
    "EPERM",
];

/// What the other tests run: no test in itself.
#[test]
fn as_a_child() {
    let Some((role, _)) = own_role() else {
        return;
    };
    let all = async {
        match &role[..] {
            "others_go_on" => others_go_on().await,
            "accepts_the_next" => accepts_the_next().await,
            "serves_at_once" => serves_at_once().await,
            "server_goes_on" => server_goes_on().await,
            "tries" => tries().await,
            other => panic!("there is no role {other}"),
        }
    };
    coracle::block_on(timeout(PATIENCE, all)).unwrap().unwrap();
}

/// Two ends of a connection, without accept(2).
fn pair() -> io::Result<(coracle::net::UnixStream, coracle::net::UnixStream)> {
    coracle::net::UnixStream::pair()
}

async fn echoes() -> io::Result<()> {
    let (a, b) = pair()?;
    for _ in 0..5 {
        a.write_all(b"echo").await?;
        b.read(&mut [0; 4]).await?;
        b.write_all(b"echo").await?;
        a.read(&mut [0; 4]).await?;
    }
    Ok(())
}

/// While accepting fails again and again.
async fn others_go_on() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let _waits = TcpStream::connect(listener.local_addr()?).await?;
    let accepting = spawn(async move {
        loop {
            // After very many the error is told.
            if let Ok(accepted) = listener.accept().await {
                panic!("{accepted:?}");
            }
        }
    });
    yield_now().await;
    echoes().await?;
    assert!(!accepting.is_finished());
    Ok(())
}

/// After one failure.
async fn accepts_the_next() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let waits = TcpStream::connect(addr).await?;
    let (_, from) = listener.accept().await?;
    assert_eq!(from, waits.local_addr()?);
    let waits = TcpStream::connect(addr).await?;
    listener.readable().await?;
    let (_, from) = listener.try_accept()?;
    assert_eq!(from, waits.local_addr()?);
    Ok(())
}

async fn echoing() -> io::Result<Server> {
    let echo = || on_data(|transport, data| transport.write(data));
    create_server(echo, TcpServerOptions::new().local_addr("127.0.0.1:0")).await
}

async fn serves_at_once() -> io::Result<()> {
    let server = echoing().await?;
    let client = TcpStream::connect(server.local_addrs()[0]).await?;
    client.write_all(b"echo").await?;
    assert_eq!(client.read(&mut [0; 4]).await?, 4);
    assert_eq!(server.accept_errors(), 0);
    Ok(())
}

/// The server rests when there is no end of it.
async fn server_goes_on() -> io::Result<()> {
    let server = echoing().await?;
    let _waits = TcpStream::connect(server.local_addrs()[0]).await?;
    while server.accept_errors() < 3 {
        coracle::time::sleep(Duration::from_millis(1)).await;
    }
    echoes().await
}

async fn tries() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let _waits = TcpStream::connect(listener.local_addr()?).await?;
    // It comes back, and what waits is still there to be reported.
    let error = listener.try_accept().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    listener.readable().await
}

fn inject(error: &str, when: &str) -> String {
    format!("inject=accept4:error={error}{when}")
}

#[test]
fn a_listener_whose_connections_vanish_leaves_others_their_turn() {
    for error in ["ECONNABORTED", "EPERM"] {
        calls_with(&["-e", &inject(error, "")], "others_go_on", 1);
        calls_with(&["-e", &inject(error, "")], "server_goes_on", 1);
        calls_with(&["-e", &inject(error, "")], "tries", 1);
    }
}

#[test]
fn after_a_connection_that_has_vanished_the_next_is_accepted() {
    for error in GONE {
        let options = inject(error, ":when=1");
        calls_with(&["-e", &options], "accepts_the_next", 1);
        calls_with(&["-e", &options], "serves_at_once", 1);
    }
}

/// Connections that the peer has reset while they waited.
#[test]
fn connections_that_were_reset_in_the_queue_are_accepted_or_skipped() {
    coracle::block_on(timeout(PATIENCE, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().as_ip().unwrap();
        for _ in 0..20 {
            let reset = socket2::Socket::from(StdTcpStream::connect(addr).unwrap());
            reset.set_linger(Some(Duration::ZERO)).unwrap();
        }
        let mut last = StdTcpStream::connect(addr).unwrap();
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            if from.as_ip() == Some(last.local_addr().unwrap()) {
                stream.write_all(b"served").await.unwrap();
                last.read_exact(&mut [0; 6]).unwrap();
                last.write_all(b"bye").unwrap();
                break;
            }
        }
    }))
    .unwrap();
}
