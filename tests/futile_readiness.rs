//! Readiness that no operation removes costs a few looks, not the processor, and nothing that
//! comes meanwhile is missed.
#![cfg(target_os = "linux")]

mod common;

use std::future::{poll_fn, Future};
use std::io;
use std::mem::size_of;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::pin::{pin, Pin};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use common::{block_on_within, PATIENCE};
use coracle::net::{RecvBatch, TcpListener, TcpStream, UdpSocket, UnixDatagram};
use coracle::time::timeout;
use coracle::Address;
use futures_lite::future::{poll_once, yield_now, zip};

/// How long it is watched whether something spins, which takes thousands of polls in that time.
const WINDOW: Duration = Duration::from_millis(200);
const FEW: usize = 40;

/// Runs a test on each reactor that there is.
fn everywhere(test: impl AsyncFn()) {
    block_on_within(test());
    #[cfg(feature = "async-io")]
    common::foreign::smol_within(test());
}

/// Gives what comes of a future in the time, and checks that it is not polled again and again.
async fn counted<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut polls = 0;
    let counted = poll_fn(|cx| {
        polls += 1;
        Pin::new(&mut *future).poll(cx)
    });
    let result = timeout(WINDOW, counted).await;
    assert!(polls < FEW, "{polls} polls");
    result.ok()
}

/// Checks that a future waits, and rests.
async fn rests<F: Future<Output: std::fmt::Debug>>(mut future: Pin<&mut F>) {
    let result = counted(&mut future).await;
    assert!(result.is_none(), "{result:?}");
}

fn set_int(fd: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    // SAFETY: the value is an int, and its size is told.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as _,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Takes a message from the error queue.
fn take_from_error_queue(socket: socket2::SockRef<'_>) -> io::Result<()> {
    let mut space = [0_u64; 64];
    let mut data = [0_u8; 64];
    let mut iov = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    header.msg_control = space.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&space) as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the header points to buffers that are alive and of the sizes it tells.
    match unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has the system tell in the error queue when what is sent has left.
fn ask_for_timestamps(socket: socket2::SockRef<'_>) -> io::Result<()> {
    let flags = libc::SOF_TIMESTAMPING_TX_SOFTWARE
        | libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    set_int(
        &*socket,
        libc::SOL_SOCKET,
        libc::SO_TIMESTAMPING,
        flags as _,
    );
    Ok(())
}

/// A socket with an error in its queue, and its peer.
async fn udp_with_error_queue() -> (UdpSocket, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.try_io(ask_for_timestamps).unwrap();
    let to = peer.local_addr().unwrap();
    socket.send_to(b"stamped", &to).await.unwrap();
    peer.recv(&mut [0; 16]).await.unwrap();
    (socket, peer)
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    common::sockets::tcp_pair().await
}

/// Tasks whose turn it is run.
async fn settle() {
    for _ in 0..10 {
        yield_now().await;
    }
}

#[test]
fn an_error_queue_is_the_users() {
    everywhere(async || {
        let (socket, peer) = udp_with_error_queue().await;
        let to = socket.local_addr().unwrap();
        let mut buf = [0; 16];
        {
            let mut receiving = pin!(socket.recv(&mut buf));
            rests(receiving.as_mut()).await;
            peer.send_to(b"first", &to).await.unwrap();
            assert_eq!(receiving.await.unwrap(), 5);
        }
        // And again, as often as there is something.
        for round in 0..200_usize {
            let mut receiving = pin!(socket.recv(&mut buf));
            if round % 3 > 0 {
                assert!(poll_once(receiving.as_mut()).await.is_none(), "{round}");
            }
            peer.send_to(b"next", &to).await.unwrap();
            assert_eq!(receiving.await.unwrap(), 4);
        }
        rests(pin!(socket.recv(&mut buf))).await;
        // Nobody has touched it.
        socket.read_with(take_from_error_queue).await.unwrap();
    });
}

#[test]
fn a_batch_does_not_spin_on_an_error_queue() {
    everywhere(async || {
        let (socket, peer) = udp_with_error_queue().await;
        let to = socket.local_addr().unwrap();
        let mut batch = RecvBatch::with_capacity(8, 64);
        rests(pin!(socket.recv_batch(&mut batch))).await;
        for count in [1, 3, 8, 20] {
            for _ in 0..count {
                peer.send_to(b"one of them", &to).await.unwrap();
            }
            let mut received = 0;
            while received < count {
                received += socket.recv_batch(&mut batch).await.unwrap();
            }
            assert_eq!(received, count);
        }
        rests(pin!(socket.recv_batch(&mut batch))).await;
    });
}

#[test]
fn who_asks_for_readable_and_tries_does_not_spin() {
    everywhere(async || {
        let (socket, peer) = udp_with_error_queue().await;
        let to = socket.local_addr().unwrap();
        let mut tries = 0;
        let mut next = async || loop {
            socket.readable().await.unwrap();
            tries += 1;
            match socket.try_recv_from(&mut [0; 16]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => break result.unwrap().0,
            }
        };
        for _ in 0..3 {
            let mut receiving = pin!(next());
            rests(receiving.as_mut()).await;
            peer.send_to(b"at last", &to).await.unwrap();
            assert_eq!(receiving.await, 7);
        }
        assert!(tries < 3 * FEW, "{tries}");
    });
}

#[test]
fn the_error_queue_and_the_data_have_a_task_each() {
    everywhere(async || {
        let (socket, peer) = udp_with_error_queue().await;
        let to = socket.local_addr().unwrap();
        let peer_addr = peer.local_addr().unwrap();
        let mut buf = [0; 16];
        socket.read_with(take_from_error_queue).await.unwrap();
        for round in 0..50 {
            let data = async {
                assert_eq!(socket.recv(&mut buf).await.unwrap(), 4, "{round}");
            };
            let error = async {
                socket.read_with(take_from_error_queue).await.unwrap();
            };
            // Whichever waits first, and whichever comes first.
            let both = async {
                match round % 2 {
                    0 => drop(zip(data, error).await),
                    _ => drop(zip(error, data).await),
                }
            };
            let events = async {
                settle().await;
                if round % 4 < 2 {
                    peer.send_to(b"data", &to).await.unwrap();
                    settle().await;
                    socket.send_to(b"stamped", &peer_addr).await.unwrap();
                } else {
                    socket.send_to(b"stamped", &peer_addr).await.unwrap();
                    settle().await;
                    peer.send_to(b"data", &to).await.unwrap();
                }
                peer.recv(&mut [0; 16]).await.unwrap();
            };
            zip(both, events).await;
        }
        // Data that nobody wants does not have the other one spin, either.
        peer.send_to(b"data", &to).await.unwrap();
        let mut waiting = pin!(socket.read_with(take_from_error_queue));
        rests(waiting.as_mut()).await;
        socket.send_to(b"stamped", &peer_addr).await.unwrap();
        waiting.await.unwrap();
        assert_eq!(socket.recv(&mut buf).await.unwrap(), 4);
    });
}

#[test]
fn a_datagram_socket_that_is_shut_down_for_reading_rests() {
    everywhere(async || {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(socket.local_addr().unwrap()).await.unwrap();
        let (unix, _peer) = UnixDatagram::pair().unwrap();
        let shutdown = |socket: socket2::SockRef<'_>| socket.shutdown(Shutdown::Read);
        socket.try_io(shutdown).unwrap();
        unix.try_io(shutdown).unwrap();
        let (mut one, mut two) = ([0; 16], [0; 16]);
        rests(pin!(socket.recv(&mut one))).await;
        rests(pin!(unix.recv(&mut two))).await;
        // Nor does what goes the other way.
        socket.send(b"out").await.unwrap();
        unix.send(b"out").await.unwrap();
    });
}

#[test]
fn urgent_data_of_a_peer_does_not_take_the_processor() {
    everywhere(async || {
        let (ours, theirs) = tcp_pair().await;
        theirs
            .try_io(|socket| socket.send_out_of_band(b"!"))
            .unwrap();
        let mut buf = [0; 16];
        {
            let mut reading = pin!(ours.read(&mut buf));
            rests(reading.as_mut()).await;
            theirs.write_all(b"more").await.unwrap();
            assert_eq!(reading.await.unwrap(), 4);
        }
        let mut more = pin!(ours.read(&mut buf));
        rests(more.as_mut()).await;
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(more.await.unwrap(), 0);
    });
}

#[test]
fn a_stream_with_an_error_queue_rests_both_ways() {
    everywhere(async || {
        let (ours, theirs) = tcp_pair().await;
        ours.try_io(ask_for_timestamps).unwrap();
        ours.write_all(b"stamped").await.unwrap();
        let mut buf = [0; 16];
        assert_eq!(theirs.read(&mut buf).await.unwrap(), 7);
        let mut reading = pin!(ours.read(&mut buf));
        rests(reading.as_mut()).await;
        let mut written = 7;
        let more = vec![7; 1 << 16];
        // A little may still go when the peer's side is full.
        let mut writing = loop {
            let mut writing = Box::pin(ours.write(&more));
            match counted(&mut writing).await {
                Some(len) => written += len.unwrap(),
                None => break writing,
            }
        };
        rests(reading.as_mut()).await;
        let mut read = 7;
        let mut large = vec![0; 1 << 20];
        let draining = async {
            while read < written {
                read += theirs.read(&mut large).await.unwrap();
            }
        };
        let (result, ()) = zip(writing.as_mut(), draining).await;
        assert!(result.unwrap() > 0);
        theirs.write_all(b"back").await.unwrap();
        assert_eq!(reading.await.unwrap(), 4);
        ours.read_with(take_from_error_queue).await.unwrap();
    });
}

#[test]
fn an_operation_of_the_users_own_waits_for_a_receiver_that_is_full() {
    everywhere(async || {
        let receiver = UnixDatagram::bind(Address::UNNAMED).unwrap();
        let to = receiver.local_addr().unwrap();
        let name = receiver.try_io(|socket| socket.local_addr()).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        let mut queued = 0;
        while sender.try_send_to(b"first", &to).is_ok() {
            queued += 1;
        }
        let mut sending = pin!(sender.write_with(|socket| socket.send_to(b"late", &name)));
        rests(sending.as_mut()).await;
        for _ in 0..queued {
            receiver.recv(&mut [0; 16]).await.unwrap();
        }
        // The system tells nobody.
        assert_eq!(sending.await.unwrap(), 4);
    });
}

#[test]
fn what_waits_at_a_quiet_socket_moves_on_with_it() {
    let (socket, peer) = block_on_within(udp_with_error_queue());
    let to = socket.local_addr().unwrap();
    let mut buf = [0; 16];
    let mut receiving = pin!(socket.recv(&mut buf));
    // The first runtime ends while it waits.
    block_on_within(rests(receiving.as_mut()));
    #[cfg(feature = "async-io")]
    common::foreign::smol_within(rests(receiving.as_mut()));
    block_on_within(async {
        rests(receiving.as_mut()).await;
        peer.send_to(b"moved", &to).await.unwrap();
        assert_eq!(receiving.await.unwrap(), 5);
    });
}

#[test]
fn a_listener_is_accepted_from_while_it_is_quiet() {
    everywhere(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        // Somebody else takes the connection for which it was reported readable.
        let other = listener.try_io(|socket| socket.try_clone()).unwrap();
        for round in 0..20 {
            let mut accepting = pin!(listener.accept());
            assert!(poll_once(accepting.as_mut()).await.is_none(), "{round}");
            if round % 2 == 0 {
                let _taken = TcpStream::connect(addr).await.unwrap();
                other.accept().unwrap();
                rests(accepting.as_mut()).await;
            }
            let _ours = TcpStream::connect(addr).await.unwrap();
            accepting.await.unwrap();
        }
    });
}

/// The reactor is on another thread, so that events come at any moment.
#[test]
fn nothing_is_lost_at_a_quiet_socket_that_another_thread_watches() {
    const ROUNDS: usize = 5_000;
    let (socket, peer) = block_on_within(udp_with_error_queue());
    let socket = Arc::new(socket);
    let (ready, is_ready) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let watching = thread::spawn({
        let socket = socket.clone();
        move || {
            block_on_within(async {
                assert!(poll_once(socket.recv(&mut [0; 8])).await.is_none());
                ready.send(()).unwrap();
                while let Err(mpsc::TryRecvError::Empty) = is_done.try_recv() {
                    coracle::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
    });
    is_ready.recv_timeout(PATIENCE).unwrap();
    let to = socket.local_addr().unwrap();
    let (received, next) = mpsc::channel();
    let receiving = thread::spawn(move || {
        block_on_within(async {
            let mut batch = RecvBatch::with_capacity(4, 16);
            for round in 0..ROUNDS {
                match round % 3 {
                    0 => drop(socket.recv(&mut [0; 8]).await.unwrap()),
                    1 => drop(socket.recv_batch(&mut batch).await.unwrap()),
                    _ => loop {
                        socket.readable().await.unwrap();
                        match socket.try_recv_from(&mut [0; 8]) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            result => break assert_eq!(result.unwrap().0, 4),
                        }
                    },
                }
                received.send(()).unwrap();
            }
        });
    });
    for _ in 0..ROUNDS {
        peer.try_send_to(b"data", &to).unwrap();
        next.recv_timeout(PATIENCE).unwrap();
    }
    receiving.join().unwrap();
    done.send(()).unwrap();
    watching.join().unwrap();
}
