//! Sockets that the user brings or takes away.

use std::io;
use std::mem::MaybeUninit;

use socket2::{Protocol, Type};

use super::address::domain;
use crate::error::context_as;
use crate::sys::caps::Family;

/// An open socket of the platform, on its way into or out of coracle.
///
/// Made from what the user has: `socket2::Socket`, std's socket types, `OwnedFd` (Unix),
/// `OwnedSocket` (Windows).
///
/// # Platforms
/// Native only: on WASI no socket can be brought from elsewhere.
///
/// # Examples
/// ```
/// use coracle::net::Socket;
///
/// let socket = Socket::from(std::net::UdpSocket::bind("127.0.0.1:0")?);
/// let socket: socket2::Socket = socket.into();
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct Socket(pub(super) socket2::Socket);

macro_rules! both_ways {
    ($($(#[$cfg:meta])* $type:ty;)*) => {$(
        $(#[$cfg])*
        impl From<$type> for Socket {
            fn from(socket: $type) -> Socket {
                Socket(socket.into())
            }
        }

        $(#[$cfg])*
        impl From<Socket> for $type {
            fn from(socket: Socket) -> $type {
                socket.0.into()
            }
        }
    )*};
}

both_ways! {
    socket2::Socket;
    std::net::UdpSocket;
    std::net::TcpStream;
    std::net::TcpListener;
    #[cfg(unix)]
    std::os::unix::net::UnixDatagram;
    #[cfg(unix)]
    std::os::unix::net::UnixStream;
    #[cfg(unix)]
    std::os::unix::net::UnixListener;
    #[cfg(unix)]
    std::os::fd::OwnedFd;
    #[cfg(windows)]
    std::os::windows::io::OwnedSocket;
}

/// A socket without a descriptor that exec would hand on. Protocol 0 is the usual one.
pub(super) fn open_socket(
    family: Family,
    kind: Type,
    protocol: i32,
) -> io::Result<socket2::Socket> {
    let number = (protocol != 0).then(|| Protocol::from(protocol));
    socket2::Socket::new(domain(family), kind, number).map_err(|error| {
        let error_kind = match is_absent(&error) {
            true => io::ErrorKind::Unsupported,
            false => error.kind(),
        };
        let name = match kind {
            Type::STREAM => "stream",
            _ => "datagram",
        };
        match number {
            None => context_as(error_kind, error, format_args!("{family} {name} socket")),
            Some(_) => context_as(
                error_kind,
                error,
                format_args!("{family} {name} socket, proto {protocol}"),
            ),
        }
    })
}

/// The machine has no such family, or the family has no such sockets.
fn is_absent(error: &io::Error) -> bool {
    #[cfg(unix)]
    const CODES: [i32; 4] = [
        libc::EAFNOSUPPORT,
        libc::EPROTONOSUPPORT,
        libc::EPROTOTYPE,
        libc::ESOCKTNOSUPPORT,
    ];
    // The same, from WSAEPROTOTYPE on.
    #[cfg(not(unix))]
    const CODES: [i32; 4] = [10041, 10043, 10044, 10047];
    error
        .raw_os_error()
        .is_some_and(|code| CODES.contains(&code))
}

/// For socket2's receiving methods, which take buffers that may be uninitialised.
///
/// # Safety
/// What is written through the result must be initialised. Those methods promise that, "so that
/// they can be called with a buffer of type `&mut [u8]`".
#[allow(unsafe_code)]
pub(super) unsafe fn as_uninit(buf: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    let buf: *mut [u8] = buf;
    // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, and the bytes are borrowed mutably for as
    // long as the result lives. That they stay initialised is the caller's part.
    unsafe { &mut *(buf as *mut [MaybeUninit<u8>]) }
}
