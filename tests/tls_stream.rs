//! `TlsStream`: over our sockets and those of others, in steps of any size, ended in any way.
#![cfg(feature = "tls")]

mod common;

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use common::sockets::{pattern, tcp_pair};
use common::tls::{client, client_of, server, server_of, BOTH, NAME, ONLY_12, ONLY_13};
use common::{block_on_within, within};
use coracle::net::{TcpStream, TlsStream};
use futures_lite::future::{self, poll_once};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A client and a server that have shaken hands.
async fn over<S: AsyncRead + AsyncWrite + Unpin>(
    (ours, theirs): (S, S),
) -> (TlsStream<S>, TlsStream<S>) {
    let connecting = TlsStream::connect(ours, client(), NAME);
    let both = future::zip(connecting, TlsStream::accept(theirs, server()));
    let (ours, theirs) = within(both).await;
    (ours.unwrap(), theirs.unwrap())
}

/// Bytes both ways at once, and an end in order.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    (mut ours, mut theirs): (TlsStream<S>, TlsStream<S>),
    size: usize,
) {
    let sent = pattern(size);
    let there = async {
        ours.write_all(&sent).await?;
        ours.close().await?;
        let mut back = Vec::new();
        ours.read_to_end(&mut back).await.map(|_| back)
    };
    let and_back = async {
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await?;
        theirs.write_all(&all).await?;
        theirs.close().await
    };
    let (back, echoed) = within(future::zip(there, and_back)).await;
    echoed.unwrap();
    assert!(back.unwrap() == sent);
}

#[test]
fn bytes_go_there_and_back_over_tcp() {
    block_on_within(async {
        for size in [0, 1, 16 * 1024, 3_000_000] {
            exchange(over(tcp_pair().await).await, size).await;
        }
    });
}

/// A stream that gives and takes a byte at a time, and makes its user wait in between.
struct Drop1 {
    inner: TcpStream,
    wait: bool,
    unflushed: bool,
}

impl Drop1 {
    fn new(inner: TcpStream) -> Drop1 {
        Drop1 {
            inner,
            wait: false,
            unflushed: false,
        }
    }

    fn waits(&mut self, cx: &mut Context<'_>) -> bool {
        self.wait = !self.wait;
        if self.wait {
            cx.waker().wake_by_ref();
        }
        self.wait
    }
}

impl AsyncRead for Drop1 {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        assert!(
            !self.unflushed,
            "the peer may wait for what was not flushed"
        );
        if self.waits(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, &mut buf[..1])
    }
}

impl AsyncWrite for Drop1 {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waits(cx) {
            return Poll::Pending;
        }
        self.unflushed = true;
        Pin::new(&mut self.inner).poll_write(cx, &buf[..1])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unflushed = false;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unflushed = false;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[test]
fn it_does_not_matter_how_the_bytes_are_cut() {
    for versions in [ONLY_13, ONLY_12] {
        block_on_within(async {
            let (ours, theirs) = tcp_pair().await;
            let (ours, theirs) = (Drop1::new(ours), Drop1::new(theirs));
            // Certificates both ways: the longest handshake.
            let config = client_of(versions, "ca", Some("client"));
            let connecting = TlsStream::connect(ours, config, NAME);
            let accepting = TlsStream::accept(theirs, server_of(BOTH, "server", true));
            let (ours, theirs) = within(future::zip(connecting, accepting)).await;
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!(theirs.info().peer_certificates().len(), 1);
            let there = async {
                ours.write_all(b"a few bytes").await.unwrap();
                ours.flush().await.unwrap();
                let mut back = [0; 11];
                for byte in &mut back {
                    ours.read_exact(std::slice::from_mut(byte)).await.unwrap();
                }
                ours.close().await.unwrap();
                back
            };
            let and_back = async {
                let mut all = [0; 11];
                theirs.read_exact(&mut all).await.unwrap();
                theirs.write_all(&all).await.unwrap();
                theirs.flush().await.unwrap();
                assert_eq!(theirs.read(&mut all).await.unwrap(), 0);
            };
            let (back, ()) = within(future::zip(there, and_back)).await;
            assert_eq!(&back, b"a few bytes");
        });
    }
}

#[test]
fn an_end_in_order_is_one_and_a_cut_is_none() {
    block_on_within(async {
        let (mut ours, mut theirs) = over(tcp_pair().await).await;
        theirs.write_all(b"all").await.unwrap();
        theirs.close().await.unwrap();
        let mut all = Vec::new();
        within(ours.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, b"all");
        assert_eq!(ours.read(&mut [0; 9]).await.unwrap(), 0, "and stays one");
        // The other direction is still open.
        ours.write_all(b"answer").await.unwrap();
        ours.close().await.unwrap();
        ours.close().await.unwrap();
        assert_eq!(
            ours.write(b"late").await.unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
        all.clear();
        within(theirs.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, b"answer");

        let (mut ours, mut theirs) = over(tcp_pair().await).await;
        theirs.write_all(b"part").await.unwrap();
        theirs.flush().await.unwrap();
        let tcp = theirs.into_inner();
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        all.clear();
        let error = within(ours.read_to_end(&mut all)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(all, b"part");
    });
}

#[test]
fn small_slices_go_together_and_large_ones_one_by_one() {
    block_on_within(async {
        let (mut ours, mut theirs) = over(tcp_pair().await).await;
        let large = pattern(100_000);
        let slices = [&b""[..], b"head", b"", b"er: ", &large];
        let slices = slices.map(IoSlice::new);
        let written = within(ours.write_vectored(&slices)).await.unwrap();
        assert_eq!(written, 16 * 1024, "a record's worth");
        let written = within(ours.write_vectored(&slices[4..])).await.unwrap();
        assert!(written >= 16 * 1024, "{written}");
        assert_eq!(ours.write_vectored(&slices[..1]).await.unwrap(), 0);
        let mut head = [0; 8];
        within(theirs.read_exact(&mut head)).await.unwrap();
        assert_eq!(&head, b"header: ");
    });
}

#[test]
fn reading_and_writing_that_is_given_up_loses_nothing() {
    block_on_within(async {
        let (mut ours, mut theirs) = over(tcp_pair().await).await;
        let sent = pattern(2_000_000);
        let mut received: Vec<u8> = Vec::new();
        let mut at = 0;
        let mut buf = vec![0; 10_000];
        // Each is polled once and dropped if it is not done.
        while received.len() < sent.len() {
            if at < sent.len() {
                if let Some(written) = poll_once(ours.write(&sent[at..])).await {
                    at += written.unwrap();
                }
            } else {
                poll_once(ours.flush()).await.transpose().unwrap();
            }
            if let Some(read) = poll_once(theirs.read(&mut buf)).await {
                received.extend(&buf[..read.unwrap()]);
            }
            coracle::yield_now().await;
        }
        assert!(received == sent);
    });
}

#[test]
fn a_handshake_that_is_given_up_drops_the_stream() {
    block_on_within(async {
        let (ours, mut theirs) = tcp_pair().await;
        let mut connecting = Box::pin(TlsStream::connect(ours, client(), NAME));
        assert!(poll_once(&mut connecting).await.is_none());
        drop(connecting);
        let mut hello = Vec::new();
        within(theirs.read_to_end(&mut hello)).await.unwrap();
        assert_eq!(hello[0], 22);
    });
}

#[test]
fn a_handshake_fails_as_that_of_a_connection_does() {
    block_on_within(async {
        for (name, authority, kind) in [
            ("other.example", "ca", ErrorKind::InvalidData),
            (NAME, "stranger", ErrorKind::InvalidData),
            ("no name", "ca", ErrorKind::InvalidInput),
        ] {
            let (ours, theirs) = tcp_pair().await;
            let connecting = TlsStream::connect(ours, client_of(BOTH, authority, None), name);
            let both = future::zip(connecting, TlsStream::accept(theirs, server()));
            let (ours, theirs) = within(both).await;
            assert_eq!(ours.unwrap_err().kind(), kind);
            let told = theirs.unwrap_err();
            if kind == ErrorKind::InvalidData {
                assert_eq!(told.kind(), kind, "{told}");
                assert!(told.to_string().contains("alert"), "{told}");
            } else {
                assert_eq!(told.kind(), ErrorKind::ConnectionReset, "{told}");
            }
        }
    });
}

/// What nobody has encrypted.
#[test]
fn noise_is_an_error_and_no_panic() {
    block_on_within(async {
        for seed in 0..200_u32 {
            let (mut ours, mut theirs) = over(tcp_pair().await).await;
            let mut number = seed.wrapping_mul(2_654_435_761) | 1;
            let noise = std::iter::repeat_with(|| {
                number ^= number << 13;
                number ^= number >> 17;
                number ^= number << 5;
                number as u8
            });
            let mut noise: Vec<u8> = noise.take(40_000).collect();
            if seed % 2 == 0 {
                // It looks like records.
                noise[..3].copy_from_slice(&[20 + (seed % 8) as u8, 3, 3]);
            }
            let tcp = theirs.get_mut();
            tcp.write_all(&noise).await.unwrap();
            tcp.shutdown(std::net::Shutdown::Write).unwrap();
            let mut all = Vec::new();
            let error = within(ours.read_to_end(&mut all)).await.unwrap_err();
            let known = [ErrorKind::InvalidData, ErrorKind::UnexpectedEof];
            assert!(known.contains(&error.kind()), "{seed}: {error}");
            assert_eq!(all, b"");
            assert!(ours.read(&mut [0; 9]).await.is_err(), "and stays one");
            let _ = within(ours.close()).await;
        }
    });
}

#[cfg(unix)]
#[test]
fn it_works_over_unix_sockets_and_streams_of_others() {
    use coracle::net::UnixStream;

    block_on_within(async {
        let pair = UnixStream::pair().unwrap();
        exchange(over(pair).await, 1_000_000).await;
    });
    smol::block_on(within(async {
        let pair = smol::net::unix::UnixStream::pair().unwrap();
        exchange(over(pair).await, 1_000_000).await;
        // And ours where no runtime of ours is.
        let pair = UnixStream::pair().unwrap();
        exchange(over(pair).await, 1_000_000).await;
    }));
}
