//! What both kinds of stream socket and of listener offer, written once.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::address::{Address, UnixAddress};
use crate::sys::{Stream, StreamOps};

/// Connections that may wait to be accepted where the user does not say how many.
pub(crate) const BACKLOG: u32 = 1024;

/// The peer's name, as far as it was learned on the way; kept small, since there may be many.
#[derive(Clone)]
pub(crate) enum Peer {
    /// The system knows.
    Ask,
    Ip(SocketAddr),
    Unnamed,
    Unix(Box<UnixAddress>),
}

impl Peer {
    /// Learned now, for it may be forgotten when the peer is gone.
    pub(crate) fn of(stream: &Stream) -> Peer {
        stream.peer_addr().map_or(Peer::Ask, Peer::from)
    }

    pub(crate) fn addr(&self, stream: &Stream) -> io::Result<Address> {
        match self {
            Peer::Ask => stream.peer_addr(),
            Peer::Ip(addr) => Ok(Address::Ip(*addr)),
            Peer::Unnamed => Ok(Address::UNNAMED),
            Peer::Unix(addr) => Ok(Address::Unix(**addr)),
        }
    }
}

impl From<Address> for Peer {
    fn from(addr: Address) -> Peer {
        match addr {
            Address::Ip(addr) => Peer::Ip(addr),
            Address::Unix(addr) if addr.is_unnamed() => Peer::Unnamed,
            Address::Unix(addr) => Peer::Unix(Box::new(addr)),
        }
    }
}

/// `Debug` of a connected socket.
pub(crate) fn debug(
    name: &str,
    inner: &Stream,
    peer: &Peer,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    f.debug_struct(name)
        .field("local_addr", &inner.local_addr().ok())
        .field("peer_addr", &peer.addr(inner).ok())
        .finish_non_exhaustive()
}

/// Reading, writing and options for a type with fields `inner: sys::Stream` and `peer: Peer`.
macro_rules! stream_methods {
    () => {
        /// Reads what is there as far as it fits, at least a byte. 0 is the end, unless `buf` is
        /// empty.
        ///
        /// # Errors
        /// - `ConnectionReset`: the peer is gone with data of ours unread.
        /// - others as recv(2) gives them.
        ///
        /// # Cancel safety
        /// If it is dropped before it is done, nothing has been read.
        pub async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_read(waiter, &mut [IoSliceMut::new(buf)])
            })
            .await
        }

        /// As [`read`](Self::read), into several buffers one after the other, with one system call.
        ///
        /// # Errors
        /// As `read`.
        ///
        /// # Cancel safety
        /// If it is dropped before it is done, nothing has been read.
        pub async fn read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_read(waiter, bufs)
            })
            .await
        }

        /// As [`read`](Self::read), but what is read stays to be read again.
        ///
        /// # Errors
        /// As `read`.
        ///
        /// # Cancel safety
        /// Nothing is lost.
        pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_peek(waiter, buf)
            })
            .await
        }

        /// As [`read`](Self::read), but never waits.
        ///
        /// # Errors
        /// - `WouldBlock`: nothing is there.
        /// - others as `read`.
        pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
            self.inner.try_read(&mut [IoSliceMut::new(buf)])
        }

        /// As [`read_vectored`](Self::read_vectored), but never waits.
        ///
        /// # Errors
        /// - `WouldBlock`: nothing is there.
        /// - others as `read`.
        pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            self.inner.try_read(bufs)
        }

        /// Writes as much of `data` as the system takes at once, at least a byte unless it is
        /// empty, and tells how much.
        ///
        /// # Errors
        /// - `BrokenPipe`, `ConnectionReset`: the peer is gone, or this side was shut down.
        /// - others as send(2) gives them.
        ///
        /// # Cancel safety
        /// If it is dropped before it is done, nothing has been written.
        pub async fn write(&self, data: &[u8]) -> io::Result<usize> {
            wait(&self.inner, Direction::Write, |waiter| {
                self.inner.poll_write(waiter, &[IoSlice::new(data)])
            })
            .await
        }

        /// Writes all of `data`.
        ///
        /// # Errors
        /// As [`write`](Self::write).
        ///
        /// # Cancel safety
        /// **Not cancel safe**: if it is dropped, a part of `data` may have been written, and it
        /// does not tell how much.
        pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
            while !data.is_empty() {
                match self.write(data).await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => data = &data[written..],
                }
            }
            Ok(())
        }

        /// As [`write`](Self::write), from several buffers one after the other, with one system
        /// call.
        ///
        /// # Errors
        /// As `write`.
        ///
        /// # Cancel safety
        /// If it is dropped before it is done, nothing has been written.
        pub async fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            wait(&self.inner, Direction::Write, |waiter| {
                self.inner.poll_write(waiter, bufs)
            })
            .await
        }

        /// As [`write`](Self::write), but never waits.
        ///
        /// # Errors
        /// - `WouldBlock`: the system's buffer is full.
        /// - others as `write`.
        pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
            self.inner.try_write(&[IoSlice::new(data)])
        }

        /// As [`write_vectored`](Self::write_vectored), but never waits.
        ///
        /// # Errors
        /// - `WouldBlock`: the system's buffer is full.
        /// - others as `write`.
        pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            self.inner.try_write(bufs)
        }

        /// Waits until there is something to read, the end included, which the system has reported
        /// and nobody has read since: on a new stream, too, so that with a
        /// [`timeout`](crate::time::timeout) it is an idle check. It may turn out to be gone.
        ///
        /// A task that waits like this and then uses [`try_read`](Self::try_read) needs no buffer
        /// of its own while it waits.
        ///
        /// # Errors
        /// Only if waiting is impossible.
        ///
        /// # Cancel safety
        /// Nothing is lost.
        pub async fn readable(&self) -> io::Result<()> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_readable(waiter)
            })
            .await
        }

        /// Waits until something can be written, as the system has reported, or as is to be
        /// expected after a write that took all. It may turn out that it cannot.
        ///
        /// # Errors
        /// Only if waiting is impossible.
        ///
        /// # Cancel safety
        /// Nothing is lost.
        pub async fn writable(&self) -> io::Result<()> {
            wait(&self.inner, Direction::Write, |waiter| {
                self.inner.poll_writable(waiter)
            })
            .await
        }

        fn poll_read_into(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
            self.inner
                .poll_read(&mut Waiter::polled(cx), &mut [IoSliceMut::new(buf)])
        }

        /// Ends one direction or both: after `Shutdown::Write`, the peer reads what was written
        /// and then the end.
        ///
        /// # Errors
        /// - `NotConnected`: the connection is gone.
        pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
            self.inner.shutdown(how)
        }

        /// Two halves that can go to different tasks. The writing one shuts its direction down
        /// when it is dropped; [`reunite`](OwnedReadHalf::reunite) puts them together again.
        ///
        /// Two tasks may as well share the stream by reference, or in an `Arc`.
        pub fn into_split(self) -> (OwnedReadHalf<Self>, OwnedWriteHalf<Self>) {
            split(self)
        }

        /// The address of this end.
        ///
        /// # Errors
        /// As getsockname(2) gives them.
        pub fn local_addr(&self) -> io::Result<Address> {
            self.inner.local_addr()
        }

        /// The address of the other end. Of an accepted connection it is known even after the
        /// peer is gone.
        ///
        /// # Errors
        /// - `NotConnected`: the connection is gone.
        pub fn peer_addr(&self) -> io::Result<Address> {
            self.peer.addr(&self.inner)
        }

        /// How long closing waits for what is not sent yet (`SO_LINGER`); `None`: it does not
        /// wait, and the system goes on sending.
        ///
        /// # Errors
        /// As getsockopt(2) gives them.
        pub fn linger(&self) -> io::Result<Option<Duration>> {
            self.inner.linger()
        }

        /// Sets it, rounded up to whole seconds. `Some(Duration::ZERO)`: closing drops what is not
        /// sent and resets the connection. Any other time blocks the thread that closes.
        ///
        /// # Errors
        /// - `InvalidInput`: longer than the system can count (68 years on Linux, 18 hours on
        ///   Windows, 5 minutes on macOS).
        /// - `Unsupported`: WASI.
        pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
            self.inner.set_linger(linger)
        }

        crate::net::options::socket_methods!();

        pub(crate) fn inner(&self) -> &Stream {
            &self.inner
        }

        pub(crate) fn accepted(inner: Stream, peer: Address) -> Self {
            Self {
                inner,
                peer: peer.into(),
            }
        }
    };
}

/// The traits of async readers and writers.
macro_rules! stream_traits {
    ($type:ident) => {
        impl AsyncRead for &$type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.poll_read_into(cx, buf)
            }

            fn poll_read_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &mut [IoSliceMut<'_>],
            ) -> Poll<io::Result<usize>> {
                self.inner.poll_read(&mut Waiter::polled(cx), bufs)
            }
        }

        impl AsyncWrite for &$type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.inner
                    .poll_write(&mut Waiter::polled(cx), &[IoSlice::new(data)])
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.inner.poll_write(&mut Waiter::polled(cx), bufs)
            }

            fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                // Nothing is held back.
                Poll::Ready(Ok(()))
            }

            fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(shut_down_writing(&self.inner))
            }
        }

        crate::net::stream::by_reference!($type);

        impl SplitStream for $type {
            fn end_writing(&self) {
                // If the connection is gone, it has ended already.
                let _ = shut_down_writing(&self.inner);
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                crate::net::stream::debug(stringify!($type), &self.inner, &self.peer, f)
            }
        }
    };
}

/// `AsyncRead` and `AsyncWrite` of a type, by those of a reference.
macro_rules! by_reference {
    ($type:ident) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_read(cx, buf)
            }

            fn poll_read_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &mut [IoSliceMut<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_read_vectored(cx, bufs)
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_write(cx, data)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_write_vectored(cx, bufs)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut &*self).poll_flush(cx)
            }

            fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut &*self).poll_close(cx)
            }
        }
    };
}

/// Ends the direction to the peer; where the connection is gone it has ended.
pub(crate) fn shut_down_writing(inner: &Stream) -> io::Result<()> {
    match inner.shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

/// Accepting for a type with a field `inner: sys::Listener`.
macro_rules! listener_methods {
    ($stream:ident) => {
        /// Waits for a connection, and gives it with the peer's address.
        ///
        /// # Errors
        /// The system's: too many descriptors are open, for example. The listener stays, and the
        /// connection waits to be accepted. Connections that were gone before they could be
        /// accepted are skipped; what the system says of them is told after a thousand in a row.
        ///
        /// # Cancel safety
        /// No connection is lost.
        pub async fn accept(&self) -> io::Result<($stream, Address)> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_accept(waiter)
            })
            .await
            .map(|(inner, peer)| ($stream::accepted(inner, peer), peer))
        }

        /// As [`accept`](Self::accept), in the form of a poll function.
        ///
        /// # Errors
        /// As `accept`.
        pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<($stream, Address)>> {
            self.inner
                .poll_accept(&mut Waiter::polled(cx))
                .map_ok(|(inner, peer)| ($stream::accepted(inner, peer), peer))
        }

        /// As [`accept`](Self::accept), but never waits.
        ///
        /// # Errors
        /// - `WouldBlock`: there is none.
        /// - others as `accept`.
        pub fn try_accept(&self) -> io::Result<($stream, Address)> {
            self.inner
                .try_accept()
                .map(|(inner, peer)| ($stream::accepted(inner, peer), peer))
        }

        /// The connections as a stream, which has no end.
        pub fn incoming(&self) -> Incoming<'_, Self> {
            Incoming { listener: self }
        }

        /// Waits until a connection is there to be accepted, which the system has reported and
        /// nobody has accepted since; on a new listener, too. It may turn out to be gone.
        ///
        /// # Errors
        /// Only if waiting is impossible.
        ///
        /// # Cancel safety
        /// Nothing is lost.
        pub async fn readable(&self) -> io::Result<()> {
            wait(&self.inner, Direction::Read, |waiter| {
                self.inner.poll_acceptable(waiter)
            })
            .await
        }

        /// The address that connections come to.
        ///
        /// # Errors
        /// As getsockname(2) gives them.
        pub fn local_addr(&self) -> io::Result<Address> {
            self.inner.local_addr()
        }

        crate::net::options::socket_methods!();

        pub(crate) fn inner(&self) -> &Listener {
            &self.inner
        }
    };
}

/// `Debug`, and the stream of connections.
macro_rules! listener_traits {
    ($type:ident, $stream:ident) => {
        impl futures_lite::Stream for Incoming<'_, $type> {
            type Item = io::Result<$stream>;

            fn poll_next(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<io::Result<$stream>>> {
                self.listener
                    .poll_accept(cx)
                    .map(|result| Some(result.map(|(stream, _)| stream)))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("local_addr", &self.local_addr().ok())
                    .finish_non_exhaustive()
            }
        }
    };
}

pub(crate) use {by_reference, listener_methods, listener_traits, stream_methods, stream_traits};

/// The connections of a listener, as a [`Stream`](futures_lite::Stream) without an end.
///
/// # Examples
/// ```
/// use coracle::net::{TcpListener, TcpStream};
/// use futures_lite::StreamExt;
///
/// coracle::block_on(async {
///     let listener = TcpListener::bind("127.0.0.1:0").await?;
///     let _client = TcpStream::connect(listener.local_addr()?).await?;
///     let first = listener.incoming().next().await;
///     assert!(first.is_some_and(|stream| stream.is_ok()));
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Incoming<'a, L> {
    pub(crate) listener: &'a L,
}
