//! An endpoint's state under its lock, and what waits until the lock has been released.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use crate::panics::drop_contained;
use crate::wake::{wake_all, Waiters};

/// What a transport and the driver tell each other without the endpoint's lock.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Something in the state is for the driver to look at, between two callbacks at the latest.
    attention: AtomicBool,
    /// Callbacks are running: what they send goes out together when they are done. Cleared, and
    /// read by those who send, under the lock.
    corked: AtomicBool,
    /// `driver` holds a waker.
    waiting: AtomicBool,
    driver: Mutex<Option<Waker>>,
}

impl Signals {
    fn driver(&self) -> MutexGuard<'_, Option<Waker>> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the driver, which is polled; `mine` is its own copy of the waker.
    pub(super) fn remember(&self, mine: &mut Option<Waker>, cx: &Context<'_>) {
        let is_same = mine
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_same && self.waiting.load(Ordering::Acquire) {
            return;
        }
        let waker = cx.waker().clone();
        let before = {
            let mut driver = self.driver();
            self.waiting.store(true, Ordering::Release);
            driver.replace(waker)
        };
        drop(before);
        if !is_same {
            *mine = Some(cx.waker().clone());
        }
    }

    /// Wakes the driver, once: it comes back to be remembered.
    pub(super) fn wake_driver(&self) {
        let waker = {
            let mut driver = self.driver();
            self.waiting.store(false, Ordering::Release);
            driver.take()
        };
        wake_all(waker);
    }

    /// The driver has ended.
    pub(super) fn forget_driver(&self) {
        let waker = self.driver().take();
        drop(waker);
    }

    /// There is something for the driver to look at.
    pub(super) fn call_attention(&self) {
        self.attention.store(true, Ordering::Release);
    }

    pub(super) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Before the look at the state: what changes behind it calls again.
    pub(super) fn take_attention(&self) {
        self.attention.swap(false, Ordering::AcqRel);
    }

    pub(super) fn set_corked(&self, corked: bool) {
        self.corked.store(corked, Ordering::Release);
    }

    pub(super) fn is_corked(&self) -> bool {
        self.corked.load(Ordering::Acquire)
    }
}

/// An endpoint's state under its lock. Wakers, and what else may run code of the user's, are put
/// into `later` meanwhile.
pub(super) struct Locked<'a, S> {
    // In this order: the lock is released first.
    state: MutexGuard<'a, S>,
    later: Later<'a>,
}

/// What is done when the lock has been released: it is dropped then.
pub(super) struct Later<'a> {
    signals: &'a Signals,
    wakes_driver: bool,
    /// Hardly ever anything.
    more: Option<Box<More>>,
}

#[derive(Default)]
struct More {
    wakers: Vec<Waker>,
    dropped: Vec<Box<dyn Any + Send>>,
}

impl<'a, S> Locked<'a, S> {
    pub(super) fn new(state: &'a Mutex<S>, signals: &'a Signals) -> Locked<'a, S> {
        Locked {
            state: state.lock().unwrap_or_else(PoisonError::into_inner),
            later: Later {
                signals,
                wakes_driver: false,
                more: None,
            },
        }
    }

    /// The state, and what is done later.
    pub(super) fn parts(&mut self) -> (&mut S, &mut Later<'a>) {
        (&mut self.state, &mut self.later)
    }

    /// Has the driver look at the state, now or after the callback that is running.
    pub(super) fn call_driver(&mut self) {
        self.later.call_driver();
    }

    /// Drops what may be the user's.
    pub(super) fn discard<T: Send + 'static>(&mut self, what: T) {
        let more = self.later.more.get_or_insert_default();
        more.dropped.push(Box::new(what));
    }
}

impl Later<'_> {
    /// Has the driver look at the state, now or after the callback that is running.
    pub(super) fn call_driver(&mut self) {
        self.signals.call_attention();
        self.wakes_driver |= !self.signals.is_corked();
    }

    /// Wakes all who wait.
    pub(super) fn wake(&mut self, waiters: &mut Waiters) {
        if !waiters.is_empty() {
            waiters.take(&mut self.more.get_or_insert_default().wakers);
        }
    }
}

impl Drop for Later<'_> {
    fn drop(&mut self) {
        if self.wakes_driver {
            self.signals.wake_driver();
        }
        if let Some(more) = self.more.take() {
            wake_all(more.wakers);
            more.dropped.into_iter().for_each(drop_contained);
        }
    }
}

impl<S> Deref for Locked<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

impl<S> DerefMut for Locked<'_, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}
