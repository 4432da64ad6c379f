//! UDP sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use wasip2::io::poll::Pollable;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::ErrorCode;
use wasip2::sockets::udp::OutgoingDatagramStream;
use wasip2::sockets::udp_create_socket::create_udp_socket;

use super::call::{self, Outbound};
use super::convert::{creation_error, error, family_to_wasi, from_wasi, to_wasi};
use super::options::{get_udp, set_udp};
use super::pace::{Pace, BATCH};
use super::pollable::{wait, Interest};
use super::reactor::Registry;
use super::udp::Udp;
use crate::address::Address;
use crate::batch::{Meta, RecvBatch, SendBatch, Slot};
use crate::error::{context, unsupported};
use crate::sys::caps::{Caps, DatagramConfig, Family, Interface, Membership, SocketOption};
use crate::sys::wasi::address::{any, bound_already, destination, local, remote, remote_ref};
use crate::sys::wasi::arrived::Room;
use crate::sys::wasi::earlier::Waiting;
use crate::sys::wasi::options::check_datagram;
use crate::sys::wasi::socket::Socket;
use crate::sys::DatagramOps;
use crate::wake::{Direction, Ticket, Waitable, Waiter};

/// A UDP socket.
pub(crate) struct Datagram {
    // In this order: the host wants pollables gone before their streams, and those before the
    // socket.
    read: Interest,
    write: Interest,
    inner: Mutex<Udp>,
    family: Family,
    pace: Pace,
}

impl Datagram {
    fn lock(&self) -> MutexGuard<'_, Udp> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bind_socket(&self, to: SocketAddr) -> io::Result<()> {
        self.lock()
            .socket
            .start_bind(&instance_network(), to_wasi(to))
            .map_err(error)?;
        loop {
            let pollable = {
                let mut inner = self.lock();
                match inner.socket.finish_bind() {
                    Ok(()) => return inner.open_streams(None),
                    Err(ErrorCode::WouldBlock) => inner.socket.subscribe(),
                    Err(code) => return Err(error(code)),
                }
            };
            wait(pollable).await?;
        }
    }

    fn readable(&self) -> io::Result<Pollable> {
        let mut inner = self.lock();
        Ok(inner.streams(self.family)?.incoming.subscribe())
    }

    fn writable(&self) -> io::Result<Pollable> {
        let mut inner = self.lock();
        Ok(inner.streams(self.family)?.outgoing.subscribe())
    }

    /// Merging is the system's affair, which it does not have here.
    pub(crate) fn allow_merging(&self) {}

    /// Receives up to `most`, each with a call of its own; what is left of the batch stays empty.
    /// Lists would save calls, but cost the host twice what they save: it makes a large buffer for
    /// each datagram, and starts a task whenever it runs into the end of what is there.
    fn try_recv_some(&self, into: &mut RecvBatch, most: usize) -> io::Result<usize> {
        into.clear();
        let mut inner = self.lock();
        let (mut arena, size, slots) = into.buffers();
        let mut filled = 0;
        for slot in slots.iter_mut().take(most) {
            let (buf, rest) = arena.split_at_mut(size.min(arena.len()));
            arena = rest;
            match inner.receive() {
                Ok(datagram) => {
                    Room { buf, slot }.fill(&datagram);
                    filled += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.read.clear();
                    self.pace.ran_out(filled, Registry::listed());
                    if filled == 0 {
                        return Err(error);
                    }
                    break;
                }
                Err(error) if filled == 0 => return Err(error),
                Err(error) => {
                    inner.fail_next(error);
                    break;
                }
            }
        }
        into.set_filled(filled);
        self.read.tried();
        Ok(filled)
    }

    /// Receives as much at a time as it has been worth lately.
    fn try_recv_worthwhile(&self, into: &mut RecvBatch) -> io::Result<usize> {
        let most = self.pace.next();
        let filled = self.try_recv_some(into, most)?;
        if most == 1 {
            self.pace.received_one();
            self.read.clear();
        }
        Ok(filled)
    }
}

impl Waitable for Datagram {
    type Event = Direction;

    fn forget(&self, direction: Direction, ticket: Pin<&Ticket>) {
        match direction {
            Direction::Read => self.read.forget(ticket),
            Direction::Write => self.write.forget(ticket),
        }
    }
}

impl DatagramOps for Datagram {
    async fn open(config: &DatagramConfig) -> io::Result<Datagram> {
        check_datagram(config)?;
        let family = config.family;
        let socket = create_udp_socket(family_to_wasi(family)?)
            .map_err(|code| creation_error(code, "UDP"))?;
        let datagram = Datagram {
            read: Interest::new(),
            write: Interest::new(),
            inner: Mutex::new(Udp::new(socket)),
            family,
            pace: Pace::default(),
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
        let addr = local(to, self.family)?;
        let result = match self.lock().is_bound() {
            true => Err(bound_already()),
            false => Ok(()),
        };
        let result = match result {
            Ok(()) => self.bind_socket(addr).await,
            refused => refused,
        };
        result.map_err(|error| context(error, format_args!("bind {to}")))
    }

    fn connect(&self, to: &Address) -> io::Result<()> {
        let peer = remote(to, self.family)?;
        let mut inner = self.lock();
        inner
            .streams(self.family)
            .map_err(|error| context(error, format_args!("connect {to}")))?;
        inner.receive_all();
        let mut wakers = self.read.unsubscribe();
        wakers.append(&mut self.write.unsubscribe());
        let result = inner
            .connect(peer)
            .map_err(|error| context(error, format_args!("connect {to}")));
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    fn local_addr(&self) -> io::Result<Address> {
        match self.lock().socket.local_address() {
            Ok(addr) => Ok(from_wasi(addr).into()),
            // Not bound yet, for which other systems have an address.
            Err(ErrorCode::InvalidState) => Ok(any(self.family).into()),
            Err(code) => Err(error(code)),
        }
    }

    fn peer_addr(&self) -> io::Result<Address> {
        match self.lock().peer() {
            Some(peer) => Ok(peer.into()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn family(&self) -> Family {
        self.family
    }

    fn try_recv(&self, buf: &mut [u8], peek: bool) -> io::Result<(usize, Meta)> {
        let mut inner = self.lock();
        let result = inner.receive();
        self.read.note(&result);
        let datagram = result?;
        let mut slot = Slot::EMPTY;
        let room = Room {
            buf,
            slot: &mut slot,
        };
        room.fill(&datagram);
        if peek {
            inner.give_back(datagram);
        }
        Ok((slot.len, slot.meta))
    }

    fn poll_recv(
        &self,
        waiter: &mut Waiter<'_>,
        buf: &mut [u8],
        peek: bool,
    ) -> Poll<io::Result<(usize, Meta)>> {
        if self.lock().has_received() {
            return Poll::Ready(self.try_recv(buf, peek));
        }
        let poll = self
            .read
            .poll_io(waiter, || self.readable(), || self.try_recv(buf, peek));
        if matches!(poll, Poll::Ready(Ok(_))) && !peek {
            self.read.clear();
        }
        poll
    }

    fn try_recv_batch(&self, into: &mut RecvBatch) -> io::Result<usize> {
        self.try_recv_some(into, BATCH)
    }

    fn poll_recv_batch(
        &self,
        waiter: &mut Waiter<'_>,
        into: &mut RecvBatch,
    ) -> Poll<io::Result<usize>> {
        if self.lock().has_received() {
            return Poll::Ready(self.try_recv_some(into, BATCH));
        }
        self.read.poll_io(
            waiter,
            || self.readable(),
            || self.try_recv_worthwhile(into),
        )
    }

    fn try_send(&self, data: &[u8], to: Option<&Address>) -> io::Result<()> {
        let to = to.map(|to| remote_ref(to, self.family)).transpose()?;
        let one = [Outbound::new(data, to)];
        let waiting = Waiting::of(to);
        let attempt =
            |outgoing: &OutgoingDatagramStream, _| call::send(outgoing, &one).map_err(error);
        let result = self.lock().send(self.family, waiting, attempt);
        self.sent(result).map(drop)
    }

    fn poll_send(
        &self,
        waiter: &mut Waiter<'_>,
        data: &[u8],
        to: Option<&Address>,
    ) -> Poll<io::Result<()>> {
        self.write
            .poll_io(waiter, || self.writable(), || self.try_send(data, to))
    }

    fn try_send_batch(&self, from: &mut SendBatch) -> io::Result<usize> {
        let attempt = |outgoing: &OutgoingDatagramStream, permits| {
            let datagrams = list(from, BATCH.min(permits), self.family)?;
            call::send(outgoing, &datagrams).map_err(error)
        };
        let result = self.lock().send(self.family, Waiting::All, attempt);
        let sent = self.sent(result)?;
        from.advance(sent);
        Ok(sent)
    }

    fn poll_send_batch(
        &self,
        waiter: &mut Waiter<'_>,
        from: &mut SendBatch,
    ) -> Poll<io::Result<usize>> {
        self.write
            .poll_io(waiter, || self.writable(), || self.try_send_batch(from))
    }

    fn take_earlier(&self) -> Option<io::Error> {
        self.lock().take_failure()
    }

    fn tell_earlier(&self) {
        if self.lock().has_failed() {
            self.read.wake();
        }
    }

    fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        if self.lock().has_received() {
            return Poll::Ready(Ok(()));
        }
        self.read.poll_turn(waiter, || self.readable())
    }

    fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        // A send binds it.
        if !self.lock().is_bound() {
            return Poll::Ready(Ok(()));
        }
        self.write.poll_turn(waiter, || self.writable())
    }

    fn writable_is_exact(&self) -> bool {
        true
    }

    fn caps(&self) -> Caps {
        Caps {
            batches: true,
            max_segments: 1,
            ..Caps::default()
        }
    }

    fn get(&self, option: SocketOption) -> io::Result<u32> {
        get_udp(&self.lock().socket, self.family, option)
    }

    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        set_udp(&self.lock().socket, self.family, option, value)
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
    /// The result of a send, where none has to wait.
    fn sent(&self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Ok(0) => {
                self.write.clear();
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => {
                self.write.tried();
                result
            }
        }
    }
}

/// Up to `limit` datagrams from the front, all of which the host can be given; the error of the
/// first if it cannot.
fn list(batch: &SendBatch, limit: usize, family: Family) -> io::Result<Vec<Outbound<'_>>> {
    let (runs, mut bytes) = batch.waiting();
    let mut list = Vec::with_capacity(limit.min(batch.len()));
    for run in runs {
        let to = match destination(run, family) {
            Ok(to) => to,
            Err(error) if list.is_empty() => return Err(error),
            Err(_) => break,
        };
        for i in 1..=run.count {
            if list.len() == limit {
                return Ok(list);
            }
            let len = if i == run.count { run.last } else { run.size };
            let (data, rest) = bytes.split_at(len);
            bytes = rest;
            list.push(Outbound::new(data, to));
        }
    }
    Ok(list)
}
