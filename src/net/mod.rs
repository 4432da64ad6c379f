//! Sockets with async methods, for any executor.
//!
//! They are driven by the coracle runtime of the thread that first waits for them, or by
//! `async-io` where none is running (feature `async-io`); either way they can be moved to and
//! awaited on any thread.

mod backoff;
mod options;
mod resolve;
mod split;
mod stream;
mod target;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod udp;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
mod unix_datagram;

pub(crate) use self::backoff::Backoff;
pub use self::resolve::{resolve, ResolveFlags};
pub(crate) use self::resolve::{resolve_target, Query};
pub use self::split::{OwnedReadHalf, OwnedWriteHalf, ReuniteError};
pub use self::stream::Incoming;
#[cfg(unix)]
pub(crate) use self::target::unix_address;
pub(crate) use self::target::Pair;
pub use self::target::Target;
pub use self::tcp::{TcpListener, TcpStream};
#[cfg(feature = "tls")]
pub use self::tls::TlsStream;
pub use self::udp::UdpSocket;
#[cfg(unix)]
pub use self::unix::{FdsReceived, UnixListener, UnixStream};
#[cfg(unix)]
pub(crate) use self::unix_datagram::remove_stale;
#[cfg(unix)]
pub use self::unix_datagram::UnixDatagram;
pub use crate::batch::{Ecn, Meta, RecvBatch, SendBatch, SendMeta};
pub use crate::sys::caps::{Caps, Family, Interface, Keepalive};
#[cfg(unix)]
pub use crate::sys::PeerCred;
pub use crate::sys::Socket;
