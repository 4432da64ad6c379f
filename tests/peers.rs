//! Datagrams to and from what others have written: asyncio and socat; and the examples' own
//! manners on the command line.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;

use std::io;
use std::net::UdpSocket;
use std::path::Path;
use std::time::Instant;

use coracle::time::timeout;
use coracle::{create_datagram_endpoint, Address, DatagramOptions};
use coracle::{DatagramProtocol, DatagramTransport};
use process::{example, python, run, tool, Process, LIMIT};

/// A name that nothing else on the machine has.
#[cfg(target_os = "linux")]
fn abstract_name(what: &str) -> String {
    format!("@coracle-test-{}-{what}", std::process::id())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// Exchanges 1000 datagrams between asyncio and an echo server.
fn asyncio_exchanges(server: &str, local: Option<&str>) {
    let done = run(python("echo_client.py").args(["1000", server]).args(local));
    assert!(done.status.success(), "{done:?}");
    assert_eq!(done.stdout, "1000 exchanged\n");
}

#[test]
fn asyncio_clients_of_the_udp_server() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let (_server, addr) = Process::server(example("udp_echo_server").arg(addr));
        asyncio_exchanges(&addr, None);
    }
}

#[test]
fn asyncio_clients_of_the_unix_server() {
    let folder = tempfile::tempdir().unwrap();
    let (path, local) = (folder.path().join("server"), folder.path().join("client"));
    let (_server, addr) = Process::server(example("unix_datagram_echo_server").arg(&path));
    assert_eq!(addr, text(&path));
    asyncio_exchanges(&addr, Some(text(&local)));
}

#[cfg(target_os = "linux")]
#[test]
fn asyncio_clients_of_the_abstract_server() {
    let name = abstract_name("asyncio-server");
    let (_server, addr) = Process::server(example("unix_datagram_echo_server").arg(&name));
    assert_eq!(addr, name);
    asyncio_exchanges(&addr, Some(&abstract_name("asyncio-client")));
}

/// Sends what it is given, one after the other, and checks the replies.
struct Client {
    /// What comes in front of every reply.
    prefix: &'static [u8],
    left: Vec<Vec<u8>>,
    errors: Vec<io::Error>,
}

impl Client {
    fn send_next(&mut self, transport: &DatagramTransport) {
        match self.left.last() {
            Some(data) => transport.send(data).unwrap(),
            None => transport.close(),
        }
    }
}

impl DatagramProtocol for Client {
    fn connection_made(&mut self, transport: &DatagramTransport) {
        self.send_next(transport);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], _: &Address) {
        let sent = self.left.pop().unwrap_or_default();
        assert!(data.strip_prefix(self.prefix) == Some(&sent[..]));
        self.send_next(transport);
    }

    fn error_received(&mut self, transport: &DatagramTransport, error: io::Error) {
        self.errors.push(error);
        transport.close();
    }
}

/// Exchanges `sent` between a coracle endpoint and an echo server.
fn endpoint_exchanges(options: DatagramOptions, prefix: &'static [u8], sent: Vec<Vec<u8>>) {
    let client = Client {
        prefix,
        left: sent,
        errors: Vec::new(),
    };
    let (client, result) = coracle::block_on(timeout(LIMIT, async {
        let (_, handle) = create_datagram_endpoint(|| client, options).await?;
        io::Result::Ok(handle.lost().await)
    }))
    .expect("the exchange hangs")
    .unwrap();
    result.unwrap();
    assert_eq!(client.left.len(), 0, "{:?}", client.errors);
}

/// Elsewhere the systems' own limits are low.
const LARGE_UDP: usize = if cfg!(target_os = "linux") {
    65_000
} else {
    9_000
};
const LARGE_UNIX: usize = if cfg!(target_os = "linux") {
    150_000
} else {
    2_000
};

fn of_many_sizes(largest: usize) -> Vec<Vec<u8>> {
    (0..200)
        .map(|number: usize| {
            let size = match number % 20 {
                0 => 0,
                1 => largest,
                _ => number * 7,
            };
            (0..size).map(|at| (at * 31 + number) as u8).collect()
        })
        .collect()
}

fn asyncio_server(addr: &str) -> (Process, String) {
    Process::server(python("echo_server.py").arg(addr))
}

#[test]
fn endpoints_as_clients_of_asyncio_over_udp() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let (_server, addr) = asyncio_server(addr);
        let options = DatagramOptions::new().remote_addr(addr);
        endpoint_exchanges(options, b"echo:", of_many_sizes(LARGE_UDP));
    }
}

#[test]
fn endpoints_as_clients_of_asyncio_over_unix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let (_server, addr) = asyncio_server(text(&path));
    let options = DatagramOptions::new()
        .local_addr(folder.path().join("client"))
        .remote_addr(addr);
    endpoint_exchanges(options, b"echo:", of_many_sizes(LARGE_UNIX));
}

#[cfg(target_os = "linux")]
#[test]
fn endpoints_as_clients_of_asyncio_over_abstract_names() {
    // The one with a name of its own, the other with one that the system chooses.
    let locals: [coracle::net::Target; 2] = [
        abstract_name("endpoint-client").into(),
        Address::UNNAMED.into(),
    ];
    let (_server, addr) = asyncio_server(&abstract_name("asyncio-server-2"));
    for local in locals {
        let options = DatagramOptions::new()
            .local_addr(local)
            .remote_addr(&addr[..]);
        endpoint_exchanges(options, b"echo:", of_many_sizes(LARGE_UNIX));
    }
}

fn socat() -> std::process::Command {
    let mut command = tool("socat", "socat");
    // Large enough for one line; nothing to do with the datagrams' limits.
    command.args(["-b", "8192"]);
    command
}

/// Sends lines through socat to an echo server.
fn socat_exchanges(address: &str) {
    let mut client = Process::start(socat().args(["STDIO", address]));
    for line in ["hello", "a somewhat longer line", "bye"] {
        client.write(format!("{line}\n").as_bytes());
        assert_eq!(client.line(), line, "through {address}");
    }
}

#[test]
fn socat_sends_udp() {
    for (local, kind) in [("127.0.0.1:0", "UDP4"), ("[::1]:0", "UDP6")] {
        let (_server, addr) = Process::server(example("udp_echo_server").arg(local));
        socat_exchanges(&format!("{kind}:{addr}"));
        socat_exchanges(&format!("{kind}-SENDTO:{addr}"));
    }
}

#[test]
fn socat_sends_to_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let (path, local) = (folder.path().join("server"), folder.path().join("client"));
    let (_server, addr) = Process::server(example("unix_datagram_echo_server").arg(path));
    socat_exchanges(&format!("UNIX-SENDTO:{addr},bind={}", text(&local)));
}

#[cfg(target_os = "linux")]
#[test]
fn socat_sends_to_an_abstract_name() {
    let (server, client) = (abstract_name("socat-1"), abstract_name("socat-2"));
    let (_server, addr) = Process::server(example("unix_datagram_echo_server").arg(server));
    socat_exchanges(&format!(
        "ABSTRACT-SENDTO:{},bind={}",
        &addr[1..],
        &client[1..]
    ));
}

#[test]
fn a_nameless_sender_gets_no_reply_and_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let (path, local) = (folder.path().join("server"), folder.path().join("client"));
    let (_server, addr) = Process::server(example("unix_datagram_echo_server").arg(path));
    let nameless = std::os::unix::net::UnixDatagram::unbound().unwrap();
    nameless.send_to(b"anybody?", &addr).unwrap();
    socat_exchanges(&format!("UNIX-SENDTO:{addr},bind={}", text(&local)));
}

/// Starts a socat that echoes at a path, and waits until it is there.
fn socat_at(address: &str, path: &Path) -> Process {
    let mut server = Process::start(socat().args([address, "PIPE"]));
    let since = Instant::now();
    while !path.exists() {
        assert!(server.is_running(), "socat ended");
        assert!(since.elapsed() < LIMIT, "socat does not bind");
        std::thread::yield_now();
    }
    server
}

#[test]
fn socat_receives_at_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let _server = socat_at(&format!("UNIX-RECVFROM:{},fork", text(&path)), &path);
    let options = DatagramOptions::new()
        .local_addr(folder.path().join("client"))
        .remote_addr(&path);
    let lines = (1..50).map(|size| vec![b'x'; size * 20]).collect();
    endpoint_exchanges(options, b"", lines);
}

fn client_says(addr: &str, message: &str) -> (Option<i32>, String, String) {
    let done = run(example("udp_echo_client").args([addr, message]));
    (done.status.code(), done.stdout, done.stderr)
}

#[test]
fn the_udp_client_prints_the_reply() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let (_server, addr) = asyncio_server(addr);
        let (code, stdout, _) = client_says(&addr, "grüße");
        assert_eq!((code, &stdout[..]), (Some(0), "echo:grüße\n"));
        let (code, stdout, _) = client_says(&addr, "");
        assert_eq!((code, &stdout[..]), (Some(0), "echo:\n"));
        let port = addr.rsplit_once(':').unwrap().1;
        if addr.starts_with("127") {
            let (code, stdout, _) = client_says(&format!("localhost:{port}"), "by name");
            assert_eq!((code, &stdout[..]), (Some(0), "echo:by name\n"));
        }
    }
}

#[test]
fn the_udp_client_says_that_nobody_replies() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let (code, stdout, stderr) = client_says(&addr, "hello");
    assert_eq!((code, &stdout[..]), (Some(1), ""));
    assert!(stderr.contains(&addr), "{stderr}");

    // The port is taken, and yet refuses: the socket is connected to somebody else.
    silent.connect("127.0.0.1:9").unwrap();
    let (code, stdout, stderr) = client_says(&addr, "hello");
    assert_eq!((code, &stdout[..]), (Some(1), ""));
    assert!(stderr.to_lowercase().contains("refused"), "{stderr}");
}

/// The example fails at once, and its message holds `said`.
fn assert_fails(name: &str, args: &[&str], said: &str) {
    let done = run(example(name).args(args));
    assert!(done.status.code().is_some_and(|code| code != 0), "{done:?}");
    assert_eq!(done.stdout, "", "{name} {args:?}");
    assert!(done.stderr.contains(said), "{name} {args:?}: {done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}

#[test]
fn missing_arguments_are_answered_with_the_usage() {
    assert_fails(
        "udp_echo_client",
        &[],
        "usage: udp_echo_client ADDR MESSAGE",
    );
    assert_fails("udp_echo_client", &["127.0.0.1:9"], "usage: ");
    let usage = "usage: unix_datagram_echo_server PATH";
    assert_fails("unix_datagram_echo_server", &[], usage);
    let usage = "usage: dns_forwarder LISTEN_ADDR UPSTREAM_ADDR";
    assert_fails("dns_forwarder", &[], usage);
    assert_fails("dns_forwarder", &["127.0.0.1:0"], usage);
}

#[test]
fn what_is_no_address_is_named() {
    for text in ["nonsense", "127.0.0.1", "127.0.0.1:70000", "::1", ":53"] {
        assert_fails("udp_echo_server", &[text], text);
        assert_fails("udp_echo_client", &[text, "hello"], text);
        assert_fails("dns_forwarder", &[text, "127.0.0.1:9"], text);
        assert_fails("dns_forwarder", &["127.0.0.1:0", text], text);
    }
}

#[test]
fn an_address_in_use_is_named() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap().to_string();
    assert_fails("udp_echo_server", &[&addr], &addr);
    assert_fails("dns_forwarder", &[&addr, "127.0.0.1:9"], &addr);
}

#[test]
fn an_address_that_is_not_ours_is_named() {
    // For documentation: no machine has it (RFC 5737), and nothing is sent to it here.
    assert_fails("udp_echo_server", &["192.0.2.1:0"], "192.0.2.1");
}

#[test]
fn unix_paths_that_cannot_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = "unix_datagram_echo_server";

    let missing = folder.path().join("missing").join("server");
    assert_fails(server, &[text(&missing)], text(&missing));

    // Only sockets are taken over.
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert_fails(server, &[text(&file)], text(&file));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");

    let long = "x".repeat(200);
    let path = folder.path().join(&long);
    assert_fails(server, &[text(&path)], &long);
    assert_fails(server, &[""], "empty");
    #[cfg(target_os = "linux")]
    assert_fails(server, &[&format!("@{long}")], &long);
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_in_use_is_named() {
    let name = abstract_name("in-use");
    let _first = Process::server(example("unix_datagram_echo_server").arg(&name));
    assert_fails("unix_datagram_echo_server", &[&name], &name);
}

#[test]
fn a_server_takes_over_the_socket_of_its_predecessor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    for number in 0..2 {
        let (_server, addr) = Process::server(example("unix_datagram_echo_server").arg(&path));
        let local = folder.path().join(format!("client-{number}"));
        socat_exchanges(&format!("UNIX-SENDTO:{addr},bind={}", text(&local)));
    }
}
