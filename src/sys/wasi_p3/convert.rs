//! Addresses and error codes between our form and the host's.

use std::io;

use wasip3::sockets::ip_name_lookup::{ErrorCode as LookupError, IpAddress};
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};

use crate::sys::wasi::lookup::no_lookup;

crate::sys::wasi::convert::conversions!();

/// Every code as an error of its kind, which keeps its name.
pub(super) fn error(code: ErrorCode) -> io::Error {
    use io::ErrorKind as Kind;
    let (kind, name) = match code {
        ErrorCode::AccessDenied => (Kind::PermissionDenied, "access-denied"),
        ErrorCode::NotSupported => (Kind::Unsupported, "not-supported"),
        ErrorCode::InvalidArgument => (Kind::InvalidInput, "invalid-argument"),
        ErrorCode::DatagramTooLarge => (Kind::InvalidInput, "datagram-too-large"),
        ErrorCode::OutOfMemory => (Kind::OutOfMemory, "out-of-memory"),
        ErrorCode::Timeout => (Kind::TimedOut, "timeout"),
        ErrorCode::InvalidState => (Kind::NotConnected, "invalid-state"),
        ErrorCode::AddressInUse => (Kind::AddrInUse, "address-in-use"),
        ErrorCode::AddressNotBindable => (Kind::AddrNotAvailable, "address-not-bindable"),
        ErrorCode::RemoteUnreachable => (Kind::HostUnreachable, "remote-unreachable"),
        ErrorCode::ConnectionRefused => (Kind::ConnectionRefused, "connection-refused"),
        ErrorCode::ConnectionBroken => (Kind::BrokenPipe, "connection-broken"),
        ErrorCode::ConnectionReset => (Kind::ConnectionReset, "connection-reset"),
        ErrorCode::ConnectionAborted => (Kind::ConnectionAborted, "connection-aborted"),
        ErrorCode::Other(text) => return other(text),
    };
    io::Error::new(kind, name)
}

fn other(text: Option<String>) -> io::Error {
    io::Error::other(match text {
        Some(text) => format!("other: {text}"),
        None => "other".to_owned(),
    })
}

/// The same for name lookup.
pub(super) fn lookup_error(code: LookupError) -> io::Error {
    use io::ErrorKind as Kind;
    let (kind, name) = match code {
        LookupError::AccessDenied => (Kind::PermissionDenied, "access-denied"),
        LookupError::InvalidArgument => (Kind::InvalidInput, "invalid-argument"),
        LookupError::NameUnresolvable => (Kind::NotFound, "name-unresolvable"),
        LookupError::TemporaryResolverFailure => (Kind::Other, "temporary-resolver-failure"),
        LookupError::PermanentResolverFailure => return no_lookup(),
        LookupError::Other(text) => return other(text),
    };
    io::Error::new(kind, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_names() {
        let denied = error(ErrorCode::AccessDenied);
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(denied.to_string(), "access-denied");
        let text = error(ErrorCode::Other(Some("ENOBUFS".to_owned()))).to_string();
        assert_eq!(text, "other: ENOBUFS");
    }
}
