//! Addresses and error codes between our form and the host's.

use std::io;

use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};

crate::sys::wasi::convert::conversions!();

/// Every code as an error of its kind, which keeps its name.
pub(super) fn error(code: ErrorCode) -> io::Error {
    use io::ErrorKind as Kind;
    let kind = match code {
        ErrorCode::AccessDenied => Kind::PermissionDenied,
        ErrorCode::NotSupported => Kind::Unsupported,
        ErrorCode::InvalidArgument | ErrorCode::DatagramTooLarge => Kind::InvalidInput,
        ErrorCode::OutOfMemory => Kind::OutOfMemory,
        ErrorCode::Timeout => Kind::TimedOut,
        ErrorCode::WouldBlock => return Kind::WouldBlock.into(),
        ErrorCode::InvalidState | ErrorCode::NotInProgress => Kind::NotConnected,
        ErrorCode::AddressInUse => Kind::AddrInUse,
        ErrorCode::AddressNotBindable => Kind::AddrNotAvailable,
        ErrorCode::RemoteUnreachable => Kind::HostUnreachable,
        ErrorCode::ConnectionRefused => Kind::ConnectionRefused,
        ErrorCode::ConnectionReset => Kind::ConnectionReset,
        ErrorCode::ConnectionAborted => Kind::ConnectionAborted,
        ErrorCode::NameUnresolvable => Kind::NotFound,
        ErrorCode::ConcurrencyConflict
        | ErrorCode::NewSocketLimit
        | ErrorCode::TemporaryResolverFailure
        | ErrorCode::PermanentResolverFailure
        | ErrorCode::Unknown => Kind::Other,
    };
    io::Error::new(kind, code.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_names() {
        let denied = error(ErrorCode::AccessDenied);
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(denied.to_string(), "access-denied");
        assert_eq!(
            error(ErrorCode::WouldBlock).kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
