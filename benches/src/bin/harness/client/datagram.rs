//! The client of UDP servers.

use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use coracle_benches::mmsg::Batch;
use coracle_benches::{check, BUFFER};

use super::{pattern, PATIENCE, WARM_UP};
use crate::server::Running;
use crate::table::{Column, Show};

/// A datagram that has not come back after this is lost: on the loopback interface that
/// means a full receive buffer.
const LOST: Duration = Duration::from_millis(200);

/// A socket connected to the server.
fn connect(server: &Running) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(&server.address)?;
    Ok(socket)
}

/// Whether what comes back is what was sent, so that no server is fast by being wrong.
pub fn verify(server: &Running) -> io::Result<()> {
    let socket = connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut reply = vec![0; BUFFER];
    for len in [1, 64, 1200, 9000, 65_507] {
        let sent = pattern(len);
        socket.send(&sent)?;
        let received = socket
            .recv(&mut reply)
            .map_err(|error| server.error(&format!("did not echo {len} bytes"), error))?;
        if reply[..received] != sent {
            let message = format!("echoed {len} bytes as {received}, or as others");
            return Err(server.error(&message, io::ErrorKind::InvalidData.into()));
        }
    }
    Ok(())
}

/// Sends a datagram and waits for its echo.
pub struct Pinger<'a> {
    server: &'a Running,
    socket: UdpSocket,
    request: Vec<u8>,
    reply: Vec<u8>,
    number: u64,
}

impl<'a> Pinger<'a> {
    pub fn new(server: &'a Running, size: usize) -> io::Result<Self> {
        let socket = connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            server,
            socket,
            request: vec![0; size],
            reply: vec![0; BUFFER],
            number: 0,
        })
    }

    pub fn exchange(&mut self) -> io::Result<()> {
        self.number += 1;
        self.request[..8].copy_from_slice(&self.number.to_ne_bytes());
        self.socket.send(&self.request)?;
        let received = self
            .socket
            .recv(&mut self.reply)
            .map_err(|error| self.server.error("did not answer", error))?;
        if self.reply[..received] != self.request {
            let error = io::ErrorKind::InvalidData.into();
            return Err(self.server.error("sent something else back", error));
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
pub struct Load {
    pub size: usize,
    pub window: usize,
    pub sockets: usize,
    /// Datagrams per GSO send; without it each is sent for itself.
    pub segments: Option<usize>,
}

pub struct Flood {
    pub per_second: f64,
    pub per_cpu_second: f64,
    pub lost_per_million: f64,
}

impl Flood {
    pub const COLUMNS: [Column; 3] = [
        Column::new("echoed/CPU second of the server", 0, Show::Ratio),
        Column::new("echoed/s", 0, Show::Ratio),
        Column::new("lost per million", 0, Show::Median),
    ];

    pub fn row(&self) -> Vec<f64> {
        vec![self.per_cpu_second, self.per_second, self.lost_per_million]
    }
}

/// A window of datagrams under way for this long.
pub fn flood(server: &Running, load: Load, duration: Duration) -> io::Result<Flood> {
    let mut client = Flooder::new(server, load)?;
    client.run(WARM_UP)?;
    let lost = client.lost;
    let cpu = server.cpu_time()?;
    let start = Instant::now();
    let echoed = client.run(duration)? as f64;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = (server.cpu_time()? - cpu).as_secs_f64();
    Ok(Flood {
        per_second: echoed / elapsed,
        per_cpu_second: echoed / cpu,
        lost_per_million: (client.lost - lost) as f64 * 1e6 / echoed.max(1.0),
    })
}

/// `count` datagrams at once, then all of their echoes.
pub fn burst(flooder: &mut Flooder<'_>, count: usize) -> io::Result<()> {
    flooder.fill()?;
    let mut echoed = 0;
    while echoed < count {
        echoed += flooder.drain()?;
        if echoed < count && !flooder.wait()? {
            let error = io::ErrorKind::TimedOut.into();
            return Err(flooder.server.error("lost a datagram of a burst", error));
        }
    }
    Ok(())
}

/// Keeps the window full.
pub struct Flooder<'a> {
    server: &'a Running,
    flows: Vec<Flow>,
    requests: Batch,
    replies: Batch,
    load: Load,
    lost: usize,
}

struct Flow {
    socket: UdpSocket,
    window: usize,
    outstanding: usize,
}

impl<'a> Flooder<'a> {
    pub fn new(server: &'a Running, load: Load) -> io::Result<Self> {
        let unit = load.segments.unwrap_or(1);
        if unit * load.size > 65_507 {
            let message = format!("{unit} segments of {} bytes are too large", load.size);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let window = (load.window / load.sockets).max(unit);
        let mut flows = Vec::new();
        for _ in 0..load.sockets {
            let socket = connect(server)?;
            let fd = socket.as_raw_fd();
            // So that nothing is lost on this side; the kernel caps it without an error.
            set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20)?;
            if load.segments.is_some() {
                set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, load.size as i32)?;
                set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)?;
            }
            flows.push(Flow {
                socket,
                window,
                outstanding: 0,
            });
        }
        // A coalesced reply may hold many datagrams.
        let reply_len = match load.segments {
            Some(_) => BUFFER,
            None => load.size + 1,
        };
        Ok(Self {
            server,
            flows,
            requests: Batch::repeat(window.div_ceil(unit).min(256), &vec![7; unit * load.size]),
            replies: Batch::new(64, reply_len),
            load,
            lost: 0,
        })
    }

    /// Returns how many datagrams came back.
    fn run(&mut self, duration: Duration) -> io::Result<usize> {
        let start = Instant::now();
        let mut echoed = 0;
        while start.elapsed() < duration {
            self.fill()?;
            let drained = self.drain()?;
            echoed += drained;
            if drained == 0 && !self.wait()? {
                for flow in &mut self.flows {
                    self.lost += mem::take(&mut flow.outstanding);
                }
                // A server that has ended loses everything: better said than counted.
                self.server.cpu_time()?;
            }
        }
        Ok(echoed)
    }

    fn fill(&mut self) -> io::Result<()> {
        let unit = self.load.segments.unwrap_or(1);
        for flow in &mut self.flows {
            let room = flow.window.saturating_sub(flow.outstanding) / unit;
            let count = room.min(self.requests.capacity());
            if count == 0 {
                continue;
            }
            match self.requests.send(flow.socket.as_raw_fd(), 0, count) {
                Ok(sent) => flow.outstanding += sent * unit,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.server.error("cannot be sent to", error)),
            }
        }
        Ok(())
    }

    /// Takes what has come back.
    fn drain(&mut self) -> io::Result<usize> {
        let mut total = 0;
        for flow in &mut self.flows {
            match self.replies.receive(flow.socket.as_raw_fd()) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(self.server.error("cannot be read from", error)),
            }
            for len in self.replies.lengths() {
                if len == 0 || len % self.load.size != 0 {
                    let what = format!("sent {len} bytes back for {}", self.load.size);
                    return Err(self.server.error(&what, io::ErrorKind::InvalidData.into()));
                }
                let datagrams = len / self.load.size;
                total += datagrams;
                // Less than nothing if it was given up for lost.
                flow.outstanding = flow.outstanding.saturating_sub(datagrams);
            }
        }
        Ok(total)
    }

    /// Waits for an echo; false if none comes.
    fn wait(&self) -> io::Result<bool> {
        let mut entries: Vec<libc::pollfd> = self
            .flows
            .iter()
            .map(|flow| libc::pollfd {
                fd: flow.socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        // SAFETY: the number of entries is the number that is there.
        let ready = check(unsafe {
            libc::poll(
                entries.as_mut_ptr(),
                entries.len() as libc::nfds_t,
                LOST.as_millis() as i32,
            )
        });
        match ready {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            other => Ok(other? > 0),
        }
    }
}

fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is an int, as all of these options want, and outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            ptr::from_ref(&value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    })?;
    Ok(())
}
