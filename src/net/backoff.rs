//! Waiting for room where the system cannot tell when there is some.

use std::future::Future;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use crate::time::{sleep, Sleep};

/// Waits longer each time until there may be room, where the system cannot tell.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    sleep: Option<Sleep>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_micros(250);
    const LONGEST: Duration = Duration::from_millis(16);

    pub(crate) fn new() -> Backoff {
        Backoff {
            next: Backoff::FIRST,
            sleep: None,
        }
    }

    /// Waits its time once; the next time will be longer.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let time = self.next;
        let sleep = self.sleep.get_or_insert_with(|| sleep(time));
        ready!(Pin::new(sleep).poll(cx));
        self.sleep = None;
        self.next = (time * 2).min(Backoff::LONGEST);
        Poll::Ready(())
    }

    /// There was room.
    pub(crate) fn reset(&mut self) {
        *self = Backoff::new();
    }
}
