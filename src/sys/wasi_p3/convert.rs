//! Addresses and error codes between our form and the host's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use wasip3::sockets::ip_name_lookup::{ErrorCode as LookupError, IpAddress};
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};

use crate::error::unsupported;
use crate::sys::caps::Family;
use crate::sys::wasi::lookup::no_lookup;

pub(super) fn to_wasi(addr: SocketAddr) -> IpSocketAddress {
    match addr {
        SocketAddr::V4(addr) => {
            let [a, b, c, d] = addr.ip().octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress {
                port: addr.port(),
                address: (a, b, c, d),
            })
        }
        SocketAddr::V6(addr) => {
            let [a, b, c, d, e, f, g, h] = addr.ip().segments();
            IpSocketAddress::Ipv6(Ipv6SocketAddress {
                port: addr.port(),
                flow_info: addr.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: addr.scope_id(),
            })
        }
    }
}

pub(super) fn from_wasi(addr: IpSocketAddress) -> SocketAddr {
    match addr {
        IpSocketAddress::Ipv4(addr) => {
            (ip_from_wasi(IpAddress::Ipv4(addr.address)), addr.port).into()
        }
        IpSocketAddress::Ipv6(addr) => {
            let (a, b, c, d, e, f, g, h) = addr.address;
            SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::new(a, b, c, d, e, f, g, h),
                addr.port,
                addr.flow_info,
                addr.scope_id,
            ))
        }
    }
}

pub(super) fn ip_from_wasi(ip: IpAddress) -> IpAddr {
    match ip {
        IpAddress::Ipv4((a, b, c, d)) => Ipv4Addr::new(a, b, c, d).into(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => Ipv6Addr::new(a, b, c, d, e, f, g, h).into(),
    }
}

pub(super) fn family_to_wasi(family: Family) -> io::Result<IpAddressFamily> {
    match family {
        Family::Inet => Ok(IpAddressFamily::Ipv4),
        Family::Inet6 => Ok(IpAddressFamily::Ipv6),
        Family::Unix => Err(unsupported("a Unix socket")),
    }
}

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

/// The error of making a socket: what is denied there is the capability itself.
pub(super) fn creation_error(code: ErrorCode, protocol: &str) -> io::Error {
    match code {
        ErrorCode::AccessDenied => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("access-denied: the host grants this component no {protocol} sockets"),
        ),
        code => error(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_the_hosts_form() {
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%3]:80"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(from_wasi(to_wasi(addr)), addr);
        }
    }

    #[test]
    fn codes_keep_their_names() {
        let denied = error(ErrorCode::AccessDenied);
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(denied.to_string(), "access-denied");
        let text = error(ErrorCode::Other(Some("ENOBUFS".to_owned()))).to_string();
        assert_eq!(text, "other: ENOBUFS");
    }
}
