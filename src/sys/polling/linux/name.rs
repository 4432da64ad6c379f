//! Addresses in the kernel's form, without a detour through larger types.
#![allow(unsafe_code)]

use std::mem::{offset_of, size_of, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use crate::address::{Address, UnixAddress};

/// Room for any address that a datagram socket has.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    unix: libc::sockaddr_un,
}

pub(super) const NAME_LEN: libc::socklen_t = size_of::<Name>() as libc::socklen_t;

const UNIX_PATH: usize = offset_of!(libc::sockaddr_un, sun_path);

/// Writes an address, and gives the length to tell the kernel.
pub(super) fn encode(addr: &Address, into: &mut MaybeUninit<Name>) -> libc::socklen_t {
    match addr {
        Address::Ip(std::net::SocketAddr::V4(addr)) => {
            into.write(Name {
                v4: libc::sockaddr_in {
                    sin_family: libc::AF_INET as _,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(addr.ip().octets()),
                    },
                    sin_zero: [0; 8],
                },
            });
            size_of::<libc::sockaddr_in>() as _
        }
        Address::Ip(std::net::SocketAddr::V6(addr)) => {
            into.write(Name {
                v6: libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as _,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: addr.ip().octets(),
                    },
                    sin6_scope_id: addr.scope_id(),
                },
            });
            size_of::<libc::sockaddr_in6>() as _
        }
        Address::Unix(addr) => {
            let mut path = [0; 108];
            for (to, from) in path.iter_mut().zip(addr.as_bytes()) {
                *to = *from as libc::c_char;
            }
            into.write(Name {
                unix: libc::sockaddr_un {
                    sun_family: libc::AF_UNIX as _,
                    sun_path: path,
                },
            });
            // A path ends with a NUL that counts, where there is room for it, an abstract name with
            // its last byte.
            let len = addr.as_bytes().len() + usize::from(addr.as_path().is_some());
            (UNIX_PATH + len).min(size_of::<libc::sockaddr_un>()) as _
        }
    }
}

/// Reads the address that the kernel wrote, `len` bytes of it.
///
/// # Safety
/// The first `len` bytes of `name` are initialised, or all of it if that is less: so the kernel
/// leaves a name for which there was room for a `Name`.
pub(super) unsafe fn decode(name: &MaybeUninit<Name>, len: libc::socklen_t) -> Address {
    let len = len as usize;
    if len < size_of::<libc::sa_family_t>() {
        // A Unix socket that was never bound, or a peer that is implied.
        return Address::UNNAMED;
    }
    let name = name.as_ptr();
    // SAFETY: at least the bytes of the family are initialised, as just checked, and each type in
    // the union begins with it.
    let family = i32::from(unsafe { (*name).family });
    match family {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: all of its bytes are initialised, as just checked, and integers.
            let addr = unsafe { (*name).v4 };
            let ip = Ipv4Addr::from(addr.sin_addr.s_addr.to_ne_bytes());
            SocketAddrV4::new(ip, u16::from_be(addr.sin_port)).into()
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: all of its bytes are initialised, as just checked, and integers.
            let addr = unsafe { (*name).v6 };
            SocketAddrV6::new(
                Ipv6Addr::from(addr.sin6_addr.s6_addr),
                u16::from_be(addr.sin6_port),
                addr.sin6_flowinfo,
                addr.sin6_scope_id,
            )
            .into()
        }
        _ => {
            let len = len
                .min(size_of::<libc::sockaddr_un>())
                .saturating_sub(UNIX_PATH);
            // SAFETY: `len` was cut to what is behind the family in a sockaddr_un, so that the bytes
            // lie within `name`, and they are initialised by the contract above.
            let path = unsafe { std::slice::from_raw_parts(name.cast::<u8>().add(UNIX_PATH), len) };
            let path = match path {
                [0, ..] => path,
                // The kernel counts the NUL that ends a path.
                path => path.split(|byte| *byte == 0).next().unwrap_or(path),
            };
            Address::Unix(UnixAddress::copy_from(path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_form() {
        let addresses: Vec<Address> = vec![
            "127.0.0.1:80".parse().unwrap(),
            "[2001:db8::1]:65535".parse().unwrap(),
            SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 2, 3).into(),
            "/tmp/x.sock".parse().unwrap(),
            UnixAddress::from_path("x".repeat(107)).unwrap().into(),
            // As a peer may be bound: without room for the NUL.
            UnixAddress::copy_from(&[b'x'; 108]).into(),
            "@name".parse().unwrap(),
            UnixAddress::from_abstract_name([0; 107]).unwrap().into(),
            Address::UNNAMED,
        ];
        for addr in addresses {
            let mut name = MaybeUninit::uninit();
            let len = encode(&addr, &mut name);
            assert!(len <= NAME_LEN);
            // SAFETY: `encode` has written a whole address, at least `len` bytes.
            assert_eq!(unsafe { decode(&name, len) }, addr);
        }
    }
}
