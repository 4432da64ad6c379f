//! What the tests of `create_unix_connection` share: whom to connect to, and what is refused.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use coracle::{create_unix_connection, ProtocolHandle, Transport, UnixOptions};
use tempfile::TempDir;

use super::stream::{Log, Recorder};
use super::{within, PATIENCE};

pub(crate) fn options() -> UnixOptions {
    UnixOptions::new()
}

/// A folder of its own, and the path of a socket in it.
pub(crate) fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    (folder, path)
}

/// Something that listens, and where.
pub(crate) fn listening() -> (TempDir, PathBuf, UnixListener) {
    let (folder, path) = place();
    let listener = UnixListener::bind(&path).unwrap();
    (folder, path, listener)
}

/// The peer of the next connection, which fails instead of hanging.
pub(crate) fn accept(listener: &UnixListener) -> UnixStream {
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer
}

pub(crate) async fn echoing(
    log: &Log,
    options: UnixOptions,
) -> (Transport, ProtocolHandle<Recorder>) {
    within(create_unix_connection(|| Recorder::echoing(log), options))
        .await
        .unwrap()
}

/// A pair of sockets, and the first of them as options.
pub(crate) fn pair() -> (UnixOptions, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    (options().sock(ours), peer)
}

/// Something there and back again; then the peer's end ends the connection.
pub(crate) async fn exchange(transport: &Transport, mut peer: UnixStream) {
    peer.write_all(b"hello").unwrap();
    let exchanged = smol::unblock(move || {
        let mut buf = [0; 5];
        peer.read_exact(&mut buf).unwrap();
        assert_eq!(buf, *b"hello");
    });
    within(exchanged).await;
    within(transport.closed()).await.unwrap();
}

/// What a connection with these options is refused with; its protocol is never made.
pub(crate) async fn refusal(options: UnixOptions) -> io::Error {
    let text = format!("{options:?}");
    let factory = || -> Recorder { panic!("the factory was called: {text}") };
    match within(create_unix_connection(factory, options)).await {
        Ok(_) => unreachable!(),
        Err(error) => error,
    }
}

/// Checks that the options are refused for what this names.
pub(crate) async fn refused_for(name: &str, options: UnixOptions) {
    let text = format!("{options:?}");
    let error = refusal(options).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}: {text}");
    assert!(error.to_string().contains(name), "{error}: {text}");
}
