//! What a job sends to shards that have copies of reference tables.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, JobId, PlacementId, RequestId};
use crate::value::Value;
use crate::wire::Statement;

/// A row of a reference table on its way to another shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopiedRow {
    /// Its values.
    pub values: Vec<Value>,
    /// Which of them are texts.
    pub texts: Vec<bool>,
}

/// A write to reference tables, as one shard gets it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyWrite {
    /// The job.
    pub job: JobId,
    /// On the shard that decides: the request, which it remembers like any other write.
    pub request: Option<RequestId>,
    /// The time of the write, microseconds since 1970.
    pub at_us: i64,
    /// Its randomness.
    pub seed: u64,
    /// In order, together or not at all.
    pub statements: Vec<Statement>,
    /// Ownership versions that this makes: what was planned before the write is planned anew, so that no
    /// read sees it on one shard and misses it on another.
    pub epochs: Vec<(PlacementId, Epoch)>,
    /// Undo it again: only tells whether it would succeed.
    pub dry_run: bool,
}

/// How far a shard is with a write to a reference table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyState {
    /// It was undone again.
    Tried,
    /// This job's write is applied.
    Applied,
    /// An earlier job of the same request did it, on all shards.
    Before,
}
