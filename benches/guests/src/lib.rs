//! What the guests do in the same way: each takes the address to bind from the command line, and
//! prints the address bound as `listening on ADDR`.

use std::fmt::Display;
use std::io::{self, Write};
use std::str::FromStr;

#[cfg(feature = "bare")]
pub mod bare;

/// The address to bind: the first argument that is not a flag, or a free port of the loopback
/// interface.
pub fn address() -> String {
    std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
        .unwrap_or_else(|| "127.0.0.1:0".to_owned())
}

/// Whether the command line has this flag.
pub fn flag(name: &str) -> bool {
    std::env::args().skip(1).any(|argument| argument == name)
}

/// The number given as `--name=NUMBER`.
pub fn number<T: FromStr>(name: &str) -> io::Result<Option<T>> {
    let prefix = format!("{name}=");
    std::env::args()
        .skip(1)
        .find_map(|argument| Some(argument.strip_prefix(&prefix)?.parse()))
        .transpose()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: no number")))
}

/// Tells whoever started the server where it listens.
pub fn announce(address: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}
