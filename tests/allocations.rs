//! In steady state nothing is allocated for a datagram, nor for the waiting in between.
//!
//! A file of its own, with one test: the allocator counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use coracle::net::{RecvBatch, SendBatch, UdpSocket};
use coracle::{create_datagram_endpoint, on_datagram, Address, DatagramOptions};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..1000 {
            exchange(&client, &server).await;
            burst(&client, &server, &mut out, &mut back).await;
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(allocations, 0, "for 21,000 datagrams there and back");
    });
}
