//! TLS with what others have written: OpenSSL over Unix sockets and TCP, asyncio over Unix sockets.
//! With `CORACLE_TEST_GUESTS`, the examples are components.
#![cfg(all(unix, feature = "tls"))]

mod common;
#[path = "peers/process.rs"]
mod process;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::stream::{Event, Log, Recorder};
use common::tls::{client_of, server_of, BOTH};
use common::within;
use coracle::{
    create_connection, create_server, create_unix_connection, create_unix_server, spawn, Address,
    Protocol, StartTlsOptions, TcpOptions, TcpServerOptions, Transport, UnixOptions,
    UnixServerOptions,
};
use process::{example, in_guest, python, run, tool, Done, Process, LIMIT};

fn file(name: &str) -> PathBuf {
    // Relative, since guests see this folder only.
    Path::new("tests").join("tls").join(name)
}

/// An echo server of the examples, over TCP (`None`) or at a path.
fn echo_server(path: Option<&Path>) -> (Process, String) {
    let mut command = match path {
        Some(path) => {
            let mut command = example("unix_echo_server");
            command.arg(path);
            command
        }
        None => {
            let mut command = example("tcp_echo_server");
            command.arg("127.0.0.1:0");
            command
        }
    };
    command.arg("--tls-cert").arg(file("server.pem"));
    command.arg("--tls-key").arg(file("server.key"));
    Process::server(&mut command)
}

/// OpenSSL's client, which says what comes and what happens, line by line.
fn s_client(addr: &str, args: &[&str]) -> Command {
    tool("openssl", "openssl");
    let mut command = tool("sh", "dash");
    // Both outputs in one, in order.
    command.args(["-c", "exec openssl s_client \"$@\" 2>&1", "s_client"]);
    match addr.starts_with('/') {
        true => command.args(["-unix", addr]),
        false => command.args(["-connect", addr]),
    };
    command.arg("-CAfile").arg(file("ca.pem"));
    command.args(["-verify_return_error", "-verify_hostname", "server.example"]);
    command.args(["-servername", "server.example", "-quiet", "-no_ign_eof"]);
    command.args(args);
    command
}

/// Waits for a line that is as wanted.
fn until(process: &Process, wanted: impl Fn(&str) -> bool) -> String {
    let give_up = Instant::now() + LIMIT;
    while Instant::now() < give_up {
        let line = process.line();
        if wanted(&line) {
            return line;
        }
    }
    panic!("no such line");
}

/// Runs a test with an echo server at an address of each kind.
fn over_both(test: impl Fn(&str)) {
    let (_server, addr) = echo_server(None);
    test(&addr);
    if in_guest() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_server, path) = echo_server(Some(&folder.path().join("server")));
    test(&path);
}

#[test]
fn openssl_clients_get_their_echo_and_may_change_keys() {
    over_both(|addr| {
        for version in ["-tls1_3", "-tls1_2"] {
            let mut client = Process::start(&mut s_client(addr, &[version]));
            client.write(b"one\n");
            until(&client, |line| line == "one");
            if version == "-tls1_3" {
                // A capital asks for new keys both ways.
                for (command, text) in [(b"K\n", "two"), (b"k\n", "three"), (b"K\n", "four")] {
                    client.write(command);
                    until(&client, |line| line.contains("KEYUPDATE"));
                    for _ in 0..2 {
                        client.write(format!("{text}\n").as_bytes());
                        until(&client, |line| line == text);
                    }
                }
            }
            client.write(b"Q\n");
            until(&client, |line| line == "DONE");
        }
    });
}

#[test]
fn openssl_clients_find_what_is_wrong_with_us() {
    over_both(|addr| {
        let stranger = file("stranger.pem");
        let stranger = stranger.to_str().unwrap();
        for (args, why) in [
            (
                &["-verify_hostname", "other.example"][..],
                "hostname mismatch",
            ),
            (
                &["-CAfile", stranger][..],
                "unable to get local issuer certificate",
            ),
        ] {
            let done = run(&mut s_client(addr, args));
            assert!(!done.status.success(), "{done:?}");
            assert!(done.stdout.to_lowercase().contains(why), "{done:?}");
        }
        // It is none the worse for that.
        let mut client = Process::start(&mut s_client(addr, &[]));
        client.write(b"one\n");
        until(&client, |line| line == "one");
    });
}

/// OpenSSL's server at a path or a port of its own, which says every line backwards.
fn s_server(path: Option<&Path>, identity: &str, args: &[&str]) -> (Process, String) {
    let mut command = tool("openssl", "openssl");
    command.args(["s_server", "-rev"]);
    match path {
        Some(path) => command.arg("-unix").arg(path),
        None => command.args(["-accept", "127.0.0.1:0"]),
    };
    command.arg("-cert").arg(file(&format!("{identity}.pem")));
    command.arg("-key").arg(file(&format!("{identity}.key")));
    command.args(args);
    let process = Process::start(&mut command);
    let line = until(&process, |line| line.starts_with("ACCEPT"));
    let addr = match path {
        Some(path) => path.to_str().unwrap().to_owned(),
        None => line.strip_prefix("ACCEPT ").unwrap().to_owned(),
    };
    (process, addr)
}

async fn connect(
    addr: &str,
    log: &Log,
    config: coracle::tls::rustls::ClientConfig,
) -> std::io::Result<Transport> {
    let name = "server.example";
    let recorder = || Recorder::new(log);
    if addr.starts_with('/') {
        let options = UnixOptions::new().path(addr).tls(config);
        let made = create_unix_connection(recorder, options.server_hostname(name));
        return Ok(within(made).await?.0);
    }
    let addr: Address = addr.parse().unwrap();
    let options = TcpOptions::new().remote_addr(addr).tls(config);
    let made = create_connection(recorder, options.server_hostname(name));
    Ok(within(made).await?.0)
}

/// Runs a test with OpenSSL's server at an address of each kind.
fn over_both_of_theirs(identity: &str, args: &[&str], test: impl AsyncFn(&str, Process)) {
    let (server, addr) = s_server(None, identity, args);
    coracle::block_on(test(&addr, server));
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = s_server(Some(&folder.path().join("server")), identity, args);
    coracle::block_on(test(&path, server));
}

#[test]
fn openssl_servers_answer_and_say_goodbye() {
    for version in ["-tls1_3", "-tls1_2"] {
        over_both_of_theirs("server", &[version], async |addr, _server| {
            let log = Log::new();
            let config = client_of(BOTH, "ca", None);
            let transport = connect(addr, &log, config).await.unwrap();
            transport.write(b"hello\nthere\n").unwrap();
            log.until_len(12).await;
            assert_eq!(log.data(), b"olleh\nereht\n");
            let info = transport.tls_info().unwrap();
            let spoken = format!("{:?}", info.protocol_version().unwrap());
            assert_eq!(spoken.replace("TLSv", "-tls"), version);
            // Which ends its connection, in order.
            transport.write(b"CLOSE\n").unwrap();
            within(transport.closed()).await.unwrap();
            assert_eq!(log.events().last(), Some(&Event::Lost(None)));
        });
    }
}

#[test]
fn an_openssl_server_that_is_killed_has_not_ended_its_connection() {
    over_both_of_theirs("server", &[], async |addr, server| {
        let log = Log::new();
        let config = client_of(BOTH, "ca", None);
        let transport = connect(addr, &log, config).await.unwrap();
        transport.write(b"hello\n").unwrap();
        log.until_len(6).await;
        drop(server);
        let error = within(transport.closed()).await.unwrap_err();
        let known = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        assert!(known.contains(&error.kind()), "{error}");
    });
}

#[test]
fn openssl_servers_are_refused_for_what_is_wrong_with_them() {
    for (identity, authority, why) in [
        ("expired", "ca", "expired"),
        ("server", "stranger", "UnknownIssuer"),
    ] {
        over_both_of_theirs(identity, &[], async |addr, _server| {
            let config = client_of(BOTH, authority, None);
            let error = connect(addr, &Log::new(), config).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(error.to_string().contains(why), "{error}");
        });
    }
}

#[test]
fn openssl_clients_show_their_certificates() {
    let (told, addr) = mpsc::channel();
    let (stop, stopped) = async_stop();
    let server = thread::spawn(move || {
        coracle::block_on(async {
            let options = TcpServerOptions::new()
                .local_addr("127.0.0.1:0")
                .tls(server_of(BOTH, "server", true));
            let factory = || Recorder::echoing(&Log::new());
            let server = create_server(factory, options).await.unwrap();
            told.send(server.local_addrs()[0].to_string()).unwrap();
            let errors = coracle::time::timeout(LIMIT, stopped).await.map(|()| {
                let last = server.last_accept_error().map(|error| error.to_string());
                (server.accept_errors(), last)
            });
            errors.unwrap()
        })
    });
    let addr = addr.recv_timeout(LIMIT).unwrap();
    let (cert, key) = (file("client.pem"), file("client.key"));
    let identity = [
        "-cert",
        cert.to_str().unwrap(),
        "-key",
        key.to_str().unwrap(),
    ];
    let mut client = Process::start(&mut s_client(&addr, &identity));
    client.write(b"one\n");
    until(&client, |line| line == "one");
    client.write(b"Q\n");
    let mut client = Process::start(&mut s_client(&addr, &[]));
    client.write(b"one\n");
    until(&client, |line| line.contains("certificate required"));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (errors, last) = server.join().unwrap();
    assert_eq!(errors, 1, "{last:?}");
}

/// A flag of another thread, and its wait.
fn async_stop() -> (
    std::sync::Arc<std::sync::atomic::AtomicBool>,
    impl std::future::Future<Output = ()>,
) {
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let waited = flag.clone();
    let waiting = async move {
        while !waited.load(std::sync::atomic::Ordering::Relaxed) {
            coracle::time::sleep(Duration::from_millis(5)).await;
        }
    };
    (flag, waiting)
}

/// More than all buffers on the way hold.
const LARGE: &str = "8000000";

#[test]
fn asyncio_clients_get_their_echo_over_a_unix_socket() {
    if in_guest() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_server, path) = echo_server(Some(&folder.path().join("server")));
    for size in ["1", LARGE] {
        let mut client = python("tls_peer.py");
        client.args(["connect", &path]).arg(file("ca.pem"));
        let done = run(client.args(["localhost", size]));
        assert_eq!(done.stdout, format!("echo {size} TLSv1.3\n"), "{done:?}");
    }
}

fn asyncio_server(role: &str, path: &Path) -> (Process, String) {
    let mut server = python("tls_peer.py");
    server.arg(role).arg(path);
    Process::server(server.arg(file("server.pem")).arg(file("server.key")))
}

/// Has it echo and closes, after what has been said before.
async fn much_there_and_back(transport: &Transport, log: &Log) {
    let before = log.data().len();
    let sent = common::pairs::pattern(LARGE.parse().unwrap());
    transport.write(&sent).unwrap();
    log.until_len(before + sent.len()).await;
    assert!(log.data()[before..] == sent);
    transport.close();
    within(transport.closed()).await.unwrap();
}

#[test]
fn asyncio_servers_echo_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let (server, addr) = asyncio_server("serve", &path);
    if !in_guest() {
        let done = unix_client(&addr, "hello", "server.example");
        assert_eq!(done.stdout, "hello\n", "{done:?}");
        assert_eq!(server.line(), "closed");
    }
    coracle::block_on(async {
        let log = Log::new();
        let config = client_of(BOTH, "ca", None);
        let transport = connect(&addr, &log, config).await.unwrap();
        much_there_and_back(&transport, &log).await;
    });
    assert_eq!(server.line(), "closed", "in order");
}

/// Agrees to TLS over TLS when asked to, and echoes then.
struct Agreeing {
    log: Log,
    secure: bool,
}

impl Protocol for Agreeing {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        match (self.secure, data) {
            (true, data) => transport.write(data),
            (false, b"STARTTLS\n") => {
                self.secure = true;
                transport.write(b"OK\n")?;
                let options = StartTlsOptions::server(server_of(BOTH, "server", false));
                spawn(transport.start_tls(options)).detach();
                Ok(())
            }
            (false, other) => panic!("{other:?}"),
        }
    }

    fn eof_received(&mut self, _: &Transport) -> io::Result<bool> {
        self.log.push(Event::Eof);
        Ok(false)
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<&io::Error>) {
        self.log.push(Event::Lost(error.map(io::Error::kind)));
    }
}

#[test]
fn asyncio_clients_speak_tls_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    coracle::block_on(async {
        let log = Log::new();
        let factory = {
            let log = log.clone();
            move || Agreeing {
                log: log.clone(),
                secure: false,
            }
        };
        let options = UnixServerOptions::new().path(&path);
        let options = options.tls(server_of(BOTH, "server", false));
        let _server = create_unix_server(factory, options).await.unwrap();
        let mut client = python("tls_peer.py");
        client.arg("connect-over").arg(&path).arg(file("ca.pem"));
        client.args(["localhost", LARGE]);
        let done = smol::unblock(move || run(&mut client));
        let done = coracle::time::timeout(LIMIT, done).await.unwrap();
        assert_eq!(done.stdout, format!("echo {LARGE} TLSv1.3\n"), "{done:?}");
        log.until_lost().await;
        assert_eq!(log.events(), [Event::Eof, Event::Lost(None)]);
    });
}

#[test]
fn asyncio_servers_speak_tls_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let (server, addr) = asyncio_server("serve-over", &path);
    coracle::block_on(async {
        let log = Log::new();
        let transport = connect(&addr, &log, client_of(BOTH, "ca", None)).await;
        let transport = transport.unwrap();
        transport.write(b"STARTTLS\n").unwrap();
        log.until_len(3).await;
        assert_eq!(log.data(), b"OK\n");
        let options = StartTlsOptions::client(client_of(BOTH, "ca", None), "localhost");
        within(transport.start_tls(options)).await.unwrap();
        much_there_and_back(&transport, &log).await;
    });
    assert_eq!(server.line(), "closed", "in order");
}

/// The example's exchange.
fn unix_client(path: &str, message: &str, name: &str) -> Done {
    let mut command = example("unix_echo_client");
    command
        .args([path, message, "--tls-ca"])
        .arg(file("ca.pem"));
    run(command.args(["--server-hostname", name]))
}

#[test]
fn the_examples_talk_to_each_other() {
    let long = "0123456789".repeat(10_000);
    over_both(|addr| {
        for message in ["hello", "several\nlines\n", &long, ""] {
            let done = match addr.starts_with('/') {
                true => unix_client(addr, message, "localhost"),
                false => run(example("tcp_echo_client")
                    .args([addr, message, "--tls-ca"])
                    .arg(file("ca.pem"))),
            };
            assert_eq!(done.stderr, "", "{addr}");
            assert!(done.status.success());
            assert!(done.stdout.strip_suffix('\n') == Some(message), "{done:?}");
        }
        let name = match addr.starts_with('/') {
            true => unix_client(addr, "hello", "other.example"),
            false => run(example("tcp_echo_client")
                .args([addr, "hello", "--server-hostname", "other.example"])
                .arg("--tls-ca")
                .arg(file("ca.pem"))),
        };
        assert_eq!(name.status.code(), Some(1), "{name:?}");
        assert!(name.stderr.contains("other.example"), "{name:?}");
    });
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    for (name, args, said) in [
        ("tcp_echo_server", &["--tls-cert", "x"][..], "--tls-key"),
        (
            "tcp_echo_server",
            &["--tls-cert"][..],
            "--tls-cert needs a value",
        ),
        (
            "tcp_echo_client",
            &["127.0.0.1:9", "x", "--server-hostname", "y"][..],
            "--tls-ca",
        ),
    ] {
        let done = run(example(name).args(args));
        // A WASI host knows success and failure only.
        let code = if in_guest() { 1 } else { 2 };
        assert_eq!(done.status.code(), Some(code), "{done:?}");
        assert!(done.stderr.contains(said), "{done:?}");
    }
    let missing = run(example("tcp_echo_client").args(["127.0.0.1:9", "x", "--tls-ca", "missing"]));
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(missing.stderr.contains("missing"), "{missing:?}");
}
