//! Waiting through the `Poller`.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use polling::{Events, Poller};

use crate::sys::polling::reactor::Registry;
use crate::sys::polling::watched::Ready;
use crate::sys::NotifierOps;

/// Events taken by one wait.
const EVENTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The `Poller` brings its own.
pub(in crate::sys::polling) struct Wake;

impl Wake {
    pub(in crate::sys::polling) fn new(_poller: &Poller) -> io::Result<Wake> {
        Ok(Wake)
    }

    pub(in crate::sys::polling) fn notifier(&self, registry: &Arc<Registry>) -> Notifier {
        Notifier(Arc::downgrade(registry))
    }
}

/// Ends the reactor's wait.
#[derive(Clone)]
pub(crate) struct Notifier(Weak<Registry>);

impl NotifierOps for Notifier {
    fn notify(&self) {
        if let Some(registry) = self.0.upgrade() {
            // Fails only if the descriptor is gone, and then nobody waits on it.
            let _ = registry.poller().notify();
        }
    }
}

/// The wait and what came of it.
pub(in crate::sys::polling) struct Wait {
    events: Events,
}

impl Wait {
    pub(in crate::sys::polling) fn new() -> Wait {
        Wait {
            events: Events::with_capacity(EVENTS),
        }
    }

    /// Waits for an event, a notification, or the time to pass. A signal ends it early; so does a
    /// notification that the `Poller` has seen before it is there to be taken, which on poll(2) is
    /// `WouldBlock`.
    pub(in crate::sys::polling) fn wait(
        &mut self,
        poller: &Poller,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        use io::ErrorKind::{Interrupted, WouldBlock};

        self.events.clear();
        match poller.wait(&mut self.events, timeout) {
            Err(error) if !matches!(error.kind(), Interrupted | WouldBlock) => Err(error),
            _ => Ok(()),
        }
    }

    pub(in crate::sys::polling) fn events(&self) -> impl Iterator<Item = Ready> + '_ {
        self.events.iter().map(|event| Ready {
            key: event.key,
            readable: event.readable,
            writable: event.writable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    #[test]
    fn notifications_from_other_threads_are_no_errors() {
        let poller = Poller::new().unwrap();
        let mut wait = Wait::new();
        let enough = AtomicBool::new(false);
        let mut failed = None;
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !enough.load(Ordering::Relaxed) {
                        poller.notify().unwrap();
                    }
                });
            }
            for _ in 0..100_000 {
                failed = wait.wait(&poller, Some(Duration::ZERO)).err();
                if failed.is_some() {
                    break;
                }
            }
            enough.store(true, Ordering::Relaxed);
        });
        assert!(failed.is_none(), "{failed:?}");
    }
}
