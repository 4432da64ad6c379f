//! Who waits for the stream below to take more.
//!
//! Such a stream may remember one waker a direction, the last. But two tasks send through it: the
//! one that writes, and the one that reads, which sends answers and what was kept. So while one of
//! them waits, the other gives the stream a waker that wakes both.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::wake::wake_by_ref;

/// On whose behalf something is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender {
    Reader,
    Writer,
}

#[derive(Debug, Default)]
pub(crate) struct Senders {
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The last one made of two, which are the same two most of the time.
    both: Option<Arc<Both>>,
}

#[derive(Debug)]
struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        wake_by_ref(&self.0);
        wake_by_ref(&self.1);
    }
}

impl Senders {
    /// Does something for `sender` that may have to wait until the stream takes more.
    pub(crate) fn poll<T>(
        &mut self,
        sender: Sender,
        cx: &mut Context<'_>,
        operation: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let (own, other) = match sender {
            Sender::Reader => (&mut self.reader, &self.writer),
            Sender::Writer => (&mut self.writer, &self.reader),
        };
        let poll = match other {
            Some(other) if !other.will_wake(cx.waker()) => {
                let waker = Waker::from(both(&mut self.both, cx.waker(), other));
                operation(&mut Context::from_waker(&waker))
            }
            _ => operation(cx),
        };
        match (poll.is_pending(), own) {
            (true, Some(own)) => own.clone_from(cx.waker()),
            (true, own @ None) => *own = Some(cx.waker().clone()),
            (false, own) => *own = None,
        }
        poll
    }
}

fn both(kept: &mut Option<Arc<Both>>, a: &Waker, b: &Waker) -> Arc<Both> {
    if let Some(both) = kept {
        let is_of = |a, b| both.0.will_wake(a) && both.1.will_wake(b);
        if is_of(a, b) || is_of(b, a) {
            return both.clone();
        }
    }
    let both = Arc::new(Both(a.clone(), b.clone()));
    *kept = Some(both.clone());
    both
}
