//! The state of a connection that speaks TLS: what is written is encrypted on its way into the
//! queue, and what is received is decrypted on its way out of the socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::task::{ready, Poll};
use std::time::Duration;

use crate::endpoint::lifetime::{Living, Phase};
use crate::endpoint::stream::handshake::{Handshake, Secure, Stage};
use crate::endpoint::stream::lent;
use crate::endpoint::stream::shared::{
    is_not_now, Locked, Shared, State, CORKED_CIPHERTEXT, DIRECT,
};
use crate::sys::{Stream, StreamOps};
use crate::tls::session::Session;
use crate::tls::TlsInfo;
use crate::wake::Waiter;

impl Shared {
    /// Encrypts into the queue, and sends where that is due; what is written during a handshake
    /// waits for its end.
    pub(super) fn write_secure(&self, state: &mut Locked<'_>, bufs: &[IoSlice<'_>]) {
        let Some(mut secure) = state.tls.take() else {
            return;
        };
        match &mut secure.stage {
            Stage::Handshaking { early, .. } => {
                for buf in bufs {
                    early.extend_from_slice(buf);
                    state.flow.add(buf.len());
                }
            }
            Stage::Up(session) => {
                let large = |buf: &&IoSlice<'_>| buf.len() >= DIRECT;
                let written = match bufs {
                    [one] => self.encrypt(state, session, one),
                    // Records of their own would not be worth it.
                    small if !small.iter().any(|buf| large(&buf)) => {
                        self.encrypt(state, session, &small.concat_slices())
                    }
                    several => several
                        .iter()
                        .try_for_each(|buf| self.encrypt(state, session, buf)),
                };
                if let Err(error) = written {
                    self.fail(state, error);
                }
            }
            Stage::Over(_) => {}
        }
        state.tls = Some(secure);
    }

    /// Sends in between if it is much.
    fn encrypt(
        &self,
        state: &mut Locked<'_>,
        session: &mut Session,
        plain: &[u8],
    ) -> io::Result<()> {
        let mut rest = plain;
        while !rest.is_empty() && state.life.phase == Phase::Open {
            let before = state.queue.len();
            let len = session.encrypt(rest, &mut state.queue)?;
            let added = state.queue.len() - before;
            state.flow.add(added);
            rest = &rest[len..];
            if state.queue.len() >= CORKED_CIPHERTEXT && !state.blocked {
                self.flush(state);
            }
        }
        state.dropped += rest.len() as u64;
        Ok(())
    }

    /// Has the driver make a handshake, before anything else is received. What is queued is sent
    /// before.
    pub(super) fn upgrade(&self, mut handshake: Handshake) -> io::Result<()> {
        let mut state = self.lock();
        state.check_upgrade()?;
        if let Some(Stage::Up(session)) = state.tls.take().map(|secure| secure.stage) {
            handshake.carry(session);
        }
        state.speak_tls(Secure::handshaking(Some(Box::new(handshake))));
        state.call_driver();
        Ok(())
    }

    /// The handshake is done: what was written meanwhile is encrypted.
    pub(super) fn install(&self, handshake: Handshake) {
        let (mut secure, out) = handshake.finish();
        let mut state = self.lock();
        let early = match state.tls.take().map(|secure| secure.stage) {
            Some(Stage::Handshaking { early, .. }) => early,
            _ => Vec::new(),
        };
        state.queue.push(&out);
        if let Stage::Up(session) = &mut secure.stage {
            if let Err(error) = self.encrypt(&mut state, session, &early) {
                self.fail(&mut state, error);
            }
        }
        state.tls = Some(Box::new(secure));
        self.settle(&mut state);
        let (parts, later) = state.parts();
        later.wake(&mut parts.life.waiters);
        later.call_driver();
    }

    /// Tells the peer that nothing more is written.
    pub(super) fn say_goodbye(&self, state: &mut Locked<'_>) {
        let Some(mut secure) = state.tls.take() else {
            return;
        };
        if let Stage::Up(session) = &mut secure.stage {
            let before = state.queue.len();
            let said = session.close(&mut state.queue);
            secure.goodbye = state.queue.len() - before;
            if let Err(error) = said {
                self.fail(state, error);
            }
        }
        state.tls = Some(secure);
        self.settle(state);
    }

    /// The peer has ended the stream without close_notify, which ends the connection, but not
    /// before what is queued has been sent, close_notify the last. Gives the error back if it is
    /// of another kind.
    pub(super) fn cut_off(&self, error: io::Error) -> Result<(), io::Error> {
        let mut state = self.lock();
        if !state.session().is_some_and(|session| session.is_cut_off()) {
            return Err(error);
        }
        let (parts, later) = state.parts();
        if !parts.life.end(Phase::Closing, later) {
            state.discard(error);
            return Ok(());
        }
        parts.error = Some(error);
        self.say_goodbye(&mut state);
        state.call_driver();
        Ok(())
    }

    /// The layer of TLS that was begun last has ended: if it spoke through another, ends that.
    pub(super) fn peel(&self) -> bool {
        let mut state = self.lock();
        let Some(secure) = state.tls.as_deref_mut() else {
            return false;
        };
        let Stage::Up(session) = &mut secure.stage else {
            return false;
        };
        let Some(carrier) = session.take_carrier() else {
            return false;
        };
        let last = std::mem::replace(session, carrier);
        secure.ended.get_or_insert_with(|| Box::new(last.info()));
        state.discard(last);
        self.say_goodbye(&mut state);
        true
    }

    /// Nothing more can be said, in no layer.
    pub(super) fn forget_carriers(&self) {
        let carrier = self.lock().session().and_then(Session::take_carrier);
        drop(carrier);
    }

    /// Whether there is something to deliver before anything is received.
    pub(super) fn has_input(&self) -> bool {
        self.lock()
            .session()
            .is_some_and(|session| session.has_input())
    }

    /// How many bytes wait to be delivered, if any.
    pub(super) fn pending(&self) -> Option<usize> {
        let mut state = self.lock();
        let pending = state.session().map(|session| session.pending());
        pending.filter(|len| *len > 0)
    }

    /// Receives and decrypts; 0 is the peer's close_notify.
    pub(super) fn poll_decrypt(
        &self,
        waiter: &mut Waiter<'_>,
        stream: &Stream,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut waits = !self.has_input();
        loop {
            // Where no lock is held.
            if waits {
                ready!(stream.poll_worth_reading(waiter))?;
            }
            if let Poll::Ready(result) = self.decrypt(stream, buf) {
                return Poll::Ready(result);
            }
            waits = true;
        }
    }

    /// Decrypts what is there; pending if that is not enough.
    fn decrypt(&self, stream: &Stream, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let Some(session) = state.session() else {
            return Poll::Pending;
        };
        let mut read = |into: &mut [u8]| match stream.read_ready(&mut [IoSliceMut::new(into)]) {
            Err(error) if is_not_now(&error) => Poll::Pending,
            result => Poll::Ready(result),
        };
        let result = session.poll_read(buf, &mut read);
        // Answers and alerts, the last of which go out now or never.
        let out = session.take_out();
        if !out.is_empty() {
            state.queue.push(&out);
            self.flush(&mut state);
            if state.has_work() {
                state.call_driver();
            }
        }
        result
    }

    /// Receives what nobody wants any more; 0 is the peer's close_notify.
    pub(super) fn poll_discard(
        &self,
        waiter: &mut Waiter<'_>,
        stream: &Stream,
    ) -> Poll<io::Result<usize>> {
        if !self.has_input() {
            ready!(stream.poll_worth_reading(waiter))?;
        }
        lent::with(|buf| self.poll_decrypt(waiter, stream, buf))
    }
}

impl State {
    fn session(&mut self) -> Option<&mut Session> {
        match self.tls.as_deref_mut() {
            Some(Secure {
                stage: Stage::Up(session),
                ..
            }) => Some(session),
            _ => None,
        }
    }

    /// Begins to, after a handshake or with one.
    pub(super) fn speak_tls(&mut self, secure: Box<Secure>) {
        self.tls = Some(secure);
        self.flow.speak_tls();
    }

    /// Whether a connection can begin to speak TLS.
    pub(super) fn check_upgrade(&self) -> io::Result<()> {
        use crate::endpoint::stream::shared::Writing;
        use crate::error::{closed, invalid};

        if self.life.phase != Phase::Open {
            return Err(closed("the connection"));
        }
        if self.is_handshaking() {
            return Err(invalid("a TLS handshake is under way already"));
        }
        if self.writing != Writing::Open {
            return Err(invalid("start_tls after write_eof"));
        }
        Ok(())
    }

    /// A handshake that the driver is to make.
    pub(super) fn take_upgrade(&mut self) -> Option<Box<Handshake>> {
        match self.tls.as_deref_mut() {
            Some(Secure {
                stage: Stage::Handshaking { upgrade, .. },
                ..
            }) => upgrade.take(),
            _ => None,
        }
    }

    /// Whether a handshake is under way.
    pub(super) fn is_handshaking(&self) -> bool {
        let stage = self.tls.as_deref().map(|secure| &secure.stage);
        matches!(stage, Some(Stage::Handshaking { .. }))
    }

    /// Whether so many bytes at the end of the queue are close_notify alone, which a peer that has
    /// gone need not be told.
    pub(super) fn is_goodbye(&self, len: usize) -> bool {
        let goodbye = self.tls.as_deref().map_or(0, |secure| secure.goodbye);
        self.life.phase == Phase::Closing && len <= goodbye
    }

    /// How long closing may take.
    pub(super) fn shutdown_timeout(&self) -> Duration {
        self.tls
            .as_deref()
            .map_or(Duration::ZERO, |secure| secure.shutdown)
    }

    pub(super) fn tls_info(&self) -> Option<TlsInfo> {
        self.tls.as_deref().and_then(Secure::info)
    }

    /// The end: only what was agreed on is kept, if somebody may ask. The rest is to be dropped
    /// where no lock is held.
    pub(super) fn end_tls(&mut self, somebody: bool) -> Option<Stage> {
        let secure = self.tls.as_mut()?;
        let info = somebody.then(|| secure.info()).flatten();
        Some(std::mem::replace(&mut secure.stage, Stage::Over(info)))
    }
}

/// Slices one after the other.
trait Concat {
    fn concat_slices(&self) -> Vec<u8>;
}

impl Concat for [IoSlice<'_>] {
    fn concat_slices(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.iter().map(|buf| buf.len()).sum());
        self.iter().for_each(|buf| all.extend_from_slice(buf));
        all
    }
}
