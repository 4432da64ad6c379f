//! What of a question to the resolver the host can answer.

use std::io;
use std::net::SocketAddr;

use crate::error::unsupported;
use crate::sys::caps::Family;
use crate::sys::Lookup;

/// The numbers of `AI_*` as Linux has them; the host takes none of them.
pub(crate) mod resolve_flags {
    pub(crate) const PASSIVE: i32 = 0x1;
    pub(crate) const NUMERIC_HOST: i32 = 0x4;
    pub(crate) const V4_MAPPED: i32 = 0x8;
    pub(crate) const ALL: i32 = 0x10;
    pub(crate) const ADDR_CONFIG: i32 = 0x20;
}

/// The port that is asked for, if the rest of the question can be answered.
pub(in crate::sys) fn port(lookup: &Lookup) -> io::Result<u16> {
    // The host's answer is one for all protocols.
    let _ = (lookup.stream, lookup.protocol);
    let Ok(port) = lookup.service.parse::<u16>() else {
        return Err(unsupported(format_args!(
            "the name of a service ('{}')",
            lookup.service
        )));
    };
    if lookup.flags & resolve_flags::NUMERIC_HOST != 0 {
        let text = format!("'{}' is no address", lookup.host);
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    if lookup.flags & !(resolve_flags::PASSIVE | resolve_flags::ADDR_CONFIG) != 0 {
        return Err(unsupported("flags"));
    }
    Ok(port)
}

pub(in crate::sys) fn is_wanted(lookup: &Lookup, addr: SocketAddr) -> bool {
    let family = Family::of(&addr.into());
    lookup.family.is_none_or(|wanted| wanted == family)
}

/// A host that grants no lookup says so in no other way.
pub(in crate::sys) fn no_lookup() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "permanent-resolver-failure: the host may grant this component no name lookup",
    )
}
