//! Certificates and keys from PEM files (RFC 7468).

use std::io;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::RootCertStore;

use crate::error::context;

/// Reads the certificates of a PEM file, in their order.
///
/// # Errors
/// - the system's, with the path.
/// - `InvalidData`: the file holds no certificate, or is no PEM; the message names the path.
pub fn certs_from_pem_file(path: impl AsRef<Path>) -> io::Result<Vec<CertificateDer<'static>>> {
    let path = path.as_ref();
    let certs = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certs: Vec<_> = certs.map_err(|error| pem_error(error, path))?;
    match certs.is_empty() {
        true => Err(pem_error(pem::Error::NoItemsFound, path)),
        false => Ok(certs),
    }
}

/// Reads the certificates that are to be trusted, and no others, from a PEM file.
///
/// # Errors
/// As [`certs_from_pem_file`]; `InvalidData` also if one of them is no certificate.
///
/// # Examples
/// ```no_run
/// use coracle::tls::{self, rustls};
///
/// let roots = tls::roots_from_pem_file("ca.pem")?;
/// let config = rustls::ClientConfig::builder()
///     .with_root_certificates(roots)
///     .with_no_client_auth();
/// # let _ = config;
/// # std::io::Result::Ok(())
/// ```
pub fn roots_from_pem_file(path: impl AsRef<Path>) -> io::Result<RootCertStore> {
    let path = path.as_ref();
    let mut roots = RootCertStore::empty();
    for cert in certs_from_pem_file(path)? {
        let added = roots.add(cert);
        added.map_err(|error| context(super::sinks::error(error), path.display()))?;
    }
    Ok(roots)
}

/// Reads a certificate with those that certify it from one PEM file, and its private key (PKCS #8,
/// PKCS #1 or SEC 1) from another, which may be the same.
///
/// # Errors
/// As [`certs_from_pem_file`]; `InvalidData` also if there is no key.
///
/// # Examples
/// ```no_run
/// use coracle::tls::{self, rustls};
///
/// let (certs, key) = tls::identity_from_pem_files("server.pem", "server.key")?;
/// let config = rustls::ServerConfig::builder()
///     .with_no_client_auth()
///     .with_single_cert(certs, key)
///     .map_err(std::io::Error::other)?;
/// # let _ = config;
/// # std::io::Result::Ok(())
/// ```
pub fn identity_from_pem_files(
    certs: impl AsRef<Path>,
    key: impl AsRef<Path>,
) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = key.as_ref();
    let certs = certs_from_pem_file(certs)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem_error(error, key))?;
    Ok((certs, key))
}

fn pem_error(error: pem::Error, path: &Path) -> io::Error {
    let error = match error {
        pem::Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    };
    context(error, path.display())
}
