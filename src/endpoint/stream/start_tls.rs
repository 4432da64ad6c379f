//! `Transport::start_tls`: a connection begins to speak TLS.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use rustls::{ClientConfig, ServerConfig};

use crate::endpoint::lifetime::{to_io, Living, Phase};
use crate::endpoint::stream::handshake::Handshake;
use crate::endpoint::stream::tls::{ClientTls, ServerTls};
use crate::endpoint::stream::transport::Transport;
use crate::wake::{Ticket, Waiter};

/// What [`Transport::start_tls`] is to do: which side this is, and with what configuration.
///
/// # Examples
/// ```
/// use coracle::tls::rustls::ClientConfig;
/// use coracle::StartTlsOptions;
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// fn upgrade(config: Arc<ClientConfig>) -> StartTlsOptions {
///     StartTlsOptions::client(config, "mail.example.org")
///         .tls_handshake_timeout(Duration::from_secs(10))
/// }
/// ```
#[must_use = "options do nothing until they are given to start_tls"]
pub struct StartTlsOptions {
    side: Side,
    tls: Timeouts,
}

enum Side {
    Client(Arc<ClientConfig>, String),
    Server(Arc<ServerConfig>),
}

#[derive(Default)]
struct Timeouts {
    handshake_timeout: Option<Duration>,
    shutdown_timeout: Option<Duration>,
}

impl StartTlsOptions {
    /// This is the client's side; the server's certificate must have been made for `name`, a host
    /// name or an IP address.
    ///
    /// *asyncio equivalent*: `server_hostname`, which may be left out there: then the name is not
    /// verified at all.
    pub fn client(config: impl Into<Arc<ClientConfig>>, name: impl Into<String>) -> Self {
        StartTlsOptions {
            side: Side::Client(config.into(), name.into()),
            tls: Timeouts::default(),
        }
    }

    /// This is the server's side.
    ///
    /// *asyncio equivalent*: `server_side=True`.
    pub fn server(config: impl Into<Arc<ServerConfig>>) -> Self {
        StartTlsOptions {
            side: Side::Server(config.into()),
            tls: Timeouts::default(),
        }
    }

    /// How long the handshake may take: 60 s unless set.
    pub fn tls_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.tls.handshake_timeout = Some(timeout);
        self
    }

    /// How long [`close`](Transport::close) may take, from the call until the peer has agreed:
    /// 30 s unless set.
    pub fn tls_shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.tls.shutdown_timeout = Some(timeout);
        self
    }

    fn handshake(self) -> io::Result<Handshake> {
        match self.side {
            Side::Client(config, name) => {
                let mut tls = ClientTls::new(Some(config.clone()));
                tls.handshake_timeout = self.tls.handshake_timeout;
                tls.shutdown_timeout = self.tls.shutdown_timeout;
                Handshake::client(config, &name, tls.validate_timeouts()?)
            }
            Side::Server(config) => {
                let mut tls = ServerTls::new(Some(config.clone()));
                tls.handshake_timeout = self.tls.handshake_timeout;
                tls.shutdown_timeout = self.tls.shutdown_timeout;
                Handshake::server(config, tls.validate_timeouts()?)
            }
        }
    }
}

impl fmt::Debug for StartTlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, name) = match &self.side {
            Side::Client(_, name) => ("client", Some(name)),
            Side::Server(_) => ("server", None),
        };
        f.debug_struct("StartTlsOptions")
            .field("side", &side)
            .field("server_hostname", &name)
            .field("handshake_timeout", &self.tls.handshake_timeout)
            .field("shutdown_timeout", &self.tls.shutdown_timeout)
            .finish()
    }
}

impl Transport {
    /// Has the connection speak TLS from here on, with the same protocol, whose `connection_made`
    /// is not called again.
    ///
    /// It begins with this call, not when the future is first polled: what is queued is sent as it
    /// is; what is written from now on is sent encrypted, after the handshake; and nothing that is
    /// received from now on reaches the protocol but what has been decrypted.
    ///
    /// **Where it may be called**: bytes that the protocol has been given are not TLS's. So call it
    /// when the peer cannot have sent anything of its handshake: a server, in the callback in which
    /// it writes its consent, and a client, in the callback that is given that consent. A protocol
    /// that is given bytes beyond that point must abort: somebody in between may have put them
    /// there (RFC 2595, section 2.4, and its successors).
    ///
    /// **TLS over TLS**: where the connection speaks TLS already, it speaks another layer through
    /// that from here on, as through a proxy that is spoken to by TLS itself. What
    /// [`tls_info`](Transport::tls_info) tells is about the last layer; an end that is not
    /// announced in it is `UnexpectedEof`, however those below end;
    /// [`close`](Transport::close) ends one after the other, the last first, within its time for
    /// all.
    ///
    /// *asyncio equivalent*: `loop.start_tls`, which makes a new transport.
    ///
    /// # Errors
    /// - `InvalidInput`: a TLS handshake is under way already, or the connection's writing direction
    ///   has ended; a timeout of zero; a name that is none.
    /// - `NotConnected`: the connection is closing.
    ///
    /// After these, nothing has changed. The following are the connection's end, and reach
    /// [`connection_lost`](crate::Protocol::connection_lost) too:
    /// - `ConnectionAborted`: the handshake took too long.
    /// - `ConnectionReset`: the peer has ended the connection.
    /// - `InvalidData`: the peer's certificate, or anything else that rustls objects to.
    ///
    /// # Cancel safety
    /// If it is dropped before it is done, the connection is aborted. [Spawn](crate::spawn) it
    /// where a callback cannot wait.
    ///
    /// # Examples
    /// ```
    /// use coracle::tls::rustls::ServerConfig;
    /// use coracle::{Protocol, StartTlsOptions, Transport};
    /// use std::io;
    /// use std::sync::Arc;
    ///
    /// /// Echoes over TLS, once it has been asked to.
    /// struct Echo {
    ///     config: Arc<ServerConfig>,
    ///     secure: bool,
    /// }
    ///
    /// impl Protocol for Echo {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> io::Result<()> {
    ///         match (self.secure, data) {
    ///             (true, data) => transport.write(data),
    ///             (false, b"STARTTLS\n") => {
    ///                 self.secure = true;
    ///                 transport.write(b"OK\n")?;
    ///                 let options = StartTlsOptions::server(self.config.clone());
    ///                 coracle::spawn(transport.start_tls(options)).detach();
    ///                 Ok(())
    ///             }
    ///             (false, _) => Err(io::ErrorKind::InvalidData.into()),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn start_tls(&self, options: StartTlsOptions) -> StartTls {
        let started = options
            .handshake()
            .and_then(|handshake| self.shared.upgrade(handshake));
        StartTls {
            transport: self.clone(),
            waiting: started.is_ok(),
            refusal: started.err(),
            ticket: Ticket::default(),
        }
    }
}

pin_project! {
    /// The future of [`Transport::start_tls`].
    #[must_use = "dropping it aborts the connection"]
    pub struct StartTls {
        transport: Transport,
        waiting: bool,
        refusal: Option<io::Error>,
        #[pin]
        ticket: Ticket,
    }

    impl PinnedDrop for StartTls {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let shared = &this.transport.shared;
            shared.forget_waiter(this.ticket.as_ref());
            if *this.waiting && shared.lock().is_handshaking() {
                shared.end(Phase::Aborted);
            }
        }
    }
}

impl Future for StartTls {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if let Some(refusal) = this.refusal.take() {
            return Poll::Ready(Err(refusal));
        }
        let mut waiter = Waiter::with_ticket(cx, this.ticket);
        let poll = this
            .transport
            .shared
            .poll_until(&mut waiter, |state| match state.life.phase {
                Phase::Lost if state.tls_info().is_none() => {
                    Some(state.life.closed().unwrap_or(Ok(())).and_then(|()| {
                        Err(Arc::new(io::Error::new(
                            io::ErrorKind::ConnectionAborted,
                            "the connection was closed in the TLS handshake",
                        )))
                    }))
                }
                _ if state.is_handshaking() => None,
                _ => Some(Ok(())),
            });
        *this.waiting = poll.is_pending();
        poll.map(to_io)
    }
}

impl fmt::Debug for StartTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartTls")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}
