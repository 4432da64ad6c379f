//! What the loop of a backend steps: ready tasks and due timers. It never blocks and knows no
//! system call.

use std::future::Future;
use std::ops::DerefMut;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::budget::{self, Look};
use crate::runtime::queue::{Local, RootWaker};
use crate::sys::{clock, Step};
use crate::wake::wake_all;

/// Task polls between two looks at the sockets: enough to make the look cheap, few enough that
/// busy tasks cannot starve them.
const BUDGET: usize = 128;

/// One `block_on`: its root future and the tasks spawned meanwhile.
pub(crate) struct Core<P: DerefMut<Target: Future>> {
    local: Rc<Local>,
    root: Pin<P>,
    root_waker: Waker,
    output: Option<<P::Target as Future>::Output>,
    due: Vec<Waker>,
}

impl<P: DerefMut<Target: Future>> Core<P> {
    pub(crate) fn new(local: Rc<Local>, root: Pin<P>) -> Core<P> {
        let root_waker = Waker::from(Arc::new(RootWaker(local.shared.clone())));
        root_waker.wake_by_ref();
        Core {
            local,
            root,
            root_waker,
            output: None,
            due: Vec::new(),
        }
    }

    /// Runs what is ready, up to the budget, and says what the loop should do next.
    pub(crate) fn step(&mut self) -> Step {
        let shared = &self.local.shared;
        shared.awake();
        self.local.take_inbox();
        if shared.next_deadline().is_some() {
            shared.take_due(clock::now(), &mut self.due);
            wake_all(self.due.drain(..));
        }
        let mut turns = BUDGET;
        while turns > 0 {
            turns -= 1;
            match self.local.pop() {
                Some(Some(task)) => {
                    task.run();
                }
                Some(None) => {
                    shared.root_taken();
                    let mut cx = Context::from_waker(&self.root_waker);
                    if let Poll::Ready(output) = self.root.as_mut().poll(&mut cx) {
                        self.output = Some(output);
                        return Step::Done;
                    }
                }
                None => break,
            }
            match budget::take_look() {
                Look::Later => {}
                // The task itself is the last.
                Look::AfterOthers => turns = turns.min(self.local.len().saturating_sub(1)),
                Look::Now => break,
            }
        }
        if self.local.len() > 0 {
            return Step::Again;
        }
        if !shared.fall_asleep() {
            return Step::Again;
        }
        // After the announcement, so that a timer that another thread adds is seen or notifies.
        Step::Idle {
            until: shared.next_deadline(),
        }
    }

    /// The root future's value, once `step` has said `Done`.
    pub(crate) fn into_output(self) -> Option<<P::Target as Future>::Output> {
        self.output
    }
}
