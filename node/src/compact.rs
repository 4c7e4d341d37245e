//! Keeps the log of a node within a number of bytes.
//!
//! openraft compacts a group after a number of entries. Entries of a bulk load are a megabyte each, so ten
//! thousand of them fill a disk, and a start reads all of it. So where the entries of all groups together
//! take more than [`max_log_bytes`](crate::options::NodeOptions::max_log_bytes), the groups that have most of them are
//! compacted, and half of what each has goes, until that is enough.
//!
//! Input: what the log holds. Output: openraft is told to make the database durable and to purge; it keeps what is
//! not durable, and what it is sending to a follower. A follower that needs what went gets pages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::host::Host;

/// How often the log is looked at. What was written since the look before may come on top of what is kept.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at the log for ever.
pub async fn keep_small(host: Arc<Host>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let wal = host.wal();
        let live = wal.stats().live_bytes.load(Ordering::Relaxed);
        let excess = live.saturating_sub(host.options().max_log_bytes);
        if excess == 0 {
            continue;
        }
        for (group, half) in wal.halves_of_largest(excess) {
            let Some(replica) = host.replica(group) else { continue };
            let trigger = replica.raft().trigger();
            // Only what is durable by now can go; what this makes durable goes at the next look.
            if let Err(stopped) = trigger.purge_log(half).await {
                tracing::debug!(%group, %stopped, "the log is not purged");
            }
            if let Err(stopped) = trigger.snapshot().await {
                tracing::debug!(%group, %stopped, "the log is not compacted");
            }
        }
    }
}
