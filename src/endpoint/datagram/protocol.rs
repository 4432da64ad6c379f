//! What the user of a datagram endpoint implements.

use std::fmt;
use std::io;

use crate::address::Address;
use crate::endpoint::datagram::transport::DatagramTransport;

/// The callbacks of a datagram endpoint. All do nothing unless written.
///
/// They are called by the endpoint's driver, one at a time, in this order: `connection_made`; then
/// the others in any order; `connection_lost`, once, last. What they send is on its way when they
/// return. They must not block: nothing else of this runtime runs meanwhile.
///
/// A panic in a callback ends the endpoint and nothing else:
/// [`closed`](DatagramTransport::closed) tells.
///
/// *asyncio equivalent*: `asyncio.DatagramProtocol`. There, `error_received` and `pause_writing`
/// are called inside `sendto`; here, right after the callback that has sent returns, since the
/// protocol is borrowed until then.
///
/// # Examples
/// ```
/// use coracle::{Address, DatagramProtocol, DatagramTransport};
///
/// #[derive(Default)]
/// struct Count(usize);
///
/// impl DatagramProtocol for Count {
///     fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
///         self.0 += 1;
///         println!("{} bytes from {from}", data.len());
///         if data == b"quit" {
///             transport.close();
///         }
///     }
/// }
/// ```
pub trait DatagramProtocol {
    /// The endpoint is open. Nothing was received before.
    fn connection_made(&mut self, transport: &DatagramTransport) {
        let _ = transport;
    }

    /// A datagram has come; `data` may be empty, and is whole. [`Address::UNNAMED`] is the sender
    /// that has none.
    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
        let _ = (transport, data, from);
    }

    /// The system reported an error: a datagram could not be sent (the error names its
    /// destination) or was too large to be received, or nobody listens at the peer. Or datagrams
    /// were dropped since a [Unix receiver does not
    /// read](DatagramTransport#unix-receivers-that-do-not-read). The endpoint stays open.
    fn error_received(&mut self, transport: &DatagramTransport, error: io::Error) {
        let _ = (transport, error);
    }

    /// What waits to be sent exceeds the
    /// [high limit](DatagramTransport::set_write_buffer_limits): send no more for now. Nothing is
    /// refused if you do.
    fn pause_writing(&mut self, transport: &DatagramTransport) {
        let _ = transport;
    }

    /// What waits to be sent is down to the low limit: go on.
    fn resume_writing(&mut self, transport: &DatagramTransport) {
        let _ = transport;
    }

    /// The endpoint is closed: `None` after [`close`](DatagramTransport::close) or
    /// [`abort`](DatagramTransport::abort), else why. The socket is closed when this returns.
    fn connection_lost(&mut self, transport: &DatagramTransport, error: Option<&io::Error>) {
        let _ = (transport, error);
    }
}

/// A protocol that is a closure, for handlers that need no struct: it is called for every datagram.
///
/// # Examples
/// ```
/// use coracle::{create_datagram_endpoint, on_datagram, DatagramOptions};
///
/// coracle::block_on(async {
///     let options = DatagramOptions::new().local_addr("127.0.0.1:0");
///     let upper = || on_datagram(|transport, data, from| {
///         let _ = transport.send_to(&data.to_ascii_uppercase(), from);
///     });
///     let (transport, _) = create_datagram_endpoint(upper, options).await?;
///     transport.close();
///     transport.closed().await
/// })
/// # .unwrap();
/// ```
pub fn on_datagram<F>(callback: F) -> OnDatagram<F>
where
    F: FnMut(&DatagramTransport, &[u8], &Address),
{
    OnDatagram { callback }
}

/// The protocol made by [`on_datagram`].
#[derive(Clone, Copy)]
pub struct OnDatagram<F> {
    callback: F,
}

impl<F> DatagramProtocol for OnDatagram<F>
where
    F: FnMut(&DatagramTransport, &[u8], &Address),
{
    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
        (self.callback)(transport, data, from);
    }
}

impl<F> fmt::Debug for OnDatagram<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDatagram").finish_non_exhaustive()
    }
}
