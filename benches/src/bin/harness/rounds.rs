//! The order in which servers are measured.

use std::io;

use crate::cpu::Placement;
use crate::options::{invalid, Options, Pin};
use crate::server::{Running, Server};
use crate::table::Series;

/// Measures every server once a round. Each time it is a new process, so that what a process
/// gets by chance, such as its place in memory, differs from round to round; and each round
/// begins with another one.
pub fn interleave(
    options: &Options,
    servers: &[Server],
    pin: Pin,
    measure: impl Fn(&Running) -> io::Result<Vec<f64>>,
) -> io::Result<Vec<Series>> {
    if servers.is_empty() {
        let message = format!("none of these servers is one for {}", options.command);
        return Err(invalid(message));
    }
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
