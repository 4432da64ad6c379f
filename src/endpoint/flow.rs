//! Write-buffer limits: when a protocol is asked to pause, and when to resume.

use std::io;

use crate::error::invalid;

/// asyncio's default for the high limit, in bytes; low is a quarter of it.
const HIGH: usize = 64 * 1024;

/// The same where TLS is spoken.
#[cfg(feature = "tls")]
const HIGH_TLS: usize = 512 * 1024;

/// What a queued datagram counts beyond its bytes, so that empty ones count too.
pub(crate) const DATAGRAM_OVERHEAD: usize = 8;

/// The accounting of one write queue.
#[derive(Debug)]
pub(crate) struct Flow {
    high: usize,
    low: usize,
    /// The high limit unless the user sets limits, which are his from then on.
    default: usize,
    given: bool,
    /// The high limit itself is too much.
    inclusive: bool,
    size: usize,
    paused: bool,
    /// What the protocol was told last.
    told: bool,
    /// A pause was over before it could be told. Whoever has seen the size go above the limit
    /// waits to be told that it has come down.
    missed: bool,
}

/// What the protocol is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Pause,
    Resume,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            high: HIGH,
            low: HIGH / 4,
            default: HIGH,
            given: false,
            inclusive: false,
            size: 0,
            paused: false,
            told: false,
            missed: false,
        }
    }
}

impl Flow {
    /// From here on TLS is spoken, where asyncio's defaults are higher, and where it pauses at the
    /// high limit already. Limits that were given stay.
    #[cfg(feature = "tls")]
    pub(crate) fn speak_tls(&mut self) {
        self.default = HIGH_TLS;
        self.inclusive = true;
        if !self.given {
            (self.high, self.low) = (HIGH_TLS, HIGH_TLS / 4);
        }
        self.check_pause();
    }

    /// Sets the limits in bytes. One alone implies the other: low is a quarter of high. None sets
    /// the defaults.
    pub(crate) fn set_limits(&mut self, high: Option<usize>, low: Option<usize>) -> io::Result<()> {
        let given = high.is_some() || low.is_some();
        let high = match (high, low) {
            (Some(high), _) => high,
            (None, Some(low)) => low.saturating_mul(4),
            (None, None) => self.default,
        };
        let low = low.unwrap_or(high / 4);
        if high < low {
            return Err(invalid(format_args!(
                "write buffer limits: high ({high}) is below low ({low})"
            )));
        }
        self.high = high;
        self.low = low;
        self.given = given;
        // Lowering may pause at once; raising does not resume before something was sent.
        self.check_pause();
        Ok(())
    }

    /// (low, high), in asyncio's order.
    pub(crate) fn limits(&self) -> (usize, usize) {
        (self.low, self.high)
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.size += bytes;
    }

    pub(crate) fn remove(&mut self, bytes: usize) {
        self.size -= bytes;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.size > self.high || (self.inclusive && self.size == self.high && self.size > 0)
    }

    /// After the queue has grown.
    pub(crate) fn check_pause(&mut self) {
        self.paused |= self.is_over();
    }

    /// After the queue has shrunk; true if it may be filled again.
    pub(crate) fn check_resume(&mut self) -> bool {
        let resumed = self.paused && self.size <= self.low;
        self.paused &= !resumed;
        self.missed |= resumed && !self.told;
        resumed
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether there is something to tell the protocol.
    pub(crate) fn has_change(&self) -> bool {
        self.paused != self.told || self.missed
    }

    /// Something to tell the protocol, which is then taken as told. Told changes alternate, a
    /// pause first; those that are over before they could be told are told as one.
    pub(crate) fn take_change(&mut self) -> Option<Change> {
        let missed = std::mem::take(&mut self.missed);
        let paused = self.paused || (missed && !self.told);
        if paused == self.told {
            return None;
        }
        self.told = paused;
        Some(match paused {
            true => Change::Pause,
            false => Change::Resume,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_above_high_and_resumes_at_low() {
        let mut flow = Flow::default();
        flow.set_limits(Some(10), Some(4)).unwrap();
        flow.add(10);
        flow.check_pause();
        assert_eq!(flow.take_change(), None, "10 is not above 10");
        flow.add(1);
        flow.check_pause();
        assert_eq!(flow.take_change(), Some(Change::Pause));
        flow.remove(6);
        assert!(!flow.check_resume(), "5 is above 4");
        flow.remove(1);
        assert!(flow.check_resume());
        assert_eq!(flow.take_change(), Some(Change::Resume));
        assert_eq!(flow.take_change(), None);
    }

    #[test]
    fn limits_imply_each_other() {
        let mut flow = Flow::default();
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
        flow.set_limits(Some(100), None).unwrap();
        assert_eq!(flow.limits(), (25, 100));
        flow.set_limits(None, Some(100)).unwrap();
        assert_eq!(flow.limits(), (100, 400));
        let error = flow.set_limits(Some(1), Some(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(flow.limits(), (100, 400), "a refused call changes nothing");
        flow.set_limits(None, None).unwrap();
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn with_tls_limits_are_higher_and_the_high_one_is_too_much() {
        let mut flow = Flow::default();
        flow.speak_tls();
        assert_eq!(flow.limits(), (128 * 1024, 512 * 1024));
        flow.add(512 * 1024 - 1);
        flow.check_pause();
        assert_eq!(flow.take_change(), None);
        flow.add(1);
        flow.check_pause();
        assert_eq!(flow.take_change(), Some(Change::Pause));
        flow.remove(384 * 1024 - 1);
        assert!(!flow.check_resume());
        flow.remove(1);
        assert!(flow.check_resume());
        flow.set_limits(Some(8), None).unwrap();
        assert_eq!(flow.limits(), (2, 8));
        flow.set_limits(None, None).unwrap();
        assert_eq!(flow.limits(), (128 * 1024, 512 * 1024));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn given_limits_stay_when_tls_begins() {
        let mut flow = Flow::default();
        flow.set_limits(Some(100), None).unwrap();
        flow.add(100);
        flow.check_pause();
        assert!(!flow.is_paused());
        flow.speak_tls();
        assert_eq!(flow.limits(), (25, 100));
        assert!(flow.is_paused(), "100 is too much now");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_high_limit_of_zero_pauses_on_any_byte_with_tls_too_and_on_none_not() {
        let mut flow = Flow::default();
        flow.speak_tls();
        flow.set_limits(Some(0), None).unwrap();
        assert!(!flow.is_paused());
        flow.add(1);
        flow.check_pause();
        assert!(flow.is_paused());
        flow.remove(1);
        assert!(flow.check_resume());
    }

    #[test]
    fn lowering_pauses_at_once_and_raising_does_not_resume() {
        let mut flow = Flow::default();
        flow.add(100);
        flow.set_limits(Some(99), None).unwrap();
        assert_eq!(flow.take_change(), Some(Change::Pause));
        flow.set_limits(Some(1000), None).unwrap();
        assert!(flow.is_paused());
        assert!(flow.check_resume(), "but the next sent datagram does");
    }

    #[test]
    fn zero_limits_pause_on_any_byte_and_resume_when_empty() {
        let mut flow = Flow::default();
        flow.set_limits(Some(0), Some(0)).unwrap();
        flow.add(1);
        flow.check_pause();
        assert!(flow.is_paused());
        flow.remove(1);
        assert!(flow.check_resume());
    }

    #[test]
    fn pauses_that_are_over_are_told_as_one_with_its_end() {
        let mut flow = Flow::default();
        flow.set_limits(Some(1), None).unwrap();
        for _ in 0..3 {
            flow.add(2);
            flow.check_pause();
            flow.remove(2);
            assert!(flow.check_resume());
        }
        assert!(flow.has_change());
        assert_eq!(flow.take_change(), Some(Change::Pause));
        assert!(flow.has_change());
        assert_eq!(flow.take_change(), Some(Change::Resume));
        assert_eq!(flow.take_change(), None);
        assert!(!flow.has_change());
    }

    #[test]
    fn a_pause_that_was_missed_may_go_on() {
        let mut flow = Flow::default();
        flow.set_limits(Some(1), None).unwrap();
        flow.add(2);
        flow.check_pause();
        flow.remove(2);
        assert!(flow.check_resume());
        flow.add(2);
        flow.check_pause();
        assert_eq!(flow.take_change(), Some(Change::Pause));
        assert_eq!(flow.take_change(), None);
        flow.remove(2);
        assert!(flow.check_resume());
        assert_eq!(flow.take_change(), Some(Change::Resume));
        assert_eq!(flow.take_change(), None);
    }
}
