//! In steady state nothing is allocated for a datagram or a message over a connection, nor for the
//! waiting in between.
// On WASI the host's lists are copied.
#![cfg(not(target_os = "wasi"))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::time::Duration;

use coracle::net::{RecvBatch, SendBatch, Socket, TcpListener, TcpStream, UdpSocket};
use coracle::time::timeout;
use coracle::{connect_accepted_socket, create_datagram_endpoint, on_data, on_datagram, spawn};
use coracle::{AcceptedOptions, Address, BufferedProtocol, DatagramOptions, Transport};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

struct Counting;

thread_local! {
    /// By thread: each test has its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One datagram there and back.
async fn exchange(client: &UdpSocket, server: &Address) {
    let mut buf = [0; 100];
    client.send_to(&[7; 64], server).await.unwrap();
    assert_eq!(client.recv(&mut buf).await.unwrap(), 64);
}

/// Twenty, sent and received in batches.
async fn burst(client: &UdpSocket, server: &Address, out: &mut SendBatch, back: &mut RecvBatch) {
    for _ in 0..20 {
        out.push(&[7; 64], server);
    }
    while !out.is_empty() {
        client.send_batch(out).await.unwrap();
    }
    let mut received = 0;
    while received < 20 {
        received += client.recv_batch(back).await.unwrap();
    }
}

#[test]
fn datagrams_cost_no_allocation() {
    coracle::block_on(async {
        let echo = || {
            on_datagram(|transport, data, from| {
                transport.send_to(data, from).unwrap();
            })
        };
        let options = DatagramOptions::new().local_addr("127.0.0.1:0");
        let (transport, _) = create_datagram_endpoint(echo, options).await.unwrap();
        let server = transport.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut out = SendBatch::new();
        let mut back = RecvBatch::with_capacity(32, 2048);

        // Buffers grow to what is needed, once.
        for _ in 0..100 {
            exchange(&client, &server).await;
            burst(&client, &server, &mut out, &mut back).await;
        }
        let before = ALLOCATIONS.get();
        for _ in 0..1000 {
            exchange(&client, &server).await;
            burst(&client, &server, &mut out, &mut back).await;
        }
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!(allocations, 0, "for 21,000 datagrams there and back");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn unix_datagrams_to_many_receivers_cost_no_allocation() {
    use coracle::net::UnixDatagram;

    coracle::block_on(async {
        let echo = || {
            on_datagram(|transport, data, from| {
                transport.send_to(data, from).unwrap();
            })
        };
        let options = DatagramOptions::new().local_addr(Address::UNNAMED);
        let (transport, _) = create_datagram_endpoint(echo, options).await.unwrap();
        let server = transport.local_addr().unwrap();
        let clients = [(); 3].map(|()| UnixDatagram::bind(Address::UNNAMED).unwrap());
        let mut buf = [0; 100];
        let mut before = 0;
        for round in 0..1_100 {
            if round == 100 {
                before = ALLOCATIONS.get();
            }
            // One by one, and together.
            for count in [1, 3] {
                for _ in 0..count {
                    for client in &clients {
                        client.send_to(&[7; 64], &server).await.unwrap();
                    }
                }
                for _ in 0..count {
                    for client in &clients {
                        assert_eq!(client.recv(&mut buf).await.unwrap(), 64);
                    }
                }
            }
        }
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!(allocations, 0, "for 12,000 datagrams there and back");
    });
}

fn block_on_within(future: impl Future<Output = ()>) {
    let limit = Duration::from_secs(90);
    coracle::block_on(timeout(limit, future)).expect("it does not hang");
}

/// Messages to somebody who echoes, small ones and some that are more than one buffer.
async fn messages(mut client: impl AsyncRead + AsyncWrite + Unpin) {
    let data = [7; 20_000];
    let mut buf = [0; 20_000];
    let mut exchange = async |len: usize| {
        client.write_all(&data[..len]).await.unwrap();
        client.read_exact(&mut buf[..len]).await.unwrap();
    };
    // Buffers grow to what is needed, once.
    for _ in 0..100 {
        exchange(64).await;
        exchange(20_000).await;
    }
    let before = ALLOCATIONS.get();
    for _ in 0..300 {
        exchange(64).await;
        exchange(20_000).await;
    }
    let allocations = ALLOCATIONS.get() - before;
    assert_eq!(allocations, 0, "for 600 messages there and back");
}

/// Echoes out of a buffer of its own.
struct Buffered([u8; 1000]);

impl BufferedProtocol for Buffered {
    fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
        &mut self.0
    }

    fn buffer_updated(&mut self, transport: &Transport, count: usize) -> io::Result<()> {
        transport.write(&self.0[..count])
    }
}

/// The same to an endpoint of each kind and to a socket, which make their pair anew.
macro_rules! to_each_face {
    ($pair:expr) => {
        let options = AcceptedOptions::new;
        let (ours, client) = $pair;
        let echo = || on_data(|transport, data| transport.write(data));
        let sock = Socket::try_from(ours).unwrap();
        let (transport, _) = connect_accepted_socket(echo, sock, options())
            .await
            .unwrap();
        messages(client).await;
        transport.closed().await.unwrap();

        let (ours, client) = $pair;
        let sock = Socket::try_from(ours).unwrap();
        let echo = || Buffered([0; 1000]);
        let (transport, _) = connect_accepted_socket(echo, sock, options())
            .await
            .unwrap();
        messages(client).await;
        transport.closed().await.unwrap();

        let (ours, client) = $pair;
        let echoing = spawn(async move { futures_lite::io::copy(&ours, &ours).await });
        messages(client).await;
        echoing.await.unwrap();
    };
}

#[test]
fn messages_over_tcp_cost_no_allocation() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        to_each_face!({
            let client = TcpStream::connect(addr).await.unwrap();
            (listener.accept().await.unwrap().0, client)
        });
    });
}

#[cfg(unix)]
#[test]
fn messages_over_unix_connections_cost_no_allocation() {
    block_on_within(async {
        to_each_face!(coracle::net::UnixStream::pair().unwrap());
    });
}
