//! Received datagrams, on their way to where they are read.

use std::net::SocketAddr;

use crate::batch::{Meta, Slot};

/// As the host gives it.
pub(in crate::sys) type Arrived = (Vec<u8>, SocketAddr);

/// Where a datagram goes.
pub(in crate::sys) struct Room<'a> {
    pub(in crate::sys) buf: &'a mut [u8],
    pub(in crate::sys) slot: &'a mut Slot,
}

impl Room<'_> {
    /// Copies what fits.
    pub(in crate::sys) fn fill(self, (data, from): &Arrived) {
        let len = data.len().min(self.buf.len());
        self.buf[..len].copy_from_slice(&data[..len]);
        self.slot.len = len;
        self.slot.meta = Meta::from((*from).into());
        self.slot.meta.truncated = len < data.len();
    }
}
