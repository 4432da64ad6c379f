//! The transport of a connection: what the user holds.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::address::Address;
use crate::endpoint::handle::{Cell, ProtocolHandle};
use crate::endpoint::lifetime::{to_io, Close, Ending, Living, Phase};
use crate::endpoint::stream::driver::{Connected, Kinded};
use crate::endpoint::stream::protocol::StreamProtocol;
use crate::endpoint::stream::shared::{Shared, Socket};
use crate::endpoint::transport::transport_methods;
use crate::error::closed;
use crate::net::TcpStream;
#[cfg(unix)]
use crate::net::UnixStream;
use crate::wake::wait;

/// Writes to a connection, and closes it. Cheap to clone; any task, any thread.
///
/// *asyncio equivalent*: `asyncio.Transport`. Dropping all transports leaves the connection open;
/// it ends with [`close`](Transport::close), [`abort`](Transport::abort), the peer, or its
/// runtime.
#[derive(Clone)]
pub struct Transport {
    pub(super) shared: Arc<Shared>,
}

impl Transport {
    /// Writes bytes. Never waits: what the system does not take at once is copied and queued, see
    /// [`set_write_buffer_limits`](Transport::set_write_buffer_limits).
    ///
    /// What callbacks write goes out together when they have returned. What the system says
    /// reaches [`connection_lost`](crate::Protocol::connection_lost), never this call.
    ///
    /// *asyncio equivalent*: `transport.write`.
    ///
    /// # Errors
    /// - `InvalidInput`: after [`write_eof`](Transport::write_eof).
    /// - `NotConnected`: the connection is closing.
    ///
    /// Nothing has been written then.
    pub fn write(&self, data: &[u8]) -> io::Result<()> {
        self.shared.write(&[IoSlice::new(data)])
    }

    /// Writes several slices one after the other, with one system call if they are written at
    /// once.
    ///
    /// *asyncio equivalent*: `transport.writelines`.
    ///
    /// # Errors
    /// As [`write`](Transport::write).
    ///
    /// # Examples
    /// ```
    /// # use coracle::{on_data, OnData, Transport};
    /// use std::io::IoSlice;
    ///
    /// # let _ =
    /// on_data(|transport, body| {
    ///     let header = format!("length: {}\n\n", body.len());
    ///     transport.writelines(&[IoSlice::new(header.as_bytes()), IoSlice::new(body)])
    /// });
    /// ```
    pub fn writelines(&self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.shared.write(bufs)
    }

    /// Ends the writing direction once what is queued has been sent: the peer reads the end, and
    /// may go on writing. Again, or while closing, it does nothing.
    ///
    /// *asyncio equivalent*: `transport.write_eof`.
    ///
    /// # Errors
    /// - `Unsupported`: [`can_write_eof`](Transport::can_write_eof) is false.
    pub fn write_eof(&self) -> io::Result<()> {
        if !self.can_write_eof() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a TLS connection cannot end its writing direction alone",
            ));
        }
        self.shared.write_eof();
        Ok(())
    }

    /// Whether [`write_eof`](Transport::write_eof) works: for all connections without TLS.
    pub fn can_write_eof(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.shared.lock().tls.is_none();
        #[cfg(not(feature = "tls"))]
        true
    }

    /// What the ends of a TLS connection have agreed on: the protocol's version, the cipher suite,
    /// the peer's certificates and more; remembered when it is closed. `None` without TLS, and
    /// during the handshake.
    ///
    /// *asyncio equivalent*: `get_extra_info` with `"peercert"`, `"cipher"` and `"ssl_object"`.
    /// Feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls_info(&self) -> Option<crate::tls::TlsInfo> {
        self.shared.lock().tls_info()
    }

    /// Closes the connection once what is queued has been sent. Nothing is received any more; then
    /// `connection_lost` is called.
    ///
    /// A peer that reads nothing holds this up for ever: pair it with
    /// [`timeout`](crate::time::timeout) and [`abort`](Transport::abort).
    ///
    /// A TLS connection also tells the peer that this was the end (close_notify), and waits until
    /// the peer says so too or is gone. All of it has to happen within `tls_shutdown_timeout` (30 s
    /// unless set): then the connection ends with `TimedOut`. In the handshake, it is `abort`.
    pub fn close(&self) {
        self.shared.end(Phase::Closing);
    }

    /// Closes the connection and drops what is queued.
    ///
    /// # Platforms
    /// On WASI 0.3 up to 64 KiB that count as written may not have reached the system, and are
    /// dropped as well.
    pub fn abort(&self) {
        self.shared.end(Phase::Aborted);
    }

    /// Waits until `connection_lost` has been called and the socket is closed.
    ///
    /// # Errors
    /// - what ended the connection, unless that was the peer's end, `close` or `abort`:
    ///   `ConnectionReset`, `BrokenPipe`, or the error of a callback.
    /// - With TLS also `UnexpectedEof`: the peer's end came without its close_notify; what was
    ///   queued has been sent, as far as the peer took it within `tls_shutdown_timeout`;
    ///   `InvalidData`: what rustls objects to; `TimedOut`: the peer did not agree to close in
    ///   time.
    /// - `ConnectionAborted`: the driver was dropped, for example with its runtime.
    /// - `Other`: a callback panicked.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn closed(&self) -> io::Result<()> {
        wait(&*self.shared, (), |waiter| self.shared.poll_closed(waiter)).await
    }

    /// Has another protocol called from now on, of either kind; `connection_made` is not called
    /// again. The handle is that of the new one; the old one's stays, and gives it back at the
    /// end.
    ///
    /// Bytes that the old one has been given are not given again: change at a boundary of the
    /// protocol.
    ///
    /// *asyncio equivalent*: `transport.set_protocol`.
    ///
    /// # Examples
    /// ```
    /// use coracle::{on_data, Protocol, Transport};
    /// use std::io;
    ///
    /// struct Greeting;
    ///
    /// impl Protocol for Greeting {
    ///     fn data_received(&mut self, transport: &Transport, _: &[u8]) -> io::Result<()> {
    ///         transport.set_protocol(on_data(|transport, data| transport.write(data)));
    ///         transport.write(b"echoing from now on\n")
    ///     }
    /// }
    /// ```
    pub fn set_protocol<P, K>(&self, protocol: P) -> ProtocolHandle<P>
    where
        P: StreamProtocol<K> + Send + 'static,
        K: 'static,
    {
        let cell = Cell::new(protocol);
        let successor: Box<dyn Connected + Send> = Box::new(Kinded::new(cell.clone()));
        // Dropped after the lock, as the successor is if it comes too late.
        let _replaced;
        let mut state = self.shared.lock();
        if state.life.phase != Phase::Lost {
            _replaced = state.successor.replace(successor);
            state.call_driver();
        }
        drop(state);
        ProtocolHandle {
            cell,
            end: self.shared.clone(),
        }
    }

    /// The address of this end; remembered when it is closed.
    ///
    /// *asyncio equivalent*: `get_extra_info("sockname")`.
    ///
    /// # Errors
    /// The system's, if it could not tell.
    pub fn local_addr(&self) -> io::Result<Address> {
        let state = self.shared.lock();
        match (&state.socket, &state.names) {
            (Some(socket), _) => socket.local_addr(),
            (None, Some(names)) => names[0].ok_or_else(|| closed("the connection")),
            (None, None) => Err(closed("the connection")),
        }
    }

    /// The address of the peer; remembered when it is gone. [`Address::UNNAMED`] is the Unix
    /// client that has none, which is the usual.
    ///
    /// *asyncio equivalent*: `get_extra_info("peername")`.
    pub fn peer_addr(&self) -> Option<Address> {
        let state = self.shared.lock();
        match (&state.socket, &state.names) {
            (Some(socket), _) => socket.peer_addr().ok(),
            (None, Some(names)) => names[1],
            (None, None) => None,
        }
    }

    /// The socket of a TCP connection, for its options; it stays open while it is held. Do not
    /// read from it: the bytes are the protocol's.
    ///
    /// *asyncio equivalent*: `get_extra_info("socket")`.
    ///
    /// # Errors
    /// - `NotConnected`: the connection is closed.
    /// - `InvalidInput`: it is a Unix connection.
    pub fn tcp_socket(&self) -> io::Result<Arc<TcpStream>> {
        match &self.shared.lock().socket {
            Some(Socket::Tcp(socket)) => Ok(socket.clone()),
            None => Err(closed("the connection")),
            #[cfg(unix)]
            Some(Socket::Unix(_)) => {
                Err(crate::error::invalid("a Unix connection has no TCP socket"))
            }
        }
    }

    /// The socket of a Unix connection, as [`tcp_socket`](Transport::tcp_socket): for the peer's
    /// credentials, for example.
    ///
    /// # Errors
    /// - `NotConnected`: the connection is closed.
    /// - `InvalidInput`: it is a TCP connection.
    ///
    /// # Platforms
    /// Unix.
    #[cfg(unix)]
    pub fn unix_socket(&self) -> io::Result<Arc<UnixStream>> {
        match &self.shared.lock().socket {
            Some(Socket::Unix(socket)) => Ok(socket.clone()),
            None => Err(closed("the connection")),
            Some(Socket::Tcp(_)) => {
                Err(crate::error::invalid("a TCP connection has no Unix socket"))
            }
        }
    }

    transport_methods!(
        "the connection",
        "Where TLS is spoken, the defaults are asyncio's for it: high 512 KiB, low 128 KiB; and \
         the protocol is asked to pause at the high limit already. What waits to be encrypted \
         counts, and so does what has been and waits to be sent. [`start_tls`](Transport::start_tls) \
         changes the defaults, not limits that were set."
    );

    /// Stops receiving: bytes wait in the system's buffers, and then the peer waits. Its end, and
    /// its disappearance, stay unseen meanwhile.
    pub fn pause_reading(&self) {
        self.set_reading(false);
    }

    /// How many bytes were given up: written while closing, or still queued at the end.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }

    /// Runs a callback, and sends together what it has written.
    pub(super) fn corked<R>(&self, callback: impl FnOnce() -> R) -> R {
        self.shared.corked(callback)
    }
}

impl Close for Transport {
    fn close(&self) {
        self.close();
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer_addr();
        // What it is written to may be the user's.
        let (phase, size) = {
            let state = self.shared.lock();
            (state.life.phase, state.flow.size())
        };
        f.debug_struct("Transport")
            .field("peer", &peer)
            .field("phase", &phase)
            .field("write_buffer_size", &size)
            .finish_non_exhaustive()
    }
}
