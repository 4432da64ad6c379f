//! Operations under way at the host. They belong to a socket, never to the future that polls.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use super::host::{at_work, ring_any};
use super::reactor::{is_running, may_look};
use super::task;
use crate::sys::wasi::NO_RUNTIME;
use crate::wake::{Ticket, Waiter, Waiters};

/// A place for one operation of a kind, and who waits for it to end. `A` is what it is started
/// with, `T` its value.
pub(super) struct InFlight<A: 'static, T: Send + 'static>(Arc<Slot<A, T>>);

struct Slot<A, T> {
    state: Mutex<State<A, T>>,
    waiters: Mutex<Waiters>,
    /// The host has told something of the operation since it was polled last.
    told: AtomicBool,
    /// The task that the operation is registered with.
    at: AtomicUsize,
    /// It takes its next step, and comes to its end, though nobody waits for it.
    driven: AtomicBool,
    /// It has come to its end by itself, and has failed: for others than who waits for it.
    failed: AtomicBool,
    others: Option<Arc<dyn Waited>>,
}

/// Where somebody waits.
trait Waited: Send + Sync {
    fn wake_all(&self);
}

struct State<A, T> {
    operation: Box<dyn Operation<A, T>>,
    /// The slot's own, which holds it: gone when the operation's owner is.
    waker: Option<Waker>,
    is_under_way: bool,
    /// The value, if it was not fetched by whoever waits.
    done: Option<T>,
}

/// An operation that is started again and again.
pub(super) trait Operation<A, T>: Send {
    /// Starts it and polls it once.
    fn start(&mut self, arguments: A, cx: &mut Context<'_>) -> Poll<T>;
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T>;
    /// Cancels it.
    fn stop(&mut self);
    /// Whether its last value says that something has failed, which may concern others than who
    /// has started it.
    fn has_failed(&self) -> bool {
        false
    }
}

/// Each time it is in the memory of the time before: there is an operation for each datagram.
struct Again<F, O> {
    start: F,
    current: Option<Pin<Box<O>>>,
}

impl<A, F, O> Operation<A, O::Output> for Again<F, O>
where
    F: FnMut(A) -> O + Send,
    O: Future + Send,
{
    fn start(&mut self, arguments: A, cx: &mut Context<'_>) -> Poll<O::Output> {
        let operation = (self.start)(arguments);
        match &mut self.current {
            Some(current) => current.set(operation),
            None => self.current = Some(Box::pin(operation)),
        }
        self.poll(cx)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<O::Output> {
        match &mut self.current {
            Some(current) => current.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn stop(&mut self) {
        self.current = None;
    }
}

thread_local! {
    /// Memory for those that are being woken; empty in between.
    static WAKERS: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
    /// Operations that have to take their next step.
    static DRIVEN: RefCell<Vec<Arc<dyn Drive>>> = const { RefCell::new(Vec::new()) };
    /// Operations that may be registered with a task that is not ours.
    static ABROAD: RefCell<Vec<Weak<dyn Drive>>> = const { RefCell::new(Vec::new()) };
}

trait Drive: Send + Sync {
    fn drive(self: Arc<Self>);
    /// False if it is home now.
    fn come_home(self: Arc<Self>, from: usize) -> bool;
    /// Whoever waits elsewhere takes it from ours.
    fn go_back(self: Arc<Self>);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<A: 'static, T: Send + 'static> Slot<A, T> {
    /// Starts an operation, and gives its value if it is done at once.
    fn start(self: &Arc<Self>, state: &mut State<A, T>, arguments: A) -> Option<T> {
        debug_assert!(!state.is_under_way && state.done.is_none());
        state.is_under_way = true;
        self.poll(state, task::number(), |operation, cx| {
            operation.start(arguments, cx)
        })
    }

    /// Polls the operation if there is something to be seen, and gives its value if it is done.
    fn advance(self: &Arc<Self>, state: &mut State<A, T>) -> Option<T> {
        if !state.is_under_way {
            return None;
        }
        // Whoever asks has it come to the task that he runs in, where he waits.
        let here = task::number();
        if self.at.load(Ordering::Relaxed) == here && !self.told.load(Ordering::Relaxed) {
            return None;
        }
        self.poll(state, here, |operation, cx| operation.poll(cx))
    }

    #[inline]
    fn poll(
        self: &Arc<Self>,
        state: &mut State<A, T>,
        here: usize,
        poll: impl FnOnce(&mut dyn Operation<A, T>, &mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        self.told.store(false, Ordering::Relaxed);
        let waker = state.waker.get_or_insert_with(|| self.clone().into());
        let mut cx = Context::from_waker(waker);
        let operation = &mut *state.operation;
        if let Poll::Ready(value) = task::with(|| poll(operation, &mut cx)) {
            state.is_under_way = false;
            return Some(value);
        }
        if self.at.swap(here, Ordering::Relaxed) != here && here != task::ours() {
            go_abroad(self);
        }
        None
    }

    /// The same for others than those who wait for the value: true if it is done.
    fn advance_for_others(self: &Arc<Self>) -> bool {
        let mut state = lock(&self.state);
        let value = self.advance(&mut state);
        if value.is_some() {
            state.done = value;
            let failed = state.operation.has_failed();
            self.failed.store(failed, Ordering::Relaxed);
        }
        state.done.is_some()
    }
}

impl<A: 'static, T: Send + 'static> Waited for Slot<A, T> {
    fn wake_all(&self) {
        let mut wakers = WAKERS.take();
        // A waker may own a socket, even this one: not under the lock.
        lock(&self.waiters).take(&mut wakers);
        wakers.drain(..).for_each(Waker::wake);
        WAKERS.set(wakers);
    }
}

impl<A: 'static, T: Send + 'static> Wake for Slot<A, T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// The task that the operation is registered with tells it of an event.
    fn wake_by_ref(self: &Arc<Self>) {
        let _at_work = at_work();
        self.told.store(true, Ordering::Relaxed);
        if self.driven.load(Ordering::Relaxed) {
            let slot: Arc<dyn Drive> = self.clone();
            DRIVEN.with_borrow_mut(|driven| driven.push(slot));
            ring_any();
        } else {
            self.wake_all();
        }
    }
}

impl<A: 'static, T: Send + 'static> Drive for Slot<A, T> {
    fn drive(self: Arc<Self>) {
        if self.advance_for_others() {
            self.wake_all();
            if let (true, Some(others)) = (self.failed.load(Ordering::Relaxed), &self.others) {
                others.wake_all();
            }
        }
    }

    fn come_home(self: Arc<Self>, from: usize) -> bool {
        if self.at.load(Ordering::Relaxed) == from {
            let _home = task::at_home();
            self.advance_for_others();
            self.at.store(task::ours(), Ordering::Relaxed);
            // Whoever waits elsewhere fetches it.
            self.wake_all();
        }
        self.at.load(Ordering::Relaxed) != task::ours()
    }

    fn go_back(self: Arc<Self>) {
        if self.at.load(Ordering::Relaxed) == task::ours() {
            self.wake_all();
        }
    }
}

fn go_abroad<A: 'static, T: Send + 'static>(slot: &Arc<Slot<A, T>>) {
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

/// Wakes all who wait for operations that our task has taken over from others: nobody asks the host
/// for its events any longer.
pub(super) fn all_go_back() {
    let abroad = ABROAD.with_borrow(|abroad| abroad.iter().filter_map(Weak::upgrade).collect());
    let abroad: Vec<Arc<dyn Drive>> = abroad;
    abroad.into_iter().for_each(Drive::go_back);
}

/// Has every operation that the host has told something of take its next step, if it takes those
/// by itself. Only the host adds to them, so that once is enough.
pub(super) fn drive_all() {
    let mut driven = DRIVEN.take();
    if driven.is_empty() {
        return;
    }
    driven.drain(..).for_each(Drive::drive);
    DRIVEN.with_borrow_mut(|others| {
        driven.append(others);
        *others = driven;
    });
}

impl<A: 'static, T: Send + 'static> InFlight<A, T> {
    pub(super) fn new<O>(start: impl FnMut(A) -> O + Send + 'static) -> InFlight<A, T>
    where
        O: Future<Output = T> + Send + 'static,
    {
        InFlight::with(start, false)
    }

    /// For operations of several steps.
    pub(super) fn driven<O>(start: impl FnMut(A) -> O + Send + 'static) -> InFlight<A, T>
    where
        O: Future<Output = T> + Send + 'static,
    {
        InFlight::with(start, true)
    }

    fn with<O>(start: impl FnMut(A) -> O + Send + 'static, driven: bool) -> InFlight<A, T>
    where
        O: Future<Output = T> + Send + 'static,
    {
        let current = None;
        InFlight::made(Box::new(Again { start, current }), driven, None)
    }

    /// For one that is no future.
    pub(super) fn of(operation: impl Operation<A, T> + 'static) -> InFlight<A, T> {
        InFlight::made(Box::new(operation), false, None)
    }

    /// For one that is no future, and comes to its end by itself. If it has failed then, it is those
    /// who wait for the other that are told.
    pub(super) fn telling<B, U: Send>(
        other: &InFlight<B, U>,
        operation: impl Operation<A, T> + 'static,
    ) -> InFlight<A, T> {
        InFlight::made(Box::new(operation), true, Some(other.0.clone()))
    }

    fn made(
        operation: Box<dyn Operation<A, T>>,
        driven: bool,
        others: Option<Arc<dyn Waited>>,
    ) -> InFlight<A, T> {
        InFlight(Arc::new(Slot {
            state: Mutex::new(State {
                operation,
                waker: None,
                is_under_way: false,
                done: None,
            }),
            waiters: Mutex::default(),
            told: AtomicBool::new(false),
            at: AtomicUsize::new(task::ours()),
            driven: AtomicBool::new(driven),
            failed: AtomicBool::new(false),
            others,
        }))
    }

    pub(super) fn is_under_way(&self) -> bool {
        lock(&self.0.state).is_under_way
    }

    /// Whether it goes on, after a look at what the host has told of it.
    pub(super) fn goes_on(&self) -> bool {
        self.0.advance_for_others();
        self.is_under_way()
    }

    /// Whether it has ended, for one that nobody waits for and whose value is of no use. It goes on
    /// in the task of now if it was at home, where nobody may ask for the host's events.
    pub(super) fn is_over(&self) -> bool {
        let is_at_home = self.task() == task::ours() && task::number() != task::ours();
        if is_at_home || self.0.told.load(Ordering::Relaxed) {
            drop(self.take());
        }
        !self.is_under_way()
    }

    /// Has it come to its end though nobody waits for it.
    pub(super) fn drive_itself(&self) {
        self.0.driven.store(true, Ordering::Relaxed);
    }

    /// The task that it was registered with last.
    pub(super) fn task(&self) -> usize {
        self.0.at.load(Ordering::Relaxed)
    }

    /// Starts an operation, where none is under way, and gives its value if it is done at once.
    pub(super) fn start(&self, arguments: A) -> Option<T> {
        self.0.start(&mut lock(&self.0.state), arguments)
    }

    /// Whether there is the value of one that has come to its end by itself, and has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// The value of an operation that is done.
    pub(super) fn take(&self) -> Option<T> {
        let mut state = lock(&self.0.state);
        self.0.failed.store(false, Ordering::Relaxed);
        match state.done.take() {
            None => self.0.advance(&mut state),
            done => done,
        }
    }

    /// The value of an operation that is done; otherwise sees to it that one is under way.
    pub(super) fn take_or_start(&self, arguments: A) -> Option<T> {
        let mut state = lock(&self.0.state);
        match state.done.take() {
            None if state.is_under_way => self.0.advance(&mut state),
            None => self.0.start(&mut state, arguments),
            done => done,
        }
    }

    /// Starts the next operation, with what `arguments` makes of the value of the one before, and
    /// gives its value if it is done at once. `WouldBlock` while one is under way.
    pub(super) fn start_next(
        &self,
        arguments: impl FnOnce(Option<T>) -> A,
    ) -> io::Result<Option<T>> {
        let mut state = lock(&self.0.state);
        self.0.failed.store(false, Ordering::Relaxed);
        let mut before = state.done.take();
        if state.is_under_way {
            before = self.0.advance(&mut state);
            if before.is_none() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(self.0.start(&mut state, arguments(before)))
    }

    /// For those who try and do not wait: what the host has done meanwhile is told only when it is
    /// asked. A runtime in another task has no way to ask.
    pub(super) fn look(&self) {
        if self.is_under_way() && !self.0.told.load(Ordering::Relaxed) && may_look() {
            task::yield_now();
            task::turn_all();
            drive_all();
        }
    }

    /// Has the task woken when the operation ends.
    pub(super) fn wait(&self, waiter: &mut Waiter<'_>) -> io::Result<()> {
        if !is_running() {
            return Err(no_runtime());
        }
        let waker = waiter.waker().clone();
        let displaced = lock(&self.0.waiters).register(waiter, waker);
        drop(displaced);
        Ok(())
    }

    /// Somebody gives up.
    pub(super) fn forget(&self, ticket: Pin<&Ticket>) {
        let waker = lock(&self.0.waiters).remove(ticket);
        drop(waker);
    }

    /// Wakes all who wait: something else has changed.
    pub(super) fn wake(&self) {
        self.0.wake_all();
    }

    /// Cancels what is under way.
    pub(super) fn clear(&self) {
        let mut state = lock(&self.0.state);
        state.operation.stop();
        state.is_under_way = false;
        let done = state.done.take();
        drop(state);
        drop(done);
        self.0.wake_all();
    }
}

pub(super) fn no_runtime() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, NO_RUNTIME)
}

impl<A: 'static, T: Send + 'static> Drop for InFlight<A, T> {
    fn drop(&mut self) {
        self.clear();
        let waker = lock(&self.0.state).waker.take();
        drop(waker);
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
