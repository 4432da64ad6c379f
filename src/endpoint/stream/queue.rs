//! What waits to be sent: pieces of memory, whose bytes are not moved any more.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::endpoint::stream::lent;

/// A piece takes no more once it has so much, unless that is the first: 64 KiB and what TLS adds.
const PIECE: usize = 66 * 1024;

/// Empty pieces that are kept for what comes, and one more.
const SPARE: usize = 8;

/// Those that are left to the thread when nothing waits any more, and as many as the last bytes
/// took: a connection that fills the queue again and again needs no new memory each time.
const KEPT: usize = 2;

/// Pieces that are sent with one system call.
pub(super) const SLICES: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those in use, then empty ones.
    pieces: VecDeque<Piece>,
    used: usize,
    /// The most that were in use since it was empty.
    most: usize,
    len: usize,
}

#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    /// Those before have been sent.
    start: usize,
    /// Those behind are room.
    end: usize,
}

impl Queue {
    pub(super) const fn new() -> Queue {
        Queue {
            pieces: VecDeque::new(),
            used: 0,
            most: 0,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it holds memory, be it empty.
    pub(super) fn has_memory(&self) -> bool {
        self.pieces.capacity() > 0
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        if !data.is_empty() {
            self.piece_for(data.len()).append(data);
            self.len += data.len();
        }
    }

    /// Removes from the front so many bytes, if they are there.
    pub(super) fn consume(&mut self, len: usize) {
        let mut rest = len.min(self.len);
        self.len -= rest;
        while let Some(first) = self.pieces.front_mut().filter(|_| rest > 0) {
            let some = rest.min(first.end - first.start);
            first.start += some;
            rest -= some;
            if first.start < first.end {
                break;
            }
            (first.start, first.end) = (0, 0);
            self.used -= 1;
            let empty = self.pieces.pop_front();
            if let Some(empty) = empty.filter(|empty| empty.bytes.capacity() <= PIECE) {
                // The one that was used last is used next, if it can be.
                match self.used {
                    0 => self.pieces.push_front(empty),
                    _ if self.pieces.len() - self.used < SPARE => self.pieces.push_back(empty),
                    _ => {}
                }
            }
        }
    }

    /// Gives up what it has not needed lately: it is empty.
    pub(super) fn shrink(&mut self) {
        self.pieces.truncate(KEPT.max(self.most));
        self.most = 0;
    }

    /// What is to be sent first.
    pub(super) fn slices(&self) -> ([IoSlice<'_>; SLICES], usize) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = self.used.min(SLICES);
        for (slice, piece) in slices[..count].iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(&piece.bytes[piece.start..piece.end]);
        }
        (slices, count)
    }

    /// The piece that takes the next bytes, so many.
    fn piece_for(&mut self, len: usize) -> &mut Piece {
        if !self.has_memory() {
            lent::equip(self);
        }
        let fits = |piece: &Piece| piece.end + len <= PIECE.max(piece.bytes.len());
        if self.used == 0 || !fits(&self.pieces[self.used - 1]) {
            if self.used == self.pieces.len() {
                self.pieces.push_back(Piece::default());
            }
            self.used += 1;
            self.most = self.most.max(self.used);
        }
        &mut self.pieces[self.used - 1]
    }
}

#[cfg(feature = "tls")]
impl crate::tls::lent::Room for Queue {
    fn room(&mut self, len: usize) -> &mut [u8] {
        let piece = self.piece_for(len);
        let end = piece.end + len;
        if piece.bytes.len() < end {
            piece.bytes.resize(end, 0);
        }
        &mut piece.bytes[piece.end..]
    }

    fn fill(&mut self, len: usize) {
        self.pieces[self.used - 1].end += len;
        self.len += len;
    }
}

impl Piece {
    fn append(&mut self, data: &[u8]) {
        match self.bytes[self.end..].get_mut(..data.len()) {
            Some(room) => room.copy_from_slice(data),
            None => {
                self.bytes.truncate(self.end);
                self.bytes.extend_from_slice(data);
            }
        }
        self.end += data.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(queue: &Queue) -> Vec<u8> {
        let (slices, count) = queue.slices();
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut queue = Queue::new();
        let mut expected = Vec::new();
        let mut byte = 0_u8;
        for step in 0..2_000 {
            let data = vec![byte; step * 7 % 9_000];
            byte = byte.wrapping_add(1);
            queue.push(&data);
            expected.extend_from_slice(&data);
            if step % 3 == 0 || expected.len() > 500_000 {
                let sent = (step * 31 % 40_000).min(expected.len());
                queue.consume(sent);
                expected.drain(..sent);
            }
            assert_eq!(queue.len(), expected.len());
            let offered = content(&queue);
            assert!(!offered.is_empty() || expected.is_empty());
            assert!(expected.starts_with(&offered));
        }
        queue.consume(queue.len());
        assert!(queue.is_empty() && content(&queue).is_empty());
    }

    #[test]
    fn memory_is_used_again_and_not_kept_without_measure() {
        let mut queue = Queue::new();
        for _ in 0..100 {
            queue.push(&[1; PIECE]);
        }
        queue.consume(99 * PIECE);
        assert_eq!(queue.pieces.len(), 1 + SPARE);
        queue.consume(queue.len());
        assert_eq!(queue.pieces.len(), SPARE + 1);
        let memory = queue.pieces[0].bytes.as_ptr();
        queue.push(&[1; 100]);
        assert_eq!(queue.pieces[0].bytes.as_ptr(), memory);
        queue.consume(queue.len());
        assert_eq!(queue.pieces[0].bytes.as_ptr(), memory, "again and again");
        queue.push(&[1; 2 * PIECE]);
        queue.consume(queue.len());
        assert_eq!(queue.pieces.len(), SPARE, "one that has become large goes");
        queue.shrink();
        assert_eq!(queue.pieces.len(), SPARE, "as many as were needed");
        for _ in 0..KEPT + 2 {
            queue.push(&[1; PIECE]);
        }
        queue.consume(queue.len());
        queue.shrink();
        assert_eq!(queue.pieces.len(), KEPT + 2, "fewer were needed");
        queue.push(&[1; 100]);
        assert_eq!(content(&queue), [1; 100]);
        queue.consume(queue.len());
        queue.shrink();
        assert_eq!(queue.pieces.len(), KEPT);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn room_is_filled_in_order_with_what_is_pushed() {
        use crate::tls::lent::Room;

        let mut queue = Queue::new();
        let mut expected = Vec::new();
        for step in 1..200_usize {
            let len = step * 7_919 % 70_000;
            let filled = len / 2;
            let room = queue.room(len);
            assert!(room.len() >= len);
            room[..filled].fill(step as u8);
            queue.fill(filled);
            queue.push(&[0; 3]);
            expected.extend(vec![step as u8; filled]);
            expected.extend([0; 3]);
            let sent = expected.len() * 2 / 3;
            queue.consume(sent);
            expected.drain(..sent);
            assert_eq!(content(&queue), expected);
        }
    }
}
