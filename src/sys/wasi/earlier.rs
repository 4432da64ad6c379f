//! Errors that the system keeps for a connected socket until the next call, whatever that is about.
//!
//! A peer's or a router's answer to one datagram is the result of the next send, which is not even
//! tried then. Nothing in the error tells, so that the datagram is tried again: an error that comes
//! twice is its own, and any other was waiting before.

use std::io;

/// Tries of one datagram. More than two, for there may be several errors that wait.
const TRIES: usize = 3;

/// The tries of one datagram.
pub(in crate::sys) struct Tries {
    left: usize,
    before: Option<io::Error>,
}

impl Tries {
    /// For a socket that is connected, or not: then no error waits.
    pub(in crate::sys) fn new(is_connected: bool) -> Tries {
        Tries {
            left: if is_connected { TRIES } else { 1 },
            before: None,
        }
    }

    /// What a try has come to is what becomes of the datagram; `None` if it has to be tried again.
    /// An error that has turned out to be of an earlier one is put into `earlier`; of several the
    /// latest, as in the system itself.
    #[inline]
    pub(in crate::sys) fn judge<T>(
        &mut self,
        result: io::Result<T>,
        earlier: &mut Option<io::Error>,
    ) -> Option<io::Result<T>> {
        match result {
            Ok(value) if self.before.is_none() => Some(Ok(value)),
            result => self.judge_failure(result, earlier),
        }
    }

    #[cold]
    fn judge_failure<T>(
        &mut self,
        result: io::Result<T>,
        earlier: &mut Option<io::Error>,
    ) -> Option<io::Result<T>> {
        self.left -= 1;
        let before = self.before.take();
        let error = match result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => error,
            result => {
                *earlier = before.filter(is_worth_telling).or(earlier.take());
                return Some(result);
            }
        };
        if before.as_ref().is_some_and(|before| is_same(before, &error)) {
            return Some(Err(error));
        }
        *earlier = before.filter(is_worth_telling).or(earlier.take());
        if self.left == 0 {
            return Some(Err(error));
        }
        self.before = Some(error);
        None
    }
}

fn is_same(one: &io::Error, other: &io::Error) -> bool {
    one.kind() == other.kind() && one.to_string() == other.to_string()
}

/// A want of memory is over once the next try succeeds.
fn is_worth_telling(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::OutOfMemory
}

#[cfg(test)]
mod tests {
    use super::*;
    use io::ErrorKind as Kind;

    /// What becomes of a datagram, what was found to be waiting, and how often it was tried, if
    /// the host says these one after the other.
    fn outcome(connected: bool, says: &[Option<Kind>]) -> (Option<Kind>, Option<Kind>, usize) {
        let (mut tries, mut earlier) = (Tries::new(connected), None);
        for (index, kind) in says.iter().enumerate() {
            let result = kind.map_or(Ok(()), |kind| Err(kind.into()));
            if let Some(result) = tries.judge(result, &mut earlier) {
                let kind = |error: io::Error| error.kind();
                return (result.err().map(kind), earlier.map(kind), index + 1);
            }
        }
        panic!("tried more often than {says:?}");
    }

    #[test]
    fn what_a_second_try_does_not_say_again_was_waiting() {
        let refused = Some(Kind::ConnectionRefused);
        let unreachable = Some(Kind::HostUnreachable);
        let full = Some(Kind::WouldBlock);
        for connected in [true, false] {
            assert_eq!(outcome(connected, &[None]), (None, None, 1));
            assert_eq!(outcome(connected, &[full]), (full, None, 1));
        }
        assert_eq!(outcome(false, &[refused]), (refused, None, 1));
        assert_eq!(outcome(true, &[refused, None]), (None, refused, 2));
        assert_eq!(outcome(true, &[refused, refused]), (refused, None, 2));
        assert_eq!(outcome(true, &[refused, full]), (full, refused, 2));
        assert_eq!(
            outcome(true, &[refused, unreachable, unreachable]),
            (unreachable, refused, 3)
        );
        assert_eq!(
            outcome(true, &[refused, unreachable, None]),
            (None, unreachable, 3)
        );
        let memory = Some(Kind::OutOfMemory);
        assert_eq!(outcome(true, &[memory, None]), (None, None, 2));
    }
}
