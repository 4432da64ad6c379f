//! Memory that connections need only while they work, shared by all of a thread: an idle one has
//! none.

use std::cell::Cell;

use crate::endpoint::stream::queue::Queue;

/// Bytes received with one system call.
const RECEIVE: usize = 64 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static QUEUE: Cell<Queue> = const { Cell::new(Queue::new()) };
}

/// Lends the thread's receive buffer.
pub(super) fn with<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buf = BUFFER.try_with(Cell::take).unwrap_or_default();
    if buf.is_empty() {
        buf.resize(RECEIVE, 0);
    }
    let result = f(&mut buf);
    let _ = BUFFER.try_with(|kept| kept.set(buf));
    result
}

/// Memory for a queue that has none.
pub(super) fn equip(queue: &mut Queue) {
    *queue = QUEUE.try_with(Cell::take).unwrap_or_default();
}

/// Takes the memory of a queue that is empty.
pub(super) fn strip(queue: &mut Queue) {
    if queue.has_memory() {
        let mut queue = std::mem::take(queue);
        queue.shrink();
        let _ = QUEUE.try_with(|kept| kept.set(queue));
    }
}
