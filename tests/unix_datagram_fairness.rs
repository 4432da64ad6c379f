//! Unix datagram endpoints with many receivers: one that does not read costs the others nothing.
// Elsewhere a datagram for a receiver that is full is an error (ENOBUFS).
#![cfg(target_os = "linux")]

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use common::{block_on_within, in_process, recording, within, Event, Log, Recorder, Stuck};
use coracle::net::UnixDatagram;
use coracle::{
    create_datagram_endpoint, on_datagram, spawn, yield_now, Address, DatagramOptions,
    DatagramTransport,
};

/// Runs the body of a test once with receivers that take 10 datagrams and once with those that
/// take 512, so that it is the sender's buffer that is full: the defaults of Linux and of systemd.
fn with_short_and_long_queues(test: &str, body: impl Fn()) {
    let may_choose = Command::new("unshare")
        .args(["--net", "true"])
        .status()
        .is_ok_and(|status| status.success());
    if !may_choose {
        // As root only. Here is what the machine has.
        return body();
    }
    for len in ["10", "512"] {
        let command = |program: &Path| {
            let mut command = Command::new("unshare");
            let script = r#"echo "$0" > /proc/sys/net/unix/max_dgram_qlen && exec "$@""#;
            command
                .args(["--net", "sh", "-c", script, len])
                .arg(program);
            command
        };
        in_process(test, command, &body);
    }
}

/// An automatic name.
fn auto() -> DatagramOptions {
    DatagramOptions::new().local_addr(Address::UNNAMED)
}

struct Client {
    socket: UnixDatagram,
    addr: Address,
}

impl Client {
    fn new() -> Client {
        let socket = UnixDatagram::bind(Address::UNNAMED).unwrap();
        let addr = socket.local_addr().unwrap();
        Client { socket, addr }
    }

    /// Asks, and waits for the answer.
    async fn exchange(&self, server: &Address, data: &[u8]) {
        let mut buf = vec![0; data.len() + 1];
        self.ask(server, data).await;
        let (len, from) = within(self.socket.recv_from(&mut buf)).await.unwrap();
        assert_eq!(from, *server);
        assert!(buf[..len] == *data);
    }

    async fn ask(&self, server: &Address, data: &[u8]) {
        within(self.socket.send_to(data, server)).await.unwrap();
    }

    /// What is there now.
    fn read_now(&self) -> Vec<Vec<u8>> {
        let mut buf = vec![0; 100_000];
        let mut next = || {
            let (len, _) = self.socket.try_recv_from(&mut buf).ok()?;
            Some(buf[..len].to_vec())
        };
        std::iter::from_fn(&mut next).collect()
    }
}

/// A number that fills so many bytes, of which there are four at least.
fn numbered(number: usize, len: usize) -> Vec<u8> {
    let mut data = (number as u32).to_be_bytes().to_vec();
    data.resize(len, 7);
    data
}

fn number(data: &[u8]) -> usize {
    u32::from_be_bytes(data[..4].try_into().unwrap()) as usize
}

async fn echo() -> (DatagramTransport, Address) {
    let echo = || {
        on_datagram(|transport, data, from| {
            transport.send_to(data, from).unwrap();
        })
    };
    let (transport, _) = create_datagram_endpoint(echo, auto()).await.unwrap();
    let addr = transport.local_addr().unwrap();
    (transport, addr)
}

#[test]
fn a_client_that_reads_nothing_silences_nobody() {
    with_short_and_long_queues("a_client_that_reads_nothing_silences_nobody", || {
        for len in [4, 1_000, 60_000] {
            block_on_within(async {
                let (_transport, server) = echo().await;
                let (silent, good) = (Client::new(), Client::new());
                for i in 0..500 {
                    silent.ask(&server, &numbered(i, len)).await;
                    if i % 50 == 0 {
                        good.exchange(&server, &numbered(i, len)).await;
                    }
                }
                for i in 0..100 {
                    good.exchange(&server, &numbered(i, 100)).await;
                }
                let read = silent.read_now();
                assert!(!read.is_empty());
                assert!(read.iter().map(|data| number(data)).eq(0..read.len()));
            });
        }
    });
}

#[test]
fn several_clients_that_read_nothing_silence_nobody() {
    with_short_and_long_queues("several_clients_that_read_nothing_silence_nobody", || {
        // Large ones: the send buffer takes half a dozen of them.
        for (clients, len) in [(12, 1_000), (3, 30_000)] {
            block_on_within(async {
                let (_transport, server) = echo().await;
                let good: Vec<Client> = (0..4).map(|_| Client::new()).collect();
                let mut silent = Vec::new();
                for _ in 0..clients {
                    let client = Client::new();
                    for i in 0..150 {
                        client.ask(&server, &numbered(i, len)).await;
                    }
                    silent.push(client);
                    for good in &good {
                        good.exchange(&server, b"between two of them").await;
                    }
                }
                // Together, too.
                let busy = good.into_iter().map(|good| {
                    spawn(async move {
                        for i in 0..200 {
                            good.exchange(&server, &numbered(i, 300)).await;
                        }
                    })
                });
                for busy in busy.collect::<Vec<_>>() {
                    busy.await;
                }
            });
        }
    });
}

/// However long the receivers' queues are.
#[test]
fn a_send_buffer_for_a_few_datagrams_is_shared() {
    block_on_within(async {
        let (transport, server) = echo().await;
        let socket = transport.unix_socket().unwrap();
        socket.set_send_buffer_size(8 * 1024).unwrap();
        let (silent, good) = (Client::new(), Client::new());
        for i in 0..100 {
            silent.ask(&server, &numbered(i, 1_000)).await;
            good.exchange(&server, &numbered(i, 1_000)).await;
        }
    });
}

#[test]
fn who_begins_to_read_gets_what_waits_in_order_and_what_comes_after() {
    let test = "who_begins_to_read_gets_what_waits_in_order_and_what_comes_after";
    with_short_and_long_queues(test, || {
        block_on_within(async {
            let (late, silent) = (Client::new(), Client::new());
            let log = Log::new();
            let (transport, _) = recording(&log, auto()).await;
            for i in 0..400 {
                transport.send_to(&numbered(i, 500), &silent.addr).unwrap();
                transport.send_to(&numbered(i, 500), &late.addr).unwrap();
            }
            let mut buf = [0; 1_000];
            for i in 0..400 {
                let len = within(late.socket.recv(&mut buf)).await.unwrap();
                assert_eq!(buf[..len], numbered(i, 500));
            }
            for i in 0..50 {
                transport.send_to(&numbered(i, 500), &late.addr).unwrap();
                let len = within(late.socket.recv(&mut buf)).await.unwrap();
                assert_eq!(buf[..len], numbered(i, 500));
            }
            assert_eq!(transport.dropped(), 0);
            assert!(log.errors().is_empty());
        });
    });
}

#[test]
fn what_waits_is_bounded_and_what_is_dropped_is_counted_and_told() {
    const COUNT: usize = 5_000;
    let test = "what_waits_is_bounded_and_what_is_dropped_is_counted_and_told";
    with_short_and_long_queues(test, || {
        block_on_within(async {
            let (silent, good) = (Client::new(), Client::new());
            let log = Log::new();
            let (transport, _) = recording(&log, auto()).await;
            for i in 0..COUNT {
                transport
                    .send_to(&numbered(i, 1_000), &silent.addr)
                    .unwrap();
            }
            log.until_errors(1).await;
            let errors = log.errors();
            assert_eq!(errors.len(), 1, "told once: {errors:?}");
            assert_eq!(errors[0].0, ErrorKind::WouldBlock);
            assert!(errors[0].1.contains(&silent.addr.to_string()), "{errors:?}");
            assert!(transport.write_buffer_size() < 2 << 20);
            let dropped = transport.dropped() as usize;
            assert!(dropped > COUNT / 2, "{dropped}");

            // What was not dropped comes, without a gap.
            let mut buf = [0; 2_000];
            for i in 0..COUNT - dropped {
                let len = within(silent.socket.recv(&mut buf)).await.unwrap();
                assert_eq!(buf[..len], numbered(i, 1_000));
            }
            assert!(silent.read_now().is_empty());
            transport.send_to(b"after", &silent.addr).unwrap();
            transport.send_to(b"others", &good.addr).unwrap();
            assert_eq!(within(silent.socket.recv(&mut buf)).await.unwrap(), 5);
            assert_eq!(within(good.socket.recv(&mut buf)).await.unwrap(), 6);
            assert_eq!(transport.dropped() as usize, dropped);
        });
    });
}

#[test]
fn close_ends_though_somebody_does_not_read() {
    let test = "close_ends_though_somebody_does_not_read";
    with_short_and_long_queues(test, || {
        block_on_within(async {
            let (silent, good) = (Client::new(), Client::new());
            let log = Log::new();
            let (transport, handle) = recording(&log, auto()).await;
            for i in 0..300 {
                transport
                    .send_to(&numbered(i, 1_000), &silent.addr)
                    .unwrap();
                transport.send_to(&numbered(i, 1_000), &good.addr).unwrap();
            }
            transport.close();
            let reading = spawn(async move {
                let mut buf = [0; 2_000];
                for i in 0..300 {
                    let len = good.socket.recv(&mut buf).await.unwrap();
                    assert_eq!(buf[..len], numbered(i, 1_000));
                }
            });
            within(transport.closed()).await.unwrap();
            within(reading).await;
            let read = silent.read_now().len();
            assert_eq!(read + transport.dropped() as usize, 300);
            let errors = log.errors();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].0, ErrorKind::TimedOut);
            assert!(errors[0].1.contains(&silent.addr.to_string()), "{errors:?}");
            assert_eq!(log.events().last(), Some(&Event::Lost(None)));
            drop(handle);
        });
    });
}

#[test]
fn close_ends_though_the_only_receiver_does_not_read() {
    for connected in [true, false] {
        block_on_within(async {
            let stuck = Stuck::new(connected).await;
            stuck.transport.close();
            within(stuck.transport.closed()).await.unwrap();
            let read = stuck.read_now();
            assert_eq!(read + stuck.transport.dropped() as usize, stuck.sent);
            let errors = stuck.log.errors();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].0, ErrorKind::TimedOut);
        });
    }
}

#[test]
fn what_waits_for_the_only_receiver_is_bounded_too() {
    for connected in [true, false] {
        block_on_within(async {
            let mut stuck = Stuck::new(connected).await;
            let addr = stuck.transport.peer_addr().unwrap();
            let before = stuck.sent;
            for _ in 0..5_000 {
                stuck.transport.send(&[7; 1_000]).unwrap();
                stuck.sent += 1;
            }
            stuck.log.until_errors(1).await;
            let errors = stuck.log.errors();
            assert_eq!(errors.len(), 1, "told once: {errors:?}");
            assert_eq!(errors[0].0, ErrorKind::WouldBlock);
            assert!(errors[0].1.contains(&addr.to_string()), "{errors:?}");
            assert!(stuck.transport.write_buffer_size() < 2 << 20);
            let dropped = stuck.transport.dropped() as usize;
            stuck.read(0..before).await;
            let mut buf = [0; 2_000];
            for _ in before..stuck.sent - dropped {
                let len = within(stuck.receiver.recv(&mut buf)).await.unwrap();
                assert_eq!(buf[..len], [7; 1_000]);
            }
            assert_eq!(stuck.read_now(), 0);
        });
    }
}

/// Who writes with regard to the limits is not held up for ever either.
#[test]
fn writing_goes_on_though_one_of_several_does_not_read() {
    block_on_within(async {
        let (silent, good) = (Client::new(), Client::new());
        let log = Log::new();
        let (transport, _) = recording(&log, auto()).await;
        let mut sent = 0;
        while transport.write_buffer_size() <= transport.write_buffer_limits().1 {
            transport.send_to(&[7; 1_000], &silent.addr).unwrap();
            sent += 1;
        }
        transport.send_to(b"before", &good.addr).unwrap();
        log.until(|events| events.contains(&Event::Pause)).await;
        let mut buf = [0; 16];
        assert_eq!(within(good.socket.recv(&mut buf)).await.unwrap(), 6);
        // The other gets something, and so the one does not count.
        let serving = spawn({
            let (transport, addr) = (transport.clone(), good.addr);
            async move {
                loop {
                    transport.send_to(b"meanwhile", &addr).unwrap();
                    good.socket.recv(&mut [0; 16]).await.unwrap();
                    yield_now().await;
                }
            }
        });
        within(transport.drain()).await.unwrap();
        log.until(|events| events.contains(&Event::Resume)).await;
        drop(serving);
        assert_eq!(transport.dropped(), 0);
        let mut buf = [0; 2_000];
        for _ in 0..sent {
            assert_eq!(within(silent.socket.recv(&mut buf)).await.unwrap(), 1_000);
        }
    });
}

#[test]
fn who_has_gone_is_told_of_and_the_others_go_on() {
    let test = "who_has_gone_is_told_of_and_the_others_go_on";
    with_short_and_long_queues(test, || {
        block_on_within(async {
            let (gone, good) = (Client::new(), Client::new());
            let log = Log::new();
            let (transport, _) = recording(&log, auto()).await;
            for i in 0..120 {
                transport.send_to(&numbered(i, 1_000), &gone.addr).unwrap();
            }
            let addr = gone.addr;
            let read = gone.read_now().len();
            drop(gone);
            log.until_errors(1).await;
            let mut buf = [0; 16];
            for _ in 0..10 {
                transport.send_to(b"going on", &good.addr).unwrap();
                assert_eq!(within(good.socket.recv(&mut buf)).await.unwrap(), 8);
            }
            log.until_errors(120 - read).await;
            for (kind, text) in log.errors() {
                assert_eq!(kind, ErrorKind::ConnectionRefused);
                assert!(text.contains(&addr.to_string()), "{text}");
            }
        });
    });
}

/// One datagram more than the system takes is enough.
#[test]
fn a_driver_on_another_executor_is_fair_too() {
    let (silent, good) = (Client::new(), Client::new());
    smol::block_on(async {
        let made =
            coracle::create_datagram_endpoint_with_driver(|| Recorder::new(&Log::new()), auto());
        let (transport, _, driver) = made.await.unwrap();
        let driver = smol::spawn(driver);
        for i in 0..500 {
            transport
                .send_to(&numbered(i, 1_000), &silent.addr)
                .unwrap();
        }
        let mut buf = [0; 16];
        for _ in 0..20 {
            transport.send_to(b"served", &good.addr).unwrap();
            assert_eq!(good.socket.recv(&mut buf).await.unwrap(), 6);
        }
        transport.close();
        driver.await;
    });
}
