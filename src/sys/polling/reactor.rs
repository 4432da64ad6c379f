//! The outer loop, and the sources it waits for.

use std::cell::RefCell;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use polling::{Event, PollMode, Poller};
use slab::Slab;

use super::kernel::wait::{Notifier, Wait, Wake};
use super::source::{Ready, Watched};
use crate::sys::{clock, ReactorOps, Step};

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
        loop {
            let timeout = match step() {
                Step::Done => return Ok(()),
                Step::Again => Some(Duration::ZERO),
                Step::Idle { until } => {
                    until.map(|until| until.saturating_duration_since(clock::now()))
                }
            };
            wait.wait(&self.registry.poller, timeout)?;
            self.registry.dispatch(&wait, &mut wakers);
            wakers.drain(..).for_each(Waker::wake);
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
    pub(super) fn add(&self, io: &socket2::Socket, event: Event) -> io::Result<()> {
        // SAFETY: the socket must be deleted from the poller before it is closed. The entry of
        // `insert` keeps it open, and both ways to drop the entry, `remove` and `end`, delete it
        // from the poller first.
        unsafe { self.poller.add_with_mode(io, event, PollMode::Level) }
    }

    /// Forgets a socket; the last step before it may be closed.
    pub(super) fn remove(&self, key: usize) {
        let source = {
            let mut sources = self.sources();
            let source = sources.slab.try_remove(key);
            if let Some(source) = &source {
                if source.unregister(None) {
                    // Fails only if it is not there any more, which is what is wanted.
                    let _ = self.poller.delete(source.io());
                }
            }
            source
        };
        drop(source);
    }

    /// Tells the sources what the kernel reported.
    fn dispatch(&self, wait: &Wait, wakers: &mut Vec<Waker>) {
        let mut events = wait.events().peekable();
        if events.peek().is_none() {
            return;
        }
        let sources = self.sources();
        for Ready {
            key,
            readable,
            writable,
        } in events
        {
            // Missing if it was removed after the kernel reported it.
            if let Some(source) = sources.slab.get(key) {
                source.report(&self.poller, key, readable, writable, wakers);
            }
        }
    }

    /// The loop has ended: whoever waits here must wait elsewhere.
    fn end(&self) {
        let mut wakers = Vec::new();
        let ended = {
            let mut sources = self.sources();
            sources.ended = true;
            let ended = std::mem::take(&mut sources.slab);
            for (_, source) in &ended {
                if source.unregister(Some(&mut wakers)) {
                    let _ = self.poller.delete(source.io());
                }
            }
            ended
        };
        drop(ended);
        wakers.into_iter().for_each(Waker::wake);
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
