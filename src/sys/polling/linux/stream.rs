//! What streams need of the kernel, in as few system calls as it takes.

use std::io;

use socket2::{SockAddr, Socket};

/// A peer that is gone is an error, no signal.
pub(in crate::sys::polling) const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;

/// A connection that does not block and is closed by exec.
pub(in crate::sys::polling) fn accept(listener: &Socket) -> io::Result<(Socket, SockAddr)> {
    listener.accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
}
