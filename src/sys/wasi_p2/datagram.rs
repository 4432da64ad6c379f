//! UDP sockets.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use wasip2::io::poll::Pollable;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::ErrorCode;
use wasip2::sockets::udp::{
    IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasip2::sockets::udp_create_socket::create_udp_socket;

use super::convert::{creation_error, error, family_to_wasi, from_wasi, local, remote, to_wasi};
use super::pollable::{wait, Interest};
use super::reactor::Registry;
use super::socket::Socket;
use crate::address::Address;
use crate::batch::{Meta, RecvBatch, SendBatch, Slot};
use crate::error::{context, unsupported};
use crate::sys::caps::{Caps, DatagramConfig, Family, Interface, Membership, SocketOption};
use crate::sys::DatagramOps;

/// Datagrams received for one batch, each with a call of its own. Lists would save calls, but cost
/// the host twice what they save: it makes a large buffer for each datagram, and starts a task
/// whenever it runs into the end of what is there.
const BATCH: usize = 16;

/// Datagrams in a batch that were worth the try for another, which found nothing.
const WORTH: usize = 4;

/// Receives that are not followed by a try for more, once that was not worth it: a wait is cheaper.
const LONE: u8 = 64;

/// Datagrams looked at when a socket that is in use is connected.
const KEPT: usize = 1024;

/// A UDP socket.
pub(crate) struct Datagram {
    // In this order: the host wants pollables gone before their streams, and those before the
    // socket.
    read: Interest,
    write: Interest,
    inner: Mutex<Inner>,
    family: Family,
    /// How many more receives expect nothing behind them.
    lone: AtomicU8,
}

struct Inner {
    streams: Option<Streams>,
    /// Received and not yet taken: looked at, or of an earlier pair of streams.
    inbox: VecDeque<IncomingDatagram>,
    /// Of a receive that came after others, for the next one.
    failure: Option<io::Error>,
    peer: Option<SocketAddr>,
    socket: UdpSocket,
}

struct Streams {
    incoming: IncomingDatagramStream,
    outgoing: OutgoingDatagramStream,
}

impl Inner {
    /// The streams; a socket that is not bound yet is bound to any address first.
    fn streams(&mut self, family: Family) -> io::Result<&Streams> {
        if self.streams.is_none() {
            let any = match family {
                Family::Inet => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                _ => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            };
            self.socket
                .start_bind(&instance_network(), to_wasi(any))
                .map_err(error)?;
            loop {
                match self.socket.finish_bind() {
                    Ok(()) => break,
                    // No host is known that needs it.
                    Err(ErrorCode::WouldBlock) => self.socket.subscribe().block(),
                    Err(code) => return Err(error(code)),
                }
            }
            self.open_streams(None)?;
        }
        self.streams
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn open_streams(&mut self, peer: Option<SocketAddr>) -> io::Result<()> {
        // The host bears one pair at a time.
        self.streams = None;
        let (incoming, outgoing) = self.socket.stream(peer.map(to_wasi)).map_err(error)?;
        self.streams = Some(Streams { incoming, outgoing });
        self.peer = peer;
        Ok(())
    }

    /// There is something for the next receive, without the host.
    fn has_received(&self) -> bool {
        !self.inbox.is_empty() || self.failure.is_some()
    }

    /// The next datagram.
    fn receive(&mut self) -> io::Result<IncomingDatagram> {
        if let Some(datagram) = self.inbox.pop_front() {
            return Ok(datagram);
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.receive_now()?
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// What the host has.
    fn receive_now(&self) -> io::Result<Option<IncomingDatagram>> {
        match &self.streams {
            Some(streams) => Ok(streams.incoming.receive(1).map_err(error)?.pop()),
            // Nothing can come before it is bound.
            None => Ok(None),
        }
    }
}

impl Datagram {
    fn lock(&self) -> MutexGuard<'_, Inner> {
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

    /// Receives up to `most`; what is left of the batch stays empty.
    fn try_recv_some(&self, into: &mut RecvBatch, most: usize) -> io::Result<usize> {
        into.clear();
        let mut inner = self.lock();
        let (arena, size, slots) = into.buffers();
        let mut filled = 0;
        for (buf, slot) in arena.chunks_mut(size.max(1)).zip(slots).take(most) {
            match inner.receive() {
                Ok(datagram) => {
                    let (len, meta) = fill(buf, &datagram);
                    *slot = Slot { len, meta };
                    filled += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.read.clear();
                    if filled < WORTH {
                        self.lone.store(LONE, Ordering::Relaxed);
                    }
                    if filled == 0 {
                        return Err(error);
                    }
                    break;
                }
                Err(error) if filled == 0 => return Err(error),
                Err(error) => {
                    inner.failure = Some(error);
                    break;
                }
            }
        }
        into.set_filled(filled);
        Ok(filled)
    }

    /// Receives as much at a time as it has been worth lately.
    fn try_recv_worthwhile(&self, into: &mut RecvBatch) -> io::Result<usize> {
        let lone = self.lone.load(Ordering::Relaxed);
        if lone == 0 || !Registry::is_short() {
            return self.try_recv_some(into, BATCH);
        }
        let filled = self.try_recv_some(into, 1)?;
        self.lone.store(lone - 1, Ordering::Relaxed);
        self.read.clear();
        Ok(filled)
    }
}

/// Copies what fits.
fn fill(buf: &mut [u8], datagram: &IncomingDatagram) -> (usize, Meta) {
    let len = datagram.data.len().min(buf.len());
    buf[..len].copy_from_slice(&datagram.data[..len]);
    let mut meta = Meta::from(from_wasi(datagram.remote_address).into());
    meta.truncated = len < datagram.data.len();
    (len, meta)
}

impl DatagramOps for Datagram {
    async fn open(config: &DatagramConfig) -> io::Result<Datagram> {
        let family = config.family;
        if config.reuse_port {
            return Err(unsupported("reuse_port"));
        }
        if config.broadcast {
            return Err(unsupported("allow_broadcast"));
        }
        if config.protocol != 0 && config.protocol != 17 {
            return Err(unsupported(format_args!("proto {}", config.protocol)));
        }
        let socket = create_udp_socket(family_to_wasi(family)?)
            .map_err(|code| creation_error(code, "UDP"))?;
        let datagram = Datagram {
            read: Interest::new(),
            write: Interest::new(),
            inner: Mutex::new(Inner {
                streams: None,
                inbox: VecDeque::new(),
                failure: None,
                peer: None,
                socket,
            }),
            family,
            lone: AtomicU8::new(0),
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
        self.bind_socket(addr)
            .await
            .map_err(|error| context(error, format_args!("bind {to}")))
    }

    fn connect(&self, to: &Address) -> io::Result<()> {
        let peer = remote(to, self.family)?;
        let mut inner = self.lock();
        inner
            .streams(self.family)
            .map_err(|error| context(error, format_args!("connect {to}")))?;
        // What has come from the peer is not to be lost with the streams.
        while inner.inbox.len() < KEPT {
            match inner.receive_now() {
                Ok(Some(datagram)) => inner.inbox.push_back(datagram),
                _ => break,
            }
        }
        self.read.unsubscribe();
        self.write.unsubscribe();
        let before = inner.peer;
        match inner.open_streams(Some(peer)) {
            Ok(()) => {
                let is_peers =
                    |datagram: &IncomingDatagram| from_wasi(datagram.remote_address) == peer;
                inner.inbox.retain(is_peers);
                Ok(())
            }
            Err(error) => {
                // It goes on as it was, which is as far as it can be told.
                let _ = inner.open_streams(before);
                Err(context(error, format_args!("connect {to}")))
            }
        }
    }

    fn local_addr(&self) -> io::Result<Address> {
        match self.lock().socket.local_address() {
            Ok(addr) => Ok(from_wasi(addr).into()),
            // Not bound yet, for which other systems have an address.
            Err(ErrorCode::InvalidState) => Ok(match self.family {
                Family::Inet6 => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0).into(),
                _ => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).into(),
            }),
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
        let mut inner = self.lock();
        let result = inner.receive();
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.read.clear();
        }
        let datagram = result?;
        let filled = fill(buf, &datagram);
        if peek {
            inner.inbox.push_front(datagram);
        }
        Ok(filled)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        peek: bool,
    ) -> Poll<io::Result<(usize, Meta)>> {
        if self.lock().has_received() {
            return Poll::Ready(self.try_recv(buf, peek));
        }
        let poll = self
            .read
            .poll_io(cx, || self.readable(), || self.try_recv(buf, peek));
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
        cx: &mut Context<'_>,
        into: &mut RecvBatch,
    ) -> Poll<io::Result<usize>> {
        if self.lock().has_received() {
            return Poll::Ready(self.try_recv_some(into, BATCH));
        }
        self.read
            .poll_io(cx, || self.readable(), || self.try_recv_worthwhile(into))
    }

    fn try_send(&self, data: &[u8], to: Option<&Address>) -> io::Result<()> {
        let to = to.map(|to| remote(to, self.family)).transpose()?;
        let mut inner = self.lock();
        let outgoing = &inner.streams(self.family)?.outgoing;
        let datagram = OutgoingDatagram {
            data: data.to_vec(),
            remote_address: to.map(to_wasi),
        };
        match outgoing.check_send().map_err(error)? {
            0 => self.would_block(),
            _ => match outgoing.send(&[datagram]).map_err(error)? {
                0 => self.would_block(),
                _ => Ok(()),
            },
        }
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        to: Option<&Address>,
    ) -> Poll<io::Result<()>> {
        self.write
            .poll_io(cx, || self.writable(), || self.try_send(data, to))
    }

    fn try_send_batch(&self, from: &mut SendBatch) -> io::Result<usize> {
        let mut inner = self.lock();
        let outgoing = &inner.streams(self.family)?.outgoing;
        let permits = outgoing.check_send().map_err(error)?;
        if permits == 0 {
            return self.would_block();
        }
        let datagrams = list(from, permits as usize, self.family)?;
        let sent = outgoing.send(&datagrams).map_err(error)? as usize;
        if sent == 0 {
            return self.would_block();
        }
        from.advance(sent);
        Ok(sent)
    }

    fn poll_send_batch(
        &self,
        cx: &mut Context<'_>,
        from: &mut SendBatch,
    ) -> Poll<io::Result<usize>> {
        self.write
            .poll_io(cx, || self.writable(), || self.try_send_batch(from))
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lock().has_received() {
            return Poll::Ready(Ok(()));
        }
        self.read.poll_turn(cx, || self.readable())
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write.poll_turn(cx, || self.writable())
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
        let inner = self.lock();
        let socket = &inner.socket;
        let value = match option {
            SocketOption::Ttl => socket.unicast_hop_limit().map(u32::from),
            SocketOption::RecvBufferSize => socket.receive_buffer_size().map(saturate),
            SocketOption::SendBufferSize => socket.send_buffer_size().map(saturate),
            // Always so.
            SocketOption::OnlyV6 if self.family == Family::Inet6 => Ok(1),
            SocketOption::Broadcast | SocketOption::ReusePort => Ok(0),
            other => return Err(unsupported(other)),
        };
        value.map_err(|code| context(error(code), option))
    }

    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        let inner = self.lock();
        let socket = &inner.socket;
        let result = match option {
            SocketOption::Ttl => {
                // More than fits is refused by the host in the same way as 0.
                socket.set_unicast_hop_limit(u8::try_from(value).unwrap_or(0))
            }
            SocketOption::RecvBufferSize => socket.set_receive_buffer_size(value.into()),
            SocketOption::SendBufferSize => socket.set_send_buffer_size(value.into()),
            SocketOption::OnlyV6 if self.family == Family::Inet6 && value != 0 => Ok(()),
            other => return Err(unsupported(other)),
        };
        result.map_err(|code| context(error(code), format_args!("{option} = {value}")))
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
        // The next operation gives it.
        Ok(None)
    }
}

impl Datagram {
    fn would_block<T>(&self) -> io::Result<T> {
        self.write.clear();
        Err(io::ErrorKind::WouldBlock.into())
    }
}

pub(super) fn saturate(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// Up to `limit` datagrams from the front, all of which the host can be given; the error of the
/// first if it cannot.
fn list(batch: &SendBatch, limit: usize, family: Family) -> io::Result<Vec<OutgoingDatagram>> {
    let (runs, mut bytes) = batch.waiting();
    let mut list = Vec::with_capacity(limit.min(batch.len()));
    for run in runs {
        let to = match check(run, family) {
            Ok(to) => to.map(to_wasi),
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
            list.push(OutgoingDatagram {
                data: data.to_vec(),
                remote_address: to,
            });
        }
    }
    Ok(list)
}

fn check(run: &crate::batch::Run, family: Family) -> io::Result<Option<SocketAddr>> {
    if run.meta.ecn.is_some() {
        return Err(unsupported("ecn"));
    }
    if run.meta.source.is_some() {
        return Err(unsupported("source"));
    }
    run.to.as_ref().map(|to| remote(to, family)).transpose()
}
