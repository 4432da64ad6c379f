//! What the backends of WASI 0.2 and 0.3 share.

pub(super) mod abi;
pub(super) mod address;
pub(super) mod arrived;
pub(crate) mod clock;
pub(super) mod convert;
pub(super) mod earlier;
pub(super) mod lookup;
pub(super) mod options;
pub(super) mod socket;
pub(super) mod timer;

use std::path::Path;
use std::time::Duration;

/// How many connections, closed by us, may be kept while what was written to them goes to a peer
/// that takes its time, and for how long each: it holds handles of the host's, of which there are
/// only so many. Those beyond are cut off.
pub(super) const LEAVING_AT_MOST: usize = 128;
pub(super) const LEAVING_FOR: Duration = Duration::from_secs(30);

/// Connections that were gone before they were taken, which one try to accept goes over.
pub(super) const GONE: usize = 16;

pub(super) const NO_RUNTIME: &str = "no coracle runtime is running: use coracle::block_on";

pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<&Path> {
    std::str::from_utf8(bytes).ok().map(Path::new)
}

/// A size of the host's.
pub(super) fn saturate(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// A duration of the host's: what is beyond its clock's end is as good as for ever.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
