//! A runtime that another executor polls, where blocking is not allowed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use super::context::Entered;
use super::core::Core;
use super::queue::{Local, Shared};
use super::DropTasks;
use crate::sys::Host;

/// The future of [`run`](crate::wasi::run).
#[must_use = "futures do nothing unless awaited"]
pub struct Run<F: Future> {
    local: Rc<Local>,
    state: State<F>,
    /// Dropped last: it is what all the rest depends on.
    host: Host,
}

enum State<F: Future> {
    Running(Core<Box<F>>),
    /// The future has ended, and so have the tasks.
    Ending(Option<F::Output>),
}

impl<F: Future> Run<F> {
    pub(crate) fn new(future: F) -> Run<F> {
        let host = Host::new();
        let local = Rc::new(Local::new(Arc::new(Shared::new(host.notifier()))));
        Run {
            state: State::Running(Core::new(local.clone(), Box::pin(future))),
            local,
            host,
        }
    }

    /// Drops the future and the tasks, while the runtime is current for what their destructors do.
    fn end(&mut self) {
        let _entered = Entered::new(self.local.clone());
        let tasks = DropTasks(self.local.clone());
        let before = std::mem::replace(&mut self.state, State::Ending(None));
        if let State::Running(core) = before {
            self.state = State::Ending(core.into_output());
        }
        drop(tasks);
    }
}

impl<F: Future> Future for Run<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if let State::Running(core) = &mut this.state {
            let entered = Entered::new(this.local.clone());
            assert!(
                entered.is_some(),
                "coracle::wasi::run: a coracle runtime is running on this thread already: await \
                 the future or spawn it"
            );
            ready!(this.host.poll(cx, &mut || core.step()));
            drop(entered);
            this.end();
        }
        ready!(this.host.poll_end(cx));
        match &mut this.state {
            State::Ending(output) => match output.take() {
                Some(output) => Poll::Ready(output),
                None => panic!("coracle::wasi::run: polled after its end"),
            },
            State::Running(_) => Poll::Pending,
        }
    }
}

// The future is behind a pointer.
impl<F: Future> Unpin for Run<F> {}

impl<F: Future> Drop for Run<F> {
    fn drop(&mut self) {
        self.host.silence();
        self.end();
    }
}

impl<F: Future> fmt::Debug for Run<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}
