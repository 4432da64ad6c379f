//! A network of the test's own.

use std::process::Command;

use super::in_process;

/// Runs the body of a test in a network of its own, in which it is root. `setup` is for the shell,
/// when the loopback interface is up.
pub(crate) fn in_network(test: &str, setup: &str, body: impl FnOnce()) {
    let command = |program: &std::path::Path| {
        let mut command = Command::new("unshare");
        let script = format!("set -e; ip link set lo up; {setup}\nexec \"$0\" \"$@\"");
        command.args(["--map-root-user", "--net", "sh", "-c", &script]);
        command.arg(program);
        command
    };
    in_process(test, command, body);
}
