//! What a task waits for: a pollable, kept from the first wait on, and the tasks that wait.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{ready, Poll, Waker};

use wasip2::io::poll::Pollable;

use super::reactor::Registry;
use crate::budget;
use crate::wake::{wait as wait_for, Ticket, Waitable, Waiter, Waiters};

/// One event of one resource, such as that a stream has something to read.
///
/// Dropping it drops the pollable, which the host wants gone before the resource that it is of.
pub(super) struct Interest(Arc<Slot>);

/// Shared with the reactor while somebody waits.
pub(super) struct Slot {
    /// One of the three below.
    event: AtomicU8,
    state: Mutex<State>,
}

/// It is over, as a try has found: the pollable tells when it comes again.
const OVER: u8 = 0;
/// Something was done since it was there, or nothing yet: a try may succeed.
const UNCERTAIN: u8 = 1;
/// It has come, as the pollable has said, and nothing was done since.
const COME: u8 = 2;

#[derive(Default)]
struct State {
    pollable: Option<Arc<Pollable>>,
    waiters: Waiters,
    /// The reactor has it among those it polls.
    listed: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the reactor to poll; `None` if nobody waits any longer.
    pub(super) fn pollable(&self) -> Option<Arc<Pollable>> {
        let mut state = self.lock();
        match (&state.pollable, state.waiters.is_empty()) {
            (Some(pollable), false) => Some(pollable.clone()),
            _ => {
                state.listed = false;
                None
            }
        }
    }

    /// Waits for its event alone; false if nobody waits for it any longer.
    pub(super) fn block(&self) -> bool {
        let state = self.lock();
        match &state.pollable {
            Some(pollable) if !state.waiters.is_empty() => {
                pollable.block();
                true
            }
            _ => false,
        }
    }

    /// Its event has come. It stays on the reactor's list until the next turn, for whoever waits
    /// for the next one.
    pub(super) fn fire(&self, wakers: &mut Vec<Waker>) {
        self.event.store(COME, Ordering::Relaxed);
        self.lock().waiters.take(wakers);
    }

    /// Whether the event is there.
    fn ask(&self, subscribe: impl Fn() -> io::Result<Pollable>) -> io::Result<bool> {
        let mut state = self.lock();
        let pollable = match &state.pollable {
            Some(pollable) => pollable,
            None => state.pollable.insert(Arc::new(subscribe()?)),
        };
        Ok(pollable.ready())
    }

    /// The reactor has ended, and its list with it.
    pub(super) fn unlist(&self) {
        self.lock().listed = false;
    }
}

impl Interest {
    pub(super) fn new() -> Interest {
        Interest(Arc::new(Slot {
            event: AtomicU8::new(UNCERTAIN),
            state: Mutex::default(),
        }))
    }

    /// In what is not ready before its pollable says so.
    pub(super) fn of(pollable: Pollable) -> Interest {
        let interest = Interest::new();
        interest.clear();
        interest.0.lock().pollable = Some(Arc::new(pollable));
        interest
    }

    /// Does `operation` as soon as it does not say `WouldBlock`. It is not tried before the
    /// pollable was found to be ready, but for the first time.
    pub(super) fn poll_io<T>(
        &self,
        waiter: &mut Waiter<'_>,
        mut subscribe: impl FnMut() -> io::Result<Pollable>,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_ready(waiter, &mut subscribe))?;
            if budget::spend() {
                waiter.waker().wake_by_ref();
                return Poll::Pending;
            }
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.clear(),
                result => {
                    self.tried();
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// For those who do what follows by themselves, which counts. They are told for certain, for
    /// which the host may have to be asked.
    pub(super) fn poll_turn(
        &self,
        waiter: &mut Waiter<'_>,
        subscribe: impl Fn() -> io::Result<Pollable>,
    ) -> Poll<io::Result<()>> {
        if self.0.event.load(Ordering::Relaxed) == UNCERTAIN {
            let event = match self.0.ask(&subscribe)? {
                true => COME,
                false => OVER,
            };
            self.0.event.store(event, Ordering::Relaxed);
        }
        self.poll_try(waiter, subscribe)
    }

    /// The same where a try is worth it that may find nothing.
    pub(super) fn poll_try(
        &self,
        waiter: &mut Waiter<'_>,
        subscribe: impl FnOnce() -> io::Result<Pollable>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(waiter, subscribe))?;
        if budget::spend() {
            waiter.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready if it was found to be and that was not cleared since; waits for it otherwise.
    pub(super) fn poll_ready(
        &self,
        waiter: &mut Waiter<'_>,
        subscribe: impl FnOnce() -> io::Result<Pollable>,
    ) -> Poll<io::Result<()>> {
        if self.0.event.load(Ordering::Relaxed) != OVER {
            return Poll::Ready(Ok(()));
        }
        let waker = waiter.waker().clone();
        // Dropped after the lock.
        let _displaced;
        let mut state = self.0.lock();
        if state.pollable.is_none() {
            state.pollable = Some(Arc::new(subscribe()?));
        }
        _displaced = state.waiters.register(waiter, waker);
        if !state.listed {
            Registry::list(&self.0)?;
            state.listed = true;
        }
        Poll::Pending
    }

    /// It is over: the next who wants it waits.
    pub(super) fn clear(&self) {
        self.0.event.store(OVER, Ordering::Relaxed);
    }

    /// Whether it is known if it is there.
    pub(super) fn is_certain(&self) -> bool {
        self.0.event.load(Ordering::Relaxed) != UNCERTAIN
    }

    /// Something was done, and succeeded or failed: it may be over.
    pub(super) fn tried(&self) {
        if self.0.event.load(Ordering::Relaxed) == COME {
            self.0.event.store(UNCERTAIN, Ordering::Relaxed);
        }
    }

    /// Takes note of what a try came to.
    pub(super) fn note<T>(&self, result: &io::Result<T>) {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.clear(),
            _ => self.tried(),
        }
    }

    /// Wakes those who wait: there is something else for them.
    pub(super) fn wake(&self) {
        let mut wakers = Vec::new();
        self.0.lock().waiters.take(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Drops the pollable, since its stream goes; another is made when somebody waits again. Those
    /// who wait are to be woken, where no lock is held.
    #[must_use]
    pub(super) fn unsubscribe(&self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut state = self.0.lock();
        state.pollable = None;
        self.0.event.store(UNCERTAIN, Ordering::Relaxed);
        state.waiters.take(&mut wakers);
        wakers
    }

    /// Waits until it is ready, however that is found out.
    async fn ready(&self) -> io::Result<()> {
        let gone = || Err(io::ErrorKind::NotConnected.into());
        wait_for(self, (), |waiter| self.poll_ready(waiter, gone)).await
    }

    /// Somebody gives up.
    pub(super) fn forget(&self, ticket: Pin<&Ticket>) {
        let waker = self.0.lock().waiters.remove(ticket);
        drop(waker);
    }

    /// Takes the pollable back.
    fn into_pollable(self) -> Option<Pollable> {
        let pollable = self.0.lock().pollable.take();
        pollable.and_then(Arc::into_inner)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.unsubscribe().into_iter().for_each(Waker::wake);
    }
}

impl Waitable for Interest {
    type Event = ();

    fn forget(&self, _event: (), ticket: Pin<&Ticket>) {
        Interest::forget(self, ticket);
    }
}

/// Waits until a pollable is ready.
pub(super) async fn wait(pollable: Pollable) -> io::Result<()> {
    Interest::of(pollable).ready().await
}

/// A pollable of the user's own, to be awaited beside the sockets: of an HTTP body, a key-value
/// store, or whatever else the host offers.
///
/// Drop it before the resource that the pollable is of, as the host demands.
///
/// # Platforms
/// WASI 0.2.
///
/// # Examples
/// ```
/// use coracle::wasi::AsyncPollable;
///
/// coracle::block_on(async {
///     let timer = wasip2::clocks::monotonic_clock::subscribe_duration(1_000_000);
///     AsyncPollable::new(timer).ready().await
/// })
/// # .unwrap();
/// ```
pub struct AsyncPollable(Interest);

impl AsyncPollable {
    /// Takes a pollable of the crate `wasip2`.
    pub fn new(pollable: Pollable) -> AsyncPollable {
        AsyncPollable(Interest::of(pollable))
    }

    /// Waits until the pollable is ready. It may turn out that what it is of is not.
    ///
    /// # Errors
    /// - `Unsupported`: no coracle runtime is running.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ready(&self) -> io::Result<()> {
        let result = self.0.ready().await;
        self.0.clear();
        result
    }

    /// Gives the pollable back; `None` if it is being waited for elsewhere.
    pub fn into_inner(self) -> Option<Pollable> {
        self.0.into_pollable()
    }
}

impl fmt::Debug for AsyncPollable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncPollable").finish_non_exhaustive()
    }
}
