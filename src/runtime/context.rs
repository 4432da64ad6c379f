//! The thread's current runtime.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::Arc;

use crate::runtime::queue::{Local, Shared};

thread_local! {
    // Without a destructor, so that it is there for those of other thread-locals. Leaving empties
    // it.
    static CURRENT: ManuallyDrop<RefCell<Option<Rc<Local>>>> =
        const { ManuallyDrop::new(RefCell::new(None)) };
}

/// Makes a runtime the thread's current one until it is dropped.
pub(crate) struct Entered;

impl Entered {
    /// `None` if a runtime is running on this thread already, or the thread is ending and its
    /// thread-locals are gone, which is so on few platforms.
    pub(crate) fn new(local: Rc<Local>) -> Option<Entered> {
        let entered = CURRENT.try_with(|current| {
            let mut current = current.borrow_mut();
            if current.is_some() {
                return None;
            }
            *current = Some(local);
            Some(Entered)
        });
        entered.unwrap_or_default()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let local = CURRENT.try_with(|current| current.borrow_mut().take());
        drop(local);
    }
}

/// The runtime running on this thread.
pub(crate) fn current() -> Option<Rc<Local>> {
    CURRENT
        .try_with(|current| current.borrow().clone())
        .unwrap_or_default()
}

/// What other threads may hold of the runtime running on this thread.
pub(crate) fn current_shared() -> Option<Arc<Shared>> {
    CURRENT
        .try_with(|current| current.borrow().as_ref().map(|local| local.shared.clone()))
        .unwrap_or_default()
}

/// Calls `f` if the runtime of `shared` is the one running on this thread.
pub(crate) fn if_current<R>(shared: &Arc<Shared>, f: impl FnOnce(&Local) -> R) -> Option<R> {
    CURRENT
        .try_with(|current| match &*current.borrow() {
            Some(local) if Arc::ptr_eq(&local.shared, shared) => Some(f(local)),
            _ => None,
        })
        .unwrap_or_default()
}
