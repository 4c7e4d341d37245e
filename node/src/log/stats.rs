//! Numbers that the log counts about itself.
//!
//! Input: the writer and the queue. Output: plain atomics that the metrics page reads whenever it
//! likes; each is exact by itself, two of them read together may be a moment apart.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::busy::Busy;
use crate::stages::{NodeStages, Stage};

/// Upper bounds of the sync latency buckets, in microseconds; one more bucket holds the rest. From
/// a disk with a protected write cache to one that is about to fail.
pub const FSYNC_BUCKETS_US: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

/// Counters (only rise until the process ends) and gauges of one log.
#[derive(Debug, Default)]
pub struct WalStats {
    /// Counter: syncs of batches.
    pub fsyncs: AtomicU64,
    /// Counter: batches written.
    pub batches: AtomicU64,
    /// Counter: records written, copies out of old segments included.
    pub records: AtomicU64,
    /// Counter: bytes written in batches, with headers and padding.
    pub bytes: AtomicU64,
    /// Counter: records copied out of old segments.
    pub moved_records: AtomicU64,
    /// Counter: entries read back from disk because they were no longer in memory.
    pub disk_reads: AtomicU64,
    /// Gauge: segment files.
    pub segments: AtomicU64,
    /// Gauge: bytes of records that are still needed.
    pub live_bytes: AtomicU64,
    /// Gauge: bytes queued or being written.
    pub queue_bytes: AtomicU64,
    /// Counter: time spent in syncs, in microseconds.
    pub fsync_us_total: AtomicU64,
    /// Counters: syncs by latency, not cumulative; bounds in [`FSYNC_BUCKETS_US`].
    pub fsync_us: [AtomicU64; FSYNC_BUCKETS_US.len() + 1],
    /// Entries that are let go of, and segment files that are removed.
    pub purges: Busy,
    /// Where time goes. All groups of a node share the log, so this is where its other parts find it, too.
    pub stages: NodeStages,
}

impl WalStats {
    /// Counts one sync of a batch that took `latency`.
    pub fn observe_fsync(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = FSYNC_BUCKETS_US.partition_point(|&bound| bound < us);
        self.fsync_us[bucket].fetch_add(1, Relaxed);
        self.fsync_us_total.fetch_add(us, Relaxed);
        self.fsyncs.fetch_add(1, Relaxed);
        self.stages.observe(Stage::Fsync, latency);
    }
}
