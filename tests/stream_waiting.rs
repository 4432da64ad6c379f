//! Tasks that wait for streams, alone and together, and runtimes that end meanwhile.

mod common;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::sync::Arc;

use common::sockets::{kind, on_both, pattern};
#[cfg(not(target_os = "wasi"))]
use common::{block_on_within, PATIENCE};
#[cfg(not(target_os = "wasi"))]
use coracle::net::TcpStream;
use coracle::{spawn, yield_now};
use futures_lite::future::poll_once;
use futures_lite::io::AsyncRead;

#[test]
fn what_would_wait_is_told_at_once() {
    on_both!(|a, b| {
        let mut buf = vec![0; 1 << 16];
        assert_eq!(kind(b.try_read(&mut buf)), ErrorKind::WouldBlock);
        let mut sent = 0;
        let full = loop {
            match a.try_write(&buf) {
                Ok(written) => sent += written,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let a = Arc::new(a);
        let writer = a.clone();
        let writing = spawn(async move {
            writer.writable().await.unwrap();
            writer.write(b"one more").await.unwrap()
        });
        let mut received = 0;
        while received < sent {
            received += b.read(&mut buf).await.unwrap();
        }
        let more = writing.await;
        while received < sent + more {
            received += b.read(&mut buf).await.unwrap();
        }
        assert_eq!(received, sent + more);
    });
}

#[test]
fn a_writer_waits_for_its_reader() {
    on_both!(|a, b| {
        let data = pattern(8 << 20);
        let expected = data.clone();
        let writing = spawn(async move { a.write_all(&data).await });
        let mut received = Vec::<u8>::new();
        let mut buf = vec![0; 77_777];
        loop {
            match b.read(&mut buf).await.unwrap() {
                0 => break,
                len => received.extend(&buf[..len]),
            }
            yield_now().await;
        }
        writing.await.unwrap();
        assert!(received == expected);
    });
}

#[test]
fn readiness_that_turns_out_wrong_is_waited_for() {
    // Without waiting, the loop would not end, nor anything else have its turn.
    let may_try = || {
        let mut left = 100;
        move || {
            left -= 1;
            assert!(left > 0, "it says ready again and again");
        }
    };
    on_both!(|a, b| {
        let mut buf = [0; 4];
        for _ in 0..2 {
            let mut count = may_try();
            let mut reading = pin!(async {
                loop {
                    count();
                    b.readable().await.unwrap();
                    match b.try_read(&mut buf) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        result => break result,
                    }
                }
            });
            assert!(poll_once(&mut reading).await.is_none());
            // As much as fits: then it is not known whether there is more.
            a.write_all(b"four").await.unwrap();
            assert_eq!(reading.await.unwrap(), 4);
        }
        let mut count = may_try();
        let data = vec![0; 1 << 16];
        let writing = async {
            loop {
                count();
                a.writable().await.unwrap();
                while a.try_write(&data).is_ok() {}
            }
        };
        assert!(poll_once(writing).await.is_none());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn shutting_down_the_reading_direction_ends_a_read_that_waits() {
    on_both!(|a, b| {
        let b = Arc::new(b);
        let reader = b.clone();
        let reading = spawn(async move { reader.read(&mut [0; 8]).await });
        yield_now().await;
        assert!(!reading.is_finished());
        b.shutdown(std::net::Shutdown::Read).unwrap();
        assert_eq!(reading.await.unwrap(), 0);
        b.write_all(b"still").await.unwrap();
        assert_eq!(a.read(&mut [0; 8]).await.unwrap(), 5);
    });
}

#[test]
fn several_tasks_read_one_stream() {
    on_both!(|a, b| {
        let b = Arc::new(b);
        let received = Rc::new(RefCell::new(Vec::<u8>::new()));
        let reader = |size: usize| {
            let (b, received) = (b.clone(), received.clone());
            spawn(async move {
                let mut buf = vec![0; size];
                loop {
                    match b.read(&mut buf).await.unwrap() {
                        0 => break,
                        len => received.borrow_mut().extend(&buf[..len]),
                    }
                    yield_now().await;
                }
            })
        };
        let readers = [reader(7), reader(1000), reader(64)];
        let data = pattern(100_000);
        for chunk in data.chunks(997) {
            a.write_all(chunk).await.unwrap();
            yield_now().await;
        }
        drop(a);
        for reader in readers {
            reader.await;
        }
        assert!(*received.borrow() == data, "each byte once and in order");
    });
}

#[test]
fn any_number_of_tasks_may_wait_for_one_stream() {
    on_both!(|a, b| {
        let b = Arc::new(b);
        let polls = Rc::new(Cell::new(0));
        let reader = || {
            let (b, polls) = (b.clone(), polls.clone());
            spawn(std::future::poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                AsyncRead::poll_read(Pin::new(&mut &*b), cx, &mut [0])
            }))
        };
        let readers: Vec<_> = (0..100).map(|_| reader()).collect();
        for _ in 0..100 {
            yield_now().await;
        }
        let before = polls.get();
        for _ in 0..1_000 {
            yield_now().await;
        }
        let spent = polls.get() - before;
        assert!(spent < 1_000, "{spent} polls and nothing has happened");
        a.write_all(&[0; 100]).await.unwrap();
        for reader in readers {
            assert_eq!(reader.await.unwrap(), 1);
        }
    });
}

#[test]
fn all_who_wait_learn_that_the_peer_is_gone() {
    on_both!(|a, b| {
        while a.try_write(&[0; 1 << 16]).is_ok() {}
        let a = Arc::new(a);
        let task = |reading: bool| {
            let a = a.clone();
            spawn(async move {
                match reading {
                    true => a.read(&mut [0; 8]).await,
                    false => a.write(b"no room").await,
                }
            })
        };
        let tasks = [task(true), task(false), task(true), task(false)];
        yield_now().await;
        assert!(tasks.iter().all(|task| !task.is_finished()));
        drop(b);
        for task in tasks {
            match task.await {
                Ok(len) => assert_eq!(len, 0),
                Err(error) => assert!(
                    matches!(
                        error.kind(),
                        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                    ),
                    "{error}"
                ),
            }
        }
    });
}

#[test]
fn a_half_is_dropped_while_the_other_waits() {
    on_both!(|a, b| {
        let (read, write) = a.into_split();
        let reading = spawn(async move { read.read(&mut [0; 8]).await });
        yield_now().await;
        drop(write);
        assert_eq!(b.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(!reading.is_finished());
        b.write_all(b"reply").await.unwrap();
        assert_eq!(reading.await.unwrap(), 5);
    });
}

#[test]
fn a_task_that_is_cancelled_closes_its_stream() {
    on_both!(|a, b| {
        let task = spawn(async move { a.read(&mut [0; 8]).await });
        yield_now().await;
        task.cancel().await;
        assert_eq!(b.read(&mut [0; 8]).await.unwrap(), 0);
    });
}

/// The two ends of a connection that no runtime knows.
#[cfg(not(target_os = "wasi"))]
fn std_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_stream_outlives_the_runtimes_that_it_waits_in() {
    let (a, mut b) = std_pair();
    let a = Arc::new(TcpStream::try_from(a).unwrap());
    for _ in 0..3 {
        block_on_within(async {
            let waiting = a.clone();
            // Dropped with the runtime, while it waits.
            spawn(async move { waiting.read(&mut [0; 8]).await }).detach();
            yield_now().await;
            assert!(poll_once(a.read(&mut [0; 8])).await.is_none());
        });
        std::io::Write::write_all(&mut b, b"x").unwrap();
        let read = block_on_within(async { a.read(&mut [0; 8]).await });
        assert_eq!(read.unwrap(), 1);
    }
    assert_eq!(Arc::strong_count(&a), 1);
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn who_waits_for_a_stream_of_a_runtime_that_ends_goes_on() {
    let (a, mut b) = std_pair();
    let a = Arc::new(TcpStream::try_from(a).unwrap());
    let (waits, is_waiting) = std::sync::mpsc::channel();
    let waiter = block_on_within(async {
        assert!(poll_once(a.read(&mut [0; 8])).await.is_none());
        let a = a.clone();
        let waiter = std::thread::spawn(move || {
            block_on_within(async {
                let mut buf = [0; 8];
                let mut reading = pin!(a.read(&mut buf));
                assert!(poll_once(&mut reading).await.is_none());
                waits.send(()).unwrap();
                reading.await
            })
        });
        is_waiting.recv_timeout(PATIENCE).unwrap();
        waiter
    });
    std::io::Write::write_all(&mut b, b"after").unwrap();
    assert_eq!(waiter.join().unwrap().unwrap(), 5);
}
