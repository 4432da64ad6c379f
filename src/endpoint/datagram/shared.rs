//! The state that transports and the driver of a datagram endpoint share.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use crate::address::Address;
use crate::batch::{SendBatch, SendMeta};
use crate::endpoint::datagram::outbox::{too_much, Outbox, When, DATAGRAM, PEER};
use crate::endpoint::flow::{Flow, DATAGRAM_OVERHEAD};
use crate::endpoint::lifetime::{ending, Life, Living, Phase};
use crate::endpoint::locked::{self, Signals};
use crate::error::{closed, context, copy, invalid};
use crate::net::UdpSocket;
#[cfg(unix)]
use crate::net::UnixDatagram;
use crate::sys::caps::Family;
use crate::sys::{Datagram, DatagramOps};
use crate::wake::wake_all;

/// Datagrams, and bytes, that callbacks may queue before they are sent in between: several of the
/// largest pieces that the system takes.
const CORKED: usize = 1024;
const CORKED_BYTES: usize = 192 * 1024;

/// Errors kept for a protocol that is not being driven.
const ERRORS: usize = 128;

/// Errors in a row that one attempt to send is given.
const ATTEMPTS: usize = 32;

pub(super) struct Shared {
    /// The only destination, if there is one, as the system names it.
    pub(super) peer: Option<Address>,
    /// The same as it was given when the endpoint was made.
    given_peer: Option<Address>,
    /// The system knows the peer too: datagrams are sent without an address.
    connected: bool,
    family: Family,
    /// The system tells when there is room for more.
    pub(super) writable_is_exact: bool,
    pub(super) signals: Signals,
    state: Mutex<State>,
}

pub(super) type Locked<'a> = locked::Locked<'a, State>;

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

pub(super) struct State {
    pub(super) life: Life,
    pub(super) socket: Option<Socket>,
    pub(super) queue: SendBatch,
    /// What waits for each receiver, where one can be full and others not.
    pub(super) outbox: Option<Outbox>,
    /// Something was dropped that was too much for the only receiver, and that was told.
    told: bool,
    /// A send said that it would block, while the callbacks that are running go on.
    blocked: bool,
    pub(super) flow: Flow,
    /// For the protocol, in order.
    pub(super) errors: VecDeque<io::Error>,
    pub(super) reading: bool,
    /// Datagrams and errors that reached nobody.
    pub(super) dropped: u64,
    /// The socket's own address, kept when it is closed.
    pub(super) local: Option<Address>,
}

impl Shared {
    /// `peer` is the one that was given, or that the socket of the user's has; `connected`, if the
    /// system knows it.
    pub(super) fn new(socket: Socket, peer: Option<Address>, connected: bool) -> Arc<Shared> {
        let known = match connected {
            true => socket.inner().peer_addr().ok(),
            false => None,
        };
        let inner = socket.inner();
        let (family, writable_is_exact) = (inner.family(), inner.writable_is_exact());
        let has_receivers = family == Family::Unix && !writable_is_exact;
        let outbox = has_receivers.then(Outbox::for_receivers).flatten();
        Arc::new(Shared {
            peer: known.or(peer),
            given_peer: peer,
            connected,
            family,
            writable_is_exact,
            signals: Signals::default(),
            state: Mutex::new(State {
                life: Life::new(),
                socket: Some(socket),
                queue: SendBatch::new(),
                outbox,
                told: false,
                blocked: false,
                flow: Flow::default(),
                errors: VecDeque::new(),
                reading: true,
                dropped: 0,
                local: None,
            }),
        })
    }

    /// `close` or `abort`.
    pub(super) fn end(&self, phase: Phase) {
        let mut state = self.lock();
        let (state, later) = state.parts();
        if state.life.end(phase, later) {
            later.call_driver();
        }
    }

    /// From here to `uncork`, what is sent is queued.
    pub(super) fn cork(&self) {
        self.signals.set_corked(true);
    }

    /// Sends what callbacks have queued; true if some of it has to wait.
    pub(super) fn uncork(&self) -> bool {
        let mut state = self.lock();
        self.signals.set_corked(false);
        state.blocked = false;
        if !state.queue.is_empty() {
            self.send_queued(&mut state);
        }
        state.has_queued()
    }

    /// Sends what goes without waiting.
    pub(super) fn send_queued(&self, state: &mut Locked<'_>) {
        self.send_queued_by_receiver(state);
        let Some(socket) = state.socket.clone() else {
            return;
        };
        let mut failures = 0;
        while !state.queue.is_empty() && failures < ATTEMPTS {
            let result = socket.inner().try_send_batch(&mut state.queue);
            self.report_earlier(state, socket.inner());
            match result {
                Ok(_) => failures = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.blocked = true;
                    break;
                }
                Err(error) => {
                    failures += 1;
                    self.fail_front(state, error, failures);
                }
            }
        }
        self.settle(state);
    }

    /// Brings the accounting up to date after the queue has changed.
    pub(super) fn settle(&self, state: &mut Locked<'_>) {
        let size = state.size();
        let sent = state.flow.size().saturating_sub(size);
        state.flow.remove(sent);
        let added = size - state.flow.size();
        state.flow.add(added);
        state.flow.check_pause();
        if sent > 0 && state.flow.check_resume() {
            let (state, later) = state.parts();
            later.wake(&mut state.life.waiters);
        }
        if state.flow.has_change() {
            state.call_driver();
        }
        state.queue.strip();
    }

    /// The system refused the datagram at the front: it is dropped and reported.
    pub(super) fn fail_front(&self, state: &mut Locked<'_>, error: io::Error, failures: usize) {
        // On a connected IP socket this is what became of an earlier datagram; the one at the
        // front was not even tried.
        let error = match self.is_about_earlier(&error) && failures <= 1 {
            true => error,
            false => state.queue.fail_front(error, self.peer.as_ref()),
        };
        self.report(state, error);
    }

    fn is_about_earlier(&self, error: &io::Error) -> bool {
        self.connected
            && self.family != Family::Unix
            && error.kind() == io::ErrorKind::ConnectionRefused
    }

    /// Keeps the error of an earlier datagram for the protocol, if a send has found one.
    pub(super) fn report_earlier(&self, state: &mut Locked<'_>, socket: &Datagram) {
        if let Some(error) = socket.take_earlier() {
            self.report(state, error);
        }
    }

    /// Keeps an error for the protocol.
    pub(super) fn report(&self, state: &mut Locked<'_>, error: io::Error) {
        if state.errors.len() < ERRORS {
            state.errors.push_back(error);
        } else {
            state.dropped += 1;
        }
        state.call_driver();
    }

    /// The end: the socket is closed unless the user holds it, and whoever waits is told.
    pub(super) fn lose(&self, outcome: io::Result<()>) {
        self.signals.forget_driver();
        let (socket, wakers) = {
            let mut state = self.lock();
            if state.life.phase == Phase::Lost {
                return;
            }
            if state.life.phase != Phase::Aborted {
                self.send_queued(&mut state);
                let mut when = When::Tick;
                while self.pump(&mut state, when).more {
                    when = When::Now;
                }
            }
            let waits = state.outbox.as_ref().map_or(0, Outbox::len);
            state.dropped += (state.queue.len() + waits + state.errors.len()) as u64;
            state.queue.clear();
            state.outbox = None;
            state.errors.clear();
            self.settle(&mut state);
            let socket = state.socket.take();
            state.local = socket
                .as_ref()
                .and_then(|socket| socket.inner().local_addr().ok());
            (socket, state.life.lose(outcome.map_err(Arc::new)))
        };
        drop(socket);
        wake_all(wakers);
    }

    pub(super) fn socket(&self) -> Option<Socket> {
        let mut state = self.lock();
        if let Some(outbox) = &mut state.outbox {
            outbox.ask_again();
        }
        state.socket.clone()
    }

    pub(super) fn send(&self, data: &[u8], to: Option<&Address>) -> io::Result<()> {
        let to = self.destination(to)?;
        let mut state = self.lock();
        if state.life.phase != Phase::Open {
            state.dropped += 1;
            return Err(closed("the datagram endpoint"));
        }
        let corked = self.signals.is_corked();
        if !corked && state.queue.is_empty() {
            let is_done = match state.outbox {
                Some(_) => self.send_by_receiver(&mut state, data, to),
                None => self.send_now(&mut state, data, to),
            };
            if is_done {
                if state.has_queued() {
                    self.settle(&mut state);
                }
                return Ok(());
            }
        }
        if self.is_too_much(&mut state, data) {
            return Ok(());
        }
        state.queue.equip();
        state.queue.push_with(data, to, SendMeta::default());
        state.flow.add(data.len() + DATAGRAM_OVERHEAD);
        if corked {
            let is_much = state.queue.size() >= CORKED_BYTES || state.queue.len() >= CORKED;
            // What waits for receivers does so in any case.
            let is_over =
                state.flow.is_over() && state.outbox.as_ref().is_none_or(Outbox::is_empty);
            if is_much || is_over {
                // Only what the system does not take now counts as too much.
                match state.blocked {
                    false => self.send_queued(&mut state),
                    true => state.flow.check_pause(),
                }
            }
        } else {
            state.flow.check_pause();
            state.call_driver();
        }
        Ok(())
    }

    /// Whether so much waits for the only receiver of Unix datagrams that `data` is dropped: one
    /// that does not read may hold up the queue for ever.
    fn is_too_much(&self, state: &mut Locked<'_>, data: &[u8]) -> bool {
        if self.family != Family::Unix || state.outbox.is_some() {
            return false;
        }
        let bound = PEER.saturating_add(state.flow.limits().1);
        let waits = state.queue.size() + state.queue.len() * DATAGRAM;
        let is_too_much = waits > 0 && waits + data.len() + DATAGRAM > bound;
        if is_too_much {
            state.dropped += 1;
            if !state.told {
                let peer = self.peer.unwrap_or(Address::UNNAMED);
                let error = too_much(&peer, state.queue.len());
                self.report(state, error);
            }
        }
        state.told = is_too_much || (state.told && waits > bound / 2);
        is_too_much
    }

    /// Tries to send without queueing; false if it would block.
    fn send_now(&self, state: &mut Locked<'_>, data: &[u8], to: Option<&Address>) -> bool {
        let Some(socket) = &state.socket else {
            return true;
        };
        let mut result = socket.inner().try_send(data, to);
        let mut earlier = socket.inner().take_earlier();
        if let Err(error) = &result {
            if self.is_about_earlier(error) {
                earlier = Some(copy(error));
                result = socket.inner().try_send(data, to);
            }
        }
        if let Some(error) = earlier {
            self.report(state, error);
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
            (Some(peer), Some(to)) if peer != to && self.given_peer.as_ref() != Some(to) => {
                Err(invalid(format_args!(
                    "cannot send to {to}: the endpoint's only peer is {peer}"
                )))
            }
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

impl State {
    /// Whether anything waits to be sent.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
            || self
                .outbox
                .as_ref()
                .is_some_and(|outbox| !outbox.is_empty())
    }

    /// The size of what waits, as the limits count it.
    fn size(&self) -> usize {
        let batch = self.queue.size() + self.queue.len() * DATAGRAM_OVERHEAD;
        batch + self.outbox.as_ref().map_or(0, Outbox::size)
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
