//! Who may use how much of a Unix socket's send buffer.
//!
//! Linux charges a datagram to its sender until it is read. So a few receivers that read nothing
//! fill the send buffer, and then nothing goes to anybody. The system tells only the sum of what is
//! unread, not whose it is; that is worked out here:
//!
//! - A quarter of the buffer is for whoever comes. Nothing is recorded below that, and the sum is asked
//!   for only when the estimate reaches it.
//! - Above, each receiver may have some of what is left unread, less the less is left, and one
//!   datagram at least. The last of it is for those who have been seen to read.
//! - The *floor* is the part of the sum that does not go down. Whenever the sum is back at it, all
//!   that was sent above it has been read. A receiver reads in order, so those it was sent to have
//!   read everything: they start anew.
//! - When the sum stays above, one of those that were sent to since does not read. They are
//!   *suspects* then, and the floor rises to the sum. A suspect is sent one datagram, no two of
//!   them at a time, and is cleared if the sum comes back. One that fails is tried again ever more
//!   rarely, and if it was certainly the one, only after somebody has read.
//! - When the sum falls below the floor, the suspect who had as much to read as it falls is one who
//!   reads late, and not one who does not read: he is tried again as if he had not failed.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use crate::address::Address;

/// The part of the buffer that is for whoever comes.
const ANYBODY: usize = 4;

/// Beyond it, the part of the free room that a receiver may take, were all of the buffer free.
const SHARE: usize = 16;

/// Receivers remembered at a time. There are fewer datagrams in a send buffer of the usual size.
const ACCOUNTS: usize = 1024;

/// Receivers there is memory for when none is remembered.
const KEPT: usize = 32;

/// How long a suspect has to read the one datagram it is sent, and waits after it did not: doubled
/// with each failure.
const TRIAL: Duration = Duration::from_millis(1);
const LONGEST_TRIAL: Duration = Duration::from_secs(1);

/// Even if nobody seems to have read, a suspect is tried again: that may have been misjudged. After
/// this, doubled with each failure.
const FIRST_PAROLE: Duration = Duration::from_millis(500);
const PAROLE: Duration = Duration::from_secs(60);

/// Suspects that may have read late, in one go.
const FORGIVEN: usize = 16;

/// Suspects that have failed so often leave more room to others than those that have failed at all.
const OFTEN: u32 = 3;

/// In the last quarter of the buffer, suspects wait as if they had failed so many times more.
const LATER: u32 = 8;

/// The socket, as far as it matters here.
pub(super) trait Wire {
    fn try_send(&self, data: &[u8], to: &Address) -> io::Result<()>;
    /// Bytes of the send buffer that are taken. `None` where receivers have room of their own.
    fn unread(&self) -> Option<usize>;
    /// Bytes that the send buffer has; as for `unread`.
    fn capacity(&self) -> Option<usize>;
    fn now(&self) -> Instant;
}

#[derive(Debug, Default)]
pub(super) struct Room {
    /// `None`: nothing is charged to the sender, or it was not asked for.
    capacity: Option<usize>,
    asked: bool,
    /// No more than this is unread, and exactly this if it is fresh.
    level: usize,
    fresh: bool,
    /// More than that quarter is taken: it is recorded who is sent what.
    crowded: bool,
    floor: usize,
    /// Suspects, and those that were sent something since the sum was last at the floor.
    accounts: HashMap<Address, Account>,
    /// The latter.
    open: Vec<Address>,
    /// Those who were seen to read, and are no suspects but by mistake.
    proven: HashSet<Address>,
    /// How often somebody was found to have read of what was below the floor, or may have.
    drops: u64,
    /// Counts suspicions.
    suspicions: u64,
    /// The suspect on trial, and until when.
    trial: Option<(Address, Instant)>,
    /// The sum at the last tick; whether anything was sent since, and somebody has had his share
    /// who is no suspect.
    seen: usize,
    moved: bool,
    refused: bool,
}

#[derive(Debug, Default)]
struct Account {
    /// Since the sum was last at the floor.
    sent: usize,
    suspect: Option<Suspect>,
}

#[derive(Debug, Clone, Copy)]
struct Suspect {
    failures: u32,
    not_before: Instant,
    /// The count of drops when it was certain that it had failed.
    failed_at: Option<u64>,
    /// What it was sent and has not read, as far as can be told, and when it was last suspected:
    /// a number that rises.
    unread: usize,
    since: u64,
}

/// Whether a receiver has not read what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It may be another.
    None,
    /// It was on trial, but may have read what others have not.
    Likely,
    Certain,
}

/// What Linux charges for a datagram of `len` bytes, with pages of 4 KiB: memory for it and for what
/// describes it, from the allocator as far as that goes and in pages beyond.
fn cost(len: usize) -> usize {
    const PAGE: usize = 4096;
    const LINEAR: usize = 4 * PAGE;
    match (len + 320).checked_sub(LINEAR) {
        Some(beyond) => 256 + LINEAR + beyond.div_ceil(PAGE) * PAGE,
        None => 256 + (len + 320).next_power_of_two(),
    }
}

fn doubled(time: Duration, failures: u32, longest: Duration) -> Duration {
    (time * (1 << failures.min(20))).min(longest)
}

impl Room {
    /// The size of the send buffer may have been changed.
    pub(super) fn ask_again(&mut self) {
        self.asked = false;
    }

    fn ask(&mut self, wire: &impl Wire) {
        self.capacity = wire.capacity();
        self.asked = true;
    }

    /// Whether a datagram of `len` bytes may be sent to `to` now.
    pub(super) fn admits(&mut self, wire: &impl Wire, to: &Address, len: usize) -> bool {
        let cost = cost(len);
        if self.is_calm_with(wire, cost) {
            return true;
        }
        let free = self.free();
        let (sent, suspect) = match self.accounts.get(to) {
            Some(account) => (account.sent, account.suspect),
            None => (0, None),
        };
        match suspect {
            _ if free == 0 => false,
            Some(suspect) => {
                self.may_try(wire, to, &suspect, cost)
                    && self.ends_trial_for(wire, suspect.failures)
            }
            None if sent == 0 => self.is_proven(to) || free >= (4 * cost).min(self.part(1, 4)),
            None => {
                let admits = sent + cost <= self.share();
                self.refused |= !admits;
                admits
            }
        }
    }

    /// Whether `count` datagrams of `len` bytes may be sent to anybody.
    pub(super) fn admits_all(
        &mut self,
        wire: &impl Wire,
        datagrams: impl Iterator<Item = (usize, usize)>,
    ) -> bool {
        self.is_calm_with(wire, datagrams.map(|(len, count)| cost(len) * count).sum())
    }

    /// A datagram has been sent.
    pub(super) fn sent(&mut self, wire: &impl Wire, to: &Address, len: usize) {
        let cost = cost(len);
        self.add(cost);
        if !self.crowded {
            return;
        }
        if self.accounts.len() >= ACCOUNTS && !self.accounts.contains_key(to) {
            self.forget();
        }
        if self.proven.len() >= ACCOUNTS {
            self.proven.clear();
        }
        let account = self.accounts.entry(*to).or_default();
        if account.sent == 0 {
            self.open.push(*to);
        }
        account.sent += cost;
        if let Some(suspect) = account.suspect {
            let time = doubled(TRIAL, suspect.failures, LONGEST_TRIAL);
            self.trial = Some((*to, wire.now() + time));
        }
    }

    /// Datagrams that `admits_all` has let through have been sent.
    pub(super) fn sent_all(&mut self, datagrams: impl Iterator<Item = (usize, usize)>) {
        self.add(datagrams.map(|(len, count)| cost(len) * count).sum());
    }

    fn add(&mut self, cost: usize) {
        self.level += cost;
        self.moved = true;
        self.fresh = false;
    }

    /// Time has passed: others may have read.
    pub(super) fn pass(&mut self) {
        self.fresh = false;
    }

    /// The system says that nobody is at `to`: what that had not read is gone, too.
    pub(super) fn gone(&mut self, to: &Address) {
        if self.accounts.remove(to).is_some() {
            self.open.retain(|open| open != to);
            if self.trial.is_some_and(|(on_trial, _)| on_trial == *to) {
                self.trial = None;
            }
        }
    }

    /// After the system has said that there is no room: whether that is so for everybody.
    pub(super) fn is_full(&mut self, wire: &impl Wire) -> bool {
        if self.capacity.is_none() {
            return false;
        }
        self.ask(wire);
        self.fresh = false;
        self.refresh(wire);
        let is_full = self.free() == 0;
        if is_full {
            self.crowd();
        }
        is_full
    }

    /// Now and then while datagrams wait: sees who does not read.
    pub(super) fn tick(&mut self, wire: &impl Wire) {
        if !self.crowded {
            return;
        }
        self.ask(wire);
        self.fresh = false;
        self.refresh(wire);
        let rests = !self.moved && self.level == self.seen;
        let is_over = self.trial.is_some_and(|(_, until)| wire.now() >= until);
        match (self.trial, self.open.len()) {
            (_, 0) => self.floor = self.level,
            (Some(_), 1) if is_over && rests => self.suspect_open(wire),
            (Some(_), 2..) if is_over || (rests && self.refused) => self.end_trial(wire),
            // It has the time that it was given.
            (Some(_), _) => {}
            _ if rests => self.suspect_open(wire),
            _ => {}
        }
        self.seen = self.level;
        (self.moved, self.refused) = (false, false);
    }

    /// Whether so much more stays within what is for anybody.
    fn is_calm_with(&mut self, wire: &impl Wire, cost: usize) -> bool {
        if !self.asked {
            self.ask(wire);
        }
        let Some(capacity) = self.capacity else {
            return true;
        };
        if !self.crowded && self.level + cost <= capacity / ANYBODY {
            return true;
        }
        self.refresh(wire);
        if !self.is_calm_above(cost) && !self.crowded {
            self.ask(wire);
        }
        if self.is_calm_above(cost) {
            self.crowded = false;
            self.forget();
            return true;
        }
        self.crowd();
        false
    }

    fn is_calm_above(&self, cost: usize) -> bool {
        let limit = self.capacity.map(|capacity| capacity / ANYBODY);
        limit.is_none_or(|limit| self.level + cost <= limit)
    }

    fn is_proven(&self, to: &Address) -> bool {
        self.proven.contains(to)
    }

    /// So many such parts of the buffer.
    fn part(&self, count: usize, of: usize) -> usize {
        self.capacity.map_or(0, |capacity| capacity / of * count)
    }

    fn free(&self) -> usize {
        self.capacity
            .map_or(usize::MAX, |capacity| capacity.saturating_sub(self.level))
    }

    /// What a receiver that is no suspect may have unread.
    fn share(&self) -> usize {
        let free = self.free();
        match self.capacity {
            Some(capacity @ 1..) => {
                (free as u64 * free as u64 / (capacity * SHARE) as u64) as usize
            }
            _ => free,
        }
    }

    fn crowd(&mut self) {
        if !self.crowded {
            self.crowded = true;
            self.floor = self.level;
            self.seen = self.level;
        }
    }

    fn forget(&mut self) {
        self.accounts.clear();
        self.accounts.shrink_to(KEPT);
        self.open.clear();
        self.open.shrink_to(KEPT);
        self.proven.clear();
        self.proven.shrink_to(KEPT);
        self.trial = None;
        self.floor = self.level;
    }

    fn sent_to(&self, to: &Address) -> usize {
        self.accounts.get(to).map_or(0, |account| account.sent)
    }

    /// Asks for the sum, unless it is known.
    fn refresh(&mut self, wire: &impl Wire) {
        if self.fresh {
            return;
        }
        self.fresh = true;
        self.level = wire.unread().unwrap_or(0);
        self.settle();
    }

    /// Clears those who have read, if the sum is back at the floor.
    fn settle(&mut self) {
        if let Some(read) = self.read_late_during_trial() {
            self.floor -= read;
            self.drops += 1;
            self.forgive(read);
        }
        if !self.crowded || self.level > self.floor {
            return;
        }
        if self.level < self.floor {
            let read = self.floor - self.level;
            self.floor = self.level;
            self.drops += 1;
            self.forgive(read);
        }
        for to in self.open.drain(..) {
            self.accounts.remove(&to);
            self.proven.insert(to);
        }
        self.trial = None;
    }

    /// Somebody has read so much of what is below the floor: most likely the one suspected last who
    /// had that much to read, only later than he had time for. He is tried again at once then,
    /// which takes no more room than was given back.
    fn forgive(&mut self, mut read: usize) {
        for _ in 0..FORGIVEN {
            if read == 0 {
                return;
            }
            let suspects = self.accounts.iter_mut().filter_map(|(to, account)| {
                let suspect = account.suspect.as_mut()?;
                (suspect.unread > 0).then_some((to, suspect))
            });
            let likely = |suspect: &Suspect| match suspect.unread.cmp(&read) {
                Ordering::Equal => 2,
                Ordering::Less => 1,
                Ordering::Greater => 0,
            };
            let last = suspects.max_by_key(|(_, suspect)| (likely(suspect), suspect.since));
            let Some((to, suspect)) = last else {
                return;
            };
            let its = suspect.unread.min(read);
            suspect.unread -= its;
            read -= its;
            if suspect.unread == 0 {
                suspect.failures = 0;
                suspect.failed_at = None;
                self.proven.insert(*to);
            }
        }
    }

    /// The sum does not come back to the floor: it is one of those that were sent to since.
    fn suspect_open(&mut self, wire: &impl Wire) {
        let failure = match self.open.len() {
            1 => Failure::Certain,
            _ => Failure::None,
        };
        let all_unread = self.floor + self.open.iter().map(|to| self.sent_to(to)).sum::<usize>();
        for to in std::mem::take(&mut self.open) {
            self.suspect(wire, to, failure);
        }
        self.trial = None;
        self.drops += u64::from(self.level < all_unread);
        self.floor = self.level;
        self.forgive(all_unread.saturating_sub(self.level));
    }

    /// What most likely another than the one on trial has read, who is alone: he had just that to
    /// read, and has failed less often.
    fn read_late_during_trial(&self) -> Option<usize> {
        let ([to], Some(_)) = (&self.open[..], self.trial) else {
            return None;
        };
        let account = self.accounts.get(to)?;
        let failures = account.suspect?.failures;
        let read = (self.floor + account.sent).checked_sub(self.level)?;
        let is_late = |suspect: Suspect| suspect.unread == read && suspect.failures < failures;
        let mut others = self.accounts.iter().filter(|(other, _)| *other != to);
        let was_another = (1..=self.floor).contains(&read)
            && others.any(|(_, account)| account.suspect.is_some_and(is_late));
        was_another.then_some(read)
    }

    /// The sum does not come back, and is most likely kept up by the one on trial.
    fn end_trial(&mut self, wire: &impl Wire) {
        if let Some((to, _)) = self.trial.take() {
            let sent = self.sent_to(&to);
            self.drops += u64::from(self.level < self.floor + sent);
            let read = (self.floor + sent).saturating_sub(self.level);
            self.open.retain(|open| *open != to);
            self.suspect(wire, to, Failure::Likely);
            self.floor = self.level.min(self.floor + sent);
            self.forgive(read);
            self.settle();
        }
    }

    /// Whether nobody is on trial, or one that has failed more often, who has had his chance then.
    fn ends_trial_for(&mut self, wire: &impl Wire, failures: u32) -> bool {
        let Some((to, _)) = self.trial else {
            return true;
        };
        let on_trial = self.accounts.get(&to).and_then(|account| account.suspect);
        if on_trial.is_some_and(|other| other.failures <= failures) {
            return false;
        }
        self.end_trial(wire);
        true
    }

    fn suspect(&mut self, wire: &impl Wire, to: Address, failure: Failure) {
        let now = wire.now();
        self.suspicions += 1;
        let account = self.accounts.entry(to).or_default();
        let sent = std::mem::take(&mut account.sent);
        let suspect = account.suspect.get_or_insert(Suspect {
            failures: 0,
            not_before: now,
            failed_at: None,
            unread: 0,
            since: 0,
        });
        suspect.unread += sent;
        suspect.since = self.suspicions;
        if failure != Failure::None {
            self.proven.remove(&to);
            suspect.failures += 1;
            suspect.not_before = now + doubled(TRIAL, suspect.failures, PAROLE);
        }
        if failure == Failure::Certain || suspect.failures > 1 {
            suspect.failed_at = Some(self.drops);
        }
    }

    fn may_try(&self, wire: &impl Wire, to: &Address, suspect: &Suspect, cost: usize) -> bool {
        let room = match suspect.failures {
            0 if self.is_proven(to) => return true,
            0 => (2 * cost).min(self.part(1, 4)),
            1..OFTEN => self.part(1, 8).max(4 * cost).min(self.part(3, 8)),
            _ => self.part(1, 4).max(8 * cost).min(self.part(3, 8)),
        };
        // Less for those who have little to read: what others have not read is not held against
        // them.
        let room = room.min(4 * (suspect.unread + cost));
        if self.free() < room {
            return false;
        }
        if suspect.failures == 0 {
            return true;
        }
        let mut after = suspect.not_before;
        if self.free() < self.part(1, 4) {
            after += doubled(TRIAL, suspect.failures + LATER, PAROLE);
        }
        let now = wire.now();
        let parole = doubled(FIRST_PAROLE, suspect.failures, PAROLE);
        now >= after
            && (suspect.failed_at.is_none_or(|drops| self.drops > drops) || now >= after + parole)
    }

    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.accounts.len() + self.open.len()
    }
}
