//! Datagrams that were there before a socket was connected: the system filters what comes from then
//! on, and gives what others had sent before all the same.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::address::from_sock_addr;

/// Whose datagrams are wanted, until the queue was found to be empty: nearly always at once.
#[derive(Default)]
pub(super) struct Sift {
    is_on: AtomicBool,
    peer: Mutex<Option<SocketAddr>>,
}

impl Sift {
    fn peer(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be others' datagrams among those in the queue.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// The socket has just been connected. An error is one that has been waiting.
    pub(super) fn start(&self, socket: &socket2::Socket) -> io::Result<()> {
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        *self.peer() = peer;
        self.is_on.store(peer.is_some(), Ordering::Relaxed);
        self.drop_others(socket)
    }

    /// Drops what others have sent, up to the next datagram of the peer's. There are no more than
    /// were in the queue, since none is added.
    pub(super) fn drop_others(&self, socket: &socket2::Socket) -> io::Result<()> {
        while self.is_on() {
            let from = match socket.peek_sender() {
                Ok(from) => from_sock_addr(&from)?.as_ip(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_on.store(false, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(error),
            };
            let peer = *self.peer();
            let is_peer = |from: SocketAddr| {
                peer.is_some_and(|peer| peer.port() == from.port() && peer.ip() == from.ip())
            };
            if from.is_some_and(is_peer) {
                break;
            }
            // Where it does not fit, some systems say so, and it is gone as well.
            let _ = socket.recv(&mut []);
        }
        Ok(())
    }
}
