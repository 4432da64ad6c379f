//! Sockets that the user would bring, where the platform takes none.

use std::io;

use crate::error::unsupported;

/// An open socket of std's, which coracle cannot take here: what it is given to says
/// `Unsupported`.
///
/// # Platforms
/// On native platforms it is taken; on WASI handles cannot be passed between std's bindings and
/// coracle's.
#[derive(Debug)]
pub struct Socket(());

impl Socket {
    pub(in crate::sys) fn refuse<T>(self) -> io::Result<T> {
        Err(unsupported("sock"))
    }
}

macro_rules! from_std {
    ($($type:ty),*) => {$(
        impl From<$type> for Socket {
            fn from(_socket: $type) -> Socket {
                Socket(())
            }
        }
    )*};
}

from_std!(
    std::net::UdpSocket,
    std::net::TcpStream,
    std::net::TcpListener
);
