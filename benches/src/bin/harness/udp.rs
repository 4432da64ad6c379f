//! The measurements that drive every server in turn.

use std::io;
use std::thread;
use std::time::Duration;

use crate::client::{self, Load};
use crate::cpu::Placement;
use crate::options::{invalid, Options, Pin};
use crate::server::{servers, Running, Server};
use crate::table::{by_server, Column, Series, Show};

pub fn ping_pong(options: &Options) -> io::Result<String> {
    const COLUMNS: [Column; 4] = [
        Column::new("round trips/s", 0, Show::Ratio),
        Column::new("p50 µs", 1, Show::Median),
        Column::new("p99 µs", 1, Show::Median),
        Column::new("server CPU µs/round trip", 2, Show::Ratio),
    ];
    // Apart, waking a CPU that has nothing to do is part of the time; together, only the work
    // of both sides is.
    let pins = match options.pin {
        Some(pin) => vec![pin],
        None => vec![Pin::Split, Pin::Same],
    };
    let servers = servers(options)?;
    let mut text = format!("## UDP ping-pong, {} bytes\n", options.size);
    for pin in pins {
        let series = interleave(options, &servers, pin, |server| {
            server.verify()?;
            let result = client::ping_pong(server, options.size, options.duration)?;
            Ok(vec![
                result.per_second,
                result.p50_us,
                result.p99_us,
                result.server_us,
            ])
        })?;
        text += &format!(
            "\n{pin}:\n\n{}",
            by_server(&COLUMNS, &series, &options.base)
        );
    }
    Ok(text)
}

pub fn flood(options: &Options, gso: bool) -> io::Result<String> {
    const COLUMNS: [Column; 3] = [
        Column::new("echoed/CPU second of the server", 0, Show::Ratio),
        Column::new("echoed/s", 0, Show::Ratio),
        Column::new("lost per million", 0, Show::Median),
    ];
    let load = load(options, gso);
    if load.segments.is_some_and(|n| n * load.size > 65_507) {
        return Err(invalid(format!(
            "{} segments of {} bytes are too large for one send",
            options.segments, options.size
        )));
    }
    let servers = servers(options)?;
    let pin = options.pin.unwrap_or(Pin::Split);
    let series = interleave(options, &servers, pin, |server| {
        server.verify()?;
        let result = client::flood(server, load, options.duration)?;
        Ok(vec![
            result.per_cpu_second,
            result.per_second,
            result.lost_per_million,
        ])
    })?;
    let how = match load.segments {
        Some(segments) => format!(", GSO of {segments} and GRO at the client"),
        None => String::new(),
    };
    Ok(format!(
        "## UDP flood, {} bytes, {} under way over {} socket(s){how}\n\n{pin}:\n\n{}",
        load.size,
        load.window,
        load.sockets,
        by_server(&COLUMNS, &series, &options.base)
    ))
}

/// Resident memory: what the runtime and its buffers take.
pub fn memory(options: &Options) -> io::Result<String> {
    const COLUMNS: [Column; 6] = [
        Column::new("threads", 0, Show::Median),
        Column::new("idle RSS kB", 0, Show::Ratio),
        Column::new("idle anonymous kB", 0, Show::Median),
        Column::new("RSS kB after a flood", 0, Show::Ratio),
        Column::new("anonymous kB after it", 0, Show::Median),
        Column::new("peak RSS kB", 0, Show::Median),
    ];
    let load = load(options, false);
    let servers = servers(options)?;
    let pin = options.pin.unwrap_or(Pin::Split);
    let series = interleave(options, &servers, pin, |server| {
        // Let it get as far as waiting for a datagram.
        thread::sleep(Duration::from_millis(100));
        let idle = ["VmRSS", "RssAnon"].map(|field| server.status_kb(field));
        client::flood(server, load, options.duration)?;
        let after = ["VmRSS", "RssAnon", "VmHWM"].map(|field| server.status_kb(field));
        let threads = server.status_kb("Threads");
        std::iter::once(threads).chain(idle).chain(after).collect()
    })?;
    Ok(format!(
        "## Memory\n\n{}",
        by_server(&COLUMNS, &series, &options.base)
    ))
}

fn load(options: &Options, gso: bool) -> Load {
    Load {
        size: options.size,
        window: options.window(),
        sockets: options.sockets,
        segments: gso.then_some(options.segments),
    }
}

/// Measures every server once a round. Each time it is a new process, so that what a process
/// gets by chance, such as its place in memory, differs from round to round; and each round
/// begins with another one.
fn interleave(
    options: &Options,
    servers: &[Server],
    pin: Pin,
    measure: impl Fn(&Running) -> io::Result<Vec<f64>>,
) -> io::Result<Vec<Series>> {
    let placement = Placement::new(pin)?;
    let mut series: Vec<Series> = servers
        .iter()
        .map(|server| Series {
            name: server.name.clone(),
            rounds: Vec::new(),
        })
        .collect();
    for round in 0..options.rounds {
        eprintln!(
            "{}: round {} of {}",
            options.command,
            round + 1,
            options.rounds
        );
        for turn in 0..servers.len() {
            let index = (round + turn) % servers.len();
            let running = servers[index].start(placement.server)?;
            series[index].rounds.push(measure(&running)?);
            running.stop()?;
        }
    }
    Ok(series)
}
