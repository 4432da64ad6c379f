//! The measurements of the micro binaries. They are written once, against a module `rt` that
//! each binary defines for its runtime:
//!
//! - `block_on(future) -> T`, in which everything else runs
//! - `spawn(future) -> impl Future<Output = T>` onto the same thread
//! - `yield_now()`, `sleep(Duration)`: futures
//! - `timeout(Duration, future) -> impl Future<Output = Option<T>>`
//!
//! This file is included by path: a trait could not say that the futures of one runtime are
//! `Send` where its `spawn` requires it and that those of another need not be.

use std::future::{poll_fn, Future};
use std::io::{self, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::rt;

const MINUTE: Duration = Duration::from_secs(60);

/// Runs every measurement for about as many seconds as the command line says.
pub fn run() -> io::Result<()> {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok())
        .unwrap_or(0.2);
    let target = Duration::from_secs_f64(seconds);
    let report = |name: &str, ops_per_round: u32, round: &dyn Fn(u32) -> Duration| {
        let nanoseconds = measure(target, round) / f64::from(ops_per_round);
        writeln!(io::stdout(), "{name} {nanoseconds:.2}")
    };
    report("spawn_await", 1, &|n| rt::block_on(spawn_await(n)))?;
    report("spawn_1000_join", 1000, &|n| rt::block_on(spawn_join(n)))?;
    report("yield_now", 1, &|n| rt::block_on(yield_alone(n)))?;
    report("yield_now_100_tasks", 100, &|n| {
        rt::block_on(yield_among(n, 100))
    })?;
    report("sleep_poll_drop", 1, &|n| rt::block_on(sleep_drop(n)))?;
    report("timeout_not_reached", 1, &|n| rt::block_on(timeouts(n)))?;
    report("10000_sleeps_dropped", 10_000, &|n| {
        rt::block_on(many_sleeps(n))
    })?;
    report("thread_ping_pong", 1, &ping_pong)
}

/// Nanoseconds per round, once there are enough rounds for the time to mean something.
fn measure(target: Duration, round: &dyn Fn(u32) -> Duration) -> f64 {
    let mut rounds = 1;
    loop {
        let elapsed = round(rounds);
        if elapsed >= target / 2 || rounds > u32::MAX / 16 {
            return elapsed.as_secs_f64() * 1e9 / f64::from(rounds);
        }
        let wanted = target.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
        rounds = (f64::from(rounds) * wanted.clamp(2.0, 10.0)) as u32;
    }
}

async fn spawn_await(n: u32) -> Duration {
    let start = Instant::now();
    for i in 0..n {
        assert_eq!(rt::spawn(async move { i }).await, i);
    }
    start.elapsed()
}

async fn spawn_join(n: u32) -> Duration {
    let mut tasks = Vec::with_capacity(1000);
    let start = Instant::now();
    for _ in 0..n {
        for i in 0..1000 {
            tasks.push(rt::spawn(async move { i }));
        }
        let mut sum = 0;
        for task in tasks.drain(..) {
            sum += task.await;
        }
        assert_eq!(sum, 499_500);
    }
    start.elapsed()
}

async fn yield_alone(n: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..n {
        rt::yield_now().await;
    }
    start.elapsed()
}

async fn yield_among(n: u32, tasks: usize) -> Duration {
    let start = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            rt::spawn(async move {
                for _ in 0..n {
                    rt::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await;
    }
    start.elapsed()
}

/// What a timer costs that is armed and never fires, as those of timeouts do.
async fn sleep_drop(n: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..n {
        poll_once(rt::sleep(MINUTE)).await;
    }
    start.elapsed()
}

async fn timeouts(n: u32) -> Duration {
    let start = Instant::now();
    for i in 0..n {
        // Pending once: a future that is ready at once never arms the timer.
        let soon = async move {
            rt::yield_now().await;
            i
        };
        assert_eq!(rt::timeout(MINUTE, soon).await, Some(i));
    }
    start.elapsed()
}

async fn many_sleeps(n: u32) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..n {
        let mut sleeps = Vec::with_capacity(10_000);
        let start = Instant::now();
        let mut spread = 1_u32;
        for _ in 0..10_000 {
            // Deadlines out of order, up to a minute apart.
            spread = spread.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut sleep = Box::pin(rt::sleep(
                MINUTE + MINUTE.mul_f64(f64::from(spread) / 4.3e9),
            ));
            poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx).is_pending())).await;
            sleeps.push(sleep);
        }
        drop(sleeps);
        total += start.elapsed();
    }
    total
}

async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        })
    })
    .await
}

/// Two threads, each in the runtime's `block_on`, wake each other in turn: the cost of a
/// round trip, that is of two wake-ups of a thread that sleeps in the reactor.
fn ping_pong(n: u32) -> Duration {
    let (ping, pong) = (Arc::new(Signal::default()), Arc::new(Signal::default()));
    let other = {
        let (ping, pong) = (ping.clone(), pong.clone());
        std::thread::spawn(move || {
            rt::block_on(async {
                for _ in 0..=n {
                    ping.wait().await;
                    pong.set();
                }
            });
        })
    };
    let elapsed = rt::block_on(async {
        // The first exchange waits for the thread to start.
        ping.set();
        pong.wait().await;
        let start = Instant::now();
        for _ in 0..n {
            ping.set();
            pong.wait().await;
        }
        start.elapsed()
    });
    // The other thread has sent its last pong: it is about to end, and cannot have panicked.
    let _ = other.join();
    elapsed
}

/// The least a future can wait for, so that what is measured is the runtime's waker.
#[derive(Default)]
struct Signal {
    set: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    fn set(&self) {
        self.set.store(true, Ordering::SeqCst);
        let waker = match self.waker.lock() {
            Ok(mut waker) => waker.take(),
            Err(_) => None,
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            if self.set.swap(false, Ordering::SeqCst) {
                return Poll::Ready(());
            }
            if let Ok(mut waker) = self.waker.lock() {
                *waker = Some(cx.waker().clone());
            }
            // Set between the first look and the registration.
            if self.set.swap(false, Ordering::SeqCst) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}
