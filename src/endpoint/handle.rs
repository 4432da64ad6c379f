//! A protocol that its driver calls and its user reaches from outside.

use std::fmt;
use std::io;
use std::sync::atomic::{fence, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::endpoint::lifetime::Ending;
use crate::endpoint::locked::Signals;
use crate::panics::drop_contained;
use crate::wake::wait;

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

thread_local! {
    /// How many protocols this thread is inside of. Its address is the thread's number.
    static DEPTH: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A number that no other living thread has.
fn thread() -> usize {
    DEPTH
        .try_with(|depth| std::ptr::from_ref(depth) as usize)
        .unwrap_or(0)
}

/// Whether this thread is inside of any protocol.
fn is_in_callback() -> bool {
    DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
}

fn count(change: isize) {
    // A thread that is ending counts no more.
    let _ = DEPTH.try_with(|depth| depth.set(depth.get().wrapping_add_signed(change)));
}

impl<P> Cell<P> {
    pub(crate) fn new(protocol: P) -> Arc<Cell<P>> {
        Arc::new(Cell {
            protocol: Mutex::new(Some(protocol)),
            inside: AtomicUsize::new(0),
        })
    }

    fn entered<'a>(&'a self, protocol: MutexGuard<'a, Option<P>>) -> Inside<'a, P> {
        self.inside.store(thread(), Ordering::Relaxed);
        count(1);
        Inside {
            protocol,
            inside: &self.inside,
        }
    }

    /// Waits for whoever is inside on another thread. For the driver, which has found out at the
    /// beginning that it is not barred: who enters after that finds all barred that this thread is
    /// inside of, so that no two wait for each other.
    pub(crate) fn enter(&self) -> Inside<'_, P> {
        self.entered(self.protocol.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn try_enter(&self) -> Option<Inside<'_, P>> {
        match self.protocol.try_lock() {
            Ok(protocol) => Some(self.entered(protocol)),
            Err(TryLockError::Poisoned(poisoned)) => Some(self.entered(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether this thread is inside.
    fn is_inside(&self) -> bool {
        let inside = self.inside.load(Ordering::Relaxed);
        inside != 0 && inside == thread()
    }

    /// Whether whoever wants to enter would wait for itself, or, being inside another protocol, for
    /// another thread, which may be waiting for that one.
    pub(crate) fn is_barred(&self) -> bool {
        let is_occupied = || matches!(self.protocol.try_lock(), Err(TryLockError::WouldBlock));
        self.is_inside() || (is_in_callback() && is_occupied())
    }

    fn take(&self) -> Option<P> {
        self.enter().protocol.take()
    }
}

impl<P> Drop for Cell<P> {
    fn drop(&mut self) {
        // On any executor, some of which abort the process if a destructor panics.
        let protocol = self.protocol.get_mut();
        drop_contained(protocol.unwrap_or_else(PoisonError::into_inner).take());
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
        count(-1);
    }
}

/// Whether a driver must not go on, as its protocol cannot be entered. Whoever is inside calls it
/// again when that is over.
pub(super) fn is_barred(signals: &Signals, is_barred: impl Fn() -> bool) -> bool {
    if !is_barred() {
        return false;
    }
    signals.call_attention();
    // Whoever has left meanwhile may not have seen that: then it is not barred any more.
    fence(Ordering::SeqCst);
    is_barred()
}

/// When whoever was inside has left: a driver that was polled meanwhile on the same thread could
/// not call the protocol.
struct Leaving<'a>(&'a dyn Ending);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        // After the cell was left; pairs with that of `is_barred`.
        fence(Ordering::SeqCst);
        self.0.call_driver_again();
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
    /// Calls `f` with the protocol, between two callbacks. Where another thread is inside the
    /// protocol, it waits for that one to leave.
    ///
    /// # Panics
    /// - If it is called inside a callback of the same protocol, where the protocol is `self`.
    /// - If it is called inside a callback of another protocol, or inside `with`, while another
    ///   thread is inside this one: that thread may be waiting for the other protocol, and neither
    ///   would ever go on. Use [`try_with`](ProtocolHandle::try_with) there.
    #[track_caller]
    pub fn with<R>(&self, f: impl FnOnce(&mut P) -> R) -> R {
        if self.cell.is_inside() {
            panic!("ProtocolHandle::with: called inside a callback of the same protocol");
        }
        let _leaving = Leaving(&*self.end);
        let mut inside = if is_in_callback() {
            match self.cell.try_enter() {
                Some(inside) => inside,
                None => panic!(
                    "ProtocolHandle::with: called inside a callback of another protocol while \
                     another thread is inside this one, which may be waiting for the other: use \
                     try_with there"
                ),
            }
        } else {
            self.cell.enter()
        };
        match inside.protocol() {
            Some(protocol) => f(protocol),
            None => unreachable!("only `lost` takes the protocol, and it consumes the handle"),
        }
    }

    /// As [`with`](ProtocolHandle::with), but never waits and never panics: `None` while somebody
    /// is inside the protocol, on this thread or another.
    ///
    /// # Examples
    /// ```
    /// use coracle::{create_datagram_endpoint, on_datagram, DatagramOptions};
    ///
    /// coracle::block_on(async {
    ///     let options = DatagramOptions::new().local_addr("127.0.0.1:0");
    ///     let protocol = || on_datagram(|_, _, _| {});
    ///     let (transport, handle) = create_datagram_endpoint(protocol, options).await?;
    ///     assert_eq!(handle.try_with(|_| "inside"), Some("inside"));
    ///     assert_eq!(handle.with(|_| handle.try_with(|_| "twice")), None);
    /// #   transport.close();
    /// #   std::io::Result::Ok(())
    /// })
    /// # .unwrap();
    /// ```
    pub fn try_with<R>(&self, f: impl FnOnce(&mut P) -> R) -> Option<R> {
        if self.cell.is_inside() {
            return None;
        }
        let _leaving = Leaving(&*self.end);
        let mut inside = self.cell.try_enter()?;
        inside.protocol().map(f)
    }

    /// Waits until the endpoint is closed, and gives the protocol back with the reason, as
    /// [`DatagramTransport::closed`](crate::DatagramTransport::closed) and
    /// [`Transport::closed`](crate::Transport::closed) do.
    ///
    /// # Cancel safety
    /// The endpoint goes on, and drops the protocol at its end.
    pub async fn lost(self) -> (P, io::Result<()>) {
        let result = wait(&*self.end, (), |waiter| self.end.poll_closed(waiter)).await;
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
