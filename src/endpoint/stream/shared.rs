//! The state that transports and the driver of a connection share.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use crate::address::Address;
use crate::endpoint::flow::Flow;
use crate::endpoint::lifetime::{ending, Life, Living, Phase};
use crate::endpoint::locked::{self, Signals};
use crate::endpoint::stream::driver::Connected;
use crate::endpoint::stream::lent;
use crate::endpoint::stream::queue::Queue;
use crate::endpoint::stream::server::Membership;
#[cfg(feature = "tls")]
use crate::endpoint::stream::tls::Secure;
#[cfg(feature = "tls")]
use crate::error::copy;
use crate::error::{closed, invalid};
use crate::net::TcpStream;
#[cfg(unix)]
use crate::net::UnixStream;
use crate::sys::{Stream, StreamOps};
use crate::wake::{wake_all, Waiter};

/// Bytes that callbacks may write before they are sent in between.
const CORKED_BYTES: usize = 64 * 1024;

/// The same of ciphertext: more than a Unix socket takes by default, so that one call fills it, and
/// what it has not taken tells that it is full.
#[cfg(feature = "tls")]
pub(super) const CORKED_CIPHERTEXT: usize = 256 * 1024;

/// Writes of this size are sent at once, inside callbacks too: copying them into the queue would
/// cost more than the system call that it saves.
pub(super) const DIRECT: usize = 16 * 1024;

pub(super) struct Shared {
    pub(super) signals: Signals,
    state: Mutex<State>,
    /// The server that has accepted it.
    membership: Option<Membership>,
}

pub(super) type Locked<'a> = locked::Locked<'a, State>;

/// A socket in the form that its methods are written for.
#[derive(Clone)]
pub(super) enum Socket {
    Tcp(Arc<TcpStream>),
    #[cfg(unix)]
    Unix(Arc<UnixStream>),
}

impl Socket {
    /// A socket of any family.
    pub(super) fn new(inner: Stream) -> io::Result<Socket> {
        #[cfg(unix)]
        if inner.family() == crate::sys::caps::Family::Unix {
            return Ok(Socket::Unix(Arc::new(UnixStream::from_inner(inner)?)));
        }
        Ok(Socket::Tcp(Arc::new(TcpStream::from_inner(inner)?)))
    }

    /// One that a listener has accepted.
    pub(super) fn accepted(inner: Stream, peer: Address) -> Socket {
        #[cfg(unix)]
        if inner.family() == crate::sys::caps::Family::Unix {
            return Socket::Unix(Arc::new(UnixStream::accepted(inner, peer)));
        }
        Socket::Tcp(Arc::new(TcpStream::accepted(inner, peer)))
    }

    pub(super) fn inner(&self) -> &Stream {
        match self {
            Socket::Tcp(socket) => socket.inner(),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.inner(),
        }
    }

    pub(super) fn local_addr(&self) -> io::Result<Address> {
        self.inner().local_addr()
    }

    pub(super) fn peer_addr(&self) -> io::Result<Address> {
        match self {
            Socket::Tcp(socket) => socket.peer_addr(),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.peer_addr(),
        }
    }
}

/// How far the end of the writing direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    Open,
    /// `write_eof`, and there is something queued.
    Ending,
    Ended,
}

pub(super) struct State {
    pub(super) life: Life,
    pub(super) socket: Option<Socket>,
    /// Ciphertext, where TLS is spoken.
    pub(super) queue: Queue,
    /// The system has taken less than it was given: the driver will find out when it takes more.
    pub(super) blocked: bool,
    pub(super) flow: Flow,
    pub(super) writing: Writing,
    pub(super) reading: bool,
    /// What has ended the connection, until the protocol is told.
    pub(super) error: Option<io::Error>,
    /// The protocol that the driver is to call from now on.
    pub(super) successor: Option<Box<dyn Connected + Send>>,
    /// Bytes that reached nobody.
    pub(super) dropped: u64,
    /// This end's and the peer's address, kept when the socket is closed.
    pub(super) names: Option<Box<[Option<Address>; 2]>>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Box<Secure>>,
}

impl Shared {
    pub(super) fn new(socket: Socket, membership: Option<Membership>) -> Shared {
        Shared {
            signals: Signals::default(),
            state: Mutex::new(State {
                life: Life::new(),
                socket: Some(socket),
                queue: Queue::new(),
                blocked: false,
                flow: Flow::default(),
                writing: Writing::Open,
                reading: true,
                error: None,
                successor: None,
                dropped: 0,
                names: None,
                #[cfg(feature = "tls")]
                tls: None,
            }),
            membership,
        }
    }

    /// `close` or `abort`.
    pub(super) fn end(&self, phase: Phase) {
        let mut state = self.lock();
        #[cfg(feature = "tls")]
        let phase = match phase {
            // There is nothing yet that could be closed in order.
            Phase::Closing if state.is_handshaking() => Phase::Aborted,
            phase => phase,
        };
        let (parts, later) = state.parts();
        if parts.life.end(phase, later) {
            #[cfg(feature = "tls")]
            if phase == Phase::Closing {
                self.say_goodbye(&mut state);
            }
            state.call_driver();
        }
    }

    /// Runs a callback, and sends together what it has written.
    pub(super) fn corked<R>(&self, callback: impl FnOnce() -> R) -> R {
        self.signals.set_corked(true);
        let result = callback();
        let mut state = self.lock();
        // The driver, which is what runs this, looks at the state next without being woken.
        self.flush_corked(&mut state);
        self.signals.set_corked(false);
        result
    }

    pub(super) fn write(&self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let mut state = self.lock();
        if state.writing != Writing::Open {
            return Err(invalid("write after write_eof"));
        }
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        if state.life.phase != Phase::Open {
            state.dropped += len as u64;
            return Err(closed("the connection"));
        }
        let corked = self.signals.is_corked();
        #[cfg(feature = "tls")]
        if state.tls.is_some() {
            self.write_secure(&mut state, bufs);
            if !corked && !state.blocked {
                self.flush(&mut state);
            }
            self.written(&mut state, corked);
            return Ok(());
        }
        let mut sent = 0;
        if state.queue.is_empty() && len > 0 && (!corked || len >= DIRECT) && !state.blocked {
            sent = match self.try_write(&mut state, bufs) {
                Some(sent) => sent,
                None => {
                    state.dropped += len as u64;
                    return Ok(());
                }
            };
        }
        if sent == len {
            return Ok(());
        }
        let mut skip = sent;
        for buf in bufs {
            let from = skip.min(buf.len());
            skip -= from;
            state.queue.push(&buf[from..]);
        }
        state.flow.add(len - sent);
        self.written(&mut state, corked);
        Ok(())
    }

    /// After the queue has grown.
    fn written(&self, state: &mut Locked<'_>, corked: bool) {
        if !corked {
            state.flow.check_pause();
            if state.has_work() || state.flow.has_change() {
                state.call_driver();
            }
        } else if state.is_much() || state.flow.is_over() {
            // Only what the system does not take now counts as too much.
            match state.blocked {
                false => self.flush(state),
                true => state.flow.check_pause(),
            }
        }
    }

    /// Gives the system what it takes at once, and tells how much; `None` if that was the end of
    /// the connection.
    pub(super) fn try_write(&self, state: &mut Locked<'_>, bufs: &[IoSlice<'_>]) -> Option<usize> {
        let Some(socket) = &state.socket else {
            state.blocked = true;
            return Some(0);
        };
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        match socket.inner().try_write(bufs) {
            Ok(sent) => {
                state.blocked = sent < offered;
                Some(sent)
            }
            Err(error) if is_not_now(&error) => {
                state.blocked = true;
                Some(0)
            }
            #[cfg(feature = "tls")]
            Err(_) if state.is_goodbye(offered) => Some(offered),
            Err(error) => {
                self.fail(state, error);
                None
            }
        }
    }

    /// Sends what was written while other things were done, and has the driver send the rest.
    pub(super) fn flush_corked(&self, state: &mut Locked<'_>) {
        if state.has_work() {
            if !state.blocked {
                self.flush(state);
            }
            if state.has_work() {
                state.call_driver();
            }
        }
    }

    /// Sends what goes without waiting, of what is queued.
    pub(super) fn flush(&self, state: &mut Locked<'_>) {
        while !state.queue.is_empty() {
            let queue = std::mem::take(&mut state.queue);
            let (slices, count) = queue.slices();
            let sent = self.try_write(state, &slices[..count]);
            state.queue = queue;
            let Some(sent) = sent else {
                break;
            };
            state.queue.consume(sent);
            if state.blocked {
                break;
            }
        }
        self.settle(state);
    }

    /// Sends what is queued, and waits for room where there is none; ready if that changed
    /// anything.
    pub(super) fn poll_flush(&self, waiter: &mut Waiter<'_>, socket: &Socket) -> Poll<()> {
        let mut changed = Poll::Pending;
        // Waits where no lock is held.
        while let Poll::Ready(ready) = socket.inner().poll_writable(waiter) {
            let mut state = self.lock();
            if matches!(state.life.phase, Phase::Aborted | Phase::Lost) {
                return Poll::Pending;
            }
            if state.queue.is_empty() {
                break;
            }
            let (slices, count) = state.queue.slices();
            match ready.and_then(|()| socket.inner().try_write(&slices[..count])) {
                Ok(sent) => state.queue.consume(sent),
                Err(error) if is_not_now(&error) => continue,
                #[cfg(feature = "tls")]
                Err(_) if state.is_goodbye(state.queue.len()) => {
                    state.queue.consume(usize::MAX);
                }
                Err(error) => {
                    self.fail(&mut state, error);
                    return Poll::Ready(());
                }
            }
            changed = Poll::Ready(());
            if state.queue.is_empty() {
                break;
            }
        }
        let mut state = self.lock();
        state.blocked = !state.queue.is_empty();
        // The driver need not be woken: this is it.
        self.signals.set_corked(true);
        self.settle(&mut state);
        self.signals.set_corked(false);
        changed
    }

    /// Brings the accounting up to date after the queue has shrunk, and does what was to be done
    /// when it is empty.
    pub(super) fn settle(&self, state: &mut Locked<'_>) {
        let held = state.held();
        let sent = state.flow.size().saturating_sub(held);
        state.flow.remove(sent);
        // What TLS has to say for itself.
        let added = held.saturating_sub(state.flow.size());
        state.flow.add(added);
        state.flow.check_pause();
        if sent > 0 && state.flow.check_resume() {
            let (state, later) = state.parts();
            later.wake(&mut state.life.waiters);
        }
        if state.flow.has_change() {
            state.call_driver();
        }
        if state.queue.is_empty() {
            lent::strip(&mut state.queue);
            if state.writing == Writing::Ending {
                self.end_writing(state);
            }
        }
    }

    pub(super) fn write_eof(&self) {
        let mut state = self.lock();
        if state.writing != Writing::Open || state.life.phase != Phase::Open {
            return;
        }
        state.writing = Writing::Ending;
        if state.queue.is_empty() {
            self.end_writing(&mut state);
        }
    }

    fn end_writing(&self, state: &mut Locked<'_>) {
        state.writing = Writing::Ended;
        let result = match &state.socket {
            Some(socket) => socket.inner().shutdown(std::net::Shutdown::Write),
            None => return,
        };
        match result {
            Ok(()) => {}
            // The peer is gone, which reading tells better.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => self.fail(state, error),
        }
    }

    /// An error ends the connection: what is queued is dropped. The first one counts.
    pub(super) fn fail(&self, state: &mut Locked<'_>, error: io::Error) {
        let (parts, later) = state.parts();
        let is_news = parts.life.end(Phase::Aborted, later);
        if is_news {
            later.call_driver();
        }
        if is_news && parts.error.is_none() {
            parts.error = Some(error);
        } else {
            state.discard(error);
        }
    }

    /// Why the connection is ending, if it is for an error.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        self.lock().error.take()
    }

    /// The protocol that is to be called from now on, if it has changed.
    pub(super) fn take_successor(&self) -> Option<Box<dyn Connected + Send>> {
        self.lock().successor.take()
    }

    /// The connection has failed before its protocol heard of it: its server is told.
    #[cfg(feature = "tls")]
    pub(super) fn note(&self, error: &io::Error) {
        if let Some(membership) = &self.membership {
            membership.note(copy(error));
        }
    }

    /// The end: the socket is closed unless the user holds it, and whoever waits is told. Somebody
    /// who may ask for the addresses later: they are kept.
    pub(super) fn lose(&self, outcome: io::Result<()>, somebody: bool) {
        self.signals.forget_driver();
        let (socket, successor, wakers) = {
            let mut state = self.lock();
            if state.life.phase == Phase::Lost {
                return;
            }
            if state.life.phase != Phase::Aborted {
                self.flush(&mut state);
            }
            state.dropped += state.held() as u64;
            state.queue = Queue::new();
            #[cfg(feature = "tls")]
            if let Some(stage) = state.end_tls(somebody) {
                state.discard(stage);
            }
            self.settle(&mut state);
            let socket = state.socket.take();
            if let (true, Some(socket)) = (somebody, &socket) {
                let names = [socket.local_addr().ok(), socket.peer_addr().ok()];
                state.names = Some(Box::new(names));
            }
            let wakers = state.life.lose(outcome.map_err(Arc::new));
            (socket, state.successor.take(), wakers)
        };
        drop(socket);
        wake_all(wakers);
        drop(successor);
        if let Some(membership) = &self.membership {
            membership.end();
        }
    }
}

/// The system takes nothing at the moment.
pub(super) fn is_not_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl State {
    /// Bytes that wait to be sent.
    fn held(&self) -> usize {
        #[cfg(feature = "tls")]
        let early = self.tls.as_deref().map_or(0, Secure::early);
        #[cfg(not(feature = "tls"))]
        let early = 0;
        self.queue.len() + early
    }

    /// More than is to wait for the end of the callbacks that are running.
    pub(super) fn is_much(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return self.queue.len() >= CORKED_CIPHERTEXT;
        }
        self.queue.len() >= CORKED_BYTES
    }

    /// There is something to send, or to end.
    pub(super) fn has_work(&self) -> bool {
        matches!(self.life.phase, Phase::Open | Phase::Closing)
            && (!self.queue.is_empty() || self.writing == Writing::Ending)
    }
}

impl Living for Shared {
    type State = State;

    fn lock(&self) -> Locked<'_> {
        Locked::new(&self.state, &self.signals)
    }

    fn life(state: &mut State) -> &mut Life {
        &mut state.life
    }
}

ending!(Shared);
