//! asyncio's face: protocols, transports, and the calls that make them.

pub(crate) mod datagram;
pub(crate) mod driver;
mod flow;
pub(crate) mod protocol;
mod shared;
pub(crate) mod transport;
