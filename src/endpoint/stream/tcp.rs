//! `create_connection`, `create_server` and their options.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::endpoint::handle::ProtocolHandle;
use crate::endpoint::lifetime::current_runtime;
use crate::endpoint::stream::driver::ConnectionDriver;
use crate::endpoint::stream::protocol::StreamProtocol;
use crate::endpoint::stream::race::{combine, first_success, interleave};
use crate::endpoint::stream::server::{serve, Server, ServerSocket};
use crate::endpoint::stream::shared::Socket;
use crate::endpoint::stream::tls::{
    secure, tls_client_methods, tls_methods, ClientTls, Handshake, Security, ServerTls,
};
use crate::endpoint::stream::transport::Transport;
use crate::endpoint::stream::{adopt, establish, require_one, spawn_connections, start, BACKLOG};
use crate::error::invalid;
use crate::net::{self, resolve_target, Query, ResolveFlags, Target, TcpStream};
use crate::runtime::task;
use crate::sys::caps::{check_protocol, Family, ListenerConfig, SocketOption, StreamConfig};
use crate::sys::{Listener, ListenerOps};

/// What a TCP connection is to be: the arguments of [`create_connection`].
///
/// # Examples
/// ```
/// use coracle::TcpOptions;
/// use std::time::Duration;
///
/// let options = TcpOptions::new()
///     .remote_addr(("localhost", 8080))
///     .happy_eyeballs_delay(Duration::from_millis(250));
/// # let _ = options;
/// ```
#[derive(Debug, Default)]
#[must_use = "options do nothing until they are given to create_connection"]
pub struct TcpOptions {
    remote_addr: Option<Target>,
    local_addr: Option<Target>,
    family: Option<Family>,
    proto: i32,
    flags: ResolveFlags,
    sock: Option<net::Socket>,
    happy_eyeballs_delay: Option<Duration>,
    interleave: Option<usize>,
    all_errors: bool,
    tls: ClientTls,
}

impl TcpOptions {
    /// No options.
    pub fn new() -> TcpOptions {
        TcpOptions::default()
    }

    /// The host and port to connect to: all addresses of the host are tried until one works.
    pub fn remote_addr(mut self, addr: impl Into<Target>) -> TcpOptions {
        self.remote_addr = Some(addr.into());
        self
    }

    /// The address to bind to before connecting; of several, the first that works and is of the
    /// family of the remote one.
    pub fn local_addr(mut self, addr: impl Into<Target>) -> TcpOptions {
        self.local_addr = Some(addr.into());
        self
    }

    /// The address family: chooses among the addresses of a name.
    pub fn family(mut self, family: Family) -> TcpOptions {
        self.family = Some(family);
        self
    }

    /// The protocol number, for the resolver and for the socket; 0 is TCP.
    pub fn proto(mut self, proto: i32) -> TcpOptions {
        self.proto = proto;
        self
    }

    /// Hints for the resolver; without effect on numeric addresses.
    pub fn flags(mut self, flags: ResolveFlags) -> TcpOptions {
        self.flags = flags;
        self
    }

    /// A connected stream socket of any family to use as it is, instead of an address; the
    /// connection owns it.
    ///
    /// # Platforms
    /// Native.
    pub fn sock(mut self, sock: impl Into<net::Socket>) -> TcpOptions {
        self.sock = Some(sock.into());
        self
    }

    /// Tries the next address when the one before has not answered for this long, without giving
    /// that one up (RFC 8305, which recommends 250 ms); unless it is set, only when it has failed.
    pub fn happy_eyeballs_delay(mut self, delay: Duration) -> TcpOptions {
        self.happy_eyeballs_delay = Some(delay);
        self
    }

    /// Has the address families take turns, after so many addresses of the first. 1 with
    /// [`happy_eyeballs_delay`](TcpOptions::happy_eyeballs_delay); otherwise, unless it is set, the
    /// resolver's order is kept.
    pub fn interleave(mut self, first: usize) -> TcpOptions {
        self.interleave = Some(first);
        self
    }

    /// Has the error of a call that fails be [`ConnectErrors`](crate::ConnectErrors), with the
    /// errors of all attempts.
    pub fn all_errors(mut self, on: bool) -> TcpOptions {
        self.all_errors = on;
        self
    }

    tls_methods!(ClientConfig);
    tls_client_methods!(": the host of [`remote_addr`](Self::remote_addr) unless set.");

    fn validate(&self) -> io::Result<Option<Box<Handshake>>> {
        // The name that is looked up is the server's, unless another is given.
        let host = || self.remote_addr.as_ref().and_then(Target::host);
        let handshake = self.tls.check(host)?;
        require_one(
            self.sock.is_some(),
            self.remote_addr.is_some(),
            "remote_addr",
        )?;
        if self.sock.is_some() && self.local_addr.is_some() {
            return Err(invalid("sock and local_addr cannot both be given"));
        }
        if self.family == Some(Family::Unix) {
            return Err(invalid("a TCP connection cannot be of family Unix"));
        }
        check_protocol(self.proto)?;
        if self.interleave == Some(0) {
            return Err(invalid(
                "interleave is 0: the first family needs an address",
            ));
        }
        Ok(handshake)
    }

    async fn open(mut self) -> io::Result<(Socket, Security)> {
        let handshake = self.validate()?;
        let socket = match self.sock.take() {
            Some(sock) => adopt(sock)?,
            None => self.connect().await?,
        };
        let security = secure(&socket, handshake).await?;
        Ok((socket, security))
    }

    async fn connect(&self) -> io::Result<Socket> {
        let query = Query {
            family: self.family,
            stream: true,
            protocol: self.proto,
            flags: self.flags,
        };
        let Some(remote_addr) = &self.remote_addr else {
            return Err(invalid("one of sock and remote_addr is needed"));
        };
        let mut remotes = ip_addrs(remote_addr, query).await?;
        let locals = match &self.local_addr {
            Some(local_addr) => Some(ip_addrs(local_addr, query).await?),
            None => None,
        };
        let delay = self.happy_eyeballs_delay;
        if let Some(first) = self.interleave.or(delay.map(|_| 1)) {
            remotes = interleave(remotes, first);
        }
        let attempt = |remote| self.attempt(remote, locals.as_deref());
        match first_success(remotes, delay, attempt).await {
            Ok(stream) => Ok(Socket::Tcp(Arc::new(stream))),
            Err(errors) => Err(combine(errors, self.all_errors)),
        }
    }

    /// Binds to the first local address of the family that works, and connects.
    async fn attempt(&self, remote: Address, locals: Option<&[Address]>) -> io::Result<TcpStream> {
        let family = Family::of(&remote);
        let bind = match locals {
            None => Vec::new(),
            Some(locals) => {
                let same = locals.iter().filter(|local| Family::of(local) == family);
                same.copied().collect()
            }
        };
        if locals.is_some() && bind.is_empty() {
            return Err(invalid(format_args!(
                "connect {remote}: local_addr has no {family} address"
            )));
        }
        TcpStream::connect_to(&StreamConfig {
            protocol: self.proto,
            bind,
            connect: remote,
        })
        .await
    }
}

/// The addresses of a target, which must be IP.
async fn ip_addrs(target: &Target, query: Query) -> io::Result<Vec<Address>> {
    let addrs = resolve_target(target, query).await?;
    match addrs.iter().all(|addr| addr.as_ip().is_some()) {
        true => Ok(addrs),
        false => Err(invalid(format_args!("'{target}' is no IP address"))),
    }
}

/// Connects to a TCP server, and starts the protocol made by `protocol_factory`, a
/// [`Protocol`](crate::Protocol) or a [`BufferedProtocol`](crate::BufferedProtocol).
///
/// The factory is called once, when the connection is there. `connection_made` has been called
/// when this returns. The connection works as a task of the current coracle runtime; for other
/// executors, see [`create_connection_with_driver`]. Small writes go out at once (`TCP_NODELAY`).
///
/// *asyncio equivalent*: `loop.create_connection`.
///
/// # Errors
/// - `InvalidInput`: contradictory or missing options, or an address that is none; the message
///   names it.
/// - `Unsupported`: no coracle runtime is running on this thread.
/// - `NotFound`: a name is unknown.
/// - `ConnectionRefused`, `TimedOut`, `AddrInUse`, …: the system's, with the address. If several
///   addresses were tried, the message has all errors, and the kind is theirs if they agree,
///   else `Other`.
/// - With TLS: `ConnectionAborted` if the handshake takes longer than `tls_handshake_timeout`,
///   `ConnectionReset` if the peer ends the connection in it, `InvalidData` for the peer's
///   certificate or anything else that rustls objects to, whose error is the source. The peer is
///   told.
///
/// # Cancel safety
/// If it is dropped before it is done, the connection is closed.
///
/// # Examples
/// ```
/// use coracle::{create_connection, create_server, on_data, TcpOptions, TcpServerOptions};
///
/// coracle::block_on(async {
///     let echo = || on_data(|transport, data| transport.write(data));
///     let options = TcpServerOptions::new().local_addr("127.0.0.1:0");
///     let server = create_server(echo, options).await?;
///
///     let options = TcpOptions::new().remote_addr(server.local_addrs()[0]);
///     let hang_up = || on_data(|transport, data| {
///         println!("{} bytes", data.len());
///         transport.close();
///         Ok(())
///     });
///     let (transport, _) = create_connection(hang_up, options).await?;
///     transport.write(b"hello")?;
///     transport.closed().await?;
///     server.close();
///     server.wait_closed().await;
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub async fn create_connection<P, K>(
    protocol_factory: impl FnOnce() -> P,
    options: TcpOptions,
) -> io::Result<(Transport, ProtocolHandle<P>)>
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let runtime = current_runtime("create_connection")?;
    let made = create_connection_with_driver(protocol_factory, options).await?;
    start(runtime, made).await
}

/// As [`create_connection`], but leaves it to the caller to spawn the driver, on whatever
/// executor: the connection works while the driver runs. Where no coracle runtime is running, the
/// socket is driven by `async-io` (feature `async-io`).
///
/// `connection_made` is called when the driver first runs.
///
/// # Errors
/// As [`create_connection`].
///
/// # Cancel safety
/// The socket is closed.
pub async fn create_connection_with_driver<P: StreamProtocol<K>, K>(
    protocol_factory: impl FnOnce() -> P,
    options: TcpOptions,
) -> io::Result<(Transport, ProtocolHandle<P>, ConnectionDriver<P, K>)> {
    let (socket, security) = options.open().await?;
    Ok(establish(socket, protocol_factory(), None, security))
}

/// What a TCP server is to be: the arguments of [`create_server`].
///
/// # Examples
/// ```
/// use coracle::TcpServerOptions;
///
/// let both = TcpServerOptions::new().local_addr("127.0.0.1:8080").local_addr("[::1]:8080");
/// let everywhere = TcpServerOptions::new().port(8080);
/// # let _ = (both, everywhere);
/// ```
#[derive(Debug)]
#[must_use = "options do nothing until they are given to create_server"]
pub struct TcpServerOptions {
    local_addrs: Vec<Target>,
    family: Option<Family>,
    flags: ResolveFlags,
    sock: Option<net::Socket>,
    backlog: u32,
    reuse_address: Option<bool>,
    reuse_port: bool,
    keep_alive: bool,
    start_serving: bool,
    tls: ServerTls,
}

impl Default for TcpServerOptions {
    fn default() -> TcpServerOptions {
        TcpServerOptions {
            local_addrs: Vec::new(),
            family: None,
            flags: ResolveFlags::PASSIVE,
            sock: None,
            backlog: BACKLOG,
            reuse_address: None,
            reuse_port: false,
            keep_alive: false,
            start_serving: true,
            tls: ServerTls::default(),
        }
    }
}

impl TcpServerOptions {
    /// The defaults.
    pub fn new() -> TcpServerOptions {
        TcpServerOptions::default()
    }

    /// Where to listen: all addresses of the host, each with a socket of its own. Call it again for
    /// further hosts. With port 0, each socket has another port.
    pub fn local_addr(mut self, addr: impl Into<Target>) -> TcpServerOptions {
        self.local_addrs.push(addr.into());
        self
    }

    /// Listens at this port of all of the machine's addresses, IPv4 and IPv6.
    pub fn port(self, port: u16) -> TcpServerOptions {
        self.local_addr((Ipv6Addr::UNSPECIFIED, port))
            .local_addr((Ipv4Addr::UNSPECIFIED, port))
    }

    /// The address family: of the others, no addresses are used.
    pub fn family(mut self, family: Family) -> TcpServerOptions {
        self.family = Some(family);
        self
    }

    /// Hints for the resolver, [`ResolveFlags::PASSIVE`] unless set; without effect on numeric
    /// addresses.
    pub fn flags(mut self, flags: ResolveFlags) -> TcpServerOptions {
        self.flags = flags;
        self
    }

    /// A stream socket that is bound already, instead of an address; the server owns it.
    ///
    /// # Platforms
    /// Native.
    pub fn sock(mut self, sock: impl Into<net::Socket>) -> TcpServerOptions {
        self.sock = Some(sock.into());
        self
    }

    /// How many connections may wait to be accepted (100 unless set); the system has a limit of
    /// its own.
    pub fn backlog(mut self, backlog: u32) -> TcpServerOptions {
        self.backlog = backlog;
        self
    }

    /// Takes the address even while connections of an earlier server are still being forgotten
    /// (`SO_REUSEADDR`); on, unless set, on Unix. On Windows the option lets others take the
    /// address.
    pub fn reuse_address(mut self, on: bool) -> TcpServerOptions {
        self.reuse_address = Some(on);
        self
    }

    /// Lets other sockets of the same user listen at the same address, which share its connections
    /// (`SO_REUSEPORT`); each of them has to ask for it.
    ///
    /// # Platforms
    /// Unix. Elsewhere the call that makes the server gives `Unsupported`.
    pub fn reuse_port(mut self, on: bool) -> TcpServerOptions {
        self.reuse_port = on;
        self
    }

    /// Has idle connections probed, with the system's times (`SO_KEEPALIVE`).
    pub fn keep_alive(mut self, on: bool) -> TcpServerOptions {
        self.keep_alive = on;
        self
    }

    /// Whether to listen at once (unless set), or not before
    /// [`Server::start_serving`] is called: connections are refused until then.
    pub fn start_serving(mut self, on: bool) -> TcpServerOptions {
        self.start_serving = on;
        self
    }

    tls_methods!(ServerConfig);

    fn validate(&self) -> io::Result<()> {
        self.tls.check()?;
        require_one(
            self.sock.is_some(),
            !self.local_addrs.is_empty(),
            "local_addr",
        )?;
        if self.sock.is_some() && (self.reuse_port || self.reuse_address.is_some()) {
            return Err(invalid(
                "reuse_port and reuse_address are of no use to a sock, which is bound already",
            ));
        }
        if self.family == Some(Family::Unix) {
            return Err(invalid("a TCP server cannot be of family Unix"));
        }
        Ok(())
    }

    async fn open(&mut self) -> io::Result<Vec<ServerSocket>> {
        self.validate()?;
        if let Some(sock) = self.sock.take() {
            let listener = Listener::from_socket(sock)?;
            if self.keep_alive {
                listener.set(SocketOption::KeepAlive, 1)?;
            }
            return Ok(vec![ServerSocket::new(listener)?]);
        }
        let mut sockets = Vec::new();
        let mut skipped = None;
        for addr in self.addrs().await? {
            let config = ListenerConfig {
                reuse_address: self.reuse_address,
                reuse_port: self.reuse_port,
                keep_alive: self.keep_alive,
                // IPv4 has a socket of its own.
                only_v6: Some(true),
                ..ListenerConfig::at(addr)
            };
            match Listener::open(&config).await {
                Ok(listener) => sockets.push(ServerSocket::new(listener)?),
                // The machine has no such address, or no such family: the others will do.
                Err(error) if is_absent(&error) => skipped = skipped.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match (sockets.is_empty(), skipped) {
            (false, _) => Ok(sockets),
            (true, Some(error)) => Err(error),
            (true, None) => Err(invalid("there is no address to listen at")),
        }
    }

    /// The addresses to listen at, each once.
    async fn addrs(&self) -> io::Result<Vec<Address>> {
        let query = Query {
            family: None,
            stream: true,
            protocol: 0,
            flags: self.flags,
        };
        let mut addrs = Vec::new();
        for target in &self.local_addrs {
            for addr in ip_addrs(target, query).await? {
                let is_wanted = self.family.is_none_or(|family| family == Family::of(&addr));
                if is_wanted && !addrs.contains(&addr) {
                    addrs.push(addr);
                }
            }
        }
        match (addrs.is_empty(), self.family) {
            (true, Some(family)) => Err(invalid(format_args!(
                "local_addr has no address of family {family}"
            ))),
            _ => Ok(addrs),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.kind() == io::ErrorKind::Unsupported
}

/// Listens at TCP addresses, and makes a protocol with `protocol_factory` for every connection.
///
/// The server and its connections work as tasks of the current coracle runtime; for other
/// executors, see [`create_server_with_driver`]. IPv6 sockets take IPv6 only. To use several
/// processors, run a runtime on each thread, every one with a server of its own bound with
/// [`reuse_port`](TcpServerOptions::reuse_port).
///
/// *asyncio equivalent*: `loop.create_server`.
///
/// # Errors
/// - `InvalidInput`: contradictory or missing options, or an address that is none; the message
///   names it.
/// - `Unsupported`: an option that the platform cannot honour, or no coracle runtime is running on
///   this thread.
/// - `NotFound`: a name is unknown.
/// - `AddrInUse`, `PermissionDenied`, …: the system's, with the address. One that the machine does
///   not have is left out if there are others.
///
/// # Cancel safety
/// If it is dropped before it is done, the server is closed.
///
/// # Examples
/// See [`create_connection`].
pub async fn create_server<P, K>(
    protocol_factory: impl FnMut() -> P + 'static,
    options: TcpServerOptions,
) -> io::Result<Server>
where
    P: StreamProtocol<K> + 'static,
    K: 'static,
{
    let runtime = current_runtime("create_server")?;
    let spawn = spawn_connections(runtime.clone());
    let (server, driver) = create_server_with_driver(protocol_factory, options, spawn).await?;
    task::spawn_on(runtime, driver).detach();
    Ok(server)
}

/// As [`create_server`], for any executor: the future that is given accepts the connections and is
/// to be spawned by the caller, and `spawn` is called with the driver of each connection. Dropping
/// the future closes the server.
///
/// # Errors
/// As [`create_server`].
///
/// # Cancel safety
/// The server is closed.
pub async fn create_server_with_driver<P, K, F, S>(
    protocol_factory: F,
    mut options: TcpServerOptions,
    spawn: S,
) -> io::Result<(Server, impl Future<Output = ()> + use<P, K, F, S>)>
where
    P: StreamProtocol<K>,
    F: FnMut() -> P,
    S: FnMut(ConnectionDriver<P, K>),
{
    let sockets = options.open().await?;
    let (server, driver) = serve(
        sockets,
        options.backlog,
        options.start_serving,
        None,
        options.tls,
        protocol_factory,
        spawn,
    )
    .await?;
    Ok((server, driver.run()))
}
