//! Errors that the system keeps for a socket until the next call, whatever that is about.
//!
//! A router's or a peer's answer to one datagram is the result of the next send, which is not
//! even tried then. Nothing in the error tells, so that the datagram is tried again: an error
//! that comes twice is its own, and any other was waiting before. So is what came behind the
//! datagrams of a batch.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::caps::Family;

/// Tries of one datagram. More than two, since a firewall of this machine refuses a datagram and
/// leaves an error of its own behind, every time.
const TRIES: usize = 3;

/// What becomes of a peer's answer that nobody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is told to who sends to that peer, as every system does.
    Told,
    /// It is noted, as all others are.
    Noted,
}

/// An error that is nobody's who sends, until somebody is told; of several the latest, as in the
/// system itself.
#[derive(Default)]
pub(super) struct Earlier {
    some: AtomicBool,
    error: Mutex<Option<io::Error>>,
}

impl Earlier {
    pub(super) fn is_some(&self) -> bool {
        self.some.load(Ordering::SeqCst)
    }

    pub(super) fn note(&self, error: io::Error) {
        let mut kept = self.lock();
        *kept = Some(error);
        self.some.store(true, Ordering::SeqCst);
    }

    pub(super) fn take(&self) -> Option<io::Error> {
        if !self.is_some() {
            return None;
        }
        let mut kept = self.lock();
        self.some.store(false, Ordering::SeqCst);
        kept.take()
    }

    /// As [`take`](Earlier::take), as the result of an operation.
    pub(super) fn tell(&self) -> io::Result<()> {
        match self.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `send`, and once more if an error may have been waiting for it, which is noted if it
    /// was: what this gives is about what was to be sent.
    pub(super) fn confirmed<T>(
        &self,
        family: Family,
        refusal: Refusal,
        mut send: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut result = send();
        for _ in 1..TRIES {
            match result {
                Err(error) if may_have_waited(&error, family, refusal) => {
                    result = send();
                    if matches!(&result, Err(again) if is_same(again, &error)) {
                        break;
                    }
                    if !is_of_the_moment(&error) {
                        self.note(error);
                    }
                }
                result => return result,
            }
        }
        result
    }
}

fn may_have_waited(error: &io::Error, family: Family, refusal: Refusal) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => false,
        io::ErrorKind::ConnectionRefused if refusal == Refusal::Told => false,
        // The peer of a Unix socket has turned to another. Whatever else is said of a Unix
        // datagram is about it.
        kind if family == Family::Unix => kind == io::ErrorKind::ConnectionReset,
        // Our own have no code.
        _ => error.raw_os_error().is_some(),
    }
}

fn is_same(one: &io::Error, other: &io::Error) -> bool {
    one.kind() == other.kind() && one.raw_os_error() == other.raw_os_error()
}

/// A want of memory, and a firewall that makes exceptions: nothing is to be told once the next try
/// succeeds.
fn is_of_the_moment(error: &io::Error) -> bool {
    #[cfg(unix)]
    if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOBUFS)) {
        return true;
    }
    error.kind() == io::ErrorKind::OutOfMemory
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// What sending comes to, and what was noted, if the system says these one after the other.
    fn outcome(family: Family, codes: &[i32]) -> (Option<i32>, Option<i32>, usize) {
        let earlier = Earlier::default();
        let mut tries = 0;
        let result = earlier.confirmed(family, Refusal::Noted, || {
            let code = codes[tries];
            tries += 1;
            match code {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        });
        let noted = earlier.take().and_then(|error| error.raw_os_error());
        assert!(!earlier.is_some());
        let own = result.err().and_then(|error| error.raw_os_error());
        (own, noted, tries)
    }

    #[test]
    fn what_a_second_try_does_not_say_again_was_waiting() {
        use libc::{EACCES, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, EPROTO};
        for waiting in [ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, EPROTO, EACCES] {
            let ip = |codes: &[i32]| outcome(Family::Inet, codes);
            assert_eq!(ip(&[0]), (None, None, 1));
            assert_eq!(ip(&[waiting, 0]), (None, Some(waiting), 2));
            assert_eq!(ip(&[waiting, waiting]), (Some(waiting), None, 2));
            let full = libc::EAGAIN;
            assert_eq!(ip(&[full]), (Some(full), None, 1));
            assert_eq!(ip(&[waiting, full]), (Some(full), Some(waiting), 2));
            let own = libc::EINVAL;
            assert_eq!(ip(&[waiting, own, own]), (Some(own), Some(waiting), 3));
        }
    }

    #[test]
    fn nobody_listening_is_told_to_who_has_one_peer() {
        let earlier = Earlier::default();
        let mut tries = 0;
        let result: io::Result<()> = earlier.confirmed(Family::Inet, Refusal::Told, || {
            tries += 1;
            Err(io::ErrorKind::ConnectionRefused.into())
        });
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!((tries, earlier.is_some()), (1, false));
    }

    #[test]
    fn a_firewall_of_this_machine_is_not_taken_for_what_it_leaves_behind() {
        use libc::{ECONNREFUSED, ENOBUFS, EPERM};
        assert_eq!(
            outcome(Family::Inet6, &[EPERM, ECONNREFUSED, EPERM]),
            (Some(EPERM), Some(ECONNREFUSED), 3)
        );
        for code in [EPERM, ENOBUFS, libc::ENOMEM] {
            assert_eq!(outcome(Family::Inet, &[code, 0]), (None, None, 2));
        }
    }

    #[test]
    fn a_unix_datagram_is_tried_again_only_if_its_peer_has_turned_away() {
        use libc::{ECONNREFUSED, ECONNRESET, EPERM};
        assert_eq!(
            outcome(Family::Unix, &[ECONNREFUSED]),
            (Some(ECONNREFUSED), None, 1)
        );
        assert_eq!(
            outcome(Family::Unix, &[ECONNRESET, EPERM]),
            (Some(EPERM), Some(ECONNRESET), 2)
        );
    }
}
