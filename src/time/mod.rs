//! Sleeping, deadlines and intervals.
//!
//! Inside a coracle runtime, timers are entries of its queue: making and dropping one that never
//! fires costs no system call and wakes nobody. Elsewhere they are `async-io`'s (feature
//! `async-io`).
//!
//! # Precision
//! A timer never fires early. On Linux it fires up to a millisecond late if it has more than a
//! millisecond to go when the runtime falls asleep, and more precisely if it has less.

mod interval;
pub(crate) mod queue;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

pub use self::interval::{interval, interval_at, Interval, MissedTicks};
use self::queue::TimerKey;
use crate::budget;
use crate::runtime::context;
use crate::runtime::queue::Shared;
use crate::sys::{clock, ForeignTimer, TimerOps};

/// Waits for a span of time.
///
/// A span of zero lets the other ready tasks, and the sockets, have a turn. A span too long for
/// the clock never ends.
///
/// *asyncio equivalent*: `asyncio.sleep`.
///
/// # Panics
/// When awaited where no coracle runtime is running, if the feature `async-io` is off.
///
/// # Cancel safety
/// Nothing is lost; dropping it forgets the timer.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// coracle::block_on(coracle::time::sleep(Duration::from_millis(5)));
/// ```
pub fn sleep(duration: Duration) -> Sleep {
    let timer = if duration.is_zero() {
        Timer::Yield
    } else {
        Timer::New
    };
    Sleep {
        deadline: clock::now().checked_add(duration),
        timer,
    }
}

/// Waits until an instant.
///
/// One in the past is over at once, but for a task that finds many of its deadlines so: now and
/// then it lets the others have a turn.
///
/// *asyncio equivalent*: `loop.call_at`. Panics and cancel safety are those of [`sleep`].
///
/// # Examples
/// ```
/// use std::time::{Duration, Instant};
///
/// let soon = Instant::now() + Duration::from_millis(5);
/// coracle::block_on(coracle::time::sleep_until(soon));
/// assert!(Instant::now() >= soon);
/// ```
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep {
        deadline: Some(deadline),
        timer: Timer::New,
    }
}

/// The future of [`sleep`] and [`sleep_until`].
///
/// Whoever was the last to poll it is woken at its end, as with any future.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    deadline: Option<Instant>,
    timer: Timer,
}

/// Where the deadline is kept; decided when the future is first polled.
#[derive(Debug)]
enum Timer {
    New,
    /// It lets others have a turn first.
    Yield,
    /// That was done.
    Yielded,
    /// It has no end: who waits for one, which a reset may bring.
    Endless(Waker),
    Queued(Arc<Shared>, TimerKey),
    Foreign(ForeignTimer),
}

impl Sleep {
    /// When it ends; `None` if it never does.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Moves the end, whether or not it has been reached. Who waits for it goes on waiting, for
    /// the new one.
    ///
    /// # Examples
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// coracle::block_on(async {
    ///     let mut sleep = coracle::time::sleep(Duration::from_secs(3600));
    ///     sleep.reset(Instant::now());
    ///     sleep.await;
    /// });
    /// ```
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
        match &mut self.timer {
            Timer::Queued(shared, key) => shared.reset_timer(*key, deadline),
            Timer::Foreign(timer) => timer.reset(deadline),
            Timer::New | Timer::Yield | Timer::Yielded => self.timer = Timer::New,
            Timer::Endless(_) => {
                // Not kept anywhere: it has to be polled for that.
                if let Timer::Endless(waker) = std::mem::replace(&mut self.timer, Timer::New) {
                    waker.wake();
                }
            }
        }
    }

    /// It is over; a reset starts it again.
    fn end(&mut self) -> Poll<()> {
        self.timer = Timer::New;
        Poll::Ready(())
    }

    /// Wakes the task again, so that it is polled when others have had their turn.
    fn give_way(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.timer = Timer::Yielded;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            match &mut self.timer {
                Timer::Endless(waker) => waker.clone_from(cx.waker()),
                timer => *timer = Timer::Endless(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        match &mut self.timer {
            Timer::Queued(shared, key) if shared.renew_timer(*key, cx.waker()) => {
                return Poll::Pending;
            }
            Timer::Foreign(timer) => {
                ready!(timer.poll(cx));
                return self.end();
            }
            Timer::Yield => {
                budget::request_turn();
                return self.give_way(cx);
            }
            Timer::New if clock::now() >= deadline => {
                if budget::spend() {
                    return self.give_way(cx);
                }
                return self.end();
            }
            // It has waited.
            Timer::Queued(..) | Timer::Yielded if clock::now() >= deadline => return self.end(),
            // Not kept anywhere: new, reset after it had fired, or its runtime has ended.
            Timer::Queued(..) | Timer::New | Timer::Yielded | Timer::Endless(_) => {}
        }
        let queued = context::current_shared()
            .and_then(|shared| Some((shared.add_timer(deadline, cx.waker())?, shared)));
        match queued {
            Some((key, shared)) => {
                self.timer = Timer::Queued(shared, key);
                Poll::Pending
            }
            None => {
                let mut timer = ForeignTimer::new(deadline);
                if timer.poll(cx).is_ready() {
                    return self.end();
                }
                self.timer = Timer::Foreign(timer);
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Timer::Queued(shared, key) = &self.timer {
            shared.remove_timer(*key);
        }
    }
}

/// Gives a future a limited time.
///
/// The future is polled first: one that is ready is never timed out, and no timer is made for
/// it. One that is not ready within a limit of zero is polled again when the other ready tasks,
/// and the sockets, have had a turn.
///
/// *asyncio equivalent*: `asyncio.timeout`, `asyncio.wait_for`.
///
/// # Errors
/// [`Elapsed`] if the time was up first; it converts into an `io::Error` of kind `TimedOut`, so
/// that `timeout(limit, socket.recv(&mut buf)).await??` gives one kind of error.
///
/// # Panics
/// When awaited where no coracle runtime is running, if the feature `async-io` is off.
///
/// # Cancel safety
/// That of the future.
///
/// # Examples
/// ```
/// use coracle::time::timeout;
/// use std::time::Duration;
///
/// coracle::block_on(async {
///     let limit = Duration::from_millis(5);
///     assert_eq!(timeout(limit, async { 1 }).await, Ok(1));
///     assert!(timeout(limit, std::future::pending::<()>()).await.is_err());
/// });
/// ```
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout {
        future,
        sleep: Limit::For(limit),
    }
}

enum Limit {
    // The clock is read when the future has turned out not to be ready.
    For(Duration),
    Until(Sleep),
}

pin_project! {
    /// The future of [`timeout`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Limit,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if let Limit::For(limit) = this.sleep {
            *this.sleep = Limit::Until(sleep(*limit));
        }
        match this.sleep {
            Limit::Until(sleep) => Pin::new(sleep).poll(cx).map(|()| Err(Elapsed(()))),
            Limit::For(_) => Poll::Pending,
        }
    }
}

impl<F: fmt::Debug> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout")
            .field("future", &self.future)
            .finish_non_exhaustive()
    }
}

/// The time given to [`timeout`] was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit has elapsed")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, elapsed)
    }
}
