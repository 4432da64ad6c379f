//! `TlsStream` over a stream that remembers one waker for each direction, the last one that it was
//! given: who reads and who writes are both woken all the same.
#![cfg(feature = "tls")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use common::sockets::{pattern, tcp_pair};
use common::tls::{client, server, NAME};
use common::{block_on_within, within};
use coracle::net::TlsStream;
use coracle::{spawn, yield_now};
use futures_lite::future::{self, poll_once};
use futures_lite::io::split;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One direction, in memory.
struct Pipe {
    bytes: VecDeque<u8>,
    /// As many as there may be.
    capacity: usize,
    /// Flushing waits until all has been read.
    flush_waits: bool,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(capacity: usize) -> Rc<RefCell<Pipe>> {
        Rc::new(RefCell::new(Pipe {
            bytes: VecDeque::new(),
            capacity,
            flush_waits: false,
            ended: false,
            reader: None,
            writer: None,
        }))
    }

    /// Waits until the reader has read on.
    fn wait_to_write<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

struct End {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
}

fn ends(capacity: usize) -> (End, End) {
    let pipes = [Pipe::new(capacity), Pipe::new(capacity)];
    let end = |incoming: usize| End {
        incoming: pipes[incoming].clone(),
        outgoing: pipes[1 - incoming].clone(),
    };
    (end(0), end(1))
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.incoming.borrow_mut();
        let len = buf.len().min(pipe.bytes.len());
        if len == 0 && !pipe.ended {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for (byte, read) in buf.iter_mut().zip(pipe.bytes.drain(..len)) {
            *byte = read;
        }
        let writer = pipe.writer.take();
        drop(pipe);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.outgoing.borrow_mut();
        let len = buf.len().min(pipe.capacity - pipe.bytes.len());
        if len == 0 {
            return pipe.wait_to_write(cx);
        }
        pipe.bytes.extend(&buf[..len]);
        let reader = pipe.reader.take();
        drop(pipe);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outgoing.borrow_mut();
        if pipe.bytes.is_empty() || !pipe.flush_waits {
            return Poll::Ready(Ok(()));
        }
        pipe.wait_to_write(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.as_mut().poll_flush(cx)?.is_pending() {
            return Poll::Pending;
        }
        let mut pipe = self.outgoing.borrow_mut();
        pipe.ended = true;
        let reader = pipe.reader.take();
        drop(pipe);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

const CAPACITY: usize = 16 * 1024;

async fn shaken<S: AsyncRead + AsyncWrite + Unpin>(
    (ours, theirs): (S, S),
) -> (TlsStream<S>, TlsStream<S>) {
    let connecting = TlsStream::connect(ours, client(), NAME);
    let accepting = TlsStream::accept(theirs, server());
    let (ours, theirs) = within(future::zip(connecting, accepting)).await;
    (ours.unwrap(), theirs.unwrap())
}

async fn several_turns() {
    for _ in 0..10 {
        yield_now().await;
    }
}

/// One task writes until it has to wait, another reads what the peer says meanwhile, over and
/// over; then the peer reads all.
async fn a_reader_takes_over<S>(pair: (S, S), messages: usize)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    const LEN: usize = 4 << 20;
    let (ours, mut theirs) = shaken(pair).await;
    let (mut reader, mut writer) = split(ours);
    let writing = spawn(async move {
        writer.write_all(&pattern(LEN)).await.unwrap();
        writer.flush().await.unwrap();
        writer
    });
    let heard = Rc::new(Cell::new(0));
    let count = heard.clone();
    let _reading = spawn(async move {
        let mut byte = [0];
        while reader.read(&mut byte).await.unwrap() == 1 {
            count.set(count.get() + 1);
        }
    });
    several_turns().await;
    for message in 1..=messages {
        theirs.write_all(b"!").await.unwrap();
        poll_once(theirs.flush()).await;
        while heard.get() < message {
            yield_now().await;
        }
        several_turns().await;
    }
    let mut all = vec![0; LEN];
    theirs.read_exact(&mut all).await.unwrap();
    assert!(all == pattern(LEN));
    writing.await;
}

#[test]
fn a_writer_goes_on_when_a_reader_has_sent_for_it() {
    block_on_within(async {
        for messages in 0..3 {
            a_reader_takes_over(ends(CAPACITY), messages).await;
            a_reader_takes_over(tcp_pair().await, messages).await;
        }
    });
}

#[test]
fn a_flush_and_a_close_go_on_when_a_reader_has_sent_for_them() {
    block_on_within(async {
        for close in [false, true] {
            let (ours, mut theirs) = shaken(ends(CAPACITY)).await;
            ours.get_ref().outgoing.borrow_mut().flush_waits = true;
            let (mut reader, mut writer) = split(ours);
            // All but a part of it is in the pipe.
            let data = pattern(CAPACITY + 5_000);
            writer.write_all(&data).await.unwrap();
            let ending = spawn(async move {
                if close {
                    writer.close().await.unwrap();
                } else {
                    writer.flush().await.unwrap();
                }
                writer
            });
            yield_now().await;
            let _reading = spawn(async move { reader.read(&mut [0]).await });
            several_turns().await;
            assert!(!ending.is_finished());
            let mut all = vec![0; data.len()];
            theirs.read_exact(&mut all).await.unwrap();
            assert!(all == data);
            let writer = ending.await;
            if close {
                assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
            }
            drop(writer);
        }
    });
}

#[test]
fn a_reader_sends_what_a_writer_has_given_up() {
    block_on_within(async {
        let (ours, mut theirs) = shaken(ends(CAPACITY)).await;
        let (mut reader, mut writer) = split(ours);
        let data = pattern(CAPACITY + 40_000);
        writer.write_all(&data).await.unwrap();
        let _reading = spawn(async move { reader.read(&mut [0]).await });
        yield_now().await;
        // Somebody else's waker, who does not come back.
        let flushing = spawn(async move {
            assert!(poll_once(writer.flush()).await.is_none());
            writer
        });
        let _writer = flushing.await;
        let mut all = vec![0; data.len()];
        theirs.read_exact(&mut all).await.unwrap();
        assert!(all == data);
    });
}
