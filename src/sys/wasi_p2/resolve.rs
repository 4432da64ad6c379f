//! Name lookup by the host.

use std::io;
use std::net::SocketAddr;

use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::ErrorCode;

use super::convert::{error, ip_from_wasi};
use super::pollable::wait;
use crate::error::{context, unsupported};
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

/// The addresses of a host, in the host's order, with the port.
pub(crate) async fn resolve(lookup: Lookup) -> io::Result<Vec<SocketAddr>> {
    let name = format!("resolve {}:{}", lookup.host, lookup.service);
    ask(&lookup).await.map_err(|error| context(error, name))
}

async fn ask(lookup: &Lookup) -> io::Result<Vec<SocketAddr>> {
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
    let network = instance_network();
    let answers = resolve_addresses(&network, &lookup.host).map_err(failure)?;
    let mut addrs = Vec::new();
    loop {
        match answers.resolve_next_address() {
            Ok(Some(ip)) => {
                let addr = SocketAddr::from((ip_from_wasi(ip), port));
                let family = Family::of(&addr.into());
                if lookup.family.is_none_or(|wanted| wanted == family) {
                    addrs.push(addr);
                }
            }
            Ok(None) => return Ok(addrs),
            Err(ErrorCode::WouldBlock) => wait(answers.subscribe()).await?,
            Err(code) => return Err(failure(code)),
        }
    }
}

/// A host that grants no lookup says so in no other way.
fn failure(code: ErrorCode) -> io::Error {
    match code {
        ErrorCode::PermanentResolverFailure => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "permanent-resolver-failure: the host may grant this component no name lookup",
        ),
        code => error(code),
    }
}
