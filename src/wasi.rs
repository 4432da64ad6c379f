//! What WASI has beside sockets: standard input and output without blocking, and, by version, how
//! the host starts a program (0.3) and waiting for any pollable of the host's (0.2).
//!
//! # Platforms
//! WASI 0.2, and 0.3 with feature `wasi-p3`.

#[cfg(not(feature = "wasi-p3"))]
pub use crate::sys::AsyncPollable;
pub use crate::sys::{stderr, stdin, stdout, Input, Output};

/// For [`wasi_main`](crate::wasi_main).
#[cfg(feature = "wasi-p3")]
#[doc(hidden)]
pub mod private {
    pub use crate::sys::run_main;
    pub use wasip3;
}
