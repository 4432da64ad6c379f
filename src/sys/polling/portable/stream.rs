//! What streams need of the kernel, on every native platform.

use std::io;

use socket2::{SockAddr, Socket};

/// A peer that is gone is an error, no signal.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(in crate::sys::polling) const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;

/// An option of the socket sees to it (Apple), or there are no signals (Windows).
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
pub(in crate::sys::polling) const NO_SIGNAL: i32 = 0;

/// A connection that does not block and is closed by exec.
pub(in crate::sys::polling) fn accept(listener: &Socket) -> io::Result<(Socket, SockAddr)> {
    let (socket, addr) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket, addr))
}
