//! An echo server on epoll, recvmmsg and sendmmsg: what batches of system calls are worth.

use std::io;
use std::os::fd::AsRawFd;

use coracle_benches::epoll::{wait_writable, Epoll};
use coracle_benches::mmsg::Batch;
use coracle_benches::{contract, BUFFER};

const BATCH: usize = 64;

fn main() -> io::Result<()> {
    let socket = contract::bind()?;
    contract::announce(socket.local_addr()?)?;
    let fd = socket.as_raw_fd();
    let epoll = Epoll::readable(fd)?;
    let mut batch = Batch::new(BATCH, BUFFER);
    loop {
        epoll.wait()?;
        // A batch that is not full has emptied the socket: no failing read is needed to
        // know it, and if it was not quite so, the level-triggered wait returns at once.
        loop {
            let received = match batch.receive(fd) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            batch.turn_round();
            let mut sent = 0;
            while sent < received {
                match batch.send(fd, sent, received) {
                    Ok(taken) => sent += taken,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(fd)?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if received < BATCH {
                break;
            }
        }
    }
}
