//! Measures coracle next to its peers: see the README of this directory.

mod build;
mod client;
mod cpu;
mod limits;
mod micro;
mod options;
mod rounds;
mod server;
mod size;
mod strace;
mod table;
mod udp;
mod unix;
mod wasi;

use std::env;
use std::fs;
use std::io;
use std::process::{Command, ExitCode};
use std::thread;

use options::{invalid, Options, USAGE};

const COMMANDS: [&str; 12] = [
    "size",
    "syscalls",
    "udp-ping-pong",
    "udp-flood",
    "udp-flood-gso",
    "unix-ping-pong",
    "unix-bulk",
    "unix-connect",
    "micro",
    "tls",
    "memory",
    "unix-memory",
];

/// Not among `all`: these want another target and a host for it.
const WASI: [&str; 5] = [
    "wasi-size",
    "wasi-udp-ping-pong",
    "wasi-tcp-ping-pong",
    "wasi-tcp-bulk",
    "wasi-idle",
];

fn main() -> ExitCode {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("harness: {error}");
            return ExitCode::FAILURE;
        }
    };
    let commands: Vec<&str> = match options.command.as_str() {
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        "all" => COMMANDS.to_vec(),
        "wasi" => WASI.to_vec(),
        one => vec![one],
    };
    // Those who get by with the usual limit are not kept from running.
    if let Err(error) = limits::raise_open_files() {
        eprintln!("harness: the limit of open files stays as it is: {error}");
    }
    println!("{}\n", machine());
    let mut code = ExitCode::SUCCESS;
    for command in commands {
        let mut options = options.clone();
        options.command = command.to_owned();
        match run(&options) {
            Ok(table) => println!("{table}"),
            // The other commands can still tell something.
            Err(error) => {
                eprintln!("harness: {command}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn run(options: &Options) -> io::Result<String> {
    match options.command.as_str() {
        "udp-ping-pong" => udp::ping_pong(options),
        "udp-flood" => udp::flood(options, false),
        "udp-flood-gso" => udp::flood(options, true),
        "unix-ping-pong" => unix::ping_pong(options),
        "unix-bulk" => unix::bulk(options),
        "unix-connect" => unix::connect(options),
        "unix-memory" => unix::memory(options),
        "syscalls" => strace::syscalls(options),
        "micro" => micro::micro(options),
        "tls" => micro::tls(options),
        "size" => size::size(options),
        "memory" => udp::memory(options),
        "wasi-udp-ping-pong" => wasi::udp(options),
        "wasi-tcp-ping-pong" => wasi::tcp(options),
        "wasi-tcp-bulk" => wasi::tcp_bulk(options),
        "wasi-idle" => wasi::idle(options),
        "wasi-size" => wasi::size(options),
        other => Err(invalid(format!("unknown command {other}\n\n{USAGE}"))),
    }
}

/// Where the figures come from, without which they say little.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let compiler = Command::new("rustc")
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(0, |count| count.get());
    format!("{cpus} × {model}, Linux {}, {compiler}", kernel.trim())
}
