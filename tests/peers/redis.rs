//! A Redis server of a test's own, at a Unix socket.

use std::path::PathBuf;

use crate::process::{tool, Process};

pub(crate) struct Redis {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start() -> Redis {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut command = tool("redis-server", "redis-server");
        // No network, no files but the socket.
        command.args(["--port", "0", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(folder.path());
        command.arg("--unixsocket").arg(&socket);
        let process = Process::start(&mut command);
        // "The server is now ready to accept connections" or, later, "Ready to accept connections".
        while !process.line().contains("eady to accept connections") {}
        Redis {
            process,
            socket,
            _folder: folder,
        }
    }
}
