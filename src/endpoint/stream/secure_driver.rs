//! What the driver of a connection does about TLS: handshakes, and closing in order.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use crate::endpoint::lifetime::{Living, Phase};
use crate::endpoint::stream::driver::ConnectionDriver;
use crate::endpoint::stream::handshake::{Handshake, Secure};
use crate::endpoint::stream::protocol::StreamProtocol;
use crate::endpoint::stream::shared::Shared;
use crate::endpoint::stream::tls::Security;
use crate::time::{sleep, Sleep};
use crate::wake::Waiter;

/// How far the driver is.
pub(super) enum Part {
    Plain,
    Handshake(Box<Handshake>),
    Up,
    /// Closing: when that is given up.
    Parting(Box<Sleep>),
}

impl Part {
    pub(super) fn new(shared: &Shared, security: Security) -> Part {
        match security {
            Security::Plain => Part::Plain,
            Security::Handshake(handshake) => {
                shared.lock().speak_tls(Secure::handshaking(None));
                Part::Handshake(handshake)
            }
            Security::Done(secure, out) => {
                let mut state = shared.lock();
                state.speak_tls(secure);
                state.queue.push(&out);
                shared.settle(&mut state);
                state.call_driver();
                Part::Up
            }
        }
    }
}

impl<P: StreamProtocol<K>, K> ConnectionDriver<P, K> {
    /// `start_tls` has a handshake to be made.
    pub(super) fn look_for_upgrade(&mut self) {
        if let Part::Plain | Part::Up = self.tls {
            let upgrade = self.transport.shared.lock().take_upgrade();
            if let Some(handshake) = upgrade {
                self.tls = Part::Handshake(handshake);
            }
        }
    }

    /// Goes on with the handshake, once what was written before has been sent; ready if that
    /// changed anything.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Part::Handshake(handshake), Some(socket), false) =
            (&mut self.tls, &self.socket, self.queued)
        else {
            return Poll::Pending;
        };
        let result = ready!(handshake.poll(cx, socket.inner()));
        let shared = &self.transport.shared;
        match result {
            Ok(()) => {
                if let Part::Handshake(handshake) = std::mem::replace(&mut self.tls, Part::Up) {
                    shared.install(*handshake);
                }
            }
            // There is no other part any more: a protocol that has not heard of the connection
            // will not.
            Err(error) => {
                if !self.made {
                    shared.note(&error);
                }
                shared.fail(&mut shared.lock(), error);
            }
        }
        Poll::Ready(())
    }

    /// Sends what is queued, close_notify the last, and waits for the peer's; the same again for
    /// every layer of TLS over TLS. Ready if that changed anything. Afterwards there is nothing
    /// more to be done.
    pub(super) fn poll_parting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.transport.shared;
        if let Part::Up = self.tls {
            let limit = shared.lock().shutdown_timeout();
            self.tls = Part::Parting(Box::new(sleep(limit)));
        }
        let (Part::Parting(timer), Some(socket)) = (&mut self.tls, &self.socket) else {
            return Poll::Pending;
        };
        if Pin::new(timer).poll(cx).is_ready() {
            let limit = shared.lock().shutdown_timeout();
            let error = io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the peer has not agreed to close within tls_shutdown_timeout ({limit:?})"),
            );
            shared.fail(&mut shared.lock(), error);
            return Poll::Ready(());
        }
        if !self.ended {
            match shared.poll_discard(&mut Waiter::polled(cx), socket.inner()) {
                Poll::Ready(Ok(1..)) => return Poll::Ready(()),
                // Having said that it was the end, we need not know whether the peer has said so.
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Err(error)) => {
                    self.ended = true;
                    shared.forget_carriers();
                    let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
                    if self.queued && !is_end {
                        shared.fail(&mut shared.lock(), error);
                        return Poll::Ready(());
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        match self.queued {
            true => Poll::Pending,
            false if shared.peel() => {
                self.ended = false;
                self.look();
                Poll::Ready(())
            }
            false => {
                self.tls = Part::Plain;
                Poll::Ready(())
            }
        }
    }

    /// Whether closing has to be agreed on with the peer, and is not yet.
    pub(super) fn is_parting(&self) -> bool {
        matches!(self.tls, Part::Up | Part::Parting(_)) && self.phase == Phase::Closing
    }
}
