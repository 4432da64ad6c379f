//! System calls per echoed datagram or message. They are counted, not timed: the result is exact, and
//! the same on any machine with the same kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::build;
use crate::client::datagram::{burst, Flooder, Load};
use crate::client::stream::Pinger;
use crate::options::Options;
use crate::server::{servers, Running, Server, Transport};
use crate::table::{markdown, number};
use crate::unix::small_buffer;

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
    let mut text = "## System calls per echo\n".to_owned();
    let mut section = |title: &str, table: String| text += &format!("\n{title}:\n\n{table}");

    let udp = servers(options, Transport::Udp)?;
    // Not every name that may be asked for is that of a server of both kinds.
    if !udp.is_empty() {
        for (title, at_once, exchanges) in [
            ("Lone datagrams, 1 ms apart", 1, options.exchanges),
            (
                "Bursts of 32 datagrams sent by one sendmmsg, 1 ms apart",
                32,
                options.exchanges.div_ceil(8),
            ),
        ] {
            let drive =
                |server: &Running, exchanges| bursts(server, options.size, at_once, exchanges);
            section(title, table(&udp, at_once, exchanges, drive)?);
        }
    }
    let unix = servers(options, small_buffer(options))?;
    if !unix.is_empty() {
        let drive = |server: &Running, exchanges| round_trips(server, options.size, exchanges);
        section(
            "Lone messages on one Unix stream, 1 ms apart",
            table(&unix, 1, options.exchanges, drive)?,
        );
    }
    Ok(text)
}

/// A line for each server, which `drive` makes echo `at_once` times in each of so many
/// exchanges.
fn table<C>(
    servers: &[Server],
    at_once: usize,
    exchanges: u32,
    drive: impl Fn(&Running, u32) -> io::Result<C>,
) -> io::Result<String> {
    let file = build::target()?.join(format!("strace-{}.txt", std::process::id()));
    let mut rows = Vec::new();
    for server in servers {
        eprintln!("syscalls: {}, {at_once} at once", server.name);
        let before = count(server, &file, |running| drive(running, 0))?;
        let after = count(server, &file, |running| drive(running, exchanges))?;
        let echoes = f64::from(exchanges) * at_once as f64;
        rows.push(row(&server.name, &before, &after, echoes));
    }
    // Nothing depends on it.
    let _ = fs::remove_file(&file);
    let header = ["server", "calls", "of which"].map(str::to_owned);
    Ok(markdown(&header, &rows))
}

/// Runs a server under strace for as long as `drive` does.
fn count<C>(
    server: &Server,
    file: &Path,
    drive: impl FnOnce(&Running) -> io::Result<C>,
) -> io::Result<Counts> {
    let running = server.start_traced(file)?;
    thread::sleep(Duration::from_millis(100));
    // Kept until the server has ended: a connection that is closed makes it do something.
    let client = drive(&running)?;
    running.stop()?;
    drop(client);
    Ok(parse(&fs::read_to_string(file)?))
}

/// Datagrams, so many at once.
fn bursts(server: &Running, size: usize, at_once: usize, exchanges: u32) -> io::Result<()> {
    let load = Load {
        size,
        window: at_once,
        sockets: 1,
        segments: None,
    };
    let mut flooder = Flooder::new(server, load)?;
    for _ in 0..exchanges {
        burst(&mut flooder, at_once)?;
        thread::sleep(GAP);
    }
    Ok(())
}

/// Messages on one connection, after one that is part of setting it up.
fn round_trips(server: &Running, size: usize, exchanges: u32) -> io::Result<UnixStream> {
    let mut pinger = Pinger::new(server, size)?;
    for _ in 0..=exchanges {
        pinger.exchange()?;
        thread::sleep(GAP);
    }
    Ok(pinger.into_stream())
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

fn row(name: &str, before: &Counts, after: &Counts, echoes: f64) -> Vec<String> {
    let mut total = 0.0;
    let mut shares: Vec<(f64, String)> = Vec::new();
    for (call, count) in after {
        let start_up = before.get(call).copied().unwrap_or_default();
        let calls = (count.calls - start_up.calls) / echoes;
        let failed = (count.failed - start_up.failed) / echoes;
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
