//! The task that the host's events come to.
//!
//! An operation of the bindings registers with "the task", a structure of functions in a global
//! that all versions of wit-bindgen share (its `cabi.rs` is the specification): an export that the
//! bindings drive puts its own there, and so does its `block_on`. Ours is there instead while a
//! runtime of `block_on` runs. It is one for the whole component, so that operations stay
//! registered when a runtime ends: what is under way for a socket goes on, and the next runtime has
//! it. Theirs would have to be rid of every operation first, or hang; and with nothing registered
//! it panics, where ours can tell.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;

type Callback = unsafe extern "C" fn(*mut c_void, u32);
type Register = unsafe extern "C" fn(*mut c_void, u32, Callback, *mut c_void) -> *mut c_void;
type Unregister = unsafe extern "C" fn(*mut c_void, u32) -> *mut c_void;

/// `wasip3_task_v2` of the specification.
#[repr(C)]
struct Task {
    version: u32,
    ptr: *mut c_void,
    register: Register,
    unregister: Unregister,
    vtable: &'static Vtable,
}

/// `wasip3_task_vtable` of the specification.
#[repr(C)]
struct Vtable {
    register: Register,
    unregister: Unregister,
    clone: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    drop: unsafe extern "C" fn(*mut c_void),
}

// SAFETY: it is never written to, and its pointer is a mark that is never followed.
unsafe impl Sync for Task {}

/// What tells our task from others.
static MARK: u8 = 0;

static TASK: Task = Task {
    version: 2,
    ptr: (&raw const MARK).cast_mut().cast(),
    register,
    unregister,
    vtable: &Vtable {
        register,
        unregister,
        clone,
        drop,
    },
};

unsafe extern "C" {
    /// Puts a task there and gives the one before. Defined by wit-bindgen.
    fn wasip3_task_set(task: *mut Task) -> *mut Task;
}

#[link(wasm_import_module = "$root")]
unsafe extern "C" {
    #[link_name = "[waitable-set-new]"]
    safe fn waitable_set_new() -> u32;
    #[link_name = "[waitable-join]"]
    safe fn waitable_join(waitable: u32, set: u32);
    #[link_name = "[waitable-set-wait]"]
    safe fn waitable_set_wait(set: u32, event: &mut [u32; 2]) -> u32;
    #[link_name = "[waitable-set-poll]"]
    safe fn waitable_set_poll(set: u32, event: &mut [u32; 2]) -> u32;
    #[link_name = "[thread-yield]"]
    safe fn thread_yield() -> bool;
}

/// The code of a `waitable-set.poll` that found nothing.
const EVENT_NONE: u32 = 0;
/// That of a call to an asynchronous function, and its state at the end.
const EVENT_SUBTASK: u32 = 1;
const STATUS_RETURNED: u32 = 2;

#[derive(Clone, Copy)]
struct Entry {
    callback: Callback,
    ptr: *mut c_void,
}

/// What is registered, by the number of the waitable: those are small and used again.
struct Table {
    set: Option<u32>,
    entries: Vec<Option<Entry>>,
    len: usize,
}

thread_local! {
    static HOSTED: Cell<bool> = const { Cell::new(false) };
    static TABLE: RefCell<Table> = const {
        RefCell::new(Table {
            set: None,
            entries: Vec::new(),
            len: 0,
        })
    };
}

impl Table {
    fn set(&mut self) -> u32 {
        *self.set.get_or_insert_with(|| waitable_set_new())
    }

    fn insert(&mut self, waitable: u32, entry: Entry) -> Option<Entry> {
        let index = waitable as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, None);
        }
        let before = self.entries[index].replace(entry);
        self.len += usize::from(before.is_none());
        before
    }

    fn remove(&mut self, waitable: u32) -> Option<Entry> {
        let before = self.entries.get_mut(waitable as usize)?.take();
        self.len -= usize::from(before.is_some());
        before
    }
}

fn pointer(entry: Option<Entry>) -> *mut c_void {
    entry.map_or(ptr::null_mut(), |entry| entry.ptr)
}

unsafe extern "C" fn register(
    _task: *mut c_void,
    waitable: u32,
    callback: Callback,
    ptr: *mut c_void,
) -> *mut c_void {
    TABLE.with_borrow_mut(|table| {
        waitable_join(waitable, table.set());
        pointer(table.insert(waitable, Entry { callback, ptr }))
    })
}

unsafe extern "C" fn unregister(_task: *mut c_void, waitable: u32) -> *mut c_void {
    waitable_join(waitable, 0);
    TABLE.with_borrow_mut(|table| pointer(table.remove(waitable)))
}

/// There is one, for ever.
unsafe extern "C" fn clone(task: *mut c_void) -> *mut c_void {
    task
}

unsafe extern "C" fn drop(_task: *mut c_void) {}

/// Ours is the task until this is dropped.
pub(super) struct Entered(*mut Task);

pub(super) fn enter() -> Entered {
    Entered(set((&raw const TASK).cast_mut()))
}

fn set(task: *mut Task) -> *mut Task {
    // SAFETY: it is ours, which lives for ever and is only read; or none; or one that was there
    // before. That is valid, since what put it there has not returned: whoever takes it away here
    // puts it back before he returns, `Entered` too, which is never more than a local variable.
    unsafe { wasip3_task_set(task) }
}

impl Drop for Entered {
    fn drop(&mut self) {
        set(self.0);
    }
}

/// The number of ours.
pub(super) fn ours() -> usize {
    TASK.ptr as usize
}

/// The number of the task of now, whoever put it there; 0 if there is none.
pub(super) fn current() -> usize {
    let task = set(ptr::null_mut());
    set(task);
    if task.is_null() {
        return 0;
    }
    // SAFETY: what is there is valid until it is taken away, which nobody does meanwhile. The
    // fields of ours are those of the first version, which every other begins with.
    unsafe { (*task).ptr as usize }
}

/// Operations are registered with the task of now until this is dropped, since a runtime runs in
/// it.
pub(super) struct Hosted(bool);

pub(super) fn hosted() -> Hosted {
    Hosted(HOSTED.replace(true))
}

/// Operations are registered with ours until this is dropped, wherever that is.
pub(super) fn at_home() -> Hosted {
    Hosted(HOSTED.replace(false))
}

impl Drop for Hosted {
    fn drop(&mut self) {
        HOSTED.set(self.0);
    }
}

/// The number of the task that operations register with now: ours, even within another, unless a
/// runtime is being polled there.
pub(super) fn number() -> usize {
    match HOSTED.get() {
        true => current(),
        false => ours(),
    }
}

/// Polls an operation, which registers with that task.
pub(super) fn with<T>(poll: impl FnOnce() -> T) -> T {
    let _entered = (!HOSTED.get()).then(enter);
    poll()
}

/// A waitable that a task tells of, until this is dropped.
pub(super) struct Registration {
    /// Of the task: a clone where there is a way to make one.
    ptr: *mut c_void,
    unregister: Unregister,
    drop: Option<unsafe extern "C" fn(*mut c_void)>,
    /// Which task that is.
    number: usize,
    waitable: u32,
    is_told: bool,
}

// SAFETY: there is no other thread that it could be sent to: the target has none.
unsafe impl Send for Registration {}

impl Registration {
    /// Has the task of now call `callback` with `ptr` when there is news of the waitable; `None` if
    /// there is no task.
    ///
    /// # Safety
    /// `callback` may be called with `ptr` until what this gives is dropped.
    pub(super) unsafe fn new(
        waitable: u32,
        callback: Callback,
        ptr: *mut c_void,
    ) -> Option<Registration> {
        let task = set(ptr::null_mut());
        set(task);
        if task.is_null() {
            return None;
        }
        // SAFETY: what is there is valid until it is taken away, which nobody does meanwhile. Its
        // fields are those of the first version; from the second on there is the table besides.
        unsafe {
            let here = (*task).ptr;
            let (ptr_of_task, unregister, drop) = match (*task).version {
                0 | 1 => (here, (*task).unregister, None),
                _ => {
                    let vtable = (*task).vtable;
                    ((vtable.clone)(here), vtable.unregister, Some(vtable.drop))
                }
            };
            ((*task).register)(here, waitable, callback, ptr);
            Some(Registration {
                ptr: ptr_of_task,
                unregister,
                drop,
                number: here as usize,
                waitable,
                is_told: false,
            })
        }
    }

    /// Whether it is with the task of now.
    pub(super) fn is_here(&self) -> bool {
        !self.is_told && self.number == current()
    }

    /// There was news, with which the task has forgotten it.
    pub(super) fn was_told(&mut self) {
        self.is_told = true;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.drop.is_none() && self.number != current() {
            // A task of the first version may be gone. As long as it is not, nothing is told of
            // what is in none of its sets.
            if !self.is_told {
                waitable_join(self.waitable, 0);
            }
            return;
        }
        // SAFETY: these are the task's own functions, and it is still there: either it is the task
        // of now, or `ptr` is a clone of it, which keeps it until it is dropped here, once.
        unsafe {
            if !self.is_told {
                (self.unregister)(self.ptr, self.waitable);
            }
            if let Some(drop) = self.drop {
                drop(self.ptr);
            }
        }
    }
}

/// Whether anything is registered with our task.
pub(super) fn is_idle() -> bool {
    TABLE.with_borrow(|table| table.len == 0)
}

/// Takes one event from the host, after a wait for it or not; false if there was none.
pub(super) fn turn(wait: bool) -> bool {
    let set = TABLE.with_borrow_mut(Table::set);
    let mut event = [0; 2];
    let code = match wait {
        true => waitable_set_wait(set, &mut event),
        false => waitable_set_poll(set, &mut event),
    };
    if code == EVENT_NONE {
        return false;
    }
    let [waitable, state] = event;
    // A call that has returned is dropped by whoever takes its result, and leaves the set so.
    if (code, state) != (EVENT_SUBTASK, STATUS_RETURNED) {
        waitable_join(waitable, 0);
    }
    if let Some(entry) = TABLE.with_borrow_mut(|table| table.remove(waitable)) {
        // SAFETY: whoever registered the pointer unregisters it before it becomes invalid, as the
        // specification of the task asks, and it was registered until now. Nothing of ours is
        // borrowed, so that it may register again.
        unsafe { (entry.callback)(entry.ptr, state) };
    }
    true
}

/// Takes the events that are there, without a wait: no more than there are operations, each of
/// which has one and is then registered no longer.
pub(super) fn turn_all() {
    let most = TABLE.with_borrow(|table| table.len);
    for _ in 0..most {
        if !turn(false) {
            return;
        }
    }
}

/// Lets the host do what it has to.
pub(super) fn yield_now() {
    thread_yield();
}
