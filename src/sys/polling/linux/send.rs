//! Datagrams into the kernel, by sendmmsg and GSO.
#![allow(unsafe_code)]

use std::io;
use std::mem::{zeroed, MaybeUninit};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use socket2::Socket;

use super::cmsg::{Control, Extra};
use super::msg::{is_v4, retry, MESSAGES};
use super::name::{encode, Name};
use super::offload::{may_be_about_segments, Facts, Offload};
use crate::address::Address;
use crate::batch::{is_link_local, Run, SendBatch, SendMeta};
use crate::error::{invalid, unsupported};
use crate::sys::caps::Family;
use crate::sys::polling::chunk::Chunk;
use crate::sys::polling::earlier::{Earlier, Refusal};

/// Payload of one message at most, however many segments: 65,535 less the larger IP header's and
/// the UDP header's bytes.
const MAX_PAYLOAD: usize = 65_535 - 40 - 8;

const FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

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
            FLAGS,
            name,
            len,
        )
    })
    .map(drop)
}

/// Sends what the kernel takes of `batch` with one call, and gives how many datagrams that were;
/// they are not taken off. Neighbours of one size to one destination go in one message where the
/// kernel cuts it up (GSO).
///
/// An error is that of the datagram at the front. What stops the kernel behind it is not told, not
/// even if it was waiting from before: then it is lost.
pub(in crate::sys::polling) fn send_batch(
    socket: &Socket,
    family: Family,
    batch: &SendBatch,
    offload: &Offload,
    earlier: &Earlier,
) -> io::Result<(usize, Chunk)> {
    let (runs, bytes) = batch.waiting();
    let Some(front) = runs.first() else {
        return Ok((0, Chunk::Short));
    };
    if runs.len() == 1 && front.count == 1 && front.meta == SendMeta::default() {
        let send = || send(socket, bytes, front.to.as_ref());
        let sent = earlier.confirmed(family, Refusal::Noted, send);
        return sent.map(|()| (1, Chunk::Full));
    }
    let messages = |runs: &[Run]| {
        earlier.confirmed(family, Refusal::Noted, || {
            send_messages(socket.as_raw_fd(), family, runs, bytes, offload)
        })
    };
    match messages(runs) {
        Err(error)
            if may_be_about_segments(&error)
                && segments(front, socket.as_raw_fd(), offload) > 1 =>
        {
            // It is, if the first of them goes alone.
            let alone = Run {
                count: 1,
                last: front.size,
                ..front.clone()
            };
            let sent = messages(&[alone])?;
            offload.refuse(front.to.as_ref(), &error, front.size);
            Ok(sent)
        }
        result => result,
    }
}

#[inline(never)]
fn send_messages(
    fd: RawFd,
    family: Family,
    runs: &[Run],
    bytes: &[u8],
    offload: &Offload,
) -> io::Result<(usize, Chunk)> {
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES];
    let mut iovs = [const { MaybeUninit::<libc::iovec>::uninit() }; MESSAGES];
    let mut names = [const { MaybeUninit::<Name>::uninit() }; MESSAGES];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; MESSAGES];
    let mut datagrams = [0_usize; MESSAGES];
    let mut count = 0;
    let mut bytes = bytes;
    for run in runs {
        let extra = match extra(run, family, || offload.facts(fd)) {
            Ok(extra) => extra,
            Err(error) if count == 0 => return Err(error),
            // Its turn comes when those before it have gone.
            Err(_) => break,
        };
        let segments = segments(run, fd, offload);
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
            // SAFETY: a Control consists of `MaybeUninit<u8>`: any content is valid.
            let control = unsafe { controls[count].assume_init_mut() };
            let segment_size = (these > 1).then_some(run.size as u16);
            control.fill(
                header,
                &Extra {
                    segment_size,
                    ..extra
                },
            );
            datagrams[count] = these;
            count += 1;
        }
        if count == MESSAGES {
            break;
        }
    }
    let messages = if count == 1 {
        // SAFETY: the loop above has written the first header, and pointed it to an iovec over
        // borrowed bytes and, if at all, to a name and control messages in arrays that are alive.
        retry(|| unsafe { libc::sendmsg(fd, headers[0].as_ptr().cast(), FLAGS) }).map(|_| 1)
    } else {
        // SAFETY: the same is so for the first `count`.
        retry(|| unsafe {
            libc::sendmmsg(fd, headers.as_mut_ptr().cast(), count as _, FLAGS as _) as _
        })
    }?;
    let chunk = if messages < count {
        Chunk::Short
    } else {
        Chunk::Full
    };
    Ok((datagrams[..messages].iter().sum(), chunk))
}

/// What the kernel is to be told of a run's datagrams. What it would ignore is refused.
fn extra(run: &Run, family: Family, facts: impl FnOnce() -> Facts) -> io::Result<Extra> {
    let meta = &run.meta;
    let Some(field) = meta.given() else {
        return Ok(Extra::default());
    };
    if family == Family::Unix {
        return Err(unsupported(format_args!("{field} on a Unix socket")));
    }
    let facts = facts();
    let v4 = match &run.to {
        Some(to) => is_v4(to),
        None => family == Family::Inet || facts.has_v4_peer(),
    };
    let source = meta.source.map(|source| source.to_canonical());
    if let Some(source) = source.filter(|source| source.is_ipv4() != v4) {
        return Err(invalid(format_args!(
            "source {source} is of another IP version than the datagram's destination"
        )));
    }
    let interface = match meta.interface {
        Some(index) => index,
        None => scope(source, run.to.as_ref()),
    };
    // Negative ones are none.
    if i32::try_from(interface).is_err() {
        return Err(invalid(format_args!("there is no interface {interface}")));
    }
    Ok(Extra {
        v4,
        traffic_class: meta
            .ecn
            .map(|ecn| facts.traffic_class(v4) & !0b11 | ecn as u8),
        source,
        interface,
        segment_size: None,
    })
}

/// The interface of a link-local source is that of the destination, if that says it.
fn scope(source: Option<IpAddr>, to: Option<&Address>) -> u32 {
    match to.and_then(Address::as_ip) {
        Some(std::net::SocketAddr::V6(to)) if source.is_some_and(is_link_local) => to.scope_id(),
        _ => 0,
    }
}

/// How many datagrams of a run can go as one message.
fn segments(run: &Run, fd: RawFd, offload: &Offload) -> usize {
    if run.count == 1 || run.size == 0 || run.size > offload.largest_segment(run.to.as_ref()) {
        return 1;
    }
    offload.max_segments(fd).min(MAX_PAYLOAD / run.size).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_hold_no_more_than_the_kernel_takes() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
        let socket = socket.unwrap();
        let offload = Offload::new(Family::Inet);
        let segments = |size, count| {
            let run = Run {
                size,
                count,
                last: size,
                to: None,
                meta: SendMeta::default(),
            };
            segments(&run, socket.as_raw_fd(), &offload)
        };
        assert_eq!(segments(100, 1), 1);
        assert_eq!(segments(100, 1000), 64);
        assert_eq!(segments(30_000, 5), 2, "no more than a datagram's payload");
        assert_eq!(segments(65_507, 5), 1);
        assert_eq!(segments(0, 5), 1, "an empty segment would vanish");
        let error = io::Error::from_raw_os_error(libc::EMSGSIZE);
        offload.refuse(None, &error, 1400);
        assert_eq!(segments(1400, 5), 1);
        assert_eq!(segments(1399, 5), 46);
    }
}
