//! From `connection_made` to `connection_lost`: what endpoints of every kind have.

use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use crate::budget;
use crate::error::copy;
use crate::runtime::context;
use crate::runtime::queue::Local;
use crate::wake::{Waiter, Waiters};

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// `close`: what is queued is still sent.
    Closing,
    /// `abort`: what is queued is dropped.
    Aborted,
    Lost,
}

/// The part of an endpoint's state, which is under its lock, that says how far it is.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) phase: Phase,
    /// `connection_made` has been called.
    made: bool,
    /// Wakes the driver.
    pub(super) driver: Option<Waker>,
    /// Those who wait for the start, the end, or room in the queue.
    pub(super) waiters: Waiters,
    outcome: io::Result<()>,
}

impl Life {
    pub(super) fn new() -> Life {
        Life {
            phase: Phase::Open,
            made: false,
            driver: None,
            waiters: Waiters::new(),
            outcome: Ok(()),
        }
    }

    pub(super) fn set_made(&mut self) {
        self.made = true;
        wake(&mut self.waiters);
    }

    /// `close` or `abort`; true if that is news.
    pub(super) fn end(&mut self, phase: Phase) -> bool {
        let goes_further = matches!(
            (self.phase, phase),
            (Phase::Open, _) | (Phase::Closing, Phase::Aborted)
        );
        if goes_further {
            self.phase = phase;
            wake(&mut self.waiters);
        }
        goes_further
    }

    /// The end; whoever waits for it is to be woken where no lock is held.
    pub(super) fn lose(&mut self, outcome: io::Result<()>) -> Waiters {
        self.phase = Phase::Lost;
        self.outcome = outcome;
        self.driver = None;
        std::mem::take(&mut self.waiters)
    }

    /// The reason once it has come to its end.
    pub(super) fn closed(&self) -> Option<io::Result<()>> {
        (self.phase == Phase::Lost).then(|| self.outcome())
    }

    /// Whether `connection_made` has been called, or why it will not be.
    pub(super) fn made(&self) -> Option<io::Result<()>> {
        match self.made {
            true => Some(Ok(())),
            false => self.outcome.is_err().then(|| self.outcome()),
        }
    }

    fn outcome(&self) -> io::Result<()> {
        self.outcome.as_ref().copied().map_err(copy)
    }

    /// Waits as long as nothing has come of it.
    pub(super) fn poll<T>(&mut self, cx: &mut Context<'_>, result: Option<T>) -> Poll<T> {
        match result {
            Some(result) => Poll::Ready(result),
            None => {
                drop(
                    self.waiters
                        .register(&mut Waiter::polled(cx), cx.waker().clone()),
                );
                Poll::Pending
            }
        }
    }
}

pub(super) fn wake(waiters: &mut Waiters) {
    let mut wakers = Vec::new();
    waiters.take(&mut wakers);
    wakers.into_iter().for_each(Waker::wake);
}

/// What a transport and the driver tell each other without a lock.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Something in the state is for the driver to look at, between two callbacks at the latest.
    attention: AtomicBool,
    /// Callbacks are running: what they send goes out together when they are done. Cleared, and
    /// read by those who send, under the lock.
    corked: AtomicBool,
}

impl Signals {
    /// Has the driver look at the state, now or after the callback that is running.
    pub(super) fn call_driver(&self, life: &Life) {
        self.attention.store(true, Ordering::Release);
        if !self.is_corked() {
            if let Some(driver) = &life.driver {
                driver.wake_by_ref();
            }
        }
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

/// What one round of a driver has come to.
pub(super) enum Round {
    Progress,
    Waiting,
    Lost,
}

/// One poll of a driver: so many rounds at most before other tasks have their turn.
pub(super) fn rounds(
    limit: usize,
    cx: &mut Context<'_>,
    mut round: impl FnMut(&mut Context<'_>) -> Round,
) -> Poll<()> {
    for _ in 0..limit {
        match round(cx) {
            Round::Progress => {}
            Round::Waiting => return Poll::Pending,
            Round::Lost => return Poll::Ready(()),
        }
    }
    budget::request_look();
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Remembers who polls; true if that is another than before.
pub(super) fn remember(waker: &mut Option<Waker>, cx: &Context<'_>) -> bool {
    if waker
        .as_ref()
        .is_some_and(|waker| waker.will_wake(cx.waker()))
    {
        return false;
    }
    *waker = Some(cx.waker().clone());
    true
}

/// An endpoint that somebody may wait for the end of.
pub(crate) trait Ending: Send + Sync {
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Closes an endpoint if the call that makes it is given up.
pub(super) struct CloseOnDrop<T: Close>(Option<T>);

pub(super) trait Close {
    fn close(&self);
}

impl<T: Close> CloseOnDrop<T> {
    pub(super) fn new(transport: T) -> CloseOnDrop<T> {
        CloseOnDrop(Some(transport))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl<T: Close> Drop for CloseOnDrop<T> {
    fn drop(&mut self) {
        if let Some(transport) = &self.0 {
            transport.close();
        }
    }
}

/// The runtime that is to run a driver.
pub(super) fn current_runtime(call: &str) -> io::Result<Rc<Local>> {
    context::current().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "no coracle runtime is running on this thread: use coracle::block_on, or \
                 {call}_with_driver with another executor"
            ),
        )
    })
}
