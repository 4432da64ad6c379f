//! Calls of servers that are given up half-way: nothing is left open, and everybody else goes on.

mod common;
#[path = "common/giving_up.rs"]
mod giving_up;

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{pin, Pin};
use std::process::Command;

use common::{block_on_within, in_process, own_ip, settle};
use coracle::net::TcpStream;
use coracle::{
    create_server, create_server_with_driver, on_data, spawn, yield_now, OnData, Server,
    TcpServerOptions, Transport,
};
use futures_lite::future::poll_once;
use giving_up::{
    descriptors, descriptors_come_down_to, give_up_after, give_up_when_woken, ways_to_give_up,
};

fn echo() -> OnData<impl FnMut(&Transport, &[u8]) -> io::Result<()>> {
    on_data(|transport, data| transport.write(data))
}

fn local() -> TcpServerOptions {
    // Nobody listens there once the server is closed.
    TcpServerOptions::new().local_addr((own_ip(), 0))
}

fn addr(server: &Server) -> SocketAddr {
    server.local_addrs()[0].as_ip().unwrap()
}

/// Bytes there and back.
async fn exchange(client: &TcpStream) {
    client.write_all(b"ping").await.unwrap();
    let (mut buf, mut len) = ([0; 8], 0);
    while len < 4 {
        len += client.read(&mut buf[len..]).await.unwrap();
    }
    assert_eq!(&buf[..len], b"ping");
}

async fn is_refused(addr: SocketAddr) -> bool {
    let result = TcpStream::connect(addr).await;
    matches!(result, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

type Making = Pin<Box<dyn Future<Output = io::Result<Server>>>>;

#[test]
fn servers_whose_making_is_given_up_are_closed() {
    const NAME: &str = "servers_whose_making_is_given_up_are_closed";
    /// Its driver, if it is given one, is dropped.
    macro_rules! server {
        ($call:ident($($argument:expr),*) $($first:tt)?) => {
            Box::new(move || -> Making {
                let making = $call(echo, $($argument),*);
                Box::pin(async {
                    let made = making.await?;
                    Ok(made$(.$first)?)
                })
            })
        };
    }
    let body = async {
        let named = || local().local_addr("localhost:0");
        #[cfg_attr(not(unix), allow(unused_mut))]
        let mut ways: Vec<Box<dyn Fn() -> Making>> = vec![
            server!(create_server(local())),
            server!(create_server(local().start_serving(false))),
            server!(create_server(named())),
            server!(create_server_with_driver(named(), drop) 0),
        ];
        #[cfg(unix)]
        let folder = tempfile::tempdir().unwrap();
        #[cfg(unix)]
        {
            use coracle::{create_unix_server, create_unix_server_with_driver, UnixServerOptions};
            let path = folder.path().join("server");
            let given = move || UnixServerOptions::new().path(path.clone());
            let again = given.clone();
            ways.push(server!(create_unix_server(given())));
            ways.push(server!(create_unix_server_with_driver(again(), drop) 0));
        }
        settle().await;
        let before = descriptors();
        for (number, make) in ways.iter().enumerate() {
            let mut made = 0;
            for when in ways_to_give_up() {
                if let Some(server) = give_up_when_woken(when, make()).await {
                    made += 1;
                    let server = server.unwrap();
                    server.close();
                    server.wait_closed().await;
                }
                descriptors_come_down_to(before, (number, when)).await;
                #[cfg(unix)]
                assert_eq!(
                    folder.path().read_dir().unwrap().count(),
                    0,
                    "no file is left"
                );
            }
            assert!(made > 0, "way {number}");
        }
    };
    in_process(
        NAME,
        |program| Command::new(program),
        || block_on_within(body),
    );
}

#[test]
fn the_end_of_a_server_can_be_waited_for_again() {
    block_on_within(async {
        for polls in 0..4 {
            let server = create_server(echo, local()).await.unwrap();
            let client = TcpStream::connect(addr(&server)).await.unwrap();
            exchange(&client).await;
            let patient = spawn({
                let server = server.clone();
                async move { server.wait_closed().await }
            });
            for closes in [true, false] {
                for _ in 0..50 {
                    assert!(give_up_after(polls, server.wait_closed()).await.is_none());
                }
                exchange(&client).await;
                assert!(!patient.is_finished());
                if closes {
                    server.close();
                }
            }
            drop(client);
            patient.await;
            server.wait_closed().await;
        }
    });
}

#[test]
fn starting_that_is_given_up_leaves_a_server_that_can_be_started() {
    block_on_within(async {
        for polls in 0..4 {
            let server = create_server(echo, local().start_serving(false));
            let server = server.await.unwrap();
            let at = addr(&server);
            match give_up_after(polls, server.start_serving()).await {
                Some(result) => result.unwrap(),
                None => {
                    assert!(!server.is_serving());
                    assert!(is_refused(at).await);
                    server.start_serving().await.unwrap();
                }
            }
            exchange(&TcpStream::connect(at).await.unwrap()).await;
        }
    });
}

#[test]
fn serving_for_ever_that_is_given_up_closes_all_once_what_is_queued_was_sent() {
    const LEN: usize = 16 << 20;
    // As much as no system takes at once, to whoever sends a byte.
    let generous = || on_data(|transport, _| transport.write(&vec![7; LEN]));
    block_on_within(async {
        for (polls, closing) in (0..5).flat_map(|polls| [(polls, false), (polls, true)]) {
            let options = local().start_serving(polls % 2 == 0);
            let server = create_server(generous, options).await.unwrap();
            let at = addr(&server);
            server.start_serving().await.unwrap();
            let client = TcpStream::connect(at).await.unwrap();
            client.set_recv_buffer_size(1 << 16).unwrap();
            client.write_all(b"x").await.unwrap();
            client.peek(&mut [0]).await.unwrap();
            {
                let mut serving = pin!(server.serve_forever());
                for _ in 0..polls {
                    assert!(poll_once(&mut serving).await.is_none());
                    yield_now().await;
                }
                if closing {
                    server.close();
                    assert!(poll_once(&mut serving).await.is_none_or(|_| polls == 0));
                }
            }
            if polls == 0 && !closing {
                // It had not begun.
                assert!(server.is_serving());
                assert!(poll_once(server.serve_forever()).await.is_none());
            }
            assert!(!server.is_serving());
            if polls > 0 || !closing {
                assert!(give_up_after(3, server.wait_closed()).await.is_none());
            } else {
                server.close_clients();
            }
            assert!(is_refused(at).await);
            let again = server.serve_forever().await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::NotConnected);
            let (mut buf, mut received) = (vec![0; 1 << 16], 0);
            loop {
                match client.read(&mut buf).await.unwrap() {
                    0 => break,
                    len => received += len,
                }
            }
            assert_eq!(received, LEN);
            server.wait_closed().await;
        }
    });
}

#[test]
fn the_driver_of_a_server_that_is_dropped_at_any_time_closes_it_and_no_connection() {
    block_on_within(async {
        for polls in 0..4 {
            let spawned = |driver| spawn(driver).detach();
            let made = create_server_with_driver(echo, local(), spawned).await;
            let (server, driver) = made.unwrap();
            let at = addr(&server);
            let clients = [
                TcpStream::connect(at).await.unwrap(),
                TcpStream::connect(at).await.unwrap(),
            ];
            assert!(give_up_after(polls, driver).await.is_none());
            assert!(!server.is_serving() && server.sockets().is_empty());
            assert!(is_refused(at).await);
            for client in clients {
                match polls {
                    // Nobody has accepted it.
                    0 => assert!(matches!(client.read(&mut [0]).await, Ok(0) | Err(_))),
                    _ => exchange(&client).await,
                }
            }
            server.wait_closed().await;
            assert_eq!(server.connections(), 0);
        }
    });
}
