//! What every server does in the same way: the address to bind is the first argument that
//! is not a flag, and the address bound is printed as `listening on ADDR`.

use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};

/// Binds the address given on the command line, or a free port of the loopback interface.
pub fn bind() -> io::Result<UdpSocket> {
    let address = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let socket = UdpSocket::bind(&address)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot bind {address}: {error}")))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether the command line has this flag.
pub fn flag(name: &str) -> bool {
    std::env::args().skip(1).any(|argument| argument == name)
}

/// Tells whoever started the server where it listens.
pub fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}
