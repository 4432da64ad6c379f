//! TCP connections.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use wasip2::io::error::Error as StreamFailure;
use wasip2::io::poll::Pollable;
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::ErrorCode;
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

use super::convert::{creation_error, error, family_to_wasi, from_wasi, to_wasi};
use super::leaving::{check_room, leave, Haste};
use super::options::{get_tcp, set_keepalive, set_tcp};
use super::pollable::{wait, Interest};
use crate::address::Address;
use crate::error::{context, unsupported};
use crate::sys::caps::{Family, Keepalive, SocketOption, StreamConfig};
use crate::sys::wasi::address::{local, remote};
use crate::sys::wasi::options::check_stream;
use crate::sys::wasi::socket::Socket;
use crate::sys::StreamOps;
use crate::wake::{Direction, Ticket, Waitable, Waiter};

/// Bytes asked for with one read: the host pays for what it is asked for. As many at first, more
/// while it has as many.
const READ: usize = 2048;
const MOST: usize = 64 * 1024;

/// A TCP connection.
pub(crate) struct Stream {
    // In this order: the host wants pollables gone before their streams, and those before the
    // socket.
    read: Interest,
    write: Interest,
    inner: Mutex<Inner>,
    family: Family,
}

struct Inner {
    /// Looked at and not yet read.
    peeked: VecDeque<u8>,
    /// What a look has come to that the next read is told.
    failure: Option<io::Error>,
    /// Bytes that the next read asks for.
    size: usize,
    /// The direction to the peer is still open.
    writing: bool,
    /// For when it is dropped.
    haste: Haste,
    handles: Arc<Handles>,
}

/// What the host has of a connection.
pub(super) struct Handles {
    // In this order, as above.
    input: InputStream,
    pub(super) output: OutputStream,
    socket: TcpSocket,
}

impl Handles {
    /// The host has taken what it has not yet sent.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.output.check_write(), Ok(0))
    }

    /// Has the system take more of it at once.
    pub(super) fn make_room(&self, size: u64) {
        let _ = self.socket.set_send_buffer_size(size);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.writing {
            // What the host has taken is sent before the end; without this it need not be.
            let _ = self.handles.socket.shutdown(ShutdownType::Send);
        }
        if self.handles.is_sending() {
            leave(self.handles.clone(), self.haste);
        }
    }
}

impl Inner {
    /// Finds out whether there is something to read, the end and failures included, which is kept
    /// for who reads. The host does not tell before it was asked for it.
    fn look(&mut self) -> io::Result<()> {
        if self.has_looked() {
            return Ok(());
        }
        match self.read(MOST) {
            Ok(data) => self.peeked = data.into(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => self.failure = Some(error),
        }
        Ok(())
    }

    fn has_looked(&self) -> bool {
        !self.peeked.is_empty() || self.failure.is_some()
    }

    /// Up to `max` bytes, of which there are some; none are the end.
    fn read(&mut self, max: usize) -> io::Result<Vec<u8>> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let asked = max.min(self.size);
        match self.handles.input.read(asked as u64) {
            Ok(data) if data.is_empty() && asked > 0 => Err(io::ErrorKind::WouldBlock.into()),
            Ok(data) => {
                if data.len() == self.size {
                    self.size = (self.size * 2).min(MOST);
                } else if data.len() < self.size / 4 {
                    self.size = (self.size / 2).max(READ);
                }
                Ok(data)
            }
            Err(StreamError::Closed) => Ok(Vec::new()),
            Err(StreamError::LastOperationFailed(failure)) => Err(failed(&failure)),
        }
    }
}

/// What a stream of a socket has failed with: the host gives a text, with the name of an error in
/// one spelling or another, and a code only where it was told to (`network-error-code` is unstable).
fn failed(failure: &StreamFailure) -> io::Error {
    let text = failure.to_debug_string();
    io::Error::new(kind_of_failure(&text), text)
}

fn kind_of_failure(text: &str) -> io::ErrorKind {
    use io::ErrorKind as Kind;
    let text = text.to_ascii_lowercase();
    let known = [
        ("reset", Kind::ConnectionReset),
        ("broken", Kind::BrokenPipe),
        ("epipe", Kind::BrokenPipe),
        ("aborted", Kind::ConnectionAborted),
        ("timed out", Kind::TimedOut),
        ("timedout", Kind::TimedOut),
        ("timeout", Kind::TimedOut),
        ("unreach", Kind::HostUnreachable),
    ];
    let kind = known.iter().find(|(word, _)| text.contains(word));
    kind.map_or(Kind::Other, |(_, kind)| *kind)
}

fn broken(stream_error: StreamError) -> io::Error {
    match stream_error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(failure) => failed(&failure),
    }
}

/// A socket that is neither bound nor connected.
pub(super) fn new_socket(family: Family) -> io::Result<TcpSocket> {
    create_tcp_socket(family_to_wasi(family)?).map_err(|code| creation_error(code, "TCP"))
}

pub(super) async fn bind(socket: &TcpSocket, addr: &Address, family: Family) -> io::Result<()> {
    let to = local(addr, family)?;
    let result = async {
        socket
            .start_bind(&instance_network(), to_wasi(to))
            .map_err(error)?;
        finish(socket, TcpSocket::finish_bind).await
    };
    result
        .await
        .map_err(|error| context(error, format_args!("bind {addr}")))
}

/// Waits until an operation that was started is done.
pub(super) async fn finish<T>(
    socket: &TcpSocket,
    operation: impl Fn(&TcpSocket) -> Result<T, ErrorCode>,
) -> io::Result<T> {
    loop {
        match operation(socket) {
            Ok(value) => return Ok(value),
            Err(ErrorCode::WouldBlock) => wait(socket.subscribe()).await?,
            Err(code) => return Err(error(code)),
        }
    }
}

impl Stream {
    pub(super) fn new(
        socket: TcpSocket,
        input: InputStream,
        output: OutputStream,
        family: Family,
    ) -> Stream {
        Stream {
            read: Interest::new(),
            write: Interest::new(),
            inner: Mutex::new(Inner {
                peeked: VecDeque::new(),
                failure: None,
                size: READ,
                writing: true,
                haste: Haste::Patient,
                handles: Arc::new(Handles {
                    input,
                    output,
                    socket,
                }),
            }),
            family,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readable(&self) -> io::Result<Pollable> {
        Ok(self.lock().handles.input.subscribe())
    }

    fn writable(&self) -> io::Result<Pollable> {
        Ok(self.lock().handles.output.subscribe())
    }

    fn would_block<T>(&self, interest: &Interest) -> io::Result<T> {
        interest.clear();
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Copies bytes into buffers one after the other; they fit.
fn scatter(mut data: &[u8], bufs: &mut [IoSliceMut<'_>]) {
    for buf in bufs {
        let len = buf.len().min(data.len());
        let (now, rest) = data.split_at(len);
        buf[..len].copy_from_slice(now);
        data = rest;
    }
}

impl Waitable for Stream {
    type Event = Direction;

    fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        match direction {
            Direction::Read => self.read.forget(ticket),
            Direction::Write => self.write.forget(ticket),
        }
    }
}

impl StreamOps for Stream {
    async fn connect(config: &StreamConfig) -> io::Result<Stream> {
        check_stream(config)?;
        let to = &config.connect;
        let family = Family::of(to);
        let peer = remote(to, family)?;
        check_room()?;
        let socket = new_socket(family)?;
        let mut bound = Ok(());
        for addr in &config.bind {
            bound = bind(&socket, addr, family).await;
            if bound.is_ok() {
                break;
            }
        }
        bound?;
        let result = async {
            socket
                .start_connect(&instance_network(), to_wasi(peer))
                .map_err(error)?;
            finish(&socket, TcpSocket::finish_connect).await
        };
        let (input, output) = result
            .await
            .map_err(|error| context(error, format_args!("connect {to}")))?;
        Ok(Stream::new(socket, input, output, family))
    }

    fn from_socket(socket: Socket) -> io::Result<Stream> {
        socket.refuse()
    }

    fn into_socket(self) -> io::Result<Socket> {
        Err(unsupported("taking a socket out of coracle"))
    }

    fn try_read(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut inner = self.lock();
        if !inner.peeked.is_empty() {
            let len = room.min(inner.peeked.len());
            scatter(&inner.peeked.make_contiguous()[..len], bufs);
            inner.peeked.drain(..len);
            return Ok(len);
        }
        let data = inner.read(room);
        drop(inner);
        self.read.note(&data);
        let data = data?;
        scatter(&data, bufs);
        Ok(data.len())
    }

    fn poll_read(
        &self,
        waiter: &mut Waiter<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.lock().has_looked() {
            return Poll::Ready(self.try_read(bufs));
        }
        self.read
            .poll_io(waiter, || self.readable(), || self.try_read(bufs))
    }

    fn poll_take(&self, waiter: &mut Waiter<'_>) -> Option<Poll<io::Result<Vec<u8>>>> {
        let peeked = std::mem::take(&mut self.lock().peeked);
        if !peeked.is_empty() {
            return Some(Poll::Ready(Ok(peeked.into())));
        }
        let take = || self.lock().read(MOST);
        Some(self.read.poll_io(waiter, || self.readable(), take))
    }

    fn poll_peek(&self, waiter: &mut Waiter<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let look = |buf: &mut [u8]| {
            let mut inner = self.lock();
            if inner.peeked.is_empty() {
                let data = inner.read(buf.len())?;
                inner.peeked.extend(data);
            }
            let len = buf.len().min(inner.peeked.len());
            for (to, from) in buf.iter_mut().zip(&inner.peeked) {
                *to = *from;
            }
            Ok(len)
        };
        if !self.lock().peeked.is_empty() {
            return Poll::Ready(look(buf));
        }
        self.read.poll_io(waiter, || self.readable(), || look(buf))
    }

    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        let inner = self.lock();
        if !inner.writing {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let permit = inner.handles.output.check_write().map_err(broken)? as usize;
        if offered == 0 {
            return Ok(0);
        }
        if permit == 0 {
            return self.would_block(&self.write);
        }
        // Small writes go together: nothing else keeps the system from waiting for more.
        let mut gathered = Vec::new();
        let data = match bufs {
            [one] => &one[..one.len().min(permit)],
            many => {
                for buf in many {
                    let room = permit - gathered.len();
                    gathered.extend_from_slice(&buf[..buf.len().min(room)]);
                }
                &gathered[..]
            }
        };
        inner.handles.output.write(data).map_err(broken)?;
        match data.len() < offered {
            true => self.write.clear(),
            false => self.write.tried(),
        }
        Ok(data.len())
    }

    fn poll_write(&self, waiter: &mut Waiter<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.write
            .poll_io(waiter, || self.writable(), || self.try_write(bufs))
    }

    fn abandon(&self) {
        self.lock().haste = Haste::Hurried;
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let mut inner = self.lock();
        let how = match how {
            Shutdown::Read => ShutdownType::Receive,
            Shutdown::Write => ShutdownType::Send,
            Shutdown::Both => ShutdownType::Both,
        };
        if how != ShutdownType::Receive {
            inner.writing = false;
        }
        inner.handles.socket.shutdown(how).map_err(error)
    }

    fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        if self.lock().has_looked() {
            return Poll::Ready(Ok(()));
        }
        if self.read.is_certain() {
            return self.read.poll_turn(waiter, || self.readable());
        }
        let look = || self.lock().look();
        self.read.poll_io(waiter, || self.readable(), look)
    }

    fn poll_worth_reading(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        if self.lock().has_looked() {
            return Poll::Ready(Ok(()));
        }
        self.read.poll_try(waiter, || self.readable())
    }

    fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.write.poll_turn(waiter, || self.writable())
    }

    fn local_addr(&self) -> io::Result<Address> {
        let addr = self.lock().handles.socket.local_address().map_err(error)?;
        Ok(from_wasi(addr).into())
    }

    fn peer_addr(&self) -> io::Result<Address> {
        let addr = self.lock().handles.socket.remote_address().map_err(error)?;
        Ok(from_wasi(addr).into())
    }

    fn family(&self) -> Family {
        self.family
    }

    fn get(&self, option: SocketOption) -> io::Result<u32> {
        get_tcp(&self.lock().handles.socket, option)
    }

    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        set_tcp(&self.lock().handles.socket, option, value)
    }

    fn linger(&self) -> io::Result<Option<Duration>> {
        Err(unsupported("linger"))
    }

    fn set_linger(&self, _linger: Option<Duration>) -> io::Result<()> {
        Err(unsupported("linger"))
    }

    fn set_keepalive(&self, keepalive: Keepalive) -> io::Result<()> {
        set_keepalive(&self.lock().handles.socket, keepalive)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        // The next operation gives it.
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_however_the_host_spells_them() {
        use io::ErrorKind as Kind;
        for (text, kind) in [
            ("ConnectionReset", Kind::ConnectionReset),
            (
                "Connection reset by peer (os error 104)",
                Kind::ConnectionReset,
            ),
            ("Error: read ECONNRESET", Kind::ConnectionReset),
            ("ConnectionBroken", Kind::BrokenPipe),
            ("Broken pipe (os error 32)", Kind::BrokenPipe),
            ("Error: write EPIPE", Kind::BrokenPipe),
            ("ConnectionAborted", Kind::ConnectionAborted),
            ("Timeout", Kind::TimedOut),
            ("Error: read ETIMEDOUT", Kind::TimedOut),
            ("RemoteUnreachable", Kind::HostUnreachable),
            ("something else", Kind::Other),
        ] {
            assert_eq!(kind_of_failure(text), kind, "{text}");
        }
    }
}
