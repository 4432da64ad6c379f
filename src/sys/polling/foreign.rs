//! Sockets and timers where no coracle runtime is running: async-io drives them (feature
//! `async-io`).

#[cfg(feature = "async-io")]
pub(super) use self::with_async_io::Foreign;
#[cfg(feature = "async-io")]
pub(crate) use self::with_async_io::ForeignTimer;
#[cfg(not(feature = "async-io"))]
pub(super) use self::without::Foreign;
#[cfg(not(feature = "async-io"))]
pub(crate) use self::without::ForeignTimer;

#[cfg(feature = "async-io")]
mod with_async_io {
    use std::future::Future;
    use std::io;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
    use std::task::{ready, Context, Poll, Wake, Waker};
    use std::time::{Duration, Instant};

    use async_io::{Async, Timer};

    use crate::sys::polling::watched::Watched;
    use crate::sys::TimerOps;
    use crate::wake::{wake_all, Direction};

    /// How long it is waited for those whom an event has woken to wait again, if there are more
    /// than it wakes.
    const PATIENCE: Duration = Duration::from_millis(1);

    /// A socket registered with async-io's reactor.
    pub(in crate::sys::polling) struct Foreign {
        io: Async<Arc<Watched>>,
        read: Side,
        write: Side,
    }

    struct Side {
        // async-io remembers one waker a direction: ours, which wakes those who wait.
        waker: Waker,
        /// Until it is watched again.
        rest: Mutex<Option<Timer>>,
        rested: Waker,
        /// Until it is watched again for those who were not woken.
        others: Mutex<Option<Timer>>,
    }

    /// Something has happened.
    struct Event {
        foreign: Weak<Foreign>,
        direction: Direction,
    }

    impl Wake for Event {
        fn wake(self: Arc<Self>) {
            if let Some(foreign) = self.foreign.upgrade() {
                foreign.look(self.direction);
            }
        }
    }

    /// A rest is over.
    struct Rested {
        watched: Arc<Watched>,
        direction: Direction,
    }

    impl Wake for Rested {
        fn wake(self: Arc<Self>) {
            self.watched.wake(self.direction);
        }
    }

    impl Foreign {
        pub(in crate::sys::polling) fn new(watched: &Arc<Watched>) -> io::Result<Arc<Foreign>> {
            let io = Async::new_nonblocking(watched.clone())?;
            Ok(Arc::new_cyclic(|foreign| {
                let side = |direction| Side {
                    waker: Waker::from(Arc::new(Event {
                        foreign: foreign.clone(),
                        direction,
                    })),
                    rest: Mutex::new(None),
                    rested: Waker::from(Arc::new(Rested {
                        watched: watched.clone(),
                        direction,
                    })),
                    others: Mutex::new(None),
                };
                Foreign {
                    io,
                    read: side(Direction::Read),
                    write: side(Direction::Write),
                }
            }))
        }

        /// Does not watch this direction for a while, if it does.
        pub(in crate::sys::polling) fn rest(&self, direction: Direction, time: Duration) {
            lock(&self.side(direction).rest).get_or_insert_with(|| Timer::after(time));
        }

        fn side(&self, direction: Direction) -> &Side {
            match direction {
                Direction::Read => &self.read,
                Direction::Write => &self.write,
            }
        }

        /// Ready if there was an event; otherwise it is watched.
        pub(in crate::sys::polling) fn poll_ready(
            &self,
            direction: Direction,
        ) -> Poll<io::Result<()>> {
            let side = self.side(direction);
            ready!(poll_timer(&side.rest, &side.rested));
            self.poll_event(direction)
        }

        fn poll_event(&self, direction: Direction) -> Poll<io::Result<()>> {
            let mut cx = Context::from_waker(&self.side(direction).waker);
            match direction {
                Direction::Read => self.io.poll_readable(&mut cx),
                Direction::Write => self.io.poll_writable(&mut cx),
            }
        }

        /// Takes in an event, if there was one. Those who are woken have it watched again when
        /// they wait again; if they do not, and others wait, this does. As it is repeated then,
        /// it does not matter if somebody else was faster.
        fn look(&self, direction: Direction) {
            if self.poll_event(direction).is_pending() {
                return;
            }
            let mut wakers = Vec::new();
            let watched: &Watched = self.io.get_ref();
            if watched.happened(direction, &mut wakers) {
                let side = self.side(direction);
                *lock(&side.others) = Some(Timer::after(PATIENCE));
                // Now or later: `look` is called then.
                if poll_timer(&side.others, &side.waker).is_ready() {
                    let _ = self.poll_event(direction);
                }
            }
            wake_all(wakers);
        }
    }

    fn lock(timer: &Mutex<Option<Timer>>) -> MutexGuard<'_, Option<Timer>> {
        timer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready if it is not running.
    fn poll_timer(timer: &Mutex<Option<Timer>>, waker: &Waker) -> Poll<()> {
        let mut timer = lock(timer);
        if let Some(running) = &mut *timer {
            ready!(Pin::new(running).poll(&mut Context::from_waker(waker)));
            *timer = None;
        }
        Poll::Ready(())
    }

    #[derive(Debug)]
    pub(crate) struct ForeignTimer(Timer);

    impl TimerOps for ForeignTimer {
        fn new(deadline: Instant) -> ForeignTimer {
            ForeignTimer(Timer::at(deadline))
        }

        fn reset(&mut self, deadline: Instant) {
            self.0.set_at(deadline);
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            Pin::new(&mut self.0).poll(cx).map(drop)
        }
    }
}

#[cfg(not(feature = "async-io"))]
mod without {
    use std::io;
    use std::sync::Arc;
    use std::task::{Context, Poll};
    use std::time::{Duration, Instant};

    use crate::sys::polling::watched::Watched;
    use crate::sys::TimerOps;
    use crate::wake::Direction;

    const NO_RUNTIME: &str = "no coracle runtime is running on this thread: use \
                              coracle::block_on, or turn on the feature `async-io`";

    pub(in crate::sys::polling) enum Foreign {}

    impl Foreign {
        pub(in crate::sys::polling) fn new(_watched: &Arc<Watched>) -> io::Result<Arc<Foreign>> {
            Err(io::Error::new(io::ErrorKind::Unsupported, NO_RUNTIME))
        }

        pub(in crate::sys::polling) fn poll_ready(
            &self,
            _direction: Direction,
        ) -> Poll<io::Result<()>> {
            match *self {}
        }

        pub(in crate::sys::polling) fn rest(&self, _direction: Direction, _time: Duration) {
            match *self {}
        }
    }

    #[derive(Debug)]
    pub(crate) struct ForeignTimer;

    impl TimerOps for ForeignTimer {
        fn new(_deadline: Instant) -> ForeignTimer {
            ForeignTimer
        }

        fn reset(&mut self, _deadline: Instant) {}

        fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
            panic!("{NO_RUNTIME}");
        }
    }
}
