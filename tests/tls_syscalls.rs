//! System calls are a budget with TLS too: what much that is sent costs, and what a message there
//! and back.
#![cfg(all(target_os = "linux", feature = "tls"))]

mod common;
#[path = "peers/process.rs"]
mod process;
#[path = "peers/trace.rs"]
mod trace;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::thread::{self, JoinHandle};

use common::tls::{client, server, NAME};
use coracle::tls::rustls::{ClientConnection, StreamOwned};
use coracle::{connect_accepted_socket, AcceptedOptions, Protocol, Transport};
use trace::{calls_for, limit, own_role};

/// What is written at once.
const BLOCK: &[u8] = &[7; 64 * 1024];

type Client = StreamOwned<ClientConnection, StdUnixStream>;

/// The other end of a connection, which blocks, on a thread of its own.
fn client_thread<R: Send + 'static>(
    work: impl FnOnce(&mut Client) -> io::Result<R> + Send + 'static,
) -> io::Result<(StdUnixStream, JoinHandle<io::Result<R>>)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    let name = NAME.try_into().map_err(io::Error::other)?;
    let connection = ClientConnection::new(client(), name).map_err(io::Error::other)?;
    let working = thread::spawn(move || {
        let mut stream = StreamOwned::new(connection, theirs);
        let result = work(&mut stream)?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(result)
    });
    Ok((ours, working))
}

/// Sends so many bytes, and no more than the limits allow.
struct Sender {
    left: usize,
    paused: bool,
}

impl Sender {
    fn send(&mut self, transport: &Transport) {
        let (_, high) = transport.write_buffer_limits();
        while self.left > 0 && !self.paused {
            let some = self.left.min(BLOCK.len());
            transport.write(&BLOCK[..some]).unwrap();
            self.left -= some;
            self.paused = transport.write_buffer_size() >= high;
        }
    }
}

impl Protocol for Sender {
    fn connection_made(&mut self, transport: &Transport) {
        self.send(transport);
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.paused = true;
    }

    fn resume_writing(&mut self, transport: &Transport) {
        self.paused = false;
        self.send(transport);
    }
}

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        transport.write(data)
    }
}

async fn serve(protocol: impl Protocol + 'static, sock: StdUnixStream) -> io::Result<()> {
    let options = AcceptedOptions::new().tls(server());
    let made = connect_accepted_socket(|| protocol, sock, options).await?;
    made.0.closed().await
}

async fn bulk(mebibytes: u64) -> io::Result<()> {
    let len = (mebibytes as usize) << 20;
    let (sock, reading) = client_thread(move |stream| {
        let mut block = BLOCK.to_vec();
        let mut received = 0;
        while received < len {
            received += stream.read(&mut block)?;
        }
        // A byte, so that there is one if there is nothing to read.
        stream.write_all(b"!")
    })?;
    let sender = Sender {
        left: len,
        paused: false,
    };
    serve(sender, sock).await?;
    reading.join().unwrap()
}

async fn messages(count: u64) -> io::Result<()> {
    let (sock, talking) = client_thread(move |stream| {
        let mut buf = [0; 100];
        for _ in 0..=count {
            stream.write_all(&[7; 100])?;
            stream.read_exact(&mut buf)?;
        }
        Ok(())
    })?;
    serve(Echo, sock).await?;
    talking.join().unwrap()
}

/// What the other tests run: no test in itself.
#[test]
fn as_a_child() {
    let Some((role, amount)) = own_role() else {
        return;
    };
    coracle::block_on(async {
        match &role[..] {
            "bulk" => bulk(amount).await,
            "messages" => messages(amount).await,
            other => panic!("there is no role {other}"),
        }
    })
    .unwrap();
}

#[test]
fn much_is_sent_in_large_pieces_and_without_telling_the_system_again_what_is_waited_for() {
    const MEBIBYTES: u64 = 64;
    let calls = calls_for("bulk", MEBIBYTES);
    // The client has others.
    let sends = calls.of(&["sendto", "sendmsg"]);
    assert!(sends <= 12 * MEBIBYTES, "{calls:?}");
    let arms = calls.of(&["epoll_ctl"]);
    // Elsewhere, two for each wait.
    assert!(arms <= limit(1.0, 20.0) as u64 * MEBIBYTES, "{calls:?}");
}

#[test]
fn a_message_there_and_back_costs_one_call_each_way() {
    const COUNT: u64 = 1_000;
    let calls = calls_for("messages", COUNT);
    let sends = calls.of(&["sendto", "sendmsg"]);
    assert!((COUNT..COUNT + 10).contains(&sends), "{calls:?}");
    // Both ends receive; elsewhere, each wait reads besides.
    let receives = calls.of(&["recvfrom", "recvmsg", "read", "readv"]);
    let most = COUNT as f64 * limit(2.1, 3.3);
    assert!(receives as f64 <= most, "{calls:?}");
}
