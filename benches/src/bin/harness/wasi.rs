//! The measurements of guests: servers on WASI 0.2 and 0.3 under Wasmtime, with the crate's own on this
//! system beside them.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::build;
use crate::client::datagram::{self, Flood, Load};
use crate::client::stream;
use crate::client::{self, PingPong};
use crate::options::{invalid, Options, Pin};
use crate::rounds::interleave;
use crate::server::{Listens, Server, Transport};
use crate::size;
use crate::table::{by_server, markdown, Column, Show};
use crate::unix::bulk_of;

/// A server of a table.
struct Guest {
    name: &'static str,
    program: Program,
    /// Before the address.
    flags: &'static [&'static str],
    /// The crate that it is there to show.
    package: &'static str,
}

#[derive(Clone, Copy)]
enum Program {
    /// A binary of the package of the guests.
    Guest(&'static str),
    /// An example of the crate, as a component.
    Example(&'static str),
    /// The same on WASI 0.3.
    ExampleP3(&'static str),
    /// The same, not as one.
    Native(&'static str),
}

use Program::{Example, ExampleP3, Native};

const fn guest(name: &'static str, binary: &'static str, package: &'static str) -> Guest {
    Guest {
        name,
        program: Program::Guest(binary),
        flags: &[],
        package,
    }
}

const fn of_crate(name: &'static str, program: Program) -> Guest {
    Guest {
        name,
        program,
        flags: &[],
        package: "coracle",
    }
}

const UDP: [Guest; 8] = [
    of_crate("coracle", Example("udp_echo_server")),
    of_crate("coracle-0.3", ExampleP3("udp_echo_server")),
    guest("bare-single", "bare_single", "wasip2"),
    guest("bare-list", "bare_list", "wasip2"),
    Guest {
        flags: &["--list=16"],
        ..guest("bare-list-16", "bare_list", "wasip2")
    },
    guest("bare-0.3", "udp_p3", "wasip3"),
    guest("tokio", "udp_tokio", "tokio"),
    of_crate("coracle-native", Native("udp_echo_server")),
];

const TCP: [Guest; 8] = [
    of_crate("coracle", Example("tcp_echo_server")),
    of_crate("coracle-0.3", ExampleP3("tcp_echo_server")),
    guest("bare", "tcp_bare", "wasip2"),
    Guest {
        flags: &["--accepting"],
        ..guest("bare-accepting", "tcp_bare", "wasip2")
    },
    guest("bare-0.3", "tcp_p3", "wasip3"),
    guest("tokio", "tcp_tokio", "tokio"),
    guest("wstd", "tcp_wstd", "wstd"),
    of_crate("coracle-native", Native("tcp_echo_server")),
];

/// Those with idle sockets besides.
const IDLE: [Guest; 4] = [
    guest("coracle", "udp_idle", "coracle"),
    guest("coracle-0.3", "udp_idle_p3", "coracle"),
    guest("bare", "bare_single", "wasip2"),
    guest("bare-0.3", "udp_p3", "wasip3"),
];

/// Datagrams under way: what one list of the host holds, and more.
const WINDOWS: [usize; 2] = [16, 64];

const COUNTS: [usize; 4] = [1, 10, 100, 1000];

pub fn udp(options: &Options) -> io::Result<String> {
    let servers = servers(options, &UDP, options.given(Transport::Udp))?;
    let mut text = format!("## WASI: UDP ping-pong, {} bytes\n", options.size);
    for pin in options.ping_pong_pins() {
        let series = interleave(options, &servers, pin, |server| {
            datagram::verify(server)?;
            let mut pinger = datagram::Pinger::new(server, options.size)?;
            let result = client::ping_pong(server, options.duration, || pinger.exchange())?;
            Ok(result.row())
        })?;
        let table = by_server(&PingPong::COLUMNS, &series, &options.base);
        text += &format!("\n{pin}:\n\n{table}");
    }
    let pin = options.pin.unwrap_or(Pin::Split);
    let windows = options.window.map_or(WINDOWS.to_vec(), |one| vec![one]);
    for window in windows {
        let load = Load {
            size: options.size,
            window,
            sockets: options.sockets,
            segments: None,
        };
        let series = interleave(options, &servers, pin, |server| {
            datagram::verify(server)?;
            Ok(datagram::flood(server, load, options.duration)?.row())
        })?;
        let table = by_server(&Flood::COLUMNS, &series, &options.base);
        text += &format!("\n{window} under way. {pin}:\n\n{table}");
    }
    Ok(text)
}

pub fn tcp(options: &Options) -> io::Result<String> {
    let servers = servers(options, &TCP, options.given_tcp())?;
    let mut text = format!("## WASI: TCP ping-pong, {} bytes\n", options.size);
    for pin in options.ping_pong_pins() {
        let series = interleave(options, &servers, pin, |server| {
            stream::verify(server)?;
            let mut pinger = stream::Pinger::new(server, options.size)?;
            let result = client::ping_pong(server, options.duration, || pinger.exchange())?;
            Ok(result.row())
        })?;
        let table = by_server(&PingPong::COLUMNS, &series, &options.base);
        text += &format!("\n{pin}:\n\n{table}");
    }
    Ok(text)
}

pub fn tcp_bulk(options: &Options) -> io::Result<String> {
    let mut servers = servers(options, &TCP, options.given_tcp())?;
    let buffer = options.buffer.unwrap_or(coracle_benches::BUFFER);
    let has_buffer = |name: &str| {
        let is_given = options.given_tcp().iter().any(|(given, _)| given == name);
        let is_guest = |guest: &Guest| matches!(guest.program, Program::Guest(_));
        !is_given
            && TCP
                .iter()
                .any(|guest| guest.name == name && is_guest(guest))
    };
    for server in servers.iter_mut().filter(|server| has_buffer(&server.name)) {
        server.command.push(format!("--read={buffer}").into());
    }
    bulk_of(options, &servers, "WASI: TCP bulk echo, one connection")
}

/// A round trip is one turn of the guest's loop: all that it waits for is polled once.
pub fn idle(options: &Options) -> io::Result<String> {
    const COLUMNS: [Column; 5] = [
        Column::new("round trips/s", 0, Show::Ratio),
        Column::new("p50 µs", 1, Show::Median),
        Column::new("p99 µs", 1, Show::Median),
        Column::new("server CPU µs/round trip", 2, Show::Ratio),
        Column::new("of it µs/idle socket", 3, Show::Median),
    ];
    let mut counts = options.idle.map_or(COUNTS.to_vec(), |one| vec![one]);
    counts.retain(|&count| count > 0);
    // What there is without them.
    counts.insert(0, 0);
    let mut servers = Vec::new();
    let mut idle = Vec::new();
    for server in self::servers(options, &IDLE, &[])? {
        for &count in &counts {
            let mut server = server.clone();
            if count > 0 {
                server.name = format!("{}, {count} idle", server.name);
            }
            server.command.push(format!("--idle={count}").into());
            servers.push(server);
            idle.push(count);
        }
    }
    let pin = options.pin.unwrap_or(Pin::Split);
    let mut series = interleave(options, &servers, pin, |server| {
        datagram::verify(server)?;
        let mut pinger = datagram::Pinger::new(server, options.size)?;
        let result = client::ping_pong(server, options.duration, || pinger.exchange())?;
        Ok(result.row())
    })?;
    for first in (0..series.len()).step_by(counts.len()) {
        let alone = series[first].column(PingPong::SERVER_CPU);
        for (line, &count) in series[first..].iter_mut().zip(&counts) {
            for (round, alone) in line.rounds.iter_mut().zip(&alone) {
                round.push((round[PingPong::SERVER_CPU] - alone) / count as f64);
            }
        }
    }
    Ok(format!(
        "## WASI: UDP ping-pong, {} bytes, with idle sockets\n\n{pin}:\n\n{}",
        options.size,
        by_server(&COLUMNS, &series, &options.base)
    ))
}

/// What the components weigh. Those of `UDP` and `TCP` with the same name share a line.
pub fn size(options: &Options) -> io::Result<String> {
    check_names(options)?;
    let components = |guest: &&Guest| {
        let native = matches!(guest.program, Native(_));
        options.wants(guest.name) && guest.flags.is_empty() && !native
    };
    let mut rows = Vec::new();
    let others = TCP
        .iter()
        .filter(|tcp| UDP.iter().all(|udp| udp.name != tcp.name));
    for guest in UDP.iter().chain(others).filter(components) {
        let of = |table: &[Guest]| {
            let guest = table.iter().find(|other| other.name == guest.name)?;
            Some(size::bytes(component(guest)))
        };
        let crates = match guest.program {
            Program::Guest(binary) => {
                let features = ["--target", build::WASI, "--features", binary];
                size::crates(&build::guests(), guest.package, &features)
            }
            program => {
                let feature = match program {
                    ExampleP3(_) => "wasi-p3",
                    _ => "",
                };
                let features = ["--target", build::WASI, "--features", feature];
                size::crates(&build::crate_root(), guest.package, &features)
            }
        };
        rows.push(size::row(guest.name, of(&UDP), of(&TCP), crates));
    }
    let header = [
        "guest",
        "UDP: bytes, stripped",
        "TCP: bytes, stripped",
        "crates, itself included",
    ]
    .map(str::to_owned);
    Ok(format!(
        "## WASI: size of the components\n\n{}",
        markdown(&header, &rows)
    ))
}

/// Builds those that are wanted, and adds those that the command line gives.
fn servers(
    options: &Options,
    guests: &[Guest],
    given: &[(String, Vec<String>)],
) -> io::Result<Vec<Server>> {
    check_names(options)?;
    let wasmtime = build::wasmtime()?;
    let is_given = |name: &str| given.iter().any(|(given, _)| given == name);
    let mut servers = Vec::new();
    for guest in guests {
        if !options.wants(guest.name) || is_given(guest.name) {
            continue;
        }
        match command(&wasmtime, guest) {
            Ok(command) => servers.push(Server::new(guest.name, command, Listens::Port)),
            // The compiler may be too old for one of them, whereas the others can be measured.
            Err(error) if options.only.is_none() && guest.package != "coracle" => {
                eprintln!("left out: {}: {error}", guest.name);
            }
            Err(error) => return Err(error),
        }
    }
    for (name, command) in given {
        if options.wants(name) {
            let command = command.iter().map(Into::into).collect();
            servers.push(Server::new(name, command, Listens::Port));
        }
    }
    Ok(servers)
}

/// Every command has its own; a name has to be in one of them.
fn check_names(options: &Options) -> io::Result<()> {
    let guests = UDP.iter().chain(&TCP).chain(&IDLE).map(|guest| guest.name);
    let given = options
        .given(Transport::Udp)
        .iter()
        .chain(options.given_tcp());
    let known: Vec<&str> = guests.chain(given.map(|(name, _)| &**name)).collect();
    for name in options.only.iter().flatten() {
        if !known.contains(&&**name) {
            return Err(invalid(format!("there is no guest {name}")));
        }
    }
    Ok(())
}

fn component(guest: &Guest) -> io::Result<PathBuf> {
    match guest.program {
        Program::Guest(binary) => build::guest(binary),
        ExampleP3(name) => build::guest_example(name, true),
        Example(name) | Native(name) => build::guest_example(name, false),
    }
}

fn command(wasmtime: &Path, guest: &Guest) -> io::Result<Vec<OsString>> {
    let mut words: Vec<OsString> = Vec::new();
    if let Native(name) = guest.program {
        words.push(build::example(name, true)?.into());
    } else {
        let component = build::precompiled(wasmtime, &component(guest)?)?;
        words.push(wasmtime.into());
        let run = ["run", "-S", "inherit-network=y", "--allow-precompiled"];
        words.extend(run.map(OsString::from));
        words.push(component.into());
    }
    words.extend(guest.flags.iter().map(OsString::from));
    Ok(words)
}
