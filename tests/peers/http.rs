//! Servers of HTTP that others have written, nginx and Python, at Unix sockets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::process::{python, tool, Process, LIMIT};

/// None, one, less and more than a buffer, and more than all of them.
pub(crate) const SIZES: [usize; 6] = [0, 1, 1_000, 65_536, 1_000_000, 8_000_000];

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A text of so many bytes.
pub(crate) fn content(size: usize) -> String {
    let mut text = String::new();
    let mut number = 0;
    while text.len() < size {
        text += &format!("line {number}\n");
        number += 1;
    }
    text.truncate(size);
    text
}

/// A server and the folder that it serves.
pub(crate) struct Server {
    process: Process,
    pub(crate) socket: PathBuf,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl Server {
    /// A folder with files `0`, `1`, … of all sizes, to be served at a socket.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        fs::create_dir(&files).unwrap();
        for size in SIZES {
            fs::write(files.join(size.to_string()), content(size)).unwrap();
        }
        fs::write(files.join("page.shtml"), PAGE).unwrap();
        let socket = folder.path().join("http.sock");
        (folder, socket)
    }

    pub(crate) fn python() -> Server {
        let (folder, socket) = Server::folder();
        let mut command = python("http_server.py");
        command.arg(&socket).arg(folder.path().join("files"));
        let (process, _) = Process::server(&mut command);
        Server {
            process,
            socket,
            _folder: folder,
        }
    }

    pub(crate) fn nginx() -> Server {
        let (folder, socket) = Server::folder();
        let config = folder.path().join("nginx.conf");
        let text = include_str!("nginx.conf").replace("HERE", text(folder.path()));
        fs::write(&config, text).unwrap();
        let mut command = nginx();
        command.args(["-e", "stderr", "-p"]);
        command.arg(folder.path()).arg("-c").arg(config);
        let process = Process::start(&mut command);
        let mut server = Server {
            process,
            socket,
            _folder: folder,
        };
        let since = Instant::now();
        while std::os::unix::net::UnixStream::connect(&server.socket).is_err() {
            assert!(server.process.is_running(), "nginx ended");
            assert!(since.elapsed() < LIMIT, "nginx does not listen");
            std::thread::yield_now();
        }
        server
    }
}

/// What nginx puts together, so that it does not know the length before.
const PAGE: &str = "<!--#include virtual=\"/1000\" -->and<!--#include virtual=\"/1000000\" -->";

/// It is where users other than root do not look.
fn nginx() -> Command {
    let elsewhere = Path::new("/usr/sbin/nginx");
    match elsewhere.exists() {
        true => Command::new(elsewhere),
        false => tool("nginx", "nginx-light"),
    }
}
