//! WASI 0.2: pollables, on the bindings themselves. One thread, and a host that traps on misuse:
//! what it owns goes in the order pollable, stream, socket, and addresses are checked here.

pub(crate) mod clock;
mod convert;
mod datagram;
mod leaving;
mod listener;
mod pollable;
mod reactor;
mod resolve;
mod socket;
mod stdio;
mod stream;
mod timer;

use std::path::Path;

pub(crate) use self::datagram::Datagram;
pub(crate) use self::listener::Listener;
pub use self::pollable::AsyncPollable;
pub(crate) use self::reactor::{Notifier, Reactor};
pub(crate) use self::resolve::{resolve, resolve_flags};
pub use self::socket::Socket;
pub use self::stdio::{stderr, stdin, stdout, Input, Output};
pub(crate) use self::stream::Stream;
pub(crate) use self::timer::ForeignTimer;

/// As errors name it.
pub(crate) const PLATFORM: &str = "WASI 0.2";

pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<&Path> {
    std::str::from_utf8(bytes).ok().map(Path::new)
}
