//! Operations under way at the host. They belong to a socket, never to the future that polls.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use super::host::ring_any;
use super::reactor::{is_running, may_look};
use super::task;
use crate::sys::wasi::NO_RUNTIME;
use crate::wake::WakerSlots;

type Operation<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A place for one operation, and who waits for it to end.
pub(super) struct InFlight<T: Send + 'static>(Arc<Slot<T>>);

struct Slot<T> {
    state: Mutex<State<T>>,
    wakers: Mutex<WakerSlots>,
    /// The host has told something of the operation since it was polled last.
    told: AtomicBool,
    /// The task that the operation is registered with.
    at: AtomicUsize,
    /// It has several steps, and takes the next one though nobody waits for it.
    driven: bool,
}

enum State<T> {
    Idle,
    UnderWay(Operation<T>),
    Done(T),
}

thread_local! {
    /// Operations that have to take their next step.
    static DRIVEN: RefCell<Vec<Arc<dyn Drive>>> = const { RefCell::new(Vec::new()) };
    /// Operations that may be registered with a task that is not ours.
    static ABROAD: RefCell<Vec<Weak<dyn Drive>>> = const { RefCell::new(Vec::new()) };
}

trait Drive: Send + Sync {
    fn drive(self: Arc<Self>);
    /// False if it is home now.
    fn come_home(self: Arc<Self>, from: usize) -> bool;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static> Slot<T> {
    /// Polls the operation if there is something to be seen; true if it is done.
    fn advance(self: &Arc<Self>, state: &mut State<T>, is_new: bool) -> bool {
        let operation = match state {
            State::Idle => return false,
            State::Done(_) => return true,
            State::UnderWay(operation) => operation,
        };
        // Whoever asks has it come to the task that he runs in, where he waits.
        let here = task::number();
        let is_here = self.at.load(Ordering::Relaxed) == here;
        if !is_new && is_here && !self.told.load(Ordering::Relaxed) {
            return false;
        }
        self.told.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        match task::with(|| operation.as_mut().poll(&mut cx)) {
            Poll::Ready(value) => {
                *state = State::Done(value);
                true
            }
            Poll::Pending => {
                if !is_here {
                    self.at.store(here, Ordering::Relaxed);
                    if here != task::ours() {
                        go_abroad(self);
                    }
                }
                false
            }
        }
    }

    fn wake_all(&self) {
        let mut wakers = lock(&self.wakers);
        if !wakers.is_empty() {
            // A waker may own a socket, even this one: not under the lock.
            let mut taken = std::mem::take(&mut *wakers);
            drop(wakers);
            taken.wake();
        }
    }
}

impl<T: Send + 'static> Wake for Slot<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.told.store(true, Ordering::Relaxed);
        if self.driven {
            let slot: Arc<dyn Drive> = self.clone();
            DRIVEN.with_borrow_mut(|driven| driven.push(slot));
            ring_any();
        } else {
            self.wake_all();
        }
    }
}

impl<T: Send + 'static> Drive for Slot<T> {
    fn drive(self: Arc<Self>) {
        if self.advance(&mut lock(&self.state), false) {
            self.wake_all();
        }
    }

    fn come_home(self: Arc<Self>, from: usize) -> bool {
        if self.at.load(Ordering::Relaxed) == from {
            let _home = task::at_home();
            self.advance(&mut lock(&self.state), false);
            self.at.store(task::ours(), Ordering::Relaxed);
            // Whoever waits elsewhere fetches it.
            self.wake_all();
        }
        self.at.load(Ordering::Relaxed) != task::ours()
    }
}

fn go_abroad<T: Send + 'static>(slot: &Arc<Slot<T>>) {
    ABROAD.with_borrow_mut(|abroad| {
        // Those that are gone are struck off whenever there is no room left.
        if abroad.len() == abroad.capacity() {
            abroad.retain(|slot| slot.strong_count() > 0);
        }
        let slot: Weak<dyn Drive> = Arc::downgrade(&(slot.clone() as Arc<dyn Drive>));
        abroad.push(slot);
    });
}

/// Has the operations of a task that ends registered with ours: it cannot end before.
pub(super) fn all_come_home(from: usize) {
    let mut abroad = ABROAD.take();
    abroad.retain(|slot| match slot.upgrade() {
        Some(slot) => slot.come_home(from),
        None => false,
    });
    ABROAD.with_borrow_mut(|others| others.append(&mut abroad));
}

/// Has every operation that the host has told something of take its next step, if it takes those
/// by itself.
pub(super) fn drive_all() {
    loop {
        let driven = DRIVEN.take();
        if driven.is_empty() {
            return;
        }
        driven.into_iter().for_each(Drive::drive);
    }
}

impl<T: Send + 'static> InFlight<T> {
    pub(super) fn new() -> InFlight<T> {
        InFlight::with(false)
    }

    /// For operations of several steps.
    pub(super) fn driven() -> InFlight<T> {
        InFlight::with(true)
    }

    fn with(driven: bool) -> InFlight<T> {
        InFlight(Arc::new(Slot {
            state: Mutex::new(State::Idle),
            wakers: Mutex::default(),
            told: AtomicBool::new(false),
            at: AtomicUsize::new(task::ours()),
            driven,
        }))
    }

    pub(super) fn is_under_way(&self) -> bool {
        matches!(*lock(&self.0.state), State::UnderWay(_))
    }

    /// Whether it has ended, for one that nobody waits for and whose value is of no use.
    pub(super) fn is_over(&self) -> bool {
        if self.0.told.load(Ordering::Relaxed) {
            drop(self.take());
        }
        !self.is_under_way()
    }

    /// The task that it was registered with last.
    pub(super) fn task(&self) -> usize {
        self.0.at.load(Ordering::Relaxed)
    }

    /// Starts an operation, where none is under way, and gives its value if it is done at once.
    pub(super) fn start(&self, operation: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut state = lock(&self.0.state);
        debug_assert!(matches!(*state, State::Idle));
        *state = State::UnderWay(Box::pin(operation));
        self.0.advance(&mut state, true);
        take_done(&mut state)
    }

    /// The value of an operation that is done.
    pub(super) fn take(&self) -> Option<T> {
        let mut state = lock(&self.0.state);
        self.0.advance(&mut state, false);
        take_done(&mut state)
    }

    /// For those who try and do not wait: what the host has done meanwhile is told only when it is
    /// asked. A runtime in another task has no way to ask.
    pub(super) fn look(&self) {
        if self.is_under_way() && !self.0.told.load(Ordering::Relaxed) && may_look() {
            task::yield_now();
            while task::turn(false) {}
            drive_all();
        }
    }

    /// Has the task woken when the operation ends.
    pub(super) fn wait(&self, cx: &Context<'_>) -> io::Result<()> {
        if !is_running() {
            return Err(no_runtime());
        }
        lock(&self.0.wakers).register(cx.waker());
        Ok(())
    }

    /// Wakes all who wait: something else has changed.
    pub(super) fn wake(&self) {
        self.0.wake_all();
    }

    /// Cancels what is under way.
    pub(super) fn clear(&self) {
        let before = std::mem::replace(&mut *lock(&self.0.state), State::Idle);
        drop(before);
        self.0.wake_all();
    }
}

fn take_done<T>(state: &mut State<T>) -> Option<T> {
    match std::mem::replace(state, State::Idle) {
        State::Done(value) => Some(value),
        before => {
            *state = before;
            None
        }
    }
}

pub(super) fn no_runtime() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, NO_RUNTIME)
}

impl<T: Send + 'static> Default for InFlight<T> {
    fn default() -> InFlight<T> {
        InFlight::new()
    }
}

impl<T: Send + 'static> Drop for InFlight<T> {
    fn drop(&mut self) {
        // The operation holds the slot by its waker.
        self.clear();
    }
}

/// Awaits an operation in the user's own future, where it may be cancelled without loss.
pub(super) async fn here<T>(operation: impl Future<Output = T>) -> io::Result<T> {
    let mut operation = std::pin::pin!(operation);
    std::future::poll_fn(|cx| {
        if !is_running() {
            return Poll::Ready(Err(no_runtime()));
        }
        operation.as_mut().poll(cx).map(Ok)
    })
    .await
}
