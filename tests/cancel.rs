//! Futures that are given up half-way: nothing is lost, nothing is done twice, nothing leaks.

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{
    block_on_within, dead_addr, local_v4, name_of, own_ip, recording, std_udp, Event, Log, PATIENCE,
};
use coracle::net::{RecvBatch, UdpSocket};
use coracle::time::{interval, sleep, timeout};
use coracle::{create_datagram_endpoint, spawn, yield_now, DatagramOptions};
use futures_lite::future::poll_once;

/// Spans of time without a pattern, some of them none at all, the same each time.
fn spans() -> impl FnMut() -> Duration {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_micros(state % 8 * (state >> 8) % 120)
    }
}

/// Sends the numbers below `count` to `to`, never more than a few ahead of what has been received,
/// so that the system drops none.
async fn send_numbers(count: usize, to: SocketAddr, received: Arc<AtomicUsize>) {
    let socket = std_udp();
    let mut pause = spans();
    let give_up = Instant::now() + PATIENCE;
    for number in 0..count {
        while number > received.load(Ordering::Relaxed) + 40 {
            assert!(Instant::now() < give_up, "stuck at {number}");
            yield_now().await;
        }
        if number % 3 == 0 {
            sleep(pause()).await;
        }
        socket.send_to(&number.to_le_bytes(), to).unwrap();
    }
}

/// Runs it on a thread of its own, beside the caller.
#[cfg(not(target_os = "wasi"))]
fn beside(work: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> {
    let thread = std::thread::spawn(|| coracle::block_on(work));
    async { thread.join().unwrap() }
}

/// WASI has no threads: a task.
#[cfg(target_os = "wasi")]
fn beside(work: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> {
    spawn(work)
}

fn number(data: &[u8]) -> usize {
    usize::from_le_bytes(data.try_into().unwrap())
}

async fn bound() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap().as_ip().unwrap();
    (socket, addr)
}

#[test]
fn receives_that_are_given_up_lose_nothing() {
    const COUNT: usize = 4_000;
    block_on_within(async {
        let (socket, addr) = bound().await;
        let received = Arc::new(AtomicUsize::new(0));
        let sender = beside(send_numbers(COUNT, addr, received.clone()));
        let mut span = spans();
        let mut numbers = Vec::new();
        let mut given_up = 0;
        let mut buf = [0; 16];
        let mut batch = RecvBatch::with_capacity(7, 16);
        for round in 0.. {
            let span = span();
            match round % 4 {
                0 => match timeout(span, socket.recv_from(&mut buf)).await {
                    Ok(result) => numbers.push(number(&buf[..result.unwrap().0])),
                    Err(_) => given_up += 1,
                },
                1 => match timeout(span, socket.recv_batch(&mut batch)).await {
                    Ok(result) => {
                        result.unwrap();
                        numbers.extend(batch.iter().map(|(data, _)| number(data)));
                    }
                    Err(_) => given_up += 1,
                },
                2 => match timeout(span, socket.peek_from(&mut buf)).await {
                    // It stays to be received.
                    Ok(result) => assert_eq!(number(&buf[..result.unwrap().0]), numbers.len()),
                    Err(_) => given_up += 1,
                },
                _ => match timeout(span, socket.readable()).await {
                    Ok(result) => result.unwrap(),
                    Err(_) => given_up += 1,
                },
            }
            received.store(numbers.len(), Ordering::Relaxed);
            if numbers.len() >= COUNT {
                break;
            }
        }
        sender.await;
        assert!(numbers.into_iter().eq(0..COUNT), "each once and in order");
        assert!(given_up > 100, "{given_up}");
    });
}

#[test]
fn a_receive_that_is_given_up_does_not_take_anothers_wake() {
    const COUNT: usize = 2_000;
    block_on_within(async {
        let (socket, addr) = bound().await;
        let socket = Rc::new(socket);
        let received = Arc::new(AtomicUsize::new(0));
        let numbers = Rc::new(RefCell::new(Vec::new()));
        let receive = |fickle: bool| {
            let (socket, numbers, received) = (socket.clone(), numbers.clone(), received.clone());
            let mut span = spans();
            spawn(async move {
                let mut buf = [0; 16];
                loop {
                    let limit = if fickle { span() } else { PATIENCE };
                    if let Ok(result) = timeout(limit, socket.recv(&mut buf)).await {
                        numbers.borrow_mut().push(number(&buf[..result.unwrap()]));
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                    yield_now().await;
                }
            })
        };
        // One that waits patiently among those that come and go.
        let _tasks = [receive(true), receive(false), receive(true)];
        let sender = beside(send_numbers(COUNT, addr, received.clone()));
        while numbers.borrow().len() < COUNT {
            sleep(Duration::from_millis(1)).await;
        }
        sender.await;
        let mut numbers = numbers.borrow().clone();
        numbers.sort();
        assert!(numbers.into_iter().eq(0..COUNT), "each once");
    });
}

// Only a Unix receiver makes a sender wait, and only on Linux.
#[cfg(target_os = "linux")]
#[test]
fn sends_that_are_given_up_have_sent_nothing() {
    use coracle::net::{SendBatch, UnixDatagram};
    for connected in [true, false] {
        block_on_within(async {
            let receiver = UnixDatagram::bind(coracle::Address::UNNAMED).unwrap();
            let addr = receiver.local_addr().unwrap();
            let sender = UnixDatagram::unbound().unwrap();
            if connected {
                sender.connect(addr).unwrap();
            }
            let arrived = spawn(async move {
                let mut arrived = Vec::new();
                let mut buf = [0; 16];
                let mut span = spans();
                loop {
                    let len = receiver.recv(&mut buf).await.unwrap();
                    if len == 0 {
                        return arrived;
                    }
                    arrived.push(number(&buf[..len]));
                    sleep(span()).await;
                }
            });
            let mut span = spans();
            let mut sent = Vec::new();
            let mut batch = SendBatch::new();
            for number in 0..600_usize {
                let data = number.to_le_bytes();
                if number % 5 == 4 {
                    // What has been sent has been taken off.
                    batch.push(&data, &addr);
                    batch.push(&(number + 10_000).to_le_bytes(), &addr);
                    sent.extend([number, number + 10_000]);
                    while !batch.is_empty() {
                        if let Ok(sent) = timeout(span(), sender.send_batch(&mut batch)).await {
                            sent.unwrap();
                        }
                    }
                    continue;
                }
                let result = match number % 2 == 0 && connected {
                    true => timeout(span(), sender.send(&data)).await,
                    false => timeout(span(), sender.send_to(&data, &addr)).await,
                };
                if result.is_ok() {
                    sent.push(number);
                }
            }
            sender.send_to(b"", &addr).await.unwrap();
            assert_eq!(arrived.await, sent);
            assert!(sent.len() < 720, "some were given up");
        });
    }
}

/// Polls a future so many times and drops it; whether it ended.
async fn give_up_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if poll_once(&mut future).await.is_some() {
            return true;
        }
        yield_now().await;
    }
    false
}

fn own(addr: SocketAddr) -> Ipv4Addr {
    match addr {
        SocketAddr::V4(addr) => *addr.ip(),
        SocketAddr::V6(_) => unreachable!("it is of IPv4"),
    }
}

#[test]
fn lookups_that_are_given_up_leave_sockets_as_they_were() {
    block_on_within(async {
        let (socket, _) = bound().await;
        let (_server, addr) = bound().await;
        for polls in 0..4 {
            let free = dead_addr();
            let name = name_of(own(free));
            if !give_up_after(polls, UdpSocket::bind((name, free.port()))).await {
                std::net::UdpSocket::bind(free).expect("nobody holds it");
            }
            if give_up_after(polls, socket.connect(("localhost", addr.port()))).await {
                assert_eq!(socket.peer_addr().unwrap(), addr.into());
                break;
            }
            assert!(socket.peer_addr().is_err(), "not connected");
        }
        socket.connect(("localhost", addr.port())).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), addr.into());
    });
}

#[test]
fn an_endpoint_whose_making_is_given_up_is_closed() {
    block_on_within(async {
        for named in [false, true] {
            for polls in 0..5 {
                let addr = dead_addr();
                let local = DatagramOptions::new();
                let local = match named {
                    true => local.local_addr((name_of(own(addr)), addr.port())),
                    false => local.local_addr(addr),
                };
                let log = Log::new();
                let made = create_datagram_endpoint(|| common::Recorder::new(&log), local);
                if give_up_after(polls, made).await {
                    // Made in time: then its transport was dropped, which leaves it open.
                    assert_eq!(log.events(), [Event::Made]);
                    continue;
                }
                // A driver that runs already ends in its next turn.
                let give_up = Instant::now() + PATIENCE;
                while std::net::UdpSocket::bind(addr).is_err() {
                    assert!(
                        Instant::now() < give_up,
                        "the socket stays open: {:?}",
                        log.events()
                    );
                    yield_now().await;
                }
                let events = log.events();
                let expected = [Event::Made, Event::Lost(None)];
                assert!(events.is_empty() || events == expected, "{events:?}");
            }
        }
    });
}

#[test]
fn cancelling_a_task_closes_its_sockets_and_timers() {
    block_on_within(async {
        let kept = Rc::new(());
        let socket = UdpSocket::bind((own_ip(), 0)).await.unwrap();
        let addr = socket.local_addr().unwrap().as_ip().unwrap();
        let guard = kept.clone();
        let task = spawn(async move {
            let mut buf = [0; 8];
            let _ = timeout(Duration::from_secs(3600), socket.recv(&mut buf)).await;
            drop(guard);
        });
        yield_now().await;
        task.cancel().await;
        assert_eq!(Rc::strong_count(&kept), 1);
        std::net::UdpSocket::bind(addr).expect("the port is free");
    });
}

#[test]
fn waiting_for_an_endpoint_can_be_given_up() {
    block_on_within(async {
        let (transport, handle) = recording(&Log::new(), local_v4()).await;
        for _ in 0..100 {
            assert!(poll_once(transport.closed()).await.is_none());
        }
        assert!(poll_once(handle.lost()).await.is_none());
        let waiting = spawn({
            let transport = transport.clone();
            async move { transport.closed().await }
        });
        yield_now().await;
        transport.close();
        waiting.await.unwrap();
    });
}

#[test]
fn ticks_that_are_given_up_come_again() {
    block_on_within(async {
        let period = Duration::from_micros(900);
        let mut ticks = interval(period);
        let mut span = spans();
        let mut dues = Vec::new();
        while dues.len() < 20 {
            if let Ok(due) = timeout(span(), ticks.tick()).await {
                dues.push(due);
            }
        }
        for (i, due) in dues.iter().enumerate() {
            assert_eq!(*due, dues[0] + period * i as u32);
        }
    });
}
