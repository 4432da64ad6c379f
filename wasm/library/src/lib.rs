//! A component that is a library: it exports functions that use sockets. See `wit/exchange.wit`.

use std::io;
use std::time::Duration;

use coracle::net::UdpSocket;
use coracle::time::timeout;

#[cfg(feature = "wasi-p3")]
mod service;

/// How long an answer may take before the question is put again.
const AGAIN: Duration = Duration::from_millis(50);

async fn exchange(addr: &str, question: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(addr).await?;
    let mut buf = [0; 2048];
    loop {
        socket.send(question.as_bytes()).await?;
        if let Ok(len) = timeout(AGAIN, socket.recv(&mut buf)).await {
            return Ok(String::from_utf8_lossy(&buf[..len?]).into_owned());
        }
    }
}

async fn ask(addr: String, question: String, patience: u32) -> Result<String, String> {
    let patience = Duration::from_millis(patience.into());
    match timeout(patience, exchange(&addr, &question)).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{addr}: no answer in {patience:?}")),
    }
}

#[cfg(not(feature = "wasi-p3"))]
mod blocking {
    use self::exports::example::exchange::blocking::Guest;

    wit_bindgen::generate!({ world: "blocking-library", path: "wit" });

    struct Library;

    impl Guest for Library {
        fn ask(addr: String, question: String, patience: u32) -> Result<String, String> {
            coracle::block_on(super::ask(addr, question, patience))
        }
    }

    export!(Library);
}
