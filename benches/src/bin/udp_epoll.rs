//! An echo server on epoll, recvfrom and sendto: what a runtime is measured against.
//!
//! By default one datagram is answered per wake-up, which is the least a lone exchange can
//! cost. With `--drain` the socket is read until it is empty, which costs one failing read
//! per wake-up, and saves the wait in between when there is a queue.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use coracle_benches::epoll::{wait_writable, Epoll};
use coracle_benches::{contract, BUFFER};

fn main() -> io::Result<()> {
    let socket = contract::bind()?;
    let drain = contract::flag("--drain");
    contract::announce(socket.local_addr()?)?;
    let fd = socket.as_raw_fd();
    let epoll = Epoll::readable(fd)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        epoll.wait()?;
        while echo(fd, &mut buffer)? && drain {}
    }
}

/// Echoes one datagram; false if there was none.
fn echo(fd: RawFd, buffer: &mut [u8]) -> io::Result<bool> {
    // SAFETY: zeros are a valid value of this C structure.
    let mut address: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut address_len = mem::size_of_val(&address) as libc::socklen_t;
    let received = loop {
        // SAFETY: both lengths are those of what is pointed to.
        let received = unsafe {
            libc::recvfrom(
                fd,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                ptr::from_mut(&mut address).cast(),
                &mut address_len,
            )
        };
        if received >= 0 {
            break received as usize;
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    };
    loop {
        // SAFETY: as above.
        let sent = unsafe {
            libc::sendto(
                fd,
                buffer.as_ptr().cast(),
                received,
                0,
                ptr::from_ref(&address).cast(),
                address_len,
            )
        };
        if sent >= 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => wait_writable(fd)?,
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}
