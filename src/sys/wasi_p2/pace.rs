//! How many datagrams a receive tries for: to find nothing costs the host as much as to receive.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Datagrams received for one batch, or sent with one call.
pub(super) const BATCH: usize = 16;

/// Datagrams in a batch that were worth the try for another, which found nothing.
const WORTH: usize = 4;

/// Receives that are not followed by a try for more, once that was not worth it: a wait is cheaper.
/// Twice as many each time that nothing was there, up to the second.
const LONE: usize = 64;
const MOST_LONE: usize = 1024;

/// Pollables that make a wait about as expensive as such a try: with so many times as many, so many
/// times fewer receives go by before the next.
const POLLABLES: usize = 8;

/// What one socket expects.
#[derive(Default)]
pub(super) struct Pace {
    /// How many more receives expect nothing behind them.
    lone: AtomicUsize,
    /// And how many did so since the last try for more.
    lonely: AtomicUsize,
}

impl Pace {
    /// As many as it has been worth lately to try for.
    pub(super) fn next(&self) -> usize {
        match self.lone.load(Ordering::Relaxed) {
            0 => BATCH,
            _ => 1,
        }
    }

    /// One was received that was expected to be alone.
    pub(super) fn received_one(&self) {
        let lone = self.lone.load(Ordering::Relaxed);
        self.lone.store(lone.saturating_sub(1), Ordering::Relaxed);
    }

    /// So many were received, and there were no more, where a turn has so many pollables to poll.
    pub(super) fn ran_out(&self, received: usize, pollables: usize) {
        let price = (pollables / POLLABLES).max(1);
        let [least, most] = [LONE, MOST_LONE].map(|lone| (lone / price).max(1));
        let lonely = self.lonely.load(Ordering::Relaxed);
        let lone = match received {
            0 | 1 => (lonely * 2).clamp(least, most),
            _ if received < WORTH => least,
            _ => 0,
        };
        self.lone.store(lone, Ordering::Relaxed);
        self.lonely.store(lone, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many datagrams that come alone are followed by a try for another.
    fn tries(pace: &Pace, datagrams: usize, pollables: usize) -> usize {
        let mut tries = 0;
        for _ in 0..datagrams {
            if pace.next() == 1 {
                pace.received_one();
            } else {
                pace.ran_out(1, pollables);
                tries += 1;
            }
        }
        tries
    }

    #[test]
    fn what_always_comes_alone_is_seldom_followed_by_a_try() {
        let pace = Pace::default();
        assert_eq!(tries(&pace, 2_000, 1), 6);
        assert_eq!(tries(&pace, 102_500, 1), 100);
    }

    #[test]
    fn what_comes_in_numbers_is_taken_together_from_then_on() {
        let pace = Pace::default();
        tries(&pace, 10_000, 1);
        while pace.next() == 1 {
            pace.received_one();
        }
        pace.ran_out(WORTH, 1);
        assert_eq!(pace.next(), BATCH);
        pace.ran_out(1, 1);
        assert_eq!(
            tries(&pace, LONE, 1),
            0,
            "and singly again as soon as they do not"
        );
        assert_eq!(pace.next(), BATCH, "but not for long");
    }

    #[test]
    fn the_dearer_a_turn_the_more_a_try_is_worth() {
        let [few, many, very_many] = [8, 80, 8_000].map(|pollables| {
            let pace = Pace::default();
            tries(&pace, 100_000, pollables)
        });
        assert!(few < 110, "{few}");
        assert!((900..1_100).contains(&many), "{many}");
        assert!((45_000..55_000).contains(&very_many), "{very_many}");
    }
}
