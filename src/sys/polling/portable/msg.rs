//! Datagrams into and out of the kernel through socket2.

use std::io;

use socket2::{MaybeUninitSlice, SockAddr, Socket};

use crate::address::Address;
use crate::batch::{Meta, RecvBatch, Run, SendBatch, Slot};
use crate::error::unsupported;
use crate::sys::caps::{Caps, Family, SocketOption};
use crate::sys::polling::address::{from_sock_addr, to_sock_addr};
use crate::sys::polling::chunk::{self, Chunk};
use crate::sys::polling::earlier::{Earlier, Refusal};
use crate::sys::polling::socket::as_uninit;

/// Nothing is offloaded here, and nothing is to be known.
pub(in crate::sys::polling) struct Offload;

impl Offload {
    pub(in crate::sys::polling) fn new(_family: Family) -> Offload {
        Offload
    }

    pub(in crate::sys::polling) fn forget(&self) {}

    pub(in crate::sys::polling) fn forget_peer(&self) {}
}

pub(in crate::sys::polling) fn caps(_: &Socket, _: Family, _: &Offload) -> Caps {
    Caps {
        max_segments: 1,
        ..Caps::default()
    }
}

/// The options that socket2 does not have: none of them exists here.
pub(in crate::sys::polling) fn set(
    _socket: &Socket,
    _family: Family,
    option: SocketOption,
    _value: u32,
) -> io::Result<()> {
    Err(unsupported(option))
}

/// As [`set`].
pub(in crate::sys::polling) fn get(
    _socket: &Socket,
    _family: Family,
    option: SocketOption,
) -> io::Result<u32> {
    Err(unsupported(option))
}

#[cfg(unix)]
const MSG_PEEK: i32 = libc::MSG_PEEK;
#[cfg(windows)]
const MSG_PEEK: i32 = 2;

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[allow(unsafe_code)]
pub(in crate::sys::polling) fn recv(
    socket: &Socket,
    _family: Family,
    buf: &mut [u8],
    peek: bool,
    _plain: bool,
) -> io::Result<(usize, Meta)> {
    let flags = if peek { MSG_PEEK } else { 0 };
    let (len, flags, from) = retry(|| {
        // SAFETY: `Socket::recv_from_vectored_with_flags` promises to write initialised bytes only.
        let mut bufs = [MaybeUninitSlice::new(unsafe { as_uninit(buf) })];
        socket.recv_from_vectored_with_flags(&mut bufs, flags)
    })?;
    let mut meta = Meta::from(source(&from));
    meta.truncated = flags.is_truncated();
    // What was cut off has filled the buffer, which Windows need not say.
    let len = if meta.truncated { buf.len() } else { len };
    Ok((len, meta))
}

/// A peer without a name comes in a form of its own on some platforms.
fn source(from: &SockAddr) -> Address {
    from_sock_addr(from).unwrap_or(Address::UNNAMED)
}

/// Fills at most `limit` buffers of `batch`, at least one. An error behind the datagrams is noted
/// as one that was there before the next call.
pub(in crate::sys::polling) fn recv_batch(
    socket: &Socket,
    family: Family,
    batch: &mut RecvBatch,
    limit: usize,
    plain: bool,
    earlier: &Earlier,
) -> io::Result<Chunk> {
    batch.clear();
    let (arena, size, slots) = batch.buffers();
    let wanted = slots.len().min(limit).clamp(1, chunk::MOST);
    let mut filled = 0;
    let mut chunk = Chunk::Full;
    while filled < wanted {
        let buf = &mut arena[filled * size..][..size];
        match recv(socket, family, buf, false, plain) {
            Ok((len, meta)) => slots[filled] = Slot { len, meta },
            Err(error) if filled == 0 => return Err(error),
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    earlier.note(error);
                }
                chunk = Chunk::Short;
                break;
            }
        }
        filled += 1;
    }
    batch.set_filled(filled);
    Ok(chunk)
}

pub(in crate::sys::polling) fn send(
    socket: &Socket,
    data: &[u8],
    to: Option<&Address>,
) -> io::Result<()> {
    match to {
        Some(to) => {
            let to = to_sock_addr(to)?;
            retry(|| socket.send_to(data, &to)).map(drop)
        }
        None => retry(|| socket.send(data)).map(drop),
    }
}

/// Sends what the kernel takes of `batch` and gives how many datagrams that were; they are not
/// taken off. An error is that of the datagram at the front.
pub(in crate::sys::polling) fn send_batch(
    socket: &Socket,
    family: Family,
    batch: &SendBatch,
    _offload: &Offload,
    earlier: &Earlier,
) -> io::Result<(usize, Chunk)> {
    let (runs, mut bytes) = batch.waiting();
    let mut sent = 0;
    for run in runs {
        for i in 1..=run.count {
            if sent == chunk::MOST {
                return Ok((sent, Chunk::Full));
            }
            let len = if i == run.count { run.last } else { run.size };
            let (data, rest) = bytes.split_at(len);
            bytes = rest;
            match send_one(socket, family, run, data, earlier) {
                Ok(()) => sent += 1,
                // It says so again when it is at the front.
                Err(_) if sent > 0 => return Ok((sent, Chunk::Short)),
                Err(error) => return Err(error),
            }
        }
    }
    Ok((sent, Chunk::Full))
}

fn send_one(
    socket: &Socket,
    family: Family,
    run: &Run,
    data: &[u8],
    earlier: &Earlier,
) -> io::Result<()> {
    if let Some(field) = run.meta.given() {
        return Err(unsupported(field));
    }
    earlier.confirmed(family, Refusal::Noted, || {
        send(socket, data, run.to.as_ref())
    })
}
