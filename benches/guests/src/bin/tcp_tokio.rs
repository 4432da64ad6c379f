//! A TCP echo server on tokio's current-thread runtime, with its I/O driver and nothing else: one
//! connection after the other, with a buffer for it, of as many bytes as `--read=N` says.
//!
//! The standard library accepts: `TcpListener::accept` of tokio 1.54 with mio 1.2.4 fails on this
//! target with EINVAL.

use std::io;
use std::net::TcpListener;

use coracle_guests::{address, announce, number};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() -> io::Result<()> {
    let most = number("--read")?.unwrap_or(1024);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let listener = TcpListener::bind(address())?;
    announce(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        // An error ends the connection, which is all that is to be done about it.
        let _ = runtime.block_on(echo(stream, most));
    }
}

async fn echo(stream: std::net::TcpStream, most: usize) -> io::Result<()> {
    let mut stream = TcpStream::from_std(stream)?;
    let mut buffer = vec![0; most];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len]).await?,
        }
    }
}
