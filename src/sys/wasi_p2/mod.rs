//! WASI 0.2: pollables, on the bindings themselves. One thread, and a host that traps on misuse:
//! what it owns goes in the order pollable, stream, socket, and addresses are checked here.

mod call;
mod convert;
mod datagram;
mod leaving;
mod listener;
mod options;
mod pace;
mod pollable;
mod reactor;
mod resolve;
mod stdio;
mod stream;
mod udp;

pub(crate) use self::datagram::Datagram;
pub(crate) use self::listener::Listener;
pub use self::pollable::AsyncPollable;
pub(crate) use self::reactor::{Notifier, Reactor};
pub(crate) use self::resolve::resolve;
pub use self::stdio::{stderr, stdin, stdout, Input, Output};
pub(crate) use self::stream::Stream;
pub(crate) use crate::sys::wasi::lookup::resolve_flags;
pub use crate::sys::wasi::socket::Socket;
pub(crate) use crate::sys::wasi::timer::ForeignTimer;
pub(crate) use crate::sys::wasi::{clock, path_from_bytes};

/// As errors name it.
pub(crate) const PLATFORM: &str = "WASI 0.2";

/// For [`wasi_main`](crate::wasi_main): `main` may wait anyway.
#[doc(hidden)]
#[macro_export]
macro_rules! __wasi_start {
    () => {};
}
