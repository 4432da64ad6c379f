//! Who waits for one direction of a socket, or for the end of an endpoint.
//!
//! Nothing here runs code of the user's: a waker comes in as a clone, and goes out to be woken or
//! dropped where no lock is held.

use std::collections::VecDeque;
use std::future::Future;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use crate::panics::{catch, drop_contained};

/// How many poll functions' wakers are kept, at first, before all are woken to sort out who still
/// waits.
const POLLED: usize = 64;

/// How many of those are watched for whether they come back.
const SAMPLE: usize = 8;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Who polls: a future, which takes away what it has registered when it is dropped, or a poll
/// function, which cannot.
pub(crate) struct Waiter<'a> {
    waker: &'a Waker,
    ticket: Option<Place<'a>>,
}

/// A future's ticket, and what it has written on it.
struct Place<'a> {
    address: usize,
    state: &'a mut TicketState,
}

pin_project! {
    /// Names a future among those who wait: by its address, which is its own until it is dropped.
    #[derive(Default)]
    pub(crate) struct Ticket {
        state: TicketState,
        #[pin]
        pinned: PhantomPinned,
    }
}

#[derive(Default)]
struct TicketState {
    registered: bool,
    /// Its number in the queue, if it ever had to queue.
    number: Option<u64>,
}

impl<'a> Waiter<'a> {
    /// A poll function.
    pub(crate) fn polled(cx: &'a Context<'_>) -> Waiter<'a> {
        Waiter {
            waker: cx.waker(),
            ticket: None,
        }
    }

    /// The future that has the ticket.
    pub(crate) fn with_ticket(cx: &'a Context<'_>, ticket: Pin<&'a mut Ticket>) -> Waiter<'a> {
        let address = ticket.as_ref().address();
        Waiter {
            waker: cx.waker(),
            ticket: Some(Place {
                address,
                state: ticket.project().state,
            }),
        }
    }

    pub(crate) fn waker(&self) -> &'a Waker {
        self.waker
    }

    /// The address of its ticket; 0 if it has none.
    fn address(&self) -> usize {
        self.ticket.as_ref().map_or(0, |ticket| ticket.address)
    }

    fn number(&self) -> Option<u64> {
        self.ticket.as_ref().and_then(|ticket| ticket.state.number)
    }

    fn set_registered(&mut self, number: Option<u64>) {
        if let Some(ticket) = &mut self.ticket {
            ticket.state.registered = true;
            if number.is_some() {
                ticket.state.number = number;
            }
        }
    }
}

impl Ticket {
    fn address(self: Pin<&Ticket>) -> usize {
        std::ptr::from_ref(self.get_ref()) as usize
    }
}

/// The wakers of those who wait for one event: one inline, the rare others in a queue.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    first: Option<Waker>,
    /// The address of the ticket of the first; 0 if it is a poll function's.
    owner: usize,
    others: Option<Box<Others>>,
}

/// What registering a waker has set free: dropped, and woken, when this is, which must be where no
/// lock is held.
#[derive(Default)]
#[must_use = "to be dropped where no lock is held"]
pub(crate) struct Displaced {
    _one: Option<Waker>,
    /// Of many poll functions.
    _many: Option<Box<Many>>,
}

#[derive(Default)]
struct Many {
    woken: Vec<Arc<Waker>>,
    _dropped: Vec<Arc<Waker>>,
}

impl Drop for Many {
    fn drop(&mut self) {
        self.woken.iter().for_each(|waker| wake_by_ref(waker));
    }
}

impl Waiters {
    pub(crate) const fn new() -> Waiters {
        Waiters {
            first: None,
            owner: 0,
            others: None,
        }
    }

    // Not every backend looks.
    #[allow(dead_code)]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
            && self
                .others
                .as_ref()
                .is_none_or(|others| others.queue.is_empty())
    }

    /// Remembers a waiter, once, by a clone of its waker.
    pub(crate) fn register(&mut self, waiter: &mut Waiter<'_>, waker: Waker) -> Displaced {
        let owner = waiter.address();
        let mut waker = waker;
        if let Some(others) = &mut self.others {
            match others.renew(waiter, waker) {
                Ok(displaced) => return displaced,
                Err(unknown) => waker = unknown,
            }
        }
        match &mut self.first {
            None => {
                self.first = Some(waker);
                self.owner = owner;
                waiter.set_registered(None);
                Displaced::default()
            }
            Some(first) if owner == self.owner && (owner != 0 || first.will_wake(&waker)) => {
                Displaced::dropping(std::mem::replace(first, waker))
            }
            Some(_) => self.others.get_or_insert_default().push(waiter, waker),
        }
    }

    /// Forgets a future that gives up.
    pub(crate) fn remove(&mut self, ticket: Pin<&Ticket>) -> Option<Waker> {
        if self.first.is_some() && self.owner == ticket.address() {
            return self.first.take();
        }
        let others = self.others.as_mut()?;
        match others.queue.remove(ticket.state.number?)? {
            Entry::Future(waker) => Some(waker),
            Entry::Polled(_) => None,
        }
    }

    /// Moves all wakers to `into`, in the order in which they came, to be woken where no lock is
    /// held.
    pub(crate) fn take(&mut self, into: &mut Vec<Waker>) {
        into.extend(self.first.take());
        if let Some(others) = &mut self.others {
            others.take(into);
        }
    }
}

impl Waiters {
    /// As [`take`](Waiters::take), but so many at most; the others go on waiting.
    // Not every backend does.
    #[allow(dead_code)]
    pub(crate) fn take_some(&mut self, count: usize, into: &mut Vec<Waker>) {
        if count == 0 {
            return;
        }
        let first = self.first.take();
        let rest = count - usize::from(first.is_some());
        into.extend(first);
        if let Some(others) = &mut self.others {
            others.take_some(rest, into);
        }
    }
}

impl Displaced {
    fn dropping(waker: Waker) -> Displaced {
        Displaced {
            _one: Some(waker),
            _many: None,
        }
    }
}

/// Behind a pointer: there are two for every socket, and hardly ever more than one waiter.
#[derive(Debug)]
struct Others {
    queue: Queue,
    /// Which of them are poll functions', by their tasks.
    polled: Vec<(Task, u64)>,
    /// With so many of those, all of them are woken.
    limit: usize,
    sample: Sample,
}

#[derive(Debug)]
enum Entry {
    Future(Waker),
    Polled(Arc<Waker>),
}

/// In the order in which they came, each with a number that no other gets.
#[derive(Debug, Default)]
struct Queue {
    /// The number of the next who comes.
    next: u64,
    /// With gaps where somebody has left; neither the first nor the last is one.
    entries: VecDeque<(u64, Option<Entry>)>,
    len: usize,
}

impl Queue {
    fn len(&self) -> usize {
        self.len
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, entry: Entry) -> u64 {
        let number = self.next;
        self.next += 1;
        self.entries.push_back((number, Some(entry)));
        self.len += 1;
        number
    }

    fn find(&self, number: u64) -> Option<usize> {
        let place = self.entries.binary_search_by_key(&number, |entry| entry.0);
        place.ok()
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Entry> {
        let place = self.find(number)?;
        self.entries[place].1.as_mut()
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let place = self.find(number)?;
        let entry = self.entries[place].1.take()?;
        self.len -= 1;
        while matches!(self.entries.back(), Some((_, None))) {
            self.entries.pop_back();
        }
        self.close_front();
        // As many gaps as entries: from now on none.
        if self.entries.len() > 2 * self.len + 16 {
            self.entries.retain(|(_, entry)| entry.is_some());
        }
        self.give_memory_back();
        Some(entry)
    }

    /// The first.
    fn pop(&mut self) -> Option<Entry> {
        let (_, entry) = self.entries.pop_front()?;
        self.len -= usize::from(entry.is_some());
        self.close_front();
        self.give_memory_back();
        entry
    }

    /// What a crowd has taken, once it has gone.
    fn give_memory_back(&mut self) {
        let len = self.entries.len();
        if len == 0 {
            self.entries = VecDeque::new();
        } else if self.entries.capacity() > 4 * len + 64 {
            self.entries.shrink_to(2 * len);
        }
    }

    fn close_front(&mut self) {
        while matches!(self.entries.front(), Some((_, None))) {
            self.entries.pop_front();
        }
    }
}

/// What tells the wakers of one task from those of others, while one of them is kept.
type Task = (usize, usize);

fn task(waker: &Waker) -> Task {
    let vtable = std::ptr::from_ref(waker.vtable()) as usize;
    (waker.data() as usize, vtable)
}

/// Poll functions that were woken to find out whether they still wait. Their wakers are kept
/// meanwhile, so that no other task can be taken for theirs.
#[derive(Debug)]
struct Sample {
    wakers: Vec<Arc<Waker>>,
    returned: usize,
    /// How many others have come meanwhile, and after how many it is judged.
    since: usize,
    horizon: usize,
}

impl Default for Others {
    fn default() -> Others {
        Others {
            queue: Queue::default(),
            polled: Vec::new(),
            limit: POLLED,
            sample: Sample {
                wakers: Vec::new(),
                returned: 0,
                since: 0,
                horizon: POLLED,
            },
        }
    }
}

impl Others {
    /// Puts the waker in the place that its waiter has in the queue, if it has one.
    fn renew(&mut self, waiter: &Waiter<'_>, waker: Waker) -> Result<Displaced, Waker> {
        let number = match &waiter.ticket {
            Some(_) => waiter.number(),
            // The same task: nothing is new.
            None if self.find(task(&waker)).is_ok() => return Ok(Displaced::dropping(waker)),
            None => None,
        };
        match number.and_then(|number| self.queue.get_mut(number)) {
            Some(Entry::Future(before)) => {
                Ok(Displaced::dropping(std::mem::replace(before, waker)))
            }
            _ => Err(waker),
        }
    }

    fn push(&mut self, waiter: &mut Waiter<'_>, waker: Waker) -> Displaced {
        if waiter.ticket.is_some() {
            waiter.set_registered(Some(self.queue.push(Entry::Future(waker))));
            return Displaced::default();
        }
        let task = task(&waker);
        let mut displaced = Displaced::default();
        if !self.sample.wakers.is_empty() {
            self.judge(task, displaced._many.get_or_insert_default());
        }
        if self.polled.len() >= self.limit {
            self.wake_polled(displaced._many.get_or_insert_default());
        }
        let number = self.queue.push(Entry::Polled(Arc::new(waker)));
        if let Err(place) = self.find(task) {
            self.polled.insert(place, (task, number));
        }
        displaced
    }

    /// Where a task that polls is among those, or belongs.
    fn find(&self, task: Task) -> Result<usize, usize> {
        self.polled.binary_search_by_key(&task, |(task, _)| *task)
    }

    /// All poll functions are woken: those who still wait come back, the others do not.
    fn wake_polled(&mut self, displaced: &mut Many) {
        for (_, number) in std::mem::take(&mut self.polled) {
            if let Some(Entry::Polled(waker)) = self.queue.remove(number) {
                displaced.woken.push(waker);
            }
        }
        if self.sample.wakers.is_empty() {
            let some = displaced.woken.iter().take(SAMPLE).cloned();
            self.sample.wakers.extend(some);
            self.sample.returned = 0;
            self.sample.since = 0;
        }
    }

    /// Somebody comes. If most of the sample have come back, there are so many who wait in
    /// earnest, and there is room for more; if they have not for long, there was too much.
    fn judge(&mut self, task_of: Task, displaced: &mut Many) {
        let sample = &mut self.sample;
        sample.since += 1;
        if let Some(index) = sample.wakers.iter().position(|one| task(one) == task_of) {
            displaced._dropped.push(sample.wakers.swap_remove(index));
            sample.returned += 1;
        }
        if sample.returned > SAMPLE / 2 {
            self.limit *= 2;
        } else if sample.since >= sample.horizon {
            self.limit = POLLED.max(self.limit / 2);
            // Perhaps their turn has not come yet.
            sample.horizon = sample.horizon.saturating_mul(2);
        } else {
            return;
        }
        displaced._dropped.append(&mut sample.wakers);
    }

    fn take_some(&mut self, count: usize, into: &mut Vec<Waker>) {
        if count >= self.queue.len() {
            return self.take(into);
        }
        for _ in 0..count {
            match self.queue.pop() {
                Some(Entry::Future(waker)) => into.push(waker),
                Some(Entry::Polled(waker)) => {
                    if let Ok(place) = self.find(task(&waker)) {
                        self.polled.remove(place);
                    }
                    into.extend(Arc::into_inner(waker));
                }
                None => return,
            }
        }
    }

    fn take(&mut self, into: &mut Vec<Waker>) {
        self.polled.clear();
        while let Some(entry) = self.queue.pop() {
            into.extend(match entry {
                Entry::Future(waker) => Some(waker),
                Entry::Polled(waker) => Arc::into_inner(waker),
            });
        }
    }
}

/// Wakes one who waits, where no lock is held. A waker that panics, of which the panic hook is told,
/// is the concern of whoever has made it.
pub(crate) fn wake(waker: Waker) {
    if let Err(payload) = catch(|| waker.wake()) {
        drop_contained(payload);
    }
}

/// As [`wake`], and keeps it.
pub(crate) fn wake_by_ref(waker: &Waker) {
    if let Err(payload) = catch(|| waker.wake_by_ref()) {
        drop_contained(payload);
    }
}

/// Wakes all, each whatever the others do.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(wake);
}

/// Something that futures wait for, which can forget one of them.
pub(crate) trait Waitable {
    /// What of it.
    type Event: Copy;
    fn forget(&self, event: Self::Event, ticket: Pin<&Ticket>);
}

/// Waits for what `poll` gives. If it is dropped before, nothing of it stays with `source`.
pub(crate) fn wait<S, T, F>(source: &S, event: S::Event, poll: F) -> Wait<'_, S, F>
where
    S: Waitable + ?Sized,
    F: FnMut(&mut Waiter<'_>) -> Poll<T>,
{
    Wait {
        source,
        event,
        poll,
        ticket: Ticket::default(),
    }
}

pin_project! {
    /// The future of [`wait`].
    #[must_use = "futures do nothing unless awaited"]
    pub(crate) struct Wait<'a, S, F>
    where
        S: Waitable,
        S: ?Sized,
    {
        source: &'a S,
        event: S::Event,
        poll: F,
        #[pin]
        ticket: Ticket,
    }

    impl<S, F> PinnedDrop for Wait<'_, S, F>
    where
        S: Waitable,
        S: ?Sized,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if this.ticket.state.registered {
                this.source.forget(*this.event, this.ticket.as_ref());
            }
        }
    }
}

impl<S, T, F> Future for Wait<'_, S, F>
where
    S: Waitable + ?Sized,
    F: FnMut(&mut Waiter<'_>) -> Poll<T>,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = self.project();
        (this.poll)(&mut Waiter::with_ticket(cx, this.ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
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

    fn woken(count: &Count) -> usize {
        count.0.load(Ordering::Relaxed)
    }

    fn poll(waiters: &mut Waiters, waker: &Waker) {
        let cx = Context::from_waker(waker);
        drop(waiters.register(&mut Waiter::polled(&cx), waker.clone()));
    }

    fn queue(waiters: &mut Waiters, ticket: Pin<&mut Ticket>, waker: &Waker) {
        let cx = Context::from_waker(waker);
        drop(waiters.register(&mut Waiter::with_ticket(&cx, ticket), waker.clone()));
    }

    fn wake(waiters: &mut Waiters) -> usize {
        let mut wakers = Vec::new();
        waiters.take(&mut wakers);
        let count = wakers.len();
        wakers.into_iter().for_each(Waker::wake);
        count
    }

    #[test]
    fn each_task_that_polls_is_woken_once() {
        let mut waiters = Waiters::new();
        let (a, wake_a) = counter();
        let (b, wake_b) = counter();
        for _ in 0..3 {
            poll(&mut waiters, &wake_a);
            poll(&mut waiters, &wake_b);
        }
        assert_eq!(wake(&mut waiters), 2);
        assert_eq!((woken(&a), woken(&b)), (1, 1));
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_crowd_that_has_gone_leaves_no_memory_taken() {
        const CROWD: usize = 5_000;
        let capacity =
            |waiters: &Waiters| waiters.others.as_ref().unwrap().queue.entries.capacity();
        let (_, waker) = counter();
        for stays in 0..3 {
            let mut waiters = Waiters::new();
            let mut tickets: Vec<_> = (0..CROWD).map(|_| Box::pin(Ticket::default())).collect();
            for ticket in &mut tickets {
                queue(&mut waiters, ticket.as_mut(), &waker);
            }
            assert!(capacity(&waiters) >= CROWD - 1);
            for (index, ticket) in tickets.iter().enumerate() {
                if stays == 0 || index * stays != CROWD / 2 {
                    assert!(waiters.remove(ticket.as_ref()).is_some());
                }
            }
            assert!(capacity(&waiters) <= 100, "{}", capacity(&waiters));
            assert_eq!(waiters.is_empty(), stays == 0);
        }
    }

    #[test]
    fn futures_are_woken_in_order_and_forgotten_when_they_give_up() {
        let mut waiters = Waiters::new();
        let counters: Vec<_> = (0..5).map(|_| counter()).collect();
        let mut tickets: Vec<_> = (0..5).map(|_| Box::pin(Ticket::default())).collect();
        for round in 0..3 {
            for ((_, waker), ticket) in counters.iter().zip(&mut tickets) {
                queue(&mut waiters, ticket.as_mut(), waker);
                queue(&mut waiters, ticket.as_mut(), waker);
            }
            for gone in [0, 3] {
                assert!(waiters.remove(tickets[gone].as_ref()).is_some());
                assert!(waiters.remove(tickets[gone].as_ref()).is_none());
            }
            let mut wakers = Vec::new();
            waiters.take(&mut wakers);
            let order: Vec<_> = wakers.iter().map(task).collect();
            let expected: Vec<_> = [1, 2, 4].map(|i: usize| task(&counters[i].1)).into();
            assert_eq!(order, expected, "round {round}");
            assert!(waiters.is_empty());
        }
        assert!(counters
            .iter()
            .all(|(count, _)| Arc::strong_count(count) == 2));
    }

    #[test]
    fn one_that_gives_up_takes_nobody_elses_place() {
        let mut waiters = Waiters::new();
        let (task_of_all, waker) = counter();
        let mut first = pin!(Ticket::default());
        let mut second = pin!(Ticket::default());
        queue(&mut waiters, first.as_mut(), &waker);
        queue(&mut waiters, second.as_mut(), &waker);
        assert!(waiters.remove(first.as_ref()).is_some());
        assert_eq!(wake(&mut waiters), 1, "the other of the same task");
        // Woken, and not polled since: its place is another's now.
        let (other, other_waker) = counter();
        let mut third = pin!(Ticket::default());
        queue(&mut waiters, third.as_mut(), &other_waker);
        assert!(waiters.remove(second.as_ref()).is_none());
        assert_eq!(wake(&mut waiters), 1);
        assert_eq!((woken(&task_of_all), woken(&other)), (1, 1));
    }

    #[test]
    fn a_future_that_has_moved_wakes_the_task_it_is_in_now() {
        let mut waiters = Waiters::new();
        let (before, wake_before) = counter();
        let (now, wake_now) = counter();
        let mut inline = pin!(Ticket::default());
        let mut queued = pin!(Ticket::default());
        for waker in [&wake_before, &wake_now] {
            queue(&mut waiters, inline.as_mut(), waker);
            queue(&mut waiters, queued.as_mut(), waker);
        }
        assert_eq!(wake(&mut waiters), 2);
        assert_eq!((woken(&before), woken(&now)), (0, 2));
    }

    #[test]
    fn a_queued_future_keeps_one_place_when_the_first_has_gone() {
        let mut waiters = Waiters::new();
        let (count, waker) = counter();
        let mut first = pin!(Ticket::default());
        let mut second = pin!(Ticket::default());
        queue(&mut waiters, first.as_mut(), &waker);
        queue(&mut waiters, second.as_mut(), &waker);
        drop(waiters.remove(first.as_ref()));
        queue(&mut waiters, second.as_mut(), &waker);
        assert!(waiters.remove(second.as_ref()).is_some());
        assert!(waiters.is_empty());
        assert_eq!(Arc::strong_count(&count), 2);
    }

    /// A fair executor of so many tasks that poll again whenever they are woken, for so many polls
    /// at most; gives how many there were.
    fn run(tasks: usize, polls: usize) -> usize {
        struct Queued(usize, Arc<std::sync::Mutex<VecDeque<usize>>>);
        impl Wake for Queued {
            fn wake(self: Arc<Self>) {
                self.1.lock().unwrap().push_back(self.0);
            }
        }
        let ready = Arc::new(std::sync::Mutex::new((0..tasks).collect::<VecDeque<_>>()));
        let wakers: Vec<_> = (0..tasks)
            .map(|index| Waker::from(Arc::new(Queued(index, ready.clone()))))
            .collect();
        let mut waiters = Waiters::new();
        for done in 0..polls {
            let Some(next) = ready.lock().unwrap().pop_front() else {
                assert_eq!(wake(&mut waiters), tasks, "none is forgotten");
                return done;
            };
            poll(&mut waiters, &wakers[next]);
        }
        panic!("{tasks} tasks are woken again and again");
    }

    #[test]
    fn many_who_poll_in_earnest_are_left_in_peace() {
        for tasks in [POLLED, POLLED + 2, 1_000, 10_000] {
            let polls = run(tasks, 60 * tasks);
            assert!(polls >= tasks);
        }
    }

    #[test]
    fn stale_wakers_of_poll_functions_are_few_however_many_there_were() {
        let mut waiters = Waiters::new();
        // In the first place, where it stays until the event.
        poll(&mut waiters, &counter().1);
        let (alive, waker) = counter();
        let mut stale = Vec::new();
        for round in 0..100_000_usize {
            poll(&mut waiters, &waker);
            let (count, waker) = counter();
            poll(&mut waiters, &waker);
            stale.push(Arc::downgrade(&count));
            if round % 1_000 == 0 {
                stale.retain(|one| one.strong_count() > 0);
                assert!(
                    stale.len() <= 2 * POLLED + SAMPLE,
                    "{} are kept",
                    stale.len()
                );
            }
        }
        assert!(woken(&alive) > 0, "it is asked whether it still waits");
        assert!(woken(&alive) < 100_000 / (POLLED / 2));
    }
}
