//! The DNS forwarder between `dig` and an authoritative server.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;

use std::net::UdpSocket;

use process::{example, python, run, tool, Done, Process, LIMIT};

struct Forwarder {
    upstream: Option<(Process, String)>,
    process: Process,
    addr: String,
}

impl Forwarder {
    fn new() -> Forwarder {
        Forwarder::between("127.0.0.1:0", "127.0.0.1")
    }

    fn between(listen: &str, host: &str) -> Forwarder {
        let upstream = Process::server(python("dns_upstream.py").arg(host));
        let mut forwarder = Forwarder::to(listen, &upstream.1);
        forwarder.upstream = Some(upstream);
        forwarder
    }

    fn to(listen: &str, upstream: &str) -> Forwarder {
        let (process, addr) = Process::server(example("dns_forwarder").args([listen, upstream]));
        Forwarder {
            upstream: None,
            process,
            addr,
        }
    }

    /// Asks the forwarder.
    fn dig(&self, args: &str) -> Dig {
        dig(&self.addr, args)
    }

    fn upstream(&self) -> &str {
        &self.upstream.as_ref().expect("it has one").1
    }

    /// How many queries for a name have reached the upstream.
    fn count(&self, name: &str) -> usize {
        let asked = dig(self.upstream(), &format!("count.{name} TXT"));
        asked.answers[0].data.trim_matches('"').parse().unwrap()
    }

    /// It still works, after all.
    fn assert_alive(&mut self) {
        assert_eq!(self.dig("alive.many.test A").data(), ["127.0.0.10"]);
        assert!(self.process.is_running());
    }
}

#[derive(Debug)]
struct Record {
    ttl: u32,
    kind: String,
    data: String,
}

/// What `dig` has printed.
#[derive(Debug)]
struct Dig {
    status: String,
    flags: String,
    answers: Vec<Record>,
    authority: Vec<Record>,
    done: Done,
}

impl Dig {
    fn data(&self) -> Vec<&str> {
        self.answers.iter().map(|record| &record.data[..]).collect()
    }
}

fn dig(server: &str, args: &str) -> Dig {
    let (host, port) = server.rsplit_once(':').unwrap();
    let host = host.trim_matches(['[', ']']);
    let mut command = tool("dig", "bind9-dnsutils");
    // Without the user's own ~/.digrc; one try, so that counts are exact.
    command.args(["-r", &format!("@{host}"), "-p", port]);
    command.args(["+tries=1", "+timeout=30"]);
    command.args(args.split_whitespace());
    let done = run(&mut command);
    let after = |mark: &str| {
        let from = done.stdout.split(mark).nth(1).unwrap_or_default();
        let to = from.find([',', ';', '\n']).unwrap_or(from.len());
        from[..to].trim().to_owned()
    };
    let section = |name: &str| {
        let mark = format!(";; {name} SECTION:\n");
        let from = done.stdout.split(&mark).nth(1).unwrap_or_default();
        from.lines()
            .take_while(|line| !line.is_empty())
            .map(record)
            .collect()
    };
    Dig {
        status: after("status: "),
        flags: after("flags: "),
        answers: section("ANSWER"),
        authority: section("AUTHORITY"),
        done,
    }
}

fn record(line: &str) -> Record {
    let mut fields = line.split_whitespace();
    let ttl = fields.nth(1).and_then(|ttl| ttl.parse().ok());
    Record {
        ttl: ttl.unwrap_or_else(|| panic!("no record: {line:?}")),
        kind: fields.nth(1).unwrap_or_default().to_owned(),
        data: fields.collect::<Vec<_>>().join(" "),
    }
}

/// A query as the wire has it.
fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut data = id.to_be_bytes().to_vec();
    data.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        data.push(label.len() as u8);
        data.extend(label.as_bytes());
    }
    data.push(0);
    data.extend(kind.to_be_bytes());
    data.extend([0, 1]);
    data
}

fn client(server: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

#[test]
fn answers_and_remembers() {
    let forwarder = Forwarder::new();
    let first = forwarder.dig("a.test A");
    assert_eq!(first.status, "NOERROR", "{first:#?}");
    assert_eq!(first.data(), ["127.0.0.10"]);
    assert_eq!(first.answers[0].ttl, 300);
    assert!(first.flags.contains("rd"), "{first:#?}");

    let second = forwarder.dig("a.test A");
    assert_eq!(second.data(), ["127.0.0.10"]);
    assert!(second.answers[0].ttl <= 300);
    assert_eq!(forwarder.count("a.test"), 1);
}

#[test]
fn types_are_told_apart() {
    let forwarder = Forwarder::new();
    for _ in 0..2 {
        assert_eq!(forwarder.dig("a.test A").data(), ["127.0.0.10"]);
        assert_eq!(forwarder.dig("a.test AAAA").data(), ["::1"]);
        assert_eq!(forwarder.dig("a.test TXT").data(), ["\"hello\""]);
        // Numbers that are letters of one name in upper and lower case: HTTPS is 65, 97 is not.
        assert_eq!(forwarder.dig("a.test TYPE65").status, "NOERROR");
        assert_eq!(forwarder.dig("a.test TYPE97").status, "NOERROR");
    }
    assert_eq!(forwarder.count("a.test"), 5);
}

#[test]
fn names_are_the_same_in_any_case_and_come_back_as_asked() {
    let forwarder = Forwarder::new();
    for name in ["a.test", "A.TEST", "A.tEsT"] {
        let asked = forwarder.dig(&format!("{name} A"));
        assert_eq!(asked.data(), ["127.0.0.10"]);
        assert!(
            asked.done.stdout.contains(&format!(";{name}.\t")),
            "{asked:#?}"
        );
    }
    assert_eq!(forwarder.count("a.test"), 1);
}

#[test]
fn several_records_live_as_long_as_the_shortest() {
    let forwarder = Forwarder::new();
    let alias = forwarder.dig("alias.test A");
    assert_eq!(alias.data(), ["a.test.", "127.0.0.10"]);
    assert_eq!(alias.answers[0].kind, "CNAME");

    forwarder.dig("mixed.test A");
    let mut ttls: Vec<u32> = forwarder
        .dig("mixed.test A")
        .answers
        .iter()
        .map(|record| record.ttl)
        .collect();
    ttls.sort_unstable();
    assert!(ttls[0] <= 30 && (31..=300).contains(&ttls[1]), "{ttls:?}");
    assert_eq!(forwarder.count("mixed.test"), 1);
}

#[test]
fn what_is_missing_is_remembered_as_long_as_the_soa_says() {
    let forwarder = Forwarder::new();
    for name in ["missing.test", "empty.test"] {
        let status = match name {
            "empty.test" => "NOERROR",
            _ => "NXDOMAIN",
        };
        for _ in 0..2 {
            let asked = forwarder.dig(&format!("{name} A"));
            assert_eq!(asked.status, status, "{asked:#?}");
            assert_eq!(asked.answers.len(), 0);
            assert_eq!(asked.authority[0].kind, "SOA");
        }
        assert_eq!(forwarder.count(name), 1);
        // What a cache behind this one would go by.
        assert!(forwarder.dig(&format!("{name} A")).authority[0].ttl <= 60);
    }
    // No SOA, no telling.
    for _ in 0..2 {
        assert_eq!(forwarder.dig("nosoa.test A").status, "NXDOMAIN");
    }
    assert_eq!(forwarder.count("nosoa.test"), 2);
}

#[test]
fn what_is_over_is_asked_again() {
    let forwarder = Forwarder::new();
    for name in ["short.test", "gone.test"] {
        // For a second; how many queries come within it is up to the machine.
        let mut asked = 0;
        while forwarder.count(name) < 2 {
            forwarder.dig(&format!("{name} A"));
            asked += 1;
            assert!(asked < 10_000, "{name} is never asked for again");
        }
    }
}

#[test]
fn failures_are_passed_on_and_not_remembered() {
    let forwarder = Forwarder::new();
    for _ in 0..2 {
        assert_eq!(forwarder.dig("broken.test A").status, "SERVFAIL");
    }
    assert_eq!(forwarder.count("broken.test"), 2);
}

#[test]
fn ipv6_on_both_sides() {
    let forwarder = Forwarder::between("[::1]:0", "::1");
    assert!(forwarder.addr.starts_with("[::1]:"));
    assert_eq!(forwarder.dig("a.test AAAA").data(), ["::1"]);
    assert_eq!(forwarder.dig("a.test AAAA").data(), ["::1"]);
    assert_eq!(forwarder.count("a.test"), 1);
}

#[test]
fn an_answer_without_room_is_marked_truncated() {
    let forwarder = Forwarder::new();
    // With room first, so that it is the kept answer that has to be cut.
    let whole = forwarder.dig("large.test TXT +bufsize=1232");
    assert_eq!(whole.data().concat().matches('x').count(), 1000);
    for room in ["+bufsize=600", "+bufsize=1"] {
        let cut = forwarder.dig(&format!("large.test TXT +ignore {room}"));
        assert!(cut.flags.contains("tc"), "{cut:#?}");
        assert_eq!((&cut.status[..], cut.answers.len()), ("NOERROR", 0));
        assert!(cut.done.stdout.contains("udp: 1232"), "{cut:#?}");
    }
    assert_eq!(forwarder.count("large.test"), 1);

    // Without EDNS there is room for 512 bytes, and no EDNS record in the answer.
    let plain = forwarder.dig("large.test TXT +ignore +noedns");
    assert!(plain.flags.contains("tc"), "{plain:#?}");
    assert!(!plain.done.stdout.contains("OPT PSEUDOSECTION"));

    // Dig asks again by TCP, which nobody serves here, and says so.
    let again = forwarder.dig("large.test TXT +bufsize=600");
    assert!(
        again
            .done
            .stdout
            .contains("Truncated, retrying in TCP mode"),
        "{again:#?}"
    );
    assert!(!again.done.status.success());
}

#[test]
fn what_the_upstream_truncates_is_not_kept() {
    let forwarder = Forwarder::new();
    for _ in 0..2 {
        let cut = forwarder.dig("huge.test TXT +ignore +bufsize=4096");
        assert!(cut.flags.contains("tc"), "{cut:#?}");
    }
    assert_eq!(forwarder.count("huge.test"), 2);
}

#[test]
fn a_lost_query_is_repeated() {
    let forwarder = Forwarder::new();
    assert_eq!(forwarder.dig("lost.test A").data(), ["127.0.0.10"]);
    assert_eq!(forwarder.count("lost.test"), 2);
}

#[test]
fn a_silent_upstream_is_a_failure() {
    let mut forwarder = Forwarder::new();
    assert_eq!(forwarder.dig("silent.test A").status, "SERVFAIL");
    assert_eq!(forwarder.count("silent.test"), 2);
    forwarder.assert_alive();
}

#[test]
fn a_dead_upstream_is_a_failure() {
    // Its port is taken, and yet refuses: the socket is connected to somebody else.
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap();
    dead.connect("127.0.0.1:9").unwrap();
    let addr = dead.local_addr().unwrap().to_string();
    let mut forwarder = Forwarder::to("127.0.0.1:0", &addr);
    for _ in 0..2 {
        assert_eq!(forwarder.dig("a.test A").status, "SERVFAIL");
    }
    assert!(forwarder.process.is_running());
}

#[test]
fn forged_answers_are_ignored() {
    let mut forwarder = Forwarder::new();
    assert_eq!(forwarder.dig("forged.test A").data(), ["127.0.0.10"]);
    forwarder.assert_alive();
}

#[test]
fn queries_in_flight_are_merged() {
    let forwarder = Forwarder::new();
    let socket = client(&forwarder.addr);
    for id in 0..20 {
        socket.send(&query(id, "hold.test", 1)).unwrap();
    }
    // The answer to what was sent behind them tells that they have been read.
    socket.send(&query(20, "a.test", 1)).unwrap();
    let mut buf = [0; 1500];
    let len = socket.recv(&mut buf).unwrap();
    assert_eq!(buf[..2], [0, 20]);
    assert!(len > 12);
    // More than one only if it has taken so long that it was repeated.
    assert!((1..=2).contains(&forwarder.count("hold.test")));

    dig(forwarder.upstream(), "release.hold.test TXT");
    let mut ids: Vec<u16> = (0..20)
        .map(|_| {
            let len = socket.recv(&mut buf).unwrap();
            assert_eq!(buf[3] & 15, 0, "no error");
            assert_eq!(buf[len - 4..len], [127, 0, 0, 10]);
            u16::from_be_bytes([buf[0], buf[1]])
        })
        .collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..20));
}

#[test]
fn many_ask_at_a_time() {
    let forwarder = Forwarder::new();
    std::thread::scope(|scope| {
        for client in 0..10 {
            let addr = &forwarder.addr;
            scope.spawn(move || {
                // Their own names, and one that they have in common.
                let names: Vec<String> = (0..20)
                    .map(|name| format!("n{client}-{name}.many.test A n{name}.many.test A"))
                    .collect();
                // On a busy machine a datagram may get lost, as any resolver expects.
                let asked = dig(addr, &format!("+tries=4 +timeout=5 {}", names.join(" ")));
                assert_eq!(asked.done.stdout.matches("status: NOERROR").count(), 40);
                assert_eq!(asked.done.stdout.matches("\t127.0.0.10\n").count(), 40);
            });
        }
    });
    assert_eq!(forwarder.count("n9-19.many.test"), 1);
    assert_eq!(forwarder.count("n19.many.test"), 1);
}

#[test]
fn malformed_queries_are_refused() {
    let mut forwarder = Forwarder::new();
    let socket = client(&forwarder.addr);
    let valid = query(0x1234, "a.test", 1);
    let with = |at: usize, byte: u8| {
        let mut data = valid.clone();
        data[at] = byte;
        data
    };
    const FORMERR: u8 = 1;
    const NOTIMP: u8 = 4;
    let pointing = [&valid[..12], &[0xc0, 4, 0, 1, 0, 1]].concat();
    let oversized = [&valid[..], &[0; 2000]].concat();
    let header_only = with(5, 0)[..12].to_vec();
    for (data, rcode) in [
        (valid[..20].to_vec(), FORMERR), // ends within the name
        (header_only, FORMERR),          // no question
        (with(5, 2), FORMERR),           // a second question that is not there
        (with(12, 0x40), FORMERR),       // a label of a kind that does not exist
        (with(12, 0xc0), FORMERR),       // a name that points
        (pointing, FORMERR),             // the same, and ends well: at a zero in the header
        (oversized, FORMERR),
        (with(11, 1), FORMERR),  // another record that is not there
        (with(2, 0x28), NOTIMP), // an update
    ] {
        socket.send(&data).unwrap();
        let mut buf = [0; 1500];
        let len = socket.recv(&mut buf).unwrap();
        assert!(len >= 12);
        assert_eq!(buf[..2], [0x12, 0x34], "{data:?}");
        assert_eq!((buf[2] & 0x80, buf[3] & 15), (0x80, rcode), "{data:?}");
    }
    // Answers and fragments of a header are nothing to reply to: the next reply is to the next
    // query.
    socket.send(&with(2, 0x81)).unwrap();
    socket.send(&valid[..11]).unwrap();
    socket.send(&[]).unwrap();
    socket.send(&query(7, "a.test", 1)).unwrap();
    let mut buf = [0; 1500];
    socket.recv(&mut buf).unwrap();
    assert_eq!(buf[..2], [0, 7]);
    forwarder.assert_alive();
}

#[test]
fn garbage_does_no_harm() {
    let mut forwarder = Forwarder::new();
    let socket = client(&forwarder.addr);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let valid = query(1, "some.longer.name.many.test", 1);
    for number in 0..6000 {
        let data: Vec<u8> = match number % 3 {
            0 => (0..random(700)).map(|_| random(256) as u8).collect(),
            1 => {
                let mut data = valid.clone();
                for _ in 0..=random(4) {
                    let at = random(data.len());
                    data[at] = random(256) as u8;
                }
                data
            }
            _ => valid[..random(valid.len())].to_vec(),
        };
        // A full buffer drops some; the rest does.
        socket.send(&data).unwrap();
    }
    forwarder.assert_alive();
}
