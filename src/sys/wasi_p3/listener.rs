//! Sockets that accept TCP connections.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use wasip3::sockets::types::TcpSocket;
use wasip3::wit_bindgen::{StreamReader, StreamResult};

use super::bytes::{poll_io, tried};
use super::convert::{error, from_wasi};
use super::inflight::InFlight;
use super::options::{get_tcp, set_tcp};
use super::stream::{bind, new_socket, Stream};
use crate::address::Address;
use crate::error::{context, unsupported};
use crate::sys::caps::{Family, ListenerConfig, SocketOption};
use crate::sys::wasi::options::check_listener;
use crate::sys::wasi::socket::Socket;
use crate::sys::wasi::GONE;
use crate::sys::ListenerOps;
use crate::wake::{Direction, Ticket, Waitable, Waiter};

/// A listening socket.
pub(crate) struct Listener {
    accept: InFlight<StreamReader<TcpSocket>, Accepted>,
    inner: Mutex<Inner>,
    socket: TcpSocket,
    family: Family,
}

#[derive(Default)]
struct Inner {
    /// Once it listens, while no accept is under way.
    connections: Option<StreamReader<TcpSocket>>,
    /// Accepted and not yet taken.
    inbox: Option<(Stream, Address)>,
}

struct Accepted {
    connections: StreamReader<TcpSocket>,
    result: StreamResult,
    socket: Option<TcpSocket>,
}

async fn accept(mut connections: StreamReader<TcpSocket>) -> Accepted {
    let (result, mut sockets) = connections.read(Vec::with_capacity(1)).await;
    Accepted {
        connections,
        result,
        socket: sockets.pop(),
    }
}

impl Listener {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a connection there, or leaves an accept under way and says `WouldBlock`. `Interrupted`
    /// if others should have their turn first.
    fn fill(&self, inner: &mut Inner) -> io::Result<()> {
        for _ in 0..GONE {
            if inner.inbox.is_some() {
                return Ok(());
            }
            let done = match self.accept.take() {
                Some(done) => Some(done),
                None => match inner.connections.take() {
                    Some(connections) => self.accept.start(connections),
                    None if self.accept.is_under_way() => None,
                    None => {
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not listening"))
                    }
                },
            };
            let Some(accepted) = done else {
                return Err(io::ErrorKind::WouldBlock.into());
            };
            if accepted.result == StreamResult::Dropped {
                return Err(io::Error::other("the host accepts no more connections"));
            }
            inner.connections = Some(accepted.connections);
            if let Some(socket) = accepted.socket {
                // One that is gone already has no peer any longer.
                if let Ok(peer) = socket.get_remote_address() {
                    let stream = Stream::new(socket, self.family)?;
                    inner.inbox = Some((stream, from_wasi(peer).into()));
                }
            }
        }
        match inner.inbox {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    fn take(&self) -> io::Result<(Stream, Address)> {
        let mut inner = self.lock();
        self.fill(&mut inner)?;
        inner.inbox.take().ok_or(io::ErrorKind::WouldBlock.into())
    }
}

impl Waitable for Listener {
    type Event = Direction;

    fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        if direction == Direction::Read {
            self.accept.forget(ticket);
        }
    }
}

impl ListenerOps for Listener {
    async fn open(config: &ListenerConfig) -> io::Result<Listener> {
        check_listener(config)?;
        let family = Family::of(&config.bind);
        let socket = new_socket(family)?;
        if config.keep_alive {
            set_tcp(&socket, SocketOption::KeepAlive, 1)?;
        }
        bind(&socket, &config.bind, family)?;
        Ok(Listener {
            accept: InFlight::new(accept),
            inner: Mutex::default(),
            socket,
            family,
        })
    }

    fn from_socket(socket: Socket) -> io::Result<Listener> {
        socket.refuse()
    }

    fn into_socket(self) -> io::Result<Socket> {
        Err(unsupported("taking a socket out of coracle"))
    }

    async fn listen(&self, backlog: u32) -> io::Result<()> {
        let listen = || {
            // 0 is no size to the host.
            self.socket.set_listen_backlog_size(backlog.max(1).into())?;
            if !self.socket.get_is_listening() {
                self.lock().connections = Some(self.socket.listen()?);
            }
            Ok(())
        };
        match (listen().map_err(error), self.local_addr()) {
            (Ok(()), _) => Ok(()),
            (Err(error), Ok(addr)) => Err(context(error, format_args!("listen at {addr}"))),
            (Err(error), Err(_)) => Err(context(error, "listen")),
        }
    }

    fn try_accept(&self) -> io::Result<(Stream, Address)> {
        self.accept.look();
        self.take().map_err(tried)
    }

    fn poll_accept(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<(Stream, Address)>> {
        poll_io(&self.accept, waiter, || self.take())
    }

    fn poll_acceptable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        poll_io(&self.accept, waiter, || self.fill(&mut self.lock()))
    }

    fn local_addr(&self) -> io::Result<Address> {
        let addr = self.socket.get_local_address().map_err(error)?;
        Ok(from_wasi(addr).into())
    }

    fn family(&self) -> Family {
        self.family
    }

    fn get(&self, option: SocketOption) -> io::Result<u32> {
        get_tcp(&self.socket, option)
    }

    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        set_tcp(&self.socket, option, value)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }
}
