//! Many names, and a resolver that does not answer: a process with a name server of its own.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::{block_on_within, in_process, within};
use coracle::net::{resolve, UdpSocket};
use coracle::time::{sleep, timeout};
use futures_lite::future::poll_once;

/// As many threads as the documentation promises at most.
const THREADS: usize = 8;

type Lookup = Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>>>>;

/// Runs the body of a test in a process whose resolver asks 127.0.0.1, for as long as it takes.
fn with_name_server(test: &str, body: impl FnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("resolv.conf");
    std::fs::write(
        &conf,
        "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n",
    )
    .unwrap();
    let command = |program: &std::path::Path| {
        let mut command = Command::new("unshare");
        let script = r#"mount --bind "$0" /etc/resolv.conf && ip link set lo up && exec "$@""#;
        command.args(["--map-root-user", "--mount", "--net", "sh", "-c", script]);
        command.arg(&conf).arg(program);
        command
    };
    in_process(test, command, body);
}

/// A name server that knows no name, and says so when the test wants it to.
struct NameServer {
    socket: UdpSocket,
    questions: Vec<(Vec<u8>, coracle::Address)>,
    /// The names that it was asked for.
    names: BTreeSet<String>,
}

impl NameServer {
    async fn new() -> NameServer {
        NameServer {
            socket: UdpSocket::bind("127.0.0.1:53").await.unwrap(),
            questions: Vec::new(),
            names: BTreeSet::new(),
        }
    }

    async fn receive(&mut self) {
        let mut buf = [0; 512];
        let (len, from) = within(self.socket.recv_from(&mut buf)).await.unwrap();
        // Behind the header, the first label.
        let label = &buf[13..13 + usize::from(buf[12])];
        self.names
            .insert(String::from_utf8_lossy(label).into_owned());
        self.questions.push((buf[..len].to_vec(), from));
    }

    /// Waits until it was asked for so many names.
    async fn until_names(&mut self, count: usize) {
        while self.names.len() < count {
            self.receive().await;
        }
    }

    /// Answers what it was asked, and what it is going to be asked until `lookups` have ended.
    async fn answer<T>(&mut self, lookups: impl Future<Output = T>) -> T {
        let answering = async {
            loop {
                for (mut question, from) in self.questions.drain(..) {
                    // An answer, and there is no such name.
                    question[2] |= 0x80;
                    question[3] = 0x83;
                    self.socket.send_to(&question, &from).await.unwrap();
                }
                self.receive().await;
            }
        };
        futures_lite::future::or(within(lookups), answering).await
    }
}

fn lookup(name: String) -> Lookup {
    Box::pin(async move { resolve((name.as_str(), 80)).await })
}

fn lookups(name: &str, count: usize) -> Vec<Lookup> {
    (0..count).map(|i| lookup(format!("{name}{i}."))).collect()
}

/// Polls each of them once: none has ended.
async fn begin(lookups: &mut [Lookup]) {
    for lookup in lookups {
        assert!(poll_once(lookup).await.is_none());
    }
}

/// The threads of this process that look names up.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter(|task| {
            let name = task.as_ref().unwrap().path().join("comm");
            // It may have ended meanwhile.
            std::fs::read_to_string(name).is_ok_and(|name| name.starts_with("coracle-resolve"))
        })
        .count()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

async fn until_threads(wanted: usize) {
    within(async {
        while threads() != wanted {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[test]
fn lookups_that_get_no_answer_take_few_threads_and_descriptors() {
    with_name_server(
        "lookups_that_get_no_answer_take_few_threads_and_descriptors",
        || {
            let before = block_on_within(async {
                let mut server = NameServer::new().await;
                let before = descriptors();
                // Given up one after the other, as a server does that looks its clients up.
                for i in 0..300 {
                    let name = format!("given-up-{i}.");
                    let looking = timeout(Duration::from_millis(1), resolve((name.as_str(), 80)));
                    assert!(looking.await.is_err());
                    assert!(threads() <= THREADS, "{} threads", threads());
                }
                server.until_names(THREADS).await;
                assert_eq!(threads(), THREADS);
                // For each thread a socket to ask with and, for a moment, a file to read.
                assert!(descriptors() <= before + 2 * THREADS);
                assert_eq!(server.names.len(), THREADS);
                before
            });
            // It has not waited for them, and another runtime has no more of them.
            assert_eq!(threads(), THREADS);
            block_on_within(async {
                begin(&mut lookups("second", 100)).await;
                assert_eq!(threads(), THREADS);
            });
            assert!(descriptors() <= before + 2 * THREADS);
        },
    );
}

#[test]
fn a_lookup_that_is_dropped_leaves_the_queue() {
    with_name_server("a_lookup_that_is_dropped_leaves_the_queue", || {
        block_on_within(async {
            let mut server = NameServer::new().await;
            let mut running = lookups("running", THREADS);
            begin(&mut running).await;
            server.until_names(THREADS).await;
            let mut queued = lookups("queued", 1000);
            begin(&mut queued).await;
            drop(running);
            drop(queued);
            let error = server.answer(lookup("last.".into())).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            let mut expected = (0..THREADS)
                .map(|i| format!("running{i}"))
                .collect::<BTreeSet<_>>();
            expected.insert("last".into());
            assert_eq!(server.names, expected);
            server.answer(until_threads(0)).await;
        });
    });
}

#[test]
fn lookups_wait_their_turn_and_the_threads_end_with_the_last() {
    with_name_server(
        "lookups_wait_their_turn_and_the_threads_end_with_the_last",
        || {
            block_on_within(async {
                let mut server = NameServer::new().await;
                for round in 0..2 {
                    let mut all = lookups(&format!("round{round}-"), 100);
                    begin(&mut all).await;
                    let ended = async {
                        for lookup in all {
                            let error = lookup.await.unwrap_err();
                            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                            assert!(error.to_string().contains(&format!("round{round}-")));
                        }
                    };
                    server.answer(ended).await;
                    server.answer(until_threads(0)).await;
                }
                assert_eq!(server.names.len(), 200);
            });
        },
    );
}

struct Panics;

impl Wake for Panics {
    fn wake(self: std::sync::Arc<Panics>) {
        panic!("a waker of the user's");
    }
}

#[test]
fn a_waker_that_panics_takes_no_thread_from_the_others() {
    with_name_server(
        "a_waker_that_panics_takes_no_thread_from_the_others",
        || {
            block_on_within(async {
                let mut server = NameServer::new().await;
                let mut bad = lookups("bad", 2 * THREADS);
                let waker = Waker::from(std::sync::Arc::new(Panics));
                for lookup in &mut bad {
                    let polled = lookup.as_mut().poll(&mut Context::from_waker(&waker));
                    assert!(polled.is_pending());
                }
                let last = lookup("last.".into());
                assert!(server.answer(last).await.is_err());
                server.answer(until_threads(0)).await;
                for lookup in bad {
                    let error = server.answer(lookup).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                }
            });
        },
    );
}
