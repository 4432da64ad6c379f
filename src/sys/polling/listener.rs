//! Sockets that accept connections: TCP and Unix.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};
use std::task::Poll;

use super::address::{family_of, from_sock_addr, to_sock_addr};
use super::kernel;
use super::options;
use super::socket::Socket;
use super::source::{source_methods, waitable, Direction, Source};
use super::stream::{new_socket, require_stream, Stream};
use crate::address::Address;
use crate::error::context;
use crate::sys::caps::{Family, ListenerConfig, SocketOption};
use crate::sys::ListenerOps;
use crate::wake::Waiter;

/// Connections that are not followed by a try for more, once that found nothing: where they come
/// one by one, it is a system call for nothing.
const LONE: u8 = 16;

/// Connections that are gone before they are taken, one after the other, until that is an error of
/// the listener's.
const GONE: u32 = 1024;

/// How many of those are skipped in one go.
const SKIPPED: u32 = 32;

/// A listening socket with its readiness.
pub(crate) struct Listener {
    source: Source,
    family: Family,
    /// How many more connections are expected to come alone.
    lone: AtomicU8,
    /// How many connections in a row were gone before they were taken.
    gone: AtomicU32,
}

impl Listener {
    fn new(socket: socket2::Socket, family: Family) -> Listener {
        Listener {
            source: Source::new(socket),
            family,
            lone: AtomicU8::new(0),
            gone: AtomicU32::new(0),
        }
    }

    /// One try; `Interrupted` for a connection that is gone.
    fn accept_one(&self) -> io::Result<(Stream, Address)> {
        let is_unix = self.family == Family::Unix;
        let result = kernel::stream::accept(self.io());
        let error = match result.map(|(socket, addr)| (socket, from_sock_addr(&addr))) {
            Ok((socket, addr)) => match addr {
                Err(_) if is_unix => return Ok(self.accepted(socket, Address::UNNAMED)),
                Ok(addr) => return Ok(self.accepted(socket, addr)),
                // On some systems one that is gone has no address any more.
                Err(error) => error,
            },
            Err(error) if is_connections(&error) => error,
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.gone.store(0, Ordering::Relaxed);
                }
                return Err(error);
            }
        };
        let gone = self.gone.load(Ordering::Relaxed) + 1;
        if gone > GONE {
            // Then it is not the connections.
            self.gone.store(0, Ordering::Relaxed);
            return Err(error);
        }
        self.gone.store(gone, Ordering::Relaxed);
        Err(io::ErrorKind::Interrupted.into())
    }

    fn accepted(&self, socket: socket2::Socket, addr: Address) -> (Stream, Address) {
        self.gone.store(0, Ordering::Relaxed);
        (Stream::new(socket, self.family), addr)
    }

    /// `open` and `listen` where they need not wait, which is everywhere here.
    #[cfg(unix)]
    pub(crate) fn open_now(config: &ListenerConfig, backlog: u32) -> io::Result<Listener> {
        let listener = open(config)?;
        listener.listen_now(backlog)?;
        Ok(listener)
    }

    fn listen_now(&self, backlog: u32) -> io::Result<()> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        self.io()
            .listen(backlog)
            .map_err(|error| match self.local_addr() {
                Ok(addr) => context(error, format_args!("listen at {addr}")),
                Err(_) => context(error, "listen"),
            })
    }

    source_methods!();
}

fn open(config: &ListenerConfig) -> io::Result<Listener> {
    let addr = &config.bind;
    let family = Family::of(addr);
    let socket = new_socket(family, 0)?;
    // On Windows it would let others take the address; on Unix it only lets connections that have
    // ended be forgotten.
    let reuse_address = config.reuse_address.unwrap_or(cfg!(unix));
    if reuse_address && family != Family::Unix {
        socket
            .set_reuse_address(true)
            .map_err(|error| context(error, "reuse_address"))?;
    }
    if family != Family::Unix {
        // What is accepted inherits it.
        socket
            .set_tcp_nodelay(true)
            .map_err(|error| context(error, "nodelay"))?;
    }
    if config.reuse_port {
        options::set_reuse_port(&socket, true).map_err(|error| context(error, "reuse_port"))?;
    }
    if config.keep_alive {
        socket
            .set_keepalive(true)
            .map_err(|error| context(error, "keep_alive"))?;
    }
    if let (Some(only_v6), Family::Inet6) = (config.only_v6, family) {
        socket
            .set_only_v6(only_v6)
            .map_err(|error| context(error, "only_v6"))?;
    }
    socket
        .bind(&to_sock_addr(addr)?)
        .map_err(|error| context(error, format_args!("bind {addr}")))?;
    Ok(Listener::new(socket, family))
}

/// Whether an error of accept(2) is about the connection that was to be accepted, which is gone:
/// the next may be there.
fn is_connections(error: &io::Error) -> bool {
    // Linux passes on what the network has reported of the new connection; EPERM is a firewall's.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CODES: &[i32] = &[
        libc::ECONNABORTED,
        libc::EPROTO,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::EOPNOTSUPP,
        libc::ENETUNREACH,
        libc::EPERM,
    ];
    #[cfg(all(
        unix,
        not(any(target_os = "linux", target_os = "android", target_vendor = "apple"))
    ))]
    const CODES: &[i32] = &[libc::ECONNABORTED, libc::EPROTO];
    // EINVAL is what the options of a connection that is gone give.
    #[cfg(target_vendor = "apple")]
    const CODES: &[i32] = &[libc::ECONNABORTED, libc::EPROTO, libc::EINVAL];
    // WSAECONNABORTED, WSAECONNRESET.
    #[cfg(windows)]
    const CODES: &[i32] = &[10053, 10054];
    error
        .raw_os_error()
        .is_some_and(|code| CODES.contains(&code))
}

waitable!(Listener);

impl ListenerOps for Listener {
    async fn open(config: &ListenerConfig) -> io::Result<Listener> {
        open(config)
    }

    fn from_socket(socket: Socket) -> io::Result<Listener> {
        let socket = socket.0;
        require_stream(&socket)?;
        let family = family_of(&socket)?;
        socket.set_nonblocking(true)?;
        if family != Family::Unix {
            // As in `open`; if it cannot be, it works without.
            let _ = socket.set_tcp_nodelay(true);
        }
        Ok(Listener::new(socket, family))
    }

    fn into_socket(self) -> io::Result<Socket> {
        self.source.into_io().map(Socket)
    }

    async fn listen(&self, backlog: u32) -> io::Result<()> {
        self.listen_now(backlog)
    }

    fn try_accept(&self) -> io::Result<(Stream, Address)> {
        for _ in 0..SKIPPED {
            match self.source.try_io(Direction::Read, || self.accept_one()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    if result.is_ok() {
                        self.source.pass_on(Direction::Read);
                    }
                    return result;
                }
            }
        }
        // As far as is known; the socket is still readable.
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_accept(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<(Stream, Address)>> {
        let poll = self.source.poll_io(Direction::Read, waiter, || {
            let result = self.accept_one();
            if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                self.lone.store(LONE, Ordering::Relaxed);
            }
            result
        });
        if let Poll::Ready(Ok(_)) = poll {
            let lone = self.lone.load(Ordering::Relaxed);
            if lone > 0 {
                self.lone.store(lone - 1, Ordering::Relaxed);
                self.source.settle(Direction::Read);
            }
        }
        poll
    }

    fn poll_acceptable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.source.poll_reported(Direction::Read, waiter)
    }

    fn is_exhaustion(error: &io::Error) -> bool {
        #[cfg(unix)]
        const CODES: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        // ERROR_NOT_ENOUGH_MEMORY, WSAEMFILE, WSAENOBUFS.
        #[cfg(windows)]
        const CODES: [i32; 3] = [8, 10024, 10055];
        error
            .raw_os_error()
            .is_some_and(|code| CODES.contains(&code))
    }

    fn local_addr(&self) -> io::Result<Address> {
        from_sock_addr(&self.io().local_addr()?)
    }

    fn family(&self) -> Family {
        self.family
    }

    fn get(&self, option: SocketOption) -> io::Result<u32> {
        options::get(self.io(), self.family, option)
    }

    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        options::set(self.io(), self.family, option, value)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.io().take_error()
    }
}
