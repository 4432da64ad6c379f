//! The run queue: a local part without locks, and an inbox for wakes from other threads.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

use async_task::Runnable;
use slab::Slab;

use crate::panics::{drop_contained, Payload};
use crate::runtime::context;
use crate::sys::{self, NotifierOps};
use crate::time::queue::{TimerKey, TimerQueue};
use crate::wake::wake_all;

/// One thing to run: a task, or (`None`) the future that `block_on` was given.
pub(crate) type Entry = Option<Runnable>;

/// The part of a runtime that only its own thread touches.
pub(crate) struct Local {
    queue: RefCell<VecDeque<Entry>>,
    /// A waker of every task that has not ended, to reach them all when the runtime ends.
    pub(crate) tasks: RefCell<Slab<Waker>>,
    pub(crate) shared: Arc<Shared>,
    ids: Cell<u64>,
}

impl Local {
    pub(crate) fn new(shared: Arc<Shared>) -> Local {
        Local {
            queue: RefCell::new(VecDeque::new()),
            tasks: RefCell::new(Slab::new()),
            shared,
            ids: Cell::new(0),
        }
    }

    /// A name for a task that no other has.
    pub(crate) fn next_id(&self) -> u64 {
        let id = self.ids.get();
        self.ids.set(id + 1);
        id
    }

    pub(crate) fn push(&self, entry: Entry) {
        self.queue.borrow_mut().push_back(entry);
    }

    pub(crate) fn pop(&self) -> Option<Entry> {
        self.queue.borrow_mut().pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Takes over what other threads have woken.
    pub(crate) fn take_inbox(&self) {
        if self.shared.remote.load(Ordering::SeqCst) {
            // Cleared before the inbox is emptied: what comes in between sets it again.
            self.shared.remote.store(false, Ordering::SeqCst);
            self.queue
                .borrow_mut()
                .extend(self.shared.inbox().drain(..));
        }
    }
}

/// The part of a runtime that wakers, timers and sockets hold, on whatever thread they are.
pub(crate) struct Shared {
    inbox: Mutex<Vec<Entry>>,
    /// The inbox holds something.
    remote: AtomicBool,
    /// The runtime's thread is waiting, or about to: whoever adds something must end the wait.
    asleep: AtomicBool,
    /// The root future is in the queue.
    root_queued: AtomicBool,
    notifier: sys::Notifier,
    timers: Mutex<Timers>,
    /// There may be timers: saves the loop a look. Set with the first, cleared by the loop.
    has_timers: AtomicBool,
    /// Tasks whose end somebody waits for who has cancelled them, with what it panicked with.
    endings: Mutex<Slab<(u64, Option<Payload>)>>,
}

#[derive(Default)]
struct Timers {
    queue: TimerQueue,
    /// The runtime has ended: nobody will ever look at the queue again.
    closed: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(notifier: sys::Notifier) -> Shared {
        Shared {
            inbox: Mutex::new(Vec::new()),
            remote: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            root_queued: AtomicBool::new(false),
            notifier,
            timers: Mutex::new(Timers::default()),
            has_timers: AtomicBool::new(false),
            endings: Mutex::default(),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endings(&self) -> MutexGuard<'_, Slab<(u64, Option<Payload>)>> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits for the end of a task; gives a key for `take_ending`.
    pub(crate) fn await_ending(&self, id: u64) -> usize {
        self.endings().insert((id, None))
    }

    /// Nobody does any longer; gives what it has panicked with.
    pub(crate) fn take_ending(&self, key: usize) -> Option<Payload> {
        self.endings().try_remove(key)?.1
    }

    /// A destructor has panicked when a task was dropped: for who has cancelled it, if they wait.
    pub(crate) fn panicked_at_end(&self, id: u64, payload: Payload) {
        let mut unheard = Some(payload);
        // All are looked at, but a panic is rare.
        if let Some((_, ending)) = self.endings().iter_mut().find(|(_, of)| of.0 == id) {
            std::mem::swap(&mut ending.1, &mut unheard);
        }
        drop_contained(unheard);
    }

    fn timers(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an entry from whatever thread this is.
    pub(crate) fn schedule(self: &Arc<Self>, entry: Entry) {
        let mut entry = Some(entry);
        let local = context::if_current(self, |local| {
            if let Some(entry) = entry.take() {
                local.push(entry);
            }
        });
        if local.is_none() {
            self.inbox().extend(entry);
            self.remote.store(true, Ordering::SeqCst);
            self.notify();
        }
    }

    /// Ends the wait that the runtime's thread is in, if it is.
    fn notify(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.notifier.notify();
        }
    }

    /// Announces a wait; false if there is something to do instead.
    ///
    /// The announcement comes before the check, and another thread adds before it looks for the
    /// announcement: whichever is first, one of the two sees the other.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.remote.load(Ordering::SeqCst) {
            self.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// The wait is over. A thread that does not see it yet notifies once too often.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// The root future is about to be polled: a wake from now on queues it again.
    pub(crate) fn root_taken(&self) {
        self.root_queued.store(false, Ordering::SeqCst);
    }

    /// The nearest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if !self.has_timers.load(Ordering::SeqCst) {
            return None;
        }
        let timers = self.timers();
        let next = timers.queue.next();
        // Under the lock: whoever adds one sets it again.
        self.has_timers.store(next.is_some(), Ordering::SeqCst);
        next
    }

    /// Moves the wakers of the timers that are due to `due`.
    pub(crate) fn take_due(&self, now: Instant, due: &mut Vec<Waker>) {
        self.timers().queue.take_due(now, due);
    }

    /// Adds a timer; `None` once the runtime has ended.
    pub(crate) fn add_timer(
        self: &Arc<Self>,
        deadline: Instant,
        waker: &Waker,
    ) -> Option<TimerKey> {
        let waker = waker.clone();
        let mut timers = self.timers();
        if timers.closed {
            return None;
        }
        let nearest = timers.queue.next().is_none_or(|next| deadline < next);
        let key = timers.queue.insert(deadline, waker);
        if !self.has_timers.load(Ordering::Relaxed) {
            self.has_timers.store(true, Ordering::SeqCst);
        }
        drop(timers);
        // On its own thread the runtime is not waiting, and computes its next wait afterwards.
        if nearest {
            self.notify();
        }
        Some(key)
    }

    /// Whether the timer is still ahead; if so, `waker` is the one to be woken.
    pub(crate) fn renew_timer(&self, key: TimerKey, waker: &Waker) -> bool {
        match self.timers().queue.waker(key) {
            None => return false,
            Some(known) if known.will_wake(waker) => return true,
            Some(_) => {}
        }
        let waker = waker.clone();
        let before = match self.timers().queue.waker(key) {
            None => return false,
            Some(known) => std::mem::replace(known, waker),
        };
        drop(before);
        true
    }

    /// Moves a timer, for whoever waits for it. One that has fired has woken them already.
    pub(crate) fn reset_timer(&self, key: TimerKey, deadline: Instant) {
        let mut timers = self.timers();
        let before = timers.queue.next();
        let is_ahead = timers.queue.reset(key, deadline);
        drop(timers);
        if is_ahead && before.is_none_or(|next| deadline < next) {
            self.notify();
        }
    }

    /// Forgets a timer. The wait it may have shortened is left as it is: it wakes nobody.
    pub(crate) fn remove_timer(&self, key: TimerKey) {
        let waker = self.timers().queue.remove(key);
        // A waker may own a future whose drop comes back here: not under the lock.
        drop(waker);
    }

    /// The runtime ends: its timers wake their owners, who find another place to wait or are
    /// dropped with it.
    pub(crate) fn close_timers(&self) {
        let mut wakers = Vec::new();
        {
            let mut timers = self.timers();
            timers.closed = true;
            while let Some(next) = timers.queue.next() {
                timers.queue.take_due(next, &mut wakers);
            }
        }
        wake_all(wakers);
    }
}

/// Wakes the future that `block_on` was given.
pub(crate) struct RootWaker(pub(crate) Arc<Shared>);

impl Wake for RootWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.0.root_queued.swap(true, Ordering::SeqCst) {
            self.0.schedule(None);
        }
    }
}
