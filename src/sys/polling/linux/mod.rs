//! What only Linux has: waiting on the poller's own descriptor, batches, control messages.

mod cmsg;
pub(super) mod msg;
mod name;
mod offload;
mod send;
pub(super) mod stream;
pub(super) mod wait;
