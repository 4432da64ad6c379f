//! Write-buffer limits, reading that is paused, and much data. The other end is a blocking socket
//! of the system.

mod common;

use std::future::{poll_fn, Future};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::stream::{Event, Log, Recorder};
use common::{block_on_within, in_process, settle, within, PATIENCE};
use coracle::time::timeout;
use coracle::{
    connect_accepted_socket, connect_accepted_socket_with_driver, spawn, yield_now,
    AcceptedOptions, Protocol, ProtocolHandle, StreamProtocol, Transport,
};
use futures_lite::future::poll_once;
use socket2::Socket;

/// More than the system takes without a reader.
const LARGE: usize = 10 << 20;

/// Makes a socket for coracle, and the other end, which fails instead of hanging.
type Pair = fn() -> (Socket, Arc<Socket>);

fn tcp_pair() -> (Socket, Arc<Socket>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (ours.into(), patient(theirs.into()))
}

#[cfg(unix)]
fn unix_pair() -> (Socket, Arc<Socket>) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    (ours.into(), patient(theirs.into()))
}

fn patient(socket: Socket) -> Arc<Socket> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    Arc::new(socket)
}

/// Each kind of connection that there is.
const PAIRS: &[Pair] = &[
    tcp_pair,
    #[cfg(unix)]
    unix_pair,
];

/// Runs a test over each kind of connection.
fn over_each(test: impl AsyncFn(Socket, Arc<Socket>)) {
    for pair in PAIRS {
        let (ours, peer) = pair();
        block_on_within(test(ours, peer));
    }
}

async fn connected<P, K>(ours: Socket, protocol: P) -> (Transport, ProtocolHandle<P>)
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let made = connect_accepted_socket(|| protocol, ours, AcceptedOptions::new());
    within(made).await.unwrap()
}

async fn read(peer: &Arc<Socket>, len: usize) -> Vec<u8> {
    let peer = peer.clone();
    let reading = smol::unblock(move || {
        let mut data = vec![0; len];
        (&*peer).read_exact(&mut data).map(|()| data)
    });
    within(reading).await.unwrap()
}

fn data(text: &str) -> Event {
    Event::Data(text.into())
}

/// The pauses and resumes so far.
fn changes(log: &Log) -> Vec<Event> {
    let mut events = log.events();
    events.retain(|event| matches!(event, Event::Pause | Event::Resume));
    events
}

/// A connection whose queue is not empty, since its peer reads only when the test does. It has
/// taken `written` bytes, all zero.
struct Stuck {
    transport: Transport,
    log: Log,
    peer: Arc<Socket>,
    written: usize,
}

impl Stuck {
    async fn new(ours: Socket, peer: Arc<Socket>) -> Stuck {
        // The system does not find more room as time goes by.
        ours.set_send_buffer_size(32 * 1024).unwrap();
        peer.set_recv_buffer_size(32 * 1024).unwrap();
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        transport
            .set_write_buffer_limits(Some(LARGE), None)
            .unwrap();
        let written = 1 << 20;
        transport.write(&vec![0; written]).unwrap();
        settle().await;
        assert!(transport.write_buffer_size() > written / 2);
        Stuck {
            transport,
            log,
            peer,
            written,
        }
    }

    fn write(&mut self, len: usize) {
        self.transport.write(&vec![0; len]).unwrap();
        self.written += len;
    }

    async fn read(&mut self, len: usize) {
        read(&self.peer, len).await;
        self.written -= len;
    }
}

#[test]
fn limits_have_defaults_imply_each_other_and_are_checked() {
    over_each(async |ours, _peer| {
        let (transport, _) = connected(ours, Recorder::new(&Log::new())).await;
        let defaults = (16 * 1024, 64 * 1024);
        assert_eq!(transport.write_buffer_limits(), defaults, "(low, high)");
        for (high, low, expected) in [
            (Some(100), None, (25, 100)),
            (None, Some(100), (100, 400)),
            (Some(7), Some(7), (7, 7)),
            (Some(0), Some(0), (0, 0)),
            (None, None, defaults),
        ] {
            transport.set_write_buffer_limits(high, low).unwrap();
            assert_eq!(transport.write_buffer_limits(), expected);
        }
        let refused = transport.set_write_buffer_limits(Some(4), Some(5));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(transport.write_buffer_limits(), defaults, "unchanged");
    });
}

#[test]
fn what_the_system_takes_at_once_is_not_counted() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        transport.set_write_buffer_limits(Some(0), None).unwrap();
        for _ in 0..20 {
            transport.write(b"bytes").unwrap();
            assert_eq!(transport.write_buffer_size(), 0);
            transport.drain().await.unwrap();
            read(&peer, 5).await;
        }
        assert_eq!(log.events(), [Event::Made]);
    });
}

#[test]
fn writing_is_paused_above_the_high_limit_and_resumed_at_the_low_one() {
    over_each(async |ours, peer| {
        let mut stuck = Stuck::new(ours, peer).await;
        let (transport, log) = (stuck.transport.clone(), stuck.log.clone());
        let size = transport.write_buffer_size();
        let (high, low) = (size + 200_000, 100_000);
        transport
            .set_write_buffer_limits(Some(high), Some(low))
            .unwrap();
        stuck.write(200_000);
        assert_eq!(transport.write_buffer_size(), high);
        transport.drain().await.unwrap();
        settle().await;
        assert_eq!(changes(&log), [], "no more than the limit");
        stuck.write(high + 1 - transport.write_buffer_size());
        assert_eq!(transport.write_buffer_size(), high + 1);
        assert!(poll_once(transport.drain()).await.is_none());
        log.until_event(Event::Pause).await;
        while changes(&log) == [Event::Pause] {
            assert!(transport.write_buffer_size() > low);
            stuck.read(20_000.min(stuck.written)).await;
            settle().await;
        }
        assert!(transport.write_buffer_size() <= low);
        assert_eq!(changes(&log), [Event::Pause, Event::Resume]);
        transport.drain().await.unwrap();
        stuck.read(stuck.written).await;
        settle().await;
        assert_eq!(transport.write_buffer_size(), 0);
        assert_eq!(changes(&log).len(), 2);
    });
}

#[test]
fn lowering_the_limit_pauses_at_once_and_raising_it_does_not_resume() {
    over_each(async |ours, peer| {
        let mut stuck = Stuck::new(ours, peer).await;
        let (transport, log) = (stuck.transport.clone(), stuck.log.clone());
        transport.set_write_buffer_limits(Some(0), None).unwrap();
        log.until_event(Event::Pause).await;
        transport
            .set_write_buffer_limits(Some(LARGE), None)
            .unwrap();
        settle().await;
        assert_eq!(changes(&log), [Event::Pause]);
        assert!(poll_once(transport.drain()).await.is_none());
        stuck.read(stuck.written).await;
        log.until_event(Event::Resume).await;
        transport.drain().await.unwrap();
    });
}

#[test]
fn drain_is_told_of_the_end() {
    for end in [Transport::close, Transport::abort] {
        over_each(async |ours, peer| {
            let stuck = Stuck::new(ours, peer).await;
            let transport = stuck.transport.clone();
            transport.set_write_buffer_limits(Some(0), None).unwrap();
            let waiting = spawn({
                let transport = transport.clone();
                async move { transport.drain().await }
            });
            yield_now().await;
            assert!(!waiting.is_finished());
            end(&transport);
            let error = within(waiting).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        });
    }
}

#[test]
fn what_a_callback_writes_beyond_the_limit_pauses_it_when_it_returns() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let slot = sizes.clone();
        let during = log.clone();
        let reaction = move |transport: &Transport, event: &Event| {
            if *event == Event::Made {
                for _ in 0..128 {
                    transport.write(&vec![7; LARGE / 128])?;
                }
                assert_eq!(during.events(), [Event::Made], "not told inside the call");
            }
            slot.lock().unwrap().push(transport.write_buffer_size());
            Ok(())
        };
        let (transport, _) = connected(ours, Recorder::reacting(&log, reaction)).await;
        log.until_event(Event::Pause).await;
        assert!(read(&peer, LARGE).await == vec![7; LARGE]);
        log.until_event(Event::Resume).await;
        assert_eq!(log.events(), [Event::Made, Event::Pause, Event::Resume]);
        let sizes = sizes.lock().unwrap().clone();
        assert!(sizes[1] > 64 * 1024 && sizes[2] <= 16 * 1024, "{sizes:?}");
        assert_eq!(transport.dropped(), 0);
    });
}

#[test]
fn a_callback_that_stops_above_the_limit_is_told_when_it_may_go_on() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let reaction = move |transport: &Transport, event: &Event| {
            if *event == Event::Made {
                let (_, high) = transport.write_buffer_limits();
                let mut written = 0;
                while transport.write_buffer_size() <= high {
                    transport.write(&[0; 1_000])?;
                    written += 1_000;
                }
                // There is room again before the callback returns.
                let len = written - transport.write_buffer_size();
                (&*peer).read_exact(&mut vec![0; len])?;
            }
            Ok(())
        };
        let (_transport, _) = connected(ours, Recorder::reacting(&log, reaction)).await;
        log.until_event(Event::Resume).await;
        assert_eq!(log.events(), [Event::Made, Event::Pause, Event::Resume]);
    });
}

#[test]
fn closing_in_resume_or_pause_writing_ends_the_connection_once() {
    for at in [Event::Pause, Event::Resume] {
        for end in [Transport::close, Transport::abort] {
            over_each(async |ours, peer| {
                let log = Log::new();
                let event = at.clone();
                let ending = move |transport: &Transport, happened: &Event| {
                    if *happened == event {
                        end(transport);
                    }
                    Ok(())
                };
                let (transport, _) = connected(ours, Recorder::reacting(&log, ending)).await;
                transport.write(&vec![0; LARGE]).unwrap();
                log.until_event(Event::Pause).await;
                let reading = smol::unblock(move || {
                    let mut all = Vec::new();
                    (&*peer).read_to_end(&mut all).map(|_| all.len() as u64)
                });
                within(transport.closed()).await.unwrap();
                let arrived = within(reading).await.unwrap();
                assert_eq!(arrived + transport.dropped(), LARGE as u64);
                settle().await;
                let mut events = log.events();
                events.retain(|event| *event != Event::Resume);
                assert_eq!(events, [Event::Made, Event::Pause, Event::Lost(None)]);
            });
        }
    }
}

#[test]
fn a_peer_that_goes_while_the_queue_is_sent_is_told_and_the_rest_counted() {
    for close_first in [false, true] {
        over_each(async |ours, peer| {
            let stuck = Stuck::new(ours, peer).await;
            let transport = stuck.transport;
            // It is writing that is to notice.
            transport.pause_reading();
            let queued = transport.write_buffer_size() as u64;
            if close_first {
                transport.close();
            }
            drop(stuck.peer);
            let error = within(transport.closed()).await.unwrap_err();
            let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(gone.contains(&error.kind()), "{error}");
            let expected = [Event::Made, Event::Lost(Some(error.kind()))];
            assert_eq!(stuck.log.events(), expected);
            assert_eq!(transport.dropped(), queued);
            assert_eq!(transport.write_buffer_size(), 0);
        });
    }
}

#[test]
fn paused_reading_delivers_nothing_and_loses_nothing() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let pausing = |transport: &Transport, event: &Event| {
            match event {
                Event::Made => transport.pause_reading(),
                Event::Data(data) if data.ends_with(b".") => transport.pause_reading(),
                _ => {}
            }
            Ok(())
        };
        let (transport, _) = connected(ours, Recorder::reacting(&log, pausing)).await;
        let mut text = String::new();
        for sentence in ["One.", "And another.", "A third."] {
            (&*peer).write_all(sentence.as_bytes()).unwrap();
            settle().await;
            assert!(!transport.is_reading());
            assert_eq!(log.data(), text.as_bytes());
            transport.pause_reading();
            transport.resume_reading();
            transport.resume_reading();
            assert!(transport.is_reading());
            text += sentence;
            log.until_len(text.len()).await;
        }
        peer.shutdown(Shutdown::Write).unwrap();
        settle().await;
        assert_eq!(log.events(), [Event::Made, data(&text)], "nor the end");
        transport.resume_reading();
        within(transport.closed()).await.unwrap();
        let expected = [Event::Made, data(&text), Event::Eof, Event::Lost(None)];
        assert_eq!(log.events(), expected);
    });
}

#[test]
fn reading_that_is_paused_stays_so_when_closing() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        transport.pause_reading();
        (&*peer).write_all(b"unseen").unwrap();
        transport.close();
        transport.resume_reading();
        assert!(!transport.is_reading());
        within(transport.closed()).await.unwrap();
        assert_eq!(log.events(), [Event::Made, Event::Lost(None)]);
    });
}

#[test]
fn a_driver_that_waits_does_not_spin() {
    for pair in PAIRS {
        for (reads, writes) in [(true, true), (false, true), (false, false)] {
            let (ours, peer) = pair();
            block_on_within(async {
                let factory = || Recorder::new(&Log::new());
                let made =
                    connect_accepted_socket_with_driver(factory, ours, AcceptedOptions::new());
                let (transport, _, driver) = made.await.unwrap();
                if writes {
                    // Nobody reads it.
                    transport.write(&vec![0; LARGE]).unwrap();
                }
                if !reads {
                    transport.pause_reading();
                    (&*peer).write_all(b"nobody reads it").unwrap();
                    if !writes {
                        peer.shutdown(Shutdown::Write).unwrap();
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
                assert!(polls < 50, "polled {polls} times");
            });
        }
    }
}

/// The processor time that this process has used, in ticks of (usually) 10 ms.
#[cfg(target_os = "linux")]
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

// In a process of its own, where no other test uses the processor.
#[cfg(target_os = "linux")]
#[test]
fn a_peer_that_is_gone_unseen_costs_nothing() {
    let own = |program: &Path| Command::new(program);
    in_process("a_peer_that_is_gone_unseen_costs_nothing", own, || {
        for pair in PAIRS {
            for reset in [false, true] {
                let (ours, peer) = pair();
                block_on_within(async {
                    let log = Log::new();
                    let (transport, _) = connected(ours, Recorder::new(&log)).await;
                    transport.write(b"unread").unwrap();
                    transport.pause_reading();
                    if reset {
                        peer.set_linger(Some(Duration::ZERO)).unwrap();
                    } else {
                        read(&peer, 6).await;
                    }
                    drop(peer);
                    settle().await;
                    let before = ticks();
                    coracle::time::sleep(Duration::from_millis(400)).await;
                    let used = ticks() - before;
                    assert!(used < 15, "{used} of 40 ticks");
                    assert_eq!(log.events(), [Event::Made], "unseen");
                    transport.resume_reading();
                    let kind = reset.then_some(ErrorKind::ConnectionReset);
                    let result = within(transport.closed()).await;
                    assert_eq!(result.err().map(|error| error.kind()), kind);
                });
            }
        }
    });
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
struct Checked {
    pattern: Vec<u8>,
    at: usize,
}

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
                assert_eq!(told.pauses.load(Ordering::Relaxed), 1);
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

#[test]
fn a_gibibyte_comes_through_a_slow_reader() {
    const LEN: usize = 1 << 30;
    const ROUND: usize = 32 << 20;
    let slow = |peer: Arc<Socket>, told: Arc<Told>| {
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
            match (&*peer).read(&mut buf[..len]).unwrap() {
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
                peer.shutdown(Shutdown::Write).unwrap();
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
struct SlowReader {
    checked: Checked,
    until_pause: usize,
}

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
                        (&*peer).write_all(piece).unwrap();
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
