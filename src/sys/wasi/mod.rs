//! What the backends of WASI 0.2 and 0.3 share.

pub(super) mod address;
pub(crate) mod clock;
pub(super) mod lookup;
pub(super) mod socket;
pub(super) mod timer;

use std::path::Path;

pub(super) const NO_RUNTIME: &str = "no coracle runtime is running: use coracle::block_on";

pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<&Path> {
    std::str::from_utf8(bytes).ok().map(Path::new)
}
