//! The command line.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use crate::server::Transport;

pub const USAGE: &str = "\
usage: harness COMMAND [OPTION...]

commands
  udp-ping-pong    one datagram at a time: round trips, latency, CPU time of the server
  udp-flood        a window of datagrams: echoes per second, and per CPU second of the server
  udp-flood-gso    the same from a client that sends with GSO and receives with GRO
  unix-ping-pong   the same as udp-ping-pong on Unix streams, also with many idle connections
  unix-bulk        one Unix connection: bytes echoed per second, and per CPU second of the server
  unix-connect     Unix connections of one message each: per second, and per CPU second
  syscalls         system calls per echoed message, counted by strace
  micro            tasks, yields, timers, wake-ups across threads
  tls              TLS 1.3 over a Unix socket: transfers, round trips, handshakes
  size             bytes of the servers, crates they depend on
  memory           resident memory of the UDP servers, idle and after a flood
  unix-memory      resident memory of the servers for each idle Unix connection
  all              all of the above

  wasi-udp-ping-pong   UDP servers on WASI 0.2 and 0.3 under Wasmtime: one datagram under way, 16 and 64
  wasi-tcp-ping-pong   one message at a time on a TCP connection, on WASI
  wasi-tcp-bulk        bytes echoed on one TCP connection, on WASI
  wasi-idle            what a round trip costs with 1 to 1000 idle UDP sockets open, on WASI
  wasi-size            bytes of the stripped components, and crates they depend on
  wasi                 these five

options
  --rounds N          rounds, each of which measures every server once     [5]
  --seconds S         duration of one measurement                          [1]
  --only NAME,NAME    only these servers, or runtimes
  --server NAME=CMD   one more UDP server, or another for a name: a program and its arguments,
                      to which the address is added
  --unix-server NAME=CMD   the same for Unix streams: the path is added
  --tcp-server NAME=CMD    the same for TCP
  --base NAME         what the others are compared with                    [coracle]
  --pin WHERE         split: server and client on one CPU each; same: both on one;
                      none: as the scheduler likes   [split; ping-pong: split, then same]
  --size BYTES        payload of a datagram, or bytes of a message         [64]
  --window N          datagrams under way in a flood
                                      [256, and 64 if they are large; wasi: 16, then 64]
  --sockets N         client sockets the window is spread over             [1]
  --segments N        datagrams in one GSO send                            [32]
  --idle N            idle Unix connections  [ping-pong: 0, then 10000; memory: 10000]
                      idle UDP sockets, for wasi-idle                      [1, 10, 100, 1000]
  --parallel N        Unix connections opened at a time                    [4]
  --buffer BYTES      for each Unix connection, where it has its own buffer
                                                          [1024; bulk: 65536]
  --exchanges N       exchanges under strace                               [2000]
";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    Split,
    Same,
    None,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pin::Split => "Server and client on one CPU each",
            Pin::Same => "Server and client on the same CPU",
            Pin::None => "Server and client where the scheduler puts them",
        })
    }
}

#[derive(Clone)]
pub struct Options {
    pub command: String,
    pub rounds: usize,
    pub duration: Duration,
    pub only: Option<Vec<String>>,
    udp_servers: Vec<(String, Vec<String>)>,
    unix_servers: Vec<(String, Vec<String>)>,
    tcp_servers: Vec<(String, Vec<String>)>,
    pub base: String,
    pub pin: Option<Pin>,
    pub size: usize,
    pub window: Option<usize>,
    pub sockets: usize,
    pub segments: usize,
    pub idle: Option<usize>,
    pub parallel: usize,
    pub buffer: Option<usize>,
    pub exchanges: u32,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut options = Self {
            command: arguments.next().unwrap_or_else(|| "help".to_owned()),
            rounds: 5,
            duration: Duration::from_secs(1),
            only: None,
            udp_servers: Vec::new(),
            unix_servers: Vec::new(),
            tcp_servers: Vec::new(),
            base: "coracle".to_owned(),
            pin: None,
            size: 64,
            window: None,
            sockets: 1,
            segments: 32,
            idle: None,
            parallel: 4,
            buffer: None,
            exchanges: 2000,
        };
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .ok_or_else(|| invalid(format!("{name} needs a value")))?;
            match name.as_str() {
                "--rounds" => options.rounds = at_least_one(&name, &value)?,
                "--seconds" => {
                    options.duration = Duration::try_from_secs_f64(number(&name, &value)?)
                        .map_err(|error| invalid(format!("{name} {value}: {error}")))?;
                }
                "--only" => {
                    options.only = Some(value.split(',').map(str::to_owned).collect());
                }
                "--server" => options.udp_servers.push(server(&name, &value)?),
                "--unix-server" => options.unix_servers.push(server(&name, &value)?),
                "--tcp-server" => options.tcp_servers.push(server(&name, &value)?),
                "--base" => options.base = value,
                "--pin" => {
                    options.pin = Some(match value.as_str() {
                        "split" => Pin::Split,
                        "same" => Pin::Same,
                        "none" => Pin::None,
                        _ => return Err(invalid(format!("--pin {value}: split, same or none"))),
                    })
                }
                "--size" => options.size = number(&name, &value)?,
                "--window" => options.window = Some(at_least_one(&name, &value)?),
                "--sockets" => options.sockets = at_least_one(&name, &value)?,
                "--segments" => options.segments = at_least_one(&name, &value)?,
                "--idle" => options.idle = Some(number(&name, &value)?),
                "--parallel" => options.parallel = at_least_one(&name, &value)?,
                "--buffer" => options.buffer = Some(at_least_one(&name, &value)?),
                "--exchanges" => options.exchanges = number(&name, &value)?,
                _ => return Err(invalid(format!("unknown option {name}\n\n{USAGE}"))),
            }
        }
        if !(8..=65_507).contains(&options.size) {
            return Err(invalid("--size: from 8 to 65507 bytes".to_owned()));
        }
        Ok(options)
    }

    /// A window that a receive buffer of the usual size holds: the kernel accounts for
    /// far more than the payload.
    pub fn window(&self) -> usize {
        let fits = if self.size <= 256 { 256 } else { 64 };
        self.window.unwrap_or(fits)
    }

    /// Apart, waking a CPU that has nothing to do is part of the time; together, only the work
    /// of both sides is.
    pub fn ping_pong_pins(&self) -> Vec<Pin> {
        match self.pin {
            Some(pin) => vec![pin],
            None => vec![Pin::Split, Pin::Same],
        }
    }

    /// The servers that the command line adds.
    pub fn given(&self, transport: Transport) -> &[(String, Vec<String>)] {
        match transport {
            Transport::Udp => &self.udp_servers,
            Transport::Unix { .. } => &self.unix_servers,
        }
    }

    /// The same for the guests' TCP.
    pub fn given_tcp(&self) -> &[(String, Vec<String>)] {
        &self.tcp_servers
    }

    pub fn wants(&self, name: &str) -> bool {
        match &self.only {
            Some(names) => names.iter().any(|wanted| wanted == name),
            None => true,
        }
    }
}

pub fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn server(name: &str, value: &str) -> io::Result<(String, Vec<String>)> {
    let (server, command) = value
        .split_once('=')
        .ok_or_else(|| invalid(format!("{name} wants NAME=CMD, not {value}")))?;
    let command = command.split_whitespace().map(str::to_owned).collect();
    Ok((server.to_owned(), command))
}

fn number<T: FromStr>(name: &str, value: &str) -> io::Result<T> {
    value
        .parse()
        .map_err(|_| invalid(format!("{name} {value}: not a number")))
}

fn at_least_one(name: &str, value: &str) -> io::Result<usize> {
    match number(name, value)? {
        0 => Err(invalid(format!("{name}: at least 1"))),
        n => Ok(n),
    }
}
