//! A program that calls the library, several functions at once, and prints what they give.

use example::exchange::service::{address, ask, serve};
use futures_lite::future::zip;

wit_bindgen::generate!({ world: "user", path: "wit" });

coracle::wasi_main!();

fn main() -> Result<(), String> {
    coracle::block_on(async {
        // Before there is a server.
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
    })
}
