//! The transport of a datagram endpoint: what the user holds.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::address::Address;
use crate::endpoint::datagram::shared::{Shared, Socket};
use crate::endpoint::lifetime::{to_io, Close, Ending, Living, Phase};
use crate::endpoint::transport::transport_methods;
use crate::error::closed;
use crate::net::UdpSocket;
#[cfg(unix)]
use crate::net::UnixDatagram;
use crate::sys::DatagramOps;
use crate::wake::wait;

/// Sends datagrams, and closes the endpoint. Cheap to clone; any task, any thread.
///
/// *asyncio equivalent*: `asyncio.DatagramTransport`. Dropping all transports leaves the endpoint
/// open; it ends with [`close`](DatagramTransport::close), [`abort`](DatagramTransport::abort), or
/// its runtime.
///
/// # Unix receivers that do not read
/// Unix datagrams wait for their receiver. On an endpoint that sends to several, each has a queue
/// of its own: one that does not read holds up nobody else. On Linux what is unread also takes the
/// endpoint's send buffer (`SO_SNDBUF`), so that nobody gets more than a share of that while it is
/// scarce; a dozen or two receivers that read nothing leave room for others, more than that need a
/// larger buffer (`set_send_buffer_size`).
///
/// For each receiver the [high limit](DatagramTransport::set_write_buffer_limits) and 1 MiB may
/// wait, for all together the high limit and 8 MiB. What is more is dropped, the latest first,
/// counted by [`dropped`](DatagramTransport::dropped), and told to
/// [`error_received`](crate::DatagramProtocol::error_received), once until there is room again: as
/// `WouldBlock`, naming the receiver. Who has taken nothing for a second, while others have, does
/// not count when the protocol is asked to pause writing.
#[derive(Clone)]
pub struct DatagramTransport {
    pub(super) shared: Arc<Shared>,
}

impl DatagramTransport {
    /// Sends a datagram (copied) to `to`. Never waits: what the system does not take at once is
    /// queued, see [`set_write_buffer_limits`](DatagramTransport::set_write_buffer_limits).
    /// Zero bytes are an empty datagram.
    ///
    /// Where datagrams are received in batches, what the callbacks send goes out together when they
    /// have returned. What the network says reaches
    /// [`error_received`](crate::DatagramProtocol::error_received), never this call.
    ///
    /// *asyncio equivalent*: `transport.sendto`.
    ///
    /// # Errors
    /// - `InvalidInput`: the endpoint has a fixed peer and this is another, or the address is of
    ///   another family. The peer may be named as it was given or as
    ///   [`peer_addr`](DatagramTransport::peer_addr) names it.
    /// - `NotConnected`: the endpoint is closing.
    ///
    /// Nothing has been sent then, and the endpoint goes on.
    pub fn send_to(&self, data: &[u8], to: &Address) -> io::Result<()> {
        self.shared.send(data, Some(to))
    }

    /// Sends a datagram (copied) to the endpoint's fixed peer, as
    /// [`send_to`](DatagramTransport::send_to).
    ///
    /// # Errors
    /// - `InvalidInput`: there is none.
    /// - `NotConnected`: the endpoint is closing.
    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        self.shared.send(data, None)
    }

    /// Closes the endpoint once what is queued has been sent. Nothing is received any more; then
    /// `connection_lost` is called.
    ///
    /// It waits for room at the receivers of Unix datagrams until nothing has gone for a second, and
    /// for five seconds at most. What is queued then is dropped, and
    /// [`error_received`](crate::DatagramProtocol::error_received) is told for each receiver, as
    /// `TimedOut`.
    pub fn close(&self) {
        self.shared.end(Phase::Closing);
    }

    /// Closes the endpoint and drops what is queued.
    pub fn abort(&self) {
        self.shared.end(Phase::Aborted);
    }

    /// Waits until `connection_lost` has been called and the socket is closed.
    ///
    /// # Errors
    /// - `ConnectionAborted`: the driver was dropped, for example with its runtime.
    /// - `Other`: a callback panicked.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn closed(&self) -> io::Result<()> {
        wait(&*self.shared, (), |waiter| self.shared.poll_closed(waiter)).await
    }

    /// The address the endpoint is bound to: asked for while it is open, since the first send may
    /// bind it, and remembered afterwards.
    ///
    /// *asyncio equivalent*: `get_extra_info("sockname")`.
    ///
    /// # Errors
    /// The system's, if it could not tell.
    pub fn local_addr(&self) -> io::Result<Address> {
        let state = self.shared.lock();
        match (&state.socket, state.local) {
            (Some(socket), _) => socket.inner().local_addr(),
            (None, Some(local)) => Ok(local),
            (None, None) => Err(closed("the datagram endpoint")),
        }
    }

    /// The endpoint's fixed peer: its `remote_addr`, or the peer of its `sock`, as the system names
    /// it. `0.0.0.0:80` is `127.0.0.1:80` then, and a Unix path the one that the peer is bound to.
    ///
    /// *asyncio equivalent*: `get_extra_info("peername")`.
    pub fn peer_addr(&self) -> Option<Address> {
        self.shared.peer
    }

    /// The socket of an IP endpoint, for its options; it stays open while it is held. Do not
    /// receive from it: the datagrams are the protocol's.
    ///
    /// *asyncio equivalent*: `get_extra_info("socket")`.
    ///
    /// # Errors
    /// - `NotConnected`: the endpoint is closed.
    /// - `InvalidInput`: it is a Unix endpoint.
    pub fn udp_socket(&self) -> io::Result<Arc<UdpSocket>> {
        match self.shared.socket() {
            Some(Socket::Udp(socket)) => Ok(socket),
            None => Err(closed("the datagram endpoint")),
            #[cfg(unix)]
            Some(Socket::Unix(_)) => {
                Err(crate::error::invalid("a Unix endpoint has no UDP socket"))
            }
        }
    }

    /// The socket of a Unix endpoint, as [`udp_socket`](DatagramTransport::udp_socket).
    ///
    /// # Errors
    /// - `NotConnected`: the endpoint is closed.
    /// - `InvalidInput`: it is an IP endpoint.
    ///
    /// # Platforms
    /// Unix.
    #[cfg(unix)]
    pub fn unix_socket(&self) -> io::Result<Arc<UnixDatagram>> {
        match self.shared.socket() {
            Some(Socket::Unix(socket)) => Ok(socket),
            None => Err(closed("the datagram endpoint")),
            Some(Socket::Udp(_)) => Err(crate::error::invalid("an IP endpoint has no Unix socket")),
        }
    }

    transport_methods!(
        "the datagram endpoint",
        "A datagram counts 8 bytes more than it has. Of what waits for Unix receivers, the high limit \
         and 1 MiB more is the bound."
    );

    /// Stops receiving: datagrams wait in the system's buffer, which drops them when it is full.
    pub fn pause_reading(&self) {
        self.set_reading(false);
    }

    /// How many datagrams were given up: sent while closing, still queued at the end, or too much
    /// for a Unix receiver that does not read; and errors that came faster than the protocol took
    /// them.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }
}

impl fmt::Debug for DatagramTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What it is written to may be the user's.
        let (phase, size) = {
            let state = self.shared.lock();
            (state.life.phase, state.flow.size())
        };
        f.debug_struct("DatagramTransport")
            .field("peer", &self.shared.peer)
            .field("phase", &phase)
            .field("write_buffer_size", &size)
            .finish_non_exhaustive()
    }
}

impl Close for DatagramTransport {
    fn close(&self) {
        self.close();
    }
}
