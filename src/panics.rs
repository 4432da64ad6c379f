//! Panics in the user's destructors, which must not take down more than what they belong to.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Calls the user's code. The panic hook has been told of what it panics with.
pub(crate) fn catch<R>(call: impl FnOnce() -> R) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(call))
}

/// Drops a value whose destructor may panic, of which only the panic hook is told.
pub(crate) fn drop_contained<T>(value: T) {
    if let Err(payload) = catch(|| drop(value)) {
        // It has a destructor, too.
        if let Err(payload) = catch(|| drop(payload)) {
            std::mem::forget(payload);
        }
    }
}

/// Something of the user's: a panic in its destructor goes no further than the panic hook.
pub(crate) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(crate) fn new(value: T) -> Contained<T> {
        Contained(Some(value))
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(value) => value,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        drop_contained(self.0.take());
    }
}
