//! UDP sockets.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};

use crate::address::Address;
use crate::batch::{Meta, RecvBatch, SendBatch};
use crate::budget;
use crate::error::{context, invalid};
#[cfg(any(unix, windows))]
use crate::net::options::escape_hatch;
use crate::net::options::{common_io, common_methods, conversions};
use crate::net::resolve::{first_success, resolve_target, Query};
use crate::net::target::Target;
use crate::sys::caps::{Caps, DatagramConfig, Family, Interface, Membership, SocketOption};
use crate::sys::{Datagram, DatagramOps, Socket};
use crate::wake::{wait, Direction, Waiter};

/// A UDP socket, usable through `&self` from any number of tasks and on any executor.
///
/// *asyncio equivalent*: none (its sockets are driven by `loop.sock_*`); std's is
/// `std::net::UdpSocket`. See udp(7).
///
/// # Platforms
/// All; where the system lacks an option, its method gives `Unsupported`, see
/// [`caps`](UdpSocket::caps).
///
/// # Examples
/// ```
/// use coracle::net::UdpSocket;
///
/// coracle::block_on(async {
///     let server = UdpSocket::bind("127.0.0.1:0").await?;
///     let client = UdpSocket::bind("127.0.0.1:0").await?;
///     client.connect(server.local_addr()?).await?;
///     client.send(b"ping").await?;
///
///     let mut buf = [0; 1500];
///     let (len, from) = server.recv_from(&mut buf).await?;
///     assert_eq!(&buf[..len], b"ping");
///     server.send_to(b"pong", &from).await?;
///     assert_eq!(client.recv(&mut buf).await?, 4);
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub struct UdpSocket {
    inner: Datagram,
}

impl UdpSocket {
    /// Makes a socket bound to `addr`; of several addresses of a name, the first that works.
    ///
    /// # Errors
    /// - `InvalidInput`: `addr` is no IP address and no host with a port.
    /// - `NotFound`: the name is unknown.
    /// - `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, …: the system's, for the first
    ///   address.
    ///
    /// # Cancel safety
    /// The socket is closed.
    pub async fn bind(addr: impl Into<Target>) -> io::Result<UdpSocket> {
        let target = addr.into();
        let addrs = resolve_target(&target, Query::default()).await?;
        first_success(&target, addrs, |addr| async move {
            if addr.as_ip().is_none() {
                return Err(invalid("not an IP address"));
            }
            let mut config = DatagramConfig::new(Family::of(&addr));
            config.bind = Some(addr);
            Datagram::open(&config)
                .await
                .map(|inner| UdpSocket { inner })
        })
        .await
    }

    /// Makes a socket that is not bound yet, for what must be set before: see
    /// [`bind_to`](UdpSocket::bind_to). The first send binds it to a port that the system chooses.
    ///
    /// # Errors
    /// - `InvalidInput`: the family is not IP.
    /// - the system's, for want of descriptors for example.
    ///
    /// # Examples
    /// ```
    /// use coracle::net::{Family, UdpSocket};
    ///
    /// coracle::block_on(async {
    ///     let socket = UdpSocket::unbound(Family::Inet6).await?;
    ///     socket.set_only_v6(true)?;
    ///     socket.bind_to(&"[::]:0".parse()?).await
    /// })
    /// # .unwrap();
    /// ```
    pub async fn unbound(family: Family) -> io::Result<UdpSocket> {
        if family == Family::Unix {
            return Err(invalid("a UDP socket cannot be of family Unix"));
        }
        budget::turn().await;
        Datagram::open(&DatagramConfig::new(family))
            .await
            .map(|inner| UdpSocket { inner })
    }

    /// Binds a socket made with [`unbound`](UdpSocket::unbound).
    ///
    /// # Errors
    /// As [`bind`](UdpSocket::bind), and `InvalidInput` if it is bound already.
    ///
    /// # Cancel safety
    /// The socket may be bound or not.
    pub async fn bind_to(&self, addr: &Address) -> io::Result<()> {
        self.inner.bind(addr).await
    }

    /// Takes only datagrams of the peer `addr` from now on, sends to it what has no other address,
    /// and learns of the errors that the network reports about it. What others had sent before, and
    /// nobody has received yet, is dropped. The socket stays at its port, however often it is
    /// connected.
    ///
    /// # Errors
    /// As [`bind`](UdpSocket::bind).
    ///
    /// # Cancel safety
    /// The socket stays as it was.
    pub async fn connect(&self, addr: impl Into<Target>) -> io::Result<()> {
        let target = addr.into();
        let addrs = resolve_target(&target, Query::default()).await?;
        first_success(&target, addrs, |addr| async move {
            if addr.as_ip().is_none() {
                return Err(invalid("not an IP address"));
            }
            self.inner.connect(&addr)
        })
        .await
    }

    /// Sends a datagram to `to`; it goes whole or not at all.
    ///
    /// # Errors
    /// The system's, named with the address: the datagram is too large, the address of another
    /// family, broadcast was not allowed, …. The socket goes on working.
    ///
    /// What the network reports of an earlier datagram (`ConnectionRefused`, `HostUnreachable`, …)
    /// is not this one's error: the next receive or [`take_error`](UdpSocket::take_error) tells
    /// it.
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, nothing has been sent.
    pub async fn send_to(&self, data: &[u8], to: &Address) -> io::Result<usize> {
        let result = wait(&self.inner, Direction::Write, |waiter| {
            let poll = self.inner.poll_send(waiter, data, Some(to));
            self.inner.tell_earlier();
            poll
        });
        sent(result.await, data, to)
    }

    /// Sends a datagram to the peer the socket is connected to.
    ///
    /// # Errors
    /// - `NotConnected` or `InvalidInput`: there is none.
    /// - `ConnectionRefused`: an earlier datagram found nobody listening; this one was not sent.
    /// - others as [`send_to`](UdpSocket::send_to), which also says what becomes of other errors of
    ///   an earlier datagram.
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, nothing has been sent.
    pub async fn send(&self, data: &[u8]) -> io::Result<usize> {
        wait(&self.inner, Direction::Write, |waiter| {
            let poll = self.inner.poll_send(waiter, data, None);
            self.inner.tell_earlier();
            poll.map_ok(|()| data.len())
        })
        .await
    }

    /// As [`send_to`](UdpSocket::send_to), in the form of a poll function.
    ///
    /// # Errors
    /// As `send_to`.
    pub fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        to: &Address,
    ) -> Poll<io::Result<usize>> {
        let poll = self
            .inner
            .poll_send(&mut Waiter::polled(cx), data, Some(to));
        self.inner.tell_earlier();
        poll.map(|result| sent(result, data, to))
    }

    /// As [`send_to`](UdpSocket::send_to), but never waits.
    ///
    /// # Errors
    /// - `WouldBlock`: the system's buffer is full.
    /// - others as `send_to`.
    pub fn try_send_to(&self, data: &[u8], to: &Address) -> io::Result<usize> {
        let result = self.inner.try_send(data, Some(to));
        self.inner.tell_earlier();
        sent(result, data, to)
    }

    /// Sends as many datagrams from the front of `batch` as the system takes at once, takes them
    /// off, and tells how many. Call it until the batch is empty.
    ///
    /// # Errors
    /// - What the system says to the datagram at the front, named with its size and destination; it
    ///   is taken off, and the others stay to be sent.
    /// - What the network has reported of an earlier datagram (`ConnectionRefused`,
    ///   `HostUnreachable`, …), without a destination; none is lost: what was sent all the same has
    ///   been taken off, and the others stay.
    ///
    /// # Cancel safety
    /// What has been sent has been taken off.
    ///
    /// # Examples
    /// See [`SendBatch`].
    pub async fn send_batch(&self, batch: &mut SendBatch) -> io::Result<usize> {
        if batch.is_empty() {
            return Ok(0);
        }
        wait(&self.inner, Direction::Write, |waiter| {
            let poll = self.inner.poll_send_batch(waiter, batch);
            batch.outcome(poll, self.inner.take_earlier())
        })
        .await
    }

    common_io!();
    #[cfg(any(unix, windows))]
    escape_hatch!();
    common_methods!();

    /// Whether datagrams may be sent to broadcast addresses (`SO_BROADCAST`).
    ///
    /// # Errors
    /// As getsockopt(2) gives them.
    pub fn broadcast(&self) -> io::Result<bool> {
        self.get(SocketOption::Broadcast).map(|on| on != 0)
    }

    /// Allows sending to broadcast addresses.
    ///
    /// # Errors
    /// As setsockopt(2) gives them; `Unsupported` on WASI.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.set(SocketOption::Broadcast, on.into())
    }

    /// Whether other sockets of the same user may bind the same address (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// As getsockopt(2) gives them.
    pub fn reuse_port(&self) -> io::Result<bool> {
        self.get(SocketOption::ReusePort).map(|on| on != 0)
    }

    /// Lets other sockets of the same user bind the same address and share its datagrams; to be
    /// set before binding, by each of them.
    ///
    /// # Errors
    /// - `Unsupported`: not on this platform (Windows, WASI).
    ///
    /// # Examples
    /// ```
    /// # #[cfg(not(any(windows, target_os = "wasi")))]
    /// # {
    /// use coracle::net::{Family, UdpSocket};
    ///
    /// coracle::block_on(async {
    ///     let first = UdpSocket::unbound(Family::Inet).await?;
    ///     first.set_reuse_port(true)?;
    ///     first.bind_to(&"127.0.0.1:0".parse()?).await?;
    ///
    ///     let second = UdpSocket::unbound(Family::Inet).await?;
    ///     second.set_reuse_port(true)?;
    ///     second.bind_to(&first.local_addr()?).await
    /// })
    /// # .unwrap();
    /// # }
    /// ```
    pub fn set_reuse_port(&self, on: bool) -> io::Result<()> {
        self.set(SocketOption::ReusePort, on.into())
    }

    /// The hops that sent datagrams may take (`IP_TTL`, `IPV6_UNICAST_HOPS`).
    ///
    /// # Errors
    /// As getsockopt(2) gives them.
    pub fn ttl(&self) -> io::Result<u32> {
        self.get(SocketOption::Ttl)
    }

    /// Sets the hops that sent datagrams may take, 1 to 255.
    ///
    /// # Errors
    /// - `InvalidInput`: out of range.
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        self.set(SocketOption::Ttl, hops)
    }

    /// Whether an IPv6 socket leaves IPv4 alone (`IPV6_V6ONLY`).
    ///
    /// # Errors
    /// As getsockopt(2) gives them; the socket may be an IPv4 one.
    pub fn only_v6(&self) -> io::Result<bool> {
        self.get(SocketOption::OnlyV6).map(|on| on != 0)
    }

    /// Sets whether an IPv6 socket leaves IPv4 alone; to be set before binding.
    ///
    /// # Errors
    /// As setsockopt(2) gives them; the socket may be an IPv4 one, or bound.
    pub fn set_only_v6(&self, on: bool) -> io::Result<()> {
        self.set(SocketOption::OnlyV6, on.into())
    }

    /// Joins the multicast group `group` on an interface: its datagrams are received from now on.
    ///
    /// # Errors
    /// - `InvalidInput`: not a group, or the interface is named in a way the family does not take.
    /// - `NotFound`, `AddrInUse`, …: the system's, for an unknown interface or a group joined
    ///   before.
    ///
    /// # Examples
    /// ```no_run
    /// use coracle::net::{Interface, UdpSocket};
    ///
    /// coracle::block_on(async {
    ///     let socket = UdpSocket::bind("0.0.0.0:5353").await?;
    ///     socket.join_multicast([224, 0, 0, 251], Interface::Any)?;
    /// #   std::io::Result::Ok(())
    /// })
    /// # .unwrap();
    /// ```
    pub fn join_multicast(
        &self,
        group: impl Into<IpAddr>,
        interface: impl Into<Interface>,
    ) -> io::Result<()> {
        self.inner
            .membership(Membership::Join, group.into(), interface.into())
    }

    /// Leaves a group joined with the same arguments.
    ///
    /// # Errors
    /// As [`join_multicast`](UdpSocket::join_multicast); it may not have been joined.
    pub fn leave_multicast(
        &self,
        group: impl Into<IpAddr>,
        interface: impl Into<Interface>,
    ) -> io::Result<()> {
        self.inner
            .membership(Membership::Leave, group.into(), interface.into())
    }

    /// Sets the interface that datagrams to groups go out by.
    ///
    /// # Errors
    /// As [`join_multicast`](UdpSocket::join_multicast).
    pub fn set_multicast_interface(&self, interface: impl Into<Interface>) -> io::Result<()> {
        self.inner.set_multicast_interface(interface.into())
    }

    /// Whether datagrams sent to groups come back to this machine's members.
    ///
    /// # Errors
    /// As getsockopt(2) gives them.
    pub fn multicast_loop(&self) -> io::Result<bool> {
        self.get(SocketOption::MulticastLoop).map(|on| on != 0)
    }

    /// Sets whether datagrams sent to groups come back to this machine's members (Windows: whether
    /// this socket receives those that come back).
    ///
    /// # Errors
    /// As setsockopt(2) gives them.
    pub fn set_multicast_loop(&self, on: bool) -> io::Result<()> {
        self.set(SocketOption::MulticastLoop, on.into())
    }

    /// The hops that datagrams to groups may take; 1, the local network, unless set.
    ///
    /// # Errors
    /// As getsockopt(2) gives them.
    pub fn multicast_ttl(&self) -> io::Result<u32> {
        self.get(SocketOption::MulticastTtl)
    }

    /// Sets the hops that datagrams to groups may take, 0 (this machine) to 255.
    ///
    /// # Errors
    /// - `InvalidInput`: out of range.
    pub fn set_multicast_ttl(&self, hops: u32) -> io::Result<()> {
        self.set(SocketOption::MulticastTtl, hops)
    }

    /// Has received datagrams tell [the address they were sent to](Meta::destination).
    ///
    /// # Errors
    /// - `Unsupported`: not on this platform; see [`Caps::destination`].
    pub fn set_receive_destination(&self, on: bool) -> io::Result<()> {
        self.set(SocketOption::ReceiveDestination, on.into())
    }

    /// Has received datagrams tell [their congestion mark](Meta::ecn).
    ///
    /// # Errors
    /// - `Unsupported`: not on this platform; see [`Caps::ecn`].
    pub fn set_receive_ecn(&self, on: bool) -> io::Result<()> {
        self.set(SocketOption::ReceiveEcn, on.into())
    }

    /// Has the system merge runs of datagrams (GRO), which batches take apart again. Receiving
    /// single datagrams is refused from then on, with `InvalidInput`, and so are batches of buffers
    /// that are smaller than 65,535 bytes.
    ///
    /// # Errors
    /// - `Unsupported`: not on this platform; see [`Caps::receive_offload`].
    /// - `ResourceBusy`: it cannot be turned off while datagrams wait which may have been merged.
    pub fn set_receive_offload(&self, on: bool) -> io::Result<()> {
        self.set(SocketOption::ReceiveOffload, on.into())
    }

    pub(crate) fn from_inner(inner: Datagram) -> io::Result<UdpSocket> {
        if inner.family() == Family::Unix {
            return Err(invalid("a Unix socket is no UDP socket"));
        }
        Ok(UdpSocket { inner })
    }

    pub(crate) fn inner(&self) -> &Datagram {
        &self.inner
    }
}

fn sent(result: io::Result<()>, data: &[u8], to: &Address) -> io::Result<usize> {
    match result {
        Ok(()) => Ok(data.len()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        Err(error) => Err(context(
            error,
            format_args!("send {} bytes to {to}", data.len()),
        )),
    }
}

conversions!(
    UdpSocket,
    Datagram,
    #[cfg(any(unix, windows))]
    std::net::UdpSocket,
    #[cfg(any(unix, windows))]
    socket2::Socket,
    #[cfg(unix)]
    std::os::fd::OwnedFd,
    #[cfg(windows)]
    std::os::windows::io::OwnedSocket,
);

#[cfg(all(feature = "async-io", any(unix, windows)))]
crate::net::options::async_io_conversions!(UdpSocket, std::net::UdpSocket);

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local_addr", &self.local_addr())
            .field("peer_addr", &self.peer_addr().ok())
            .finish_non_exhaustive()
    }
}
