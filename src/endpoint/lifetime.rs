//! From `connection_made` to `connection_lost`: what endpoints of every kind have.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::budget;
use crate::endpoint::locked::{Later, Locked};
use crate::error::copy;
use crate::runtime::context;
use crate::runtime::queue::Local;
use crate::wake::{Ticket, Waitable, Waiter, Waiters};

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

/// How an endpoint has ended; copied for each who asks, where no lock is held.
pub(super) type Outcome = Result<(), Arc<io::Error>>;

/// The part of an endpoint's state, which is under its lock, that says how far it is.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) phase: Phase,
    /// `connection_made` has been called.
    made: bool,
    /// Those who wait for the start, the end, or room in the queue.
    pub(super) waiters: Waiters,
    outcome: Outcome,
}

impl Life {
    pub(super) fn new() -> Life {
        Life {
            phase: Phase::Open,
            made: false,
            waiters: Waiters::new(),
            outcome: Ok(()),
        }
    }

    pub(super) fn set_made(&mut self, later: &mut Later<'_>) {
        self.made = true;
        later.wake(&mut self.waiters);
    }

    /// `close` or `abort`; true if that is news.
    pub(super) fn end(&mut self, phase: Phase, later: &mut Later<'_>) -> bool {
        let goes_further = matches!(
            (self.phase, phase),
            (Phase::Open, _) | (Phase::Closing, Phase::Aborted)
        );
        if goes_further {
            self.phase = phase;
            later.wake(&mut self.waiters);
        }
        goes_further
    }

    /// The end; whoever waits for it is to be woken where no lock is held.
    pub(super) fn lose(&mut self, outcome: Outcome) -> Vec<Waker> {
        let mut wakers = Vec::new();
        self.phase = Phase::Lost;
        self.outcome = outcome;
        self.waiters.take(&mut wakers);
        wakers
    }

    /// The reason once it has come to its end.
    pub(super) fn closed(&self) -> Option<Outcome> {
        (self.phase == Phase::Lost).then(|| self.outcome.clone())
    }

    /// Whether `connection_made` has been called, or why it will not be.
    pub(super) fn made(&self) -> Option<Outcome> {
        if self.made {
            return Some(Ok(()));
        }
        self.outcome.is_err().then(|| self.outcome.clone())
    }
}

/// An error of its own for whoever asks. It may be the user's, whose text is made here.
pub(super) fn to_io(outcome: Outcome) -> io::Result<()> {
    outcome.map_err(|error| copy(&error))
}

/// An endpoint, whose state is under a lock.
pub(super) trait Living: Send + Sync {
    type State;

    fn lock(&self) -> Locked<'_, Self::State>;
    fn life(state: &mut Self::State) -> &mut Life;

    /// Waits until `done` finds something.
    fn poll_until<T>(
        &self,
        waiter: &mut Waiter<'_>,
        mut done: impl FnMut(&mut Self::State) -> Option<T>,
    ) -> Poll<T> {
        if let Some(result) = done(&mut self.lock()) {
            return Poll::Ready(result);
        }
        let waker = waiter.waker().clone();
        // Dropped after the lock.
        let _displaced;
        let mut state = self.lock();
        if let Some(result) = done(&mut state) {
            return Poll::Ready(result);
        }
        _displaced = Self::life(&mut state).waiters.register(waiter, waker);
        Poll::Pending
    }

    fn forget_waiter(&self, ticket: Pin<&Ticket>) {
        let waker = Self::life(&mut self.lock()).waiters.remove(ticket);
        drop(waker);
    }
}

/// An endpoint that somebody may wait for the end of.
pub(crate) trait Ending: Waitable<Event = ()> + Send + Sync {
    fn poll_closed(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>>;
    /// The driver could not call the protocol, and does so now.
    fn call_driver_again(&self);
}

/// [`Ending`] and what it takes, for an endpoint.
macro_rules! ending {
    ($type:ty) => {
        impl $crate::wake::Waitable for $type {
            type Event = ();

            fn forget(&self, _event: (), ticket: std::pin::Pin<&$crate::wake::Ticket>) {
                self.forget_waiter(ticket);
            }
        }

        impl $crate::endpoint::lifetime::Ending for $type {
            fn poll_closed(
                &self,
                waiter: &mut $crate::wake::Waiter<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                self.poll_until(waiter, |state| state.life.closed())
                    .map($crate::endpoint::lifetime::to_io)
            }

            fn call_driver_again(&self) {
                if self.signals.wants_attention() {
                    self.signals.wake_driver();
                }
            }
        }
    };
}

pub(super) use ending;

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
