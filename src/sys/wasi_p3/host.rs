//! The loop inside an asynchronous export, which somebody else's executor polls.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::wit_bindgen::{StreamReader, StreamWriter};
use wasip3::wit_stream;

use super::inflight::{all_come_home, drive_all, InFlight};
use super::leaving::{self, PATIENCE};
use super::reactor::{Notifier, Running, Timer, LOOKS};
use super::task;
use crate::sys::wasi::nanoseconds;
use crate::sys::Step;
use crate::wake::Waiter;

/// The counterpart of the reactor: it is polled where that blocks.
pub(crate) struct Host {
    timer: Timer,
    bell: Arc<Bell>,
    /// The bell's.
    waker: Waker,
    /// The read that the bell ends; there is always one while the runtime waits.
    hearing: InFlight<StreamReader<u8>, StreamReader<u8>>,
    reader: Option<StreamReader<u8>>,
    /// How long the end waits for what is still being written.
    limit: Option<InFlight<u64, ()>>,
}

/// How a runtime's wait is ended by whoever wakes one of its tasks. All that wakes the executor
/// goes through here: that of the bindings panics if it is woken at the wrong time.
pub(super) struct Bell {
    /// Of the last poll.
    task: AtomicUsize,
    /// The executor's, from the first poll on; `None` once nobody polls any more. Shared, since it
    /// may be anybody's, whose code must not run under the lock, such as that which clones it.
    waker: Mutex<Option<Arc<Waker>>>,
    /// For another task of the component's: the host knows no other way for one to wake another
    /// than something that the other has under way.
    writer: Mutex<StreamWriter<u8>>,
}

thread_local! {
    static BELLS: RefCell<Vec<Weak<Bell>>> = const { RefCell::new(Vec::new()) };
    /// The executor of the task of now is at work: it polls a runtime, or hears of an event.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// The executor of the task of now is at work until this is dropped.
pub(super) struct AtWork(bool);

pub(super) fn at_work() -> AtWork {
    AtWork(AT_WORK.replace(true))
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.set(self.0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bell {
    fn is_here(&self) -> bool {
        self.task.load(Ordering::Relaxed) == task::current()
    }

    pub(super) fn ring(&self) {
        let Some(waker) = lock(&self.waker).clone() else {
            return;
        };
        // Not while a call that waits is cancelled, which drops everything in its task.
        if AT_WORK.get() && self.is_here() {
            waker.wake_by_ref();
            return;
        }
        drop(waker);
        let mut writer = lock(&self.writer);
        let write = std::pin::pin!(writer.write(vec![0]));
        // The reader waits: it is done at once. Otherwise it is awake.
        let _ = task::with(|| write.poll(&mut Context::from_waker(Waker::noop())));
    }

    /// Somebody polls.
    fn is_heard(&self) -> bool {
        lock(&self.waker).is_some()
    }

    /// Nobody polls any more.
    fn silence(&self) {
        let waker = lock(&self.waker).take();
        drop(waker);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Has a runtime look after what it has to do by itself: preferably one that this task polls.
pub(super) fn ring_any() {
    let mut bells: Vec<_> =
        BELLS.with_borrow(|bells| bells.iter().filter_map(Weak::upgrade).collect());
    bells.retain(|bell| bell.is_heard());
    let here = bells.iter().find(|bell| bell.is_here());
    if let Some(bell) = here.or(bells.first()) {
        bell.ring();
    }
}

/// Waits for the bell.
async fn hear(mut reader: StreamReader<u8>) -> StreamReader<u8> {
    reader.read(Vec::with_capacity(1)).await;
    reader
}

impl Host {
    pub(crate) fn new() -> Host {
        let (writer, reader) = wit_stream::new();
        let bell = Arc::new(Bell {
            task: AtomicUsize::new(task::ours()),
            waker: Mutex::new(None),
            writer: Mutex::new(writer),
        });
        BELLS.with_borrow_mut(|bells| bells.push(Arc::downgrade(&bell)));
        Host {
            timer: Timer::default(),
            waker: bell.clone().into(),
            bell,
            hearing: InFlight::new(hear),
            reader: Some(reader),
            limit: None,
        }
    }

    pub(crate) fn notifier(&self) -> Notifier {
        Notifier(Some(self.bell.clone()))
    }

    /// Steps until there is nothing to do, or until `Done`, which is ready.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        step: &mut dyn FnMut() -> Step,
    ) -> Poll<()> {
        let _running = Running::new();
        let _hosted = task::hosted();
        let _at_work = at_work();
        self.polled(cx);
        drive_all();
        let mut looks = 0;
        loop {
            match step() {
                Step::Done => return Poll::Ready(()),
                Step::Again if looks < LOOKS => looks += 1,
                Step::Again => {
                    // An executor that blocks may ask again without the host's having its turn.
                    task::yield_now();
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Idle { until } => {
                    let until = leaving::deadline().into_iter().chain(until).min();
                    if until.is_none_or(|until| self.timer.set(until)) && self.hear() {
                        let waiting = Context::from_waker(&self.waker);
                        self.timer.wake_at_end(&waiting);
                        let _ = self.hearing.wait(&mut Waiter::polled(&waiting));
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Nobody polls it any more: what is dropped with it wakes nobody outside.
    pub(crate) fn silence(&self) {
        self.bell.silence();
    }

    fn polled(&self, cx: &mut Context<'_>) {
        self.bell.task.store(task::number(), Ordering::Relaxed);
        let is_known = |before: &Arc<Waker>| before.will_wake(cx.waker());
        if lock(&self.bell.waker).as_ref().is_some_and(is_known) {
            return;
        }
        let waker = Arc::new(cx.waker().clone());
        let before = lock(&self.bell.waker).replace(waker);
        drop(before);
    }

    /// Has the bell heard; false if it has rung meanwhile.
    fn hear(&mut self) -> bool {
        if let Some(reader) = self.hearing.take() {
            self.reader = Some(reader);
        }
        let Some(reader) = self.reader.take() else {
            return true;
        };
        let rung = self.hearing.start(reader);
        let is_heard = rung.is_none();
        self.reader = rung;
        is_heard
    }

    /// After the end: waits for what is still being written, but not for ever.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _running = Running::new();
        let _hosted = task::hosted();
        let _at_work = at_work();
        self.polled(cx);
        drive_all();
        if !leaving::were_left_in(task::number()) {
            return Poll::Ready(());
        }
        let over = match &self.limit {
            Some(limit) => limit.take(),
            None => {
                let limit = self.limit.insert(InFlight::new(wait_for));
                limit.start(nanoseconds(PATIENCE))
            }
        };
        if over.is_some() {
            return Poll::Ready(());
        }
        // Those that end ring.
        if !self.hear() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let waiting = Context::from_waker(&self.waker);
        let _ = self.hearing.wait(&mut Waiter::polled(&waiting));
        if let Some(limit) = &self.limit {
            let _ = limit.wait(&mut Waiter::polled(&waiting));
        }
        Poll::Pending
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.silence();
        BELLS
            .with_borrow_mut(|bells| bells.retain(|bell| bell.as_ptr() != Arc::as_ptr(&self.bell)));
        let task = self.bell.task.load(Ordering::Relaxed);
        all_come_home(task);
        leaving::outlive(task);
    }
}
