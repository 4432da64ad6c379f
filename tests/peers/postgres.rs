//! A PostgreSQL server of a test's own, at a Unix socket.

use std::fs;
use std::os::unix::fs::{chown, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{run, tool, Process};

/// How users of these names prove who they are. `NAME` is the system's name of ours.
const ACCESS: &str = "\
local all trusted trust
local all postgres trust
local all scram scram-sha-256
local all md5 md5
local all plain password
local all known peer map=tests
local all stranger peer map=tests
local all all reject
";
const MAP: &str = "tests NAME known\n";

pub(crate) struct Postgres {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl Postgres {
    pub(crate) fn start() -> Postgres {
        let folder = tempfile::tempdir().unwrap();
        // It refuses to run as root.
        let user = match fs::metadata(folder.path()).unwrap().uid() {
            0 => Some(User::postgres()),
            _ => None,
        };
        if let Some(User { id, group }) = user {
            chown(folder.path(), Some(id), Some(group)).unwrap();
        }
        let data = folder.path().join("data");
        let mut command = program("initdb", user);
        command.args("-U postgres --auth trust --locale C -E UTF8".split(' '));
        command.args(["--no-sync", "--no-instructions", "-D"]);
        let done = run(command.arg(&data));
        assert!(done.status.success(), "{done:?}");
        fs::write(data.join("pg_hba.conf"), ACCESS).unwrap();
        let name = run(Command::new("id").arg("-un")).stdout;
        let map = MAP.replace("NAME", name.trim());
        fs::write(data.join("pg_ident.conf"), map).unwrap();

        let mut command = program("postgres", user);
        command.arg("-D").arg(&data).arg("-k").arg(folder.path());
        // No network.
        for setting in ["listen_addresses=", "fsync=off", "log_disconnections=on"] {
            command.args(["-c", setting]);
        }
        let process = Process::start(&mut command);
        while !process.line().contains("ready to accept connections") {}
        Postgres {
            process,
            socket: folder.path().join(".s.PGSQL.5432"),
            _folder: folder,
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Killed, it would leave shared memory to the system.
        if self.process.is_running() {
            self.process.signal("QUIT");
            self.process.wait();
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) id: u32,
    group: u32,
}

impl User {
    /// Whom Debian's package makes.
    fn postgres() -> User {
        let id = |option| {
            let done = run(Command::new("id").args([option, "postgres"]));
            let id = done.stdout.trim().parse();
            id.unwrap_or_else(|_| panic!("no user postgres: install the package postgresql"))
        };
        User {
            id: id("-u"),
            group: id("-g"),
        }
    }
}

/// One of PostgreSQL's programs, which Debian keeps from the path, as a user; what it says is all
/// in its output.
fn program(name: &str, user: Option<User>) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let found = versions.map(|version| version.unwrap().path().join("bin").join(name));
    let found = found.filter(|path| path.exists()).max();
    let path = found.unwrap_or_else(|| tool(name, "postgresql").get_program().into());
    let mut command = match user {
        None => Command::new("sh"),
        Some(User { id, group }) => {
            let mut command = tool("setpriv", "util-linux");
            command.args([format!("--reuid={id}"), format!("--regid={group}")]);
            command.args(["--clear-groups", "sh"]);
            command
        }
    };
    command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(path);
    // Not where the user may be not allowed to be.
    command.current_dir(Path::new("/")).env("LC_ALL", "C");
    command
}
