//! Name lookup by the host.

use std::io;
use std::net::SocketAddr;

use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::ErrorCode;

use super::convert::{error, ip_from_wasi};
use super::pollable::wait;
use crate::error::context;
use crate::sys::wasi::lookup::{is_wanted, no_lookup, port};
use crate::sys::Lookup;

/// The addresses of a host, in the host's order, with the port.
pub(crate) async fn resolve(lookup: Lookup) -> io::Result<Vec<SocketAddr>> {
    let name = lookup.to_string();
    ask(&lookup).await.map_err(|error| context(error, name))
}

async fn ask(lookup: &Lookup) -> io::Result<Vec<SocketAddr>> {
    let port = port(lookup)?;
    let network = instance_network();
    let answers = resolve_addresses(&network, &lookup.host).map_err(failure)?;
    let mut addrs = Vec::new();
    loop {
        match answers.resolve_next_address() {
            Ok(Some(ip)) => {
                let addr = SocketAddr::from((ip_from_wasi(ip), port));
                if is_wanted(lookup, addr) {
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
        ErrorCode::PermanentResolverFailure => no_lookup(),
        code => error(code),
    }
}
