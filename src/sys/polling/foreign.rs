//! Sockets and timers where no coracle runtime is running: async-io drives them (feature
//! `async-io`).

#[cfg(feature = "async-io")]
pub(super) use self::with_async_io::Foreign;
#[cfg(feature = "async-io")]
pub(crate) use self::with_async_io::ForeignTimer;
#[cfg(not(feature = "async-io"))]
pub(super) use self::without::Foreign;
#[cfg(not(feature = "async-io"))]
pub(crate) use self::without::ForeignTimer;

#[cfg(feature = "async-io")]
mod with_async_io {
    use std::io;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Instant;

    use async_io::{Async, Timer};

    use crate::sys::polling::source::Watched;
    use crate::sys::TimerOps;
    use crate::wake::Direction;

    /// A socket registered with async-io's reactor.
    pub(in crate::sys::polling) struct Foreign {
        io: Async<Arc<Watched>>,
        // async-io remembers one waker a direction: ours, which wakes all who wait.
        read: Waker,
        write: Waker,
    }

    struct WakeSide {
        watched: Arc<Watched>,
        direction: Direction,
    }

    impl Wake for WakeSide {
        fn wake(self: Arc<Self>) {
            self.watched.wake(self.direction);
        }
    }

    impl Foreign {
        pub(in crate::sys::polling) fn new(watched: &Arc<Watched>) -> io::Result<Foreign> {
            let waker = |direction| {
                Waker::from(Arc::new(WakeSide {
                    watched: watched.clone(),
                    direction,
                }))
            };
            Ok(Foreign {
                io: Async::new_nonblocking(watched.clone())?,
                read: waker(Direction::Read),
                write: waker(Direction::Write),
            })
        }

        pub(in crate::sys::polling) fn poll_ready(
            &self,
            direction: Direction,
        ) -> Poll<io::Result<()>> {
            match direction {
                Direction::Read => self.io.poll_readable(&mut Context::from_waker(&self.read)),
                Direction::Write => self.io.poll_writable(&mut Context::from_waker(&self.write)),
            }
        }
    }

    #[derive(Debug)]
    pub(crate) struct ForeignTimer(Timer);

    impl TimerOps for ForeignTimer {
        fn new(deadline: Instant) -> ForeignTimer {
            ForeignTimer(Timer::at(deadline))
        }

        fn reset(&mut self, deadline: Instant) {
            self.0.set_at(deadline);
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            std::future::Future::poll(Pin::new(&mut self.0), cx).map(drop)
        }
    }
}

#[cfg(not(feature = "async-io"))]
mod without {
    use std::io;
    use std::sync::Arc;
    use std::task::{Context, Poll};
    use std::time::Instant;

    use crate::sys::polling::source::Watched;
    use crate::sys::TimerOps;
    use crate::wake::Direction;

    const NO_RUNTIME: &str = "no coracle runtime is running on this thread: use \
                              coracle::block_on, or turn on the feature `async-io`";

    pub(in crate::sys::polling) enum Foreign {}

    impl Foreign {
        pub(in crate::sys::polling) fn new(_watched: &Arc<Watched>) -> io::Result<Foreign> {
            Err(io::Error::new(io::ErrorKind::Unsupported, NO_RUNTIME))
        }

        pub(in crate::sys::polling) fn poll_ready(
            &self,
            _direction: Direction,
        ) -> Poll<io::Result<()>> {
            match *self {}
        }
    }

    #[derive(Debug)]
    pub(crate) struct ForeignTimer;

    impl TimerOps for ForeignTimer {
        fn new(_deadline: Instant) -> ForeignTimer {
            ForeignTimer
        }

        fn reset(&mut self, _deadline: Instant) {}

        fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
            panic!("{NO_RUNTIME}");
        }
    }
}
