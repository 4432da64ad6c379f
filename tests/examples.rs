//! The examples that run to their end do what they say.

#[path = "peers/process.rs"]
mod process;

use process::{example, run};

fn lines(name: &str) -> Vec<String> {
    let done = run(&mut example(name));
    assert!(done.status.success(), "{done:?}");
    assert_eq!(done.stderr, "");
    done.stdout.lines().map(str::to_owned).collect()
}

/// The lines with one of the beginnings, which are in a fixed order among themselves.
fn of<'a>(lines: &'a [String], side: &str) -> Vec<&'a str> {
    lines
        .iter()
        .filter_map(|line| line.strip_prefix(side))
        .collect()
}

#[test]
fn quickstart_exchanges_over_udp_and_unix() {
    let lines = lines("quickstart");
    for kind in ["udp", "unix"] {
        if kind == "unix" && !cfg!(unix) {
            continue;
        }
        let client = of(&lines, &format!("{kind} client: "));
        assert_eq!(client, ["hello", "got \"hello\""], "{lines:#?}");
        let server = of(&lines, &format!("{kind} server: "));
        assert_eq!(server.len(), 1, "{lines:#?}");
        assert!(server[0].starts_with("5 bytes from "), "{lines:#?}");
    }
}

#[test]
fn smol_executor_exchanges_three_messages() {
    let lines = lines("smol_executor");
    assert_eq!(
        of(&lines, "client: "),
        ["got \"one\"", "got \"two\"", "got \"three\""],
        "{lines:#?}"
    );
    assert_eq!(of(&lines, "server: "), ["3 bytes", "3 bytes", "5 bytes"]);
}
