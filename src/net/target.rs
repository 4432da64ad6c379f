//! What a user may name as an address: one that is numeric, or a host that must be looked up.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};

use crate::address::{Address, UnixAddress};
use crate::error::invalid;
use crate::sys::caps::Family;

/// An address or the name of one, as the options and the sockets take it.
///
/// Made from
/// - a string: `"127.0.0.1:9999"`, `"[::1]:9999"`, `"localhost:9999"`, `"localhost:domain"`,
///   `"/run/log.sock"`, `"@abstract"`;
/// - a pair of host and port or service: `("localhost", 9999)`, `("::1", "domain")`;
/// - a `SocketAddr`, an [`Address`], a [`UnixAddress`], a path;
/// - the bytes of a Unix path, or of an abstract name with a leading NUL.
///
/// It is checked where it is used, so that errors come from the call that needs it. Only names go
/// to the resolver; numeric addresses never do.
///
/// # Examples
/// ```
/// use coracle::net::Target;
///
/// assert_eq!(Target::from(("::1", 53)).to_string(), "[::1]:53");
/// assert_eq!(Target::from("localhost:53").to_string(), "localhost:53");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Text(String),
    Pair(String, String),
    Path(PathBuf),
    Bytes(Vec<u8>),
    Address(Address),
}

/// A target that has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    Address(Address),
    Host { host: String, service: String },
}

impl Target {
    /// Tells addresses from names. `unix`: a string is a path, whatever it looks like.
    pub(crate) fn parse(&self, unix: bool) -> io::Result<Parsed> {
        let parsed = match &self.0 {
            Kind::Address(addr) => Parsed::Address(*addr),
            Kind::Path(path) => Parsed::Address(UnixAddress::from_path(path)?.into()),
            Kind::Bytes(bytes) => Parsed::Address(UnixAddress::from_bytes(bytes)?.into()),
            Kind::Text(text) if unix => Parsed::Address(UnixAddress::from_text(text)?.into()),
            Kind::Text(text) => parse_text(text)?,
            Kind::Pair(host, service) => parse_pair(host, service)?,
        };
        Ok(parsed)
    }
}

#[cfg_attr(not(feature = "tls"), allow(dead_code))] // Where it is named, nobody asks.
impl Target {
    /// The host or the IP address that it names, if it does.
    pub(crate) fn host(&self) -> Option<String> {
        match self.parse(false) {
            Ok(Parsed::Address(Address::Ip(addr))) => Some(addr.ip().to_string()),
            Ok(Parsed::Host { host, .. }) => Some(host),
            Ok(Parsed::Address(Address::Unix(_))) | Err(_) => None,
        }
    }
}

fn parse_text(text: &str) -> io::Result<Parsed> {
    if let Ok(addr) = text.parse() {
        return Ok(Parsed::Address(addr));
    }
    let pair = text.rsplit_once(':').and_then(|(host, service)| {
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']')?,
            // An IPv6 address without brackets has no port.
            None if host.contains(':') => return None,
            None => host,
        };
        Some((host, service))
    });
    match pair {
        Some((host, service)) => parse_pair(host, service),
        None => Err(invalid(format_args!(
            "'{text}' is no address: expected HOST:PORT, [IPv6]:PORT, @NAME or a path with a '/'"
        ))),
    }
}

fn parse_pair(host: &str, service: &str) -> io::Result<Parsed> {
    if host.is_empty() {
        return Err(invalid(format_args!(
            "the host of ':{service}' is empty: name an address, 0.0.0.0 or [::] for all"
        )));
    }
    if service.is_empty() {
        return Err(invalid(format_args!("'{host}:' has no port")));
    }
    if service.bytes().all(|byte| byte.is_ascii_digit()) {
        let port: u16 = service
            .parse()
            .map_err(|_| invalid(format_args!("the port of '{host}:{service}' is over 65535")))?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Parsed::Address((ip, port).into()));
        }
        // With a scope, which only an address and a port together can spell.
        if let Ok(addr) = format!("[{host}]:{port}").parse::<SocketAddr>() {
            return Ok(Parsed::Address(addr.into()));
        }
    }
    for part in [host, service] {
        if part.contains('\0') {
            return Err(invalid(format_args!("{part:?} holds a NUL byte")));
        }
    }
    Ok(Parsed::Host {
        host: host.into(),
        service: service.into(),
    })
}

/// The Unix address that a target is, where no other makes sense.
#[cfg(unix)]
pub(crate) fn unix_address(target: &Target) -> io::Result<Address> {
    match target.parse(true)? {
        Parsed::Address(addr @ Address::Unix(_)) => Ok(addr),
        _ => Err(invalid(format_args!("'{target}' is no Unix address"))),
    }
}

impl Parsed {
    /// The family, as far as it is known without a lookup.
    pub(crate) fn family(&self) -> Option<Family> {
        match self {
            Parsed::Address(addr) => Some(Family::of(addr)),
            Parsed::Host { .. } => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Text(text) => f.write_str(text),
            Kind::Pair(host, service) if host.contains(':') => write!(f, "[{host}]:{service}"),
            Kind::Pair(host, service) => write!(f, "{host}:{service}"),
            Kind::Path(path) => path.display().fmt(f),
            Kind::Bytes(bytes) => bytes.escape_ascii().fmt(f),
            Kind::Address(addr) => addr.fmt(f),
        }
    }
}

impl From<&str> for Target {
    fn from(text: &str) -> Target {
        Target(Kind::Text(text.into()))
    }
}

impl From<String> for Target {
    fn from(text: String) -> Target {
        Target(Kind::Text(text))
    }
}

impl From<&String> for Target {
    fn from(text: &String) -> Target {
        Target(Kind::Text(text.clone()))
    }
}

impl From<(&str, u16)> for Target {
    fn from((host, port): (&str, u16)) -> Target {
        Target(Kind::Pair(host.into(), port.to_string()))
    }
}

impl From<(String, u16)> for Target {
    fn from((host, port): (String, u16)) -> Target {
        Target(Kind::Pair(host, port.to_string()))
    }
}

impl From<(&str, &str)> for Target {
    fn from((host, service): (&str, &str)) -> Target {
        Target(Kind::Pair(host.into(), service.into()))
    }
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Target {
        Target(Kind::Path(path.into()))
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Target {
        Target(Kind::Path(path))
    }
}

impl From<&PathBuf> for Target {
    fn from(path: &PathBuf) -> Target {
        Target(Kind::Path(path.clone()))
    }
}

impl From<&[u8]> for Target {
    fn from(bytes: &[u8]) -> Target {
        Target(Kind::Bytes(bytes.into()))
    }
}

impl<const N: usize> From<&[u8; N]> for Target {
    fn from(bytes: &[u8; N]) -> Target {
        bytes[..].into()
    }
}

impl From<&Address> for Target {
    fn from(addr: &Address) -> Target {
        Target(Kind::Address(*addr))
    }
}

macro_rules! from_address {
    ($($type:ty),*) => {$(
        impl From<$type> for Target {
            fn from(addr: $type) -> Target {
                Target(Kind::Address(addr.into()))
            }
        }
    )*};
}

from_address!(
    Address,
    UnixAddress,
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16)
);

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(target: impl Into<Target>) -> String {
        match target.into().parse(false) {
            Ok(Parsed::Address(addr)) => format!("address {addr}"),
            Ok(Parsed::Host { host, service }) => format!("host {host} {service}"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                format!("error {error}")
            }
        }
    }

    #[test]
    fn numeric_addresses_are_no_names() {
        assert_eq!(parsed("127.0.0.1:53"), "address 127.0.0.1:53");
        assert_eq!(parsed("[::1]:53"), "address [::1]:53");
        assert_eq!(parsed(("::1", 53)), "address [::1]:53");
        assert_eq!(parsed(("fe80::1%2", 53)), "address [fe80::1%2]:53");
        assert_eq!(parsed(("127.0.0.1", "53")), "address 127.0.0.1:53");
        assert_eq!(parsed("/tmp/x"), "address /tmp/x");
        assert_eq!(parsed("@x"), "address @x");
    }

    #[test]
    fn names_are_left_to_the_resolver() {
        assert_eq!(parsed("localhost:53"), "host localhost 53");
        assert_eq!(parsed("localhost:domain"), "host localhost domain");
        assert_eq!(parsed(("127.0.0.1", "domain")), "host 127.0.0.1 domain");
        assert_eq!(parsed("[fe80::1%lo]:53"), "host fe80::1%lo 53");
    }

    #[test]
    fn what_is_neither_is_refused_by_name() {
        for text in [
            "",
            "localhost",
            "::1",
            "localhost:",
            ":53",
            "x:70000",
            "[::1:53",
            "a\0b:1",
        ] {
            assert!(
                parsed(text).starts_with("error "),
                "{text}: {}",
                parsed(text)
            );
        }
        assert!(parsed("x:70000").contains("'x:70000'"));
    }

    #[test]
    fn for_unix_a_string_is_a_path() {
        let parse = |text: &str| Target::from(text).parse(true);
        let path = UnixAddress::from_path("x:1").unwrap();
        assert_eq!(parse("x:1").unwrap(), Parsed::Address(path.into()));
        assert!(parse("").is_err());
    }
}
