//! The two functions that are called for each datagram, as the host has them.
#![allow(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use wasip3::sockets::types::{ErrorCode, UdpSocket};

use super::call::{Call, Function, Words, WORDS};
use super::inflight::InFlight;

pub(super) type Arrived = (Vec<u8>, SocketAddr);
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
        Ok((data, address(words)))
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
        put_address(arguments, to);
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

/// A list that the host has allocated.
///
/// # Safety
/// It has, as that of a call that has returned; it is taken once.
unsafe fn list(ptr: u32, len: u32) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    let len = len as usize;
    // SAFETY: the host allocates with `cabi_realloc`, which the bindings define by Rust's
    // allocator, exactly as much as the list is long, with an alignment of 1.
    unsafe { Vec::from_raw_parts(ptr as *mut u8, len, len) }
}

/// The sender's, in the results of `receive` from word 3 on.
fn address(words: &Words) -> SocketAddr {
    let port = words[4] as u16;
    if words[3] as u8 == 0 {
        let [_, _, a, b] = words[4].to_le_bytes();
        let [c, d, _, _] = words[5].to_le_bytes();
        return SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port).into();
    }
    let mut segments = [0; 8];
    for (two, word) in segments.chunks_exact_mut(2).zip(&words[6..10]) {
        two[0] = *word as u16;
        two[1] = (word >> 16) as u16;
    }
    SocketAddrV6::new(Ipv6Addr::from(segments), port, words[5], words[10]).into()
}

/// The receiver's, in the arguments of `send` from word 3 on.
fn put_address(words: &mut Words, to: Option<SocketAddr>) {
    words[3] = u32::from(to.is_some());
    match to {
        None => {}
        Some(SocketAddr::V4(to)) => {
            let [a, b, c, d] = to.ip().octets();
            words[4] = 0;
            words[5] = u32::from(to.port()) | u32::from(a) << 16 | u32::from(b) << 24;
            words[6] = u32::from(c) | u32::from(d) << 8;
        }
        Some(SocketAddr::V6(to)) => {
            words[4] = 1;
            words[5] = u32::from(to.port());
            words[6] = to.flowinfo();
            let segments = to.ip().segments();
            for (word, two) in words[7..11].iter_mut().zip(segments.chunks_exact(2)) {
                *word = u32::from(two[0]) | u32::from(two[1]) << 16;
            }
            words[11] = to.scope_id();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &Words) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn an_address_is_where_the_canonical_abi_has_it() {
        let mut words = [0; WORDS];
        put_address(&mut words, Some(([1, 2, 3, 4], 0x1234).into()));
        assert_eq!(
            bytes(&words)[12..26],
            [1, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12, 1, 2, 3, 4]
        );
        let ip = Ipv6Addr::new(0x102, 3, 0, 0, 0, 0, 0, 0xfffe);
        put_address(&mut words, Some(SocketAddrV6::new(ip, 0x1234, 7, 9).into()));
        let mut expected = vec![1, 0, 0, 0, 1, 0, 0, 0, 0x34, 0x12, 0, 0, 7, 0, 0, 0];
        expected.extend([2, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff]);
        expected.extend([9, 0, 0, 0]);
        assert_eq!(bytes(&words)[12..48], expected);
        put_address(&mut words, None);
        assert_eq!(words[3], 0);
    }

    #[test]
    fn an_address_that_was_put_there_is_read_there() {
        for text in ["1.2.3.4:80", "[1:203::fffe]:65535", "[fe80::1%3]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            let mut words = [0; WORDS];
            put_address(&mut words, Some(addr));
            // In the results there is no `option` before it.
            words.copy_within(4..12, 3);
            assert_eq!(address(&words), addr);
        }
    }
}
