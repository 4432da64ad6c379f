//! What the canonical ABI has of datagrams, for functions that are called without the bindings.
#![allow(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Words of an `ip-socket-address`.
pub(in crate::sys) const ADDRESS: usize = 8;

/// A list of bytes that the host has allocated.
///
/// # Safety
/// It is a `list<u8>` of a result that the host has given, which was not taken before.
pub(in crate::sys) unsafe fn list(ptr: u32, len: u32) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    let len = len as usize;
    // SAFETY: it is the host's result, for which it allocates with `cabi_realloc`. The bindings
    // define that by Rust's allocator, and the canonical ABI asks it for exactly as many bytes as
    // the list is long, with an alignment of 1; all of them are written. Nobody else owns them,
    // since it was not taken before.
    unsafe { Vec::from_raw_parts(ptr as *mut u8, len, len) }
}

/// An `ip-socket-address`: which of the two it is, a byte, and from the fifth on its fields, each
/// aligned to its size. What lies between them, and behind the shorter of the two, nobody has
/// written, and is not read.
///
/// # Safety
/// There are `ADDRESS` words, aligned as such, where the host has written an `ip-socket-address`.
#[inline]
pub(in crate::sys) unsafe fn address(words: *const u32) -> SocketAddr {
    let bytes = words.cast::<u8>();
    // SAFETY: all of these are fields of the address that is there: the tag and the port of both,
    // then those of the one that the tag says. They are within the words, and aligned as the words
    // are, each at a multiple of its size.
    unsafe {
        let port = bytes.add(4).cast::<u16>().read();
        if bytes.read() == 0 {
            let ip = bytes.add(6).cast::<[u8; 4]>().read();
            return SocketAddrV4::new(Ipv4Addr::from(ip), port).into();
        }
        let flow_info = bytes.add(8).cast::<u32>().read();
        let segments = bytes.add(12).cast::<[u16; 8]>().read();
        let scope_id = bytes.add(28).cast::<u32>().read();
        SocketAddrV6::new(Ipv6Addr::from(segments), port, flow_info, scope_id).into()
    }
}

/// An `option<ip-socket-address>`, which takes the first words.
#[inline]
pub(in crate::sys) fn put_address(words: &mut [u32], to: Option<&SocketAddr>) {
    words[0] = u32::from(to.is_some());
    match to {
        None => {}
        Some(SocketAddr::V4(to)) => {
            let [a, b, c, d] = to.ip().octets();
            words[1] = 0;
            words[2] = u32::from(to.port()) | u32::from(a) << 16 | u32::from(b) << 24;
            words[3] = u32::from(c) | u32::from(d) << 8;
        }
        Some(SocketAddr::V6(to)) => {
            words[1] = 1;
            words[2] = u32::from(to.port());
            words[3] = to.flowinfo();
            let segments = to.ip().segments();
            for (word, two) in words[4..8].iter_mut().zip(segments.chunks_exact(2)) {
                *word = u32::from(two[0]) | u32::from(two[1]) << 16;
            }
            words[8] = to.scope_id();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn an_address_is_where_the_canonical_abi_has_it() {
        let mut words = [0; 1 + ADDRESS];
        put_address(&mut words, Some(&([1, 2, 3, 4], 0x1234).into()));
        assert_eq!(
            bytes(&words)[..14],
            [1, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12, 1, 2, 3, 4]
        );
        let ip = Ipv6Addr::new(0x102, 3, 0, 0, 0, 0, 0, 0xfffe);
        let to = SocketAddrV6::new(ip, 0x1234, 7, 9).into();
        put_address(&mut words, Some(&to));
        let mut expected = vec![1, 0, 0, 0, 1, 0, 0, 0, 0x34, 0x12, 0, 0, 7, 0, 0, 0];
        expected.extend([2, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff]);
        expected.extend([9, 0, 0, 0]);
        assert_eq!(bytes(&words), expected);
        put_address(&mut words, None);
        assert_eq!(words[0], 0);
    }

    #[test]
    fn an_address_that_was_put_there_is_read_there() {
        for text in ["1.2.3.4:80", "[1:203::fffe]:65535", "[fe80::1%3]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            let mut words = [0; 1 + ADDRESS];
            put_address(&mut words, Some(&addr));
            // SAFETY: it was put there as the host does.
            assert_eq!(unsafe { address(words[1..].as_ptr()) }, addr);
        }
    }
}
