//! What the servers weigh: bytes of the binary, and crates a program gets with the runtime.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::build;
use crate::options::Options;
use crate::table::{markdown, number};

/// Binaries of this package, with the crate that each is there to show.
const PEERS: [(&str, &str, &str); 5] = [
    ("tokio", "udp_tokio", "tokio"),
    ("smol", "udp_smol", "smol"),
    ("quinn", "udp_quinn", "quinn-udp"),
    ("epoll", "udp_epoll", "libc"),
    ("mmsg", "udp_mmsg", "libc"),
];

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
            let binary = build::example(default_features);
            let crates = crates(&root, "coracle", features);
            rows.push(row(name, binary.and_then(|path| bytes(&path)), crates));
        }
    }
    for (name, binary, package) in PEERS {
        if options.wants(name) {
            let path = build::binary(binary);
            let crates = crates(build::package(), package, &["--features", binary]);
            rows.push(row(name, path.and_then(|path| bytes(&path)), crates));
        }
    }
    let header = ["server", "bytes, stripped", "crates, itself included"].map(str::to_owned);
    Ok(format!("## Size\n\n{}", markdown(&header, &rows)))
}

/// A figure that cannot be had leaves a gap, not the whole table undone.
fn row(name: &str, bytes: io::Result<u64>, crates: io::Result<usize>) -> Vec<String> {
    let cell = |value: io::Result<f64>| match value {
        Ok(value) => number(value, 0),
        Err(error) => {
            eprintln!("size: {name}: {error}");
            "–".to_owned()
        }
    };
    vec![
        name.to_owned(),
        cell(bytes.map(|bytes| bytes as f64)),
        cell(crates.map(|crates| crates as f64)),
    ]
}

fn bytes(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.len())
}

/// The crates that are built for this one on this platform, build scripts' own apart. What
/// has been built is on this machine, so that no network is needed.
fn crates(root: &Path, package: &str, features: &[&str]) -> io::Result<usize> {
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
