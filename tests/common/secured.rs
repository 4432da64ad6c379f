//! A connection that speaks TLS, and its peer: a stream that the test can make misbehave.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::io;

use coracle::net::{TcpListener, TcpStream, TlsStream};
use coracle::{create_connection, ProtocolHandle, StreamProtocol, TcpOptions, Transport};
use futures_lite::{future, AsyncReadExt};

use super::tls::{self, NAME};
use super::within;

pub(crate) type Peer = TlsStream<TcpStream>;

/// Where to connect to with TLS.
pub(crate) async fn listening() -> (TcpListener, TcpOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = TcpOptions::new()
        .remote_addr(listener.local_addr().unwrap())
        .tls(tls::client())
        .server_hostname(NAME);
    (listener, to)
}

pub(crate) async fn accept(listener: &TcpListener) -> io::Result<Peer> {
    let (tcp, _) = listener.accept().await?;
    TlsStream::accept(tcp, tls::server()).await
}

/// A connection with this protocol and options, and its peer.
pub(crate) async fn connected_with<P, K>(
    protocol: P,
    options: impl FnOnce(TcpOptions) -> TcpOptions,
) -> (Transport, ProtocolHandle<P>, Peer)
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let (listener, to) = listening().await;
    let connecting = create_connection(|| protocol, options(to));
    let both = future::zip(connecting, accept(&listener));
    let (made, peer) = within(both).await;
    let (transport, handle) = made.unwrap();
    (transport, handle, peer.unwrap())
}

pub(crate) async fn connected<P, K>(protocol: P) -> (Transport, ProtocolHandle<P>, Peer)
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    connected_with(protocol, |options| options).await
}

/// All that the peer is sent, up to an end in order.
pub(crate) async fn rest(peer: &mut Peer) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    within(peer.read_to_end(&mut data)).await.map(|_| data)
}
