//! Waiting on polling's epoll descriptor itself.
//!
//! `Poller::wait` arms a timer descriptor and its notifier on every call. Waiting on the
//! descriptor that the `Poller` exposes takes one system call, with the timeout in its argument
//! and a wake descriptor that is registered once and never read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use polling::{Event, PollMode, Poller};
use rustix::buffer::spare_capacity;
use rustix::event::{epoll, eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::sys::polling::reactor::Registry;
use crate::sys::polling::watched::Ready;
use crate::sys::NotifierOps;

/// Events taken by one wait.
const EVENTS: usize = 256;

/// The wake descriptor's key; `usize::MAX` is polling's own.
const WAKE_KEY: usize = usize::MAX - 1;

const MILLISECOND: Duration = Duration::from_millis(1);

/// The descriptor that ends a wait.
pub(in crate::sys::polling) struct Wake {
    fd: Arc<OwnedFd>,
}

impl Wake {
    #[allow(unsafe_code)]
    pub(in crate::sys::polling) fn new(poller: &Poller) -> io::Result<Wake> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // SAFETY: the descriptor must not be closed while the poller knows it. `Registry` holds
        // both, in fields that are dropped in this order: the poller, then what is made here.
        unsafe { poller.add_with_mode(&fd, Event::readable(WAKE_KEY), PollMode::Edge)? };
        Ok(Wake { fd: Arc::new(fd) })
    }

    pub(in crate::sys::polling) fn notifier(&self, _registry: &Arc<Registry>) -> Notifier {
        Notifier(self.fd.clone())
    }
}

/// Ends the reactor's wait.
#[derive(Clone)]
pub(crate) struct Notifier(Arc<OwnedFd>);

impl NotifierOps for Notifier {
    fn notify(&self) {
        // In edge mode every write is an event, whether or not earlier ones were read. It fails
        // only when the counter is full (2^64 - 2 writes): then it is made empty and written.
        if let Err(Errno::AGAIN) = rustix::io::write(&*self.0, &1_u64.to_ne_bytes()) {
            let _ = rustix::io::read(&*self.0, &mut [0; 8]);
            let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
        }
    }
}

/// The wait and what came of it.
pub(in crate::sys::polling) struct Wait {
    events: Vec<epoll::Event>,
}

impl Wait {
    pub(in crate::sys::polling) fn new() -> Wait {
        Wait {
            events: Vec::with_capacity(EVENTS),
        }
    }

    /// Waits for an event, a notification, or the time to pass. A signal ends it early.
    pub(in crate::sys::polling) fn wait(
        &mut self,
        poller: &Poller,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let epoll = poller.as_fd();
        let mut timeout = timeout;
        if let Some(short) = timeout.filter(|time| !time.is_zero() && *time < MILLISECOND) {
            // epoll counts in milliseconds: the last one is waited for with poll(2).
            match poll(
                &mut [PollFd::new(&epoll, PollFlags::IN)],
                Some(&timespec(short)),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            timeout = Some(Duration::ZERO);
        }
        let timeout = timeout.map(timespec);
        self.events.clear();
        match epoll::wait(epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(in crate::sys::polling) fn events(&self) -> impl Iterator<Item = Ready> + '_ {
        use epoll::EventFlags as Flags;
        self.events
            .iter()
            .map(|event| (event.flags, event.data.u64() as usize))
            .filter(|(_, key)| *key < WAKE_KEY)
            .map(|(flags, key)| Ready {
                key,
                readable: flags.intersects(Flags::IN | Flags::PRI | Flags::ERR | Flags::HUP),
                writable: flags.intersects(Flags::OUT | Flags::ERR | Flags::HUP),
            })
    }
}

/// Rounded up by the call where it must be; kept within what it takes (24 days, then again).
fn timespec(time: Duration) -> Timespec {
    let time = time.min(Duration::from_millis(i32::MAX as u64));
    Timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos() as _,
    }
}
