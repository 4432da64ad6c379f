//! What can be asked of a socket, whatever the platform.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::address::Address;
use crate::error::invalid;

/// What a socket can do here, asked at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Caps {
    /// Several datagrams cross into or out of the system with one call.
    pub batches: bool,
    /// How many datagrams of one size to one destination the system takes in one piece (GSO);
    /// 1 if it takes them one by one.
    pub max_segments: usize,
    /// The system can merge runs of datagrams on receipt (GRO).
    pub receive_offload: bool,
    /// Received datagrams can tell the address they were sent to.
    pub destination: bool,
    /// Received datagrams can tell their congestion mark, and sent ones carry one.
    pub ecn: bool,
}

/// Options with a number or a truth value (0 and 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketOption {
    Broadcast,
    ReusePort,
    Ttl,
    OnlyV6,
    MulticastTtl,
    MulticastLoop,
    RecvBufferSize,
    SendBufferSize,
    /// Received datagrams carry the address they were sent to.
    ReceiveDestination,
    /// Received datagrams carry their congestion mark.
    ReceiveEcn,
    /// Received datagrams may come merged.
    ReceiveOffload,
    /// Small writes go out at once.
    NoDelay,
    KeepAlive,
}

impl SocketOption {
    /// Refuses what the system would take for something else: a number that it stores in a smaller
    /// one, or that means its default.
    pub(crate) fn check(self, value: u32) -> io::Result<()> {
        let range = match self {
            SocketOption::Ttl => 1..=255,
            SocketOption::MulticastTtl => 0..=255,
            _ => return Ok(()),
        };
        if range.contains(&value) {
            return Ok(());
        }
        let (least, most) = range.into_inner();
        Err(invalid(format_args!(
            "{self} = {value} is out of range: from {least} to {most}"
        )))
    }
}

/// The option's name in the public interface, as errors say it.
impl fmt::Display for SocketOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SocketOption::Broadcast => "broadcast",
            SocketOption::ReusePort => "reuse_port",
            SocketOption::Ttl => "ttl",
            SocketOption::OnlyV6 => "only_v6",
            SocketOption::MulticastTtl => "multicast_ttl",
            SocketOption::MulticastLoop => "multicast_loop",
            SocketOption::RecvBufferSize => "recv_buffer_size",
            SocketOption::SendBufferSize => "send_buffer_size",
            SocketOption::ReceiveDestination => "receive_destination",
            SocketOption::ReceiveEcn => "receive_ecn",
            SocketOption::ReceiveOffload => "receive_offload",
            SocketOption::NoDelay => "nodelay",
            SocketOption::KeepAlive => "keep_alive",
        })
    }
}

/// Joining or leaving a multicast group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    Join,
    Leave,
}

/// A network interface: the system's choice, one named by an address it has (IPv4 only), or one
/// named by its index. Index 0 is no interface's: it is the system's choice again.
///
/// # Examples
/// ```
/// use coracle::net::Interface;
/// use std::net::Ipv4Addr;
///
/// let by_address = Interface::from(Ipv4Addr::LOCALHOST);
/// let by_index = Interface::from(2);
/// # let _ = (by_address, by_index);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Interface {
    /// The system chooses.
    #[default]
    Any,
    /// The interface that has this address.
    Address(IpAddr),
    /// The interface with this index, as `if_nametoindex(3)` gives it.
    Index(u32),
}

impl From<IpAddr> for Interface {
    fn from(addr: IpAddr) -> Interface {
        Interface::Address(addr)
    }
}

impl From<Ipv4Addr> for Interface {
    fn from(addr: Ipv4Addr) -> Interface {
        Interface::Address(addr.into())
    }
}

impl From<u32> for Interface {
    fn from(index: u32) -> Interface {
        Interface::Index(index)
    }
}

/// Address families of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
    /// Unix domain sockets.
    Unix,
}

impl Family {
    /// The family of an address.
    pub fn of(addr: &Address) -> Family {
        match addr {
            Address::Ip(addr) if addr.is_ipv4() => Family::Inet,
            Address::Ip(_) => Family::Inet6,
            Address::Unix(_) => Family::Unix,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Inet => "IPv4",
            Family::Inet6 => "IPv6",
            Family::Unix => "Unix",
        })
    }
}

/// How a datagram socket is to be made.
#[derive(Debug, Clone)]
pub(crate) struct DatagramConfig {
    pub(crate) family: Family,
    pub(crate) protocol: i32,
    pub(crate) reuse_port: bool,
    pub(crate) broadcast: bool,
    pub(crate) bind: Option<Address>,
    pub(crate) connect: Option<Address>,
}

impl DatagramConfig {
    pub(crate) fn new(family: Family) -> DatagramConfig {
        DatagramConfig {
            family,
            protocol: 0,
            reuse_port: false,
            broadcast: false,
            bind: None,
            connect: None,
        }
    }
}

/// How a stream socket is to be connected.
#[derive(Debug, Clone)]
pub(crate) struct StreamConfig {
    pub(crate) protocol: i32,
    /// The first of these that can be had is bound; none if it is empty.
    pub(crate) bind: Vec<Address>,
    pub(crate) connect: Address,
}

impl StreamConfig {
    pub(crate) fn to(addr: Address) -> StreamConfig {
        StreamConfig {
            protocol: 0,
            bind: Vec::new(),
            connect: addr,
        }
    }
}

/// How a listening socket is to be made.
#[derive(Debug, Clone)]
pub(crate) struct ListenerConfig {
    pub(crate) bind: Address,
    /// `None` is the platform's usual way.
    pub(crate) reuse_address: Option<bool>,
    pub(crate) reuse_port: bool,
    pub(crate) keep_alive: bool,
    /// An IPv6 listener takes IPv6 only; `None` is the platform's usual way.
    pub(crate) only_v6: Option<bool>,
}

impl ListenerConfig {
    pub(crate) fn at(addr: Address) -> ListenerConfig {
        ListenerConfig {
            bind: addr,
            reuse_address: None,
            reuse_port: false,
            keep_alive: false,
            only_v6: None,
        }
    }
}

/// The protocol that options ask for: 0 or a number of the system's.
pub(crate) fn check_protocol(protocol: i32) -> io::Result<()> {
    if protocol < 0 {
        return Err(invalid(format_args!("proto {protocol} is negative")));
    }
    Ok(())
}

/// The whole seconds that cover a time: what is shorter than one is no zero, which means something
/// else to the system.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    let partial = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(partial)
}

/// Linux' limits for keep-alive.
const MAX_SECONDS: u64 = 32_767;
const MAX_RETRIES: u32 = 127;

/// When an idle TCP connection is found to be dead: see tcp(7).
///
/// What is not set is the system's default, on Linux two hours, 75 seconds and 9. What is out of
/// range is refused where it is used; the ranges are Linux', the smallest of all systems.
///
/// # Examples
/// ```
/// use coracle::net::Keepalive;
/// use std::time::Duration;
///
/// let within_two_minutes = Keepalive::new()
///     .time(Duration::from_secs(60))
///     .interval(Duration::from_secs(20))
///     .retries(3);
/// # let _ = within_two_minutes;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    pub(crate) time: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) retries: Option<u32>,
}

impl Keepalive {
    /// The system's defaults.
    pub fn new() -> Keepalive {
        Keepalive::default()
    }

    /// How long nothing is received before the first probe (`TCP_KEEPIDLE`): up to 32,767 seconds,
    /// rounded up to whole ones, and not zero.
    pub fn time(mut self, time: Duration) -> Keepalive {
        self.time = Some(time);
        self
    }

    /// How long between two probes (`TCP_KEEPINTVL`): up to 32,767 seconds, rounded up to whole
    /// ones, and not zero.
    pub fn interval(mut self, interval: Duration) -> Keepalive {
        self.interval = Some(interval);
        self
    }

    /// How many probes without an answer end the connection (`TCP_KEEPCNT`): 1 to 127.
    pub fn retries(mut self, retries: u32) -> Keepalive {
        self.retries = Some(retries);
        self
    }

    /// In the numbers that systems take, unless it is out of their range.
    pub(crate) fn checked(mut self) -> io::Result<Keepalive> {
        for (name, time) in [("time", &mut self.time), ("interval", &mut self.interval)] {
            if let Some(time) = time {
                let seconds = whole_seconds(*time);
                if !(1..=MAX_SECONDS).contains(&seconds) {
                    return Err(invalid(format_args!(
                        "the keepalive {name} {time:?} is out of range: from 1 to {MAX_SECONDS} s"
                    )));
                }
                *time = Duration::from_secs(seconds);
            }
        }
        match self.retries {
            Some(retries) if !(1..=MAX_RETRIES).contains(&retries) => Err(invalid(format_args!(
                "{retries} keepalive retries are out of range: from 1 to {MAX_RETRIES}"
            ))),
            _ => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up_to_whole_ones() {
        for (time, seconds) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(900), 1),
            (Duration::from_secs(1), 1),
            (Duration::from_millis(1001), 2),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(whole_seconds(time), seconds, "{time:?}");
        }
    }
}
