//! How long an endpoint that is closing waits for what is still to be sent.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::time::{sleep, Sleep};

/// The longest time in which nothing has gone, and in all.
const STALL: Duration = Duration::from_secs(1);
const ALL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Linger {
    stall: Sleep,
    all: Sleep,
}

impl Linger {
    pub(super) fn new() -> Linger {
        Linger {
            stall: sleep(STALL),
            all: sleep(ALL),
        }
    }

    /// Ready when the time is over; `progress` if something has gone since the last call.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, progress: bool) -> Poll<()> {
        if progress {
            self.stall = sleep(STALL);
        }
        let is_over = Pin::new(&mut self.stall).poll(cx).is_ready();
        match is_over || Pin::new(&mut self.all).poll(cx).is_ready() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
