//! asyncio's face: protocols, transports, and the calls that make them.

pub(crate) mod datagram;
mod flow;
pub(crate) mod handle;
mod lifetime;
mod locked;
pub(crate) mod stream;
mod transport;
