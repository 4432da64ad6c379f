//! TLS connections under load: flow control, both kinds of protocol, large transfers.
#![cfg(feature = "tls")]

mod common;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::pairs::{pattern, LARGE};
use common::secured::{connected, connected_with};
use common::stream::{Event, Log, Mirror, Recorder};
use common::{block_on_within, settle, within};
use coracle::{on_data, BufferedProtocol, Transport};
use futures_lite::future::{self, poll_once};
use futures_lite::{AsyncReadExt, AsyncWriteExt};

#[test]
fn a_peer_that_does_not_read_pauses_writing_and_one_that_reads_resumes_it() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, mut peer) = connected(Recorder::new(&log)).await;
        let sent = pattern(LARGE);
        transport.write(&sent).unwrap();
        log.until_event(Event::Pause).await;
        assert!(transport.write_buffer_size() >= 512 * 1024);
        assert!(poll_once(transport.drain()).await.is_none());
        let mut received = vec![0; LARGE];
        within(peer.read_exact(&mut received)).await.unwrap();
        assert!(received == sent);
        within(transport.drain()).await.unwrap();
        log.until_event(Event::Resume).await;
        within(async {
            while transport.write_buffer_size() > 0 {
                coracle::yield_now().await;
            }
        })
        .await;
        let pauses = [Event::Made, Event::Pause, Event::Resume];
        assert_eq!(log.events(), pauses);
    });
}

/// What a record of TLS 1.3 has besides what is in it: five bytes before it, and behind it one for
/// its kind and sixteen for its proof.
const RECORD: usize = 5 + 1 + 16;

#[test]
fn limits_are_higher_than_without_tls_and_the_high_one_is_too_much() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, mut peer) = connected(Recorder::new(&log)).await;
        let defaults = (128 * 1024, 512 * 1024);
        assert_eq!(transport.write_buffer_limits(), defaults, "(low, high)");
        for (high, low, expected) in [
            (Some(100), None, (25, 100)),
            (None, Some(100), (100, 400)),
            (None, None, defaults),
            (Some(2 * LARGE), None, (LARGE / 2, 2 * LARGE)),
        ] {
            transport.set_write_buffer_limits(high, low).unwrap();
            assert_eq!(transport.write_buffer_limits(), expected);
        }
        let mut sent = pattern(LARGE);
        transport.write(&sent).unwrap();
        settle().await;
        let size = transport.write_buffer_size();
        assert!(size > 1 << 19, "the system has taken nearly all: {size}");
        // The system takes no more until the driver has its turn: all this is in one.
        let high = size + 1_000 + 2 * RECORD;
        transport.set_write_buffer_limits(Some(high), None).unwrap();
        transport.write(&sent[..999]).unwrap();
        sent.extend_from_within(..999);
        let size = transport.write_buffer_size();
        assert_eq!(size, high - 1 - RECORD, "ciphertext is what counts");
        assert!(poll_once(transport.drain()).await.is_some());
        transport.write(b"!").unwrap();
        sent.push(b'!');
        assert_eq!(transport.write_buffer_size(), high);
        assert!(poll_once(transport.drain()).await.is_none());
        assert_eq!(log.events(), [Event::Made]);
        log.until_event(Event::Pause).await;
        let mut received = vec![0; sent.len()];
        within(peer.read_exact(&mut received)).await.unwrap();
        assert!(received == sent);
        log.until_event(Event::Resume).await;
    });
}

#[test]
fn nothing_is_delivered_while_reading_is_paused_and_the_peer_has_to_wait() {
    coracle::block_on(async {
        let log = Log::new();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let recorder = Recorder::reacting(&log, move |transport, event| {
            if let Event::Data(data) = event {
                counted.fetch_add(data.len(), Ordering::Relaxed);
                transport.pause_reading();
            }
            Ok(())
        });
        let (transport, _, mut peer) = connected(recorder).await;
        let sent = pattern(LARGE);
        let mut writing = Box::pin(async {
            peer.write_all(&sent).await?;
            peer.flush().await
        });
        assert!(poll_once(&mut writing).await.is_none(), "it is too much");
        log.until_len(1).await;
        let first = count.load(Ordering::Relaxed);
        for _ in 0..100 {
            assert!(poll_once(&mut writing).await.is_none());
            coracle::yield_now().await;
            assert_eq!(count.load(Ordering::Relaxed), first);
        }
        let reading = async {
            while count.load(Ordering::Relaxed) < LARGE {
                transport.resume_reading();
                coracle::yield_now().await;
            }
        };
        future::zip(&mut writing, reading).await.0.unwrap();
        assert!(log.data() == sent);
    });
}

/// Collects what comes through a buffer of this size.
struct Collect {
    buffer: Vec<u8>,
    all: Arc<Mutex<Vec<u8>>>,
    hints: Arc<Mutex<Vec<usize>>>,
}

impl BufferedProtocol for Collect {
    fn get_buffer(&mut self, size_hint: Option<usize>) -> &mut [u8] {
        self.hints.lock().unwrap().extend(size_hint);
        &mut self.buffer
    }

    fn buffer_updated(&mut self, transport: &Transport, count: usize) -> io::Result<()> {
        self.all.lock().unwrap().extend(&self.buffer[..count]);
        transport.write(&self.buffer[..count])
    }
}

#[test]
fn a_protocol_may_have_a_buffer_of_any_size() {
    for size in [1, 1000, 16 * 1024, 300_000] {
        block_on_within(async {
            let (all, hints) = (Arc::default(), Arc::default());
            let collect = Collect {
                buffer: vec![0; size],
                all: Arc::clone(&all),
                hints: Arc::clone(&hints),
            };
            let (transport, _, mut peer) = connected(collect).await;
            let sent = pattern(if size == 1 { 20_000 } else { 1 << 20 });
            let mut back = vec![0; sent.len()];
            let (mut reader, mut writer) = futures_lite::io::split(&mut peer);
            let writing = async {
                writer.write_all(&sent).await?;
                writer.flush().await
            };
            let both = future::zip(writing, reader.read_exact(&mut back));
            let (written, read) = within(both).await;
            written.unwrap();
            read.unwrap();
            assert!(back == sent && *all.lock().unwrap() == sent);
            // Decrypted bytes that did not fit were announced.
            assert_eq!(hints.lock().unwrap().is_empty(), size > 16 * 1024, "{size}");
            transport.abort();
        });
    }
}

#[test]
fn what_callbacks_write_in_pieces_comes_in_order() {
    block_on_within(async {
        let split = on_data(|transport: &Transport, data: &[u8]| {
            for piece in data.chunks(7) {
                transport.write(piece)?;
            }
            let slices: Vec<_> = data.chunks(900).map(io::IoSlice::new).collect();
            transport.writelines(&slices)
        });
        let (_transport, _, mut peer) = connected(split).await;
        let sent = pattern(5_000);
        peer.write_all(&sent).await.unwrap();
        let mut twice = vec![0; 10_000];
        within(peer.read_exact(&mut twice)).await.unwrap();
        assert!(twice == sent.repeat(2));
    });
}

/// What goes there and back at once.
const TRANSFER: usize = match cfg!(target_os = "wasi") {
    // The cryptography of the guest is slow.
    true => 64 << 20,
    false => 1 << 30,
};

#[test]
fn a_large_transfer_both_ways_fills_no_memory() {
    coracle::block_on(async {
        let (transport, _, mut peer) = connected_with(Mirror, |to| to).await;
        let (mut reader, mut writer) = futures_lite::io::split(&mut peer);
        let piece = pattern(1 << 20);
        let writing = async {
            for _ in 0..TRANSFER >> 20 {
                writer.write_all(&piece).await?;
            }
            writer.flush().await
        };
        let mut most = 0;
        let reading = async {
            let mut back = vec![0; 1 << 20];
            for _ in 0..TRANSFER >> 20 {
                reader.read_exact(&mut back).await?;
                assert!(back == piece);
                most = most.max(transport.write_buffer_size());
            }
            io::Result::Ok(())
        };
        let (written, read) = future::zip(writing, reading).await;
        written.unwrap();
        read.unwrap();
        assert!(most < 1 << 20, "{most} bytes were queued");
    });
}
