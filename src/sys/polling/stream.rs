//! Connected stream sockets: TCP and Unix.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::Shutdown;
use std::task::Poll;
use std::time::Duration;

use socket2::Type;

use super::address::{family_of, from_sock_addr, to_sock_addr};
use super::kernel;
use super::options;
use super::socket::{as_uninit, open_socket, Socket};
use super::source::{source_methods, waitable, Direction, Source};
use crate::address::Address;
use crate::error::{context, invalid};
use crate::sys::caps::{Family, Keepalive, SocketOption, StreamConfig};
use crate::sys::StreamOps;
use crate::wake::Waiter;

/// Slices that the system takes with one call.
const SLICES: usize = 1024;

/// A stream socket with its readiness.
pub(crate) struct Stream {
    source: Source,
    family: Family,
}

impl Stream {
    /// Takes a socket that is non-blocking already.
    pub(super) fn new(socket: socket2::Socket, family: Family) -> Stream {
        Stream {
            source: Source::new(socket),
            family,
        }
    }

    #[cfg(unix)]
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    source_methods!();
}

/// The kinds of stream sockets are one type to the system.
pub(super) fn require_stream(socket: &socket2::Socket) -> io::Result<()> {
    match socket.r#type()? {
        Type::STREAM => Ok(()),
        Type::DGRAM => Err(invalid("sock is a datagram socket, not a stream socket")),
        _ => Err(invalid("sock is no stream socket")),
    }
}

/// Binds the first address that works; without any, none.
fn bind_one(socket: &socket2::Socket, addrs: &[Address]) -> io::Result<()> {
    let mut result = Ok(());
    for addr in addrs {
        result = socket
            .bind(&to_sock_addr(addr)?)
            .map_err(|error| context(error, format_args!("bind {addr}")));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// A stream socket of a family, not blocking.
pub(super) fn new_socket(family: Family, protocol: i32) -> io::Result<socket2::Socket> {
    let socket = open_socket(family, Type::STREAM, protocol)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether `connect` goes on by itself.
fn is_in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    return matches!(
        error.raw_os_error(),
        Some(libc::EINPROGRESS | libc::EINTR | libc::EALREADY)
    );
    #[cfg(not(unix))]
    return error.kind() == io::ErrorKind::WouldBlock;
}

waitable!(Stream);

impl StreamOps for Stream {
    async fn connect(config: &StreamConfig) -> io::Result<Stream> {
        let to = &config.connect;
        let family = Family::of(to);
        let socket = new_socket(family, config.protocol)?;
        bind_one(&socket, &config.bind)?;
        let result = socket.connect(&to_sock_addr(to)?);
        let stream = Stream::new(socket, family);
        let result = match result {
            Err(error) if is_in_progress(&error) => {
                stream.source.settle(Direction::Write);
                poll_fn(|cx| {
                    let mut waiter = Waiter::polled(cx);
                    stream
                        .source
                        .poll_io(Direction::Write, &mut waiter, || is_connected(stream.io()))
                })
                .await
            }
            result => result,
        };
        result.map_err(|error| context(error, format_args!("connect {to}")))?;
        if family != Family::Unix {
            // If it cannot be, for the connection is gone already, it works without.
            let _ = stream.set(SocketOption::NoDelay, 1);
        }
        Ok(stream)
    }

    fn from_socket(socket: Socket) -> io::Result<Stream> {
        let socket = socket.0;
        require_stream(&socket)?;
        let family = family_of(&socket)?;
        socket.set_nonblocking(true)?;
        Ok(Stream::new(socket, family))
    }

    fn into_socket(self) -> io::Result<Socket> {
        self.source.into_io().map(Socket)
    }

    fn try_read(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let result = self.read_ready(bufs);
        if result.is_ok() {
            self.source.pass_on(Direction::Read);
        }
        result
    }

    fn read_ready(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        // Empty ones in front of a long list would look like the end.
        let empty = bufs.iter().take_while(|buf| buf.is_empty()).count();
        let bufs = &mut bufs[empty..];
        let count = bufs.len().min(SLICES);
        let bufs = &mut bufs[..count];
        let room: usize = bufs.iter().map(|buf| buf.len()).sum();
        let result = self.source.try_io(Direction::Read, || match bufs {
            [] => Ok(0),
            [one] => self.io().read(one),
            many => self.io().read_vectored(many),
        });
        // What is less than the system was asked for is all there was; if more came since, or the end, the kernel
        // says so.
        if matches!(&result, Ok(read) if (1..room).contains(read)) {
            self.source.settle(Direction::Read);
        }
        result
    }

    fn poll_read(
        &self,
        waiter: &mut Waiter<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.source
            .poll_tried(Direction::Read, waiter, || self.try_read(bufs))
    }

    #[allow(unsafe_code)]
    fn poll_peek(&self, waiter: &mut Waiter<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.source.poll_io(Direction::Read, waiter, || {
            // SAFETY: `Socket::peek` promises to write initialised bytes only.
            self.io().peek(unsafe { as_uninit(buf) })
        })
    }

    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let empty = bufs.iter().take_while(|buf| buf.is_empty()).count();
        let bufs = &bufs[empty..];
        let bufs = &bufs[..bufs.len().min(SLICES)];
        let result = self.source.try_io(Direction::Write, || match bufs {
            [] => Ok(0),
            [one] => self.io().send_with_flags(one, kernel::stream::NO_SIGNAL),
            many => self
                .io()
                .send_vectored_with_flags(many, kernel::stream::NO_SIGNAL),
        });
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        if matches!(&result, Ok(written) if *written < offered) {
            self.source.settle(Direction::Write);
        }
        result
    }

    fn poll_write(&self, waiter: &mut Waiter<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.source
            .poll_tried(Direction::Write, waiter, || self.try_write(bufs))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.io().shutdown(how)
    }

    fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.source.poll_reported(Direction::Read, waiter)
    }

    fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.source.poll_reported(Direction::Write, waiter)
    }

    fn poll_worth_reading(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.source.poll_turn(Direction::Read, waiter)
    }

    fn local_addr(&self) -> io::Result<Address> {
        from_sock_addr(&self.io().local_addr()?)
    }

    fn peer_addr(&self) -> io::Result<Address> {
        from_sock_addr(&self.io().peer_addr()?)
    }

    fn family(&self) -> Family {
        self.family
    }

    fn get(&self, option: SocketOption) -> io::Result<u32> {
        options::get(self.io(), self.family, option)
    }

    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        options::set(self.io(), self.family, option, value)
    }

    fn linger(&self) -> io::Result<Option<Duration>> {
        self.io().linger().map_err(|error| context(error, "linger"))
    }

    fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        options::set_linger(self.io(), linger)
    }

    fn set_keepalive(&self, keepalive: Keepalive) -> io::Result<()> {
        options::set_tcp_keepalive(self.io(), keepalive)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.io().take_error()
    }
}

/// What has become of a `connect` that went on by itself; `WouldBlock` if it still does.
fn is_connected(socket: &socket2::Socket) -> io::Result<()> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        // Connected and gone again: the first operation will tell.
        Err(_) => Ok(()),
    }
}
