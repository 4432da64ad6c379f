//! What is idle or paused holds next to no memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use coracle::net::UdpSocket;
use coracle::{create_datagram_endpoint, on_datagram, yield_now, DatagramOptions};
use coracle::{Address, DatagramProtocol, DatagramTransport};

coracle::wasi_main!();

struct Counting;

/// Bytes that are allocated now.
static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ENDPOINTS: usize = 50;

/// For each endpoint, with all that belongs to it, beyond what the thread has once.
const EACH: usize = 16 * 1024;

/// Several large batches, which a thread has once.
const ONCE: usize = 8 << 20;

/// What a thread has once to send from.
const LITTLE: usize = 1 << 20;

/// In one test, since other tests' memory would count.
#[test]
fn endpoints_that_do_nothing_hold_little() {
    coracle::block_on(async {
        paused().await;
        after_a_burst().await;
    });
}

/// Pauses with every datagram, and counts them.
struct Pauses(usize);

impl DatagramProtocol for Pauses {
    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], _: &Address) {
        assert_eq!(data, [self.0 as u8; 100]);
        self.0 += 1;
        transport.pause_reading();
    }
}

async fn paused() {
    let before = HELD.load(Ordering::Relaxed);
    let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut endpoints = Vec::new();
    for _ in 0..ENDPOINTS {
        let options = DatagramOptions::new().local_addr("127.0.0.1:0");
        let made = create_datagram_endpoint(|| Pauses(0), options);
        let (transport, handle) = made.await.unwrap();
        let addr = transport.local_addr().unwrap();
        for i in 0..3 {
            sender.send_to(&[i; 100], &addr).await.unwrap();
        }
        while handle.with(|protocol| protocol.0) == 0 {
            yield_now().await;
        }
        endpoints.push((transport, handle));
    }
    let held = HELD.load(Ordering::Relaxed) - before;
    assert!(held < ONCE + ENDPOINTS * EACH, "{held} bytes");
    // They have lost nothing.
    for (transport, handle) in endpoints {
        for count in 2..=3 {
            transport.resume_reading();
            while handle.with(|protocol| protocol.0) < count {
                yield_now().await;
            }
        }
        transport.abort();
        transport.closed().await.unwrap();
    }
}

async fn after_a_burst() {
    let before = HELD.load(Ordering::Relaxed);
    let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = receiver.local_addr().unwrap();
    let mut endpoints = Vec::new();
    for _ in 0..ENDPOINTS {
        let burst = move || {
            on_datagram(move |transport, data, _| {
                for i in 0..500 {
                    // Of many sizes, which is what takes the most memory.
                    transport.send_to(&[7; 300][i % 300..], &addr).unwrap();
                }
                if data == b"last" {
                    transport.pause_reading();
                }
            })
        };
        let options = DatagramOptions::new().local_addr("127.0.0.1:0");
        let (transport, _) = create_datagram_endpoint(burst, options).await.unwrap();
        let to = transport.local_addr().unwrap();
        // Together, so that what they cause is sent together, too.
        receiver.send_to(b"first", &to).await.unwrap();
        receiver.send_to(b"last", &to).await.unwrap();
        while transport.is_reading() || transport.write_buffer_size() > 0 {
            yield_now().await;
        }
        endpoints.push(transport);
    }
    let held = HELD.load(Ordering::Relaxed) - before;
    assert!(held < LITTLE + ENDPOINTS * EACH, "{held} bytes");
}
