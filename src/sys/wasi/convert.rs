//! Addresses between our form and the host's.

/// Functions that turn our addresses and families into the bindings' and back, and the error of
/// making a socket, for a backend's `error`. Types of the same names and fields are all that differs
/// between the bindings.
macro_rules! conversions {
    () => {
        use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

        use $crate::error::unsupported;
        use $crate::sys::caps::Family;

        pub(super) fn to_wasi(addr: SocketAddr) -> IpSocketAddress {
            match addr {
                SocketAddr::V4(addr) => {
                    let [a, b, c, d] = addr.ip().octets();
                    IpSocketAddress::Ipv4(Ipv4SocketAddress {
                        port: addr.port(),
                        address: (a, b, c, d),
                    })
                }
                SocketAddr::V6(addr) => {
                    let [a, b, c, d, e, f, g, h] = addr.ip().segments();
                    IpSocketAddress::Ipv6(Ipv6SocketAddress {
                        port: addr.port(),
                        flow_info: addr.flowinfo(),
                        address: (a, b, c, d, e, f, g, h),
                        scope_id: addr.scope_id(),
                    })
                }
            }
        }

        pub(super) fn from_wasi(addr: IpSocketAddress) -> SocketAddr {
            match addr {
                IpSocketAddress::Ipv4(addr) => {
                    (ip_from_wasi(IpAddress::Ipv4(addr.address)), addr.port).into()
                }
                IpSocketAddress::Ipv6(addr) => {
                    let (a, b, c, d, e, f, g, h) = addr.address;
                    SocketAddr::V6(SocketAddrV6::new(
                        Ipv6Addr::new(a, b, c, d, e, f, g, h),
                        addr.port,
                        addr.flow_info,
                        addr.scope_id,
                    ))
                }
            }
        }

        pub(super) fn ip_from_wasi(ip: IpAddress) -> IpAddr {
            match ip {
                IpAddress::Ipv4((a, b, c, d)) => Ipv4Addr::new(a, b, c, d).into(),
                IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => {
                    Ipv6Addr::new(a, b, c, d, e, f, g, h).into()
                }
            }
        }

        pub(super) fn family_to_wasi(family: Family) -> std::io::Result<IpAddressFamily> {
            match family {
                Family::Inet => Ok(IpAddressFamily::Ipv4),
                Family::Inet6 => Ok(IpAddressFamily::Ipv6),
                Family::Unix => Err(unsupported("a Unix socket")),
            }
        }

        /// The error of making a socket: what is denied there is the capability itself.
        pub(super) fn creation_error(code: ErrorCode, protocol: &str) -> std::io::Error {
            match code {
                ErrorCode::AccessDenied => std::io::Error::new(
                    std::io::ErrorKind::PermissionDenied,
                    format!("access-denied: the host grants this component no {protocol} sockets"),
                ),
                code => error(code),
            }
        }

        #[test]
        fn addresses_survive_the_way_through_the_hosts_form() {
            for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%3]:80"] {
                let addr: SocketAddr = text.parse().unwrap();
                assert_eq!(from_wasi(to_wasi(addr)), addr);
            }
        }
    };
}
pub(in crate::sys) use conversions;
