//! Servers: listening sockets, and the connections they have accepted.

use std::fmt;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::address::Address;
use crate::endpoint::stream::driver::ConnectionDriver;
use crate::endpoint::stream::establish;
use crate::endpoint::stream::protocol::StreamProtocol;
use crate::endpoint::stream::shared::{Shared, Socket};
use crate::endpoint::stream::tls::ServerTls;
use crate::endpoint::stream::transport::Transport;
use crate::error::{closed, context, copy, invalid};
use crate::net::TcpListener;
#[cfg(unix)]
use crate::net::UnixListener;
use crate::panics::{catch, drop_contained, Contained};
use crate::sys::{Listener, ListenerOps, Stream};
use crate::time::{sleep, Sleep};
use crate::wake::{wait, wake_all, Ticket, Waitable, Waiter, Waiters};

/// Connections accepted in one go before other tasks have their turn.
const ROUND: usize = 64;

/// How long nothing is accepted after the system has refused for want of something.
const EXHAUSTED_PAUSE: Duration = Duration::from_secs(1);

/// After any other error, lest one that stays takes the processor.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// A listening socket of a [`Server`]. While one is held, the socket goes on listening.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerSocket {
    /// TCP.
    Tcp(Arc<TcpListener>),
    /// Unix.
    #[cfg(unix)]
    Unix(Arc<UnixListener>),
}

impl ServerSocket {
    pub(super) fn new(inner: Listener) -> io::Result<ServerSocket> {
        #[cfg(unix)]
        if inner.family() == crate::sys::caps::Family::Unix {
            let listener = UnixListener::from_inner(inner)?;
            return Ok(ServerSocket::Unix(Arc::new(listener)));
        }
        Ok(ServerSocket::Tcp(Arc::new(TcpListener::from_inner(inner)?)))
    }

    /// The address that connections come to.
    ///
    /// # Errors
    /// As getsockname(2) gives them.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.inner().local_addr()
    }

    pub(super) fn inner(&self) -> &Listener {
        match self {
            ServerSocket::Tcp(listener) => listener.inner(),
            #[cfg(unix)]
            ServerSocket::Unix(listener) => listener.inner(),
        }
    }
}

/// Accepts connections and makes a protocol for each: what
/// [`create_server`](crate::create_server) and `create_unix_server` give.
///
/// Cheap to clone; any task, any thread. Dropping it leaves the server open: it ends with
/// [`close`](Server::close) or its runtime.
///
/// *asyncio equivalent*: `asyncio.Server`.
#[derive(Clone)]
pub struct Server {
    shared: Arc<ServerShared>,
}

/// What the handles of a server, its driver and its connections share.
pub(super) struct ServerShared {
    state: Mutex<State>,
    backlog: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bound, but not listening.
    Bound,
    Serving,
    Closed,
}

struct State {
    phase: Phase,
    listeners: Vec<ServerSocket>,
    /// The listener that is asked first, in turns.
    turn: usize,
    clients: Slab<Weak<Shared>>,
    driver: Option<Waker>,
    waiters: Waiters,
    serving_forever: bool,
    errors: u64,
    last_error: Option<Arc<io::Error>>,
    /// What is left to be done when the server is closed.
    clean_up: Option<CleanUp>,
}

pub(super) type CleanUp = Box<dyn FnOnce() -> io::Result<()> + Send>;

impl ServerShared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: io::Error) {
        let before = {
            let mut state = self.lock();
            state.errors += 1;
            state.last_error.replace(Arc::new(error))
        };
        drop(before);
    }

    fn close(&self) {
        let mut wakers = Vec::new();
        let (listeners, clean_up) = {
            let mut state = self.lock();
            if state.phase == Phase::Closed {
                return;
            }
            state.phase = Phase::Closed;
            wakers.extend(state.driver.take());
            state.waiters.take(&mut wakers);
            (std::mem::take(&mut state.listeners), state.clean_up.take())
        };
        if let Some(clean_up) = clean_up {
            if let Err(error) = clean_up() {
                self.note(error);
            }
        }
        drop(listeners);
        wake_all(wakers);
    }

    /// The next connection of any of the listeners.
    fn poll_accept(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<(Stream, Address)>> {
        let (first, count) = {
            let state = self.lock();
            if state.phase != Phase::Serving {
                return Poll::Pending;
            }
            (state.turn, state.listeners.len())
        };
        for i in 0..count {
            let turn = (first + i) % count;
            // Polled where no lock is held.
            let Some(listener) = self.lock().listeners.get(turn).cloned() else {
                return Poll::Pending;
            };
            let poll = listener.inner().poll_accept(waiter);
            if poll.is_ready() {
                self.lock().turn = turn + 1;
                return poll;
            }
        }
        Poll::Pending
    }
}

impl Waitable for ServerShared {
    type Event = ();

    fn forget(&self, _event: (), ticket: Pin<&Ticket>) {
        let waker = self.lock().waiters.remove(ticket);
        drop(waker);
    }
}

/// A connection's place among those of its server.
pub(super) struct Membership {
    server: Arc<ServerShared>,
    key: usize,
}

impl Membership {
    /// The connection has failed before its protocol heard of it.
    #[cfg(feature = "tls")]
    pub(super) fn note(&self, error: io::Error) {
        self.server.note(error);
    }

    /// The connection is over.
    pub(super) fn end(&self) {
        let mut wakers = Vec::new();
        {
            let mut state = self.server.lock();
            state.clients.try_remove(self.key);
            if state.phase == Phase::Closed && state.clients.is_empty() {
                state.waiters.take(&mut wakers);
            }
        }
        wake_all(wakers);
    }
}

impl Server {
    /// Stops listening, at once: the listening sockets are closed, and so are connections that
    /// were not accepted yet (the one for which the protocol factory is being called included).
    /// Those that were go on. Again, it does nothing.
    ///
    /// A Unix server removes its socket file, if it is still its own.
    pub fn close(&self) {
        self.shared.close();
    }

    /// [Closes](Transport::close) all connections, each once what it has queued has been sent. Call
    /// it after [`close`](Server::close), so that none slips in.
    pub fn close_clients(&self) {
        self.clients().iter().for_each(Transport::close);
    }

    /// [Aborts](Transport::abort) all connections.
    pub fn abort_clients(&self) {
        self.clients().iter().for_each(Transport::abort);
    }

    fn clients(&self) -> Vec<Transport> {
        let state = self.shared.lock();
        let alive = state
            .clients
            .iter()
            .filter_map(|(_, shared)| shared.upgrade());
        alive.map(|shared| Transport { shared }).collect()
    }

    /// Waits until the server is closed **and** its last connection is over.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn wait_closed(&self) {
        self.wait(|state| state.phase == Phase::Closed && state.clients.is_empty())
            .await
    }

    async fn wait(&self, done: impl Fn(&State) -> bool) {
        wait(&*self.shared, (), |waiter| {
            let waker = waiter.waker().clone();
            // Dropped after the lock.
            let _displaced;
            let mut state = self.shared.lock();
            if done(&state) {
                return Poll::Ready(());
            }
            _displaced = state.waiters.register(waiter, waker);
            Poll::Pending
        })
        .await
    }

    /// Starts listening, if the server was made with `start_serving(false)`. Again, it does
    /// nothing.
    ///
    /// # Errors
    /// - `NotConnected`: the server is closed.
    /// - the system's, for example `AddrInUse` if somebody else listens at a shared address. If
    ///   that is not the first of several, the server is closed then.
    ///
    /// # Cancel safety
    /// The server may have started or not.
    pub async fn start_serving(&self) -> io::Result<()> {
        let listeners = {
            let state = self.shared.lock();
            match state.phase {
                Phase::Serving => return Ok(()),
                Phase::Closed => return Err(closed("the server")),
                Phase::Bound => state.listeners.clone(),
            }
        };
        for (before, listener) in listeners.iter().enumerate() {
            if let Err(error) = listener.inner().listen(self.shared.backlog).await {
                // Those before it may have clients waiting already, whom nobody would serve.
                if before > 0 {
                    self.close();
                }
                return Err(error);
            }
        }
        let driver = {
            let mut state = self.shared.lock();
            if state.phase == Phase::Closed {
                return Err(closed("the server"));
            }
            state.phase = Phase::Serving;
            state.driver.take()
        };
        wake_all(driver);
        Ok(())
    }

    /// Starts listening if need be, and serves until the server is [closed](Server::close); then
    /// closes its connections and waits for their end.
    ///
    /// # Errors
    /// - `NotConnected`: the server is closed already.
    /// - `InvalidInput`: somebody else is serving it for ever.
    /// - as [`start_serving`](Server::start_serving).
    ///
    /// # Cancel safety
    /// Dropping it, once it has been polled, closes the server and its connections, each when what
    /// it has queued has been sent.
    pub async fn serve_forever(&self) -> io::Result<()> {
        self.start_serving().await?;
        if std::mem::replace(&mut self.shared.lock().serving_forever, true) {
            return Err(invalid("serve_forever is running already"));
        }
        let until_the_end = CloseAll(self);
        self.wait(|state| state.phase == Phase::Closed).await;
        drop(until_the_end);
        self.wait_closed().await;
        Ok(())
    }

    /// Whether connections are accepted: between start and close.
    pub fn is_serving(&self) -> bool {
        self.shared.lock().phase == Phase::Serving
    }

    /// The listening sockets; none once the server is closed. A socket goes on listening while
    /// somebody holds it.
    pub fn sockets(&self) -> Vec<ServerSocket> {
        self.shared.lock().listeners.clone()
    }

    /// The addresses that connections come to; none once the server is closed.
    pub fn local_addrs(&self) -> Vec<Address> {
        let state = self.shared.lock();
        let addrs = state.listeners.iter().map(ServerSocket::local_addr);
        addrs.flatten().collect()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shared.lock().clients.len()
    }

    /// How often a connection could not be accepted, or was dropped since the protocol factory or
    /// the closure that spawns its driver panicked, or the TLS handshake failed. When descriptors
    /// or memory are lacking, nothing is accepted for a second.
    pub fn accept_errors(&self) -> u64 {
        self.shared.lock().errors
    }

    /// What happened last of that kind, and what hindered the removal of a socket file.
    pub fn last_accept_error(&self) -> Option<io::Error> {
        let error = self.shared.lock().last_error.clone();
        error.as_deref().map(copy)
    }
}

/// Closes the server and its connections.
struct CloseAll<'a>(&'a Server);

impl Drop for CloseAll<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.close_clients();
        self.0.shared.lock().serving_forever = false;
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addrs = self.local_addrs();
        // What it is written to may be the user's.
        let (phase, connections) = {
            let state = self.shared.lock();
            (state.phase, state.clients.len())
        };
        f.debug_struct("Server")
            .field("local_addrs", &addrs)
            .field("phase", &phase)
            .field("connections", &connections)
            .finish_non_exhaustive()
    }
}

/// A server with these sockets, and what makes it work.
pub(super) async fn serve<P, K, F, S>(
    listeners: Vec<ServerSocket>,
    backlog: u32,
    start: bool,
    clean_up: Option<CleanUp>,
    tls: ServerTls,
    protocol_factory: F,
    spawn: S,
) -> io::Result<(Server, ServerDriver<F, S>)>
where
    P: StreamProtocol<K>,
    F: FnMut() -> P,
    S: FnMut(ConnectionDriver<P, K>),
{
    let shared = Arc::new(ServerShared {
        state: Mutex::new(State {
            phase: Phase::Bound,
            listeners,
            turn: 0,
            clients: Slab::new(),
            driver: None,
            waiters: Waiters::new(),
            serving_forever: false,
            errors: 0,
            last_error: None,
            clean_up,
        }),
        backlog,
    });
    let server = Server { shared };
    // If it is given up, it is closed.
    let driver = ServerDriver {
        server: server.clone(),
        tls,
        protocol_factory: Contained::new(protocol_factory),
        spawn: Contained::new(spawn),
        pause: None,
    };
    if start {
        server.start_serving().await?;
    }
    Ok((server, driver))
}

/// Accepts connections until the server is closed.
pub(super) struct ServerDriver<F, S> {
    server: Server,
    tls: ServerTls,
    protocol_factory: Contained<F>,
    spawn: Contained<S>,
    /// Nothing is accepted before.
    pause: Option<Sleep>,
}

impl<F, S> ServerDriver<F, S> {
    /// Accepts until the server is closed.
    pub(super) async fn run<P, K>(mut self)
    where
        P: StreamProtocol<K>,
        F: FnMut() -> P,
        S: FnMut(ConnectionDriver<P, K>),
    {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll<P, K>(&mut self, cx: &mut Context<'_>) -> Poll<()>
    where
        P: StreamProtocol<K>,
        F: FnMut() -> P,
        S: FnMut(ConnectionDriver<P, K>),
    {
        let shared = self.server.shared.clone();
        let waker = cx.waker().clone();
        let before = {
            let mut state = shared.lock();
            match state.phase {
                Phase::Closed => return Poll::Ready(()),
                Phase::Bound | Phase::Serving => state.driver.replace(waker),
            }
        };
        drop(before);
        for _ in 0..ROUND {
            if let Some(pause) = &mut self.pause {
                match Pin::new(pause).poll(cx) {
                    Poll::Ready(()) => self.pause = None,
                    Poll::Pending => return Poll::Pending,
                }
            }
            match shared.poll_accept(&mut Waiter::polled(cx)) {
                Poll::Ready(Ok((stream, peer))) => self.accept(stream, peer),
                Poll::Ready(Err(error)) => {
                    let time = match Listener::is_exhaustion(&error) {
                        true => EXHAUSTED_PAUSE,
                        false => ERROR_PAUSE,
                    };
                    self.pause = Some(sleep(time));
                    shared.note(context(error, "accept"));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        crate::budget::request_look();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn accept<P, K>(&mut self, stream: Stream, peer: Address)
    where
        P: StreamProtocol<K>,
        F: FnMut() -> P,
        S: FnMut(ConnectionDriver<P, K>),
    {
        let shared = &self.server.shared;
        let security = match self.tls.accept() {
            Ok(security) => security,
            Err(error) => return shared.note(error),
        };
        // A panic is this connection's end, not the server's.
        let protocol = match catch(self.protocol_factory.get_mut()) {
            Ok(protocol) => protocol,
            Err(payload) => {
                shared.note(io::Error::other("the protocol factory panicked"));
                return drop_contained(payload);
            }
        };
        let socket = Socket::accepted(stream, peer);
        let driver = {
            let mut state = shared.lock();
            // Under the lock, so that none slips in while another thread closes the server.
            if state.phase == Phase::Closed {
                drop(state);
                return drop_contained(protocol);
            }
            let membership = Membership {
                server: shared.clone(),
                key: state.clients.vacant_key(),
            };
            let (transport, _, driver) = establish(socket, protocol, Some(membership), security);
            state.clients.insert(Arc::downgrade(&transport.shared));
            driver
        };
        let spawn = self.spawn.get_mut();
        if let Err(payload) = catch(|| spawn(driver)) {
            shared.note(io::Error::other(
                "spawning the connection's driver panicked",
            ));
            drop_contained(payload);
        }
    }
}

impl<F, S> Drop for ServerDriver<F, S> {
    fn drop(&mut self) {
        self.server.close();
    }
}
