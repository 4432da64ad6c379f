//! What rustls' states mean: where plaintext and ciphertext go.

use std::io;

use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::Error;

use crate::tls::backlog::Backlog;
use crate::tls::lent::Room;

/// The most plaintext that goes into a record, and what a record has besides, amply.
const RECORD: usize = 16 * 1024;
const OVERHEAD: usize = 64;

/// What became of one look at the input.
pub(super) enum Step {
    Again,
    /// What was decrypted has been taken.
    Delivered,
    /// Nothing happens without more input.
    Blocked,
}

/// What is to be made of plaintext, when rustls is ready for it.
pub(super) enum Outgoing<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

impl Outgoing<'_> {
    /// About how long it will be, rather too much.
    fn estimate(&self) -> usize {
        match self {
            Outgoing::Data(plain) => plain.len() + (plain.len() / RECORD + 1) * OVERHEAD,
            Outgoing::CloseNotify => OVERHEAD,
        }
    }
}

/// Where the results of processing go.
pub(super) struct Sinks<'a> {
    pub(super) dest: &'a mut [u8],
    pub(super) delivered: usize,
    pub(super) plain: &'a mut Backlog,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) peer_closed: &'a mut bool,
}

impl Sinks<'_> {
    /// Takes in what rustls has found; gives how much of the input is done with.
    pub(super) fn step<D>(
        &mut self,
        status: UnbufferedStatus<'_, '_, D>,
    ) -> (usize, Result<Step, Error>) {
        let mut discard = status.discard;
        let step = match status.state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => {
                        discard += record.discard;
                        self.deliver(record.payload);
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(Step::Delivered),
                }
            },
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let before = self.out.len();
                let mut result = data.encode(&mut []);
                if let Err(EncodeError::InsufficientSize(needed)) = result {
                    self.out.resize(before + needed.required_size, 0);
                    result = data.encode(&mut self.out[before..]);
                }
                match result {
                    Ok(_) => Ok(Step::Again),
                    Err(error) => Err(Error::General(error.to_string())),
                }
            }
            // It will be, by whoever asks for `out`.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Again)
            }
            Ok(ConnectionState::PeerClosed) => {
                *self.peer_closed = true;
                Ok(Step::Again)
            }
            Ok(
                ConnectionState::BlockedHandshake
                | ConnectionState::WriteTraffic(_)
                | ConnectionState::Closed,
            ) => Ok(Step::Blocked),
            Ok(state) => Err(Error::General(format!("unknown state: {state:?}"))),
            Err(error) => Err(error),
        };
        (discard, step)
    }

    fn deliver(&mut self, payload: &[u8]) {
        let room = self.dest.len() - self.delivered;
        let (now, later) = payload.split_at(payload.len().min(room));
        self.dest[self.delivered..][..now.len()].copy_from_slice(now);
        self.delivered += now.len();
        self.plain.append(later);
    }

    /// Encrypts, after all that has to go before, if rustls is ready for it; true then.
    pub(super) fn send<D>(
        &mut self,
        status: UnbufferedStatus<'_, '_, D>,
        outgoing: &Outgoing<'_>,
        into: &mut impl Room,
    ) -> (usize, Result<bool, Error>) {
        let discard = status.discard;
        let mut traffic = match status.state {
            Ok(ConnectionState::WriteTraffic(traffic)) => traffic,
            Ok(ConnectionState::Closed) => {
                let state = Err(Error::General("closed".into()));
                return (discard, state);
            }
            Ok(ConnectionState::BlockedHandshake) => {
                return (discard, Err(Error::HandshakeNotComplete));
            }
            state => {
                let (discard, step) = self.step(UnbufferedStatus { discard, state });
                return (discard, step.map(|_| false));
            }
        };
        let before = self.out.len();
        let mut needed = before + outgoing.estimate();
        loop {
            let buf = into.room(needed);
            let result = match outgoing {
                Outgoing::Data(plain) => traffic.encrypt(plain, &mut buf[before..]),
                Outgoing::CloseNotify => traffic.queue_close_notify(&mut buf[before..]),
            };
            let result = match result {
                Ok(len) => {
                    buf[..before].copy_from_slice(self.out);
                    *self.out = Vec::new();
                    into.fill(before + len);
                    Ok(true)
                }
                Err(EncryptError::InsufficientSize(error)) => {
                    needed = before + error.required_size;
                    continue;
                }
                Err(EncryptError::EncryptExhausted) => Err(Error::EncryptError),
            };
            return (discard, result);
        }
    }
}

/// What rustls says, as the crate's errors are.
pub(super) fn error(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
