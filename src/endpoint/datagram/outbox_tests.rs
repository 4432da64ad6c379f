//! The queues and their room against a model of Linux' Unix datagrams.

use std::cell::{Cell, RefCell};

use super::*;

/// What Linux does: a receiver takes so many datagrams, and what it has not read is charged to
/// the sender.
struct Kernel {
    capacity: usize,
    /// `net.unix.max_dgram_qlen`
    receiver: usize,
    /// By receiver, what it has not read and what it has.
    receivers: RefCell<HashMap<Address, Receiver>>,
    charged: Cell<usize>,
    now: Cell<Instant>,
    asked: Cell<usize>,
    tried: Cell<usize>,
}

#[derive(Default)]
struct Receiver {
    unread: VecDeque<Vec<u8>>,
    read: Vec<Vec<u8>>,
    is_gone: bool,
}

/// As measured.
fn charge(len: usize) -> usize {
    match len {
        0..=192 => 768,
        193..=704 => 1280,
        705..=1728 => 2304,
        1729..=3776 => 4352,
        3777..=7872 => 8448,
        7873..=16064 => 16640,
        _ => len + 1024,
    }
}

impl Kernel {
    fn new(receiver: usize) -> Kernel {
        Kernel {
            capacity: 212_992,
            receiver,
            receivers: RefCell::default(),
            charged: Cell::new(0),
            now: Cell::new(Instant::now()),
            asked: Cell::new(0),
            tried: Cell::new(0),
        }
    }

    fn sum(&self) -> usize {
        self.charged.get()
    }

    /// Reads as many as there are, but `count` at most.
    fn read(&self, who: &Address, count: usize) -> usize {
        let mut receivers = self.receivers.borrow_mut();
        let receiver = receivers.entry(*who).or_default();
        let count = count.min(receiver.unread.len());
        for data in receiver.unread.drain(..count) {
            self.charged.set(self.charged.get() - charge(data.len()));
            receiver.read.push(data);
        }
        count
    }

    /// Nobody has its name any longer.
    fn close(&self, who: &Address) {
        self.read(who, usize::MAX);
        self.receivers.borrow_mut().entry(*who).or_default().is_gone = true;
    }

    fn has_read(&self, who: &Address) -> Vec<Vec<u8>> {
        self.receivers.borrow()[who].read.clone()
    }

    fn unread_by(&self, who: &Address) -> usize {
        let receivers = self.receivers.borrow();
        receivers
            .get(who)
            .map_or(0, |receiver| receiver.unread.len())
    }

    fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }
}

impl Wire for Kernel {
    fn try_send(&self, data: &[u8], to: &Address) -> io::Result<()> {
        self.tried.set(self.tried.get() + 1);
        if self.sum() >= self.capacity {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut receivers = self.receivers.borrow_mut();
        let receiver = receivers.entry(*to).or_default();
        if receiver.is_gone {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if receiver.unread.len() > self.receiver {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        receiver.unread.push_back(data.to_vec());
        self.charged.set(self.charged.get() + charge(data.len()));
        Ok(())
    }

    fn unread(&self) -> Option<usize> {
        self.asked.set(self.asked.get() + 1);
        Some(self.sum())
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.capacity)
    }

    fn now(&self) -> Instant {
        self.now.get()
    }
}

fn name(i: usize) -> Address {
    format!("@{i}").parse().unwrap()
}

const HIGH: usize = 64 * 1024;
const MILLI: Duration = Duration::from_millis(1);

struct Endpoint {
    kernel: Kernel,
    outbox: Outbox,
    calls: usize,
    dropped: usize,
    errors: Vec<io::Error>,
}

impl Endpoint {
    fn new(receiver: usize) -> Endpoint {
        let kernel = Kernel::new(receiver);
        Endpoint {
            outbox: Outbox::new(),
            kernel,
            calls: 0,
            dropped: 0,
            errors: Vec::new(),
        }
    }

    fn send(&mut self, data: &[u8], to: &Address) {
        match self.outbox.send(&self.kernel, data, to, HIGH) {
            Sending::Sent | Sending::Queued => {}
            Sending::Refused(error) => {
                self.dropped += 1;
                self.errors.push(error);
            }
            Sending::Dropped(count, error) => {
                self.dropped += count;
                self.errors.extend(error);
            }
        }
        self.check();
    }

    fn pump(&mut self, when: When) -> bool {
        let mut progress = false;
        let mut when = when;
        loop {
            let tried = self.kernel.tried.get();
            let (dropped, errors) = (&mut self.dropped, &mut self.errors);
            let pumped = self.outbox.pump(&self.kernel, when, |error, _, _| {
                *dropped += 1;
                errors.push(error);
            });
            assert!(self.kernel.tried.get() - tried <= GO + LOOKS);
            self.check();
            progress |= pumped.progress;
            if !pumped.more {
                return progress;
            }
            when = When::Now;
        }
    }

    /// A tick of the driver, `time` after the last.
    fn tick(&mut self, time: Duration) {
        self.kernel.pass(time);
        self.pump(When::Tick);
    }

    fn check(&mut self) {
        self.calls += 1;
        if self.calls % 32 != 0 {
            return;
        }
        let outbox = &self.outbox;
        let queues = outbox.queues.values();
        let sum = |of: fn(&Queue) -> usize| queues.clone().map(of).sum::<usize>();
        assert_eq!(outbox.len, sum(|queue| queue.datagrams.len()));
        assert_eq!(outbox.size, sum(|queue| queue.size));
        assert_eq!(outbox.memory, sum(|queue| queue.memory + QUEUE));
        let stalled = |queue: &Queue| match queue.progress {
            Progress::Stalled => queue.size,
            _ => 0,
        };
        assert_eq!(outbox.stalled, sum(stalled));
        assert_eq!(outbox.turns.len(), outbox.queues.len());
        assert!(queues.clone().all(|queue| !queue.datagrams.is_empty()));
        assert!(outbox.memory <= ALL + HIGH);
        assert!(self.kernel.sum() < self.kernel.capacity + 2 * charge(200_000));
    }

    /// A request is answered and the reply read, again and again: within so many milliseconds.
    fn ping_pong(&mut self, who: &Address, rounds: usize, len: usize, limit: usize) {
        for round in 0..rounds {
            self.kernel.read(who, usize::MAX);
            let before = self.kernel.has_read_count(who);
            let data = [round as u8].repeat(len);
            self.send(&data, who);
            let mut waited = 0;
            while self.kernel.read(who, usize::MAX) == 0 {
                waited += 1;
                assert!(
                    waited <= limit,
                    "round {round} has waited {waited} ms for {who}"
                );
                self.tick(MILLI);
            }
            assert_eq!(self.kernel.has_read_count(who), before + 1);
            assert_eq!(*self.kernel.has_read(who).last().unwrap(), data);
        }
    }
}

impl Kernel {
    fn has_read_count(&self, who: &Address) -> usize {
        let receivers = self.receivers.borrow();
        receivers.get(who).map_or(0, |receiver| receiver.read.len())
    }
}

#[test]
fn one_that_does_not_read_holds_up_nobody() {
    for receiver in [10, 512] {
        for len in [1, 1_000, 10_000, 60_000] {
            let mut endpoint = Endpoint::new(receiver);
            let (silent, good) = (name(0), name(1));
            for _ in 0..3_000 {
                endpoint.send(&vec![7; len], &silent);
            }
            endpoint.ping_pong(&good, 100, 100, 20);
            endpoint.ping_pong(&good, 20, len, 20);
            let sent = endpoint.kernel.unread_by(&silent);
            let waits = endpoint.outbox.len();
            assert_eq!(sent + waits + endpoint.dropped, 3_000);
            assert_eq!(endpoint.errors.len(), usize::from(endpoint.dropped > 0));
        }
    }
}

#[test]
fn many_that_do_not_read_hold_up_nobody() {
    for receiver in [10, 512] {
        let mut endpoint = Endpoint::new(receiver);
        let good: Vec<Address> = (0..5).map(|i| name(1000 + i)).collect();
        for silent in 0..20 {
            let silent = name(silent);
            for i in 0..300 {
                endpoint.send(&[7; 1_000], &silent);
                if i % 100 == 0 {
                    for good in &good {
                        endpoint.ping_pong(good, 2, 500, 50);
                    }
                }
            }
        }
        for good in &good {
            endpoint.ping_pong(good, 50, 500, 20);
        }
    }
}

/// Those who read are served at once most of the time, and all of it goes in the end.
#[test]
fn a_long_siege_leaves_room() {
    for receiver in [10, 512] {
        let mut endpoint = Endpoint::new(receiver);
        let (silent, slow, good) = ([name(0), name(1)], name(2), name(3));
        let mut slow_sent = 0;
        for milli in 0..40_000_usize {
            if milli % 10 == 0 {
                for silent in &silent {
                    endpoint.send(&[7; 1_000], silent);
                }
            }
            if milli % 40 == 0 && slow_sent < 2_000 {
                endpoint.send(&slow_sent.to_string().into_bytes(), &slow);
                slow_sent += 1;
            }
            if milli % 50 == 25 {
                endpoint.kernel.read(&slow, 1);
            }
            if milli % 20 == 0 {
                endpoint.ping_pong(&good, 1, 100, 40);
            }
            endpoint.tick(MILLI);
        }
        assert!(endpoint.kernel.sum() < 212_992 / 8 * 7);
        let read = endpoint.kernel.has_read(&slow);
        assert!(read.len() >= 300, "{} of {slow_sent}", read.len());
        let expected = (0..read.len()).map(|i| i.to_string().into_bytes());
        assert!(read.into_iter().eq(expected), "in order");
    }
}

/// Who takes his time is not taken for one who does not read at all.
#[test]
fn those_who_read_late_go_on() {
    for (receiver, silent, late, len) in [
        (10, 1, 20, 1_000),
        (512, 1, 20, 1_000),
        (512, 1, 100, 1_000),
        (512, 3, 20, 1_000),
        (10, 8, 100, 1_000),
        (512, 8, 20, 1_000),
        (512, 3, 20, 60_000),
        (512, 24, 5, 1_000),
    ] {
        let case = format!("{silent} silent, {late} ms late, {receiver} long, {len} bytes");
        let mut endpoint = Endpoint::new(receiver);
        let good = name(1_000);
        for round in 0..100 {
            let data = vec![round as u8; if round % 2 == 0 { 20 } else { 1_500 }];
            endpoint.send(&data, &good);
            let (mut waited, mut left) = (0, late);
            loop {
                for silent in 0..silent {
                    for _ in 0..10 {
                        endpoint.send(&vec![7; len], &name(silent));
                    }
                }
                endpoint.tick(MILLI);
                if endpoint.kernel.unread_by(&good) > 0 {
                    left -= 1;
                    if left == 0 {
                        break;
                    }
                } else {
                    waited += 1;
                    assert!(waited < 100, "{case}: round {round}");
                }
            }
            assert_eq!(endpoint.kernel.read(&good, usize::MAX), 1);
        }
    }
}

#[test]
fn one_that_begins_to_read_gets_what_waits_in_order() {
    for receiver in [10, 512] {
        let mut endpoint = Endpoint::new(receiver);
        let (late, silent) = (name(0), name(1));
        for i in 0..500_u32 {
            endpoint.send(&[7; 1_000], &silent);
            endpoint.send(&i.to_be_bytes().repeat(100), &late);
            endpoint.tick(MILLI);
        }
        assert!(endpoint.outbox.len() > 700);
        let mut read = 0;
        for _ in 0..20_000 {
            read += endpoint.kernel.read(&late, 20);
            endpoint.tick(MILLI);
        }
        assert_eq!((read, endpoint.dropped), (500, 0));
        for (i, data) in endpoint.kernel.has_read(&late).iter().enumerate() {
            assert_eq!(data[..4], (i as u32).to_be_bytes());
        }
    }
}

#[test]
fn what_waits_is_bounded_for_one_and_for_all_and_what_is_dropped_is_told() {
    let mut endpoint = Endpoint::new(10);
    let silent = name(0);
    for _ in 0..50_000 {
        endpoint.send(&[7; 100], &silent);
    }
    let most = (PEER + HIGH) / (100 + DATAGRAM);
    assert!((most - 1..=most).contains(&endpoint.outbox.len()));
    assert_eq!(endpoint.dropped, 50_000 - 11 - endpoint.outbox.len());
    assert_eq!(endpoint.errors.len(), 1, "told once");
    assert_eq!(endpoint.errors[0].kind(), io::ErrorKind::WouldBlock);
    assert!(endpoint.errors[0].to_string().contains("@0"));

    // So do many, whose last is not the one that loses.
    for i in 1..100 {
        for _ in 0..200 {
            endpoint.send(&[7; 1_000], &name(i));
        }
    }
    let last = &endpoint.outbox.queues[&name(99)];
    let first = &endpoint.outbox.queues[&silent];
    assert!(first.memory < 2 * last.memory, "the largest have lost");
    for i in 0..2 * QUEUES {
        endpoint.send(b"x", &name(1_000 + i));
    }
    assert_eq!(endpoint.outbox.queues.len(), QUEUES);
}

/// It may be what waits for all that is too much, though no more waits for each than may.
#[test]
fn what_is_dropped_of_many_is_told_once_for_each() {
    for (silent, len) in [(20, 1_000), (200, 60_000)] {
        let mut endpoint = Endpoint::new(10);
        for _ in 0..1_000 {
            for silent in 0..silent {
                endpoint.send(&vec![7; len], &name(silent));
            }
        }
        assert!(endpoint.dropped > 500 * silent);
        let told = endpoint.errors.len();
        assert!((1..=silent).contains(&told), "{told} for {silent}");
    }
}

#[test]
fn those_who_read_leave_nothing_behind() {
    let mut endpoint = Endpoint::new(512);
    for i in 0..2_000 {
        for _ in 0..30 {
            endpoint.send(&[7; 1_000], &name(i));
        }
        if i % 7 == 0 {
            for who in 0..=i {
                endpoint.kernel.read(&name(who), usize::MAX);
            }
            endpoint.tick(MILLI);
        }
    }
    for _ in 0..1_000 {
        for who in 0..2_000 {
            endpoint.kernel.read(&name(who), usize::MAX);
        }
        endpoint.tick(MILLI);
        if endpoint.outbox.is_empty() {
            break;
        }
    }
    assert!(endpoint.outbox.is_empty());
    assert_eq!(endpoint.outbox.queues.capacity(), 0);
    for who in 0..2_000 {
        endpoint.kernel.read(&name(who), usize::MAX);
    }
    endpoint.send(b"x", &name(0));
    assert_eq!(endpoint.outbox.room.remembers(), 0);
}

#[test]
fn one_that_is_gone_is_told_by_datagram_and_frees_its_room() {
    let mut endpoint = Endpoint::new(512);
    let (gone, good) = (name(0), name(1));
    for _ in 0..200 {
        endpoint.send(&[7; 1_000], &gone);
    }
    endpoint.ping_pong(&good, 10, 100, 10);
    let waits = endpoint.outbox.len();
    assert!(waits > 100);
    endpoint.kernel.close(&gone);
    for _ in 0..100 {
        endpoint.tick(100 * MILLI);
    }
    assert!(endpoint.outbox.is_empty());
    assert_eq!(endpoint.errors.len(), waits);
    assert_eq!(endpoint.dropped, waits);
}

#[test]
fn an_unhindered_sender_asks_for_the_room_seldom() {
    let mut endpoint = Endpoint::new(10);
    let good = name(0);
    endpoint.ping_pong(&good, 10_000, 100, 0);
    let asked = endpoint.kernel.asked.get();
    assert!(asked < 200, "{asked} times for 10,000 datagrams");
}

#[test]
fn what_waits_for_the_stalled_counts_no_more_once_others_are_served() {
    let mut endpoint = Endpoint::new(10);
    let (silent, good) = (name(0), name(1));
    for _ in 0..100 {
        endpoint.send(&[7; 1_000], &silent);
    }
    let size = endpoint.outbox.size();
    assert_eq!(size, 89 * (1_000 + DATAGRAM_OVERHEAD));
    for _ in 0..10 {
        endpoint.tick(PATIENCE);
    }
    assert_eq!(endpoint.outbox.size(), size, "nobody else waits for that");
    endpoint.ping_pong(&good, 1, 10, 0);
    endpoint.tick(PATIENCE);
    assert_eq!(endpoint.outbox.size(), 0);
    endpoint.send(&[7; 1_000], &silent);
    assert_eq!(endpoint.outbox.size(), 0);
    endpoint.kernel.read(&silent, 1);
    endpoint.tick(MILLI);
    assert_eq!(endpoint.outbox.size(), size, "it goes on");
    assert_eq!(endpoint.outbox.give_up(), [(silent, 89)]);
    assert!(endpoint.outbox.is_empty() && endpoint.outbox.size() == 0);
}

/// Whatever receivers do, each gets what it was sent in order, and what is missing was counted.
#[test]
fn against_a_model_nothing_is_lost_uncounted_or_out_of_order() {
    let mut seed = 1_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for receiver in [1, 10, 512] {
        let mut endpoint = Endpoint::new(receiver);
        let mut sent = [0_u32; 40];
        for _ in 0..20_000 {
            let who = random(40);
            match random(6) {
                0..=2 => {
                    let len = [4, 4, 100, 1_000, 5_000, 70_000][random(6)];
                    let mut data = sent[who].to_be_bytes().to_vec();
                    data.resize(len, 0);
                    endpoint.send(&data, &name(who));
                    sent[who] += 1;
                }
                // The first ones never read.
                3 if who > 9 => {
                    endpoint.kernel.read(&name(who), random(5));
                }
                4 => endpoint.tick(random(20) as u32 * MILLI),
                _ => {
                    endpoint.pump(When::Now);
                }
            }
        }
        for _ in 0..30_000 {
            if endpoint.outbox.is_empty() {
                break;
            }
            for who in 0..40 {
                endpoint.kernel.read(&name(who), 3);
            }
            endpoint.tick(16 * MILLI);
        }
        assert!(endpoint.outbox.is_empty(), "all of it goes when all read");
        let mut read = 0;
        for who in 0..40 {
            endpoint.kernel.read(&name(who), usize::MAX);
            let numbers: Vec<u32> = endpoint
                .kernel
                .has_read(&name(who))
                .iter()
                .map(|data| u32::from_be_bytes(data[..4].try_into().unwrap()))
                .collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{who}: {numbers:?}");
            read += numbers.len();
        }
        let all: u32 = sent.iter().sum();
        assert_eq!(read + endpoint.dropped, all as usize);
    }
}
