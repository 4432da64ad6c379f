//! Spawned tasks and their handles.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::runtime::context;
use crate::runtime::queue::Local;

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
    let future = Listed {
        local: local.clone(),
        index,
        future,
    };
    let (runnable, task) = async_task::Builder::new()
        .propagate_panic(true)
        .spawn_local(
            move |()| future,
            move |runnable| shared.schedule(Some(runnable)),
        );
    let listed_at = local.tasks.borrow_mut().insert(runnable.waker());
    debug_assert_eq!(listed_at, index);
    local.push(Some(runnable));
    Task { task }
}

pin_project! {
    // A task's future, struck off the list of tasks when it is dropped, finished or not.
    struct Listed<F> {
        local: Rc<Local>,
        index: usize,
        #[pin]
        future: F,
    }

    impl<F> PinnedDrop for Listed<F> {
        fn drop(this: Pin<&mut Self>) {
            let waker = this.local.tasks.borrow_mut().try_remove(this.index);
            drop(waker);
        }
    }
}

impl<F: Future> Future for Listed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

/// A handle to a spawned task: awaiting it gives the task's value.
///
/// Dropping the handle **cancels** the task, as in the rest of the smol ecosystem; call
/// [`detach`](Task::detach) to let it run on. When [`block_on`](crate::block_on) returns, tasks
/// that have not ended are dropped.
///
/// # Panics
/// A panic in the task is passed on to whoever awaits the handle; the runtime and the other tasks
/// go on. Of a detached task nobody is told but the panic hook.
///
/// # Cancel safety
/// Dropping the handle is cancelling the task. Waiting on `&mut task` can be given up without
/// loss.
#[must_use = "dropping a task cancels it: await it, or call detach()"]
pub struct Task<T> {
    task: async_task::Task<T>,
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
        self.task.cancel().await
    }

    /// Whether the task has ended, by finishing or by being cancelled.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.task).poll(cx)
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
