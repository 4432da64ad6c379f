//! Who waits for one direction of a socket, or for the end of an endpoint.

use std::task::Waker;

/// How many more than one may wait before all are woken to sort out who still does.
const OVERFLOW: usize = 32;

/// The wakers of the tasks that wait for one event; one inline, the rare others in a list.
///
/// A waiting future that is dropped leaves its waker behind: a stale waker costs one spurious
/// wake-up, and [`OVERFLOW`] bounds how many can pile up while no event comes.
#[derive(Debug, Default)]
pub(crate) struct WakerSlots {
    first: Option<Waker>,
    others: Option<Box<Others>>,
}

/// Behind a pointer: there are two slots for every socket, and hardly ever more than one waiter.
#[derive(Debug, Default)]
struct Others(Vec<Waker>);

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
        let Others(others) = &mut **self.others.get_or_insert_default();
        if others.iter().any(|other| other.will_wake(waker)) {
            return;
        }
        if others.len() >= OVERFLOW {
            // Those still waiting come back, the stale ones do not.
            others.drain(..).for_each(Waker::wake);
        }
        others.push(waker.clone());
    }

    /// Moves all wakers to `into`, to be woken where no lock is held.
    pub(crate) fn take(&mut self, into: &mut Vec<Waker>) {
        into.extend(self.first.take());
        if let Some(mut others) = self.others.take() {
            into.append(&mut others.0);
        }
    }

    /// Wakes all.
    pub(crate) fn wake(&mut self) {
        if let Some(first) = self.first.take() {
            first.wake();
        }
        if let Some(others) = self.others.take() {
            others.0.into_iter().for_each(Waker::wake);
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
    fn stale_wakers_do_not_pile_up() {
        let mut slots = WakerSlots::new();
        for _ in 0..10 * OVERFLOW {
            slots.register(&counter().1);
        }
        assert!(slots
            .others
            .is_some_and(|others| others.0.len() <= OVERFLOW));
    }
}
