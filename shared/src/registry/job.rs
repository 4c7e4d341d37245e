//! Jobs: long work recorded in the registry, driven by the leader of `meta`, never by a proxy.
//!
//! A job is a [`JobKind`] (what to do, complete enough for any leader to go on) and a state. Every
//! step is idempotent on its target, so a new leader simply starts the steps over. Jobs run one at
//! a time, in order of their ids; that is what makes two schema changes well ordered. Only those that
//! move slots take turns with the others, move by move. Jobs that change replicas run beside all of
//! these, taking turns among themselves.

use serde::{Deserialize, Serialize};

use super::{Members, MoveOptions, Progress, ReplicaGoal, SlotSet};
use crate::error::Error;
use crate::ids::{GroupId, JobId, NodeId, PlacementId, RequestId, SchemaVersion};
use crate::script::Script;
use crate::value::Value;
use crate::wire::{Statement, StatementResult};

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

/// How a table is to be spread over shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Spread {
    /// By the hash of its key.
    Hash,
    /// By split points of its key, in any order.
    Range {
        /// One value per key column, or fewer.
        points: Vec<Vec<Value>>,
    },
    /// By the values of its key.
    List {
        /// The values of each shard, one per key column each.
        values: Vec<(GroupId, Vec<Vec<Value>>)>,
        /// Where all other values go.
        default: Option<GroupId>,
    },
    /// A copy on every shard.
    Reference,
}

/// What `/table/register` asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The table.
    pub table: String,
    /// Its key columns; none for a reference table.
    pub key: Vec<String>,
    /// How it is spread; with `colocate_with`, as that table is.
    pub spread: Spread,
    /// The key may hold NULL.
    pub nullable: bool,
    /// Share the placement of this table.
    pub colocate_with: Option<String>,
    /// Shards to spread an empty table over; empty means all.
    pub shards: Vec<GroupId>,
}

/// A write to reference tables. Its time is that of its job, its randomness comes from the request, so
/// that every shard computes the same rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceWrite {
    /// What the first shard remembers: a retry gets the first result even when its job is forgotten.
    pub request: RequestId,
    /// The schema that it was planned with.
    pub schema: SchemaVersion,
    /// The placements that it writes.
    pub placements: Vec<PlacementId>,
    /// In order, as one transaction. Dropped when the job ends.
    pub statements: Vec<Statement>,
}

impl ReferenceWrite {
    /// About how many bytes it takes in the registry.
    pub fn size_bytes(&self) -> usize {
        self.statements.iter().map(|s| s.sql.len() + s.params.size_bytes()).sum()
    }
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Writes reference tables, on all shards that have a copy.
    Write(ReferenceWrite),
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
        /// How many replicas, if no nodes are given.
        replicas: u32,
    },
    /// Makes, moves, promotes or takes away replicas.
    Replicas {
        /// What is wanted.
        goal: ReplicaGoal,
        /// How long a new replica may come no closer to its group.
        patience_ms: u64,
    },
    /// Spreads the slots of a table's placement evenly over its shards.
    Rebalance {
        /// The table.
        table: String,
        /// How.
        options: MoveOptions,
    },
    /// Brings some slots of a table's placement to a shard.
    Give {
        /// The table.
        table: String,
        /// The slots.
        slots: SlotSet,
        /// The shard.
        to: GroupId,
        /// How they move.
        options: MoveOptions,
    },
    /// Takes a table, and those colocated with it, off a shard.
    RemoveFromShard {
        /// The table.
        table: String,
        /// The shard.
        shard: GroupId,
        /// How its slots move.
        options: MoveOptions,
    },
    /// Takes all tables off a shard, then the shard out of the cluster.
    RemoveShard {
        /// The shard.
        shard: GroupId,
        /// How its slots move.
        options: MoveOptions,
    },
    /// Takes all replicas off a node and lets it go.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Splits ranges of a table's placement, and then brings what begins at the split points to a shard.
    Split {
        /// The table.
        table: String,
        /// The split points, as they were asked for.
        at: Vec<Vec<Value>>,
        /// The shard; none: everything stays where it is.
        to: Option<GroupId>,
        /// How they move.
        options: MoveOptions,
    },
    /// Runs statements of one transaction on every shard of a placement, the schema's changes among them.
    Script(Script),
}

impl JobKind {
    /// A rebalancing by slots, one move at a time, as fast as it goes.
    pub fn rebalance(table: impl Into<String>) -> Self {
        Self::Rebalance { table: table.into(), options: MoveOptions::default() }
    }

    /// How slots shall move, if this is a job that moves slots.
    pub fn move_options(&self) -> Option<&MoveOptions> {
        match self {
            Self::Rebalance { options, .. }
            | Self::Give { options, .. }
            | Self::RemoveFromShard { options, .. }
            | Self::RemoveShard { options, .. }
            | Self::Split { to: Some(_), options, .. } => Some(options),
            _ => None,
        }
    }

    /// Does another job of the same placement do the same? Its table may be another one of the placement.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rebalance { options: a, .. }, Self::Rebalance { options: b, .. }) => a == b,
            (
                Self::RemoveFromShard { shard: a, options: one, .. },
                Self::RemoveFromShard { shard: b, options: other, .. },
            ) => (a, one) == (b, other),
            (one, other) => one == other,
        }
    }

    /// Does the job move slots?
    pub fn moves_slots(&self) -> bool {
        self.move_options().is_some()
    }

    /// The word that `GET /job` shows.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Schema { .. } => "schema",
            Self::Register(_) => "register",
            Self::AddToShard { .. } => "add_to_shard",
            Self::Write(_) => "write",
            Self::Join { .. } => "join",
            Self::CreateShard { .. } => "create_shard",
            Self::Replicas { goal: ReplicaGoal::Group { .. }, .. } => "replicas",
            Self::Replicas { goal: ReplicaGoal::Repair { .. }, .. } => "repair",
            Self::Replicas { goal: ReplicaGoal::Drain { .. }, .. } => "drain",
            Self::Rebalance { .. } => "rebalance",
            Self::Give { .. } => "give",
            Self::RemoveFromShard { .. } => "remove_from_shard",
            Self::RemoveShard { .. } => "remove_shard",
            Self::Remove { .. } => "remove",
            Self::Split { .. } => "split",
            Self::Script(_) => "script",
        }
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The placement that it works on, perhaps one that is still to be made; a driver that starts over gets the same.
    pub placement: Option<PlacementId>,
    /// What a write answered, statement by statement; of a job that made a table: what filling it answered.
    pub results: Vec<StatementResult>,
    /// Of a job that moves slots: how far it is.
    pub progress: Option<Box<Progress>>,
    /// Of a job that changes replicas: how far it is.
    pub members: Option<Box<Members>>,
}

impl Job {
    /// Has it ended?
    pub fn ended(&self) -> bool {
        matches!(self.state, JobState::Done | JobState::Failed | JobState::Cancelled)
    }

    /// The JSON form of `GET /job/{id}`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "id": self.id.to_string(),
            "kind": self.kind.name(),
            "state": self.state,
            "percent": self.percent,
            "step": self.step,
            "error": self.error.as_ref().map(|error| error.to_json()["error"].clone()),
        });
        let more = self.progress.as_ref().map(|progress| progress.to_json(self));
        let more = more.or(self.members.as_ref().map(|members| members.to_json()));
        if let (Some(serde_json::Value::Object(more)), Some(json)) = (more, json.as_object_mut()) {
            json.extend(more);
        }
        json
    }
}
