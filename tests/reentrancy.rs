//! Wakers, protocols and errors of the user's run where no lock is held: they may call anything.

mod common;

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use common::nosy::{self, Look};
use common::pairs::{make_with_driver, over_each, Ours, Peer, LARGE};
#[cfg(not(target_os = "wasi"))]
use common::panics;
use common::{block_on_within, close, local_v4, std_udp, within};
use coracle::net::{SendBatch, TcpListener, TcpStream, UdpSocket};
use coracle::{
    create_datagram_endpoint, create_datagram_endpoint_with_driver, create_server, on_data,
    Address, DatagramProtocol, DatagramTransport, Protocol, Server, TcpServerOptions, Transport,
};

/// Counts its looks, so that a test can tell that there were some.
fn counted(looks: &Arc<AtomicUsize>, f: impl Fn() + Send + Sync + 'static) -> Look {
    let looks = looks.clone();
    Arc::new(move || {
        looks.fetch_add(1, Ordering::Relaxed);
        f();
    })
}

/// Calls whatever can be called of a connection that changes nothing for the test.
fn touch(transport: &Transport) {
    let _ = transport.is_closing();
    let _ = transport.is_reading();
    let _ = transport.can_write_eof();
    let _ = transport.write(b"");
    let _ = transport.writelines(&[IoSlice::new(b""), IoSlice::new(b"")]);
    let _ = transport.write_buffer_size();
    let (low, high) = transport.write_buffer_limits();
    let _ = transport.set_write_buffer_limits(Some(high), Some(low));
    transport.resume_reading();
    let _ = transport.local_addr();
    let _ = transport.peer_addr();
    let _ = transport.dropped();
    let _ = transport.tcp_socket();
    #[cfg(unix)]
    let _ = transport.unix_socket();
    #[cfg(feature = "tls")]
    let _ = transport.tls_info();
    let _ = format!("{transport:?}");
    let idle: Look = Arc::new(|| {});
    let _ = nosy::poll_once(&idle, Waker::noop(), transport.closed());
    let _ = nosy::poll_once(&idle, Waker::noop(), transport.drain());
}

/// The same of a datagram endpoint.
fn touch_datagrams(transport: &DatagramTransport) {
    let _ = transport.is_closing();
    let _ = transport.is_reading();
    let _ = transport.send(b"");
    let _ = transport.write_buffer_size();
    let (low, high) = transport.write_buffer_limits();
    let _ = transport.set_write_buffer_limits(Some(high), Some(low));
    transport.resume_reading();
    let _ = transport.local_addr();
    let _ = transport.peer_addr();
    let _ = transport.dropped();
    let _ = transport.udp_socket();
    #[cfg(unix)]
    let _ = transport.unix_socket();
    let _ = format!("{transport:?}");
    let idle: Look = Arc::new(|| {});
    let _ = nosy::poll_once(&idle, Waker::noop(), transport.closed());
    let _ = nosy::poll_once(&idle, Waker::noop(), transport.drain());
}

/// The same of a server.
fn touch_server(server: &Server) {
    let _ = server.is_serving();
    let _ = server.sockets();
    let _ = server.local_addrs();
    let _ = server.connections();
    let _ = server.accept_errors();
    let _ = server.last_accept_error();
    let _ = format!("{server:?}");
    let idle: Look = Arc::new(|| {});
    let _ = nosy::poll_once(&idle, Waker::noop(), server.wait_closed());
    let _ = nosy::poll_once(&idle, Waker::noop(), server.start_serving());
}

/// A protocol that calls its transport's methods in every callback, and when it is dropped.
struct Restless {
    transport: Arc<OnceLock<Transport>>,
    looks: Arc<AtomicUsize>,
    echo: bool,
}

impl Restless {
    fn look(&self) {
        if let Some(transport) = self.transport.get() {
            self.looks.fetch_add(1, Ordering::Relaxed);
            touch(transport);
        }
    }
}

impl Protocol for Restless {
    fn connection_made(&mut self, transport: &Transport) {
        let _ = self.transport.set(transport.clone());
        self.look();
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        self.look();
        match self.echo {
            true => transport.write(data),
            false => Ok(()),
        }
    }

    fn eof_received(&mut self, _: &Transport) -> io::Result<bool> {
        self.look();
        Ok(false)
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.look();
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.look();
    }

    fn connection_lost(&mut self, _: &Transport, _: Option<&io::Error>) {
        self.look();
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        self.look();
        if let Some(transport) = self.transport.get() {
            transport.close();
        }
    }
}

#[test]
fn a_connection_can_be_touched_from_every_waker_and_callback() {
    over_each(async |ours: Ours, peer: Peer| {
        let looks = Arc::new(AtomicUsize::new(0));
        let transport = Arc::new(OnceLock::new());
        let restless = Restless {
            transport: transport.clone(),
            looks: looks.clone(),
            echo: true,
        };
        let (made, handle, driver) = make_with_driver(|| restless, ours).await.unwrap();
        let seen = made.clone();
        let of_wakers = Arc::new(AtomicUsize::new(0));
        let look = counted(&of_wakers, move || touch(&seen));
        let driver = {
            let look = look.clone();
            coracle::spawn(async move { nosy::polled(&look, driver).await })
        };
        let closed = {
            let (look, made) = (look.clone(), made.clone());
            coracle::spawn(async move { nosy::polled(&look, made.closed()).await })
        };
        let lost = {
            let look = look.clone();
            coracle::spawn(async move { nosy::polled(&look, handle.lost()).await.1 })
        };
        // More than goes at once, so that it pauses, drains and resumes.
        let sending = coracle::spawn(peer.sending(vec![7; LARGE]));
        let received = peer.read(LARGE).await;
        assert!(received.iter().all(|byte| *byte == 7));
        within(sending).await;
        let _ = nosy::polled(&look, within(made.drain())).await;
        within(closed).await.unwrap();
        within(lost).await.unwrap();
        within(driver).await;
        assert!(of_wakers.load(Ordering::Relaxed) > 10, "the wakers looked");
        assert!(looks.load(Ordering::Relaxed) > 4, "and so did the protocol");
        assert!(made.is_closing());
    });
}

#[test]
fn successors_that_are_replaced_may_close_the_transport_as_they_go() {
    over_each(async |ours: Ours, _peer: Peer| {
        let (transport, _, driver) = make_with_driver(|| on_data(|_, _| Ok(())), ours)
            .await
            .unwrap();
        let driver = coracle::spawn(driver);
        let looks = Arc::new(AtomicUsize::new(0));
        let cell = Arc::new(OnceLock::from(transport.clone()));
        for _ in 0..3 {
            let _ = transport.set_protocol(Restless {
                transport: cell.clone(),
                looks: looks.clone(),
                echo: false,
            });
        }
        assert!(looks.load(Ordering::Relaxed) >= 2, "two were replaced");
        assert!(transport.is_closing(), "by the first that was dropped");
        within(transport.closed()).await.unwrap();
        within(driver).await;
    });
}

/// An error that looks at a transport whenever it is shown, and when it is dropped.
struct Nosy(Transport);

impl Nosy {
    fn look(&self) {
        let transport = self.0.clone();
        let look: Look = Arc::new(move || touch(&transport));
        nosy::look(&look);
    }
}

impl fmt::Debug for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.look();
        f.write_str("Nosy")
    }
}

impl fmt::Display for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.look();
        f.write_str("an error of the protocol's own")
    }
}

impl std::error::Error for Nosy {}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.look();
    }
}

#[test]
fn errors_of_protocols_may_look_at_the_transport() {
    over_each(async |ours: Ours, peer: Peer| {
        let failing = || {
            on_data(|transport: &Transport, _: &[u8]| {
                let first = io::Error::other(Nosy(transport.clone()));
                // The second comes too late to be the reason.
                transport.abort();
                Err(first)
            })
        };
        let (transport, _, driver) = make_with_driver(failing, ours).await.unwrap();
        let driver = coracle::spawn(driver);
        peer.write(b"go");
        let _ = within(transport.closed()).await;
        within(driver).await;
    });
    over_each(async |ours: Ours, peer: Peer| {
        let failing = || {
            on_data(|transport: &Transport, _: &[u8]| {
                Err(io::Error::other(Nosy(transport.clone())))
            })
        };
        let (transport, _, driver) = make_with_driver(failing, ours).await.unwrap();
        let driver = coracle::spawn(driver);
        peer.write(b"go");
        let error = within(transport.closed()).await.unwrap_err();
        assert_eq!(error.to_string(), "an error of the protocol's own");
        within(driver).await;
    });
}

/// Polls a future inside `wake`.
struct Inline<F: Future> {
    future: Mutex<Option<Pin<Box<F>>>>,
    /// It was woken while it was being polled.
    again: AtomicBool,
}

impl<F: Future + Send + 'static> Inline<F> {
    fn new(future: F) -> Arc<Inline<F>> {
        Arc::new(Inline {
            future: Mutex::new(Some(Box::pin(future))),
            again: AtomicBool::new(false),
        })
    }

    fn poll(self: &Arc<Self>) {
        self.again.store(true, Ordering::Relaxed);
        while self.again.swap(false, Ordering::Relaxed) {
            let Some(mut future) = self.future.lock().unwrap().take() else {
                self.again.store(true, Ordering::Relaxed);
                return;
            };
            let waker = Waker::from(self.clone());
            let mut cx = Context::from_waker(&waker);
            if future.as_mut().poll(&mut cx).is_ready() {
                return;
            }
            *self.future.lock().unwrap() = Some(future);
        }
    }

    fn is_done(&self) -> bool {
        self.future.lock().unwrap().is_none()
    }
}

impl<F: Future + Send + 'static> Wake for Inline<F> {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

#[test]
fn wakers_may_poll_at_once() {
    over_each(async |ours: Ours, peer: Peer| {
        let (transport, handle, driver) =
            make_with_driver(|| on_data(|transport, data| transport.write(data)), ours)
                .await
                .unwrap();
        let driver = Inline::new(driver);
        driver.poll();
        let closed = {
            let transport = transport.clone();
            Inline::new(async move { transport.closed().await.unwrap() })
        };
        closed.poll();
        peer.write(b"there and");
        assert_eq!(peer.read(9).await, b"there and");
        // The driver is woken, and polled, inside of its own protocol.
        handle.with(|_| transport.write(&vec![1; LARGE]).unwrap());
        let reading = coracle::spawn(async move { peer.read(LARGE).await });
        assert_eq!(within(reading).await.len(), LARGE);
        handle.with(|_| transport.close());
        within(transport.closed()).await.unwrap();
        assert!(driver.is_done(), "it was called again after `with`");
        assert!(closed.is_done(), "polled by the driver as it ended");
    });
}

struct Touched(Arc<AtomicUsize>);

impl Touched {
    fn look(&self, transport: &DatagramTransport) {
        self.0.fetch_add(1, Ordering::Relaxed);
        touch_datagrams(transport);
    }
}

impl DatagramProtocol for Touched {
    fn connection_made(&mut self, transport: &DatagramTransport) {
        self.look(transport);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
        self.look(transport);
        let _ = transport.send_to(data, from);
        if data == b"too large" {
            let _ = transport.send_to(&[0; 70_000], from);
        }
    }

    fn error_received(&mut self, transport: &DatagramTransport, _: io::Error) {
        self.look(transport);
    }

    fn connection_lost(&mut self, transport: &DatagramTransport, _: Option<&io::Error>) {
        self.look(transport);
    }
}

#[test]
fn a_datagram_endpoint_can_be_touched_from_every_waker_and_callback() {
    block_on_within(async {
        let looks = Arc::new(AtomicUsize::new(0));
        let protocol = || Touched(looks.clone());
        let (transport, handle, driver) =
            create_datagram_endpoint_with_driver(protocol, local_v4())
                .await
                .unwrap();
        let of_wakers = Arc::new(AtomicUsize::new(0));
        let seen = transport.clone();
        let look = counted(&of_wakers, move || touch_datagrams(&seen));
        let driver = {
            let look = look.clone();
            coracle::spawn(async move { nosy::polled(&look, driver).await })
        };
        let closed = {
            let (look, transport) = (look.clone(), transport.clone());
            coracle::spawn(async move { nosy::polled(&look, transport.closed()).await })
        };
        let to = transport.local_addr().unwrap().as_ip().unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buf = [0; 16];
        for data in [&b"one"[..], b"two", b"too large", b"four"] {
            peer.send_to(data, &to.into()).await.unwrap();
            let (len, _) = within(peer.recv_from(&mut buf)).await.unwrap();
            assert_eq!(&buf[..len], data);
        }
        handle.with(|_| {
            transport
                .send_to(b"from inside", &peer.local_addr().unwrap())
                .unwrap()
        });
        let (len, _) = within(peer.recv_from(&mut buf)).await.unwrap();
        assert_eq!(&buf[..len], b"from inside");
        transport.close();
        within(closed).await.unwrap();
        within(driver).await;
        assert!(of_wakers.load(Ordering::Relaxed) > 10);
        assert!(
            looks.load(Ordering::Relaxed) >= 6,
            "made, four datagrams, an error, lost"
        );
    });
}

#[test]
fn a_server_can_be_touched_from_every_waker_and_by_its_factory() {
    block_on_within(async {
        let server = Arc::new(OnceLock::<Server>::new());
        let looks = Arc::new(AtomicUsize::new(0));
        let factory = {
            let (server, looks) = (server.clone(), looks.clone());
            move || {
                if let Some(server) = server.get() {
                    looks.fetch_add(1, Ordering::Relaxed);
                    touch_server(server);
                }
                on_data(|transport, data| transport.write(data))
            }
        };
        let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
        let made = create_server(factory, options).await.unwrap();
        server.set(made.clone()).unwrap();
        let seen = made.clone();
        let of_wakers = Arc::new(AtomicUsize::new(0));
        let look = counted(&of_wakers, move || touch_server(&seen));
        let serving = {
            let (look, made) = (look.clone(), made.clone());
            coracle::spawn(async move { nosy::polled(&look, made.serve_forever()).await })
        };
        let waiting = {
            let (look, made) = (look.clone(), made.clone());
            coracle::spawn(async move { nosy::polled(&look, made.wait_closed()).await })
        };
        let stream = TcpStream::connect(made.local_addrs()[0]).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut buf = [0; 5];
        assert_eq!(within(stream.read(&mut buf)).await.unwrap(), 5);
        made.close();
        drop(stream);
        within(waiting).await;
        within(serving).await.unwrap();
        assert!(looks.load(Ordering::Relaxed) > 0);
        assert!(of_wakers.load(Ordering::Relaxed) > 0);
    });
}

#[test]
fn sockets_can_be_touched_from_every_waker() {
    block_on_within(async {
        let udp = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let seen = udp.clone();
        let look = counted(&count, move || {
            let _ = format!("{seen:?}");
            let idle: Look = Arc::new(|| {});
            let _ = nosy::poll_once(&idle, Waker::noop(), seen.peek_from(&mut [0; 8]));
            let _ = nosy::poll_once(&idle, Waker::noop(), seen.readable());
            let _ = nosy::poll_once(&idle, Waker::noop(), seen.writable());
            let _ = nosy::poll_once(&idle, Waker::noop(), seen.send_batch(&mut SendBatch::new()));
        });
        let waiting = {
            let (udp, look) = (udp.clone(), look.clone());
            coracle::spawn(async move { nosy::polled(&look, udp.recv(&mut [0; 8])).await })
        };
        coracle::yield_now().await;
        let to = udp.local_addr().unwrap().as_ip().unwrap();
        std_udp().send_to(b"x", to).unwrap();
        assert_eq!(within(waiting).await.unwrap(), 1);
        assert!(count.load(Ordering::Relaxed) > 1);

        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let seen = listener.clone();
        let look: Look = Arc::new(move || {
            let _ = format!("{seen:?}");
            let idle: Look = Arc::new(|| {});
            let _ = nosy::poll_once(&idle, Waker::noop(), seen.readable());
        });
        let accepting = {
            let (listener, look) = (listener.clone(), look.clone());
            coracle::spawn(async move { nosy::polled(&look, listener.accept()).await })
        };
        coracle::yield_now().await;
        let stream = Arc::new(
            TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap(),
        );
        let (accepted, _) = within(accepting).await.unwrap();
        let seen = stream.clone();
        let look: Look = Arc::new(move || {
            let _ = format!("{seen:?}");
            let idle: Look = Arc::new(|| {});
            let _ = nosy::poll_once(&idle, Waker::noop(), seen.readable());
            let _ = nosy::poll_once(&idle, Waker::noop(), seen.peek(&mut [0; 8]));
            let _ = nosy::poll_once(&idle, Waker::noop(), seen.writable());
        });
        let reading = {
            let (stream, look) = (stream.clone(), look.clone());
            coracle::spawn(async move {
                let mut buf = [0; 8];
                nosy::polled(&look, stream.read(&mut buf))
                    .await
                    .map(|len| buf[..len].to_vec())
            })
        };
        coracle::yield_now().await;
        accepted.write_all(b"hello").await.unwrap();
        assert_eq!(within(reading).await.unwrap(), b"hello");
    });
}

#[test]
fn timers_and_tasks_can_be_touched_from_every_waker() {
    block_on_within(async {
        let count = Arc::new(AtomicUsize::new(0));
        let look = counted(&count, || {
            // Makes, polls, resets and drops timers of the same queue.
            let idle: Look = Arc::new(|| {});
            let mut sleep = coracle::time::sleep(Duration::from_secs(60));
            let _ = nosy::poll_once(&idle, Waker::noop(), &mut sleep);
            sleep.reset(Instant::now() + Duration::from_secs(30));
            let _ = nosy::poll_once(&idle, Waker::noop(), &mut sleep);
        });
        let mut sleep = Box::pin(coracle::time::sleep(Duration::from_secs(60)));
        // The waker is replaced each time, and dropped.
        for _ in 0..3 {
            let _ = nosy::poll_once(&look, Waker::noop(), sleep.as_mut());
        }
        sleep
            .as_mut()
            .reset(Instant::now() + Duration::from_millis(5));
        nosy::polled(&look, sleep).await;
        let _ = nosy::poll_once(
            &look,
            Waker::noop(),
            coracle::time::sleep(Duration::from_secs(60)),
        );
        let task = coracle::spawn(async { coracle::yield_now().await });
        nosy::polled(&look, task).await;
        assert!(count.load(Ordering::Relaxed) > 10);
    });
    // What owns a future is dropped with the runtime's timers and sockets.
    struct Owner(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }
    block_on_within(async {
        let sleeping = || async { coracle::time::sleep(Duration::from_secs(60)).await };
        for _ in 0..3 {
            let owner = Arc::new(Owner(Mutex::new(None)));
            let waker = Waker::from(owner.clone());
            let mut inner: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(sleeping());
            let _ = inner.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            *owner.0.lock().unwrap() = Some(inner);
            drop(owner);
            let mut outer = Box::pin(sleeping());
            let _ = outer.as_mut().poll(&mut Context::from_waker(&waker));
            drop(waker);
            // The last of the waker goes with this, and its future with it.
            let _ = outer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    });
}

#[test]
fn another_protocol_may_be_called_inside_of_one() {
    block_on_within(async {
        let nothing = || coracle::on_datagram(|_, _, _| {});
        let (first, of_first) = create_datagram_endpoint(nothing, local_v4()).await.unwrap();
        let (second, of_second) = create_datagram_endpoint(nothing, local_v4()).await.unwrap();
        assert_eq!(of_first.with(|_| of_second.with(|_| 2)), 2);
        assert_eq!(of_first.with(|_| of_second.try_with(|_| 2)), Some(2));
        assert_eq!(of_first.with(|_| of_first.try_with(|_| 1)), None);
        close(&first).await;
        close(&second).await;
    });
}

// A panic ends the program on WASI.
#[cfg(not(target_os = "wasi"))]
#[test]
fn with_is_refused_where_it_would_wait_for_itself() {
    block_on_within(async {
        let nothing = || coracle::on_datagram(|_, _, _| {});
        let (first, of_first) = create_datagram_endpoint(nothing, local_v4()).await.unwrap();
        let (second, of_second) = create_datagram_endpoint(nothing, local_v4()).await.unwrap();
        let message = of_first.with(|_| panics(|| of_first.with(|_| ())));
        assert!(message.contains("same protocol"), "{message}");
        let message = of_first.with(|_| panics(|| of_second.with(|_| of_first.with(|_| ()))));
        assert!(message.contains("same protocol"), "{message}");
        // A panic inside leaves the protocol as it is.
        assert_eq!(of_first.with(|_| of_second.with(|_| 2)), 2);
        close(&first).await;
        close(&second).await;
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn with_inside_a_callback_does_not_wait_for_another_thread() {
    use std::sync::mpsc;

    block_on_within(async {
        let nothing = || coracle::on_datagram(|_, _, _| {});
        let (first, of_first) = create_datagram_endpoint(nothing, local_v4()).await.unwrap();
        let (second, of_second) = create_datagram_endpoint(nothing, local_v4()).await.unwrap();
        let of_first = Arc::new(of_first);
        let (entered, is_entered) = mpsc::channel();
        let (leave, may_leave) = mpsc::channel::<()>();
        let elsewhere = {
            let of_first = of_first.clone();
            std::thread::spawn(move || {
                of_first.with(|_| {
                    entered.send(()).unwrap();
                    let _ = may_leave.recv();
                })
            })
        };
        is_entered.recv().unwrap();
        let message = of_second.with(|_| panics(|| of_first.with(|_| ())));
        assert!(message.contains("another thread"), "{message}");
        assert!(message.contains("try_with"), "{message}");
        assert_eq!(of_second.with(|_| of_first.try_with(|_| 1)), None);
        assert_eq!(of_first.try_with(|_| 1), None);
        leave.send(()).unwrap();
        elsewhere.join().unwrap();
        assert_eq!(of_first.try_with(|_| 1), Some(1));
        close(&first).await;
        close(&second).await;
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn two_protocols_that_call_each_other_from_two_threads_both_end() {
    /// Calls the other one as often as a datagram comes, if it can be had.
    struct Calls(Arc<OnceLock<coracle::ProtocolHandle<Calls>>>, usize);
    impl DatagramProtocol for Calls {
        fn datagram_received(&mut self, transport: &DatagramTransport, _: &[u8], _: &Address) {
            self.1 += 1;
            if let Some(other) = self.0.get() {
                other.try_with(|other| other.1 += 1);
            }
            if self.1 >= 200 {
                transport.close();
            }
        }
    }
    let others = [Arc::new(OnceLock::new()), Arc::new(OnceLock::new())];
    let threads: Vec<_> = (0..2)
        .map(|side| {
            let (mine, theirs) = (others[side].clone(), others[1 - side].clone());
            std::thread::spawn(move || {
                block_on_within(async {
                    let (transport, handle) =
                        create_datagram_endpoint(|| Calls(theirs, 0), local_v4())
                            .await
                            .unwrap();
                    let _ = mine.set(handle);
                    let to = transport.local_addr().unwrap();
                    while !transport.is_closing() {
                        let _ = transport.send_to(b"!", &to);
                        coracle::yield_now().await;
                    }
                    transport.closed().await.unwrap();
                })
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Somewhere to write to that looks around whenever something is written.
struct Writing<F: Fn()>(F, usize);

impl<F: Fn()> fmt::Write for Writing<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.0)();
        self.1 += text.len();
        Ok(())
    }
}

#[test]
fn what_something_is_shown_to_may_look_at_it() {
    fn show(what: &impl fmt::Debug, look: impl Fn()) {
        let mut writing = Writing(look, 0);
        fmt::Write::write_fmt(&mut writing, format_args!("{what:?}")).unwrap();
        assert!(writing.1 > 0);
    }

    block_on_within(async {
        let nothing = || coracle::on_datagram(|_, _, _| {});
        let (transport, _) = create_datagram_endpoint(nothing, local_v4()).await.unwrap();
        show(&transport, || touch_datagrams(&transport));
        close(&transport).await;

        let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
        let nothing = || on_data(|_: &Transport, _: &[u8]| Ok(()));
        let server = create_server(nothing, options).await.unwrap();
        show(&server, || touch_server(&server));
        server.close();
        within(server.wait_closed()).await;
    });
    over_each(async |ours: Ours, _peer: Peer| {
        let nothing = || on_data(|_: &Transport, _: &[u8]| Ok(()));
        let (transport, _, driver) = make_with_driver(nothing, ours).await.unwrap();
        show(&transport, || touch(&transport));
        transport.abort();
        within(driver).await;
    });
}

/// Inside of its own protocol each thread wakes the other's driver, which is polled there and then.
#[cfg(not(target_os = "wasi"))]
#[test]
fn drivers_that_are_polled_inside_of_each_others_protocols_do_not_wait() {
    use std::sync::Barrier;

    /// On two threads, while each is inside of a protocol, touches the other's.
    fn crosswise<P: Send>(
        handles: [coracle::ProtocolHandle<P>; 2],
        touch_other: impl Fn(usize) + Sync,
    ) {
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            for (side, handle) in handles.into_iter().enumerate() {
                let (both, touch_other) = (&both, &touch_other);
                scope.spawn(move || {
                    for _ in 0..100 {
                        both.wait();
                        handle.with(|_| {
                            both.wait();
                            touch_other(1 - side);
                        });
                    }
                });
            }
        });
    }

    block_on_within(async {
        let made = async || {
            let nothing = || coracle::on_datagram(|_, _, _| {});
            let (transport, handle, driver) =
                create_datagram_endpoint_with_driver(nothing, local_v4())
                    .await
                    .unwrap();
            Inline::new(driver).poll();
            (transport, handle)
        };
        let ((first, of_first), (second, of_second)) = (made().await, made().await);
        let transports = [first, second];
        crosswise([of_first, of_second], |side| {
            transports[side].pause_reading();
            transports[side].resume_reading();
        });
        for transport in &transports {
            transport.close();
            within(transport.closed()).await.unwrap();
        }
    });
    over_each(async |ours: Ours, _peer: Peer| {
        let made = async |ours| {
            let nothing = || on_data(|_: &Transport, _: &[u8]| Ok(()));
            let (transport, handle, driver) = make_with_driver(nothing, ours).await.unwrap();
            Inline::new(driver).poll();
            (transport, handle)
        };
        let (other, _other_peer) = common::pairs::tcp_pair();
        let ((first, of_first), (second, of_second)) = (made(ours).await, made(other).await);
        let transports = [first, second];
        crosswise([of_first, of_second], |side| {
            transports[side].pause_reading();
            transports[side].resume_reading();
        });
        for transport in &transports {
            transport.close();
            within(transport.closed()).await.unwrap();
        }
    });
}
