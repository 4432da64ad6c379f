//! The little of epoll(7) that the servers need, level-triggered.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

pub use libc::epoll_event as Event;

/// No event yet: what a wait fills.
pub const NO_EVENT: Event = Event { events: 0, u64: 0 };

#[derive(Clone, Copy)]
pub enum Interest {
    Readable,
    Writable,
}

pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointer; the descriptor it returns is ours alone.
        let fd = unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { fd })
    }

    /// For a server with one socket: waits for this descriptor to be readable.
    pub fn readable(watched: RawFd) -> io::Result<Self> {
        let epoll = Self::new()?;
        epoll.add(watched)?;
        Ok(epoll)
    }

    /// Waits for this descriptor, too, to be readable. Its events carry its number. It is
    /// removed by being closed.
    pub fn add(&self, watched: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, watched, Interest::Readable)
    }

    /// Waits for something else from a descriptor than so far.
    pub fn modify(&self, watched: RawFd, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, watched, interest)
    }

    fn control(&self, how: libc::c_int, watched: RawFd, interest: Interest) -> io::Result<()> {
        let mut event = Event {
            events: match interest {
                Interest::Readable => libc::EPOLLIN as u32,
                Interest::Writable => libc::EPOLLOUT as u32,
            },
            u64: watched as u64,
        };
        // SAFETY: the event outlives the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), how, watched, &mut event) })?;
        Ok(())
    }

    pub fn wait(&self) -> io::Result<()> {
        self.wait_for(&mut [NO_EVENT]).map(|_| ())
    }

    /// Waits for one event or more, of which there are at most as many as there is room for.
    pub fn wait_for<'a>(&self, events: &'a mut [Event]) -> io::Result<&'a [Event]> {
        loop {
            // SAFETY: there is room for as many events as are asked for.
            let ready = check(unsafe {
                libc::epoll_wait(
                    self.fd.as_raw_fd(),
                    events.as_mut_ptr(),
                    events.len() as libc::c_int,
                    -1,
                )
            });
            match ready {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(|count| &events[..count as usize]),
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
