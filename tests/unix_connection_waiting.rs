//! `create_unix_connection`: a full backlog, and giving up. Other systems refuse where Linux lets
//! wait, and do not list the descriptors of a process.
#![cfg(target_os = "linux")]

mod common;
#[path = "common/giving_up.rs"]
mod giving_up;

use std::future::{poll_fn, Future};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::stream::{Log, Recorder};
use common::unix_connection::{
    accept, echoing, exchange, listening, options, pair, place, refusal,
};
use common::{block_on_within, in_process, settle, within};
use coracle::time::{sleep, timeout};
use coracle::{create_unix_connection, spawn, yield_now};
use futures_lite::future::poll_once;
use giving_up::{descriptors, give_up_when_woken, leaves_nothing, ways_to_give_up};
use tempfile::TempDir;

/// A listener at which no connection more may wait.
struct Full {
    path: PathBuf,
    listener: UnixListener,
    waiting: Vec<socket2::Socket>,
    _folder: TempDir,
}

impl Full {
    fn new() -> Full {
        let (folder, path) = place();
        let addr = socket2::SockAddr::unix(&path).unwrap();
        let socket = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let listener = socket().unwrap();
        listener.bind(&addr).unwrap();
        listener.listen(0).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            let next = socket().unwrap();
            next.set_nonblocking(true).unwrap();
            match next.connect(&addr) {
                Ok(()) => waiting.push(next),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        Full {
            path,
            listener: listener.into(),
            waiting,
            _folder: folder,
        }
    }
}

#[test]
fn a_full_backlog_is_waited_for() {
    block_on_within(async {
        let full = Full::new();
        let log = Log::new();
        let mut connecting = Box::pin(echoing(&log, options().path(&full.path)));
        for _ in 0..20 {
            assert!(poll_once(&mut connecting).await.is_none());
            yield_now().await;
        }
        assert_eq!(log.events(), [], "nobody is told before it is connected");
        for _ in &full.waiting {
            drop(full.listener.accept().unwrap());
        }
        let (transport, _) = connecting.await;
        exchange(&transport, accept(&full.listener)).await;
    });
}

#[test]
fn waiting_for_a_full_backlog_ends_with_its_timeout_or_its_listener() {
    block_on_within(async {
        let full = Full::new();
        let factory = || -> Recorder { panic!("the factory was called") };
        let given = options().path(&full.path);
        let connecting = create_unix_connection(factory, given);
        let waited = timeout(Duration::from_millis(50), connecting).await;
        assert!(waited.is_err());
        for _ in &full.waiting {
            drop(full.listener.accept().unwrap());
        }
        full.listener.set_nonblocking(true).unwrap();
        let given_up = full.listener.accept().unwrap_err();
        assert_eq!(given_up.kind(), ErrorKind::WouldBlock, "nobody came");

        let full = Full::new();
        let given = options().path(&full.path);
        let connecting = spawn(async { refusal(given).await.kind() });
        sleep(Duration::from_millis(5)).await;
        assert!(!connecting.is_finished());
        drop(full.listener);
        assert_eq!(within(connecting).await, ErrorKind::ConnectionRefused);
    });
}

#[test]
fn waiting_for_a_full_backlog_does_not_spin() {
    block_on_within(async {
        let full = Full::new();
        let given = options().path(&full.path);
        let log = Log::new();
        let mut connecting = Box::pin(create_unix_connection(|| Recorder::new(&log), given));
        let mut polls = 0;
        let counted = poll_fn(|cx| {
            polls += 1;
            connecting.as_mut().poll(cx)
        });
        assert!(timeout(Duration::from_millis(100), counted).await.is_err());
        assert!(polls < 50, "polled {polls} times");
    });
}

// In a process of its own, where no other test opens descriptors.
#[test]
fn a_connection_that_is_given_up_anywhere_leaves_nothing_open() {
    let name = "a_connection_that_is_given_up_anywhere_leaves_nothing_open";
    let own = |program: &Path| Command::new(program);
    in_process(name, own, || {
        block_on_within(async {
            let full = Full::new();
            let (_folder, path, listener) = listening();
            settle().await;
            let before = descriptors();
            let mut made = [0; 2];
            for way in ways_to_give_up() {
                let (given, peer) = pair();
                for (given, made) in [given, options().path(&path)].into_iter().zip(&mut made) {
                    let log = Log::new();
                    let connecting = create_unix_connection(|| Recorder::new(&log), given);
                    let result = give_up_when_woken(way, connecting).await;
                    // The peer's is open.
                    *made += usize::from(leaves_nothing(result, &log, before + 1).await);
                }
                drop(peer);
                if way.0 > 0 {
                    assert_eq!(accept(&listener).read(&mut [0]).unwrap(), 0, "it is closed");
                }
                let log = Log::new();
                let to_full = options().path(&full.path);
                let connecting = create_unix_connection(|| Recorder::new(&log), to_full);
                let result = give_up_when_woken(way, connecting).await;
                assert!(!leaves_nothing(result, &log, before).await);
            }
            assert!(made.iter().all(|&made| made > 0), "{made:?}");
        });
    });
}
