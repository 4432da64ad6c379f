//! Runtimes inside asynchronous exports of a component, where an executor of somebody else's polls
//! them: here that of the bindings.
#![cfg(all(target_os = "wasi", feature = "wasi-p3"))]

mod common;

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn, Future};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use common::nosy::{self, Look};
use common::{std_udp, within};
use coracle::net::{TcpListener, TcpStream, UdpSocket};
use coracle::time::{sleep, timeout};
use coracle::wasi::run;
use coracle::{spawn, yield_now};
use futures_lite::future::{poll_once, zip};
use futures_lite::io::AsyncReadExt;
use wasip3::wit_bindgen::rt::async_support::{callback, start_task};

/// The bindings' own executor. It hangs if anything is left registered with it.
fn hosted<F: Future>(future: F) -> F::Output {
    wasip3::wit_bindgen::block_on(future)
}

/// A value that one runtime gives another.
#[derive(Default)]
struct Mailbox {
    value: RefCell<Option<u32>>,
    waiting: RefCell<Option<Waker>>,
}

impl Mailbox {
    fn put(&self, value: u32) {
        *self.value.borrow_mut() = Some(value);
        let waiting = self.waiting.borrow_mut().take();
        waiting.into_iter().for_each(Waker::wake);
    }

    async fn take(&self) -> u32 {
        poll_fn(|cx| match self.value.borrow_mut().take() {
            Some(value) => Poll::Ready(value),
            None => {
                *self.waiting.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

#[test]
fn tasks_timers_and_sockets_work_in_it() {
    let start = Instant::now();
    let sum = hosted(run(within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let receiving = spawn(async move { socket.recv(&mut [0; 8]).await.unwrap() });
        sleep(Duration::from_millis(5)).await;
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        other.send_to(b"four", &addr).await.unwrap();
        receiving.await + spawn(async { 2 }).await
    })));
    assert_eq!(sum, 6);
    assert!(start.elapsed() >= Duration::from_millis(5));
}

#[test]
fn a_busy_task_lets_the_host_do_its_work() {
    hosted(run(within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap().as_ip().unwrap();
        let busy = spawn(async {
            loop {
                yield_now().await;
            }
        });
        std_udp().send_to(b"here", addr).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).await.unwrap(), 4);
        drop(busy);
    })));
}

#[test]
fn the_executors_waker_may_wake_its_tasks_whenever_it_is_touched() {
    let task = Arc::new(Mutex::new(None::<Waker>));
    let woken = task.clone();
    let look: Look = Arc::new(move || {
        let waker = woken.lock().unwrap().clone();
        waker.iter().for_each(Waker::wake_by_ref);
    });
    hosted(nosy::polled(
        &look,
        run(within(async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let addr = socket.local_addr().unwrap();
            for _ in 0..10 {
                let kept = task.clone();
                let waiting = spawn(poll_fn(move |cx| {
                    let mut kept = kept.lock().unwrap();
                    match kept.replace(cx.waker().clone()) {
                        None => Poll::Pending,
                        Some(_) => Poll::Ready(()),
                    }
                }));
                sleep(Duration::from_millis(1)).await;
                std_udp().send_to(b"here", addr.as_ip().unwrap()).unwrap();
                socket.recv(&mut [0; 8]).await.unwrap();
                waiting.await;
                *task.lock().unwrap() = None;
            }
        })),
    ));
}

#[test]
fn what_is_left_running_is_dropped_with_it() {
    let kept = Rc::new(());
    let guard = kept.clone();
    hosted(run(async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        spawn(async move {
            let _guard = guard;
            socket.recv(&mut [0; 8]).await
        })
        .detach();
        spawn(sleep(Duration::from_secs(1_000))).detach();
        yield_now().await;
    }));
    assert_eq!(Rc::strong_count(&kept), 1);
}

#[test]
fn one_that_is_given_up_takes_its_tasks_with_it() {
    for polls in 0..6 {
        let kept = Rc::new(());
        let guard = kept.clone();
        hosted(async {
            let work = run(async move {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let addr = socket.local_addr().unwrap();
                let task = spawn(async move {
                    let _guard = guard;
                    // Destructors may still need the runtime.
                    struct Last;
                    impl Drop for Last {
                        fn drop(&mut self) {
                            spawn(async {}).detach();
                        }
                    }
                    let _last = Last;
                    socket.recv(&mut [0; 8]).await.unwrap();
                    pending::<()>().await;
                });
                loop {
                    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                    other.send_to(b"x", &addr).await.unwrap();
                    sleep(Duration::from_millis(1)).await;
                    if task.is_finished() {
                        return;
                    }
                }
            });
            let mut work = std::pin::pin!(work);
            for _ in 0..polls {
                assert!(poll_once(work.as_mut()).await.is_none());
            }
        });
        assert_eq!(Rc::strong_count(&kept), 1, "{polls}");
    }
}

#[test]
fn sockets_go_from_one_to_the_next_with_what_is_under_way_for_them() {
    let socket = Rc::new(hosted(run(UdpSocket::bind("127.0.0.1:0"))).unwrap());
    let addr = socket.local_addr().unwrap().as_ip().unwrap();
    let sender = std_udp();
    let mut buf = [0; 8];
    let mut next = 0;
    for round in 0..50_usize {
        // Given up, so that a receive is left under way, now and then with something to be had.
        let received = hosted(run(async {
            let limit = Duration::from_millis(round as u64 % 2);
            timeout(limit, socket.recv(&mut [0; 8])).await
        }));
        assert!(received.is_err());
        sender.send_to(&[round as u8], addr).unwrap();
        if round % 3 == 0 {
            hosted(run(sleep(Duration::from_millis(1))));
        }
        if round % 4 == 1 {
            continue;
        }
        // In a runtime of the one kind or the other.
        while next <= round {
            let receive = within(socket.recv(&mut buf));
            let len = match round % 4 {
                2 => coracle::block_on(receive),
                _ => hosted(run(receive)),
            };
            assert_eq!((len.unwrap(), buf[0] as usize), (1, next));
            next += 1;
        }
    }
}

#[test]
fn two_of_them_wake_each_others_tasks() {
    let (there, back) = (Mailbox::default(), Mailbox::default());
    let one = run(within(async {
        for value in 0..100 {
            there.put(value);
            assert_eq!(back.take().await, value + 1);
        }
    }));
    let two = run(within(async {
        for _ in 0..100 {
            let value = there.take().await;
            if value % 10 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            back.put(value + 1);
        }
    }));
    // The one that waits is polled first.
    hosted(zip(two, one));
}

#[test]
fn two_of_them_wait_for_the_same_socket() {
    hosted(async {
        let socket = Rc::new(run(UdpSocket::bind("127.0.0.1:0")).await.unwrap());
        let addr = socket.local_addr().unwrap().as_ip().unwrap();
        let receive = |count: usize| {
            let socket = socket.clone();
            run(within(async move {
                for _ in 0..count {
                    assert_eq!(socket.recv(&mut [0; 8]).await.unwrap(), 4);
                }
            }))
        };
        let send = run(async {
            for _ in 0..30 {
                std_udp().send_to(b"here", addr).unwrap();
                sleep(Duration::from_millis(1)).await;
            }
        });
        // One ends long before the other.
        zip(zip(receive(5), receive(25)), send).await;
    });
}

#[test]
fn what_was_written_arrives_though_the_runtime_ends() {
    const LEN: usize = 3_000_000;
    hosted(async {
        let listener = run(TcpListener::bind("127.0.0.1:0")).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let reading = run(within(async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut data = Vec::new();
            stream.read_to_end(&mut data).await.unwrap();
            data.len()
        }));
        let writing = run(within(async {
            let stream = TcpStream::connect(addr).await.unwrap();
            stream.set_send_buffer_size(10_000).unwrap();
            stream.write_all(&vec![7; LEN]).await.unwrap();
        }));
        let (len, ()) = zip(reading, writing).await;
        assert_eq!(len, LEN);
    });
}

/// As the host does with a call of an export whose caller drops it: the call is cancelled while it
/// waits. The bindings panic if anything wakes their task then.
fn cancelled(call: impl Future<Output = ()> + 'static) {
    const WAITS: u32 = 2;
    const CANCEL: u32 = 6;
    const EXITS: u32 = 0;
    assert_eq!(start_task(call) as u32 & 0xf, WAITS);
    // SAFETY: `start_task` has left the state of its task where `callback` looks for it.
    assert_eq!(unsafe { callback(CANCEL, 0, 0) }, EXITS);
}

/// Wakes a task when it is dropped.
struct Wakes(Rc<Mailbox>);

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.put(1);
    }
}

#[test]
fn a_call_is_cancelled_while_it_waits_for_a_timer() {
    cancelled(run(sleep(Duration::from_secs(1_000))));
    hosted(run(within(sleep(Duration::from_millis(1)))));
}

#[test]
fn a_call_is_cancelled_while_tasks_wait_for_sockets_and_for_each_other() {
    let kept = Rc::new(());
    let guard = kept.clone();
    cancelled(run(async move {
        let mailbox = Rc::new(Mailbox::default());
        let wakes = Wakes(mailbox.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        spawn(async move {
            let _guard = guard;
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let (received, _) = zip(socket.recv(&mut [0; 8]), pending::<()>()).await;
            drop((received, wakes));
        })
        .detach();
        spawn(async move { mailbox.take().await }).detach();
        // With a read and a write under way.
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_send_buffer_size(10_000).unwrap();
        let mut buf = [0; 8];
        let reading = stream.read(&mut buf);
        let data = vec![7; 20_000_000];
        let writing = stream.write_all(&data);
        let (read, _) = zip(reading, writing).await;
        drop((read, listener));
    }));
    assert_eq!(Rc::strong_count(&kept), 1);
    hosted(run(within(sleep(Duration::from_millis(1)))));
}

#[test]
fn a_call_of_two_runtimes_is_cancelled_though_one_wakes_the_other() {
    for waiting_first in [true, false] {
        let mailbox = Rc::new(Mailbox::default());
        let wakes = Wakes(mailbox.clone());
        let waiting = run(async move { assert_eq!(mailbox.take().await, 1) });
        let waking = run(async move {
            pending::<()>().await;
            drop(wakes);
        });
        cancelled(async move {
            if waiting_first {
                zip(waiting, waking).await;
            } else {
                zip(waking, waiting).await;
            }
        });
    }
}

#[test]
fn a_cancelled_call_wakes_the_tasks_of_others() {
    for _ in 0..10 {
        let mailbox = Rc::new(Mailbox::default());
        let wakes = Wakes(mailbox.clone());
        let waiting = run(within(async move { mailbox.take().await }));
        let cancel = async {
            cancelled(run(async move {
                pending::<()>().await;
                drop(wakes);
            }));
        };
        assert_eq!(hosted(zip(waiting, cancel)).0, 1);
    }
}

#[test]
fn one_that_waits_is_not_forgotten_though_a_blocking_one_has_looked() {
    let socket = hosted(run(UdpSocket::bind("127.0.0.1:0"))).unwrap();
    let addr = socket.local_addr().unwrap().as_ip().unwrap();
    for _ in 0..3 {
        let waiting = run(within(async { socket.recv(&mut [0; 8]).await.unwrap() }));
        let looking = async {
            // It waits by now. Its receive goes to the other, and has to come back.
            let looked = coracle::block_on(poll_once(socket.recv(&mut [0; 8])));
            assert!(looked.is_none());
            std_udp().send_to(b"here", addr).unwrap();
        };
        assert_eq!(hosted(zip(waiting, looking)).0, 4);
    }
}

#[test]
fn what_was_written_arrives_though_the_call_is_cancelled() {
    let listener = hosted(run(TcpListener::bind("127.0.0.1:0"))).unwrap();
    let addr = listener.local_addr().unwrap();
    let written = Rc::new(Cell::new(0));
    let taken = written.clone();
    cancelled(run(async move {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_send_buffer_size(10_000).unwrap();
        // Until nothing more is taken.
        loop {
            taken.set(taken.get() + stream.write(&[7; 50_000]).await.unwrap());
        }
    }));
    let read = hosted(run(within(async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).await.unwrap();
        data.len()
    })));
    assert_eq!(read, written.get());
}
