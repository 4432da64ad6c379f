//! Connections that were dropped while something was still being written: it is written to its end,
//! and then the connection is let go.

use std::cell::RefCell;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::task::{Context, Waker};
use std::time::Duration;

use wasip3::clocks::monotonic_clock::wait_for;

use super::inflight::{drive_all, InFlight};
use super::task;
use crate::sys::wasi::nanoseconds;

/// How long the end of a runtime waits for them: without that, a program that ends takes what is
/// not written yet with it.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

thread_local! {
    // Never dropped by the end of the program.
    static LEAVING: RefCell<Vec<ManuallyDrop<Box<dyn Leaving>>>> = const { RefCell::new(Vec::new()) };
}

pub(super) trait Leaving {
    fn is_over(&self) -> bool;
    fn task(&self) -> usize;
}

impl<A: 'static, T: Send + 'static> Leaving for InFlight<A, T> {
    fn is_over(&self) -> bool {
        InFlight::is_over(self)
    }

    fn task(&self) -> usize {
        InFlight::task(self)
    }
}

/// Keeps an operation until it ends.
pub(super) fn leave(operation: impl Leaving + 'static) {
    sweep();
    let operation: Box<dyn Leaving> = Box::new(operation);
    LEAVING.with_borrow_mut(|all| all.push(ManuallyDrop::new(operation)));
}

/// Drops those that have ended; true if there are others.
fn sweep() -> bool {
    let (over, rest): (Vec<_>, Vec<_>) = LEAVING.take().into_iter().partition(|one| one.is_over());
    LEAVING.with_borrow_mut(|all| all.extend(rest));
    over.into_iter()
        .for_each(|one| drop(ManuallyDrop::into_inner(one)));
    LEAVING.with_borrow(|all| !all.is_empty())
}

/// Whether any of them depends on a task that is about to end.
pub(super) fn depend_on(task: usize) -> bool {
    sweep() && LEAVING.with_borrow(|all| all.iter().any(|one| one.task() == task))
}

/// Waits for all of them, but not for ever.
pub(super) fn wait_for_all() {
    if !sweep() {
        return;
    }
    let _task = task::enter();
    let mut limit = std::pin::pin!(wait_for(nanoseconds(PATIENCE)));
    let mut cx = Context::from_waker(Waker::noop());
    while sweep() && limit.as_mut().poll(&mut cx).is_pending() {
        task::turn(true);
        drive_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_runtime_has_waited_for_what_was_left_under_way() {
        crate::block_on(async {
            let operation = InFlight::new(wait_for);
            assert!(operation.start(1_000_000).is_none());
            leave(operation);
        });
        assert!(!sweep(), "it has ended, and is let go");
    }
}
