//! System calls are a budget: what an echoed datagram costs, and that nothing spins.
//!
//! Programs run under `strace -c`. What they need to start cancels out: each is measured with
//! little and with much to do.
#![cfg(target_os = "linux")]

#[path = "peers/process.rs"]
mod process;

use std::fs;
use std::io;
use std::net::UdpSocket as StdUdpSocket;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use coracle::net::{UdpSocket, UnixDatagram};
use coracle::time::{sleep, timeout};
use coracle::{create_datagram_endpoint, on_datagram, Address, DatagramOptions, Family};
use coracle::{DatagramProtocol, DatagramTransport};
use process::{example, run, tool, Process, LIMIT};

const MINUTE: Duration = Duration::from_secs(60);

/// A program under strace, which writes its counts to `summary` in the end.
fn traced(program: &Command, summary: &Path, options: &[&str]) -> Command {
    let mut command = tool("strace", "strace");
    command.args(["-f", "-c", "-o"]).arg(summary).args(options);
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

/// The total of strace's table, once it is there.
fn total(summary: &Path) -> Option<u64> {
    let text = fs::read_to_string(summary).ok()?;
    let line = text.lines().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// The system calls of a server while `client` works with it.
fn calls_of_server(server: &Command, client: impl FnOnce(StdUdpSocket)) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let summary = folder.path().join("summary");
    // -D: the server is our child, not strace's, so that it is the one that is killed.
    let process = Process::start(&mut traced(server, &summary, &["-D"]));
    let addr = loop {
        // Something else may be in front, if it is a test.
        if let Some((_, addr)) = process.line().split_once("listening on ") {
            break addr.to_owned();
        }
    };
    let socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(addr).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    client(socket);
    drop(process);
    let since = Instant::now();
    loop {
        if let Some(total) = total(&summary) {
            return total;
        }
        assert!(since.elapsed() < LIMIT, "strace does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Single datagrams, with enough time in between for the server to fall asleep.
fn send_alone(socket: StdUdpSocket, count: u64) {
    for _ in 0..count {
        socket.send(b"alone").unwrap();
        socket.recv(&mut [0; 16]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
}

/// The system calls of a server for each single datagram that it echoes.
fn calls_per_datagram(server: &Command) -> f64 {
    const FEW: u64 = 20;
    const MANY: u64 = 320;
    let [few, many] =
        [FEW, MANY].map(|count| calls_of_server(server, |socket| send_alone(socket, count)) as f64);
    let per_datagram = (many - few) / (MANY - FEW) as f64;
    println!("{per_datagram:.2} system calls per datagram");
    per_datagram
}

/// This very program in one of the roles below.
fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "as_a_child", "--nocapture", "--test-threads=1"]);
    command.env("CORACLE_TEST_ROLE", name);
    command
}

/// The system calls that a role makes for an amount of what it does, be it milliseconds or work.
fn calls_for(name: &str, amount: u64) -> u64 {
    let [none, all] = [0, amount].map(|amount| {
        let folder = tempfile::tempdir().unwrap();
        let summary = folder.path().join("summary");
        let mut role = role(name);
        role.env("CORACLE_TEST_AMOUNT", amount.to_string());
        let done = run(&mut traced(&role, &summary, &[]));
        assert!(done.status.success(), "{done:?}");
        total(&summary).expect("strace has ended")
    });
    println!("{name}: {none} system calls for nothing, {all} for {amount}");
    // Start-up varies by a few.
    all.saturating_sub(none)
}

/// What the other tests run: no test in itself.
#[test]
fn as_a_child() {
    let Ok(role) = std::env::var("CORACLE_TEST_ROLE") else {
        return;
    };
    let amount = std::env::var("CORACLE_TEST_AMOUNT").unwrap_or_default();
    let amount = amount.parse().unwrap_or_default();
    let time = Duration::from_millis(amount);
    coracle::block_on(async {
        match &role[..] {
            "endpoint_and_timer" => endpoint_and_timer().await,
            "socket" => socket(false).await,
            "socket_with_timeouts" => socket(true).await,
            "bursts" => bursts(amount).await,
            "idle" => idle(time).await,
            "unread" => unread(time).await,
            "unread_endpoint" => unread_endpoint(time).await,
            "unread_error" => unread_error(time).await,
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

/// What Linux may need, and what other platforms' code may, which these hooks have it run.
fn limit(linux: f64, portable: f64) -> f64 {
    if cfg!(any(coracle_force_portable, polling_test_poll_backend)) {
        portable
    } else {
        linux
    }
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
    let calls = calls_for("bursts", COUNT);
    // The client's as well as the server's.
    let per_datagram = calls as f64 / (COUNT * BURST as u64) as f64;
    assert!(per_datagram <= limit(0.5, 5.0), "{per_datagram}");
}

#[test]
fn an_idle_runtime_sleeps() {
    let calls = calls_for("idle", 300);
    assert!(calls < 50, "{calls}");
}

#[test]
fn unread_data_wakes_nobody() {
    for name in ["unread", "unread_endpoint"] {
        let calls = calls_for(name, 300);
        assert!(calls < 50, "{name}: {calls}");
    }
}

#[test]
fn an_unread_error_wakes_nobody() {
    let calls = calls_for("unread_error", 300);
    assert!(calls < 50, "{calls}");
}

#[test]
fn a_full_unix_receiver_is_not_pestered() {
    // The system does not tell when there is room: a try every now and then.
    let calls = calls_for("full", 300);
    assert!(calls < 300, "{calls}");
    // It does for its only peer.
    let calls = calls_for("full_connected", 300);
    assert!(calls < 50, "{calls}");
}

#[test]
fn an_endpoint_does_not_pester_a_full_unix_receiver() {
    let calls = calls_for("full_endpoint", 300);
    assert!(calls < 300, "{calls}");
    let calls = calls_for("full_connected_endpoint", 300);
    assert!(calls < 50, "{calls}");
}
