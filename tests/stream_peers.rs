//! Connections to and from what others have written: asyncio and socat.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use coracle::time::timeout;
use coracle::{create_connection, create_server, create_unix_connection, create_unix_server};
use coracle::{Protocol, Server, Transport};
use coracle::{TcpOptions, TcpServerOptions, UnixOptions, UnixServerOptions};
use process::{example, in_guest, python, run, tool, Process, LIMIT};

/// More than all buffers on the way hold.
const LARGE: usize = 10 << 20;
const MEDIUM: usize = 1 << 20;
/// What the servers' numbers begin with.
const SERVERS: u32 = 1 << 24;

/// So many bytes that do not repeat: numbers of four bytes.
fn numbers(first: u32, size: usize) -> Vec<u8> {
    let count = size as u32 / 4;
    (first..first + count).flat_map(u32::to_ne_bytes).collect()
}

fn backwards(mut data: Vec<u8>) -> Vec<u8> {
    data.reverse();
    data
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A name that nothing else on the machine has.
#[cfg(target_os = "linux")]
fn abstract_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("@coracle-stream-{}-{count}", std::process::id())
}

/// Runs a test over TCP and over a Unix socket.
fn over_both(test: impl Fn(&str)) {
    test("127.0.0.1:0");
    if in_guest() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    test(text(&folder.path().join("server")));
}

/// Runs a test at an address of each kind that a server can have.
fn everywhere(test: impl Fn(&str)) {
    over_both(&test);
    test("[::1]:0");
    #[cfg(target_os = "linux")]
    if !in_guest() {
        test(&abstract_name());
    }
}

fn is_unix(addr: &str) -> bool {
    addr.starts_with(['/', '@'])
}

fn asyncio(role: &str, addr: &str, scenario: &str, size: usize) -> Command {
    let mut command = python("stream_peer.py");
    command.args([role, addr, scenario, &size.to_string()]);
    command
}

fn asyncio_server(addr: &str, scenario: &str, size: usize) -> (Process, String) {
    Process::server(&mut asyncio("serve", addr, scenario, size))
}

/// An asyncio client does its part, and receives so many bytes, the right ones.
fn asyncio_connects(addr: &str, scenario: &str, size: usize) {
    let done = run(&mut asyncio("connect", addr, scenario, size));
    assert_eq!(done.stdout, format!("{scenario} {size}\n"), "{done:?}");
    assert!(done.status.success(), "{done:?}");
}

/// The example server at an address of any kind.
fn echo_server(addr: &str) -> (Process, String) {
    let name = match is_unix(addr) {
        true => "unix_echo_server",
        false => "tcp_echo_server",
    };
    Process::server(example(name).arg(addr))
}

/// Receives to the end; sends what it has to as fast as the peer takes it, meanwhile or, backwards,
/// as an answer.
#[derive(Default)]
struct Peer {
    send: Vec<u8>,
    answers: bool,
    received: Vec<u8>,
    sent: Rc<Cell<bool>>,
    ended: Rc<Cell<bool>>,
    pauses: usize,
    resumes: usize,
    /// Where a server's connections leave what they have received.
    results: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Peer {
    fn sending(data: Vec<u8>) -> Peer {
        Peer {
            send: data,
            ..Peer::default()
        }
    }

    fn answering() -> Peer {
        Peer {
            answers: true,
            ..Peer::default()
        }
    }
}

/// Sends it all and ends the direction, with no more in the queue than the limit and a piece.
async fn feed(transport: &Transport, data: &[u8]) -> io::Result<()> {
    let (_, high) = transport.write_buffer_limits();
    for (number, piece) in data.chunks(50_000).enumerate() {
        // Pieces of many sizes.
        for part in piece.chunks(1 + (number + 1) * 977 % 20_000) {
            transport.write(part)?;
            assert!(transport.write_buffer_size() <= high + part.len());
            transport.drain().await?;
        }
    }
    transport.write_eof()
}

impl Protocol for Peer {
    fn connection_made(&mut self, transport: &Transport) {
        if self.answers {
            return;
        }
        let (transport, data) = (transport.clone(), std::mem::take(&mut self.send));
        let (sent, ended) = (self.sent.clone(), self.ended.clone());
        coracle::spawn(async move {
            if feed(&transport, &data).await.is_ok() {
                sent.set(true);
            }
            if ended.get() {
                transport.close();
            }
        })
        .detach();
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) -> io::Result<()> {
        self.received.extend(data);
        Ok(())
    }

    fn eof_received(&mut self, transport: &Transport) -> io::Result<bool> {
        self.ended.set(true);
        if self.answers {
            transport.write(&backwards(self.received.clone()))?;
            return Ok(false);
        }
        Ok(!self.sent.get())
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.pauses += 1;
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.resumes += 1;
    }

    fn connection_lost(&mut self, _: &Transport, _: Option<&io::Error>) {
        let received = self.received.clone();
        self.results.borrow_mut().push(received);
    }
}

/// Runs a connection to its end.
fn connects(addr: &str, peer: Peer) -> (Peer, io::Result<()>) {
    coracle::block_on(timeout(LIMIT, async {
        let (_, handle) = match is_unix(addr) {
            true => create_unix_connection(|| peer, UnixOptions::new().path(addr)).await?,
            false => create_connection(|| peer, TcpOptions::new().remote_addr(addr)).await?,
        };
        io::Result::Ok(handle.lost().await)
    }))
    .expect("the exchange hangs")
    .unwrap()
}

/// Runs a connection to its good end, and gives what it has received.
fn receives(addr: &str, peer: Peer) -> Vec<u8> {
    let (peer, result) = connects(addr, peer);
    result.unwrap();
    assert!(peer.pauses == peer.resumes || peer.answers);
    peer.received
}

async fn server(addr: &str, factory: impl FnMut() -> Peer + 'static) -> io::Result<Server> {
    match is_unix(addr) {
        true => create_unix_server(factory, UnixServerOptions::new().path(addr)).await,
        false => create_server(factory, TcpServerOptions::new().local_addr(addr)).await,
    }
}

/// Has an asyncio client do its part with a server of such peers, and gives what the server has
/// received.
fn serves(
    addr: &str,
    scenario: &'static str,
    size: usize,
    peer: impl Fn() -> Peer + 'static,
) -> Vec<u8> {
    let results: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let leave = Rc::clone(&results);
    coracle::block_on(timeout(LIMIT, async {
        let factory = move || Peer {
            results: leave.clone(),
            ..peer()
        };
        let server = server(addr, factory).await.unwrap();
        let addr = server.local_addrs()[0].to_string();
        smol::unblock(move || asyncio_connects(&addr, scenario, size)).await;
        server.close();
        server.wait_closed().await;
    }))
    .expect("the exchange hangs");
    let mut received = results.take();
    assert_eq!(received.len(), 1);
    received.remove(0)
}

#[test]
fn asyncio_clients_get_their_echo() {
    everywhere(|addr| {
        let (_server, addr) = echo_server(addr);
        asyncio_connects(&addr, "echo", 4);
        asyncio_connects(&addr, "echo", LARGE);
    });
}

#[test]
fn connections_get_their_echo_from_asyncio() {
    everywhere(|addr| {
        let (server, addr) = asyncio_server(addr, "echo", 0);
        for size in [4, LARGE] {
            let data = numbers(0, size);
            assert!(receives(&addr, Peer::sending(data.clone())) == data);
            assert_eq!(server.line(), format!("echo {size}"));
        }
    });
}

#[test]
fn both_ends_send_at_once_to_an_asyncio_server() {
    over_both(|addr| {
        let (asyncio, addr) = asyncio_server(addr, "swap", LARGE);
        let received = receives(&addr, Peer::sending(numbers(0, LARGE)));
        assert!(received == numbers(SERVERS, LARGE));
        assert_eq!(asyncio.line(), format!("swap {LARGE}"));
    });
}

#[test]
fn both_ends_send_at_once_to_an_asyncio_client() {
    over_both(|addr| {
        let ours = || Peer::sending(numbers(SERVERS, LARGE));
        let received = serves(addr, "swap", LARGE, ours);
        assert!(received == numbers(0, LARGE));
    });
}

#[test]
fn an_asyncio_server_answers_after_our_end() {
    everywhere(|addr| {
        let (asyncio, addr) = asyncio_server(addr, "answer", 0);
        let data = numbers(0, MEDIUM);
        assert!(receives(&addr, Peer::sending(data.clone())) == backwards(data));
        assert_eq!(asyncio.line(), format!("answer {MEDIUM}"));
    });
}

#[test]
fn we_answer_an_asyncio_server_after_its_end() {
    everywhere(|addr| {
        let (asyncio, addr) = asyncio_server(addr, "ask", MEDIUM);
        assert!(receives(&addr, Peer::answering()) == numbers(0, MEDIUM));
        assert_eq!(asyncio.line(), format!("ask {MEDIUM}"));
    });
}

#[test]
fn an_asyncio_client_answers_after_our_end() {
    everywhere(|addr| {
        let ours = || Peer::sending(numbers(0, MEDIUM));
        let received = serves(addr, "answer", MEDIUM, ours);
        assert!(received == backwards(numbers(0, MEDIUM)));
    });
}

#[test]
fn we_answer_an_asyncio_client_after_its_end() {
    everywhere(|addr| {
        let received = serves(addr, "ask", MEDIUM, Peer::answering);
        assert!(received == numbers(0, MEDIUM));
    });
}

#[test]
fn many_asyncio_clients_at_a_time_get_their_own_echo() {
    over_both(|addr| {
        let (_server, addr) = echo_server(addr);
        std::thread::scope(|scope| {
            for number in 1..=8 {
                let addr = &addr;
                scope.spawn(move || asyncio_connects(addr, "echo", number * 40_000));
            }
        });
    });
}

#[test]
fn a_client_that_is_killed_does_no_harm() {
    over_both(|addr| {
        let (mut server, addr) = echo_server(addr);
        for _ in 0..2 {
            // In the middle of something, if it has come that far.
            let client = Process::start(&mut asyncio("connect", &addr, "echo", 1 << 24));
            asyncio_connects(&addr, "echo", MEDIUM);
            drop(client);
        }
        asyncio_connects(&addr, "echo", MEDIUM);
        assert!(server.is_running());
    });
}

#[test]
fn a_connection_that_asyncio_breaks_off_ends_with_a_reset() {
    let (_asyncio, addr) = asyncio_server("127.0.0.1:0", "reset", 0);
    /// Says one word, and waits.
    struct Word;
    impl Protocol for Word {
        fn connection_made(&mut self, transport: &Transport) {
            transport.write(b"!").unwrap();
        }
    }
    let result = coracle::block_on(timeout(LIMIT, async {
        let options = TcpOptions::new().remote_addr(&addr[..]);
        let (transport, _) = create_connection(|| Word, options).await.unwrap();
        transport.closed().await
    }));
    let error = result.expect("the connection hangs").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Gives up by itself if nothing happens any more.
fn socat() -> Command {
    let mut command = tool("socat", "socat");
    command.args(["-T", "60"]);
    command
}

/// The address of a server as socat spells it.
fn for_socat(addr: &str) -> String {
    match (addr.strip_prefix('@'), addr.starts_with('[')) {
        (Some(name), _) => format!("ABSTRACT-CONNECT:{name}"),
        (None, true) => format!("TCP6:{addr}"),
        (None, false) if is_unix(addr) => format!("UNIX-CONNECT:{addr}"),
        (None, false) => format!("TCP4:{addr}"),
    }
}

/// What a program prints that reads this and then its end.
fn piped(command: &mut Command, input: Vec<u8>) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    writer.join().unwrap().unwrap();
    output.stdout
}

#[test]
fn socat_exchanges_lines() {
    everywhere(|addr| {
        let (_server, addr) = echo_server(addr);
        let mut client = Process::start(socat().args(["-", &for_socat(&addr)]));
        for line in ["hello", "a somewhat longer line", "bye"] {
            client.write(format!("{line}\n").as_bytes());
            assert_eq!(client.line(), line, "through {addr}");
        }
    });
}

#[test]
fn socat_gets_its_echo_after_its_end() {
    everywhere(|addr| {
        let (_server, addr) = echo_server(addr);
        for size in [0, 8, MEDIUM] {
            let data = numbers(0, size);
            // It waits for so long after its end.
            let command = &mut socat();
            let echo = piped(command.args(["-t30", "-", &for_socat(&addr)]), data.clone());
            assert!(echo == data, "{} of {size} bytes from {addr}", echo.len());
        }
    });
}

#[test]
fn we_answer_socat_after_its_end() {
    everywhere(|addr| {
        let data = numbers(0, MEDIUM);
        let expected = backwards(data.clone());
        coracle::block_on(timeout(LIMIT, async {
            let server = server(addr, Peer::answering).await.unwrap();
            let addr = server.local_addrs()[0].to_string();
            let mut client = socat();
            client.args(["-t30", "-", &for_socat(&addr)]);
            let answer = smol::unblock(move || piped(&mut client, data)).await;
            assert!(answer == expected, "{} bytes from {addr}", answer.len());
            server.close();
            server.wait_closed().await;
        }))
        .expect("the exchange hangs");
    });
}

/// Starts a socat that echoes at a path, and waits until somebody can connect.
fn socat_at(path: &Path) -> Process {
    let listen = format!("UNIX-LISTEN:{},fork", text(path));
    let mut server = Process::start(socat().args(["-t30", &listen, "EXEC:cat"]));
    let since = Instant::now();
    while std::os::unix::net::UnixStream::connect(path).is_err() {
        assert!(server.is_running(), "socat ended");
        assert!(since.elapsed() < LIMIT, "socat does not listen");
        std::thread::yield_now();
    }
    server
}

#[test]
fn connections_get_their_echo_from_socat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let _server = socat_at(&path);
    for size in [4, LARGE] {
        let data = numbers(0, size);
        assert!(receives(text(&path), Peer::sending(data.clone())) == data);
    }
    let done = run(example("unix_echo_client").args([text(&path), "hello"]));
    assert_eq!(done.stdout, "hello\n", "{done:?}");
}
