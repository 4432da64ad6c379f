//! An echo server for Unix streams on smol: a task for each connection, with a buffer of its
//! own, on a local executor, as the other runtimes are single-threaded.

use std::io;

use coracle_benches::contract;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::unix::{UnixListener, UnixStream};
use smol::LocalExecutor;

fn main() -> io::Result<()> {
    let listener = contract::listen()?;
    let buffer_len = contract::buffer_len()?;
    // As long-lived as the process, so that its tasks can spawn others.
    let executor: &LocalExecutor<'static> = Box::leak(Box::default());
    // A task as well: what `run` is given is polled at every wake-up of the others, and would
    // try to accept each time.
    let accepting = executor.spawn(async move {
        let listener = UnixListener::try_from(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            executor.spawn(echo(stream, buffer_len)).detach();
        }
    });
    smol::block_on(executor.run(accepting))
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
