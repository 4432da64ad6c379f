//! Connections that were dropped while the host was still sending what it took from them: dropped
//! for the host too, it would stop the whole program until all is sent, so they are when it is.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::io::poll::{poll, Pollable};

use super::stream::Handles;
use crate::sys::wasi::nanoseconds;

/// How long the end of a runtime waits for them: without that, a program that ends takes what is
/// not sent yet with it.
const PATIENCE: Duration = Duration::from_secs(2);

thread_local! {
    // Never dropped by the end of the program, which would wait for ever if the peer does not read.
    static LEAVING: RefCell<Vec<ManuallyDrop<Leaving>>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Leaving {
    // In this order: the host wants the pollable gone before the stream.
    pollable: Pollable,
    handles: Arc<Handles>,
}

impl Leaving {
    pub(super) fn pollable(&self) -> &Pollable {
        &self.pollable
    }
}

/// Keeps a connection, whose direction to the peer was shut down, until all is sent.
pub(super) fn leave(handles: Arc<Handles>) {
    let pollable = handles.output.subscribe();
    let leaving = ManuallyDrop::new(Leaving { pollable, handles });
    LEAVING.with_borrow_mut(|all| all.push(leaving));
}

pub(super) fn is_nobody_leaving() -> bool {
    LEAVING.with_borrow(Vec::is_empty)
}

/// All of them, to be polled and given back.
pub(super) fn take_leaving() -> Vec<ManuallyDrop<Leaving>> {
    LEAVING.take()
}

/// After a poll: drops those of which all is sent.
pub(super) fn put_back(leaving: Vec<ManuallyDrop<Leaving>>) {
    for leaving in leaving {
        if leaving.handles.is_sending() {
            LEAVING.with_borrow_mut(|all| all.push(leaving));
        } else {
            drop(ManuallyDrop::into_inner(leaving));
        }
    }
}

/// Waits for all of them, but not for ever.
pub(super) fn wait_for_all() {
    let mut limit = None;
    loop {
        let leaving = take_leaving();
        if leaving.is_empty() {
            return;
        }
        let limit = limit.get_or_insert_with(|| subscribe_duration(nanoseconds(PATIENCE)));
        let mut list: Vec<&Pollable> = vec![limit];
        list.extend(leaving.iter().map(|leaving| leaving.pollable()));
        let is_over = poll(&list).contains(&0);
        put_back(leaving);
        if is_over {
            return;
        }
    }
}
