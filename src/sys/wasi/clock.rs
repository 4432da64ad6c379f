//! The clock that deadlines are measured by.

use std::time::Instant;

pub(crate) fn now() -> Instant {
    Instant::now()
}
