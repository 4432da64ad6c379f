//! What the echo examples have of TLS: their options, and what is made of them. The feature `tls`
//! turns them on.
#![allow(dead_code)] // no example uses all of it

use std::process::exit;

/// Takes `--name VALUE` out of the arguments.
pub(crate) fn take(args: &mut Vec<String>, name: &str) -> Option<String> {
    let at = args.iter().position(|arg| arg == name)?;
    if at + 1 == args.len() {
        eprintln!("{name} needs a value");
        exit(2);
    }
    args.remove(at);
    Some(args.remove(at))
}

/// What `--tls-ca FILE` and `--server-hostname NAME` say.
pub(crate) struct ClientTls {
    pub(crate) ca: Option<String>,
    pub(crate) server_hostname: Option<String>,
}

impl ClientTls {
    pub(crate) fn take(args: &mut Vec<String>) -> ClientTls {
        let tls = ClientTls {
            ca: take(args, "--tls-ca"),
            server_hostname: take(args, "--server-hostname"),
        };
        if tls.server_hostname.is_some() && tls.ca.is_none() {
            eprintln!("--server-hostname goes with --tls-ca only");
            exit(2);
        }
        need_feature(tls.ca.is_some());
        tls
    }
}

/// What `--tls-cert FILE` and `--tls-key FILE` say.
pub(crate) struct ServerTls {
    pub(crate) identity: Option<(String, String)>,
}

impl ServerTls {
    pub(crate) fn take(args: &mut Vec<String>) -> ServerTls {
        let identity = match (take(args, "--tls-cert"), take(args, "--tls-key")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                eprintln!("--tls-cert and --tls-key go together");
                exit(2);
            }
        };
        need_feature(identity.is_some());
        ServerTls { identity }
    }
}

fn need_feature(is_wanted: bool) {
    if is_wanted && !cfg!(feature = "tls") {
        eprintln!("TLS is not in this build: build it with the feature `tls` (--features tls)");
        exit(2);
    }
}

#[cfg(feature = "tls")]
mod configs {
    use std::io;
    use std::sync::Arc;

    use coracle::tls::rustls::crypto::CryptoProvider;
    use coracle::tls::rustls::{ClientConfig, ServerConfig};
    use coracle::tls::{identity_from_pem_files, roots_from_pem_file};

    use super::{ClientTls, ServerTls};

    /// The cryptography. A program of your own may have `rustls` with the feature `ring` or
    /// `aws_lc_rs` instead: these two need no C compiler.
    fn provider() -> Arc<CryptoProvider> {
        #[cfg(all(
            any(unix, windows),
            any(target_arch = "x86_64", target_arch = "aarch64")
        ))]
        return Arc::new(rustls_graviola::default_provider());
        #[cfg(not(all(
            any(unix, windows),
            any(target_arch = "x86_64", target_arch = "aarch64")
        )))]
        Arc::new(rustls_rustcrypto::provider())
    }

    impl ClientTls {
        /// Trusts whom the file names, and nobody else.
        pub(crate) fn config(&self) -> io::Result<Option<ClientConfig>> {
            let Some(ca) = &self.ca else {
                return Ok(None);
            };
            let config = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .with_root_certificates(roots_from_pem_file(ca)?)
                .with_no_client_auth();
            Ok(Some(config))
        }
    }

    impl ServerTls {
        /// Shows the certificate to everybody, and asks for none.
        pub(crate) fn config(&self) -> io::Result<Option<ServerConfig>> {
            let Some((cert, key)) = &self.identity else {
                return Ok(None);
            };
            let (certs, key) = identity_from_pem_files(cert, key)?;
            let config = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .with_no_client_auth()
                .with_single_cert(certs, key)
                .map_err(io::Error::other)?;
            Ok(Some(config))
        }
    }
}
