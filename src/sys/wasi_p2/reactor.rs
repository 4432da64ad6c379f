//! The outer loop: steps the scheduler, then polls all that tasks wait for with one call.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::io::poll::{poll, Pollable};

use super::leaving::{self, is_nobody_leaving, put_back, take_leaving, wait_for_all};
use super::pollable::Slot;
use crate::sys::wasi::{nanoseconds, NO_RUNTIME};
use crate::sys::{clock, NotifierOps, ReactorOps, Step};

thread_local! {
    static CURRENT: RefCell<Option<Rc<Registry>>> = const { RefCell::new(None) };
}

/// The reactor of one `block_on`.
pub(crate) struct Reactor {
    registry: Rc<Registry>,
}

/// What tasks wait for.
#[derive(Default)]
pub(super) struct Registry {
    waiting: RefCell<Vec<Arc<Slot>>>,
    /// Memory for what a turn polls; empty in between.
    polled: RefCell<Vec<Arc<Pollable>>>,
    /// The pollable of the deadline that was waited for last: most turns wait for the same.
    timer: RefCell<Option<(Instant, Pollable)>>,
}

/// Nothing can wake from outside: there is one thread, and it wakes before it waits.
#[derive(Clone)]
pub(crate) struct Notifier;

impl NotifierOps for Notifier {
    fn notify(&self) {}
}

/// How long a turn may wait.
enum Patience {
    None,
    Until(Instant),
    Forever,
}

impl ReactorOps for Reactor {
    fn new() -> io::Result<Reactor> {
        Ok(Reactor {
            registry: Rc::default(),
        })
    }

    fn notifier(&self) -> Notifier {
        Notifier
    }

    fn drive(&self, step: &mut dyn FnMut() -> Step) -> io::Result<()> {
        let _current = Current::enter(&self.registry);
        let mut wakers = Vec::new();
        loop {
            let patience = match step() {
                Step::Done => return Ok(()),
                Step::Again => Patience::None,
                Step::Idle { until: Some(until) } => Patience::Until(until),
                Step::Idle { until: None } => Patience::Forever,
            };
            self.registry.turn(patience, &mut wakers)?;
            wakers.drain(..).for_each(Waker::wake);
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // Sockets may live on, and wait in another runtime.
        for slot in self.registry.waiting.take() {
            slot.unlist();
        }
        wait_for_all();
    }
}

impl Registry {
    /// Has the running runtime poll what a task waits for.
    pub(super) fn list(slot: &Arc<Slot>) -> io::Result<()> {
        CURRENT.with_borrow(|current| match current {
            Some(registry) => {
                registry.waiting.borrow_mut().push(slot.clone());
                Ok(())
            }
            None => Err(io::Error::new(io::ErrorKind::Unsupported, NO_RUNTIME)),
        })
    }

    /// How many pollables a turn has to poll: each has its price.
    pub(super) fn listed() -> usize {
        CURRENT.with_borrow(|current| match current {
            Some(registry) => registry.waiting.borrow().len(),
            None => 0,
        })
    }

    /// Polls everything once, and wakes whom it concerns.
    fn turn(&self, patience: Patience, wakers: &mut Vec<Waker>) -> io::Result<()> {
        if let (Patience::Forever, [only]) = (&patience, &self.waiting.borrow()[..]) {
            // The host has less to do for one, and so have we.
            if is_nobody_leaving() && only.block() {
                only.fire(wakers);
                return Ok(());
            }
        }
        let mut pollables = self.polled.take();
        self.waiting.borrow_mut().retain(|slot| {
            let pollable = slot.pollable();
            let is_waited_for = pollable.is_some();
            pollables.extend(pollable);
            is_waited_for
        });
        let first_to_go = leaving::deadline();
        let leaving = take_leaving();
        let yielding;
        let mut timer = self.timer.borrow_mut();
        let timer: Option<&Pollable> = match patience {
            Patience::None if pollables.is_empty() && leaving.is_empty() => return Ok(()),
            // The host runs what it has to, and says what is ready now.
            Patience::None => {
                yielding = subscribe_duration(0);
                Some(&yielding)
            }
            Patience::Forever if pollables.is_empty() => {
                put_back(leaving, &[]);
                return Err(io::Error::other(
                    "every task waits for another: nothing can ever wake one, since there is no \
                     socket, timer or pollable that any of them waits for",
                ));
            }
            Patience::Until(until) => Some(at(&mut timer, until.min(first_to_go.unwrap_or(until)))),
            Patience::Forever => first_to_go.map(|until| at(&mut timer, until)),
        };
        let mut list = Vec::with_capacity(pollables.len() + 1 + leaving.len());
        list.extend(pollables.iter().map(|pollable| &**pollable));
        list.extend(timer);
        let first_leaving = list.len();
        list.extend(leaving.iter().map(|leaving| leaving.pollable()));
        let ready = poll(&list);
        // Before tasks run, which may drop their streams.
        pollables.clear();
        self.polled.replace(pollables);
        let waiting = self.waiting.borrow();
        let mut gone = Vec::new();
        for index in ready {
            let index = index as usize;
            match waiting.get(index) {
                Some(slot) => slot.fire(wakers),
                None => gone.extend(index.checked_sub(first_leaving)),
            }
        }
        put_back(leaving, &gone);
        Ok(())
    }
}

/// The pollable of a deadline.
fn at(timer: &mut Option<(Instant, Pollable)>, until: Instant) -> &Pollable {
    if timer.as_ref().is_some_and(|(before, _)| *before != until) {
        *timer = None;
    }
    let (_, pollable) = timer.get_or_insert_with(|| {
        let left = until.saturating_duration_since(clock::now());
        (until, subscribe_duration(nanoseconds(left)))
    });
    pollable
}

/// Makes a registry the one that sockets polled now belong to.
struct Current(Option<Rc<Registry>>);

impl Current {
    fn enter(registry: &Rc<Registry>) -> Current {
        Current(CURRENT.replace(Some(registry.clone())))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
