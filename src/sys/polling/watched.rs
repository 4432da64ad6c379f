//! A socket, who waits for it, and what its poller is told about it; shared with the reactor.
//!
//! Level mode, read interest only. Writable is armed when a send would block, and disarmed by an
//! event that finds nobody waiting: whoever sends much waits again, which then takes no system
//! call. A readable event that finds nobody waiting, for the second time in a row since a
//! task may just be taking turns, disarms reading until somebody waits: else an unread socket
//! would spin the loop. Because the kernel repeats what is still true, a
//! readiness that is cleared at the wrong moment costs a wake-up, never a hang.
//!
//! Some of what is true nobody takes: messages in an error queue, which are the user's, urgent
//! data, the end of a datagram socket that was shut down. After an event that turned out to be
//! futile the socket is watched in edge mode for a while, where nothing is repeated; what is
//! cleared then must be over. Where the poller has no edge mode, or the operation waits for what
//! the system does not report, the direction rests, longer each time, before it is looked at
//! again.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use polling::{Event, PollMode};

use super::reactor::Registry;
use super::readiness::{Outcome, Readiness, Seen};
pub(super) use crate::wake::Direction;
use crate::wake::{wake_all, Displaced, Ticket, Waiter, Waiters};

/// Waits after which a socket that has had a futile event is watched as others are again.
const QUIET_WAITS: u8 = 64;

/// How long a direction rests at first; it doubles as often.
const REST: Duration = Duration::from_millis(1);
const LONGER_RESTS: u8 = 6;

/// Waiters that an event wakes. Once all of them have found something, or if they leave what it
/// reported and it is repeated, more are woken.
const WAVE: usize = 8;

/// What the kernel reported of one socket.
pub(super) struct Ready {
    pub(super) key: usize,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

/// What somebody waits for.
#[derive(Clone, Copy)]
pub(super) enum Want {
    /// That an operation is worth a try.
    Try,
    /// That the system has reported it, or it is known.
    Report,
    /// A report that was not there when an operation of the user's own was tried.
    Since(Seen),
}

/// The waker of somebody who is about to wait, and those that this sets free: dropped and woken
/// when this is, which must be where no lock is held.
pub(super) struct Exchange {
    coming: Option<Waker>,
    displaced: Displaced,
    woken: Vec<Waker>,
}

impl Exchange {
    pub(super) fn new(waker: Waker) -> Exchange {
        Exchange {
            coming: Some(waker),
            displaced: Displaced::default(),
            woken: Vec::new(),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        wake_all(self.woken.drain(..));
    }
}

/// A socket and what is known of its readiness; shared with the reactor that watches it.
pub(super) struct Watched {
    io: socket2::Socket,
    read: Readiness,
    write: Readiness,
    /// The system reports that a send is possible when it is not.
    writable_is_guessed: bool,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    read: Side,
    write: Side,
    registration: Registration,
    /// How many more waits after fruitful events until the socket is watched as others are.
    quiet: u8,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Registration {
    /// No reactor, or one that has ended.
    #[default]
    None,
    /// Its reactor's poller does not watch it: errors and hang-ups are reported in level mode even
    /// if nothing is armed, for ever.
    Idle,
    Watched(Interest),
    /// It has left its reactor, and the poller could not be told.
    Leaving,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Interest {
    read: bool,
    write: bool,
    mode: PollMode,
}

#[derive(Default)]
struct Side {
    /// The poller is to watch this direction.
    armed: bool,
    /// The last event found nobody waiting.
    unclaimed: bool,
    /// It will be looked at again in a while.
    resting: bool,
    /// How often it has rested in a row.
    rests: u8,
    /// How many were woken at last; 0 stands for the usual.
    wave: usize,
    /// How many of those have found something.
    found: usize,
    waiters: Waiters,
}

impl Interest {
    fn event(self, key: usize) -> Event {
        Event::new(key, self.read, self.write)
    }

    fn is_none(self) -> bool {
        !self.read && !self.write
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

impl Side {
    /// Those whom an event wakes.
    fn take_wave(&mut self, is_repeated: bool, wakers: &mut Vec<Waker>) {
        self.wave = if is_repeated {
            self.wave.max(WAVE).saturating_mul(2)
        } else {
            WAVE
        };
        self.found = 0;
        self.waiters.take_some(self.wave, wakers);
    }
}

impl State {
    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }

    fn sides(&mut self) -> [&mut Side; 2] {
        [&mut self.read, &mut self.write]
    }

    /// What the poller is to watch.
    fn wanted(&self, registry: &Registry) -> Interest {
        Interest {
            read: self.read.armed,
            write: self.write.armed,
            mode: if self.quiet > 0 && registry.has_edges() {
                PollMode::Edge
            } else {
                PollMode::Level
            },
        }
    }

    /// Tells the poller what is wanted, if it does not know. What fails is tried again with the
    /// next event or wait.
    #[inline]
    fn tell(&mut self, io: &socket2::Socket, registry: &Registry, key: usize) -> io::Result<()> {
        let wanted = self.wanted(registry);
        if self.registration == Registration::Watched(wanted) {
            return Ok(());
        }
        self.tell_news(io, registry, key, wanted)
    }

    #[cold]
    fn tell_news(
        &mut self,
        io: &socket2::Socket,
        registry: &Registry,
        key: usize,
        wanted: Interest,
    ) -> io::Result<()> {
        if self.registration == Registration::Leaving {
            return registry.delete(io);
        }
        if let Registration::Watched(known) = self.registration {
            // A change of the mode is not a modification on every system.
            if known.mode == wanted.mode && !wanted.is_none() {
                let poller = registry.poller();
                if poller
                    .modify_with_mode(io, wanted.event(key), wanted.mode)
                    .is_ok()
                {
                    self.registration = Registration::Watched(wanted);
                    return Ok(());
                }
            }
            registry.delete(io)?;
            self.registration = Registration::Idle;
        }
        if self.registration == Registration::Idle && !wanted.is_none() {
            registry.add(io, wanted.event(key), wanted.mode)?;
            self.registration = Registration::Watched(wanted);
        }
        Ok(())
    }

    /// After a failure: those whom no event will wake now find out for themselves.
    fn give_up(&mut self, wakers: &mut Vec<Waker>) {
        if self.registration == Registration::Idle {
            for side in self.sides() {
                side.armed = false;
                side.waiters.take(wakers);
            }
        }
    }

    /// Somebody waits, after `outcome`. Gives how long the direction is to rest, if at all.
    fn pace(&mut self, direction: Direction, outcome: Outcome, is_told: bool) -> Option<Duration> {
        match outcome {
            Outcome::Futile => self.quiet = QUIET_WAITS,
            Outcome::Fruitful => {
                self.quiet = self.quiet.saturating_sub(1);
                self.side(direction).rests = 0;
            }
            Outcome::Nothing => {}
        }
        if is_told || self.quiet == 0 {
            return None;
        }
        let side = self.side(direction);
        let rest = REST * (1 << side.rests);
        side.rests = (side.rests + 1).min(LONGER_RESTS);
        Some(rest)
    }
}

impl Watched {
    pub(super) fn new(io: socket2::Socket, writable_is_guessed: bool) -> Watched {
        Watched {
            io,
            read: Readiness::new(),
            write: Readiness::new(),
            writable_is_guessed,
            state: Mutex::default(),
        }
    }

    pub(super) fn io(&self) -> &socket2::Socket {
        &self.io
    }

    pub(super) fn into_io(self) -> socket2::Socket {
        self.io
    }

    pub(super) fn readiness(&self, direction: Direction) -> &Readiness {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is what somebody wants.
    pub(super) fn has(&self, direction: Direction, want: Want) -> bool {
        let readiness = self.readiness(direction);
        match (want, direction) {
            (Want::Try, _) => readiness.is_ready(),
            (Want::Report, Direction::Read) => readiness.is_fresh() || readiness.is_shared(),
            // Where all of it went there is likely to be room for more.
            (Want::Report, Direction::Write) => readiness.is_fresh() || readiness.is_proven(),
            (Want::Since(seen), _) => readiness.is_newer_than(seen),
        }
    }

    /// Registers a waiter where the poller watches already and nothing is out of the ordinary;
    /// the waker comes back if more is to be done. `None`: there is what it wants.
    pub(super) fn wait_armed(
        &self,
        direction: Direction,
        want: Want,
        waiter: &mut Waiter<'_>,
        waker: Waker,
    ) -> Option<Result<Displaced, Waker>> {
        let mut state = self.lock();
        if self.has(direction, want) {
            return None;
        }
        let is_ordinary = state.quiet == 0 && !self.readiness(direction).is_futile();
        let side = state.side(direction);
        Some(if is_ordinary && side.armed {
            Ok(side.waiters.register(waiter, waker))
        } else {
            Err(waker)
        })
    }

    /// Registers a waiter, and has the reactor watch this direction, or look at it later; ready if
    /// there is what it wants, or an error. `None`: the reactor has ended.
    pub(super) fn wait_on(
        &self,
        (registry, key): (&Arc<Registry>, usize),
        direction: Direction,
        want: Want,
        waiter: &mut Waiter<'_>,
        wakers: &mut Exchange,
    ) -> Option<Poll<io::Result<()>>> {
        let mut state = self.lock();
        if let Registration::None | Registration::Leaving = state.registration {
            return None;
        }
        // Reported meanwhile, which may not be repeated.
        if self.has(direction, want) {
            return Some(Poll::Ready(Ok(())));
        }
        if let Some(waker) = wakers.coming.take() {
            wakers.displaced = state.side(direction).waiters.register(waiter, waker);
        }
        let outcome = self.readiness(direction).take_outcome();
        let is_told = self.is_told(direction, want, outcome, registry.has_edges());
        if !state.side(direction).resting {
            if let Some(rest) = state.pace(direction, outcome, is_told) {
                state.side(direction).resting = true;
                registry.look_later(key, rest);
            }
        }
        let is_quiet = state.quiet > 0;
        if is_quiet {
            self.set_quiet(true);
        }
        // What has no edges is not watched while it rests, nor what each try changes.
        let is_guessed = self.is_guessed(direction);
        let side = state.side(direction);
        let before = side.armed;
        side.armed = !side.resting || registry.has_edges() && !is_guessed;
        let result = state.tell(&self.io, registry, key);
        if let Err(error) = result {
            state.side(direction).armed = before;
            state.give_up(&mut wakers.woken);
            return Some(Poll::Ready(Err(error)));
        }
        if !is_quiet {
            self.set_quiet(false);
        }
        Some(Poll::Pending)
    }

    /// As `wait_on`, where somebody else's reactor, which knows no edges, watches. Gives how long
    /// the direction is to rest before it does.
    #[cfg_attr(not(feature = "async-io"), allow(dead_code))]
    pub(super) fn wait_elsewhere(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
        wakers: &mut Exchange,
    ) -> Option<Duration> {
        let mut state = self.lock();
        if let Some(waker) = wakers.coming.take() {
            wakers.displaced = state.side(direction).waiters.register(waiter, waker);
        }
        let outcome = self.readiness(direction).take_outcome();
        // Each wait begins with a look there.
        let rest = state.pace(direction, outcome, outcome != Outcome::Futile);
        self.set_quiet(state.quiet > 0);
        rest
    }

    /// Whether whoever waits will be told by the poller: not of what it does not repeat.
    fn is_told(&self, direction: Direction, want: Want, outcome: Outcome, edges: bool) -> bool {
        let is_futile = outcome == Outcome::Futile;
        let is_guessed = self.is_guessed(direction);
        let is_known =
            !edges || !matches!(want, Want::Report) || self.readiness(direction).is_over();
        is_known && !(is_futile && (!edges || is_guessed))
    }

    fn is_guessed(&self, direction: Direction) -> bool {
        direction == Direction::Write && self.writable_is_guessed
    }

    /// Before the poller repeats nothing, and after it does again.
    fn set_quiet(&self, is_quiet: bool) {
        if self.read.is_quiet() != is_quiet {
            self.read.set_quiet(is_quiet);
            self.write.set_quiet(is_quiet);
        }
    }

    /// Takes in what the kernel reported, and disarms what nobody waits for. An error: the poller
    /// goes on watching what it should not.
    pub(super) fn report(
        &self,
        registry: &Registry,
        ready: &Ready,
        wakers: &mut Vec<Waker>,
    ) -> io::Result<()> {
        let read_again = ready.readable && self.read.report();
        let write_again = ready.writable && self.write.report();
        let mut state = self.lock();
        // Where nothing is repeated all are woken.
        let is_quiet = self.read.is_quiet();
        if ready.readable {
            let side = &mut state.read;
            let is_unclaimed = side.waiters.is_empty();
            side.armed &= !(is_unclaimed && side.unclaimed);
            side.unclaimed = is_unclaimed;
            match is_quiet {
                true => side.waiters.take(wakers),
                false => side.take_wave(read_again, wakers),
            }
            self.read.set_more(!side.waiters.is_empty());
        }
        if ready.writable {
            let side = &mut state.write;
            side.armed &= !side.waiters.is_empty();
            match is_quiet {
                true => side.waiters.take(wakers),
                false => side.take_wave(write_again, wakers),
            }
        }
        let result = state.tell(&self.io, registry, ready.key);
        if result.is_err() {
            state.give_up(wakers);
        }
        result
    }

    /// Takes in what somebody else's reactor has reported; true if more wait than it wakes.
    #[cfg(feature = "async-io")]
    pub(super) fn happened(&self, direction: Direction, wakers: &mut Vec<Waker>) -> bool {
        let readiness = self.readiness(direction);
        let is_repeated = readiness.report();
        let mut state = self.lock();
        let side = state.side(direction);
        if readiness.is_quiet() {
            side.waiters.take(wakers);
        } else {
            side.take_wave(is_repeated, wakers);
        }
        let more = !side.waiters.is_empty();
        if direction == Direction::Read {
            readiness.set_more(more);
        }
        more
    }

    /// Has it watched again after a rest; what is true is reported again.
    pub(super) fn look_again(&self, registry: &Registry, key: usize, wakers: &mut Vec<Waker>) {
        let mut state = self.lock();
        let mut is_due = false;
        for side in state.sides() {
            if std::mem::take(&mut side.resting) {
                side.armed = !side.waiters.is_empty();
                is_due |= side.armed;
            }
        }
        let mut result = state.tell(&self.io, registry, key);
        if let (true, Registration::Watched(known)) = (is_due, state.registration) {
            if known.mode == PollMode::Edge {
                let poller = registry.poller();
                result = poller.modify_with_mode(&self.io, known.event(key), known.mode);
            }
        }
        if result.is_err() {
            // They find out for themselves.
            state.read.waiters.take(wakers);
            state.write.waiters.take(wakers);
        }
    }

    /// One of those whom an event has woken has found something: if all have, there may be more.
    pub(super) fn found(&self, direction: Direction) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        let side = state.side(direction);
        side.found += 1;
        if side.found >= side.wave {
            side.take_wave(true, &mut wakers);
            self.readiness(direction).set_more(!side.waiters.is_empty());
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes all who wait for a direction.
    pub(super) fn wake(&self, direction: Direction) {
        let mut wakers = Vec::new();
        self.lock().side(direction).waiters.take(&mut wakers);
        wake_all(wakers);
    }

    /// Somebody gives up.
    pub(super) fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        let waker = self.lock().side(direction).waiters.remove(ticket);
        drop(waker);
    }

    /// It has a reactor, which does not watch it yet.
    pub(super) fn register(&self) {
        self.lock().registration = Registration::Idle;
    }

    /// It has no reactor any longer. Those who wait are left to wait, or handed over to be woken. An
    /// error: the poller goes on watching it, and is to be told again.
    pub(super) fn unregister(
        &self,
        registry: &Registry,
        wakers: Option<&mut Vec<Waker>>,
    ) -> io::Result<()> {
        let mut state = self.lock();
        for side in state.sides() {
            side.armed = false;
            side.resting = false;
        }
        if let Some(wakers) = wakers {
            state.read.waiters.take(wakers);
            state.write.waiters.take(wakers);
        }
        match state.registration {
            Registration::None | Registration::Idle => {}
            Registration::Watched(_) | Registration::Leaving => {
                state.registration = Registration::Leaving;
                registry.delete(&self.io)?;
            }
        }
        state.registration = Registration::None;
        Ok(())
    }

    /// Whether it has left its reactor, which holds it until its poller knows.
    pub(super) fn has_left(&self) -> bool {
        self.lock().registration == Registration::Leaving
    }
}
