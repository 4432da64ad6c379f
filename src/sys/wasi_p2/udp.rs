//! What the host has of a UDP socket, and what it has given.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::ErrorCode;
use wasip2::sockets::udp::{IncomingDatagramStream, OutgoingDatagramStream, UdpSocket};

use super::call;
use super::convert::{error, to_wasi};
use crate::sys::caps::Family;
use crate::sys::wasi::address::{any, is_peer, UNWANTED};
use crate::sys::wasi::arrived::Arrived;
use crate::sys::wasi::earlier::{Tries, Waiting};

/// Datagrams looked at when a socket that is in use is connected.
const KEPT: usize = 1024;

pub(super) struct Udp {
    // Before the socket, as the host wants it.
    streams: Option<Streams>,
    /// Received and not yet taken: looked at, or of an earlier pair of streams.
    inbox: VecDeque<Arrived>,
    /// Of a receive that came after others, for the next one.
    failure: Option<io::Error>,
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
            peer: None,
            socket,
        }
    }

    /// The streams; a socket that is not bound yet is bound to any address first.
    #[inline]
    pub(super) fn streams(&mut self, family: Family) -> io::Result<&Streams> {
        if self.streams.is_none() {
            self.bind_any(family)?;
        }
        self.streams
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    #[cold]
    fn bind_any(&mut self, family: Family) -> io::Result<()> {
        self.socket
            .start_bind(&instance_network(), to_wasi(any(family)))
            .map_err(error)?;
        loop {
            match self.socket.finish_bind() {
                Ok(()) => return self.open_streams(None),
                // No host is known that needs it.
                Err(ErrorCode::WouldBlock) => self.socket.subscribe().block(),
                Err(code) => return Err(error(code)),
            }
        }
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
        self.inbox.retain(|(_, from)| is_peer(&peer, from));
        Ok(())
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Has `attempt` send some of at least one datagram, no more than it is told, and tells how many
    /// that were; 0 if the host takes none now.
    pub(super) fn send(
        &mut self,
        family: Family,
        waiting: Waiting,
        attempt: impl Fn(&OutgoingDatagramStream, usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut tries = Tries::new(match self.peer {
            Some(_) => waiting,
            None => Waiting::None,
        });
        loop {
            let outgoing = &self.streams(family)?.outgoing;
            let result = match outgoing.check_send() {
                Ok(0) => Ok(0),
                Ok(permits) => attempt(outgoing, permits as usize),
                Err(code) => Err(error(code)),
            };
            if let Some(result) = tries.judge(result, &mut self.failure) {
                return result;
            }
        }
    }

    /// The streams are there, so that it is bound.
    pub(super) fn is_bound(&self) -> bool {
        self.streams.is_some()
    }

    /// An error that is not of what was asked for.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// There is something for the next receive, without the host.
    pub(super) fn has_received(&self) -> bool {
        !self.inbox.is_empty() || self.failure.is_some()
    }

    /// The next datagram.
    pub(super) fn receive(&mut self) -> io::Result<Arrived> {
        if let Some(datagram) = self.inbox.pop_front() {
            return Ok(datagram);
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        for _ in 0..UNWANTED {
            match self.receive_now()? {
                Some((_, from)) if self.peer.is_some_and(|peer| !is_peer(&peer, &from)) => {}
                Some(datagram) => return Ok(datagram),
                None => break,
            }
        }
        // If there is more, the host says so at once.
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// What the host has.
    fn receive_now(&self) -> io::Result<Option<Arrived>> {
        match &self.streams {
            Some(streams) => call::receive(&streams.incoming).map_err(error),
            // Nothing can come before it is bound.
            None => Ok(None),
        }
    }

    /// Takes what has come, which is not to be lost with the streams.
    pub(super) fn receive_all(&mut self) {
        while self.inbox.len() < KEPT {
            match self.receive_now() {
                Ok(Some(datagram)) => self.inbox.push_back(datagram),
                Ok(None) => break,
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
        }
    }

    /// Has the next receive give this one again.
    pub(super) fn give_back(&mut self, datagram: Arrived) {
        self.inbox.push_front(datagram);
    }

    /// Has the next receive fail.
    pub(super) fn fail_next(&mut self, failure: io::Error) {
        self.failure = Some(failure);
    }
}
