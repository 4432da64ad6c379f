//! Batches of datagrams: the currency between kernel and callback, for both faces.

mod recv;
mod send;

use std::net::{IpAddr, Ipv4Addr};

pub use self::recv::RecvBatch;
pub(crate) use self::recv::{Kept, Lent, Slot};
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
    /// machine's, or a group's; [`SendMeta::reply_to`] makes a reply come from there. Needs
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
    /// The address to reply from where it is not the destination: that was a broadcast address.
    pub(crate) local: Option<Ipv4Addr>,
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
            local: None,
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
///
/// What the platform cannot do with it is an error of the send, never left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SendMeta {
    /// The congestion mark to send it with; the socket's own if `None`. The other bits of the
    /// byte (DSCP) stay the socket's.
    pub ecn: Option<Ecn>,
    /// The local address to send it from, on a socket bound to a wildcard address. It must be of
    /// the destination's IP version; on a socket for both, `::ffff:a.b.c.d` is IPv4.
    pub source: Option<IpAddr>,
    /// The index of the interface to send it by. A link-local source needs it, unless the
    /// destination's address says it.
    pub interface: Option<u32>,
}

impl SendMeta {
    /// For a reply to a datagram that came with this: from the address that it was sent to, if
    /// [that is known](crate::net::UdpSocket::set_receive_destination), and by the interface that
    /// it came in by if the address alone does not tell. A reply to what was sent to a group, or
    /// to a broadcast address, comes from the interface's own.
    ///
    /// # Examples
    /// ```
    /// use coracle::net::{SendBatch, SendMeta, UdpSocket};
    ///
    /// coracle::block_on(async {
    ///     let server = UdpSocket::bind("0.0.0.0:0").await?;
    ///     if server.caps().destination {
    ///         server.set_receive_destination(true)?;
    ///     }
    ///     # let port = server.local_addr()?.as_ip().unwrap().port();
    ///     # let client = UdpSocket::bind("127.0.0.1:0").await?;
    ///     # client.send_to(b"ping", &([127, 0, 0, 1], port).into()).await?;
    ///     let mut buf = [0; 1500];
    ///     let (len, meta) = server.recv_meta(&mut buf).await?;
    ///     let mut reply = SendBatch::new();
    ///     reply.push_with(&buf[..len], Some(&meta.from), SendMeta::reply_to(&meta));
    ///     server.send_batch(&mut reply).await?;
    /// #   std::io::Result::Ok(())
    /// })
    /// # .unwrap();
    /// ```
    pub fn reply_to(meta: &Meta) -> SendMeta {
        let destination = meta.destination.map(|to| to.to_canonical());
        let is_group = destination.is_some_and(|to| to.is_multicast());
        let source = meta.local.map(IpAddr::V4).or(destination);
        let source = source.filter(|source| !source.is_multicast());
        SendMeta {
            ecn: None,
            source,
            interface: meta
                .interface
                .filter(|_| is_group || source.is_some_and(is_link_local)),
        }
    }

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

    /// By the interface with this index.
    pub fn with_interface(mut self, index: u32) -> SendMeta {
        self.interface = Some(index);
        self
    }

    /// The first field that is given, by name: where none can be honoured.
    pub(crate) fn given(&self) -> Option<&'static str> {
        [
            ("ecn", self.ecn.is_some()),
            ("source", self.source.is_some()),
            ("interface", self.interface.is_some()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }
}

/// Whether only the interface tells which of several addresses it is.
pub(crate) fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replying(destination: &str, local: Option<&str>) -> (Option<String>, Option<u32>) {
        let mut meta = Meta::EMPTY;
        meta.destination = Some(destination.parse().unwrap());
        meta.local = local.map(|local| local.parse().unwrap());
        meta.interface = Some(3);
        let reply = SendMeta::reply_to(&meta);
        (
            reply.source.map(|source| source.to_string()),
            reply.interface,
        )
    }

    #[test]
    fn replies_come_from_where_the_question_went() {
        let from = |text: &str| Some(text.to_string());
        assert_eq!(replying("192.0.2.1", None), (from("192.0.2.1"), None));
        assert_eq!(
            replying("::ffff:192.0.2.1", None),
            (from("192.0.2.1"), None)
        );
        assert_eq!(replying("2001:db8::1", None), (from("2001:db8::1"), None));
        assert_eq!(replying("fe80::1", None), (from("fe80::1"), Some(3)));
        assert_eq!(replying("ff02::1", None), (None, Some(3)));
        let broadcast = replying("192.0.2.255", Some("192.0.2.1"));
        assert_eq!(broadcast, (from("192.0.2.1"), None));
        assert_eq!(SendMeta::reply_to(&Meta::EMPTY), SendMeta::default());
    }
}
