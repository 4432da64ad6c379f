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
pub(crate) fn with_sent<R>(f: impl FnOnce(&mut Sent<'_>) -> R) -> R {
    let mut buf = SENT.try_with(Cell::take).unwrap_or_default();
    let result = f(&mut Sent {
        buf: sized(&mut buf),
        len: 0,
    });
    if buf.len() <= KEPT {
        let _ = SENT.try_with(|kept| kept.set(buf));
    }
    result
}

/// Where ciphertext can be put.
pub(crate) trait Room {
    /// Memory behind what is there, for so many bytes at least.
    fn room(&mut self, len: usize) -> &mut [u8];

    /// So much of it is filled.
    fn fill(&mut self, len: usize);
}

/// The thread's buffer for what is to be sent.
pub(crate) struct Sent<'a> {
    buf: &'a mut Vec<u8>,
    len: usize,
}

impl Sent<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

impl Room for Sent<'_> {
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.len + len;
        if self.buf.len() < end {
            self.buf.resize(end, 0);
        }
        &mut self.buf[self.len..]
    }

    fn fill(&mut self, len: usize) {
        self.len += len;
    }
}

fn sized(buf: &mut Vec<u8>) -> &mut Vec<u8> {
    if buf.is_empty() {
        buf.resize(LEN + OVERHEAD, 0);
    }
    buf
}
