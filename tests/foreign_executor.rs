//! Sockets, endpoints and timers where no coracle runtime is running, and on the way between
//! runtimes.
// On WASI there are no other executors.
#![cfg(not(target_os = "wasi"))]

mod common;

use std::io::ErrorKind;

use common::block_on_within;
use coracle::net::UdpSocket;
use coracle::Address;
use futures_lite::future::poll_once;

#[cfg(feature = "async-io")]
mod with_async_io {
    use super::*;

    use std::future::{poll_fn, Future};
    use std::pin::pin;
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use async_executor::Executor;
    use common::{echoing, ip, local_v4, std_udp, to, within, Event, Log, Recorder, PATIENCE};
    use coracle::net::{RecvBatch, SendBatch};
    use coracle::time::{interval, sleep, sleep_until, timeout};
    use coracle::{
        create_datagram_endpoint, create_datagram_endpoint_with_driver, on_datagram,
        DatagramOptions, DatagramTransport,
    };

    /// `smol::block_on` with a panic instead of a hang.
    fn smol_within<F: Future>(future: F) -> F::Output {
        smol::block_on(within(future))
    }

    /// An endpoint that sends everything back, driven by an executor of several threads.
    async fn echo_on(executor: &Executor<'static>, options: DatagramOptions) -> DatagramTransport {
        let echo = || {
            on_datagram(|transport: &DatagramTransport, data, from| {
                transport.send_to(data, from).unwrap();
            })
        };
        let made = create_datagram_endpoint_with_driver(echo, options).await;
        let (transport, _, driver) = made.unwrap();
        executor.spawn(driver).detach();
        transport
    }

    #[test]
    fn sockets_work_under_smol() {
        smol_within(async {
            let server = UdpSocket::bind("localhost:0").await.unwrap();
            let addr = server.local_addr().unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            client.connect(addr).await.unwrap();
            let server = smol::spawn(async move {
                let mut batch = RecvBatch::new();
                let mut answers = SendBatch::new();
                for _ in 0..100 {
                    server.recv_batch(&mut batch).await.unwrap();
                    for (data, meta) in batch.iter() {
                        answers.push(data, &meta.from);
                    }
                    while !answers.is_empty() {
                        server.send_batch(&mut answers).await.unwrap();
                    }
                }
            });
            let mut buf = [0; 8];
            for i in 0..100_u32 {
                client.writable().await.unwrap();
                client.send(&i.to_le_bytes()).await.unwrap();
                assert_eq!(client.recv(&mut buf).await.unwrap(), 4);
                assert_eq!(buf[..4], i.to_le_bytes());
            }
            server.await;
            assert!(timeout(Duration::from_millis(2), client.recv(&mut buf))
                .await
                .is_err());
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_unix_sender_waits_for_room_under_smol() {
        use coracle::net::UnixDatagram;
        for connected in [true, false] {
            smol_within(async {
                let receiver = UnixDatagram::bind(coracle::Address::UNNAMED).unwrap();
                let addr = receiver.local_addr().unwrap();
                let sender = UnixDatagram::unbound().unwrap();
                if connected {
                    sender.connect(addr).unwrap();
                }
                let sending = smol::spawn(async move {
                    for i in 0..200_u8 {
                        sender.send_to(&[i], &addr).await.unwrap();
                    }
                });
                let mut buf = [0; 8];
                for i in 0..200_u8 {
                    assert_eq!(receiver.recv(&mut buf).await.unwrap(), 1);
                    assert_eq!(buf[0], i);
                }
                sending.await;
            });
        }
    }

    #[test]
    fn timers_work_under_smol() {
        smol_within(async {
            for micros in [0, 200, 1_500] {
                let duration = Duration::from_micros(micros);
                let start = Instant::now();
                sleep(duration).await;
                assert!(start.elapsed() >= duration);
            }
            let mut moved = sleep(Duration::from_secs(3600));
            assert!(poll_once(&mut moved).await.is_none());
            let soon = Instant::now() + Duration::from_millis(2);
            moved.reset(soon);
            moved.await;
            assert!(Instant::now() >= soon);
            let period = Duration::from_millis(1);
            let mut ticks = interval(period);
            let first = ticks.tick().await;
            assert_eq!(ticks.tick().await, first + period);
            let limit = timeout(period, std::future::pending::<()>()).await;
            assert_eq!(
                std::io::Error::from(limit.unwrap_err()).kind(),
                ErrorKind::TimedOut
            );
        });
    }

    #[test]
    fn a_task_under_smol_waits_for_the_new_end_of_its_sleep() {
        for before in [Duration::from_secs(3600), Duration::MAX] {
            let sleep = Arc::new(Mutex::new(sleep(before)));
            let waiting = {
                let sleep = sleep.clone();
                async move { poll_fn(|cx| pin!(&mut *sleep.lock().unwrap()).poll(cx)).await }
            };
            smol_within(async {
                let executor = smol::LocalExecutor::new();
                let waiting = executor.spawn(waiting);
                executor.try_tick();
                let soon = Instant::now() + Duration::from_millis(2);
                sleep.lock().unwrap().reset(soon);
                executor.run(waiting).await;
                assert!(Instant::now() >= soon);
            });
        }
    }

    #[test]
    fn past_deadlines_let_other_tasks_of_smol_run() {
        let past = Instant::now();
        smol_within(async {
            let executor = smol::LocalExecutor::new();
            for zero in [false, true] {
                let other = executor.spawn(async {});
                let seen = executor.run(async {
                    for _ in 0..10_000 {
                        if zero {
                            sleep(Duration::ZERO).await;
                        } else {
                            sleep_until(past).await;
                        }
                    }
                    other.is_finished()
                });
                assert!(seen.await, "{zero}");
            }
        });
    }

    async fn poll(mut sleep: coracle::time::Sleep) -> coracle::time::Sleep {
        poll_once(&mut sleep).await;
        sleep
    }

    #[test]
    fn a_sleep_goes_from_one_executor_to_the_other_and_back() {
        let deadline = Instant::now() + Duration::from_millis(10);
        let sleep = smol::block_on(poll(sleep_until(deadline)));
        let sleep = coracle::block_on(poll(sleep));
        let sleep = smol::block_on(poll(sleep));
        block_on_within(sleep);
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn an_endpoint_without_a_runtime_is_refused_with_advice() {
        let made = create_datagram_endpoint(|| Recorder::new(&Log::new()), local_v4());
        let error = smol::block_on(made).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for advice in ["coracle::block_on", "create_datagram_endpoint_with_driver"] {
            assert!(error.to_string().contains(advice), "{error}");
        }
    }

    #[test]
    fn an_endpoint_works_while_its_driver_runs() {
        smol_within(async {
            let log = Log::new();
            let made = create_datagram_endpoint_with_driver(|| Recorder::new(&log), local_v4());
            let (transport, handle, driver) = made.await.unwrap();
            let peer = std_udp();
            peer.send_to(b"early", ip(&transport)).unwrap();
            assert_eq!(log.events(), [], "nobody drives it");
            let driver = smol::spawn(driver);
            log.until_received(1).await;
            assert_eq!(log.events()[0], Event::Made);
            transport
                .send_to(b"x", &peer.local_addr().unwrap().into())
                .unwrap();
            assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 1);
            transport.close();
            let (_, result) = handle.lost().await;
            result.unwrap();
            driver.await;
            assert_eq!(log.events().last(), Some(&Event::Lost(None)));
        });
    }

    #[test]
    fn endpoints_echo_on_an_executor_of_several_threads() {
        const CLIENTS: u8 = 8;
        fn is_send<T: Send>(value: T) -> T {
            value
        }
        let executor = Arc::new(Executor::new());
        let (stop, stopped) = smol::channel::unbounded::<()>();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (executor, stopped) = (executor.clone(), stopped.clone());
                thread::spawn(move || {
                    let _ = smol::block_on(executor.run(stopped.recv()));
                })
            })
            .collect();
        smol_within(async {
            let server = echo_on(&executor, local_v4()).await;
            let mut clients = Vec::new();
            for client in 0..CLIENTS {
                let options = to(ip(&server));
                let log = Log::new();
                let recorder = || Recorder::new(&log);
                let made = create_datagram_endpoint_with_driver(recorder, options).await;
                let (transport, handle, driver) = made.unwrap();
                executor.spawn(is_send(driver)).detach();
                clients.push(executor.spawn(async move {
                    for i in 0..100_u8 {
                        transport.send(&[client, i]).unwrap();
                        log.until_received(usize::from(i) + 1).await;
                    }
                    let expected: Vec<_> = (0..100).map(|i| vec![client, i]).collect();
                    assert_eq!(log.received(), expected);
                    // The protocol is reached while other threads may be in its callbacks.
                    handle.with(|_| ());
                    transport.close();
                    handle.lost().await.1.unwrap();
                }));
            }
            for client in clients {
                client.await;
            }
            server.close();
            server.closed().await.unwrap();
        });
        drop(stop);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn two_threads_read_from_one_socket() {
        const COUNT: usize = 200;
        let socket = Arc::new(smol::block_on(UdpSocket::bind("127.0.0.1:0")).unwrap());
        let addr = socket.local_addr().unwrap();
        let (send, received) = std::sync::mpsc::channel();
        // On two executors of different kinds.
        let read = move |socket: Arc<UdpSocket>| {
            let send = send.clone();
            async move {
                let mut buf = [0; 8];
                loop {
                    match socket.recv(&mut buf).await.unwrap() {
                        0 => return,
                        _ => send.send(buf[0]).unwrap(),
                    }
                }
            }
        };
        let reading = [read(socket.clone()), read(socket.clone())];
        let mut number = 0;
        let threads = reading.map(|reading| {
            number += 1;
            let under_smol = number == 1;
            thread::spawn(move || match under_smol {
                true => smol_within(reading),
                false => block_on_within(reading),
            })
        });
        for i in 0..COUNT {
            socket.try_send_to(&[i as u8], &addr).unwrap();
            assert_eq!(received.recv_timeout(PATIENCE), Ok(i as u8));
        }
        // One end for each; whoever has taken one takes no more.
        for _ in 0..2 {
            socket.try_send_to(b"", &addr).unwrap();
        }
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_socket_goes_from_smol_to_coracle_and_back() {
        let socket = smol::block_on(UdpSocket::bind("127.0.0.1:0")).unwrap();
        let addr = socket.local_addr().unwrap();
        let works = async |socket: UdpSocket| {
            let mut buf = [0; 8];
            // Waiting hands it over.
            assert!(poll_once(socket.recv(&mut buf)).await.is_none());
            let late = thread::spawn(move || {
                let to = addr.as_ip().unwrap();
                std_udp().send_to(b"late", to).unwrap();
            });
            assert_eq!(socket.recv(&mut buf).await.unwrap(), 4);
            late.join().unwrap();
            socket
        };
        let socket = smol_within(works(socket));
        let socket = block_on_within(works(socket));
        let socket = smol_within(works(socket));
        block_on_within(works(socket));
    }

    #[test]
    fn an_endpoint_of_coracle_talks_to_one_of_smol() {
        let (send, port) = std::sync::mpsc::channel();
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let coracle = thread::spawn(move || {
            block_on_within(async move {
                let echo = echoing(local_v4()).await;
                send.send(ip(&echo)).unwrap();
                let _ = stopped.recv().await;
            })
        });
        let addr = port.recv_timeout(PATIENCE).unwrap();
        smol_within(async {
            let log = Log::new();
            let made = create_datagram_endpoint_with_driver(|| Recorder::new(&log), to(addr));
            let (transport, _, driver) = made.await.unwrap();
            let _driver = smol::spawn(driver);
            for i in 1..=50 {
                transport.send(b"across").unwrap();
                log.until_received(i).await;
            }
        });
        drop(stop);
        coracle.join().unwrap();
    }
}

#[cfg(not(feature = "async-io"))]
#[test]
fn without_a_runtime_and_the_feature_waiting_is_refused_with_advice() {
    smol::block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr: Address = socket.local_addr().unwrap();
        let mut buf = [0; 8];
        let error = socket.recv(&mut buf).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for advice in ["coracle::block_on", "async-io"] {
            assert!(error.to_string().contains(advice), "{error}");
        }
        // What need not wait works.
        socket.send_to(b"x", &addr).await.unwrap();
        assert_eq!(socket.try_recv_from(&mut buf).unwrap(), (1, addr));
    });
    let hour = std::time::Duration::from_secs(3600);
    let message = common::panics(|| smol::block_on(coracle::time::sleep(hour)));
    assert!(message.contains("coracle::block_on"), "{message}");
    let socket = UdpSocket::bind("127.0.0.1:0");
    block_on_within(async move {
        assert!(poll_once(socket.await.unwrap().recv(&mut [0; 8]))
            .await
            .is_none());
    });
}

#[test]
fn sockets_are_converted_both_ways() {
    block_on_within(async {
        let std = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = Address::from(std.local_addr().unwrap());
        let mut socket = UdpSocket::try_from(std).unwrap();
        let works = async |socket: UdpSocket| {
            assert_eq!(socket.local_addr().unwrap(), addr);
            let mut buf = [0; 8];
            assert!(
                poll_once(socket.recv(&mut buf)).await.is_none(),
                "not blocking"
            );
            socket.send_to(b"x", &addr).await.unwrap();
            assert_eq!(socket.recv_from(&mut buf).await.unwrap(), (1, addr));
            socket
        };
        socket = works(socket).await;
        socket = works(
            std::net::UdpSocket::try_from(socket)
                .unwrap()
                .try_into()
                .unwrap(),
        )
        .await;
        socket = works(
            socket2::Socket::try_from(socket)
                .unwrap()
                .try_into()
                .unwrap(),
        )
        .await;
        #[cfg(unix)]
        {
            let fd = std::os::fd::OwnedFd::try_from(socket).unwrap();
            socket = works(fd.try_into().unwrap()).await;
        }
        #[cfg(feature = "async-io")]
        {
            let theirs = async_io::Async::<std::net::UdpSocket>::try_from(socket).unwrap();
            let ip = addr.as_ip().unwrap();
            theirs.send_to(b"theirs", ip).await.unwrap();
            assert_eq!(theirs.recv_from(&mut [0; 8]).await.unwrap(), (6, ip));
            socket = works(theirs.try_into().unwrap()).await;
        }
        drop(socket);
    });
}

#[test]
fn sockets_of_another_kind_are_refused() {
    let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = UdpSocket::try_from(socket2::Socket::from(stream)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("stream"), "{error}");
    #[cfg(unix)]
    {
        let unix = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let error = UdpSocket::try_from(std::os::fd::OwnedFd::from(unix)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(UdpSocket::try_from(std::os::fd::OwnedFd::from(file)).is_err());
    }
}
