//! The loop inside an asynchronous export, which somebody else's executor polls.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::wit_bindgen::{StreamReader, StreamWriter};
use wasip3::wit_stream;

use super::inflight::{all_come_home, drive_all, InFlight};
use super::leaving::{depend_on, PATIENCE};
use super::reactor::{Notifier, Running, Timer};
use super::task;
use crate::sys::Step;

/// The counterpart of the reactor: it is polled where that blocks.
pub(crate) struct Host {
    timer: Timer,
    bell: Arc<Bell>,
    /// The read that the bell ends; there is always one while the runtime waits.
    hearing: InFlight<StreamReader<u8>>,
    reader: Option<StreamReader<u8>>,
    /// How long the end waits for what is still being written.
    limit: Option<InFlight<()>>,
}

/// How one task of the component's ends the wait of another: the host knows no other way than
/// something that the other has under way.
pub(super) struct Bell {
    task: AtomicUsize,
    writer: Mutex<StreamWriter<u8>>,
}

impl Bell {
    pub(super) fn ring(&self) {
        // An event of its own: it is polled anyway.
        if task::number() == self.task.load(Ordering::Relaxed) {
            return;
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let write = std::pin::pin!(writer.write(vec![0]));
        // The reader waits: it is done at once. Otherwise it is awake.
        let _ = task::with(|| write.poll(&mut Context::from_waker(Waker::noop())));
    }
}

impl Host {
    pub(crate) fn new() -> Host {
        let (writer, reader) = wit_stream::new();
        Host {
            timer: Timer::default(),
            bell: Arc::new(Bell {
                task: AtomicUsize::new(task::ours()),
                writer: Mutex::new(writer),
            }),
            hearing: InFlight::new(),
            reader: Some(reader),
            limit: None,
        }
    }

    pub(crate) fn notifier(&self) -> Notifier {
        Notifier(Some(self.bell.clone()))
    }

    /// Steps until there is nothing to do, or until `Done`, which is ready.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        step: &mut dyn FnMut() -> Step,
    ) -> Poll<()> {
        let _running = Running::new();
        self.bell.task.store(task::number(), Ordering::Relaxed);
        drive_all();
        loop {
            match step() {
                Step::Done => return Poll::Ready(()),
                Step::Again => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Idle { until } => {
                    if until.is_none_or(|until| self.timer.set(until)) && self.hear() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Has the bell heard; false if it has rung meanwhile.
    fn hear(&mut self) -> bool {
        if let Some(reader) = self.hearing.take() {
            self.reader = Some(reader);
        }
        let Some(mut reader) = self.reader.take() else {
            return true;
        };
        let rung = self.hearing.start(async move {
            reader.read(Vec::with_capacity(1)).await;
            reader
        });
        let is_heard = rung.is_none();
        self.reader = rung;
        is_heard
    }

    /// After the end: waits for what is still being written, but not for ever.
    pub(crate) fn poll_end(&mut self) -> Poll<()> {
        drive_all();
        if !depend_on(task::number()) {
            return Poll::Ready(());
        }
        let nanoseconds = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        let is_over = match &self.limit {
            Some(limit) => limit.take().is_some(),
            None => {
                let limit = self.limit.insert(InFlight::new());
                limit.start(wait_for(nanoseconds)).is_some()
            }
        };
        match is_over {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        all_come_home(self.bell.task.load(Ordering::Relaxed));
    }
}
