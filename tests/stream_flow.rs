//! Write-buffer limits and reading that is paused.

mod common;

use std::io::ErrorKind;
#[cfg(not(target_os = "wasi"))]
use std::io::Read;
use std::sync::{Arc, Mutex};

use common::pairs::{connected, data, over_each, Ours, Peer, LARGE};
use common::stream::{Event, Log, Recorder};
use common::{settle, within};
use coracle::{spawn, yield_now, Transport};
use futures_lite::future::poll_once;

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
    peer: Peer,
    written: usize,
}

impl Stuck {
    async fn new(ours: Ours, peer: Peer) -> Stuck {
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
        self.peer.read(len).await;
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
            peer.read(5).await;
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
        assert!(peer.read(LARGE).await == vec![7; LARGE]);
        log.until_event(Event::Resume).await;
        assert_eq!(log.events(), [Event::Made, Event::Pause, Event::Resume]);
        let sizes = sizes.lock().unwrap().clone();
        assert!(sizes[1] > 64 * 1024 && sizes[2] <= 16 * 1024, "{sizes:?}");
        assert_eq!(transport.dropped(), 0);
    });
}

// In a component nobody can read inside a callback and wait for it.
#[cfg(not(target_os = "wasi"))]
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
                (&*peer.0).read_exact(&mut vec![0; len])?;
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
                let reading = spawn(async move { peer.read_to_end().await.len() as u64 });
                within(transport.closed()).await.unwrap();
                let arrived = within(reading).await;
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
            peer.write(sentence.as_bytes());
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
        peer.end();
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
        peer.write(b"unseen");
        transport.close();
        transport.resume_reading();
        assert!(!transport.is_reading());
        within(transport.closed()).await.unwrap();
        assert_eq!(log.events(), [Event::Made, Event::Lost(None)]);
    });
}
