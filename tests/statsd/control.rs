//! The control socket, the end, and what can go wrong at the start.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::process::{example, run, Done, LIMIT};
use super::{ask, text, Statsd};

#[test]
fn commands_are_lines() {
    let statsd = Statsd::start();
    let nothing = "bad 0\nEND\n";
    let ask = |commands| ask(&statsd.control, commands);
    assert_eq!(ask("stats\n"), nothing);
    assert_eq!(ask("stats\r\n"), nothing);
    assert_eq!(
        ask("stats"),
        nothing,
        "the end of the connection is one, too"
    );
    assert_eq!(
        ask("stats\n\nreset\nstats"),
        format!("{nothing}OK\n{nothing}")
    );
    assert_eq!(ask(""), "");
    assert_eq!(ask("\n \n"), "");
    // More than one read brings.
    assert_eq!(ask(&"reset\n".repeat(12_000)), "OK\n".repeat(12_000));
}

#[test]
fn unknown_commands_get_an_error_line_and_change_nothing() {
    let statsd = Statsd::start();
    let error = |command: &str| format!("error: unknown command {command}\n");
    let ask = |commands| ask(&statsd.control, commands);
    assert_eq!(ask("help\n"), error("\"help\""));
    assert_eq!(
        ask("STATS\nstats now\n"),
        error("\"STATS\"") + &error("\"stats now\"")
    );
    assert_eq!(ask("\u{1b}[2J\n"), error("\"\\u{1b}[2J\""));
    assert_eq!(ask("what\nstats\n"), error("\"what\"") + "bad 0\nEND\n");
    assert_eq!(ask(&"x".repeat(4_000)), "error: the command is too long\n");
}

#[test]
fn a_command_may_come_in_pieces() {
    let mut statsd = Statsd::start();
    for piece in ["s", "ta", "ts", "\nre"] {
        statsd.socat.write(piece.as_bytes());
        // So that it has been read, not only sent.
        ask(&statsd.control, "stats\n");
    }
    statsd.socat.write(b"set\n");
    for line in ["bad 0", "END", "OK"] {
        assert_eq!(statsd.socat.line(), line);
    }
}

#[test]
fn reset_forgets_everything() {
    let mut statsd = Statsd::start();
    statsd.send("b:1|s\nb:2|ms\nb:3|g\nb:4|c\nbad");
    assert_eq!(statsd.all_stats().len(), 5);
    assert_eq!(ask(&statsd.control, "reset\n"), "OK\n");
    assert_eq!(statsd.stats(), ["bad 0"]);
    statsd.send("b:1|ms");
    let fresh = "timer b count=1 min=1 max=1 mean=1 p90=1";
    assert_eq!(statsd.all_stats(), [fresh, "bad 0"]);
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let mut statsd = Statsd::start();
    // An answer of some size.
    let lines: Vec<String> = (0..1000).map(|name| format!("n{name}:1|c\n")).collect();
    lines
        .chunks(100)
        .for_each(|lines| statsd.send(lines.concat()));
    statsd.stats_with("counter n999 1");
    let mut client = UnixStream::connect(&statsd.control).unwrap();
    client.set_write_timeout(Some(LIMIT)).unwrap();
    let mut asked = 0;
    let error = loop {
        match client.write_all(b"stats\n") {
            Ok(()) => asked += 1,
            Err(error) => break error,
        }
        assert!(asked < 1_000_000);
    };
    assert!(
        matches!(
            error.kind(),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
        ),
        "{error}"
    );
    assert_eq!(statsd.all_stats().len(), 1001);
}

/// Waits for a control path that accepts.
fn connect(path: &Path) -> UnixStream {
    let since = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(since.elapsed() < LIMIT, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// A program that ends by itself when it is asked to.
fn started(control: &Path) -> std::thread::JoinHandle<Done> {
    let mut command = example("statsd");
    command.arg("127.0.0.1:0").arg(control);
    std::thread::spawn(move || run(&mut command))
}

#[test]
fn quit_ends_it_well_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    for commands in ["quit\n", "quit", "quit\nstats\nquit\n"] {
        let statsd = started(&path);
        // One that says nothing is no hindrance, nor is one with half a command.
        let mut idle = connect(&path);
        connect(&path).write_all(b"sta").unwrap();
        assert_eq!(ask(text(&path), commands), "OK\n");
        let done = statsd.join().unwrap();
        assert_eq!((done.status.code(), &done.stderr[..]), (Some(0), ""));
        let lines: Vec<&str> = done.stdout.lines().collect();
        assert!(lines[0].starts_with("listening on 127.0.0.1:"), "{lines:?}");
        assert_eq!(lines[1..], [format!("listening on {}", text(&path))]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert_eq!(idle.read(&mut [0; 8]).unwrap(), 0);
    }
}

#[test]
fn quit_does_not_wait_for_a_client_that_does_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let statsd = started(&path);
    let mut deaf = connect(&path);
    // More answers than the system's buffers hold, and fewer than it is dropped for.
    deaf.write_all(&b"stats\n".repeat(100_000)).unwrap();
    assert_eq!(ask(text(&path), "quit\n"), "OK\n");
    let done = statsd.join().unwrap();
    assert_eq!((done.status.code(), &done.stderr[..]), (Some(0), ""));
    assert!(!path.exists());
}

#[test]
fn another_file_in_the_place_of_its_own_stays_when_it_quits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let statsd = started(&path);
    let mut control = connect(&path);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    control.write_all(b"quit\n").unwrap();
    assert!(statsd.join().unwrap().status.success());
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn control_works_over_tcp_and_abstract_names() {
    let name = format!("@coracle-statsd-{}", std::process::id());
    for control in ["127.0.0.1:0", "[::1]:0", &name] {
        if control == name && !cfg!(target_os = "linux") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut statsd = Statsd::at("[::1]:0", control, folder);
        statsd.send("hits:1|c");
        statsd.stats_with("counter hits 1");
        assert_eq!(
            ask(&statsd.control, "nonsense"),
            "error: unknown command \"nonsense\"\n"
        );
        assert_eq!(ask(&statsd.control, "quit\n"), "OK\n");
        let since = Instant::now();
        while statsd.process.is_running() {
            assert!(since.elapsed() < LIMIT, "it does not end");
        }
    }
}

fn assert_fails(args: &[&str], code: i32, said: &str) {
    let done = run(example("statsd").args(args));
    assert_eq!(done.status.code(), Some(code), "{args:?}: {done:?}");
    assert_eq!(done.stdout, "", "{args:?}");
    assert!(done.stderr.contains(said), "{args:?}: {done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}

#[test]
fn what_it_cannot_listen_at_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let (path, file) = (text(&path), folder.path().join("file"));
    fs::write(&file, "precious").unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp, tcp) = (taken.local_addr().unwrap(), listener.local_addr().unwrap());
    let (udp, tcp) = (udp.to_string(), tcp.to_string());

    assert_fails(&[], 2, "usage: statsd UDP_ADDR CONTROL");
    assert_fails(&["127.0.0.1:0"], 2, "usage: ");
    assert_fails(&["127.0.0.1:0", path, "more"], 2, "usage: ");
    assert_fails(&[&udp, path], 1, &udp);
    assert_fails(&["nonsense", path], 1, "'nonsense'");
    assert_fails(&["127.0.0.1:0", text(&file)], 1, text(&file));
    assert_fails(&["127.0.0.1:0", &tcp], 1, &tcp);
    assert_fails(&["127.0.0.1:0", ""], 1, "empty");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert!(!Path::new(path).exists());
}
