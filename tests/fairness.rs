//! Nobody keeps the thread for itself: not a socket that always has data, not an endpoint under
//! flood, not a protocol that causes the next callback in each, not tasks that yield to each other,
//! not what never has to wait.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use coracle::net::UdpSocket;
use coracle::time::sleep;
use coracle::{
    create_datagram_endpoint, on_datagram, spawn, yield_now, DatagramOptions, DatagramProtocol,
    DatagramTransport, Family,
};

coracle::wasi_main!();

/// How long the others may have to wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs until a timer and a datagram of another socket have had their turn.
async fn others_have_their_turn() {
    sleep(Duration::from_millis(5)).await;
    let a = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let b = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    a.send_to(b"x", &b.local_addr().unwrap()).await.unwrap();
    b.recv(&mut [0; 1]).await.unwrap();
}

#[test]
fn a_socket_that_always_has_data_starves_nobody() {
    coracle::block_on(async {
        let rounds = Rc::new(Cell::new(0));
        let counted = rounds.clone();
        let busy = spawn(async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let own = socket.local_addr().unwrap();
            // Who watches over time would starve, too.
            let patience = Instant::now() + PATIENCE;
            while Instant::now() < patience {
                // Never waits: what is sent to itself is there to be received.
                socket.send_to(b"again", &own).await.unwrap();
                socket.recv(&mut [0; 16]).await.unwrap();
                counted.set(counted.get() + 1);
            }
        });
        others_have_their_turn().await;
        assert!(rounds.get() > 0 && !busy.is_finished());
        drop(busy);
    });
}

#[test]
fn an_endpoint_that_floods_itself_starves_nobody() {
    coracle::block_on(async {
        let echo = || {
            on_datagram(|transport, data, from| {
                transport.send_to(data, from).unwrap();
            })
        };
        let options = DatagramOptions::new().local_addr("127.0.0.1:0");
        let (transport, _) = create_datagram_endpoint(echo, options).await.unwrap();
        let own = transport.local_addr().unwrap();
        for _ in 0..64 {
            transport.send_to(b"round and round", &own).unwrap();
        }
        others_have_their_turn().await;
        transport.abort();
        transport.closed().await.unwrap();
    });
}

/// Whether another task has had a turn while this was done over and over.
async fn lets_others_run<R>(mut once: impl AsyncFnMut() -> R) -> bool {
    let ran = Rc::new(Cell::new(false));
    let other = ran.clone();
    let task = spawn(async move { other.set(true) });
    for _ in 0..1_000 {
        once().await;
    }
    let ran = ran.get();
    task.await;
    ran
}

#[test]
fn what_never_waits_starves_nobody() {
    coracle::block_on(async {
        let literal = "127.0.0.1:1";
        assert!(lets_others_run(async || coracle::net::resolve(literal).await.unwrap()).await);
        let any = "127.0.0.1:0";
        assert!(lets_others_run(async || UdpSocket::bind(any).await.unwrap()).await);
        let unbound = async || UdpSocket::unbound(Family::Inet).await.unwrap();
        assert!(lets_others_run(unbound).await);
        // It does not read: what comes is dropped by the system, and no send has to wait.
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let options = DatagramOptions::new().remote_addr(silent.local_addr().unwrap());
        let made = create_datagram_endpoint(|| on_datagram(|_, _, _| {}), options);
        let (transport, _) = made.await.unwrap();
        let sends = async || {
            transport.send(b"unheard").unwrap();
            transport.drain().await.unwrap();
        };
        assert!(lets_others_run(sends).await);
        transport.abort();
        assert!(lets_others_run(async || transport.drain().await.unwrap_err()).await);
        #[cfg(unix)]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("nobody");
            let refused = async || coracle::net::UnixStream::connect(&path).await.unwrap_err();
            assert!(lets_others_run(refused).await);
        }
    });
}

#[test]
fn two_busy_sockets_share_the_thread() {
    coracle::block_on(async {
        let rounds: Vec<_> = (0..2).map(|_| Rc::new(Cell::new(0_u32))).collect();
        let busy: Vec<_> = rounds
            .iter()
            .cloned()
            .map(|rounds| {
                spawn(async move {
                    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                    let own = socket.local_addr().unwrap();
                    loop {
                        socket.send_to(b"again", &own).await.unwrap();
                        socket.recv(&mut [0; 16]).await.unwrap();
                        rounds.set(rounds.get() + 1);
                    }
                })
            })
            .collect();
        while rounds.iter().any(|rounds| rounds.get() < 5_000) {
            coracle::yield_now().await;
        }
        let (a, b) = (rounds[0].get(), rounds[1].get());
        assert!(a.abs_diff(b) < 1_000, "{a} and {b} rounds");
        drop(busy);
    });
}

/// Counts callbacks, and how many of them came before any other task had its turn.
#[derive(Clone, Default)]
struct Counted {
    all: Rc<Cell<u32>>,
    in_a_row: Rc<Cell<u32>>,
    most: Rc<Cell<u32>>,
}

/// Callbacks that are caused before it ends, and those that may come in a row.
const CAUSED: u32 = 20_000;
const IN_A_ROW: u32 = 1_000;

impl Counted {
    /// False if that were enough.
    fn count(&self) -> bool {
        self.all.set(self.all.get() + 1);
        self.in_a_row.set(self.in_a_row.get() + 1);
        self.most.set(self.most.get().max(self.in_a_row.get()));
        self.all.get() < CAUSED
    }

    /// Another task, until enough was counted.
    async fn watch(self) {
        while self.all.get() < CAUSED {
            self.in_a_row.set(0);
            yield_now().await;
        }
        let most = self.most.get();
        assert!(most < IN_A_ROW, "{most} callbacks in a row");
    }
}

/// Tries again what cannot be sent.
struct Retries(Counted);

impl Retries {
    fn send(transport: &DatagramTransport) {
        let nobody = "127.0.0.1:9".parse().unwrap();
        transport.send_to(&[0; 70_000], &nobody).unwrap();
    }
}

impl DatagramProtocol for Retries {
    fn connection_made(&mut self, transport: &DatagramTransport) {
        Retries::send(transport);
    }

    fn error_received(&mut self, transport: &DatagramTransport, _: io::Error) {
        if self.0.count() {
            Retries::send(transport);
        }
    }
}

#[test]
fn a_protocol_that_retries_what_fails_starves_nobody() {
    coracle::block_on(async {
        let counted = Counted::default();
        let watching = spawn(counted.clone().watch());
        let options = DatagramOptions::new().local_addr("127.0.0.1:0");
        let made = create_datagram_endpoint(|| Retries(counted), options);
        let (transport, _) = made.await.unwrap();
        watching.await;
        transport.abort();
    });
}
