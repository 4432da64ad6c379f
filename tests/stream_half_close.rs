//! One direction of a connection that ends before the other. The other end is a blocking socket of
//! the system.

mod common;

use std::io::{ErrorKind, IoSlice};

use common::pairs::{connected, data, ends, over_each, pattern, tcp_pair, LARGE};
use common::stream::{Event, Log, Recorder};
use common::{settle, within};
use coracle::Transport;

#[test]
fn after_the_peers_end_what_is_queued_is_sent_before_the_close() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        let sent = pattern(LARGE);
        transport.write(&sent).unwrap();
        peer.end();
        log.until_event(Event::Eof).await;
        assert!(transport.is_closing());
        assert!(peer.read_to_end().await == sent);
        within(transport.closed()).await.unwrap();
        assert_eq!(log.events().last(), Some(&Event::Lost(None)));
        assert_eq!(transport.dropped(), 0);
    });
}

#[test]
fn a_connection_kept_open_after_the_peers_end_can_be_written_to() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log).keeping_open()).await;
        peer.write(b"request");
        peer.end();
        log.until_event(Event::Eof).await;
        settle().await;
        assert!(!transport.is_closing());
        transport.write(b"reply").unwrap();
        assert_eq!(peer.read(5).await, b"reply");
        transport.write_eof().unwrap();
        assert_eq!(peer.read_to_end().await, b"");
        settle().await;
        assert!(!transport.is_closing(), "not by itself");
        transport.close();
        ends(&log, &transport, &[data("request"), Event::Eof], None).await;
    });
}

#[test]
fn ending_the_writing_direction_leaves_the_other_one() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        assert!(transport.can_write_eof());
        let sent = pattern(LARGE);
        transport.write(&sent).unwrap();
        transport.write_eof().unwrap();
        transport.write_eof().unwrap();
        for refused in [
            transport.write(b"x"),
            transport.writelines(&[IoSlice::new(b"x")]),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert!(peer.read_to_end().await == sent, "all, then the end");
        transport.write_eof().unwrap();
        assert!(!transport.is_closing() && transport.is_reading());
        peer.write(b"reply");
        log.until_len(5).await;
        peer.end();
        ends(&log, &transport, &[data("reply"), Event::Eof], None).await;
        transport.write_eof().unwrap();
        let refused = transport.write(b"x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "still");
        assert_eq!(transport.dropped(), 0);
    });
}

#[test]
fn ending_the_writing_direction_works_with_nothing_queued_and_in_a_callback() {
    over_each(async |ours, peer| {
        let log = Log::new();
        let reaction = |transport: &Transport, event: &Event| match event {
            Event::Data(_) => {
                transport.write(b"the last")?;
                transport.write_eof()
            }
            _ => Ok(()),
        };
        let (transport, _) = connected(ours, Recorder::reacting(&log, reaction)).await;
        peer.write(b"x");
        assert_eq!(peer.read_to_end().await, b"the last");
        assert!(!transport.is_closing());

        let (ours, peer) = tcp_pair();
        let (transport, _) = connected(ours, Recorder::new(&log)).await;
        transport.write_eof().unwrap();
        assert_eq!(peer.read_to_end().await, b"");
        transport.close();
        transport.write_eof().unwrap();
        within(transport.closed()).await.unwrap();
    });
}
