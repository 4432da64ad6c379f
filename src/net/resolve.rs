//! Names to addresses.

use std::io;
use std::net::SocketAddr;
use std::ops::BitOr;

use crate::address::Address;
use crate::budget;
use crate::error::{context, invalid};
use crate::net::target::{Parsed, Target};
use crate::sys::caps::Family;
use crate::sys::{self, resolve_flags, Lookup};

/// Hints for name lookup, as `getaddrinfo(3)` has them. They have no effect on numeric addresses.
///
/// # Examples
/// ```
/// use coracle::net::ResolveFlags;
///
/// let flags = ResolveFlags::V4_MAPPED | ResolveFlags::ALL;
/// assert_eq!(flags, ResolveFlags::ALL | ResolveFlags::V4_MAPPED);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ResolveFlags(i32);

impl ResolveFlags {
    /// `AI_PASSIVE`: for binding.
    pub const PASSIVE: ResolveFlags = ResolveFlags(resolve_flags::PASSIVE);
    /// `AI_NUMERICHOST`: a name is an error.
    pub const NUMERIC_HOST: ResolveFlags = ResolveFlags(resolve_flags::NUMERIC_HOST);
    /// `AI_V4MAPPED`: for IPv6 without an address, IPv4 ones in IPv6's form.
    pub const V4_MAPPED: ResolveFlags = ResolveFlags(resolve_flags::V4_MAPPED);
    /// `AI_ALL`: with `V4_MAPPED`, both.
    pub const ALL: ResolveFlags = ResolveFlags(resolve_flags::ALL);
    /// `AI_ADDRCONFIG`: only families that this machine has an address of.
    pub const ADDR_CONFIG: ResolveFlags = ResolveFlags(resolve_flags::ADDR_CONFIG);

    /// The number that `getaddrinfo` is given.
    pub fn bits(self) -> i32 {
        self.0
    }

    /// From the numbers of the system's headers, for flags that have no name here.
    pub fn from_bits(bits: i32) -> ResolveFlags {
        ResolveFlags(bits)
    }
}

impl BitOr for ResolveFlags {
    type Output = ResolveFlags;

    fn bitor(self, other: ResolveFlags) -> ResolveFlags {
        ResolveFlags(self.0 | other.0)
    }
}

/// The IP addresses that a name or a numeric address stands for, in the resolver's order; at least
/// one.
///
/// A numeric address is answered at once. For a name the system's resolver is asked, which blocks:
/// on a thread of its own, so that the runtime is not blocked. The process has at most 8 such
/// threads, only while they are needed; more lookups wait their turn. Neither
/// [`timeout`](crate::time::timeout) nor the end of [`block_on`](crate::block_on) waits for them.
///
/// *asyncio equivalent*: `loop.getaddrinfo` with `type=SOCK_DGRAM`.
///
/// # Errors
/// - `InvalidInput`: it is neither an IP address nor a host with a port or a known service.
/// - `NotFound`: the name is unknown.
/// - others as the resolver gives them, with its text.
///
/// # Cancel safety
/// Nothing is lost. A lookup that waits for its turn is forgotten; one that has begun keeps its
/// thread until the resolver answers, for nothing can interrupt it.
///
/// # Platforms
/// WASI: the host looks names up, without threads.
///
/// # Examples
/// ```
/// coracle::block_on(async {
///     let addrs = coracle::net::resolve("localhost:9999").await?;
///     assert!(addrs.iter().all(|addr| addr.ip().is_loopback()));
/// #   std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub async fn resolve(target: impl Into<Target>) -> io::Result<Vec<SocketAddr>> {
    let target = target.into();
    let addrs = resolve_target(&target, Query::default()).await?;
    addrs
        .iter()
        .map(|addr| {
            addr.as_ip()
                .ok_or_else(|| invalid(format_args!("'{target}' is no IP address")))
        })
        .collect()
}

/// What else is known of the addresses that are looked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Query {
    pub(crate) family: Option<Family>,
    /// Of stream sockets; otherwise of datagram sockets.
    pub(crate) stream: bool,
    pub(crate) protocol: i32,
    pub(crate) flags: ResolveFlags,
}

impl Query {
    /// For stream sockets.
    pub(crate) fn stream() -> Query {
        Query {
            stream: true,
            ..Query::default()
        }
    }
}

/// The addresses of a target, at least one, all of the family if one is asked for.
pub(crate) async fn resolve_target(target: &Target, query: Query) -> io::Result<Vec<Address>> {
    // An address needs no lookup, and what is then done with it may need no wait either.
    budget::turn().await;
    let parsed = target.parse(query.family == Some(Family::Unix))?;
    if let (Some(wanted), Some(family)) = (query.family, parsed.family()) {
        if wanted != family {
            return Err(invalid(format_args!(
                "'{target}' is an address of family {family}, not {wanted}"
            )));
        }
    }
    let (host, service) = match parsed {
        Parsed::Address(addr) => return Ok(vec![addr]),
        Parsed::Host { host, service } => (host, service),
    };
    let addrs = sys::resolve(Lookup {
        host,
        service,
        family: query.family,
        stream: query.stream,
        protocol: query.protocol,
        flags: query.flags.bits(),
    })
    .await?;
    if addrs.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("'{target}' has no address"),
        ));
    }
    Ok(addrs.into_iter().map(Address::Ip).collect())
}

/// Tries each address until `attempt` succeeds; otherwise its first error.
pub(crate) async fn first_success<T, F: std::future::Future<Output = io::Result<T>>>(
    target: &Target,
    addrs: Vec<Address>,
    attempt: impl Fn(Address) -> F,
) -> io::Result<T> {
    let mut first = None;
    for addr in addrs {
        match attempt(addr).await {
            Ok(value) => return Ok(value),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(match first {
        Some(error) => context(error, target),
        None => invalid(format_args!("'{target}' has no address")),
    })
}
