//! What the host has of a UDP socket, and what it has given.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{ErrorCode, IpSocketAddress};
use wasip2::sockets::udp::{
    IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};

use super::convert::{error, from_wasi, to_wasi};
use crate::sys::caps::Family;
use crate::sys::wasi::address::any;

/// Datagrams looked at when a socket that is in use is connected.
const KEPT: usize = 1024;

/// The memory of longer datagrams is not kept.
const KEPT_BYTES: usize = 2048;

pub(super) struct Udp {
    // Before the socket, as the host wants it.
    streams: Option<Streams>,
    /// Received and not yet taken: looked at, or of an earlier pair of streams.
    inbox: VecDeque<IncomingDatagram>,
    /// Of a receive that came after others, for the next one.
    failure: Option<io::Error>,
    /// Memory for a datagram that is sent alone.
    outbox: Vec<u8>,
    peer: Option<SocketAddr>,
    pub(super) socket: UdpSocket,
}

pub(super) struct Streams {
    pub(super) incoming: IncomingDatagramStream,
    pub(super) outgoing: OutgoingDatagramStream,
}

impl Udp {
    /// Of a socket that is not bound.
    pub(super) fn new(socket: UdpSocket) -> Udp {
        Udp {
            streams: None,
            inbox: VecDeque::new(),
            failure: None,
            outbox: Vec::new(),
            peer: None,
            socket,
        }
    }

    /// The streams; a socket that is not bound yet is bound to any address first.
    pub(super) fn streams(&mut self, family: Family) -> io::Result<&Streams> {
        if self.streams.is_none() {
            self.socket
                .start_bind(&instance_network(), to_wasi(any(family)))
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

    /// Of a socket that is bound; pollables of earlier ones have gone.
    pub(super) fn open_streams(&mut self, peer: Option<SocketAddr>) -> io::Result<()> {
        // The host bears one pair at a time.
        self.streams = None;
        let (incoming, outgoing) = self.socket.stream(peer.map(to_wasi)).map_err(error)?;
        self.streams = Some(Streams { incoming, outgoing });
        self.peer = peer;
        Ok(())
    }

    /// Opens the streams to a peer; if that fails, those that there were.
    pub(super) fn connect(&mut self, peer: SocketAddr) -> io::Result<()> {
        let before = self.peer;
        if let Err(error) = self.open_streams(Some(peer)) {
            // It goes on as it was, which is as far as it can be told.
            let _ = self.open_streams(before);
            return Err(error);
        }
        let is_peers = |datagram: &IncomingDatagram| from_wasi(datagram.remote_address) == peer;
        self.inbox.retain(is_peers);
        Ok(())
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Sends one datagram; false if the host takes none now.
    pub(super) fn send(
        &mut self,
        data: &[u8],
        to: Option<IpSocketAddress>,
        family: Family,
    ) -> io::Result<bool> {
        let mut kept = std::mem::take(&mut self.outbox);
        let outgoing = &self.streams(family)?.outgoing;
        if outgoing.check_send().map_err(error)? == 0 {
            return Ok(false);
        }
        kept.extend_from_slice(data);
        let datagram = OutgoingDatagram {
            data: kept,
            remote_address: to,
        };
        let sent = outgoing.send(std::slice::from_ref(&datagram));
        if datagram.data.capacity() <= KEPT_BYTES {
            self.outbox = datagram.data;
            self.outbox.clear();
        }
        Ok(sent.map_err(error)? > 0)
    }

    /// There is something for the next receive, without the host.
    pub(super) fn has_received(&self) -> bool {
        !self.inbox.is_empty() || self.failure.is_some()
    }

    /// The next datagram.
    pub(super) fn receive(&mut self) -> io::Result<IncomingDatagram> {
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

    /// Takes what has come, which is not to be lost with the streams.
    pub(super) fn receive_all(&mut self) {
        while self.inbox.len() < KEPT {
            match self.receive_now() {
                Ok(Some(datagram)) => self.inbox.push_back(datagram),
                _ => break,
            }
        }
    }

    /// Has the next receive give this one again.
    pub(super) fn give_back(&mut self, datagram: IncomingDatagram) {
        self.inbox.push_front(datagram);
    }

    /// Has the next receive fail.
    pub(super) fn fail_next(&mut self, failure: io::Error) {
        self.failure = Some(failure);
    }
}
