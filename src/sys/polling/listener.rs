//! Sockets that accept connections: TCP and Unix.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
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

/// A listening socket with its readiness.
pub(crate) struct Listener {
    source: Source,
    family: Family,
    /// How many more connections are expected to come alone.
    lone: AtomicU8,
}

impl Listener {
    fn new(socket: socket2::Socket, family: Family) -> Listener {
        Listener {
            source: Source::new(socket),
            family,
            lone: AtomicU8::new(0),
        }
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
        loop {
            let accept = || kernel::stream::accept(self.io());
            match self.source.try_io(Direction::Read, accept) {
                Ok((socket, addr)) => {
                    let addr = from_sock_addr(&addr)?;
                    return Ok((Stream::new(socket, self.family), addr));
                }
                // It was gone before it was taken; the next may be there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn poll_accept(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<(Stream, Address)>> {
        let poll = self.source.poll_io(Direction::Read, waiter, || {
            let result = self.try_accept();
            if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                self.lone.store(LONE, Ordering::Relaxed);
            }
            result
        });
        if let Poll::Ready(Ok(_)) = poll {
            let lone = self.lone.load(Ordering::Relaxed);
            if lone > 0 {
                self.lone.store(lone - 1, Ordering::Relaxed);
                self.source.clear_ready(Direction::Read);
            }
        }
        poll
    }

    fn poll_acceptable(&self, waiter: &mut Waiter<'_>) -> Poll<io::Result<()>> {
        self.source.poll_turn(Direction::Read, waiter)
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
