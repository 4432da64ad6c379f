//! How far one go at the kernel went.

/// Datagrams of one go at most. Who wants more has another go, after others.
pub(super) const MOST: usize = 1024;

/// Whether there is reason to go on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The kernel had, or took, less than it was asked for.
    Short,
    /// It might have had, or taken, more.
    Full,
}
