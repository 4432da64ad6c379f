//! What a socket has turned out to take, and what is to be known of it before something is sent.

use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::msg::{get_int, has_v4_peer};
use crate::address::Address;
use crate::sys::caps::Family;

/// Segments the kernel takes in one message (`UDP_MAX_SEGMENTS`; newer ones take more).
const MAX_SEGMENTS: usize = 64;

/// Destinations that are remembered for what they do not take, the latest ones.
const REFUSALS: usize = 16;

/// Runs after which it is tried again: the path may have changed.
const RUNS: u32 = 1024;

pub(in crate::sys::polling) struct Offload {
    /// Segments of one message; 0 until asked.
    segments: AtomicUsize,
    facts: AtomicU32,
    /// There are refusals.
    refused: AtomicBool,
    refusals: Mutex<Vec<Refusal>>,
}

/// A destination that was sent a datagram which had been refused as a part of several.
struct Refusal {
    /// `None`: the peer the socket is connected to.
    to: Option<IpAddr>,
    /// The largest segments that may be tried.
    largest: usize,
    /// Runs before they are all tried again.
    left: u32,
}

/// What a socket says of itself, asked once.
#[derive(Clone, Copy)]
pub(super) struct Facts(u32);

/// Set once it was asked; the bits that no other has count how often it was forgotten.
const KNOWN: u32 = 1 << 31;
const V4_PEER: u32 = 1 << 16;
const FORGOTTEN: u32 = 1 << 17;

impl Facts {
    fn ask(fd: RawFd) -> Facts {
        let byte = |level, name| get_int(fd, level, name).map_or(0, |byte| byte as u32 & 0xff);
        let v4 = byte(libc::IPPROTO_IP, libc::IP_TOS);
        let v6 = byte(libc::IPPROTO_IPV6, libc::IPV6_TCLASS);
        let peer = if has_v4_peer(fd) { V4_PEER } else { 0 };
        Facts(KNOWN | peer | v6 << 8 | v4)
    }

    /// The peer of a socket for both versions is an IPv4 one.
    pub(super) fn has_v4_peer(self) -> bool {
        self.0 & V4_PEER != 0
    }

    /// The byte that the socket's datagrams carry (`IP_TOS`, `IPV6_TCLASS`).
    pub(super) fn traffic_class(self, v4: bool) -> u8 {
        let shift = if v4 { 0 } else { 8 };
        (self.0 >> shift) as u8
    }
}

impl Offload {
    pub(in crate::sys::polling) fn new(family: Family) -> Offload {
        Offload {
            segments: AtomicUsize::new(if family == Family::Unix { 1 } else { 0 }),
            facts: AtomicU32::new(0),
            refused: AtomicBool::new(false),
            refusals: Mutex::default(),
        }
    }

    /// Segments of one message at most.
    pub(super) fn max_segments(&self, fd: RawFd) -> usize {
        match self.segments.load(Ordering::Relaxed) {
            0 => {
                // Fails where the kernel is too old, or the protocol is not UDP.
                let known = get_int(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
                let segments = if known { MAX_SEGMENTS } else { 1 };
                self.segments.store(segments, Ordering::Relaxed);
                segments
            }
            segments => segments,
        }
    }

    /// The user has had the socket, or it has another peer: what was asked of it may be otherwise.
    pub(in crate::sys::polling) fn forget(&self) {
        let forget = |facts: u32| Some((facts & !KNOWN).wrapping_add(FORGOTTEN) & !KNOWN);
        let _ = self
            .facts
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, forget);
    }

    pub(in crate::sys::polling) fn forget_peer(&self) {
        self.forget();
        self.refusals().retain(|refusal| refusal.to.is_some());
    }

    pub(super) fn facts(&self, fd: RawFd) -> Facts {
        let before = self.facts.load(Ordering::Acquire);
        if before & KNOWN != 0 {
            return Facts(before);
        }
        let facts = Facts::ask(fd);
        let known = facts.0 | before & !(FORGOTTEN - 1);
        // Not if they were forgotten meanwhile.
        let _ = self
            .facts
            .compare_exchange(before, known, Ordering::AcqRel, Ordering::Acquire);
        facts
    }

    /// The largest segments that may be tried with a destination. Each call is one of its runs.
    pub(super) fn largest_segment(&self, to: Option<&Address>) -> usize {
        if !self.refused.load(Ordering::Relaxed) {
            return usize::MAX;
        }
        let mut refusals = self.refusals();
        let to = destination(to);
        let Some(i) = refusals.iter().position(|refusal| refusal.to == to) else {
            return usize::MAX;
        };
        refusals[i].left -= 1;
        let largest = refusals[i].largest;
        if refusals[i].left == 0 {
            refusals.remove(i);
            self.refused.store(!refusals.is_empty(), Ordering::Relaxed);
        }
        largest
    }

    /// Segments of this size were refused with `error`, twice, and a single one was not.
    pub(super) fn refuse(&self, to: Option<&Address>, error: &io::Error, segment_size: usize) {
        let largest = match error.raw_os_error() {
            // The device cannot do the checksums.
            Some(libc::EIO) => 0,
            // They exceed the path's MTU, and a segment is not fragmented.
            _ => segment_size.saturating_sub(1),
        };
        let to = destination(to);
        let mut refusals = self.refusals();
        refusals.retain(|refusal| refusal.to != to);
        if refusals.len() == REFUSALS {
            refusals.remove(0);
        }
        refusals.push(Refusal {
            to,
            largest,
            left: RUNS,
        });
        self.refused.store(true, Ordering::Relaxed);
    }

    fn refusals(&self) -> MutexGuard<'_, Vec<Refusal>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What routes and their MTUs depend on.
fn destination(to: Option<&Address>) -> Option<IpAddr> {
    to.and_then(Address::as_ip).map(|to| to.ip())
}

/// Whether an error of a message of several segments may be about their being several.
pub(super) fn may_be_about_segments(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_refusal_is_of_one_destination_and_one_size() {
        let offload = Offload::new(Family::Inet);
        let (small, other) = (to("192.0.2.1:1"), to("192.0.2.2:1"));
        let largest = |to: &Address| offload.largest_segment(Some(to));
        let too_large = io::Error::from_raw_os_error(libc::EMSGSIZE);
        offload.refuse(Some(&small), &too_large, 1400);
        assert_eq!(largest(&small), 1399);
        assert_eq!(largest(&to("192.0.2.1:2")), 1399, "the same path");
        assert_eq!(largest(&other), usize::MAX);
        assert_eq!(offload.largest_segment(None), usize::MAX);
        let no_checksums = io::Error::from_raw_os_error(libc::EIO);
        offload.refuse(Some(&small), &no_checksums, 1400);
        assert_eq!(largest(&small), 0);
        offload.refuse(None, &too_large, 1000);
        assert_eq!(offload.largest_segment(None), 999);
        offload.forget_peer();
        assert_eq!(offload.largest_segment(None), usize::MAX);
        assert_eq!(largest(&small), 0);
    }

    #[test]
    fn refusals_are_few_and_end() {
        let offload = Offload::new(Family::Inet);
        let error = io::Error::from_raw_os_error(libc::EMSGSIZE);
        for i in 0..100 {
            offload.refuse(Some(&([192, 0, 2, i], 1).into()), &error, 1400);
        }
        assert_eq!(offload.refusals().len(), REFUSALS);
        let last = Address::from(([192, 0, 2, 99], 1));
        for _ in 0..RUNS {
            assert_eq!(offload.largest_segment(Some(&last)), 1399);
        }
        assert_eq!(offload.largest_segment(Some(&last)), usize::MAX);
    }

    #[test]
    fn what_is_forgotten_is_asked_again() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
        let socket = socket.unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let offload = Offload::new(Family::Inet);
        assert_eq!(offload.facts(fd).traffic_class(true), 0);
        for byte in [0x10, 0xb8] {
            let before = offload.facts(fd).traffic_class(true);
            socket.set_tos_v4(byte).unwrap();
            assert_eq!(offload.facts(fd).traffic_class(true), before, "asked once");
            offload.forget();
            assert_eq!(offload.facts(fd).traffic_class(true), byte as u8);
        }
        assert!(!offload.facts(fd).has_v4_peer());
        for _ in 0..40_000 {
            offload.forget();
        }
        assert_eq!(offload.facts(fd).traffic_class(true), 0xb8);
    }
}
