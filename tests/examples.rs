//! The examples that run to their end do what they say, and those that serve and connect work with
//! each other. Other programs talk to them in `peers.rs` and `stream_peers.rs`.
// WASI has no processes.
#![cfg(not(target_os = "wasi"))]

#[path = "peers/process.rs"]
mod process;

use std::net::{SocketAddr, TcpListener};

use process::{example, run, Process};

fn lines(name: &str) -> Vec<String> {
    let done = run(&mut example(name));
    assert!(done.status.success(), "{done:?}");
    assert_eq!(done.stderr, "");
    done.stdout.lines().map(str::to_owned).collect()
}

/// The lines with one of the beginnings, which are in a fixed order among themselves.
fn of<'a>(lines: &'a [String], side: &str) -> Vec<&'a str> {
    lines
        .iter()
        .filter_map(|line| line.strip_prefix(side))
        .collect()
}

#[test]
fn quickstart_exchanges_a_datagram_and_bytes_over_a_connection() {
    let lines = lines("quickstart");
    for kind in ["datagram", "stream"] {
        let client = of(&lines, &format!("{kind} client: "));
        assert_eq!(client, ["hello", "got \"hello\""], "{lines:#?}");
        let server = of(&lines, &format!("{kind} server: "));
        assert_eq!(server.len(), 1, "{lines:#?}");
        assert!(server[0].starts_with("5 bytes"), "{lines:#?}");
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");
}

#[cfg(unix)]
#[test]
fn quickstart_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let done = run(example("quickstart").env("TMPDIR", folder.path()));
    assert!(done.status.success(), "{done:?}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn smol_executor_exchanges_three_messages() {
    let lines = lines("smol_executor");
    assert_eq!(
        of(&lines, "client: "),
        ["got \"one\"", "got \"two\"", "got \"three\""],
        "{lines:#?}"
    );
    assert_eq!(of(&lines, "server: "), ["3 bytes", "3 bytes", "5 bytes"]);
}

/// Runs a client with these arguments: exit code, output, errors.
fn client(name: &str, args: [&str; 2]) -> (Option<i32>, String, String) {
    let done = run(example(name).args(args));
    (done.status.code(), done.stdout, done.stderr)
}

/// The client gets back what it says.
fn assert_echoes(name: &str, server: &str) {
    let long = "0123456789".repeat(10_000);
    for message in ["hello", "grüße", "several\nlines\n", &long, ""] {
        let (code, stdout, stderr) = client(name, [server, message]);
        assert_eq!((code, &stderr[..]), (Some(0), ""), "{server}");
        assert!(
            stdout.strip_suffix('\n') == Some(message),
            "{server}: {message:.20} came back as {stdout:.20}"
        );
    }
}

/// The program fails with its arguments, and says why.
fn assert_fails(name: &str, args: &[&str], code: i32, said: &str) {
    let done = run(example(name).args(args));
    assert_eq!(
        done.status.code(),
        Some(code),
        "{name} {args:.80?}: {done:?}"
    );
    assert_eq!(done.stdout, "", "{name} {args:?}");
    assert!(done.stderr.contains(said), "{name} {args:?}: {done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}

#[test]
fn tcp_clients_get_their_echo() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let (_server, addr) = Process::server(example("tcp_echo_server").arg(addr));
        assert_echoes("tcp_echo_client", &addr);
    }
}

#[test]
fn tcp_clients_may_name_the_host() {
    let (_server, addr) = Process::server(example("tcp_echo_server").arg("127.0.0.1:0"));
    let port = addr.rsplit_once(':').unwrap().1;
    let (code, stdout, _) = client("tcp_echo_client", [&format!("localhost:{port}"), "hello"]);
    assert_eq!((code, &stdout[..]), (Some(0), "hello\n"));
}

#[test]
fn a_server_serves_many_clients_at_a_time() {
    let (mut server, addr) = Process::server(example("tcp_echo_server").arg("127.0.0.1:0"));
    std::thread::scope(|scope| {
        for number in 0..20 {
            let addr = &addr;
            scope.spawn(move || {
                let message = format!("hello from {number}");
                let (code, stdout, stderr) = client("tcp_echo_client", [addr, &message]);
                assert_eq!(
                    (code, stdout, &stderr[..]),
                    (Some(0), format!("{message}\n"), "")
                );
            });
        }
    });
    assert!(server.is_running());
}

#[test]
fn tcp_clients_say_that_nobody_is_there() {
    // Bound, so that nobody else gets the port, but not listening.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let addr = deaf.local_addr().unwrap().as_socket().unwrap().to_string();
    assert_fails("tcp_echo_client", &[&addr, "hello"], 1, &addr);
}

#[test]
fn tcp_clients_give_up_on_a_silent_server() {
    // The system accepts for it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let said = format!("no reply from {addr} in 2 s");
    assert_fails("tcp_echo_client", &[&addr, "hello"], 1, &said);
}

#[test]
fn tcp_addresses_that_cannot_be_are_named() {
    for text in ["nonsense", "127.0.0.1", "127.0.0.1:70000", "::1", ":53"] {
        assert_fails("tcp_echo_server", &[text], 1, text);
        assert_fails("tcp_echo_client", &[text, "hello"], 1, text);
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    assert_fails("tcp_echo_server", &[&addr], 1, &addr);
}

#[test]
fn stream_clients_without_arguments_print_their_usage() {
    let usage = "usage: tcp_echo_client ADDR MESSAGE";
    assert_fails("tcp_echo_client", &[], 2, usage);
    assert_fails("tcp_echo_client", &["127.0.0.1:9"], 2, usage);
    #[cfg(unix)]
    {
        let usage = "usage: unix_echo_client PATH MESSAGE";
        assert_fails("unix_echo_client", &[], 2, usage);
        assert_fails("unix_echo_client", &["/tmp/x"], 2, usage);
        let usage = "usage: unix_echo_server PATH";
        assert_fails("unix_echo_server", &[], 2, usage);
    }
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    fn text(path: &Path) -> &str {
        path.to_str().expect("temporary folders have plain names")
    }

    #[test]
    fn unix_clients_get_their_echo() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        let (_server, addr) = Process::server(example("unix_echo_server").arg(&path));
        assert_eq!(addr, text(&path));
        assert_echoes("unix_echo_client", &addr);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn unix_clients_get_their_echo_at_an_abstract_name() {
        let name = format!("@coracle-examples-{}", std::process::id());
        let (_server, addr) = Process::server(example("unix_echo_server").arg(&name));
        assert_eq!(addr, name);
        assert_echoes("unix_echo_client", &addr);
        assert!(!Path::new(&name).exists());
        // The name is taken, and stays with whom it belongs to.
        assert_fails("unix_echo_server", &[&name], 1, &name);
        assert_echoes("unix_echo_client", &addr);
    }

    #[test]
    fn a_unix_server_takes_over_the_file_of_its_predecessor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        let (first, _) = Process::server(example("unix_echo_server").arg(&path));
        // Killed, it leaves its file.
        drop(first);
        assert!(path.exists());
        assert_fails("unix_echo_client", &[text(&path), "hello"], 1, text(&path));

        let (_second, addr) = Process::server(example("unix_echo_server").arg(&path));
        assert_echoes("unix_echo_client", &addr);
    }

    #[test]
    fn unix_clients_say_that_nobody_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let said = format!("connect {}: ", text(&missing));
        assert_fails("unix_echo_client", &[text(&missing), "hello"], 1, &said);

        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let said = format!("connect {}: ", text(&file));
        assert_fails("unix_echo_client", &[text(&file), "hello"], 1, &said);

        #[cfg(target_os = "linux")]
        {
            let name = format!("@coracle-nobody-{}", std::process::id());
            assert_fails("unix_echo_client", &[&name, "hello"], 1, &name);
        }
    }

    #[test]
    fn unix_clients_give_up_on_a_silent_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("silent");
        let _silent = UnixListener::bind(&path).unwrap();
        let said = format!("no reply from {} in 2 s", text(&path));
        assert_fails("unix_echo_client", &[text(&path), "hello"], 1, &said);
    }

    #[test]
    fn unix_paths_that_cannot_be_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing").join("server");
        assert_fails("unix_echo_server", &[text(&missing)], 1, text(&missing));

        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert_fails("unix_echo_server", &[text(&file)], 1, text(&file));
        assert_eq!(fs::read(&file).unwrap(), b"precious");

        let long = folder.path().join("x".repeat(200));
        assert_fails("unix_echo_server", &[text(&long)], 1, text(&long));
        assert_fails("unix_echo_client", &[text(&long), "hello"], 1, text(&long));
        assert_fails("unix_echo_server", &[""], 1, "empty");
    }
}
