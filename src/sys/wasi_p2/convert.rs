//! Addresses and error codes between our form and the host's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};

use crate::error::unsupported;
use crate::sys::caps::Family;
pub(super) use crate::sys::wasi::address::{local, remote};

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
        assert_eq!(
            error(ErrorCode::WouldBlock).kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
