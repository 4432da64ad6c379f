//! What waits for the receivers of a Unix socket that is not connected: a queue for each, so that
//! one that does not read holds up nobody else.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::batch::SendBatch;
use crate::endpoint::datagram::room::Room;
pub(super) use crate::endpoint::datagram::room::Wire;
use crate::endpoint::flow::DATAGRAM_OVERHEAD;

/// What may wait for one receiver and for all, in bytes of memory, beyond the high limit of the
/// write buffer.
pub(super) const PEER: usize = 1 << 20;
const ALL: usize = 8 << 20;

/// Memory that a datagram takes beyond its bytes, and a queue beyond its datagrams.
pub(super) const DATAGRAM: usize = 32;
const QUEUE: usize = 512;

/// Datagrams sent to one receiver before the next has its turn, and to all in one go.
const TURN: usize = 8;
const GO: usize = 128;

/// Receivers that may be found full in one go.
const FULL: usize = 32;

/// Receivers that have a queue.
const QUEUES: usize = 4096;

/// Receivers looked at in one go, when there may be room again and when there is more to send.
const LOOKS: usize = 1024;
const FEW_LOOKS: usize = 32;

/// What waits for a receiver that has taken nothing for so long, while others have, is no reason
/// to pause writing.
const PATIENCE: Duration = Duration::from_secs(1);

/// The queues, and the room in the send buffer that they share.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    room: Room,
    queues: HashMap<Address, Queue>,
    /// Those who have a queue, once each.
    turns: VecDeque<Address>,
    len: usize,
    /// Bytes with `DATAGRAM_OVERHEAD`, and those of them that wait for the stalled.
    size: usize,
    stalled: usize,
    memory: usize,
    /// Counts ticks from 1 on.
    tick: u64,
    /// Datagrams that went while others waited.
    served: u64,
    /// Whose queue was found to be the largest.
    largest: Option<Address>,
    /// Those of whom it was told that something was dropped, until there is room again.
    told: HashSet<Address>,
}

#[derive(Debug, Default)]
struct Queue {
    datagrams: VecDeque<Box<[u8]>>,
    size: usize,
    memory: usize,
    /// The tick since which the receiver had no room, when last tried.
    full: u64,
    progress: Progress,
}

#[derive(Debug, Default)]
enum Progress {
    #[default]
    Made,
    /// None since then, when so many datagrams had gone to others.
    Missing(Instant, u64),
    /// None for long.
    Stalled,
}

/// What has become of a datagram.
#[derive(Debug)]
pub(super) enum Sending {
    Sent,
    Queued,
    Refused(io::Error),
    /// There was too much: so many datagrams were dropped, of it or of the largest queue. With
    /// what is to be told about it, if it is news.
    Dropped(usize, Option<io::Error>),
}

/// Why the queues are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// There is more to send.
    Now,
    /// Time has passed, and there may be room.
    Tick,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pumped {
    /// Something left its queue.
    pub(super) progress: bool,
    /// There is more to do now.
    pub(super) more: bool,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            tick: 1,
            ..Outbox::default()
        }
    }

    /// For an endpoint of a family that has one.
    pub(super) fn for_receivers() -> Option<Outbox> {
        Some(Outbox::new())
    }

    /// Somebody else may change the size of the send buffer.
    pub(super) fn ask_again(&mut self) {
        self.room.ask_again();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Datagrams that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The size of what waits, but for receivers that take nothing while others do.
    pub(super) fn size(&self) -> usize {
        self.size - self.stalled
    }

    /// Sends a datagram, or queues it: then `high` more bytes than usual may wait.
    pub(super) fn send(
        &mut self,
        wire: &impl Wire,
        data: &[u8],
        to: &Address,
        high: usize,
    ) -> Sending {
        self.room.pass();
        let waits = !self.queues.is_empty() && self.queues.contains_key(to);
        let mut full = 0;
        if !waits && self.room.admits(wire, to, data.len()) {
            match wire.try_send(data, to) {
                Ok(()) => {
                    self.room.sent(wire, to, data.len());
                    self.served += u64::from(self.len > 0);
                    return Sending::Sent;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.room.is_full(wire) {
                        full = self.tick;
                    }
                }
                Err(error) => {
                    if is_gone(&error) {
                        self.room.gone(to);
                    }
                    return Sending::Refused(error);
                }
            }
        }
        let outcome = self.push(data, to, high);
        if let Some(queue) = self.queues.get_mut(to).filter(|_| full > 0) {
            queue.full = full;
        }
        outcome
    }

    /// Whether all of `batch` may go at once, past the queues.
    pub(super) fn admits_all(&mut self, wire: &impl Wire, batch: &SendBatch) -> bool {
        self.room.pass();
        self.is_empty() && self.room.admits_all(wire, sizes(batch))
    }

    /// What `admits_all` has let through is on its way.
    pub(super) fn sent_all(&mut self, batch: &SendBatch) {
        self.room.sent_all(sizes(batch));
    }

    /// Sends what may go, each receiver in turn. `refused` is told of what the system refuses.
    pub(super) fn pump(
        &mut self,
        wire: &impl Wire,
        when: When,
        mut refused: impl FnMut(io::Error, usize, &Address),
    ) -> Pumped {
        let mut pumped = Pumped::default();
        if self.is_empty() {
            return pumped;
        }
        self.room.pass();
        let (now, looks) = match when {
            When::Tick => {
                self.tick += 1;
                self.room.tick(wire);
                (Some(wire.now()), LOOKS)
            }
            When::Now => (None, FEW_LOOKS),
        };
        let mut left = GO;
        let mut full = 0;
        for _ in 0..looks.min(self.turns.len()) {
            if left == 0 || full == FULL {
                pumped.more |= left == 0;
                break;
            }
            let Some(to) = self.turns.pop_front() else {
                break;
            };
            let Entry::Occupied(mut entry) = self.queues.entry(to) else {
                continue;
            };
            let queue = entry.get_mut();
            let before = (queue.size, queue.memory);
            let mut turn = left.min(TURN);
            let mut everybody = false;
            while let Some(data) = queue.datagrams.front() {
                if turn == 0 {
                    pumped.more = true;
                    break;
                }
                if queue.full == self.tick || !self.room.admits(wire, &to, data.len()) {
                    break;
                }
                turn -= 1;
                left -= 1;
                let len = data.len();
                match wire.try_send(data, &to) {
                    Ok(()) => {
                        self.room.sent(wire, &to, len);
                        self.served += 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        everybody = self.room.is_full(wire);
                        if !everybody {
                            queue.full = self.tick;
                            full += 1;
                        }
                        break;
                    }
                    Err(error) => {
                        if is_gone(&error) {
                            self.room.gone(&to);
                        }
                        refused(error, len, &to);
                    }
                }
                queue.pop_front();
                self.len -= 1;
                pumped.progress = true;
            }
            self.size -= before.0 - queue.size;
            self.memory -= before.1 - queue.memory;
            if before.0 > queue.size {
                if let Progress::Stalled = queue.progress {
                    self.stalled -= before.0;
                }
                queue.progress = Progress::Made;
            } else if let Some(now) = now {
                if queue.has_stalled(now, self.served) {
                    self.stalled += queue.size;
                }
            }
            if queue.datagrams.is_empty() {
                self.memory -= QUEUE;
                entry.remove();
            } else {
                self.turns.push_back(to);
            }
            if everybody {
                pumped.more = false;
                break;
            }
        }
        if self.is_empty() {
            // Memory is kept for what waits only.
            self.queues = HashMap::new();
            self.turns = VecDeque::new();
            self.told = HashSet::new();
        }
        pumped
    }

    /// Drops what waits; tells how many datagrams that were for whom.
    pub(super) fn give_up(&mut self) -> Vec<(Address, usize)> {
        let queues = std::mem::take(&mut self.queues);
        self.turns = VecDeque::new();
        (self.len, self.size, self.stalled, self.memory) = (0, 0, 0, 0);
        queues
            .into_iter()
            .map(|(to, queue)| (to, queue.datagrams.len()))
            .collect()
    }

    fn push(&mut self, data: &[u8], to: &Address, high: usize) -> Sending {
        let memory = data.len() + DATAGRAM;
        let mut dropped = 0;
        let queues = self.queues.len();
        let queue = match self.queues.entry(*to) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if queues >= QUEUES => return Sending::Dropped(1, self.tell(to, 0)),
            Entry::Vacant(entry) => {
                self.turns.push_back(*to);
                self.memory += QUEUE;
                entry.insert(Queue::default())
            }
        };
        let bound = PEER.saturating_add(high);
        if queue.memory + memory > bound && queue.memory > 0 {
            let waits = queue.datagrams.len();
            return Sending::Dropped(1, self.tell(to, waits));
        }
        let all = ALL.saturating_add(high);
        if !self.told.is_empty() && queue.memory <= bound / 2 && self.memory <= all / 2 {
            self.told.remove(to);
        }
        let size = data.len() + DATAGRAM_OVERHEAD;
        queue.datagrams.push_back(data.into());
        queue.size += size;
        queue.memory += memory;
        if let Progress::Stalled = queue.progress {
            self.stalled += size;
        }
        self.len += 1;
        self.size += size;
        self.memory += memory;
        let mut told = None;
        while self.memory > all {
            let (error, stop) = self.drop_of_the_largest();
            dropped += 1;
            told = told.or(error);
            if stop {
                break;
            }
        }
        match dropped {
            0 => Sending::Queued,
            _ => Sending::Dropped(dropped, told),
        }
    }

    /// Drops the last datagram of the largest queue, or of one that is nearly that.
    fn drop_of_the_largest(&mut self) -> (Option<io::Error>, bool) {
        let mean = self.memory / self.queues.len().max(1);
        let is_large = |queue: &Queue| queue.memory + QUEUE >= mean;
        let known = self
            .largest
            .filter(|to| self.queues.get(to).is_some_and(is_large));
        let largest = known.or_else(|| {
            let sizes = self.queues.iter();
            sizes
                .max_by_key(|(_, queue)| queue.memory)
                .map(|(to, _)| *to)
        });
        self.largest = largest;
        let Some(to) = largest else {
            return (None, true);
        };
        let Some(queue) = self.queues.get_mut(&to) else {
            return (None, true);
        };
        let waits = queue.datagrams.len();
        let Some(data) = queue.datagrams.pop_back() else {
            return (None, true);
        };
        let size = data.len() + DATAGRAM_OVERHEAD;
        queue.size -= size;
        queue.memory -= data.len() + DATAGRAM;
        if let Progress::Stalled = queue.progress {
            self.stalled -= size;
        }
        self.len -= 1;
        self.size -= size;
        self.memory -= data.len() + DATAGRAM;
        if queue.datagrams.is_empty() {
            self.memory -= QUEUE;
            self.queues.remove(&to);
            self.turns.retain(|turn| *turn != to);
        }
        (self.tell(&to, waits), false)
    }

    /// What to tell of a datagram that is dropped, if that is news.
    fn tell(&mut self, to: &Address, waits: usize) -> Option<io::Error> {
        if self.told.len() >= QUEUES {
            self.told.clear();
        }
        self.told.insert(*to).then(|| too_much(to, waits))
    }
}

impl Queue {
    fn pop_front(&mut self) {
        if let Some(data) = self.datagrams.pop_front() {
            self.size -= data.len() + DATAGRAM_OVERHEAD;
            self.memory -= data.len() + DATAGRAM;
        }
    }

    /// Nothing went at this tick: true if that is so for long, which is news.
    fn has_stalled(&mut self, now: Instant, served: u64) -> bool {
        match self.progress {
            Progress::Made => self.progress = Progress::Missing(now, served),
            Progress::Missing(since, before) => {
                if served > before && now.saturating_duration_since(since) >= PATIENCE {
                    self.progress = Progress::Stalled;
                    return true;
                }
            }
            Progress::Stalled => {}
        }
        false
    }
}

pub(super) fn too_much(to: &Address, waits: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::WouldBlock,
        format!(
            "{to} takes nothing, and {waits} datagrams wait for it: what is sent to it beyond that \
             is dropped"
        ),
    )
}

/// Whether the system says that there is no such receiver.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

/// The sizes of the datagrams in a batch, and how many there are of each.
fn sizes(batch: &SendBatch) -> impl Iterator<Item = (usize, usize)> + '_ {
    let (runs, _) = batch.waiting();
    runs.iter().map(|run| (run.size, run.count))
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
