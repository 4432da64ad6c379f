//! Which addresses a host is asked about at all.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::Address;
use crate::batch::Run;
use crate::error::{invalid, unsupported};
use crate::sys::caps::Family;

/// What a socket is bound to that nobody has bound.
pub(in crate::sys) fn any(family: Family) -> SocketAddr {
    match family {
        Family::Inet6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
        _ => (Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

/// Datagrams of others than the peer that one try to receive goes over.
pub(in crate::sys) const UNWANTED: usize = 64;

/// Whether a datagram from there is the peer's. An address that was given need not say all that
/// one that comes back does.
pub(in crate::sys) fn is_peer(peer: &SocketAddr, from: &SocketAddr) -> bool {
    peer.port() == from.port() && peer.ip() == from.ip()
}

pub(in crate::sys) fn bound_already() -> io::Error {
    invalid("the socket is bound already")
}

/// An IP address of a family, for binding.
pub(in crate::sys) fn local(addr: &Address, family: Family) -> io::Result<SocketAddr> {
    match addr {
        Address::Ip(ip) if Family::of(addr) == family => Ok(*ip),
        _ => Err(invalid(format_args!("{addr} is no {family} address"))),
    }
}

/// An IP address of a family that something can be sent to: a host need not bear any other.
pub(in crate::sys) fn remote(addr: &Address, family: Family) -> io::Result<SocketAddr> {
    remote_ref(addr, family).copied()
}

/// The same, for where there is one with each datagram.
pub(in crate::sys) fn remote_ref(addr: &Address, family: Family) -> io::Result<&SocketAddr> {
    match addr {
        Address::Ip(ip) if family == Family::Inet && is_v4_peer(ip) => Ok(ip),
        _ => check_remote(addr, family),
    }
}

fn is_v4_peer(ip: &SocketAddr) -> bool {
    matches!(ip, SocketAddr::V4(v4) if v4.port() != 0 && !v4.ip().is_unspecified())
}

#[inline(never)]
fn check_remote(addr: &Address, family: Family) -> io::Result<&SocketAddr> {
    let ip = match addr {
        Address::Ip(ip) if Family::of(addr) == family => ip,
        _ => return Err(invalid(format_args!("{addr} is no {family} address"))),
    };
    if ip.port() == 0 {
        return Err(invalid(format_args!("{addr} has port 0")));
    }
    if ip.ip().is_unspecified() {
        return Err(invalid(format_args!("{addr} is no address of a peer")));
    }
    if matches!(ip, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some()) {
        return Err(invalid(format_args!(
            "{addr} is an IPv4 address, which an IPv6 socket does not reach here"
        )));
    }
    Ok(ip)
}

/// Where datagrams of a batch go, if the host can send them as they are meant.
pub(in crate::sys) fn destination(run: &Run, family: Family) -> io::Result<Option<&SocketAddr>> {
    if let Some(field) = run.meta.given() {
        return Err(unsupported(field));
    }
    run.to.as_ref().map(|to| remote_ref(to, family)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_need_not_bear_is_refused_here() {
        for text in ["127.0.0.1:0", "0.0.0.0:1", "[::1]:1"] {
            let error = remote(&text.parse().unwrap(), Family::Inet).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(remote(&"[::ffff:127.0.0.1]:1".parse().unwrap(), Family::Inet6).is_err());
        assert!(remote(&"127.0.0.1:1".parse().unwrap(), Family::Inet).is_ok());
    }
}
