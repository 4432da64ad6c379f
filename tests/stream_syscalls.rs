//! System calls are a budget: what a message there and back over a connection costs, and what goes
//! together.
#![cfg(target_os = "linux")]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/trace.rs"]
mod trace;

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream as StdTcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as StdUnixAddr, UnixStream as StdUnixStream};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use coracle::net::{Socket, TcpListener, UnixListener, UnixStream};
use coracle::time::{sleep, timeout};
use coracle::{
    connect_accepted_socket, create_server, create_unix_server, on_data, spawn, yield_now,
    AcceptedOptions, Address, BufferedProtocol, Server, TcpServerOptions, Transport,
    UnixServerOptions,
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
            "bulk_to_a_socket" => bulk_to_a_socket(amount).await,
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

/// As many times as `count` says, on both faces.
async fn slices_from_a_task(count: u64) -> io::Result<()> {
    let (ours, mut peer) = StdUnixStream::pair()?;
    let nobody = || on_data(|_, _| Ok(()));
    let made = connect_accepted_socket(nobody, ours, AcceptedOptions::new()).await?;
    let (a, b) = UnixStream::pair()?;
    let data = [IoSlice::new(b"slice"); 100];
    let mut buf = [0; 500];
    for _ in 0..count {
        made.0.writelines(&data)?;
        peer.read_exact(&mut buf)?;
        assert_eq!(a.write_vectored(&data).await?, 500);
        assert_eq!(b.read(&mut buf).await?, 500);
    }
    Ok(())
}

/// Reads a page at a time, so that there is more to read however slow the writer is.
struct Pages([u8; 4096]);

impl BufferedProtocol for Pages {
    fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
        &mut self.0
    }

    fn buffer_updated(&mut self, _: &Transport, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// So many MiB.
fn writing(mebibytes: u64, mut to: impl Write + Send + 'static) -> JoinHandle<io::Result<()>> {
    let data = vec![7; 1 << 20];
    thread::spawn(move || (0..mebibytes).try_for_each(|_| to.write_all(&data)))
}

async fn bulk(
    mebibytes: u64,
    (ours, theirs): (impl Into<Socket>, impl Write + Send + 'static),
) -> io::Result<()> {
    let writing = writing(mebibytes, theirs);
    let protocol = || Pages([0; 4096]);
    let made = connect_accepted_socket(protocol, ours, AcceptedOptions::new()).await?;
    made.0.closed().await?;
    writing.join().unwrap()
}

async fn bulk_to_a_socket(mebibytes: u64) -> io::Result<()> {
    let (ours, theirs) = StdUnixStream::pair()?;
    let writing = writing(mebibytes, theirs);
    let ours = UnixStream::try_from(ours)?;
    while ours.read(&mut [0; 4096]).await? > 0 {}
    writing.join().unwrap()
}

fn tcp_pair() -> io::Result<(StdTcpStream, StdTcpStream)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let client = StdTcpStream::connect(listener.local_addr()?)?;
    Ok((listener.accept()?.0, client))
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
        let calls = calls_for(name, 16);
        let reads = calls.of(&["recvfrom", "recvmsg", "readv"]);
        let waits = calls.of(&["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"]);
        assert!(reads > 4_000 && waits * 4 <= reads, "{name}: {calls:?}");
    }
}
