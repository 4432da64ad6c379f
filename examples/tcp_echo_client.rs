//! Sends a message over a TCP connection, ends its direction, and prints what comes back until the
//! server ends the other.
//!
//! `tcp_echo_client ADDR MESSAGE`

use std::io;
use std::net::Shutdown;
use std::process::ExitCode;
use std::time::Duration;

use coracle::net::TcpStream;
use coracle::time::timeout;

async fn exchange(addr: &str, message: &str) -> io::Result<String> {
    let stream = TcpStream::connect(addr).await?;
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

// On WASI 0.3 this has main started; elsewhere it is nothing.
coracle::wasi_main!();

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, message] = &args[..] else {
        eprintln!("usage: tcp_echo_client ADDR MESSAGE");
        return ExitCode::from(2);
    };
    let reply = coracle::block_on(timeout(Duration::from_secs(2), exchange(addr, message)));
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
