//! What the servers on raw system calls and the client of the harness share.

pub mod contract;
pub mod epoll;
pub mod mmsg;

/// The largest payload of a UDP datagram fits, whatever a peer sends; and a block of a bulk
/// transfer.
pub const BUFFER: usize = 64 * 1024;

/// Turns the -1 of a system call into the `io::Error` it stands for.
pub fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(result)
}
