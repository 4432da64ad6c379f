//! TLS by [rustls]: what goes with the option `tls` of connections and servers, and with
//! [`net::TlsStream`](crate::net::TlsStream).
//!
//! Feature `tls`. A client's or a server's configuration is rustls' own, [`rustls::ClientConfig`]
//! or [`rustls::ServerConfig`], so everything that rustls can do is there: client certificates,
//! ALPN, session resumption, certificates by name, verifiers of your own.
//!
//! What a configuration has of your own, a store of sessions above all, is called in the midst of a
//! connection's work: it must not call that connection's [`Transport`](crate::Transport), which
//! would wait for it for ever.
//!
//! # Cryptography
//! rustls takes its cryptography from a *provider*, and this crate has none: the program chooses.
//! - `rustls = { version = "0.23", features = ["ring"] }` or `["aws_lc_rs"]` in your `Cargo.toml`
//!   (both need a C compiler): then `ClientConfig::builder()` finds it by itself.
//! - the crate `rustls-graviola`: assembly without a C compiler, for x86-64 and AArch64.
//! - the crate `rustls-rustcrypto`: Rust alone, where nothing else can be had: WASI, and other
//!   processors without a C compiler. It is an alpha version, and brings crates with open
//!   advisories: `rsa` 0.9 (RUSTSEC-2023-0071; use no RSA keys with it) and `rustls-webpki` 0.102
//!   (RUSTSEC-2026-0098, -0099, -0104; certificates are checked by rustls' own, newer one).
//!
//! The last two are given to `builder_with_provider`, or installed once for the whole program with
//! [`install_default`](rustls::crypto::CryptoProvider::install_default).
//!
//! # Examples
//! A client and a server over a Unix socket:
//! ```no_run
//! # #[cfg(unix)]
//! # {
//! use coracle::tls::{self, rustls};
//! use coracle::{create_unix_connection, create_unix_server, on_data};
//! use coracle::{UnixOptions, UnixServerOptions};
//!
//! coracle::block_on(async {
//!     let (certs, key) = tls::identity_from_pem_files("server.pem", "server.key")?;
//!     let server = rustls::ServerConfig::builder().with_no_client_auth();
//!     let server = server.with_single_cert(certs, key).map_err(std::io::Error::other)?;
//!     let echo = || on_data(|transport, data| transport.write(data));
//!     let options = UnixServerOptions::new().path("/tmp/tls.sock").tls(server);
//!     let _server = create_unix_server(echo, options).await?;
//!
//!     let roots = tls::roots_from_pem_file("ca.pem")?;
//!     let client = rustls::ClientConfig::builder().with_root_certificates(roots);
//!     let client = client.with_no_client_auth();
//!     let options = UnixOptions::new().path("/tmp/tls.sock").tls(client);
//!     let options = options.server_hostname("localhost");
//!     let (transport, _) = create_unix_connection(echo, options).await?;
//!     transport.write(b"hello")
//! })
//! # .unwrap();
//! # }
//! ```

pub(crate) mod backlog;
mod info;
pub(crate) mod lent;
mod pem;
mod roots;
pub(crate) mod senders;
pub(crate) mod session;
mod sinks;

use std::io;
use std::net::Ipv6Addr;

use rustls::pki_types::ServerName;

pub use self::info::TlsInfo;
pub use self::pem::{certs_from_pem_file, identity_from_pem_files, roots_from_pem_file};
#[cfg(all(feature = "tls-native-certs", any(unix, windows)))]
pub use self::roots::native_roots;
#[cfg(feature = "tls-webpki-roots")]
pub use self::roots::webpki_roots;
pub use rustls;

use crate::error::invalid;

/// A server's name in the form that rustls has it: a host name or an IP address, without a scope,
/// which says something of this machine and not of the server.
pub(crate) fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    let host = match name.split_once('%') {
        Some((ip, _scope)) if ip.parse::<Ipv6Addr>().is_ok() => ip,
        _ => name,
    };
    ServerName::try_from(host.to_owned()).map_err(|_| {
        invalid(format_args!(
            "server_hostname '{name}' is neither a host name nor an IP address"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_not_part_of_a_servers_name() {
        let plain = server_name("fe80::1").unwrap();
        for scoped in ["fe80::1%lo", "fe80::1%1", "fe80::1%eth0.1"] {
            assert_eq!(server_name(scoped).unwrap(), plain);
        }
        for other in ["127.0.0.1%lo", "localhost%lo", "%lo", "no name", ""] {
            let error = server_name(other).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
