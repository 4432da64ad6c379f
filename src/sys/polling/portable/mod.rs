//! What every native platform has, one datagram a call.

pub(super) mod msg;
pub(super) mod stream;
pub(super) mod wait;
