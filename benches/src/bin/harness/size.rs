//! What the servers weigh: bytes of the binary, and crates a program gets with the runtime.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::build;
use crate::options::Options;
use crate::table::{markdown, number};

/// Binaries of this package, with the crate that each is there to show.
const PEERS: [Peer; 6] = [
    Peer::new("coracle-net", None, Some("unix_coracle"), "coracle"),
    Peer::new("tokio", Some("udp_tokio"), Some("unix_tokio"), "tokio"),
    Peer::new("smol", Some("udp_smol"), Some("unix_smol"), "smol"),
    Peer::new("quinn", Some("udp_quinn"), None, "quinn-udp"),
    Peer::new("epoll", Some("udp_epoll"), Some("unix_epoll"), "libc"),
    Peer::new("mmsg", Some("udp_mmsg"), None, "libc"),
];

struct Peer {
    name: &'static str,
    udp: Option<&'static str>,
    unix: Option<&'static str>,
    package: &'static str,
}

impl Peer {
    const fn new(
        name: &'static str,
        udp: Option<&'static str>,
        unix: Option<&'static str>,
        package: &'static str,
    ) -> Self {
        Self {
            name,
            udp,
            unix,
            package,
        }
    }
}

pub fn size(options: &Options) -> io::Result<String> {
    let mut rows = Vec::new();
    if options.wants("coracle") {
        for (name, default_features) in [("coracle", true), ("coracle, no default features", false)]
        {
            let root = build::crate_root();
            let features: &[&str] = match default_features {
                true => &[],
                false => &["--no-default-features"],
            };
            let example = |name| bytes(build::example(name, default_features));
            let crates = crates(&root, "coracle", features);
            rows.push(row(
                name,
                Some(example("udp_echo_server")),
                Some(example("unix_echo_server")),
                crates,
            ));
        }
    }
    for peer in PEERS {
        if options.wants(peer.name) {
            let features = peer.udp.or(peer.unix).unwrap_or_default();
            let crates = crates(build::package(), peer.package, &["--features", features]);
            let binary = |name| bytes(build::binary(name));
            rows.push(row(
                peer.name,
                peer.udp.map(binary),
                peer.unix.map(binary),
                crates,
            ));
        }
    }
    let header = [
        "server",
        "UDP: bytes, stripped",
        "Unix streams: bytes, stripped",
        "crates, itself included",
    ]
    .map(str::to_owned);
    Ok(format!("## Size\n\n{}", markdown(&header, &rows)))
}

/// A figure that cannot be had leaves a gap, not the whole table undone.
pub fn row(
    name: &str,
    udp: Option<io::Result<f64>>,
    unix: Option<io::Result<f64>>,
    crates: io::Result<usize>,
) -> Vec<String> {
    let cell = |value: Option<io::Result<f64>>| match value {
        Some(Ok(value)) => number(value, 0),
        // There is no such server.
        None => String::new(),
        Some(Err(error)) => {
            eprintln!("size: {name}: {error}");
            "–".to_owned()
        }
    };
    vec![
        name.to_owned(),
        cell(udp),
        cell(unix),
        cell(Some(crates.map(|crates| crates as f64))),
    ]
}

pub fn bytes(built: io::Result<PathBuf>) -> io::Result<f64> {
    Ok(fs::metadata(built?)?.len() as f64)
}

/// The crates that are built for this one on this platform, build scripts' own apart. What
/// has been built is on this machine, so that no network is needed.
pub fn crates(root: &Path, package: &str, features: &[&str]) -> io::Result<usize> {
    let output = Command::new(build::cargo())
        .current_dir(root)
        .args(["tree", "--offline", "--edges", "normal"])
        .args(["--prefix", "depth", "--no-dedupe"])
        .args(features)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other("cargo tree failed"));
    }
    // Lines are `DEPTHNAME vVERSION ...`. Wanted is the package and what is below it.
    let text = String::from_utf8_lossy(&output.stdout);
    let mut top = None;
    let mut crates = BTreeSet::new();
    for line in text.lines() {
        let name_at = line.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        let depth: usize = line[..name_at].parse().unwrap_or(0);
        let mut words = line[name_at..].split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            continue;
        };
        match top {
            None if name == package => top = Some(depth),
            None => continue,
            Some(top) if depth <= top => break,
            Some(_) => {}
        }
        crates.insert((name, version));
    }
    Ok(crates.len())
}
