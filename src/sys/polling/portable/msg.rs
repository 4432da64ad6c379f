//! Datagrams into and out of the kernel through socket2.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{MaybeUninitSlice, SockAddr, Socket};

use crate::address::Address;
use crate::batch::{Meta, RecvBatch, Run, SendBatch, Slot};
use crate::error::unsupported;
use crate::sys::caps::{Caps, Family, SocketOption};
use crate::sys::polling::address::{from_sock_addr, to_sock_addr};
use crate::sys::polling::socket::as_uninit;

/// Nothing is offloaded here.
pub(in crate::sys::polling) struct Offload {
    /// An error that came behind the datagrams of a batch: the next batch's.
    behind: Mutex<Option<io::Error>>,
}

impl Offload {
    pub(in crate::sys::polling) fn new(_family: Family) -> Offload {
        Offload {
            behind: Mutex::new(None),
        }
    }

    fn behind(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    if peek {
        // SAFETY: `Socket::peek_from` promises to write initialised bytes only.
        let (len, from) = retry(|| socket.peek_from(unsafe { as_uninit(buf) }))?;
        return Ok((len, Meta::from(source(&from))));
    }
    let (len, flags, from) = retry(|| {
        // SAFETY: so does `Socket::recv_from_vectored`.
        let mut bufs = [MaybeUninitSlice::new(unsafe { as_uninit(buf) })];
        socket.recv_from_vectored(&mut bufs)
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

pub(in crate::sys::polling) fn recv_batch(
    socket: &Socket,
    family: Family,
    batch: &mut RecvBatch,
    limit: usize,
    plain: bool,
    offload: &Offload,
) -> io::Result<usize> {
    batch.clear();
    if let Some(error) = offload.behind().take() {
        return Err(error);
    }
    let (arena, size, slots) = batch.buffers();
    let mut filled = 0;
    for (buf, slot) in arena.chunks_mut(size.max(1)).zip(slots).take(limit.max(1)) {
        match recv(socket, family, buf, false, plain) {
            Ok((len, meta)) => *slot = Slot { len, meta },
            Err(error) if filled > 0 => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    *offload.behind() = Some(error);
                }
                break;
            }
            Err(error) => return Err(error),
        }
        filled += 1;
    }
    batch.set_filled(filled);
    Ok(filled)
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
/// taken off.
pub(in crate::sys::polling) fn send_batch(
    socket: &Socket,
    _family: Family,
    batch: &SendBatch,
    _offload: &Offload,
) -> io::Result<usize> {
    let (runs, mut bytes) = batch.waiting();
    let mut sent = 0;
    for run in runs {
        for i in 1..=run.count {
            let len = if i == run.count { run.last } else { run.size };
            let (data, rest) = bytes.split_at(len);
            bytes = rest;
            match send_one(socket, run, data) {
                Ok(()) => sent += 1,
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(sent)
}

fn send_one(socket: &Socket, run: &Run, data: &[u8]) -> io::Result<()> {
    if run.meta.ecn.is_some() {
        return Err(unsupported("ecn"));
    }
    if run.meta.source.is_some() {
        return Err(unsupported("source"));
    }
    send(socket, data, run.to.as_ref())
}
