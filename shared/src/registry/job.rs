//! Jobs: long work recorded in the registry, driven by the leader of `meta`, never by a proxy.
//!
//! A job is a [`JobKind`] (what to do, complete enough for any leader to go on) and a state. Every
//! step is idempotent on its target, so a new leader simply starts the steps over. Jobs run one at
//! a time, in order of their ids; that is what makes two schema changes well ordered.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::{GroupId, JobId, NodeId, RequestId};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waiting for its turn, or at work.
    Running,
    /// Halted by request.
    Paused,
    /// Finished.
    Done,
    /// Undone and reported.
    Failed,
    /// Ended by request.
    Cancelled,
}

/// What `/table/register` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The table.
    pub table: String,
    /// Its key columns.
    pub key: Vec<String>,
    /// Share the placement of this table.
    pub colocate_with: Option<String>,
    /// Shards to spread an empty table over; empty means all.
    pub shards: Vec<GroupId>,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    /// Runs one schema statement on every shard that holds the table.
    Schema {
        /// The statement, as the client wrote it.
        sql: String,
        /// The table it is about; it finds the shards. None: the home shard.
        table: Option<String>,
    },
    /// Shards a table.
    Register(Registration),
    /// Lets a shard hold a table; no row moves.
    AddToShard {
        /// The table.
        table: String,
        /// The shard.
        shard: GroupId,
    },
    /// Gives a node that joined its replicas, replacing those of an earlier life of its disk.
    Join {
        /// The node.
        node: NodeId,
        /// Groups that it shall hold a replica of.
        groups: Vec<GroupId>,
    },
    /// Makes a new shard.
    CreateShard {
        /// Nodes that shall hold its replicas; empty: those that hold the fewest.
        nodes: Vec<NodeId>,
    },
    /// Takes all replicas off a node and lets it go.
    Remove {
        /// The node.
        node: NodeId,
    },
}

impl JobKind {
    /// The word that `GET /job` shows.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Schema { .. } => "schema",
            Self::Register(_) => "register",
            Self::AddToShard { .. } => "add_to_shard",
            Self::Join { .. } => "join",
            Self::CreateShard { .. } => "create_shard",
            Self::Remove { .. } => "remove",
        }
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The request that asked for it.
    pub request: RequestId,
    /// What it does.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// What it is at, in words.
    pub step: String,
    /// How far it is, 0 to 100.
    pub percent: u8,
    /// Why it failed, or what it last stumbled over.
    pub error: Option<Error>,
    /// When it was recorded, microseconds since 1970 by the leader's clock.
    pub created_us: i64,
    /// When it ended, or 0.
    pub ended_us: i64,
    /// The placement id reserved for it; a driver that starts over gets the same.
    pub placement: Option<crate::ids::PlacementId>,
}

impl Job {
    /// Has it ended?
    pub fn ended(&self) -> bool {
        matches!(self.state, JobState::Done | JobState::Failed | JobState::Cancelled)
    }

    /// The JSON form of `GET /job/{id}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id.to_string(),
            "kind": self.kind.name(),
            "state": self.state,
            "percent": self.percent,
            "step": self.step,
            "error": self.error.as_ref().map(|error| error.to_json()["error"].clone()),
        })
    }
}
