//! What a future registered, its drop removes: nobody's waker stays with a socket, an endpoint or
//! a runtime.

mod common;

use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::pairs::{make_with_driver, over_each, Ours, Peer};
use common::{block_on_within, close, local_v4, recording, within, Log};
use coracle::net::{RecvBatch, TcpListener, TcpStream, UdpSocket};
use coracle::time::{sleep, timeout};
use coracle::{create_server, on_data, TcpServerOptions};
use futures_lite::future;

/// How many more than there were may still be held after so many have been given up: what the last
/// of them has left where it could not be taken away, and no more.
const FEW: usize = 200;

#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls futures once, each in a task of its own, and gives them up; then nothing of the tasks is
/// left anywhere.
#[track_caller]
fn leaves_nothing<F: Future>(what: &str, mut make: impl FnMut() -> F) {
    for _ in 0..50 {
        let tasks: Vec<_> = (0..4).map(|_| Arc::new(Task::default())).collect();
        let mut futures: Vec<_> = tasks.iter().map(|_| Box::pin(make())).collect();
        // Each again in the task of the next: where it was before, nothing is left either.
        for shift in 0..2 {
            for (index, future) in futures.iter_mut().enumerate() {
                let waker = Waker::from(tasks[(index + shift) % tasks.len()].clone());
                let mut cx = Context::from_waker(&waker);
                assert!(future.as_mut().poll(&mut cx).is_pending(), "{what} waits");
            }
        }
        // In another order than they came.
        futures.swap(0, 2);
        drop(futures);
        for task in &tasks {
            assert_eq!(Arc::strong_count(task), 1, "a waker of {what} is left");
        }
    }
}

/// Waits until the socket is known to have nothing to read.
async fn idle(readable: impl Future) {
    let _ = timeout(Duration::from_millis(1), readable).await;
}

#[test]
fn a_socket_keeps_nothing_of_those_who_gave_up() {
    block_on_within(async {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        idle(udp.recv(&mut [0; 8])).await;
        leaves_nothing("recv_from", || async { udp.recv_from(&mut [0; 8]).await });
        leaves_nothing("peek_from", || async { udp.peek_from(&mut [0; 8]).await });
        leaves_nothing("readable", || udp.readable());
        leaves_nothing("recv_batch", || async {
            udp.recv_batch(&mut RecvBatch::with_capacity(2, 8)).await
        });

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        idle(listener.accept()).await;
        leaves_nothing("accept", || listener.accept());
        leaves_nothing("readable of a listener", || listener.readable());

        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = within(listener.accept()).await.unwrap();
        idle(client.read(&mut [0; 8])).await;
        leaves_nothing("read", || async { client.read(&mut [0; 8]).await });
        leaves_nothing("peek", || async { client.peek(&mut [0; 8]).await });
        leaves_nothing("readable of a stream", || client.readable());
        // Until nothing goes any more.
        let block = vec![0; 256 << 10];
        while timeout(Duration::from_millis(50), server.write(&block))
            .await
            .is_ok()
        {}
        leaves_nothing("write", || server.write(&block));
        leaves_nothing("writable", || server.writable());
    });
}

#[cfg(unix)]
#[test]
fn a_unix_socket_keeps_nothing_of_those_who_gave_up() {
    use coracle::net::{UnixDatagram, UnixStream};

    block_on_within(async {
        let (a, b) = UnixDatagram::pair().unwrap();
        idle(a.recv(&mut [0; 8])).await;
        leaves_nothing("recv of a Unix datagram", || async {
            a.recv(&mut [0; 8]).await
        });
        while b.try_send_to(&[0; 1024], &a.local_addr().unwrap()).is_ok() {}
        let send = || timeout(Duration::from_millis(50), b.send(&[0; 1024]));
        while send().await.is_ok() {}
        leaves_nothing("send of a Unix datagram", || b.send(&[0; 1024]));

        let (a, _b) = UnixStream::pair().unwrap();
        idle(a.read(&mut [0; 8])).await;
        leaves_nothing("recv_fds", || async {
            a.recv_fds(&mut [0; 8], &mut Vec::new()).await
        });
    });
}

#[test]
fn an_endpoint_keeps_nothing_of_those_who_gave_up() {
    over_each(async |ours: Ours, _peer: Peer| {
        let (transport, handle, driver) = make_with_driver(|| on_data(|_, _| Ok(())), ours)
            .await
            .unwrap();
        let driver = coracle::spawn(driver);
        coracle::yield_now().await;
        leaves_nothing("closed", || transport.closed());
        // Never read by the peer.
        transport.write(&vec![0; 16 << 20]).unwrap();
        leaves_nothing("drain", || transport.drain());
        let lost = Box::pin(handle.lost());
        let task = Arc::new(Task::default());
        let mut lost = lost;
        let waker = Waker::from(task.clone());
        assert!(lost
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending());
        drop((lost, waker));
        assert_eq!(Arc::strong_count(&task), 1);
        transport.abort();
        within(driver).await;
    });
    block_on_within(async {
        let (transport, _) = recording(&Log::new(), local_v4()).await;
        leaves_nothing("closed of datagrams", || transport.closed());
        close(&transport).await;

        let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
        let echo = || on_data(|transport, data| transport.write(data));
        let server = create_server(echo, options).await.unwrap();
        leaves_nothing("wait_closed", || server.wait_closed());
        server.close();
        within(server.wait_closed()).await;
    });
}

#[test]
fn a_runtime_keeps_nothing_of_those_who_gave_up() {
    block_on_within(async {
        leaves_nothing("sleep", || sleep(Duration::from_secs(60)));
        leaves_nothing("timeout", || {
            timeout(Duration::from_secs(60), future::pending::<()>())
        });
    });
}

/// As a server's tasks race its end: what is not awaited to its end is not kept.
#[test]
fn requests_that_race_the_end_of_a_connection_leave_nothing() {
    over_each(async |ours: Ours, _peer: Peer| {
        let (transport, _, driver) = make_with_driver(|| on_data(|_, _| Ok(())), ours)
            .await
            .unwrap();
        let driver = coracle::spawn(driver);
        let mut requests = Vec::new();
        for _ in 0..2_000 {
            let request = Arc::new(());
            requests.push(Arc::downgrade(&request));
            let transport = transport.clone();
            // The task goes with its last waker.
            coracle::spawn(async move {
                let work = async {
                    coracle::yield_now().await;
                    drop(request);
                };
                let closed = async {
                    let _ = transport.closed().await;
                };
                future::or(closed, work).await;
            })
            .await;
        }
        transport.close();
        within(driver).await;
        assert!(requests.iter().all(|request| request.strong_count() == 0));
    });
}

/// Poll functions have no drop: what they leave is bounded, and found at once.
#[test]
fn poll_functions_leave_few_wakers_however_many_tasks_there_were() {
    block_on_within(async {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        idle(udp.recv(&mut [0; 8])).await;
        let mut left = Vec::new();
        for _ in 0..20_000 {
            let task = Arc::new(Task::default());
            left.push(Arc::downgrade(&task));
            let waker = Waker::from(task);
            let mut cx = Context::from_waker(&waker);
            for _ in 0..2 {
                assert!(udp.poll_recv_from(&mut cx, &mut [0; 8]).is_pending());
            }
            if left.len() > 1_000 {
                left.retain(|task| task.strong_count() > 0);
                assert!(left.len() <= FEW, "{} wakers are kept", left.len());
            }
        }
    });
}

/// Each of them is woken, and each again for the next datagram: nobody is forgotten.
#[test]
fn many_tasks_that_read_one_socket_are_all_served() {
    const TASKS: usize = 3_000;
    block_on_within(async {
        let udp = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let polled = |index: usize| index % 2 == 0;
        let tasks: Vec<_> = (0..TASKS)
            .map(|index| {
                let udp = udp.clone();
                coracle::spawn(async move {
                    let mut buf = [0; 8];
                    let receiving = pin!(udp.recv_from(&mut buf));
                    match polled(index) {
                        false => drop(receiving.await.unwrap()),
                        true => {
                            let mut buf = [0; 8];
                            future::poll_fn(|cx| udp.poll_recv_from(cx, &mut buf))
                                .await
                                .map(drop)
                                .unwrap()
                        }
                    }
                })
            })
            .collect();
        coracle::yield_now().await;
        let to = udp.local_addr().unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sending = coracle::spawn(async move {
            loop {
                // A burst that surely fits into the buffer.
                for _ in 0..50 {
                    peer.send_to(b"x", &to).await.unwrap();
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
        for task in tasks {
            within(task).await;
        }
        drop(sending);
    });
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Two who wait for the same thing are both woken, however often one of them gives up.
#[test]
fn one_who_gives_up_does_not_take_the_others_wake_up_along() {
    block_on_within(async {
        let udp = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        idle(udp.recv(&mut [0; 8])).await;
        for order in 0..2 {
            let (task, other) = (Arc::new(Task::default()), Arc::new(Task::default()));
            let waker = Waker::from(task.clone());
            let other_waker = Waker::from(other.clone());
            let mut stays = Box::pin(udp.readable());
            let mut goes = Box::pin(udp.readable());
            let mut same_task = Box::pin(udp.readable());
            if order == 0 {
                assert!(poll(&mut goes, &other_waker).is_pending());
            }
            assert!(poll(&mut stays, &waker).is_pending());
            assert!(poll(&mut same_task, &waker).is_pending());
            assert!(poll(&mut goes, &other_waker).is_pending());
            drop(goes);
            drop(same_task);
            let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            sender
                .send_to(b"x", &udp.local_addr().unwrap())
                .await
                .unwrap();
            within(udp.recv(&mut [0; 8])).await.unwrap();
            assert!(task.0.load(Ordering::Relaxed) > 0, "the one who stayed");
            assert_eq!(other.0.load(Ordering::Relaxed), 0, "the one who went");
            drop(stays);
            idle(udp.recv(&mut [0; 8])).await;
        }
    });
}
