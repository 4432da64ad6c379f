//! What every server does in the same way: it takes the address to bind from the command line,
//! and prints the address bound as `listening on ADDR`.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;

/// Binds the address given on the command line, the first argument that is not a flag, or a
/// free port of the loopback interface.
pub fn bind() -> io::Result<UdpSocket> {
    let address = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let socket = UdpSocket::bind(&address).map_err(|error| cannot_bind(&address, error))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Listens on the path that is the last argument, and says so: whoever connects from then on
/// waits in the backlog, which is the same for all servers that begin so.
pub fn listen() -> io::Result<UnixListener> {
    let path = std::env::args().skip(1).last().unwrap_or_default();
    let listener = UnixListener::bind(&path).map_err(|error| cannot_bind(&path, error))?;
    listener.set_nonblocking(true)?;
    announce(path)?;
    Ok(listener)
}

fn cannot_bind(address: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot bind {address:?}: {error}"))
}

/// Whether the command line has this flag.
pub fn flag(name: &str) -> bool {
    std::env::args().skip(1).any(|argument| argument == name)
}

/// Bytes that a task sets aside for its connection: the number after `--buffer`.
pub fn buffer_len() -> io::Result<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--buffer");
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(1024),
        (Some(_), value) => value
            .and_then(|value| value.parse().ok())
            .filter(|&len| len > 0)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "--buffer wants bytes")),
    }
}

/// Tells whoever started the server where it listens.
pub fn announce(address: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}
