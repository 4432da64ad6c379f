//! Components on real hosts: Wasmtime with this or that taken away, standard input, peers that no
//! component can be, and Node as a second host.
//!
//! `tests/all guests` builds the components, names their folder and runs this: once for those of
//! WASI 0.2, once for those of 0.3.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use process::{run, tool, Done, Process, LIMIT};

fn script(name: &str) -> Command {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "wasm", name].iter().collect();
    Command::new(path)
}

/// What a script prints, which takes as long as it takes.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let stderr = text(output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    text(output.stdout)
}

/// An example, or the tests of a file, as a component.
fn component(name: &str) -> PathBuf {
    let Some(folder) = std::env::var_os("CORACLE_TEST_GUESTS") else {
        panic!(
            "these tests are for components, which `tests/all guests` builds and then runs them"
        );
    };
    let path = PathBuf::from(folder).join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is not built", path.display());
    path
}

/// Wasmtime with these capabilities and no others.
fn wasmtime(capabilities: &[&str], name: &str) -> Command {
    static WASMTIME: OnceLock<String> = OnceLock::new();
    let wasmtime = WASMTIME.get_or_init(|| output(script("setup").arg("--wasmtime")));
    let mut command = Command::new(wasmtime.trim());
    command.args(["run", "-C", "cache=y"]);
    for capability in capabilities {
        command.args(["-S", capability]);
    }
    command.arg("--").arg(component(name));
    command
}

/// Node, which grants everything.
fn jco(name: &str) -> Command {
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| {
        output(&mut script("jco"));
    });
    let mut command = script("jco");
    command.arg(component(name));
    command
}

/// What is different by the version of WASI that the components are of.
struct Version {
    /// How a program that prints its error says that its connection was reset: by a text of the
    /// host's, or by the name of a code.
    reset: &'static str,
    /// Tests in `wasi_platform`: some are about pollables.
    platform: usize,
    /// Tests in `wasi_platform` that Node's differences are in the way of.
    platform_different_on_node: &'static [&'static str],
    /// The same in `wasi_faults`.
    different_on_node: &'static [&'static str],
    /// What Node echoes of `STREAMS`.
    streams_on_node: &'static [(usize, Ends)],
}

const P2: Version = Version {
    reset: "ConnectionReset",
    platform: 13,
    platform_different_on_node: &[],
    different_on_node: &[
        // It forgets nothing, and is slow.
        "a_flood",
        "as_many_sockets",
        "an_unreachable_port",
        "an_address_in_use",
        "a_connect_that_the_host_refuses",
    ],
    streams_on_node: &STREAMS,
};

const P3: Version = Version {
    reset: "connection-reset",
    platform: 10,
    // It binds to addresses that interfaces have: of 127.0.0.0/8 to one.
    platform_different_on_node: &["an_endpoint_ends_with_its_runtime"],
    different_on_node: &[
        // As above.
        "a_flood",
        "as_many_sockets",
        "an_unreachable_port",
        "a_connect_that_the_host_refuses",
        // What is too large is taken, and lost.
        "datagrams_may_be_empty_and_as_large",
    ],
    // The last bytes of many now and then wait for more to come, or for the end.
    streams_on_node: STREAMS.split_at(3).0,
};

fn version() -> &'static Version {
    let mut grep = tool("grep", "grep");
    grep.args(["-qa", "wasi:cli/run@0\\.3"]);
    match run(grep.arg(component("quickstart"))).status.code() {
        Some(0) => &P3,
        Some(1) => &P2,
        other => panic!("grep ended with {other:?}"),
    }
}

const NETWORK: &str = "inherit-network";

/// It fails with these words, and without a trap.
#[track_caller]
fn assert_fails(done: &Done, words: &[&str]) {
    assert!(!done.status.success(), "{done:?}");
    for word in words {
        assert!(done.stderr.contains(word), "{word:?} in {done:?}");
    }
    assert!(
        !done.stderr.contains("wasm trap") && done.stdout.is_empty(),
        "{done:?}"
    );
}

/// A test of a component passes.
#[track_caller]
fn assert_passes(done: &Done, count: usize) {
    let passed = done
        .stdout
        .contains(&format!("test result: ok. {count} passed; 0 failed"));
    assert!(done.status.success() && passed, "{done:#?}");
}

fn assert_echoes_datagrams(addr: &str) {
    let local = if addr.starts_with('[') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    let client = UdpSocket::bind(local).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.connect(addr).unwrap();
    let mut buf = [0; 70_000];
    for len in [5, 0, 1_000, 65_507] {
        client.send(&[7; 65_507][..len]).unwrap();
        assert_eq!(client.recv(&mut buf).unwrap(), len);
    }
}

/// Each client ends its direction and then reads all, or reads what it expects.
const STREAMS: [(usize, Ends); 4] = [
    (5, Ends::First),
    (5, Ends::Last),
    (3_000_000, Ends::First),
    (3_000_000, Ends::Last),
];

#[derive(Clone, Copy, PartialEq)]
enum Ends {
    First,
    Last,
}

fn assert_echoes_streams(addr: &str, streams: &[(usize, Ends)]) {
    for &(len, ends) in streams {
        let mut client = TcpStream::connect(addr).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let mut writer = client.try_clone().unwrap();
        let mut got = vec![0; len];
        thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(&data).unwrap();
                if ends == Ends::First {
                    writer.shutdown(Shutdown::Write).unwrap();
                }
            });
            client.read_exact(&mut got).unwrap();
        });
        assert!(got == data, "{len} bytes came back changed");
        if ends == Ends::First {
            assert_eq!(client.read(&mut got).unwrap(), 0);
        }
    }
}

#[test]
fn native_clients_get_their_echo() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let mut server = wasmtime(&[NETWORK], "udp_echo_server");
        let (_server, addr) = Process::server(server.arg(addr));
        assert_echoes_datagrams(&addr);
    }
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let mut server = wasmtime(&[NETWORK], "tcp_echo_server");
        let (_server, addr) = Process::server(server.arg(addr));
        assert_echoes_streams(&addr, &STREAMS);
    }
}

#[test]
fn components_talk_to_each_other() {
    let long = "0123456789".repeat(6_000);
    for kind in ["udp", "tcp"] {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let mut server = wasmtime(&[NETWORK], &format!("{kind}_echo_server"));
            let (_server, addr) = Process::server(server.arg(addr));
            for message in ["grüße", "", &long] {
                let mut client = wasmtime(&[NETWORK], &format!("{kind}_echo_client"));
                let done = run(client.args([&addr, message]));
                assert!(done.status.success(), "{kind} {addr}: {done:.300?}");
                assert!(
                    done.stdout.strip_suffix('\n') == Some(message),
                    "{kind} {addr}"
                );
            }
        }
    }
}

#[test]
fn without_the_network_it_is_the_missing_capability_that_is_told() {
    for (name, args, missing) in [
        ("udp_echo_server", &["127.0.0.1:0"][..], "no UDP sockets"),
        ("udp_echo_client", &["127.0.0.1:9", "x"], "no UDP sockets"),
        ("tcp_echo_server", &["127.0.0.1:0"], "no TCP sockets"),
        ("tcp_echo_client", &["127.0.0.1:9", "x"], "no TCP sockets"),
    ] {
        let done = run(wasmtime(&[], name).args(args));
        assert_fails(&done, &["access-denied", missing]);
    }
    // The kind is what programs go by.
    let done = run(wasmtime(&[], "udp_echo_server").arg("127.0.0.1:0"));
    assert_fails(&done, &["PermissionDenied"]);
}

#[test]
fn without_udp_there_is_still_tcp() {
    let granted = [NETWORK, "udp=n"];
    let done = run(wasmtime(&granted, "udp_echo_server").arg("127.0.0.1:0"));
    assert_fails(
        &done,
        &["PermissionDenied", "access-denied", "no UDP sockets"],
    );
    let mut server = wasmtime(&granted, "tcp_echo_server");
    let (_server, addr) = Process::server(server.arg("127.0.0.1:0"));
    assert_echoes_streams(&addr, &STREAMS);
}

#[test]
fn without_tcp_there_is_still_udp() {
    let granted = [NETWORK, "tcp=n"];
    let done = run(wasmtime(&granted, "tcp_echo_server").arg("127.0.0.1:0"));
    assert_fails(
        &done,
        &["PermissionDenied", "access-denied", "no TCP sockets"],
    );
    let mut server = wasmtime(&granted, "udp_echo_server");
    let (_server, addr) = Process::server(server.arg("127.0.0.1:0"));
    assert_echoes_datagrams(&addr);
}

#[test]
fn without_name_lookup_there_are_still_addresses() {
    let mut server = wasmtime(&[NETWORK], "tcp_echo_server");
    let (_server, addr) = Process::server(server.arg("127.0.0.1:0"));
    let port = addr.rsplit_once(':').unwrap().1;
    let name = format!("localhost:{port}");
    let ask = |capabilities: &[&str], addr: &str| {
        run(wasmtime(capabilities, "tcp_echo_client").args([addr, "hello"]))
    };
    assert_fails(&ask(&[NETWORK], &name), &[&name, "no name lookup"]);
    assert_eq!(ask(&[NETWORK], &addr).stdout, "hello\n");
    let all = [NETWORK, "allow-ip-name-lookup"];
    assert_eq!(ask(&all, &name).stdout, "hello\n");

    let done = run(wasmtime(&[NETWORK], "udp_echo_client").args([&name[..], "hello"]));
    assert_fails(&done, &[&name, "no name lookup"]);
    let done = run(wasmtime(&[NETWORK], "udp_echo_server").arg("localhost:0"));
    assert_fails(
        &done,
        &["PermissionDenied", "localhost:0", "no name lookup"],
    );
}

#[test]
fn standard_input_arrives_bit_by_bit_while_the_rest_goes_on() {
    for pieces in [&["one li", "ne\n", "another\n", "and no end"][..], &[]] {
        let mut guest = wasmtime(&[NETWORK, "inherit-env"], "wasi_platform");
        guest.args(["standard_input", "--nocapture"]);
        guest.env("CORACLE_TEST_INPUT", pieces.concat());
        let mut guest = Process::start(&mut guest);
        let until = |guest: &Process, words: &str| while !guest.line().contains(words) {};
        for piece in pieces {
            until(&guest, "turn");
            guest.write(piece.as_bytes());
        }
        until(&guest, "turn");
        guest.end_input();
        until(&guest, "test result: ok. 1 passed");
    }
}

/// Accepts pairs of connections: the second says what is to be done with the first.
fn obey(listener: &TcpListener) -> std::io::Result<()> {
    loop {
        let (mut victim, _) = listener.accept()?;
        let (mut control, _) = listener.accept()?;
        victim.read_exact(&mut [0])?;
        let mut order = [0];
        while control.read(&mut order)? > 0 {
            match &order {
                b"e" => victim.shutdown(Shutdown::Write)?,
                _ => {
                    reset(victim);
                    break;
                }
            }
        }
    }
}

/// Closes so that the peer is told of a reset.
fn reset(socket: TcpStream) {
    let socket = socket2::Socket::from(socket);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_reset_by_the_peer_is_told_at_each_stage_of_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // For as long as this program runs.
    thread::spawn(move || obey(&listener).unwrap());
    let mut guest = wasmtime(&[NETWORK, "inherit-env"], "wasi_connections");
    guest.env("CORACLE_TEST_RESETTER", addr.to_string());
    assert_passes(&run(guest.args(["a_peer_that_vanishes", "--nocapture"])), 1);
}

#[test]
fn a_client_says_that_its_server_has_reset_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let mut victim = listener.accept().unwrap().0;
        victim.read_exact(&mut [0]).unwrap();
        reset(victim);
    });
    let done = run(wasmtime(&[NETWORK], "tcp_echo_client").args([&addr[..], "hello"]));
    assert_fails(&done, &[version().reset]);
    server.join().unwrap();
}

#[test]
fn a_server_outlives_clients_that_reset_their_connections() {
    let mut server = wasmtime(&[NETWORK], "tcp_echo_server");
    let (mut server, addr) = Process::server(server.arg("127.0.0.1:0"));
    let data = vec![7; 1_000_000];
    for stage in 0..20 {
        let mut client = TcpStream::connect(&addr).unwrap();
        match stage % 4 {
            // Maybe before it is accepted.
            0 => {}
            1 => client.write_all(b"hello").unwrap(),
            2 => {
                client.write_all(b"hello").unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
            // In the midst of a reply that nobody reads.
            _ => {
                client.set_nonblocking(true).unwrap();
                let full = loop {
                    if let Err(error) = client.write(&data) {
                        break error;
                    }
                };
                assert_eq!(full.kind(), ErrorKind::WouldBlock);
            }
        }
        reset(client);
    }
    assert_echoes_streams(&addr, &STREAMS);
    assert!(server.is_running());
}

#[test]
fn what_is_given_up_leaves_nothing_open() {
    // So few files that what is left open would soon be missed.
    let mut guest = tool("sh", "dash");
    guest.args(["-c", "ulimit -n 64 && exec \"$@\"", "sh"]);
    let names = [NETWORK, "allow-ip-name-lookup"];
    let command = wasmtime(&names, "wasi_cancel");
    guest.arg(command.get_program()).args(command.get_args());
    assert_passes(&run(guest.arg("--nocapture")), 6);
}

/// The second host. Its differences are in wasm/README.md.
mod node {
    use super::*;

    #[test]
    fn quickstart_prints_the_same_exchange() {
        let lines = |command: &mut Command| {
            let done = run(command);
            assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
            // But for the port.
            let mut lines: Vec<_> = done.stdout.lines().map(str::to_owned).collect();
            for line in &mut lines {
                if let Some((start, _)) = line.split_once(" from 127.0.0.1:") {
                    *line = start.to_owned();
                }
            }
            lines
        };
        let on_node = lines(&mut jco("quickstart"));
        assert_eq!(on_node, lines(&mut wasmtime(&[NETWORK], "quickstart")));
        assert_eq!(on_node.len(), 6);
    }

    #[test]
    fn datagrams_are_echoed() {
        let mut server = jco("udp_echo_server");
        let (_server, addr) = Process::server(server.arg("127.0.0.1:0"));
        assert_echoes_datagrams(&addr);
    }

    #[test]
    fn streams_are_echoed() {
        let mut server = jco("tcp_echo_server");
        let (_server, addr) = Process::server(server.arg("127.0.0.1:0"));
        assert_echoes_streams(&addr, version().streams_on_node);
    }

    #[test]
    fn a_component_is_a_client_too() {
        let mut server = wasmtime(&[NETWORK], "udp_echo_server");
        let (_server, addr) = Process::server(server.arg("127.0.0.1:0"));
        let port = addr.parse::<SocketAddr>().unwrap().port();
        for addr in [addr, format!("localhost:{port}")] {
            let done = run(jco("udp_echo_client").args([&addr, "grüße"]));
            assert!(done.status.success(), "{done:?}");
            assert_eq!(done.stdout, "grüße\n");
        }
    }

    #[test]
    fn failures_are_told_in_the_same_words() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let done = run(jco("udp_echo_server").arg(&addr));
        assert_fails(&done, &["AddrInUse", &addr, "address-in-use"]);
        let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let deaf = deaf.unwrap();
        let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
        deaf.bind(&loopback.into()).unwrap();
        let addr = deaf.local_addr().unwrap().as_socket().unwrap().to_string();
        let done = run(jco("tcp_echo_client").args([&addr, "hello"]));
        assert_fails(&done, &[&addr, "connection-refused"]);
    }

    /// The tests of a file, but for those that a difference of this host's is in the way of.
    fn assert_tests_pass(name: &str, different: &[&str], count: usize) {
        let mut guest = jco(name);
        guest.arg("--nocapture");
        for test in different {
            guest.args(["--skip", test]);
        }
        assert_passes(&run(&mut guest), count);
    }

    #[test]
    fn what_only_components_have_is_there() {
        let different = version().platform_different_on_node;
        let count = version().platform - different.len();
        assert_tests_pass("wasi_platform", different, count);
    }

    #[test]
    fn bad_input_and_faults_are_told() {
        assert_tests_pass("wasi_faults", version().different_on_node, 6);
    }

    /// On WASI 0.2 alone: on 0.3 this host lets whoever gives a call up wait for the call's end.
    mod p2 {
        use super::*;

        #[test]
        fn what_is_given_up_does_no_harm() {
            // They end one direction of a connection.
            let different = ["streams", "connections_and_servers"];
            assert_tests_pass("wasi_cancel", &different, 3);
        }
    }
}
