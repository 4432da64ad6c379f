//! One socket with its readiness and whoever waits for it, on coracle's reactor or async-io's.
//!
//! Level mode, read interest only. Writable is armed when a send would block, and disarmed by an
//! event that finds nobody waiting: whoever sends much waits again, which then takes no system
//! call. A readable event that finds nobody waiting, for the second time in a row since a
//! task may just be taking turns, disarms reading until somebody waits: else an unread socket
//! would spin the loop. Because the kernel repeats what is still true, a
//! readiness that is cleared at the wrong moment costs a wake-up, never a hang.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{ready, Context, Poll, Waker};

use polling::{Event, PollMode, Poller};

use super::foreign::Foreign;
use super::reactor::Registry;
use crate::budget;
use crate::wake::WakerSlots;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

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
    wakers: WakerSlots,
}

impl Watched {
    fn new(io: socket2::Socket) -> Watched {
        Watched {
            io,
            ready: AtomicU8::new(Direction::Read.bit() | Direction::Write.bit()),
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

impl Direction {
    fn bit(self) -> u8 {
        match self {
            Direction::Read => 1,
            Direction::Write => 2,
        }
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
        self.ready.load(Ordering::Acquire) & direction.bit() != 0
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
        let read = if readable { Direction::Read.bit() } else { 0 };
        let write = if writable { Direction::Write.bit() } else { 0 };
        self.set_ready(read | write);
        let mut state = self.lock();
        let before = (state.read.armed, state.write.armed);
        if readable {
            let is_unclaimed = state.read.wakers.is_empty();
            state.read.armed &= !(is_unclaimed && state.read.unclaimed);
            state.read.unclaimed = is_unclaimed;
            state.read.wakers.take(wakers);
        }
        if writable {
            state.write.armed &= !state.write.wakers.is_empty();
            state.write.wakers.take(wakers);
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

    /// Somebody else's reactor saw an event.
    #[cfg(feature = "async-io")]
    pub(super) fn wake(&self, direction: Direction) {
        let mut wakers = Vec::new();
        self.lock().side(direction).wakers.take(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// It has no reactor any longer; true if a poller still watches it. Those who wait are left to wait, or
    /// handed over to be woken.
    pub(super) fn unregister(&self, wakers: Option<&mut Vec<Waker>>) -> bool {
        let mut state = self.lock();
        state.read.armed = false;
        state.write.armed = false;
        if let Some(wakers) = wakers {
            state.read.wakers.take(wakers);
            state.write.wakers.take(wakers);
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
        cx: &mut Context<'_>,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_ready(direction, cx))?;
            if budget::spend() {
                cx.waker().wake_by_ref();
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
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(direction, cx))?;
        if budget::spend() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready if readiness was reported and not cleared since; waits for it otherwise.
    pub(super) fn poll_ready(
        &self,
        direction: Direction,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watched.is_ready(direction) {
            return Poll::Ready(Ok(()));
        }
        {
            let mut state = self.watched.lock();
            if self.watched.is_ready(direction) {
                return Poll::Ready(Ok(()));
            }
            let side = state.side(direction);
            if side.armed {
                side.wakers.register(cx.waker());
                return Poll::Pending;
            }
        }
        self.poll_armed(direction, cx)
    }

    /// Readiness is over: the next who wants it waits.
    pub(super) fn clear_ready(&self, direction: Direction) {
        self.watched
            .ready
            .fetch_and(!direction.bit(), Ordering::AcqRel);
    }

    /// Attaches to a reactor if need be, and has it watch this direction.
    fn poll_armed(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
                    match self.arm(registry, *key, direction, cx) {
                        Ok(true) => return Poll::Pending,
                        // That runtime has ended: find another.
                        Ok(false) => *attachment = Attachment::None,
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                Attachment::Foreign(foreign) => {
                    // First the waker, then the question: an event in between is not lost.
                    let mut state = self.watched.lock();
                    state.side(direction).wakers.register(cx.waker());
                    drop(state);
                    let poll = foreign.poll_ready(direction);
                    if let Poll::Ready(Ok(())) = poll {
                        self.watched.set_ready(direction.bit());
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

    /// False if the reactor no longer watches the socket.
    fn arm(
        &self,
        registry: &Registry,
        key: usize,
        direction: Direction,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        let mut state = self.watched.lock();
        if state.registration == Registration::None {
            return Ok(false);
        }
        let side = state.side(direction);
        side.wakers.register(cx.waker());
        if !side.armed {
            side.armed = true;
            let event = state.event(key);
            let result = match state.registration {
                Registration::Watched => {
                    let poller = registry.poller();
                    poller.modify_with_mode(self.io(), event, PollMode::Level)
                }
                _ => registry.add(self.io(), event),
            };
            if let Err(error) = result {
                state.side(direction).armed = false;
                return Err(error);
            }
            state.registration = Registration::Watched;
        }
        Ok(true)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.detach();
    }
}

/// What every socket with a field `source` offers to the user's own operations.
macro_rules! source_methods {
    () => {
        /// The user's own operation, which is `tried` before anything is waited for.
        pub(crate) fn poll_with<T>(
            &self,
            writing: bool,
            tried: &mut bool,
            cx: &mut std::task::Context<'_>,
            operation: &mut dyn FnMut(socket2::SockRef<'_>) -> io::Result<T>,
        ) -> std::task::Poll<io::Result<T>> {
            let direction = match writing {
                false => Direction::Read,
                true => Direction::Write,
            };
            if !*tried {
                if crate::budget::spend() {
                    cx.waker().wake_by_ref();
                    return std::task::Poll::Pending;
                }
                *tried = true;
                match operation(self.as_socket2()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.source.clear_ready(direction);
                    }
                    result => return std::task::Poll::Ready(result),
                }
            }
            self.source
                .poll_io(direction, cx, || operation(self.as_socket2()))
        }

        /// The same without waiting.
        pub(crate) fn try_with<T>(
            &self,
            operation: impl FnOnce(socket2::SockRef<'_>) -> io::Result<T>,
        ) -> io::Result<T> {
            // Which direction it is about is not known.
            self.source.try_io(Direction::Read, || {
                self.source
                    .try_io(Direction::Write, || operation(self.as_socket2()))
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

pub(super) use source_methods;
