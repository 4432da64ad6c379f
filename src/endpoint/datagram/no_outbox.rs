//! Where there are no Unix sockets: no endpoint has a queue for each receiver.

use std::io;
use std::time::Instant;

use crate::address::Address;
use crate::batch::SendBatch;

pub(super) const PEER: usize = 0;
pub(super) const DATAGRAM: usize = 0;

/// There is none.
#[derive(Debug)]
pub(super) enum Outbox {}

// As where there are Unix sockets.
#[allow(dead_code)]
pub(super) trait Wire {
    fn try_send(&self, data: &[u8], to: &Address) -> io::Result<()>;
    fn unread(&self) -> Option<usize>;
    fn capacity(&self) -> Option<usize>;
    fn now(&self) -> Instant;
}

#[allow(dead_code)]
#[derive(Debug)]
pub(super) enum Sending {
    Sent,
    Queued,
    Refused(io::Error),
    Dropped(usize, Option<io::Error>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Now,
    Tick,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pumped {
    pub(super) progress: bool,
    pub(super) more: bool,
}

impl Outbox {
    /// For an endpoint of a family that has one, of which there is none here.
    pub(super) fn for_receivers() -> Option<Outbox> {
        None
    }

    pub(super) fn ask_again(&mut self) {
        match *self {}
    }

    pub(super) fn is_empty(&self) -> bool {
        match *self {}
    }

    pub(super) fn len(&self) -> usize {
        match *self {}
    }

    pub(super) fn size(&self) -> usize {
        match *self {}
    }

    pub(super) fn send(
        &mut self,
        _wire: &impl Wire,
        _data: &[u8],
        _to: &Address,
        _high: usize,
    ) -> Sending {
        match *self {}
    }

    pub(super) fn admits_all(&mut self, _wire: &impl Wire, _batch: &SendBatch) -> bool {
        match *self {}
    }

    pub(super) fn sent_all(&mut self, _batch: &SendBatch) {
        match *self {}
    }

    pub(super) fn pump(
        &mut self,
        _wire: &impl Wire,
        _when: When,
        _refused: impl FnMut(io::Error, usize, &Address),
    ) -> Pumped {
        match *self {}
    }

    pub(super) fn give_up(&mut self) -> Vec<(Address, usize)> {
        match *self {}
    }
}

pub(super) fn too_much(to: &Address, waits: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::WouldBlock,
        format!("{to} takes nothing, and {waits} datagrams wait for it"),
    )
}
