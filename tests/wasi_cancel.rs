//! Every await of endpoints and sockets in a component, given up at every point where it waits:
//! a host ends the program where something is dropped in the wrong order.
#![cfg(target_os = "wasi")]

mod common;
#[path = "common/giving_up.rs"]
mod giving_up;

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::io::{ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use common::stream::{Log as StreamLog, Recorder as StreamRecorder};
use common::{block_on_within, local_v4, settle, to, Log, Recorder};
use coracle::net::{resolve, Family, RecvBatch, SendBatch, TcpListener, TcpStream, UdpSocket};
use coracle::time::{interval, sleep, timeout};
#[cfg(not(feature = "wasi-p3"))]
use coracle::wasi::AsyncPollable;
use coracle::wasi::{stdin, stdout};
use coracle::{
    create_connection, create_datagram_endpoint, create_server, spawn, yield_now, Address,
    TcpOptions, TcpServerOptions,
};
use futures_lite::future::{or, zip};
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use futures_lite::StreamExt;
use giving_up::give_up_when_woken;
#[cfg(not(feature = "wasi-p3"))]
use wasip2::clocks::monotonic_clock::subscribe_duration;

/// Gives the work up after its first, second, third poll and so on, until it ends before that:
/// dropped while the runtime goes on, at once and late, and dropped by the end of the runtime.
/// There must be as many such points as `least`.
fn give_up_everywhere<F: Future<Output = ()> + 'static>(least: usize, work: impl Fn() -> F) {
    for late in [false, true] {
        let mut points = 0;
        while !block_on_within(async {
            let ended = give_up_when_woken((points, late), work()).await.is_some();
            settle().await;

            ended
        }) {
            points += 1;
        }
        assert!(points >= least, "only {points} points, late: {late}");
    }
    let mut points = 0;
    while !runtime_ends_after(points, work()) {
        block_on_within(settle());
        points += 1;
    }
    assert!(points >= least, "only {points} points");
}

/// Runs the work as a task, and ends the runtime after so many of its polls; true if it has ended
/// before.
fn runtime_ends_after(polls: usize, work: impl Future<Output = ()> + 'static) -> bool {
    let polled = Rc::new(Cell::new(0));
    let ended = Rc::new(Cell::new(false));
    let root = Rc::new(RefCell::new(None::<Waker>));
    let state = (polled.clone(), ended.clone(), root.clone());
    block_on_within(async {
        let task = async move {
            let mut work = pin!(work);
            poll_fn(|cx| {
                let (polled, ended, root) = &state;
                let poll = work.as_mut().poll(cx);
                polled.set(polled.get() + 1);
                ended.set(poll.is_ready());
                root.take().into_iter().for_each(Waker::wake);
                poll
            })
            .await;
        };
        spawn(task).detach();
        poll_fn(|cx| {
            *root.borrow_mut() = Some(cx.waker().clone());
            match ended.get() || polled.get() >= polls {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    });
    ended.get()
}

/// Waits in earnest before it does something, so that the other side has to wait.
async fn later<T>(action: impl Future<Output = T>) -> T {
    sleep(Duration::from_millis(1)).await;
    action.await
}

fn port(addr: &Address) -> u16 {
    addr.as_ip().unwrap().port()
}

#[test]
fn datagram_sockets() {
    give_up_everywhere(9, || async {
        let one = UdpSocket::bind("localhost:0").await.unwrap();
        let addr = one.local_addr().unwrap();
        let two = UdpSocket::unbound(Family::Inet).await.unwrap();
        two.bind_to(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut buf = [0; 8];
        let (sent, got) = zip(later(two.send_to(b"1", &addr)), one.recv_from(&mut buf)).await;
        assert_eq!(
            (sent.unwrap(), got.unwrap().1),
            (1, two.local_addr().unwrap())
        );
        two.connect(("localhost", port(&addr))).await.unwrap();

        let (sent, got) = zip(later(two.send(b"2")), one.peek_from(&mut buf)).await;
        assert_eq!((sent.unwrap(), got.unwrap().0), (1, 1));
        assert_eq!(one.recv(&mut buf).await.unwrap(), 1);

        let mut batch = SendBatch::new();
        let mut into = RecvBatch::with_capacity(4, 16);
        (0..4).for_each(|_| batch.push_connected(b"3"));
        let (sent, got) = zip(later(two.send_batch(&mut batch)), one.recv_batch(&mut into)).await;
        assert_eq!(sent.unwrap(), 4);
        let mut received = got.unwrap();
        while received < 4 {
            received += one.recv_batch(&mut into).await.unwrap();
        }

        two.writable().await.unwrap();
        let (sent, got) = zip(later(two.send(b"4")), one.readable()).await;
        assert_eq!((sent.unwrap(), got.unwrap()), (1, ()));
        one.recv(&mut buf).await.unwrap();

        // Two who wait for the same socket, and a connect under way between them.
        let receives = zip(one.recv(&mut buf), two.readable());
        let send = later(async {
            two.connect(addr).await.unwrap();
            one.send_to(b"5", &two.local_addr().unwrap()).await.unwrap();
            two.send(b"6").await
        });
        let (sent, (got, readable)) = zip(send, receives).await;
        assert_eq!((sent.unwrap(), got.unwrap(), readable.unwrap()), (1, 1, ()));
    });
}

#[test]
fn streams() {
    give_up_everywhere(14, || async {
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (one, accepted) = zip(later(TcpStream::connect(addr)), listener.accept()).await;
        let (one, (two, _)) = (one.unwrap(), accepted.unwrap());
        let mut buf = [0; 8];
        let (sent, got) = zip(later(one.write_all(b"abcd")), two.peek(&mut buf)).await;
        assert_eq!((sent.unwrap(), got.unwrap()), ((), 4));
        assert_eq!(two.read(&mut buf).await.unwrap(), 4);

        two.writable().await.unwrap();
        let bufs = [IoSlice::new(b"ef"), IoSlice::new(b"gh")];
        let (sent, got) = zip(later(two.write_vectored(&bufs)), one.readable()).await;
        assert_eq!((sent.unwrap(), got.unwrap()), (4, ()));
        assert_eq!(one.read(&mut buf).await.unwrap(), 4);

        // More than the host takes at once.
        one.set_send_buffer_size(10_000).unwrap();
        let many = vec![7; 400_000];
        let reading = async {
            let (mut two, mut rest) = (two, Vec::new());
            two.read_to_end(&mut rest).await.unwrap();
            (rest.len(), two)
        };
        let writing = async {
            one.write_all(&many).await.unwrap();
            one.shutdown(Shutdown::Write).unwrap();
        };
        let ((), (got, two)) = zip(writing, later(reading)).await;
        assert_eq!(got, many.len());

        let (mut reader, mut writer) = two.into_split();
        let (sent, got) = zip(later(writer.write_all(b"ij")), one.read(&mut buf)).await;
        assert_eq!((sent.unwrap(), got.unwrap()), ((), 2));
        writer.close().await.unwrap();
        assert_eq!(one.read(&mut buf).await.unwrap(), 0);
        assert_eq!(reader.read(&mut buf).await.unwrap(), 0);

        let mut incoming = listener.incoming();
        let (again, next) = zip(later(TcpStream::connect(addr)), incoming.next()).await;
        assert!(again.is_ok() && next.unwrap().is_ok());
        drop(listener);
        let error = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn datagram_endpoints() {
    give_up_everywhere(5, || async {
        let log = Log::new();
        let echo = |transport: &coracle::DatagramTransport, event: &common::Event| {
            if let common::Event::Received(data, from) = event {
                transport.send_to(data, from).unwrap();
            }
        };
        let server = create_datagram_endpoint(|| Recorder::reacting(&Log::new(), echo), local_v4());
        let (server, handle) = server.await.unwrap();
        let addr = ("localhost", port(&server.local_addr().unwrap()));
        let options = to("127.0.0.1:9".parse().unwrap()).remote_addr(addr);
        let client = create_datagram_endpoint(|| Recorder::new(&log), options);
        let (client, _) = client.await.unwrap();
        // Room and peer, some of it queued.
        for _ in 0..40 {
            client.send(&[7; 1_000]).unwrap();
        }
        log.until_received(1).await;
        client.drain().await.unwrap();
        client.close();
        client.closed().await.unwrap();
        server.abort();
        let (_protocol, outcome) = handle.lost().await;
        outcome.unwrap();
    });
}

#[test]
fn connections_and_servers() {
    give_up_everywhere(8, || async {
        let options = TcpServerOptions::new()
            .local_addr("localhost:0")
            .start_serving(false);
        let echo = || StreamRecorder::echoing(&StreamLog::new());
        let server = create_server(echo, options).await.unwrap();
        server.start_serving().await.unwrap();
        let port = port(&server.local_addrs()[0]);
        let serving = spawn({
            let server = server.clone();
            async move { server.serve_forever().await }
        });
        let log = StreamLog::new();
        let options = TcpOptions::new()
            .remote_addr(("localhost", port))
            .happy_eyeballs_delay(Duration::from_millis(50));
        let made = create_connection(|| StreamRecorder::new(&log), options);
        let (client, handle) = made.await.unwrap();
        let data = vec![7; 400_000];
        let socket = client.tcp_socket().unwrap();
        socket.set_send_buffer_size(10_000).unwrap();
        drop(socket);
        client.write(&data).unwrap();
        client.drain().await.unwrap();
        log.until_len(data.len()).await;
        client.write_eof().unwrap();
        let (_protocol, outcome) = handle.lost().await;
        outcome.unwrap();
        client.closed().await.unwrap();

        // One that is not done when the server closes.
        let options = TcpOptions::new().remote_addr(server.local_addrs()[0]);
        let made = create_connection(|| StreamRecorder::new(&StreamLog::new()), options);
        let (idle, _) = made.await.unwrap();
        while server.connections() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        serving.cancel().await;
        server.wait_closed().await;
        idle.closed().await.unwrap();
    });
}

#[test]
fn names_and_time() {
    give_up_everywhere(6, || async {
        assert!(!resolve("localhost:80").await.unwrap().is_empty());
        assert!(resolve("no.such.name.invalid:80").await.is_err());
        sleep(Duration::from_millis(1)).await;
        let mut ticks = interval(Duration::from_millis(1));
        ticks.tick().await;
        ticks.tick().await;
        let never = std::future::pending::<()>();
        assert!(timeout(Duration::from_millis(1), never).await.is_err());
        yield_now().await;
        let task = spawn(sleep(Duration::from_secs(100)));
        yield_now().await;
        assert_eq!(task.cancel().await, None);
    });
}

#[test]
fn pollables_and_standard_streams() {
    // On 0.3 there are no pollables, and output is taken at once.
    let least = if cfg!(feature = "wasi-p3") { 1 } else { 2 };
    give_up_everywhere(least, || async {
        #[cfg(not(feature = "wasi-p3"))]
        {
            let timer = AsyncPollable::new(subscribe_duration(1_000_000));
            timer.ready().await.unwrap();
            timer.ready().await.unwrap();
        }
        let mut output = stdout();
        output.write_all(&[b'.'; 200_000]).await.unwrap();
        output.write_all(b"\n").await.unwrap();
        output.flush().await.unwrap();
        let mut input = stdin();
        let read = async { input.read(&mut [0; 8]).await.map(|_| ()) };
        let limit = async {
            sleep(Duration::from_millis(1)).await;
            Ok(())
        };
        or(read, limit).await.unwrap();
    });
}
