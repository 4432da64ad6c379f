//! An echo server for Unix streams on epoll: what a runtime is measured against.
//!
//! Per wake-up of a connection there is one read and one write, which is the least a lone
//! exchange can cost, with one buffer for all of them. What the peer does not take at once is
//! kept, and nothing more is read from it before it has taken that.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::ptr;

use coracle_benches::epoll::{Epoll, Interest, NO_EVENT};
use coracle_benches::{check, contract, BUFFER};

struct Connection {
    stream: UnixStream,
    unsent: Vec<u8>,
}

fn main() -> io::Result<()> {
    let listener = contract::listen()?;
    let epoll = Epoll::readable(listener.as_raw_fd())?;
    let mut buffer = vec![0; BUFFER];
    let mut events = [NO_EVENT; 64];
    // By descriptor: the kernel gives out the lowest free number.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    loop {
        for event in epoll.wait_for(&mut events)? {
            let fd = event.u64 as RawFd;
            if fd == listener.as_raw_fd() {
                accept(&listener, &epoll, &mut connections)?;
            } else if let Some(connection) = &mut connections[fd as usize] {
                // An error concerns this connection only; the end of file is one as well.
                if serve(connection, &epoll, &mut buffer).is_err() {
                    connections[fd as usize] = None;
                }
            }
        }
    }
}

fn accept(
    listener: &UnixListener,
    epoll: &Epoll,
    connections: &mut Vec<Option<Connection>>,
) -> io::Result<()> {
    // SAFETY: no address is asked for; the descriptor returned is ours alone.
    let accepted = unsafe {
        check(libc::accept4(
            listener.as_raw_fd(),
            ptr::null_mut(),
            ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        ))
        .map(|fd| UnixStream::from_raw_fd(fd))
    };
    let stream = match accepted {
        Ok(stream) => stream,
        // Whoever it was has gone, or a signal came in between.
        Err(error) if retries(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let fd = stream.as_raw_fd();
    epoll.add(fd)?;
    let index = fd as usize;
    if connections.len() <= index {
        connections.resize_with(index + 1, || None);
    }
    connections[index] = Some(Connection {
        stream,
        unsent: Vec::new(),
    });
    Ok(())
}

/// One read and one write, or the write of what is left of the last one.
fn serve(connection: &mut Connection, epoll: &Epoll, buffer: &mut [u8]) -> io::Result<()> {
    let fd = connection.stream.as_raw_fd();
    if !connection.unsent.is_empty() {
        let sent = taken(connection.stream.write(&connection.unsent))?;
        connection.unsent.drain(..sent);
        if connection.unsent.is_empty() {
            epoll.modify(fd, Interest::Readable)?;
        }
        return Ok(());
    }
    let received = match connection.stream.read(buffer) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(received) => received,
        Err(error) if retries(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let sent = taken(connection.stream.write(&buffer[..received]))?;
    if sent < received {
        connection.unsent.extend(&buffer[sent..received]);
        epoll.modify(fd, Interest::Writable)?;
    }
    Ok(())
}

/// Of a write into a full buffer, nothing.
fn taken(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if retries(&error) => Ok(0),
        other => other,
    }
}

/// Whether the level-triggered wait is all that is needed to try once more.
fn retries(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}
