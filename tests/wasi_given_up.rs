//! Receives, reads and writes that are given up in a component after the host has done them, or
//! while it does: nothing is lost and nothing comes twice.
#![cfg(target_os = "wasi")]

mod common;

use common::{block_on_within, std_udp, within};
use coracle::net::{RecvBatch, TcpListener, TcpStream, UdpSocket};
use coracle::yield_now;
use futures_lite::future::{poll_once, zip};

const ROUNDS: u32 = 4_000;

/// Several turns of the loop, so that the host does what it has to.
async fn turns(count: u32) {
    for _ in 0..count {
        yield_now().await;
    }
}

fn number(data: &[u8]) -> u32 {
    u32::from_le_bytes(data.try_into().unwrap())
}

#[test]
fn thousands_of_receives_that_are_given_up_lose_no_datagram() {
    block_on_within(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap().as_ip().unwrap();
        let sender = std_udp();
        let mut batch = RecvBatch::with_capacity(4, 16);
        let mut buf = [0; 16];
        let mut next = 0;
        let mut given_up = 0;
        for round in 0..ROUNDS {
            // One that waits when its datagram comes, and is then given up before it is polled
            // again.
            let received = {
                let mut receive = std::pin::pin!(socket.recv(&mut buf));
                let received = poll_once(receive.as_mut()).await;
                sender.send_to(&round.to_le_bytes(), addr).unwrap();
                turns(round % 5).await;
                received
            };
            match received {
                Some(len) => {
                    assert_eq!((len.unwrap(), number(&buf[..4])), (4, next));
                    next += 1;
                }
                None => given_up += 1,
            }
            // Mostly all, so that the next one waits.
            while next <= round && round % 4 > 0 {
                let count = within(socket.recv_batch(&mut batch)).await.unwrap();
                assert!(count > 0);
                for (data, _) in batch.iter() {
                    assert_eq!(number(data), next);
                    next += 1;
                }
            }
        }
        while next < ROUNDS {
            let len = within(socket.recv(&mut buf)).await.unwrap();
            assert_eq!(number(&buf[..len]), next);
            next += 1;
        }
        assert!(given_up > 2_000, "{given_up}");
    });
}

#[test]
fn thousands_of_reads_and_writes_that_are_given_up_lose_no_byte() {
    block_on_within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (writer, accepted) = zip(connect, listener.accept()).await;
        let (writer, reader) = (writer.unwrap(), accepted.unwrap().0);
        writer.set_send_buffer_size(10_000).unwrap();
        // What is written: bytes in a row without a period of two's powers.
        let row = |at: usize| (at % 251) as u8;
        let mut written = 0;
        let mut read = 0;
        let mut given_up = (0, 0);
        let mut buf = [0; 3_000];
        for round in 0..ROUNDS {
            let data: Vec<u8> = (written..written + 5_000).map(row).collect();
            match poll_once(writer.write(&data)).await {
                Some(len) => written += len.unwrap(),
                None => given_up.1 += 1,
            }
            turns(round % 3).await;
            let got = {
                let mut reading = std::pin::pin!(reader.read(&mut buf));
                let got = poll_once(reading.as_mut()).await;
                turns(round % 4).await;
                got
            };
            match got {
                Some(len) => {
                    let len = len.unwrap();
                    assert!(buf[..len].iter().zip(read..).all(|(&b, at)| b == row(at)));
                    read += len;
                }
                None => given_up.0 += 1,
            }
        }
        while read < written {
            let len = within(reader.read(&mut buf)).await.unwrap();
            assert!(len > 0);
            assert!(buf[..len].iter().zip(read..).all(|(&b, at)| b == row(at)));
            read += len;
        }
        assert_eq!(read, written);
        assert!(given_up.0 > 100 && given_up.1 > 100, "{given_up:?}");
    });
}
