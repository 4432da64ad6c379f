//! Datagram sockets: UDP and Unix.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Poll;

use socket2::Type;

use super::address::{family_of, from_sock_addr, to_sock_addr};
use super::chunk::{self, Chunk};
use super::earlier::{Earlier, Refusal};
use super::kernel::msg;
use super::options;
use super::sift::Sift;
use super::socket::{open_socket, Socket};
use super::source::{source_methods, waitable, Direction, Source};
use crate::address::Address;
use crate::batch::{Meta, RecvBatch, SendBatch};
use crate::error::{context, invalid, unsupported};
use crate::sys::caps::{Caps, DatagramConfig, Family, Interface, Membership, SocketOption};
use crate::sys::DatagramOps;
use crate::wake::Waiter;

/// Receives that are not followed by a try for more, or do not ask for more than one, once that
/// found nothing.
const LONE: u8 = 16;

/// Batches of one datagram in a row that make it likely that the next comes alone, too.
const ALONE: u8 = 4;

/// A buffer of this size takes all that may come merged.
const MERGED: usize = 65_535;

/// A datagram socket with its readiness.
pub(crate) struct Datagram {
    source: Source,
    family: Family,
    offload: msg::Offload,
    /// Told to who receives, or asked for by who sends.
    earlier: Earlier,
    /// Datagrams come without control messages, which are not asked for then.
    plain: AtomicBool,
    /// Datagrams may come merged: only batches can take them apart.
    merged: AtomicBool,
    /// Merging may be turned on when there is much to receive.
    may_merge: AtomicBool,
    /// How many more receives expect one datagram and no more.
    lone: AtomicU8,
    /// How many batches in a row have found one datagram, up to [`ALONE`].
    alone: AtomicU8,
    /// After a connect: what others had sent before.
    sift: Sift,
}

impl Datagram {
    fn new(socket: socket2::Socket, family: Family) -> Datagram {
        // A Unix socket that is not connected is writable although its receivers have no room.
        let source = if family == Family::Unix {
            Source::with_guessed_writable(socket)
        } else {
            Source::new(socket)
        };
        Datagram {
            source,
            family,
            offload: msg::Offload::new(family),
            earlier: Earlier::default(),
            plain: AtomicBool::new(true),
            merged: AtomicBool::new(false),
            may_merge: AtomicBool::new(false),
            lone: AtomicU8::new(0),
            alone: AtomicU8::new(0),
            sift: Sift::default(),
        }
    }

    /// `open` where it need not wait, which is everywhere here.
    pub(crate) fn open_now(config: &DatagramConfig) -> io::Result<Datagram> {
        Ok(Datagram::new(open(config)?, config.family))
    }

    source_methods!(touched);

    /// The user has had the socket.
    fn touched(&self) {
        self.offload.forget();
    }

    fn refuse_merged(&self) -> io::Result<()> {
        if self.merged.load(Ordering::Relaxed) {
            return Err(invalid(
                "receive_offload is on, so datagrams may come merged: use recv_batch",
            ));
        }
        Ok(())
    }

    /// What does not fit would be lost, with all datagrams that it was merged with.
    fn refuse_small(&self, batch: &RecvBatch) -> io::Result<()> {
        let (_, size) = batch.capacity();
        if size < MERGED && self.merged.load(Ordering::Relaxed) {
            return Err(invalid(format_args!(
                "receive_offload is on, so datagrams may come merged: a batch of buffers of \
                 {size} bytes is too small, {MERGED} are needed"
            )));
        }
        Ok(())
    }

    fn recv_batch(&self, into: &mut RecvBatch, mut limit: usize) -> io::Result<(usize, Chunk)> {
        self.earlier.tell()?;
        if self.sift.is_on() {
            self.sift.drop_others(self.io())?;
            // Behind the next there may be others' again.
            limit = 1;
        }
        let plain = self.plain.load(Ordering::Relaxed);
        let chunk = msg::recv_batch(self.io(), self.family, into, limit, plain, &self.earlier)?;
        Ok((into.filled(), chunk))
    }

    /// `poll` is that of a receive. An error that was noted after it had looked is told now, or
    /// wakes it.
    fn or_earlier<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match poll {
            Poll::Pending => match self.earlier.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
            ready => ready,
        }
    }

    /// After a receive that took what it expected: is there likely to be more? A try costs a
    /// system call, and so does the wait that it saves when it succeeds.
    fn settle_lone(&self) {
        let lone = self.lone.load(Ordering::Relaxed);
        if lone > 0 {
            self.lone.store(lone - 1, Ordering::Relaxed);
            self.source.settle(Direction::Read);
        }
    }

    /// After a batch that has asked for more than one.
    fn expect_lone(&self, received: usize) {
        let alone = match received {
            1 => ALONE.min(self.alone.load(Ordering::Relaxed) + 1),
            _ => 0,
        };
        self.alone.store(alone, Ordering::Relaxed);
        if alone == ALONE {
            self.lone.store(LONE, Ordering::Relaxed);
        }
    }

    /// There is much to receive: have it merged, if that was left to us.
    fn turn_merging_on(&self) {
        if self.may_merge.swap(false, Ordering::Relaxed) {
            // Where the system cannot, it does not.
            let _ = self.set(SocketOption::ReceiveOffload, 1);
        }
    }

    /// Leaves it to the socket to turn `ReceiveOffload` on when there is much to receive; only
    /// for a user who takes batches and nothing else.
    pub(crate) fn allow_merging(&self) {
        self.may_merge
            .store(self.family != Family::Unix, Ordering::Relaxed);
    }
}

/// A socket without a descriptor that exec would hand on, not blocking, not registered anywhere.
fn open(config: &DatagramConfig) -> io::Result<socket2::Socket> {
    let socket = open_socket(config.family, Type::DGRAM, config.protocol)?;
    if config.reuse_port {
        options::set_reuse_port(&socket, true).map_err(|error| context(error, "reuse_port"))?;
    }
    if config.broadcast {
        socket
            .set_broadcast(true)
            .map_err(|error| context(error, "allow_broadcast"))?;
    }
    socket.set_nonblocking(true)?;
    if let Some(addr) = &config.bind {
        bind(&socket, addr)?;
    }
    if let Some(addr) = &config.connect {
        socket
            .connect(&to_sock_addr(addr)?)
            .map_err(|error| context(error, format_args!("connect {addr}")))?;
    }
    Ok(socket)
}

fn bind(socket: &socket2::Socket, addr: &Address) -> io::Result<()> {
    let is_unnamed = addr.as_unix().is_some_and(|unix| unix.is_unnamed());
    if is_unnamed && !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err(unsupported("an automatic Unix address"));
    }
    socket
        .bind(&to_sock_addr(addr)?)
        .map_err(|error| context(error, format_args!("bind {addr}")))
}

waitable!(Datagram);

impl DatagramOps for Datagram {
    async fn open(config: &DatagramConfig) -> io::Result<Datagram> {
        Datagram::open_now(config)
    }

    fn from_socket(socket: Socket) -> io::Result<Datagram> {
        let socket = socket.0;
        let kind = socket.r#type()?;
        // A raw socket's messages are datagrams too. A sequenced one has an end, which a datagram
        // endpoint would take for empty datagrams without end.
        if kind != Type::DGRAM && kind != Type::RAW {
            return Err(invalid(format_args!(
                "sock is a {} socket, not a datagram socket",
                if kind == Type::STREAM {
                    "stream"
                } else {
                    "sequenced or other"
                }
            )));
        }
        let family = family_of(&socket)?;
        socket.set_nonblocking(true)?;
        let datagram = Datagram::new(socket, family);
        // Its owner may have asked for anything.
        datagram.plain.store(false, Ordering::Relaxed);
        let merged = datagram.get(SocketOption::ReceiveOffload).unwrap_or(0);
        datagram.merged.store(merged != 0, Ordering::Relaxed);
        Ok(datagram)
    }

    fn into_socket(self) -> io::Result<Socket> {
        self.source.into_io().map(Socket)
    }

    async fn bind(&self, to: &Address) -> io::Result<()> {
        bind(self.io(), to)
    }

    fn connect(&self, to: &Address) -> io::Result<()> {
        self.io()
            .connect(&to_sock_addr(to)?)
            .map_err(|error| context(error, format_args!("connect {to}")))?;
        self.offload.forget_peer();
        if let Err(error) = self.sift.start(self.io()) {
            self.earlier.note(error);
            self.tell_earlier();
        }
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Address> {
        match self.io().local_addr() {
            Ok(addr) => from_sock_addr(&addr),
            // WSAEINVAL: not bound yet, for which other systems have an address.
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(10022) => {
                Ok(match self.family {
                    Family::Inet6 => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
                    _ => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
                })
            }
            Err(error) => Err(error),
        }
    }

    fn peer_addr(&self) -> io::Result<Address> {
        from_sock_addr(&self.io().peer_addr()?)
    }

    fn family(&self) -> Family {
        self.family
    }

    fn try_recv(&self, buf: &mut [u8], peek: bool) -> io::Result<(usize, Meta)> {
        self.refuse_merged()?;
        let plain = self.plain.load(Ordering::Relaxed);
        let result = self.source.try_io(Direction::Read, || {
            self.earlier.tell()?;
            if self.sift.is_on() {
                self.sift.drop_others(self.io())?;
            }
            msg::recv(self.io(), self.family, buf, peek, plain)
        });
        if result.is_ok() {
            self.source.pass_on(Direction::Read);
        }
        result
    }

    fn poll_recv(
        &self,
        waiter: &mut Waiter<'_>,
        buf: &mut [u8],
        peek: bool,
    ) -> Poll<io::Result<(usize, Meta)>> {
        // Not only when there is something to receive.
        self.refuse_merged()?;
        let poll = self.source.poll_tried(Direction::Read, waiter, || {
            let result = self.try_recv(buf, peek);
            if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                self.lone.store(LONE, Ordering::Relaxed);
            }
            result
        });
        if matches!(poll, Poll::Ready(Ok(_))) && !peek {
            self.settle_lone();
        }
        self.or_earlier(poll)
    }

    fn try_recv_batch(&self, into: &mut RecvBatch) -> io::Result<usize> {
        self.refuse_small(into)?;
        let result = self
            .source
            .try_io(Direction::Read, || self.recv_batch(into, usize::MAX));
        self.tell_earlier();
        if result.is_ok() {
            self.source.pass_on(Direction::Read);
        }
        result.map(|(received, _)| received)
    }

    fn poll_recv_batch(
        &self,
        waiter: &mut Waiter<'_>,
        into: &mut RecvBatch,
    ) -> Poll<io::Result<usize>> {
        self.refuse_small(into)?;
        // Where datagrams come alone, receiving one by one is the cheapest.
        let limit = match self.lone.load(Ordering::Relaxed) {
            0 if !self.sift.is_on() => into.capacity().0,
            _ => 1,
        };
        let poll = self
            .source
            .poll_io(Direction::Read, waiter, || self.recv_batch(into, limit));
        if let Poll::Ready(Ok((received, chunk))) = poll {
            if limit == 1 {
                self.settle_lone();
            } else if chunk == Chunk::Short {
                // The queue is empty; if more came since, the kernel says so. It does not of what
                // we have noted, which is whoever's who receives next.
                if self.earlier.is_some() {
                    self.tell_earlier();
                } else {
                    self.source.settle(Direction::Read);
                }
                self.expect_lone(received);
            } else {
                self.expect_lone(received);
                self.turn_merging_on();
            }
        }
        self.or_earlier(poll.map_ok(|(received, _)| received))
    }

    fn try_send(&self, data: &[u8], to: Option<&Address>) -> io::Result<()> {
        // Who names no destination has one peer, which it would be about.
        let refusal = if to.is_none() {
            Refusal::Told
        } else {
            Refusal::Noted
        };
        self.source.try_io(Direction::Write, || {
            self.earlier
                .confirmed(self.family, refusal, || msg::send(self.io(), data, to))
        })
    }

    fn poll_send(
        &self,
        waiter: &mut Waiter<'_>,
        data: &[u8],
        to: Option<&Address>,
    ) -> Poll<io::Result<()>> {
        self.source
            .poll_tried(Direction::Write, waiter, || self.try_send(data, to))
    }

    fn try_send_batch(&self, from: &mut SendBatch) -> io::Result<usize> {
        self.source.try_io(Direction::Write, || {
            let mut total = 0;
            while total < chunk::MOST {
                let result =
                    msg::send_batch(self.io(), self.family, from, &self.offload, &self.earlier);
                match result {
                    Ok((sent, chunk)) => {
                        from.advance(sent);
                        total += sent;
                        if chunk == Chunk::Short || from.is_empty() {
                            break;
                        }
                    }
                    Err(error) if total == 0 => return Err(error),
                    // It comes again, now that the datagram it is about is at the front.
                    Err(_) => break,
                }
            }
            Ok(total)
        })
    }

    fn poll_send_batch(
        &self,
        waiter: &mut Waiter<'_>,
        from: &mut SendBatch,
    ) -> Poll<io::Result<usize>> {
        self.source
            .poll_tried(Direction::Write, waiter, || self.try_send_batch(from))
    }

    fn take_earlier(&self) -> Option<io::Error> {
        self.earlier.take()
    }

    fn tell_earlier(&self) {
        if self.earlier.is_some() {
            self.source.set_ready(Direction::Read);
        }
    }

    fn poll_readable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        match self.source.poll_reported(Direction::Read, waiter) {
            Poll::Pending if self.earlier.is_some() => Poll::Ready(Ok(())),
            poll => poll,
        }
    }

    fn poll_writable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.source.poll_reported(Direction::Write, waiter)
    }

    fn writable_is_exact(&self) -> bool {
        // A Unix datagram waits for room at the receiver, which the kernel reports to connected
        // senders only.
        self.family != Family::Unix || self.io().peer_addr().is_ok()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn unread(&self) -> Option<usize> {
        match self.family {
            Family::Unix => super::unix::unread(self.io()).ok(),
            _ => None,
        }
    }

    fn caps(&self) -> Caps {
        msg::caps(self.io(), self.family, &self.offload)
    }

    fn get(&self, option: SocketOption) -> io::Result<u32> {
        options::get(self.io(), self.family, option)
    }

    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        options::set(self.io(), self.family, option, value)?;
        match option {
            SocketOption::ReceiveOffload => {
                self.merged.store(value != 0, Ordering::Relaxed);
                self.plain.store(false, Ordering::Relaxed);
            }
            SocketOption::ReceiveDestination | SocketOption::ReceiveEcn => {
                self.plain.store(false, Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(())
    }

    fn membership(
        &self,
        change: Membership,
        group: IpAddr,
        interface: Interface,
    ) -> io::Result<()> {
        options::membership(self.io(), change, group, interface)
    }

    fn set_multicast_interface(&self, interface: Interface) -> io::Result<()> {
        options::set_multicast_interface(self.io(), self.family, interface)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        if let Some(error) = self.earlier.take() {
            return Ok(Some(error));
        }
        self.io().take_error()
    }
}
