//! The driver of a datagram endpoint: receives, calls the protocol, sends what is queued.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::batch::{Kept, Lent, Meta, RecvBatch};
use crate::endpoint::datagram::linger::Linger;
use crate::endpoint::datagram::outbox::When;
use crate::endpoint::datagram::protocol::DatagramProtocol;
use crate::endpoint::datagram::shared::Socket;
use crate::endpoint::datagram::transport::DatagramTransport;
use crate::endpoint::flow::Change;
use crate::endpoint::handle::{is_barred, Cell};
use crate::endpoint::lifetime::{rounds, Living, Phase, Round};
use crate::net::Backoff;
use crate::sys::caps::Family;
use crate::sys::{Datagram, DatagramOps};
use crate::time::{sleep, Sleep};
use crate::wake::Waiter;

/// Receive errors in a row, with no waiting in between, after which there is a pause before the next: an error that the system
/// repeats for ever must not take the processor.
const ERRORS_IN_A_ROW: usize = 16;
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Batches that are sent in one go before other tasks have their turn.
const BATCHES: usize = 64;

/// Callbacks about what has happened, in one go: a protocol may cause more in each.
const TOLD: usize = 32;

/// The future that makes a datagram endpoint work: it receives, calls the protocol, and sends what
/// is queued. It ends when the endpoint is closed.
///
/// [`create_datagram_endpoint`](crate::create_datagram_endpoint) spawns it;
/// [`create_datagram_endpoint_with_driver`](crate::create_datagram_endpoint_with_driver) leaves
/// that to the caller, who may be on any executor. It is `Send` if the protocol is.
///
/// # Cancel safety
/// Dropping it closes the endpoint without calling the protocol: what is queued is sent as far as
/// the system takes it at once, and [`closed`](DatagramTransport::closed) gives
/// `ConnectionAborted`.
#[must_use = "an endpoint does nothing unless its driver is spawned or awaited"]
pub struct DatagramDriver<P: DatagramProtocol> {
    transport: DatagramTransport,
    socket: Option<Socket>,
    cell: Arc<Cell<P>>,
    waker: Option<Waker>,
    made: bool,
    /// It sends to each receiver in turn.
    has_receivers: bool,
    /// What the shared state said when it was looked at last; `attention` calls for another look.
    phase: Phase,
    reading: bool,
    queued: bool,
    /// In a callback: if it is left by a panic, the driver is dropped like this.
    calling: bool,
    /// Received, but not delivered since the protocol has paused reading.
    held: Option<Kept>,
    backoff: Backoff,
    /// Closing, and for how long.
    linger: Option<Linger>,
    errors_in_a_row: usize,
    error_pause: Option<Sleep>,
}

impl<P: DatagramProtocol> DatagramDriver<P> {
    pub(super) fn new(
        transport: DatagramTransport,
        socket: Socket,
        cell: Arc<Cell<P>>,
    ) -> DatagramDriver<P> {
        let has_receivers = transport.shared.lock().outbox.is_some();
        DatagramDriver {
            has_receivers,
            transport,
            socket: Some(socket),
            cell,
            waker: None,
            made: false,
            phase: Phase::Open,
            reading: true,
            queued: false,
            calling: false,
            held: None,
            backoff: Backoff::new(),
            linger: None,
            errors_in_a_row: 0,
            error_pause: None,
        }
    }

    /// Calls the protocol.
    fn call(&mut self, callbacks: impl FnOnce(&mut P, &DatagramTransport)) {
        self.calling = true;
        {
            let mut inside = self.cell.enter();
            if let Some(protocol) = inside.protocol() {
                callbacks(protocol, &self.transport);
            }
        }
        self.calling = false;
    }

    /// Calls the protocol, and sends together what it has sent.
    fn call_corked(&mut self, callbacks: impl FnOnce(&mut P, &DatagramTransport)) {
        self.transport.shared.cork();
        self.call(callbacks);
        self.queued = self.transport.shared.uncork();
    }

    fn round(&mut self, cx: &mut Context<'_>) -> Round {
        if !self.made {
            self.made = true;
            self.call(|protocol, transport| protocol.connection_made(transport));
            let mut state = self.transport.shared.lock();
            let (state, later) = state.parts();
            state.life.set_made(later);
        }
        if self.wants_attention() {
            self.call(|protocol, transport| {
                attend(protocol, transport);
            });
            self.look();
        }
        let sending = match (self.queued, self.has_receivers) {
            (true, true) => self.poll_send_by_receiver(cx),
            (true, false) => self.poll_send(cx),
            (false, _) => Poll::Pending,
        };
        if self.phase == Phase::Closing && self.queued {
            let linger = self.linger.get_or_insert_with(Linger::new);
            if linger.poll(cx, sending.is_ready()).is_ready() {
                self.transport
                    .shared
                    .give_up(&mut self.transport.shared.lock());
                self.queued = false;
            }
        }
        let receiving = match self.phase {
            Phase::Open if self.reading => self.poll_receive(cx),
            Phase::Open => Poll::Pending,
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

    fn look(&mut self) {
        let state = self.transport.shared.lock();
        self.phase = state.life.phase;
        self.reading = state.reading;
        self.queued = state.has_queued();
    }

    fn wants_attention(&self) -> bool {
        self.transport.shared.signals.wants_attention()
    }

    /// Sends what is queued; ready if that changed anything.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.transport.shared;
        let Some(socket) = &self.socket else {
            return Poll::Pending;
        };
        let mut changed = Poll::Pending;
        let mut failures = 0;
        let mut tries = 0;
        loop {
            if tries == BATCHES {
                changed = Poll::Ready(());
                break;
            }
            tries += 1;
            // Waits where no lock is held.
            let ready = match shared.writable_is_exact {
                true => match socket.inner().poll_writable(&mut Waiter::polled(cx)) {
                    Poll::Ready(ready) => ready,
                    Poll::Pending => break,
                },
                false => Ok(()),
            };
            let mut state = shared.lock();
            if state.life.phase == Phase::Aborted {
                return Poll::Pending;
            }
            if state.queue.is_empty() {
                break;
            }
            let result = ready.and_then(|()| socket.inner().try_send_batch(&mut state.queue));
            shared.report_earlier(&mut state, socket.inner());
            match result {
                Ok(_) => {
                    failures = 0;
                    self.backoff.reset();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(state);
                    if !shared.writable_is_exact && self.backoff.poll(cx).is_pending() {
                        break;
                    }
                    continue;
                }
                Err(error) => {
                    failures += 1;
                    shared.fail_front(&mut state, error, failures);
                }
            }
            changed = Poll::Ready(());
            if state.queue.is_empty() {
                break;
            }
        }
        let mut state = shared.lock();
        if changed.is_ready() {
            shared.settle(&mut state);
        }
        self.queued = !state.queue.is_empty();
        changed
    }

    /// Sends what may go to each receiver, and waits until more may; ready if that changed
    /// anything.
    fn poll_send_by_receiver(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let when = match self.backoff.poll(cx) {
            Poll::Ready(()) => When::Tick,
            Poll::Pending => When::Now,
        };
        let pumped = {
            let shared = &self.transport.shared;
            let mut state = shared.lock();
            if state.life.phase == Phase::Aborted {
                return Poll::Pending;
            }
            if !state.queue.is_empty() {
                shared.send_queued(&mut state);
            }
            let pumped = shared.pump(&mut state, when);
            self.queued = state.has_queued();
            pumped
        };
        if pumped.progress || !self.queued {
            self.backoff.reset();
        }
        let waits = !self.queued || self.backoff.poll(cx).is_pending();
        match pumped.progress || pumped.more || !waits {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Receives a batch and delivers it; ready if there was one, or an error.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.error_pause {
            match Pin::new(pause).poll(cx) {
                Poll::Ready(()) => self.error_pause = None,
                Poll::Pending => return Poll::Pending,
            }
        }
        if let Some(mut kept) = self.held.take() {
            let delivered = self.deliver(kept.iter());
            if kept.deliver(delivered) {
                self.held = Some(kept);
            }
            return Poll::Ready(());
        }
        let Some(socket) = &self.socket else {
            return Poll::Pending;
        };
        let inner = socket.inner();
        let mut lent = Lent::new(inner.family() == Family::Unix);
        let Some(batch) = lent.batch() else {
            return Poll::Pending;
        };
        match inner.poll_recv_batch(&mut Waiter::polled(cx), batch) {
            Poll::Ready(Ok(_)) => {
                self.errors_in_a_row = 0;
                self.deliver_batch(batch);
                Poll::Ready(())
            }
            Poll::Ready(Err(error)) => {
                self.errors_in_a_row += 1;
                if self.errors_in_a_row >= ERRORS_IN_A_ROW {
                    self.error_pause = Some(sleep(ERROR_PAUSE));
                }
                self.call(|protocol, transport| protocol.error_received(transport, error));
                Poll::Ready(())
            }
            Poll::Pending => {
                self.errors_in_a_row = 0;
                Poll::Pending
            }
        }
    }

    /// Delivers a batch. What the protocol does not want now is kept, without the batch, which is
    /// the thread's.
    fn deliver_batch(&mut self, batch: &RecvBatch) {
        if let Some((data, meta)) = batch.lone() {
            // What it sends has no company to wait for.
            self.call(|protocol, transport| {
                datagram(protocol, transport, data, meta);
            });
            return;
        }
        let delivered = self.deliver(batch.iter());
        if delivered < batch.len() {
            self.held = Some(Kept::new(batch, delivered));
        }
    }

    /// Delivers until the protocol wants no more, and tells how many.
    fn deliver<'a>(&mut self, datagrams: impl Iterator<Item = (&'a [u8], &'a Meta)>) -> usize {
        let mut delivered = 0;
        let mut attended = false;
        self.call_corked(|protocol, transport| {
            for (data, meta) in datagrams {
                delivered += 1;
                datagram(protocol, transport, data, meta);
                if transport.shared.signals.wants_attention() {
                    attended = true;
                    if !attend(protocol, transport) {
                        break;
                    }
                }
            }
        });
        if attended {
            self.look();
        }
        delivered
    }

    /// The last callback, and the end of the socket.
    fn lose(&mut self) {
        self.call(|protocol, transport| protocol.connection_lost(transport, None));
        self.phase = Phase::Lost;
        self.socket = None;
        self.held = None;
        self.transport.shared.lose(Ok(()));
    }
}

/// Delivers one datagram.
fn datagram<P: DatagramProtocol>(
    protocol: &mut P,
    transport: &DatagramTransport,
    data: &[u8],
    meta: &Meta,
) {
    if meta.truncated {
        protocol.error_received(transport, too_large(data.len(), meta));
    } else {
        protocol.datagram_received(transport, data, &meta.from);
    }
}

fn too_large(len: usize, meta: &Meta) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "a datagram from {} was larger than the {len} bytes there was room for, and dropped",
            meta.from
        ),
    )
}

/// Tells the protocol what has happened while it was being called, some of it if it is much. False
/// if it wants no more datagrams.
fn attend<P: DatagramProtocol>(protocol: &mut P, transport: &DatagramTransport) -> bool {
    let shared = &transport.shared;
    shared.signals.take_attention();
    let mut told = 0;
    loop {
        let mut state = shared.lock();
        if matches!(state.life.phase, Phase::Aborted | Phase::Lost) {
            return false;
        }
        let wants_more = state.reading && state.life.phase == Phase::Open;
        if told == TOLD {
            // Others have their turn first.
            shared.signals.call_attention();
            return wants_more;
        }
        let error = state.errors.pop_front();
        let change = match error {
            None => state.flow.take_change(),
            Some(_) => None,
        };
        drop(state);
        match (error, change) {
            (Some(error), _) => protocol.error_received(transport, error),
            (None, Some(Change::Pause)) => protocol.pause_writing(transport),
            (None, Some(Change::Resume)) => protocol.resume_writing(transport),
            (None, None) => return wants_more,
        }
        told += 1;
    }
}

impl<P: DatagramProtocol> Future for DatagramDriver<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.phase == Phase::Lost {
            return Poll::Ready(());
        }
        let this = &mut *self;
        let signals = &this.transport.shared.signals;
        signals.remember(&mut this.waker, cx);
        if is_barred(signals, || this.cell.is_barred()) {
            return Poll::Pending;
        }
        rounds(Datagram::ROUNDS, cx, |cx| self.round(cx))
    }
}

// The fields are moved freely; nothing is pinned.
impl<P: DatagramProtocol> Unpin for DatagramDriver<P> {}

impl<P: DatagramProtocol> Drop for DatagramDriver<P> {
    fn drop(&mut self) {
        let why = match self.calling {
            true => io::Error::other("a callback of the datagram protocol panicked"),
            false => io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the driver of the datagram endpoint was dropped",
            ),
        };
        self.socket = None;
        // Nothing happens if the endpoint has come to its end before.
        self.transport.shared.lose(Err(why));
    }
}

impl<P: DatagramProtocol> fmt::Debug for DatagramDriver<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramDriver")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}
