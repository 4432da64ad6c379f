//! The TLS options of the calls that make connections and servers, and what is wrong with them.

use std::io;
use std::time::Duration;

use crate::error::invalid;

/// What the options of a call say about TLS.
#[derive(Debug, Clone, Default)]
pub(super) struct TlsOptions {
    pub(super) tls: bool,
    pub(super) server_hostname: Option<String>,
    pub(super) handshake_timeout: Option<Duration>,
    pub(super) shutdown_timeout: Option<Duration>,
}

impl TlsOptions {
    /// All that can be known to be wrong; `named` says that the server's name need not be given.
    pub(super) fn validate_client(&self, named: bool) -> io::Result<()> {
        match (self.tls, &self.server_hostname) {
            (true, None) if !named => {
                return Err(invalid("tls needs a server_hostname"));
            }
            (false, Some(name)) => {
                return Err(invalid(format_args!(
                    "server_hostname '{name}' goes with tls only"
                )));
            }
            _ => {}
        }
        self.validate_timeouts()
    }

    pub(super) fn validate_server(&self) -> io::Result<()> {
        self.validate_timeouts()
    }

    fn validate_timeouts(&self) -> io::Result<()> {
        let timeouts = [
            ("tls_handshake_timeout", self.handshake_timeout),
            ("tls_shutdown_timeout", self.shutdown_timeout),
        ];
        for (name, timeout) in timeouts {
            match timeout {
                Some(_) if !self.tls => {
                    return Err(invalid(format_args!("{name} goes with tls only")));
                }
                Some(Duration::ZERO) => {
                    return Err(invalid(format_args!("{name} is zero: it must be longer")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// After all else was found to be right.
    pub(super) fn require_plain(&self) -> io::Result<()> {
        match self.tls {
            true => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "tls is not supported yet",
            )),
            false => Ok(()),
        }
    }
}

/// The options' methods, for a type with a field `tls: TlsOptions`.
macro_rules! tls_methods {
    () => {
        /// Speaks TLS. Not there yet: the call gives `Unsupported`.
        pub fn tls(mut self, on: bool) -> Self {
            self.tls.tls = on;
            self
        }

        /// How long the TLS handshake may take. It goes with [`tls`](Self::tls) only.
        pub fn tls_handshake_timeout(mut self, timeout: Duration) -> Self {
            self.tls.handshake_timeout = Some(timeout);
            self
        }

        /// How long closing waits for the peer's consent. It goes with [`tls`](Self::tls) only.
        pub fn tls_shutdown_timeout(mut self, timeout: Duration) -> Self {
            self.tls.shutdown_timeout = Some(timeout);
            self
        }
    };
}

/// The options' method that only clients have.
macro_rules! tls_client_methods {
    () => {
        /// The name that the server's certificate must have. It goes with [`tls`](Self::tls) only.
        pub fn server_hostname(mut self, name: impl Into<String>) -> Self {
            self.tls.server_hostname = Some(name.into());
            self
        }
    };
}

pub(super) use {tls_client_methods, tls_methods};
