//! Sleeping, time limits and intervals.

mod common;

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn, ready, Future};
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
#[cfg(not(target_os = "wasi"))]
use std::sync::{mpsc, Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

#[cfg(not(target_os = "wasi"))]
use common::within;
use common::{block_on_within, PATIENCE};
use coracle::net::UdpSocket;
use coracle::time::{interval, interval_at, sleep, sleep_until, timeout, MissedTicks, Sleep};
use coracle::{block_on, spawn, yield_now};
use futures_lite::future::poll_once;
use futures_lite::StreamExt;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_sleep_is_never_over_early() {
    block_on_within(async {
        for micros in [0, 1, 50, 300, 999, 1_000, 1_001, 1_500, 3_200, 12_345] {
            let duration = Duration::from_micros(micros);
            for _ in 0..5 {
                let start = Instant::now();
                sleep(duration).await;
                assert!(start.elapsed() >= duration, "{duration:?}");
            }
        }
        let start = Instant::now();
        sleep(Duration::from_nanos(1)).await;
        assert!(start.elapsed() >= Duration::from_nanos(1));
    });
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    block_on_within(async {
        for ahead in [5, 50, 500, 5_000] {
            let start = Instant::now() + ahead * MS;
            let fired = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..500_u64)
                .map(|i| {
                    let fired = fired.clone();
                    // All different, and in no order.
                    let place = i * 263 % 500;
                    let deadline = start + Duration::from_micros(20 * place);
                    spawn(async move {
                        sleep_until(deadline).await;
                        assert!(Instant::now() >= deadline);
                        fired.borrow_mut().push(place);
                    })
                })
                .collect();
            yield_now().await;
            // On a slow machine the first may be over before the last is set.
            let all_set = Instant::now() < start;
            for task in tasks {
                task.await;
            }
            if all_set {
                assert!(fired.borrow().is_sorted(), "{:?}", fired.borrow());
                return;
            }
        }
        panic!("the timers could not be set in time");
    });
}

#[test]
fn a_deadline_in_the_past_is_over_at_once() {
    block_on_within(async {
        let past = Instant::now();
        yield_now().await;
        assert_eq!(poll_once(sleep_until(past)).await, Some(()));
        assert_eq!(sleep_until(past).deadline(), Some(past));
    });
}

#[test]
fn reset_moves_the_end_either_way_and_starts_it_again() {
    block_on_within(async {
        let mut sooner = sleep(HOUR);
        assert_eq!(poll_once(&mut sooner).await, None);
        let soon = Instant::now() + 2 * MS;
        sooner.reset(soon);
        (&mut sooner).await;
        assert!(Instant::now() >= soon);

        let mut later = sleep(MS);
        poll_once(&mut later).await;
        let late = Instant::now() + 8 * MS;
        later.reset(late);
        assert_eq!(later.deadline(), Some(late));
        (&mut later).await;
        assert!(Instant::now() >= late, "the first deadline is forgotten");

        let again = Instant::now() + 2 * MS;
        later.reset(again);
        later.await;
        assert!(Instant::now() >= again);
    });
}

#[test]
fn a_span_too_long_for_the_clock_never_ends() {
    block_on_within(async {
        let forever = sleep(Duration::MAX);
        assert_eq!(forever.deadline(), None);
        assert!(timeout(2 * MS, forever).await.is_err());
        assert_eq!(timeout(Duration::MAX, ready(1)).await, Ok(1));
        assert!(timeout(2 * MS, timeout(Duration::MAX, pending::<()>()))
            .await
            .is_err());
        let long = Duration::from_secs(u32::MAX.into());
        assert!(timeout(2 * MS, sleep(long)).await.is_err(), "136 years");
        let mut interval = interval(Duration::MAX);
        interval.tick().await;
        assert!(timeout(2 * MS, interval.tick()).await.is_err());
    });
}

#[test]
fn a_future_that_is_ready_is_never_timed_out() {
    block_on_within(async {
        assert_eq!(timeout(Duration::ZERO, ready(1)).await, Ok(1));
        // Both are ready: the value counts.
        let mut limited = pin!(timeout(
            MS,
            poll_fn({
                let mut polls = 0;
                move |_| {
                    polls += 1;
                    if polls == 1 {
                        Poll::Pending
                    } else {
                        Poll::Ready(2)
                    }
                }
            })
        ));
        assert!(poll_once(&mut limited).await.is_none());
        thread::sleep(2 * MS);
        assert_eq!(limited.await, Ok(2));
        let elapsed = timeout(Duration::ZERO, pending::<()>()).await.unwrap_err();
        assert!(!elapsed.to_string().is_empty());
    });
}

#[test]
fn a_time_limit_becomes_an_io_error() {
    async fn limited() -> std::io::Result<usize> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        timeout(2 * MS, socket.recv(&mut [0; 8])).await?
    }
    let error = block_on_within(limited()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn the_shorter_of_two_nested_limits_counts() {
    block_on_within(async {
        assert!(timeout(HOUR, timeout(2 * MS, pending::<()>()))
            .await
            .unwrap()
            .is_err());
        assert!(timeout(2 * MS, timeout(HOUR, pending::<()>()))
            .await
            .is_err());
    });
}

#[test]
fn a_socket_that_was_timed_out_goes_on() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let mut buf = [0; 8];
        for _ in 0..10 {
            let limit = Duration::from_micros(700);
            assert!(timeout(limit, socket.recv(&mut buf)).await.is_err());
            socket.send_to(b"ping", &addr).await.unwrap();
            assert_eq!(
                timeout(PATIENCE, socket.recv(&mut buf))
                    .await
                    .unwrap()
                    .unwrap(),
                4
            );
        }
    });
}

#[test]
fn an_interval_keeps_its_phase() {
    block_on_within(async {
        let start = Instant::now();
        let period = Duration::from_micros(1_700);
        let mut ticks = interval_at(start + MS, period);
        assert_eq!(ticks.period(), period);
        for i in 0..6 {
            let due = ticks.tick().await;
            assert_eq!(due, start + MS + i * period);
            assert!(Instant::now() >= due);
        }
        let dues: Vec<Instant> = ticks.take(3).collect().await;
        assert_eq!(
            dues[0],
            start + MS + 6 * period,
            "the stream goes on in phase"
        );
        assert_eq!(dues[2] - dues[0], 2 * period);
    });
}

#[test]
fn missed_ticks_are_made_up_delayed_or_skipped() {
    block_on_within(async {
        let period = 3 * MS;
        let miss = |missed| {
            let mut ticks = interval(period);
            ticks.set_missed_ticks(missed);
            ticks
        };

        let mut burst = miss(MissedTicks::default());
        let first = burst.tick().await;
        thread::sleep(4 * period);
        for i in 1..=4 {
            assert_eq!(poll_once(burst.tick()).await, Some(first + i * period));
        }

        let mut delay = miss(MissedTicks::Delay);
        let first = delay.tick().await;
        thread::sleep(4 * period);
        assert_eq!(delay.tick().await, first + period);
        let given = first + 4 * period;
        assert!(delay.tick().await >= given + period);

        let mut skip = miss(MissedTicks::Skip);
        let first = skip.tick().await;
        thread::sleep(4 * period);
        assert_eq!(skip.tick().await, first + period);
        let next = skip.tick().await - first;
        assert!(next > 4 * period, "{next:?}");
        assert_eq!(next.as_nanos() % period.as_nanos(), 0, "in phase");
    });
}

#[test]
fn a_period_of_nothing_still_lets_others_run() {
    block_on_within(async {
        let ran = Rc::new(Cell::new(false));
        let other = ran.clone();
        spawn(async move { other.set(true) }).detach();
        let mut ticks = interval(Duration::ZERO);
        for _ in 0..ROUNDS {
            ticks.tick().await;
        }
        assert!(ran.get());
        assert!(!ticks.period().is_zero());
    });
}

/// More than a task may do before the others have a turn.
const ROUNDS: usize = 10_000;

#[test]
fn sleeping_for_no_time_takes_turns_with_the_others() {
    block_on_within(async {
        let turns = Rc::new(RefCell::new(Vec::new()));
        let tasks = [0, 1, 2].map(|number| {
            let turns = turns.clone();
            spawn(async move {
                for _ in 0..100 {
                    turns.borrow_mut().push(number);
                    sleep(Duration::ZERO).await;
                }
            })
        });
        for task in tasks {
            task.await;
        }
        assert_eq!(*turns.borrow(), [0, 1, 2].repeat(100));
        let mut once = sleep(Duration::ZERO);
        assert_eq!(poll_once(&mut once).await, None);
        assert_eq!(poll_once(&mut once).await, Some(()));
        once.reset(Instant::now());
        assert_eq!(
            poll_once(&mut once).await,
            Some(()),
            "it has an instant now"
        );
    });
}

#[test]
fn sleeping_for_no_time_gives_the_sockets_a_turn() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let received = Rc::new(Cell::new(0));
        let count = received.clone();
        let socket = Rc::new(socket);
        let _receiving = spawn({
            let socket = socket.clone();
            async move {
                loop {
                    socket.recv(&mut [0; 8]).await.unwrap();
                    count.set(count.get() + 1);
                }
            }
        });
        for round in 1..=20 {
            socket.send_to(b"turn", &addr).await.unwrap();
            for _ in 0..1_000_000 {
                if received.get() == round {
                    break;
                }
                sleep(Duration::ZERO).await;
            }
            assert_eq!(received.get(), round);
        }
    });
}

/// Whether another task has had a turn while this was done over and over.
async fn lets_others_run<R>(mut once: impl AsyncFnMut() -> R) -> bool {
    let ran = Rc::new(Cell::new(false));
    let other = ran.clone();
    let task = spawn(async move { other.set(true) });
    for _ in 0..ROUNDS {
        once().await;
    }
    let ran = ran.get();
    task.await;
    ran
}

#[test]
fn deadlines_in_the_past_do_not_keep_others_from_running() {
    block_on_within(async {
        let past = Instant::now();
        yield_now().await;
        assert!(lets_others_run(async || sleep_until(past).await).await);
        assert!(lets_others_run(async || sleep(Duration::from_nanos(1)).await).await);
        let mut again = sleep_until(past);
        assert!(
            lets_others_run(async || {
                again.reset(past);
                (&mut again).await;
            })
            .await
        );
        for limit in [Duration::ZERO, Duration::from_nanos(1)] {
            assert!(lets_others_run(async || timeout(limit, pending::<()>()).await).await);
        }
        let mut ticks = interval_at(past, Duration::from_nanos(1));
        assert!(lets_others_run(async || ticks.tick().await).await);
        let mut ticks = interval_at(past, Duration::from_nanos(1));
        assert!(lets_others_run(async || ticks.next().await).await);
    });
}

#[test]
fn a_limit_costs_a_ready_future_nothing() {
    block_on_within(async {
        for limit in [Duration::ZERO, Duration::from_nanos(1), HOUR] {
            for _ in 0..ROUNDS {
                assert_eq!(poll_once(timeout(limit, ready(1))).await, Some(Ok(1)));
            }
        }
    });
}

#[test]
fn a_dropped_timer_wakes_nobody() {
    block_on_within(async {
        let mut forgotten = sleep(MS);
        let mut kept = sleep(10 * MS);
        let mut polls = 0;
        let mut dropped = false;
        poll_fn(|cx| {
            polls += 1;
            if !dropped {
                dropped = true;
                let mut limit = pin!(timeout(2 * MS, pending::<()>()));
                let _ = limit.as_mut().poll(cx);
                let _ = pin!(&mut forgotten).poll(cx);
                forgotten = sleep(HOUR);
            }
            pin!(&mut kept).poll(cx)
        })
        .await;
        assert!(polls <= 2, "the first one, and when it is over");
    });
}

#[test]
fn many_timers_can_be_given_up() {
    block_on_within(async {
        let mut timers: Vec<Sleep> = (0..20_000).map(|i| sleep(HOUR + i * MS)).collect();
        for timer in &mut timers {
            assert_eq!(poll_once(timer).await, None);
        }
        // From the middle outwards, so that the queue has to find them.
        while timers.len() > 500 {
            drop(timers.swap_remove(timers.len() / 2));
        }
        // The others are still there, each by itself.
        let start = Instant::now();
        for (number, timer) in (0..).zip(&mut timers) {
            timer.reset(start + Duration::from_micros(number * 263 % 500 * 10));
        }
        let last = start + Duration::from_micros(4_990);
        for timer in timers {
            let deadline = timer.deadline().unwrap();
            timer.await;
            assert!(Instant::now() >= deadline && deadline <= last);
        }
    });
}

#[test]
fn a_sleep_moves_from_one_runtime_to_the_next() {
    let deadline = Instant::now() + 8 * MS;
    let waiting = block_on(async {
        let mut sleep = sleep_until(deadline);
        poll_once(&mut sleep).await;
        Some(sleep)
    });
    let (waiting, dropped_outside) = block_on(async {
        let mut waiting = waiting.unwrap();
        let mut other = sleep(HOUR);
        poll_once(&mut waiting).await;
        assert_eq!(poll_once(&mut other).await, None);
        (waiting, other)
    });
    drop(dropped_outside);
    block_on_within(waiting);
    assert!(Instant::now() >= deadline);
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_sleep_that_another_threads_runtime_keeps_ends_with_or_without_it() {
    for outlives in [true, false] {
        let (send, recv) = mpsc::channel();
        let (end, ended) = smol::channel::bounded::<()>(1);
        let deadline = Instant::now() + 20 * MS;
        let other = thread::spawn(move || {
            block_on_within(async move {
                let mut sleep = sleep_until(deadline);
                poll_once(&mut sleep).await;
                send.send(sleep).unwrap();
                let _ = ended.recv().await;
            })
        });
        let sleep = recv.recv_timeout(PATIENCE).unwrap();
        block_on_within(async {
            let waiting = spawn(sleep);
            yield_now().await;
            if !outlives {
                end.send(()).await.unwrap();
            }
            waiting.await;
        });
        assert!(Instant::now() >= deadline);
        drop(end);
        other.join().unwrap();
    }
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_timer_added_and_reset_by_another_thread_ends_the_wait_in_time() {
    let (send, recv) = mpsc::channel::<Sleep>();
    let (back, sleeps) = smol::channel::bounded(1);
    let other = thread::spawn(move || {
        let mut sleep = recv.recv_timeout(PATIENCE).unwrap();
        // The runtime waits for an hour: it must learn of this.
        sleep.reset(Instant::now() + 2 * MS);
        back.send_blocking(sleep).unwrap();
    });
    block_on_within(async {
        let mut sleep = sleep(HOUR);
        assert_eq!(poll_once(&mut sleep).await, None);
        send.send(sleep).unwrap();
        let sleep = within(sleeps.recv()).await.unwrap();
        sleep.await;
    });
    other.join().unwrap();
}

/// Waits for a sleep that others can move.
async fn shared(sleep: &Rc<RefCell<Sleep>>) {
    poll_fn(|cx| pin!(&mut *sleep.borrow_mut()).poll(cx)).await
}

#[test]
fn a_task_that_waits_for_a_sleep_waits_for_its_new_end() {
    block_on_within(async {
        // The last has no end.
        for before in [MS, HOUR, Duration::MAX] {
            let sleep = Rc::new(RefCell::new(sleep(before)));
            let waiting = spawn({
                let sleep = sleep.clone();
                async move {
                    shared(&sleep).await;
                    Instant::now()
                }
            });
            yield_now().await;
            // Earlier, later, in the past.
            let start = Instant::now();
            let ends = [start + HOUR, start + 4 * MS, start + 8 * MS];
            for end in ends {
                sleep.borrow_mut().reset(end);
            }
            assert!(waiting.await >= ends[2], "{before:?}");

            let waiting = spawn({
                let sleep = sleep.clone();
                async move { shared(&sleep).await }
            });
            sleep.borrow_mut().reset(start + HOUR);
            yield_now().await;
            sleep.borrow_mut().reset(start);
            waiting.await;
        }
    });
}

#[test]
fn a_sleep_that_is_moved_wakes_the_last_of_those_who_wait() {
    block_on_within(async {
        let sleep = Rc::new(RefCell::new(sleep(HOUR)));
        let tasks = [0, 1].map(|_| {
            let sleep = sleep.clone();
            spawn(async move { shared(&sleep).await })
        });
        yield_now().await;
        sleep.borrow_mut().reset(Instant::now() + 2 * MS);
        let [first, second] = tasks;
        second.await;
        drop(first);
    });
}

#[test]
fn a_sleep_is_moved_after_its_runtime_has_ended() {
    let sleep = Rc::new(RefCell::new(sleep(HOUR)));
    block_on_within(async { assert!(poll_once(shared(&sleep)).await.is_none()) });
    block_on_within(async {
        let waiting = spawn({
            let sleep = sleep.clone();
            async move { shared(&sleep).await }
        });
        yield_now().await;
        sleep.borrow_mut().reset(Instant::now() + 2 * MS);
        waiting.await;
    });
    block_on_within(async {
        sleep.borrow_mut().reset(Instant::now() + HOUR);
        assert!(poll_once(shared(&sleep)).await.is_none());
    });
    sleep.borrow_mut().reset(Instant::now());
    block_on_within(shared(&sleep));
}

/// Waits on this thread for a sleep that other threads can move.
#[cfg(not(target_os = "wasi"))]
async fn shared_by_threads(sleep: &Mutex<Sleep>) {
    poll_fn(|cx| pin!(&mut *sleep.lock().unwrap()).poll(cx)).await
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn another_thread_moves_a_sleep_that_a_task_waits_for() {
    for before in [HOUR, Duration::MAX] {
        let sleep = Arc::new(Mutex::new(sleep(before)));
        let (waits, waiting) = mpsc::channel();
        let other = thread::spawn({
            let sleep = sleep.clone();
            move || {
                waiting.recv_timeout(PATIENCE).unwrap();
                sleep.lock().unwrap().reset(Instant::now() + 2 * MS);
            }
        });
        block_on_within(async {
            assert!(poll_once(shared_by_threads(&sleep)).await.is_none());
            let task = spawn(async move { shared_by_threads(&sleep).await });
            yield_now().await;
            waits.send(()).unwrap();
            task.await;
        });
        other.join().unwrap();
    }
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_sleep_that_waits_in_another_threads_runtime_is_moved_with_or_without_it() {
    for outlives in [true, false] {
        let sleep = Arc::new(Mutex::new(sleep(HOUR)));
        let (send, polled) = mpsc::channel();
        let (end, ended) = smol::channel::bounded::<()>(1);
        let other = thread::spawn({
            let sleep = sleep.clone();
            move || {
                block_on_within(async move {
                    assert!(poll_once(shared_by_threads(&sleep)).await.is_none());
                    send.send(()).unwrap();
                    let _ = ended.recv().await;
                })
            }
        });
        polled.recv_timeout(PATIENCE).unwrap();
        block_on_within(async {
            let task = spawn({
                let sleep = sleep.clone();
                async move { shared_by_threads(&sleep).await }
            });
            yield_now().await;
            let other = if outlives {
                Some(other)
            } else {
                end.send(()).await.unwrap();
                other.join().unwrap();
                None
            };
            sleep.lock().unwrap().reset(Instant::now() + 2 * MS);
            task.await;
            drop(end);
            if let Some(other) = other {
                other.join().unwrap();
            }
        });
    }
}

#[test]
fn the_last_to_poll_a_sleep_is_the_one_to_be_woken() {
    block_on_within(async {
        let deadline = Instant::now() + 20 * MS;
        let sleep = Rc::new(RefCell::new(sleep_until(deadline)));
        let poll = |sleep: &Rc<RefCell<Sleep>>| {
            let sleep = sleep.clone();
            poll_fn(move |cx| pin!(&mut *sleep.borrow_mut()).poll(cx))
        };
        let first = spawn(poll(&sleep));
        yield_now().await;
        let second = spawn(poll(&sleep));
        yield_now().await;
        let both_wait = Instant::now() < deadline;
        second.await;
        assert!(!both_wait || !first.is_finished());
        // Over already: whoever polls it next finds it so.
        let over = poll_once(poll(&sleep)).await;
        assert_eq!(over, Some(()));
    });
}
