//! The measurements of servers on Unix streams.

use std::io;
use std::thread;
use std::time::Duration;

use crate::client::stream::{self, Bulk, Pinger};
use crate::client::{self, PingPong};
use crate::options::{invalid, Options, Pin};
use crate::rounds::interleave;
use crate::server::{servers, Server, Transport};
use crate::table::{by_server, number, Column, Show};

/// Enough for what each takes to stand out from the rest, and for a limit of open files that
/// is not generous.
const MANY: usize = 10_000;

pub fn ping_pong(options: &Options) -> io::Result<String> {
    let counts = match options.idle {
        Some(idle) => vec![idle],
        None => vec![0, MANY],
    };
    let servers = servers(options, small_buffer(options))?;
    let mut text = format!("## Unix stream ping-pong, {} bytes\n", options.size);
    for idle in counts {
        for pin in options.ping_pong_pins() {
            let series = interleave(options, &servers, pin, |server| {
                stream::verify(server)?;
                let _idle = stream::open(server, idle, options.size)?;
                let mut pinger = Pinger::new(server, options.size)?;
                let result = client::ping_pong(server, options.duration, || pinger.exchange())?;
                Ok(result.row())
            })?;
            text += &format!(
                "\n{pin}{}:\n\n{}",
                besides(idle),
                by_server(&PingPong::COLUMNS, &series, &options.base)
            );
        }
    }
    Ok(text)
}

fn besides(idle: usize) -> String {
    match idle {
        0 => String::new(),
        _ => format!(", {} idle connections open besides", number(idle as f64, 0)),
    }
}

pub fn bulk(options: &Options) -> io::Result<String> {
    let buffer = options.buffer.unwrap_or(coracle_benches::BUFFER);
    let servers = servers(options, Transport::Unix { buffer })?;
    bulk_of(options, &servers, "Unix stream bulk echo, one connection")
}

pub fn bulk_of(options: &Options, servers: &[Server], title: &str) -> io::Result<String> {
    let pin = options.pin.unwrap_or(Pin::Split);
    let series = interleave(options, servers, pin, |server| {
        stream::verify(server)?;
        Ok(stream::bulk(server, options.duration)?.row())
    })?;
    Ok(format!(
        "## {title}\n\n{pin}:\n\n{}",
        by_server(&Bulk::COLUMNS, &series, &options.base)
    ))
}

pub fn connect(options: &Options) -> io::Result<String> {
    const COLUMNS: [Column; 2] = [
        Column::new("connections/CPU second of the server", 0, Show::Ratio),
        Column::new("connections/s", 0, Show::Ratio),
    ];
    let servers = servers(options, small_buffer(options))?;
    let pin = options.pin.unwrap_or(Pin::Split);
    let series = interleave(options, &servers, pin, |server| {
        stream::verify(server)?;
        let (size, duration) = (options.size, options.duration);
        let result = stream::connects(server, options.parallel, size, duration)?;
        Ok(vec![result.per_cpu_second, result.per_second])
    })?;
    Ok(format!(
        "## Unix stream connections, {} at a time, {} bytes echoed on each\n\n{pin}:\n\n{}",
        options.parallel,
        options.size,
        by_server(&COLUMNS, &series, &options.base)
    ))
}

/// What a server keeps in memory of its own for a connection; what the kernel does is the
/// same for all.
pub fn memory(options: &Options) -> io::Result<String> {
    const COLUMNS: [Column; 3] = [
        Column::new("bytes/connection", 0, Show::Ratio),
        Column::new("RSS kB before", 0, Show::Median),
        Column::new("RSS kB with all of them", 0, Show::Median),
    ];
    let count = options.idle.unwrap_or(MANY);
    if count == 0 {
        return Err(invalid("--idle: at least 1".to_owned()));
    }
    let servers = servers(options, small_buffer(options))?;
    let pin = options.pin.unwrap_or(Pin::Split);
    let series = interleave(options, &servers, pin, |server| {
        // Let it get as far as waiting for a connection.
        thread::sleep(Duration::from_millis(100));
        let before = server.status_kb("VmRSS")?;
        let _idle = stream::open(server, count, options.size)?;
        let after = server.status_kb("VmRSS")?;
        Ok(vec![
            (after - before) * 1024.0 / count as f64,
            before,
            after,
        ])
    })?;
    Ok(format!(
        "## Memory of {} idle Unix stream connections, each of which has echoed {} bytes\n\n{}",
        number(count as f64, 0),
        options.size,
        by_server(&COLUMNS, &series, &options.base)
    ))
}

/// As a server would choose it that expects many connections and short messages.
pub fn small_buffer(options: &Options) -> Transport {
    Transport::Unix {
        buffer: options.buffer.unwrap_or(1024),
    }
}
