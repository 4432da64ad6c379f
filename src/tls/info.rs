//! What a TLS handshake has come to.

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};

/// What two ends of a TLS connection have agreed on.
///
/// *asyncio equivalent*: `get_extra_info` with `"peercert"`, `"cipher"` and `"ssl_object"`.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    version: Option<ProtocolVersion>,
    cipher_suite: Option<CipherSuite>,
    handshake: Option<HandshakeKind>,
    alpn: Option<Box<[u8]>>,
    peer_certificates: Box<[CertificateDer<'static>]>,
    server_name: Option<Box<str>>,
}

impl TlsInfo {
    pub(crate) fn new(common: &CommonState, server_name: Option<&str>) -> TlsInfo {
        TlsInfo {
            version: common.protocol_version(),
            cipher_suite: common.negotiated_cipher_suite().map(|suite| suite.suite()),
            handshake: common.handshake_kind(),
            alpn: common.alpn_protocol().map(Box::from),
            peer_certificates: common.peer_certificates().unwrap_or_default().into(),
            server_name: server_name.map(Box::from),
        }
    }

    /// The version of the protocol.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// The cipher suite.
    pub fn cipher_suite(&self) -> Option<CipherSuite> {
        self.cipher_suite
    }

    /// Whether the handshake was a full one, or went on with an earlier session.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.handshake
    }

    /// The protocol that was chosen by ALPN (RFC 7301), if the ends have agreed on one.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// The peer's certificate, then those that certify it, in DER. None if the peer has shown none,
    /// as clients do unless the server asks.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.peer_certificates
    }

    /// The name that the client has asked for (SNI), at the server; clients know it.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }
}
