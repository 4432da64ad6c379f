//! A minimal asynchronous runtime in the smol style, with asyncio's datagram endpoints.
#![deny(unsafe_code)]

mod address;
mod batch;
mod endpoint;
mod error;
pub mod net;
mod runtime;
mod sys;
pub mod time;
mod wake;

pub use crate::address::{Address, UnixAddress};
pub use crate::endpoint::datagram::{
    create_datagram_endpoint, create_datagram_endpoint_with_driver, DatagramOptions,
};
pub use crate::endpoint::driver::DatagramDriver;
pub use crate::endpoint::protocol::{on_datagram, DatagramProtocol, OnDatagram, ProtocolHandle};
pub use crate::endpoint::transport::DatagramTransport;
pub use crate::net::Family;
pub use crate::runtime::task::{spawn, Task};
pub use crate::runtime::{block_on, try_block_on, yield_now, YieldNow};
