//! Sockets that accept TCP connections.

use std::io;
use std::pin::Pin;
use std::task::Poll;

use wasip2::io::poll::Pollable;
use wasip2::sockets::tcp::TcpSocket;

use super::convert::{error, from_wasi};
use super::leaving::check_room;
use super::options::{get_tcp, set_tcp};
use super::pollable::Interest;
use super::stream::{bind, finish, new_socket, Stream};
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
    // In this order: the host wants the pollable gone before the socket.
    read: Interest,
    socket: TcpSocket,
    family: Family,
}

impl Listener {
    fn acceptable(&self) -> io::Result<Pollable> {
        Ok(self.socket.subscribe())
    }
}

impl Waitable for Listener {
    type Event = Direction;

    fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        if direction == Direction::Read {
            self.read.forget(ticket);
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
        bind(&socket, &config.bind, family).await?;
        Ok(Listener {
            read: Interest::new(),
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
        let result = async {
            // 0 is no size to the host.
            self.socket
                .set_listen_backlog_size(backlog.max(1).into())
                .map_err(error)?;
            if self.socket.is_listening() {
                return Ok(());
            }
            self.socket.start_listen().map_err(error)?;
            finish(&self.socket, TcpSocket::finish_listen).await
        };
        match (result.await, self.local_addr()) {
            (Ok(()), _) => Ok(()),
            (Err(error), Ok(addr)) => Err(context(error, format_args!("listen at {addr}"))),
            (Err(error), Err(_)) => Err(context(error, "listen")),
        }
    }

    fn try_accept(&self) -> io::Result<(Stream, Address)> {
        check_room()?;
        for _ in 0..GONE {
            match self.socket.accept().map_err(error) {
                Ok((socket, input, output)) => {
                    let peer = socket.remote_address();
                    let stream = Stream::new(socket, input, output, self.family);
                    // One that is gone already has no peer any longer.
                    if let Ok(peer) = peer {
                        self.read.tried();
                        return Ok((stream, from_wasi(peer).into()));
                    }
                }
                // It was gone before it was taken; the next may be there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.read.clear();
                    }
                    return Err(error);
                }
            }
        }
        // Others have their turn; the host says at once that there is more.
        self.read.clear();
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_accept(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<(Stream, Address)>> {
        self.read
            .poll_io(waiter, || self.acceptable(), || self.try_accept())
    }

    fn poll_acceptable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.read.poll_turn(waiter, || self.acceptable())
    }

    fn local_addr(&self) -> io::Result<Address> {
        let addr = self.socket.local_address().map_err(error)?;
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
