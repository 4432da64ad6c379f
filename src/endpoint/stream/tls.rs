//! The TLS options of the calls that make connections and servers, and what is wrong with them.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::stream::shared::Socket;
use crate::error::invalid;

#[cfg(feature = "tls")]
pub(super) use crate::endpoint::stream::handshake::{Handshake, Secure};
#[cfg(feature = "tls")]
use rustls::{ClientConfig, ServerConfig};

/// There is none without the feature.
#[cfg(not(feature = "tls"))]
mod absent {
    #[derive(Debug)]
    pub(crate) enum Handshake {}
    #[derive(Debug)]
    pub(crate) enum Secure {}
    #[derive(Debug)]
    pub(crate) enum ClientConfig {}
    #[derive(Debug)]
    pub(crate) enum ServerConfig {}
}
#[cfg(not(feature = "tls"))]
use self::absent::{ClientConfig, ServerConfig};
#[cfg(not(feature = "tls"))]
pub(super) use self::absent::{Handshake, Secure};

/// How long a handshake may take unless the user says otherwise: asyncio's time.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// How long closing may take unless the user says otherwise: asyncio's time.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// How much of TLS a new connection has to do.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(super) enum Security {
    Plain,
    /// The driver shakes hands before the protocol hears of anything.
    Handshake(Box<Handshake>),
    /// Done; these bytes are still to be sent.
    Done(Box<Secure>, Vec<u8>),
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(super) struct Limits {
    pub(super) handshake: Duration,
    pub(super) shutdown: Duration,
}

/// What the options of a call say about TLS.
pub(super) struct TlsOptions<C> {
    pub(super) config: Option<Arc<C>>,
    pub(super) server_hostname: Option<String>,
    pub(super) handshake_timeout: Option<Duration>,
    pub(super) shutdown_timeout: Option<Duration>,
}

pub(super) type ClientTls = TlsOptions<ClientConfig>;
pub(super) type ServerTls = TlsOptions<ServerConfig>;

impl<C> TlsOptions<C> {
    pub(super) fn new(config: Option<Arc<C>>) -> TlsOptions<C> {
        TlsOptions {
            config,
            server_hostname: None,
            handshake_timeout: None,
            shutdown_timeout: None,
        }
    }

    pub(super) fn validate_timeouts(&self) -> io::Result<Limits> {
        let timeouts = [
            ("tls_handshake_timeout", self.handshake_timeout),
            ("tls_shutdown_timeout", self.shutdown_timeout),
        ];
        for (name, timeout) in timeouts {
            match timeout {
                Some(_) if self.config.is_none() => {
                    return Err(invalid(format_args!("{name} goes with tls only")));
                }
                Some(Duration::ZERO) => {
                    return Err(invalid(format_args!("{name} is zero: it must be longer")));
                }
                _ => {}
            }
        }
        Ok(Limits {
            handshake: self.handshake_timeout.unwrap_or(HANDSHAKE),
            shutdown: self.shutdown_timeout.unwrap_or(SHUTDOWN),
        })
    }
}

impl ClientTls {
    /// What is to be done once there is a connection, unless something is wrong with the options;
    /// `host` gives the server's name if the user gives none.
    pub(super) fn check(
        &self,
        host: impl FnOnce() -> Option<String>,
    ) -> io::Result<Option<Box<Handshake>>> {
        if let (None, Some(name)) = (&self.config, &self.server_hostname) {
            return Err(invalid(format_args!(
                "server_hostname '{name}' goes with tls only"
            )));
        }
        let limits = self.validate_timeouts()?;
        let Some(config) = &self.config else {
            return Ok(None);
        };
        let Some(name) = self.server_hostname.clone().or_else(host) else {
            return Err(invalid("tls needs a server_hostname"));
        };
        Handshake::client(config.clone(), &name, limits).map(|handshake| Some(Box::new(handshake)))
    }
}

impl ServerTls {
    /// Whether a server with these options can have connections.
    pub(super) fn check(&self) -> io::Result<()> {
        self.validate_timeouts()?;
        self.accept().map(drop)
    }

    /// What a new connection of a server has to do.
    pub(super) fn accept(&self) -> io::Result<Security> {
        let Some(config) = &self.config else {
            return Ok(Security::Plain);
        };
        let limits = self.validate_timeouts()?;
        let handshake = Handshake::server(config.clone(), limits)?;
        Ok(Security::Handshake(Box::new(handshake)))
    }
}

/// Shakes hands over a new connection, where the caller waits for it.
pub(super) async fn secure(
    socket: &Socket,
    handshake: Option<Box<Handshake>>,
) -> io::Result<Security> {
    match handshake {
        None => Ok(Security::Plain),
        Some(handshake) => handshake.run(socket).await,
    }
}

#[cfg(not(feature = "tls"))]
impl Handshake {
    fn client(_: Arc<ClientConfig>, _: &str, _: Limits) -> io::Result<Handshake> {
        unreachable!("there is no ClientConfig")
    }

    fn server(_: Arc<ServerConfig>, _: Limits) -> io::Result<Handshake> {
        unreachable!("there is no ServerConfig")
    }

    async fn run(self: Box<Self>, _: &Socket) -> io::Result<Security> {
        match *self {}
    }
}

impl<C> Default for TlsOptions<C> {
    fn default() -> TlsOptions<C> {
        TlsOptions::new(None)
    }
}

impl<C> Clone for TlsOptions<C> {
    fn clone(&self) -> TlsOptions<C> {
        TlsOptions {
            config: self.config.clone(),
            server_hostname: self.server_hostname.clone(),
            ..*self
        }
    }
}

impl<C> fmt::Debug for TlsOptions<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A configuration is long, and holds keys.
        f.debug_struct("TlsOptions")
            .field("tls", &self.config.is_some())
            .field("server_hostname", &self.server_hostname)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("shutdown_timeout", &self.shutdown_timeout)
            .finish()
    }
}

/// The options' methods, for a type with a field `tls: TlsOptions`.
macro_rules! tls_methods {
    ($config:ident) => {
        /// Speaks TLS, with this configuration: see [`tls`](crate::tls).
        ///
        /// *asyncio equivalent*: `ssl`. Feature `tls`.
        #[cfg(feature = "tls")]
        pub fn tls(mut self, config: impl Into<Arc<rustls::$config>>) -> Self {
            self.tls.config = Some(config.into());
            self
        }

        /// How long the TLS handshake may take: 60 s unless set. It goes with the option `tls`
        /// only, which needs the feature of that name.
        pub fn tls_handshake_timeout(mut self, timeout: Duration) -> Self {
            self.tls.handshake_timeout = Some(timeout);
            self
        }

        /// How long [`close`](Transport::close) may take, from the call until the peer has agreed:
        /// 30 s unless set. It goes with the option `tls` only, which needs the feature of that
        /// name.
        pub fn tls_shutdown_timeout(mut self, timeout: Duration) -> Self {
            self.tls.shutdown_timeout = Some(timeout);
            self
        }
    };
}

/// The options' method that only clients have.
macro_rules! tls_client_methods {
    ($default:literal) => {
        /// The host name or IP address that the server's certificate must have been made for
        #[doc = $default]
        /// It goes with the option `tls` only, which needs the feature of that name.
        pub fn server_hostname(mut self, name: impl Into<String>) -> Self {
            self.tls.server_hostname = Some(name.into());
            self
        }
    };
}

pub(super) use {tls_client_methods, tls_methods};
