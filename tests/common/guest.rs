//! The other end of a connection inside a component, where no socket can be brought and nothing
//! runs beside coracle: one of coracle's own, which accepts what the test connects.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;

use coracle::net::{TcpListener, TcpStream};
use coracle::{
    create_connection, create_connection_with_driver, yield_now, ConnectionDriver, ProtocolHandle,
    StreamProtocol, TcpOptions, Transport,
};

use super::within;

/// What becomes coracle's end.
pub(crate) struct Ours(Peer, Cell<Option<usize>>);

impl Ours {
    pub(crate) fn set_send_buffer_size(&self, size: usize) -> io::Result<()> {
        self.1.set(Some(size));
        Ok(())
    }
}

/// The other end, from when coracle's is made.
#[derive(Clone, Default)]
pub(crate) struct Peer(Rc<State>);

#[derive(Default)]
struct State {
    stream: RefCell<Option<Rc<TcpStream>>>,
    recv_buffer_size: Cell<Option<usize>>,
    /// To be written by a task.
    unsent: RefCell<Vec<u8>>,
    is_ended: Cell<bool>,
    is_sending: Cell<bool>,
}

impl Peer {
    /// Writes what the system takes without a reader.
    pub(crate) fn write(&self, data: &[u8]) {
        self.0.unsent.borrow_mut().extend(data);
        self.send();
    }

    pub(crate) fn end(&self) {
        self.0.is_ended.set(true);
        self.send();
    }

    fn send(&self) {
        if self.0.is_sending.replace(true) {
            return;
        }
        let peer = self.clone();
        let sending = async move {
            let stream = peer.stream().await;
            loop {
                let data = peer.0.unsent.take();
                if data.is_empty() {
                    break;
                }
                stream.write_all(&data).await.unwrap();
            }
            peer.0.is_sending.set(false);
            if peer.0.is_ended.get() {
                stream.shutdown(Shutdown::Write).unwrap();
            }
        };
        coracle::spawn(sending).detach();
    }

    pub(crate) async fn read(&self, len: usize) -> Vec<u8> {
        let stream = self.stream().await;
        let (mut data, mut at) = (vec![0; len], 0);
        while at < len {
            let read = within(stream.read(&mut data[at..])).await.unwrap();
            assert!(read > 0, "the end after {at} of {len}");
            at += read;
        }
        data
    }

    pub(crate) async fn read_to_end(&self) -> Vec<u8> {
        let stream = self.stream().await;
        let (mut data, mut buf) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            match within(stream.read(&mut buf)).await.unwrap() {
                0 => return data,
                len => data.extend(&buf[..len]),
            }
        }
    }

    /// Writes all, then the end, while others go on.
    pub(crate) fn sending(&self, data: Vec<u8>) -> impl Future<Output = ()> {
        let peer = self.clone();
        coracle::spawn(async move {
            let stream = peer.stream().await;
            stream.write_all(&data).await.unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        })
    }

    pub(crate) fn set_recv_buffer_size(&self, size: usize) -> io::Result<()> {
        self.0.recv_buffer_size.set(Some(size));
        Ok(())
    }

    async fn stream(&self) -> Rc<TcpStream> {
        loop {
            if let Some(stream) = &*self.0.stream.borrow() {
                return stream.clone();
            }
            yield_now().await;
        }
    }

    async fn accept(&self, listener: TcpListener) {
        let (stream, _) = within(listener.accept()).await.unwrap();
        if let Some(size) = self.0.recv_buffer_size.get() {
            stream.set_recv_buffer_size(size).unwrap();
        }
        *self.0.stream.borrow_mut() = Some(Rc::new(stream));
    }
}

pub(crate) fn tcp_pair() -> (Ours, Peer) {
    let peer = Peer::default();
    (Ours(peer.clone(), Cell::new(None)), peer)
}

async fn listening() -> (TcpListener, TcpOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = TcpOptions::new().remote_addr(listener.local_addr().unwrap());
    (listener, options)
}

/// Makes a connection of it.
pub(crate) async fn make<P, K>(
    factory: impl FnOnce() -> P,
    Ours(peer, size): Ours,
) -> io::Result<(Transport, ProtocolHandle<P>)>
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let (listener, options) = listening().await;
    let made = create_connection(factory, options).await?;
    if let Some(size) = size.get() {
        made.0.tcp_socket().unwrap().set_send_buffer_size(size)?;
    }
    peer.accept(listener).await;
    Ok(made)
}

/// The same in the form with a driver.
pub(crate) async fn make_with_driver<P: StreamProtocol<K>, K>(
    factory: impl FnOnce() -> P,
    Ours(peer, _): Ours,
) -> io::Result<(Transport, ProtocolHandle<P>, ConnectionDriver<P, K>)> {
    let (listener, options) = listening().await;
    let made = create_connection_with_driver(factory, options).await?;
    peer.accept(listener).await;
    Ok(made)
}
