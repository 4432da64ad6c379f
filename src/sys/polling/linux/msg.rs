//! Datagrams into and out of the kernel: recvmmsg, sendmmsg, GRO and GSO.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed, MaybeUninit};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::Socket;

use super::cmsg::{self, Control};
use super::name::{decode, encode, Name, NAME_LEN};
use crate::address::Address;
use crate::batch::{Meta, RecvBatch, Run, SendBatch, Slot};
use crate::error::unsupported;
use crate::sys::caps::{Caps, Family, SocketOption};

/// Messages of one system call at most: beyond, the call's own cost no longer shows.
const MESSAGES: usize = 32;

/// Segments the kernel takes in one message (`UDP_MAX_SEGMENTS`; newer ones take more).
const MAX_SEGMENTS: usize = 64;

/// Payload of one message at most, however many segments: 65,535 less the larger IP header's and
/// the UDP header's bytes.
const MAX_PAYLOAD: usize = 65_535 - 40 - 8;

const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// What a socket has turned out to take; see [`send_batch`].
pub(in crate::sys::polling) struct Offload {
    /// 0 until asked.
    segments: AtomicUsize,
    /// Larger segments exceed the path's MTU, which the kernel refuses to fragment.
    segment_size: AtomicUsize,
}

impl Offload {
    pub(in crate::sys::polling) fn new(family: Family) -> Offload {
        Offload {
            segments: AtomicUsize::new(if family == Family::Unix { 1 } else { 0 }),
            segment_size: AtomicUsize::new(usize::from(u16::MAX)),
        }
    }

    fn max_segments(&self, fd: RawFd) -> usize {
        match self.segments.load(Ordering::Relaxed) {
            0 => {
                // Fails where the kernel is too old, or the protocol is not UDP.
                let known = get_int(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
                let segments = if known { MAX_SEGMENTS } else { 1 };
                self.segments.store(segments, Ordering::Relaxed);
                segments
            }
            segments => segments,
        }
    }

    /// A message of several segments was refused: no more of them, or smaller ones only. False if
    /// the refusal had nothing to do with the segments.
    fn refused(&self, error: &io::Error, segment_size: usize) -> bool {
        match error.raw_os_error() {
            // The device cannot do the checksums.
            Some(libc::EIO) => self.segments.store(1, Ordering::Relaxed),
            Some(libc::EINVAL | libc::EMSGSIZE) => self
                .segment_size
                .store(segment_size.saturating_sub(1), Ordering::Relaxed),
            _ => return false,
        }
        true
    }
}

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
    if option == SocketOption::ReceiveEcn && family == Family::Inet6 {
        // IPv4 datagrams on a dual-stack socket keep IPv4's message.
        set_int(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, value)?;
    }
    Ok(())
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

fn get_int(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
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
fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
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

/// Fills at most `limit` buffers of `batch`.
pub(in crate::sys::polling) fn recv_batch(
    socket: &Socket,
    family: Family,
    batch: &mut RecvBatch,
    limit: usize,
    plain: bool,
    _offload: &Offload,
) -> io::Result<usize> {
    batch.clear();
    let (arena, size, slots) = batch.buffers();
    let count = slots.len().min(MESSAGES).min(limit).max(1);
    let filled = if count == 1 {
        let (len, meta) = recv(socket, family, &mut arena[..size], false, plain)?;
        slots[0] = Slot { len, meta };
        1
    } else {
        let with_control = family != Family::Unix && !plain;
        recv_many(socket, with_control, arena, size, &mut slots[..count])?
    };
    batch.set_filled(filled);
    Ok(filled)
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

pub(in crate::sys::polling) fn send(
    socket: &Socket,
    data: &[u8],
    to: Option<&Address>,
) -> io::Result<()> {
    let mut name = MaybeUninit::uninit();
    let (name, len) = match to {
        Some(to) => {
            let len = encode(to, &mut name);
            (name.as_ptr().cast::<libc::sockaddr>(), len)
        }
        None => (ptr::null(), 0),
    };
    // SAFETY: `data` is borrowed, and `name` is null with the length 0 or points to what `encode`
    // has written, at least `len` bytes of it.
    retry(|| unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            SEND_FLAGS,
            name,
            len,
        )
    })
    .map(drop)
}

/// Sends what the kernel takes of `batch` with one call, and gives how many datagrams that were;
/// they are not taken off. Neighbours of one size to one destination go in one message where the
/// kernel cuts it up (GSO).
pub(in crate::sys::polling) fn send_batch(
    socket: &Socket,
    family: Family,
    batch: &SendBatch,
    offload: &Offload,
) -> io::Result<usize> {
    let (runs, bytes) = batch.waiting();
    match runs {
        [] => return Ok(0),
        [only] if only.count == 1 && !cmsg::is_needed(&only.meta, None) => {
            return send(socket, bytes, only.to.as_ref()).map(|()| 1);
        }
        _ => {}
    }
    loop {
        match send_messages(socket, family, runs, bytes, offload) {
            Err((error, segment_size)) => {
                let single = segment_size.is_none();
                let segment_size = segment_size.map_or(0, usize::from);
                if single || !offload.refused(&error, segment_size) {
                    return Err(error);
                }
            }
            Ok(sent) => return Ok(sent),
        }
    }
}

/// An error comes with the segment size of the message that was refused, if it had several.
#[inline(never)]
fn send_messages(
    socket: &Socket,
    family: Family,
    runs: &[Run],
    bytes: &[u8],
    offload: &Offload,
) -> Result<usize, (io::Error, Option<u16>)> {
    let fd = socket.as_raw_fd();
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES];
    let mut iovs = [const { MaybeUninit::<libc::iovec>::uninit() }; MESSAGES];
    let mut names = [const { MaybeUninit::<Name>::uninit() }; MESSAGES];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; MESSAGES];
    let mut datagrams = [0_usize; MESSAGES];
    let mut first_segment_size = None;
    let mut count = 0;
    let mut bytes = bytes;
    for run in runs {
        let segments = segments(run, || offload.max_segments(fd), offload);
        let mut done = 0;
        while done < run.count && count < MESSAGES {
            let these = segments.min(run.count - done);
            let len = run.bytes(done + these) - run.size * done;
            let (data, behind) = bytes.split_at(len);
            bytes = behind;
            done += these;
            // SAFETY: an mmsghdr is made of integers and pointers, which may be zero.
            let header = &mut headers[count].write(unsafe { zeroed() }).msg_hdr;
            header.msg_iov = iovs[count].write(libc::iovec {
                iov_base: data.as_ptr().cast_mut().cast(),
                iov_len: data.len(),
            });
            header.msg_iovlen = 1;
            if let Some(to) = &run.to {
                header.msg_namelen = encode(to, &mut names[count]);
                header.msg_name = names[count].as_mut_ptr().cast();
            }
            let segment_size = (these > 1).then_some(run.size as u16);
            if cmsg::is_needed(&run.meta, segment_size) {
                // SAFETY: a Control consists of `MaybeUninit<u8>`: any content is valid.
                let control = unsafe { controls[count].assume_init_mut() };
                control.fill(header, &run.meta, segment_size, is_v4(run, family));
            }
            if count == 0 {
                first_segment_size = segment_size;
            }
            datagrams[count] = these;
            count += 1;
        }
        if count == MESSAGES {
            break;
        }
    }
    let sent = if count == 1 {
        // SAFETY: the loop above has written the first header, and pointed it to an iovec over
        // borrowed bytes and, if at all, to a name and control messages in arrays that are alive.
        retry(|| unsafe { libc::sendmsg(fd, headers[0].as_ptr().cast(), SEND_FLAGS) }).map(|_| 1)
    } else {
        // SAFETY: the same is so for the first `count`.
        retry(|| unsafe {
            libc::sendmmsg(fd, headers.as_mut_ptr().cast(), count as _, SEND_FLAGS as _) as _
        })
    };
    match sent {
        Ok(messages) => Ok(datagrams[..messages].iter().sum()),
        Err(error) => Err((error, first_segment_size)),
    }
}

/// Whether the destination speaks IPv4, on a dual-stack socket too.
fn is_v4(run: &Run, family: Family) -> bool {
    match &run.to {
        Some(Address::Ip(to)) => to.ip().to_canonical().is_ipv4(),
        _ => family == Family::Inet,
    }
}

/// How many datagrams of a run can go as one message.
fn segments(run: &Run, max_segments: impl FnOnce() -> usize, offload: &Offload) -> usize {
    let is_too_large = run.size > offload.segment_size.load(Ordering::Relaxed);
    if run.count == 1 || run.size == 0 || is_too_large {
        return 1;
    }
    max_segments().min(MAX_PAYLOAD / run.size).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::SendMeta;

    fn run(size: usize, count: usize) -> Run {
        Run {
            size,
            count,
            last: size,
            to: None,
            meta: SendMeta::default(),
        }
    }

    #[test]
    fn messages_hold_no_more_than_the_kernel_takes() {
        let offload = Offload::new(Family::Inet);
        let segments = |size, count| segments(&run(size, count), || 64, &offload);
        assert_eq!(segments(100, 1), 1);
        assert_eq!(segments(100, 1000), 64);
        assert_eq!(segments(30_000, 5), 2, "no more than a datagram's payload");
        assert_eq!(segments(65_507, 5), 1);
        assert_eq!(segments(0, 5), 1, "an empty segment would vanish");
        let error = io::Error::from_raw_os_error(libc::EMSGSIZE);
        assert!(offload.refused(&error, 1400));
        assert_eq!(segments(1400, 5), 1);
        assert_eq!(segments(1399, 5), 46);
    }

    #[test]
    fn a_device_without_checksums_takes_one_by_one() {
        let offload = Offload::new(Family::Inet);
        assert!(offload.refused(&io::Error::from_raw_os_error(libc::EIO), 100));
        assert_eq!(offload.max_segments(-1), 1);
        let other = io::Error::from_raw_os_error(libc::EPERM);
        assert!(!offload.refused(&other, 100), "not about the segments");
    }
}
