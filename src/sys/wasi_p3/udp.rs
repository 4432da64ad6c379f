//! The two functions that are called for each datagram, as the host has them.
#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use wasip3::sockets::types::{ErrorCode, UdpSocket};

use super::call::{Call, Function, Words, WORDS};
use super::convert::error;
use super::inflight::{InFlight, Operation};
use crate::sys::wasi::abi::{address, list, put_address, ADDRESS};
use crate::sys::wasi::arrived::Arrived;
use crate::sys::wasi::earlier::{Tries, Waiting};

pub(super) type Received = Result<Arrived, ErrorCode>;

pub(super) struct Outbound {
    pub(super) data: Vec<u8>,
    pub(super) to: Option<SocketAddr>,
    /// Errors that may be waiting for it.
    pub(super) waiting: Waiting,
}

pub(super) struct Sent {
    pub(super) result: io::Result<()>,
    /// An error that was waiting, of a datagram before this one.
    pub(super) earlier: Option<io::Error>,
    /// What was sent, and where.
    pub(super) data: Vec<u8>,
    pub(super) to: Option<SocketAddr>,
}

pub(super) fn receive(socket: Arc<UdpSocket>) -> InFlight<(), Received> {
    InFlight::of(Call::new(Receiver { socket }))
}

/// Who receives is told of what has failed after it was taken over.
pub(super) fn send(
    socket: Arc<UdpSocket>,
    receive: &InFlight<(), Received>,
) -> InFlight<Outbound, Sent> {
    let sending = Sending {
        call: Call::new(Sender {
            socket,
            data: Vec::new(),
            to: None,
        }),
        tries: Tries::new(Waiting::None),
        earlier: None,
        has_failed: false,
    };
    InFlight::telling(receive, sending)
}

/// The sending of one datagram after the other, each with as many tries as it takes.
struct Sending {
    call: Call<Sender>,
    tries: Tries,
    earlier: Option<io::Error>,
    has_failed: bool,
}

impl Sending {
    fn judge(&mut self, mut poll: Poll<Attempt>, cx: &mut Context<'_>) -> Poll<Sent> {
        loop {
            let (result, data, to) = ready!(poll);
            if let Some(result) = self.tries.judge(result.map_err(error), &mut self.earlier) {
                let earlier = self.earlier.take();
                self.has_failed = result.is_err() || earlier.is_some();
                return Poll::Ready(Sent {
                    result,
                    earlier,
                    data,
                    to,
                });
            }
            poll = self.call.start((data, to), cx);
            if poll.is_pending() {
                self.tries.taken_over();
            }
        }
    }
}

impl Operation<Outbound, Sent> for Sending {
    fn start(&mut self, outbound: Outbound, cx: &mut Context<'_>) -> Poll<Sent> {
        self.tries = Tries::new(outbound.waiting);
        let poll = self.call.start((outbound.data, outbound.to), cx);
        if poll.is_pending() {
            self.tries.taken_over();
        }
        self.judge(poll, cx)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        let poll = self.call.poll(cx);
        self.judge(poll, cx)
    }

    fn stop(&mut self) {
        self.call.stop();
    }

    fn has_failed(&self) -> bool {
        self.has_failed
    }
}

// Of the version that the bindings are of, or one compatible with it: the linker has these as
// imports of the same interface.
#[link(wasm_import_module = "wasi:sockets/types@0.3.2")]
unsafe extern "C" {
    #[link_name = "[async-lower][method]udp-socket.receive"]
    fn udp_receive(socket: u32, results: *mut u32) -> u32;
    #[link_name = "[async-lower][method]udp-socket.send"]
    fn udp_send(arguments: *const u32, results: *mut u32) -> u32;
}

/// `receive: async func() -> result<tuple<list<u8>, ip-socket-address>, error-code>`
struct Receiver {
    socket: Arc<UdpSocket>,
}

// SAFETY: `call` gives what the host gave. The host writes the results only, which take 11 words,
// and the list, which it allocates; it reads nothing.
unsafe impl Function for Receiver {
    type Arguments = ();
    type Output = Received;

    unsafe fn call(&mut self, (): (), words: *mut u32) -> u32 {
        // SAFETY: the handle is a socket's that is owned here. Of the `WORDS` words, which are the
        // host's until it has returned, it writes 11.
        unsafe { udp_receive(self.socket.handle(), words) }
    }

    unsafe fn result(&mut self, words: &Words) -> Received {
        if words[0] as u8 != 0 {
            // SAFETY: it has returned, with an error, that begins in the second word. It is taken
            // once, as these results are.
            return Err(unsafe { error_code(words, 1) });
        }
        // SAFETY: it has returned, with a list and an address. It is taken once, as these results
        // are.
        let data = unsafe { list(words[1], words[2]) };
        // SAFETY: the address follows, in words of which all have been written once.
        let from = unsafe { address(words[3..][..ADDRESS].as_ptr()) };
        Ok((data, from))
    }
}

/// `send: async func(data: list<u8>, remote-address: option<ip-socket-address>) ->
/// result<_, error-code>`
struct Sender {
    socket: Arc<UdpSocket>,
    /// Of the call that is under way.
    data: Vec<u8>,
    to: Option<SocketAddr>,
}

/// What became of a call, with what was to be sent.
type Attempt = (Result<(), ErrorCode>, Vec<u8>, Option<SocketAddr>);

/// Where the results of `send` are, behind the arguments.
const RESULTS: usize = 12;

// SAFETY: `call` gives what the host gave. The host reads the arguments, which take 12 words, and
// the data, which is kept as it is until the next call or the end; it writes the results, which
// take 5 words behind the arguments, and a text, which it allocates.
unsafe impl Function for Sender {
    type Arguments = (Vec<u8>, Option<SocketAddr>);
    type Output = Attempt;

    unsafe fn call(&mut self, (data, to): Self::Arguments, words: *mut u32) -> u32 {
        self.data = data;
        self.to = to;
        // SAFETY: there are `WORDS` of them, written once at least, and ours since no call is under
        // way.
        let arguments = unsafe { &mut *words.cast::<Words>() };
        arguments[0] = self.socket.handle();
        arguments[1] = self.data.as_ptr() as u32;
        arguments[2] = self.data.len() as u32;
        put_address(&mut arguments[3..], to.as_ref());
        // SAFETY: the arguments are as the host wants them, with the handle of a socket that is
        // owned here and data that is, too. The results end with the last of the words.
        unsafe { udp_send(words, words.add(RESULTS)) }
    }

    unsafe fn result(&mut self, words: &Words) -> Attempt {
        let result = match words[RESULTS] as u8 {
            0 => Ok(()),
            // SAFETY: it has returned, with an error, that begins in the second word of the results.
            // It is taken once, as these results are.
            _ => Err(unsafe { error_code(words, RESULTS + 1) }),
        };
        (result, std::mem::take(&mut self.data), self.to)
    }
}

/// `error-code` from a word on.
///
/// # Safety
/// The host has put it there, and it was not taken before.
#[cold]
unsafe fn error_code(words: &[u32; WORDS], at: usize) -> ErrorCode {
    match words[at] as u8 {
        0 => ErrorCode::AccessDenied,
        1 => ErrorCode::NotSupported,
        2 => ErrorCode::InvalidArgument,
        3 => ErrorCode::OutOfMemory,
        4 => ErrorCode::Timeout,
        5 => ErrorCode::InvalidState,
        6 => ErrorCode::AddressNotBindable,
        7 => ErrorCode::AddressInUse,
        8 => ErrorCode::RemoteUnreachable,
        9 => ErrorCode::ConnectionRefused,
        10 => ErrorCode::ConnectionBroken,
        11 => ErrorCode::ConnectionReset,
        12 => ErrorCode::ConnectionAborted,
        13 => ErrorCode::DatagramTooLarge,
        _ if words[at + 1] as u8 == 0 => ErrorCode::Other(None),
        _ => {
            // SAFETY: it is the last case, with a text, and a text is a list of bytes. The host has
            // given it, and it was not taken before, as the caller has made sure.
            let text = unsafe { list(words[at + 2], words[at + 3]) };
            ErrorCode::Other(Some(String::from_utf8_lossy(&text).into_owned()))
        }
    }
}
