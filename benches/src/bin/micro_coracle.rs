//! The micro-benchmarks on coracle.

#[path = "../micro.rs"]
mod micro;

mod rt {
    use std::future::Future;
    use std::time::Duration;

    pub use coracle::time::sleep;
    pub use coracle::{block_on, spawn, yield_now};

    pub async fn timeout<T>(after: Duration, future: impl Future<Output = T>) -> Option<T> {
        coracle::time::timeout(after, future).await.ok()
    }
}

fn main() -> std::io::Result<()> {
    micro::run()
}
