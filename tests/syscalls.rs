//! System calls are a budget: what an echoed datagram costs, and that nothing spins.
#![cfg(target_os = "linux")]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/trace.rs"]
mod trace;

use std::io;
use std::net::UdpSocket as StdUdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use coracle::net::{UdpSocket, UnixDatagram};
use coracle::time::{sleep, timeout};
use coracle::{create_datagram_endpoint, on_datagram, Address, DatagramOptions, Family};
use coracle::{DatagramProtocol, DatagramTransport};
use process::{example, LIMIT};
use trace::{assert_rests, calls_for, calls_per_round, calls_with, limit, own_role, role};

const MINUTE: Duration = Duration::from_secs(60);

/// The system calls of a server for each single datagram that it echoes, with enough time in
/// between for it to fall asleep.
fn calls_per_datagram(server: &Command) -> f64 {
    calls_per_round(server, |addr, count| {
        let socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(addr).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        for _ in 0..count {
            socket.send(b"alone").unwrap();
            socket.recv(&mut [0; 16]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    })
}

/// What the other tests run: no test in itself.
#[test]
fn as_a_child() {
    let Some((role, amount)) = own_role() else {
        return;
    };
    let time = Duration::from_millis(amount);
    coracle::block_on(async {
        match &role[..] {
            "endpoint_and_timer" => endpoint_and_timer().await,
            "socket" => socket(false).await,
            "socket_with_timeouts" => socket(true).await,
            "bursts" => bursts(amount).await,
            "unix_exchanges" => unix_exchanges(amount).await,
            "idle" => idle(time).await,
            "unread" => unread(time).await,
            "left" => left(time).await,
            "unread_endpoint" => unread_endpoint(time).await,
            "unread_error" => unread_error(time).await,
            "error_queue" => error_queue(time, false).await,
            "error_queue_endpoint" => error_queue(time, true).await,
            "full" => full(time).await,
            "full_connected" => full_connected(time).await,
            "full_endpoint" => full_endpoint(time).await,
            "full_connected_endpoint" => full_connected_endpoint(time).await,
            other => panic!("there is no role {other}"),
        }
    })
    .unwrap();
}

async fn endpoint_and_timer() -> io::Result<()> {
    let timer = coracle::spawn(sleep(60 * MINUTE));
    let echo = on_datagram(|transport, data, from| {
        transport.send_to(data, from).unwrap();
    });
    let options = DatagramOptions::new().local_addr("127.0.0.1:0");
    let (transport, _) = create_datagram_endpoint(|| echo, options).await?;
    println!("listening on {}", transport.local_addr()?);
    timer.await;
    Ok(())
}

async fn socket(with_timeouts: bool) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    println!("listening on {}", socket.local_addr()?);
    let mut buf = [0; 1500];
    loop {
        let (len, from) = match with_timeouts {
            true => timeout(MINUTE, socket.recv_from(&mut buf)).await??,
            false => socket.recv_from(&mut buf).await?,
        };
        socket.send_to(&buf[..len], &from).await?;
    }
}

const BURST: usize = 32;

/// Sends a burst, and the next when all of it has come back.
struct Bursts {
    left: u64,
    missing: usize,
}

impl Bursts {
    fn next(&mut self, transport: &DatagramTransport) {
        if self.left == 0 {
            return transport.close();
        }
        self.left -= 1;
        self.missing = BURST;
        for _ in 0..BURST {
            transport.send(b"together").unwrap();
        }
    }
}

impl DatagramProtocol for Bursts {
    fn connection_made(&mut self, transport: &DatagramTransport) {
        self.next(transport);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, _: &[u8], _: &Address) {
        self.missing -= 1;
        if self.missing == 0 {
            self.next(transport);
        }
    }
}

/// Both sides on one thread, so that nobody sees half a burst.
async fn bursts(count: u64) -> io::Result<()> {
    let echo = on_datagram(|transport, data, from| {
        transport.send_to(data, from).unwrap();
    });
    let options = DatagramOptions::new().local_addr("127.0.0.1:0");
    let (server, _) = create_datagram_endpoint(|| echo, options).await?;
    let client = Bursts {
        left: count,
        missing: 0,
    };
    let options = DatagramOptions::new().remote_addr(server.local_addr()?);
    let (client, _) = create_datagram_endpoint(|| client, options).await?;
    timeout(MINUTE, client.closed()).await?
}

/// A datagram there and back, again and again, on one thread.
async fn unix_exchanges(count: u64) -> io::Result<()> {
    let echo = on_datagram(|transport, data, from| {
        transport.send_to(data, from).unwrap();
    });
    let options = DatagramOptions::new().local_addr(Address::UNNAMED);
    let (server, _) = create_datagram_endpoint(|| echo, options).await?;
    let server = server.local_addr()?;
    let client = UnixDatagram::bind(Address::UNNAMED)?;
    for _ in 0..count {
        client.send_to(&[7; 100], &server).await?;
        assert_eq!(client.recv(&mut [0; 200]).await?, 100);
    }
    Ok(())
}

async fn idle(time: Duration) -> io::Result<()> {
    sleep(time).await;
    Ok(())
}

/// Has the runtime watch the socket, and nobody wait for it any more.
async fn register(socket: &UdpSocket) {
    let nothing = timeout(Duration::from_millis(1), socket.recv(&mut [0; 16])).await;
    assert!(nothing.is_err(), "there is nothing to read yet");
}

async fn unread(time: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    register(&socket).await;
    let peer = StdUdpSocket::bind("127.0.0.1:0")?;
    peer.send_to(b"unread", socket.local_addr()?.as_ip().unwrap())?;
    sleep(time).await;
    Ok(())
}

/// As `unread`, of a socket that its owner has taken back.
async fn left(time: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    register(&socket).await;
    let socket = StdUdpSocket::try_from(socket)?;
    let peer = StdUdpSocket::bind("127.0.0.1:0")?;
    peer.send_to(b"unread", socket.local_addr()?)?;
    sleep(time).await;
    Ok(())
}

async fn unread_endpoint(time: Duration) -> io::Result<()> {
    let options = DatagramOptions::new().local_addr("127.0.0.1:0");
    let nobody = on_datagram(|_, _, _| panic!("reading is paused"));
    let (transport, _) = create_datagram_endpoint(|| nobody, options).await?;
    transport.pause_reading();
    let peer = StdUdpSocket::bind("127.0.0.1:0")?;
    peer.send_to(b"unread", transport.local_addr()?.as_ip().unwrap())?;
    sleep(time).await;
    Ok(())
}

async fn unread_error(time: Duration) -> io::Result<()> {
    // Its port is taken, and yet refuses: the socket is connected to somebody else.
    let dead = StdUdpSocket::bind("127.0.0.1:0")?;
    dead.connect("127.0.0.1:9")?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(dead.local_addr()?).await?;
    register(&socket).await;
    socket.send(b"anybody?").await?;
    sleep(time).await;
    // It had been there all the time.
    let error = socket.send(b"anybody?").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    Ok(())
}

/// A message in the error queue, which is the user's; an endpoint may wait for data.
async fn error_queue(time: Duration, is_endpoint: bool) -> io::Result<()> {
    let peer = StdUdpSocket::bind("127.0.0.1:0")?;
    let socket = socket2::Socket::from(StdUdpSocket::bind("127.0.0.1:0")?);
    let flags = libc::SOF_TIMESTAMPING_TX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    // SAFETY: the value is an int, and its size is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPING,
            std::ptr::from_ref(&flags).cast(),
            size_of_val(&flags) as _,
        )
    };
    assert_eq!(result, 0);
    let own = socket.local_addr()?.as_socket().unwrap();
    let done = "done".as_bytes();
    if is_endpoint {
        let until = on_datagram(|transport, data, _| {
            assert_eq!(data, b"done");
            transport.close();
        });
        let options = DatagramOptions::new().sock(std::net::UdpSocket::from(socket));
        let (transport, _) = create_datagram_endpoint(|| until, options).await?;
        transport.send_to(b"stamped", &peer.local_addr()?.into())?;
        sleep(time).await;
        peer.send_to(done, own)?;
        return transport.closed().await;
    }
    let socket = UdpSocket::try_from(std::net::UdpSocket::from(socket))?;
    register(&socket).await;
    let to = peer.local_addr()?.into();
    socket.send_to(b"stamped", &to).await?;
    sleep(time).await;
    peer.send_to(done, own)?;
    socket.recv(&mut [0; 16]).await?;
    Ok(())
}

/// A receiver that takes nothing, at a name that the system has chosen.
fn receiver() -> io::Result<(UnixDatagram, Address)> {
    let receiver = UnixDatagram::bind(Address::UNNAMED)?;
    let addr = receiver.local_addr()?;
    // Until its queue is full.
    let filler = UnixDatagram::unbound()?;
    while filler.try_send_to(b"first", &addr).is_ok() {}
    Ok((receiver, addr))
}

async fn full(time: Duration) -> io::Result<()> {
    let (_receiver, addr) = receiver()?;
    let sender = UnixDatagram::unbound()?;
    let sent = timeout(time, sender.send_to(b"too much", &addr)).await;
    assert!(sent.is_err(), "there is no room");
    Ok(())
}

async fn full_connected(time: Duration) -> io::Result<()> {
    let (_receiver, addr) = receiver()?;
    let sender = UnixDatagram::unbound()?;
    sender.connect(addr)?;
    let sent = timeout(time, sender.send(b"too much")).await;
    assert!(sent.is_err(), "there is no room");
    Ok(())
}

async fn full_endpoint(time: Duration) -> io::Result<()> {
    let (_receiver, addr) = receiver()?;
    let options = DatagramOptions::new().family(Family::Unix);
    let (sender, _) = create_datagram_endpoint(|| on_datagram(|_, _, _| ()), options).await?;
    sender.send_to(b"too much", &addr)?;
    sleep(time).await;
    assert!(sender.write_buffer_size() > 0, "there is no room");
    Ok(())
}

async fn full_connected_endpoint(time: Duration) -> io::Result<()> {
    let (_receiver, addr) = receiver()?;
    let options = DatagramOptions::new().remote_addr(addr);
    let (sender, _) = create_datagram_endpoint(|| on_datagram(|_, _, _| ()), options).await?;
    sender.send(b"too much")?;
    sleep(time).await;
    assert!(sender.write_buffer_size() > 0, "there is no room");
    Ok(())
}

#[test]
fn an_endpoint_echoes_with_three_calls() {
    let calls = calls_per_datagram(&example("udp_echo_server"));
    assert!(calls <= limit(3.1, 9.1), "{calls}");
}

#[test]
fn a_pending_timer_costs_no_calls() {
    let calls = calls_per_datagram(&role("endpoint_and_timer"));
    assert!(calls <= limit(3.1, 9.1), "{calls}");
}

#[test]
fn a_socket_echoes_with_little_more_than_three_calls() {
    let calls = calls_per_datagram(&role("socket"));
    assert!(calls <= limit(3.3, 9.3), "{calls}");
}

#[test]
fn timeouts_that_do_not_fire_cost_no_calls() {
    let calls = calls_per_datagram(&role("socket_with_timeouts"));
    assert!(calls <= limit(3.3, 9.3), "{calls}");
}

#[test]
fn bursts_are_received_and_sent_together() {
    const COUNT: u64 = 50;
    let calls = calls_for("bursts", COUNT).total();
    // The client's as well as the server's.
    let per_datagram = calls as f64 / (COUNT * BURST as u64) as f64;
    assert!(per_datagram <= limit(0.5, 5.0), "{per_datagram}");
}

#[test]
fn a_unix_endpoint_with_many_receivers_echoes_with_one_call() {
    const COUNT: u64 = 2_000;
    let calls = calls_for("unix_exchanges", COUNT);
    let sent = calls.of(&["sendto"]) as f64 / COUNT as f64;
    assert!(
        sent <= limit(2.01, 2.01),
        "{sent}: the client's and the server's"
    );
    // How much is unread is asked for once in a while.
    let asked = calls.of(&["ioctl"]) as f64 / COUNT as f64;
    assert!(asked <= 0.05, "{asked}");
}

#[test]
fn an_idle_runtime_sleeps() {
    assert_rests("idle");
}

#[test]
fn unread_data_wakes_nobody() {
    for name in ["unread", "unread_endpoint"] {
        assert_rests(name);
    }
}

#[test]
fn an_unread_error_wakes_nobody() {
    assert_rests("unread_error");
}

#[test]
fn what_is_in_the_error_queue_wakes_nobody() {
    for name in ["error_queue", "error_queue_endpoint"] {
        let calls = calls_for(name, 300).total();
        // Where there are no edges, it is looked at again now and then.
        let most = if cfg!(polling_test_poll_backend) {
            150
        } else {
            50
        };
        assert!(calls < most, "{name}: {calls}");
    }
}

#[test]
fn a_full_unix_receiver_is_not_pestered() {
    // The system does not tell when there is room: a try every now and then.
    let calls = calls_for("full", 300).total();
    assert!(calls < 300, "{calls}");
    // It does for its only peer.
    assert_rests("full_connected");
}

#[test]
fn an_endpoint_does_not_pester_a_full_unix_receiver() {
    let calls = calls_for("full_endpoint", 300).total();
    assert!(calls < 300, "{calls}");
    assert_rests("full_connected_endpoint");
}

/// As far as the loop is concerned: the first four calls prepare it and have it watch the socket.
/// On the portable code they are not to be told from those by which `polling` sets its timer.
#[test]
#[cfg_attr(
    any(coracle_force_portable, polling_test_poll_backend),
    ignore = "about calls of the native poller"
)]
fn what_the_poller_refuses_to_forget_is_asked_for_again() {
    let rests = |option: &str, bound| {
        let calls = calls_with(&["-e", option], "unread", 300).total();
        assert!(calls < bound, "{option}: {calls}");
    };
    for refused in 5..=6 {
        rests(&format!("inject=epoll_ctl:error=ENOMEM:when={refused}"), 60);
    }
    // There is no end of it: it does not take the processor.
    rests("inject=epoll_ctl:error=ENOMEM:when=5+", 500);
}

#[test]
#[cfg_attr(
    any(coracle_force_portable, polling_test_poll_backend),
    ignore = "about calls of the native poller"
)]
fn what_the_poller_refuses_to_forget_when_it_leaves_is_asked_for_again() {
    for (refused, bound) in [("5", 60), ("5..7", 60), ("5+", 500)] {
        let option = format!("inject=epoll_ctl:error=ENOMEM:when={refused}");
        let calls = calls_with(&["-e", &option], "left", 300).total();
        assert!(calls < bound, "{option}: {calls}");
    }
}
