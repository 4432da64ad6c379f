//! Socket options, from socket2 or from the kernel's own module.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use socket2::Socket;

use super::kernel::msg;
use crate::error::{context, invalid, unsupported};
use crate::sys::caps::{whole_seconds, Family, Interface, Keepalive, Membership, SocketOption};

/// The seconds that fit into the system's `linger`.
const MAX_LINGER: u64 = if cfg!(windows) {
    u16::MAX as u64
} else if cfg!(target_vendor = "apple") {
    // Kept as hundredths of a second in 16 bits.
    i16::MAX as u64 / 100
} else {
    i32::MAX as u64
};

pub(super) fn get(io: &Socket, family: Family, option: SocketOption) -> io::Result<u32> {
    let v4 = family == Family::Inet;
    match option {
        SocketOption::Broadcast => io.broadcast().map(u32::from),
        SocketOption::ReusePort => reuse_port(io).map(u32::from),
        SocketOption::Ttl if v4 => io.ttl_v4(),
        SocketOption::Ttl => io.unicast_hops_v6(),
        SocketOption::OnlyV6 => io.only_v6().map(u32::from),
        SocketOption::MulticastTtl if v4 => io.multicast_ttl_v4(),
        SocketOption::MulticastTtl => io.multicast_hops_v6(),
        SocketOption::MulticastLoop if v4 => io.multicast_loop_v4().map(u32::from),
        SocketOption::MulticastLoop => io.multicast_loop_v6().map(u32::from),
        SocketOption::RecvBufferSize => io.recv_buffer_size().map(saturate),
        SocketOption::SendBufferSize => io.send_buffer_size().map(saturate),
        SocketOption::NoDelay => io.tcp_nodelay().map(u32::from),
        SocketOption::KeepAlive => io.keepalive().map(u32::from),
        SocketOption::ReceiveDestination
        | SocketOption::ReceiveEcn
        | SocketOption::ReceiveOffload => msg::get(io, family, option),
    }
    .map_err(|error| context(error, option))
}

pub(super) fn set(io: &Socket, family: Family, option: SocketOption, value: u32) -> io::Result<()> {
    let v4 = family == Family::Inet;
    let on = value != 0;
    match option {
        SocketOption::Broadcast => io.set_broadcast(on),
        SocketOption::ReusePort => set_reuse_port(io, on),
        SocketOption::Ttl if v4 => io.set_ttl_v4(value),
        SocketOption::Ttl => io.set_unicast_hops_v6(value),
        SocketOption::OnlyV6 => io.set_only_v6(on),
        SocketOption::MulticastTtl if v4 => io.set_multicast_ttl_v4(value),
        SocketOption::MulticastTtl => io.set_multicast_hops_v6(value),
        SocketOption::MulticastLoop if v4 => io.set_multicast_loop_v4(on),
        SocketOption::MulticastLoop => io.set_multicast_loop_v6(on),
        SocketOption::RecvBufferSize => io.set_recv_buffer_size(value as usize),
        SocketOption::SendBufferSize => io.set_send_buffer_size(value as usize),
        SocketOption::NoDelay => io.set_tcp_nodelay(on),
        SocketOption::KeepAlive => io.set_keepalive(on),
        SocketOption::ReceiveDestination
        | SocketOption::ReceiveEcn
        | SocketOption::ReceiveOffload => msg::set(io, family, option, value),
    }
    .map_err(|error| context(error, format_args!("{option} = {value}")))?;
    if family == Family::Inet6 {
        set_v4_too(io, option, value);
    }
    Ok(())
}

/// A socket for both versions has some options for each. Where the system has not, or the socket
/// is for one only, there is none to set.
fn set_v4_too(io: &Socket, option: SocketOption, value: u32) {
    let _ = match option {
        SocketOption::Ttl => io.set_ttl_v4(value),
        SocketOption::MulticastTtl => io.set_multicast_ttl_v4(value),
        SocketOption::MulticastLoop => io.set_multicast_loop_v4(value != 0),
        _ => Ok(()),
    };
}

/// Turns keep-alive on, with what is set of its times.
pub(super) fn set_tcp_keepalive(io: &Socket, keepalive: Keepalive) -> io::Result<()> {
    let mut system = socket2::TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        system = system.with_time(time);
    }
    if cfg!(target_os = "openbsd") && keepalive != Keepalive::new() {
        return Err(unsupported("keepalive with times"));
    }
    #[cfg(not(target_os = "openbsd"))]
    {
        if let Some(interval) = keepalive.interval {
            system = system.with_interval(interval);
        }
        if let Some(retries) = keepalive.retries {
            system = system.with_retries(retries);
        }
    }
    io.set_tcp_keepalive(&system)
        .map_err(|error| context(error, format_args!("{keepalive:?}")))
}

/// In whole seconds, and not in none unless it is asked for, which resets the connection.
pub(super) fn set_linger(io: &Socket, linger: Option<Duration>) -> io::Result<()> {
    let seconds = linger.map(whole_seconds);
    if let Some(time) = linger.filter(|_| seconds > Some(MAX_LINGER)) {
        return Err(invalid(format_args!(
            "linger = {time:?} is out of range: up to {MAX_LINGER} s"
        )));
    }
    io.set_linger(seconds.map(Duration::from_secs))
        .map_err(|error| context(error, format_args!("linger = {linger:?}")))
}

fn saturate(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

#[cfg(all(unix, not(target_os = "cygwin")))]
pub(super) fn set_reuse_port(socket: &Socket, on: bool) -> io::Result<()> {
    // Linux refuses it for Unix sockets since 6.12; before, it took it and did nothing.
    if super::address::family_of(socket)? == Family::Unix {
        return Err(unsupported("reuse_port on a Unix socket"));
    }
    socket.set_reuse_port(on)
}

#[cfg(not(all(unix, not(target_os = "cygwin"))))]
pub(super) fn set_reuse_port(_socket: &Socket, _on: bool) -> io::Result<()> {
    Err(unsupported("reuse_port"))
}

#[cfg(all(unix, not(target_os = "cygwin")))]
fn reuse_port(socket: &Socket) -> io::Result<bool> {
    socket.reuse_port()
}

#[cfg(not(all(unix, not(target_os = "cygwin"))))]
fn reuse_port(_socket: &Socket) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn membership(
    io: &Socket,
    change: Membership,
    group: IpAddr,
    interface: Interface,
) -> io::Result<()> {
    let doing = match change {
        Membership::Join => "join",
        Membership::Leave => "leave",
    };
    match group {
        IpAddr::V4(group) => v4_membership(io, change, group, interface),
        IpAddr::V6(group) => v6_membership(io, change, group, interface),
    }
    .map_err(|error| context(error, format_args!("{doing} multicast group {group}")))
}

fn v4_membership(
    io: &Socket,
    change: Membership,
    group: Ipv4Addr,
    interface: Interface,
) -> io::Result<()> {
    let addr = match interface {
        Interface::Any => Ipv4Addr::UNSPECIFIED,
        Interface::Address(IpAddr::V4(addr)) => addr,
        Interface::Index(index) => return v4_membership_by_index(io, change, group, index),
        other => return Err(no_interface(other, "IPv4")),
    };
    match change {
        Membership::Join => io.join_multicast_v4(&group, &addr),
        Membership::Leave => io.leave_multicast_v4(&group, &addr),
    }
}

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    windows
))]
fn v4_membership_by_index(
    io: &Socket,
    change: Membership,
    group: Ipv4Addr,
    index: u32,
) -> io::Result<()> {
    let interface = socket2::InterfaceIndexOrAddress::Index(index);
    match change {
        Membership::Join => io.join_multicast_v4_n(&group, &interface),
        Membership::Leave => io.leave_multicast_v4_n(&group, &interface),
    }
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    windows
)))]
fn v4_membership_by_index(
    _io: &Socket,
    _change: Membership,
    _group: Ipv4Addr,
    _index: u32,
) -> io::Result<()> {
    Err(unsupported("an interface index for an IPv4 group"))
}

fn v6_membership(
    io: &Socket,
    change: Membership,
    group: Ipv6Addr,
    interface: Interface,
) -> io::Result<()> {
    let index = v6_interface(interface)?;
    match change {
        Membership::Join => io.join_multicast_v6(&group, index),
        Membership::Leave => io.leave_multicast_v6(&group, index),
    }
}

pub(super) fn set_multicast_interface(
    io: &Socket,
    family: Family,
    interface: Interface,
) -> io::Result<()> {
    match family {
        Family::Inet => {
            let addr = match interface {
                Interface::Any => Ipv4Addr::UNSPECIFIED,
                Interface::Address(IpAddr::V4(addr)) => addr,
                other => return Err(no_interface(other, "IPv4, which takes an address")),
            };
            io.set_multicast_if_v4(&addr)
        }
        _ => io.set_multicast_if_v6(v6_interface(interface)?),
    }
    .map_err(|error| context(error, format_args!("multicast interface {interface:?}")))
}

fn v6_interface(interface: Interface) -> io::Result<u32> {
    match interface {
        Interface::Any => Ok(0),
        Interface::Index(index) => Ok(index),
        other => Err(no_interface(other, "IPv6, which takes an index")),
    }
}

fn no_interface(interface: Interface, family: &str) -> io::Error {
    invalid(format_args!(
        "{interface:?} names no interface for {family}"
    ))
}
