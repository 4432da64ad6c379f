//! A StatsD aggregator: receives metrics in UDP datagrams, and tells them to whoever asks on a
//! control socket.
//!
//! `statsd UDP_ADDR CONTROL`, where CONTROL is a Unix path, `@name`, or HOST:PORT for TCP; then
//! `echo hits:1|c >/dev/udp/127.0.0.1/8125` and `echo stats | socat - UNIX-CONNECT:PATH`.
//!
//! A datagram has one metric or several, each on a line of its own:
//!
//! - `name:VALUE|c` counts, and with `|@RATE` counts for those that were left out;
//! - `name:VALUE|g` sets a gauge, or moves it if the value has a sign;
//! - `name:VALUE|ms` is a time that something took; with `|@RATE` too;
//! - `name:TEXT|s` is a member of a set, of which the size is told.
//!
//! The control socket understands `stats`, `reset` and `quit`. The answer to `stats` ends with a
//! line `END`; in it, `bad` counts the lines that were malformed or found no room.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use coracle::time::timeout;
use coracle::{create_datagram_endpoint, create_server, DatagramOptions, Server, TcpServerOptions};
use coracle::{Address, DatagramProtocol, DatagramTransport, Protocol, Transport};

/// What is kept at most, whatever anybody sends: names of each kind, times of a timer for its
/// percentile, members of a set, bytes of a name.
const NAMES: usize = 1_000;
const TIMES: usize = 1_000;
const MEMBERS: usize = 10_000;
const NAME: usize = 250;
/// Bursts of datagrams wait in the system's buffer, which holds as much if the system allows it.
const BURST: usize = 1 << 20;
/// The longest command, and the most bytes of answers that may wait for a client to read them.
const COMMAND: usize = 100;
const UNREAD: usize = 4 << 20;
/// How long clients have for reading their last answers.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Timer {
    count: f64,
    sum: f64,
    min: f64,
    max: f64,
    latest: VecDeque<f64>,
}

impl Timer {
    /// A time that stands for `weight` of its kind.
    fn add(&mut self, time: f64, weight: f64) -> Option<()> {
        let count = finite(self.count + weight)?;
        self.sum = finite(self.sum + time * weight)?;
        self.count = count;
        let is_first = self.latest.is_empty();
        self.min = if is_first { time } else { self.min.min(time) };
        self.max = if is_first { time } else { self.max.max(time) };
        if self.latest.len() == TIMES {
            self.latest.pop_front();
        }
        self.latest.push_back(time);
        Some(())
    }

    /// The time that so many of a hundred do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let mut times: Vec<f64> = self.latest.iter().copied().collect();
        times.sort_by(f64::total_cmp);
        let rank = (times.len() * percent).div_ceil(100);
        times.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }
}

#[derive(Default)]
struct Metrics {
    counters: BTreeMap<String, f64>,
    gauges: BTreeMap<String, f64>,
    timers: BTreeMap<String, Timer>,
    /// Hashes of the members tell them apart as well, and take less room.
    sets: BTreeMap<String, HashSet<u64>>,
    hasher: RandomState,
    bad: u64,
}

impl Metrics {
    fn add_datagram(&mut self, data: &[u8]) {
        for line in data.split(|byte| *byte == b'\n') {
            if !line.is_empty() && self.add_line(line).is_none() {
                self.bad += 1;
            }
        }
    }

    /// `None` if it is malformed or finds no room; nothing has changed then.
    fn add_line(&mut self, line: &[u8]) -> Option<()> {
        let (name, rest) = std::str::from_utf8(line).ok()?.split_once(':')?;
        let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '|';
        if name.is_empty() || name.len() > NAME || !name.chars().all(is_plain) {
            return None;
        }
        let mut parts = rest.split('|');
        let (value, kind, rate) = (parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() || (rate.is_some() && !matches!(kind, "c" | "ms")) {
            return None;
        }
        let rate = match rate {
            Some(text) => number(text.strip_prefix('@')?)?,
            None => 1.0,
        };
        let weight = (rate > 0.0 && rate <= 1.0).then(|| finite(1.0 / rate))??;
        match kind {
            "c" => {
                let count = finite(number(value)? * weight)?;
                let counter = entry(&mut self.counters, name)?;
                *counter = finite(*counter + count)?;
            }
            "g" => {
                let (moves, number) = (value.starts_with(['+', '-']), number(value)?);
                let gauge = entry(&mut self.gauges, name)?;
                *gauge = finite(if moves { *gauge + number } else { number })?;
            }
            "ms" => {
                let time = number(value)?;
                finite(time * weight)?;
                entry(&mut self.timers, name)?.add(time, weight)?;
            }
            "s" if !value.is_empty() => {
                let member = self.hasher.hash_one(value);
                let set = entry(&mut self.sets, name)?;
                if set.len() == MEMBERS && !set.contains(&member) {
                    return None;
                }
                set.insert(member);
            }
            _ => return None,
        }
        Some(())
    }

    /// The answer to `stats`.
    fn text(&self) -> String {
        let mut lines = Vec::new();
        for (name, value) in &self.counters {
            lines.push(format!("counter {name} {value}\n"));
        }
        for (name, value) in &self.gauges {
            lines.push(format!("gauge {name} {value}\n"));
        }
        for (name, timer) in &self.timers {
            let Timer {
                count, min, max, ..
            } = timer;
            let (mean, p90) = (timer.sum / count, timer.percentile(90));
            lines.push(format!(
                "timer {name} count={count} min={min} max={max} mean={mean} p90={p90}\n"
            ));
        }
        for (name, members) in &self.sets {
            lines.push(format!("set {name} {}\n", members.len()));
        }
        lines.push(format!("bad {}\nEND\n", self.bad));
        lines.concat()
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().and_then(finite)
}

fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

/// The metric of this name, a new one if there is room.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> Option<&'a mut T> {
    if !map.contains_key(name) {
        if map.len() == NAMES {
            return None;
        }
        map.insert(name.into(), T::default());
    }
    map.get_mut(name)
}

/// The side that receives metrics.
struct Receiver {
    metrics: Rc<RefCell<Metrics>>,
}

impl DatagramProtocol for Receiver {
    fn datagram_received(&mut self, _: &DatagramTransport, data: &[u8], _: &Address) {
        self.metrics.borrow_mut().add_datagram(data);
    }

    fn error_received(&mut self, _: &DatagramTransport, error: io::Error) {
        eprintln!("metrics: {error}");
    }
}

/// A connection to the control socket.
struct Control {
    metrics: Rc<RefCell<Metrics>>,
    receiver: DatagramTransport,
    /// The beginning of a command whose end has not come yet.
    begun: Vec<u8>,
}

impl Control {
    fn answer(&mut self, transport: &Transport, command: &[u8]) -> io::Result<()> {
        match String::from_utf8_lossy(command).trim() {
            "stats" => transport.write(self.metrics.borrow().text().as_bytes())?,
            "reset" => {
                *self.metrics.borrow_mut() = Metrics::default();
                transport.write(b"OK\n")?;
            }
            "quit" => {
                transport.write(b"OK\n")?;
                transport.close();
                // Which `serve` is waiting for.
                self.receiver.close();
            }
            "" => {}
            other => transport.write(format!("error: unknown command {other:?}\n").as_bytes())?,
        }
        match transport.write_buffer_size() > UNREAD {
            true => Err(io::Error::other("the client does not read its answers")),
            false => Ok(()),
        }
    }
}

impl Protocol for Control {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        self.begun.extend(data);
        let received = std::mem::take(&mut self.begun);
        let mut rest = &received[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.answer(transport, &rest[..end])?;
            if transport.is_closing() {
                return Ok(());
            }
            rest = &rest[end + 1..];
        }
        if rest.len() > COMMAND {
            transport.write(b"error: the command is too long\n")?;
            transport.close();
        }
        self.begun = rest.to_vec();
        Ok(())
    }

    fn eof_received(&mut self, transport: &Transport) -> io::Result<bool> {
        // The last line may have no end of its own.
        let last = std::mem::take(&mut self.begun);
        self.answer(transport, &last)?;
        Ok(false)
    }
}

/// Serves a TCP address or a Unix path with protocols from the factory.
async fn listen(control: &str, factory: impl FnMut() -> Control + 'static) -> io::Result<Server> {
    let is_tcp = control.rsplit_once(':').is_some_and(|(host, port)| {
        !host.starts_with('@') && !host.contains('/') && port.parse::<u16>().is_ok()
    });
    if is_tcp {
        return create_server(factory, TcpServerOptions::new().local_addr(control)).await;
    }
    #[cfg(unix)]
    {
        let options = coracle::UnixServerOptions::new().path(control);
        coracle::create_unix_server(factory, options).await
    }
    #[cfg(not(unix))]
    {
        let why = format!("'{control}' is not HOST:PORT, and this platform has no Unix sockets");
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }
}

async fn serve(addr: &str, control: &str) -> io::Result<()> {
    let metrics = Rc::new(RefCell::new(Metrics::default()));
    let protocol = Receiver {
        metrics: metrics.clone(),
    };
    let options = DatagramOptions::new().local_addr(addr);
    let (receiver, _) = create_datagram_endpoint(|| protocol, options).await?;
    let _ = receiver.udp_socket()?.set_recv_buffer_size(BURST);

    let transport = receiver.clone();
    let factory = move || Control {
        metrics: metrics.clone(),
        receiver: transport.clone(),
        begun: Vec::new(),
    };
    let server = listen(control, factory).await?;
    println!("listening on {}", receiver.local_addr()?);
    for addr in server.local_addrs() {
        println!("listening on {addr}");
    }

    // Until somebody says `quit`.
    receiver.closed().await?;
    server.close();
    server.close_clients();
    if timeout(PATIENCE, server.wait_closed()).await.is_err() {
        server.abort_clients();
        server.wait_closed().await;
    }
    Ok(())
}

// On WASI 0.3 this has main started; elsewhere it is nothing.
coracle::wasi_main!();

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, control] = &args[..] else {
        eprintln!("usage: statsd UDP_ADDR CONTROL");
        std::process::exit(2);
    };
    coracle::block_on(serve(addr, control))
}
