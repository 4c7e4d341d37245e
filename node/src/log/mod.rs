//! The write-ahead log: one per node, for the consensus logs of all its groups.
//!
//! The life of an append, file by file:
//!
//! 1. [`store`]: the consensus library calls [`GroupLog`]; an entry is serialised once.
//! 2. [`wal`], [`queue`]: under one lock it enters the [`index`] (from now on it can be read) and the
//!    queue. The call returns; if the queue is full it waits first.
//! 3. [`driver`]: a thread or a task asks for everything that waits, of all groups: a [`Batch`].
//! 4. [`writer`]: the batch becomes bytes ([`record`]) in the current [`segment`] file: one write,
//!    one sync ([`disk`]), then all callbacks, in order. So one sync serves every write that arrived
//!    during the one before.
//! 5. [`reader`]: replication and apply read it back, from memory as long as it is recent.
//! 6. After a restart, [`recovery`] replays the files into a new index.
//!
//! Input: votes, entries, truncations, purges and removals of groups. Output: the same after any
//! crash, up to and including everything that was called durable. Refuses: holes, records that are
//! too large, damaged files, and anything at all after a failed write or sync: the log is poisoned,
//! every waiting and later operation gets that error, and the host stops the node
//! ([`Wal::failure`]). A failed sync is never retried.
//!
//! # What always holds
//!
//! - All operations of all groups are one ordered stream. After a crash the log shows a prefix of it
//!   that ends at a batch and contains every operation that was acknowledged.
//! - Batch N+1 is written only after batch N is durable. That tells a torn tail, which a crash may
//!   leave and which is dropped, from damage, which is refused ([`LogError::LogDamaged`]); the exact
//!   rule is in [`segment`].
//! - Files are preallocated, never recycled, and every checksum includes segment number and offset, so
//!   stale bytes are never records.
//! - A segment is removed only after a durable record says that nothing in it is needed. If a cold
//!   group holds the oldest one, its live records are copied forward first, as part of a normal batch
//!   ([`WalOptions::keep_segments`]).
//! - Memory is bounded: the queue, the cache and the index (one slot for each live entry).
//! - Nothing here reads a clock or randomness, except to measure: the real driver its disk, purges their time.

pub mod disk;
pub mod driver;
pub mod error;
pub mod index;
pub mod queue;
pub mod reader;
pub mod record;
pub mod recovery;
pub mod segment;
pub mod sim_disk;
pub mod stats;
pub mod store;
pub mod wal;
pub mod writer;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use disk::{Disk, DiskFile, RealDisk};
pub use driver::{WriterThread, drive};
pub use error::LogError;
pub use queue::{Batch, Done};
pub use record::Kind;
pub use sim_disk::SimDisk;
pub use stats::{FSYNC_BUCKETS_US, WalStats};
pub use store::{GroupLog, MAX_READ_BYTES, numbered};
pub use wal::{MAX_RECORD_BYTES, Wal};
pub use writer::Writer;

/// How a log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Size of a segment file in bytes, 4 KiB to 1 GiB. A batch that is larger gets a larger file.
    pub segment_bytes: u64,
    /// Bytes that may be queued or in the middle of being written, 1 KiB to 1 GiB.
    pub queue_bytes: usize,
    /// Bytes of written entries kept in memory for readers.
    pub cache_bytes: usize,
    /// With more segments than this, live records are copied out of the oldest one when that frees
    /// more than it costs. At least 1.
    pub keep_segments: u64,
    /// Extra time that the writer thread sleeps before each sync. For tests of slow disks.
    pub fsync_delay: Duration,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            // Large enough that starting one is rare, small enough to be read at start in one piece.
            segment_bytes: 64 << 20,
            // Half a segment: a disk that stands still for some seconds fills it, not the memory.
            queue_bytes: 32 << 20,
            // Followers that are a few seconds behind are served without reading the disk.
            cache_bytes: 64 << 20,
            keep_segments: 4,
            fsync_delay: Duration::ZERO,
        }
    }
}

impl WalOptions {
    fn check(&self) -> Result<(), LogError> {
        let bad = |name, what| Err(LogError::BadOption { name, what });
        // Offsets in a segment are 32 bits, and a batch is at most the queue or one large record.
        if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            return bad("segment_bytes", "must be from 4 KiB to 1 GiB");
        }
        if !(1 << 10..=1 << 30).contains(&self.queue_bytes) {
            return bad("queue_bytes", "must be from 1 KiB to 1 GiB");
        }
        if self.keep_segments == 0 {
            return bad("keep_segments", "must be at least 1");
        }
        Ok(())
    }
}
