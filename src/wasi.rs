//! What WASI has beside sockets: standard input and output without blocking, and waiting for any
//! pollable of the host's.
//!
//! # Platforms
//! WASI 0.2.

#[cfg(not(feature = "wasi-p3"))]
pub use crate::sys::AsyncPollable;
pub use crate::sys::{stderr, stdin, stdout, Input, Output};
