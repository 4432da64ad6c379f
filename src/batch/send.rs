//! Datagrams to be sent, back to back in one buffer.

use std::fmt;
use std::io;

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
    items: Vec<Item>,
    /// What has been sent already: so many items, so many bytes.
    head: usize,
    head_bytes: usize,
}

/// One datagram but for its bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) len: usize,
    /// `None`: to the peer the socket is connected to.
    pub(crate) to: Option<Address>,
    pub(crate) meta: SendMeta,
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> SendBatch {
        SendBatch::default()
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
        self.items.push(Item {
            len: data.len(),
            to: to.copied(),
            meta,
        });
    }

    /// The number of datagrams that wait.
    pub fn len(&self) -> usize {
        self.items.len() - self.head
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
        self.items.clear();
        self.head = 0;
        self.head_bytes = 0;
        if self.bytes.capacity() > KEPT {
            self.bytes.shrink_to(KEPT);
            self.items.shrink_to(KEPT / 64);
        }
    }

    /// What waits: the datagrams, and their bytes back to back.
    pub(crate) fn waiting(&self) -> (&[Item], &[u8]) {
        (&self.items[self.head..], &self.bytes[self.head_bytes..])
    }

    /// Takes `count` datagrams off the front.
    pub(crate) fn advance(&mut self, count: usize) {
        let sent = &self.items[self.head..][..count];
        self.head_bytes += sent.iter().map(|item| item.len).sum::<usize>();
        self.head += count;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Takes the datagram at the front off, which the system refused, and names it in the error.
    /// `peer` is where it was to go if it does not say so itself.
    pub(crate) fn fail_front(&mut self, error: io::Error, peer: Option<&Address>) -> io::Error {
        let Some(front) = self.items.get(self.head) else {
            return error;
        };
        let error = match front.to.as_ref().or(peer) {
            Some(to) => context(error, format_args!("send {} bytes to {to}", front.len)),
            None => context(error, format_args!("send {} bytes", front.len)),
        };
        self.advance(1);
        error
    }

    /// Moves what waits to the front of the buffers once most of them is behind it.
    fn reclaim(&mut self) {
        if self.head > 64 && self.head > self.items.len() / 2 {
            self.items.drain(..self.head);
            self.bytes.drain(..self.head_bytes);
            self.head = 0;
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
        let (items, mut bytes) = batch.waiting();
        let take = |item: &Item| {
            let (data, rest) = bytes.split_at(item.len);
            bytes = rest;
            data.to_vec()
        };
        items.iter().map(take).collect()
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
            assert_eq!(batch.len(), model.len());
            assert_eq!(batch.size(), model.iter().map(Vec::len).sum::<usize>());
        }
        assert_eq!(waiting(&batch), Vec::from(model));
        batch.advance(batch.len());
        assert_eq!((batch.len(), batch.size()), (0, 0));
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
