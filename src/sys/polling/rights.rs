//! Receiving descriptors. Not by rustix: where the socket also receives credentials
//! (`SO_PASSCRED`), it reads a process number into a type without 0, which is the number of a
//! process in another PID namespace.
#![allow(unsafe_code)]
// The types of these fields differ between the C libraries.
#![allow(clippy::unnecessary_cast)]

use std::io;
use std::mem::{size_of, zeroed, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::cmsg_space;

use super::unix::DESCRIPTORS;

/// Room for the descriptors, and for what else the user may have asked the system for.
const SPACE: usize = cmsg_space!(ScmRights(DESCRIPTORS)) + 256;

/// A buffer for control messages, aligned as they must be.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; SPACE]);

#[cfg(target_vendor = "apple")]
const FLAGS: libc::c_int = 0;
#[cfg(not(target_vendor = "apple"))]
const FLAGS: libc::c_int = libc::MSG_CMSG_CLOEXEC;

/// Reads what is there as far as it fits; the descriptors that came with it, all of them closed by
/// exec, are added to `fds`. True if some were lost.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<(usize, bool)> {
    let mut control = Control([MaybeUninit::uninit(); SPACE]);
    let mut iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: a msghdr is made of integers and pointers, which may be zero.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = SPACE as _;
    // SAFETY: the header points to `iov`, which spans `buf`, and to `control`, with its size; all
    // outlive the call, and nothing else uses them in it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, FLAGS) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let first = fds.len();
    // SAFETY: recvmsg(2) succeeded with the header, and `control` is alive. It is the only time
    // that its descriptors are taken out.
    unsafe { take(&header, fds) };
    fds[first..].iter().try_for_each(close_by_exec)?;
    Ok((len, header.msg_flags & libc::MSG_CTRUNC != 0))
}

/// Takes the descriptors out of the control messages.
///
/// # Safety
/// `header` is as a successful recvmsg(2) has left it, the buffer that it points to is alive, and
/// nobody has taken descriptors out of it yet.
unsafe fn take(header: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    let end = header.msg_control as usize + header.msg_controllen as usize;
    // SAFETY: by the contract above, the system has written `msg_controllen` bytes of control
    // messages.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: what CMSG_FIRSTHDR and CMSG_NXTHDR give is null, which was ruled out, or points
        // to a header within the buffer.
        let (level, kind, whole, data) = unsafe {
            let data = libc::CMSG_DATA(message);
            let whole = (*message).cmsg_len as usize;
            ((*message).cmsg_level, (*message).cmsg_type, whole, data)
        };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // macOS tells the length before it was cut off.
            let len = (whole + message as usize)
                .min(end)
                .saturating_sub(data as usize);
            for i in 0..len / size_of::<libc::c_int>() {
                // SAFETY: so many integers lie between `data` and the end of the message or of the
                // buffer. Each is a descriptor that the system has opened for this process, and
                // that nobody else knows of.
                let fd = unsafe {
                    OwnedFd::from_raw_fd(ptr::read_unaligned(data.cast::<libc::c_int>().add(i)))
                };
                fds.push(fd);
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR; `message` is one of its messages.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
}

/// Where receiving cannot see to it; a child that another thread starts in between inherits it.
#[cfg(target_vendor = "apple")]
fn close_by_exec(fd: &OwnedFd) -> io::Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(())
}

#[cfg(not(target_vendor = "apple"))]
fn close_by_exec(_fd: &OwnedFd) -> io::Result<()> {
    Ok(())
}
