//! The first thing to read: datagrams and a connection, server and client in one process.
//!
//! Prints what was exchanged and exits.

use std::io;

use coracle::{create_datagram_endpoint, on_data, on_datagram, DatagramOptions};
use coracle::{Address, DatagramProtocol, DatagramTransport, Protocol, Transport};

/// Says hello when the endpoint is open, and hangs up at the first reply.
struct Client;

impl DatagramProtocol for Client {
    fn connection_made(&mut self, transport: &DatagramTransport) {
        println!("datagram client: hello");
        let _ = transport.send(b"hello");
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], _: &Address) {
        println!("datagram client: got {:?}", String::from_utf8_lossy(data));
        transport.close();
    }

    fn error_received(&mut self, transport: &DatagramTransport, error: io::Error) {
        println!("datagram client: {error}");
        transport.close();
    }
}

async fn datagrams() -> io::Result<()> {
    let echo = on_datagram(|transport, data, from| {
        println!("datagram server: {} bytes from {from}", data.len());
        let _ = transport.send_to(data, from);
    });
    let options = DatagramOptions::new().local_addr("127.0.0.1:0");
    let (server, _) = create_datagram_endpoint(|| echo, options).await?;

    let options = DatagramOptions::new().remote_addr(server.local_addr()?);
    let (client, _) = create_datagram_endpoint(|| Client, options).await?;
    client.closed().await
}

/// The same over a connection, whose bytes may come in pieces.
impl Protocol for Client {
    fn connection_made(&mut self, transport: &Transport) {
        println!("stream client: hello");
        let _ = transport.write(b"hello");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        println!("stream client: got {:?}", String::from_utf8_lossy(data));
        transport.close();
        Ok(())
    }
}

async fn connection() -> io::Result<()> {
    // Called for every connection. It is closed when the client has hung up.
    let echo = || {
        on_data(|transport, data| {
            println!("stream server: {} bytes", data.len());
            transport.write(data)
        })
    };
    #[cfg(unix)]
    let (server, client) = {
        use coracle::{create_unix_connection, create_unix_server, UnixOptions, UnixServerOptions};
        let name = format!("quickstart-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let server = create_unix_server(echo, UnixServerOptions::new().path(&path)).await?;
        let options = UnixOptions::new().path(&path);
        (server, create_unix_connection(|| Client, options).await?.0)
    };
    #[cfg(not(unix))]
    let (server, client) = {
        use coracle::{create_connection, create_server, TcpOptions, TcpServerOptions};
        let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
        let server = create_server(echo, options).await?;
        let options = TcpOptions::new().remote_addr(server.local_addrs()[0]);
        (server, create_connection(|| Client, options).await?.0)
    };
    client.closed().await?;
    server.close();
    server.wait_closed().await;
    Ok(())
}

// On WASI 0.3 this has main started; elsewhere it is nothing.
coracle::wasi_main!();

fn main() -> io::Result<()> {
    coracle::block_on(async {
        datagrams().await?;
        connection().await
    })
}
