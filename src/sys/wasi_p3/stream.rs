//! TCP connections.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use wasip3::sockets::types::{ErrorCode, TcpSocket};
use wasip3::wit_stream;

use super::bytes::{Incoming, Outgoing};
use super::convert::{creation_error, error, family_to_wasi, from_wasi, to_wasi};
use super::inflight::here;
use super::options::{get_tcp, set_keepalive, set_tcp};
use crate::address::Address;
use crate::error::{context, unsupported};
use crate::sys::caps::{Family, Keepalive, SocketOption, StreamConfig};
use crate::sys::wasi::address::{local, remote};
use crate::sys::wasi::options::check_stream;
use crate::sys::wasi::socket::Socket;
use crate::sys::StreamOps;
use crate::wake::{Direction, Ticket, Waitable, Waiter};

/// A TCP connection.
pub(crate) struct Stream {
    // In this order: the end of what we send comes before the refusal of what we have not read.
    outgoing: Outgoing<ErrorCode>,
    incoming: Incoming<ErrorCode>,
    socket: TcpSocket,
    family: Family,
}

/// A socket that is neither bound nor connected.
pub(super) fn new_socket(family: Family) -> io::Result<TcpSocket> {
    TcpSocket::create(family_to_wasi(family)?).map_err(|code| creation_error(code, "TCP"))
}

pub(super) fn bind(socket: &TcpSocket, addr: &Address, family: Family) -> io::Result<()> {
    let to = to_wasi(local(addr, family)?);
    let result = socket.bind(to).map_err(error);
    result.map_err(|error| context(error, format_args!("bind {addr}")))
}

impl Stream {
    /// Of a socket that is connected.
    pub(super) fn new(socket: TcpSocket, family: Family) -> io::Result<Stream> {
        let (writer, reader) = wit_stream::new();
        let ending = socket.send(reader);
        Ok(Stream {
            outgoing: Outgoing::new(writer, ending, error),
            incoming: Incoming::new(socket.receive(), error),
            socket,
            family,
        })
    }
}

impl Waitable for Stream {
    type Event = Direction;

    fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        match direction {
            Direction::Read => self.incoming.forget(ticket),
            Direction::Write => self.outgoing.forget(ticket),
        }
    }
}

impl StreamOps for Stream {
    async fn connect(config: &StreamConfig) -> io::Result<Stream> {
        check_stream(config)?;
        let to = &config.connect;
        let family = Family::of(to);
        let peer = remote(to, family)?;
        let socket = new_socket(family)?;
        let mut bound = Ok(());
        for addr in &config.bind {
            bound = bind(&socket, addr, family);
            if bound.is_ok() {
                break;
            }
        }
        bound?;
        let result = here(socket.connect(to_wasi(peer))).await?;
        result.map_err(|code| context(error(code), format_args!("connect {to}")))?;
        Stream::new(socket, family)
    }

    fn from_socket(socket: Socket) -> io::Result<Stream> {
        socket.refuse()
    }

    fn into_socket(self) -> io::Result<Socket> {
        Err(unsupported("taking a socket out of coracle"))
    }

    fn try_read(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.incoming.try_read(bufs)
    }

    fn read_ready(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.incoming.take(bufs)
    }

    fn poll_read(
        &self,
        waiter: &mut Waiter<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.incoming.poll_read(waiter, bufs)
    }

    fn poll_peek(&self, waiter: &mut Waiter<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.incoming.poll_peek(waiter, buf)
    }

    fn poll_take(&self, waiter: &mut Waiter<'_>) -> Option<Poll<io::Result<Vec<u8>>>> {
        Some(self.incoming.poll_take(waiter))
    }

    fn give_back(&self, buf: Vec<u8>) {
        self.incoming.give_back(buf);
    }

    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.outgoing.try_write(bufs)
    }

    fn poll_write(&self, waiter: &mut Waiter<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.outgoing.poll_write(waiter, bufs)
    }

    fn abandon(&self) {
        self.outgoing.abandon();
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.incoming.close();
        }
        if how != Shutdown::Read {
            self.outgoing.close();
        }
        Ok(())
    }

    fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.incoming.poll_readable(waiter)
    }

    fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_writable(waiter)
    }

    fn local_addr(&self) -> io::Result<Address> {
        let addr = self.socket.get_local_address().map_err(error)?;
        Ok(from_wasi(addr).into())
    }

    fn peer_addr(&self) -> io::Result<Address> {
        let addr = self.socket.get_remote_address().map_err(error)?;
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

    fn linger(&self) -> io::Result<Option<Duration>> {
        Err(unsupported("linger"))
    }

    fn set_linger(&self, _linger: Option<Duration>) -> io::Result<()> {
        Err(unsupported("linger"))
    }

    fn set_keepalive(&self, keepalive: Keepalive) -> io::Result<()> {
        set_keepalive(&self.socket, keepalive)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        // The next operation gives it.
        Ok(None)
    }
}
