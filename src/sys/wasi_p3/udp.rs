//! The two functions that are called for each datagram, as the host has them.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;

use wasip3::sockets::types::{ErrorCode, UdpSocket};

use super::call::{Call, Function, Words, WORDS};
use super::inflight::InFlight;
use crate::sys::wasi::abi::{address, list, put_address, ADDRESS};
use crate::sys::wasi::arrived::Arrived;

pub(super) type Received = Result<Arrived, ErrorCode>;
pub(super) type Outbound = (Vec<u8>, Option<SocketAddr>);
/// With the memory of what was sent.
pub(super) type Sent = (Result<(), ErrorCode>, Vec<u8>);

pub(super) fn receive(socket: Arc<UdpSocket>) -> InFlight<(), Received> {
    InFlight::of(Call::new(Receiver { socket }))
}

pub(super) fn send(socket: Arc<UdpSocket>) -> InFlight<Outbound, Sent> {
    let data = Vec::new();
    InFlight::of(Call::new(Sender { socket, data }))
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

// SAFETY: the results take 11 words.
unsafe impl Function for Receiver {
    type Arguments = ();
    type Output = Received;

    unsafe fn call(&mut self, (): (), words: *mut u32) -> u32 {
        // SAFETY: as the caller says.
        unsafe { udp_receive(self.socket.handle(), words) }
    }

    unsafe fn result(&mut self, words: &Words) -> Received {
        if words[0] as u8 != 0 {
            // SAFETY: as the caller says.
            return Err(unsafe { error_code(words, 1) });
        }
        // SAFETY: as the caller says.
        let data = unsafe { list(words[1], words[2]) };
        Ok((data, address(&words[3..][..ADDRESS])))
    }
}

/// `send: async func(data: list<u8>, remote-address: option<ip-socket-address>) ->
/// result<_, error-code>`
struct Sender {
    socket: Arc<UdpSocket>,
    /// Of the call that is under way.
    data: Vec<u8>,
}

/// Where the results of `send` are, behind the arguments.
const RESULTS: usize = 12;

// SAFETY: the arguments take 12 words, the results 5. The data is kept as it is.
unsafe impl Function for Sender {
    type Arguments = Outbound;
    type Output = Sent;

    unsafe fn call(&mut self, (data, to): Outbound, words: *mut u32) -> u32 {
        self.data = data;
        // SAFETY: the words are ours as long as no call is under way.
        let arguments = unsafe { &mut *words.cast::<Words>() };
        arguments[0] = self.socket.handle();
        arguments[1] = self.data.as_ptr() as u32;
        arguments[2] = self.data.len() as u32;
        put_address(&mut arguments[3..], to.as_ref());
        // SAFETY: there are as many words.
        unsafe { udp_send(words, words.add(RESULTS)) }
    }

    unsafe fn result(&mut self, words: &Words) -> Sent {
        let result = match words[RESULTS] as u8 {
            0 => Ok(()),
            // SAFETY: as the caller says.
            _ => Err(unsafe { error_code(words, RESULTS + 1) }),
        };
        (result, std::mem::take(&mut self.data))
    }
}

/// `error-code` from a word on.
///
/// # Safety
/// As for `list`.
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
            // SAFETY: as the caller says; a string is a list of bytes.
            let text = unsafe { list(words[at + 2], words[at + 3]) };
            ErrorCode::Other(Some(String::from_utf8_lossy(&text).into_owned()))
        }
    }
}
