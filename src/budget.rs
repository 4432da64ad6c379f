//! Fairness: how much may be done before somebody else has a turn.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

/// Operations that succeed at once before the task that does them has to yield: a socket
/// that always has data must not keep its thread for itself.
const OPERATIONS: u32 = 128;

thread_local! {
    static SPENT: Cell<u32> = const { Cell::new(0) };
    static LOOK: Cell<Look> = const { Cell::new(Look::Later) };
}

/// When the sockets are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// When as many tasks as usual have run.
    Later,
    /// When the tasks have run that are in front of the one that has just yielded.
    AfterOthers,
    /// Before another task runs.
    Now,
}

/// Counts an operation that is about to succeed at once, or yields before it.
pub(crate) async fn turn() {
    poll_fn(|cx| {
        if spend() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

/// Counts an operation; true if the task should yield instead. Operations are counted by thread,
/// so that it works on any executor: what is due is paid by whoever comes last.
pub(crate) fn spend() -> bool {
    // A thread that is ending may have none, and little to do.
    let is_over = SPENT.try_with(|spent| {
        let is_over = spent.get() >= OPERATIONS;
        spent.set(if is_over { 0 } else { spent.get() + 1 });
        is_over
    });
    let is_over = is_over.unwrap_or(false);
    if is_over {
        request_look();
    }
    is_over
}

/// A task yields after it has done much: the sockets are to be looked at before other tasks run.
pub(crate) fn request_look() {
    let _ = LOOK.try_with(|look| look.set(Look::Now));
}

/// A task lets the others and the sockets have a turn.
pub(crate) fn request_turn() {
    let _ = LOOK.try_with(|look| {
        if look.get() == Look::Later {
            look.set(Look::AfterOthers);
        }
    });
}

/// What was requested since the last call.
pub(crate) fn take_look() -> Look {
    LOOK.try_with(|look| look.replace(Look::Later))
        .unwrap_or(Look::Now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_so_many_operations_one_has_to_wait() {
        take_look();
        let waits = (0..3 * (OPERATIONS + 1)).filter(|_| spend()).count();
        assert_eq!(waits, 3);
        request_turn();
        assert_eq!(take_look(), Look::Now);
        assert_eq!(take_look(), Look::Later);
        request_turn();
        assert_eq!(take_look(), Look::AfterOthers);
    }
}
