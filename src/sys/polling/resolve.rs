//! Name lookup by the system's resolver, which blocks: on a thread of the pool.

use std::io;
use std::net::SocketAddr;

use dns_lookup::{getaddrinfo, AddrInfoHints, LookupError, LookupErrorKind};

use super::address::domain;
use super::pool;
use crate::error::context;
use crate::sys::Lookup;

/// The numbers of `AI_*` in the system's headers.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod resolve_flags {
    pub(crate) const PASSIVE: i32 = libc::AI_PASSIVE;
    pub(crate) const NUMERIC_HOST: i32 = libc::AI_NUMERICHOST;
    pub(crate) const V4_MAPPED: i32 = libc::AI_V4MAPPED;
    pub(crate) const ALL: i32 = libc::AI_ALL;
    pub(crate) const ADDR_CONFIG: i32 = libc::AI_ADDRCONFIG;
}

/// The numbers of `AI_*` in the headers of macOS, the BSDs and Windows.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) mod resolve_flags {
    pub(crate) const PASSIVE: i32 = 0x1;
    pub(crate) const NUMERIC_HOST: i32 = 0x4;
    pub(crate) const V4_MAPPED: i32 = 0x800;
    pub(crate) const ALL: i32 = 0x100;
    pub(crate) const ADDR_CONFIG: i32 = 0x400;
}

/// The addresses of a host and a service, in the resolver's order.
pub(crate) async fn resolve(lookup: Lookup) -> io::Result<Vec<SocketAddr>> {
    let name = lookup.to_string();
    pool::run(move || ask(&lookup))
        .await
        .and_then(|answer| answer)
        .map_err(|error| context(error, name))
}

fn ask(lookup: &Lookup) -> io::Result<Vec<SocketAddr>> {
    let hints = AddrInfoHints {
        flags: lookup.flags,
        address: lookup.family.map_or(0, |family| domain(family).into()),
        socktype: match lookup.stream {
            true => socket2::Type::STREAM.into(),
            false => socket2::Type::DGRAM.into(),
        },
        protocol: lookup.protocol,
    };
    getaddrinfo(Some(&lookup.host), Some(&lookup.service), Some(hints))
        .map_err(to_io)?
        .map(|info| info.map(|info| info.sockaddr))
        .collect()
}

/// With a kind of its own, and the resolver's text.
fn to_io(error: LookupError) -> io::Error {
    let kind = match error.kind() {
        LookupErrorKind::NoName | LookupErrorKind::NoData => io::ErrorKind::NotFound,
        LookupErrorKind::Badflags
        | LookupErrorKind::Family
        | LookupErrorKind::Socktype
        | LookupErrorKind::Service => io::ErrorKind::InvalidInput,
        LookupErrorKind::Memory => io::ErrorKind::OutOfMemory,
        LookupErrorKind::Again => io::ErrorKind::Other,
        // With the cause in errno, or an argument that is no C string.
        _ => return error.into(),
    };
    io::Error::new(kind, io::Error::from(error))
}
