//! `create_connection` to and from names with several addresses, which the tests give themselves,
//! and addresses that do not answer: attempts that overlap, giving up.
#![cfg(target_os = "linux")]

mod common;
#[path = "common/giving_up.rs"]
mod giving_up;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use common::stream::{Log, Recorder};
use common::tcp_connection::{
    accept, dead, echoing, exchange, listening, local_of, options, peer_of, refusal, std_pair, to,
};
use common::{block_on_within, in_process, own_ip, settle};
use coracle::net::Target;
use coracle::time::timeout;
use coracle::{create_connection, ConnectErrors, Family};
use giving_up::{
    descriptors, descriptors_come_down_to, give_up_after, give_up_when_woken, leaves_nothing,
    ways_to_give_up,
};

const HOSTS: &str = "127.0.0.1 localhost\n\
    ::1 mixed.test\n127.0.0.2 mixed.test\n127.0.0.3 mixed.test\n::ffff:127.0.0.4 mixed.test\n";

/// Runs the body of a test in a process that has these names.
fn with_names(test: &str, body: impl FnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    // Nobody else's, so that a port that is free there stays so.
    let [first, second] = [own_ip(), own_ip()];
    let two = format!("{first} two.test\n{second} two.test\n");
    std::fs::write(&hosts, [HOSTS, &two].concat()).unwrap();
    let command = |program: &std::path::Path| {
        let mut command = Command::new("unshare");
        let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        command.args(["--map-root-user", "--mount", "sh", "-c", script]);
        command.arg(&hosts).arg(program);
        command
    };
    in_process(test, command, body);
}

/// The two addresses of a name, first the one that is tried first, with a port that is free
/// at both.
async fn two() -> (Target, [SocketAddr; 2]) {
    let addrs = coracle::net::resolve("two.test:0").await.unwrap();
    let port = dead(addrs[0]).1.port();
    let addrs = coracle::net::resolve(("two.test", port)).await.unwrap();
    (("two.test", port).into(), addrs.try_into().unwrap())
}

/// A listener at which no connection more is let in, and those that wait there.
fn silent(addr: SocketAddr) -> (socket2::Socket, Vec<socket2::Socket>) {
    let domain = socket2::Domain::for_address(addr);
    let socket = || socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&addr.into()).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let next = socket();
        next.set_nonblocking(true).unwrap();
        let _ = next.connect(&addr.into());
        if next.peer_addr().is_err() {
            return (listener, waiting);
        }
        waiting.push(next);
    }
}

#[test]
fn an_address_that_does_not_answer_is_overtaken() {
    with_names("an_address_that_does_not_answer_is_overtaken", || {
        block_on_within(async {
            let (target, [first, second]) = two().await;
            let _silent = silent(first);
            let listener = TcpListener::bind(second).unwrap();
            settle().await;
            let before = descriptors();
            let soon = to(target.clone()).happy_eyeballs_delay(Duration::from_millis(1));
            let (transport, _) = echoing(&Log::new(), soon).await;
            assert_eq!(peer_of(&transport), second);
            descriptors_come_down_to(before + 1, "overtaken").await;
            exchange(&transport, accept(&listener)).await;

            // Not before its time, and not at all unless it is asked for.
            let later = to(target.clone()).happy_eyeballs_delay(Duration::from_secs(3600));
            for patient in [to(target), later] {
                let factory = || -> Recorder { panic!("the factory was called") };
                let connecting = create_connection(factory, patient);
                let some_time = Duration::from_millis(50);
                assert!(timeout(some_time, connecting).await.is_err());
                descriptors_come_down_to(before, "given up").await;
            }
            listener.set_nonblocking(true).unwrap();
            let nobody = listener.accept().unwrap_err();
            assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
        });
    });
}

#[test]
fn an_address_that_refuses_is_followed_by_the_next() {
    with_names("an_address_that_refuses_is_followed_by_the_next", || {
        block_on_within(async {
            let (target, [first, second]) = two().await;
            let listener = TcpListener::bind(second).unwrap();
            let _dead = dead(first);
            // At once, however long an answer may take.
            let later = to(target.clone()).happy_eyeballs_delay(Duration::from_secs(3600));
            for given in [to(target), later] {
                let (transport, _) = echoing(&Log::new(), given).await;
                assert_eq!(peer_of(&transport), second);
                exchange(&transport, accept(&listener)).await;
            }
        });
    });
}

#[test]
fn the_error_of_several_attempts_has_them_all() {
    with_names("the_error_of_several_attempts_has_them_all", || {
        block_on_within(async {
            let (target, [first, second]) = two().await;
            let _dead = [dead(first), dead(second)];
            for all in [false, true] {
                let error = refusal(to(target.clone()).all_errors(all)).await;
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                for addr in [first, second] {
                    assert!(error.to_string().contains(&addr.to_string()), "{error}");
                }
            }
            // They do not agree: one has no address to bind to.
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let local = taken.local_addr().unwrap();
            let error = refusal(to(("mixed.test", 1)).local_addr(local)).await;
            assert_eq!(error.kind(), ErrorKind::Other);
        });
    });
}

#[test]
fn families_take_turns_when_they_are_asked_to() {
    with_names("families_take_turns_when_they_are_asked_to", || {
        block_on_within(async {
            // Held at all addresses, and nobody listens.
            let held = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None);
            let held = held.unwrap();
            held.set_only_v6(false).unwrap();
            held.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into())
                .unwrap();
            let port = held.local_addr().unwrap().as_socket().unwrap().port();
            let mixed = || to(("mixed.test", port)).all_errors(true);
            let delay = Duration::from_secs(3600);
            let resolved = ["::1", "127.0.0.2", "127.0.0.3", "::ffff:127.0.0.4"];
            let in_turns = ["::1", "127.0.0.2", "::ffff:127.0.0.4", "127.0.0.3"];
            let two_first = ["::1", "::ffff:127.0.0.4", "127.0.0.2", "127.0.0.3"];
            for (given, order) in [
                (mixed(), &resolved[..]),
                (mixed().interleave(1), &in_turns),
                (mixed().interleave(2), &two_first),
                (mixed().happy_eyeballs_delay(delay), &in_turns),
                (
                    mixed().happy_eyeballs_delay(delay).interleave(2),
                    &two_first,
                ),
                (mixed().family(Family::Inet6), &two_first[..2]),
            ] {
                let text = format!("{given:?}");
                let error = refusal(given).await;
                let errors: &ConnectErrors = error.get_ref().unwrap().downcast_ref().unwrap();
                let tried: Vec<_> = errors.errors().iter().map(io::Error::to_string).collect();
                assert_eq!(tried.len(), order.len(), "{tried:?}: {text}");
                for (tried, ip) in tried.iter().zip(order) {
                    let addr = SocketAddr::new(ip.parse().unwrap(), port).to_string();
                    assert!(
                        tried.contains(&format!("connect {addr}: ")),
                        "{tried}: {text}"
                    );
                }
            }
        });
    });
}

#[test]
fn of_several_local_addresses_the_first_that_works_is_bound_to() {
    let name = "of_several_local_addresses_the_first_that_works_is_bound_to";
    with_names(name, || {
        block_on_within(async {
            let (listener, addr) = listening("127.0.0.1");
            let (local, [first, second]) = two().await;
            let taken = TcpListener::bind(first).unwrap();
            let given = to(addr).local_addr(local.clone());
            let (transport, _) = echoing(&Log::new(), given).await;
            assert_eq!(local_of(&transport), second);
            exchange(&transport, accept(&listener)).await;
            // Both.
            drop(taken);
            let _taken = [first, second].map(|addr| TcpListener::bind(addr).unwrap());
            let error = refusal(to(addr).local_addr(local)).await;
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        });
    });
}

#[test]
fn a_connection_that_is_given_up_anywhere_leaves_nothing_open() {
    let name = "a_connection_that_is_given_up_anywhere_leaves_nothing_open";
    with_names(name, || {
        block_on_within(async {
            let (target, [first, second]) = two().await;
            let _silent = [silent(first), silent(second)];
            let (_listener, addr) = listening("127.0.0.1");
            settle().await;
            let before = descriptors();
            let mut made = [0; 3];
            for way in ways_to_give_up() {
                let (ours, peer) = std_pair();
                let named = to(("localhost", addr.port()));
                let ways = [options().sock(ours), to(addr), named];
                for (given, made) in ways.into_iter().zip(&mut made) {
                    let log = Log::new();
                    let connecting = create_connection(|| Recorder::new(&log), given);
                    let result = give_up_when_woken(way, connecting).await;
                    // The peer's is open.
                    *made += usize::from(leaves_nothing(result, &log, before + 1).await);
                }
                drop(peer);
                let log = Log::new();
                let soon = to(target.clone()).happy_eyeballs_delay(Duration::ZERO);
                let connecting = create_connection(|| Recorder::new(&log), soon);
                let result = give_up_after(way.0, connecting).await;
                assert!(!leaves_nothing(result, &log, before).await);
            }
            assert!(made.iter().all(|&made| made > 0), "{made:?}");
        });
    });
}
