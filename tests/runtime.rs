//! The executor: tasks, fairness, wakes from other threads, and the end of a runtime.
//!
//! WASI has no threads, and panics cannot be caught there.

mod common;

use std::cell::{Cell, RefCell};
use std::future::pending;
#[cfg(not(target_os = "wasi"))]
use std::future::poll_fn;
use std::io::ErrorKind;
#[cfg(panic = "unwind")]
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
#[cfg(not(target_os = "wasi"))]
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(target_os = "wasi"))]
use std::sync::{mpsc, Arc, Mutex};
#[cfg(not(target_os = "wasi"))]
use std::task::{Poll, Waker};
#[cfg(not(target_os = "wasi"))]
use std::thread;
use std::time::{Duration, Instant};

use common::{block_on_within, own_ip, PATIENCE};
#[cfg(panic = "unwind")]
use common::{panic_message, panics};
use coracle::net::UdpSocket;
use coracle::time::sleep;
use coracle::{block_on, spawn, try_block_on, yield_now};
use futures_lite::future::poll_once;
#[cfg(panic = "unwind")]
use futures_lite::FutureExt;

#[test]
fn block_on_gives_the_value_and_may_borrow_from_the_caller() {
    let text = String::from("here");
    assert_eq!(block_on(async { text.len() }), 4);
    assert_eq!(block_on(async { &text }), "here", "and again");
}

#[test]
fn a_spawned_task_first_runs_when_the_caller_waits() {
    block_on_within(async {
        // Not `Send`: a task stays on its thread.
        let ran = Rc::new(Cell::new(false));
        let task = spawn({
            let ran = ran.clone();
            async move {
                ran.set(true);
                7
            }
        });
        assert!(!ran.get() && !task.is_finished());
        yield_now().await;
        assert!(ran.get() && task.is_finished());
        assert_eq!(task.await, 7);
    });
}

#[test]
fn dropping_a_task_drops_its_future_and_detaching_does_not() {
    block_on_within(async {
        let kept = Rc::new(());
        let forever = |guard: Rc<()>| async move {
            pending::<()>().await;
            drop(guard);
        };
        let cancelled = spawn(forever(kept.clone()));
        spawn(forever(kept.clone())).detach();
        yield_now().await;
        assert_eq!(Rc::strong_count(&kept), 3);
        drop(cancelled);
        yield_now().await;
        assert_eq!(Rc::strong_count(&kept), 2);
    });
}

#[test]
fn cancel_returns_once_the_future_is_dropped_with_the_value_if_there_was_one() {
    block_on_within(async {
        let kept = Rc::new(());
        let guard = kept.clone();
        let waiting = spawn(async move {
            pending::<()>().await;
            drop(guard);
        });
        yield_now().await;
        assert_eq!(waiting.cancel().await, None);
        assert_eq!(Rc::strong_count(&kept), 1);

        let never_run = spawn(async { 1 });
        assert_eq!(never_run.cancel().await, None);

        let finished = spawn(async { 2 });
        yield_now().await;
        assert_eq!(finished.cancel().await, Some(2));
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_task_handle_dropped_on_another_thread_cancels_the_task_on_its_own() {
    block_on_within(async {
        let kept = Rc::new(());
        let guard = kept.clone();
        let (started, has_started) = smol::channel::bounded(1);
        let task = spawn(async move {
            started.send(()).await.unwrap();
            pending::<()>().await;
            drop(guard);
        });
        has_started.recv().await.unwrap();
        thread::spawn(move || drop(task)).join().unwrap();
        while Rc::strong_count(&kept) > 1 {
            yield_now().await;
        }
    });
}

#[cfg(panic = "unwind")]
#[test]
fn a_panic_reaches_whoever_awaits_and_the_others_go_on() {
    block_on_within(async {
        let other = spawn(async {
            for _ in 0..10 {
                yield_now().await;
            }
            "fine"
        });
        let failing = spawn(async { panic!("on purpose") });
        spawn(async { panic!("of a detached task") }).detach();
        let payload = AssertUnwindSafe(failing).catch_unwind().await.unwrap_err();
        assert_eq!(panic_message(&*payload), "on purpose");
        assert_eq!(other.await, "fine");
    });
}

#[cfg(panic = "unwind")]
#[test]
fn a_panic_of_the_root_future_drops_the_tasks_and_reaches_the_caller() {
    let kept = Rc::new(());
    let guard = kept.clone();
    let message = panics(|| {
        block_on(async {
            spawn(async move {
                pending::<()>().await;
                drop(guard);
            })
            .detach();
            yield_now().await;
            panic!("of the root");
        })
    });
    assert_eq!(message, "of the root");
    assert_eq!(Rc::strong_count(&kept), 1);
    assert_eq!(block_on(async { 1 }), 1, "the thread is free again");
}

#[test]
fn tasks_that_yield_take_turns() {
    block_on_within(async {
        let turns = Rc::new(RefCell::new(Vec::new()));
        let task = |name| {
            let turns = turns.clone();
            spawn(async move {
                for _ in 0..100 {
                    turns.borrow_mut().push(name);
                    yield_now().await;
                }
            })
        };
        let tasks = [task("a"), task("b"), task("c")];
        for task in tasks {
            task.await;
        }
        for round in turns.borrow().chunks(3) {
            assert_eq!(round, ["a", "b", "c"]);
        }
    });
}

#[test]
fn a_busy_task_starves_neither_sockets_nor_timers() {
    block_on_within(async {
        let done = Rc::new(Cell::new(false));
        let busy = spawn({
            let done = done.clone();
            let patience = Instant::now() + PATIENCE;
            async move {
                while !done.get() {
                    // The timeout around this test would starve too.
                    assert!(Instant::now() < patience, "starved");
                    yield_now().await;
                }
            }
        });
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        for _ in 0..20 {
            let mut buf = [0; 8];
            assert!(poll_once(socket.recv(&mut buf)).await.is_none());
            socket.send_to(b"ping", &addr).await.unwrap();
            assert_eq!(socket.recv(&mut buf).await.unwrap(), 4);
            sleep(Duration::from_micros(300)).await;
        }
        done.set(true);
        busy.await;
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn another_thread_wakes_a_waiting_runtime() {
    block_on_within(async {
        let (send, recv) = smol::channel::bounded(1);
        let (reply, replies) = mpsc::channel();
        let thread = thread::spawn(move || {
            for i in 0..1_000 {
                send.send_blocking(i).unwrap();
                // The next wake finds the runtime waiting again, or about to.
                assert_eq!(replies.recv_timeout(PATIENCE), Ok(i));
            }
        });
        let task = spawn(async move {
            while let Ok(i) = recv.recv().await {
                reply.send(i).unwrap();
            }
        });
        task.await;
        thread.join().unwrap();
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn no_wake_of_many_threads_is_lost() {
    const THREADS: usize = 8;
    const WAKES: usize = 4_000;
    let count = Arc::new(AtomicUsize::new(0));
    let waker: Arc<Mutex<Option<Waker>>> = Arc::default();
    // Any increment may be the last that the task has to be told of.
    let reached = |target| {
        let (count, waker) = (count.clone(), waker.clone());
        poll_fn(move |cx| {
            *waker.lock().unwrap() = Some(cx.waker().clone());
            match count.load(Ordering::SeqCst) >= target {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (count, waker) = (count.clone(), waker.clone());
            thread::spawn(move || {
                for _ in 0..WAKES {
                    count.fetch_add(1, Ordering::SeqCst);
                    if let Some(waker) = &*waker.lock().unwrap() {
                        waker.wake_by_ref();
                    }
                }
            })
        })
        .collect();
    block_on_within(async {
        for target in (0..THREADS * WAKES).step_by(997) {
            reached(target).await;
        }
        let task = spawn(reached(THREADS * WAKES));
        task.await;
    });
    for thread in threads {
        thread.join().unwrap();
    }
    // A waker may outlive its runtime.
    waker.lock().unwrap().take().unwrap().wake();
}

#[test]
fn a_runtime_inside_a_runtime_is_refused() {
    block_on_within(async {
        let error = try_block_on(async {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error.to_string().contains("running on this thread already"),
            "{error}"
        );
        let in_task = spawn(async { try_block_on(async {}).unwrap_err().kind() });
        assert_eq!(in_task.await, ErrorKind::InvalidInput);
        #[cfg(not(target_os = "wasi"))]
        {
            let message = panics(|| block_on(async {}));
            assert!(
                message.contains("running on this thread already"),
                "{message}"
            );
            let elsewhere = thread::spawn(|| block_on(async { 1 })).join().unwrap();
            assert_eq!(elsewhere, 1, "other threads are free to");
        }
    });
}

#[cfg(panic = "unwind")]
#[test]
fn spawn_without_a_runtime_says_what_to_do() {
    let message = panics(|| spawn(async {}));
    assert!(message.contains("coracle::block_on"), "{message}");
    block_on(async {});
    panics(|| spawn(async {}));
}

#[test]
fn the_end_of_block_on_drops_tasks_and_closes_sockets() {
    let kept = Rc::new(());
    let guard = kept.clone();
    let addr = block_on_within(async {
        let socket = UdpSocket::bind((own_ip(), 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        spawn(async move {
            let mut buf = [0; 8];
            let _ = socket.recv(&mut buf).await;
            drop(guard);
        })
        .detach();
        yield_now().await;
        addr
    });
    assert_eq!(Rc::strong_count(&kept), 1);
    std::net::UdpSocket::bind(addr.as_ip().unwrap()).expect("the port is free");
}

#[test]
fn tasks_spawned_by_destructors_at_the_end_are_dropped_too() {
    struct SpawnOnDrop(Rc<()>, u32);
    impl Drop for SpawnOnDrop {
        fn drop(&mut self) {
            if self.1 > 0 {
                let next = SpawnOnDrop(self.0.clone(), self.1 - 1);
                spawn(async move {
                    pending::<()>().await;
                    drop(next);
                })
                .detach();
            }
        }
    }
    let kept = Rc::new(());
    let first = SpawnOnDrop(kept.clone(), 3);
    block_on_within(async {
        spawn(async move {
            pending::<()>().await;
            drop(first);
        })
        .detach();
        yield_now().await;
    });
    assert_eq!(Rc::strong_count(&kept), 1);
}

#[test]
fn a_socket_goes_on_in_the_next_runtime() {
    let socket = block_on(UdpSocket::bind("127.0.0.1:0")).unwrap();
    let addr = socket.local_addr().unwrap();
    for _ in 0..3 {
        block_on_within(async {
            let mut buf = [0; 8];
            // Waiting for it hands it over to this runtime.
            assert!(poll_once(socket.recv(&mut buf)).await.is_none());
            socket.send_to(b"ping", &addr).await.unwrap();
            assert_eq!(socket.recv(&mut buf).await.unwrap(), 4);
        });
    }
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_socket_watched_by_another_threads_runtime_works_while_it_runs_and_after() {
    let socket = Arc::new(block_on(UdpSocket::bind("127.0.0.1:0")).unwrap());
    let addr = socket.local_addr().unwrap();
    let (attached, is_attached) = mpsc::channel();
    let (end, ended) = smol::channel::bounded::<()>(1);
    let other = thread::spawn({
        let socket = socket.clone();
        move || {
            block_on_within(async move {
                assert!(poll_once(socket.recv(&mut [0; 8])).await.is_none());
                attached.send(()).unwrap();
                ended.recv().await.unwrap();
            })
        }
    });
    is_attached.recv_timeout(PATIENCE).unwrap();
    block_on_within(async {
        let receive = || {
            let socket = socket.clone();
            spawn(async move { socket.recv(&mut [0; 8]).await.unwrap() })
        };
        let waiting = receive();
        yield_now().await;
        socket.try_send_to(b"ping", &addr).unwrap();
        assert_eq!(waiting.await, 4, "the other thread passes it on");

        let waiting = receive();
        yield_now().await;
        end.send(()).await.unwrap();
        other.join().unwrap();
        socket.try_send_to(b"again", &addr).unwrap();
        assert_eq!(waiting.await, 5, "the other thread's runtime has ended");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn there_is_no_hidden_thread() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let name = "there_is_no_hidden_thread";
    common::in_process(
        name,
        |program| std::process::Command::new(program),
        || {
            let before = threads();
            block_on_within(async {
                let log = common::Log::new();
                let (transport, _) = common::recording(&log, common::local_v4()).await;
                let addr = transport.local_addr().unwrap();
                transport.send_to(b"to itself", &addr).unwrap();
                log.until_received(1).await;
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.send_to(b"x", &addr).await.unwrap();
                sleep(Duration::from_millis(2)).await;
                spawn(yield_now()).await;
                assert_eq!(threads(), before);
            });
        },
    );
}
