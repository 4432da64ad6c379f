//! What is known of one direction of a socket, in one atomic word.
//!
//! A report sets it, operations clear it. Each report has a number, so that an operation that
//! found nothing clears no report that it has not seen.

use std::sync::atomic::{AtomicU32, Ordering};

/// Worth a try: reported, or not tried yet, and not found to be over since.
const READY: u32 = 1;
/// Reported, and not used since.
const FRESH: u32 = 1 << 1;
/// The last operation has found nothing.
const OVER: u32 = 1 << 2;
/// The last operation has done all that it was to do.
const PROVEN: u32 = 1 << 3;
/// Since the last wait, an operation has found nothing although something was reported.
const FUTILE: u32 = 1 << 4;
/// Since the last wait, an operation has succeeded.
const FRUITFUL: u32 = 1 << 5;
/// The poller may not repeat what is still true: only finding nothing clears readiness.
const QUIET: u32 = 1 << 6;
/// The last report has woken some of those who waited, and left others.
const MORE: u32 = 1 << 7;
/// Counts reports.
const REPORT: u32 = 1 << 8;

pub(super) struct Readiness(AtomicU32);

/// What an operation starts from.
#[derive(Clone, Copy)]
pub(super) struct Seen(u32);

/// What operations have come to since somebody last waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    Fruitful,
    /// What was reported was not there: it may be reported for ever.
    Futile,
}

impl Readiness {
    /// Not tried yet.
    pub(super) fn new() -> Readiness {
        Readiness(AtomicU32::new(READY))
    }

    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn update(&self, change: impl Fn(u32) -> u32) {
        // Never refused.
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let changed = change(word);
                (changed != word).then_some(changed)
            });
    }

    pub(super) fn is_ready(&self) -> bool {
        self.load() & READY != 0
    }

    /// Whether it was reported and nobody has made use of it.
    pub(super) fn is_fresh(&self) -> bool {
        self.load() & FRESH != 0
    }

    /// Whether there may be more of what was reported, for which many wait, some of them woken.
    pub(super) fn is_shared(&self) -> bool {
        self.load() & (READY | MORE | OVER) == READY | MORE
    }

    pub(super) fn is_over(&self) -> bool {
        self.load() & OVER != 0
    }

    pub(super) fn is_proven(&self) -> bool {
        self.load() & PROVEN != 0
    }

    pub(super) fn is_futile(&self) -> bool {
        self.load() & FUTILE != 0
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.load() & QUIET != 0
    }

    pub(super) fn seen(&self) -> Seen {
        Seen(self.load())
    }

    /// Whether there was a report meanwhile.
    pub(super) fn is_newer_than(&self, seen: Seen) -> bool {
        self.load() / REPORT != seen.0 / REPORT
    }

    /// It is reported; true if the last report is still unused.
    ///
    /// Before the lock is taken to find out who waits: whoever is about to wait looks again under
    /// it.
    pub(super) fn report(&self) -> bool {
        let report = |word: u32| Some(word.wrapping_add(REPORT) & !(OVER | FUTILE) | READY | FRESH);
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, report);
        before.is_ok_and(|word| word & FRESH != 0)
    }

    /// An operation has succeeded, or an error has been taken.
    pub(super) fn succeeded(&self) {
        self.update(|word| word & !(FRESH | OVER | FUTILE) | PROVEN | FRUITFUL);
    }

    /// As `succeeded`, of an operation of the user's own, which may have been about anything.
    pub(super) fn used(&self) {
        self.update(|word| word & !(FRESH | OVER | FUTILE) | FRUITFUL);
    }

    /// Whether others wait whom the last report has not woken, and nobody has found nothing since.
    pub(super) fn has_more(&self) -> bool {
        self.load() & MORE != 0
    }

    /// After a report: whether it has left others who wait.
    pub(super) fn set_more(&self, more: bool) {
        self.update(|word| if more { word | MORE } else { word & !MORE });
    }

    /// What was there has probably been taken: if not, it will be reported again. Where many wait,
    /// they find out.
    pub(super) fn settle(&self) {
        self.update(|word| match word & (QUIET | MORE) {
            0 => word & !(READY | FRESH | PROVEN),
            _ => word & !PROVEN,
        });
    }

    /// An operation that started from `seen` has found nothing.
    pub(super) fn found_nothing(&self, seen: Seen) {
        self.missed(seen, READY | MORE, OVER);
    }

    /// As `found_nothing`, of an operation of the user's own: what other operations would find is
    /// not known.
    pub(super) fn missed_by_user(&self, seen: Seen) {
        self.missed(seen, 0, 0);
    }

    fn missed(&self, seen: Seen, clear: u32, set: u32) {
        self.update(|word| {
            if word / REPORT != seen.0 / REPORT {
                return word;
            }
            let futile = if word & FRESH != 0 { FUTILE } else { 0 };
            word & !(FRESH | PROVEN | clear) | set | futile
        });
    }

    /// Somebody is about to wait.
    pub(super) fn take_outcome(&self) -> Outcome {
        if self.load() & (FUTILE | FRUITFUL) == 0 {
            return Outcome::Nothing;
        }
        let before = self.0.fetch_and(!(FUTILE | FRUITFUL), Ordering::AcqRel);
        if before & FUTILE != 0 {
            Outcome::Futile
        } else {
            Outcome::Fruitful
        }
    }

    /// Before the poller is told.
    pub(super) fn set_quiet(&self, quiet: bool) {
        self.update(|word| if quiet { word | QUIET } else { word & !QUIET });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_socket_is_worth_a_try_but_nothing_is_reported() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready() && !readiness.is_fresh());
        readiness.found_nothing(readiness.seen());
        assert!(!readiness.is_ready());
        assert_eq!(readiness.take_outcome(), Outcome::Nothing);
    }

    #[test]
    fn a_report_that_is_used_is_not_futile() {
        let readiness = Readiness::new();
        assert!(!readiness.report());
        assert!(readiness.report(), "nobody has used the first one");
        readiness.succeeded();
        assert!(readiness.is_ready() && !readiness.is_fresh());
        readiness.found_nothing(readiness.seen());
        assert!(!readiness.is_ready());
        assert_eq!(readiness.take_outcome(), Outcome::Fruitful);
        assert_eq!(readiness.take_outcome(), Outcome::Nothing);
    }

    #[test]
    fn a_report_of_what_is_not_there_is_futile() {
        let readiness = Readiness::new();
        readiness.report();
        readiness.found_nothing(readiness.seen());
        assert!(readiness.is_futile() && readiness.is_over());
        assert_eq!(readiness.take_outcome(), Outcome::Futile);
        assert_eq!(readiness.take_outcome(), Outcome::Nothing);
        assert!(readiness.is_over());
    }

    #[test]
    fn finding_nothing_leaves_a_newer_report() {
        let readiness = Readiness::new();
        readiness.report();
        let seen = readiness.seen();
        readiness.report();
        assert!(readiness.is_newer_than(seen));
        readiness.found_nothing(seen);
        readiness.missed_by_user(seen);
        assert!(readiness.is_ready() && readiness.is_fresh());
        assert_eq!(readiness.take_outcome(), Outcome::Nothing);
    }

    #[test]
    fn what_a_user_does_not_find_others_may() {
        let readiness = Readiness::new();
        readiness.report();
        readiness.missed_by_user(readiness.seen());
        assert!(readiness.is_ready() && !readiness.is_fresh() && !readiness.is_over());
        assert_eq!(readiness.take_outcome(), Outcome::Futile);
    }

    #[test]
    fn nothing_is_guessed_where_nothing_is_repeated() {
        let readiness = Readiness::new();
        readiness.set_quiet(true);
        readiness.report();
        readiness.settle();
        assert!(readiness.is_ready());
        readiness.set_quiet(false);
        readiness.settle();
        assert!(!readiness.is_ready());
    }

    #[test]
    fn others_who_wait_are_remembered_until_nothing_is_found() {
        let readiness = Readiness::new();
        readiness.report();
        assert!(!readiness.has_more());
        readiness.set_more(true);
        readiness.succeeded();
        assert!(readiness.has_more());
        readiness.settle();
        assert!(readiness.is_ready() && readiness.is_shared() && !readiness.is_fresh());
        readiness.found_nothing(readiness.seen());
        assert!(!readiness.is_ready() && !readiness.is_shared());
        assert!(!readiness.has_more());
    }

    #[test]
    fn reports_are_counted_beyond_the_word() {
        let readiness = Readiness(AtomicU32::new(!(REPORT - 1) | READY | QUIET));
        let seen = readiness.seen();
        readiness.report();
        assert!(readiness.is_newer_than(seen));
        assert!(readiness.is_quiet() && !readiness.is_over());
    }
}
