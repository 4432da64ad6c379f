//! Datagrams to be sent, back to back in one buffer.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::task::Poll;

use crate::address::Address;
use crate::batch::SendMeta;
use crate::error::context;

/// A buffer that has grown beyond this is given back once it is empty.
const KEPT: usize = 256 * 1024;

/// Datagrams waiting to be sent, in order.
///
/// The bytes are copied into one buffer that is used again: neighbours of one size to one
/// destination lie back to back, which is how the system takes them in one piece where it can.
///
/// # Examples
/// ```
/// use coracle::net::{SendBatch, UdpSocket};
///
/// coracle::block_on(async {
///     let a = UdpSocket::bind("127.0.0.1:0").await?;
///     let b = UdpSocket::bind("127.0.0.1:0").await?;
///
///     let mut batch = SendBatch::new();
///     for i in 0..10_u8 {
///         batch.push(&[i; 100], &b.local_addr()?);
///     }
///     while !batch.is_empty() {
///         a.send_batch(&mut batch).await?;
///     }
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
#[derive(Default)]
pub struct SendBatch {
    bytes: Vec<u8>,
    runs: Vec<Run>,
    /// Datagrams that wait.
    len: usize,
    /// What has been sent already: so many runs, so many bytes.
    head: usize,
    head_bytes: usize,
}

thread_local! {
    /// What endpoints have sent from, for those that send next.
    static LENT: Cell<SendBatch> = const { Cell::new(SendBatch::EMPTY) };
}

/// Neighbours that are equal but for their bytes: all of one size, but the last may be shorter. So
/// the system can take them in one piece, and many are added at little cost.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) size: usize,
    pub(crate) count: usize,
    pub(crate) last: usize,
    /// `None`: to the peer the socket is connected to.
    pub(crate) to: Option<Address>,
    pub(crate) meta: SendMeta,
}

impl Run {
    /// Whether one more, of `len` bytes, belongs to the run. An empty one would vanish in it.
    fn takes(&self, len: usize, to: Option<&Address>, meta: &SendMeta) -> bool {
        self.last == self.size
            && (len == self.size || 0 < len && len < self.size)
            && self.to.as_ref() == to
            && self.meta == *meta
    }

    /// The bytes of its first `count` datagrams.
    pub(crate) fn bytes(&self, count: usize) -> usize {
        match self.count - count {
            0 => self.size * (count - 1) + self.last,
            _ => self.size * count,
        }
    }
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> SendBatch {
        SendBatch::EMPTY
    }

    const EMPTY: SendBatch = SendBatch {
        bytes: Vec::new(),
        runs: Vec::new(),
        len: 0,
        head: 0,
        head_bytes: 0,
    };

    /// For an endpoint: memory for a batch that has none, from the thread's.
    pub(crate) fn equip(&mut self) {
        if self.bytes.capacity() == 0 && self.runs.capacity() == 0 {
            *self = LENT.try_with(Cell::take).unwrap_or_default();
        }
    }

    /// For an endpoint: leaves the memory of a batch that is empty to the thread, so that an idle
    /// endpoint has none.
    pub(crate) fn strip(&mut self) {
        if self.is_empty() && self.runs.capacity() > 0 {
            let empty = std::mem::take(self);
            let _ = LENT.try_with(|kept| kept.set(empty));
        }
    }

    /// The datagram at the front, with its destination.
    pub(crate) fn front(&self) -> Option<(&[u8], Option<&Address>)> {
        let run = self.runs.get(self.head)?;
        let data = &self.bytes[self.head_bytes..][..run.bytes(1)];
        Some((data, run.to.as_ref()))
    }

    /// Adds a datagram (copied) for `to`.
    pub fn push(&mut self, data: &[u8], to: &Address) {
        self.push_with(data, Some(to), SendMeta::default());
    }

    /// Adds a datagram (copied) for the peer the socket is connected to.
    pub fn push_connected(&mut self, data: &[u8]) {
        self.push_with(data, None, SendMeta::default());
    }

    /// Adds a datagram (copied) with more to say about it; `to` may be `None` on a connected
    /// socket.
    ///
    /// # Examples
    /// ```
    /// use coracle::net::{Ecn, SendBatch, SendMeta};
    ///
    /// let mut batch = SendBatch::new();
    /// batch.push_with(b"hello", None, SendMeta::default().with_ecn(Ecn::Capable0));
    /// assert_eq!(batch.len(), 1);
    /// ```
    pub fn push_with(&mut self, data: &[u8], to: Option<&Address>, meta: SendMeta) {
        self.reclaim();
        self.bytes.extend_from_slice(data);
        self.len += 1;
        match self.runs.last_mut() {
            // One that has been sent is behind the head.
            Some(run) if run.count > 0 && run.takes(data.len(), to, &meta) => {
                run.count += 1;
                run.last = data.len();
            }
            _ => self.runs.push(Run {
                size: data.len(),
                count: 1,
                last: data.len(),
                to: to.copied(),
                meta,
            }),
        }
    }

    /// The number of datagrams that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of bytes that wait, headers not counted.
    pub fn size(&self) -> usize {
        self.bytes.len() - self.head_bytes
    }

    /// Drops what waits.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.runs.clear();
        self.len = 0;
        self.head = 0;
        self.head_bytes = 0;
        if self.bytes.capacity() > KEPT {
            self.bytes.shrink_to(KEPT);
            self.runs.shrink_to(KEPT / 64);
        }
    }

    /// What waits: the datagrams, none of the runs empty, and their bytes back to back.
    pub(crate) fn waiting(&self) -> (&[Run], &[u8]) {
        (&self.runs[self.head..], &self.bytes[self.head_bytes..])
    }

    /// Takes `count` datagrams, no more than wait, off the front.
    pub(crate) fn advance(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let run = &mut self.runs[self.head];
            let taken = left.min(run.count);
            self.head_bytes += run.bytes(taken);
            run.count -= taken;
            self.head += usize::from(run.count == 0);
            left -= taken;
        }
        self.len -= count;
        if self.len == 0 {
            self.clear();
        }
    }

    /// What a socket tells of a send that came to `poll`, and may have found an error waiting.
    pub(crate) fn outcome(
        &mut self,
        poll: Poll<io::Result<usize>>,
        earlier: Option<io::Error>,
    ) -> Poll<io::Result<usize>> {
        match (poll, earlier) {
            // The error of the datagram at the front comes again.
            (_, Some(error)) => Poll::Ready(Err(error)),
            (poll, None) => poll.map_err(|error| self.fail_front(error, None)),
        }
    }

    /// Takes the datagram at the front off, which the system refused, and names it in the error.
    /// `peer` is where it was to go if it does not say so itself.
    pub(crate) fn fail_front(&mut self, error: io::Error, peer: Option<&Address>) -> io::Error {
        let Some(run) = self.runs.get(self.head) else {
            return error;
        };
        let len = run.bytes(1);
        let to = run.to.as_ref().or(peer);
        let to = to.map(|to| format!(" to {to}")).unwrap_or_default();
        let from = run.meta.source;
        let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
        let error = context(error, format_args!("send {len} bytes{to}{from}"));
        self.advance(1);
        error
    }

    /// Moves what waits to the front of the buffers once most of them is behind it.
    fn reclaim(&mut self) {
        if self.head > 64 && self.head > self.runs.len() / 2 {
            self.runs.drain(..self.head);
            self.head = 0;
        }
        if self.head_bytes > KEPT / 4 && self.head_bytes > self.bytes.len() / 2 {
            self.bytes.drain(..self.head_bytes);
            self.head_bytes = 0;
        }
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch")
            .field("len", &self.len())
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(batch: &SendBatch) -> Vec<Vec<u8>> {
        let (runs, mut bytes) = batch.waiting();
        let mut datagrams = Vec::new();
        for run in runs {
            for i in 0..run.count {
                let len = if i + 1 == run.count {
                    run.last
                } else {
                    run.size
                };
                let (data, rest) = bytes.split_at(len);
                bytes = rest;
                datagrams.push(data.to_vec());
            }
        }
        assert!(bytes.is_empty());
        datagrams
    }

    fn runs(lens: &[usize]) -> Vec<(usize, usize, usize)> {
        let mut batch = SendBatch::new();
        for len in lens {
            batch.push_connected(&vec![0; *len]);
        }
        let (runs, _) = batch.waiting();
        runs.iter()
            .map(|run| (run.size, run.count, run.last))
            .collect()
    }

    #[test]
    fn neighbours_of_one_size_are_a_run_with_a_shorter_last() {
        assert_eq!(runs(&[100, 100, 100]), [(100, 3, 100)]);
        assert_eq!(runs(&[100, 100, 50, 50]), [(100, 3, 50), (50, 1, 50)]);
        assert_eq!(runs(&[100, 101]), [(100, 1, 100), (101, 1, 101)]);
        assert_eq!(runs(&[100, 0, 0]), [(100, 1, 100), (0, 2, 0)]);
        let mut batch = SendBatch::new();
        batch.push_connected(b"a");
        batch.push(b"a", &Address::UNNAMED);
        assert_eq!(batch.waiting().0.len(), 2, "of two destinations");
    }

    #[test]
    fn order_is_kept_however_it_drains() {
        let mut batch = SendBatch::new();
        let mut model = std::collections::VecDeque::new();
        for round in 0..500_usize {
            for i in 0..round % 7 {
                let data = vec![(round + i) as u8; (round * 3 + i) % 11];
                batch.push_connected(&data);
                model.push_back(data);
            }
            let sent = (round % 5).min(batch.len());
            batch.advance(sent);
            model.drain(..sent);
            assert_eq!(
                waiting(&batch)
                    .into_iter()
                    .collect::<std::collections::VecDeque<_>>(),
                model
            );
            assert_eq!(batch.len(), model.len());
            assert_eq!(batch.size(), model.iter().map(Vec::len).sum::<usize>());
        }
        assert_eq!(waiting(&batch), Vec::from(model));
        batch.advance(batch.len());
        assert_eq!((batch.len(), batch.size()), (0, 0));
    }

    #[test]
    fn memory_goes_from_one_to_the_next() {
        let (mut a, mut b) = (SendBatch::new(), SendBatch::new());
        a.equip();
        a.push_connected(&[1; 100]);
        a.strip();
        assert_eq!(a.len(), 1, "it is in use");
        assert_eq!(a.front(), Some((&[1; 100][..], None)));
        let memory = a.bytes.as_ptr();
        a.advance(1);
        a.strip();
        assert_eq!((a.bytes.capacity(), a.runs.capacity()), (0, 0));
        assert_eq!(a.front(), None);
        b.equip();
        b.push_connected(&[2; 100]);
        assert_eq!(b.bytes.as_ptr(), memory);
        b.equip();
        assert_eq!(waiting(&b), [[2; 100]], "it had some already");
    }

    #[test]
    fn memory_follows_what_waits() {
        let mut batch = SendBatch::new();
        for _ in 0..10_000 {
            batch.push_connected(&[0; 100]);
            batch.push_connected(&[0; 100]);
            batch.advance(2);
        }
        batch.push_connected(&[0; 4 * KEPT]);
        batch.advance(1);
        assert!(batch.bytes.capacity() <= KEPT);
        batch.push_connected(b"x");
        for _ in 0..100_000 {
            batch.push_connected(&[0; 100]);
            batch.advance(1);
        }
        assert!(batch.bytes.capacity() <= KEPT, "a queue that never empties");
    }
}
