//! The clock that deadlines are measured by.

pub(crate) use std::time::Instant;

pub(crate) fn now() -> Instant {
    Instant::now()
}
