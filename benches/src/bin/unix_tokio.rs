//! An echo server for Unix streams on tokio's current-thread runtime, with its I/O driver and
//! nothing else: a task for each connection, with a buffer of its own.

use std::io;

use coracle_benches::contract;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

fn main() -> io::Result<()> {
    let listener = contract::listen()?;
    let buffer_len = contract::buffer_len()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream, buffer_len));
        }
    })
}

/// An error ends the connection, which is all that is to be done about it.
async fn echo(mut stream: UnixStream, buffer_len: usize) -> io::Result<()> {
    let mut buffer = vec![0; buffer_len];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len]).await?,
        }
    }
}
