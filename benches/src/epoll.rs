//! The little of epoll(7) that a server with one socket needs.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// Waits, level-triggered, for this descriptor to be readable.
    pub fn readable(watched: RawFd) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointer; the descriptor it returns is ours alone.
        let fd = unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            OwnedFd::from_raw_fd(fd)
        };
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        // SAFETY: the event outlives the call, which copies it.
        check(unsafe {
            libc::epoll_ctl(fd.as_raw_fd(), libc::EPOLL_CTL_ADD, watched, &mut event)
        })?;
        Ok(Self { fd })
    }

    pub fn wait(&self) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        loop {
            // SAFETY: there is room for the one event asked for.
            let ready = check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), &mut event, 1, -1) });
            match ready {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(|_| ()),
            }
        }
    }
}

/// Waits until a full send buffer has room again: too rare to be worth a registration.
pub fn wait_writable(fd: RawFd) -> io::Result<()> {
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry is passed and one is there.
    match check(unsafe { libc::poll(&mut entry, 1, -1) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
