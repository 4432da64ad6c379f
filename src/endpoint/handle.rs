//! A protocol that its driver calls and its user reaches from outside.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::endpoint::lifetime::Ending;

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
    pub(crate) end: Arc<dyn Ending>,
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
    /// [`DatagramTransport::closed`](crate::DatagramTransport::closed) and
    /// [`Transport::closed`](crate::Transport::closed) do.
    ///
    /// # Cancel safety
    /// The endpoint goes on, and drops the protocol at its end.
    pub async fn lost(self) -> (P, io::Result<()>) {
        let result = poll_fn(|cx| self.end.poll_closed(cx)).await;
        match self.cell.take() {
            Some(protocol) => (protocol, result),
            None => unreachable!("only this call takes the protocol, and it consumes the handle"),
        }
    }
}

impl<P> fmt::Debug for ProtocolHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtocolHandle").finish_non_exhaustive()
    }
}
