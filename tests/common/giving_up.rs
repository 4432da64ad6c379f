//! Futures that are given up, and what they have left open.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::fmt::Debug;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use coracle::{yield_now, ProtocolHandle, Transport};
use futures_lite::future::poll_once;

use crate::common::stream::{Event, Log, Recorder};
use crate::common::{settle, PATIENCE};

/// Polls a future so many times, with other tasks' turns in between, and drops it unless it has
/// ended.
pub(crate) async fn give_up_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Some(output) = poll_once(&mut future).await {
            return Some(output);
        }
        yield_now().await;
    }
    None
}

/// The same, but each poll is one that the future was woken for. It is dropped at once after the
/// last one or, if `late`, when what it waits for may have happened.
pub(crate) async fn give_up_when_woken<F: Future>(
    (polls, late): (usize, bool),
    future: F,
) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polled = 0;
    let output = poll_fn(|cx| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polled == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    let output = output.await;
    if output.is_none() && late {
        settle().await;
    }
    output
}

/// After how many polls to give up, and whether late.
pub(crate) fn ways_to_give_up() -> impl Iterator<Item = (usize, bool)> {
    (0..8).flat_map(|polls| [(polls, false), (polls, true)])
}

/// How many descriptors this process has open, where it is easy to tell.
pub(crate) fn descriptors() -> usize {
    match cfg!(target_os = "linux") {
        true => std::fs::read_dir("/proc/self/fd").unwrap().count(),
        false => 0,
    }
}

/// Waits until no more are open: drivers have yet to have their turn, and lookups have descriptors
/// of their own, on another thread and for a moment.
pub(crate) async fn descriptors_come_down_to(count: usize, what: impl Debug) {
    let give_up = Instant::now() + PATIENCE;
    while descriptors() > count {
        let open = descriptors();
        assert!(Instant::now() < give_up, "{what:?}: {open} are open");
        yield_now().await;
    }
}

/// Checks that nothing is left of a connection that was given up, or is given up now; tells
/// whether it was made in time.
pub(crate) async fn leaves_nothing(
    made: Option<io::Result<(Transport, ProtocolHandle<Recorder>)>>,
    log: &Log,
    open_before: usize,
) -> bool {
    let is_made = made.is_some();
    if let Some(made) = made {
        made.unwrap().0.close();
    }
    let whole = [Event::Made, Event::Lost(None)];
    log.until(|events| events.is_empty() || events == whole)
        .await;
    descriptors_come_down_to(open_before, log.events()).await;
    is_made
}
