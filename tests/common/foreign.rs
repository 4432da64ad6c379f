//! What the tests of streams share where no coracle runtime is running.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::future::Future;
use std::sync::Arc;

use coracle::create_connection_with_driver;
#[cfg(unix)]
use coracle::{create_unix_connection_with_driver, UnixOptions};
use coracle::{Address, TcpOptions, Transport};

use super::stream::{Log, Recorder};
use super::within;

/// `smol::block_on` with a panic instead of a hang.
pub(crate) fn smol_within<F: Future>(future: F) -> F::Output {
    smol::block_on(within(future))
}

pub(crate) fn echo() -> Recorder {
    Recorder::echoing(&Log::new())
}

pub(crate) type Spawn =
    Arc<dyn Fn(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

pub(crate) fn on_smol() -> Spawn {
    Arc::new(|future| smol::spawn(future).detach())
}

/// A connection that records.
pub(crate) async fn connect(addr: Address, spawn: &Spawn) -> (Transport, Log) {
    let log = Log::new();
    let recorder = || Recorder::new(&log);
    #[cfg(unix)]
    if addr.as_unix().is_some() {
        let options = UnixOptions::new().path(addr);
        let made = create_unix_connection_with_driver(recorder, options).await;
        let (transport, _, driver) = made.unwrap();
        spawn(Box::pin(driver));
        return (transport, log);
    }
    let options = TcpOptions::new().remote_addr(addr);
    let made = create_connection_with_driver(recorder, options).await;
    let (transport, _, driver) = made.unwrap();
    spawn(Box::pin(driver));
    (transport, log)
}
