//! What the tests of TLS share: certificates (see `tests/tls/make`) and configurations.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::sync::Arc;

use coracle::tls::rustls::crypto::CryptoProvider;
use coracle::tls::rustls::pki_types::pem::PemObject;
use coracle::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use coracle::tls::rustls::server::WebPkiClientVerifier;
use coracle::tls::rustls::version::{TLS12, TLS13};
use coracle::tls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// A name that the server's certificate has.
pub(crate) const NAME: &str = "server.example";

pub(crate) const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
pub(crate) const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
pub(crate) const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// The cryptography of the tests and the examples.
pub(crate) fn provider() -> Arc<CryptoProvider> {
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

macro_rules! files {
    ($($name:literal)*) => {
        /// A file of `tests/tls`.
        pub(crate) fn file(name: &str) -> &'static [u8] {
            match name {
                $($name => include_bytes!(concat!("../tls/", $name)),)*
                _ => panic!("no such file: {name}"),
            }
        }
    };
}

files!("ca.pem" "stranger.pem" "server.pem" "server.key" "client.pem" "client.key"
    "expired.pem" "expired.key");

pub(crate) fn cert(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(file(&format!("{name}.pem"))).unwrap()
}

fn key(name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(file(&format!("{name}.key"))).unwrap()
}

pub(crate) fn roots(name: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(cert(name)).unwrap();
    roots
}

/// A client that trusts this authority, and shows this certificate if asked.
pub(crate) fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    authority: &str,
    identity: Option<&str>,
) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(authority));
    match identity {
        None => config.with_no_client_auth(),
        Some(name) => config
            .with_client_auth_cert(vec![cert(name)], key(name))
            .unwrap(),
    }
}

/// A server that shows this certificate, and asks for the client's if `mutual`.
pub(crate) fn server_of(
    versions: &[&'static SupportedProtocolVersion],
    identity: &str,
    mutual: bool,
) -> ServerConfig {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap();
    let config = match mutual {
        false => config.with_no_client_auth(),
        true => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots("ca").into(), provider());
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    config
        .with_single_cert(vec![cert(identity)], key(identity))
        .unwrap()
}

pub(crate) fn client() -> Arc<ClientConfig> {
    Arc::new(client_of(BOTH, "ca", None))
}

pub(crate) fn server() -> Arc<ServerConfig> {
    Arc::new(server_of(BOTH, "server", false))
}
