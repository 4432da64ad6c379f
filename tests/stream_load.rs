//! What waiting costs, and much data, for which the other end needs a thread of its own.

mod common;

use std::future::{poll_fn, Future};
use std::io::{self, ErrorKind};
#[cfg(not(target_os = "wasi"))]
use std::io::{Read, Write};
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
#[cfg(not(target_os = "wasi"))]
use std::thread;
use std::time::Duration;

#[cfg(not(target_os = "wasi"))]
use common::pairs::Peer;
use common::pairs::{connected, make_with_driver, LARGE, PAIRS};
#[cfg(target_os = "linux")]
use common::stream::Event;
use common::stream::{Log, Recorder};
#[cfg(not(target_os = "wasi"))]
use common::PATIENCE;
use common::{block_on_within, in_process, settle, within};
use coracle::time::timeout;
use coracle::{spawn, yield_now, Protocol, Transport};

#[test]
fn a_driver_that_waits_does_not_spin() {
    for pair in PAIRS {
        for (reads, writes) in [(true, true), (false, true), (false, false)] {
            let (ours, peer) = pair();
            block_on_within(async {
                let factory = || Recorder::new(&Log::new());
                let (transport, _, driver) = make_with_driver(factory, ours).await.unwrap();
                if writes {
                    // Nobody reads it.
                    transport.write(&vec![0; LARGE]).unwrap();
                }
                if !reads {
                    transport.pause_reading();
                    peer.write(b"nobody reads it");
                    if !writes {
                        peer.end();
                    }
                }
                let mut driver = pin!(driver);
                let mut polls = 0;
                let counted = poll_fn(|cx| {
                    polls += 1;
                    driver.as_mut().poll(cx)
                });
                let some_time = Duration::from_millis(50);
                assert!(timeout(some_time, counted).await.is_err());
                // A WASI host takes 64 KiB at a time.
                let parts = if cfg!(target_os = "wasi") {
                    LARGE >> 16
                } else {
                    0
                };
                assert!(polls < 50 + parts, "polled {polls} times");
            });
        }
    }
}

// `stream_idle.rs` counts what that costs.
#[cfg(target_os = "linux")]
#[test]
fn a_peer_that_is_gone_unseen_is_found_gone_when_reading_resumes() {
    for pair in PAIRS {
        for reset in [false, true] {
            let (ours, peer) = pair();
            block_on_within(async {
                let log = Log::new();
                let (transport, _) = connected(ours, Recorder::new(&log)).await;
                transport.write(b"unread").unwrap();
                transport.pause_reading();
                if reset {
                    peer.0.set_linger(Some(Duration::ZERO)).unwrap();
                } else {
                    peer.read(6).await;
                }
                drop(peer);
                settle().await;
                assert_eq!(log.events(), [Event::Made], "unseen");
                transport.resume_reading();
                let kind = reset.then_some(ErrorKind::ConnectionReset);
                let result = within(transport.closed()).await;
                assert_eq!(result.err().map(|error| error.kind()), kind);
            });
        }
    }
}

/// What both ends of a large transfer agree on: any two places of it that are not a whole number
/// of these apart differ.
fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..1_000_003).map(next).collect()
}

/// Checks what comes against the pattern.
#[cfg(not(target_os = "wasi"))]
struct Checked {
    pattern: Vec<u8>,
    at: usize,
}

#[cfg(not(target_os = "wasi"))]
impl Checked {
    fn new() -> Checked {
        Checked {
            pattern: pattern(),
            at: 0,
        }
    }

    fn take(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let rest = &self.pattern[self.at % self.pattern.len()..];
            let len = rest.len().min(data.len());
            assert!(data[..len] == rest[..len], "within {len} of {}", self.at);
            self.at += len;
            data = &data[len..];
        }
    }
}

/// What a protocol was told about writing.
#[derive(Default)]
struct Told {
    is_paused: AtomicBool,
    pauses: AtomicUsize,
    /// Nothing is written any more.
    is_done: AtomicBool,
}

struct Watcher(Arc<Told>);

impl Protocol for Watcher {
    fn pause_writing(&mut self, transport: &Transport) {
        assert!(transport.write_buffer_size() > transport.write_buffer_limits().1);
        self.0.pauses.fetch_add(1, Ordering::Relaxed);
        let was_paused = self.0.is_paused.swap(true, Ordering::AcqRel);
        assert!(!was_paused, "paused twice");
    }

    fn resume_writing(&mut self, _: &Transport) {
        let was_paused = self.0.is_paused.swap(false, Ordering::AcqRel);
        assert!(was_paused, "resumed without a pause");
    }
}

/// Bytes that are written at once.
const PIECE: usize = 100_000;

/// Writes the pattern, as fast as the limits allow.
async fn write_pattern(transport: &Transport, len: usize, told: &Told) -> io::Result<()> {
    let (pattern, mut written) = (pattern(), 0);
    let (_, high) = transport.write_buffer_limits();
    while written < len {
        let rest = &pattern[written % pattern.len()..];
        let piece = rest.len().min(PIECE).min(len - written);
        transport.write(&rest[..piece])?;
        written += piece;
        assert!(transport.write_buffer_size() <= high + PIECE);
        transport.drain().await?;
    }
    told.is_done.store(true, Ordering::Release);
    Ok(())
}

/// A field of this process's status in kB.
#[cfg(target_os = "linux")]
fn status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_a_peer_does_not_read_stays_within_the_limits() {
    const HUGE: usize = 1 << 30;
    let test = || {
        for pair in PAIRS {
            let (ours, _peer) = pair();
            block_on_within(async {
                #[cfg(target_os = "linux")]
                let before = status("VmRSS:");
                let told = Arc::<Told>::default();
                let (transport, _) = connected(ours, Watcher(told.clone())).await;
                let writing = spawn({
                    let (transport, told) = (transport.clone(), told.clone());
                    async move { write_pattern(&transport, HUGE, &told).await }
                });
                while !told.is_paused.load(Ordering::Acquire) {
                    yield_now().await;
                }
                settle().await;
                let pauses = told.pauses.load(Ordering::Relaxed);
                assert!(pauses == 1 || cfg!(target_os = "wasi"), "{pauses}");
                assert!(transport.write_buffer_size() <= 64 * 1024 + PIECE);
                #[cfg(target_os = "linux")]
                assert!(status("VmHWM:") < before + 8_000, "{}", status("VmHWM:"));
                transport.abort();
                let error = within(writing).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotConnected);
            });
        }
    };
    let own = |program: &Path| Command::new(program);
    // Where no other test needs memory.
    in_process(
        "what_a_peer_does_not_read_stays_within_the_limits",
        own,
        test,
    );
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_gibibyte_comes_through_a_slow_reader() {
    const LEN: usize = 1 << 30;
    const ROUND: usize = 32 << 20;
    let slow = |peer: Peer, told: Arc<Told>| {
        let mut checked = Checked::new();
        let mut buf = vec![0; 1 << 20];
        loop {
            // It reads no more before the writer has had to pause.
            let waits = checked.at % ROUND == 0;
            while waits
                && !told.is_paused.load(Ordering::Acquire)
                && !told.is_done.load(Ordering::Acquire)
            {
                thread::yield_now();
            }
            let len = buf.len().min(ROUND - checked.at % ROUND);
            match (&*peer.0).read(&mut buf[..len]).unwrap() {
                0 => return checked.at,
                len => checked.take(&buf[..len]),
            }
        }
    };
    let test = || {
        for pair in PAIRS {
            #[cfg(target_os = "linux")]
            let before = status("VmHWM:");
            let (ours, peer) = pair();
            coracle::block_on(async {
                let told = Arc::<Told>::default();
                let reader = {
                    let (peer, told) = (peer.clone(), told.clone());
                    smol::unblock(move || slow(peer, told))
                };
                let (transport, _) = connected(ours, Watcher(told.clone())).await;
                let writing = async {
                    write_pattern(&transport, LEN, &told).await.unwrap();
                    transport.write_eof().unwrap();
                    assert_eq!(reader.await, LEN);
                };
                timeout(6 * PATIENCE, writing).await.unwrap();
                let pauses = told.pauses.load(Ordering::Relaxed);
                assert!(pauses >= LEN / ROUND - 2, "{pauses}");
                assert!(!told.is_paused.load(Ordering::Relaxed));
                peer.end();
                within(transport.closed()).await.unwrap();
                assert_eq!(transport.dropped(), 0);
            });
            #[cfg(target_os = "linux")]
            assert!(status("VmHWM:") < before + 16_000, "{}", status("VmHWM:"));
        }
    };
    let own = |program: &Path| Command::new(program);
    in_process("a_gibibyte_comes_through_a_slow_reader", own, test);
}

/// Stops reading every so often.
#[cfg(not(target_os = "wasi"))]
struct SlowReader {
    checked: Checked,
    until_pause: usize,
}

#[cfg(not(target_os = "wasi"))]
impl Protocol for SlowReader {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        self.checked.take(data);
        if self.checked.at >= self.until_pause {
            self.until_pause += 8 << 20;
            transport.pause_reading();
        }
        Ok(())
    }
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn a_fast_writer_waits_for_a_protocol_that_pauses() {
    const LEN: usize = 200_000_600;
    for pair in PAIRS {
        let (ours, peer) = pair();
        coracle::block_on(async {
            let sent = Arc::new(AtomicUsize::new(0));
            let writer = thread::spawn({
                let sent = sent.clone();
                move || {
                    for piece in pattern().repeat(2).chunks(500_001).cycle() {
                        (&*peer.0).write_all(piece).unwrap();
                        if sent.fetch_add(piece.len(), Ordering::Relaxed) + piece.len() >= LEN {
                            return;
                        }
                    }
                }
            });
            let reader = SlowReader {
                checked: Checked::new(),
                until_pause: 0,
            };
            let (transport, handle) = connected(ours, reader).await;
            let mut pauses = 0;
            while !transport.is_closing() {
                if !transport.is_reading() {
                    pauses += 1;
                    let before = handle.with(|reader| reader.checked.at);
                    settle().await;
                    assert_eq!(handle.with(|reader| reader.checked.at), before);
                    transport.resume_reading();
                }
                yield_now().await;
            }
            let (reader, result) = within(handle.lost()).await;
            result.unwrap();
            writer.join().unwrap();
            assert_eq!(reader.checked.at, sent.load(Ordering::Relaxed));
            assert!(pauses >= LEN / (16 << 20), "{pauses}");
        });
    }
}
