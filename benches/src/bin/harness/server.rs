//! The servers: which there are, and one that runs.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coracle_benches::check;

use crate::build;
use crate::cpu;
use crate::options::{invalid, Options};

/// An interpreter under strace takes its time.
const START_UP: Duration = Duration::from_secs(20);

/// How to start a server; the address is added.
#[derive(Clone)]
pub struct Server {
    pub name: String,
    pub command: Vec<OsString>,
}

const BINARIES: [(&str, &[&str]); 6] = [
    ("tokio", &["udp_tokio"]),
    ("smol", &["udp_smol"]),
    ("epoll", &["udp_epoll"]),
    ("epoll-drain", &["udp_epoll", "--drain"]),
    ("mmsg", &["udp_mmsg"]),
    ("quinn", &["udp_quinn"]),
];

/// Builds the servers that are wanted.
pub fn servers(options: &Options) -> io::Result<Vec<Server>> {
    let mut servers = Vec::new();
    let given = |name: &str| options.servers.iter().any(|(given, _)| given == name);
    let wanted = |name: &str| options.wants(name) && !given(name);

    if wanted("coracle") {
        servers.push(Server::new("coracle", vec![build::example(true)?.into()]));
    }
    for (name, command) in &options.servers {
        if options.wants(name) {
            servers.push(Server::new(name, command.iter().map(Into::into).collect()));
        }
    }
    for (name, command) in BINARIES {
        if wanted(name) {
            let mut words = vec![build::binary(command[0])?.into()];
            words.extend(command[1..].iter().map(OsString::from));
            servers.push(Server::new(name, words));
        }
    }
    let script = build::package().join("peers").join("asyncio_echo.py");
    if wanted("asyncio") {
        let words = vec![build::python()?.into(), script.clone().into()];
        servers.push(Server::new("asyncio", words));
    }
    if wanted("uvloop") {
        match build::python_with_uvloop() {
            Ok(python) => {
                let words = vec![python.into(), script.into(), "--uvloop".into()];
                servers.push(Server::new("uvloop", words));
            }
            // The other results are still worth having, unless this one was asked for.
            Err(error) if options.only.is_none() => eprintln!("left out: uvloop: {error}"),
            Err(error) => return Err(error),
        }
    }
    for name in options.only.iter().flatten() {
        if !servers.iter().any(|server| server.name == *name) {
            return Err(invalid(format!("there is no server {name}")));
        }
    }
    Ok(servers)
}

impl Server {
    fn new(name: &str, command: Vec<OsString>) -> Self {
        Self {
            name: name.to_owned(),
            command,
        }
    }

    /// Starts the server on a free port, on the CPU with this number if one is given.
    pub fn start(&self, cpu: Option<usize>) -> io::Result<Running> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        Running::start(&self.name, command, cpu)
    }

    /// The same under strace, which writes its table to this file.
    pub fn start_traced(&self, table: &std::path::Path) -> io::Result<Running> {
        let mut command = Command::new("strace");
        command
            .args(["-c", "-f", "-o"])
            .arg(table)
            .args(&self.command);
        let mut running = Running::start(&self.name, command, None)?;
        running.pid = child_of(running.child.id())?;
        Ok(running)
    }
}

/// A server process, which ends with this value.
pub struct Running {
    pub name: String,
    pub address: SocketAddr,
    /// The server itself, where the child is strace.
    pid: u32,
    child: Child,
}

impl Running {
    fn start(name: &str, mut command: Command, cpu: Option<usize>) -> io::Result<Self> {
        command
            .arg("127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: between fork and exec there are two system calls, which allocate nothing.
        unsafe {
            command.pre_exec(move || {
                // However the harness ends, its servers do. This signal strace passes on.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM))?;
                match cpu {
                    Some(cpu) => cpu::pin(cpu),
                    None => Ok(()),
                }
            });
        }
        let mut child = command
            .spawn()
            .map_err(|error| named(name, "does not start", error))?;
        let mut line = String::new();
        let read = match child.stdout.take() {
            Some(stdout) => {
                within(START_UP, &stdout).and_then(|()| BufReader::new(stdout).read_line(&mut line))
            }
            None => Ok(0),
        };
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .and_then(|address| address.parse().ok());
        let mut running = Self {
            name: name.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            pid: child.id(),
            child,
        };
        read.map_err(|error| running.error("does not say where it listens", error))?;
        running.address = address.ok_or_else(|| {
            let said = format!("said {line:?} instead of where it listens");
            running.error(&said, io::ErrorKind::InvalidData.into())
        })?;
        Ok(running)
    }

    /// A socket connected to the server.
    pub fn connect(&self) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(self.address)?;
        Ok(socket)
    }

    /// Whether what comes back is what was sent, so that no server is fast by being wrong.
    pub fn verify(&self) -> io::Result<()> {
        let socket = self.connect()?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut reply = vec![0; coracle_benches::BUFFER];
        for len in [1, 64, 1200, 9000, 65_507] {
            let sent: Vec<u8> = (0..len).map(|i: u32| (i % 251) as u8).collect();
            socket.send(&sent)?;
            let received = socket
                .recv(&mut reply)
                .map_err(|error| self.error(&format!("did not echo {len} bytes"), error))?;
            if reply[..received] != sent {
                let message = format!("echoed {len} bytes as {received}, or as others");
                return Err(self.error(&message, io::ErrorKind::InvalidData.into()));
            }
        }
        Ok(())
    }

    /// CPU time the process has used so far, over all of its threads.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        cpu::time_of(self.pid).map_err(|error| self.error("has ended", error))
    }

    /// A field of /proc/PID/status in kilobytes.
    pub fn status_kb(&self, field: &str) -> io::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|value| value.trim().trim_end_matches("kB").trim().parse().ok())
            .ok_or_else(|| self.error(field, io::ErrorKind::NotFound.into()))
    }

    /// Ends the server, and waits for strace if it is the child, which then writes its table.
    pub fn stop(mut self) -> io::Result<()> {
        // SAFETY: the process is a child, or a child's, that has not been waited for.
        check(unsafe { libc::kill(self.pid as libc::pid_t, libc::SIGKILL) })?;
        self.child.wait()?;
        Ok(())
    }

    pub fn error(&self, what: &str, error: io::Error) -> io::Error {
        named(&self.name, what, error)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `stop` this does nothing: a child that has been waited for is not signalled.
        if let Ok(None) = self.child.try_wait() {
            // SAFETY: as in `stop`.
            unsafe { libc::kill(self.pid as libc::pid_t, libc::SIGKILL) };
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn named(name: &str, what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("server {name} {what}: {error}"))
}

/// Waits until there is something to read.
fn within(limit: Duration, pipe: &impl AsRawFd) -> io::Result<()> {
    let mut entry = libc::pollfd {
        fd: pipe.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry is passed and one is there.
    match check(unsafe { libc::poll(&mut entry, 1, limit.as_millis() as i32) })? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn child_of(parent: u32) -> io::Result<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    children
        .split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| io::Error::other("strace has started nothing"))
}
