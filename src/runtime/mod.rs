//! The executor: `block_on`, `spawn`, `yield_now`.

pub(crate) mod context;
mod core;
#[cfg(all(target_os = "wasi", feature = "wasi-p3"))]
pub(crate) mod hosted;
pub(crate) mod queue;
pub(crate) mod task;

use std::future::Future;
use std::io;
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use self::context::Entered;
use self::core::Core;
use self::queue::{Local, Shared};
use crate::error::invalid;
use crate::sys::{Reactor, ReactorOps};

/// Runs a future to its end on this thread, with a runtime of its own, and returns its value.
///
/// The runtime is a queue of tasks and a reactor; there is no hidden thread, and two threads that
/// each call `block_on` have two runtimes that share nothing. When the future has ended, tasks
/// that have not are dropped, and their sockets closed, before this returns. Tasks that their
/// destructors spawn are dropped unrun; if those have such destructors again, and so on, the last
/// are forgotten.
///
/// *asyncio equivalent*: `asyncio.run`.
///
/// # Panics
/// - if a coracle runtime is running on this thread already: inside it, `.await` or
///   [`spawn`](crate::spawn) instead;
/// - if the reactor cannot be made, for example for want of descriptors, or, on few platforms, in
///   the destructor of a thread-local.
///
/// [`try_block_on`] returns both as errors. A panic in the future itself is passed on, and one in
/// its destructor.
///
/// # Platforms
/// Unix: a process that is forked while the future runs shares the reactor's descriptors with its
/// parent. What is dropped in it, also by a panic that unwinds to `block_on`, is taken out of the
/// parent's reactor, which then waits for ever. A forked child must call `exec` or `_exit` and
/// leave the runtime alone.
///
/// # Examples
/// ```
/// let answer = coracle::block_on(async { 6 * 7 });
/// assert_eq!(answer, 42);
/// ```
#[track_caller]
pub fn block_on<F: Future>(future: F) -> F::Output {
    match try_block_on(future) {
        Ok(output) => output,
        Err(error) => panic!("coracle::block_on: {error}"),
    }
}

/// [`block_on`] with its own failures as errors.
///
/// # Errors
/// - `InvalidInput`: a coracle runtime is running on this thread already.
/// - what the system gave when the reactor could not be made, or waiting failed; then the future
///   has been dropped unfinished.
/// - `Other`: the thread is ending, and its thread-locals are gone (few platforms).
///
/// # Examples
/// ```
/// let nested = coracle::block_on(async { coracle::try_block_on(async {}) });
/// assert_eq!(nested.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
/// ```
pub fn try_block_on<F: Future>(future: F) -> io::Result<F::Output> {
    if context::current().is_some() {
        return Err(invalid(
            "a coracle runtime is running on this thread already: await the future or spawn it",
        ));
    }
    let reactor = Reactor::new()?;
    let local = Rc::new(Local::new(Arc::new(Shared::new(reactor.notifier()))));
    let Some(_entered) = Entered::new(local.clone()) else {
        return Err(io::Error::other("the thread is ending"));
    };
    // Dropped in reverse, by a panic too: first the root future, then the tasks, while the runtime
    // is still current for what their destructors do.
    let _tasks = DropTasks(local.clone());
    let root = pin!(future);
    let mut core = Core::new(local, root);
    reactor.drive(&mut || core.step())?;
    core.into_output()
        .ok_or_else(|| io::Error::other("the reactor ended before the future"))
}

/// Tasks that are spawned by the destructors of those that end with a runtime end with it, too. If
/// those spawn others, and so on, this is where it ends.
const GENERATIONS: usize = 16;

/// Ends all tasks of a runtime.
struct DropTasks(Rc<Local>);

impl Drop for DropTasks {
    fn drop(&mut self) {
        let local = &self.0;
        local.shared.close_timers();
        let mut generations = 0;
        loop {
            // Waking queues a task that waits; dropping what is queued drops its future.
            let wakers: Vec<Waker> = local
                .tasks
                .borrow()
                .iter()
                .map(|(_, w)| w.clone())
                .collect();
            wakers.iter().for_each(Waker::wake_by_ref);
            local.take_inbox();
            generations += usize::from(local.len() > 0);
            for _ in 0..local.len() {
                drop(local.pop());
            }
            // What is left then keeps itself alive, and is never dropped.
            if local.tasks.borrow().is_empty() || generations == GENERATIONS {
                break;
            }
            // Another thread is just putting one into the inbox.
            std::thread::yield_now();
        }
    }
}

/// Lets the other ready tasks, and sockets, have a turn.
///
/// *asyncio equivalent*: `asyncio.sleep(0)`.
///
/// # Cancel safety
/// Nothing is lost.
///
/// # Examples
/// ```
/// coracle::block_on(async {
///     for _ in 0..3 {
///         coracle::yield_now().await;
///     }
/// });
/// ```
pub fn yield_now() -> YieldNow {
    YieldNow { yielded: false }
}

/// The future of [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
