//! Where a connection's driver receives from: its socket, and TLS if it speaks that.

use std::io::{self, IoSliceMut};
use std::task::{ready, Poll};

use crate::endpoint::stream::lent;
#[cfg(feature = "tls")]
use crate::endpoint::stream::shared::Shared;
use crate::sys::{Stream, StreamOps};
use crate::wake::Waiter;

pub(crate) struct Source<'a> {
    pub(super) stream: &'a Stream,
    /// What decrypts, if that is to be done.
    #[cfg(feature = "tls")]
    pub(super) secure: Option<&'a Shared>,
}

impl Source<'_> {
    /// Ready if it is worth to read.
    pub(super) fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        #[cfg(feature = "tls")]
        if self.secure.is_some_and(Shared::has_input) {
            return Poll::Ready(Ok(()));
        }
        self.stream.poll_worth_reading(waiter)
    }

    /// How many bytes wait to be delivered, where that is known.
    pub(super) fn size_hint(&self) -> Option<usize> {
        #[cfg(feature = "tls")]
        return self.secure.and_then(Shared::pending);
        #[cfg(not(feature = "tls"))]
        None
    }

    /// Gives bytes for the protocol; 0 is the end.
    pub(super) fn poll_read(
        &self,
        waiter: &mut Waiter<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        #[cfg(feature = "tls")]
        if let Some(secure) = self.secure {
            return secure.poll_decrypt(waiter, self.stream, buf);
        }
        self.stream.poll_read(waiter, &mut [IoSliceMut::new(buf)])
    }

    /// Has `deliver` called with bytes for the protocol; 0 is the end. Where the system brings
    /// memory of its own it is lent as it is, otherwise the thread's buffer.
    pub(super) fn poll_deliver(
        &self,
        waiter: &mut Waiter<'_>,
        deliver: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> Poll<io::Result<usize>> {
        #[cfg(feature = "tls")]
        let is_plain = self.secure.is_none();
        #[cfg(not(feature = "tls"))]
        let is_plain = true;
        let taken = is_plain.then(|| self.stream.poll_take(waiter)).flatten();
        if let Some(taken) = taken {
            let data = ready!(taken)?;
            let len = data.len();
            let result = if len > 0 { deliver(&data) } else { Ok(()) };
            self.stream.give_back(data);
            return Poll::Ready(result.map(|()| len));
        }
        lent::with(|buf| {
            let len = ready!(self.poll_read(waiter, buf))?;
            if len > 0 {
                deliver(&buf[..len])?;
            }
            Poll::Ready(Ok(len))
        })
    }
}
