//! The driver of a connection: receives, calls the protocol, sends what is queued.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::endpoint::flow::Change;
use crate::endpoint::handle::{is_barred, Cell};
use crate::endpoint::lifetime::{rounds, Living, Phase, Round};
use crate::endpoint::stream::protocol::StreamProtocol;
#[cfg(feature = "tls")]
use crate::endpoint::stream::secure_driver::Part;
use crate::endpoint::stream::shared::Socket;
use crate::endpoint::stream::source::Source;
use crate::endpoint::stream::tls::Security;
use crate::endpoint::stream::transport::Transport;
use crate::error::copy;
use crate::sys::StreamOps;
use crate::wake::Waiter;

/// Reads in one go before other tasks have their turn.
const ROUNDS: usize = 8;

/// Callbacks about what has changed, in one go: other threads may cause more meanwhile.
const TOLD: usize = 32;

/// A protocol of any type and kind, as the driver calls it.
pub(super) trait Connected {
    /// Whether it cannot be entered now.
    fn is_barred(&self) -> bool;
    fn made(&self, transport: &Transport);
    fn eof(&self, transport: &Transport) -> io::Result<bool>;
    fn change(&self, transport: &Transport, change: Change);
    fn lost(&self, transport: &Transport, error: Option<&io::Error>);
    /// Receives and delivers once; 0 is the end.
    fn poll_receive(
        &self,
        waiter: &mut Waiter<'_>,
        source: &Source<'_>,
        transport: &Transport,
    ) -> Poll<io::Result<usize>>;
}

/// A protocol of one kind.
pub(super) struct Kinded<P, K> {
    cell: Arc<Cell<P>>,
    kind: PhantomData<fn() -> K>,
}

impl<P, K> Kinded<P, K> {
    pub(super) fn new(cell: Arc<Cell<P>>) -> Kinded<P, K> {
        Kinded {
            cell,
            kind: PhantomData,
        }
    }
}

impl<P: StreamProtocol<K>, K> Kinded<P, K> {
    /// Calls the protocol, unless its handle has taken it away.
    fn call<R>(&self, transport: &Transport, callback: impl FnOnce(&mut P) -> R) -> Option<R> {
        transport.corked(|| self.cell.enter().protocol().map(callback))
    }
}

impl<P: StreamProtocol<K>, K> Connected for Kinded<P, K> {
    fn is_barred(&self) -> bool {
        self.cell.is_barred()
    }

    fn made(&self, transport: &Transport) {
        self.call(transport, |protocol| protocol.made(transport));
    }

    fn eof(&self, transport: &Transport) -> io::Result<bool> {
        self.call(transport, |protocol| protocol.eof(transport))
            .unwrap_or(Ok(false))
    }

    fn change(&self, transport: &Transport, change: Change) {
        self.call(transport, |protocol| match change {
            Change::Pause => protocol.pause(transport),
            Change::Resume => protocol.resume(transport),
        });
    }

    fn lost(&self, transport: &Transport, error: Option<&io::Error>) {
        self.call(transport, |protocol| protocol.lost(transport, error));
    }

    fn poll_receive(
        &self,
        waiter: &mut Waiter<'_>,
        source: &Source<'_>,
        transport: &Transport,
    ) -> Poll<io::Result<usize>> {
        P::poll_receive(&self.cell, waiter, source, transport)
    }
}

/// The future that makes a connection work: it receives, calls the protocol, and sends what is
/// queued. It ends when the connection is closed.
///
/// [`create_connection`](crate::create_connection) and its like spawn it; their forms with a driver
/// leave that to the caller, who may be on any executor. It is `Send` if the protocol is.
///
/// # Cancel safety
/// Dropping it closes the connection without calling the protocol: what is queued is sent as far
/// as the system takes it at once, and [`closed`](Transport::closed) gives `ConnectionAborted`.
#[must_use = "a connection does nothing unless its driver is spawned or awaited"]
pub struct ConnectionDriver<P: StreamProtocol<K>, K> {
    pub(super) transport: Transport,
    pub(super) socket: Option<Socket>,
    protocol: Kinded<P, K>,
    /// What `set_protocol` has put in its place.
    successor: Option<Box<dyn Connected + Send>>,
    waker: Option<Waker>,
    pub(super) made: bool,
    /// What the shared state said when it was looked at last; `attention` calls for another look.
    pub(super) phase: Phase,
    reading: bool,
    pub(super) queued: bool,
    /// The peer's end was received, and the connection stays open.
    pub(super) ended: bool,
    /// In a callback: if it is left by a panic, the driver is dropped like this.
    calling: bool,
    #[cfg(feature = "tls")]
    pub(super) tls: Part,
}

impl<P: StreamProtocol<K>, K> ConnectionDriver<P, K> {
    pub(super) fn new(
        transport: Transport,
        socket: Socket,
        cell: Arc<Cell<P>>,
        security: Security,
    ) -> Self {
        #[cfg(feature = "tls")]
        let tls = Part::new(&transport.shared, security);
        #[cfg(not(feature = "tls"))]
        let Security::Plain = security
        else {
            unreachable!("there is no other");
        };
        ConnectionDriver {
            #[cfg(feature = "tls")]
            tls,
            transport,
            socket: Some(socket),
            protocol: Kinded::new(cell),
            successor: None,
            waker: None,
            made: false,
            phase: Phase::Open,
            reading: true,
            queued: false,
            ended: false,
            calling: false,
        }
    }

    /// Calls the protocol.
    fn call<R>(&mut self, callback: impl FnOnce(&dyn Connected, &Transport) -> R) -> R {
        self.calling = true;
        let result = callback(self.protocol(), &self.transport);
        self.calling = false;
        result
    }

    /// The one that is called now.
    fn protocol(&self) -> &dyn Connected {
        match &self.successor {
            Some(successor) => &**successor,
            None => &self.protocol,
        }
    }

    fn round(&mut self, cx: &mut Context<'_>) -> Round {
        if !self.made && !self.is_handshaking() {
            self.made = true;
            self.call(|protocol, transport| protocol.made(transport));
            let mut state = self.transport.shared.lock();
            let (state, later) = state.parts();
            state.life.set_made(later);
        }
        if self.wants_attention() {
            self.attend();
        }
        let sending = match (self.queued, &self.socket) {
            (true, Some(socket)) => {
                let waiter = &mut Waiter::polled(cx);
                self.transport.shared.poll_flush(waiter, socket)
            }
            _ => Poll::Pending,
        };
        if sending.is_ready() || self.wants_attention() {
            self.look();
        }
        let receiving = match self.phase {
            #[cfg(feature = "tls")]
            Phase::Open if self.is_handshaking() => self.poll_handshake(cx),
            Phase::Open if self.reading && !self.ended => self.poll_receive(cx),
            Phase::Open => Poll::Pending,
            #[cfg(feature = "tls")]
            Phase::Closing if self.is_parting() => self.poll_parting(cx),
            Phase::Closing if self.queued || self.wants_attention() => Poll::Pending,
            Phase::Closing | Phase::Aborted | Phase::Lost => {
                self.lose();
                return Round::Lost;
            }
        };
        match sending.is_ready() || receiving.is_ready() || self.wants_attention() {
            true => Round::Progress,
            false => Round::Waiting,
        }
    }

    fn wants_attention(&self) -> bool {
        self.transport.shared.signals.wants_attention()
    }

    /// Takes in what has changed, and tells the protocol what there is to tell, some of it if it is
    /// much.
    fn attend(&mut self) {
        self.transport.shared.signals.take_attention();
        for told in 0.. {
            if told == TOLD {
                // Others have their turn first.
                self.transport.shared.signals.call_attention();
                break;
            }
            let mut state = self.transport.shared.lock();
            let successor = state.successor.take();
            let change = match state.life.phase {
                Phase::Open | Phase::Closing => state.flow.take_change(),
                Phase::Aborted | Phase::Lost => None,
            };
            drop(state);
            let is_new = successor.is_some();
            if is_new {
                self.successor = successor;
            }
            match change {
                Some(change) => self.call(|protocol, transport| protocol.change(transport, change)),
                None if is_new => {}
                None => break,
            }
        }
        self.look();
    }

    pub(super) fn look(&mut self) {
        #[cfg(feature = "tls")]
        self.look_for_upgrade();
        let state = self.transport.shared.lock();
        self.phase = state.life.phase;
        self.reading = state.reading;
        self.queued = state.has_work();
    }

    /// Receives and delivers once; ready if there was something, the end and errors included.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(socket) = self.socket.take() else {
            return Poll::Pending;
        };
        #[cfg(feature = "tls")]
        let is_secure = self.is_secure();
        let received = self.call(|protocol, transport| {
            let source = Source {
                stream: socket.inner(),
                #[cfg(feature = "tls")]
                secure: is_secure.then_some(&*transport.shared),
            };
            protocol.poll_receive(&mut Waiter::polled(cx), &source, transport)
        });
        self.socket = Some(socket);
        let result = match received {
            Poll::Ready(Ok(0)) => self.receive_eof(),
            Poll::Ready(result) => result.map(drop),
            Poll::Pending => return Poll::Pending,
        };
        if let Err(error) = result {
            self.receive_error(error);
        }
        Poll::Ready(())
    }

    fn receive_error(&mut self, error: io::Error) {
        let shared = &self.transport.shared;
        #[cfg(feature = "tls")]
        let error = match shared.cut_off(error) {
            Ok(()) => {
                self.ended = true;
                shared.forget_carriers();
                return;
            }
            Err(error) => error,
        };
        shared.fail(&mut shared.lock(), error);
    }

    /// Whether a TLS handshake is under way.
    fn is_handshaking(&self) -> bool {
        #[cfg(feature = "tls")]
        return matches!(self.tls, Part::Handshake(_));
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Whether what is received is to be decrypted.
    fn is_secure(&self) -> bool {
        #[cfg(feature = "tls")]
        return matches!(self.tls, Part::Up);
        #[cfg(not(feature = "tls"))]
        false
    }

    fn receive_eof(&mut self) -> io::Result<()> {
        self.ended = true;
        let stays_open = self.call(|protocol, transport| protocol.eof(transport))?;
        if !stays_open || self.is_secure() {
            self.transport.close();
        }
        Ok(())
    }

    /// The last callback, and the end of the socket.
    fn lose(&mut self) {
        let error = self.transport.shared.take_error();
        if let Some(successor) = self.transport.shared.take_successor() {
            self.successor = Some(successor);
        }
        if self.made {
            self.call(|protocol, transport| protocol.lost(transport, error.as_ref()));
        }
        self.end(error.map_or(Ok(()), Err));
    }

    fn end(&mut self, outcome: io::Result<()>) {
        if let (Phase::Aborted, Some(socket)) = (self.phase, &self.socket) {
            socket.inner().abandon();
        }
        self.phase = Phase::Lost;
        self.socket = None;
        // All that this driver has is one.
        let somebody = Arc::strong_count(&self.transport.shared) > 1;
        self.transport.shared.lose(outcome, somebody);
    }
}

impl<P: StreamProtocol<K>, K> Future for ConnectionDriver<P, K> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.phase == Phase::Lost {
            return Poll::Ready(());
        }
        let this = &mut *self;
        let signals = &this.transport.shared.signals;
        signals.remember(&mut this.waker, cx);
        if is_barred(signals, || this.protocol().is_barred()) {
            return Poll::Pending;
        }
        rounds(ROUNDS, cx, |cx| self.round(cx))
    }
}

// The fields are moved freely; nothing is pinned.
impl<P: StreamProtocol<K>, K> Unpin for ConnectionDriver<P, K> {}

impl<P: StreamProtocol<K>, K> Drop for ConnectionDriver<P, K> {
    fn drop(&mut self) {
        if self.phase == Phase::Lost {
            return;
        }
        let error = self.transport.shared.take_error();
        let why = match (self.calling, &error) {
            (true, _) => io::Error::other("a callback of the connection's protocol panicked"),
            (false, Some(error)) => copy(error),
            (false, None) => io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the driver of the connection was dropped",
            ),
        };
        self.end(Err(why));
    }
}

impl<P: StreamProtocol<K>, K> fmt::Debug for ConnectionDriver<P, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionDriver")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}
