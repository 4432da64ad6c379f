//! Counting the system calls of programs, with `strace -c`. What they need to start cancels out:
//! each is measured with little and with much to do.
#![allow(dead_code)] // no test file uses all of it

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{run, tool, Process, LIMIT};

/// How often each system call was made.
#[derive(Debug, Clone)]
pub(crate) struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// Those of strace's table, once it is there.
    fn read(summary: &Path) -> Option<Calls> {
        let text = fs::read_to_string(summary).ok()?;
        let row = |line: &str| {
            let mut fields = line.split_whitespace();
            let count = fields.nth(3)?.parse().ok()?;
            Some((fields.last()?.to_owned(), count))
        };
        let calls = Calls(text.lines().filter_map(row).collect());
        calls.0.contains_key("total").then_some(calls)
    }

    pub(crate) fn total(&self) -> u64 {
        self.of(&["total"])
    }

    /// How often these were made, all together.
    pub(crate) fn of(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.0.get(*name)).sum()
    }

    /// How many more these are, call by call. Start-up varies by a few.
    fn more_than(mut self, others: &Calls) -> Calls {
        for (name, count) in &mut self.0 {
            *count = count.saturating_sub(others.of(&[name]));
        }
        self
    }
}

/// A program under strace, which writes its counts to `summary` in the end.
fn traced(program: &Command, summary: &Path, options: &[&str]) -> Command {
    let mut command = tool("strace", "strace");
    command.args(["-f", "-c", "-o"]).arg(summary).args(options);
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

/// The system calls of a server while `client` works with it, who is given its address.
fn calls_of_server(server: &Command, client: impl FnOnce(&str)) -> Calls {
    let folder = tempfile::tempdir().unwrap();
    let summary = folder.path().join("summary");
    // -D: the server is our child, not strace's, so that it is the one that is killed.
    let process = Process::start(&mut traced(server, &summary, &["-D"]));
    let addr = loop {
        // Something else may be in front, if it is a test.
        if let Some((_, addr)) = process.line().split_once("listening on ") {
            break addr.to_owned();
        }
    };
    client(&addr);
    drop(process);
    let since = Instant::now();
    loop {
        if let Some(calls) = Calls::read(&summary) {
            return calls;
        }
        assert!(since.elapsed() < LIMIT, "strace does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The system calls of a server for each of the rounds that `client` makes with it.
pub(crate) fn calls_per_round(server: &Command, client: impl Fn(&str, u64)) -> f64 {
    const FEW: u64 = 20;
    const MANY: u64 = 320;
    let [few, many] = [FEW, MANY].map(|rounds| {
        let calls = calls_of_server(server, |addr| client(addr, rounds));
        calls.total() as f64
    });
    let per_round = (many - few) / (MANY - FEW) as f64;
    println!("{per_round:.2} system calls per round");
    per_round
}

const ROLE: &str = "CORACLE_TEST_ROLE";
const AMOUNT: &str = "CORACLE_TEST_AMOUNT";

/// The program of this very test in a role: its test `as_a_child`, which asks for it.
pub(crate) fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "as_a_child", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, name);
    command
}

/// The role that this process has, if any, and the amount of what it is to do.
pub(crate) fn own_role() -> Option<(String, u64)> {
    let role = std::env::var(ROLE).ok()?;
    let amount = std::env::var(AMOUNT).unwrap_or_default();
    Some((role, amount.parse().unwrap_or_default()))
}

/// The system calls that a role makes for an amount of what it does, be it milliseconds or work.
pub(crate) fn calls_for(name: &str, amount: u64) -> Calls {
    calls_with(&[], name, amount)
}

/// The same with more of strace's options, which may have system calls fail.
pub(crate) fn calls_with(options: &[&str], name: &str, amount: u64) -> Calls {
    let [none, all] = [0, amount].map(|amount| {
        let folder = tempfile::tempdir().unwrap();
        let summary = folder.path().join("summary");
        let mut role = role(name);
        role.env(AMOUNT, amount.to_string());
        let done = run(&mut traced(&role, &summary, options));
        assert!(done.status.success(), "{done:?}");
        Calls::read(&summary).expect("strace has ended")
    });
    let calls = all.more_than(&none);
    println!("{name}: {} system calls for {amount}", calls.total());
    calls
}

/// Checks that a role does next to nothing in the time that it is given.
#[track_caller]
pub(crate) fn assert_rests(role: &str) {
    let calls = calls_for(role, 300).total();
    assert!(calls < 50, "{role}: {calls}");
}

/// What Linux may need, and what other platforms' code may, which these hooks have it run.
pub(crate) fn limit(linux: f64, portable: f64) -> f64 {
    if cfg!(any(coracle_force_portable, polling_test_poll_backend)) {
        portable
    } else {
        linux
    }
}
