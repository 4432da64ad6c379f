//! UDP sockets.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use wasip3::sockets::types::{ErrorCode, UdpSocket};

use super::bytes::{is_later, poll_io, tried};
use super::convert::{creation_error, error, family_to_wasi, from_wasi, to_wasi};
use super::inflight::InFlight;
use super::leaving::leave;
use super::options::{get_udp, set_udp};
use super::udp::{self, Outbound, Received, Sent};
use crate::address::Address;
use crate::batch::{Meta, RecvBatch, SendBatch, Slot};
use crate::error::{context, unsupported};
use crate::sys::caps::{Caps, DatagramConfig, Family, Interface, Membership, SocketOption};
use crate::sys::wasi::address::{
    any, bound_already, destination, is_peer, local, remote, remote_ref, UNWANTED,
};
use crate::sys::wasi::arrived::{Arrived, Room};
use crate::sys::wasi::earlier::Waiting;
use crate::sys::wasi::options::check_datagram;
use crate::sys::wasi::socket::Socket;
use crate::sys::DatagramOps;
use crate::wake::{Direction, Ticket, Waitable, Waiter};

/// Memory of a received datagram, at most this large, is kept for one to be sent.
const SPARE: usize = 2 * 1024;

/// A UDP socket.
pub(crate) struct Datagram {
    // In this order: what is under way borrows the socket.
    receive: InFlight<(), Received>,
    /// `None` once it is leaving.
    send: Option<InFlight<Outbound, Sent>>,
    inner: Mutex<Inner>,
    socket: Arc<UdpSocket>,
    family: Family,
}

#[derive(Default)]
struct Inner {
    /// Received and not yet taken.
    inbox: VecDeque<Arrived>,
    /// For the next that is sent.
    spare: Vec<u8>,
    peer: Option<SocketAddr>,
    is_bound: bool,
    /// For the next receive: its own, or of a datagram that was sent.
    failure: Option<io::Error>,
}

impl Datagram {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket that is not bound yet is bound to any address.
    fn have_bound(&self, inner: &mut Inner) -> io::Result<()> {
        match inner.is_bound {
            true => Ok(()),
            false => self.bind_any(inner),
        }
    }

    #[cold]
    fn bind_any(&self, inner: &mut Inner) -> io::Result<()> {
        self.socket.bind(to_wasi(any(self.family))).map_err(error)?;
        inner.is_bound = true;
        Ok(())
    }

    /// Merging is the system's affair, which it does not have here.
    pub(crate) fn allow_merging(&self) {}

    /// The next datagram; or leaves a receive under way and says `WouldBlock`. `Interrupted` if
    /// others should have their turn first.
    fn next(&self, inner: &mut Inner) -> io::Result<Arrived> {
        if let Some(datagram) = inner.inbox.pop_front() {
            return Ok(datagram);
        }
        self.settle_send(inner);
        if let Some(error) = inner.failure.take() {
            return Err(error);
        }
        self.have_bound(inner)?;
        for _ in 0..UNWANTED {
            match self.receive.take_or_start(()) {
                None => return Err(io::ErrorKind::WouldBlock.into()),
                Some(Err(code)) => return Err(error(code)),
                Some(Ok(datagram)) if inner.is_wanted(&datagram) => return Ok(datagram),
                Some(Ok(_)) => {}
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn take(&self, room: Room<'_>, peek: bool) -> io::Result<()> {
        let mut inner = self.lock();
        let datagram = self.next(&mut inner)?;
        room.fill(&datagram);
        inner.done_with(datagram, peek);
        Ok(())
    }

    fn take_one(&self, buf: &mut [u8], peek: bool) -> io::Result<(usize, Meta)> {
        let mut slot = Slot::EMPTY;
        let room = Room {
            buf,
            slot: &mut slot,
        };
        self.take(room, peek)?;
        Ok((slot.len, slot.meta))
    }

    fn take_batch(&self, into: &mut RecvBatch) -> io::Result<usize> {
        into.clear();
        // One at a time: to look for more costs the host as much as to receive, and what was
        // received waits for its answer meanwhile.
        let (arena, size, slots) = into.buffers();
        let (Some(buf), Some(slot)) = (arena.get_mut(..size), slots.first_mut()) else {
            return Ok(0);
        };
        self.take(Room { buf, slot }, false)?;
        into.set_filled(1);
        Ok(1)
    }

    /// Gives a datagram to the host, which may take its time with it: an error of it is told to
    /// who receives.
    fn send_one(&self, data: &[u8], to: Option<&SocketAddr>, waiting: Waiting) -> io::Result<()> {
        let Some(send) = &self.send else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let mut inner = self.lock();
        let sent = send.start_next(|before| {
            let mut copy = match before {
                Some(before) => inner.settle(before),
                None => std::mem::take(&mut inner.spare),
            };
            copy.clear();
            copy.extend_from_slice(data);
            Outbound {
                data: copy,
                to: to.copied(),
                waiting: inner.peer.map_or(Waiting::None, |_| waiting),
            }
        })?;
        if let Some(sent) = sent {
            inner.keep(sent.data);
            inner.note(sent.earlier);
            sent.result?;
        }
        // The host binds it.
        inner.is_bound = true;
        Ok(())
    }

    /// Notes what has failed after the host had taken its time with it.
    #[inline]
    fn settle_send(&self, inner: &mut Inner) {
        let failed = self.send.as_ref().filter(|send| send.has_failed());
        if let Some(sent) = failed.and_then(InFlight::take) {
            let memory = inner.settle(sent);
            inner.keep(memory);
        }
    }
}

impl Inner {
    fn done_with(&mut self, (data, from): Arrived, peek: bool) {
        if peek {
            self.inbox.push_front((data, from));
        } else if self.spare.capacity() == 0 {
            self.keep(data);
        }
    }

    /// Notes what became of a datagram that nobody waits for any more, and gives its memory.
    fn settle(&mut self, sent: Sent) -> Vec<u8> {
        self.note(sent.earlier);
        let len = sent.data.len();
        self.note(sent.result.err().map(|error| match sent.to {
            Some(to) => context(error, format_args!("send {len} bytes to {to}")),
            None => context(error, format_args!("send {len} bytes")),
        }));
        sent.data
    }

    /// Has the next receive fail, if this is an error; of several the latest, as in the system
    /// itself.
    fn note(&mut self, failure: Option<io::Error>) {
        if failure.is_some() {
            self.failure = failure;
        }
    }

    /// Whether a datagram is one that is wanted. Others may have come before there was a peer.
    fn is_wanted(&self, (_, from): &Arrived) -> bool {
        self.peer.is_none_or(|peer| is_peer(&peer, from))
    }

    /// Memory for the next that is sent.
    fn keep(&mut self, memory: Vec<u8>) {
        if memory.capacity() <= SPARE {
            self.spare = memory;
        }
    }
}

impl Drop for Datagram {
    fn drop(&mut self) {
        if let Some(send) = self.send.take().filter(InFlight::is_under_way) {
            leave(send);
        }
    }
}

impl Waitable for Datagram {
    type Event = Direction;

    fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        match (direction, &self.send) {
            (Direction::Read, _) => self.receive.forget(ticket),
            (Direction::Write, Some(send)) => send.forget(ticket),
            (Direction::Write, None) => {}
        }
    }
}

impl DatagramOps for Datagram {
    // Batches are of one.
    const ROUNDS: usize = 16;

    async fn open(config: &DatagramConfig) -> io::Result<Datagram> {
        check_datagram(config)?;
        let family = config.family;
        let socket = UdpSocket::create(family_to_wasi(family)?)
            .map_err(|code| creation_error(code, "UDP"))?;
        let socket = Arc::new(socket);
        let receive = udp::receive(socket.clone());
        let datagram = Datagram {
            send: Some(udp::send(socket.clone(), &receive)),
            receive,
            inner: Mutex::default(),
            socket,
            family,
        };
        if let Some(addr) = &config.bind {
            datagram.bind(addr).await?;
        }
        if let Some(addr) = &config.connect {
            datagram.connect(addr)?;
        }
        Ok(datagram)
    }

    fn from_socket(socket: Socket) -> io::Result<Datagram> {
        socket.refuse()
    }

    fn into_socket(self) -> io::Result<Socket> {
        Err(unsupported("taking a socket out of coracle"))
    }

    async fn bind(&self, to: &Address) -> io::Result<()> {
        let addr = to_wasi(local(to, self.family)?);
        let mut inner = self.lock();
        let result = match inner.is_bound {
            true => Err(bound_already()),
            false => self.socket.bind(addr).map_err(error),
        };
        result.map_err(|error| context(error, format_args!("bind {to}")))?;
        inner.is_bound = true;
        Ok(())
    }

    fn connect(&self, to: &Address) -> io::Result<()> {
        let peer = remote(to, self.family)?;
        let mut inner = self.lock();
        // The host turns it to the new peer as it is: between two peers it would lose its port.
        let result = self
            .have_bound(&mut inner)
            .and_then(|()| self.socket.connect(to_wasi(peer)).map_err(error));
        if let Err(error) = result {
            // It goes on as it was, which is as far as it can be told.
            if let Some(before) = inner.peer {
                if self.socket.connect(to_wasi(before)).is_err() {
                    inner.peer = None;
                }
            }
            return Err(context(error, format_args!("connect {to}")));
        }
        inner.peer = Some(peer);
        inner.inbox.retain(|(_, from)| is_peer(&peer, from));
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Address> {
        match self.socket.get_local_address() {
            Ok(addr) => Ok(from_wasi(addr).into()),
            // Not bound yet, for which other systems have an address.
            Err(ErrorCode::InvalidState) => Ok(any(self.family).into()),
            Err(code) => Err(error(code)),
        }
    }

    fn peer_addr(&self) -> io::Result<Address> {
        match self.lock().peer {
            Some(peer) => Ok(peer.into()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn family(&self) -> Family {
        self.family
    }

    fn try_recv(&self, buf: &mut [u8], peek: bool) -> io::Result<(usize, Meta)> {
        self.receive.look();
        self.take_one(buf, peek).map_err(tried)
    }

    fn poll_recv(
        &self,
        waiter: &mut Waiter<'_>,
        buf: &mut [u8],
        peek: bool,
    ) -> Poll<io::Result<(usize, Meta)>> {
        poll_io(&self.receive, waiter, || self.take_one(buf, peek))
    }

    fn try_recv_batch(&self, into: &mut RecvBatch) -> io::Result<usize> {
        self.receive.look();
        self.take_batch(into).map_err(tried)
    }

    fn poll_recv_batch(
        &self,
        waiter: &mut Waiter<'_>,
        into: &mut RecvBatch,
    ) -> Poll<io::Result<usize>> {
        poll_io(&self.receive, waiter, || self.take_batch(into))
    }

    fn try_send(&self, data: &[u8], to: Option<&Address>) -> io::Result<()> {
        let to = match to {
            Some(to) => Some(remote_ref(to, self.family)?),
            None => None,
        };
        self.send_one(data, to, Waiting::of(to))
    }

    fn poll_send(
        &self,
        waiter: &mut Waiter<'_>,
        data: &[u8],
        to: Option<&Address>,
    ) -> Poll<io::Result<()>> {
        self.poll_io_send(waiter, || self.try_send(data, to))
    }

    fn try_send_batch(&self, from: &mut SendBatch) -> io::Result<usize> {
        let mut sent = 0;
        let result = self.send_all(from, &mut sent);
        from.advance(sent);
        match result {
            // The error of the one in front is told when it is asked for again.
            Err(_) if sent > 0 => Ok(sent),
            result => result.map(|()| sent),
        }
    }

    fn poll_send_batch(
        &self,
        waiter: &mut Waiter<'_>,
        from: &mut SendBatch,
    ) -> Poll<io::Result<usize>> {
        self.poll_io_send(waiter, || self.try_send_batch(from))
    }

    fn take_earlier(&self) -> Option<io::Error> {
        let mut inner = self.lock();
        self.settle_send(&mut inner);
        inner.failure.take()
    }

    fn tell_earlier(&self) {
        // What fails later tells by itself.
        if self.lock().failure.is_some() {
            self.receive.wake();
        }
    }

    fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        poll_io(&self.receive, waiter, || {
            let mut inner = self.lock();
            self.settle_send(&mut inner);
            if !inner.inbox.is_empty() || inner.failure.is_some() {
                return Ok(());
            }
            // For the receive that follows.
            match self.next(&mut inner) {
                Ok(datagram) => inner.inbox.push_back(datagram),
                Err(error) if is_later(&error) => return Err(error),
                Err(error) => inner.failure = Some(error),
            }
            Ok(())
        })
    }

    fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.poll_io_send(waiter, || match &self.send {
            Some(send) if send.goes_on() => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        })
    }

    fn writable_is_exact(&self) -> bool {
        true
    }

    fn caps(&self) -> Caps {
        Caps {
            batches: false,
            max_segments: 1,
            ..Caps::default()
        }
    }

    fn get(&self, option: SocketOption) -> io::Result<u32> {
        get_udp(&self.socket, self.family, option)
    }

    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        set_udp(&self.socket, self.family, option, value)
    }

    fn membership(
        &self,
        _change: Membership,
        group: IpAddr,
        _interface: Interface,
    ) -> io::Result<()> {
        Err(unsupported(format_args!("the multicast group {group}")))
    }

    fn set_multicast_interface(&self, _interface: Interface) -> io::Result<()> {
        Err(unsupported("multicast_interface"))
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.take_earlier())
    }
}

impl Datagram {
    fn poll_io_send<T>(
        &self,
        waiter: &mut Waiter<'_>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match &self.send {
            Some(send) => poll_io(send, waiter, operation),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Sends from the front until one does not go at once.
    fn send_all(&self, batch: &SendBatch, sent: &mut usize) -> io::Result<()> {
        let (runs, mut bytes) = batch.waiting();
        for run in runs {
            let to = destination(run, self.family)?;
            for i in 1..=run.count {
                let len = if i == run.count { run.last } else { run.size };
                let (data, rest) = bytes.split_at(len);
                self.send_one(data, to, Waiting::All)?;
                bytes = rest;
                *sent += 1;
            }
        }
        Ok(())
    }
}
