//! An echo server for Unix streams on coracle's sockets: a task for each connection, with a
//! buffer of its own, as on tokio and smol. The crate's example is one on its endpoints.

use std::io;

use coracle::net::{UnixListener, UnixStream};
use coracle_benches::contract;

fn main() -> io::Result<()> {
    let listener = contract::listen()?;
    let buffer_len = contract::buffer_len()?;
    coracle::block_on(async {
        let listener = UnixListener::try_from(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            coracle::spawn(echo(stream, buffer_len)).detach();
        }
    })
}

/// An error ends the connection, which is all that is to be done about it.
async fn echo(stream: UnixStream, buffer_len: usize) -> io::Result<()> {
    let mut buffer = vec![0; buffer_len];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len]).await?,
        }
    }
}
