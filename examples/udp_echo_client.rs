//! Sends a datagram and prints the reply.
//!
//! `udp_echo_client ADDR MESSAGE`

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use coracle::net::UdpSocket;
use coracle::time::timeout;

async fn exchange(addr: &str, message: &str) -> io::Result<String> {
    let server = coracle::net::resolve(addr).await?[0];
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(message.as_bytes()).await?;

    let mut buf = vec![0; 65_536];
    let len = socket.recv(&mut buf).await?;
    Ok(String::from_utf8_lossy(&buf[..len]).into_owned())
}

// On WASI 0.3 this has main started; elsewhere it is nothing.
coracle::wasi_main!();

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, message] = &args[..] else {
        eprintln!("usage: udp_echo_client ADDR MESSAGE");
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
