//! What a user may name as an address: one that is numeric, or a host that must be looked up.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};

use crate::address::{Address, Escaped, UnixAddress};
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
            "'{}' is no address: expected HOST:PORT, [IPv6]:PORT, @NAME or a path with a '/'",
            Escaped(text.as_bytes())
        ))),
    }
}

fn parse_pair(host: &str, service: &str) -> io::Result<Parsed> {
    if host.is_empty() {
        return Err(invalid(format_args!(
            "the host of '{}' is empty: name an address, 0.0.0.0 or [::] for all",
            Pair(host, service)
        )));
    }
    let pair = Pair(host, service);
    if service.is_empty() {
        return Err(invalid(format_args!("'{pair}' has no port")));
    }
    if is_number(service) {
        let port: u16 = service
            .parse()
            .map_err(|_| invalid(format_args!("the port of '{pair}' is over 65535")))?;
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
    if !is_number(service) && !is_service(service) {
        return Err(invalid(format_args!(
            "'{pair}' has neither a port nor the name of a service"
        )));
    }
    if host.contains(|any: char| any.is_control() || any.is_whitespace()) {
        return Err(invalid(format_args!(
            "the host of '{pair}' holds a space or a control character"
        )));
    }
    if is_malformed_ip(host) {
        return Err(invalid(format_args!(
            "the host of '{pair}' is not an IP address"
        )));
    }
    Ok(Parsed::Host {
        host: host.into(),
        service: service.into(),
    })
}

/// Host and service as they are written.
pub(crate) struct Pair<'a>(pub(crate) &'a str, pub(crate) &'a str);

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = Escaped(self.0.as_bytes());
        let service = Escaped(self.1.as_bytes());
        if self.0.contains(':') {
            write!(f, "[{host}]:{service}")
        } else {
            write!(f, "{host}:{service}")
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether it may be the name of a service. What is neither that nor a port, resolvers may take for
/// another port: they skip signs and spaces, and wrap what is too large.
fn is_service(service: &str) -> bool {
    let hexadecimal = service
        .strip_prefix("0x")
        .or_else(|| service.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    !hexadecimal
        && service.starts_with(|first: char| first.is_ascii_alphanumeric())
        && service.contains(|any: char| any.is_ascii_alphabetic())
        && service.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether it looks like an IP address and is none. Resolvers may take a number with a leading zero
/// for an octal one, and wrap a scope that is too large.
fn is_malformed_ip(host: &str) -> bool {
    if let Some((ip, scope)) = host.split_once('%') {
        let unsigned = scope.trim_start_matches(['+', '-', ' ']);
        let is_scope = if is_number(unsigned) {
            scope == unsigned && scope.parse::<u32>().is_ok()
        } else {
            !unsigned.is_empty()
        };
        return ip.parse::<Ipv6Addr>().is_ok() && !is_scope;
    }
    let numbers = host.split('.').filter(|part| is_number(part)).count();
    let parts = host.split('.').count();
    (numbers, parts) == (4, 4) && host.parse::<Ipv4Addr>().is_err()
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

/// As it was given; what does not print is escaped, as in the text of a [`UnixAddress`].
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Text(text) => Escaped(text.as_bytes()).fmt(f),
            Kind::Pair(host, service) => Pair(host, service).fmt(f),
            Kind::Path(path) => Escaped(path.as_os_str().as_encoded_bytes()).fmt(f),
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
        for service in ["3com-tsmux", "whois++", "sql*net", "x", "9pfs"] {
            assert_eq!(parsed(("x", service)), format!("host x {service}"));
        }
        for host in ["1.2.3.example", "127.1", "123456789012", "x%1"] {
            assert_eq!(parsed((host, 1)), format!("host {host} 1"));
        }
    }

    #[test]
    fn ports_and_scopes_are_what_they_say() {
        assert_eq!(parsed("x:0080"), "host x 0080");
        assert_eq!(parsed("127.0.0.1:0080"), "address 127.0.0.1:80");
        assert_eq!(parsed("127.0.0.1:65535"), "address 127.0.0.1:65535");
        for service in [
            "+80",
            "+65616",
            "-1",
            "-0",
            " 80",
            "80 ",
            "0x50",
            "0X50",
            "0x",
            "8_0",
            "80.",
            "80\n",
            "\t80",
            "65536",
            "٨٠",
            "99999999999999999999",
            "+",
            "-",
            "*",
            "domain ",
            "-domain",
        ] {
            for host in ["localhost", "127.0.0.1", "[::1]"] {
                let text = format!("{host}:{service}");
                assert!(parsed(text.as_str()).starts_with("error "), "{text}");
                let pair = parsed((host.trim_matches(['[', ']']), service));
                assert!(pair.starts_with("error "), "{pair}");
            }
        }
        for host in [
            "fe80::1%",
            "fe80::1%+1",
            "fe80::1%-1",
            "fe80::1% 1",
            "fe80::1%4294967296",
            "fe80::1%4294967297",
            "fe80::1%18446744073709551617",
            "010.0.0.1",
            "256.0.0.1",
            "1.2.3.04",
        ] {
            assert!(parsed((host, 1)).starts_with("error "), "{host}");
        }
        assert_eq!(
            parsed(("fe80::1%4294967295", 1)),
            "address [fe80::1%4294967295]:1"
        );
    }

    #[test]
    fn what_is_neither_is_refused_by_name() {
        for text in [
            "",
            "localhost",
            "::1",
            "localhost:",
            ":53",
            "[]:53",
            "[::1]",
            "[::1]53",
            "[::1]:",
            "::1:53",
            "x:70000",
            "[::1:53",
            "a\0b:1",
            "a b:1",
            "a\nb:1",
            " localhost:1",
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
