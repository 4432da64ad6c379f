//! What can be asked of a socket, whatever the platform.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::address::Address;

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
/// named by its index.
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

/// When an idle TCP connection is found to be dead: see tcp(7).
///
/// What is not set is the system's default, on Linux two hours, 75 seconds and 9.
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

    /// How long nothing is received before the first probe (`TCP_KEEPIDLE`), in whole seconds.
    pub fn time(mut self, time: Duration) -> Keepalive {
        self.time = Some(time);
        self
    }

    /// How long between two probes (`TCP_KEEPINTVL`), in whole seconds.
    pub fn interval(mut self, interval: Duration) -> Keepalive {
        self.interval = Some(interval);
        self
    }

    /// How many probes without an answer end the connection (`TCP_KEEPCNT`).
    pub fn retries(mut self, retries: u32) -> Keepalive {
        self.retries = Some(retries);
        self
    }
}
