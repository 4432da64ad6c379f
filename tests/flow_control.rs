//! Write-buffer limits, queued datagrams, and reading that is paused.

mod common;

#[cfg(target_os = "linux")]
use std::future::{poll_fn, Future};
use std::io::ErrorKind;
#[cfg(target_os = "linux")]
use std::pin::pin;

#[cfg(target_os = "linux")]
use common::Stuck;
use common::{
    block_on_within, ip, local_v4, numbers, reacting, recording, send_numbers, settle, within,
    Event, Log,
};
#[cfg(target_os = "linux")]
use coracle::{spawn, yield_now, DatagramOptions};
#[cfg(target_os = "linux")]
use futures_lite::future::poll_once;

/// The pauses and resumes so far.
#[cfg(target_os = "linux")]
fn changes(log: &Log) -> Vec<Event> {
    let mut events = log.events();
    events.retain(|event| matches!(event, Event::Pause | Event::Resume));
    events
}

#[test]
fn limits_have_defaults_imply_each_other_and_are_checked() {
    block_on_within(async {
        let (transport, _) = recording(&Log::new(), local_v4()).await;
        assert_eq!(
            transport.write_buffer_limits(),
            (16 * 1024, 64 * 1024),
            "(low, high)"
        );
        for (high, low, expected) in [
            (Some(100), None, (25, 100)),
            (None, Some(100), (100, 400)),
            (Some(7), Some(7), (7, 7)),
            (Some(0), Some(0), (0, 0)),
            (None, None, (16 * 1024, 64 * 1024)),
        ] {
            transport.set_write_buffer_limits(high, low).unwrap();
            assert_eq!(transport.write_buffer_limits(), expected);
        }
        let error = transport
            .set_write_buffer_limits(Some(4), Some(5))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            transport.write_buffer_limits(),
            (16 * 1024, 64 * 1024),
            "unchanged"
        );
    });
}

#[test]
fn what_the_system_takes_at_once_is_never_counted() {
    block_on_within(async {
        let log = Log::new();
        let (sink, _) = recording(&log, local_v4()).await;
        let sender = Log::new();
        let (transport, _) = recording(&sender, common::to(ip(&sink))).await;
        transport.set_write_buffer_limits(Some(0), None).unwrap();
        for _ in 0..20 {
            transport.send(b"datagram").unwrap();
            assert_eq!(transport.write_buffer_size(), 0);
        }
        transport.drain().await.unwrap();
        log.until_received(20).await;
        assert_eq!(sender.events(), [Event::Made]);
    });
}

// Below, a receiver that does not read makes the queue. Elsewhere than on Linux that is an error
// (ENOBUFS).

#[cfg(target_os = "linux")]
#[test]
fn a_queued_datagram_counts_its_bytes_and_eight_more() {
    for connected in [true, false] {
        block_on_within(async {
            let stuck = Stuck::new(connected).await;
            let mut size = (stuck.sent - 1).to_string().len() + 8;
            assert_eq!(stuck.transport.write_buffer_size(), size);
            for len in [0, 1, 100, 5_000] {
                stuck.transport.send(&vec![0; len]).unwrap();
                size += len + 8;
                assert_eq!(stuck.transport.write_buffer_size(), size);
            }
            stuck.read(0..stuck.sent).await;
            let mut buf = vec![0; 6_000];
            for len in [0, 1, 100, 5_000] {
                assert_eq!(stuck.receiver.recv(&mut buf).await.unwrap(), len);
            }
            settle().await;
            assert_eq!(stuck.transport.write_buffer_size(), 0);
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn writing_pauses_above_high_and_resumes_at_low() {
    for connected in [true, false] {
        block_on_within(async {
            let mut stuck = Stuck::new(connected).await;
            let (transport, log) = (stuck.transport.clone(), stuck.log.clone());
            let high = transport.write_buffer_size() + 100;
            transport
                .set_write_buffer_limits(Some(high), Some(0))
                .unwrap();
            while transport.write_buffer_size() + 10 <= high {
                stuck.send();
            }
            settle().await;
            assert_eq!(changes(&log), [], "at the limit, not above");
            transport.drain().await.unwrap();
            stuck.send();
            assert!(poll_once(transport.drain()).await.is_none());
            log.until(|events| events.contains(&Event::Pause)).await;
            // The limits are advice.
            stuck.send();
            assert!(transport.write_buffer_size() > high);

            let waiting = spawn({
                let transport = transport.clone();
                async move { transport.drain().await }
            });
            yield_now().await;
            assert!(!waiting.is_finished());
            stuck.read(0..stuck.sent).await;
            within(waiting).await.unwrap();
            log.until(|events| events.contains(&Event::Resume)).await;
            assert_eq!(transport.write_buffer_size(), 0);
            assert_eq!(changes(&log), [Event::Pause, Event::Resume]);
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn writing_resumes_at_low_and_not_before() {
    for connected in [true, false] {
        block_on_within(async {
            let stuck = Stuck::new(connected).await;
            let (transport, log) = (&stuck.transport, &stuck.log);
            transport
                .set_write_buffer_limits(Some(50), Some(30))
                .unwrap();
            for _ in 0..8 {
                transport.send(b"xx").unwrap();
            }
            log.until(|events| events.contains(&Event::Pause)).await;
            // Whatever is read makes room for one: first for the number, then for the eight.
            for left in [80, 70, 60, 50, 40, 30, 20] {
                stuck.receiver.recv(&mut [0; 8]).await.unwrap();
                while transport.write_buffer_size() > left {
                    yield_now().await;
                }
                assert_eq!(transport.write_buffer_size(), left);
                settle().await;
                let expected: &[Event] = match left > 30 {
                    true => &[Event::Pause],
                    false => &[Event::Pause, Event::Resume],
                };
                assert_eq!(changes(log), expected, "{left} bytes left");
            }
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn pauses_and_resumes_alternate_however_the_queue_moves() {
    for connected in [true, false] {
        block_on_within(async {
            let mut stuck = Stuck::new(connected).await;
            stuck
                .transport
                .set_write_buffer_limits(Some(60), Some(30))
                .unwrap();
            let mut read = 0;
            for round in 0..30 {
                for _ in 0..round * 7 % 23 {
                    stuck.send();
                }
                yield_now().await;
                // Now some of them, now all.
                let count = match round % 4 {
                    3 => stuck.sent - read,
                    _ => (round * 5 % 19).min(stuck.sent - read),
                };
                stuck.read(read..read + count).await;
                read += count;
            }
            stuck.read(read..stuck.sent).await;
            settle().await;
            let changes = changes(&stuck.log);
            assert!(changes.len() >= 4, "{changes:?}");
            for pair in changes.chunks(2) {
                assert_eq!(pair, [Event::Pause, Event::Resume]);
            }
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn lowering_the_limit_pauses_at_once_and_raising_it_does_not_resume() {
    block_on_within(async {
        let stuck = Stuck::new(true).await;
        let (transport, log) = (&stuck.transport, &stuck.log);
        transport.set_write_buffer_limits(Some(1), None).unwrap();
        log.until(|events| events.contains(&Event::Pause)).await;
        transport
            .set_write_buffer_limits(Some(1 << 20), None)
            .unwrap();
        settle().await;
        assert_eq!(changes(log), [Event::Pause]);
        assert!(poll_once(transport.drain()).await.is_none());
        stuck.read(0..stuck.sent).await;
        log.until(|events| events.contains(&Event::Resume)).await;
        transport.drain().await.unwrap();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_callback_sends_beyond_the_limit_pauses_it_when_it_returns() {
    block_on_within(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receiver");
        let receiver = coracle::net::UnixDatagram::bind(&path).unwrap();
        let log = Log::new();
        let options = DatagramOptions::new().remote_addr(&path);
        let (transport, _) = reacting(&log, options, |transport, event| {
            if *event == Event::Made {
                transport
                    .set_write_buffer_limits(Some(200), Some(100))
                    .unwrap();
                for i in 0..100_u8 {
                    transport.send(&[i]).unwrap();
                }
            }
        })
        .await;
        log.until(|events| events == [Event::Made, Event::Pause])
            .await;
        let mut buf = [0; 8];
        for i in 0..100 {
            assert_eq!(within(receiver.recv(&mut buf)).await.unwrap(), 1);
            assert_eq!(buf[0], i);
        }
        log.until(|events| events == [Event::Made, Event::Pause, Event::Resume])
            .await;
        assert_eq!(transport.dropped(), 0);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn drain_is_told_of_the_end() {
    block_on_within(async {
        let stuck = Stuck::new(true).await;
        stuck
            .transport
            .set_write_buffer_limits(Some(0), None)
            .unwrap();
        let waiting = spawn({
            let transport = stuck.transport.clone();
            async move { transport.drain().await }
        });
        yield_now().await;
        assert!(!waiting.is_finished());
        stuck.transport.abort();
        assert_eq!(
            within(waiting).await.unwrap_err().kind(),
            ErrorKind::NotConnected
        );
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_driver_that_waits_for_room_does_not_spin() {
    for connected in [true, false] {
        block_on_within(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("receiver");
            let _receiver = coracle::net::UnixDatagram::bind(&path).unwrap();
            let options = DatagramOptions::new()
                .remote_addr(&path)
                .allow_broadcast(!connected);
            let recorder = || common::Recorder::new(&Log::new());
            let made = coracle::create_datagram_endpoint_with_driver(recorder, options);
            let (transport, _, driver) = made.await.unwrap();
            while transport.write_buffer_size() == 0 {
                transport.send(b"x").unwrap();
            }
            let mut driver = pin!(driver);
            let mut polls = 0;
            let counted = poll_fn(|cx| {
                polls += 1;
                driver.as_mut().poll(cx)
            });
            let some_time = std::time::Duration::from_millis(50);
            assert!(coracle::time::timeout(some_time, counted).await.is_err());
            assert!(polls < 50, "polled {polls} times");
        });
    }
}

#[test]
fn paused_reading_delivers_nothing_and_loses_nothing() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _) = reacting(&log, local_v4(), |transport, event| match event {
            // In the middle of what has been received already.
            Event::Received(data, _) if data[0] % 10 == 2 => transport.pause_reading(),
            _ => {}
        })
        .await;
        let (sender, _) = recording(&Log::new(), local_v4()).await;
        send_numbers(&sender, 0..30, ip(&transport));
        log.until_received(3).await;
        for paused_at in [3, 13, 23] {
            log.until_received(paused_at).await;
            assert!(!transport.is_reading());
            settle().await;
            assert_eq!(log.received(), numbers(0..paused_at as u8));
            transport.resume_reading();
            assert!(transport.is_reading());
        }
        log.until_received(30).await;
        assert_eq!(log.received(), numbers(0..30));

        transport.pause_reading();
        send_numbers(&sender, 30..31, ip(&transport));
        settle().await;
        transport.resume_reading();
        transport.resume_reading();
        log.until_received(31).await;
        assert_eq!(log.received(), numbers(0..31));
    });
}

#[test]
fn what_was_held_while_paused_is_not_delivered_after_close() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _) = reacting(&log, local_v4(), |transport, event| {
            if let Event::Received(..) = event {
                transport.pause_reading();
            }
        })
        .await;
        let (sender, _) = recording(&Log::new(), local_v4()).await;
        send_numbers(&sender, 0..5, ip(&transport));
        log.until_received(1).await;
        transport.close();
        transport.resume_reading();
        within(transport.closed()).await.unwrap();
        assert_eq!(log.received(), numbers(0..1));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn close_sends_what_is_queued_and_abort_drops_it() {
    for connected in [true, false] {
        block_on_within(async {
            let mut stuck = Stuck::new(connected).await;
            for _ in 0..50 {
                stuck.send();
            }
            stuck.transport.close();
            settle().await;
            assert_eq!(stuck.log.events(), [Event::Made], "it still waits");
            stuck.read(0..stuck.sent).await;
            within(stuck.transport.closed()).await.unwrap();
            assert_eq!(stuck.log.events(), [Event::Made, Event::Lost(None)]);
            assert_eq!(stuck.transport.dropped(), 0);

            for also_close in [true, false] {
                let mut stuck = Stuck::new(connected).await;
                for _ in 0..50 {
                    stuck.send();
                }
                if also_close {
                    stuck.transport.close();
                    yield_now().await;
                }
                stuck.transport.abort();
                within(stuck.transport.closed()).await.unwrap();
                assert_eq!(stuck.log.events().last(), Some(&Event::Lost(None)));
                let arrived = stuck.read_now();
                assert!(arrived < stuck.sent - 49, "{arrived} of {}", stuck.sent);
                let lost = (stuck.sent - arrived) as u64;
                assert_eq!(stuck.transport.dropped(), lost);
                assert_eq!(stuck.transport.write_buffer_size(), 0);
            }
        });
    }
}
