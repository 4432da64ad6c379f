//! Calls of the host's asynchronous functions without a future for each: for datagrams, where the
//! bindings' futures take as long as the rest of a round trip in the guest.
//!
//! What is done here is what they do: the specification is the component model's canonical ABI,
//! and `cabi.rs` of wit-bindgen for the task that a call is registered with.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::inflight::Operation;
use super::task::Registration;

/// Words for the arguments and the results of a call.
pub(super) const WORDS: usize = 17;
pub(super) type Words = [u32; WORDS];

/// An asynchronous function of the host's.
///
/// # Safety
/// `call` gives what the host gave, and the host writes nowhere but to the words, or to memory that
/// it allocates; what it reads stays as it is until the next call or the function's end.
pub(super) unsafe trait Function: Send {
    type Arguments;
    type Output;

    /// Calls it.
    ///
    /// # Safety
    /// No call is under way. There are `WORDS` words, all of them written once, which stay where
    /// they are, and which nobody else touches, until it has returned or was cancelled.
    unsafe fn call(&mut self, arguments: Self::Arguments, words: *mut u32) -> u32;

    /// What it has returned.
    ///
    /// # Safety
    /// The last call has returned, with these words, and this was not called since.
    unsafe fn result(&mut self, words: &Words) -> Self::Output;
}

#[link(wasm_import_module = "$root")]
unsafe extern "C" {
    #[link_name = "[subtask-cancel]"]
    safe fn subtask_cancel(subtask: u32) -> u32;
    #[link_name = "[subtask-drop]"]
    safe fn subtask_drop(subtask: u32);
}

/// States of a call; the number of the subtask is above them in what a call gives.
const STARTING: u32 = 0;
const STARTED: u32 = 1;
const RETURNED: u32 = 2;

/// Nothing was told.
const NOTHING: u32 = u32::MAX;

/// One call at a time.
pub(super) struct Call<F: Function> {
    function: F,
    words: Box<UnsafeCell<Words>>,
    subtask: Option<NonZeroU32>,
    registration: Option<Registration>,
    told: Arc<Told>,
}

/// What the task tells of the call.
struct Told {
    state: AtomicU32,
    waker: Mutex<Option<Waker>>,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

unsafe extern "C" fn tell(told: *mut c_void, state: u32) {
    // SAFETY: it is what `Call::wait` has registered, the only one who does: a `Told`, which the
    // call holds until after it has dropped the registration.
    let told = unsafe { &*told.cast::<Told>() };
    told.state.store(state, Ordering::Relaxed);
    let waker = told.lock().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<F: Function> Call<F> {
    pub(super) fn new(function: F) -> Call<F> {
        Call {
            function,
            words: Box::new(UnsafeCell::new([0; WORDS])),
            subtask: None,
            registration: None,
            told: Arc::new(Told {
                state: AtomicU32::new(NOTHING),
                waker: Mutex::new(None),
            }),
        }
    }

    /// What the call has returned.
    ///
    /// # Safety
    /// It has, and this was not called since.
    unsafe fn result(&mut self) -> F::Output {
        // SAFETY: the call has returned, so that the host is done with them; nobody else has them.
        let words = unsafe { &*self.words.get() };
        // SAFETY: it has returned, with these, and they are taken for the first time: the same is
        // asked of who calls this.
        unsafe { self.function.result(words) }
    }

    /// Has the task of now tell.
    #[cold]
    fn wait(&mut self, cx: &Context<'_>) {
        let Some(subtask) = self.subtask else {
            return;
        };
        let waker = cx.waker().clone();
        let before = self.told.lock().replace(waker);
        drop(before);
        // Gone from the task of before, if that was another, before it comes to this one.
        if self
            .registration
            .as_ref()
            .is_some_and(Registration::is_here)
        {
            return;
        }
        self.registration = None;
        let told = Arc::as_ptr(&self.told).cast_mut().cast();
        // SAFETY: `tell` takes a `Told`, which `self.told` keeps; that is never replaced, and by the
        // order of the fields it is dropped after the registration.
        self.registration = unsafe { Registration::new(subtask.get(), tell, told) };
    }

    /// The subtask has come to its end.
    #[cold]
    fn over(&mut self) {
        self.registration = None;
        let waker = self.told.lock().take();
        drop(waker);
        if let Some(subtask) = self.subtask.take() {
            subtask_drop(subtask.get());
        }
    }

    fn cancel(&mut self) {
        let Some(subtask) = self.subtask else {
            return;
        };
        self.registration = None;
        let mut state = self.told.state.swap(NOTHING, Ordering::Relaxed);
        if state != RETURNED {
            state = subtask_cancel(subtask.get());
        }
        self.over();
        if state == RETURNED {
            // SAFETY: that is its state, for the first time: it was a subtask until now.
            drop(unsafe { self.result() });
        }
    }
}

impl<F: Function> Operation<F::Arguments, F::Output> for Call<F> {
    fn start(&mut self, arguments: F::Arguments, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.cancel();
        // SAFETY: none is under way any longer. The words are in a box of their own, written when
        // that was made, and are looked at only after the call has returned; the box lives until
        // `Drop` has cancelled the call.
        let packed = unsafe { self.function.call(arguments, self.words.get().cast()) };
        self.subtask = NonZeroU32::new(packed >> 4);
        if packed & 0xf == RETURNED {
            if self.subtask.is_some() {
                self.over();
            }
            // SAFETY: that is the state that the host has just given.
            return Poll::Ready(unsafe { self.result() });
        }
        self.wait(cx);
        Poll::Pending
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.told.state.swap(NOTHING, Ordering::Relaxed) {
            RETURNED => {
                if let Some(registration) = &mut self.registration {
                    registration.was_told();
                }
                self.over();
                // SAFETY: that is the state that the task has told; it was taken, and nothing is
                // told of a subtask that is over.
                return Poll::Ready(unsafe { self.result() });
            }
            STARTING | STARTED => {
                if let Some(registration) = &mut self.registration {
                    registration.was_told();
                }
                self.registration = None;
            }
            _ => {}
        }
        self.wait(cx);
        Poll::Pending
    }

    fn stop(&mut self) {
        self.cancel();
    }
}

impl<F: Function> Drop for Call<F> {
    fn drop(&mut self) {
        self.cancel();
    }
}
