//! A datagram endpoint on another executor: four threads of async-executor drive an echo endpoint,
//! and a client on the main thread exchanges datagrams with it. No coracle runtime is running.
//!
//! Prints what was exchanged and exits.

#[cfg(any(unix, windows))]
mod threads {
    use std::io;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use async_executor::Executor;
    use coracle::net::UdpSocket;
    use coracle::time::timeout;
    use coracle::{create_datagram_endpoint_with_driver, on_datagram, DatagramOptions};
    use futures_lite::future::{block_on, pending};

    async fn exchange(executor: &Executor<'_>) -> io::Result<()> {
        // The driver is the endpoint at work; which executor polls it is the caller's choice.
        let options = DatagramOptions::new().local_addr("127.0.0.1:0");
        let echo = || {
            on_datagram(|transport, data, from| {
                println!("server: {} bytes", data.len());
                if let Err(error) = transport.send_to(data, from) {
                    println!("server: no reply to {from}: {error}");
                }
            })
        };
        let (server, _, driver) = create_datagram_endpoint_with_driver(echo, options).await?;
        executor.spawn(driver).detach();

        let client = UdpSocket::bind("127.0.0.1:0").await?;
        client.connect(server.local_addr()?).await?;
        let mut buf = [0; 1500];
        for message in ["one", "two", "three"] {
            client.send(message.as_bytes()).await?;
            let len = timeout(Duration::from_secs(5), client.recv(&mut buf)).await??;
            println!("client: got {:?}", String::from_utf8_lossy(&buf[..len]));
        }
        server.close();
        server.closed().await
    }

    pub(crate) fn main() -> io::Result<()> {
        let executor = Arc::new(Executor::new());
        for _ in 0..4 {
            let executor = executor.clone();
            thread::spawn(move || block_on(executor.run(pending::<()>())));
        }
        block_on(exchange(&executor))
    }
}

#[cfg(any(unix, windows))]
fn main() -> std::io::Result<()> {
    threads::main()
}

#[cfg(not(any(unix, windows)))]
fn main() {
    eprintln!("this platform has no threads");
    std::process::exit(1);
}
