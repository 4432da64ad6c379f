//! THE SEAM: everything that differs by platform.
//!
//! # The contract
//! A backend is one folder here, chosen in this file by `cfg` and nowhere else. It supplies:
//!
//! | item | held to | what it is |
//! | --- | --- | --- |
//! | `Reactor` | [`ReactorOps`] | the outer loop: steps the scheduler, waits for sockets and deadlines |
//! | `Notifier` | [`NotifierOps`] | ends the reactor's wait from anywhere |
//! | `Datagram` | [`DatagramOps`] | a datagram socket |
//! | `Stream` | [`StreamOps`] | a connected stream socket |
//! | `Listener` | [`ListenerOps`] | a socket that accepts connections |
//! | `Socket` | `From`/`Into` the platform's own | a socket that the user brings or takes away |
//! | `ForeignTimer` | [`TimerOps`] | a deadline kept by another runtime's reactor |
//! | `resolve` | [`Lookup`] in, addresses out | name lookup that does not block the loop |
//! | `resolve_flags` | | the numbers of `AI_*` |
//! | `clock::now` | `std::time::Instant` | the clock that deadlines are measured by |
//! | `path_from_bytes` | | how bytes become a path |
//! | `PLATFORM` | | its name in errors |
//!
//! # Its rules
//! 1. **The backend owns the outer loop.** The scheduler is a function it calls ([`Step`]), which
//!    never blocks: on WASI 0.3 the host drives and the backend is itself stepped.
//! 2. **An operation is tried now; if it would block, the waiter is remembered** and woken when
//!    trying again may succeed, until it is forgotten ([`Waitable`]). Wake-ups may be spurious.
//!    A waker is cloned, woken and dropped where no lock is held. Whether the platform reports readiness,
//!    offers pollables or completes operations stays below.
//! 3. **Operations in flight belong to the socket**, not to the future that polls: dropping a
//!    future loses nothing, and any number of tasks may wait for one socket.
//! 4. **The batch is the primitive.** Buffers are lent by the caller; truncation is in [`Meta`].
//! 5. **An option that cannot be honoured is an error** that names it.
//! 6. Sockets are closed by dropping them, and may be dropped while tasks wait for them.

pub(crate) mod caps;

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::batch::{Meta, RecvBatch, SendBatch};
use crate::net::Pair;
use crate::sys::caps::{
    Caps, DatagramConfig, Family, Interface, Keepalive, ListenerConfig, Membership, SocketOption,
    StreamConfig,
};
use crate::wake::{Direction, Waitable, Waiter};

#[cfg(any(unix, windows))]
mod polling;
#[cfg(any(unix, windows))]
use self::polling as backend;
#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod wasi;
#[cfg(all(target_os = "wasi", target_env = "p2", not(feature = "wasi-p3")))]
mod wasi_p2;
#[cfg(all(target_os = "wasi", target_env = "p2", not(feature = "wasi-p3")))]
use self::wasi_p2 as backend;
#[cfg(all(target_os = "wasi", target_env = "p2", feature = "wasi-p3"))]
mod wasi_p3;
#[cfg(all(target_os = "wasi", target_env = "p2", feature = "wasi-p3"))]
use self::wasi_p3 as backend;

#[cfg(all(target_os = "wasi", feature = "wasi-p3"))]
pub use self::backend::run_main;
#[cfg(all(target_os = "wasi", not(feature = "wasi-p3")))]
pub use self::backend::AsyncPollable;
#[cfg(all(target_os = "wasi", feature = "wasi-p3"))]
pub(crate) use self::backend::Host;
#[cfg(unix)]
pub use self::backend::PeerCred;
pub use self::backend::Socket;
pub(crate) use self::backend::{
    clock, path_from_bytes, resolve, resolve_flags, Datagram, ForeignTimer, Listener, Notifier,
    Reactor, Stream, PLATFORM,
};
#[cfg(target_os = "wasi")]
pub use self::backend::{stderr, stdin, stdout, Input, Output};

/// What the scheduler tells the loop that steps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The root future has ended.
    Done,
    /// There is more to run: look at the sockets without waiting, then step again.
    Again,
    /// Nothing to run before an event, a notification, or this deadline.
    Idle { until: Option<Instant> },
}

/// The outer loop of one runtime.
pub(crate) trait ReactorOps: Sized {
    fn new() -> io::Result<Self>;
    fn notifier(&self) -> Notifier;
    /// Steps until `Done`. While it runs, sockets polled on this thread belong to this reactor.
    fn drive(&self, step: &mut dyn FnMut() -> Step) -> io::Result<()>;
}

/// Ends the wait of a reactor, the next one if it is not waiting. Cheap to clone, any thread.
pub(crate) trait NotifierOps: Clone + Send + Sync + 'static {
    fn notify(&self);
}

/// A deadline kept where no coracle runtime is running.
pub(crate) trait TimerOps: Sized {
    fn new(deadline: Instant) -> Self;
    /// Moves the deadline of one that has not fired, for whoever waits for it.
    fn reset(&mut self, deadline: Instant);
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A datagram socket. `try_*` never waits and gives `WouldBlock`; `poll_*` waits instead.
pub(crate) trait DatagramOps:
    Waitable<Event = Direction> + Sized + Send + Sync + 'static
{
    /// Batches that an endpoint receives in one go before other tasks have their turn.
    const ROUNDS: usize = 4;

    /// Makes, sets up, binds and connects a socket, in this order. Errors name the address.
    async fn open(config: &DatagramConfig) -> io::Result<Self>;

    /// Takes the user's socket as it is; it must be a datagram socket.
    fn from_socket(socket: Socket) -> io::Result<Self>;
    /// Gives the socket back to the user.
    fn into_socket(self) -> io::Result<Socket>;

    /// Binds a socket that was opened without.
    async fn bind(&self, to: &Address) -> io::Result<()>;
    fn connect(&self, to: &Address) -> io::Result<()>;
    fn local_addr(&self) -> io::Result<Address>;
    fn peer_addr(&self) -> io::Result<Address>;
    fn family(&self) -> Family;

    /// One datagram into the caller's buffer; with `peek` it stays in the queue.
    fn try_recv(&self, buf: &mut [u8], peek: bool) -> io::Result<(usize, Meta)>;
    fn poll_recv(
        &self,
        waiter: &mut Waiter<'_>,
        buf: &mut [u8],
        peek: bool,
    ) -> Poll<io::Result<(usize, Meta)>>;

    /// As many as are there and fit: at least one. Gives the number of buffers filled.
    fn try_recv_batch(&self, into: &mut RecvBatch) -> io::Result<usize>;
    fn poll_recv_batch(
        &self,
        waiter: &mut Waiter<'_>,
        into: &mut RecvBatch,
    ) -> Poll<io::Result<usize>>;

    /// One datagram from the caller's buffer, to `to` or the connected peer. `ConnectionRefused`
    /// without a `to` is about an earlier one, and this one was not tried.
    fn try_send(&self, data: &[u8], to: Option<&Address>) -> io::Result<()>;
    fn poll_send(
        &self,
        waiter: &mut Waiter<'_>,
        data: &[u8],
        to: Option<&Address>,
    ) -> Poll<io::Result<()>>;

    /// As many as go at once, taken off the front: at least one. An error is the front one's,
    /// which stays.
    fn try_send_batch(&self, from: &mut SendBatch) -> io::Result<usize>;
    fn poll_send_batch(
        &self,
        waiter: &mut Waiter<'_>,
        from: &mut SendBatch,
    ) -> Poll<io::Result<usize>>;

    /// An error that a send has found waiting, about a datagram before its own, which has been
    /// tried all the same. Who does not take it after a send has it told by the next receive.
    fn take_earlier(&self) -> Option<io::Error> {
        None
    }
    /// Wakes who receives if there is one. Not under a lock.
    fn tell_earlier(&self) {}

    fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>>;
    fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>>;

    /// Whether a send that would block makes `poll_writable` wait until it would not. It does not
    /// where the room that lacks is the receiver's: then the sender has to try again later.
    fn writable_is_exact(&self) -> bool;

    /// Bytes of the send buffer that are taken by datagrams which no receiver has read yet. `None`
    /// where they are not the sender's any more once they are sent.
    fn unread(&self) -> Option<usize> {
        None
    }

    fn caps(&self) -> Caps;
    fn get(&self, option: SocketOption) -> io::Result<u32>;
    fn set(&self, option: SocketOption, value: u32) -> io::Result<()>;
    fn membership(
        &self,
        change: Membership,
        group: std::net::IpAddr,
        interface: Interface,
    ) -> io::Result<()>;
    fn set_multicast_interface(&self, interface: Interface) -> io::Result<()>;
    fn take_error(&self) -> io::Result<Option<io::Error>>;
}

/// A connected stream socket. `try_*` never waits and gives `WouldBlock`; `poll_*` waits instead.
pub(crate) trait StreamOps:
    Waitable<Event = Direction> + Sized + Send + Sync + 'static
{
    /// Makes a socket, binds it if asked to, and connects it. Errors name the address.
    /// `WouldBlock`: the listener's queue is full, and the system does not tell when it is not.
    async fn connect(config: &StreamConfig) -> io::Result<Self>;

    /// Takes the user's socket as it is; it must be a stream socket.
    fn from_socket(socket: Socket) -> io::Result<Self>;
    /// Gives the socket back to the user.
    fn into_socket(self) -> io::Result<Socket>;

    /// What is there, as far as it fits; 0 is the end unless there was no room.
    fn try_read(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize>;
    /// As `try_read`, for those who wait with `poll_readable`: the host need not be asked for
    /// news, which may run anything.
    // Without the feature `tls`, nobody does.
    #[allow(dead_code)]
    fn read_ready(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.try_read(bufs)
    }
    fn poll_read(
        &self,
        waiter: &mut Waiter<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>>;
    /// As `poll_read`, but it stays to be read.
    fn poll_peek(&self, waiter: &mut Waiter<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Instead of `poll_read` where the system brings memory of its own: all that has come, in
    /// that, which is to be given back afterwards. `None` where it does not.
    fn poll_take(&self, _waiter: &mut Waiter<'_>) -> Option<Poll<io::Result<Vec<u8>>>> {
        None
    }
    fn give_back(&self, _buf: Vec<u8>) {}

    /// As much from the front as goes at once.
    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize>;
    fn poll_write(&self, waiter: &mut Waiter<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Once it is dropped, what was taken from the user and not yet sent need not be: the drop must
    /// not leave anything behind that waits for the peer, where the platform lets it.
    fn abandon(&self) {}

    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
    /// Ready if there is something to read, as far as is known; not since nobody has tried.
    fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>>;
    fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>>;
    /// Ready if it is worth to try, for whoever reads then: finding out is the read's.
    fn poll_worth_reading(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.poll_readable(waiter)
    }

    fn local_addr(&self) -> io::Result<Address>;
    fn peer_addr(&self) -> io::Result<Address>;
    fn family(&self) -> Family;
    fn get(&self, option: SocketOption) -> io::Result<u32>;
    fn set(&self, option: SocketOption, value: u32) -> io::Result<()>;
    fn linger(&self) -> io::Result<Option<Duration>>;
    fn set_linger(&self, linger: Option<Duration>) -> io::Result<()>;
    fn set_keepalive(&self, keepalive: Keepalive) -> io::Result<()>;
    fn take_error(&self) -> io::Result<Option<io::Error>>;
}

/// A socket that accepts connections.
pub(crate) trait ListenerOps:
    Waitable<Event = Direction> + Sized + Send + Sync + 'static
{
    /// Makes a socket and binds it; it does not listen yet. Errors name the address.
    async fn open(config: &ListenerConfig) -> io::Result<Self>;

    /// Takes the user's socket as it is; it must be a stream socket.
    fn from_socket(socket: Socket) -> io::Result<Self>;
    fn into_socket(self) -> io::Result<Socket>;

    /// From here on, `backlog` connections may wait to be accepted; again for another number.
    async fn listen(&self, backlog: u32) -> io::Result<()>;

    /// The next connection and its peer's address. One that has gone meanwhile is skipped.
    fn try_accept(&self) -> io::Result<(Stream, Address)>;
    fn poll_accept(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<(Stream, Address)>>;
    fn poll_acceptable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>>;
    /// Whether accepting failed for want of descriptors or memory, which trying again does not
    /// mend.
    fn is_exhaustion(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::OutOfMemory
    }

    fn local_addr(&self) -> io::Result<Address>;
    fn family(&self) -> Family;
    fn get(&self, option: SocketOption) -> io::Result<u32>;
    fn set(&self, option: SocketOption, value: u32) -> io::Result<()>;
    fn take_error(&self) -> io::Result<Option<io::Error>>;
}

/// A question to the resolver, with `getaddrinfo`'s hints.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    pub(crate) host: String,
    /// A port number or the name of a service.
    pub(crate) service: String,
    pub(crate) family: Option<Family>,
    /// For stream sockets; otherwise for datagram sockets.
    pub(crate) stream: bool,
    pub(crate) protocol: i32,
    pub(crate) flags: i32,
}

/// What is being done, as errors say it.
impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resolve {}", Pair(&self.host, &self.service))
    }
}
