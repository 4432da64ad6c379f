//! Datagrams out of the kernel, by recvmmsg and GRO, and the options of their sockets.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed, MaybeUninit};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use socket2::Socket;

use super::cmsg::{self, Control};
use super::name::{decode, Name, NAME_LEN};
pub(in crate::sys::polling) use super::offload::Offload;
pub(in crate::sys::polling) use super::send::{send, send_batch};
use crate::address::Address;
use crate::batch::{Meta, RecvBatch, Slot};
use crate::error::unsupported;
use crate::sys::caps::{Caps, Family, SocketOption};
use crate::sys::polling::chunk::{self, Chunk};
use crate::sys::polling::earlier::Earlier;

/// Messages of one system call at most: beyond, the call's own cost no longer shows.
pub(super) const MESSAGES: usize = 32;

pub(in crate::sys::polling) fn caps(socket: &Socket, family: Family, offload: &Offload) -> Caps {
    let ip = family != Family::Unix;
    let fd = socket.as_raw_fd();
    Caps {
        batches: true,
        max_segments: offload.max_segments(fd),
        receive_offload: ip && get_int(fd, libc::SOL_UDP, libc::UDP_GRO).is_ok(),
        destination: ip,
        ecn: ip,
    }
}

/// The level and the name of an option that socket2 does not have.
fn option_name(option: SocketOption, family: Family) -> io::Result<(libc::c_int, libc::c_int)> {
    match (option, family) {
        (_, Family::Unix) => Err(unsupported(format_args!("{option} on a Unix socket"))),
        (SocketOption::ReceiveDestination, Family::Inet) => {
            Ok((libc::IPPROTO_IP, libc::IP_PKTINFO))
        }
        (SocketOption::ReceiveDestination, _) => Ok((libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)),
        (SocketOption::ReceiveEcn, Family::Inet) => Ok((libc::IPPROTO_IP, libc::IP_RECVTOS)),
        (SocketOption::ReceiveEcn, _) => Ok((libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)),
        (SocketOption::ReceiveOffload, _) => Ok((libc::SOL_UDP, libc::UDP_GRO)),
        _ => Err(unsupported(option)),
    }
}

pub(in crate::sys::polling) fn set(
    socket: &Socket,
    family: Family,
    option: SocketOption,
    value: u32,
) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let value = libc::c_int::from(value != 0);
    let (level, name) = option_name(option, family)?;
    set_int(fd, level, name, value)?;
    match option {
        // IPv4 datagrams on a dual-stack socket keep IPv4's message.
        SocketOption::ReceiveEcn if family == Family::Inet6 => {
            set_int(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, value)
        }
        // For the address to reply from, which IPv6's message does not have.
        SocketOption::ReceiveDestination if family == Family::Inet6 => {
            set_int(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, value)
        }
        SocketOption::ReceiveOffload if value == 0 && has_datagrams(fd)? => {
            set_int(fd, level, name, 1)?;
            Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "there are datagrams which may have been merged: receive them before",
            ))
        }
        _ => Ok(()),
    }
}

/// What is merged stays so, and without the option nothing would tell.
fn has_datagrams(fd: RawFd) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one pollfd, which is alive.
    retry(|| unsafe { libc::poll(&mut poll, 1, 0) } as _)?;
    Ok(poll.revents & libc::POLLIN != 0)
}

/// Whether the socket is connected to an IPv4 address, by one of IPv6's form as well.
pub(super) fn has_v4_peer(fd: RawFd) -> bool {
    let mut name = MaybeUninit::<Name>::uninit();
    let mut len = NAME_LEN;
    // SAFETY: `name` and `len` are alive, and `len` says how much the kernel may write to `name`.
    let result = unsafe { libc::getpeername(fd, name.as_mut_ptr().cast(), &mut len) };
    // SAFETY: the kernel has written `len` bytes, no more than there is room for.
    result == 0 && is_v4(&unsafe { decode(&name, len.min(NAME_LEN)) })
}

/// Whether datagrams to an address are IPv4, from a socket for both versions too.
pub(super) fn is_v4(addr: &Address) -> bool {
    matches!(addr, Address::Ip(addr) if addr.ip().to_canonical().is_ipv4())
}

pub(in crate::sys::polling) fn get(
    socket: &Socket,
    family: Family,
    option: SocketOption,
) -> io::Result<u32> {
    let (level, name) = option_name(option, family)?;
    get_int(socket.as_raw_fd(), level, name).map(|value| value as u32)
}

fn set_int(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is alive, and of the size that is told.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as _,
        )
    };
    check(result as _).map(drop)
}

pub(super) fn get_int(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` and `len` are alive, and `len` says how much the kernel may write to `value`.
    let result =
        unsafe { libc::getsockopt(fd, level, name, ptr::from_mut(&mut value).cast(), &mut len) };
    check(result as _).map(|_| value)
}

fn check(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Repeats a call that a signal interrupted.
pub(super) fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        match check(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Says where one message goes when it is received. Unix peers could send descriptors along,
/// which would be opened here and leaked: without a control buffer the kernel drops them.
fn receive_into(
    header: &mut libc::msghdr,
    iov: &mut MaybeUninit<libc::iovec>,
    name: &mut MaybeUninit<Name>,
    control: Option<&mut Control>,
    buf: &mut [u8],
) {
    header.msg_iov = iov.write(libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    });
    header.msg_iovlen = 1;
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = NAME_LEN;
    if let Some(control) = control {
        control.lend(header);
    }
}

/// # Safety
/// `header` and `name` are as a successful receive has left them, and the control buffer that the
/// header points to is alive.
unsafe fn meta_of(header: &libc::msghdr, name: &MaybeUninit<Name>, ip: bool) -> Meta {
    // SAFETY: `name` is where `header` has had the name written, of which the kernel has set
    // `msg_namelen`. Where that is more than there was room for, it was cut off at `Name`'s end,
    // and `decode` reads no further than the types in it.
    let mut meta = Meta::from(unsafe { decode(name, header.msg_namelen) });
    meta.truncated = header.msg_flags & libc::MSG_TRUNC != 0;
    if ip && header.msg_controllen > 0 {
        // SAFETY: the header is as the receive has left it and its control buffer alive, by this
        // function's own contract.
        unsafe { cmsg::read(header, &mut meta) };
    }
    meta
}

pub(in crate::sys::polling) fn recv(
    socket: &Socket,
    family: Family,
    buf: &mut [u8],
    peek: bool,
    plain: bool,
) -> io::Result<(usize, Meta)> {
    if plain {
        return recv_plain(socket, buf, peek);
    }
    let ip = family != Family::Unix;
    let mut iov = MaybeUninit::uninit();
    let mut name = MaybeUninit::uninit();
    let mut control = Control::EMPTY;
    // SAFETY: a msghdr is made of integers and pointers, which may be zero.
    let mut header: libc::msghdr = unsafe { zeroed() };
    receive_into(
        &mut header,
        &mut iov,
        &mut name,
        ip.then_some(&mut control),
        buf,
    );
    let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: `receive_into` has pointed the header to `iov`, `name`, `control` and `buf`, with
    // their sizes; all outlive the call, and nothing else uses them in it.
    let len = retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) })?;
    // SAFETY: recvmsg(2) succeeded with this header, and `name` and `control` are alive.
    let meta = unsafe { meta_of(&header, &name, ip) };
    Ok((len, meta))
}

/// Without a header to fill in and to read back: the cheapest for one datagram.
fn recv_plain(socket: &Socket, buf: &mut [u8], peek: bool) -> io::Result<(usize, Meta)> {
    let mut name = MaybeUninit::<Name>::uninit();
    let mut name_len = NAME_LEN;
    // With MSG_TRUNC the length is the datagram's own, whatever fits.
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC | if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: `buf` and `name` are borrowed mutably for the call, and of the sizes it is told.
    let len = retry(|| unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buf.as_mut_ptr().cast(),
            buf.len(),
            flags,
            name.as_mut_ptr().cast(),
            &mut name_len,
        )
    })?;
    // SAFETY: the receive succeeded, and has written `name_len` bytes of the name or, if that is
    // more, all of it.
    let mut meta = Meta::from(unsafe { decode(&name, name_len) });
    meta.truncated = len > buf.len();
    Ok((len.min(buf.len()), meta))
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
    if wanted == 1 {
        let (len, meta) = recv(socket, family, &mut arena[..size], false, plain)?;
        slots[0] = Slot { len, meta };
        batch.set_filled(1);
        return Ok(Chunk::Full);
    }
    let with_control = family != Family::Unix && !plain;
    let mut filled = 0;
    let mut chunk = Chunk::Full;
    while filled < wanted && chunk == Chunk::Full {
        let count = (wanted - filled).min(MESSAGES);
        let arena = &mut arena[filled * size..];
        let slots = &mut slots[filled..filled + count];
        match recv_many(socket, with_control, arena, size, slots) {
            Ok(received) => {
                filled += received;
                if received < count {
                    chunk = Chunk::Short;
                }
            }
            Err(error) if filled == 0 => return Err(error),
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    earlier.note(error);
                }
                chunk = Chunk::Short;
            }
        }
    }
    batch.set_filled(filled);
    Ok(chunk)
}

/// One call for many buffers. Apart from the way of a lone datagram, which needs no such room on
/// the stack.
#[inline(never)]
fn recv_many(
    socket: &Socket,
    with_control: bool,
    arena: &mut [u8],
    size: usize,
    slots: &mut [Slot],
) -> io::Result<usize> {
    let count = slots.len();
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES];
    let mut iovs = [const { MaybeUninit::<libc::iovec>::uninit() }; MESSAGES];
    let mut names = [const { MaybeUninit::<Name>::uninit() }; MESSAGES];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; MESSAGES];
    let mut rest = arena;
    for i in 0..count {
        let (buf, behind) = rest.split_at_mut(size);
        rest = behind;
        // SAFETY: an mmsghdr is made of integers and pointers, which may be zero.
        let header = headers[i].write(unsafe { zeroed() });
        // SAFETY: a Control consists of `MaybeUninit<u8>`: any content is valid.
        let control = unsafe { controls[i].assume_init_mut() };
        receive_into(
            &mut header.msg_hdr,
            &mut iovs[i],
            &mut names[i],
            with_control.then_some(control),
            buf,
        );
    }
    // SAFETY: the loop above has written the first `count` headers and pointed each to an iovec, a
    // name, a control buffer and bytes of its own, with their sizes; the arrays and the arena
    // outlive the call.
    let filled = retry(|| unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            count as _,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        ) as _
    })?;
    for i in 0..filled {
        // SAFETY: the kernel fills `count` headers at most, and all of them were written above.
        let header = unsafe { headers[i].assume_init_ref() };
        slots[i] = Slot {
            len: (header.msg_len as usize).min(size),
            // SAFETY: it is one of those that recvmmsg(2) has filled, and the arrays are alive.
            meta: unsafe { meta_of(&header.msg_hdr, &names[i], with_control) },
        };
    }
    Ok(filled)
}
