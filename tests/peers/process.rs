//! Other programs as peers: the examples, Python, and what Debian has to offer.
#![allow(dead_code)] // no test file uses all of it

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Nothing that is waited for takes as long, however slow the machine; so a hang fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// Names a folder of components: the examples are run as such then, on a WASI host.
const GUESTS: &str = "CORACLE_TEST_GUESTS";

/// Whether the examples are components.
pub(crate) fn in_guest() -> bool {
    std::env::var_os(GUESTS).is_some()
}

/// An example of this crate, which `cargo test` has built.
pub(crate) fn example(name: &str) -> Command {
    if let Some(folder) = std::env::var_os(GUESTS) {
        let host = [env!("CARGO_MANIFEST_DIR"), "wasm", "run"]
            .iter()
            .collect::<PathBuf>();
        let path = PathBuf::from(folder).join(format!("{name}.wasm"));
        assert!(
            path.exists(),
            "the component {} is not built",
            path.display()
        );
        let mut command = Command::new(host);
        command.arg(path);
        return command;
    }
    let this = std::env::current_exe().expect("the test knows its own path");
    let folder = this
        .parent()
        .and_then(Path::parent)
        .expect("tests are built into target/PROFILE/deps");
    let path = folder
        .join("examples")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "the example {name} is not built: run `cargo test` without `--test`, or `cargo build \
         --examples` first"
    );
    Command::new(path)
}

/// A script of `tests/peers`.
pub(crate) fn python(script: &str) -> Command {
    let mut command = tool("python3", "python3");
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "peers", script]
        .iter()
        .collect();
    command.arg(path);
    command
}

/// A program that the system has to provide.
pub(crate) fn tool(program: &str, package: &str) -> Command {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    });
    assert!(
        found,
        "{program} is not installed; it is in Debian's package {package}"
    );
    Command::new(program)
}

/// A running program, killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it was asked for");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Process {
            child,
            stdin,
            lines,
        }
    }

    /// Starts a server, and waits until it tells its address in its first line.
    pub(crate) fn server(command: &mut Command) -> (Process, String) {
        let process = Process::start(command);
        let line = process.line();
        let addr = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{command:?} began with {line:?}"));
        let addr = addr.to_owned();
        (process, addr)
    }

    /// The next line that it prints.
    pub(crate) fn line(&self) -> String {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(error) => panic!("no line from process {}: {error}", self.child.id()),
        }
    }

    pub(crate) fn write(&mut self, data: &[u8]) {
        let stdin = self.stdin.as_mut().expect("it is open while it runs");
        stdin.write_all(data).expect("it reads");
    }

    /// There is nothing more for it to read.
    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal, such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        let done = run(Command::new("sh").args(["-c", &kill]));
        assert!(done.status.success(), "{done:?}");
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) {
        // Its output is open for as long.
        let end = loop {
            if let Err(end) = self.lines.recv_timeout(LIMIT) {
                break end;
            }
        };
        assert_eq!(end, RecvTimeoutError::Disconnected, "it goes on");
        self.child.wait().expect("it is our child");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program has left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program to its end, with nothing to read.
pub(crate) fn run(command: &mut Command) -> Done {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let (stdout, stderr) = (text(child.stdout.take()), text(child.stderr.take()));
    let mut read = |what: &str, from: Receiver<String>| {
        from.recv_timeout(LIMIT).unwrap_or_else(|_| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} does not end its {what}")
        })
    };
    let (stdout, stderr) = (read("output", stdout), read("errors", stderr));
    let status = child.wait().expect("it is our child");
    Done {
        status,
        stdout,
        stderr,
    }
}

fn text(from: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
