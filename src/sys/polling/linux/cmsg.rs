//! Control messages: what travels beside a datagram.
#![allow(unsafe_code)]
// The types of these fields differ between the C libraries.
#![allow(clippy::unnecessary_cast)]

use std::mem::{size_of, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use crate::batch::{Ecn, Meta};

/// Room for what is received: all that coracle asks for, and what the owner of the socket may have
/// asked for besides (times of arrival, overflows, original destinations, …), which comes first.
const SPACE: usize = 320;

/// Room for what is sent: 24 + 24 + 40 bytes at most.
const SENT: usize = 88;

/// A buffer for control messages, aligned as they must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([MaybeUninit<u8>; SPACE]);

/// What is to be said of a datagram that is sent, as the kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extra {
    /// It goes out as IPv4: the messages of the other version would be ignored.
    pub(super) v4: bool,
    /// The whole byte, the congestion mark in it.
    pub(super) traffic_class: Option<u8>,
    pub(super) source: Option<IpAddr>,
    /// 0: the system chooses.
    pub(super) interface: u32,
    pub(super) segment_size: Option<u16>,
}

impl Extra {
    /// Whether there is anything to say.
    pub(super) fn is_empty(&self) -> bool {
        self.segment_size.is_none()
            && self.traffic_class.is_none()
            && self.source.is_none()
            && self.interface == 0
    }
}

impl Control {
    pub(super) const EMPTY: Control = Control([MaybeUninit::uninit(); SPACE]);

    /// For receiving: all of it.
    pub(super) fn lend(&mut self, header: &mut libc::msghdr) {
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = SPACE as _;
    }

    /// For sending. Nothing to say is no buffer.
    pub(super) fn fill(&mut self, header: &mut libc::msghdr, extra: &Extra) {
        if extra.is_empty() {
            return;
        }
        self.0[..SENT].fill(MaybeUninit::zeroed());
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = SENT as _;
        // SAFETY: the header points to a part of `self`, which is borrowed, aligned for control
        // messages and zeroed above.
        let next = unsafe { libc::CMSG_FIRSTHDR(header) };
        let mut writer = Writer {
            header,
            used: 0,
            next,
        };
        if let Some(size) = extra.segment_size {
            writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, size);
        }
        if let Some(byte) = extra.traffic_class {
            let byte = libc::c_int::from(byte);
            if extra.v4 {
                writer.push(libc::IPPROTO_IP, libc::IP_TOS, byte);
            } else {
                writer.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, byte);
            }
        }
        if extra.source.is_some() || extra.interface != 0 {
            writer.push_source(extra);
        }
        writer.finish();
    }
}

struct Writer<'a> {
    header: &'a mut libc::msghdr,
    used: usize,
    next: *mut libc::cmsghdr,
}

impl Writer<'_> {
    fn push_source(&mut self, extra: &Extra) {
        if extra.v4 {
            let source = match extra.source {
                Some(IpAddr::V4(source)) => source,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let info = libc::in_pktinfo {
                ipi_ifindex: extra.interface as _,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(source.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        } else {
            let source = match extra.source {
                Some(IpAddr::V6(source)) => source,
                _ => Ipv6Addr::UNSPECIFIED,
            };
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: source.octets(),
                },
                ipi6_ifindex: extra.interface as _,
            };
            self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }

    /// All values together fit.
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        // SAFETY: CMSG_SPACE and CMSG_LEN compute with the number they are given.
        let (space, len) = unsafe {
            (
                libc::CMSG_SPACE(size_of::<T>() as _) as usize,
                libc::CMSG_LEN(size_of::<T>() as _),
            )
        };
        if self.next.is_null() || self.used + space > SENT {
            debug_assert!(false, "control messages do not fit");
            return;
        }
        // SAFETY: `next` is not null, so it points to the next header in the buffer of `fill`, which
        // is borrowed as long as this writer; the value fits behind it, as just checked, and is
        // written unaligned. CMSG_NXTHDR stays within the buffer, which was zeroed.
        unsafe {
            (*self.next).cmsg_level = level;
            (*self.next).cmsg_type = kind;
            (*self.next).cmsg_len = len as _;
            ptr::write_unaligned(libc::CMSG_DATA(self.next).cast::<T>(), value);
            self.next = libc::CMSG_NXTHDR(self.header, self.next);
        }
        self.used += space;
    }

    fn finish(self) {
        self.header.msg_controllen = self.used as _;
    }
}

/// Reads the control messages that came with a datagram into `meta`.
///
/// # Safety
/// `header` is as a successful receive has left it, and the buffers it points to are alive.
pub(super) unsafe fn read(header: &libc::msghdr, meta: &mut Meta) {
    // SAFETY: by the contract above, the kernel wrote `msg_controllen` bytes of well-formed control
    // messages, which are still there.
    let mut cmsg: *const libc::cmsghdr = unsafe { libc::CMSG_FIRSTHDR(header) };
    // A reference to the header would not cover the value behind it: pointers all the way.
    while !cmsg.is_null() {
        // SAFETY: in a well-formed buffer, what CMSG_FIRSTHDR and CMSG_NXTHDR give is null or a
        // whole message, and null was ruled out. `value` checks the length for its type.
        unsafe {
            match ((*cmsg).cmsg_level, (*cmsg).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    meta.segment_size = value::<libc::c_int>(cmsg)
                        .and_then(|size| usize::try_from(size).ok())
                        .filter(|size| *size > 0);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    meta.ecn = value::<u8>(cmsg).map(Ecn::from_bits);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    meta.ecn = value::<libc::c_int>(cmsg).map(|byte| Ecn::from_bits(byte as u8));
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    if let Some(info) = value::<libc::in_pktinfo>(cmsg) {
                        let addr = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                        let local = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                        // A socket for both versions has had IPv6's message before, and keeps
                        // its form.
                        if meta.destination.is_none() {
                            meta.destination = Some(addr.into());
                            meta.interface = u32::try_from(info.ipi_ifindex).ok();
                        }
                        meta.local = Some(local).filter(|local| *local != addr);
                    }
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    if let Some(info) = value::<libc::in6_pktinfo>(cmsg) {
                        meta.destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                        meta.interface = Some(info.ipi6_ifindex as u32);
                    }
                }
                _ => {}
            }
            cmsg = libc::CMSG_NXTHDR(header, cmsg);
        }
    }
}

/// # Safety
/// `cmsg` points to a whole control message.
unsafe fn value<T: Copy>(cmsg: *const libc::cmsghdr) -> Option<T> {
    // SAFETY: by the contract above there is a header, and CMSG_LEN computes with a number.
    let (len, needed) = unsafe {
        (
            (*cmsg).cmsg_len as usize,
            libc::CMSG_LEN(size_of::<T>() as _) as usize,
        )
    };
    if len < needed {
        return None;
    }
    // SAFETY: the whole message, `len` bytes, has room for a `T`, as just checked. It is read
    // unaligned, and all `T`s that are asked for are made of integers, of which any is valid.
    Some(unsafe { ptr::read_unaligned(libc::CMSG_DATA(cmsg).cast::<T>()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> libc::msghdr {
        // SAFETY: a msghdr is made of integers and pointers, which may be zero.
        unsafe { std::mem::zeroed() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (source, v4) in [("192.0.2.7", true), ("2001:db8::7", false)] {
            let source: IpAddr = source.parse().unwrap();
            for traffic_class in [None, Some(0xb8 | Ecn::Capable0 as u8)] {
                for segment_size in [None, Some(1200)] {
                    let extra = Extra {
                        v4,
                        traffic_class,
                        source: Some(source),
                        interface: 3,
                        segment_size,
                    };
                    let mut control = Control::EMPTY;
                    let mut header = header();
                    control.fill(&mut header, &extra);
                    let mut read_back = Meta::EMPTY;
                    // SAFETY: `fill` leaves well-formed messages, as the kernel does, in `control`.
                    unsafe { read(&header, &mut read_back) };
                    assert_eq!(read_back.ecn, traffic_class.map(|_| Ecn::Capable0));
                    assert_eq!(read_back.interface, Some(3));
                    // What IPv4 is sent from stands where it is received at.
                    match source {
                        IpAddr::V4(source) => assert_eq!(read_back.local, Some(source)),
                        IpAddr::V6(_) => assert_eq!(read_back.destination, Some(source)),
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_to_say_is_no_control_buffer() {
        let mut control = Control::EMPTY;
        let mut header = header();
        let extra = Extra {
            v4: true,
            ..Extra::default()
        };
        control.fill(&mut header, &extra);
        assert!(header.msg_control.is_null());
    }
}
