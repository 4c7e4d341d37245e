//! Where the time of requests goes on a node, for `/metrics`.
//!
//! On the leader a write passes [`Stage::Queue`], [`Stage::Replicate`], [`Stage::Apply`] and
//! [`Stage::Respond`], one after the other; a linearizable read [`Stage::Confirm`] and [`Stage::Read`].
//! The others lie within these. What many writes went through together counts for each of them, but
//! [`Stage::Append`] and [`Stage::Fsync`], which are of the log, count once, on followers too.

use std::time::Duration;

use flotilla_shared::stages::Stages;
use prometheus_client::registry::Registry;

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the arrival of a write until it is taken into an entry.
    Queue,
    /// From there until the entry is handed over to consensus; the first part of `Replicate`.
    Propose,
    /// From an append until its records are synced: waiting for the last batch, writing, syncing.
    Append,
    /// A sync of the log.
    Fsync,
    /// From the proposal until the entry is committed and its turn to be applied has come.
    Replicate,
    /// Applying the batch of entries that it is in.
    Apply,
    /// From the results of its entry until the answer is on its way to the connection.
    Respond,
    /// From the arrival of a read until it may be read: a round of ReadIndex, or a look at the lease.
    Confirm,
    /// Reading its rows.
    Read,
}

/// In the order of [`Stage`].
const NAMES: &[&str] = &["queue", "propose", "append", "fsync", "replicate", "apply", "respond", "confirm", "read"];

/// The times of all stages of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct NodeStages(Stages);

impl Default for NodeStages {
    fn default() -> Self {
        Self(Stages::new(NAMES))
    }
}

impl NodeStages {
    /// Records that a stage took so long.
    pub fn observe(&self, stage: Stage, took: Duration) {
        self.0.observe(stage as usize, took);
    }

    /// The same for several requests that went through it together.
    pub fn observe_all(&self, stage: Stage, took: Duration, requests: usize) {
        self.0.observe_all(stage as usize, took, requests as u64);
    }

    /// How often a stage was recorded.
    pub fn count(&self, stage: Stage) -> u64 {
        self.0.count(stage as usize)
    }

    /// Adds all to what the node shows.
    pub fn register(&self, registry: &mut Registry) {
        self.0.register(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each stage has its own name.
    #[test]
    fn names() {
        assert_eq!(NAMES.len(), Stage::Read as usize + 1);
        assert_eq!(NAMES[Stage::Fsync as usize], "fsync");
        assert_eq!(NAMES[Stage::Respond as usize], "respond");
        let stages = NodeStages::default();
        stages.clone().observe_all(Stage::Apply, Duration::from_millis(1), 3);
        assert_eq!((stages.count(Stage::Apply), stages.count(Stage::Read)), (3, 0));
    }
}
