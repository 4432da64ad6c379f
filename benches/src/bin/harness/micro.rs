//! Runs the micro binaries in turn and compares what they print.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::build;
use crate::options::Options;
use crate::table::{markdown, median, number, range, ratio};

const RUNTIMES: &[&str] = &["coracle", "tokio", "smol"];

const TLS: &[&str] = &["coracle", "coracle-net", "tokio", "smol"];

/// By measurement, in the order of the first one seen, and by runtime: a value per round.
#[derive(Default)]
struct Results {
    order: Vec<String>,
    values: BTreeMap<(String, String), Vec<f64>>,
}

pub fn micro(options: &Options) -> io::Result<String> {
    let title = "Tasks, timers and wake-ups, nanoseconds each";
    compare(options, "micro", RUNTIMES, title)
}

/// The TLS binaries print in the same form.
pub fn tls(options: &Options) -> io::Result<String> {
    let title = "TLS 1.3 over a Unix socket: the server's side";
    compare(options, "tls", TLS, title)
}

fn compare(
    options: &Options,
    kind: &str,
    runtimes: &[&'static str],
    title: &str,
) -> io::Result<String> {
    let mut binaries: Vec<(&str, PathBuf)> = Vec::new();
    for runtime in runtimes {
        if options.wants(runtime) {
            let binary = format!("{kind}_{}", runtime.replace('-', "_"));
            binaries.push((runtime, build::binary(&binary)?));
        }
    }
    // The measurements share the time.
    let measurements = if kind == "micro" { 8.0 } else { 4.0 };
    let seconds = (options.duration.as_secs_f64() / measurements).to_string();
    let mut results = Results::default();
    for round in 0..options.rounds {
        eprintln!("{kind}: round {} of {}", round + 1, options.rounds);
        for turn in 0..binaries.len() {
            let (runtime, binary) = &binaries[(round + turn) % binaries.len()];
            let output = Command::new(binary)
                .arg(&seconds)
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()?;
            if !output.status.success() {
                let message = format!("{kind}_{runtime} failed: {}", output.status);
                return Err(io::Error::other(message));
            }
            results.add(runtime, &String::from_utf8_lossy(&output.stdout));
        }
    }
    let runtimes: Vec<&str> = binaries.iter().map(|(runtime, _)| *runtime).collect();
    Ok(format!(
        "## {title}\n\n{}",
        results.table(&runtimes, &options.base)
    ))
}

impl Results {
    fn add(&mut self, runtime: &str, lines: &str) {
        for line in lines.lines() {
            let Some((name, value)) = line.split_once(' ') else {
                continue;
            };
            let Ok(value) = value.trim().parse() else {
                continue;
            };
            if !self.order.iter().any(|known| known == name) {
                self.order.push(name.to_owned());
            }
            let key = (name.to_owned(), runtime.to_owned());
            self.values.entry(key).or_default().push(value);
        }
    }

    fn table(&self, runtimes: &[&str], base: &str) -> String {
        let mut header = vec!["measurement".to_owned()];
        for runtime in runtimes {
            header.push((*runtime).to_owned());
            header.push("min–max".to_owned());
            if *runtime != base {
                header.push(format!("÷ {base}"));
            }
        }
        let values = |name: &str, runtime: &str| -> &[f64] {
            let key = (name.to_owned(), runtime.to_owned());
            self.values.get(&key).map_or(&[], Vec::as_slice)
        };
        let mut rows = Vec::new();
        for name in &self.order {
            let mut row = vec![name.clone()];
            for runtime in runtimes {
                let of_runtime = values(name, runtime);
                row.push(number(median(of_runtime), 0));
                row.push(range(of_runtime, 0));
                if *runtime != base {
                    row.push(ratio(of_runtime, values(name, base)));
                }
            }
            rows.push(row);
        }
        markdown(&header, &rows)
    }
}
