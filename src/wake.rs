//! Who waits for one direction of a socket, or for the end of an endpoint.

use std::task::Waker;

/// How many more than one may wait before all are woken, at first, to sort out who still does.
const OVERFLOW: usize = 32;

/// The wakers of the tasks that wait for one event; one inline, the rare others in a list.
///
/// A waiting future that is dropped leaves its waker behind: a stale waker costs one spurious
/// wake-up, and how many can pile up while no event comes is bounded by how many wait.
#[derive(Debug, Default)]
pub(crate) struct WakerSlots {
    first: Option<Waker>,
    others: Option<Box<Others>>,
}

/// Behind a pointer: there are two slots for every socket, and hardly ever more than one waiter.
#[derive(Debug)]
struct Others {
    wakers: Vec<Waker>,
    /// More than these, and all are woken; twice as many after each time, for there may be so many
    /// who wait in earnest.
    limit: usize,
}

impl Default for Others {
    fn default() -> Others {
        Others {
            wakers: Vec::new(),
            limit: OVERFLOW,
        }
    }
}

impl WakerSlots {
    pub(crate) const fn new() -> WakerSlots {
        WakerSlots {
            first: None,
            others: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_none()
    }

    /// Remembers `waker`, once.
    pub(crate) fn register(&mut self, waker: &Waker) {
        match &self.first {
            None => {
                self.first = Some(waker.clone());
                return;
            }
            Some(first) if first.will_wake(waker) => return,
            Some(_) => {}
        }
        let others = self.others.get_or_insert_default();
        if others.wakers.iter().any(|other| other.will_wake(waker)) {
            return;
        }
        if others.wakers.len() >= others.limit {
            others.limit *= 2;
            // Those still waiting come back, the stale ones do not.
            others.wakers.drain(..).for_each(Waker::wake);
        }
        others.wakers.push(waker.clone());
    }

    /// Moves all wakers to `into`, to be woken where no lock is held.
    // Not every backend has a list to move them to.
    #[allow(dead_code)]
    pub(crate) fn take(&mut self, into: &mut Vec<Waker>) {
        into.extend(self.first.take());
        if let Some(mut others) = self.others.take() {
            into.append(&mut others.wakers);
        }
    }

    /// Wakes all.
    pub(crate) fn wake(&mut self) {
        if let Some(first) = self.first.take() {
            first.wake();
        }
        if let Some(others) = self.others.take() {
            others.wakers.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        (count.clone(), Waker::from(count))
    }

    #[test]
    fn each_task_is_woken_once() {
        let mut slots = WakerSlots::new();
        let (a, wake_a) = counter();
        let (b, wake_b) = counter();
        for _ in 0..3 {
            slots.register(&wake_a);
            slots.register(&wake_b);
        }
        slots.wake();
        assert_eq!(a.0.load(Ordering::Relaxed), 1);
        assert_eq!(b.0.load(Ordering::Relaxed), 1);
        assert!(slots.is_empty());
    }

    #[test]
    fn many_who_wait_in_earnest_are_left_in_peace() {
        let mut slots = WakerSlots::new();
        let many: Vec<_> = (0..10 * OVERFLOW).map(|_| counter()).collect();
        // Whoever is woken comes back.
        for _ in 0..100 {
            many.iter().for_each(|(_, waker)| slots.register(waker));
        }
        let woken = |(count, _): &(Arc<Count>, Waker)| count.0.load(Ordering::Relaxed);
        assert!(many.iter().map(woken).sum::<usize>() < 40 * OVERFLOW);
    }

    #[test]
    fn stale_wakers_do_not_pile_up() {
        let mut slots = WakerSlots::new();
        let (alive, waker) = counter();
        for _ in 0..100 * OVERFLOW {
            slots.register(&waker);
            slots.register(&counter().1);
        }
        let others = slots.others.map_or(0, |others| others.wakers.len());
        assert!(others <= 128 * OVERFLOW);
        assert!(alive.0.load(Ordering::Relaxed) < 10);
    }
}
