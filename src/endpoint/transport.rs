//! The transport of a datagram endpoint: what the user holds, and the state it shares with the
//! driver.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::address::Address;
use crate::batch::{SendBatch, SendMeta};
use crate::endpoint::flow::{Flow, DATAGRAM_OVERHEAD};
use crate::error::{closed, context, copy, invalid};
use crate::net::UdpSocket;
#[cfg(unix)]
use crate::net::UnixDatagram;
use crate::sys::caps::Family;
use crate::sys::{Datagram, DatagramOps};
use crate::wake::WakerSlots;

/// Datagrams that callbacks may queue before they are sent in between.
const CORKED: usize = 1024;

/// Errors kept for a protocol that is not being driven.
const ERRORS: usize = 128;

/// Errors in a row that one attempt to send is given.
const ATTEMPTS: usize = 32;

/// Sends datagrams, and closes the endpoint. Cheap to clone; any task, any thread.
///
/// *asyncio equivalent*: `asyncio.DatagramTransport`. Dropping all transports leaves the endpoint
/// open; it ends with [`close`](DatagramTransport::close), [`abort`](DatagramTransport::abort), or
/// its runtime.
#[derive(Clone)]
pub struct DatagramTransport {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    /// The peer that was given when the endpoint was made: the only destination.
    peer: Option<Address>,
    /// The system knows the peer too: datagrams are sent without an address.
    connected: bool,
    family: Family,
    /// The system tells when there is room for more.
    pub(super) writable_is_exact: bool,
    /// Something in the state is for the driver to look at, between two callbacks at the latest.
    pub(super) attention: AtomicBool,
    /// Callbacks are running: what they send goes out together when they are done. Cleared, and
    /// read by those who send, under the lock.
    corked: AtomicBool,
    state: Mutex<State>,
}

/// A socket in the form that its methods are written for.
#[derive(Clone)]
pub(super) enum Socket {
    Udp(Arc<UdpSocket>),
    #[cfg(unix)]
    Unix(Arc<UnixDatagram>),
}

impl Socket {
    pub(super) fn new(inner: Datagram) -> io::Result<Socket> {
        #[cfg(unix)]
        if inner.family() == Family::Unix {
            return Ok(Socket::Unix(Arc::new(UnixDatagram::from_inner(inner)?)));
        }
        Ok(Socket::Udp(Arc::new(UdpSocket::from_inner(inner)?)))
    }

    pub(super) fn inner(&self) -> &Datagram {
        match self {
            Socket::Udp(socket) => socket.inner(),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.inner(),
        }
    }
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// `close`: what is queued is still sent.
    Closing,
    /// `abort`: what is queued is dropped.
    Aborted,
    Lost,
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// `connection_made` has been called.
    made: bool,
    socket: Option<Socket>,
    pub(super) queue: SendBatch,
    pub(super) flow: Flow,
    /// For the protocol, in order.
    pub(super) errors: VecDeque<io::Error>,
    pub(super) reading: bool,
    /// Datagrams and errors that reached nobody.
    dropped: u64,
    /// Wakes the driver.
    pub(super) driver: Option<Waker>,
    /// Those who wait for the start, the end, or room in the queue.
    waiters: WakerSlots,
    outcome: io::Result<()>,
    /// The socket's own address, kept when it is closed.
    local: Option<Address>,
}

impl Shared {
    pub(super) fn new(socket: Socket, peer: Option<Address>, connected: bool) -> Arc<Shared> {
        Arc::new(Shared {
            peer,
            connected,
            family: socket.inner().family(),
            writable_is_exact: socket.inner().writable_is_exact(),
            attention: AtomicBool::new(false),
            corked: AtomicBool::new(false),
            state: Mutex::new(State {
                phase: Phase::Open,
                made: false,
                socket: Some(socket),
                queue: SendBatch::new(),
                flow: Flow::default(),
                errors: VecDeque::new(),
                reading: true,
                dropped: 0,
                driver: None,
                waiters: WakerSlots::new(),
                outcome: Ok(()),
                local: None,
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the driver look at the state, now or after the callback that is running.
    fn call_driver(&self, state: &mut State) {
        self.attention.store(true, Ordering::Release);
        if !self.is_corked() {
            if let Some(driver) = &state.driver {
                driver.wake_by_ref();
            }
        }
    }

    /// `connection_made` has been called.
    pub(super) fn set_made(&self) {
        let mut state = self.lock();
        state.made = true;
        state.waiters.wake();
    }

    /// From here to `uncork`, what is sent is queued.
    pub(super) fn cork(&self) {
        self.corked.store(true, Ordering::Release);
    }

    fn is_corked(&self) -> bool {
        self.corked.load(Ordering::Acquire)
    }

    /// Sends what callbacks have queued.
    pub(super) fn uncork(&self) {
        let mut state = self.lock();
        self.corked.store(false, Ordering::Release);
        if !state.queue.is_empty() {
            self.send_queued(&mut state);
        }
    }

    /// Sends what goes without waiting.
    fn send_queued(&self, state: &mut State) {
        let Some(socket) = state.socket.clone() else {
            return;
        };
        let mut failures = 0;
        while !state.queue.is_empty() && failures < ATTEMPTS {
            match socket.inner().try_send_batch(&mut state.queue) {
                Ok(_) => failures = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    failures += 1;
                    self.fail_front(state, error, failures);
                }
            }
        }
        self.settle(state);
    }

    /// Brings the accounting up to date after the queue has shrunk.
    pub(super) fn settle(&self, state: &mut State) {
        let size = state.queue.size() + state.queue.len() * DATAGRAM_OVERHEAD;
        let sent = state.flow.size() - size;
        state.flow.remove(sent);
        state.flow.check_pause();
        if state.flow.check_resume() {
            state.waiters.wake();
        }
        if !state.queue.is_empty() || state.flow.has_change() {
            self.call_driver(state);
        }
    }

    /// The system refused the datagram at the front: it is dropped and reported.
    pub(super) fn fail_front(&self, state: &mut State, error: io::Error, failures: usize) {
        // On a connected IP socket this is what became of an earlier datagram; the one at the
        // front was not even tried.
        let earlier = self.is_about_earlier(&error) && failures <= 1;
        let (items, _) = state.queue.waiting();
        let Some(front) = items.first() else {
            return;
        };
        let error = match (earlier, front.to.or(self.peer)) {
            (false, Some(to)) => {
                context(error, format_args!("send {} bytes to {to}", front.len))
            }
            _ => error,
        };
        if !earlier {
            state.queue.advance(1);
        }
        self.report(state, error);
    }

    fn is_about_earlier(&self, error: &io::Error) -> bool {
        self.connected
            && self.family != Family::Unix
            && error.kind() == io::ErrorKind::ConnectionRefused
    }

    /// Keeps an error for the protocol.
    pub(super) fn report(&self, state: &mut State, error: io::Error) {
        if state.errors.len() < ERRORS {
            state.errors.push_back(error);
        } else {
            state.dropped += 1;
        }
        self.call_driver(state);
    }

    /// The end: the socket is closed unless the user holds it, and whoever waits is told.
    pub(super) fn lose(&self, outcome: io::Result<()>) {
        let (socket, mut waiters) = {
            let mut state = self.lock();
            if state.phase == Phase::Lost {
                return;
            }
            if state.phase != Phase::Aborted {
                self.send_queued(&mut state);
            }
            state.phase = Phase::Lost;
            state.dropped += (state.queue.len() + state.errors.len()) as u64;
            state.queue.clear();
            state.errors.clear();
            self.settle(&mut state);
            state.outcome = outcome;
            state.driver = None;
            let socket = state.socket.take();
            state.local = socket
                .as_ref()
                .and_then(|socket| socket.inner().local_addr().ok());
            (socket, std::mem::take(&mut state.waiters))
        };
        drop(socket);
        waiters.wake();
    }

    pub(super) fn socket(&self) -> Option<Socket> {
        self.lock().socket.clone()
    }

    fn send(&self, data: &[u8], to: Option<&Address>) -> io::Result<()> {
        let to = self.destination(to)?;
        let mut state = self.lock();
        if state.phase != Phase::Open {
            state.dropped += 1;
            return Err(closed("the datagram endpoint"));
        }
        if !self.is_corked() && state.queue.is_empty() && self.send_now(&mut state, data, to) {
            return Ok(());
        }
        state.queue.push_with(data, to, SendMeta::default());
        state.flow.add(data.len() + DATAGRAM_OVERHEAD);
        if self.is_corked() {
            if state.flow.is_over() || state.queue.len() >= CORKED {
                self.send_queued(&mut state);
            }
        } else {
            state.flow.check_pause();
            self.call_driver(&mut state);
        }
        Ok(())
    }

    /// Tries to send without queueing; false if it would block.
    fn send_now(&self, state: &mut State, data: &[u8], to: Option<&Address>) -> bool {
        let Some(socket) = state.socket.clone() else {
            return true;
        };
        let mut result = socket.inner().try_send(data, to);
        if let Err(error) = &result {
            if self.is_about_earlier(error) {
                self.report(state, copy(error));
                result = socket.inner().try_send(data, to);
            }
        }
        match result {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                let error = match to.or(self.peer.as_ref()) {
                    Some(to) => context(error, format_args!("send {} bytes to {to}", data.len())),
                    None => error,
                };
                self.report(state, error);
                true
            }
        }
    }

    /// What to tell the system, given what the user named.
    fn destination<'a>(&'a self, to: Option<&'a Address>) -> io::Result<Option<&'a Address>> {
        match (&self.peer, to) {
            (Some(peer), Some(to)) if peer != to => Err(invalid(format_args!(
                "cannot send to {to}: the endpoint's only peer is {peer}"
            ))),
            (Some(_), _) if self.connected => Ok(None),
            (Some(peer), _) => Ok(Some(peer)),
            (None, Some(to)) if Family::of(to) != self.family => Err(invalid(format_args!(
                "cannot send to {to}: the endpoint is of family {}",
                self.family
            ))),
            (None, Some(to)) => Ok(Some(to)),
            (None, None) => Err(invalid(
                "the endpoint has no remote_addr: name the destination with send_to",
            )),
        }
    }
}

impl DatagramTransport {
    /// Sends a datagram (copied) to `to`. Never waits: what the system does not take at once is
    /// queued, see [`set_write_buffer_limits`](DatagramTransport::set_write_buffer_limits).
    /// Zero bytes are an empty datagram.
    ///
    /// What is sent inside a callback goes out when the callback returns, together with what the
    /// neighbouring callbacks send. What the network says reaches
    /// [`error_received`](crate::DatagramProtocol::error_received), never this call.
    ///
    /// *asyncio equivalent*: `transport.sendto`.
    ///
    /// # Errors
    /// - `InvalidInput`: the endpoint has a fixed peer and this is another, or the address is of
    ///   another family.
    /// - `NotConnected`: the endpoint is closing.
    ///
    /// Nothing has been sent then, and the endpoint goes on.
    pub fn send_to(&self, data: &[u8], to: &Address) -> io::Result<()> {
        self.shared.send(data, Some(to))
    }

    /// Sends a datagram (copied) to the endpoint's fixed peer, as
    /// [`send_to`](DatagramTransport::send_to).
    ///
    /// # Errors
    /// - `InvalidInput`: there is none.
    /// - `NotConnected`: the endpoint is closing.
    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        self.shared.send(data, None)
    }

    /// Closes the endpoint once what is queued has been sent. Nothing is received any more; then
    /// `connection_lost` is called.
    ///
    /// A receiver on a Unix socket that reads nothing holds this up for ever: pair it with
    /// [`timeout`](crate::time::timeout) and [`abort`](DatagramTransport::abort).
    pub fn close(&self) {
        self.end(Phase::Closing);
    }

    /// Closes the endpoint and drops what is queued.
    pub fn abort(&self) {
        self.end(Phase::Aborted);
    }

    fn end(&self, phase: Phase) {
        let mut state = self.shared.lock();
        let goes_further = matches!(
            (state.phase, phase),
            (Phase::Open, _) | (Phase::Closing, Phase::Aborted)
        );
        if goes_further {
            state.phase = phase;
            self.shared.call_driver(&mut state);
            state.waiters.wake();
        }
    }

    /// Whether the endpoint is closing or closed.
    pub fn is_closing(&self) -> bool {
        self.shared.lock().phase != Phase::Open
    }

    /// Waits until `connection_lost` has been called and the socket is closed.
    ///
    /// # Errors
    /// - `ConnectionAborted`: the driver was dropped, for example with its runtime.
    /// - `Other`: a callback panicked.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn closed(&self) -> io::Result<()> {
        self.wait(|state| match (&state.phase, &state.outcome) {
            (Phase::Lost, Err(error)) => Some(Err(copy(error))),
            (Phase::Lost, Ok(())) => Some(Ok(())),
            _ => None,
        })
        .await
    }

    /// Waits until `connection_made` has been called.
    pub(super) async fn made(&self) -> io::Result<()> {
        self.wait(|state| match (state.made, &state.outcome) {
            (true, _) => Some(Ok(())),
            (false, Err(error)) => Some(Err(copy(error))),
            (false, Ok(())) => None,
        })
        .await
    }

    /// Waits while the protocol is asked to pause writing.
    ///
    /// *asyncio equivalent*: `StreamWriter.drain`.
    ///
    /// # Errors
    /// - `NotConnected`: the endpoint is closing.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn drain(&self) -> io::Result<()> {
        self.wait(|state| match state.phase {
            Phase::Open if state.flow.is_paused() => None,
            Phase::Open => Some(Ok(())),
            _ => Some(Err(closed("the datagram endpoint"))),
        })
        .await
    }

    async fn wait(
        &self,
        mut done: impl FnMut(&State) -> Option<io::Result<()>>,
    ) -> io::Result<()> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            match done(&state) {
                Some(result) => Poll::Ready(result),
                None => {
                    state.waiters.register(cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The address the endpoint is bound to: asked for while it is open, since the first send may
    /// bind it, and remembered afterwards.
    ///
    /// *asyncio equivalent*: `get_extra_info("sockname")`.
    ///
    /// # Errors
    /// The system's, if it could not tell.
    pub fn local_addr(&self) -> io::Result<Address> {
        let state = self.shared.lock();
        match (&state.socket, state.local) {
            (Some(socket), _) => socket.inner().local_addr(),
            (None, Some(local)) => Ok(local),
            (None, None) => Err(closed("the datagram endpoint")),
        }
    }

    /// The endpoint's fixed peer: its `remote_addr`, or the peer of its `sock`.
    ///
    /// *asyncio equivalent*: `get_extra_info("peername")`.
    pub fn peer_addr(&self) -> Option<Address> {
        self.shared.peer
    }

    /// The socket of an IP endpoint, for its options; it stays open while it is held. Do not
    /// receive from it: the datagrams are the protocol's.
    ///
    /// *asyncio equivalent*: `get_extra_info("socket")`.
    ///
    /// # Errors
    /// - `NotConnected`: the endpoint is closed.
    /// - `InvalidInput`: it is a Unix endpoint.
    pub fn udp_socket(&self) -> io::Result<Arc<UdpSocket>> {
        match self.shared.socket() {
            Some(Socket::Udp(socket)) => Ok(socket),
            None => Err(closed("the datagram endpoint")),
            #[cfg(unix)]
            Some(Socket::Unix(_)) => Err(invalid("a Unix endpoint has no UDP socket")),
        }
    }

    /// The socket of a Unix endpoint, as [`udp_socket`](DatagramTransport::udp_socket).
    ///
    /// # Errors
    /// - `NotConnected`: the endpoint is closed.
    /// - `InvalidInput`: it is an IP endpoint.
    ///
    /// # Platforms
    /// Unix.
    #[cfg(unix)]
    pub fn unix_socket(&self) -> io::Result<Arc<UnixDatagram>> {
        match self.shared.socket() {
            Some(Socket::Unix(socket)) => Ok(socket),
            None => Err(closed("the datagram endpoint")),
            Some(Socket::Udp(_)) => Err(invalid("an IP endpoint has no Unix socket")),
        }
    }

    /// Sets the sizes of the queue, in bytes and 8 more for every datagram, above which the
    /// protocol is asked to pause writing, and down to which it is asked to resume.
    ///
    /// Unless set: high 64 KiB, low 16 KiB. One alone implies the other: low is a quarter of
    /// high. The limits are advice, nothing is refused because of them.
    ///
    /// # Errors
    /// - `InvalidInput`: high is below low.
    pub fn set_write_buffer_limits(
        &self,
        high: Option<usize>,
        low: Option<usize>,
    ) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.flow.set_limits(high, low)?;
        if state.flow.has_change() {
            self.shared.call_driver(&mut state);
        }
        Ok(())
    }

    /// The limits, (low, high).
    pub fn write_buffer_limits(&self) -> (usize, usize) {
        self.shared.lock().flow.limits()
    }

    /// The size of the queue: bytes and 8 more for every datagram. What the system has taken is
    /// not counted.
    pub fn write_buffer_size(&self) -> usize {
        self.shared.lock().flow.size()
    }

    /// Stops receiving: datagrams wait in the system's buffer, which drops them when it is full.
    pub fn pause_reading(&self) {
        self.set_reading(false);
    }

    /// Goes on receiving.
    pub fn resume_reading(&self) {
        self.set_reading(true);
    }

    fn set_reading(&self, reading: bool) {
        let mut state = self.shared.lock();
        if state.reading != reading {
            state.reading = reading;
            self.shared.call_driver(&mut state);
        }
    }

    /// Whether datagrams are being received: neither paused nor closing.
    pub fn is_reading(&self) -> bool {
        let state = self.shared.lock();
        state.reading && state.phase == Phase::Open
    }

    /// How many datagrams were given up: sent while closing, or still queued at the end; and
    /// errors that came faster than the protocol took them.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }
}

impl fmt::Debug for DatagramTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("DatagramTransport")
            .field("peer", &self.shared.peer)
            .field("phase", &state.phase)
            .field("write_buffer_size", &state.flow.size())
            .finish_non_exhaustive()
    }
}
