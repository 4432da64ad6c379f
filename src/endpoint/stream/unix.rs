//! `create_unix_connection`, `create_unix_server` and their options.

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::endpoint::handle::ProtocolHandle;
use crate::endpoint::lifetime::current_runtime;
use crate::endpoint::stream::driver::ConnectionDriver;
use crate::endpoint::stream::protocol::StreamProtocol;
use crate::endpoint::stream::server::{serve, CleanUp, Server, ServerSocket};
use crate::endpoint::stream::shared::Socket;
use crate::endpoint::stream::tls::{
    secure, tls_client_methods, tls_methods, ClientTls, Security, ServerTls,
};
use crate::endpoint::stream::transport::Transport;
use crate::endpoint::stream::{adopt, establish, require_one, spawn_connections, start, BACKLOG};
use crate::error::{context, invalid};
use crate::net::{self, remove_stale, unix_address, Target, UnixStream};
use crate::runtime::task;
use crate::sys::caps::{Family, ListenerConfig};
use crate::sys::{Listener, ListenerOps};

/// What a Unix connection is to be: the arguments of [`create_unix_connection`].
///
/// # Examples
/// ```
/// use coracle::UnixOptions;
///
/// let by_path = UnixOptions::new().path("/run/service.sock");
/// let abstract_name = UnixOptions::new().path("@service");
/// let bytes = UnixOptions::new().path(b"\0service");
/// # let _ = (by_path, abstract_name, bytes);
/// ```
#[derive(Debug, Default)]
#[must_use = "options do nothing until they are given to create_unix_connection"]
pub struct UnixOptions {
    path: Option<Target>,
    sock: Option<net::Socket>,
    tls: ClientTls,
}

impl UnixOptions {
    /// No options.
    pub fn new() -> UnixOptions {
        UnixOptions::default()
    }

    /// Where the server listens: a path, or an abstract name (Linux) as `"@name"` or as bytes with
    /// a leading NUL.
    pub fn path(mut self, path: impl Into<Target>) -> UnixOptions {
        self.path = Some(path.into());
        self
    }

    /// A connected Unix stream socket to use as it is, instead of a path; the connection owns it.
    pub fn sock(mut self, sock: impl Into<net::Socket>) -> UnixOptions {
        self.sock = Some(sock.into());
        self
    }

    tls_methods!(ClientConfig);
    tls_client_methods!(".");

    async fn open(self) -> io::Result<(Socket, Security)> {
        let handshake = self.tls.check(|| None)?;
        require_one(self.sock.is_some(), self.path.is_some(), "path")?;
        let path = self.path.as_ref().map(unix_address).transpose()?;
        let socket = match (self.sock, path) {
            (Some(sock), _) => require_unix(adopt(sock)?)?,
            (None, Some(path)) => {
                let stream = UnixStream::connect_to(path).await?;
                Socket::Unix(Arc::new(stream))
            }
            (None, None) => return Err(invalid("one of sock and path is needed")),
        };
        let security = secure(&socket, handshake).await?;
        Ok((socket, security))
    }
}

fn require_unix(socket: Socket) -> io::Result<Socket> {
    match socket {
        Socket::Unix(_) => Ok(socket),
        Socket::Tcp(_) => Err(invalid("sock is a TCP socket, not a Unix stream socket")),
    }
}

/// Connects to a Unix server, and starts the protocol made by `protocol_factory`, a
/// [`Protocol`](crate::Protocol) or a [`BufferedProtocol`](crate::BufferedProtocol).
///
/// The factory is called once, when the connection is there. `connection_made` has been called
/// when this returns. The connection works as a task of the current coracle runtime; for other
/// executors, see [`create_unix_connection_with_driver`].
///
/// Where the server's backlog is full, it tries again after a while, up to every 16 ms, for as
/// long as the caller waits: pair it with [`timeout`](crate::time::timeout). (asyncio takes such a
/// connection for made, and fails at the first byte.)
///
/// *asyncio equivalent*: `loop.create_unix_connection`.
///
/// # Errors
/// - `InvalidInput`: contradictory or missing options, or a path that is none; the message names
///   it.
/// - `Unsupported`: no coracle runtime is running on this thread.
/// - `NotFound`: nothing is at the path. `ConnectionRefused`: nobody listens there.
/// - `PermissionDenied`, …: the system's, with the path. The source of the error has the raw code.
/// - With TLS: `ConnectionAborted` if the handshake takes longer than `tls_handshake_timeout`,
///   `ConnectionReset` if the peer ends the connection in it, `InvalidData` for the peer's
///   certificate or anything else that rustls objects to, whose error is the source. The peer is
///   told.
///
/// # Cancel safety
/// If it is dropped before it is done, the connection is closed.
///
/// # Platforms
/// Unix.
///
/// # Examples
/// ```
/// use coracle::{create_unix_connection, create_unix_server, on_data};
/// use coracle::{Protocol, Transport, UnixOptions, UnixServerOptions};
/// use std::io;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("echo.sock");
///
/// struct Hello;
///
/// impl Protocol for Hello {
///     fn connection_made(&mut self, transport: &Transport) {
///         let _ = transport.write(b"hello");
///     }
///
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
///         println!("{}", String::from_utf8_lossy(data));
///         transport.close();
///         Ok(())
///     }
/// }
///
/// coracle::block_on(async {
///     let echo = || on_data(|transport, data| transport.write(data));
///     let server = create_unix_server(echo, UnixServerOptions::new().path(&path)).await?;
///
///     let options = UnixOptions::new().path(&path);
///     let (transport, _) = create_unix_connection(|| Hello, options).await?;
///     transport.closed().await?;
///     server.close();
///     server.wait_closed().await;
/// #   io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub async fn create_unix_connection<P, K>(
    protocol_factory: impl FnOnce() -> P,
    options: UnixOptions,
) -> io::Result<(Transport, ProtocolHandle<P>)>
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let runtime = current_runtime("create_unix_connection")?;
    let made = create_unix_connection_with_driver(protocol_factory, options).await?;
    start(runtime, made).await
}

/// As [`create_unix_connection`], but leaves it to the caller to spawn the driver, on whatever
/// executor: the connection works while the driver runs. Where no coracle runtime is running, the
/// socket is driven by `async-io` (feature `async-io`).
///
/// `connection_made` is called when the driver first runs.
///
/// # Errors
/// As [`create_unix_connection`].
///
/// # Cancel safety
/// The socket is closed.
///
/// # Platforms
/// Unix.
///
/// # Examples
/// ```
/// use coracle::{create_unix_connection_with_driver, on_data, UnixOptions};
/// use std::os::unix::net::UnixStream;
///
/// let (ours, _theirs) = UnixStream::pair()?;
/// smol::block_on(async {
///     let echo = || on_data(|transport, data| transport.write(data));
///     let options = UnixOptions::new().sock(ours);
///     let (transport, _, driver) = create_unix_connection_with_driver(echo, options).await?;
///     let driver = smol::spawn(driver);
///     transport.close();
///     driver.await;
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// # std::io::Result::Ok(())
/// ```
pub async fn create_unix_connection_with_driver<P: StreamProtocol<K>, K>(
    protocol_factory: impl FnOnce() -> P,
    options: UnixOptions,
) -> io::Result<(Transport, ProtocolHandle<P>, ConnectionDriver<P, K>)> {
    let (socket, security) = options.open().await?;
    Ok(establish(socket, protocol_factory(), None, security))
}

/// What a Unix server is to be: the arguments of [`create_unix_server`].
///
/// # Examples
/// ```
/// use coracle::UnixServerOptions;
///
/// let options = UnixServerOptions::new().path("/run/service.sock").backlog(1000);
/// # let _ = options;
/// ```
#[derive(Debug)]
#[must_use = "options do nothing until they are given to create_unix_server"]
pub struct UnixServerOptions {
    path: Option<Target>,
    sock: Option<net::Socket>,
    backlog: u32,
    start_serving: bool,
    cleanup_socket: bool,
    tls: ServerTls,
}

impl Default for UnixServerOptions {
    fn default() -> UnixServerOptions {
        UnixServerOptions {
            path: None,
            sock: None,
            backlog: BACKLOG,
            start_serving: true,
            cleanup_socket: true,
            tls: ServerTls::default(),
        }
    }
}

impl UnixServerOptions {
    /// The defaults.
    pub fn new() -> UnixServerOptions {
        UnixServerOptions::default()
    }

    /// Where to listen: a path, or an abstract name (Linux) as `"@name"` or as bytes with a
    /// leading NUL.
    ///
    /// A path at which there is a socket already is taken over: the file is removed, whether or
    /// not somebody still listens there. Anything else at the path is left alone, and binding
    /// fails. The file's permissions come from the umask.
    pub fn path(mut self, path: impl Into<Target>) -> UnixServerOptions {
        self.path = Some(path.into());
        self
    }

    /// A Unix stream socket that is bound already, instead of a path; the server owns it.
    pub fn sock(mut self, sock: impl Into<net::Socket>) -> UnixServerOptions {
        self.sock = Some(sock.into());
        self
    }

    /// How many connections may wait to be accepted (100 unless set); the system has a limit of
    /// its own.
    pub fn backlog(mut self, backlog: u32) -> UnixServerOptions {
        self.backlog = backlog;
        self
    }

    /// Whether to listen at once (unless set), or not before
    /// [`Server::start_serving`] is called: connections are refused until then.
    pub fn start_serving(mut self, on: bool) -> UnixServerOptions {
        self.start_serving = on;
        self
    }

    /// Whether to remove the socket's file when the server is closed (unless set). It is not
    /// removed if another has been put in its place.
    pub fn cleanup_socket(mut self, on: bool) -> UnixServerOptions {
        self.cleanup_socket = on;
        self
    }

    tls_methods!(ServerConfig);

    async fn open(&mut self) -> io::Result<(ServerSocket, Option<CleanUp>)> {
        self.tls.check()?;
        require_one(self.sock.is_some(), self.path.is_some(), "path")?;
        let path = self.path.as_ref().map(unix_address).transpose()?;
        let listener = match (self.sock.take(), path) {
            (Some(sock), _) => {
                let listener = Listener::from_socket(sock)?;
                if listener.family() != Family::Unix {
                    return Err(invalid("sock is a TCP socket, not a Unix stream socket"));
                }
                listener
            }
            (None, Some(addr)) => {
                if let Some(path) = addr.as_unix().and_then(|addr| addr.as_path()) {
                    remove_stale(path);
                }
                Listener::open(&ListenerConfig::at(addr)).await?
            }
            (None, None) => return Err(invalid("one of sock and path is needed")),
        };
        let clean_up = match self.cleanup_socket {
            true => clean_up(&listener.local_addr()?),
            false => None,
        };
        Ok((ServerSocket::new(listener)?, clean_up))
    }
}

/// What removes the file of a socket that has just been bound.
fn clean_up(addr: &Address) -> Option<CleanUp> {
    let path: PathBuf = addr.as_unix()?.as_path()?.into();
    let file = identity(&path).ok()?;
    Some(Box::new(move || match identity(&path) {
        Ok(now) if now == file => std::fs::remove_file(&path)
            .map_err(|error| context(error, format_args!("remove {}", path.display()))),
        // Another's, or gone.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(context(error, format_args!("look at {}", path.display()))),
    }))
}

/// What tells a socket file from another at the same path.
fn identity(path: &Path) -> io::Result<(u64, u64, bool)> {
    let meta = path.symlink_metadata()?;
    Ok((meta.dev(), meta.ino(), meta.file_type().is_socket()))
}

/// Listens at a Unix path or an abstract name, and makes a protocol with `protocol_factory` for
/// every connection.
///
/// The server and its connections work as tasks of the current coracle runtime; for other
/// executors, see [`create_unix_server_with_driver`].
///
/// *asyncio equivalent*: `loop.create_unix_server`.
///
/// # Errors
/// - `InvalidInput`: contradictory or missing options, or a path that is none; the message names
///   it.
/// - `Unsupported`: no coracle runtime is running on this thread.
/// - `AddrInUse`: something that is no socket is at the path, or the abstract name is taken.
/// - `PermissionDenied`, `NotFound`, …: the system's, with the path.
///
/// # Cancel safety
/// If it is dropped before it is done, the server is closed.
///
/// # Platforms
/// Unix.
///
/// # Examples
/// See [`create_unix_connection`].
pub async fn create_unix_server<P, K>(
    protocol_factory: impl FnMut() -> P + 'static,
    options: UnixServerOptions,
) -> io::Result<Server>
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let runtime = current_runtime("create_unix_server")?;
    let spawn = spawn_connections(runtime.clone());
    let (server, driver) = create_unix_server_with_driver(protocol_factory, options, spawn).await?;
    task::spawn_on(runtime, driver).detach();
    Ok(server)
}

/// As [`create_unix_server`], for any executor: the future that is given accepts the connections
/// and is to be spawned by the caller, and `spawn` is called with the driver of each connection.
/// Dropping the future closes the server.
///
/// # Errors
/// As [`create_unix_server`].
///
/// # Cancel safety
/// The server is closed.
///
/// # Platforms
/// Unix.
///
/// # Examples
/// ```
/// use coracle::{create_unix_server_with_driver, on_data, UnixServerOptions};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("echo.sock");
///
/// smol::block_on(async {
///     let echo = || on_data(|transport, data| transport.write(data));
///     let options = UnixServerOptions::new().path(&path);
///     let spawn = |driver| smol::spawn(driver).detach();
///     let (server, driver) = create_unix_server_with_driver(echo, options, spawn).await?;
///     let driver = smol::spawn(driver);
///     server.close();
///     driver.await;
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub async fn create_unix_server_with_driver<P, K, F, S>(
    protocol_factory: F,
    mut options: UnixServerOptions,
    spawn: S,
) -> io::Result<(Server, impl Future<Output = ()> + use<P, K, F, S>)>
where
    P: StreamProtocol<K>,
    F: FnMut() -> P,
    S: FnMut(ConnectionDriver<P, K>),
{
    let (socket, clean_up) = options.open().await?;
    let (server, driver) = serve(
        vec![socket],
        options.backlog,
        options.start_serving,
        clean_up,
        options.tls,
        protocol_factory,
        spawn,
    )
    .await?;
    Ok((server, driver.run()))
}
