//! Connections that were dropped while something was still being written: it is written to its end,
//! and then the connection is let go. A peer that does not read could have it take for ever, and
//! there could be any number of such peers: there are limits to both.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use wasip3::clocks::monotonic_clock::wait_for;

use super::inflight::{drive_all, InFlight};
use super::task;
use crate::sys::clock;
use crate::sys::wasi::nanoseconds;
use crate::sys::wasi::{LEAVING_AT_MOST, LEAVING_FOR};

/// How long the end of a runtime waits for them: without that, a program that ends takes what is
/// not written yet with it.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

thread_local! {
    /// The oldest first.
    static LEAVING: RefCell<VecDeque<Left>> = const { RefCell::new(VecDeque::new()) };
}

struct Left {
    // Never dropped by the end of the program.
    operation: ManuallyDrop<Box<dyn Leaving>>,
    /// The task that it was left in, while that has not ended: its end waits.
    task: usize,
    until: Instant,
}

impl Left {
    /// Lets it go: what is not written yet never will be.
    fn let_go(self) {
        drop(ManuallyDrop::into_inner(self.operation));
    }
}

pub(super) trait Leaving {
    fn is_over(&self) -> bool;
    fn task(&self) -> usize;
    /// Has it take its steps from now on without anybody who asks.
    fn drive_itself(&self);
}

impl<A: 'static, T: Send + 'static> Leaving for InFlight<A, T> {
    fn is_over(&self) -> bool {
        InFlight::is_over(self)
    }

    fn task(&self) -> usize {
        InFlight::task(self)
    }

    fn drive_itself(&self) {
        InFlight::drive_itself(self);
    }
}

/// Keeps an operation until it ends, or has taken too long, or too many others have come.
pub(super) fn leave(operation: impl Leaving + 'static) {
    operation.drive_itself();
    let now = clock::now();
    let operation: Box<dyn Leaving> = Box::new(operation);
    let left = Left {
        task: operation.task(),
        operation: ManuallyDrop::new(operation),
        until: now + LEAVING_FOR,
    };
    LEAVING.with_borrow_mut(|all| all.push_back(left));
    sweep(now);
}

/// Lets those go that have ended, or must; true if there are others.
fn sweep(now: Instant) -> bool {
    let goes = |left: &Left| left.until <= now || left.operation.is_over();
    // Mostly none has to.
    let stay = |all: &VecDeque<Left>| all.len() <= LEAVING_AT_MOST && !all.iter().any(goes);
    if LEAVING.with_borrow(stay) {
        return LEAVING.with_borrow(|all| !all.is_empty());
    }
    let all = LEAVING.take();
    let mut over = Vec::new();
    let mut rest = VecDeque::with_capacity(all.len());
    for left in all {
        match goes(&left) {
            true => over.push(left),
            false => rest.push_back(left),
        }
    }
    let too_many = rest.len().saturating_sub(LEAVING_AT_MOST);
    over.extend(rest.drain(..too_many));
    // Nothing is borrowed while they go.
    over.into_iter().for_each(Left::let_go);
    LEAVING.with_borrow_mut(|all| {
        // What has come meanwhile is younger.
        rest.append(all);
        *all = rest;
        !all.is_empty()
    })
}

/// When the first of those that do not end must go. The others are let go.
pub(super) fn deadline() -> Option<Instant> {
    if LEAVING.with_borrow(VecDeque::is_empty) {
        return None;
    }
    sweep(clock::now());
    LEAVING.with_borrow(|all| all.front().map(|left| left.until))
}

/// Whether any of them was left in a task that is about to end.
pub(super) fn were_left_in(task: usize) -> bool {
    sweep(clock::now()) && LEAVING.with_borrow(|all| all.iter().any(|left| left.task == task))
}

/// The task has ended: others see to them from now on, and do not wait.
pub(super) fn outlive(task: usize) {
    LEAVING.with_borrow_mut(|all| {
        let left = all.iter_mut().filter(|left| left.task == task);
        left.for_each(|left| left.task = 0);
    });
}

/// Waits for all of them, but not for ever.
pub(super) fn wait_for_all() {
    if !sweep(clock::now()) {
        return;
    }
    let _task = task::enter();
    let mut limit = std::pin::pin!(wait_for(nanoseconds(PATIENCE)));
    let mut cx = Context::from_waker(Waker::noop());
    while sweep(clock::now()) && limit.as_mut().poll(&mut cx).is_pending() {
        task::turn(true);
        drive_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_end_of_a_runtime_has_waited_for_what_was_left_under_way() {
        crate::block_on(async {
            let operation = InFlight::new(wait_for);
            assert!(operation.start(1_000_000).is_none());
            leave(operation);
        });
        assert!(!sweep(clock::now()), "it has ended, and is let go");
    }

    /// One that never ends.
    fn stuck() -> (InFlight<u64, ()>, Arc<()>) {
        let alive = Arc::new(());
        let held = alive.clone();
        let operation = InFlight::new(move |nanoseconds| {
            let _ = &held;
            wait_for(nanoseconds)
        });
        assert!(operation.start(u64::MAX).is_none());
        (operation, alive)
    }

    #[test]
    fn only_so_many_leave_and_the_oldest_go_first() {
        crate::block_on(async {
            let mut alive = Vec::new();
            for _ in 0..LEAVING_AT_MOST + 3 {
                let (operation, kept) = stuck();
                leave(operation);
                alive.push(kept);
            }
            let kept = |kept: &Arc<()>| Arc::strong_count(kept) == 2;
            assert!(!alive[..3].iter().any(kept));
            assert!(alive[3..].iter().all(kept));
            sweep(clock::now() + LEAVING_FOR);
            assert!(!alive.iter().any(kept), "nor does any of them for ever");
        });
    }

    #[test]
    fn a_runtime_is_woken_when_the_time_of_the_first_is_over() {
        crate::block_on(async {
            let before = clock::now();
            assert_eq!(deadline(), None);
            leave(stuck().0);
            leave(stuck().0);
            let first = deadline().unwrap();
            assert!(first >= before + LEAVING_FOR && first <= clock::now() + LEAVING_FOR);
            sweep(first);
            assert!(deadline().is_none_or(|second| second > first));
            sweep(clock::now() + LEAVING_FOR);
        });
    }
}
