//! One socket with its readiness and whoever waits for it, on coracle's reactor or async-io's.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{ready, Poll, Waker};

use super::foreign::Foreign;
use super::reactor::Registry;
pub(super) use super::watched::Direction;
use super::watched::{Exchange, Want, Watched};
use crate::budget;
use crate::wake::{Ticket, Waiter};

/// A socket and who watches it for us.
pub(super) struct Source {
    attachment: Mutex<Attachment>,
    watched: Arc<Watched>,
}

/// Decided when somebody first waits.
enum Attachment {
    None,
    Reactor(Arc<Registry>, usize),
    Foreign(Arc<Foreign>),
}

impl Source {
    /// Takes a socket that is non-blocking already.
    pub(super) fn new(io: socket2::Socket) -> Source {
        Source::of(Watched::new(io, false))
    }

    /// As `new`, where the system may report that a send is possible when it is not.
    pub(super) fn with_guessed_writable(io: socket2::Socket) -> Source {
        Source::of(Watched::new(io, true))
    }

    fn of(watched: Watched) -> Source {
        Source {
            attachment: Mutex::new(Attachment::None),
            watched: Arc::new(watched),
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
            Ok(watched) => Ok(watched.into_io()),
            Err(shared) => shared.io().try_clone(),
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
        let poll = self.poll_tried(direction, waiter, || self.try_io(direction, &mut operation));
        if poll.is_ready() {
            self.pass_on(direction);
        }
        poll
    }

    /// After an operation that has found something: if all whom the report of it has woken have, so
    /// may others. Not under a lock.
    pub(super) fn pass_on(&self, direction: Direction) {
        if self.watched.readiness(direction).has_more() {
            self.watched.found(direction);
        }
    }

    /// As `poll_io`, of what ends in `try_io`, and passes on, by itself.
    pub(super) fn poll_tried<T>(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_turn(direction, waiter))?;
            match operation() {
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
        let readiness = self.watched.readiness(direction);
        let seen = readiness.seen();
        let result = operation();
        match &result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                readiness.found_nothing(seen);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => readiness.succeeded(),
        }
        result
    }

    /// As `poll_io`, of an operation of the user's own: whether it is over for that tells nothing
    /// about the others, and the other way round. It is tried before anything is waited for.
    pub(super) fn poll_users<T>(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let readiness = self.watched.readiness(direction);
        loop {
            ready!(poll_budget(waiter));
            let seen = readiness.seen();
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    readiness.missed_by_user(seen);
                    ready!(self.poll_wait(direction, Want::Since(seen), waiter))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    readiness.used();
                    self.pass_on(direction);
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Does an operation of the user's own now, whichever direction it is about.
    pub(super) fn try_users<T>(&self, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let both = [Direction::Read, Direction::Write].map(|one| self.watched.readiness(one));
        let seen = both.map(|readiness| readiness.seen());
        let result = operation();
        for (readiness, seen) in both.into_iter().zip(seen) {
            match &result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    readiness.missed_by_user(seen);
                }
                _ => readiness.used(),
            }
        }
        result
    }

    /// Ready if it is worth to try, for those who do what follows by themselves, which counts.
    pub(super) fn poll_turn(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_wait(direction, Want::Try, waiter))?;
        poll_budget(waiter).map(Ok)
    }

    /// As `poll_turn`, but only what is known counts, not that nobody has tried.
    pub(super) fn poll_reported(
        &self,
        direction: Direction,
        waiter: &mut Waiter<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_wait(direction, Want::Report, waiter))?;
        poll_budget(waiter).map(Ok)
    }

    /// Ready if there is what is wanted; waits for it otherwise.
    fn poll_wait(
        &self,
        direction: Direction,
        want: Want,
        waiter: &mut Waiter<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watched.has(direction, want) {
            return Poll::Ready(Ok(()));
        }
        let waker = waiter.waker().clone();
        match self.watched.wait_armed(direction, want, waiter, waker) {
            None => Poll::Ready(Ok(())),
            // What it displaced is dropped where no lock is held.
            Some(Ok(_displaced)) => Poll::Pending,
            Some(Err(waker)) => self.poll_armed(direction, want, waiter, waker),
        }
    }

    /// Somebody gives up.
    pub(super) fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        self.watched.forget(direction, ticket);
    }

    /// After an operation that has probably taken all: the next who wants more waits.
    pub(super) fn settle(&self, direction: Direction) {
        self.watched.readiness(direction).settle();
    }

    /// There is something that the system will not report: it is kept here.
    pub(super) fn set_ready(&self, direction: Direction) {
        self.watched.readiness(direction).report();
        self.watched.wake(direction);
    }

    /// Attaches to a reactor if need be, and has it watch this direction. The waker is a clone of
    /// the waiter's.
    fn poll_armed(
        &self,
        direction: Direction,
        want: Want,
        waiter: &mut Waiter<'_>,
        waker: Waker,
    ) -> Poll<io::Result<()>> {
        // Dropped after the lock.
        let mut wakers = Exchange::new(waker);
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
                    let reactor = (registry, *key);
                    match self
                        .watched
                        .wait_on(reactor, direction, want, waiter, &mut wakers)
                    {
                        Some(poll) => return poll,
                        // That runtime has ended: find another.
                        None => *attachment = Attachment::None,
                    }
                }
                Attachment::Foreign(foreign) => {
                    // First the waker, then the question: an event in between is not lost.
                    let rest = self.watched.wait_elsewhere(direction, waiter, &mut wakers);
                    if let Some(rest) = rest {
                        foreign.rest(direction, rest);
                    }
                    let poll = foreign.poll_ready(direction);
                    if let Poll::Ready(Ok(())) = poll {
                        self.watched.readiness(direction).report();
                    }
                    return poll;
                }
            }
        }
    }

    fn attach(&self) -> io::Result<Attachment> {
        if let Some(registry) = Registry::current() {
            if let Some(key) = registry.insert(&self.watched) {
                self.watched.register();
                return Ok(Attachment::Reactor(registry, key));
            }
        }
        Foreign::new(&self.watched).map(Attachment::Foreign)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.detach();
    }
}

/// So much may be done at once, and then somebody else has a turn.
fn poll_budget(waiter: &Waiter<'_>) -> Poll<()> {
    if budget::spend() {
        waiter.waker().wake_by_ref();
        return Poll::Pending;
    }
    Poll::Ready(())
}

/// What every socket with a field `source` offers to the user's own operations, after each of
/// which it may have a method called.
macro_rules! source_methods {
    ($($touched:ident)?) => {
        /// The user's own operation, which is tried before anything is waited for.
        pub(crate) fn poll_with<T>(
            &self,
            direction: Direction,
            waiter: &mut $crate::wake::Waiter<'_>,
            operation: &mut dyn FnMut(socket2::SockRef<'_>) -> io::Result<T>,
        ) -> std::task::Poll<io::Result<T>> {
            self.source.poll_users(direction, waiter, || {
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
            self.source.try_users(|| {
                let result = operation(self.as_socket2());
                $(self.$touched();)?
                result
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
