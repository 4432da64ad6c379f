//! One socket with its readiness and whoever waits for it, on coracle's reactor or async-io's.
//!
//! Level mode, read interest only. Writable is armed when a send would block, and disarmed by an
//! event that finds nobody waiting: whoever sends much waits again, which then takes no system
//! call. A readable event that finds nobody waiting, for the second time in a row since a
//! task may just be taking turns, disarms reading until somebody waits: else an unread socket
//! would spin the loop. Because the kernel repeats what is still true, a
//! readiness that is cleared at the wrong moment costs a wake-up, never a hang.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{ready, Poll, Waker};

use polling::{Event, PollMode, Poller};

use super::foreign::Foreign;
use super::reactor::Registry;
use crate::budget;
pub(super) use crate::wake::Direction;
use crate::wake::{Displaced, Ticket, Waiter, Waiters};

/// What the kernel reported of one socket.
pub(super) struct Ready {
    pub(super) key: usize,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

/// A socket and what is known of its readiness; shared with the reactor that watches it.
pub(super) struct Watched {
    io: socket2::Socket,
    /// Bits of the directions that were reported, or never tried, and not yet found to be over.
    ready: AtomicU8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    read: Side,
    write: Side,
    registration: Registration,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Registration {
    /// No reactor, or one that has ended.
    #[default]
    None,
    /// Its reactor's poller does not watch it: errors and hang-ups are reported in level mode even
    /// if nothing is armed, for ever.
    Idle,
    Watched,
}

#[derive(Default)]
struct Side {
    /// The poller watches this direction.
    armed: bool,
    /// The last event found nobody waiting.
    unclaimed: bool,
    waiters: Waiters,
}

impl Watched {
    fn new(io: socket2::Socket) -> Watched {
        Watched {
            io,
            ready: AtomicU8::new(bit(Direction::Read) | bit(Direction::Write)),
            state: Mutex::default(),
        }
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Watched {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.io.as_fd()
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for Watched {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.io.as_socket()
    }
}

/// A direction among those that are ready.
fn bit(direction: Direction) -> u8 {
    match direction {
        Direction::Read => 1,
        Direction::Write => 2,
    }
}

impl State {
    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }

    fn event(&self, key: usize) -> Event {
        Event::new(key, self.read.armed, self.write.armed)
    }
}

impl Watched {
    pub(super) fn io(&self) -> &socket2::Socket {
        &self.io
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ready(&self, direction: Direction) -> bool {
        self.ready.load(Ordering::Acquire) & bit(direction) != 0
    }

    /// Before the lock is taken to find out who waits: whoever is about to wait looks again
    /// under it.
    fn set_ready(&self, directions: u8) {
        self.ready.fetch_or(directions, Ordering::AcqRel);
    }

    /// Takes in what the kernel reported, and disarms what nobody waits for.
    pub(super) fn report(
        &self,
        poller: &Poller,
        key: usize,
        readable: bool,
        writable: bool,
        wakers: &mut Vec<Waker>,
    ) {
        let read = if readable { bit(Direction::Read) } else { 0 };
        let write = if writable { bit(Direction::Write) } else { 0 };
        self.set_ready(read | write);
        let mut state = self.lock();
        let before = (state.read.armed, state.write.armed);
        if readable {
            let is_unclaimed = state.read.waiters.is_empty();
            state.read.armed &= !(is_unclaimed && state.read.unclaimed);
            state.read.unclaimed = is_unclaimed;
            state.read.waiters.take(wakers);
        }
        if writable {
            state.write.armed &= !state.write.waiters.is_empty();
            state.write.waiters.take(wakers);
        }
        let after = (state.read.armed, state.write.armed);
        if after != before && state.registration == Registration::Watched {
            // A failure leaves it armed: more wake-ups, none lost.
            if after == (false, false) {
                if poller.delete(&self.io).is_ok() {
                    state.registration = Registration::Idle;
                }
            } else {
                let _ = poller.modify_with_mode(&self.io, state.event(key), PollMode::Level);
            }
        }
    }

    /// Something else than our own reactor has an event.
    pub(super) fn wake(&self, direction: Direction) {
        let mut wakers = Vec::new();
        self.lock().side(direction).waiters.take(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// It has no reactor any longer; true if a poller still watches it. Those who wait are left to wait, or
    /// handed over to be woken.
    pub(super) fn unregister(&self, wakers: Option<&mut Vec<Waker>>) -> bool {
        let mut state = self.lock();
        state.read.armed = false;
        state.write.armed = false;
        if let Some(wakers) = wakers {
            state.read.waiters.take(wakers);
            state.write.waiters.take(wakers);
        }
        std::mem::take(&mut state.registration) == Registration::Watched
    }
}

/// A socket and who watches it for us.
pub(super) struct Source {
    attachment: Mutex<Attachment>,
    watched: Arc<Watched>,
}

/// Decided when somebody first waits.
enum Attachment {
    None,
    Reactor(Arc<Registry>, usize),
    Foreign(Box<Foreign>),
}

impl Source {
    /// Takes a socket that is non-blocking already.
    pub(super) fn new(io: socket2::Socket) -> Source {
        Source {
            attachment: Mutex::new(Attachment::None),
            watched: Arc::new(Watched::new(io)),
        }
    }

    pub(super) fn io(&self) -> &socket2::Socket {
        self.watched.io()
    }

    /// Takes the socket back, off every reactor.
    pub(super) fn into_io(mut self) -> io::Result<socket2::Socket> {
        self.detach();
        let watched = self.watched.clone();
        drop(self);
        match Arc::try_unwrap(watched) {
            Ok(watched) => Ok(watched.io),
            Err(shared) => shared.io.try_clone(),
        }
    }

    fn detach(&mut self) {
        let attachment = self
            .attachment
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Attachment::Reactor(registry, key) = std::mem::replace(attachment, Attachment::None)
        {
            registry.remove(key);
        }
    }

    /// Does `operation` as soon as it does not say `WouldBlock`. It is not tried before readiness
    /// was reported, but for the first time.
    pub(super) fn poll_io<T>(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_ready(direction, waiter))?;
            if budget::spend() {
                waiter.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.try_io(direction, &mut operation) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Does `operation` now. If it says `WouldBlock`, readiness is over.
    pub(super) fn try_io<T>(
        &self,
        direction: Direction,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let result = operation();
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.clear_ready(direction);
        }
        result
    }

    /// As `poll_ready`, for those who do what follows by themselves, which counts.
    pub(super) fn poll_turn(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(direction, waiter))?;
        if budget::spend() {
            waiter.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready if readiness was reported and not cleared since; waits for it otherwise.
    pub(super) fn poll_ready(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watched.is_ready(direction) {
            return Poll::Ready(Ok(()));
        }
        let waker = waiter.waker().clone();
        // Dropped after the lock.
        let _displaced;
        {
            let mut state = self.watched.lock();
            if self.watched.is_ready(direction) {
                return Poll::Ready(Ok(()));
            }
            let side = state.side(direction);
            if side.armed {
                _displaced = side.waiters.register(waiter, waker);
                return Poll::Pending;
            }
        }
        self.poll_armed(direction, waiter, waker)
    }

    /// Somebody gives up.
    pub(super) fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        let waker = self.watched.lock().side(direction).waiters.remove(ticket);
        drop(waker);
    }

    /// Readiness is over: the next who wants it waits.
    pub(super) fn clear_ready(&self, direction: Direction) {
        self.watched
            .ready
            .fetch_and(!bit(direction), Ordering::AcqRel);
    }

    /// There is something that the kernel does not tell of.
    pub(super) fn set_ready(&self, direction: Direction) {
        self.watched.set_ready(bit(direction));
        self.watched.wake(direction);
    }

    /// Attaches to a reactor if need be, and has it watch this direction. The waker is a clone of
    /// the waiter's.
    fn poll_armed(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
        waker: Waker,
    ) -> Poll<io::Result<()>> {
        let mut waker = Some(waker);
        // Dropped after the lock, as the waker is if it was not used.
        let mut _displaced = Displaced::default();
        let mut attachment = self
            .attachment
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*attachment {
                Attachment::None => {
                    *attachment = match self.attach() {
                        Ok(attachment) => attachment,
                        Err(error) => return Poll::Ready(Err(error)),
                    };
                }
                Attachment::Reactor(registry, key) => {
                    let mut state = self.watched.lock();
                    if state.registration == Registration::None {
                        // That runtime has ended: find another.
                        drop(state);
                        *attachment = Attachment::None;
                        continue;
                    }
                    if let Some(waker) = waker.take() {
                        _displaced = state.side(direction).waiters.register(waiter, waker);
                    }
                    return match self.arm(&mut state, registry, *key, direction) {
                        Ok(()) => Poll::Pending,
                        Err(error) => Poll::Ready(Err(error)),
                    };
                }
                Attachment::Foreign(foreign) => {
                    // First the waker, then the question: an event in between is not lost.
                    if let Some(waker) = waker.take() {
                        let mut state = self.watched.lock();
                        _displaced = state.side(direction).waiters.register(waiter, waker);
                    }
                    let poll = foreign.poll_ready(direction);
                    if let Poll::Ready(Ok(())) = poll {
                        self.watched.set_ready(bit(direction));
                    }
                    return poll;
                }
            }
        }
    }

    fn attach(&self) -> io::Result<Attachment> {
        if let Some(registry) = Registry::current() {
            if let Some(key) = registry.insert(&self.watched) {
                self.watched.lock().registration = Registration::Idle;
                return Ok(Attachment::Reactor(registry, key));
            }
        }
        let foreign = Foreign::new(&self.watched)?;
        Ok(Attachment::Foreign(Box::new(foreign)))
    }

    /// Has the reactor watch a direction.
    fn arm(
        &self,
        state: &mut State,
        registry: &Registry,
        key: usize,
        direction: Direction,
    ) -> io::Result<()> {
        let side = state.side(direction);
        if side.armed {
            return Ok(());
        }
        side.armed = true;
        let event = state.event(key);
        let result = match state.registration {
            Registration::Watched => {
                let poller = registry.poller();
                poller.modify_with_mode(self.io(), event, PollMode::Level)
            }
            _ => registry.add(self.io(), event),
        };
        if result.is_err() {
            state.side(direction).armed = false;
            return result;
        }
        state.registration = Registration::Watched;
        Ok(())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.detach();
    }
}

/// What every socket with a field `source` offers to the user's own operations, after each of
/// which it may have a method called.
macro_rules! source_methods {
    ($($touched:ident)?) => {
        /// The user's own operation, which is `tried` before anything is waited for.
        pub(crate) fn poll_with<T>(
            &self,
            direction: Direction,
            tried: &mut bool,
            waiter: &mut $crate::wake::Waiter<'_>,
            operation: &mut dyn FnMut(socket2::SockRef<'_>) -> io::Result<T>,
        ) -> std::task::Poll<io::Result<T>> {
            if !*tried {
                if crate::budget::spend() {
                    waiter.waker().wake_by_ref();
                    return std::task::Poll::Pending;
                }
                *tried = true;
                let result = operation(self.as_socket2());
                $(self.$touched();)?
                match result {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.source.clear_ready(direction);
                    }
                    result => return std::task::Poll::Ready(result),
                }
            }
            self.source.poll_io(direction, waiter, || {
                let result = operation(self.as_socket2());
                $(self.$touched();)?
                result
            })
        }

        /// The same without waiting.
        pub(crate) fn try_with<T>(
            &self,
            operation: impl FnOnce(socket2::SockRef<'_>) -> io::Result<T>,
        ) -> io::Result<T> {
            // Which direction it is about is not known.
            self.source.try_io(Direction::Read, || {
                self.source.try_io(Direction::Write, || {
                    let result = operation(self.as_socket2());
                    $(self.$touched();)?
                    result
                })
            })
        }

        fn as_socket2(&self) -> socket2::SockRef<'_> {
            socket2::SockRef::from(self.source.io())
        }

        fn io(&self) -> &socket2::Socket {
            self.source.io()
        }
    };
}

/// [`Waitable`](crate::wake::Waitable) of a socket with a field `source`.
macro_rules! waitable {
    ($type:ident) => {
        impl $crate::wake::Waitable for $type {
            type Event = Direction;

            fn forget(&self, direction: Direction, ticket: std::pin::Pin<&$crate::wake::Ticket>) {
                self.source.forget(direction, ticket);
            }
        }
    };
}

pub(super) use {source_methods, waitable};
