//! What the user of a connection implements.

use std::fmt;
use std::io;

use crate::endpoint::stream::transport::Transport;

/// The callbacks of a stream connection. All do nothing unless written.
///
/// They are called by the connection's driver, one at a time, in this order: `connection_made`;
/// then `data_received` any number of times; `eof_received` at most once; `connection_lost`, once,
/// last. `pause_writing` and `resume_writing` come in between, in turns. What callbacks write goes
/// out together when they have returned. They must not block: nothing else of this runtime runs
/// meanwhile.
///
/// An error or a panic in a callback ends the connection and nothing else. After an error
/// `connection_lost` is told it; of a panic [`closed`](Transport::closed) tells.
///
/// *asyncio equivalent*: `asyncio.Protocol`. There, `pause_writing` is called inside `write`; here,
/// right after the callback that has written returns, since the protocol is borrowed until then. So
/// a callback with much to write looks at [`write_buffer_size`](Transport::write_buffer_size), stops
/// above the high limit, and goes on in `resume_writing`, which is called then.
///
/// # Examples
/// ```
/// use coracle::{Protocol, Transport};
/// use std::io;
///
/// /// Answers every line with its length.
/// #[derive(Default)]
/// struct Lengths {
///     line: usize,
/// }
///
/// impl Protocol for Lengths {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
///         for &byte in data {
///             if byte == b'\n' {
///                 transport.write(format!("{}\n", self.line).as_bytes())?;
///                 self.line = 0;
///             } else {
///                 self.line += 1;
///             }
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Protocol {
    /// The connection is there. Nothing was received before.
    fn connection_made(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// Bytes have come; never none. How many come at once says nothing about how they were
    /// written.
    ///
    /// # Errors
    /// The protocol's own; the connection ends with it.
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        let _ = (transport, data);
        Ok(())
    }

    /// The peer will write no more. `true` keeps the connection open for writing, until it is
    /// [closed](Transport::close); `false`, which is what happens unless this is written, closes
    /// it once what is queued has been sent. Over TLS, which has no end of one direction, the
    /// connection is closed whatever this says.
    ///
    /// # Errors
    /// The protocol's own; the connection ends with it.
    fn eof_received(&mut self, transport: &Transport) -> io::Result<bool> {
        let _ = transport;
        Ok(false)
    }

    /// What waits to be sent exceeds the [high limit](Transport::set_write_buffer_limits), or has
    /// reached it where TLS is spoken: write no more for now. Nothing is refused if you do.
    fn pause_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// What waits to be sent is down to the low limit: go on.
    fn resume_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// The connection is over: `None` after the peer's end, [`close`](Transport::close) or
    /// [`abort`](Transport::abort), else why. The socket is closed when this returns.
    ///
    /// Over TLS, a connection that ends without the peer's saying so (close_notify) is lost with
    /// `UnexpectedEof`, and `eof_received` is not called: data may be missing. (asyncio hides
    /// that.)
    fn connection_lost(&mut self, transport: &Transport, error: Option<&io::Error>) {
        let _ = (transport, error);
    }
}

/// As [`Protocol`], but bytes are received into a buffer of the protocol's own: they are not copied
/// on their way to where they are to stay.
///
/// *asyncio equivalent*: `asyncio.BufferedProtocol`.
///
/// # Examples
/// ```
/// use coracle::{BufferedProtocol, Transport};
/// use std::io;
///
/// /// Collects a message of a known length.
/// struct Collect {
///     message: Vec<u8>,
///     filled: usize,
/// }
///
/// impl BufferedProtocol for Collect {
///     fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
///         &mut self.message[self.filled..]
///     }
///
///     fn buffer_updated(&mut self, transport: &Transport, count: usize) -> io::Result<()> {
///         self.filled += count;
///         if self.filled == self.message.len() {
///             transport.close();
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait BufferedProtocol {
    /// As [`Protocol::connection_made`].
    fn connection_made(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// Where to receive to. `size_hint` is how many bytes there are, where that is known. It may
    /// be that nothing comes of it.
    ///
    /// An empty buffer is an error that ends the connection: to receive nothing for a while,
    /// [`pause_reading`](Transport::pause_reading).
    fn get_buffer(&mut self, size_hint: Option<usize>) -> &mut [u8];

    /// The first `count` bytes of the buffer have been received.
    ///
    /// # Errors
    /// The protocol's own; the connection ends with it.
    fn buffer_updated(&mut self, transport: &Transport, count: usize) -> io::Result<()>;

    /// As [`Protocol::eof_received`].
    ///
    /// # Errors
    /// The protocol's own; the connection ends with it.
    fn eof_received(&mut self, transport: &Transport) -> io::Result<bool> {
        let _ = transport;
        Ok(false)
    }

    /// As [`Protocol::pause_writing`].
    fn pause_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// As [`Protocol::resume_writing`].
    fn resume_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// As [`Protocol::connection_lost`].
    fn connection_lost(&mut self, transport: &Transport, error: Option<&io::Error>) {
        let _ = (transport, error);
    }
}

/// The two kinds of protocol that a connection can have: every [`Protocol`] and every
/// [`BufferedProtocol`] is one. `Kind` tells which, and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no protocol of a connection",
    note = "implement `coracle::Protocol` or `coracle::BufferedProtocol` for it"
)]
pub trait StreamProtocol<Kind>: callbacks::Callbacks<Kind> {}

impl<P: callbacks::Callbacks<Kind>, Kind> StreamProtocol<Kind> for P {}

/// The kind of [`Protocol`]s.
#[derive(Debug, Clone, Copy)]
pub enum Plain {}

/// The kind of [`BufferedProtocol`]s.
#[derive(Debug, Clone, Copy)]
pub enum Buffered {}

/// What the driver calls.
pub(super) mod callbacks {
    use std::io;
    use std::task::{ready, Poll};

    use super::{Buffered, BufferedProtocol, Plain, Protocol};
    use crate::endpoint::handle::Cell;
    use crate::endpoint::stream::source::Source;
    use crate::endpoint::stream::transport::Transport;
    use crate::error::invalid;
    use crate::wake::Waiter;

    /// One way to be a protocol.
    #[allow(private_interfaces)] // Nobody outside can name this trait.
    pub trait Callbacks<Kind>: Sized {
        fn made(&mut self, transport: &Transport);
        fn eof(&mut self, transport: &Transport) -> io::Result<bool>;
        fn pause(&mut self, transport: &Transport);
        fn resume(&mut self, transport: &Transport);
        fn lost(&mut self, transport: &Transport, error: Option<&io::Error>);

        /// Receives and delivers once; 0 is the end.
        fn poll_receive(
            cell: &Cell<Self>,
            waiter: &mut Waiter<'_>,
            source: &Source<'_>,
            transport: &Transport,
        ) -> Poll<io::Result<usize>>;
    }

    macro_rules! forwarded {
        ($trait:ident) => {
            fn made(&mut self, transport: &Transport) {
                $trait::connection_made(self, transport);
            }

            fn eof(&mut self, transport: &Transport) -> io::Result<bool> {
                $trait::eof_received(self, transport)
            }

            fn pause(&mut self, transport: &Transport) {
                $trait::pause_writing(self, transport);
            }

            fn resume(&mut self, transport: &Transport) {
                $trait::resume_writing(self, transport);
            }

            fn lost(&mut self, transport: &Transport, error: Option<&io::Error>) {
                $trait::connection_lost(self, transport, error);
            }
        };
    }

    #[allow(private_interfaces)]
    impl<P: Protocol> Callbacks<Plain> for P {
        forwarded!(Protocol);

        fn poll_receive(
            cell: &Cell<P>,
            waiter: &mut Waiter<'_>,
            source: &Source<'_>,
            transport: &Transport,
        ) -> Poll<io::Result<usize>> {
            // Before a buffer is borrowed: most polls end here.
            ready!(source.poll_readable(waiter))?;
            source.poll_deliver(waiter, |data| {
                transport.corked(|| match cell.enter().protocol() {
                    Some(protocol) => protocol.data_received(transport, data),
                    None => Ok(()),
                })
            })
        }
    }

    #[allow(private_interfaces)]
    impl<P: BufferedProtocol> Callbacks<Buffered> for P {
        forwarded!(BufferedProtocol);

        fn poll_receive(
            cell: &Cell<P>,
            waiter: &mut Waiter<'_>,
            source: &Source<'_>,
            transport: &Transport,
        ) -> Poll<io::Result<usize>> {
            // Before the buffer is asked for.
            ready!(source.poll_readable(waiter))?;
            let mut inside = cell.enter();
            let Some(protocol) = inside.protocol() else {
                return Poll::Pending;
            };
            let buf = protocol.get_buffer(source.size_hint());
            if buf.is_empty() {
                return Poll::Ready(Err(invalid("get_buffer gave an empty buffer")));
            }
            let len = ready!(source.poll_read(waiter, buf))?;
            if len > 0 {
                transport.corked(|| protocol.buffer_updated(transport, len))?;
            }
            Poll::Ready(Ok(len))
        }
    }
}

/// A protocol that is a closure, for handlers that need no struct: it is called with all bytes
/// that come.
///
/// # Examples
/// ```
/// use coracle::{create_server, on_data, TcpServerOptions};
///
/// coracle::block_on(async {
///     let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
///     let echo = || on_data(|transport, data| transport.write(data));
///     let server = create_server(echo, options).await?;
///     server.close();
///     server.wait_closed().await;
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub fn on_data<F>(callback: F) -> OnData<F>
where
    F: FnMut(&Transport, &[u8]) -> io::Result<()>,
{
    OnData { callback }
}

/// The protocol made by [`on_data`].
#[derive(Clone, Copy)]
pub struct OnData<F> {
    callback: F,
}

impl<F> Protocol for OnData<F>
where
    F: FnMut(&Transport, &[u8]) -> io::Result<()>,
{
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
        (self.callback)(transport, data)
    }
}

impl<F> fmt::Debug for OnData<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnData").finish_non_exhaustive()
    }
}
