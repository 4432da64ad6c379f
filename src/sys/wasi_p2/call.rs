//! The two functions that are called for each datagram, as the host has them: the bindings make and
//! drop a list for each call.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::SocketAddr;

use wasip2::sockets::network::ErrorCode;
use wasip2::sockets::udp::{IncomingDatagramStream, OutgoingDatagramStream};

use crate::sys::wasi::abi::{address, list, put_address, ADDRESS};
use crate::sys::wasi::arrived::Arrived;

// Of the version that the bindings are of, or one compatible with it: the linker has these as
// imports of the same interface.
#[link(wasm_import_module = "wasi:sockets/udp@0.2.12")]
unsafe extern "C" {
    #[link_name = "[method]incoming-datagram-stream.receive"]
    fn udp_receive(stream: u32, max_results: u64, result: *mut [u32; 3]);
    #[link_name = "[method]outgoing-datagram-stream.send"]
    fn udp_send(stream: u32, datagrams: *const Outbound<'_>, len: usize, result: *mut [u64; 2]);
}

/// An `incoming-datagram`: a list of bytes and an address, of which the host writes no more than
/// its fields, into memory that nobody has written before.
#[repr(C)]
struct Inbound {
    data: u32,
    len: u32,
    from: [MaybeUninit<u32>; ADDRESS],
}

/// An `outgoing-datagram`: a list of bytes, and perhaps an address.
#[repr(C)]
pub(super) struct Outbound<'a> {
    data: u32,
    len: u32,
    to: [u32; 1 + ADDRESS],
    lent: PhantomData<&'a [u8]>,
}

impl<'a> Outbound<'a> {
    pub(super) fn new(data: &'a [u8], to: Option<&SocketAddr>) -> Outbound<'a> {
        let mut outbound = Outbound {
            data: data.as_ptr() as u32,
            len: data.len() as u32,
            to: [0; 1 + ADDRESS],
            lent: PhantomData,
        };
        put_address(&mut outbound.to, to);
        outbound
    }
}

/// `receive: func(max-results: u64) -> result<list<incoming-datagram>, error-code>`, of one.
pub(super) fn receive(stream: &IncomingDatagramStream) -> Result<Option<Arrived>, ErrorCode> {
    let mut result = [0; 3];
    // SAFETY: the handle is a stream's, which is borrowed. The host writes the result, which takes
    // no more than three words: a byte that says whether it failed; then the error's code, a byte,
    // or where the list is and how long.
    unsafe { udp_receive(stream.handle(), 1, &mut result) };
    let [failed, value, len] = result;
    if failed as u8 != 0 {
        return Err(error_code(value as u8));
    }
    if len == 0 {
        return Ok(None);
    }
    let (first, len) = (value as *mut Inbound, len as usize);
    // SAFETY: it has not failed, so that this is a list, and not an empty one. The host has
    // allocated it with `cabi_realloc`, which the bindings define by Rust's allocator, exactly as
    // long as so many elements, with their alignment; a test compares their size. An element may
    // be partly unwritten, as its type says. Nobody else has it: the host gives it away.
    let inbound = unsafe { Vec::from_raw_parts(first, len, len) };
    // One was asked for.
    let Some(Inbound { data, len, from }) = inbound.into_iter().next() else {
        return Ok(None);
    };
    // SAFETY: it is a list of the result that the host has just given, and is taken here.
    let data = unsafe { list(data, len) };
    // SAFETY: it is the host's address, as many words, and aligned as such.
    let from = unsafe { address(from.as_ptr().cast()) };
    Ok(Some((data, from)))
}

/// `send: func(datagrams: list<outgoing-datagram>) -> result<u64, error-code>`: there are no more of
/// them than `check_send` has just permitted, or the host ends the program.
pub(super) fn send(
    stream: &OutgoingDatagramStream,
    datagrams: &[Outbound<'_>],
) -> Result<usize, ErrorCode> {
    let mut result = [0; 2];
    // SAFETY: the handle is a stream's, which is borrowed. The host reads as many datagrams, which
    // are borrowed and laid out as it wants them, and the data that they point to, which they
    // borrow. It writes the result, which takes no more than 16 bytes: a byte that says whether it
    // failed; then the error's code, a byte, or eight bytes.
    unsafe {
        udp_send(
            stream.handle(),
            datagrams.as_ptr(),
            datagrams.len(),
            &mut result,
        );
    }
    let [failed, value] = result;
    match failed as u8 {
        0 => Ok(value as usize),
        _ => Err(error_code(value as u8)),
    }
}

#[cold]
fn error_code(number: u8) -> ErrorCode {
    match number {
        1 => ErrorCode::AccessDenied,
        2 => ErrorCode::NotSupported,
        3 => ErrorCode::InvalidArgument,
        4 => ErrorCode::OutOfMemory,
        5 => ErrorCode::Timeout,
        6 => ErrorCode::ConcurrencyConflict,
        7 => ErrorCode::NotInProgress,
        8 => ErrorCode::WouldBlock,
        9 => ErrorCode::InvalidState,
        10 => ErrorCode::NewSocketLimit,
        11 => ErrorCode::AddressNotBindable,
        12 => ErrorCode::AddressInUse,
        13 => ErrorCode::RemoteUnreachable,
        14 => ErrorCode::ConnectionRefused,
        15 => ErrorCode::ConnectionReset,
        16 => ErrorCode::ConnectionAborted,
        17 => ErrorCode::DatagramTooLarge,
        18 => ErrorCode::NameUnresolvable,
        19 => ErrorCode::TemporaryResolverFailure,
        20 => ErrorCode::PermanentResolverFailure,
        _ => ErrorCode::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::Layout;

    #[test]
    fn codes_are_numbered_as_the_bindings_have_them() {
        for number in 0..=20 {
            assert_eq!(error_code(number) as u8, number);
        }
    }

    #[test]
    fn datagrams_have_the_sizes_of_the_canonical_abi() {
        assert_eq!(Layout::new::<Inbound>(), Layout::new::<[u32; 10]>());
        assert_eq!(Layout::new::<Outbound<'_>>(), Layout::new::<[u32; 11]>());
    }
}
