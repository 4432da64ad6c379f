//! WASI 0.3: async functions, streams and futures of the component model. What is under way at the
//! host belongs to the sockets; the loop waits for the host's events.

mod bytes;
mod call;
mod convert;
mod datagram;
mod entry;
mod host;
mod inflight;
mod leaving;
mod listener;
mod options;
mod reactor;
mod resolve;
mod stdio;
mod stream;
mod task;
mod udp;

pub(crate) use self::datagram::Datagram;
pub use self::entry::run_main;
pub(crate) use self::host::Host;
pub(crate) use self::listener::Listener;
pub(crate) use self::reactor::{Notifier, Reactor};
pub(crate) use self::resolve::resolve;
pub use self::stdio::{stderr, stdin, stdout, Input, Output};
pub(crate) use self::stream::Stream;
pub(crate) use crate::sys::wasi::lookup::resolve_flags;
pub use crate::sys::wasi::socket::Socket;
pub(crate) use crate::sys::wasi::timer::ForeignTimer;
pub(crate) use crate::sys::wasi::{clock, path_from_bytes};

/// As errors name it.
pub(crate) const PLATFORM: &str = "WASI 0.3";
