//! What WASI has beside sockets: standard input and output without blocking, and, by version, how
//! the host starts a program (0.3) and waiting for any pollable of the host's (0.2).
//!
//! # Platforms
//! WASI 0.2, and 0.3 with feature `wasi-p3`.

#[cfg(feature = "wasi-p3")]
use std::future::Future;

#[cfg(feature = "wasi-p3")]
pub use crate::runtime::hosted::Run;
#[cfg(not(feature = "wasi-p3"))]
pub use crate::sys::AsyncPollable;
pub use crate::sys::{stderr, stdin, stdout, Input, Output};

/// Runs a future to its end with a runtime of its own, inside an asynchronous export of a
/// component, without blocking it: other exports of the component go on meanwhile.
///
/// It is to [`block_on`](crate::block_on) what awaiting is to blocking: there are a queue of tasks
/// and timers; tasks that have not ended when the future has are dropped with their sockets. Every
/// call of an export may have its own. They may share sockets, and whatever wakes a task of one may
/// be another's, such as a channel: a runtime in which every task waits for another export is not
/// at an end.
///
/// # Panics
/// When it is polled inside another runtime of coracle's: await the future itself there.
///
/// # Cancel safety
/// Dropping it drops the future and the tasks.
///
/// # Platforms
/// WASI 0.3.
///
/// # Examples
/// An export of a component, whose interface has `get: async func(url: string) -> …`, as the
/// bindings have it:
/// ```no_run
/// # struct Component;
/// # impl Component {
/// async fn resolve(name: String) -> Vec<String> {
///     coracle::wasi::run(async {
///         match coracle::net::resolve((name.as_str(), 0)).await {
///             Ok(addrs) => addrs.iter().map(|addr| addr.ip().to_string()).collect(),
///             Err(_) => Vec::new(),
///         }
///     })
///     .await
/// }
/// # }
/// ```
#[cfg(feature = "wasi-p3")]
pub fn run<F: Future>(future: F) -> Run<F> {
    Run::new(future)
}

/// For [`wasi_main`](crate::wasi_main).
#[cfg(feature = "wasi-p3")]
#[doc(hidden)]
pub mod private {
    pub use crate::sys::run_main;
    pub use wasip3;
}
