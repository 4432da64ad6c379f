//! A TCP echo server on wstd: a task for each connection, with a buffer of its own.

use coracle_guests::{address, announce};
use wstd::io::{self, AsyncRead, AsyncWrite};
use wstd::iter::AsyncIterator;
use wstd::net::{TcpListener, TcpStream};
use wstd::runtime;

fn main() -> io::Result<()> {
    runtime::block_on(async {
        let listener = TcpListener::bind(&address()).await?;
        announce(listener.local_addr()?)?;
        let mut incoming = listener.incoming();
        while let Some(stream) = incoming.next().await {
            runtime::spawn(echo(stream?)).detach();
        }
        Ok(())
    })
}

/// An error ends the connection, which is all that is to be done about it.
async fn echo(stream: TcpStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0; 1024];
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(()),
            len => writer.write_all(&buffer[..len]).await?,
        }
    }
}
