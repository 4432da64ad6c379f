//! Datagrams over IPv4 and over a Unix socket, server and client in one process.
//!
//! Prints what was exchanged and exits.

use std::io;

use coracle::{create_datagram_endpoint, on_datagram, Address, DatagramOptions};
use coracle::{DatagramProtocol, DatagramTransport};

/// Says hello when the endpoint is open, and hangs up at the first reply.
struct Client {
    name: &'static str,
}

impl DatagramProtocol for Client {
    fn connection_made(&mut self, transport: &DatagramTransport) {
        println!("{} client: hello", self.name);
        if let Err(error) = transport.send(b"hello") {
            println!("{} client: {error}", self.name);
        }
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], _: &Address) {
        println!(
            "{} client: got {:?}",
            self.name,
            String::from_utf8_lossy(data)
        );
        transport.close();
    }

    fn error_received(&mut self, transport: &DatagramTransport, error: io::Error) {
        println!("{} client: {error}", self.name);
        transport.close();
    }
}

/// Runs an echo server at `local` and one client, bound to `client` if it needs a name.
async fn exchange(
    name: &'static str,
    local: impl Into<coracle::net::Target>,
    client: Option<Address>,
) -> io::Result<()> {
    let options = DatagramOptions::new().local_addr(local);
    let echo = || {
        on_datagram(move |transport, data, from| {
            println!("{name} server: {} bytes from {from}", data.len());
            let _ = transport.send_to(data, from);
        })
    };
    let (server, _) = create_datagram_endpoint(echo, options).await?;

    let mut options = DatagramOptions::new().remote_addr(server.local_addr()?);
    if let Some(addr) = client {
        options = options.local_addr(addr);
    }
    let (client, _) = create_datagram_endpoint(|| Client { name }, options).await?;
    client.closed().await?;
    server.close();
    server.closed().await
}

fn main() -> io::Result<()> {
    coracle::block_on(async {
        exchange("udp", "127.0.0.1:0", None).await?;
        #[cfg(unix)]
        {
            let folder = std::env::temp_dir();
            let server = folder.join(format!("quickstart-{}.sock", std::process::id()));
            let client = folder.join(format!("quickstart-{}-client.sock", std::process::id()));
            let named = coracle::UnixAddress::from_path(&client)?;
            let result = exchange("unix", &server, Some(named.into())).await;
            // A datagram endpoint leaves its file behind, as every Unix datagram socket does.
            for path in [server, client] {
                let _ = std::fs::remove_file(path);
            }
            result?;
        }
        Ok(())
    })
}
