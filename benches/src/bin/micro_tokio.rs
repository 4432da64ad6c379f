//! The micro-benchmarks on tokio's current-thread runtime.

#[path = "../micro.rs"]
mod micro;

mod rt {
    use std::cell::OnceCell;
    use std::future::Future;
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};
    use tokio::task::unconstrained;
    pub use tokio::task::yield_now;
    pub use tokio::time::sleep;

    thread_local! {
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    }

    pub fn block_on<T>(future: impl Future<Output = T>) -> T {
        RUNTIME.with(|runtime| {
            runtime
                .get_or_init(|| {
                    // With I/O, as in a program that has sockets.
                    Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("tokio cannot start a runtime")
                })
                // A budget would make the polls past the 128th return without doing anything.
                .block_on(unconstrained(future))
        })
    }

    async fn joined<T>(task: tokio::task::JoinHandle<T>) -> T {
        task.await.expect("a task panicked")
    }

    pub fn spawn<T: Send + 'static>(
        future: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> {
        joined(tokio::spawn(future))
    }

    pub async fn timeout<T>(after: Duration, future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(after, future).await.ok()
    }
}

fn main() -> std::io::Result<()> {
    micro::run()
}
