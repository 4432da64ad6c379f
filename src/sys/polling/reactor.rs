//! The outer loop, and the sources it waits for.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use polling::{Event, PollMode, Poller};
use slab::Slab;

use super::kernel::wait::{Notifier, Wait, Wake};
use super::watched::Watched;
use crate::sys::{clock, NotifierOps, ReactorOps, Step};
use crate::wake::wake_all;

/// Events in a row after which the poller could not be told what is wanted, until the loop slows
/// down, and how much.
const FAILURES: usize = 16;
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    // Without a destructor, so that it is there for those of other thread-locals. Leaving empties
    // it.
    static CURRENT: ManuallyDrop<RefCell<Option<Arc<Registry>>>> =
        const { ManuallyDrop::new(RefCell::new(None)) };
}

/// The reactor of one `block_on`.
pub(crate) struct Reactor {
    registry: Arc<Registry>,
}

/// What sources hold of a reactor, also from other threads and beyond its end.
pub(super) struct Registry {
    // Before `wake`, whose descriptor is registered with it.
    poller: Poller,
    wake: Wake,
    sources: Mutex<Sources>,
    /// When which sources are to be looked at again; locked last.
    looks: Mutex<BinaryHeap<Reverse<(Instant, usize)>>>,
    has_looks: AtomicBool,
}

#[derive(Default)]
struct Sources {
    /// Holding them keeps the descriptors open while they are registered.
    slab: Slab<Arc<Watched>>,
    /// The loop has ended: nothing registered here would ever be woken.
    ended: bool,
}

impl ReactorOps for Reactor {
    fn new() -> io::Result<Reactor> {
        let poller = Poller::new()?;
        let wake = Wake::new(&poller)?;
        Ok(Reactor {
            registry: Arc::new(Registry {
                poller,
                wake,
                sources: Mutex::default(),
                looks: Mutex::default(),
                has_looks: AtomicBool::new(false),
            }),
        })
    }

    fn notifier(&self) -> Notifier {
        self.registry.wake.notifier(&self.registry)
    }

    fn drive(&self, step: &mut dyn FnMut() -> Step) -> io::Result<()> {
        let _current = Current::enter(&self.registry)?;
        let mut wait = Wait::new();
        let mut wakers = Vec::new();
        let mut failures = 0;
        loop {
            let timeout = match step() {
                Step::Done => return Ok(()),
                Step::Again => Some(Duration::ZERO),
                Step::Idle { until } => {
                    until.map(|until| until.saturating_duration_since(clock::now()))
                }
            };
            let timeout = self.registry.until_look(timeout);
            wait.wait(&self.registry.poller, timeout)?;
            let result = self.registry.dispatch(&wait, &mut wakers);
            self.registry.look_again(&mut wakers);
            wake_all(wakers.drain(..));
            failures = match result {
                Ok(()) => 0,
                Err(_) => failures + 1,
            };
            // The poller cannot be told to leave something alone, which it may report for ever.
            if failures > FAILURES {
                thread::sleep(FAILURE_PAUSE);
            }
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.registry.end();
    }
}

impl Registry {
    /// The registry of the runtime running on this thread.
    pub(super) fn current() -> Option<Arc<Registry>> {
        CURRENT
            .try_with(|current| current.borrow().clone())
            .unwrap_or_default()
    }

    pub(super) fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Whether the poller can tell of changes only.
    pub(super) fn has_edges(&self) -> bool {
        self.poller.supports_edge()
    }

    /// Has a source looked at again after a while.
    pub(super) fn look_later(self: &Arc<Self>, key: usize, after: Duration) {
        let at = clock::now() + after;
        let is_first = {
            let mut looks = self.looks();
            looks.push(Reverse((at, key)));
            self.has_looks.store(true, Ordering::SeqCst);
            looks.peek() == Some(&Reverse((at, key)))
        };
        // On its own thread it is not waiting.
        let is_own = Registry::current().is_some_and(|current| Arc::ptr_eq(&current, self));
        if is_first && !is_own {
            self.wake.notifier(self).notify();
        }
    }

    fn looks(&self) -> MutexGuard<'_, BinaryHeap<Reverse<(Instant, usize)>>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait, considering what is to be looked at again.
    fn until_look(&self, timeout: Option<Duration>) -> Option<Duration> {
        if !self.has_looks.load(Ordering::SeqCst) {
            return timeout;
        }
        let next = self.looks().peek().map(|look| look.0 .0);
        let next = next.map(|at| at.saturating_duration_since(clock::now()));
        match (timeout, next) {
            (Some(timeout), Some(next)) => Some(timeout.min(next)),
            (timeout, next) => timeout.or(next),
        }
    }

    /// Looks at those whose time has come.
    fn look_again(self: &Arc<Self>, wakers: &mut Vec<Waker>) {
        if !self.has_looks.load(Ordering::SeqCst) {
            return;
        }
        let now = clock::now();
        let due = || {
            let mut looks = self.looks();
            let is_due = looks.peek().is_some_and(|look| look.0 .0 <= now);
            let due = is_due.then(|| looks.pop()).flatten();
            self.has_looks.store(!looks.is_empty(), Ordering::SeqCst);
            due
        };
        while let Some(Reverse((_, key))) = due() {
            let source = self.sources().slab.get(key).cloned();
            match source {
                Some(source) if source.has_left() => self.remove(key),
                Some(source) => source.look_again(self, key, wakers),
                // It was removed since.
                None => {}
            }
        }
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key for a socket that will be registered under it; `None` once the loop has ended.
    pub(super) fn insert(&self, watched: &Arc<Watched>) -> Option<usize> {
        let mut sources = self.sources();
        if sources.ended {
            return None;
        }
        Some(sources.slab.insert(watched.clone()))
    }

    /// Has the poller watch a socket that it does not know.
    #[allow(unsafe_code)]
    pub(super) fn add(&self, io: &socket2::Socket, event: Event, mode: PollMode) -> io::Result<()> {
        // SAFETY: the socket must be deleted from the poller before it is closed. The entry of
        // `insert` keeps it open, and both ways to drop the entry, `remove` and `end`, delete it
        // from the poller first.
        unsafe { self.poller.add_with_mode(io, event, mode) }
    }

    /// Has the poller forget a socket, which it may have done already.
    pub(super) fn delete(&self, io: &socket2::Socket) -> io::Result<()> {
        match self.poller.delete(io) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Forgets a socket; the last step before it may be closed. One that the poller goes on watching
    /// is held, for it would be reported for ever if somebody else keeps it open, and the poller is
    /// told again.
    pub(super) fn remove(self: &Arc<Self>, key: usize) {
        let removed = {
            let mut sources = self.sources();
            let Some(source) = sources.slab.get(key) else {
                return;
            };
            let result = source.unregister(self, None);
            result.map(|()| sources.slab.remove(key))
        };
        if removed.is_err() {
            self.look_later(key, FAILURE_PAUSE);
        }
    }

    /// Tells the sources what the kernel reported. An error is one of the poller's, which goes on
    /// reporting something that nobody waits for.
    fn dispatch(&self, wait: &Wait, wakers: &mut Vec<Waker>) -> io::Result<()> {
        let mut events = wait.events().peekable();
        if events.peek().is_none() {
            return Ok(());
        }
        let sources = self.sources();
        let mut result = Ok(());
        for ready in events {
            // Missing if it was removed after the kernel reported it.
            if let Some(source) = sources.slab.get(ready.key) {
                result = source.report(self, &ready, wakers).and(result);
            }
        }
        result
    }

    /// The loop has ended: whoever waits here must wait elsewhere.
    fn end(&self) {
        let mut wakers = Vec::new();
        let ended = {
            let mut sources = self.sources();
            sources.ended = true;
            let ended = std::mem::take(&mut sources.slab);
            for (_, source) in &ended {
                // Nobody asks the poller any more.
                let _ = source.unregister(self, Some(&mut wakers));
            }
            ended
        };
        drop(ended);
        wake_all(wakers);
    }
}

/// Makes a registry the one that sockets polled on this thread belong to.
struct Current(Option<Arc<Registry>>);

impl Current {
    fn enter(registry: &Arc<Registry>) -> io::Result<Current> {
        CURRENT
            .try_with(|current| Current(current.borrow_mut().replace(registry.clone())))
            .map_err(|_| io::Error::other("the thread is ending"))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let before = self.0.take();
        let _ = CURRENT.try_with(|current| *current.borrow_mut() = before);
    }
}
