//! Buffers for ciphertext that the connections of a thread share: an idle one has none.

use std::cell::Cell;

/// Bytes received at once; as many are encrypted.
pub(crate) const LEN: usize = 64 * 1024;

/// What the largest records of [`LEN`] add.
const OVERHEAD: usize = 512;

/// Larger ones are not kept.
const KEPT: usize = 256 * 1024;

thread_local! {
    static RECEIVED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SENT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's buffer for what is received.
pub(crate) fn with_received<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut buf = RECEIVED.try_with(Cell::take).unwrap_or_default();
    let result = f(sized(&mut buf));
    if buf.len() <= KEPT {
        let _ = RECEIVED.try_with(|kept| kept.set(buf));
    }
    result
}

/// Lends the thread's buffer for what is to be sent.
pub(crate) fn with_sent<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut buf = SENT.try_with(Cell::take).unwrap_or_default();
    let result = f(sized(&mut buf));
    if buf.len() <= KEPT {
        let _ = SENT.try_with(|kept| kept.set(buf));
    }
    result
}

fn sized(buf: &mut Vec<u8>) -> &mut Vec<u8> {
    if buf.is_empty() {
        buf.resize(LEN + OVERHEAD, 0);
    }
    buf
}
