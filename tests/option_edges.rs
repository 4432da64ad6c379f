//! Values at the edges of what options and addresses can say: they are kept exactly, or rounded as
//! documented, or refused by name.

mod common;

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::time::Duration;

use common::tcp_connection::{options as tcp_options, refusal as tcp_refusal};
use common::{block_on_within, local_v4, refusal};
use coracle::net::{resolve, Keepalive, TcpListener, TcpStream, UdpSocket};
use coracle::{Family, TcpOptions};

const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
fn assert_refused<T: Debug>(result: io::Result<T>, names: &str) {
    let error = result.expect_err(names);
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains(names), "{error}");
}

/// A connection, and what its other end accepts.
async fn tcp_pair(at: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(at).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (connected, accepted) =
        futures_lite::future::zip(TcpStream::connect(addr), listener.accept()).await;
    (connected.unwrap(), accepted.unwrap().0)
}

/// Above what the kernel keeps, or minus one to it, which is its default.
const TOO_MANY_HOPS: [u32; 6] = [256, 257, 511, 65_537, i32::MAX as u32, u32::MAX];

#[test]
fn hops_are_exact_or_refused() {
    block_on_within(async {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let udp = UdpSocket::bind(at).await.unwrap();
            let (tcp, _peer) = tcp_pair(at).await;
            for hops in [1, 255, 64] {
                udp.set_ttl(hops).unwrap();
                assert_eq!(udp.ttl().unwrap(), hops);
                tcp.set_ttl(hops).unwrap();
                assert_eq!(tcp.ttl().unwrap(), hops);
            }
            for hops in TOO_MANY_HOPS.into_iter().chain([0]) {
                assert_refused(udp.set_ttl(hops), &format!("ttl = {hops}"));
                assert_refused(tcp.set_ttl(hops), &format!("ttl = {hops}"));
            }
            assert_eq!((udp.ttl().unwrap(), tcp.ttl().unwrap()), (64, 64));
            for hops in TOO_MANY_HOPS {
                let error = udp.set_multicast_ttl(hops);
                assert_refused(error, &format!("multicast_ttl = {hops}"));
            }
            #[cfg(not(target_os = "wasi"))]
            for hops in [0, 255, 7] {
                udp.set_multicast_ttl(hops).unwrap();
                assert_eq!(udp.multicast_ttl().unwrap(), hops);
            }
        }
    });
}

#[test]
fn keepalive_out_of_range_is_refused_and_changes_nothing() {
    block_on_within(async {
        let (tcp, _peer) = tcp_pair("127.0.0.1:0").await;
        for time in [
            Duration::ZERO,
            32_768 * SECOND,
            65_537 * SECOND,
            Duration::MAX,
        ] {
            let keepalive = Keepalive::new();
            assert_refused(tcp.set_keepalive(Some(keepalive.time(time))), "time");
            assert_refused(
                tcp.set_keepalive(Some(keepalive.interval(time))),
                "interval",
            );
        }
        for retries in [0, 128, 257, u32::MAX] {
            let keepalive = Keepalive::new().retries(retries);
            assert_refused(tcp.set_keepalive(Some(keepalive)), "retries");
        }
        assert!(!tcp.keepalive().unwrap());
        for keepalive in [
            Keepalive::new().time(Duration::from_nanos(1)),
            Keepalive::new()
                .time(32_767 * SECOND)
                .interval(32_767 * SECOND)
                .retries(127),
            Keepalive::new().time(SECOND).interval(SECOND).retries(1),
        ] {
            tcp.set_keepalive(Some(keepalive)).unwrap();
            assert!(tcp.keepalive().unwrap());
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn keepalive_times_are_rounded_up() {
    block_on_within(async {
        let (tcp, _peer) = tcp_pair("127.0.0.1:0").await;
        for (given, kept) in [
            (1, 1),
            (900, 1),
            (1_000, 1),
            (1_001, 2),
            (32_766_001, 32_767),
        ] {
            let given = Duration::from_millis(given);
            let keepalive = Keepalive::new().time(given).interval(given);
            tcp.set_keepalive(Some(keepalive)).unwrap();
            let times = tcp.try_io(|socket| {
                Ok((
                    socket.tcp_keepalive_time()?,
                    socket.tcp_keepalive_interval()?,
                ))
            });
            assert_eq!(times.unwrap(), (kept * SECOND, kept * SECOND));
        }
    });
}

#[cfg(not(target_os = "wasi"))]
#[test]
fn linger_is_rounded_up_and_never_to_a_reset() {
    block_on_within(async {
        let (tcp, _peer) = tcp_pair("127.0.0.1:0").await;
        for (given, kept) in [
            (Some(Duration::from_nanos(1)), Some(SECOND)),
            (Some(Duration::from_millis(900)), Some(SECOND)),
            (Some(SECOND), Some(SECOND)),
            (Some(Duration::from_millis(1_001)), Some(2 * SECOND)),
            (Some(Duration::ZERO), Some(Duration::ZERO)),
            (None, None),
        ] {
            tcp.set_linger(given).unwrap();
            assert_eq!(tcp.linger().unwrap(), kept);
        }
        for given in [
            Duration::from_secs(1 << 31),
            Duration::from_secs((1 << 32) + 1),
            Duration::MAX,
        ] {
            assert_refused(tcp.set_linger(Some(given)), "linger");
        }
        assert_eq!(tcp.linger().unwrap(), None);

        // The peer gets all that was written, and not a reset.
        let (tcp, peer) = tcp_pair("127.0.0.1:0").await;
        tcp.set_linger(Some(Duration::from_millis(900))).unwrap();
        tcp.write_all(&[7; 10_000]).await.unwrap();
        drop(tcp);
        let (mut buf, mut read) = ([0; 4096], 0);
        loop {
            match peer.read(&mut buf).await.unwrap() {
                0 => break,
                len => read += len,
            }
        }
        assert_eq!(read, 10_000);
    });
}

#[test]
fn buffer_sizes_beyond_all_limits_are_large() {
    block_on_within(async {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (tcp, _peer) = tcp_pair("127.0.0.1:0").await;
        udp.set_recv_buffer_size(20_000).unwrap();
        udp.set_send_buffer_size(20_000).unwrap();
        tcp.set_send_buffer_size(20_000).unwrap();
        let small = [
            udp.recv_buffer_size(),
            udp.send_buffer_size(),
            tcp.send_buffer_size(),
        ];
        // What of it fits into 32 bits would be little.
        let huge = [
            usize::MAX,
            (1_u64 << 32) as usize + 1,
            1 << 31,
            i32::MAX as usize,
        ];
        for size in huge.into_iter().filter(|size| *size > 1) {
            let sets = [
                udp.set_recv_buffer_size(size),
                udp.set_send_buffer_size(size),
                tcp.set_send_buffer_size(size),
            ];
            let now = [
                udp.recv_buffer_size(),
                udp.send_buffer_size(),
                tcp.send_buffer_size(),
            ];
            for ((set, before), now) in sets.into_iter().zip(&small).zip(now) {
                // macOS and the BSDs refuse what is above their limit.
                let (before, now) = (before.as_ref().unwrap(), now.unwrap());
                assert!(set.is_err() || now > *before, "{size}: {now}");
            }
        }
    });
}

#[test]
fn a_negative_protocol_is_refused_by_name() {
    block_on_within(async {
        for proto in [-1, i32::MIN] {
            let name = format!("proto {proto}");
            for given in [
                local_v4(),
                coracle::DatagramOptions::new().family(Family::Inet),
            ] {
                assert_refused::<()>(Err(refusal(given.proto(proto)).await), &name);
            }
            for addr in ["127.0.0.1:1", "localhost:1"] {
                let given = TcpOptions::new().remote_addr(addr).proto(proto);
                assert_refused::<()>(Err(tcp_refusal(given).await), &name);
            }
        }
        // UDP's number for a stream, TCP's for datagrams.
        let error = refusal(local_v4().proto(6)).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("proto 6"), "{error}");
        let error = tcp_refusal(tcp_options().remote_addr("127.0.0.1:1").proto(17)).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("proto 17"), "{error}");
    });
}

#[test]
fn ports_and_scopes_that_a_resolver_would_misread_are_refused() {
    block_on_within(async {
        for target in [
            "localhost:+65616",
            "localhost:+80",
            "localhost:-1",
            "localhost: 80",
            "localhost:0x50",
            "localhost:65616",
            "127.0.0.1:+80",
            "[::1]:+80",
            "[::1]",
            "[fe80::1%+1]:80",
            "[fe80::1%4294967297]:80",
            "010.0.0.1:80",
            ":80",
            "[]:80",
        ] {
            assert_refused(resolve(target).await, target.trim_matches(['[', ']']));
            assert_refused(TcpStream::connect(target).await, "");
            assert_refused(UdpSocket::bind(target).await, "");
        }
        for (host, service) in [("localhost", "+80"), ("localhost", ""), ("", "80")] {
            assert_refused(resolve((host, service)).await, service);
        }
        assert_refused(resolve(("", 80)).await, "80");
        let addrs = resolve(("localhost", "080")).await.unwrap();
        assert!(addrs.iter().all(|addr| addr.port() == 80));
    });
}
