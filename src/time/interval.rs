//! Ticks at a fixed period.

use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::{Duration, Instant};

use futures_lite::Stream;

use crate::sys::clock;
use crate::time::{sleep_until, Sleep};

/// The shortest period: a shorter one would be all ticks.
const SHORTEST: Duration = Duration::from_micros(1);

/// Ticks now and then once every `period`, in phase with the first tick.
///
/// A period under a microsecond, zero included, counts as one. The interval is also a
/// [`Stream`] of the instants at which its ticks were due.
///
/// # Panics
/// As [`sleep`](crate::time::sleep).
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// coracle::block_on(async {
///     let period = Duration::from_millis(2);
///     let mut interval = coracle::time::interval(period);
///     let first = interval.tick().await;
///     assert_eq!(interval.tick().await, first + period);
/// });
/// ```
pub fn interval(period: Duration) -> Interval {
    interval_at(clock::now(), period)
}

/// Ticks at `start` and then once every `period`; otherwise as [`interval`].
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    Interval {
        sleep: sleep_until(start),
        next: Some(start),
        period: period.max(SHORTEST),
        missed: MissedTicks::Burst,
    }
}

/// What an [`Interval`] does about ticks that were due while nobody awaited it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissedTicks {
    /// Gives them all at once, until it has caught up: the count of ticks is right.
    #[default]
    Burst,
    /// Gives one at once and counts the period from it: two ticks are never closer than the period.
    Delay,
    /// Gives one at once and goes on with the next that lies ahead: the phase is kept.
    Skip,
}

/// The ticks made by [`interval`] and [`interval_at`].
#[derive(Debug)]
#[must_use = "an interval does nothing unless its ticks are awaited"]
pub struct Interval {
    sleep: Sleep,
    /// When the next tick is due; `None` where the clock ends.
    next: Option<Instant>,
    period: Duration,
    missed: MissedTicks,
}

impl Interval {
    /// Waits for the next tick and gives the instant at which it was due.
    ///
    /// # Cancel safety
    /// No tick is lost.
    pub async fn tick(&mut self) -> Instant {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// Says what to do about ticks that were missed; [`MissedTicks::Burst`] unless set.
    ///
    /// # Examples
    /// ```
    /// use coracle::time::{interval, MissedTicks};
    ///
    /// let mut interval = interval(std::time::Duration::from_secs(1));
    /// interval.set_missed_ticks(MissedTicks::Skip);
    /// ```
    pub fn set_missed_ticks(&mut self, missed: MissedTicks) {
        self.missed = missed;
    }

    /// The time between two ticks.
    pub fn period(&self) -> Duration {
        self.period
    }

    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        let Some(due) = self.next else {
            return Poll::Pending;
        };
        ready!(Pin::new(&mut self.sleep).poll(cx));
        self.next = following(due, self.period, self.missed, clock::now());
        if let Some(next) = self.next {
            self.sleep.reset(next);
        }
        Poll::Ready(due)
    }
}

/// When the tick after the one that was due at `due` and is given at `now` is due.
fn following(due: Instant, period: Duration, missed: MissedTicks, now: Instant) -> Option<Instant> {
    let next = due.checked_add(period)?;
    if now < next {
        return Some(next);
    }
    match missed {
        MissedTicks::Burst => Some(next),
        MissedTicks::Delay => now.checked_add(period),
        MissedTicks::Skip => {
            let into = now.duration_since(due).as_nanos() % period.as_nanos();
            let into = Duration::new((into / 1_000_000_000) as u64, (into % 1_000_000_000) as u32);
            now.checked_add(period - into)
        }
    }
}

impl Stream for Interval {
    type Item = Instant;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        self.poll_tick(cx).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_ticks_are_given_delayed_or_skipped() {
        let due = Instant::now();
        let ms = Duration::from_millis;
        let after = |missed, late| following(due, ms(10), missed, due + ms(late)).unwrap() - due;
        for missed in [MissedTicks::Burst, MissedTicks::Delay, MissedTicks::Skip] {
            assert_eq!(after(missed, 3), ms(10), "nothing was missed");
        }
        assert_eq!(after(MissedTicks::Burst, 34), ms(10));
        assert_eq!(after(MissedTicks::Delay, 34), ms(44));
        assert_eq!(after(MissedTicks::Skip, 34), ms(40));
        assert_eq!(after(MissedTicks::Skip, 30), ms(40));
    }
}
