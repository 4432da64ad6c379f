//! What the tests of servers share: a server that sends everything back, and its clients.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use coracle::{create_connection, create_server, yield_now};
#[cfg(unix)]
use coracle::{create_unix_connection, UnixOptions};
use coracle::{Address, Server, TcpOptions, TcpServerOptions, Transport};

use super::stream::{Event, Log, Recorder};
use super::within;

/// At an address of its own: nobody listens there once the server is closed.
pub(crate) fn local() -> TcpServerOptions {
    TcpServerOptions::new().local_addr((super::own_ip(), 0))
}

pub(crate) fn ip(server: &Server) -> SocketAddr {
    server.local_addrs()[0].as_ip().unwrap()
}

/// A server that sends everything back.
pub(crate) async fn echoing(options: TcpServerOptions) -> Server {
    let made = create_server(|| Recorder::echoing(&Log::new()), options);
    within(made).await.unwrap()
}

pub(crate) async fn connect(addr: Address) -> io::Result<(Transport, Log)> {
    let log = Log::new();
    let recorder = || Recorder::new(&log);
    #[cfg(unix)]
    if addr.as_unix().is_some() {
        let made = create_unix_connection(recorder, UnixOptions::new().path(addr));
        let (transport, _) = within(made).await?;
        return Ok((transport, log));
    }
    let made = create_connection(recorder, TcpOptions::new().remote_addr(addr));
    let (transport, _) = within(made).await?;
    Ok((transport, log))
}

/// The bytes go there and come back.
pub(crate) async fn works((client, log): &(Transport, Log)) {
    let before = log.data().len();
    client.write(b"there and back").unwrap();
    log.until_len(before + 14).await;
}

/// Waits for so many connections since the start.
pub(crate) async fn until_made(log: &Log, count: usize) {
    let is_made = |event: &&Event| **event == Event::Made;
    log.until(|events| events.iter().filter(is_made).count() >= count)
        .await;
}

pub(crate) fn refused(result: io::Result<impl Sized>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Waits until so many connections are left.
pub(crate) async fn until_left(server: &Server, count: usize) {
    within(async {
        while server.connections() != count {
            yield_now().await;
        }
    })
    .await;
}
