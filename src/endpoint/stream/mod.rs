//! Stream connections and their servers, over Unix sockets and TCP.

pub(crate) mod driver;
#[cfg(feature = "tls")]
mod handshake;
mod lent;
pub(crate) mod protocol;
mod queue;
pub(crate) mod race;
#[cfg(feature = "tls")]
mod secure;
#[cfg(feature = "tls")]
mod secure_driver;
pub(crate) mod server;
mod shared;
mod source;
#[cfg(feature = "tls")]
pub(crate) mod start_tls;
pub(crate) mod tcp;
mod tls;
pub(crate) mod transport;
#[cfg(unix)]
pub(crate) mod unix;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use self::driver::ConnectionDriver;
use self::protocol::StreamProtocol;
use self::server::Membership;
use self::shared::{Shared, Socket};
use self::tls::{secure, tls_methods, Security, ServerTls};
use self::transport::Transport;
use crate::endpoint::handle::{Cell, ProtocolHandle};
use crate::endpoint::lifetime::{current_runtime, CloseOnDrop};
use crate::error::invalid;
use crate::net;
use crate::runtime::queue::Local;
use crate::runtime::task;
use crate::sys::caps::{Family, SocketOption};
use crate::sys::{Stream, StreamOps};

/// Connections that may wait to be accepted where the user does not say how many: asyncio's number.
const BACKLOG: u32 = 100;

/// What the calls that make a connection give, with the driver to be spawned.
type Established<P, K> = (Transport, ProtocolHandle<P>, ConnectionDriver<P, K>);

/// From a connected socket to a connection.
fn establish<P: StreamProtocol<K>, K>(
    socket: Socket,
    protocol: P,
    membership: Option<Membership>,
    security: Security,
) -> Established<P, K> {
    let cell = Cell::new(protocol);
    let transport = Transport {
        shared: Arc::new(Shared::new(socket.clone(), membership)),
    };
    let handle = ProtocolHandle {
        cell: cell.clone(),
        end: transport.shared.clone(),
    };
    let driver = ConnectionDriver::new(transport.clone(), socket, cell, security);
    (transport, handle, driver)
}

/// Starts a connection on a runtime, and waits until the protocol knows.
async fn start<P, K>(
    runtime: Rc<Local>,
    (transport, handle, driver): Established<P, K>,
) -> io::Result<(Transport, ProtocolHandle<P>)>
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    task::spawn_on(runtime, driver).detach();
    let unless_cancelled = CloseOnDrop::new(transport.clone());
    transport.made().await?;
    unless_cancelled.keep();
    Ok((transport, handle))
}

/// Spawns what a server needs on a runtime.
fn spawn_connections<P, K>(runtime: Rc<Local>) -> impl FnMut(ConnectionDriver<P, K>)
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    move |driver| task::spawn_on(runtime.clone(), driver).detach()
}

/// The user's connected socket.
fn adopt(sock: net::Socket) -> io::Result<Socket> {
    let stream = Stream::from_socket(sock)?;
    if stream.family() != Family::Unix {
        // As for all TCP connections; if it cannot be, it works without.
        let _ = stream.set(SocketOption::NoDelay, 1);
    }
    Socket::new(stream)
}

/// The options of [`connect_accepted_socket`]; all of them are about TLS.
#[derive(Debug, Default)]
#[must_use = "options do nothing until they are given to connect_accepted_socket"]
pub struct AcceptedOptions {
    tls: ServerTls,
}

impl AcceptedOptions {
    /// No options.
    pub fn new() -> AcceptedOptions {
        AcceptedOptions::default()
    }

    tls_methods!(ServerConfig);
}

/// Makes a connection from a stream socket that was accepted elsewhere: by another library, or by
/// the process that has started this one. It belongs to no [`Server`](crate::Server).
///
/// *asyncio equivalent*: `loop.connect_accepted_socket`.
///
/// # Errors
/// - `InvalidInput`: contradictory options, or `sock` is no stream socket.
/// - `Unsupported`: no coracle runtime is running on this thread.
/// - With TLS: `ConnectionAborted` if the handshake takes longer than `tls_handshake_timeout`,
///   `ConnectionReset` if the peer ends the connection in it, `InvalidData` for the peer's
///   certificate or anything else that rustls objects to, whose error is the source. The peer is
///   told.
///
/// # Cancel safety
/// If it is dropped before it is done, the connection is closed.
///
/// # Platforms
/// Native.
///
/// # Examples
/// ```
/// # #[cfg(not(target_os = "wasi"))]
/// # {
/// use coracle::{connect_accepted_socket, on_data, AcceptedOptions};
/// use std::net::{TcpListener, TcpStream};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let _client = TcpStream::connect(listener.local_addr()?)?;
/// let (accepted, _) = listener.accept()?;
///
/// coracle::block_on(async {
///     let echo = || on_data(|transport, data| transport.write(data));
///     let (transport, _) =
///         connect_accepted_socket(echo, accepted, AcceptedOptions::new()).await?;
///     transport.close();
///     transport.closed().await
/// })
/// # .unwrap();
/// # }
/// # std::io::Result::Ok(())
/// ```
pub async fn connect_accepted_socket<P, K>(
    protocol_factory: impl FnOnce() -> P,
    sock: impl Into<net::Socket>,
    options: AcceptedOptions,
) -> io::Result<(Transport, ProtocolHandle<P>)>
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let runtime = current_runtime("connect_accepted_socket")?;
    let made = connect_accepted_socket_with_driver(protocol_factory, sock, options).await?;
    start(runtime, made).await
}

/// As [`connect_accepted_socket`], but leaves it to the caller to spawn the driver, on whatever
/// executor. `connection_made` is called when the driver first runs.
///
/// # Errors
/// As [`connect_accepted_socket`].
///
/// # Cancel safety
/// The socket is closed.
pub async fn connect_accepted_socket_with_driver<P: StreamProtocol<K>, K>(
    protocol_factory: impl FnOnce() -> P,
    sock: impl Into<net::Socket>,
    options: AcceptedOptions,
) -> io::Result<(Transport, ProtocolHandle<P>, ConnectionDriver<P, K>)> {
    options.tls.validate_timeouts()?;
    let socket = adopt(sock.into())?;
    let security = match options.tls.accept()? {
        Security::Handshake(handshake) => secure(&socket, Some(handshake)).await?,
        security => security,
    };
    Ok(establish(socket, protocol_factory(), None, security))
}

/// `sock` and an address: there must be one of the two.
fn require_one(sock: bool, addr: bool, name: &str) -> io::Result<()> {
    match (sock, addr) {
        (true, true) => Err(invalid(format_args!(
            "sock and {name} cannot both be given"
        ))),
        (false, false) => Err(invalid(format_args!("one of sock and {name} is needed"))),
        _ => Ok(()),
    }
}
