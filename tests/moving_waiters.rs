//! Whoever waits for a socket is woken: two tasks at once, a future that moves from one task or
//! runtime to another, and one whose first runtime ends meanwhile. For each kind of operation.
#![cfg(unix)]

mod common;

use std::future::Future;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::{mpsc, Arc, Mutex};
use std::thread;

use common::{block_on_within, within, PATIENCE};
use coracle::net::{
    RecvBatch, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream,
};
use coracle::spawn;
use futures_lite::future::{poll_once, yield_now, zip};
use futures_lite::{AsyncReadExt, AsyncWriteExt};

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An operation that waits, and what ends it for two of them.
struct Case {
    name: &'static str,
    wait: Box<dyn Fn() -> Waiting + Send>,
    trigger: Box<dyn Fn() + Send>,
}

fn case<S, F>(
    name: &'static str,
    socket: &Arc<S>,
    wait: impl Fn(Arc<S>) -> F + Send + 'static,
    trigger: impl Fn() + Send + 'static,
) -> Case
where
    S: Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    // It stays open until the last has come.
    let kept = socket.clone();
    let socket = socket.clone();
    Case {
        name,
        wait: Box::new(move || Box::pin(wait(socket.clone()))),
        trigger: Box::new(move || {
            let _ = &kept;
            trigger();
        }),
    }
}

/// A new socket for each, of which nobody has awaited anything.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut udp = |name, wait: fn(Arc<UdpSocket>) -> Waiting| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = Arc::new(UdpSocket::try_from(socket).unwrap());
        cases.push(case(name, &socket, wait, move || {
            for _ in 0..2 {
                peer.send_to(b"data", to).unwrap();
            }
        }));
    };
    udp("udp recv", |socket| {
        Box::pin(async move { assert_eq!(socket.recv(&mut [0; 8]).await.unwrap(), 4) })
    });
    udp("udp recv_batch", |socket| {
        Box::pin(async move {
            // One at a time: there are two who wait.
            let mut batch = RecvBatch::with_capacity(1, 8);
            assert_eq!(socket.recv_batch(&mut batch).await.unwrap(), 1);
        })
    });
    udp("udp peek", |socket| {
        Box::pin(async move { assert_eq!(socket.peek_from(&mut [0; 8]).await.unwrap().0, 4) })
    });
    udp("udp readable", |socket| {
        Box::pin(async move { socket.readable().await.unwrap() })
    });
    udp("udp read_with", |socket| {
        Box::pin(async move {
            let read = |socket: socket2::SockRef<'_>| (&*socket).read(&mut [0; 8]);
            assert_eq!(socket.read_with(read).await.unwrap(), 4);
        })
    });
    let (socket, peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let socket = Arc::new(UnixDatagram::try_from(socket).unwrap());
    let recv = |socket: Arc<UnixDatagram>| async move {
        assert_eq!(socket.recv(&mut [0; 8]).await.unwrap(), 4);
    };
    cases.push(case("unix recv", &socket, recv, move || {
        for _ in 0..2 {
            peer.send(b"data").unwrap();
        }
    }));

    let mut tcp = |name, wait: fn(Arc<TcpStream>) -> Waiting| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.accept().unwrap().0;
        let ours = Arc::new(TcpStream::try_from(ours).unwrap());
        cases.push(case(name, &ours, wait, move || {
            (&peer).write_all(b"ab").unwrap();
        }));
    };
    tcp("tcp read", |stream| {
        Box::pin(async move { assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 1) })
    });
    tcp("tcp AsyncRead", |stream| {
        Box::pin(async move { (&*stream).read_exact(&mut [0; 1]).await.unwrap() })
    });
    tcp("tcp peek", |stream| {
        Box::pin(async move { assert!(stream.peek(&mut [0; 1]).await.unwrap() > 0) })
    });
    tcp("tcp readable", |stream| {
        Box::pin(async move { stream.readable().await.unwrap() })
    });

    let mut full = |name, wait: fn(Arc<UnixStream>) -> Waiting| {
        let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut queued = 0;
        while let Ok(len) = (&ours).write(&[7; 1 << 10]) {
            queued += len;
        }
        let ours = Arc::new(UnixStream::try_from(ours).unwrap());
        cases.push(case(name, &ours, wait, move || {
            (&peer).read_exact(&mut vec![0; queued]).unwrap();
        }));
    };
    full("unix write", |stream| {
        Box::pin(async move { assert!(stream.write(b"more").await.unwrap() > 0) })
    });
    full("unix AsyncWrite", |stream| {
        Box::pin(async move {
            AsyncWriteExt::write_all(&mut &*stream, b"more")
                .await
                .unwrap()
        })
    });
    full("unix writable", |stream| {
        Box::pin(async move { stream.writable().await.unwrap() })
    });
    full("unix write_with", |stream| {
        Box::pin(async move {
            let write = |socket: socket2::SockRef<'_>| (&*socket).write(b"more");
            assert!(stream.write_with(write).await.unwrap() > 0);
        })
    });
    let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let ours = Arc::new(UnixStream::try_from(ours).unwrap());
    let recv_fds = |stream: Arc<UnixStream>| async move {
        let received = stream.recv_fds(&mut [0; 1], &mut Vec::new()).await;
        received.unwrap();
    };
    cases.push(case("unix recv_fds", &ours, recv_fds, move || {
        (&peer).write_all(b"ab").unwrap();
    }));

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = Arc::new(TcpListener::try_from(listener).unwrap());
    let accept = |listener: Arc<TcpListener>| async move { drop(listener.accept().await.unwrap()) };
    cases.push(case("tcp accept", &listener, accept, move || {
        for _ in 0..2 {
            drop(std::net::TcpStream::connect(addr).unwrap());
        }
    }));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("listener");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let listener = Arc::new(UnixListener::try_from(listener).unwrap());
    let readable = |listener: Arc<UnixListener>| async move {
        listener.readable().await.unwrap();
    };
    cases.push(case("unix acceptable", &listener, readable, move || {
        let _ = &folder;
        drop(std::os::unix::net::UnixStream::connect(&path).unwrap());
    }));
    cases
}

async fn is_waiting(waiting: &mut Waiting, name: &str) {
    assert!(poll_once(waiting).await.is_none(), "{name}");
}

#[test]
fn two_tasks_are_both_woken() {
    for case in cases() {
        block_on_within(async {
            let tasks = [spawn((case.wait)()), spawn((case.wait)())];
            yield_now().await;
            (case.trigger)();
            for task in tasks {
                within(task).await;
            }
        });
    }
}

#[test]
fn a_future_that_moves_to_another_task_is_woken_there() {
    for case in cases() {
        block_on_within(async {
            let mut moving = (case.wait)();
            let mut staying = (case.wait)();
            is_waiting(&mut staying, case.name).await;
            // In front of the other one, and behind it.
            is_waiting(&mut moving, case.name).await;
            let first = spawn(async move {
                is_waiting(&mut moving, case.name).await;
                (moving,)
            });
            let second = spawn(async move { first.await.0.await });
            let third = spawn(staying);
            for _ in 0..5 {
                yield_now().await;
            }
            (case.trigger)();
            within(zip(second, third)).await;
        });
    }
}

#[test]
fn a_future_goes_from_one_runtime_to_the_next() {
    for case in cases() {
        let mut waiting = (case.wait)();
        block_on_within(is_waiting(&mut waiting, case.name));
        block_on_within(is_waiting(&mut waiting, case.name));
        (case.trigger)();
        block_on_within(waiting);
    }
    for case in cases() {
        let mut waiting = (case.wait)();
        block_on_within(is_waiting(&mut waiting, case.name));
        block_on_within(async {
            is_waiting(&mut waiting, case.name).await;
            (case.trigger)();
            waiting.await;
        });
    }
}

/// When the first runtime of a future ends that waits in another.
#[derive(Clone, Copy)]
enum Ends {
    Before,
    After,
}

/// Two runtimes on two threads, and a future that has waited in the first.
fn across_threads(ends: Ends, rest: fn(Waiting)) {
    for case in cases() {
        let (send, moved) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let trigger = case.trigger;
        let first = thread::spawn(move || {
            block_on_within(async {
                let mut waiting = (case.wait)();
                is_waiting(&mut waiting, case.name).await;
                send.send(waiting).unwrap();
                while let Err(mpsc::TryRecvError::Empty) = ended.try_recv() {
                    coracle::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            });
        });
        let mut waiting = moved.recv_timeout(PATIENCE).unwrap();
        let (polled, is_polled) = mpsc::channel();
        let second = thread::spawn(move || {
            rest(Box::pin(async move {
                is_waiting(&mut waiting, case.name).await;
                polled.send(()).unwrap();
                waiting.await;
            }));
        });
        is_polled.recv_timeout(PATIENCE).unwrap();
        match ends {
            Ends::Before => {
                end.send(()).unwrap();
                first.join().unwrap();
                trigger();
                second.join().unwrap();
            }
            Ends::After => {
                trigger();
                second.join().unwrap();
                end.send(()).unwrap();
                first.join().unwrap();
            }
        }
    }
}

#[test]
fn a_future_waits_in_a_runtime_that_is_not_its_sockets() {
    across_threads(Ends::After, block_on_within);
}

#[test]
fn a_future_whose_first_runtime_ends_goes_on_waiting_in_its_second() {
    across_threads(Ends::Before, block_on_within);
}

#[cfg(feature = "async-io")]
mod with_async_io {
    use super::*;
    use common::foreign::smol_within;

    #[test]
    fn a_future_goes_to_an_executor_without_a_runtime_of_ours() {
        for ends in [Ends::After, Ends::Before] {
            across_threads(ends, smol_within);
            across_threads(ends, futures_lite::future::block_on);
        }
    }

    #[test]
    fn a_future_goes_to_and_fro() {
        for case in cases() {
            let mut waiting = (case.wait)();
            for _ in 0..2 {
                smol_within(is_waiting(&mut waiting, case.name));
                block_on_within(is_waiting(&mut waiting, case.name));
            }
            block_on_within(async {
                is_waiting(&mut waiting, case.name).await;
                (case.trigger)();
                waiting.await;
            });
        }
    }

    #[test]
    fn tasks_of_two_executors_are_both_woken() {
        for first_is_ours in [true, false] {
            for case in cases() {
                let trigger = case.trigger;
                let (polled, are_polled) = mpsc::channel();
                let wait = Arc::new(Mutex::new(case.wait));
                let waits = || {
                    let (wait, polled) = (wait.clone(), polled.clone());
                    async move {
                        let mut waiting = (wait.lock().unwrap())();
                        is_waiting(&mut waiting, case.name).await;
                        polled.send(()).unwrap();
                        waiting.await;
                    }
                };
                let (ours, theirs) = (waits(), waits());
                let run_ours = || thread::spawn(move || block_on_within(ours));
                let run_theirs = || thread::spawn(move || smol_within(theirs));
                let next = || are_polled.recv_timeout(PATIENCE).unwrap();
                let threads = if first_is_ours {
                    let first = run_ours();
                    next();
                    [first, run_theirs()]
                } else {
                    let first = run_theirs();
                    next();
                    [first, run_ours()]
                };
                next();
                trigger();
                for thread in threads {
                    thread.join().unwrap();
                }
            }
        }
    }
}
