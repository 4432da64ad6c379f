//! What only Unix sockets carry: descriptors, and who the peer is.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;

use rustix::cmsg_space;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::source::Direction;
use super::stream::Stream;
use crate::error::invalid;
use crate::wake::Waiter;

/// Descriptors that Linux takes with one message (`SCM_MAX_FD`); other systems differ.
const DESCRIPTORS: usize = 253;

/// Who is at the other end of a Unix connection, as the system saw it when the connection was
/// made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCred {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The process, where the system tells.
    pub pid: Option<i32>,
}

impl Stream {
    /// Writes as much of `data` as goes at once, the descriptors with its first byte.
    pub(crate) fn poll_send_fds(
        &self,
        waiter: &mut Waiter<'_>,
        data: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Err(invalid(
                "descriptors need at least one byte to go with",
            )));
        }
        if fds.len() > DESCRIPTORS {
            return Poll::Ready(Err(invalid(format_args!(
                "{} descriptors are more than the {DESCRIPTORS} that go at once",
                fds.len()
            ))));
        }
        self.source().poll_io(Direction::Write, waiter, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(invalid("too many descriptors"));
            }
            let flags = send_flags();
            let sent = sendmsg(
                self.source().io().as_fd(),
                &[IoSlice::new(data)],
                &mut control,
                flags,
            )?;
            Ok(sent)
        })
    }

    /// Reads what is there as far as it fits; the descriptors that came with it, all of them
    /// closed by exec, are added to `fds`. True if some were lost.
    pub(crate) fn poll_recv_fds(
        &self,
        waiter: &mut Waiter<'_>,
        buf: &mut [u8],
        fds: &mut Vec<OwnedFd>,
    ) -> Poll<io::Result<(usize, bool)>> {
        self.source().poll_io(Direction::Read, waiter, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                self.source().io().as_fd(),
                &mut [IoSliceMut::new(buf)],
                &mut control,
                recv_flags(),
            )?;
            // What is not taken out here is closed with the buffer.
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    for fd in received {
                        close_by_exec(&fd)?;
                        fds.push(fd);
                    }
                }
            }
            Ok((received.bytes, received.flags.contains(ReturnFlags::CTRUNC)))
        })
    }

    pub(crate) fn peer_cred(&self) -> io::Result<PeerCred> {
        peer_cred(self.source().io().as_fd())
    }
}

#[cfg(any(target_vendor = "apple", target_os = "solaris", target_os = "illumos"))]
fn send_flags() -> SendFlags {
    SendFlags::empty()
}

#[cfg(not(any(target_vendor = "apple", target_os = "solaris", target_os = "illumos")))]
fn send_flags() -> SendFlags {
    SendFlags::NOSIGNAL
}

#[cfg(any(target_vendor = "apple", target_os = "solaris", target_os = "illumos"))]
fn recv_flags() -> RecvFlags {
    RecvFlags::empty()
}

#[cfg(not(any(target_vendor = "apple", target_os = "solaris", target_os = "illumos")))]
fn recv_flags() -> RecvFlags {
    RecvFlags::CMSG_CLOEXEC
}

/// Where receiving cannot see to it; a child that another thread starts in between inherits it.
#[cfg(any(target_vendor = "apple", target_os = "solaris", target_os = "illumos"))]
fn close_by_exec(fd: &OwnedFd) -> io::Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(())
}

#[cfg(not(any(target_vendor = "apple", target_os = "solaris", target_os = "illumos")))]
fn close_by_exec(_fd: &OwnedFd) -> io::Result<()> {
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn peer_cred(socket: BorrowedFd<'_>) -> io::Result<PeerCred> {
    let cred = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(PeerCred {
        uid: cred.uid.as_raw(),
        gid: cred.gid.as_raw(),
        pid: Some(cred.pid.as_raw_nonzero().get()),
    })
}

#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
))]
#[allow(unsafe_code)]
fn peer_cred(socket: BorrowedFd<'_>) -> io::Result<PeerCred> {
    use std::os::fd::AsRawFd;

    let (mut uid, mut gid) = (0, 0);
    // SAFETY: the descriptor is open as long as it is borrowed, and both pointers are to
    // variables of the types that getpeereid(3) writes.
    if unsafe { libc::getpeereid(socket.as_raw_fd(), &mut uid, &mut gid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerCred {
        uid,
        gid,
        pid: None,
    })
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
fn peer_cred(_socket: BorrowedFd<'_>) -> io::Result<PeerCred> {
    Err(crate::error::unsupported("peer_cred"))
}
