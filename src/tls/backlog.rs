//! Bytes that wait for a reader, without memory when there are none.

#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    /// Those before are gone.
    start: usize,
}

impl Backlog {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    pub(crate) fn append(&mut self, more: &[u8]) {
        if !more.is_empty() {
            self.bytes.extend_from_slice(more);
        }
    }

    /// Keeps these instead.
    pub(crate) fn replace(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            *self = Backlog::default();
        } else {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            self.start = 0;
        }
    }

    pub(crate) fn consume(&mut self, len: usize) {
        self.start += len;
        if self.start == self.bytes.len() {
            *self = Backlog::default();
        }
    }

    /// Moves what fits.
    pub(crate) fn take(&mut self, dest: &mut [u8]) -> usize {
        let len = dest.len().min(self.as_slice().len());
        if len > 0 {
            dest[..len].copy_from_slice(&self.as_slice()[..len]);
            self.consume(len);
        }
        len
    }
}
