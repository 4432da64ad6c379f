//! Many tasks that wait for one socket are each served, and cost what they take and not what all
//! of them are.
#![cfg(not(target_os = "wasi"))]

mod common;

use std::cell::Cell;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;

use common::{block_on_within, within};
use coracle::net::{TcpListener, TcpStream, UdpSocket};
use coracle::{spawn, yield_now, Task};
use futures_lite::future::poll_once;
use futures_lite::AsyncReadExt;

const TASKS: usize = 2_000;

/// Polls that a task may cost: that all are woken for each event is a thousand.
const POLLS: usize = 40;

/// To count, and to look.
fn counter() -> (Rc<Cell<usize>>, Rc<Cell<usize>>) {
    let count = Rc::new(Cell::new(0));
    (count.clone(), count)
}

/// Counts how often a future is polled.
async fn counted<F: Future>(polls: Rc<Cell<usize>>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        polls.set(polls.get() + 1);
        future.as_mut().poll(cx)
    })
    .await
}

/// So many tasks, which wait already.
async fn waiting<F: Future<Output = ()> + 'static>(
    polls: &Rc<Cell<usize>>,
    task: impl Fn(usize) -> F,
) -> Vec<Task<()>> {
    let tasks = (0..TASKS)
        .map(|index| spawn(counted(polls.clone(), task(index))))
        .collect();
    while polls.get() < TASKS {
        yield_now().await;
    }
    tasks
}

async fn ends(tasks: Vec<Task<()>>, polls: &Cell<usize>) {
    for task in tasks {
        within(task).await;
    }
    println!("{} polls", polls.get());
    assert!(polls.get() < POLLS * TASKS, "{}", polls.get());
}

#[test]
fn each_receives_a_datagram_that_comes_alone() {
    block_on_within(async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let to = socket.local_addr().unwrap();
        let polls = Rc::default();
        let (done, received) = counter();
        let tasks = waiting(&polls, |_| {
            let (socket, done) = (socket.clone(), done.clone());
            async move {
                assert_eq!(socket.recv(&mut [0; 8]).await.unwrap(), 4);
                done.set(done.get() + 1);
            }
        })
        .await;
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for count in 1..=TASKS {
            peer.send_to(b"data", &to).await.unwrap();
            while received.get() < count {
                yield_now().await;
            }
        }
        ends(tasks, &polls).await;
    });
}

#[test]
fn each_receives_a_datagram_of_many() {
    block_on_within(async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let to = socket.local_addr().unwrap();
        let polls = Rc::default();
        let (done, received) = counter();
        let tasks = waiting(&polls, |_| {
            let (socket, done) = (socket.clone(), done.clone());
            async move {
                assert_eq!(socket.recv(&mut [0; 8]).await.unwrap(), 4);
                done.set(done.get() + 1);
            }
        })
        .await;
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        const MANY: usize = 50;
        for round in 1..=TASKS / MANY {
            for _ in 0..MANY {
                peer.send_to(b"data", &to).await.unwrap();
            }
            while received.get() < round * MANY {
                yield_now().await;
            }
        }
        ends(tasks, &polls).await;
    });
}

/// So that a peer who sends more than a few at a time does not fill the system's buffer meanwhile.
#[test]
fn datagrams_that_come_together_are_taken_in_a_few_turns() {
    const MANY: usize = 150;
    for asks in [false, true] {
        block_on_within(async {
            let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            let to = socket.local_addr().unwrap();
            let polls = Rc::default();
            let (done, received) = counter();
            let tasks = waiting(&polls, |_| {
                let (socket, done) = (socket.clone(), done.clone());
                async move {
                    let mut buf = [0; 8];
                    match asks {
                        false => drop(socket.recv(&mut buf).await.unwrap()),
                        true => loop {
                            socket.readable().await.unwrap();
                            if socket.try_recv_from(&mut buf).is_ok() {
                                break;
                            }
                        },
                    }
                    done.set(done.get() + 1);
                }
            })
            .await;
            let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let (ours, theirs) = common::sockets::tcp_pair().await;
            assert!(poll_once(theirs.read(&mut [0; 1])).await.is_none());
            for round in 1..=6 {
                for _ in 0..MANY {
                    peer.send_to(b"data", &to).await.unwrap();
                }
                let mut turns = 0;
                while received.get() < round * MANY {
                    // Other tasks have their turn, and sockets are looked at now and then.
                    ours.write_all(b"!").await.unwrap();
                    theirs.read(&mut [0; 1]).await.unwrap();
                    turns += 1;
                }
                assert!(turns < MANY, "{turns} turns");
            }
            assert!(polls.get() < POLLS * TASKS, "{}", polls.get());
            drop(tasks);
        });
    }
}

#[test]
fn each_reads_a_byte_of_a_stream() {
    block_on_within(async {
        let (reader, writer) = common::sockets::tcp_pair().await;
        let reader = Rc::new(reader);
        let polls = Rc::default();
        let tasks = waiting(&polls, |index| {
            let reader = reader.clone();
            async move {
                let mut buf = [0; 1];
                // By the trait, which knows nothing of futures, and by the method.
                if index % 2 == 0 {
                    (&*reader).read_exact(&mut buf).await.unwrap();
                } else {
                    assert_eq!(reader.read(&mut buf).await.unwrap(), 1);
                }
            }
        })
        .await;
        for _ in 0..TASKS / 2 {
            writer.write_all(&[7; 2]).await.unwrap();
            yield_now().await;
        }
        ends(tasks, &polls).await;
    });
}

#[test]
fn each_writes_to_a_stream_that_is_full() {
    block_on_within(async {
        let (reader, writer) = common::sockets::tcp_pair().await;
        while writer.try_write(&[7; 1 << 16]).is_ok() {}
        let writer = Rc::new(writer);
        let polls = Rc::default();
        let (done, written) = counter();
        let tasks = waiting(&polls, |_| {
            let (writer, done) = (writer.clone(), done.clone());
            async move {
                assert!(writer.write(&[7; 1 << 12]).await.unwrap() > 0);
                done.set(done.get() + 1);
            }
        })
        .await;
        let mut buf = vec![0; 1 << 16];
        while written.get() < TASKS {
            reader.read(&mut buf).await.unwrap();
        }
        ends(tasks, &polls).await;
    });
}

#[test]
fn each_accepts_a_connection() {
    block_on_within(async {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let addr = listener.local_addr().unwrap();
        let polls = Rc::default();
        let (done, accepted) = counter();
        let tasks = waiting(&polls, |_| {
            let (listener, done) = (listener.clone(), done.clone());
            async move {
                listener.accept().await.unwrap();
                done.set(done.get() + 1);
            }
        })
        .await;
        for count in 1..=TASKS {
            let _client = TcpStream::connect(addr).await.unwrap();
            while accepted.get() < count {
                yield_now().await;
            }
        }
        ends(tasks, &polls).await;
    });
}

#[test]
fn all_who_ask_for_readable_are_told() {
    block_on_within(async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let to = socket.local_addr().unwrap();
        let polls = Rc::default();
        let tasks = waiting(&polls, |_| {
            let socket = socket.clone();
            async move { socket.readable().await.unwrap() }
        })
        .await;
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(b"data", &to).await.unwrap();
        ends(tasks, &polls).await;
    });
}

/// Those who are woken first may never be polled again.
#[test]
fn who_is_woken_and_looks_elsewhere_strands_nobody() {
    block_on_within(async {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let to = socket.local_addr().unwrap();
        let mut bufs = vec![[0; 8]; 200];
        let mut idle = Vec::new();
        for buf in &mut bufs {
            let mut receiving = Box::pin(socket.recv(buf));
            assert!(poll_once(receiving.as_mut()).await.is_none());
            idle.push(receiving);
        }
        let polls = Rc::default();
        let (done, received) = counter();
        let tasks = waiting(&polls, |_| {
            let (socket, done) = (socket.clone(), done.clone());
            async move {
                socket.recv(&mut [0; 8]).await.unwrap();
                done.set(done.get() + 1);
            }
        })
        .await;
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for count in 1..=TASKS {
            peer.send_to(b"data", &to).await.unwrap();
            while received.get() < count {
                yield_now().await;
            }
            if count == TASKS / 2 {
                idle.truncate(50);
            }
        }
        drop(idle);
        ends(tasks, &polls).await;
    });
}

#[cfg(feature = "async-io")]
mod with_async_io {
    use super::*;
    use coracle::time::sleep;
    use std::time::Duration;

    /// So many tasks of smol's, for one datagram each, of which so many come at once.
    fn receive(at_once: usize, rests: bool) {
        let executor = smol::LocalExecutor::new();
        common::foreign::smol_within(executor.run(async {
            let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            let to = socket.local_addr().unwrap();
            let polls: Rc<Cell<usize>> = Rc::default();
            let (done, received) = counter();
            let mut tasks = Vec::new();
            for _ in 0..TASKS {
                let (socket, done) = (socket.clone(), done.clone());
                tasks.push(executor.spawn(counted(polls.clone(), async move {
                    assert_eq!(socket.recv(&mut [0; 8]).await.unwrap(), 4);
                    done.set(done.get() + 1);
                })));
            }
            while polls.get() < TASKS {
                futures_lite::future::yield_now().await;
            }
            let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            for round in 1..=TASKS / at_once {
                for _ in 0..at_once {
                    peer.send_to(b"data", &to).await.unwrap();
                }
                while received.get() < round * at_once {
                    match rests {
                        true => sleep(Duration::from_micros(50)).await,
                        false => futures_lite::future::yield_now().await,
                    }
                }
            }
            for task in tasks {
                within(task).await;
            }
            println!("{} polls", polls.get());
            assert!(polls.get() < POLLS * TASKS, "{}", polls.get());
        }));
    }

    #[test]
    fn each_receives_a_datagram_that_comes_alone() {
        receive(1, false);
        receive(1, true);
    }

    #[test]
    fn each_receives_a_datagram_of_many() {
        receive(50, false);
        receive(50, true);
    }
}
