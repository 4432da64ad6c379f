//! `TlsStream`: TLS over any stream.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use rustls::{ClientConfig, ServerConfig};

use crate::error::context;
use crate::tls::backlog::Backlog;
use crate::tls::lent;
use crate::tls::senders::{Sender, Senders};
use crate::tls::session::Session;
use crate::tls::{server_name, TlsInfo};

/// Ciphertext that may wait to be sent before more is made.
const WAITING: usize = 64 * 1024;

/// TLS over any stream: a [`TcpStream`](crate::net::TcpStream), a `UnixStream`, somebody else's.
///
/// It has `futures-io`'s traits. What is written is sent at once as far as the stream takes it; the
/// rest goes out with what is done next, or with `flush`. `close` tells the peer that this was the
/// end (close_notify), without which the peer takes what it has for a part. An idle one holds no
/// buffers.
///
/// Where the peer ends the stream without saying so, reading gives `UnexpectedEof` instead of an
/// end: data may be missing.
///
/// One task may read while another writes (`futures_lite::io::split`), also where the stream below
/// remembers one waker for each direction only, as tokio's do.
///
/// *asyncio equivalent*: the streams of `open_connection(ssl=…)`. Feature `tls`.
///
/// # Examples
/// ```
/// use coracle::net::{TcpStream, TlsStream};
/// use coracle::tls::rustls::ClientConfig;
/// use futures_lite::{AsyncReadExt, AsyncWriteExt};
/// use std::io;
/// use std::sync::Arc;
///
/// async fn ask(config: Arc<ClientConfig>) -> io::Result<Vec<u8>> {
///     let tcp = TcpStream::connect("example.org:443").await?;
///     let mut stream = TlsStream::connect(tcp, config, "example.org").await?;
///     stream.write_all(b"GET / HTTP/1.0\r\nHost: example.org\r\n\r\n").await?;
///     let mut answer = Vec::new();
///     stream.read_to_end(&mut answer).await?;
///     Ok(answer)
/// }
/// ```
pub struct TlsStream<S> {
    io: S,
    session: Session,
    /// Ciphertext that the stream has not taken yet.
    unsent: Backlog,
    senders: Senders,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands with a server, whose certificate must have been made for `name`, a host name
    /// or an IP address.
    ///
    /// # Errors
    /// - `InvalidInput`: the name is none, or the configuration cannot be used.
    /// - `ConnectionReset`: the peer has ended the stream.
    /// - `InvalidData`: the peer's certificate, or anything else that rustls objects to, which is
    ///   the source of the error. The peer is told.
    /// - the stream's own.
    ///
    /// It waits for as long as the peer takes: pair it with [`timeout`](crate::time::timeout).
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, the stream is dropped with it.
    pub async fn connect(
        io: S,
        config: impl Into<Arc<ClientConfig>>,
        name: &str,
    ) -> io::Result<TlsStream<S>> {
        let session = Session::client(config.into(), server_name(name)?);
        TlsStream::shake_hands(io, session).await
    }

    /// Shakes hands with a client. One that goes as soon as it has said all, without waiting for
    /// the session tickets of TLS 1.3, is heard: writing gives the error.
    ///
    /// # Errors
    /// As [`connect`](TlsStream::connect).
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, the stream is dropped with it.
    pub async fn accept(io: S, config: impl Into<Arc<ServerConfig>>) -> io::Result<TlsStream<S>> {
        TlsStream::shake_hands(io, Session::server(config.into())).await
    }

    async fn shake_hands(
        io: S,
        session: Result<Session, rustls::Error>,
    ) -> io::Result<TlsStream<S>> {
        let refused = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let mut stream = TlsStream {
            io,
            session: session.map_err(refused)?,
            unsent: Backlog::default(),
            senders: Senders::default(),
        };
        let result = poll_fn(|cx| stream.poll_handshake(cx)).await;
        // The last of it, be it an alert.
        let mut sent = poll_fn(|cx| stream.poll_send(cx)).await;
        if matches!(&sent, Err(error) if stream.session.is_only_tickets(error)) {
            sent = Ok(());
        }
        if let Err(error) = result.and(sent) {
            let error = match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::new(
                    io::ErrorKind::ConnectionReset,
                    "the peer has ended the stream",
                ),
                _ => error,
            };
            return Err(context(error, "TLS handshake"));
        }
        Ok(stream)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.is_handshaking() {
            ready!(self.poll_send(cx))?;
            let io = &mut self.io;
            let mut read = |buf: &mut [u8]| Pin::new(&mut *io).poll_read(cx, buf);
            let result = self.session.poll_handshake(&mut read);
            self.keep_out();
            ready!(result)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps what the session has to send.
    fn keep_out(&mut self) {
        self.unsent.append(&self.session.take_out());
    }

    /// Has the stream take all that waits, and send it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(Sender::Writer, cx))?;
        let io = Pin::new(&mut self.io);
        self.senders
            .poll(Sender::Writer, cx, |cx| io.poll_flush(cx))
    }

    fn poll_drain(&mut self, sender: Sender, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.as_slice().is_empty() {
            let (io, unsent) = (Pin::new(&mut self.io), self.unsent.as_slice());
            let sent = self
                .senders
                .poll(sender, cx, |cx| io.poll_write(cx, unsent));
            match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.unsent.consume(len),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts what goes in one go, and sends or keeps it; an error comes with the next call.
    fn encrypt(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> io::Result<usize> {
        let (io, unsent, senders) = (&mut self.io, &mut self.unsent, &mut self.senders);
        lent::with_sent(|sent| {
            let len = self.session.encrypt(plain, sent)?;
            let mut ciphertext = sent.as_slice();
            while unsent.as_slice().is_empty() && !ciphertext.is_empty() {
                let io = Pin::new(&mut *io);
                match senders.poll(Sender::Writer, cx, |cx| io.poll_write(cx, ciphertext)) {
                    Poll::Ready(Ok(len @ 1..)) => ciphertext = &ciphertext[len..],
                    _ => break,
                }
            }
            unsent.append(ciphertext);
            Ok(len)
        })
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        if plain.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.poll_drain(Sender::Writer, cx) {
            Poll::Pending if self.unsent.as_slice().len() >= WAITING => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Poll::Ready(self.encrypt(cx, plain))
    }
}

impl<S> TlsStream<S> {
    /// What the ends have agreed on.
    pub fn info(&self) -> TlsInfo {
        self.session.info()
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The stream below. What is read from it or written to it is missing above.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// The stream below; what was received or written and not passed on is lost.
    pub fn into_inner(self) -> S {
        self.io
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // The peer may wait for it; if it has gone, what it said before is there all the same, and
        // writing gives the error.
        let _ = this.poll_drain(Sender::Reader, cx);
        let io = &mut this.io;
        let mut read = |into: &mut [u8]| Pin::new(&mut *io).poll_read(cx, into);
        let result = this.session.poll_read(buf, &mut read);
        this.keep_out();
        // Alerts and answers; whether they can be sent changes nothing about what was read.
        let _ = this.poll_drain(Sender::Reader, cx);
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_some(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        /// One record's worth of small slices is one record.
        const RECORD: usize = 16 * 1024;

        match bufs.iter().find(|buf| !buf.is_empty()) {
            Some(first) if first.len() < RECORD && bufs.len() > 1 => {
                let mut joined = Vec::with_capacity(RECORD);
                for buf in bufs {
                    let room = RECORD - joined.len();
                    joined.extend_from_slice(&buf[..buf.len().min(room)]);
                }
                self.poll_write_some(cx, &joined)
            }
            Some(first) => self.poll_write_some(cx, first),
            None => Poll::Ready(Ok(0)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let unsent = &mut this.unsent;
        // After an error, the peer has been told that instead.
        lent::with_sent(|sent| {
            let _ = this.session.close(sent);
            unsent.append(sent.as_slice());
        });
        ready!(this.poll_drain(Sender::Writer, cx))?;
        let io = Pin::new(&mut this.io);
        this.senders
            .poll(Sender::Writer, cx, |cx| io.poll_close(cx))
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}
