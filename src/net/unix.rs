//! Unix connections and listeners.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};

use crate::address::Address;
use crate::budget;
use crate::error::invalid;
use crate::net::backoff::Backoff;
use crate::net::options::{conversions, escape_hatch};
use crate::net::split::{split, OwnedReadHalf, OwnedWriteHalf, SplitStream};
use crate::net::stream::{
    listener_methods, listener_traits, shut_down_writing, stream_methods, stream_traits, Incoming,
    Peer, BACKLOG,
};
use crate::net::target::{unix_address, Target};
use crate::sys::caps::{Family, ListenerConfig, SocketOption, StreamConfig};
use crate::sys::{Listener, ListenerOps, PeerCred, Socket, Stream, StreamOps};
use crate::wake::{wait, Direction, Waiter};

/// A Unix stream connection, between processes of one machine.
///
/// Usable through `&self` from any number of tasks and on any executor. Besides its own methods it
/// has `futures-io`'s [`AsyncRead`] and [`AsyncWrite`], on references too. See unix(7).
///
/// # Platforms
/// Unix.
///
/// # Examples
/// ```
/// use coracle::net::{UnixListener, UnixStream};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("service.sock");
///
/// coracle::block_on(async {
///     let listener = UnixListener::bind(&path)?;
///     let client = UnixStream::connect(&path).await?;
///     client.write_all(b"ping").await?;
///
///     let (server, _) = listener.accept().await?;
///     let mut buf = [0; 1500];
///     assert_eq!(server.read(&mut buf).await?, 4);
///     println!("from the user {}", server.peer_cred()?.uid);
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub struct UnixStream {
    inner: Stream,
    peer: Peer,
}

/// What [`recv_fds`](UnixStream::recv_fds) has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FdsReceived {
    /// How many bytes; 0 is the end, unless the buffer was empty.
    pub len: usize,
    /// Descriptors came that there was no room for, or that this process may not open: the system
    /// has closed them.
    pub truncated: bool,
}

impl UnixStream {
    /// Connects to the listener at a path or an abstract name (`"@name"`, Linux).
    ///
    /// Where connections have to wait to be accepted and no more may (the listener's backlog is
    /// full), it tries again after a while, up to every 16 ms, for as long as the caller waits:
    /// pair it with [`timeout`](crate::time::timeout).
    ///
    /// # Errors
    /// - `InvalidInput`: the path is too long, empty, or no Unix address.
    /// - `NotFound`: nothing is at the path. `ConnectionRefused`: nobody listens there; on systems
    ///   other than Linux, a full backlog too.
    /// - `PermissionDenied`, …: the system's.
    ///
    /// # Cancel safety
    /// The socket is closed.
    pub async fn connect(addr: impl Into<Target>) -> io::Result<UnixStream> {
        UnixStream::connect_to(unix_address(&addr.into())?).await
    }

    pub(crate) async fn connect_to(addr: Address) -> io::Result<UnixStream> {
        // It is refused without a wait.
        budget::turn().await;
        if addr.as_unix().is_some_and(|addr| addr.is_unnamed()) {
            return Err(invalid("the address to connect to has no name"));
        }
        let config = StreamConfig::to(addr);
        let mut backoff = Backoff::new();
        loop {
            match Stream::connect(&config).await {
                Ok(inner) => {
                    let peer = addr.into();
                    return Ok(UnixStream { inner, peer });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| backoff.poll(cx)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes two streams connected to each other, without names.
    ///
    /// # Errors
    /// The system's, for want of descriptors for example.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let (a, b) = std::os::unix::net::UnixStream::pair()?;
        Ok((a.try_into()?, b.try_into()?))
    }

    stream_methods!();
    escape_hatch!();

    /// Who is at the other end, as it was when the connection was made (`SO_PEERCRED`,
    /// getpeereid(3)). The system vouches for it.
    ///
    /// # Errors
    /// - `Unsupported`: not on this platform (others than Linux, Android, macOS and the BSDs).
    /// - others as the system gives them.
    pub fn peer_cred(&self) -> io::Result<PeerCred> {
        self.inner.peer_cred()
    }

    /// Writes as much of `data` as the system takes at once and tells how much; copies of the
    /// descriptors go with the first byte (`SCM_RIGHTS`, unix(7)).
    ///
    /// # Errors
    /// - `InvalidInput`: `data` is empty, or the descriptors are more than 253.
    /// - others as [`write`](UnixStream::write).
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, nothing has been written.
    ///
    /// # Examples
    /// ```
    /// use coracle::net::UnixStream;
    /// use std::os::fd::AsFd;
    ///
    /// coracle::block_on(async {
    ///     let (a, b) = UnixStream::pair()?;
    ///     let file = std::fs::File::open("/dev/null")?;
    ///     a.send_fds(b"take this", &[file.as_fd()]).await?;
    ///
    ///     let (mut buf, mut fds) = ([0; 64], Vec::new());
    ///     let received = b.recv_fds(&mut buf, &mut fds).await?;
    ///     assert_eq!((received.len, fds.len(), received.truncated), (9, 1, false));
    /// #   std::io::Result::Ok(())
    /// })
    /// # .unwrap();
    /// ```
    pub async fn send_fds(&self, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        wait(&self.inner, Direction::Write, |waiter| {
            self.inner.poll_send_fds(waiter, data, fds)
        })
        .await
    }

    /// Reads what is there as far as it fits, and adds the descriptors that came with it to `fds`;
    /// exec closes them. A read ends where other descriptors begin.
    ///
    /// Descriptors that come while somebody reads by another method are closed by the system.
    ///
    /// # Errors
    /// As [`read`](UnixStream::read).
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, nothing has been read.
    pub async fn recv_fds(
        &self,
        buf: &mut [u8],
        fds: &mut Vec<OwnedFd>,
    ) -> io::Result<FdsReceived> {
        let receive = wait(&self.inner, Direction::Read, |waiter| {
            self.inner.poll_recv_fds(waiter, buf, fds)
        });
        let (len, truncated) = receive.await?;
        Ok(FdsReceived { len, truncated })
    }

    pub(crate) fn from_inner(inner: Stream) -> io::Result<UnixStream> {
        if inner.family() != Family::Unix {
            return Err(invalid("an IP socket is no Unix socket"));
        }
        let peer = Peer::of(&inner);
        Ok(UnixStream { inner, peer })
    }
}

stream_traits!(UnixStream);

conversions!(
    UnixStream,
    Stream,
    std::os::unix::net::UnixStream,
    socket2::Socket,
    std::os::fd::OwnedFd,
);

#[cfg(feature = "async-io")]
crate::net::options::async_io_conversions!(UnixStream, std::os::unix::net::UnixStream);

/// A socket that accepts Unix connections.
///
/// # Platforms
/// Unix.
///
/// # Examples
/// See [`UnixStream`].
pub struct UnixListener {
    inner: Listener,
}

impl UnixListener {
    /// Listens at a path or an abstract name (`"@name"`, Linux); up to 1,024 connections may wait
    /// to be accepted.
    ///
    /// A file at the path is left alone, as with std's sockets, and the file that is made stays
    /// when the socket is closed: [`create_unix_server`](crate::create_unix_server) takes care of
    /// both.
    ///
    /// # Errors
    /// - `InvalidInput`: the path is too long, empty, or no Unix address.
    /// - `AddrInUse`: something is at the path already.
    /// - `PermissionDenied`, `NotFound`, …: the system's, for the folder.
    pub fn bind(addr: impl Into<Target>) -> io::Result<UnixListener> {
        let config = ListenerConfig::at(unix_address(&addr.into())?);
        let inner = Listener::open_now(&config, BACKLOG)?;
        Ok(UnixListener { inner })
    }

    listener_methods!(UnixStream);
    escape_hatch!();

    pub(crate) fn from_inner(inner: Listener) -> io::Result<UnixListener> {
        if inner.family() != Family::Unix {
            return Err(invalid("an IP socket is no Unix socket"));
        }
        Ok(UnixListener { inner })
    }
}

listener_traits!(UnixListener, UnixStream);

conversions!(
    UnixListener,
    Listener,
    std::os::unix::net::UnixListener,
    socket2::Socket,
    std::os::fd::OwnedFd,
);

#[cfg(feature = "async-io")]
crate::net::options::async_io_conversions!(UnixListener, std::os::unix::net::UnixListener);
