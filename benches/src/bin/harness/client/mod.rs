//! The client, the same for every server.

pub mod datagram;
pub mod stream;

use std::io;
use std::time::{Duration, Instant};

use crate::server::Running;
use crate::table::{Column, Show};

/// Served, but not counted: caches, branch predictors and buffers are warm after it.
const WARM_UP: Duration = Duration::from_millis(100);

/// A server that has not answered by then will not.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct PingPong {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub server_us: f64,
}

impl PingPong {
    pub const COLUMNS: [Column; 4] = [
        Column::new("round trips/s", 0, Show::Ratio),
        Column::new("p50 µs", 1, Show::Median),
        Column::new("p99 µs", 1, Show::Median),
        Column::new("server CPU µs/round trip", 2, Show::Ratio),
    ];

    /// Where `server_us` is among them.
    pub const SERVER_CPU: usize = 3;

    pub fn row(&self) -> Vec<f64> {
        vec![self.per_second, self.p50_us, self.p99_us, self.server_us]
    }
}

/// One exchange at a time for this long.
pub fn ping_pong(
    server: &Running,
    duration: Duration,
    mut exchange: impl FnMut() -> io::Result<()>,
) -> io::Result<PingPong> {
    let warm = Instant::now();
    while warm.elapsed() < WARM_UP {
        exchange()?;
    }
    let mut latencies = Vec::with_capacity(1 << 18);
    let cpu = server.cpu_time()?;
    let start = Instant::now();
    let mut last = start;
    while last - start < duration {
        exchange()?;
        // One clock reading per exchange ends one and begins the next.
        let now = Instant::now();
        latencies.push((now - last).as_nanos() as u64);
        last = now;
    }
    let cpu = server.cpu_time()? - cpu;
    let count = latencies.len() as f64;
    latencies.sort_unstable();
    let percentile = |p: usize| latencies[(latencies.len() - 1) * p / 100] as f64 / 1e3;
    Ok(PingPong {
        per_second: count / (last - start).as_secs_f64(),
        p50_us: percentile(50),
        p99_us: percentile(99),
        server_us: cpu.as_secs_f64() * 1e6 / count,
    })
}

/// Bytes among which one that is missing, or in another place, shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}
