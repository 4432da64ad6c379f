//! The measurements of UDP servers.

use std::io;
use std::thread;
use std::time::Duration;

use crate::client::datagram::{self, Flood, Load, Pinger};
use crate::client::{self, PingPong};
use crate::options::{invalid, Options, Pin};
use crate::rounds::interleave;
use crate::server::{servers, Transport};
use crate::table::{by_server, Column, Show};

pub fn ping_pong(options: &Options) -> io::Result<String> {
    let servers = servers(options, Transport::Udp)?;
    let mut text = format!("## UDP ping-pong, {} bytes\n", options.size);
    for pin in options.ping_pong_pins() {
        let series = interleave(options, &servers, pin, |server| {
            datagram::verify(server)?;
            let mut pinger = Pinger::new(server, options.size)?;
            let result = client::ping_pong(server, options.duration, || pinger.exchange())?;
            Ok(result.row())
        })?;
        text += &format!(
            "\n{pin}:\n\n{}",
            by_server(&PingPong::COLUMNS, &series, &options.base)
        );
    }
    Ok(text)
}

pub fn flood(options: &Options, gso: bool) -> io::Result<String> {
    let load = load(options, gso);
    if load.segments.is_some_and(|n| n * load.size > 65_507) {
        return Err(invalid(format!(
            "{} segments of {} bytes are too large for one send",
            options.segments, options.size
        )));
    }
    let servers = servers(options, Transport::Udp)?;
    let pin = options.pin.unwrap_or(Pin::Split);
    let series = interleave(options, &servers, pin, |server| {
        datagram::verify(server)?;
        Ok(datagram::flood(server, load, options.duration)?.row())
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
        by_server(&Flood::COLUMNS, &series, &options.base)
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
    let servers = servers(options, Transport::Udp)?;
    let pin = options.pin.unwrap_or(Pin::Split);
    let series = interleave(options, &servers, pin, |server| {
        // Let it get as far as waiting for a datagram.
        thread::sleep(Duration::from_millis(100));
        let idle = ["VmRSS", "RssAnon"].map(|field| server.status_kb(field));
        datagram::flood(server, load, options.duration)?;
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
