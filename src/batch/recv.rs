//! Received datagrams, in buffers that are used again and again.

use std::cell::Cell;
use std::fmt;

use crate::batch::Meta;

/// Datagrams taken by one call, unless said otherwise.
const DATAGRAMS: usize = 32;

/// Room for the largest UDP datagram, or for a run of merged ones.
const SIZE: usize = 64 * 1024;

/// Room for received datagrams and what is known of each.
///
/// The buffers are allocated once and lent out again for every receive. Memory that no datagram
/// has touched yet costs address space only: a batch that sees small datagrams stays small.
///
/// # Examples
/// ```
/// use coracle::net::{RecvBatch, UdpSocket};
///
/// coracle::block_on(async {
///     let socket = UdpSocket::bind("127.0.0.1:0").await?;
///     socket.send_to(b"one", &socket.local_addr()?).await?;
///     socket.send_to(b"two", &socket.local_addr()?).await?;
///
///     let mut batch = RecvBatch::new();
///     let mut seen = Vec::new();
///     while seen.len() < 2 {
///         socket.recv_batch(&mut batch).await?;
///         seen.extend(batch.iter().map(|(data, meta)| (data.to_vec(), meta.from)));
///     }
///     assert_eq!(seen[1].0, b"two");
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub struct RecvBatch {
    arena: Vec<u8>,
    size: usize,
    slots: Vec<Slot>,
    filled: usize,
}

/// One buffer's content: a datagram, or several that the system merged.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) len: usize,
    pub(crate) meta: Meta,
}

impl RecvBatch {
    /// Room for 32 datagrams of 64 KiB: every UDP datagram fits.
    pub fn new() -> RecvBatch {
        RecvBatch::with_capacity(DATAGRAMS, SIZE)
    }

    /// Room for `datagrams` (at least one) of at most `size` bytes; longer ones are cut off and
    /// marked as [truncated](Meta::truncated).
    pub fn with_capacity(datagrams: usize, size: usize) -> RecvBatch {
        let datagrams = datagrams.max(1);
        RecvBatch {
            arena: vec![0; datagrams.saturating_mul(size)],
            size,
            slots: vec![Slot::EMPTY; datagrams],
            filled: 0,
        }
    }

    /// Each datagram of the last receive with what is known of it, in order of arrival. Runs that
    /// the system merged come apart again.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Meta)> {
        self.slots[..self.filled]
            .iter()
            .enumerate()
            .flat_map(|(i, slot)| {
                let data = &self.arena[i * self.size..][..slot.len];
                Segments::new(data, &slot.meta).map(move |data| (data, &slot.meta))
            })
    }

    /// The only datagram of the last receive, if it was one.
    pub(crate) fn lone(&self) -> Option<(&[u8], &Meta)> {
        match &self.slots[..self.filled] {
            [slot] if slot.datagrams() == 1 => Some((&self.arena[..slot.len], &slot.meta)),
            _ => None,
        }
    }

    /// The number of datagrams received last.
    pub fn len(&self) -> usize {
        self.slots[..self.filled].iter().map(Slot::datagrams).sum()
    }

    /// Whether nothing has been received.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Forgets what was received.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// How many buffers there are, and the size of each in bytes.
    pub fn capacity(&self) -> (usize, usize) {
        (self.slots.len(), self.size)
    }

    /// The bytes of all buffers, the size of each, and what is to be said of each.
    pub(crate) fn buffers(&mut self) -> (&mut [u8], usize, &mut [Slot]) {
        (&mut self.arena, self.size, &mut self.slots)
    }

    /// How many buffers were filled.
    #[cfg(any(unix, windows))]
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    pub(crate) fn set_filled(&mut self, filled: usize) {
        self.filled = filled;
    }
}

impl Slot {
    pub(crate) const EMPTY: Slot = Slot {
        len: 0,
        meta: Meta::EMPTY,
    };

    fn datagrams(&self) -> usize {
        match self.meta.segment_size {
            Some(size) if size > 0 => self.len.div_ceil(size).max(1),
            _ => 1,
        }
    }
}

/// The datagrams in one buffer: cut at the segment size, or the whole, which may be empty.
struct Segments<'a> {
    rest: Option<&'a [u8]>,
    size: usize,
}

impl<'a> Segments<'a> {
    fn new(data: &'a [u8], meta: &Meta) -> Segments<'a> {
        Segments {
            rest: Some(data),
            size: meta.segment_size.unwrap_or(0),
        }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        if self.size == 0 || rest.len() <= self.size {
            return Some(rest);
        }
        let (segment, rest) = rest.split_at(self.size);
        self.rest = Some(rest);
        Some(segment)
    }
}

impl Default for RecvBatch {
    fn default() -> RecvBatch {
        RecvBatch::new()
    }
}

impl fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBatch")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// Room for Unix datagrams, which may be as large as the sender's buffer (asyncio takes 256 KiB).
const UNIX: (usize, usize) = (8, 256 * 1024);

thread_local! {
    static IP_BATCH: Cell<Option<Box<RecvBatch>>> = const { Cell::new(None) };
    static UNIX_BATCH: Cell<Option<Box<RecvBatch>>> = const { Cell::new(None) };
}

/// The thread's batch for datagrams of any size; all endpoints of a thread share it. Given back
/// when it is dropped.
pub(crate) struct Lent {
    batch: Option<Box<RecvBatch>>,
    unix: bool,
}

impl Lent {
    pub(crate) fn new(unix: bool) -> Lent {
        let kept = if unix { &UNIX_BATCH } else { &IP_BATCH };
        let batch = kept.try_with(Cell::take).ok().flatten();
        let batch = batch.unwrap_or_else(|| {
            Box::new(if unix {
                RecvBatch::with_capacity(UNIX.0, UNIX.1)
            } else {
                RecvBatch::new()
            })
        });
        Lent {
            batch: Some(batch),
            unix,
        }
    }

    /// `None` only while it is being dropped.
    pub(crate) fn batch(&mut self) -> Option<&mut RecvBatch> {
        self.batch.as_deref_mut()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let kept = if self.unix { &UNIX_BATCH } else { &IP_BATCH };
        let batch = self.batch.take();
        let _ = kept.try_with(|kept| kept.set(batch));
    }
}

/// Received datagrams that wait to be delivered, in no more memory than they need.
pub(crate) struct Kept {
    bytes: Box<[u8]>,
    slots: Box<[Slot]>,
    /// The datagrams at the front that have been delivered.
    delivered: usize,
}

impl Kept {
    /// The datagrams of `batch` from number `delivered` on, copied.
    pub(crate) fn new(batch: &RecvBatch, delivered: usize) -> Kept {
        let mut before = delivered;
        let slots = batch.slots[..batch.filled].iter().enumerate();
        let kept: Vec<(usize, &Slot)> = slots
            .skip_while(|(_, slot)| {
                let passed = slot.datagrams() <= before;
                before -= if passed { slot.datagrams() } else { 0 };
                passed
            })
            .collect();
        let mut bytes = Vec::with_capacity(kept.iter().map(|(_, slot)| slot.len).sum());
        for (i, slot) in &kept {
            bytes.extend_from_slice(&batch.arena[i * batch.size..][..slot.len]);
        }
        Kept {
            bytes: bytes.into(),
            slots: kept.into_iter().map(|(_, slot)| slot.clone()).collect(),
            delivered: before,
        }
    }

    /// Those that wait.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Meta)> {
        let mut bytes = &self.bytes[..];
        self.slots
            .iter()
            .flat_map(move |slot| {
                let (data, rest) = bytes.split_at(slot.len);
                bytes = rest;
                Segments::new(data, &slot.meta).map(move |data| (data, &slot.meta))
            })
            .skip(self.delivered)
    }

    /// So many of them have been delivered; false if that were all.
    pub(crate) fn deliver(&mut self, count: usize) -> bool {
        self.delivered += count;
        self.delivered < self.slots.iter().map(Slot::datagrams).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(contents: &[(&[u8], Option<usize>)]) -> RecvBatch {
        let mut batch = RecvBatch::with_capacity(contents.len(), 16);
        let (arena, size, slots) = batch.buffers();
        for (i, (data, segment_size)) in contents.iter().enumerate() {
            arena[i * size..][..data.len()].copy_from_slice(data);
            slots[i].len = data.len();
            slots[i].meta.segment_size = *segment_size;
        }
        batch.set_filled(contents.len());
        batch
    }

    #[test]
    fn merged_runs_come_apart() {
        let batch = batch(&[
            (b"abcdefgh", Some(3)),
            (b"", None),
            (b"xyz", None),
            (b"abcdef", Some(3)),
            (b"ab", Some(3)),
        ]);
        let all: Vec<&[u8]> = batch.iter().map(|(data, _)| data).collect();
        let expected: [&[u8]; 8] = [b"abc", b"def", b"gh", b"", b"xyz", b"abc", b"def", b"ab"];
        assert_eq!(all, expected);
        assert_eq!(batch.len(), all.len());
    }

    #[test]
    fn what_is_kept_is_what_was_not_delivered() {
        let batch = batch(&[
            (b"abcdefgh", Some(3)),
            (b"", None),
            (b"xyz", None),
            (b"abcdef", Some(3)),
        ]);
        let all: Vec<&[u8]> = batch.iter().map(|(data, _)| data).collect();
        for delivered in 0..all.len() {
            let mut kept = Kept::new(&batch, delivered);
            assert!(kept.bytes.len() <= 17 && kept.slots.len() <= 4);
            for then in delivered..all.len() {
                let waiting: Vec<&[u8]> = kept.iter().map(|(data, _)| data).collect();
                assert_eq!(waiting, all[then..]);
                assert_eq!(kept.deliver(1), then + 1 < all.len());
            }
        }
        assert_eq!(Kept::new(&batch, 4).bytes.len(), 9, "no more than that");
    }

    #[test]
    fn a_batch_has_room_for_one_at_least() {
        assert_eq!(RecvBatch::with_capacity(0, 10).capacity(), (1, 10));
    }
}
