//! Datagram endpoints.

pub(crate) mod driver;
mod linger;
pub(crate) mod options;
#[cfg(unix)]
mod outbox;
#[cfg(not(unix))]
#[path = "no_outbox.rs"]
mod outbox;
pub(crate) mod protocol;
mod receivers;
#[cfg(unix)]
mod room;
mod shared;
pub(crate) mod transport;

use std::io;

use self::driver::DatagramDriver;
use self::options::DatagramOptions;
use self::protocol::DatagramProtocol;
use self::shared::Shared;
use self::transport::DatagramTransport;
use crate::endpoint::handle::{Cell, ProtocolHandle};
use crate::endpoint::lifetime::{current_runtime, CloseOnDrop};
use crate::runtime::task;

/// Makes a datagram endpoint over IPv4, IPv6 or Unix sockets, and starts it: the protocol made by
/// `protocol_factory` is called for every datagram, and the transport sends.
///
/// The factory is called once, when the socket is there; it may be any closure that gives a
/// [`DatagramProtocol`], or `|| `[`on_datagram`](crate::on_datagram)`(…)`. `connection_made` has
/// been called when this returns. The endpoint works as a task of the current coracle runtime;
/// for other executors, see [`create_datagram_endpoint_with_driver`].
///
/// Names are looked up, first the local one. Of several addresses, all combinations of local and
/// remote ones of a family are tried until one works.
///
/// *asyncio equivalent*: `loop.create_datagram_endpoint`.
///
/// # Errors
/// - `InvalidInput`: contradictory or missing options, or an address that is none; the message
///   names it.
/// - `Unsupported`: an option that the platform cannot honour, or no coracle runtime is running on
///   this thread.
/// - `NotFound`: a name is unknown, or nothing is at the Unix path to connect to.
/// - `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, `ConnectionRefused`, …: what the system
///   said to the first combination, with the address. The source of the error has the raw code.
///
/// # Cancel safety
/// If it is dropped before it is done, the endpoint is closed.
///
/// # Examples
/// ```
/// use coracle::{create_datagram_endpoint, Address, DatagramOptions};
/// use coracle::{DatagramProtocol, DatagramTransport};
///
/// struct Echo;
///
/// impl DatagramProtocol for Echo {
///     fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
///         let _ = transport.send_to(data, from);
///     }
/// }
///
/// coracle::block_on(async {
///     let options = DatagramOptions::new().local_addr("127.0.0.1:0");
///     let (transport, _echo) = create_datagram_endpoint(|| Echo, options).await?;
///     println!("listening on {}", transport.local_addr()?);
/// #   transport.close();
///     transport.closed().await
/// })
/// # .unwrap();
/// ```
pub async fn create_datagram_endpoint<P>(
    protocol_factory: impl FnOnce() -> P,
    options: DatagramOptions,
) -> io::Result<(DatagramTransport, ProtocolHandle<P>)>
where
    P: DatagramProtocol + 'static,
{
    let local = current_runtime("create_datagram_endpoint")?;
    let (transport, handle, driver) =
        create_datagram_endpoint_with_driver(protocol_factory, options).await?;
    task::spawn_on(local, driver).detach();
    let unless_cancelled = CloseOnDrop::new(transport.clone());
    transport.made().await?;
    unless_cancelled.keep();
    Ok((transport, handle))
}

/// As [`create_datagram_endpoint`], but leaves it to the caller to spawn the driver, on whatever
/// executor: the endpoint works while the driver runs. Where no coracle runtime is running, the
/// sockets are driven by `async-io` (feature `async-io`).
///
/// `connection_made` is called when the driver first runs.
///
/// # Errors
/// As [`create_datagram_endpoint`].
///
/// # Cancel safety
/// The socket is closed.
///
/// # Examples
/// ```
/// # #[cfg(not(target_os = "wasi"))]
/// # {
/// use coracle::{create_datagram_endpoint_with_driver, on_datagram, DatagramOptions};
///
/// smol::block_on(async {
///     let options = DatagramOptions::new().local_addr("127.0.0.1:0");
///     let echo = || on_datagram(|transport, data, from| {
///         let _ = transport.send_to(data, from);
///     });
///     let (transport, _, driver) = create_datagram_endpoint_with_driver(echo, options).await?;
///     let driver = smol::spawn(driver);
///     transport.close();
///     driver.await;
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// # }
/// ```
pub async fn create_datagram_endpoint_with_driver<P: DatagramProtocol>(
    protocol_factory: impl FnOnce() -> P,
    options: DatagramOptions,
) -> io::Result<(DatagramTransport, ProtocolHandle<P>, DatagramDriver<P>)> {
    let (socket, peer, connected) = options.open().await?;
    let cell = Cell::new(protocol_factory());
    let transport = DatagramTransport {
        shared: Shared::new(socket.clone(), peer, connected),
    };
    let handle = ProtocolHandle {
        cell: cell.clone(),
        end: transport.shared.clone(),
    };
    let driver = DatagramDriver::new(transport.clone(), socket, cell);
    Ok((transport, handle, driver))
}
