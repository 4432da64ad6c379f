//! A stream in two halves, for two tasks.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};

/// A stream that can end its writing direction.
pub(crate) trait SplitStream {
    fn end_writing(&self);
}

pub(crate) fn split<S: SplitStream>(stream: S) -> (OwnedReadHalf<S>, OwnedWriteHalf<S>) {
    let stream = Arc::new(stream);
    let write = OwnedWriteHalf {
        stream: stream.clone(),
        end: Some(S::end_writing),
    };
    (OwnedReadHalf { stream }, write)
}

/// The reading half of a stream. It dereferences to the stream, for its methods.
///
/// # Examples
/// ```
/// use coracle::net::{TcpListener, TcpStream};
///
/// coracle::block_on(async {
///     let listener = TcpListener::bind("127.0.0.1:0").await?;
///     let client = TcpStream::connect(listener.local_addr()?).await?;
///     let (server, _) = listener.accept().await?;
///
///     let (read, write) = client.into_split();
///     write.write_all(b"hello").await?;
///     drop(write);
///     let mut buf = [0; 8];
///     assert_eq!(server.read(&mut buf).await?, 5);
///     assert_eq!(server.read(&mut buf).await?, 0, "the end");
///     server.write_all(b"and back").await?;
///     assert_eq!(read.read(&mut buf).await?, 8);
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub struct OwnedReadHalf<S> {
    stream: Arc<S>,
}

/// The writing half of a stream; dropping it ends that direction. It dereferences to the stream,
/// for its methods.
pub struct OwnedWriteHalf<S> {
    stream: Arc<S>,
    /// What dropping does, unless the halves were put together again.
    end: Option<fn(&S)>,
}

impl<S> OwnedReadHalf<S> {
    /// Puts the halves together again.
    ///
    /// # Errors
    /// Both halves, if they are of different streams.
    pub fn reunite(self, write: OwnedWriteHalf<S>) -> Result<S, ReuniteError<S>> {
        write.reunite(self)
    }
}

impl<S> OwnedWriteHalf<S> {
    /// Puts the halves together again.
    ///
    /// # Errors
    /// Both halves, if they are of different streams.
    pub fn reunite(mut self, read: OwnedReadHalf<S>) -> Result<S, ReuniteError<S>> {
        if !Arc::ptr_eq(&self.stream, &read.stream) {
            return Err(ReuniteError(read, self));
        }
        let end = self.end.take();
        drop(self);
        match Arc::try_unwrap(read.stream) {
            Ok(stream) => Ok(stream),
            // Not reached: the halves are the only two owners. If it were, nothing would be lost.
            Err(stream) => Err(ReuniteError(
                OwnedReadHalf {
                    stream: stream.clone(),
                },
                OwnedWriteHalf { stream, end },
            )),
        }
    }
}

impl<S> Drop for OwnedWriteHalf<S> {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(&self.stream);
        }
    }
}

/// The halves are of different streams; here they are.
pub struct ReuniteError<S>(pub OwnedReadHalf<S>, pub OwnedWriteHalf<S>);

impl<S> fmt::Display for ReuniteError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the halves are of different streams")
    }
}

impl<S> fmt::Debug for ReuniteError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReuniteError").finish_non_exhaustive()
    }
}

impl<S> std::error::Error for ReuniteError<S> {}

macro_rules! half {
    ($type:ident) => {
        impl<S> Deref for $type<S> {
            type Target = S;

            fn deref(&self) -> &S {
                &self.stream
            }
        }

        impl<S: fmt::Debug> fmt::Debug for $type<S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($type))
                    .field(&*self.stream)
                    .finish()
            }
        }
    };
}

half!(OwnedReadHalf);
half!(OwnedWriteHalf);

impl<S> AsyncRead for OwnedReadHalf<S>
where
    for<'a> &'a S: AsyncRead,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.stream).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.stream).poll_read_vectored(cx, bufs)
    }
}

impl<S> AsyncWrite for OwnedWriteHalf<S>
where
    for<'a> &'a S: AsyncWrite,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.stream).poll_close(cx)
    }
}
