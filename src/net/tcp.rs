//! TCP connections and listeners.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};

use crate::address::Address;
use crate::error::invalid;
use crate::net::options::conversions;
#[cfg(any(unix, windows))]
use crate::net::options::escape_hatch;
use crate::net::resolve::{first_success, resolve_target, Query};
use crate::net::split::{split, OwnedReadHalf, OwnedWriteHalf, SplitStream};
use crate::net::stream::{
    listener_methods, listener_traits, shut_down_writing, stream_methods, stream_traits, Incoming,
    Peer, BACKLOG,
};
use crate::net::target::Target;
use crate::sys::caps::{Family, Keepalive, ListenerConfig, SocketOption, StreamConfig};
use crate::sys::{Listener, ListenerOps, Socket, Stream, StreamOps};
use crate::wake::{wait, Direction, Waiter};

/// A TCP connection, usable through `&self` from any number of tasks and on any executor.
///
/// Besides its own methods it has `futures-io`'s [`AsyncRead`] and [`AsyncWrite`], on references
/// too. See tcp(7). Small writes go out at once ([`nodelay`](TcpStream::nodelay) is on), as
/// asyncio has it.
///
/// # Platforms
/// All.
///
/// # Examples
/// ```
/// use coracle::net::{TcpListener, TcpStream};
///
/// coracle::block_on(async {
///     let listener = TcpListener::bind("127.0.0.1:0").await?;
///     let client = TcpStream::connect(listener.local_addr()?).await?;
///     client.write_all(b"ping").await?;
///
///     let (server, from) = listener.accept().await?;
///     let mut buf = [0; 1500];
///     assert_eq!(server.read(&mut buf).await?, 4);
///     println!("{:?} from {from}", &buf[..4]);
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub struct TcpStream {
    inner: Stream,
    peer: Peer,
}

impl TcpStream {
    /// Connects to `addr`; of several addresses of a name, the first that works. For attempts that
    /// overlap, see [`create_connection`](crate::create_connection).
    ///
    /// # Errors
    /// - `InvalidInput`: `addr` is no IP address and no host with a port.
    /// - `NotFound`: the name is unknown.
    /// - `ConnectionRefused`, `TimedOut`, …: the system's, for the first address.
    ///
    /// # Cancel safety
    /// The socket is closed.
    pub async fn connect(addr: impl Into<Target>) -> io::Result<TcpStream> {
        let target = addr.into();
        let addrs = resolve_target(&target, Query::stream()).await?;
        first_success(&target, addrs, |addr| async move {
            TcpStream::connect_to(&StreamConfig::to(addr)).await
        })
        .await
    }

    pub(crate) async fn connect_to(config: &StreamConfig) -> io::Result<TcpStream> {
        if config.connect.as_ip().is_none() {
            return Err(invalid("not an IP address"));
        }
        let inner = Stream::connect(config).await?;
        let peer = match config.connect.as_ip() {
            // Whoever that is.
            Some(addr) if addr.ip().is_unspecified() => Peer::Ask,
            _ => config.connect.into(),
        };
        Ok(TcpStream { inner, peer })
    }

    stream_methods!();
    #[cfg(any(unix, windows))]
    escape_hatch!();

    /// Whether small writes go out at once (`TCP_NODELAY`); if not, the system may wait for more.
    ///
    /// # Errors
    /// As getsockopt(2) gives them.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.get(SocketOption::NoDelay).map(|on| on != 0)
    }

    /// Sets it. It is on for connections that coracle has made or accepted.
    ///
    /// # Errors
    /// As setsockopt(2) gives them.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.set(SocketOption::NoDelay, on.into())
    }

    /// Whether an idle connection is probed (`SO_KEEPALIVE`).
    ///
    /// # Errors
    /// As getsockopt(2) gives them.
    pub fn keepalive(&self) -> io::Result<bool> {
        self.get(SocketOption::KeepAlive).map(|on| on != 0)
    }

    /// Has an idle connection probed, or not.
    ///
    /// # Errors
    /// - `InvalidInput`: a time or the retries are out of range, see [`Keepalive`]; nothing is set.
    /// - others as setsockopt(2) gives them.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        match keepalive {
            Some(keepalive) => self.inner.set_keepalive(keepalive.checked()?),
            None => self.set(SocketOption::KeepAlive, 0),
        }
    }

    /// How many hops packets may make (`IP_TTL`, `IPV6_UNICAST_HOPS`).
    ///
    /// # Errors
    /// As getsockopt(2) gives them.
    pub fn ttl(&self) -> io::Result<u32> {
        self.get(SocketOption::Ttl)
    }

    /// Sets it, 1 to 255.
    ///
    /// # Errors
    /// - `InvalidInput`: out of range.
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        self.set(SocketOption::Ttl, hops)
    }

    pub(crate) fn from_inner(inner: Stream) -> io::Result<TcpStream> {
        if inner.family() == Family::Unix {
            return Err(invalid("a Unix socket is no TCP socket"));
        }
        let peer = Peer::of(&inner);
        Ok(TcpStream { inner, peer })
    }
}

stream_traits!(TcpStream);

conversions!(
    TcpStream,
    Stream,
    #[cfg(any(unix, windows))]
    std::net::TcpStream,
    #[cfg(any(unix, windows))]
    socket2::Socket,
    #[cfg(unix)]
    std::os::fd::OwnedFd,
    #[cfg(windows)]
    std::os::windows::io::OwnedSocket,
);

#[cfg(all(feature = "async-io", any(unix, windows)))]
crate::net::options::async_io_conversions!(TcpStream, std::net::TcpStream);

/// A socket that accepts TCP connections.
///
/// # Platforms
/// All.
///
/// # Examples
/// See [`TcpStream`] and [`Incoming`].
pub struct TcpListener {
    inner: Listener,
}

impl TcpListener {
    /// Listens at `addr`; of several addresses of a name, at the first that works. Port 0 is one
    /// that the system chooses. On Unix the address can be taken again at once when the listener
    /// is gone (`SO_REUSEADDR`); up to 1,024 connections may wait to be accepted.
    ///
    /// # Errors
    /// - `InvalidInput`: `addr` is no IP address and no host with a port.
    /// - `NotFound`: the name is unknown.
    /// - `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, …: the system's, for the first
    ///   address.
    ///
    /// # Cancel safety
    /// The socket is closed.
    pub async fn bind(addr: impl Into<Target>) -> io::Result<TcpListener> {
        let target = addr.into();
        let addrs = resolve_target(&target, Query::stream()).await?;
        first_success(&target, addrs, |addr| async move {
            if addr.as_ip().is_none() {
                return Err(invalid("not an IP address"));
            }
            let inner = Listener::open(&ListenerConfig::at(addr)).await?;
            inner.listen(BACKLOG).await?;
            Ok(TcpListener { inner })
        })
        .await
    }

    listener_methods!(TcpStream);
    #[cfg(any(unix, windows))]
    escape_hatch!();

    pub(crate) fn from_inner(inner: Listener) -> io::Result<TcpListener> {
        if inner.family() == Family::Unix {
            return Err(invalid("a Unix socket is no TCP socket"));
        }
        Ok(TcpListener { inner })
    }
}

listener_traits!(TcpListener, TcpStream);

conversions!(
    TcpListener,
    Listener,
    #[cfg(any(unix, windows))]
    std::net::TcpListener,
    #[cfg(any(unix, windows))]
    socket2::Socket,
    #[cfg(unix)]
    std::os::fd::OwnedFd,
    #[cfg(windows)]
    std::os::windows::io::OwnedSocket,
);

#[cfg(all(feature = "async-io", any(unix, windows)))]
crate::net::options::async_io_conversions!(TcpListener, std::net::TcpListener);
