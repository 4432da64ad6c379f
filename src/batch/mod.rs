//! Batches of datagrams: the currency between kernel and callback, for both faces.

mod recv;
mod send;

use std::net::IpAddr;

pub use self::recv::RecvBatch;
pub(crate) use self::recv::{Lent, Slot};
pub(crate) use self::send::Run;
pub use self::send::SendBatch;
use crate::address::Address;

/// What is known of one received datagram.
///
/// The fields beyond the source are given where the system has them and they were asked for; see
/// [`UdpSocket::caps`](crate::net::UdpSocket::caps).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// Who sent it; [`Address::UNNAMED`] for a Unix socket that was never bound.
    pub from: Address,
    /// The address it was sent to, which on a socket bound to a wildcard address may be any of the
    /// machine's, or a group's. Needs
    /// [`set_receive_destination`](crate::net::UdpSocket::set_receive_destination).
    pub destination: Option<IpAddr>,
    /// The index of the interface it came in by. Comes with the destination.
    pub interface: Option<u32>,
    /// Its congestion mark. Needs [`set_receive_ecn`](crate::net::UdpSocket::set_receive_ecn).
    pub ecn: Option<Ecn>,
    /// The size at which the system merged it with its neighbours; all but the last of a merged
    /// run have it. Needs [`set_receive_offload`](crate::net::UdpSocket::set_receive_offload).
    pub segment_size: Option<usize>,
    /// The buffer was too small: the end of the datagram is lost.
    pub truncated: bool,
}

impl Meta {
    pub(crate) const EMPTY: Meta = Meta::from(Address::EMPTY);

    pub(crate) const fn from(from: Address) -> Meta {
        Meta {
            from,
            destination: None,
            interface: None,
            ecn: None,
            segment_size: None,
            truncated: false,
        }
    }
}

/// Explicit congestion notification: the two bits of RFC 3168 in the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// The sender's transport does not take part.
    NotCapable = 0b00,
    /// ECT(1): takes part (or asks for L4S, RFC 9331).
    Capable1 = 0b01,
    /// ECT(0): takes part.
    Capable0 = 0b10,
    /// A router on the way was congested.
    CongestionExperienced = 0b11,
}

impl Ecn {
    /// The mark in the lower two bits of a TOS or traffic class byte.
    pub fn from_bits(byte: u8) -> Ecn {
        match byte & 0b11 {
            0b00 => Ecn::NotCapable,
            0b01 => Ecn::Capable1,
            0b10 => Ecn::Capable0,
            _ => Ecn::CongestionExperienced,
        }
    }
}

/// What a datagram to be sent may carry besides its bytes and its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SendMeta {
    /// The congestion mark to send it with; the socket's own if `None`.
    pub ecn: Option<Ecn>,
    /// The local address to send it from, on a socket bound to a wildcard address.
    pub source: Option<IpAddr>,
}

impl SendMeta {
    /// With this congestion mark.
    pub fn with_ecn(mut self, ecn: Ecn) -> SendMeta {
        self.ecn = Some(ecn);
        self
    }

    /// From this local address.
    pub fn with_source(mut self, source: IpAddr) -> SendMeta {
        self.source = Some(source);
        self
    }
}
