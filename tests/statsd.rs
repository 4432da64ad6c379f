//! The StatsD aggregator as a program: metrics over UDP, commands through socat.
#![cfg(unix)]

#[path = "statsd/control.rs"]
mod control;
#[path = "peers/process.rs"]
mod process;

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use process::{example, in_guest, run, tool, Process, LIMIT};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// Gives up by itself if nothing happens any more.
fn socat(control: &str) -> Command {
    let mut command = tool("socat", "socat");
    let kind = match control.chars().next() {
        Some('/') => format!("UNIX-CONNECT:{control}"),
        Some('@') => format!("ABSTRACT-CONNECT:{}", &control[1..]),
        Some('[') => format!("TCP6:{control}"),
        _ => format!("TCP4:{control}"),
    };
    command.args(["-T60", "-t60", "-", &kind]);
    command
}

/// What the answer is to these bytes and then the end.
fn ask(control: &str, commands: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", "printf %s \"$0\" | \"$@\"", commands]);
    let socat = socat(control);
    command.arg(socat.get_program()).args(socat.get_args());
    let done = run(&mut command);
    assert!(done.status.success(), "{done:?}");
    done.stdout
}

struct Statsd {
    process: Process,
    metrics: UdpSocket,
    control: String,
    /// A connection to it.
    socat: Process,
    /// Where a control path is, removed at the end.
    _folder: tempfile::TempDir,
}

impl Statsd {
    fn start() -> Statsd {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let control = match in_guest() {
            true => "127.0.0.1:0",
            false => text(&path),
        };
        Statsd::at("127.0.0.1:0", control, folder)
    }

    fn at(addr: &str, control: &str, folder: tempfile::TempDir) -> Statsd {
        let (process, addr) = Process::server(example("statsd").args([addr, control]));
        let line = process.line();
        let control = line.strip_prefix("listening on ").unwrap().to_owned();
        let any = if addr.starts_with('[') {
            "[::1]:0"
        } else {
            "127.0.0.1:0"
        };
        let metrics = UdpSocket::bind(any).unwrap();
        metrics.connect(addr).unwrap();
        Statsd {
            socat: Process::start(&mut socat(&control)),
            process,
            metrics,
            control,
            _folder: folder,
        }
    }

    fn send(&self, data: impl AsRef<[u8]>) {
        self.metrics.send(data.as_ref()).unwrap();
    }

    /// The next answer up to its last line, which ends it.
    fn stats(&mut self) -> Vec<String> {
        self.socat.write(b"stats\n");
        let lines = std::iter::from_fn(|| Some(self.socat.line()));
        lines.take_while(|line| line != "END").collect()
    }

    /// The answer as soon as it has this line.
    fn stats_with(&mut self, wanted: &str) -> Vec<String> {
        let since = Instant::now();
        loop {
            let stats = self.stats();
            if stats.iter().any(|line| line == wanted) {
                return stats;
            }
            assert!(since.elapsed() < LIMIT, "no {wanted:?} in {stats:?}");
        }
    }

    /// The answer when everything that was sent is in it.
    fn all_stats(&mut self) -> Vec<String> {
        self.send("all:1|g");
        let mut stats = self.stats_with("gauge all 1");
        stats.retain(|line| line != "gauge all 1");
        stats
    }

    /// Has it read what was sent, lest its buffer overflows, and do nothing wrong meanwhile.
    fn let_read(&mut self, number: usize) {
        self.send(format!("read:{number}|g"));
        self.stats_with(&format!("gauge read {number}"));
    }
}

#[test]
fn counters_add_up() {
    let mut statsd = Statsd::start();
    for data in ["hits:1|c", "hits:2|c\n", "hits:-0.5|c", "more:1e3|c"] {
        statsd.send(data);
    }
    assert_eq!(
        statsd.all_stats(),
        ["counter hits 2.5", "counter more 1000", "bad 0"]
    );
}

#[test]
fn a_sampled_counter_counts_for_what_was_left_out() {
    let mut statsd = Statsd::start();
    for data in ["hits:3|c|@0.1", "hits:1|c|@1", "hits:1|c|@0.25"] {
        statsd.send(data);
    }
    assert_eq!(statsd.all_stats(), ["counter hits 35", "bad 0"]);
}

#[test]
fn gauges_are_set_and_moved() {
    let mut statsd = Statsd::start();
    for data in [
        "load:3.5|g",
        "load:+1|g",
        "load:-2.25|g",
        "new:+4|g",
        "below:0|g\nbelow:-4|g",
        "twice:1|g\ntwice:2|g",
    ] {
        statsd.send(data);
    }
    let expected = [
        "gauge below -4",
        "gauge load 2.25",
        "gauge new 4",
        "gauge twice 2",
        "bad 0",
    ];
    assert_eq!(statsd.all_stats(), expected);
}

#[test]
fn timers_tell_count_extremes_mean_and_percentile() {
    let mut statsd = Statsd::start();
    // In disorder, 1 to 20.
    for number in 0..20 {
        statsd.send(format!("db:{}|ms", number * 7 % 20 + 1));
    }
    statsd.send("one:0.5|ms");
    statsd.send("sampled:10|ms|@0.5\nsampled:1|ms");
    let expected = [
        "timer db count=20 min=1 max=20 mean=10.5 p90=18",
        "timer one count=1 min=0.5 max=0.5 mean=0.5 p90=0.5",
        "timer sampled count=3 min=1 max=10 mean=7 p90=10",
        "bad 0",
    ];
    assert_eq!(statsd.all_stats(), expected);
}

#[test]
fn sets_count_each_member_once() {
    let mut statsd = Statsd::start();
    statsd.send("users:anna|s\nusers:bert|s\nusers:anna|s\nusers:1:2 ü|s");
    statsd.send("users:anna|s");
    assert_eq!(statsd.all_stats(), ["set users 3", "bad 0"]);
}

#[test]
fn the_answer_is_sorted_by_kind_and_name_and_has_an_end() {
    let mut statsd = Statsd::start();
    statsd.send("b:1|s\nb:2|ms\nb:3|g\nb:4|c\na:5|c\nä/x-y_z.w:6|g\nbad");
    statsd.all_stats();
    let expected = "counter a 5\ncounter b 4\ngauge all 1\ngauge b 3\ngauge ä/x-y_z.w 6\n\
                    timer b count=1 min=2 max=2 mean=2 p90=2\nset b 1\nbad 1\nEND\n";
    assert_eq!(ask(&statsd.control, "stats\n"), expected);
    assert_eq!(ask(&statsd.control, "stats\n"), expected);
}

#[test]
fn malformed_lines_are_counted_and_the_others_of_the_datagram_hold() {
    let mut statsd = Statsd::start();
    let malformed: &[&[u8]] = &[
        b"x",
        b"x:",
        b"x:1",
        b"x:1|",
        b"x|c",
        b":1|c",
        b"|c",
        b":|",
        b"x:|c",
        b"x:one|c",
        b"x:1|x",
        b"x:1|C",
        b"x:1|c|",
        b"x:1|c|0.5",
        b"x:1|c|@",
        b"x:1|c|@0",
        b"x:1|c|@-1",
        b"x:1|c|@2",
        b"x:1|c|@nan",
        b"x:1|c|@1e-320",
        b"x:1|c|@0.5|#tag",
        b"x:1|g|@0.5",
        b"x:1|s|@0.5",
        b"x:nan|c",
        b"x:inf|g",
        b"x:-infinity|ms",
        b"x:1e400|c",
        b"x:1e308|c|@0.001",
        b"x:1e308|ms|@0.001",
        b"x: 1|c",
        b"x:1|c ",
        b"x:1|c\r",
        b" x:1|c",
        b"x y:1|c",
        b"x|y:1|c",
        b"x\0:1|c",
        b"x\x1b[2J:1|c",
        "x\u{2028}y:1|c".as_bytes(),
        b"\xff:1|c",
        b"x:|s",
        b"\xff\xfe\xfd",
        b" ",
        &[b'x'; 60_000],
    ];
    for (number, line) in malformed.iter().enumerate() {
        statsd.send([b"good:1|c\n\n", *line, b"\ngood:1|c\n"].concat());
        statsd.send(line);
        statsd.let_read(number);
    }
    statsd.send("\n\n\n");
    statsd.send("");
    let good = format!("counter good {}", 2 * malformed.len());
    let read = format!("gauge read {}", malformed.len() - 1);
    let bad = format!("bad {}", 2 * malformed.len());
    assert_eq!(statsd.all_stats(), [good, read, bad]);
}

#[test]
fn what_would_be_no_number_any_more_is_bad() {
    let mut statsd = Statsd::start();
    statsd.send("c:1e308|c\nc:1e308|c\ng:1e308|g\ng:+1e308|g\nt:1e308|ms\nt:1e308|ms");
    let stats = statsd.all_stats();
    let largest = format!("{}", 1e308);
    assert_eq!(stats[0], format!("counter c {largest}"));
    assert_eq!(stats[1], format!("gauge g {largest}"));
    assert!(stats[2].starts_with("timer t count=1 "), "{stats:?}");
    assert_eq!(stats[3], "bad 3");
}

#[test]
fn garbage_does_no_harm() {
    let mut statsd = Statsd::start();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let valid = b"hits:1|c|@0.5\nload:+3.2|g\ndb:12|ms\nusers:anna|s\n";
    let letters = b"ab:|@+-.0123456789cgmse\n\n\0\xff";
    for number in 0..3000 {
        let data: Vec<u8> = match number % 3 {
            0 => (0..random(700)).map(|_| random(256) as u8).collect(),
            1 => (0..random(300))
                .map(|_| letters[random(letters.len())])
                .collect(),
            _ => {
                let mut data = valid.to_vec();
                for _ in 0..=random(4) {
                    let at = random(data.len());
                    data[at] = random(256) as u8;
                }
                data
            }
        };
        statsd.send(data);
        if number % 50 == 0 {
            statsd.let_read(number);
        }
    }
    ask(&statsd.control, "reset\n");
    statsd.send("hits:1|c");
    statsd.stats_with("counter hits 1");
}

#[test]
fn what_is_kept_has_limits() {
    let mut statsd = Statsd::start();
    let mut stats = Vec::new();
    for (number, kind) in ["1|c", "1|g", "1|ms", "x|s"].iter().enumerate() {
        let lines: Vec<String> = (0..1100).map(|name| format!("n{name}:{kind}\n")).collect();
        lines
            .chunks(100)
            .for_each(|lines| statsd.send(lines.concat()));
        stats = statsd.stats_with(&format!("bad {}", 100 * (number + 1)));
    }
    assert_eq!(stats.len(), 4001);
    // Those that are known go on.
    statsd.send("n0:1|c\nn1100:1|c");
    let stats = statsd.stats_with("bad 401");
    assert_eq!(stats[0], "counter n0 2");

    ask(&statsd.control, "reset\n");
    statsd.send(format!("{0}:1|c\n{0}x:1|c", "n".repeat(250)));
    let members: Vec<String> = (0..10_100)
        .map(|member| format!("set:{member}|s\n"))
        .collect();
    for (number, members) in members.chunks(1000).enumerate() {
        statsd.send(members.concat());
        statsd.let_read(number);
    }
    let stats = statsd.stats_with("set set 10000");
    assert!(stats.contains(&format!("counter {} 1", "n".repeat(250))));
    assert_eq!(stats.last().unwrap(), "bad 101");
}

#[test]
fn the_percentile_is_of_the_latest_times_and_the_rest_of_all() {
    let mut statsd = Statsd::start();
    for (number, time) in [9, 9, 1, 2].into_iter().enumerate() {
        statsd.send(format!("t:{time}|ms\n").repeat(500));
        statsd.let_read(number);
    }
    let expected = "timer t count=2000 min=1 max=9 mean=5.25 p90=2";
    assert!(statsd.stats().contains(&expected.into()));
}

#[test]
fn many_clients_send_and_ask_at_a_time() {
    let mut statsd = Statsd::start();
    let addr = statsd.metrics.peer_addr().unwrap();
    std::thread::scope(|scope| {
        for client in 0..10 {
            let control = &statsd.control;
            scope.spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                for round in 1..=5 {
                    for _ in 0..5 {
                        let data = format!("own{client}:1|c\nall:2|c\nclients:{client}|s");
                        socket.send_to(data.as_bytes(), addr).unwrap();
                    }
                    let wanted = format!("counter own{client} {}\n", round * 5);
                    let since = Instant::now();
                    loop {
                        let stats = ask(control, "stats\n");
                        assert!(stats.ends_with("END\n"));
                        if stats.contains(&wanted) {
                            break;
                        }
                        assert!(since.elapsed() < LIMIT, "{stats}");
                    }
                }
            });
        }
    });
    let stats = statsd.stats();
    assert_eq!(stats[0], "counter all 500");
    assert_eq!(stats[11..], ["set clients 10", "bad 0"]);
}
