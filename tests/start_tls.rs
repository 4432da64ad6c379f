//! Connections that begin to speak TLS: what is sent plain, what is not, how it fails.
#![cfg(feature = "tls")]

mod common;

use std::io::{self, ErrorKind};
use std::time::Duration;

use common::pairs::{data, ends, pattern, told};
use common::secured::{rest, Peer};
use common::stream::{Event, Log, Recorder};
use common::tls::{client, server, NAME};
use common::{block_on_within, settle, within};
use coracle::net::{TcpListener, TcpStream, TlsStream};
use coracle::{
    create_connection, create_server, spawn, Protocol, ProtocolHandle, StartTlsOptions, TcpOptions,
    TcpServerOptions, Transport,
};
use futures_lite::future::{self, poll_once};
use futures_lite::{AsyncReadExt, AsyncWriteExt};

/// A plain connection that records, and its peer.
async fn plain(log: &Log) -> (Transport, ProtocolHandle<Recorder>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = TcpOptions::new().remote_addr(listener.local_addr().unwrap());
    let connecting = create_connection(|| Recorder::new(log), to);
    let (made, accepted) = within(future::zip(connecting, listener.accept())).await;
    let (transport, handle) = made.unwrap();
    (transport, handle, accepted.unwrap().0)
}

fn as_client() -> StartTlsOptions {
    StartTlsOptions::client(client(), NAME)
}

async fn upgraded(log: &Log) -> (Transport, Peer) {
    let (transport, _, tcp) = plain(log).await;
    let accepting = TlsStream::accept(tcp, server());
    let both = future::zip(transport.start_tls(as_client()), accepting);
    let (started, peer) = within(both).await;
    started.unwrap();
    (transport, peer.unwrap())
}

#[test]
fn what_is_queued_goes_out_plain_and_what_follows_encrypted() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, mut tcp) = plain(&log).await;
        assert!(transport.tls_info().is_none() && transport.can_write_eof());
        let large = pattern(common::pairs::LARGE);
        transport.write(&large).unwrap();
        let starting = transport.start_tls(as_client());
        transport.write(b"secret").unwrap();
        assert!(transport.tls_info().is_none() && !transport.can_write_eof());
        let queued = transport.write_buffer_size();
        assert!(queued > 6, "what waits for the handshake counts: {queued}");
        let peer = async {
            let mut plain = vec![0; large.len()];
            tcp.read_exact(&mut plain).await.unwrap();
            assert!(plain == large);
            let mut peer = TlsStream::accept(tcp, server()).await.unwrap();
            let mut secret = [0; 6];
            peer.read_exact(&mut secret).await.unwrap();
            assert_eq!(&secret, b"secret");
            peer.write_all(b"answer").await.unwrap();
            peer
        };
        let (started, mut peer) = within(future::zip(starting, peer)).await;
        started.unwrap();
        assert_eq!(peer.info().server_name(), Some(NAME));
        assert!(transport.tls_info().unwrap().protocol_version().is_some());
        log.until_len(6).await;
        transport.close();
        peer.close().await.unwrap();
        ends(&log, &transport, &[data("answer")], None).await;
    });
}

#[test]
fn write_limits_become_those_of_tls_unless_they_were_given() {
    const LIMITS: (usize, usize) = (128 * 1024, 512 * 1024);
    block_on_within(async {
        let (transport, _, tcp) = plain(&Log::new()).await;
        assert_eq!(transport.write_buffer_limits(), (16 * 1024, 64 * 1024));
        let starting = transport.start_tls(as_client());
        assert_eq!(transport.write_buffer_limits(), LIMITS);
        let both = future::zip(starting, TlsStream::accept(tcp, server()));
        within(both).await.0.unwrap();
        assert_eq!(transport.write_buffer_limits(), LIMITS);

        let log = Log::new();
        let (transport, _, silent) = plain(&log).await;
        transport
            .set_write_buffer_limits(Some(1_000), None)
            .unwrap();
        let _starting = transport.start_tls(as_client());
        assert_eq!(transport.write_buffer_limits(), (250, 1_000));
        transport.write(&[0; 999]).unwrap();
        settle().await;
        assert_eq!(told(&log).len(), log.events().len());
        transport.write(&[0]).unwrap();
        log.until_event(Event::Pause).await;
        assert_eq!(transport.write_buffer_size(), 1_000, "not encrypted yet");
        transport.set_write_buffer_limits(None, None).unwrap();
        assert_eq!(transport.write_buffer_limits(), LIMITS);
        drop(silent);
    });
}

/// A server that is asked to begin, and begins in the same callback.
struct Asked {
    log: Log,
    secure: bool,
}

impl Protocol for Asked {
    fn connection_made(&mut self, _: &Transport) {
        self.log.push(Event::Made);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        self.log.push(Event::Data(data.to_vec()));
        if self.secure {
            return transport.write(data);
        }
        self.secure = true;
        transport.write(b"OK\n")?;
        spawn(transport.start_tls(StartTlsOptions::server(server()))).detach();
        Ok(())
    }
}

#[test]
fn a_server_begins_in_the_callback_in_which_it_agrees() {
    block_on_within(async {
        let log = Log::new();
        let noted = log.clone();
        let factory = move || Asked {
            log: noted.clone(),
            secure: false,
        };
        let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
        let server = within(create_server(factory, options)).await.unwrap();
        let addr = server.local_addrs()[0];
        within(async {
            let tcp = TcpStream::connect(addr).await.unwrap();
            tcp.write_all(b"STARTTLS\n").await.unwrap();
            let mut agreed = [0; 3];
            (&tcp).read_exact(&mut agreed).await.unwrap();
            assert_eq!(&agreed, b"OK\n");
            let mut peer = TlsStream::connect(tcp, client(), NAME).await.unwrap();
            peer.write_all(b"hello").await.unwrap();
            let mut echo = [0; 5];
            peer.read_exact(&mut echo).await.unwrap();
            assert_eq!(&echo, b"hello");
        })
        .await;
        assert_eq!(log.events(), [Event::Made, data("STARTTLS\nhello")]);
    });
}

#[test]
fn an_upgraded_connection_ends_as_others_do() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = upgraded(&log).await;
        peer.write_all(b"part").await.unwrap();
        drop(peer.into_inner());
        let kind = Some(ErrorKind::UnexpectedEof);
        ends(&log, &transport, &[data("part")], kind).await;

        let log = Log::new();
        let (transport, mut peer) = upgraded(&log).await;
        peer.close().await.unwrap();
        ends(&log, &transport, &[Event::Eof], None).await;
        assert_eq!(rest(&mut peer).await.unwrap(), b"");
    });
}

#[test]
fn a_failed_handshake_ends_the_connection_and_both_are_told_why() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, tcp) = plain(&log).await;
        let starting = transport.start_tls(StartTlsOptions::client(client(), "other.example"));
        let both = future::zip(starting, TlsStream::accept(tcp, server()));
        let (started, accepted) = within(both).await;
        let error = started.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("other.example"), "{error}");
        assert_eq!(accepted.unwrap_err().kind(), ErrorKind::InvalidData);
        ends(&log, &transport, &[], Some(ErrorKind::InvalidData)).await;

        let log = Log::new();
        let (transport, _, _silent) = plain(&log).await;
        let soon = as_client().tls_handshake_timeout(Duration::from_millis(50));
        let error = within(transport.start_tls(soon)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        ends(&log, &transport, &[], Some(ErrorKind::ConnectionAborted)).await;

        let log = Log::new();
        let (transport, _, gone) = plain(&log).await;
        let starting = transport.start_tls(as_client());
        let hello = async {
            let mut record = [0; 5];
            (&gone).read_exact(&mut record).await.unwrap();
            gone.shutdown(std::net::Shutdown::Write).unwrap();
        };
        let (started, ()) = within(future::zip(starting, hello)).await;
        assert_eq!(started.unwrap_err().kind(), ErrorKind::ConnectionReset);
        ends(&log, &transport, &[], Some(ErrorKind::ConnectionReset)).await;
    });
}

#[test]
fn close_in_a_handshake_is_abort() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, silent) = plain(&log).await;
        let mut starting = Box::pin(transport.start_tls(as_client()));
        assert!(poll_once(&mut starting).await.is_none());
        transport.close();
        let error = within(starting).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        ends(&log, &transport, &[], None).await;
        drop(silent);
    });
}

#[test]
fn dropping_the_call_aborts_the_connection_unless_the_handshake_is_done() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, _silent) = plain(&log).await;
        drop(transport.start_tls(as_client()));
        ends(&log, &transport, &[], None).await;

        let log = Log::new();
        let (transport, _, tcp) = plain(&log).await;
        let starting = transport.start_tls(as_client());
        let mut peer = within(TlsStream::accept(tcp, server())).await.unwrap();
        settle().await;
        drop(starting);
        transport.write(b"on").unwrap();
        let mut on = [0; 2];
        within(peer.read_exact(&mut on)).await.unwrap();
    });
}

#[test]
fn what_cannot_begin_is_refused_and_changes_nothing() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, tcp) = plain(&log).await;
        let starting = transport.start_tls(as_client());
        let twice = within(transport.start_tls(as_client())).await.unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::InvalidInput, "{twice}");
        let both = future::zip(starting, TlsStream::accept(tcp, server()));
        let (started, peer) = within(both).await;
        started.unwrap();
        peer.unwrap().write_all(b"on").await.unwrap();
        log.until_len(2).await;

        let log = Log::new();
        let (transport, _, tcp) = plain(&log).await;
        for (options, name) in [
            (StartTlsOptions::client(client(), ""), "server_hostname"),
            (
                as_client().tls_handshake_timeout(Duration::ZERO),
                "tls_handshake_timeout",
            ),
            (
                StartTlsOptions::server(server()).tls_shutdown_timeout(Duration::ZERO),
                "tls_shutdown_timeout",
            ),
        ] {
            let error = within(transport.start_tls(options)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(name), "{error}");
        }
        transport.write(b"plain").unwrap();
        let mut plain = [0; 5];
        within((&tcp).read_exact(&mut plain)).await.unwrap();
        transport.write_eof().unwrap();
        let error = within(transport.start_tls(as_client())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        transport.close();
        let error = within(transport.start_tls(as_client())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
        within(transport.closed()).await.unwrap();
        assert_eq!(told(&log), [Event::Made, Event::Lost(None)]);
    });
}
