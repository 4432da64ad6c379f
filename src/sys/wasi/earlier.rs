//! Errors that the system keeps for a connected socket until the next call, whatever that is about.
//!
//! A peer's or a router's answer to one datagram is the result of the next send, which is not even
//! tried then. Nothing in the error tells, so that the datagram is tried again: an error that comes
//! twice is its own, and any other was waiting before.

use std::io;
use std::net::SocketAddr;

/// Tries of one datagram. More than two, for there may be several errors that wait.
const TRIES: usize = 3;

/// Which errors may have been waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sys) enum Waiting {
    /// None: the socket has no peer.
    None,
    All,
    /// All, but that nobody listens there is told who sends to the one peer, and has not sent then.
    AllButRefusal,
}

impl Waiting {
    /// For one datagram on a socket with a peer.
    pub(in crate::sys) fn of(to: Option<&SocketAddr>) -> Waiting {
        match to {
            Some(_) => Waiting::All,
            None => Waiting::AllButRefusal,
        }
    }
}

/// The tries of one datagram.
pub(in crate::sys) struct Tries {
    left: usize,
    waiting: Waiting,
    before: Option<io::Error>,
}

impl Tries {
    pub(in crate::sys) fn new(waiting: Waiting) -> Tries {
        Tries {
            left: TRIES,
            waiting,
            before: None,
        }
    }

    /// Whoever sends has been told that it is sent: no error that waited is for him any more.
    // On 0.2 the host says at once.
    #[allow(dead_code)]
    pub(in crate::sys) fn taken_over(&mut self) {
        if self.waiting == Waiting::AllButRefusal {
            self.waiting = Waiting::All;
        }
    }

    fn may_have_waited(&self, error: &io::Error) -> bool {
        match self.waiting {
            Waiting::None => false,
            Waiting::All => true,
            Waiting::AllButRefusal => error.kind() != io::ErrorKind::ConnectionRefused,
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
        if before
            .as_ref()
            .is_some_and(|before| is_same(before, &error))
        {
            return Some(Err(error));
        }
        *earlier = before.filter(is_worth_telling).or(earlier.take());
        if self.left == 0 || !self.may_have_waited(&error) {
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
    fn outcome(waiting: Waiting, says: &[Option<Kind>]) -> (Option<Kind>, Option<Kind>, usize) {
        let (mut tries, mut earlier) = (Tries::new(waiting), None);
        for (index, kind) in says.iter().enumerate() {
            let result = kind.map_or(Ok(()), |kind| Err(kind.into()));
            if let Some(result) = tries.judge(result, &mut earlier) {
                let kind = |error: io::Error| error.kind();
                return (result.err().map(kind), earlier.map(kind), index + 1);
            }
        }
        panic!("tried more often than {says:?}");
    }

    const REFUSED: Option<Kind> = Some(Kind::ConnectionRefused);
    const UNREACHABLE: Option<Kind> = Some(Kind::HostUnreachable);
    const FULL: Option<Kind> = Some(Kind::WouldBlock);

    #[test]
    fn what_a_second_try_does_not_say_again_was_waiting() {
        let all = |says: &[Option<Kind>]| outcome(Waiting::All, says);
        assert_eq!(all(&[None]), (None, None, 1));
        assert_eq!(all(&[FULL]), (FULL, None, 1));
        assert_eq!(all(&[REFUSED, None]), (None, REFUSED, 2));
        assert_eq!(all(&[REFUSED, REFUSED]), (REFUSED, None, 2));
        assert_eq!(all(&[REFUSED, FULL]), (FULL, REFUSED, 2));
        assert_eq!(
            all(&[REFUSED, UNREACHABLE, UNREACHABLE]),
            (UNREACHABLE, REFUSED, 3)
        );
        assert_eq!(all(&[REFUSED, UNREACHABLE, None]), (None, UNREACHABLE, 3));
        let memory = Some(Kind::OutOfMemory);
        assert_eq!(all(&[memory, None]), (None, None, 2));
    }

    #[test]
    fn only_what_may_have_waited_is_tried_again() {
        for waiting in [Waiting::None, Waiting::AllButRefusal] {
            assert_eq!(outcome(waiting, &[None]), (None, None, 1));
            assert_eq!(outcome(waiting, &[REFUSED]), (REFUSED, None, 1));
        }
        assert_eq!(
            outcome(Waiting::None, &[UNREACHABLE]),
            (UNREACHABLE, None, 1)
        );
        assert_eq!(
            outcome(Waiting::AllButRefusal, &[UNREACHABLE, REFUSED]),
            (REFUSED, UNREACHABLE, 2)
        );
        let mut tries = Tries::new(Waiting::AllButRefusal);
        tries.taken_over();
        let refused = Err::<(), _>(Kind::ConnectionRefused.into());
        assert!(tries.judge(refused, &mut None).is_none());
    }
}
