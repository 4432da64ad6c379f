//! What the canonical ABI has of datagrams, for functions that are called without the bindings.
#![allow(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Words of an `ip-socket-address`.
pub(in crate::sys) const ADDRESS: usize = 8;

/// A list of bytes that the host has allocated.
///
/// # Safety
/// It has, as that of a call that has returned; it is taken once.
pub(in crate::sys) unsafe fn list(ptr: u32, len: u32) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    let len = len as usize;
    // SAFETY: the host allocates with `cabi_realloc`, which the bindings define by Rust's
    // allocator, exactly as much as the list is long, with an alignment of 1.
    unsafe { Vec::from_raw_parts(ptr as *mut u8, len, len) }
}

/// An `ip-socket-address`, which takes the first words.
#[inline]
pub(in crate::sys) fn address(words: &[u32]) -> SocketAddr {
    let port = words[1] as u16;
    if words[0] as u8 == 0 {
        let [_, _, a, b] = words[1].to_le_bytes();
        let [c, d, _, _] = words[2].to_le_bytes();
        return SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port).into();
    }
    let mut segments = [0; 8];
    for (two, word) in segments.chunks_exact_mut(2).zip(&words[3..7]) {
        two[0] = *word as u16;
        two[1] = (word >> 16) as u16;
    }
    SocketAddrV6::new(Ipv6Addr::from(segments), port, words[2], words[7]).into()
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
            assert_eq!(address(&words[1..]), addr);
        }
    }
}
