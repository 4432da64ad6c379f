//! Connections that begin to speak TLS over TLS: each layer begins and ends in order and fails for
//! itself, and what is told is about the last.
#![cfg(feature = "tls")]

mod common;

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::pairs::{data, ends, pattern, LARGE};
use common::secured::{connected, Peer};
use common::stream::{Event, Log, Mirror, Recorder};
use common::tls::{client, client_of, server, NAME, ONLY_12};
use common::{block_on_within, settle, within};
use coracle::net::{TcpStream, TlsStream};
use coracle::tls::rustls::ProtocolVersion;
use coracle::{
    create_server, spawn, BufferedProtocol, StartTlsOptions, TcpServerOptions, Transport,
};
use futures_lite::future::{self, poll_once};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A layer of which the one above it cannot close more than itself.
struct Below<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Below<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Below<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// The other end of a connection with one layer more.
type Over<S> = TlsStream<Below<S>>;

/// The peer's side of one.
async fn accept_over<S: AsyncRead + AsyncWrite + Unpin>(below: S) -> io::Result<Over<S>> {
    TlsStream::accept(Below(below), server()).await
}

/// TLS 1.2, so that the layer can be told from the one below.
fn as_client() -> StartTlsOptions {
    StartTlsOptions::client(client_of(ONLY_12, "ca", None), NAME)
}

async fn layered_with(log: &Log, options: StartTlsOptions) -> (Transport, Over<Peer>) {
    let (transport, _, below) = connected(Recorder::new(log)).await;
    let both = future::zip(transport.start_tls(options), accept_over(below));
    let (started, peer) = within(both).await;
    started.unwrap();
    (transport, peer.unwrap())
}

async fn layered(log: &Log) -> (Transport, Over<Peer>) {
    layered_with(log, as_client()).await
}

fn version(transport: &Transport) -> Option<ProtocolVersion> {
    transport
        .tls_info()
        .and_then(|info| info.protocol_version())
}

/// The end of a layer, before which nothing comes.
async fn end_of(peer: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut rest = Vec::new();
    within(peer.read_to_end(&mut rest)).await?;
    assert_eq!(rest, b"");
    Ok(())
}

#[test]
fn a_layer_over_another_carries_data_and_tells_of_itself() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, below) = connected(Recorder::new(&log)).await;
        assert_eq!(version(&transport), Some(ProtocolVersion::TLSv1_3));
        let starting = transport.start_tls(as_client());
        assert_eq!(version(&transport), None, "in the handshake");
        transport.write(b"question").unwrap();
        let (started, peer) = within(future::zip(starting, accept_over(below))).await;
        started.unwrap();
        let mut peer = peer.unwrap();
        assert_eq!(version(&transport), Some(ProtocolVersion::TLSv1_2));
        let below = peer.get_ref().0.info().protocol_version();
        assert_eq!(below, Some(ProtocolVersion::TLSv1_3));
        let mut question = [0; 8];
        within(peer.read_exact(&mut question)).await.unwrap();
        assert_eq!(&question, b"question");
        peer.write_all(b"answer").await.unwrap();
        log.until_len(6).await;
        transport.abort();
        ends(&log, &transport, &[data("answer")], None).await;
    });
}

#[test]
fn layers_are_closed_one_after_the_other_and_each_waits_for_the_peer() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = layered(&log).await;
        let large = pattern(1 << 20);
        transport.write(&large).unwrap();
        transport.close();
        let mut all = Vec::new();
        within(peer.read_to_end(&mut all)).await.unwrap();
        assert!(all == large);
        settle().await;
        let mut byte = [0];
        let below = peer.get_mut().0.read(&mut byte);
        assert!(
            poll_once(below).await.is_none(),
            "not before the peer agrees"
        );
        within(peer.close()).await.unwrap();
        end_of(&mut peer.get_mut().0).await.unwrap();
        settle().await;
        assert!(poll_once(transport.closed()).await.is_none(), "it waits");
        within(peer.get_mut().0.close()).await.unwrap();
        ends(&log, &transport, &[], None).await;
        assert_eq!(version(&transport), Some(ProtocolVersion::TLSv1_2));
    });
}

#[test]
fn the_peers_end_of_the_upper_layer_is_the_end_and_is_answered_in_both() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = layered(&log).await;
        peer.write_all(b"last").await.unwrap();
        peer.close().await.unwrap();
        end_of(&mut peer).await.unwrap();
        end_of(&mut peer.get_mut().0).await.unwrap();
        within(peer.get_mut().0.close()).await.unwrap();
        ends(&log, &transport, &[data("last"), Event::Eof], None).await;

        // All at once, and gone.
        let log = Log::new();
        let (transport, mut peer) = layered(&log).await;
        peer.close().await.unwrap();
        peer.get_mut().0.close().await.unwrap();
        drop(peer);
        ends(&log, &transport, &[Event::Eof], None).await;
    });
}

#[test]
fn an_upper_layer_that_is_cut_off_is_an_error_however_the_lower_one_ends() {
    block_on_within(async {
        for in_order in [true, false] {
            let log = Log::new();
            let (transport, mut peer) = layered(&log).await;
            peer.write_all(b"part").await.unwrap();
            if in_order {
                peer.get_mut().0.close().await.unwrap();
            } else {
                drop(peer);
            }
            let kind = Some(ErrorKind::UnexpectedEof);
            ends(&log, &transport, &[data("part")], kind).await;
        }
    });
}

#[test]
fn one_time_limit_is_for_the_end_of_all_layers() {
    block_on_within(async {
        for agrees in [true, false] {
            let log = Log::new();
            let soon = as_client().tls_shutdown_timeout(Duration::from_millis(50));
            let (transport, mut peer) = layered_with(&log, soon).await;
            transport.close();
            end_of(&mut peer).await.unwrap();
            if agrees {
                peer.close().await.unwrap();
            }
            ends(&log, &transport, &[], Some(ErrorKind::TimedOut)).await;
        }
    });
}

#[test]
fn a_failed_handshake_of_the_upper_layer_is_told_through_the_lower_one() {
    block_on_within(async {
        let log = Log::new();
        let (transport, _, below) = connected(Recorder::new(&log)).await;
        let wrong = StartTlsOptions::client(client(), "other.example");
        let both = future::zip(transport.start_tls(wrong), accept_over(below));
        let (started, accepted) = within(both).await;
        let error = started.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("other.example"), "{error}");
        let told = accepted.err().unwrap();
        assert_eq!(told.kind(), ErrorKind::InvalidData);
        assert!(told.to_string().contains("BadCertificate"), "{told}");
        ends(&log, &transport, &[], Some(ErrorKind::InvalidData)).await;

        // The peer ends the lower layer instead.
        let log = Log::new();
        let (transport, _, mut below) = connected(Recorder::new(&log)).await;
        let starting = transport.start_tls(as_client());
        let refusing = async {
            below.read_exact(&mut [0; 5]).await.unwrap();
            below.close().await.unwrap();
        };
        let (started, ()) = within(future::zip(starting, refusing)).await;
        assert_eq!(started.unwrap_err().kind(), ErrorKind::ConnectionReset);
        ends(&log, &transport, &[], Some(ErrorKind::ConnectionReset)).await;

        // It says nothing at all.
        let log = Log::new();
        let (transport, _, _below) = connected(Recorder::new(&log)).await;
        let soon = as_client().tls_handshake_timeout(Duration::from_millis(50));
        let error = within(transport.start_tls(soon)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        ends(&log, &transport, &[], Some(ErrorKind::ConnectionAborted)).await;
    });
}

#[test]
fn noise_in_the_lower_layer_ends_the_connection() {
    block_on_within(async {
        let log = Log::new();
        let (transport, peer) = layered(&log).await;
        let tcp = peer.into_inner().0.into_inner();
        tcp.write_all(b"no record of TLS").await.unwrap();
        ends(&log, &transport, &[], Some(ErrorKind::InvalidData)).await;
    });
}

#[test]
fn much_goes_both_ways_through_three_layers_and_the_limits_hold() {
    block_on_within(async {
        let (transport, _, below) = connected(Mirror).await;
        let both = future::zip(transport.start_tls(as_client()), accept_over(below));
        let (started, below) = within(both).await;
        started.unwrap();
        let over = accept_over(below.unwrap());
        let (started, peer) = within(future::zip(transport.start_tls(as_client()), over)).await;
        started.unwrap();
        let mut peer = peer.unwrap();
        assert_eq!(transport.write_buffer_limits(), (128 << 10, 512 << 10));
        let sent = pattern(LARGE);
        let mut back = vec![0; LARGE];
        let mut most = 0;
        let (mut reader, mut writer) = futures_lite::io::split(&mut peer);
        let writing = async {
            writer.write_all(&sent).await?;
            writer.flush().await
        };
        let reading = async {
            for piece in back.chunks_mut(100_000) {
                reader.read_exact(piece).await?;
                most = most.max(transport.write_buffer_size());
            }
            io::Result::Ok(())
        };
        let (written, read) = within(future::zip(writing, reading)).await;
        written.unwrap();
        read.unwrap();
        assert!(back == sent);
        assert!(most < 1 << 20, "{most} bytes were queued");
        transport.close();
        let mut below = peer;
        end_of(&mut below).await.unwrap();
        below.close().await.unwrap();
        let mut below = below.into_inner().0;
        end_of(&mut below).await.unwrap();
        below.close().await.unwrap();
        let mut below = below.into_inner().0;
        end_of(&mut below).await.unwrap();
        below.close().await.unwrap();
        within(transport.closed()).await.unwrap();
    });
}

/// Begins the upper layer when it is told to, and does not look beyond that.
#[derive(Default)]
struct Told {
    buffer: [u8; 3],
    secure: bool,
}

impl BufferedProtocol for Told {
    fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
        &mut self.buffer
    }

    fn buffer_updated(&mut self, transport: &Transport, count: usize) -> io::Result<()> {
        match (self.secure, &self.buffer[..count]) {
            (true, data) => transport.write(data),
            (false, b"GO\n") => {
                self.secure = true;
                let options = StartTlsOptions::server(server());
                spawn(transport.start_tls(options)).detach();
                Ok(())
            }
            (false, other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_decrypted_already_belongs_to_the_upper_layer() {
    block_on_within(async {
        let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
        let listening = create_server(Told::default, options.tls(server()));
        let listening = within(listening).await.unwrap();
        let tcp = TcpStream::connect(listening.local_addrs()[0]).await;
        let below = within(TlsStream::connect(tcp.unwrap(), client(), NAME)).await;
        // The word and the first message in one record.
        let mut below = Joined {
            below: below.unwrap(),
            before: b"GO\n".to_vec(),
        };
        let over = TlsStream::connect(&mut below, client(), NAME);
        let mut over = within(over).await.unwrap();
        over.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        within(over.read_exact(&mut hello)).await.unwrap();
        assert_eq!(&hello, b"hello");
    });
}

/// A stream that puts something before what is written first, in the same write.
struct Joined {
    below: Peer,
    before: Vec<u8>,
}

impl AsyncRead for Joined {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.below).poll_read(cx, buf)
    }
}

impl AsyncWrite for Joined {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let before = std::mem::take(&mut self.before);
        let joined = [&before, buf].concat();
        let result = Pin::new(&mut self.below).poll_write(cx, &joined);
        result.map_ok(|len| len - before.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_close(cx)
    }
}

#[test]
fn a_peer_that_cuts_the_layers_off_gets_what_was_queued() {
    block_on_within(async {
        let log = Log::new();
        let (transport, mut peer) = layered(&log).await;
        transport.write(&pattern(LARGE)).unwrap();
        let tcp = peer.get_mut().0.get_mut();
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        within(async {
            while !transport.is_closing() {
                coracle::yield_now().await;
            }
        })
        .await;
        let mut all = Vec::new();
        within(peer.read_to_end(&mut all)).await.unwrap();
        assert!(all == pattern(LARGE));
        ends(&log, &transport, &[], Some(ErrorKind::UnexpectedEof)).await;
        assert_eq!(transport.dropped(), 0);
    });
}
