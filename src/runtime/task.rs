//! Spawned tasks and their handles.

use std::fmt;
use std::future::Future;
use std::panic::{resume_unwind, RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use pin_project_lite::pin_project;

use crate::panics::{catch, drop_contained, Payload};
use crate::runtime::context;
use crate::runtime::queue::{Local, Shared};

/// Runs a future as a task of the current runtime, beside the caller.
///
/// The future need not be `Send`: it stays on this thread. It first runs when the caller next
/// waits, not inside this call.
///
/// *asyncio equivalent*: `asyncio.create_task`.
///
/// # Panics
/// If no coracle runtime is running on this thread; outside [`block_on`](crate::block_on) use the
/// spawn function of your own executor.
///
/// # Examples
/// ```
/// let sum = coracle::block_on(async {
///     let one = coracle::spawn(async { 1 });
///     let two = coracle::spawn(async { 2 });
///     one.await + two.await
/// });
/// assert_eq!(sum, 3);
/// ```
#[track_caller]
pub fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    match context::current() {
        Some(local) => spawn_on(local, future),
        None => panic!(
            "coracle::spawn: no coracle runtime is running on this thread; call it inside \
             coracle::block_on"
        ),
    }
}

pub(crate) fn spawn_on<F>(local: Rc<Local>, future: F) -> Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let shared = local.shared.clone();
    let index = local.tasks.borrow().vacant_key();
    let id = local.next_id();
    let future = Listed {
        local: local.clone(),
        index,
        id,
        future: Some(future),
    };
    let (runnable, task) = async_task::spawn_local(future, {
        let shared = shared.clone();
        move |runnable| shared.schedule(Some(runnable))
    });
    let listed_at = local.tasks.borrow_mut().insert(runnable.waker());
    debug_assert_eq!(listed_at, index);
    local.push(Some(runnable));
    Task {
        task: task.fallible(),
        shared,
        id,
    }
}

pin_project! {
    // A task's future, struck off the list of tasks when it is dropped, finished or not. It lets
    // no panic out, not even of a destructor: async-task would abort the process.
    struct Listed<F> {
        local: Rc<Local>,
        index: usize,
        id: u64,
        // Until it has ended.
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Listed<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let waker = this.local.tasks.borrow_mut().try_remove(*this.index);
            drop(waker);
            if let Err(payload) = catch(|| this.future.set(None)) {
                this.local.shared.panicked_at_end(*this.id, payload);
            }
        }
    }
}

impl<F: Future> Future for Listed<F> {
    type Output = Outcome<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<F::Output>> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let mut outcome = match catch(|| future.poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Outcome(Some(Ok(value))),
            Err(payload) => Outcome(Some(Err(payload))),
        };
        if let Err(payload) = catch(|| this.future.set(None)) {
            match outcome.0 {
                // The first panic counts.
                Some(Err(_)) => drop_contained(payload),
                _ => outcome = Outcome(Some(Err(payload))),
            }
        }
        Poll::Ready(outcome)
    }
}

/// What a task ends with: its value, or what it has panicked with.
struct Outcome<T>(Option<Result<T, Payload>>);

impl<T> Outcome<T> {
    /// The value; panics as the task has done.
    fn unwrap(mut self) -> T {
        match self.0.take() {
            Some(Ok(value)) => value,
            Some(Err(payload)) => resume_unwind(payload),
            None => unreachable!("it is taken once"),
        }
    }
}

impl<T> Drop for Outcome<T> {
    fn drop(&mut self) {
        drop_contained(self.0.take());
    }
}

/// A handle to a spawned task: awaiting it gives the task's value.
///
/// Dropping the handle **cancels** the task, as in the rest of the smol ecosystem; call
/// [`detach`](Task::detach) to let it run on. When [`block_on`](crate::block_on) returns, tasks
/// that have not ended are dropped.
///
/// # Panics
/// A panic in the task, be it in a destructor at its end, is passed on to whoever awaits the
/// handle; the runtime and the other tasks go on. Of a detached task nobody is told but the panic
/// hook.
///
/// Awaiting the handle of a task that has been dropped with its runtime panics.
///
/// # Cancel safety
/// Dropping the handle is cancelling the task. Waiting on `&mut task` can be given up without
/// loss.
#[must_use = "dropping a task cancels it: await it, or call detach()"]
pub struct Task<T> {
    task: async_task::FallibleTask<Outcome<T>>,
    shared: Arc<Shared>,
    id: u64,
}

impl<T> Task<T> {
    /// Lets the task run on with nobody waiting for it.
    ///
    /// # Examples
    /// ```
    /// coracle::block_on(async {
    ///     coracle::spawn(async { println!("in the background") }).detach();
    ///     coracle::yield_now().await;
    /// });
    /// ```
    pub fn detach(self) {
        self.task.detach();
    }

    /// Stops the task where it waits, and returns once its future has been dropped: with its value
    /// if it had finished before.
    ///
    /// *asyncio equivalent*: `task.cancel()`, but the task has no say in it.
    ///
    /// # Panics
    /// As the task has done, or a destructor of what it held.
    ///
    /// # Cancel safety
    /// The task is cancelled even if this future is dropped.
    ///
    /// # Examples
    /// ```
    /// coracle::block_on(async {
    ///     let endless = coracle::spawn(std::future::pending::<()>());
    ///     assert_eq!(endless.cancel().await, None);
    /// });
    /// ```
    pub async fn cancel(self) -> Option<T> {
        let ending = Ending::new(&self.shared, self.id);
        let outcome = self.task.cancel().await;
        if let Some(payload) = ending.panic() {
            resume_unwind(payload);
        }
        outcome.map(Outcome::unwrap)
    }

    /// Whether the task has ended, by finishing or by being cancelled.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.task).poll(cx)) {
            Some(outcome) => Poll::Ready(outcome.unwrap()),
            None => panic!("coracle::Task: the task was dropped when its runtime ended"),
        }
    }
}

/// Somebody wants to know whether a destructor panics when a task is cancelled.
struct Ending<'a> {
    shared: &'a Shared,
    key: Option<usize>,
}

impl Ending<'_> {
    fn new(shared: &Shared, id: u64) -> Ending<'_> {
        Ending {
            shared,
            key: Some(shared.await_ending(id)),
        }
    }

    /// What it has panicked with.
    fn panic(mut self) -> Option<Payload> {
        self.take()
    }

    fn take(&mut self) -> Option<Payload> {
        self.shared.take_ending(self.key.take()?)
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Some(payload) = self.take() {
            drop_contained(payload);
        }
    }
}

// What a task leaves half done when it panics is dropped with it.
impl<T> UnwindSafe for Task<T> {}
impl<T> RefUnwindSafe for Task<T> {}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
