//! System calls per echoed datagram. They are counted, not timed: the result is exact, and
//! the same on any machine with the same kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::build;
use crate::client::{burst, Flooder, Load};
use crate::options::Options;
use crate::server::{servers, Server};
use crate::table::{markdown, number};

/// Long enough for a server to have gone back to sleep, under strace too.
const GAP: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Default)]
struct Count {
    calls: f64,
    failed: f64,
}

type Counts = BTreeMap<String, Count>;

pub fn syscalls(options: &Options) -> io::Result<String> {
    let version = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    if !version.is_ok_and(|status| status.success()) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "strace, which counts the system calls, is not installed",
        ));
    }
    let servers = servers(options)?;
    let lone = table(options, &servers, 1, options.exchanges)?;
    let bursts = table(options, &servers, 32, options.exchanges.div_ceil(8))?;
    Ok(format!(
        "## System calls per echoed datagram\n\n\
         Lone datagrams, 1 ms apart:\n\n{lone}\n\
         Bursts of 32 sent by one sendmmsg, 1 ms apart:\n\n{bursts}"
    ))
}

fn table(
    options: &Options,
    servers: &[Server],
    at_once: usize,
    exchanges: u32,
) -> io::Result<String> {
    let file = build::target()?.join(format!("strace-{}.txt", std::process::id()));
    let mut rows = Vec::new();
    for server in servers {
        eprintln!("syscalls: {}, {at_once} at once", server.name);
        let before = count(server, options, at_once, 0, &file)?;
        let after = count(server, options, at_once, exchanges, &file)?;
        let datagrams = f64::from(exchanges) * at_once as f64;
        rows.push(row(&server.name, &before, &after, datagrams));
    }
    // Nothing depends on it.
    let _ = fs::remove_file(&file);
    let header = ["server", "calls", "of which"].map(str::to_owned);
    Ok(markdown(&header, &rows))
}

/// Runs a server under strace for so many exchanges.
fn count(
    server: &Server,
    options: &Options,
    at_once: usize,
    exchanges: u32,
    file: &Path,
) -> io::Result<Counts> {
    let running = server.start_traced(file)?;
    thread::sleep(Duration::from_millis(100));
    let load = Load {
        size: options.size,
        window: at_once,
        sockets: 1,
        segments: None,
    };
    let mut flooder = Flooder::new(&running, load)?;
    for _ in 0..exchanges {
        burst(&mut flooder, at_once)?;
        thread::sleep(GAP);
    }
    drop(flooder);
    running.stop()?;
    Ok(parse(&fs::read_to_string(file)?))
}

/// The lines of strace's table are: % of time, seconds, µs per call, calls, errors if there
/// were any, name.
fn parse(table: &str) -> Counts {
    let mut counts = Counts::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (calls, failed, name) = match words.as_slice() {
            [_, _, _, calls, name] => (calls, "0", name),
            [_, _, _, calls, failed, name] => (calls, *failed, name),
            _ => continue,
        };
        if let (Ok(calls), Ok(failed)) = (calls.parse(), failed.parse()) {
            if *name != "total" {
                counts.insert((*name).to_owned(), Count { calls, failed });
            }
        }
    }
    counts
}

fn row(name: &str, before: &Counts, after: &Counts, datagrams: f64) -> Vec<String> {
    let mut total = 0.0;
    let mut shares: Vec<(f64, String)> = Vec::new();
    for (call, count) in after {
        let start_up = before.get(call).copied().unwrap_or_default();
        let calls = (count.calls - start_up.calls) / datagrams;
        let failed = (count.failed - start_up.failed) / datagrams;
        total += calls;
        if calls.abs() < 0.0005 {
            continue;
        }
        let mut share = format!("{call} {}", number(calls, 3));
        if failed.abs() >= 0.0005 {
            share += &format!(" ({} failed)", number(failed, 3));
        }
        shares.push((calls, share));
    }
    shares.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shares: Vec<String> = shares.into_iter().map(|(_, share)| share).collect();
    vec![name.to_owned(), number(total, 3), shares.join(", ")]
}
