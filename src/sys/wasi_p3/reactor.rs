//! The outer loop: steps the scheduler, then takes an event from the host.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use wasip3::clocks::monotonic_clock::wait_for;

use super::host::Bell;
use super::inflight::{all_go_back, drive_all, InFlight};
use super::leaving;
use super::task;
use crate::sys::wasi::nanoseconds;
use crate::sys::{clock, NotifierOps, ReactorOps, Step};
use crate::wake::Waiter;

/// Steps with more to do after which the host has its turn: that costs as much as to receive and
/// send a datagram, and what a step receives has mostly come to an end before.
pub(super) const LOOKS: u32 = 16;

thread_local! {
    /// Runtimes that are running.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// Whether somebody takes the host's events.
pub(super) fn is_running() -> bool {
    RUNNING.get() > 0
}

/// Whether the host may be asked here for events of our task.
pub(super) fn may_look() -> bool {
    is_running() && task::current() == task::ours()
}

/// Counts as a runtime that is running until it is dropped.
pub(super) struct Running;

impl Running {
    pub(super) fn new() -> Running {
        RUNNING.set(RUNNING.get() + 1);
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(RUNNING.get() - 1);
    }
}

/// The reactor of one `block_on`.
pub(crate) struct Reactor {
    timer: RefCell<Timer>,
}

/// Ends a wait: only one that another task of the component's can end, since there is one thread.
#[derive(Clone)]
pub(crate) struct Notifier(pub(super) Option<Arc<Bell>>);

impl NotifierOps for Notifier {
    fn notify(&self) {
        if let Some(bell) = &self.0 {
            bell.ring();
        }
    }
}

impl ReactorOps for Reactor {
    fn new() -> io::Result<Reactor> {
        Ok(Reactor {
            timer: RefCell::default(),
        })
    }

    fn notifier(&self) -> Notifier {
        Notifier(None)
    }

    fn drive(&self, step: &mut dyn FnMut() -> Step) -> io::Result<()> {
        let _task = task::enter();
        let _running = Running::new();
        let mut looks = 0_u32;
        loop {
            match step() {
                Step::Done => return Ok(()),
                Step::Again => {
                    looks += 1;
                    if looks % LOOKS == 0 {
                        // Nothing happens at the host before it has its turn.
                        task::yield_now();
                        task::turn_all();
                    }
                }
                Step::Idle { until } => {
                    let until = leaving::deadline().into_iter().chain(until).min();
                    if until.is_some_and(|until| !self.timer.borrow_mut().set(until)) {
                        continue;
                    }
                    if task::is_idle() {
                        return Err(io::Error::other(
                            "every task waits for another: nothing can ever wake one, since \
                             there is no socket, timer or other operation of the host's that any \
                             of them waits for",
                        ));
                    }
                    task::turn(true);
                }
            }
            drive_all();
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        leaving::wait_for_all();
        all_go_back();
    }
}

/// The host's wait for the nearest deadline.
pub(super) struct Timer {
    wait: InFlight<u64, ()>,
    until: Option<Instant>,
}

impl Default for Timer {
    fn default() -> Timer {
        Timer {
            wait: InFlight::new(wait_for),
            until: None,
        }
    }
}

impl Timer {
    /// Has the host tell when `until` has come, or before; false if it has. Most deadlines are
    /// later than one that was set before, and never come: the end of that sets the next.
    pub(super) fn set(&mut self, until: Instant) -> bool {
        if self.wait.take().is_some() {
            self.until = None;
        }
        if self.until.is_some_and(|before| before <= until) {
            return true;
        }
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return false;
        }
        self.wait.clear();
        let is_set = self.wait.start(nanoseconds(left)).is_none();
        self.until = is_set.then_some(until);
        is_set
    }

    /// Has a task woken when the host has told.
    pub(super) fn wake_at_end(&self, cx: &Context<'_>) {
        if self.until.is_some() {
            let _ = self.wait.wait(&mut Waiter::polled(cx));
        }
    }
}
