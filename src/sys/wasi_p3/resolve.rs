//! Name lookup by the host.

use std::io;
use std::net::SocketAddr;

use wasip3::sockets::ip_name_lookup::resolve_addresses;

use super::convert::{ip_from_wasi, lookup_error};
use super::inflight::here;
use crate::error::context;
use crate::sys::wasi::lookup::{is_wanted, port};
use crate::sys::Lookup;

/// The addresses of a host, in the host's order, with the port.
pub(crate) async fn resolve(lookup: Lookup) -> io::Result<Vec<SocketAddr>> {
    let name = lookup.to_string();
    ask(&lookup).await.map_err(|error| context(error, name))
}

async fn ask(lookup: &Lookup) -> io::Result<Vec<SocketAddr>> {
    let port = port(lookup)?;
    let answers = here(resolve_addresses(lookup.host.clone())).await?;
    let addrs = answers.map_err(lookup_error)?.into_iter();
    Ok(addrs
        .map(|ip| SocketAddr::from((ip_from_wasi(ip), port)))
        .filter(|addr| is_wanted(lookup, *addr))
        .collect())
}
