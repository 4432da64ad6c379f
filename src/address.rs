//! Addresses of all families in one type.

use std::fmt::{self, Write};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::Path;
use std::str::FromStr;

use crate::error::invalid;
use crate::sys;

/// Bytes that a Unix socket address can hold (`sun_path` on Linux; less elsewhere).
const UNIX_CAPACITY: usize = 108;

/// The address of a peer or of a socket: IP with port, or Unix.
///
/// It is plain data without allocation, so that a batch of datagrams can carry one each. Two
/// addresses are equal if all their parts are, the flow and scope of IPv6 included.
///
/// # Examples
/// ```
/// use coracle::Address;
///
/// let ip: Address = "127.0.0.1:9999".parse()?;
/// assert_eq!(ip, Address::from(([127, 0, 0, 1], 9999)));
///
/// let path: Address = "/run/log.sock".parse()?;
/// let name: Address = "@log".parse()?;
/// assert_eq!(path.as_unix().and_then(|unix| unix.as_path()), Some("/run/log.sock".as_ref()));
/// assert_eq!(name.as_unix().and_then(|unix| unix.as_abstract_name()), Some(&b"log"[..]));
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6 address and port.
    Ip(SocketAddr),
    /// Unix path, abstract name, or no name at all.
    Unix(UnixAddress),
}

impl Address {
    /// The address of a Unix socket that was never bound; as a local address it asks for an
    /// automatic abstract name (Linux).
    pub const UNNAMED: Address = Address::Unix(UnixAddress::UNNAMED);

    /// The IP address and port, if it is one.
    pub fn as_ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(addr) => Some(*addr),
            Address::Unix(_) => None,
        }
    }

    /// The Unix address, if it is one.
    pub fn as_unix(&self) -> Option<&UnixAddress> {
        match self {
            Address::Ip(_) => None,
            Address::Unix(addr) => Some(addr),
        }
    }

    /// What a slot holds before anything was received into it.
    pub(crate) const EMPTY: Address =
        Address::Ip(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)));
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(addr) => addr.fmt(f),
            Address::Unix(addr) => addr.fmt(f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `IP:PORT`, `[IPv6]:PORT`, `@abstract-name`, or a path that holds a `/`. Host names are no
/// addresses: [`resolve`](crate::net::resolve) them.
impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Address> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            Ok(Address::Ip(addr))
        } else if text.starts_with('@') || text.contains('/') {
            UnixAddress::from_text(text).map(Address::Unix)
        } else {
            Err(invalid(format_args!(
                "'{}' is no address: expected IP:PORT, @NAME or a path with a '/'",
                Escaped(text.as_bytes())
            )))
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Address {
        Address::Ip(addr)
    }
}

impl From<SocketAddrV4> for Address {
    fn from(addr: SocketAddrV4) -> Address {
        Address::Ip(addr.into())
    }
}

impl From<SocketAddrV6> for Address {
    fn from(addr: SocketAddrV6) -> Address {
        Address::Ip(addr.into())
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(pair: (I, u16)) -> Address {
        Address::Ip(pair.into())
    }
}

impl From<UnixAddress> for Address {
    fn from(addr: UnixAddress) -> Address {
        Address::Unix(addr)
    }
}

/// The address of a Unix socket: a path, an abstract name (Linux), or unnamed.
///
/// One type for all three, so that an address that was received can be compared with one that was
/// configured (asyncio gives text for a path and bytes for an abstract name). See unix(7).
#[derive(Clone, Copy)]
pub struct UnixAddress {
    len: u8,
    // As in `sun_path`, without the terminating NUL: empty when unnamed, a leading NUL when
    // abstract.
    bytes: [u8; UNIX_CAPACITY],
}

impl UnixAddress {
    /// No name: the address of a socket that was never bound.
    pub const UNNAMED: UnixAddress = UnixAddress {
        len: 0,
        bytes: [0; UNIX_CAPACITY],
    };

    /// A name in the file system, at most 107 bytes on Linux (103 on macOS and BSD, found at
    /// bind).
    ///
    /// # Errors
    /// - `InvalidInput`: the path is empty, too long, or holds a NUL byte.
    pub fn from_path(path: impl AsRef<Path>) -> io::Result<UnixAddress> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes.is_empty() {
            return Err(invalid("the path of a Unix socket is empty"));
        }
        if bytes.contains(&0) {
            return Err(invalid(format_args!("the path {path:?} holds a NUL byte")));
        }
        if bytes.len() >= UNIX_CAPACITY {
            return Err(invalid(format_args!(
                "the path '{}' has {} bytes, a Unix socket's has at most {}",
                Escaped(bytes),
                bytes.len(),
                UNIX_CAPACITY - 1
            )));
        }
        Ok(UnixAddress::copy_from(bytes))
    }

    /// A name in Linux' abstract namespace, given without the leading NUL, at most 107 bytes of
    /// any value. It vanishes with its socket and leaves no file.
    ///
    /// # Errors
    /// - `InvalidInput`: the name is too long.
    pub fn from_abstract_name(name: impl AsRef<[u8]>) -> io::Result<UnixAddress> {
        let name = name.as_ref();
        if name.len() >= UNIX_CAPACITY {
            return Err(invalid(format_args!(
                "the abstract name '{}' has {} bytes, a Unix socket's has at most {}",
                name.escape_ascii(),
                name.len(),
                UNIX_CAPACITY - 1
            )));
        }
        let mut addr = UnixAddress::UNNAMED;
        addr.bytes[1..=name.len()].copy_from_slice(name);
        addr.len = name.len() as u8 + 1;
        Ok(addr)
    }

    /// The bytes of `sun_path`, as asyncio takes them: a leading NUL makes an abstract name,
    /// nothing at all an unnamed address, anything else is a path.
    ///
    /// # Errors
    /// - `InvalidInput`: too long, or a path with a NUL byte in it.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<UnixAddress> {
        match bytes {
            [] => Ok(UnixAddress::UNNAMED),
            [0, name @ ..] => UnixAddress::from_abstract_name(name),
            path => match sys::path_from_bytes(path) {
                Some(path) => UnixAddress::from_path(path),
                None => Err(invalid(format_args!(
                    "'{}' is no path",
                    path.escape_ascii()
                ))),
            },
        }
    }

    /// `@name` is abstract, anything else a path.
    pub(crate) fn from_text(text: &str) -> io::Result<UnixAddress> {
        match text.strip_prefix('@') {
            Some(name) => UnixAddress::from_abstract_name(name),
            None => UnixAddress::from_bytes(text.as_bytes()).and_then(|addr| {
                if addr.is_unnamed() {
                    Err(invalid("the path of a Unix socket is empty"))
                } else {
                    Ok(addr)
                }
            }),
        }
    }

    /// Keeps what fits: used with what the kernel gave, which fits.
    pub(crate) fn copy_from(bytes: &[u8]) -> UnixAddress {
        let mut addr = UnixAddress::UNNAMED;
        let len = bytes.len().min(UNIX_CAPACITY);
        addr.bytes[..len].copy_from_slice(&bytes[..len]);
        addr.len = len as u8;
        addr
    }

    /// The bytes of `sun_path` without the terminating NUL of a path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The path, if it has one.
    pub fn as_path(&self) -> Option<&Path> {
        match self.as_bytes() {
            [] | [0, ..] => None,
            path => sys::path_from_bytes(path),
        }
    }

    /// The abstract name without its leading NUL, if it has one.
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        match self.as_bytes() {
            [0, name @ ..] => Some(name),
            _ => None,
        }
    }

    /// Whether it is the address of a socket without a name.
    pub fn is_unnamed(&self) -> bool {
        self.len == 0
    }
}

impl PartialEq for UnixAddress {
    fn eq(&self, other: &UnixAddress) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for UnixAddress {}

impl std::hash::Hash for UnixAddress {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// A path, `@name` for an abstract name, or `(unnamed)`, on one line: peers choose their names, so
/// what does not print is escaped as in Rust's string literals (`\n`, `\u{1b}`, `\xff`), and so are
/// backslashes. Other names are [read](Address#impl-FromStr-for-Address) back as they were.
impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_bytes() {
            [] => f.write_str("(unnamed)"),
            [0, name @ ..] => write!(f, "@{}", name.escape_ascii()),
            path => Escaped(path).fmt(f),
        }
    }
}

/// Text that somebody else has chosen, for a log: whatever is in it, it stays on its line, does not
/// control a terminal, and is not taken for other text.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if let '\'' | '"' = c {
                    f.write_char(c)?;
                } else {
                    c.escape_debug().fmt(f)?;
                }
            }
            chunk.invalid().escape_ascii().fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::InvalidInput;

    #[test]
    fn text_is_read_and_written_back() {
        for text in [
            "127.0.0.1:9999",
            "[::1]:53",
            "[fe80::1%3]:53",
            "/run/x.sock",
            "./x",
            "/tmp/with space, 'quotes' and \"these\"",
            "/tmp/Käse/日本語",
            "@name",
        ] {
            let addr: Address = text.parse().unwrap();
            assert_eq!(addr.to_string(), text);
        }
    }

    #[test]
    fn names_that_peers_choose_stay_on_their_line() {
        for (bytes, printed) in [
            (&b"/tmp/a\nERROR forged"[..], r"/tmp/a\nERROR forged"),
            (
                b"/tmp/\r\t\x1b[2J\x07\x7f",
                r"/tmp/\r\t\u{1b}[2J\u{7}\u{7f}",
            ),
            (b"/tmp/\xff\xc3(", r"/tmp/\xff\xc3("),
            // C1 controls, an override of the direction, a line separator.
            (
                "/\u{9b}31m\u{202e}\u{2028}".as_bytes(),
                r"/\u{9b}31m\u{202e}\u{2028}",
            ),
            (br"/tmp/a\nb", r"/tmp/a\\nb"),
            (b"\0x\n\x1b\xff", r"@x\n\x1b\xff"),
        ] {
            // As a system gives it.
            let unix = UnixAddress::copy_from(bytes);
            let addr = Address::from(unix);
            for text in [
                unix.to_string(),
                addr.to_string(),
                format!("{unix:?}"),
                format!("{addr:?}"),
                format!("{addr:#?}"),
                crate::net::Target::from(addr).to_string(),
            ] {
                assert_eq!(text, printed);
            }
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for text in ["", "localhost:80", "127.0.0.1", "127.0.0.1:70000", "x.sock"] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), InvalidInput);
            assert!(error.to_string().contains(&format!("'{text}'")), "{error}");
        }
    }

    #[test]
    fn lengths_are_those_of_sun_path() {
        assert!(UnixAddress::from_path("x".repeat(107)).is_ok());
        let error = UnixAddress::from_path("x".repeat(108)).unwrap_err();
        assert!(error.to_string().contains("has 108 bytes"), "{error}");
        assert!(UnixAddress::from_abstract_name([7; 107]).is_ok());
        assert!(UnixAddress::from_abstract_name([7; 108]).is_err());
    }

    #[test]
    fn bytes_decide_the_kind() {
        let path = UnixAddress::from_bytes(b"/tmp/x").unwrap();
        assert_eq!(path, UnixAddress::from_path("/tmp/x").unwrap());
        let name = UnixAddress::from_bytes(b"\0x\0y").unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"x\0y"[..]));
        assert_eq!(name.as_path(), None);
        assert_eq!(name.to_string(), "@x\\x00y");
        assert!(UnixAddress::from_bytes(b"").unwrap().is_unnamed());
        assert!(UnixAddress::from_bytes(b"a\0b").is_err());
        assert!(UnixAddress::from_path("").is_err());
        assert!(UnixAddress::from_text("").is_err());
    }
}
