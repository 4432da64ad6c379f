//! UDP sockets.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use wasip3::sockets::types::{ErrorCode, IpSocketAddress, UdpSocket};

use super::bytes::poll_io;
use super::convert::{creation_error, error, family_to_wasi, from_wasi, to_wasi};
use super::inflight::InFlight;
use super::leaving::leave;
use super::options::{get_udp, set_udp};
use crate::address::Address;
use crate::batch::{Meta, RecvBatch, SendBatch, Slot};
use crate::error::{context, unsupported};
use crate::sys::caps::{Caps, DatagramConfig, Family, Interface, Membership, SocketOption};
use crate::sys::wasi::address::{any, destination, local, remote};
use crate::sys::wasi::options::check_datagram;
use crate::sys::wasi::socket::Socket;
use crate::sys::DatagramOps;

type Received = Result<(Vec<u8>, IpSocketAddress), ErrorCode>;
type Sent = Result<(), ErrorCode>;

/// A UDP socket.
pub(crate) struct Datagram {
    // In this order: what is under way borrows the socket.
    receive: InFlight<Received>,
    /// `None` once it is leaving.
    send: Option<InFlight<Sent>>,
    inner: Mutex<Inner>,
    socket: Arc<UdpSocket>,
    family: Family,
}

#[derive(Default)]
struct Inner {
    /// Received and not yet taken.
    inbox: VecDeque<(Vec<u8>, SocketAddr)>,
    peer: Option<SocketAddr>,
    is_bound: bool,
    /// Of a receive, for the next one.
    failure: Option<io::Error>,
}

impl Datagram {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket that is not bound yet is bound to any address.
    fn bind_any(&self, inner: &mut Inner) -> io::Result<()> {
        if !inner.is_bound {
            let any = to_wasi(any(self.family));
            self.socket.bind(any).map_err(error)?;
            inner.is_bound = true;
        }
        Ok(())
    }

    /// Merging is the system's affair, which it does not have here.
    pub(crate) fn allow_merging(&self) {}

    /// Has a datagram there, or leaves a receive under way and says `WouldBlock`.
    fn fill(&self, inner: &mut Inner) -> io::Result<()> {
        if !inner.inbox.is_empty() {
            return Ok(());
        }
        if let Some(error) = inner.failure.take() {
            return Err(error);
        }
        let received = match self.receive.take() {
            Some(received) => Some(received),
            None if self.receive.is_under_way() => None,
            None => {
                self.bind_any(inner)?;
                let socket = self.socket.clone();
                self.receive.start(async move { socket.receive().await })
            }
        };
        match received {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(Err(code)) => Err(error(code)),
            Some(Ok((data, from))) => {
                inner.inbox.push_back((data, from_wasi(from)));
                Ok(())
            }
        }
    }

    fn take(&self, buf: &mut [u8], peek: bool) -> io::Result<(usize, Meta)> {
        let mut inner = self.lock();
        self.fill(&mut inner)?;
        let Some(datagram) = inner.inbox.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let filled = copy(buf, &datagram);
        if peek {
            inner.inbox.push_front(datagram);
        }
        Ok(filled)
    }

    fn take_batch(&self, into: &mut RecvBatch) -> io::Result<usize> {
        into.clear();
        // One at a time: to look for more costs the host as much as to receive, and what was
        // received waits for its answer meanwhile.
        let (arena, size, slots) = into.buffers();
        let (Some(buf), Some(slot)) = (arena.chunks_mut(size.max(1)).next(), slots.first_mut())
        else {
            return Ok(0);
        };
        let (len, meta) = self.take(buf, false)?;
        *slot = Slot { len, meta };
        into.set_filled(1);
        Ok(1)
    }

    /// The send before this has gone: its error is told now.
    fn can_send(&self) -> io::Result<&InFlight<Sent>> {
        let Some(send) = &self.send else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        match send.take() {
            Some(Err(code)) => Err(error(code)),
            None if send.is_under_way() => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(send),
        }
    }

    /// Gives a datagram to the host, which may take its time with it.
    fn send_one(&self, data: &[u8], to: Option<SocketAddr>) -> io::Result<()> {
        let send = self.can_send()?;
        let (socket, data) = (self.socket.clone(), data.to_vec());
        let to = to.map(to_wasi);
        match send.start(async move { socket.send(data, to).await }) {
            Some(Err(code)) => Err(error(code)),
            // The host binds it.
            _ => {
                self.lock().is_bound = true;
                Ok(())
            }
        }
    }
}

/// Copies what fits.
fn copy(buf: &mut [u8], (data, from): &(Vec<u8>, SocketAddr)) -> (usize, Meta) {
    let len = data.len().min(buf.len());
    buf[..len].copy_from_slice(&data[..len]);
    let mut meta = Meta::from((*from).into());
    meta.truncated = len < data.len();
    (len, meta)
}

impl Drop for Datagram {
    fn drop(&mut self) {
        if let Some(send) = self.send.take().filter(InFlight::is_under_way) {
            leave(send);
        }
    }
}

impl DatagramOps for Datagram {
    async fn open(config: &DatagramConfig) -> io::Result<Datagram> {
        check_datagram(config)?;
        let family = config.family;
        let socket = UdpSocket::create(family_to_wasi(family)?)
            .map_err(|code| creation_error(code, "UDP"))?;
        let datagram = Datagram {
            receive: InFlight::new(),
            send: Some(InFlight::new()),
            inner: Mutex::default(),
            socket: Arc::new(socket),
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
        let result = self.socket.bind(addr).map_err(error);
        result.map_err(|error| context(error, format_args!("bind {to}")))?;
        self.lock().is_bound = true;
        Ok(())
    }

    fn connect(&self, to: &Address) -> io::Result<()> {
        let peer = remote(to, self.family)?;
        let mut inner = self.lock();
        let before = inner.peer;
        let connect = |inner: &mut Inner| {
            self.bind_any(inner)?;
            if before.is_some() {
                self.socket.disconnect().map_err(error)?;
                inner.peer = None;
            }
            self.socket.connect(to_wasi(peer)).map_err(error)
        };
        match connect(&mut inner) {
            Ok(()) => {
                inner.peer = Some(peer);
                inner.inbox.retain(|(_, from)| *from == peer);
                Ok(())
            }
            Err(error) => {
                // It goes on as it was, which is as far as it can be told.
                if let Some(before) = before {
                    if self.socket.connect(to_wasi(before)).is_ok() {
                        inner.peer = Some(before);
                    }
                }
                Err(context(error, format_args!("connect {to}")))
            }
        }
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
        self.take(buf, peek)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        peek: bool,
    ) -> Poll<io::Result<(usize, Meta)>> {
        poll_io(&self.receive, cx, || self.take(buf, peek))
    }

    fn try_recv_batch(&self, into: &mut RecvBatch) -> io::Result<usize> {
        self.receive.look();
        self.take_batch(into)
    }

    fn poll_recv_batch(
        &self,
        cx: &mut Context<'_>,
        into: &mut RecvBatch,
    ) -> Poll<io::Result<usize>> {
        poll_io(&self.receive, cx, || self.take_batch(into))
    }

    fn try_send(&self, data: &[u8], to: Option<&Address>) -> io::Result<()> {
        let to = to.map(|to| remote(to, self.family)).transpose()?;
        self.send_one(data, to)
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        to: Option<&Address>,
    ) -> Poll<io::Result<()>> {
        self.poll_io_send(cx, || self.try_send(data, to))
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
        cx: &mut Context<'_>,
        from: &mut SendBatch,
    ) -> Poll<io::Result<usize>> {
        self.poll_io_send(cx, || self.try_send_batch(from))
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_io(&self.receive, cx, || {
            let mut inner = self.lock();
            match self.fill(&mut inner) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    // For the receive that follows.
                    inner.failure = Some(error);
                    Ok(())
                }
                result => result,
            }
        })
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_io_send(cx, || match &self.send {
            Some(send) if send.is_under_way() => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        })
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
        // The next operation gives it.
        Ok(None)
    }
}

impl Datagram {
    fn poll_io_send<T>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match &self.send {
            Some(send) => poll_io(send, cx, operation),
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
                self.send_one(data, to)?;
                bytes = rest;
                *sent += 1;
            }
        }
        Ok(())
    }
}
