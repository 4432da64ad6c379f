//! Timers where no runtime is running, of which there is no other here.

use std::task::{Context, Poll};
use std::time::Instant;

use super::NO_RUNTIME;
use crate::sys::TimerOps;

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
