//! Unix datagram sockets.

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::task::{ready, Context, Poll};

use crate::address::Address;
use crate::batch::{Meta, RecvBatch, SendBatch};
use crate::budget;
use crate::error::{context, invalid};
use crate::net::backoff::Backoff;
use crate::net::options::{common_io, common_methods, conversions, escape_hatch};
use crate::net::target::{unix_address, Target};
use crate::sys::caps::{Caps, DatagramConfig, Family, SocketOption};
use crate::sys::{Datagram, DatagramOps, Socket};
use crate::wake::{wait, Direction, Waiter};

/// A Unix datagram socket: reliable, ordered, between processes of one machine.
///
/// See unix(7). Usable through `&self` from any number of tasks and on any executor.
///
/// # Platforms
/// Unix.
///
/// # Examples
/// ```
/// use coracle::net::UnixDatagram;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("log.sock");
///
/// coracle::block_on(async {
///     let server = UnixDatagram::bind(&path)?;
///     let client = UnixDatagram::unbound()?;
///     client.connect(&path)?;
///     client.send(b"started").await?;
///
///     let mut buf = [0; 1500];
///     let (len, from) = server.recv_from(&mut buf).await?;
///     assert_eq!(&buf[..len], b"started");
///     assert!(from.as_unix().is_some_and(|from| from.is_unnamed()));
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub struct UnixDatagram {
    inner: Datagram,
}

impl UnixDatagram {
    /// Makes a socket bound to a path, an abstract name (`"@name"`, Linux), or, with
    /// [`Address::UNNAMED`], to an abstract name that the system chooses (Linux).
    ///
    /// A file at the path is left alone, as with std's sockets, and the file that is made stays
    /// when the socket is closed: [`create_datagram_endpoint`](crate::create_datagram_endpoint)
    /// removes stale ones.
    ///
    /// # Errors
    /// - `InvalidInput`: the path is too long, empty, or no Unix address.
    /// - `AddrInUse`: something is at the path already.
    /// - `PermissionDenied`, `NotFound`, …: the system's, for the folder.
    pub fn bind(addr: impl Into<Target>) -> io::Result<UnixDatagram> {
        let mut config = DatagramConfig::new(Family::Unix);
        config.bind = Some(unix_address(&addr.into())?);
        Datagram::open_now(&config).map(|inner| UnixDatagram { inner })
    }

    /// Makes a socket without a name: it can send, but a receiver has no address to reply to.
    ///
    /// # Errors
    /// The system's, for want of descriptors for example.
    pub fn unbound() -> io::Result<UnixDatagram> {
        Datagram::open_now(&DatagramConfig::new(Family::Unix)).map(|inner| UnixDatagram { inner })
    }

    /// Makes two sockets connected to each other, without names.
    ///
    /// # Errors
    /// The system's, for want of descriptors for example.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let (a, b) = std::os::unix::net::UnixDatagram::pair()?;
        Ok((a.try_into()?, b.try_into()?))
    }

    /// Takes only datagrams of the peer `addr` from now on, and sends to it what has no other
    /// address.
    ///
    /// # Errors
    /// - `NotFound`: nothing is at the path. `ConnectionRefused`: nobody is.
    pub fn connect(&self, addr: impl Into<Target>) -> io::Result<()> {
        self.inner.connect(&unix_address(&addr.into())?)
    }

    /// Sends a datagram to `to`, and waits while the receiver's queue is full.
    ///
    /// The system does not tell a sender that is not connected when there is room again: then it
    /// is tried again after a while, up to every 16 ms.
    ///
    /// # Errors
    /// The system's, named with the address: nobody is there, the datagram is larger than the send
    /// buffer, …. The socket goes on working.
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, nothing has been sent.
    pub async fn send_to(&self, data: &[u8], to: &Address) -> io::Result<usize> {
        self.send_when_room(data, Some(to))
            .await
            .map_err(|error| context(error, format_args!("send {} bytes to {to}", data.len())))
    }

    /// Sends a datagram to the peer the socket is connected to, and waits while its queue is full.
    ///
    /// # Errors
    /// - `NotConnected`: there is none. `ConnectionRefused`, `ConnectionReset`: it is gone.
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, nothing has been sent.
    pub async fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.send_when_room(data, None).await
    }

    async fn send_when_room(&self, data: &[u8], to: Option<&Address>) -> io::Result<usize> {
        let mut backoff = Backoff::new();
        wait(&self.inner, Direction::Write, |waiter| loop {
            if budget::spend() {
                waiter.waker().wake_by_ref();
                return Poll::Pending;
            }
            let result = self.inner.try_send(data, to);
            self.inner.tell_earlier();
            match result {
                Ok(()) => return Poll::Ready(Ok(data.len())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.inner.writable_is_exact() {
                let poll = self.inner.poll_send(waiter, data, to);
                self.inner.tell_earlier();
                return poll.map_ok(|()| data.len());
            }
            ready!(backoff.poll(&mut Context::from_waker(waiter.waker())));
        })
        .await
    }

    /// As [`send_to`](UnixDatagram::send_to), but never waits.
    ///
    /// # Errors
    /// - `WouldBlock`: the receiver's queue is full.
    /// - others as `send_to`.
    pub fn try_send_to(&self, data: &[u8], to: &Address) -> io::Result<usize> {
        let result = self.inner.try_send(data, Some(to));
        self.inner.tell_earlier();
        result.map(|()| data.len())
    }

    /// Sends as many datagrams from the front of `batch` as go at once, takes them off, and tells
    /// how many. Waits as [`send_to`](UnixDatagram::send_to) does, for the receiver of the first:
    /// what is for others behind it waits too.
    ///
    /// # Errors
    /// What the system says to the datagram at the front, named with its size and destination; it
    /// is taken off, and the others stay to be sent.
    ///
    /// # Cancel safety
    /// What has been sent has been taken off.
    pub async fn send_batch(&self, batch: &mut SendBatch) -> io::Result<usize> {
        if batch.is_empty() {
            return Ok(0);
        }
        let mut backoff = Backoff::new();
        wait(&self.inner, Direction::Write, |waiter| loop {
            if budget::spend() {
                waiter.waker().wake_by_ref();
                return Poll::Pending;
            }
            let poll = match self.inner.try_send_batch(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                result => Poll::Ready(result),
            };
            let poll = batch.outcome(poll, self.inner.take_earlier());
            if poll.is_ready() {
                return poll;
            }
            if self.inner.writable_is_exact() {
                let poll = self.inner.poll_send_batch(waiter, batch);
                return batch.outcome(poll, self.inner.take_earlier());
            }
            ready!(backoff.poll(&mut Context::from_waker(waiter.waker())));
        })
        .await
    }

    common_io!();
    escape_hatch!();
    common_methods!();

    pub(crate) fn from_inner(inner: Datagram) -> io::Result<UnixDatagram> {
        if inner.family() != Family::Unix {
            return Err(invalid("an IP socket is no Unix socket"));
        }
        Ok(UnixDatagram { inner })
    }

    pub(crate) fn inner(&self) -> &Datagram {
        &self.inner
    }
}

/// Removes a socket file that a server left behind, as asyncio does before it binds. What is not a
/// socket stays; whoever still has the socket open loses its name.
pub(crate) fn remove_stale(path: &Path) {
    match path.symlink_metadata() {
        Ok(meta) if meta.file_type().is_socket() => {
            // If it fails, bind says that the address is in use.
            let _ = std::fs::remove_file(path);
        }
        _ => {}
    }
}

conversions!(
    UnixDatagram,
    Datagram,
    std::os::unix::net::UnixDatagram,
    socket2::Socket,
    std::os::fd::OwnedFd,
);

#[cfg(feature = "async-io")]
crate::net::options::async_io_conversions!(UnixDatagram, std::os::unix::net::UnixDatagram);

impl fmt::Debug for UnixDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixDatagram")
            .field("local_addr", &self.local_addr())
            .field("peer_addr", &self.peer_addr().ok())
            .finish_non_exhaustive()
    }
}
