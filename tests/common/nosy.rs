//! A waker that looks around whenever it is cloned, woken or dropped.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::cell::Cell;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

struct Nosy {
    look: Look,
    inner: Waker,
}

pub(crate) type Look = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// Looks around, but not while it does already.
pub(crate) fn look(look: &Look) {
    if !LOOKING.replace(true) {
        look();
        LOOKING.set(false);
    }
}

const VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_it);

/// A waker that wakes `inner`, and looks around.
pub(crate) fn waker(look: &Look, inner: &Waker) -> Waker {
    let nosy = Arc::new(Nosy {
        look: look.clone(),
        inner: inner.clone(),
    });
    // SAFETY: the data is a strong count of an `Arc<Nosy>`, as all four functions have it; what is
    // in it is `Send` and `Sync`.
    unsafe { Waker::from_raw(RawWaker::new(Arc::into_raw(nosy).cast(), &VTABLE)) }
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: the waker that is cloned has a strong count, of which this makes another.
    let nosy = unsafe {
        Arc::increment_strong_count(data.cast::<Nosy>());
        &*data.cast::<Nosy>()
    };
    look(&nosy.look);
    RawWaker::new(data, &VTABLE)
}

unsafe fn wake(data: *const ()) {
    // SAFETY: as for the two functions, one after the other.
    unsafe {
        wake_by_ref(data);
        drop_it(data);
    }
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the waker has a strong count.
    let nosy = unsafe { &*data.cast::<Nosy>() };
    look(&nosy.look);
    nosy.inner.wake_by_ref();
}

unsafe fn drop_it(data: *const ()) {
    // SAFETY: the strong count of the waker, which is gone after this.
    let nosy = unsafe { Arc::from_raw(data.cast::<Nosy>()) };
    look(&nosy.look);
    drop(nosy);
}

/// The same future, each time polled with another waker that looks around.
pub(crate) async fn polled<F: Future>(looks: &Look, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let nosy = waker(looks, cx.waker());
        future.as_mut().poll(&mut Context::from_waker(&nosy))
    })
    .await
}

/// Polls a future once and gives it up.
pub(crate) fn poll_once<F: Future>(looks: &Look, inner: &Waker, future: F) -> Poll<F::Output> {
    let nosy = waker(looks, inner);
    pin!(future).poll(&mut Context::from_waker(&nosy))
}
