//! How an endpoint that is not connected sends to the many receivers of Unix datagrams.

use std::io;
use std::time::Instant;

use crate::address::Address;
use crate::endpoint::datagram::outbox::{Outbox, Pumped, Sending, When, Wire};
use crate::endpoint::datagram::shared::{Locked, Shared};
use crate::error::context;
use crate::sys::caps::SocketOption;
use crate::sys::{clock, Datagram, DatagramOps};

impl Wire for Datagram {
    fn try_send(&self, data: &[u8], to: &Address) -> io::Result<()> {
        DatagramOps::try_send(self, data, Some(to))
    }

    fn unread(&self) -> Option<usize> {
        DatagramOps::unread(self)
    }

    fn capacity(&self) -> Option<usize> {
        DatagramOps::unread(self)?;
        let size = self.get(SocketOption::SendBufferSize).ok()?;
        usize::try_from(size).ok()
    }

    fn now(&self) -> Instant {
        clock::now()
    }
}

impl Shared {
    /// Sends a datagram, or has it wait for its receiver; false if the endpoint has but one. To be
    /// settled afterwards.
    pub(super) fn send_by_receiver(
        &self,
        state: &mut Locked<'_>,
        data: &[u8],
        to: Option<&Address>,
    ) -> bool {
        let high = state.flow.limits().1;
        let (parts, _) = state.parts();
        let (Some(outbox), Some(socket), Some(to)) = (&mut parts.outbox, &parts.socket, to) else {
            return false;
        };
        match outbox.send(socket.inner(), data, to, high) {
            Sending::Sent => {}
            Sending::Queued => state.call_driver(),
            Sending::Refused(error) => self.report(state, refusal(error, data.len(), to)),
            Sending::Dropped(count, error) => {
                state.dropped += count as u64;
                if let Some(error) = error {
                    self.report(state, error);
                }
            }
        }
        true
    }

    /// What callbacks have sent goes together if all of it may go, or each datagram to its receiver.
    pub(super) fn send_queued_by_receiver(&self, state: &mut Locked<'_>) {
        let (parts, _) = state.parts();
        let (Some(outbox), Some(socket)) = (&mut parts.outbox, parts.socket.clone()) else {
            return;
        };
        if outbox.admits_all(socket.inner(), &parts.queue) {
            outbox.sent_all(&parts.queue);
            while !parts.queue.is_empty() && socket.inner().try_send_batch(&mut parts.queue).is_ok()
            {
            }
        }
        let mut queue = std::mem::take(&mut parts.queue);
        while let Some((data, to)) = queue.front() {
            self.send_by_receiver(state, data, to);
            queue.advance(1);
        }
        state.queue = queue;
    }

    /// Sends what waits and may go.
    pub(super) fn pump(&self, state: &mut Locked<'_>, when: When) -> Pumped {
        let (parts, _) = state.parts();
        let (Some(outbox), Some(socket)) = (&mut parts.outbox, &parts.socket) else {
            return Pumped::default();
        };
        let mut errors = Vec::new();
        let pumped = outbox.pump(socket.inner(), when, |error, len, to| {
            errors.push(refusal(error, len, to));
        });
        for error in errors {
            self.report(state, error);
        }
        self.settle(state);
        pumped
    }

    /// Drops what waits, and tells for whom: the endpoint is closing, and waits no longer.
    pub(super) fn give_up(&self, state: &mut Locked<'_>) {
        let outbox = state.outbox.as_mut();
        let mut given_up = outbox.map(Outbox::give_up).unwrap_or_default();
        let count = state.queue.len();
        state.queue.clear();
        match self.peer {
            Some(peer) if count > 0 => given_up.push((peer, count)),
            _ => state.dropped += count as u64,
        }
        for (to, count) in given_up {
            state.dropped += count as u64;
            let error = io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "{count} datagrams for {to} were dropped: it takes nothing, and the endpoint \
                     is closing"
                ),
            );
            self.report(state, error);
        }
        self.settle(state);
    }
}

fn refusal(error: io::Error, len: usize, to: &Address) -> io::Error {
    context(error, format_args!("send {len} bytes to {to}"))
}
