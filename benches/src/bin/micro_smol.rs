//! The micro-benchmarks on smol: a local executor, as the other runtimes are single-threaded.

#[path = "../micro.rs"]
mod micro;

mod rt {
    use std::future::Future;
    use std::time::Duration;

    pub use smol::future::yield_now;
    use smol::{future, LocalExecutor, Timer};

    thread_local! {
        static EXECUTOR: LocalExecutor<'static> = const { LocalExecutor::new() };
    }

    pub fn block_on<T>(future: impl Future<Output = T>) -> T {
        EXECUTOR.with(|executor| smol::block_on(executor.run(future)))
    }

    pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> smol::Task<T> {
        EXECUTOR.with(|executor| executor.spawn(future))
    }

    pub fn sleep(after: Duration) -> Timer {
        Timer::after(after)
    }

    /// As smol's documentation has it: there is no function for it.
    pub async fn timeout<T>(after: Duration, future: impl Future<Output = T>) -> Option<T> {
        future::or(async { Some(future.await) }, async {
            Timer::after(after).await;
            None
        })
        .await
    }
}

fn main() -> std::io::Result<()> {
    micro::run()
}
