//! A program that calls the library, several functions at once, and prints what they give. In
//! between it gives calls up, which the library survives.

use std::future::Future;
use std::time::Duration;

use coracle::time::timeout;
use example::exchange::service::{address, ask, serve};
use futures_lite::future::zip;

wit_bindgen::generate!({ world: "user", path: "wit" });

coracle::wasi_main!();

fn main() -> Result<(), String> {
    coracle::block_on(async {
        exchange().await?;
        println!("gave up {}", give_up_all().await);
        exchange().await
    })
}

/// Three questions at once, asked before there is a server.
async fn exchange() -> Result<(), String> {
    let addr = coracle::spawn(address());
    let server = coracle::spawn(serve(3));
    let addr = addr.await;
    let patience = 5_000;
    let questions = zip(
        ask(addr.clone(), "one".into(), patience),
        zip(
            ask(addr.clone(), "two".into(), patience),
            ask(addr, "three".into(), patience),
        ),
    );
    let (one, (two, three)) = questions.await;
    println!("{} {} {}", one?, two?, three?);
    println!("served {}", server.await?);
    Ok(())
}

/// Calls that would take for ever, dropped while they wait: for a task of another call, for a
/// socket, for a timer, and for all at once. Tells how many.
async fn give_up_all() -> usize {
    // It does not answer.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let mut given_up = 0;
    for time in [0, 1, 70] {
        let time = Duration::from_millis(time);
        given_up += usize::from(gives_up(time, address()).await);
        given_up += usize::from(gives_up(time, serve(1)).await);
        given_up += usize::from(gives_up(time, ask(addr.clone(), "x".into(), 1_000_000)).await);
        // The server's end tells those who wait for it, while they go, too.
        let all = zip(zip(address(), address()), zip(serve(1), address()));
        given_up += usize::from(gives_up(time, all).await);
    }
    given_up
}

async fn gives_up<T>(time: Duration, call: impl Future<Output = T>) -> bool {
    timeout(time, call).await.is_err()
}
