//! The client of servers on streams, of Unix and of TCP.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use coracle_benches::BUFFER;

use super::{pattern, PATIENCE, WARM_UP};
use crate::server::Running;
use crate::table::{Column, Show};

/// Waits in the kernel while the server's backlog is full: no attempt fails for that.
fn connect(server: &Running) -> io::Result<UnixStream> {
    let stream = match server.address.parse::<SocketAddr>() {
        Ok(address) => connect_tcp(address),
        Err(_) => UnixStream::connect(&server.address),
    };
    let stream = stream.map_err(|error| server.error("cannot be connected to", error))?;
    // Only now: a limit for writing would be one for connecting too.
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A TCP connection in the type of the other: what is done with it from then on is the same.
fn connect_tcp(address: SocketAddr) -> io::Result<UnixStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(OwnedFd::from(stream).into())
}

/// Whether what comes back is what was sent, and all of it before the end, so that no server
/// is fast by being wrong.
pub fn verify(server: &Running) -> io::Result<()> {
    let wrong = |len: usize| {
        let message = format!("echoed other bytes than the {len} sent");
        server.error(&message, io::ErrorKind::InvalidData.into())
    };
    let stream = connect(server)?;
    let (mut reading, mut writing) = (&stream, &stream);
    for len in [1, 64, 1200, BUFFER] {
        let sent = pattern(len);
        let mut reply = vec![0; len];
        writing.write_all(&sent)?;
        reading
            .read_exact(&mut reply)
            .map_err(|error| server.error(&format!("did not echo {len} bytes"), error))?;
        if reply != sent {
            return Err(wrong(len));
        }
    }
    // More than the buffers of both sockets hold, so that the server has to wait, or to queue.
    let sent = pattern(4 << 20);
    let mut reply = Vec::new();
    let (written, read) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            writing.write_all(&sent)?;
            writing.shutdown(Shutdown::Write)
        });
        // Nothing is read until the server cannot write any more.
        thread::sleep(Duration::from_millis(10));
        let read = reading.read_to_end(&mut reply);
        (writer.join(), read)
    });
    read.map_err(|error| server.error("did not echo to the end", error))?;
    match written {
        Ok(written) => written.map_err(|error| server.error("did not read to the end", error))?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    if reply != sent {
        return Err(wrong(sent.len()));
    }
    Ok(())
}

/// Sends a message and waits for its echo.
pub struct Pinger<'a> {
    server: &'a Running,
    stream: UnixStream,
    request: Vec<u8>,
    reply: Vec<u8>,
    number: u64,
}

impl<'a> Pinger<'a> {
    pub fn new(server: &'a Running, size: usize) -> io::Result<Self> {
        Ok(Self {
            server,
            stream: connect(server)?,
            request: vec![0; size],
            reply: vec![0; size],
            number: 0,
        })
    }

    pub fn exchange(&mut self) -> io::Result<()> {
        self.send()?;
        self.receive()
    }

    /// The connection, left open.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    fn send(&mut self) -> io::Result<()> {
        self.number += 1;
        self.request[..8].copy_from_slice(&self.number.to_ne_bytes());
        self.stream
            .write_all(&self.request)
            .map_err(|error| self.server.error("cannot be written to", error))
    }

    fn receive(&mut self) -> io::Result<()> {
        self.stream
            .read_exact(&mut self.reply)
            .map_err(|error| self.server.error("did not answer", error))?;
        if self.reply != self.request {
            let error = io::ErrorKind::InvalidData.into();
            return Err(self.server.error("sent something else back", error));
        }
        Ok(())
    }
}

/// Connections that have served one message each, so that the server has accepted them and
/// set up all that it needs for them. They are open as long as the value lives.
pub fn open(server: &Running, count: usize, size: usize) -> io::Result<Vec<UnixStream>> {
    let open_one = || {
        let mut pinger = Pinger::new(server, size)?;
        pinger.exchange()?;
        Ok(pinger.into_stream())
    };
    (1..=count)
        .map(|number| {
            open_one().map_err(|error: io::Error| {
                // Which says whether a limit of open files is the reason, the server's too.
                let message = format!("connection {number} of {count}: {error}");
                io::Error::new(error.kind(), message)
            })
        })
        .collect()
}

pub struct Bulk {
    pub mib_per_second: f64,
    pub mib_per_cpu_second: f64,
}

impl Bulk {
    pub const COLUMNS: [Column; 2] = [
        Column::new("MiB echoed/CPU second of the server", 0, Show::Ratio),
        Column::new("MiB echoed/s", 0, Show::Ratio),
    ];

    pub fn row(&self) -> Vec<f64> {
        vec![self.mib_per_cpu_second, self.mib_per_second]
    }
}

/// One thread writes without a pause for this long, another reads what comes back.
pub fn bulk(server: &Running, duration: Duration) -> io::Result<Bulk> {
    let stream = &connect(server)?;
    let enough = &AtomicBool::new(false);
    let (written, read) = thread::scope(|scope| {
        let writer = scope.spawn(move || write_until(stream, enough));
        let read = read_for(server, stream, duration, enough);
        // Where reading failed, the writer must not wait for room for ever.
        if read.is_err() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        (writer.join(), read)
    });
    let (bulk, echoed) = read?;
    let written = match written {
        Ok(written) => written.map_err(|error| server.error("does not read", error))?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    if echoed != written {
        let message = format!("echoed {echoed} bytes of {written}");
        return Err(server.error(&message, io::ErrorKind::InvalidData.into()));
    }
    Ok(bulk)
}

/// Returns how many bytes were written.
fn write_until(mut stream: &UnixStream, enough: &AtomicBool) -> io::Result<u64> {
    let block = vec![7; BUFFER];
    let mut written = 0;
    while !enough.load(Ordering::Relaxed) {
        stream.write_all(&block)?;
        written += block.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(written)
}

/// Returns how many bytes came back as well, those included that were not measured.
fn read_for(
    server: &Running,
    mut stream: &UnixStream,
    duration: Duration,
    enough: &AtomicBool,
) -> io::Result<(Bulk, u64)> {
    let mut buffer = vec![0; BUFFER];
    let mut read = || -> io::Result<u64> {
        let len = stream
            .read(&mut buffer)
            .map_err(|error| server.error("does not echo", error))?;
        Ok(len as u64)
    };
    let mut read_until = |deadline: Instant| -> io::Result<u64> {
        let mut total = 0;
        while Instant::now() < deadline {
            match read()? {
                0 => {
                    let error = io::ErrorKind::UnexpectedEof.into();
                    return Err(server.error("has closed the connection", error));
                }
                len => total += len,
            }
        }
        Ok(total)
    };
    let warm = read_until(Instant::now() + WARM_UP)?;
    let cpu = server.cpu_time()?;
    let start = Instant::now();
    let measured = read_until(start + duration)?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = (server.cpu_time()? - cpu).as_secs_f64();
    enough.store(true, Ordering::Relaxed);
    let mut total = warm + measured;
    loop {
        match read()? {
            0 => break,
            len => total += len,
        }
    }
    let mib = measured as f64 / f64::from(1 << 20);
    let bulk = Bulk {
        mib_per_second: mib / elapsed,
        mib_per_cpu_second: mib / cpu,
    };
    Ok((bulk, total))
}

pub struct Connects {
    pub per_second: f64,
    pub per_cpu_second: f64,
}

/// Connections of one message each, so many at a time, for this long.
pub fn connects(
    server: &Running,
    at_once: usize,
    size: usize,
    duration: Duration,
) -> io::Result<Connects> {
    let mut group = Vec::with_capacity(at_once);
    let mut run_for = |duration: Duration| -> io::Result<(usize, Duration)> {
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < duration {
            for _ in 0..at_once {
                let mut pinger = Pinger::new(server, size)?;
                pinger.send()?;
                group.push(pinger);
            }
            for mut pinger in group.drain(..) {
                pinger.receive()?;
            }
            count += at_once;
        }
        Ok((count, start.elapsed()))
    };
    run_for(WARM_UP)?;
    let cpu = server.cpu_time()?;
    let (count, elapsed) = run_for(duration)?;
    let cpu = (server.cpu_time()? - cpu).as_secs_f64();
    Ok(Connects {
        per_second: count as f64 / elapsed.as_secs_f64(),
        per_cpu_second: count as f64 / cpu,
    })
}
