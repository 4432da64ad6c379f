//! Sends a message over a TCP connection, ends its direction, and prints what comes back until the
//! server ends the other.
//!
//! `tcp_echo_client ADDR MESSAGE`; with TLS,
//! `tcp_echo_client ADDR MESSAGE --tls-ca FILE [--server-hostname NAME]` (ADDR's host)

#[path = "support/tls.rs"]
mod tls;

use std::io;
use std::net::Shutdown;
use std::process::ExitCode;
use std::time::Duration;

use coracle::net::TcpStream;
use coracle::time::timeout;
use tls::ClientTls;

async fn exchange(addr: &str, message: &str, tls: ClientTls) -> io::Result<String> {
    #[cfg(feature = "tls")]
    let config = tls.config()?;
    let stream = TcpStream::connect(addr).await?;
    #[cfg(feature = "tls")]
    if let Some(config) = config {
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        let name = tls.server_hostname.as_deref();
        let name = name.unwrap_or(host.trim_matches(['[', ']']));
        let stream = coracle::net::TlsStream::connect(stream, config, name).await?;
        return secured::exchange(stream, message).await;
    }
    #[cfg(not(feature = "tls"))]
    let ClientTls { .. } = tls;

    stream.write_all(message.as_bytes()).await?;
    stream.shutdown(Shutdown::Write)?;

    let mut reply = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf).await? {
            0 => return Ok(String::from_utf8_lossy(&reply).into_owned()),
            len => reply.extend(&buf[..len]),
        }
    }
}

#[cfg(feature = "tls")]
mod secured {
    use std::io;

    use coracle::net::{TcpStream, TlsStream};
    use futures_lite::{future, AsyncReadExt, AsyncWriteExt};

    /// TLS has no end of one direction: the echo of the last byte is the end here.
    pub(crate) async fn exchange(
        mut stream: TlsStream<TcpStream>,
        message: &str,
    ) -> io::Result<String> {
        let mut reply = vec![0; message.len()];
        let (mut reader, mut writer) = futures_lite::io::split(&mut stream);
        let writing = async {
            writer.write_all(message.as_bytes()).await?;
            writer.flush().await
        };
        future::try_zip(writing, reader.read_exact(&mut reply)).await?;
        stream.close().await?;
        // The server says that this was all.
        let mut more = Vec::new();
        stream.read_to_end(&mut more).await?;
        reply.extend(more);
        Ok(String::from_utf8_lossy(&reply).into_owned())
    }
}

// On WASI 0.3 this has main started; elsewhere it is nothing.
coracle::wasi_main!();

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let tls = ClientTls::take(&mut args);
    let [addr, message] = &args[..] else {
        eprintln!("usage: tcp_echo_client ADDR MESSAGE [--tls-ca FILE [--server-hostname NAME]]");
        return ExitCode::from(2);
    };
    let reply = coracle::block_on(timeout(
        Duration::from_secs(2),
        exchange(addr, message, tls),
    ));
    match reply {
        Ok(Ok(reply)) => {
            println!("{reply}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("no reply from {addr} in 2 s");
            ExitCode::FAILURE
        }
    }
}
