//! TLS handshakes, and what a connection has of TLS afterwards.

use std::future::{poll_fn, Future};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};

use crate::endpoint::stream::shared::Socket;
use crate::endpoint::stream::tls::{Limits, Security};
use crate::error::context;
use crate::sys::{Stream, StreamOps};
use crate::time::{sleep, Sleep};
use crate::tls::session::Session;
use crate::tls::{server_name, TlsInfo};
use crate::wake::Waiter;

/// A handshake that is to be made, or is being made.
pub(crate) struct Handshake {
    session: Box<Session>,
    out: Vec<u8>,
    sent: usize,
    limits: Limits,
    timer: Option<Sleep>,
    /// Told when the peer has been.
    failure: Option<io::Error>,
}

/// What a connection has of TLS.
pub(crate) struct Secure {
    pub(super) stage: Stage,
    /// How long closing may take.
    pub(super) shutdown: Duration,
    /// The length of close_notify, which is queued last.
    pub(super) goodbye: usize,
    /// What was agreed on last, once that layer of several has ended.
    pub(super) ended: Option<Box<TlsInfo>>,
}

pub(super) enum Stage {
    /// A handshake is under way; the driver takes it from here if it does not have it. What is
    /// written meanwhile waits.
    Handshaking {
        upgrade: Option<Box<Handshake>>,
        early: Vec<u8>,
    },
    Up(Box<Session>),
    /// The connection is over.
    Over(Option<TlsInfo>),
}

impl Handshake {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: &str,
        limits: Limits,
    ) -> io::Result<Handshake> {
        let session = Session::client(config, server_name(name)?);
        Ok(Handshake::new(session.map_err(refused)?, limits))
    }

    pub(super) fn server(config: Arc<ServerConfig>, limits: Limits) -> io::Result<Handshake> {
        let session = Session::server(config);
        Ok(Handshake::new(session.map_err(refused)?, limits))
    }

    fn new(session: Session, limits: Limits) -> Handshake {
        Handshake {
            session: Box::new(session),
            out: Vec::new(),
            sent: 0,
            limits,
            timer: None,
            failure: None,
        }
    }

    /// Has it made through what the connection speaks already.
    pub(super) fn carry(&mut self, carrier: Box<Session>) {
        self.session.carry(carrier);
    }

    /// Until the end, where the caller waits for it.
    pub(super) async fn run(mut self: Box<Self>, socket: &Socket) -> io::Result<Security> {
        poll_fn(|cx| self.poll(cx, socket.inner())).await?;
        let (secure, out) = self.finish();
        Ok(Security::Done(Box::new(secure), out))
    }

    /// `ConnectionAborted` if it takes too long, `ConnectionReset` if the peer ends it,
    /// `InvalidData` for what rustls objects to.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Poll<io::Result<()>> {
        let limit = self.limits.handshake;
        if let Poll::Ready(result) = self.poll_exchange(cx, stream) {
            return Poll::Ready(result);
        }
        let timer = self.timer.get_or_insert_with(|| sleep(limit));
        ready!(Pin::new(timer).poll(cx));
        Poll::Ready(Err(self.failure.take().unwrap_or_else(|| {
            io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the TLS handshake was not done within tls_handshake_timeout ({limit:?})"),
            )
        })))
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.out.len() {
                let rest = [IoSlice::new(&self.out[self.sent..])];
                match stream.poll_write(&mut Waiter::polled(cx), &rest) {
                    Poll::Ready(Ok(len)) => self.sent += len,
                    Poll::Ready(Err(error)) if self.session.is_only_tickets(&error) => {
                        self.sent = self.out.len();
                    }
                    Poll::Ready(Err(error)) => {
                        let why = self.failure.take();
                        let why = why.or_else(|| self.last_words(cx, stream));
                        return Poll::Ready(Err(context(why.unwrap_or(error), "TLS handshake")));
                    }
                    // The rest goes out with what is written later.
                    Poll::Pending if !self.session.is_handshaking() => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if let Some(failure) = self.failure.take() {
                return Poll::Ready(Err(context(failure, "TLS handshake")));
            }
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let mut read = |buf: &mut [u8]| {
                stream.poll_read(&mut Waiter::polled(cx), &mut [IoSliceMut::new(buf)])
            };
            if let Err(error) = ready!(self.session.poll_handshake(&mut read)) {
                self.failure = Some(match error.kind() {
                    io::ErrorKind::UnexpectedEof => io::Error::new(
                        io::ErrorKind::ConnectionReset,
                        "the peer has ended the connection",
                    ),
                    _ => error,
                });
            }
            self.out = self.session.take_out();
            self.sent = 0;
        }
    }

    /// What the peer has objected to, if it has said so before it went.
    fn last_words(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Option<io::Error> {
        let mut read =
            |buf: &mut [u8]| stream.poll_read(&mut Waiter::polled(cx), &mut [IoSliceMut::new(buf)]);
        match self.session.poll_handshake(&mut read) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Some(error),
            _ => None,
        }
    }

    /// What has become of it, and what is still to be sent.
    pub(super) fn finish(self) -> (Secure, Vec<u8>) {
        let secure = Secure {
            stage: Stage::Up(self.session),
            shutdown: self.limits.shutdown,
            goodbye: 0,
            ended: None,
        };
        (secure, self.out[self.sent..].to_vec())
    }
}

/// A configuration with which there can be no handshake.
fn refused(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

impl Secure {
    /// Before or during a handshake that the driver makes.
    pub(super) fn handshaking(upgrade: Option<Box<Handshake>>) -> Box<Secure> {
        Box::new(Secure {
            stage: Stage::Handshaking {
                upgrade,
                early: Vec::new(),
            },
            shutdown: Duration::ZERO,
            goodbye: 0,
            ended: None,
        })
    }

    /// Plaintext that waits for the end of the handshake.
    pub(super) fn early(&self) -> usize {
        match &self.stage {
            Stage::Handshaking { early, .. } => early.len(),
            _ => 0,
        }
    }

    pub(super) fn info(&self) -> Option<TlsInfo> {
        match &self.stage {
            Stage::Handshaking { .. } => None,
            Stage::Up(_) if self.ended.is_some() => self.ended.as_deref().cloned(),
            Stage::Up(session) => Some(session.info()),
            Stage::Over(info) => info.clone(),
        }
    }
}
