//! Panics in destructors: they end what they belong to, not the process or the server, and reach
//! whoever waits for that.
#![cfg(panic = "unwind")]

mod common;

use std::cell::Cell;
use std::future::{pending, Future};
use std::panic::{panic_any, AssertUnwindSafe};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::server::{connect, local, until_left, works};
use common::{block_on_within, local_v4, panic_message, panics, within};
use coracle::net::UdpSocket;
use coracle::time::{sleep, sleep_until, timeout};
use coracle::{
    block_on, create_datagram_endpoint, create_server, create_server_with_driver, on_data,
    on_datagram, spawn, try_block_on, yield_now, DatagramTransport, Protocol, Server, Transport,
};
use futures_lite::FutureExt;

/// Panics when it is dropped, and counts that.
struct Bomb(&'static str, Rc<Cell<u32>>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.1.set(self.1.get() + 1);
        panic!("{}", self.0);
    }
}

/// A future that is dropped as a whole at its end, unlike the variables of an `async` block.
struct Holding<F> {
    future: F,
    _held: Bomb,
}

impl<F: Future + Unpin> Future for Holding<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut self.future).poll(cx)
    }
}

fn holding<F: Future>(future: F, went_off: &Rc<Cell<u32>>) -> Holding<Pin<Box<F>>> {
    Holding {
        future: Box::pin(future),
        _held: Bomb("of a destructor", went_off.clone()),
    }
}

async fn message<T>(task: impl Future<Output = T>) -> String {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(_) => panic!("no panic"),
        Err(payload) => panic_message(&*payload),
    }
}

/// The runtime goes on.
async fn others_run() {
    assert_eq!(spawn(async { 7 }).await, 7);
}

#[test]
fn who_awaits_a_task_gets_the_panic_of_a_destructor_at_its_end() {
    let went_off = Rc::new(Cell::new(0));
    block_on_within(async {
        let task = spawn(holding(async { 1 }, &went_off));
        assert_eq!(message(task).await, "of a destructor");
        others_run().await;

        let task = spawn(holding(async { 1 }, &went_off));
        yield_now().await;
        assert!(task.is_finished());
        assert_eq!(message(task.cancel()).await, "of a destructor");
        others_run().await;

        // The one before it counts.
        let task = spawn(holding(async { panic!("of the task") }, &went_off));
        assert_eq!(message(task).await, "of the task");
        others_run().await;

        let task = spawn(holding(pending::<()>(), &went_off));
        yield_now().await;
        assert_eq!(message(task.cancel()).await, "of a destructor");
        others_run().await;

        let never_run = spawn(holding(async { 1 }, &went_off));
        assert_eq!(message(never_run.cancel()).await, "of a destructor");
        others_run().await;
    });
    assert_eq!(went_off.get(), 5);
}

#[test]
fn a_destructor_that_panics_with_nobody_waiting_ends_its_task_only() {
    let went_off = Rc::new(Cell::new(0));
    block_on_within(async {
        spawn(holding(async {}, &went_off)).detach();
        drop(spawn(holding(pending::<()>(), &went_off)));
        let waiting = spawn(holding(pending::<()>(), &went_off));
        yield_now().await;
        drop(waiting);
        others_run().await;
        assert_eq!(went_off.get(), 3);

        // Given up.
        let waiting = spawn(holding(pending::<()>(), &went_off));
        {
            let mut ending = std::pin::pin!(waiting.cancel());
            assert!(futures_lite::future::poll_once(&mut ending).await.is_none());
        }
        others_run().await;
        assert_eq!(went_off.get(), 4);
    });
}

#[test]
fn the_destructor_of_a_value_that_nobody_takes_may_panic() {
    let went_off = Rc::new(Cell::new(0));
    let value = |went_off: &Rc<Cell<u32>>| {
        let bomb = Bomb("of a value", went_off.clone());
        spawn(async move { bomb })
    };
    block_on_within(async {
        value(&went_off).detach();
        yield_now().await;
        assert_eq!(went_off.get(), 1);
        let finished = value(&went_off);
        yield_now().await;
        assert_eq!(went_off.get(), 1);
        drop(finished);
        assert_eq!(went_off.get(), 2);
        // It is lost, and the panic of the other destructor reaches who awaits it.
        let bomb = Bomb("of a value", went_off.clone());
        let task = spawn(holding(async { bomb }, &went_off));
        assert_eq!(message(task).await, "of a destructor");
        assert_eq!(went_off.get(), 4);
        others_run().await;
    });
}

#[test]
fn what_a_detached_task_panics_with_may_panic_too() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic!("of a payload");
        }
    }
    block_on_within(async {
        spawn(async { panic_any(Payload) }).detach();
        drop(spawn(async { panic_any(Payload) }));
        others_run().await;
    });
}

#[test]
fn destructors_that_panic_at_the_end_of_a_runtime_are_contained() {
    let went_off = Rc::new(Cell::new(0));
    let tasks = |went_off: &Rc<Cell<u32>>| {
        for _ in 0..3 {
            spawn(holding(pending::<()>(), went_off)).detach();
        }
    };
    let value = block_on_within(async {
        tasks(&went_off);
        yield_now().await;
        5
    });
    assert_eq!((value, went_off.get()), (5, 3));
    // Also while a panic is on its way.
    let message = panics(|| {
        block_on(async {
            tasks(&went_off);
            yield_now().await;
            panic!("of the root");
        })
    });
    assert_eq!((&*message, went_off.get()), ("of the root", 6));
    let message = panics(|| block_on(holding(async { tasks(&went_off) }, &went_off)));
    assert_eq!((&*message, went_off.get()), ("of a destructor", 10));
    block_on_within(others_run());
}

/// A guard that starts its task anew, whatever has ended it.
#[test]
fn destructors_that_spawn_each_time_do_not_keep_a_runtime_from_ending() {
    struct StartsAnew(Rc<Cell<u32>>);
    impl Drop for StartsAnew {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            // Enough to tell that there is no end.
            if self.0.get() < 100_000 {
                let again = StartsAnew(self.0.clone());
                spawn(async move {
                    let _again = again;
                    pending::<()>().await
                })
                .detach();
            }
        }
    }
    let dropped = Rc::new(Cell::new(0));
    block_on(async {
        for _ in 0..3 {
            let first = StartsAnew(dropped.clone());
            spawn(async move {
                let _first = first;
                pending::<()>().await
            })
            .detach();
        }
        yield_now().await;
    });
    let dropped = dropped.get();
    assert!((6..1_000).contains(&dropped), "{dropped}");
}

struct Panics(AtomicU32);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a waker panics");
    }
}

/// Polls each with a waker that panics, then with one that does not.
async fn wakes_the_others<F: Future>(
    what: &str,
    mut wait: impl FnMut() -> F,
    happen: impl AsyncFnOnce(),
) {
    let panicking = Arc::new(Panics(AtomicU32::new(0)));
    let waker = Waker::from(panicking.clone());
    let mut before: Vec<_> = (0..3).map(|_| Box::pin(wait())).collect();
    for waiting in &mut before {
        let waiting = waiting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(waiting.is_pending(), "{what}");
    }
    let mut other = Box::pin(wait());
    let mut is_there = false;
    // The event happens when the other waits, too.
    let happening = async {
        yield_now().await;
        is_there = true;
        happen().await;
        pending::<()>().await
    };
    within(futures_lite::future::or(
        async {
            other.as_mut().await;
        },
        happening,
    ))
    .await;
    assert!(is_there, "{what}");
    assert!(panicking.0.load(Ordering::Relaxed) > 0, "{what}");
}

#[test]
fn a_waker_that_panics_keeps_nobody_else_waiting() {
    block_on_within(async {
        let (transport, _) = create_datagram_endpoint(|| on_datagram(|_, _, _| {}), local_v4())
            .await
            .unwrap();
        let close = async || transport.close();
        wakes_the_others("closed", || transport.closed(), close).await;

        let server = common::server::echoing(local()).await;
        let close = async || server.close();
        wakes_the_others("wait_closed", || server.wait_closed(), close).await;

        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let own = socket.local_addr().unwrap();
        let _ = timeout(Duration::from_millis(1), socket.readable()).await;
        let send = async || drop(socket.send_to(b"x", &own).await);
        wakes_the_others("readable", || socket.readable(), send).await;

        let soon = Instant::now() + Duration::from_millis(5);
        wakes_the_others("sleep", || sleep_until(soon), async || {}).await;
    });
}

#[test]
fn a_task_that_was_dropped_with_its_runtime_says_so() {
    let mut task = None;
    block_on(async { task = Some(spawn(pending::<()>())) });
    let task = task.unwrap();
    let message = block_on_within(message(task));
    assert!(message.contains("its runtime ended"), "{message}");
}

#[test]
fn a_destructor_of_a_thread_local_may_run_a_runtime() {
    thread_local! {
        static BEFORE: RunsAtTheEnd = const { RunsAtTheEnd(Cell::new(None)) };
        static AFTER: RunsAtTheEnd = const { RunsAtTheEnd(Cell::new(None)) };
    }
    struct RunsAtTheEnd(Cell<Option<std::sync::mpsc::Sender<bool>>>);
    impl Drop for RunsAtTheEnd {
        fn drop(&mut self) {
            let result = try_block_on(async {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let own = socket.local_addr().unwrap();
                let receiving = spawn(async move { socket.recv(&mut [0; 8]).await.unwrap() });
                yield_now().await;
                let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                other.send_to(b"end", &own).await.unwrap();
                sleep(Duration::from_millis(1)).await;
                receiving.await
            });
            let works = match result {
                Ok(len) => len == 3,
                // Where such destructors leave nothing to work with.
                Err(error) => !cfg!(target_os = "linux") && error.to_string().contains("ending"),
            };
            if let Some(sender) = self.0.take() {
                sender.send(works).unwrap();
            }
        }
    }
    let (send, received) = std::sync::mpsc::channel();
    let ending = thread::spawn(move || {
        BEFORE.with(|end| end.0.set(Some(send.clone())));
        block_on(yield_now());
        AFTER.with(|end| end.0.set(Some(send)));
    });
    ending.join().unwrap();
    assert_eq!(received.iter().collect::<Vec<_>>(), [true, true]);
}

/// Counts itself, and panics, when it is dropped.
struct AtomicBomb(Arc<AtomicU32>);

impl Drop for AtomicBomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("of a protocol's destructor");
    }
}

/// Sends everything back, until its destructor panics.
fn fragile_echo(went_off: &Arc<AtomicU32>) -> impl Protocol {
    let bomb = AtomicBomb(went_off.clone());
    on_data(move |transport: &Transport, data| {
        let _held = &bomb;
        transport.write(data)
    })
}

async fn until(count: &AtomicU32, wanted: u32) {
    within(async {
        while count.load(Ordering::Relaxed) != wanted {
            yield_now().await;
        }
    })
    .await;
}

/// The server goes on while the protocols of its connections go off, one by one.
async fn outlives_its_protocols(server: &Server, went_off: &AtomicU32) {
    let lasting = connect(server.local_addrs()[0]).await.unwrap();
    works(&lasting).await;
    for gone in 1..=3 {
        let client = connect(server.local_addrs()[0]).await.unwrap();
        works(&client).await;
        client.0.close();
        until(went_off, gone).await;
        works(&lasting).await;
        until_left(server, 1).await;
    }
    assert_eq!(server.accept_errors(), 0);
    server.close();
    server.close_clients();
    within(server.wait_closed()).await;
}

#[test]
fn a_server_outlives_the_destructors_of_its_protocols_and_its_factory() {
    let went_off = Arc::new(AtomicU32::new(0));
    let factory_went_off = Arc::new(AtomicU32::new(0));
    block_on_within(async {
        let factory = {
            let (went_off, held) = (went_off.clone(), AtomicBomb(factory_went_off.clone()));
            move || {
                let _held = &held;
                fragile_echo(&went_off)
            }
        };
        let server = create_server(factory, local()).await.unwrap();
        outlives_its_protocols(&server, &went_off).await;
        until(&factory_went_off, 1).await;
        until(&went_off, 4).await;
    });
}

#[test]
fn a_server_outlives_what_spawns_its_connections() {
    let went_off = Arc::new(AtomicU32::new(0));
    block_on_within(async {
        let (count, mut turn) = (went_off.clone(), 0);
        let held = AtomicBomb(went_off.clone());
        let made = create_server_with_driver(
            || on_data(|transport: &Transport, data| transport.write(data)),
            local(),
            move |driver| {
                let _held = &held;
                turn += 1;
                if turn == 2 {
                    count.fetch_add(1, Ordering::Relaxed);
                    panic!("no room for a driver");
                }
                spawn(driver).detach();
            },
        );
        let (server, driver) = made.await.unwrap();
        let serving = spawn(driver);
        let lasting = connect(server.local_addrs()[0]).await.unwrap();
        works(&lasting).await;
        let refused = connect(server.local_addrs()[0]).await.unwrap();
        within(refused.0.closed()).await.unwrap();
        works(&lasting).await;
        works(&connect(server.local_addrs()[0]).await.unwrap()).await;
        assert_eq!(server.accept_errors(), 1);
        server.close();
        within(serving).await;
        assert_eq!(went_off.load(Ordering::Relaxed), 2);
    });
}

#[cfg(feature = "async-io")]
#[test]
fn a_protocols_destructor_takes_down_no_other_executor() {
    let went_off = Arc::new(AtomicU32::new(0));
    common::foreign::smol_within(async {
        let held = AtomicBomb(went_off.clone());
        let made = create_server_with_driver(
            {
                let went_off = went_off.clone();
                move || {
                    let _held = &held;
                    fragile_echo(&went_off)
                }
            },
            local(),
            |driver| smol::spawn(driver).detach(),
        );
        let (server, driver) = made.await.unwrap();
        let serving = smol::spawn(driver);
        let spawn = common::foreign::on_smol();
        for gone in 1..=3 {
            let client = common::foreign::connect(server.local_addrs()[0], &spawn).await;
            works(&client).await;
            client.0.close();
            until(&went_off, gone).await;
        }
        server.close();
        within(serving).await;
        until(&went_off, 4).await;
    });
}

#[test]
fn a_datagram_protocols_destructor_ends_its_endpoint_only() {
    let went_off = Arc::new(AtomicU32::new(0));
    block_on_within(async {
        let other = common::echoing(local_v4()).await;
        for dropped in 1..=2 {
            let held = AtomicBomb(went_off.clone());
            let protocol = || {
                on_datagram(move |_: &DatagramTransport, _, _| {
                    let _held = &held;
                })
            };
            let made = create_datagram_endpoint(protocol, local_v4()).await;
            let (transport, handle) = made.unwrap();
            drop(handle);
            common::close(&transport).await;
            until(&went_off, dropped).await;
        }
        let log = common::Log::new();
        let (client, _) = common::recording(&log, common::to(common::ip(&other))).await;
        client.send(b"still there").unwrap();
        log.until_received(1).await;
    });
}
