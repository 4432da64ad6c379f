//! What the user of an endpoint implements, and how to reach it from outside.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::address::Address;
use crate::endpoint::transport::DatagramTransport;

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
    /// destination) or was too large to be received, or nobody listens at the peer. The endpoint
    /// stays open.
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

/// A protocol, shared between its driver and its handle.
pub(crate) struct Cell<P> {
    protocol: Mutex<Option<P>>,
    /// The thread that is inside the protocol: calling in again would wait for itself.
    inside: AtomicUsize,
}

/// The protocol while it is being called.
pub(crate) struct Inside<'a, P> {
    protocol: MutexGuard<'a, Option<P>>,
    inside: &'a AtomicUsize,
}

/// A number that no other living thread has.
fn thread() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.try_with(|mark| std::ptr::from_ref(mark) as usize)
        .unwrap_or(0)
}

impl<P> Cell<P> {
    pub(crate) fn new(protocol: P) -> Arc<Cell<P>> {
        Arc::new(Cell {
            protocol: Mutex::new(Some(protocol)),
            inside: AtomicUsize::new(0),
        })
    }

    pub(crate) fn enter(&self) -> Inside<'_, P> {
        let protocol = self.protocol.lock().unwrap_or_else(PoisonError::into_inner);
        self.inside.store(thread(), Ordering::Relaxed);
        Inside {
            protocol,
            inside: &self.inside,
        }
    }

    fn is_inside(&self) -> bool {
        self.inside.load(Ordering::Relaxed) == thread()
    }

    fn take(&self) -> Option<P> {
        self.enter().protocol.take()
    }
}

impl<P> Inside<'_, P> {
    /// `None` once the protocol was taken out, after the end.
    pub(crate) fn protocol(&mut self) -> Option<&mut P> {
        self.protocol.as_mut()
    }
}

impl<P> Drop for Inside<'_, P> {
    fn drop(&mut self) {
        self.inside.store(0, Ordering::Relaxed);
    }
}

/// Reaches a protocol from outside its callbacks, and gets it back at the end.
///
/// Dropping the handle changes nothing: the endpoint goes on.
///
/// # Examples
/// ```
/// use coracle::{create_datagram_endpoint, Address, DatagramOptions};
/// use coracle::{DatagramProtocol, DatagramTransport};
///
/// #[derive(Default)]
/// struct Count(usize);
///
/// impl DatagramProtocol for Count {
///     fn datagram_received(&mut self, transport: &DatagramTransport, _: &[u8], _: &Address) {
///         self.0 += 1;
///         transport.close();
///     }
/// }
///
/// coracle::block_on(async {
///     let options = DatagramOptions::new().local_addr("127.0.0.1:0");
///     let (transport, count) = create_datagram_endpoint(Count::default, options).await?;
///     assert_eq!(count.with(|count| count.0), 0);
///     transport.send_to(b"to itself", &transport.local_addr()?)?;
///
///     let (count, result) = count.lost().await;
///     assert_eq!(count.0, 1);
///     result
/// })
/// # .unwrap();
/// ```
pub struct ProtocolHandle<P> {
    pub(crate) cell: Arc<Cell<P>>,
    pub(crate) transport: DatagramTransport,
}

impl<P> ProtocolHandle<P> {
    /// Calls `f` with the protocol, between two callbacks; on a runtime of several threads it
    /// waits for the callback that is running.
    ///
    /// # Panics
    /// If it is called inside one of the protocol's own callbacks, where the protocol is `self`.
    #[track_caller]
    pub fn with<R>(&self, f: impl FnOnce(&mut P) -> R) -> R {
        if self.cell.is_inside() {
            panic!("ProtocolHandle::with: called inside a callback of the same protocol");
        }
        match self.cell.enter().protocol() {
            Some(protocol) => f(protocol),
            None => unreachable!("only `lost` takes the protocol, and it consumes the handle"),
        }
    }

    /// Waits until the endpoint is closed, and gives the protocol back with the reason, as
    /// [`DatagramTransport::closed`] does.
    ///
    /// # Cancel safety
    /// The endpoint goes on, and drops the protocol at its end.
    pub async fn lost(self) -> (P, io::Result<()>) {
        let result = self.transport.closed().await;
        match self.cell.take() {
            Some(protocol) => (protocol, result),
            None => unreachable!("only this call takes the protocol, and it consumes the handle"),
        }
    }
}

impl<P> fmt::Debug for ProtocolHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtocolHandle")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}
