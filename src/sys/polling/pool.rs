//! Threads for work that blocks: at most [`THREADS`] in the process, each for as long as there is
//! work; what is more waits its turn.

use std::any::Any;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

/// Enough for names to be looked up side by side, and little beside what a process may have open.
const THREADS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// Does `work` on a thread of the pool, in the order of the calls.
///
/// If the future is dropped, work that has not begun is dropped, too; what has begun keeps its
/// thread until it is done.
///
/// # Errors
/// - no thread can be started, and none is there already; the system's error.
/// - `Other`: the work panicked.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let answer = Arc::new(Answer::default());
    let asked = answer.clone();
    let job = move || asked.give(catch_unwind(AssertUnwindSafe(work)).map_err(panicked));
    let _queued = Pool::of_this_process().submit(Box::new(job))?;
    poll_fn(|cx| answer.poll(cx)).await
}

fn panicked(payload: Box<dyn Any + Send>) -> io::Error {
    forget(payload);
    io::Error::other("the lookup panicked")
}

/// A panic's payload may panic itself when it is dropped.
fn forget(payload: Box<dyn Any + Send>) {
    std::mem::forget(payload);
}

/// What the thread leaves behind, and who waits for it.
struct Answer<T>(Mutex<State<T>>);

struct State<T> {
    result: Option<io::Result<T>>,
    waker: Option<Waker>,
}

impl<T> Default for Answer<T> {
    fn default() -> Answer<T> {
        Answer(Mutex::new(State {
            result: None,
            waker: None,
        }))
    }
}

// Wakers are the user's code: cloned before the lock is taken, woken and dropped after it.
impl<T> Answer<T> {
    fn give(&self, result: io::Result<T>) {
        let mut state = lock(&self.0);
        state.result = Some(result);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let mut waker = Some(cx.waker().clone());
        let mut state = lock(&self.0);
        let result = state.result.take();
        if result.is_none() {
            std::mem::swap(&mut state.waker, &mut waker);
        }
        drop(state);
        result.map_or(Poll::Pending, Poll::Ready)
    }
}

/// The jobs that wait and the number of threads. While there are jobs there are threads, for a
/// thread ends only when it finds none, and a job without a thread is refused.
struct Pool {
    /// Whose it is: the threads of a parent process are not in its child. 0 is nobody's yet.
    process: AtomicU32,
    queue: Mutex<Queue>,
    /// The next process' pool, in a child that was forked with this one.
    forked: OnceLock<Box<Pool>>,
}

struct Queue {
    /// Each with its number.
    jobs: VecDeque<(u64, Job)>,
    /// The number of the next job.
    next: u64,
    threads: usize,
}

static POOL: Pool = Pool::new();

impl Pool {
    const fn new() -> Pool {
        Pool {
            process: AtomicU32::new(0),
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                next: 0,
                threads: 0,
            }),
            forked: OnceLock::new(),
        }
    }

    /// A forked child has one of its own: in its parent's, threads are counted that it does not
    /// have, and the lock may have been held when it was forked.
    fn of_this_process() -> &'static Pool {
        let mut pool = &POOL;
        let process = process::id();
        while !pool.belongs_to(process) {
            pool = pool.forked.get_or_init(|| Box::new(Pool::new()));
        }
        pool
    }

    /// Whether it is this process', from now on if it was nobody's.
    fn belongs_to(&self, process: u32) -> bool {
        let claimed =
            self.process
                .compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed);
        claimed.is_ok() || claimed == Err(process)
    }

    fn submit(&'static self, job: Job) -> io::Result<Queued> {
        let mut queue = lock(&self.queue);
        if queue.threads < THREADS {
            let started = thread::Builder::new()
                .name("coracle-resolve".into())
                .spawn(|| self.work());
            match started {
                Ok(_) => queue.threads += 1,
                // Those that are there do it.
                Err(_) if queue.threads > 0 => {}
                Err(error) => {
                    drop(queue);
                    return Err(error);
                }
            }
        }
        let number = queue.next;
        queue.next += 1;
        queue.jobs.push_back((number, job));
        Ok(Queued { pool: self, number })
    }

    fn work(&self) {
        while let Some(job) = self.next_job() {
            // A waker may panic: that ends neither the thread nor the count of it.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                forget(payload);
            }
        }
    }

    /// The oldest job; without one, the thread is no longer counted.
    fn next_job(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        let job = queue.jobs.pop_front();
        if job.is_none() {
            queue.threads -= 1;
        }
        job.map(|(_, job)| job)
    }
}

impl Queue {
    fn remove(&mut self, number: u64) -> Option<(u64, Job)> {
        let place = self.jobs.binary_search_by_key(&number, |job| job.0);
        self.jobs.remove(place.ok()?)
    }
}

/// A job's place in the queue, given up by dropping.
struct Queued {
    pool: &'static Pool,
    number: u64,
}

impl Drop for Queued {
    fn drop(&mut self) {
        // In a forked child the parent's queue has no threads, and perhaps a lock for ever.
        if self.pool.belongs_to(process::id()) {
            let job = lock(&self.pool.queue).remove(self.number);
            // The lock is free again: what the job owns is dropped here.
            drop(job);
        }
    }
}

/// Nothing of anybody else's runs under our locks, so none is poisoned but by a lack of memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};
    use std::sync::mpsc::{channel, Sender};

    #[test]
    fn work_that_panics_is_an_error_and_costs_no_thread() {
        for _ in 0..2 * THREADS {
            let result: io::Result<()> = block_on(run(|| panic!("work")));
            let error = result.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Other);
        }
        assert_eq!(block_on(run(|| 1)).unwrap(), 1);
    }

    #[test]
    fn what_work_owns_is_dropped_with_the_future_outside_of_the_lock() {
        struct Looks(Sender<usize>);
        impl Drop for Looks {
            fn drop(&mut self) {
                let queue = POOL.queue.try_lock().map(|queue| queue.jobs.len());
                let _ = self.0.send(queue.unwrap_or(usize::MAX));
            }
        }
        block_on(async {
            let (release, mut running) = occupy().await;
            let (tell, told) = channel();
            let looks = Looks(tell);
            let mut queued = Box::pin(run(move || drop(looks)));
            assert!(poll_once(&mut queued).await.is_none());
            drop(queued);
            assert_ne!(told.recv(), Ok(usize::MAX));
            drop(release);
            for work in &mut running {
                work.await.unwrap();
            }
        });
    }

    type Work = std::pin::Pin<Box<dyn std::future::Future<Output = io::Result<()>>>>;

    /// Work for all threads until what is given is dropped.
    async fn occupy() -> (Vec<Sender<()>>, Vec<Work>) {
        let mut senders = Vec::new();
        let mut running: Vec<Work> = Vec::new();
        for _ in 0..THREADS {
            let (sender, receiver) = channel::<()>();
            let mut work: Work = Box::pin(run(move || receiver.recv().unwrap_or_default()));
            assert!(poll_once(&mut work).await.is_none());
            senders.push(sender);
            running.push(work);
        }
        (senders, running)
    }

    #[cfg(target_os = "linux")]
    #[test]
    #[allow(unsafe_code)]
    fn a_forked_child_has_a_pool_of_its_own() {
        block_on(async {
            let (release, running) = occupy().await;
            let mut queued = Box::pin(run(|| ()));
            assert!(poll_once(&mut queued).await.is_none());
            let held = lock(&POOL.queue);
            // SAFETY: the child has this thread only. It takes no lock that another may have held
            // but malloc's, which the system sees to, and ends without unwinding or destructors.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: alarm(2) and _exit(2) take numbers only.
                unsafe { libc::alarm(30) };
                drop(queued);
                let works = block_on(run(|| 1)).is_ok_and(|one| one == 1);
                // SAFETY: as above.
                unsafe { libc::_exit(i32::from(!works)) };
            }
            drop(held);
            drop(release);
            let mut status = -1;
            // SAFETY: the status is an int.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
            for work in running {
                work.await.unwrap();
            }
        });
    }
}
