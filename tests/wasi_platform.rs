//! What is other in a component: options that the host does not have, a runtime that nothing can
//! wake, sockets from one runtime to the next, pollables of the user's own, standard input and
//! output.
#![cfg(target_os = "wasi")]

mod common;

use std::fmt::Debug;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::stream::{Log as StreamLog, Recorder as StreamRecorder};
use common::{block_on_within, local_v4, own_v4, recording, refusal, std_udp, Log};
#[cfg(not(feature = "wasi-p3"))]
use common::{echoing, ip, to};
use coracle::net::{Ecn, Interface, SendBatch, SendMeta, TcpListener, TcpStream, UdpSocket};
use coracle::time::{sleep, timeout};
#[cfg(not(feature = "wasi-p3"))]
use coracle::wasi::AsyncPollable;
use coracle::wasi::{stderr, stdin, stdout};
use coracle::{
    block_on, connect_accepted_socket, create_connection, create_server, spawn, try_block_on,
    yield_now, AcceptedOptions, DatagramOptions, TcpOptions, TcpServerOptions,
};
use futures_lite::future::{or, poll_once, zip};
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
#[cfg(not(feature = "wasi-p3"))]
use wasip2::clocks::monotonic_clock::subscribe_duration;
#[cfg(not(feature = "wasi-p3"))]
use wasip2::sockets::instance_network::instance_network;
#[cfg(not(feature = "wasi-p3"))]
use wasip2::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
#[cfg(not(feature = "wasi-p3"))]
use wasip2::sockets::udp_create_socket::create_udp_socket;

const VERSION: &str = match cfg!(feature = "wasi-p3") {
    true => "WASI 0.3",
    false => "WASI 0.2",
};

/// The option cannot be had, and the error names it and the platform.
#[track_caller]
fn assert_unsupported<T: Debug>(result: io::Result<T>, option: &str) {
    let error = result.expect_err(option);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{option}: {error}");
    let text = error.to_string();
    assert!(
        text.contains(option) && text.contains(VERSION),
        "{option}: {text}"
    );
}

#[test]
fn options_of_datagram_endpoints_that_the_host_lacks_are_named() {
    block_on_within(async {
        let lacking = |option: &'static str, options| async move {
            assert_unsupported::<()>(Err(refusal(options).await), option);
        };
        lacking("reuse_port", local_v4().reuse_port(true)).await;
        lacking("allow_broadcast", local_v4().allow_broadcast(true)).await;
        lacking("sock", DatagramOptions::new().sock(std_udp())).await;
        lacking("proto", local_v4().proto(136)).await;
        let domain = DatagramOptions::new().local_addr("localhost:domain");
        lacking("name of a service", domain).await;
    });
}

#[test]
fn options_of_connections_and_servers_that_the_host_lacks_are_named() {
    block_on_within(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = || std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let recorder = || StreamRecorder::new(&StreamLog::new());
        let options = TcpOptions::new().sock(stream());
        let made = create_connection(recorder, options).await;
        assert_unsupported(made.map(|_| ()), "sock");
        let made = connect_accepted_socket(recorder, stream(), AcceptedOptions::new()).await;
        assert_unsupported(made.map(|_| ()), "sock");

        let local = || TcpServerOptions::new().local_addr("127.0.0.1:0");
        for (option, options) in [
            ("reuse_port", local().reuse_port(true)),
            ("reuse_address", local().reuse_address(false)),
            ("sock", TcpServerOptions::new().sock(listener)),
        ] {
            let made = create_server(recorder, options).await;
            assert_unsupported(made.map(|_| ()), option);
        }
        // What the host has anyway may be asked for.
        create_server(recorder, local().reuse_address(true))
            .await
            .unwrap();
    });
}

#[test]
fn what_a_socket_can_do_is_told_as_it_is() {
    block_on_within(async {
        let caps = UdpSocket::bind("127.0.0.1:0").await.unwrap().caps();
        // On 0.3 the host takes and gives datagrams one by one.
        assert_eq!(caps.batches, cfg!(not(feature = "wasi-p3")));
        assert_eq!(caps.max_segments, 1);
        assert!(!caps.receive_offload && !caps.destination && !caps.ecn);
    });
}

#[test]
fn options_of_sockets_that_the_host_lacks_are_named() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        assert_unsupported(socket.set_reuse_port(true), "reuse_port");
        assert_unsupported(socket.set_broadcast(true), "broadcast");
        assert!(!socket.broadcast().unwrap() && !socket.reuse_port().unwrap());
        assert_unsupported(socket.set_multicast_loop(true), "multicast_loop");
        assert_unsupported(socket.multicast_ttl(), "multicast_ttl");
        let group = [224, 0, 0, 251];
        assert_unsupported(socket.join_multicast(group, Interface::Any), "multicast");
        assert_unsupported(socket.leave_multicast(group, Interface::Any), "multicast");
        let any = socket.set_multicast_interface(Interface::Any);
        assert_unsupported(any, "multicast_interface");
        assert_unsupported(socket.set_receive_ecn(true), "ecn");
        assert_unsupported(socket.set_receive_destination(true), "destination");
        let to = socket.local_addr().unwrap();
        for (option, meta) in [
            ("ecn", SendMeta::default().with_ecn(Ecn::Capable0)),
            (
                "source",
                SendMeta::default().with_source([127, 0, 0, 1].into()),
            ),
        ] {
            let mut batch = SendBatch::new();
            batch.push_with(b"x", Some(&to), meta);
            assert_unsupported(socket.send_batch(&mut batch).await, option);
        }
        assert_unsupported(coracle::net::Socket::try_from(socket), "socket");

        let six = UdpSocket::bind("[::1]:0").await.unwrap();
        assert!(six.only_v6().unwrap());
        six.set_only_v6(true).unwrap();
        assert_unsupported(six.set_only_v6(false), "only_v6");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        assert_unsupported(stream.nodelay(), "nodelay");
        assert_unsupported(stream.set_nodelay(true), "nodelay");
        assert_unsupported(stream.linger(), "linger");
        assert_unsupported(stream.set_linger(Some(Duration::ZERO)), "linger");
    });
}

#[test]
fn a_runtime_that_nothing_can_wake_says_so() {
    let socket = block_on(UdpSocket::bind("127.0.0.1:0")).unwrap();
    let kept = Rc::new(());
    for way in 0..4 {
        let guard = kept.clone();
        let error = try_block_on(async {
            match way {
                0 => pending().await,
                // Tasks that wait for each other do not help.
                1 => {
                    let task = spawn(async move {
                        pending::<()>().await;
                        drop(guard);
                    });
                    task.await;
                }
                // Nor does what was waited for and no longer is.
                2 => {
                    #[cfg(not(feature = "wasi-p3"))]
                    {
                        let timer = AsyncPollable::new(subscribe_duration(1_000_000_000));
                        assert!(poll_once(timer.ready()).await.is_none());
                    }
                    assert!(timeout(Duration::ZERO, pending::<()>()).await.is_err());
                    pending().await
                }
                _ => {
                    let pair = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                    assert!(poll_once(pair.recv(&mut [0; 8])).await.is_none());
                    drop(pair);
                    pending::<()>().await;
                }
            }
        });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("nothing can ever wake"), "{way}: {text}");
        assert_eq!(Rc::strong_count(&kept), 1, "{way}");
        // The thread is free again.
        block_on_within(async {
            socket
                .send_to(b"x", &socket.local_addr().unwrap())
                .await
                .unwrap();
            socket.recv(&mut [0; 8]).await.unwrap();
        });
    }
}

#[test]
fn what_only_a_timer_or_a_socket_can_wake_is_waited_for() {
    let start = Instant::now();
    try_block_on(sleep(Duration::from_millis(20))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
    try_block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let task = spawn(async move { socket.recv(&mut [0; 8]).await.unwrap() });
        yield_now().await;
        std_udp().send_to(b"wake", addr.as_ip().unwrap()).unwrap();
        assert_eq!(task.await, 4);
    })
    .unwrap();
}

#[test]
fn sockets_that_were_waited_for_go_on_in_the_next_runtime() {
    let udp = Rc::new(block_on(UdpSocket::bind("127.0.0.1:0")).unwrap());
    let listener = Rc::new(block_on(TcpListener::bind("127.0.0.1:0")).unwrap());
    let addr = listener.local_addr().unwrap();
    let (client, accepted) = block_on_within(async {
        let (client, accepted) = zip(TcpStream::connect(addr), listener.accept()).await;
        (Rc::new(client.unwrap()), Rc::new(accepted.unwrap().0))
    });
    for round in 0..5 {
        block_on_within(async {
            let wait = || {
                let (udp, client, listener) = (udp.clone(), client.clone(), listener.clone());
                let received = async move { udp.recv(&mut [0; 8]).await.unwrap() };
                let read = async move { client.read(&mut [0; 8]).await.unwrap() };
                let accepted = async move { listener.accept().await.unwrap() };
                (spawn(received), spawn(read), spawn(accepted))
            };
            let tasks = wait();
            // In every other round the runtime ends while they wait, as they are or after the
            // host was asked.
            if round % 2 == 0 {
                sleep(Duration::from_millis(round)).await;
                tasks.0.detach();
                tasks.1.detach();
                tasks.2.detach();
                return;
            }
            yield_now().await;
            udp.send_to(b"ping", &udp.local_addr().unwrap())
                .await
                .unwrap();
            accepted.write_all(b"ping").await.unwrap();
            let _third = TcpStream::connect(addr).await.unwrap();
            assert_eq!((tasks.0.await, tasks.1.await), (4, 4));
            tasks.2.await;
        });
    }
}

#[test]
fn an_endpoint_ends_with_its_runtime_and_says_so_in_the_next() {
    let log = Log::new();
    let (transport, handle) = block_on_within(recording(&log, own_v4()));
    block_on_within(async {
        let error = transport.closed().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let error = transport.send_to(b"x", &local_addr()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        drop(handle);
        // Another takes the port.
        UdpSocket::bind(transport.local_addr().unwrap())
            .await
            .unwrap();
    });
}

fn local_addr() -> coracle::Address {
    "127.0.0.1:9".parse().unwrap()
}

#[cfg(not(feature = "wasi-p3"))]
#[test]
fn a_pollable_of_the_users_own_is_waited_for_beside_sockets() {
    block_on_within(async {
        let echo = echoing(local_v4()).await;
        let log = Log::new();
        let (client, _) = recording(&log, to(ip(&echo))).await;
        // A socket is served while a pollable is waited for,
        let never = AsyncPollable::new(subscribe_duration(3_600_000_000_000));
        let waiting = async {
            never.ready().await.unwrap();
            panic!("an hour has passed");
        };
        let exchange = async {
            client.send(b"meanwhile").unwrap();
            log.until_received(1).await;
        };
        or(waiting, exchange).await;
        // and a pollable while a socket is.
        let idle = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let waiting = async {
            idle.recv(&mut [0; 8]).await.unwrap();
            panic!("nobody knows of it");
        };
        let timer = AsyncPollable::new(subscribe_duration(20_000_000));
        or(waiting, async {
            timer.ready().await.unwrap();
            // It stays ready, as often as it is asked.
            timer.ready().await.unwrap();
        })
        .await;
        assert!(timer.into_inner().unwrap().ready());
    });
}

#[cfg(not(feature = "wasi-p3"))]
#[test]
fn a_pollable_of_a_resource_of_the_users_own_wakes_all_who_wait_for_it() {
    block_on_within(async {
        let socket = create_udp_socket(IpAddressFamily::Ipv4).unwrap();
        let local = Ipv4SocketAddress {
            port: 0,
            address: (127, 0, 0, 1),
        };
        let network = instance_network();
        socket
            .start_bind(&network, IpSocketAddress::Ipv4(local))
            .unwrap();
        socket.finish_bind().unwrap();
        let (incoming, _outgoing) = socket.stream(None).unwrap();
        let Ok(IpSocketAddress::Ipv4(addr)) = socket.local_address() else {
            panic!("it was bound to IPv4");
        };
        let pollable = Rc::new(AsyncPollable::new(incoming.subscribe()));
        // Given up at first, with the host asked and not.
        assert!(poll_once(pollable.ready()).await.is_none());
        assert!(timeout(Duration::from_millis(2), pollable.ready())
            .await
            .is_err());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let pollable = pollable.clone();
                spawn(async move { pollable.ready().await.unwrap() })
            })
            .collect();
        yield_now().await;
        assert!(incoming.receive(8).unwrap().is_empty());
        std_udp()
            .send_to(b"here", ("127.0.0.1", addr.port))
            .unwrap();
        for waiter in waiters {
            waiter.await;
        }
        assert_eq!(incoming.receive(8).unwrap()[0].data, b"here");
        // Before its resource goes.
        drop(pollable);
    });
}

#[cfg(not(feature = "wasi-p3"))]
#[test]
fn a_pollable_outside_a_runtime_is_an_error_and_goes_on_inside() {
    let pollable = AsyncPollable::new(subscribe_duration(1_000_000));
    let error = futures_lite::future::block_on(pollable.ready()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("coracle::block_on"), "{error}");
    for _ in 0..2 {
        block_on_within(pollable.ready()).unwrap();
    }
}

/// Set by tests/wasi_host.rs, which writes this to standard input, bit by bit: one at a turn that
/// it is told of.
const INPUT: &str = "CORACLE_TEST_INPUT";

#[test]
fn standard_input_is_read_to_its_end_while_the_rest_goes_on() {
    block_on(async {
        let mut input = stdin();
        let mut buf = [0; 64];
        // Whoever gives it up loses nothing.
        let mut got = Vec::new();
        for limit in 0..5 {
            let reading = timeout(Duration::from_millis(limit), input.read(&mut buf)).await;
            got.extend_from_slice(&buf[..reading.map_or(0, Result::unwrap)]);
        }
        let Ok(wanted) = std::env::var(INPUT) else {
            // Whatever it is here, nothing hangs.
            return;
        };
        let reading = async {
            input.read_to_end(&mut got).await.unwrap();
            assert_eq!(input.read(&mut buf).await.unwrap(), 0, "the end stays");
        };
        let turns = async {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let addr = socket.local_addr().unwrap();
            loop {
                socket.send_to(b"x", &addr).await.unwrap();
                socket.recv(&mut [0; 8]).await.unwrap();
                println!("turn");
                sleep(Duration::from_millis(1)).await;
            }
        };
        or(reading, turns).await;
        assert_eq!(String::from_utf8(got).unwrap(), wanted);
    });
}

#[test]
fn standard_output_and_error_are_written_to_the_end() {
    block_on_within(async {
        let line = [b"all of it, and in order ".repeat(20), b"\n".to_vec()].concat();
        let mut output = stdout();
        for _ in 0..200 {
            output.write_all(&line).await.unwrap();
        }
        output.flush().await.unwrap();
        // A write or a flush may be given up, and the next one goes on.
        for mut output in [stdout(), stderr()] {
            let _ = poll_once(output.write(b"one\n")).await;
            let _ = poll_once(output.flush()).await;
            output.write_all(b"two\n").await.unwrap();
            output.close().await.unwrap();
        }
    });
}
