//! The servers: which there are, and one that runs.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coracle_benches::check;

use crate::build;
use crate::cpu;
use crate::options::{invalid, Options};

/// An interpreter under strace takes its time.
const START_UP: Duration = Duration::from_secs(20);

/// What the servers of a measurement speak.
#[derive(Clone, Copy)]
pub enum Transport {
    Udp,
    /// Streams, each with a buffer of so many bytes where a server has one for each.
    Unix {
        buffer: usize,
    },
}

/// How to start a server; the address is added.
#[derive(Clone)]
pub struct Server {
    pub name: String,
    pub command: Vec<OsString>,
    listens: Listens,
}

/// What a server is given to listen on.
#[derive(Clone, Copy)]
pub enum Listens {
    /// A port of the loopback interface that the system chooses.
    Port,
    /// A path that nothing has yet.
    Path,
}

const UDP: [(&str, &[&str]); 6] = [
    ("tokio", &["udp_tokio"]),
    ("smol", &["udp_smol"]),
    ("epoll", &["udp_epoll"]),
    ("epoll-drain", &["udp_epoll", "--drain"]),
    ("mmsg", &["udp_mmsg"]),
    ("quinn", &["udp_quinn"]),
];

/// The number of bytes is added to `--buffer`.
const UNIX: [(&str, &[&str]); 4] = [
    ("coracle-net", &["unix_coracle", "--buffer"]),
    ("tokio", &["unix_tokio", "--buffer"]),
    ("smol", &["unix_smol", "--buffer"]),
    ("epoll", &["unix_epoll"]),
];

/// Those that are not binaries of this package.
const OTHERS: [&str; 3] = ["coracle", "asyncio", "uvloop"];

impl Transport {
    /// The server that the crate has as an example.
    pub fn example(self) -> &'static str {
        match self {
            Transport::Udp => "udp_echo_server",
            Transport::Unix { .. } => "unix_echo_server",
        }
    }

    fn listens(self) -> Listens {
        match self {
            Transport::Udp => Listens::Port,
            Transport::Unix { .. } => Listens::Path,
        }
    }

    fn script(self) -> &'static str {
        match self {
            Transport::Udp => "asyncio_echo.py",
            Transport::Unix { .. } => "asyncio_unix_echo.py",
        }
    }

    fn binaries(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Transport::Udp => &UDP,
            Transport::Unix { .. } => &UNIX,
        }
    }
}

/// Builds the servers that are wanted.
pub fn servers(options: &Options, transport: Transport) -> io::Result<Vec<Server>> {
    let mut servers = Vec::new();
    let given = options.given(transport);
    let wanted = |name: &str| options.wants(name) && !given.iter().any(|(given, _)| given == name);
    let mut add = |name: &str, command: Vec<OsString>| {
        servers.push(Server::new(name, command, transport.listens()));
    };

    if wanted("coracle") {
        let example = build::example(transport.example(), true)?;
        add("coracle", vec![example.into()]);
    }
    for (name, command) in given {
        if options.wants(name) {
            add(name, command.iter().map(Into::into).collect());
        }
    }
    for (name, command) in transport.binaries() {
        if wanted(name) {
            let mut words = vec![build::binary(command[0])?.into()];
            words.extend(command[1..].iter().map(OsString::from));
            if let (Transport::Unix { buffer }, Some(&"--buffer")) = (transport, command.last()) {
                words.push(buffer.to_string().into());
            }
            add(name, words);
        }
    }
    let script = build::package().join("peers").join(transport.script());
    if wanted("asyncio") {
        let words = vec![build::python()?.into(), script.clone().into()];
        add("asyncio", words);
    }
    if wanted("uvloop") {
        match build::python_with_uvloop() {
            Ok(python) => {
                let words = vec![python.into(), script.into(), "--uvloop".into()];
                add("uvloop", words);
            }
            // The other results are still worth having, unless this one was asked for.
            Err(error) if options.only.is_none() => eprintln!("left out: uvloop: {error}"),
            Err(error) => return Err(error),
        }
    }
    for name in options.only.iter().flatten() {
        if !exists(options, name) {
            return Err(invalid(format!("there is no server {name}")));
        }
    }
    Ok(servers)
}

/// Whether there is a server of this name, for whichever transport: with several commands in
/// one run, not each has all that are asked for.
fn exists(options: &Options, name: &str) -> bool {
    let here = |transport: Transport| {
        let binaries = transport.binaries().iter().map(|(name, _)| *name);
        let given = options.given(transport).iter().map(|(name, _)| &**name);
        binaries.chain(given).any(|known| known == name)
    };
    OTHERS.contains(&name) || here(Transport::Udp) || here(Transport::Unix { buffer: 0 })
}

impl Server {
    pub fn new(name: &str, command: Vec<OsString>, listens: Listens) -> Self {
        Self {
            name: name.to_owned(),
            command,
            listens,
        }
    }

    /// Starts the server on a free address, on the CPU with this number if one is given.
    pub fn start(&self, cpu: Option<usize>) -> io::Result<Running> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        Running::start(self, command, cpu)
    }

    /// The same under strace, which writes its table to this file.
    pub fn start_traced(&self, table: &std::path::Path) -> io::Result<Running> {
        let mut command = Command::new("strace");
        command
            .args(["-c", "-f", "-o"])
            .arg(table)
            .args(&self.command);
        let mut running = Running::start(self, command, None)?;
        running.pid = child_of(running.child.id())?;
        Ok(running)
    }
}

/// A server process, which ends with this value.
pub struct Running {
    pub name: String,
    /// As the server says it: an address with a port, or a path.
    pub address: String,
    /// What is left in the file system of a server that is killed.
    socket: Option<PathBuf>,
    /// The server itself, where the child is strace.
    pid: u32,
    child: Child,
}

impl Running {
    fn start(server: &Server, mut command: Command, cpu: Option<usize>) -> io::Result<Self> {
        let name = &server.name;
        let socket = match server.listens {
            Listens::Port => {
                command.arg("127.0.0.1:0");
                None
            }
            Listens::Path => {
                let path = free_path()?;
                command.arg(&path);
                Some(path)
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
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
        let address = line.trim().strip_prefix("listening on ");
        let running = Self {
            name: name.clone(),
            address: address.unwrap_or_default().to_owned(),
            socket,
            pid: child.id(),
            child,
        };
        read.map_err(|error| running.error("does not say where it listens", error))?;
        if address.is_none() {
            let said = format!("said {line:?} instead of where it listens");
            return Err(running.error(&said, io::ErrorKind::InvalidData.into()));
        }
        Ok(running)
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
        if let Some(path) = &self.socket {
            // A server that ended before it listened has left nothing.
            let _ = fs::remove_file(path);
        }
    }
}

/// A path for a socket, in the directory for such things: its name must fit into 108 bytes,
/// which the target directory may not.
fn free_path() -> io::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("coracle-benches-{}-{number}.sock", process::id());
    let path = env::temp_dir().join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(path),
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
