//! How TLS connections end: in order, too late, cut off, with an error.
#![cfg(feature = "tls")]

mod common;

use std::io::{self, ErrorKind};
use std::time::Duration;

use common::pairs::{data, ends};
use common::secured::{connected, connected_with, rest};
use common::stream::{Event, Log, Recorder};
use common::{block_on_within, settle, within};
use coracle::{create_connection_with_driver, spawn, yield_now, TcpOptions, Transport};
use futures_lite::future::{self, poll_once};
use futures_lite::{AsyncReadExt, AsyncWriteExt};

async fn recording(log: &Log) -> (Transport, common::secured::Peer) {
    let (transport, _, peer) = connected(Recorder::new(log)).await;
    (transport, peer)
}

/// Whether it has ended without TLS's end. A socket that is closed with something unread resets
/// its connection.
fn is_cut_off(rest: io::Result<Vec<u8>>) -> bool {
    let kind = rest.map_err(|error| error.kind());
    matches!(
        kind,
        Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
    )
}

#[test]
fn close_sends_what_is_queued_and_waits_for_the_peer_to_agree() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = recording(&log).await;
        let large = common::pairs::pattern(1 << 20);
        transport.write(&large).unwrap();
        transport.close();
        assert!(transport.is_closing());
        assert_eq!(
            transport.write(b"late").unwrap_err().kind(),
            ErrorKind::NotConnected
        );
        assert!(rest(&mut peer).await.unwrap() == large);
        settle().await;
        assert!(poll_once(transport.closed()).await.is_none(), "it waits");
        peer.close().await.unwrap();
        ends(&log, &transport, &[], None).await;
        assert_eq!(transport.dropped(), 4);
    });
}

#[test]
fn a_peer_that_never_agrees_is_left_after_the_time_for_it() {
    block_on_within(async {
        let log = Log::new();
        let soon = Duration::from_millis(50);
        let (transport, _, mut peer) =
            connected_with(Recorder::new(&log), |to| to.tls_shutdown_timeout(soon)).await;
        transport.close();
        ends(&log, &transport, &[], Some(ErrorKind::TimedOut)).await;
        let error = within(transport.closed()).await.unwrap_err();
        assert!(
            error.to_string().contains("tls_shutdown_timeout"),
            "{error}"
        );
        assert!(error.to_string().contains("50ms"), "{error}");
        assert_eq!(rest(&mut peer).await.unwrap(), b"", "it was told");
    });
}

#[test]
fn a_peer_that_reads_nothing_is_left_too() {
    block_on_within(async {
        let log = Log::new();
        let soon = Duration::from_millis(50);
        let (transport, _, _peer) =
            connected_with(Recorder::new(&log), |to| to.tls_shutdown_timeout(soon)).await;
        transport.write(&vec![0; common::pairs::LARGE]).unwrap();
        transport.close();
        ends(&log, &transport, &[], Some(ErrorKind::TimedOut)).await;
        assert!(transport.dropped() > 0);
    });
}

#[test]
fn a_peer_that_goes_without_a_word_when_told_of_the_end_is_no_error() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = recording(&log).await;
        transport.close();
        assert_eq!(rest(&mut peer).await.unwrap(), b"");
        drop(peer);
        ends(&log, &transport, &[], None).await;
    });
}

#[test]
fn what_comes_while_closing_is_not_delivered_and_holds_nothing_up() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = recording(&log).await;
        transport.close();
        // More than the system takes without a reader.
        let large = vec![7; common::pairs::LARGE];
        within(peer.write_all(&large)).await.unwrap();
        within(peer.close()).await.unwrap();
        ends(&log, &transport, &[], None).await;
    });
}

#[test]
fn abort_cuts_the_connection_off_which_the_peer_can_tell() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = recording(&log).await;
        transport.write(b"part").unwrap();
        let mut part = [0; 4];
        within(peer.read_exact(&mut part)).await.unwrap();
        transport.abort();
        ends(&log, &transport, &[], None).await;
        assert!(is_cut_off(rest(&mut peer).await));
    });
}

#[test]
fn the_peers_end_is_answered_whatever_eof_received_says() {
    for keep_open in [false, true] {
        block_on_within(async {
            let log = Log::new();
            let mut recorder = Recorder::new(&log);
            recorder.keep_open = keep_open;
            let (transport, _, mut peer) = connected(recorder).await;
            peer.write_all(b"all").await.unwrap();
            peer.close().await.unwrap();
            ends(&log, &transport, &[data("all"), Event::Eof], None).await;
            assert_eq!(rest(&mut peer).await.unwrap(), b"", "it is answered");
        });
    }
}

#[test]
fn what_eof_received_writes_reaches_the_peer() {
    block_on_within(async {
        let log = Log::new();
        let recorder = Recorder::reacting(&log, |transport, event| match event {
            Event::Eof => transport.write(b"goodbye"),
            _ => Ok(()),
        });
        let (transport, _, mut peer) = connected(recorder).await;
        // Only the TLS end: the socket's writing direction stays open.
        let closing = future::zip(peer.close(), log.until_lost());
        within(closing).await.0.unwrap();
        assert_eq!(rest(&mut peer).await.unwrap(), b"goodbye");
        transport.closed().await.unwrap();
    });
}

#[test]
fn a_connection_that_is_cut_off_is_an_error_and_no_end() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = recording(&log).await;
        peer.write_all(b"part").await.unwrap();
        drop(peer.into_inner());
        let kind = Some(ErrorKind::UnexpectedEof);
        ends(&log, &transport, &[data("part")], kind).await;
        let error = transport.closed().await.unwrap_err();
        assert!(error.to_string().contains("close_notify"), "{error}");
    });
}

/// A connection that answers with much, and its peer, which has asked and ended its writing
/// direction without close_notify.
async fn asked_and_cut_off(
    log: &Log,
    options: impl FnOnce(TcpOptions) -> TcpOptions,
) -> (Transport, common::secured::Peer) {
    let recorder = Recorder::reacting(log, |transport, event| match event {
        Event::Data(_) => transport.write(&common::pairs::pattern(common::pairs::LARGE)),
        _ => Ok(()),
    });
    let (transport, _, mut peer) = connected_with(recorder, options).await;
    peer.write_all(b"ask").await.unwrap();
    peer.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    within(async {
        while !transport.is_closing() {
            yield_now().await;
        }
    })
    .await;
    assert!(transport.write_buffer_size() > 0, "it has not been read");
    (transport, peer)
}

#[test]
fn a_peer_that_has_ended_without_close_notify_gets_what_was_queued() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = asked_and_cut_off(&log, |to| to).await;
        let late = transport.write(b"late").unwrap_err();
        assert_eq!(late.kind(), ErrorKind::NotConnected);
        let answer = rest(&mut peer).await.expect("an end in order");
        assert!(answer == common::pairs::pattern(common::pairs::LARGE));
        let kind = Some(ErrorKind::UnexpectedEof);
        ends(&log, &transport, &[data("ask")], kind).await;
        assert_eq!(transport.dropped(), 4);
    });
}

#[test]
fn a_peer_that_has_ended_and_does_not_read_is_left() {
    for gone in [false, true] {
        block_on_within(async {
            let log = Log::new();
            let soon = Duration::from_millis(50);
            let (transport, peer) =
                asked_and_cut_off(&log, |to| to.tls_shutdown_timeout(soon)).await;
            let _peer = (!gone).then_some(peer);
            // Why it has ended, not what became of the rest.
            let kind = Some(ErrorKind::UnexpectedEof);
            ends(&log, &transport, &[data("ask")], kind).await;
            assert!(transport.dropped() > 0);
        });
    }
}

#[test]
fn a_callback_that_fails_as_if_it_were_cut_off_drops_what_is_queued() {
    block_on_within(async {
        let log = Log::new();
        let recorder = Recorder::reacting(&log, |transport, event| match event {
            Event::Data(_) => {
                transport.write(&vec![7; common::pairs::LARGE])?;
                Err(ErrorKind::UnexpectedEof.into())
            }
            _ => Ok(()),
        });
        let (transport, _, mut peer) = connected(recorder).await;
        peer.write_all(b"x").await.unwrap();
        let kind = Some(ErrorKind::UnexpectedEof);
        ends(&log, &transport, &[data("x")], kind).await;
        assert!(transport.dropped() > 0);
        assert!(is_cut_off(rest(&mut peer).await));
    });
}

#[test]
fn garbage_is_an_error_that_the_peer_is_told() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = recording(&log).await;
        let garbage = b"\x17\x03\x03\x00\x20this was not encrypted by anyone";
        peer.get_mut().write_all(garbage).await.unwrap();
        ends(&log, &transport, &[], Some(ErrorKind::InvalidData)).await;
        let error = rest(&mut peer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
    });
}

#[test]
fn the_writing_direction_cannot_end_alone() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = recording(&log).await;
        assert!(!transport.can_write_eof());
        let error = transport.write_eof().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        transport.write(b"still open").unwrap();
        let mut read = [0; 10];
        within(peer.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, b"still open");
    });
}

#[test]
fn an_error_of_a_callback_cuts_the_connection_off() {
    block_on_within(async {
        let log = Log::new();
        let recorder = Recorder::reacting(&log, |_, event| match event {
            Event::Data(_) => Err(io::Error::new(ErrorKind::AddrInUse, "of the test")),
            _ => Ok(()),
        });
        let (transport, _, mut peer) = connected(recorder).await;
        peer.write_all(b"x").await.unwrap();
        ends(&log, &transport, &[data("x")], Some(ErrorKind::AddrInUse)).await;
        assert!(is_cut_off(rest(&mut peer).await));
    });
}

#[test]
fn a_driver_that_is_dropped_cuts_the_connection_off() {
    block_on_within(async {
        let log = Log::new();
        let (listener, to) = common::secured::listening().await;
        let accepting = spawn(async move { common::secured::accept(&listener).await });
        let made = within(create_connection_with_driver(|| Recorder::new(&log), to)).await;
        let (transport, _, driver) = made.unwrap();
        let mut peer = within(accepting).await.unwrap();
        drop(driver);
        let error = within(transport.closed()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        assert_eq!(log.events(), [], "it never ran");
        assert!(is_cut_off(rest(&mut peer).await));
    });
}

#[test]
fn what_was_agreed_on_is_remembered() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = recording(&log).await;
        let before = transport.tls_info().unwrap();
        assert_eq!(before.peer_certificates(), [common::tls::cert("server")]);
        transport.close();
        peer.close().await.unwrap();
        within(transport.closed()).await.unwrap();
        let after = transport.tls_info().unwrap();
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    });
}

/// Over Unix sockets, which say at once that the peer has gone.
#[cfg(unix)]
mod gone_early {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream as StdUnixStream;

    use coracle::net::{TlsStream, UnixStream};
    use coracle::tls::rustls::ClientConnection;
    use coracle::{connect_accepted_socket, AcceptedOptions};

    use super::common::tls::{client, server, NAME};
    use super::*;

    /// Says something with the last message of its handshake and goes, so that nothing that it is then
    /// sent reaches it.
    async fn in_a_hurry(stream: UnixStream) {
        let mut tls = ClientConnection::new(client(), NAME.try_into().unwrap()).unwrap();
        let mut ciphertext = Vec::new();
        tls.write_tls(&mut ciphertext).unwrap();
        stream.write_all(&ciphertext).await.unwrap();
        while tls.is_handshaking() {
            let mut buf = [0; 4096];
            let len = stream.read(&mut buf).await.unwrap();
            tls.read_tls(&mut &buf[..len]).unwrap();
            tls.process_new_packets().unwrap();
        }
        tls.writer().write_all(b"in short").unwrap();
        tls.send_close_notify();
        ciphertext.clear();
        while tls.wants_write() {
            tls.write_tls(&mut ciphertext).unwrap();
        }
        // At once, without a turn for the server.
        stream.write_all(&ciphertext).await.unwrap();
    }

    #[test]
    fn a_client_that_goes_before_it_has_session_tickets_is_heard() {
        block_on_within(async {
            let log = Log::new();
            let (ours, theirs) = StdUnixStream::pair().unwrap();
            let options = AcceptedOptions::new().tls(server());
            let connecting = connect_accepted_socket(|| Recorder::new(&log), ours, options);
            let client = in_a_hurry(theirs.try_into().unwrap());
            let (made, ()) = within(future::zip(connecting, client)).await;
            let (transport, _) = made.unwrap();
            ends(&log, &transport, &[data("in short"), Event::Eof], None).await;
        });
    }

    #[test]
    fn a_client_that_goes_before_it_has_session_tickets_is_heard_by_a_stream() {
        block_on_within(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let both = future::zip(TlsStream::accept(ours, server()), in_a_hurry(theirs));
            let (stream, ()) = within(both).await;
            let mut stream = stream.unwrap();
            let mut said = Vec::new();
            within(stream.read_to_end(&mut said)).await.unwrap();
            assert_eq!(said, b"in short");
            // It is the writer who is told that nobody listens.
            let error = within(stream.close()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        });
    }
}
