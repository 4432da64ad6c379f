//! A TCP echo server on wstd: a task for each connection, with a buffer of its own, of as many
//! bytes as `--read=N` says.

use coracle_guests::{address, announce, number};
use wstd::io::{self, AsyncRead, AsyncWrite};
use wstd::iter::AsyncIterator;
use wstd::net::{TcpListener, TcpStream};
use wstd::runtime;

fn main() -> io::Result<()> {
    let most = number("--read")?.unwrap_or(1024);
    runtime::block_on(async {
        let listener = TcpListener::bind(&address()).await?;
        announce(listener.local_addr()?)?;
        let mut incoming = listener.incoming();
        while let Some(stream) = incoming.next().await {
            runtime::spawn(echo(stream?, most)).detach();
        }
        Ok(())
    })
}

/// An error ends the connection, which is all that is to be done about it.
async fn echo(stream: TcpStream, most: usize) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0; most];
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(()),
            len => writer.write_all(&buffer[..len]).await?,
        }
    }
}
