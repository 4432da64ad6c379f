//! Echoes Unix datagrams until it is killed. A sender needs a name of its own to get a reply.
//!
//! `unix_datagram_echo_server PATH`, where `@name` is an abstract name (Linux)

#[cfg(unix)]
fn main() -> std::io::Result<()> {
    use coracle::{create_datagram_endpoint, on_datagram, DatagramOptions, Family};

    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: unix_datagram_echo_server PATH");
        std::process::exit(2);
    };
    coracle::block_on(async {
        let options = DatagramOptions::new().family(Family::Unix).local_addr(path);
        let echo = on_datagram(|transport, data, from| {
            if let Err(error) = transport.send_to(data, from) {
                eprintln!("no reply to {from}: {error}");
            }
        });
        let (transport, _echo) = create_datagram_endpoint(|| echo, options).await?;
        println!("listening on {}", transport.local_addr()?);
        transport.closed().await
    })
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this platform has no Unix datagrams");
    std::process::exit(1);
}
