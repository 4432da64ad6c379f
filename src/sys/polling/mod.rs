//! Unix and Windows: readiness from `polling`, sockets from `socket2`; a corner of its own for
//! Linux, where system calls are the budget.

mod address;
mod chunk;
pub(crate) mod clock;
mod datagram;
mod earlier;
mod foreign;
mod listener;
mod options;
mod pool;
mod reactor;
mod readiness;
mod resolve;
#[cfg(unix)]
mod rights;
mod sift;
mod socket;
mod source;
mod stream;
#[cfg(unix)]
mod unix;
mod watched;

// The same items twice: what Linux has, and what every platform has. The hooks run the second on
// Linux too, for the tests.
#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(any(coracle_force_portable, polling_test_poll_backend))
))]
#[path = "linux/mod.rs"]
mod kernel;
#[cfg(not(all(
    any(target_os = "linux", target_os = "android"),
    not(any(coracle_force_portable, polling_test_poll_backend))
)))]
#[path = "portable/mod.rs"]
mod kernel;

/// As errors name it.
pub(crate) const PLATFORM: &str = std::env::consts::OS;

pub(crate) use self::address::path_from_bytes;
pub(crate) use self::datagram::Datagram;
pub(crate) use self::foreign::ForeignTimer;
pub(crate) use self::kernel::wait::Notifier;
pub(crate) use self::listener::Listener;
pub(crate) use self::reactor::Reactor;
pub(crate) use self::resolve::{resolve, resolve_flags};
pub use self::socket::Socket;
pub(crate) use self::stream::Stream;
#[cfg(unix)]
pub use self::unix::PeerCred;

/// For [`wasi_main`](crate::wasi_main): `main` may wait anyway.
#[doc(hidden)]
#[macro_export]
macro_rules! __wasi_start {
    () => {};
}
