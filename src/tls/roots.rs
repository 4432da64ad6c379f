//! Root certificates that are trusted unless somebody says otherwise.

/// The root certificates of the web that Mozilla trusts, compiled in: the same on every platform,
/// and as old as this build.
///
/// # Platforms
/// All, with the feature `tls-webpki-roots`.
///
/// # Examples
/// ```
/// assert!(!coracle::tls::webpki_roots().is_empty());
/// ```
#[cfg(feature = "tls-webpki-roots")]
pub fn webpki_roots() -> rustls::RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// The root certificates that this machine trusts. They are read anew each time, which may take
/// long: keep them. Those that are no valid certificates are left out.
///
/// # Errors
/// - `NotFound`: there is none.
/// - the platform's, if it has none to give since something failed.
///
/// # Platforms
/// Native, with the feature `tls-native-certs`. On Unix, the environment variables `SSL_CERT_FILE`
/// and `SSL_CERT_DIR` say where they are.
#[cfg(all(feature = "tls-native-certs", any(unix, windows)))]
pub fn native_roots() -> std::io::Result<rustls::RootCertStore> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    match (roots.is_empty(), loaded.errors.into_iter().next()) {
        (false, _) => Ok(roots),
        (true, Some(error)) => Err(std::io::Error::other(error)),
        (true, None) => Err(std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "this machine has no root certificates",
        )),
    }
}
