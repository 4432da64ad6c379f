//! Sockets that the user brings or takes away.

use std::mem::MaybeUninit;

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

#[allow(unsafe_code)]
pub(super) fn as_uninit(buf: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the layouts are the same, and socket2 promises to write only initialised bytes into
    // the buffers it is lent.
    unsafe { &mut *(std::ptr::from_mut(buf) as *mut [MaybeUninit<u8>]) }
}
