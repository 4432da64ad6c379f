//! One end of a TLS connection, without sockets: ciphertext in, plaintext out, and the reverse.
//!
//! On rustls' interface without buffers: what is received is decrypted where it was received to,
//! and an idle connection holds no buffer at all.

use std::io;
use std::sync::Arc;
use std::task::{ready, Poll};

use rustls::client::{ClientConfig, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, ServerConfig, UnbufferedServerConnection};
use rustls::{CommonState, Error, ProtocolVersion};

use crate::tls::backlog::Backlog;
use crate::tls::lent::{self, Room};
use crate::tls::sinks::{error, Outgoing, Sinks, Step};
use crate::tls::TlsInfo;

/// Plaintext that is encrypted in one go: four of the largest records.
const PIECE: usize = 64 * 1024;

/// Ciphertext received at least, if so much is there: the largest record.
const LEAST: usize = 17 * 1024;

pub(crate) struct Session {
    side: Side,
    /// Looks for the name that a client asks for, in its first message.
    hello: Option<Box<Acceptor>>,
    server_name: Option<Box<str>>,
    /// Received, not decrypted yet.
    incoming: Backlog,
    /// rustls has not said that it needs more than what is there.
    unprocessed: bool,
    /// Decrypted, not delivered yet.
    plain: Backlog,
    /// What is to be sent before anything else.
    out: Vec<u8>,
    peer_closed: bool,
    /// The peer has ended the stream without close_notify.
    cut_off: bool,
    /// close_notify has been made.
    closed: bool,
    failure: Option<Error>,
    /// What this one speaks through, if it is TLS over TLS.
    carrier: Option<Box<Session>>,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Has rustls look at the input, whichever side this is.
macro_rules! process {
    ($side:expr, $input:expr, $then:expr) => {
        match $side {
            Side::Client(conn) => $then(conn.process_tls_records($input)),
            Side::Server(conn) => $then(conn.process_tls_records($input)),
        }
    };
}

impl Session {
    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Session, Error> {
        let conn = UnbufferedClientConnection::new(config, name)?;
        Ok(Session::new(Side::Client(conn), None))
    }

    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Session, Error> {
        if config.max_early_data_size > 0 {
            // It may be somebody else's replay, which nobody above could tell.
            let why = "max_early_data_size is not 0, and early data is not supported";
            return Err(Error::General(why.into()));
        }
        let conn = UnbufferedServerConnection::new(config)?;
        Ok(Session::new(Side::Server(conn), Some(Box::default())))
    }

    fn new(side: Side, hello: Option<Box<Acceptor>>) -> Session {
        Session {
            side,
            hello,
            server_name: None,
            incoming: Backlog::default(),
            unprocessed: true,
            plain: Backlog::default(),
            out: Vec::new(),
            peer_closed: false,
            cut_off: false,
            closed: false,
            failure: None,
            carrier: None,
        }
    }

    /// Speaks through this one from the beginning: TLS over TLS.
    pub(crate) fn carry(&mut self, carrier: Box<Session>) {
        self.carrier = Some(carrier);
    }

    /// What this one spoke through, which goes on alone.
    pub(crate) fn take_carrier(&mut self) -> Option<Box<Session>> {
        self.carrier.take()
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(conn) => conn,
            Side::Server(conn) => conn,
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whether what is left to be sent at the end of a handshake need not be, since this is what
    /// became of it: a server's session tickets (TLS 1.3), when the client has gone already. What
    /// the client has said is there to be read all the same.
    pub(crate) fn is_only_tickets(&self, error: &io::Error) -> bool {
        matches!(self.side, Side::Server(_))
            && !self.is_handshaking()
            && self.common().protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            )
    }

    /// Decrypted bytes that wait to be delivered.
    pub(crate) fn pending(&self) -> usize {
        self.plain.as_slice().len()
    }

    /// Whether the peer has ended the stream below without saying that it was the end.
    pub(crate) fn is_cut_off(&self) -> bool {
        let carrier = self.carrier.as_deref();
        self.cut_off || carrier.is_some_and(Session::is_cut_off)
    }

    /// Whether `poll_read` has something to give, or to look at, before it reads.
    pub(crate) fn has_input(&self) -> bool {
        let carrier = self.carrier.as_deref();
        self.pending() > 0
            || self.peer_closed
            || self.unprocessed
            || carrier.is_some_and(Session::has_input)
    }

    /// What is to be sent before anything else: to be asked for after every other call.
    pub(crate) fn take_out(&mut self) -> Vec<u8> {
        let out = std::mem::take(&mut self.out);
        let Some(carrier) = self.carrier.as_deref_mut() else {
            return out;
        };
        lent::with_sent(|sent| {
            // If it cannot, it says why, and reading will.
            let _ = carrier.encrypt_all(&out, sent);
            [sent.as_slice(), &carrier.take_out()].concat()
        })
    }

    pub(crate) fn info(&self) -> TlsInfo {
        TlsInfo::new(self.common(), self.server_name.as_deref())
    }

    /// Goes on with the handshake: ready when it is done or there is something to send.
    pub(crate) fn poll_handshake(
        &mut self,
        read: &mut impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while self.is_handshaking() && self.out.is_empty() {
            match self.unprocessed {
                true => self.process_kept(&mut []).map(drop)?,
                false => ready!(self.poll_fill(&mut [], LEAST, read)).map(drop)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Delivers plaintext; 0 is the end that the peer has announced. `UnexpectedEof` is one that
    /// it has not.
    pub(crate) fn poll_read(
        &mut self,
        dest: &mut [u8],
        read: &mut impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if dest.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let len = self.plain.take(dest);
            if len > 0 || self.peer_closed {
                return Poll::Ready(Ok(len));
            }
            let len = match self.unprocessed {
                true => self.process_kept(dest)?,
                // Plaintext is a little shorter than its ciphertext.
                false => ready!(self.poll_fill(dest, dest.len() + LEAST / 16, read))?,
            };
            if len > 0 {
                return Poll::Ready(Ok(len));
            }
        }
    }

    /// Looks at what was received before.
    fn process_kept(&mut self, dest: &mut [u8]) -> io::Result<usize> {
        let mut kept = std::mem::take(&mut self.incoming);
        let result = self.process(kept.as_mut_slice(), dest);
        let (used, delivered) = result?;
        kept.consume(used);
        self.incoming = kept;
        Ok(delivered)
    }

    /// Receives about `amount` bytes into the thread's buffer, after what is left from before, and
    /// looks at them there.
    fn poll_fill(
        &mut self,
        dest: &mut [u8],
        amount: usize,
        read: &mut impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        lent::with_received(|buf| {
            let kept = self.incoming.as_slice().len();
            let end = (kept + amount).clamp(kept + LEAST, lent::LEN.max(kept + LEAST));
            if buf.len() < end {
                buf.resize(end, 0);
            }
            let room = &mut buf[kept..end];
            let len = match self.carrier.as_deref_mut() {
                None => ready!(read(room))?,
                Some(carrier) => ready!(carrier.poll_read(room, read))?,
            };
            if len == 0 {
                self.cut_off = true;
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection has ended without TLS's close_notify: data may be missing",
                )));
            }
            let end = kept + len;
            buf[..kept].copy_from_slice(self.incoming.as_slice());
            self.look_for_name(&buf[kept..end]);
            let (used, delivered) = self.process(&mut buf[..end], dest)?;
            self.incoming.replace(&buf[used..end]);
            Poll::Ready(Ok(delivered))
        })
    }

    /// Has rustls go through the input until `dest` is full or it needs more; gives how much of
    /// the input is done with, and how much of `dest` is full.
    fn process(&mut self, input: &mut [u8], dest: &mut [u8]) -> io::Result<(usize, usize)> {
        if let Some(failure) = &self.failure {
            return Err(error(failure.clone()));
        }
        let (mut used, mut delivered) = (0, 0);
        self.unprocessed = true;
        while delivered < dest.len() || self.is_handshaking() || self.common().wants_write() {
            let mut sinks = Sinks {
                dest: &mut dest[delivered..],
                delivered: 0,
                plain: &mut self.plain,
                out: &mut self.out,
                peer_closed: &mut self.peer_closed,
            };
            let (discard, step) = process!(&mut self.side, &mut input[used..], |status| sinks
                .step(status));
            delivered += sinks.delivered;
            used += discard;
            match step {
                // There is nothing more to look at.
                Ok(Step::Delivered) if used == input.len() && !self.common().wants_write() => {
                    self.unprocessed = false;
                    break;
                }
                Ok(Step::Again | Step::Delivered) => {}
                Ok(Step::Blocked) => {
                    self.unprocessed = false;
                    break;
                }
                Err(failure) => return Err(self.fail(failure)),
            }
        }
        Ok((used, delivered))
    }

    /// The end of everything but the alert that tells the peer why.
    fn fail(&mut self, failure: Error) -> io::Error {
        while self.common().wants_write() {
            let mut sinks = Sinks {
                dest: &mut [],
                delivered: 0,
                plain: &mut self.plain,
                out: &mut self.out,
                peer_closed: &mut self.peer_closed,
            };
            // What is to be sent comes before any look at the input.
            if process!(&mut self.side, &mut [], |status| sinks.step(status))
                .1
                .is_err()
            {
                break;
            }
        }
        self.failure = Some(failure.clone());
        error(failure)
    }

    /// Encrypts from the front as much as goes in one go, into this; gives how much that was.
    pub(crate) fn encrypt(&mut self, plain: &[u8], into: &mut impl Room) -> io::Result<usize> {
        if self.closed {
            let why = "write after close_notify";
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, why));
        }
        let piece = &plain[..plain.len().min(PIECE)];
        self.send_through(Outgoing::Data(piece), into)?;
        Ok(piece.len())
    }

    fn encrypt_all(&mut self, plain: &[u8], into: &mut impl Room) -> io::Result<()> {
        let mut rest = plain;
        while !rest.is_empty() {
            let len = self.encrypt(rest, into)?;
            rest = &rest[len..];
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes. Again, it does nothing.
    pub(crate) fn close(&mut self, into: &mut impl Room) -> io::Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        self.send_through(Outgoing::CloseNotify, into)
    }

    fn send_through(&mut self, outgoing: Outgoing<'_>, into: &mut impl Room) -> io::Result<()> {
        let Some(mut carrier) = self.carrier.take() else {
            return self.send(outgoing, into);
        };
        let result = lent::with_sent(|sent| {
            self.send(outgoing, sent)?;
            carrier.encrypt_all(sent.as_slice(), into)
        });
        self.carrier = Some(carrier);
        result
    }

    fn send(&mut self, outgoing: Outgoing<'_>, into: &mut impl Room) -> io::Result<()> {
        if let Some(failure) = &self.failure {
            return Err(error(failure.clone()));
        }
        let mut kept = std::mem::take(&mut self.incoming);
        let result = loop {
            let mut sinks = Sinks {
                dest: &mut [],
                delivered: 0,
                plain: &mut self.plain,
                out: &mut self.out,
                peer_closed: &mut self.peer_closed,
            };
            let (discard, sent) = process!(&mut self.side, kept.as_mut_slice(), |status| sinks
                .send(status, &outgoing, into));
            kept.consume(discard);
            match sent {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(failure) => break Err(failure),
            }
        };
        self.incoming = kept;
        result.map_err(|failure| self.fail(failure))
    }

    /// The name that the client asks for, which rustls tells in its other interface only.
    fn look_for_name(&mut self, received: &[u8]) {
        let Some(hello) = &mut self.hello else {
            return;
        };
        let mut received = received;
        while !received.is_empty() {
            match hello.read_tls(&mut received) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        match hello.accept() {
            Ok(None) => return,
            Ok(Some(accepted)) => {
                self.server_name = accepted.client_hello().server_name().map(Box::from);
            }
            // The handshake will say so.
            Err(_) => {}
        }
        self.hello = None;
    }
}
