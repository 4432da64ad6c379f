//! Addresses between our form, std's and socket2's.

use std::io;
use std::path::Path;

use socket2::SockAddr;

use crate::address::{Address, UnixAddress};
use crate::error::invalid;
use crate::sys::caps::Family;

#[cfg(unix)]
pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<&Path> {
    use std::os::unix::ffi::OsStrExt;
    Some(Path::new(std::ffi::OsStr::from_bytes(bytes)))
}

#[cfg(not(unix))]
pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<&Path> {
    std::str::from_utf8(bytes).ok().map(Path::new)
}

/// For `bind` and `connect`. An unnamed address asks Linux for an automatic name.
pub(super) fn to_sock_addr(addr: &Address) -> io::Result<SockAddr> {
    match addr {
        Address::Ip(addr) => Ok(SockAddr::from(*addr)),
        Address::Unix(addr) => {
            if let Some(name) = addr.as_abstract_name() {
                return abstract_name(addr, name);
            }
            let path = addr.as_path().unwrap_or(Path::new(""));
            SockAddr::unix(path).map_err(|_| {
                invalid(format_args!(
                    "the path '{addr}' is too long for a Unix socket on this platform"
                ))
            })
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn abstract_name(addr: &UnixAddress, _name: &[u8]) -> io::Result<SockAddr> {
    // A leading NUL is how socket2 and the kernel tell it from a path.
    SockAddr::unix(path_from_bytes(addr.as_bytes()).unwrap_or(Path::new("")))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn abstract_name(addr: &UnixAddress, _name: &[u8]) -> io::Result<SockAddr> {
    Err(crate::error::unsupported(format_args!(
        "the abstract Unix address '{addr}'"
    )))
}

pub(super) fn from_sock_addr(addr: &SockAddr) -> io::Result<Address> {
    if let Some(addr) = addr.as_socket() {
        return Ok(Address::Ip(addr));
    }
    if addr.is_unix() {
        return Ok(Address::Unix(unix_from_sock_addr(addr)));
    }
    Err(invalid(format_args!(
        "the socket's address family {} is neither IP nor Unix",
        addr.family()
    )))
}

#[cfg(unix)]
fn unix_from_sock_addr(addr: &SockAddr) -> UnixAddress {
    use std::os::unix::ffi::OsStrExt;
    if let Some(path) = addr.as_pathname() {
        return UnixAddress::copy_from(path.as_os_str().as_bytes());
    }
    match addr.as_abstract_namespace() {
        Some(name) => UnixAddress::from_abstract_name(name).unwrap_or(UnixAddress::UNNAMED),
        None => UnixAddress::UNNAMED,
    }
}

#[cfg(not(unix))]
fn unix_from_sock_addr(_addr: &SockAddr) -> UnixAddress {
    UnixAddress::UNNAMED
}

pub(super) fn domain(family: Family) -> socket2::Domain {
    match family {
        Family::Inet => socket2::Domain::IPV4,
        Family::Inet6 => socket2::Domain::IPV6,
        Family::Unix => socket2::Domain::UNIX,
    }
}

/// The family of an open socket, told from its own address.
pub(super) fn family_of(socket: &socket2::Socket) -> io::Result<Family> {
    match socket.local_addr() {
        Ok(addr) => from_sock_addr(&addr).map(|addr| Family::of(&addr)),
        // On Windows a socket has no address before it is bound, but IPv6's have their options.
        Err(_) if cfg!(windows) => Ok(match socket.only_v6() {
            Ok(_) => Family::Inet6,
            Err(_) => Family::Inet,
        }),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;

    use crate::address::{Address, UnixAddress};

    #[cfg(target_os = "linux")]
    fn abstract_name(addr: &SocketAddr) -> Option<&[u8]> {
        std::os::linux::net::SocketAddrExt::as_abstract_name(addr)
    }

    #[cfg(target_os = "android")]
    fn abstract_name(addr: &SocketAddr) -> Option<&[u8]> {
        std::os::android::net::SocketAddrExt::as_abstract_name(addr)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn abstract_name(_addr: &SocketAddr) -> Option<&[u8]> {
        None
    }

    impl From<SocketAddr> for UnixAddress {
        fn from(addr: SocketAddr) -> UnixAddress {
            if let Some(path) = addr.as_pathname() {
                return UnixAddress::copy_from(path.as_os_str().as_bytes());
            }
            abstract_name(&addr)
                .and_then(|name| UnixAddress::from_abstract_name(name).ok())
                .unwrap_or(UnixAddress::UNNAMED)
        }
    }

    impl From<SocketAddr> for Address {
        fn from(addr: SocketAddr) -> Address {
            Address::Unix(addr.into())
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_the_system_form() {
        let mut texts = vec![
            "127.0.0.1:80",
            "[::1]:80",
            "[fe80::1%3]:80",
            "/tmp/x.sock",
            "./x",
        ];
        if cfg!(any(target_os = "linux", target_os = "android")) {
            texts.push("@name");
        }
        for text in texts {
            let addr: Address = text.parse().unwrap();
            assert_eq!(from_sock_addr(&to_sock_addr(&addr).unwrap()).unwrap(), addr);
        }
        let unnamed = to_sock_addr(&Address::UNNAMED).unwrap();
        assert_eq!(from_sock_addr(&unnamed).unwrap(), Address::UNNAMED);
    }
}
