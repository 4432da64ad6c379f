//! System calls are a budget: what a message there and back over a connection costs, what goes
//! together, and that nothing spins.
#![cfg(target_os = "linux")]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/trace.rs"]
mod trace;

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream as StdTcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as StdUnixAddr, UnixStream as StdUnixStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use coracle::net::{Socket, TcpListener, UnixListener, UnixStream};
use coracle::time::{sleep, timeout};
use coracle::{
    connect_accepted_socket, create_server, create_unix_server, on_data, spawn, yield_now,
    AcceptedOptions, Address, Protocol, Server, TcpServerOptions, Transport, UnixServerOptions,
};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Stream, StreamExt};
use process::{example, LIMIT};
use trace::{calls_for, calls_per_round, limit, own_role, role};

const MINUTE: Duration = Duration::from_secs(60);

/// What many connections that do nothing are.
const IDLE: usize = 1_000;

/// A connection to a server, by whichever address it has told.
trait Client: Read + Write {}
impl<T: Read + Write> Client for T {}

fn connect(addr: &str) -> Box<dyn Client> {
    match addr.strip_prefix('@') {
        Some(name) => {
            let addr = StdUnixAddr::from_abstract_name(name).unwrap();
            let stream = StdUnixStream::connect_addr(&addr).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            Box::new(stream)
        }
        None => {
            let stream = StdTcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_nodelay(true).unwrap();
            Box::new(stream)
        }
    }
}

/// A name that nobody else has.
fn name() -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("@coracle-test-{}-{next}", std::process::id())
}

/// The system calls of a server for each message that it answers with `reply` times as many bytes,
/// with enough time in between for it to fall asleep.
fn calls_per_message(server: &Command, reply: usize) -> f64 {
    calls_per_round(server, |addr, rounds| {
        let mut client = connect(addr);
        let mut buf = vec![0; 64 * reply];
        for _ in 0..rounds {
            client.write_all(&[7; 64]).unwrap();
            client.read_exact(&mut buf).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    })
}

/// So many, if the system lets us have as many.
fn allow_descriptors(count: libc::rlim_t) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointers are to a limit that outlives the calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = count.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

/// What the other tests run: no test in itself.
#[test]
fn as_a_child() {
    let Some((role, amount)) = own_role() else {
        return;
    };
    let time = Duration::from_millis(amount);
    // The same among many others.
    let (role, idle) = match role.strip_suffix("_among_many") {
        Some(role) => (role, IDLE),
        None => (&role[..], 0),
    };
    let with_timeouts = role.ends_with("_with_timeouts");
    coracle::block_on(async {
        allow_descriptors(4 * IDLE as libc::rlim_t);
        match role {
            "unix_endpoint" => serve(unix_server(echo).await?, idle).await,
            "tcp_endpoint" => serve(tcp_server().await?, idle).await,
            "unix_socket" | "unix_socket_with_timeouts" => {
                let listener = UnixListener::bind(name())?;
                let addr = listener.local_addr()?;
                sockets(addr, listener.incoming(), with_timeouts, idle).await
            }
            "tcp_socket" | "tcp_socket_with_timeouts" => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let addr = listener.local_addr()?;
                sockets(addr, listener.incoming(), with_timeouts, idle).await
            }
            "many_writes" => serve(unix_server(many_writes).await?, idle).await,
            "slices" => serve(unix_server(slices).await?, idle).await,
            "slices_from_a_task" => slices_from_a_task(amount).await,
            "bulk_over_unix" => bulk(amount, StdUnixStream::pair()?).await,
            "bulk_over_tcp" => bulk(amount, tcp_pair()?).await,
            "bulk_to_a_socket" => bulk_socket(amount).await,
            "unread" => unread(time, false).await,
            "unread_and_gone" => unread(time, true).await,
            "unread_socket" => unread_socket(time, false).await,
            "unread_socket_and_gone" => unread_socket(time, true).await,
            "kept_open" => kept_open(time, false).await,
            "ended_both_ways" => kept_open(time, true).await,
            "full" => full(time).await,
            "full_socket" => full_socket(time).await,
            "starving" => starving(time).await,
            other => panic!("there is no role {other}"),
        }
    })
    .unwrap();
}

async fn unix_server(callback: fn(&Transport, &[u8]) -> io::Result<()>) -> io::Result<Server> {
    let options = UnixServerOptions::new().path(name()).backlog(1024);
    create_unix_server(move || on_data(callback), options).await
}

async fn tcp_server() -> io::Result<Server> {
    let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
    create_server(|| on_data(echo), options.backlog(1024)).await
}

/// Serves, after so many connections that stay idle, while a timer is far ahead.
async fn serve(server: Server, idle: usize) -> io::Result<()> {
    let timer = spawn(sleep(MINUTE));
    let addr = server.local_addrs()[0];
    let mut clients = Vec::new();
    while clients.len() < idle {
        clients.push(connect(&addr.to_string()));
        while server.connections() < clients.len() {
            yield_now().await;
        }
    }
    println!("listening on {addr}");
    timer.await;
    Ok(())
}

fn echo(transport: &Transport, data: &[u8]) -> io::Result<()> {
    transport.write(data)
}

fn many_writes(transport: &Transport, data: &[u8]) -> io::Result<()> {
    (0..50).try_for_each(|_| transport.write(data))
}

fn slices(transport: &Transport, data: &[u8]) -> io::Result<()> {
    transport.writelines(&[IoSlice::new(data); 100])
}

/// Echoes with sockets, after so many connections that stay idle.
async fn sockets<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    addr: Address,
    mut incoming: impl Stream<Item = io::Result<S>> + Unpin,
    with_timeouts: bool,
    idle: usize,
) -> io::Result<()> {
    let mut accept = async || {
        if let Some(stream) = incoming.next().await {
            spawn(echo_all(stream?, with_timeouts)).detach();
        }
        yield_now().await;
        io::Result::Ok(())
    };
    let mut clients = Vec::new();
    for _ in 0..idle {
        clients.push(connect(&addr.to_string()));
        accept().await?;
    }
    println!("listening on {addr}");
    loop {
        accept().await?;
    }
}

async fn echo_all(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    with_timeouts: bool,
) -> io::Result<()> {
    let mut buf = [0; 1500];
    loop {
        let len = match with_timeouts {
            true => timeout(MINUTE, stream.read(&mut buf)).await??,
            false => stream.read(&mut buf).await?,
        };
        match (len, with_timeouts) {
            (0, _) => return Ok(()),
            (_, true) => timeout(MINUTE, stream.write_all(&buf[..len])).await??,
            (_, false) => stream.write_all(&buf[..len]).await?,
        }
    }
}

/// A connection of a protocol, and its peer.
async fn connected(protocol: impl Protocol + 'static) -> io::Result<(Transport, StdUnixStream)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    let made = connect_accepted_socket(|| protocol, ours, AcceptedOptions::new()).await?;
    Ok((made.0, theirs))
}

/// As many times as `count` says, on both faces.
async fn slices_from_a_task(count: u64) -> io::Result<()> {
    let (transport, mut peer) = connected(on_data(|_, _| Ok(()))).await?;
    let (a, b) = UnixStream::pair()?;
    let data = [IoSlice::new(b"slice"); 100];
    let mut buf = [0; 500];
    for _ in 0..count {
        transport.writelines(&data)?;
        peer.read_exact(&mut buf)?;
        assert_eq!(a.write_vectored(&data).await?, 500);
        assert_eq!(b.read(&mut buf).await?, 500);
    }
    Ok(())
}

/// So many MiB from another thread.
async fn bulk(
    mebibytes: u64,
    (ours, theirs): (impl Into<Socket>, impl Write + Send + 'static),
) -> io::Result<()> {
    let mut theirs = theirs;
    let writing = thread::spawn(move || {
        let data = vec![7; 1 << 20];
        (0..mebibytes).try_for_each(|_| theirs.write_all(&data))
    });
    let sink = || on_data(|_, _| Ok(()));
    let made = connect_accepted_socket(sink, ours, AcceptedOptions::new()).await?;
    made.0.closed().await?;
    writing.join().unwrap()
}

/// The same with a socket.
async fn bulk_socket(mebibytes: u64) -> io::Result<()> {
    let (ours, mut theirs) = StdUnixStream::pair()?;
    let writing = thread::spawn(move || {
        let data = vec![7; 1 << 20];
        (0..mebibytes).try_for_each(|_| theirs.write_all(&data))
    });
    let ours = UnixStream::try_from(ours)?;
    let mut buf = vec![0; 1 << 16];
    while ours.read(&mut buf).await? > 0 {}
    writing.join().unwrap()
}

fn tcp_pair() -> io::Result<(StdTcpStream, StdTcpStream)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let client = StdTcpStream::connect(listener.local_addr()?)?;
    Ok((listener.accept()?.0, client))
}

/// Data that a paused protocol does not read; the peer may have hung up behind it.
async fn unread(time: Duration, gone: bool) -> io::Result<()> {
    let nobody = on_data(|_, _| panic!("reading is paused"));
    let (transport, mut peer) = connected(nobody).await?;
    // It waits for data already.
    yield_now().await;
    transport.pause_reading();
    peer.write_all(b"unread")?;
    let _peer = (!gone).then_some(peer);
    sleep(time).await;
    assert!(!transport.is_closing(), "nobody has looked");
    Ok(())
}

/// The same of a socket, which somebody has waited for in vain.
async fn unread_socket(time: Duration, gone: bool) -> io::Result<()> {
    let (ours, mut peer) = StdUnixStream::pair()?;
    let ours = UnixStream::try_from(ours)?;
    let nothing = timeout(Duration::from_millis(1), ours.read(&mut [0; 16])).await;
    assert!(nothing.is_err(), "there is nothing to read yet");
    peer.write_all(b"unread")?;
    let _peer = (!gone).then_some(peer);
    sleep(time).await;
    assert_eq!(ours.read(&mut [0; 16]).await?, 6);
    Ok(())
}

/// Stays open after the peer's end, and the peer hangs up.
struct KeepOpen;

impl Protocol for KeepOpen {
    fn eof_received(&mut self, _: &Transport) -> io::Result<bool> {
        Ok(true)
    }
}

async fn kept_open(time: Duration, own_end: bool) -> io::Result<()> {
    let (unix, peer) = connected(KeepOpen).await?;
    let (ours, tcp_peer) = tcp_pair()?;
    let made = connect_accepted_socket(|| KeepOpen, ours, AcceptedOptions::new()).await?;
    for transport in [&unix, &made.0] {
        if own_end {
            transport.write_eof()?;
        }
    }
    drop((peer, tcp_peer));
    sleep(time).await;
    assert!(!unix.is_closing() && !made.0.is_closing());
    Ok(())
}

/// More is queued than the peer takes.
async fn full(time: Duration) -> io::Result<()> {
    let (transport, _peer) = connected(KeepOpen).await?;
    transport.write(&vec![7; 1 << 20])?;
    sleep(time).await;
    assert!(transport.write_buffer_size() > 0);
    Ok(())
}

async fn full_socket(time: Duration) -> io::Result<()> {
    let (ours, _theirs) = UnixStream::pair()?;
    while ours.try_write(&[7; 1 << 16]).is_ok() {}
    let written = timeout(time, ours.write(b"too much")).await;
    assert!(written.is_err(), "there is no room");
    Ok(())
}

/// A server that has no descriptor for the one who waits.
async fn starving(time: Duration) -> io::Result<()> {
    let name = name();
    let options = UnixServerOptions::new().path(&name);
    let server = create_unix_server(|| on_data(echo), options).await?;
    let addr = StdUnixAddr::from_abstract_name(&name[1..])?;
    let first = StdUnixStream::connect_addr(&addr)?;
    while server.connections() == 0 {
        yield_now().await;
    }
    allow_descriptors(64);
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    hoard.pop();
    let _second = StdUnixStream::connect_addr(&addr)?;
    while server.accept_errors() == 0 {
        yield_now().await;
    }
    sleep(time).await;
    assert_eq!(server.connections(), 1);
    drop(first);
    Ok(())
}

#[test]
fn an_endpoint_echoes_with_three_calls() {
    let (mut unix, mut tcp) = (example("unix_echo_server"), example("tcp_echo_server"));
    unix.arg(name());
    tcp.arg("127.0.0.1:0");
    for server in [unix, tcp] {
        let calls = calls_per_message(&server, 1);
        assert!(calls <= limit(3.1, 9.1), "{server:?}: {calls}");
    }
}

/// A message there and back costs three calls.
fn costs_three_calls(roles: &[&str]) {
    for name in roles {
        let calls = calls_per_message(&role(name), 1);
        assert!(calls <= limit(3.1, 9.1), "{name}: {calls}");
    }
}

#[test]
fn a_pending_timer_costs_no_calls() {
    costs_three_calls(&["unix_endpoint", "tcp_endpoint"]);
}

#[test]
fn a_socket_echoes_with_three_calls() {
    costs_three_calls(&["unix_socket", "tcp_socket"]);
}

#[test]
fn timeouts_that_do_not_fire_cost_no_calls() {
    costs_three_calls(&["unix_socket_with_timeouts", "tcp_socket_with_timeouts"]);
}

#[test]
fn a_thousand_idle_connections_cost_no_calls() {
    costs_three_calls(&["unix_endpoint_among_many", "tcp_endpoint_among_many"]);
    costs_three_calls(&["unix_socket_among_many", "tcp_socket_among_many"]);
}

#[test]
fn what_a_callback_writes_goes_out_together() {
    for (name, reply) in [("many_writes", 50), ("slices", 100)] {
        let calls = calls_per_message(&role(name), reply);
        assert!(calls <= limit(3.1, 9.1), "{name}: {calls}");
    }
}

#[test]
fn slices_are_written_with_one_call() {
    const COUNT: u64 = 100;
    let calls = calls_for("slices_from_a_task", COUNT);
    let writes = calls.of(&["write", "writev", "sendto", "sendmsg", "sendmmsg"]);
    // On both faces.
    assert!((2 * COUNT..2 * COUNT + 10).contains(&writes), "{calls:?}");
}

#[test]
fn bulk_is_read_without_waiting_each_time() {
    for name in ["bulk_over_unix", "bulk_over_tcp", "bulk_to_a_socket"] {
        let calls = calls_for(name, 64);
        let reads = calls.of(&["recvfrom", "recvmsg", "readv"]);
        let waits = calls.of(&["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"]);
        assert!(reads >= 64 && waits * 4 <= reads, "{name}: {calls:?}");
    }
}

#[test]
fn nobody_is_woken_for_what_is_left_unread() {
    for name in [
        "unread",
        "unread_and_gone",
        "unread_socket",
        "unread_socket_and_gone",
    ] {
        let calls = calls_for(name, 300).total();
        assert!(calls < 50, "{name}: {calls}");
    }
}

#[test]
fn nobody_is_woken_for_a_peer_that_is_known_to_be_gone() {
    for name in ["kept_open", "ended_both_ways"] {
        let calls = calls_for(name, 300).total();
        assert!(calls < 50, "{name}: {calls}");
    }
}

#[test]
fn a_peer_that_reads_nothing_is_not_pestered() {
    for name in ["full", "full_socket"] {
        let calls = calls_for(name, 300).total();
        assert!(calls < 50, "{name}: {calls}");
    }
}

#[test]
fn a_server_without_descriptors_rests() {
    let calls = calls_for("starving", 300).total();
    assert!(calls < 50, "{calls}");
}
