//! The deadlines of one runtime: a heap in which every entry can be found and removed.

use std::task::Waker;
use std::time::Instant;

/// Children per node: four makes the heap half as deep as two, and they share a cache line.
const ARITY: usize = 4;

/// Names one deadline in the queue until it fires or is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerKey {
    slot: u32,
    // Distinguishes this use of the slot from earlier ones.
    generation: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    // Place in the heap while in use, next free slot otherwise.
    place: u32,
    waker: Option<Waker>,
}

const NO_SLOT: u32 = u32::MAX;

/// Deadlines with the wakers to call, the nearest first.
///
/// A new deadline is usually the latest and an old one is usually removed before it fires, so
/// both ends of the heap are touched little: adding costs one comparison and no allocation once
/// the queue has been as long before.
#[derive(Debug)]
pub(crate) struct TimerQueue {
    heap: Vec<(Instant, u32)>,
    slots: Vec<Slot>,
    free: u32,
}

impl Default for TimerQueue {
    fn default() -> TimerQueue {
        TimerQueue {
            heap: Vec::new(),
            slots: Vec::new(),
            free: NO_SLOT,
        }
    }
}

impl TimerQueue {
    /// The nearest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(deadline, _)| *deadline)
    }

    pub(crate) fn insert(&mut self, deadline: Instant, waker: Waker) -> TimerKey {
        let place = self.heap.len();
        let slot = if self.free == NO_SLOT {
            self.slots.push(Slot {
                generation: 0,
                place: place as u32,
                waker: Some(waker),
            });
            self.slots.len() as u32 - 1
        } else {
            let slot = self.free;
            let entry = &mut self.slots[slot as usize];
            self.free = entry.place;
            entry.waker = Some(waker);
            slot
        };
        self.heap.push((deadline, slot));
        self.sift_up(place);
        TimerKey {
            slot,
            generation: self.slots[slot as usize].generation,
        }
    }

    /// The waker of a deadline that is still ahead.
    pub(crate) fn waker(&mut self, key: TimerKey) -> Option<&mut Waker> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.waker.as_mut()
    }

    /// Moves a deadline; its waker stays. False if it has fired.
    pub(crate) fn reset(&mut self, key: TimerKey, deadline: Instant) -> bool {
        let place = match self.slots.get(key.slot as usize) {
            Some(slot) if slot.generation == key.generation => slot.place as usize,
            _ => return false,
        };
        self.heap[place].0 = deadline;
        self.sift_up(place);
        self.sift_down(place);
        true
    }

    /// Forgets a deadline; one that has fired already is no error.
    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<Waker> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        self.take_at(slot.place as usize)
    }

    /// Moves the wakers of all deadlines up to `now` to `due`, in their order.
    pub(crate) fn take_due(&mut self, now: Instant, due: &mut Vec<Waker>) {
        while self
            .heap
            .first()
            .is_some_and(|(deadline, _)| *deadline <= now)
        {
            due.extend(self.take_at(0));
        }
    }

    fn take_at(&mut self, place: usize) -> Option<Waker> {
        let (_, slot) = self.heap.swap_remove(place);
        if place < self.heap.len() {
            // The last entry came here: it may belong further up or further down.
            self.slots[self.heap[place].1 as usize].place = place as u32;
            self.sift_up(place);
            self.sift_down(place);
        }
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.place = self.free;
        self.free = slot;
        entry.waker.take()
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.slots[self.heap[a].1 as usize].place = a as u32;
        self.slots[self.heap[b].1 as usize].place = b as u32;
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
        self.slots[self.heap[place].1 as usize].place = place as u32;
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let first = place * ARITY + 1;
            let last = (first + ARITY).min(self.heap.len());
            let Some(least) = (first..last).min_by_key(|child| self.heap[*child].0) else {
                break;
            };
            if self.heap[place].0 <= self.heap[least].0 {
                break;
            }
            self.swap(place, least);
            place = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Numbers without a pattern, the same each time (xorshift).
    fn numbers() -> impl FnMut() -> u64 {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    fn drain(queue: &mut TimerQueue) -> Vec<Instant> {
        let mut deadlines = Vec::new();
        let mut due = Vec::new();
        while let Some(next) = queue.next() {
            queue.take_due(next, &mut due);
            deadlines.resize(due.len(), next);
        }
        deadlines
    }

    #[test]
    fn deadlines_come_in_order_whatever_was_removed_or_moved() {
        let start = Instant::now();
        let mut number = numbers();
        let mut queue = TimerQueue::default();
        let mut alive = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..2_000 {
            let deadline = start + Duration::from_nanos(number() % 500);
            alive.push((deadline, queue.insert(deadline, Waker::noop().clone())));
            if number() % 3 == 0 {
                let (_, key) = alive.swap_remove(number() as usize % alive.len());
                assert!(queue.remove(key).is_some());
                assert!(queue.remove(key).is_none(), "a key names one use only");
                assert!(!queue.reset(key, deadline));
            }
            if number() % 3 == 0 && !alive.is_empty() {
                let moved = number() as usize % alive.len();
                let (deadline, key) = &mut alive[moved];
                *deadline = start + Duration::from_nanos(number() % 500);
                assert!(queue.reset(*key, *deadline));
            }
        }
        expected.extend(alive.iter().map(|(deadline, _)| *deadline));
        expected.sort();
        assert_eq!(drain(&mut queue), expected);
        assert!(alive.iter().all(|(_, key)| queue.remove(*key).is_none()));
    }

    #[test]
    fn a_deadline_has_a_waker_until_it_has_fired() {
        let mut queue = TimerQueue::default();
        let now = Instant::now();
        let key = queue.insert(now, Waker::noop().clone());
        assert!(queue.waker(key).is_some());
        queue.take_due(now, &mut Vec::new());
        assert!(queue.waker(key).is_none());
        let other = queue.insert(now, Waker::noop().clone());
        assert!(queue.waker(key).is_none(), "the slot is another's now");
        assert!(queue.waker(other).is_some());
    }

    #[test]
    fn a_queue_does_not_grow_with_use() {
        let mut queue = TimerQueue::default();
        let now = Instant::now();
        for _ in 0..1_000 {
            let key = queue.insert(now, Waker::noop().clone());
            queue.remove(key);
        }
        assert_eq!(queue.slots.len(), 1);
    }
}
