//! What only Unix sockets carry: descriptors, and who the peer is.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;

use rustix::cmsg_space;
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::rights;
use super::source::Direction;
use super::stream::Stream;
use crate::error::invalid;
use crate::wake::Waiter;

/// Descriptors that Linux takes with one message (`SCM_MAX_FD`); other systems differ.
pub(super) const DESCRIPTORS: usize = 253;

/// Who is at the other end of a Unix connection, as the system saw it when the connection was
/// made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCred {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The process, where the system tells: Linux unless it is in another PID namespace (outside of
    /// the container, for example), and macOS.
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
            rights::receive(self.source().io().as_fd(), buf, fds)
        })
    }

    pub(crate) fn peer_cred(&self) -> io::Result<PeerCred> {
        peer_cred(self.source().io().as_fd())
    }
}

#[cfg(target_vendor = "apple")]
fn send_flags() -> SendFlags {
    SendFlags::empty()
}

#[cfg(not(target_vendor = "apple"))]
fn send_flags() -> SendFlags {
    SendFlags::NOSIGNAL
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn peer_cred(socket: BorrowedFd<'_>) -> io::Result<PeerCred> {
    let none = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let cred = get_option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, none)?;
    Ok(PeerCred {
        uid: cred.uid,
        gid: cred.gid,
        // A process that this PID namespace does not see is 0.
        pid: (cred.pid > 0).then_some(cred.pid),
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
    #[cfg(target_vendor = "apple")]
    let pid = get_option(socket, libc::SOL_LOCAL, libc::LOCAL_PEERPID, 0)
        .ok()
        .filter(|pid: &libc::pid_t| *pid > 0);
    #[cfg(not(target_vendor = "apple"))]
    let pid = None;
    Ok(PeerCred { uid, gid, pid })
}

/// What getsockopt(2) writes over `value`. Types that are made of integers only, so that it does
/// not matter what the system writes.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
trait Integers: Copy {}
#[cfg(any(target_os = "linux", target_os = "android"))]
impl Integers for libc::ucred {}
#[cfg(target_vendor = "apple")]
impl Integers for libc::pid_t {}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
#[allow(unsafe_code)]
fn get_option<T: Integers>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    mut value: T,
) -> io::Result<T> {
    use std::os::fd::AsRawFd;

    let mut len = std::mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` and `len` are alive, `len` says how much the system may write to `value`, and
    // whatever that is, integers take it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

/// What a datagram socket has sent and receivers have not read, in bytes of its send buffer.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(super) fn unread(socket: &socket2::Socket) -> io::Result<usize> {
    use std::os::fd::AsRawFd;

    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as the socket is borrowed, and the pointer is to a
    // variable of the type that the request, which is SIOCOUTQ under another name, writes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
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
