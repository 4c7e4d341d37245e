//! The registry: what the `meta` group replicates and what proxies plan with.
//!
//! [`Registry`] is a value. It changes only through [`Registry::apply`] with a
//! [`MetaCommand`] from the log, which is a pure function, so every replica holds the same. Proxies
//! receive whole copies by a watch and never ask per query; the map may be old, and the shards'
//! own ownership tables (the law) refuse what was planned with an old one.

mod apply;
mod balance;
mod begin;
mod distinct;
mod fill;
mod function;
mod goal;
mod job;
mod leaders;
mod members;
mod placement;
mod rebalance;
mod split;
mod table;
mod ties;
mod unique;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use apply::{Effect, MetaCommand, MetaReply};
pub use balance::{
    AIM_WITHIN_PERCENT, EVEN_WITHIN_PERCENT, Goal, MAX_PARALLEL, MAX_WEIGHT, Measure, MoveOptions, Sizes, SlotSize,
    total_size,
};
pub use function::{Function, MAX_POINTS, MAX_POINTS_BYTES};
pub use job::{Job, JobKind, JobState, ReferenceWrite, Registration, Spread};
pub use leaders::{LeaderRule, LeaderRules, MAX_ZONE_CHARS, check_zone};
pub use members::{
    Exchange, Founding, MAX_SILENCE_MS, MemberStep, Members, PATIENCE_MS, Planned, Quorum, ReplicaChange, ReplicaGoal,
    Sight,
};
pub use placement::{Placement, SlotRange, SlotSet};
pub use rebalance::{Leave, Left, Mark, Move, MoveChange, Progress, Transfer, Wish};
pub use split::{Ranges, Split, SplitStep};
pub use table::{Column, SchemaObject, Table};
pub use ties::{ForeignKey, mentions, quoted, read_tables, row_only, schema_database};
pub use unique::unique_beyond_shard;

use crate::ids::{GroupId, JobId, NodeId, PlacementId, ReplicaId, SchemaVersion};

/// The placement of every table that nobody registered: one slot, owned by [`HOME_SHARD`].
pub const HOME: PlacementId = PlacementId(0);

/// Where unregistered tables live. One shard for all of them, so that they join and share
/// transactions like tables of one file.
pub const HOME_SHARD: GroupId = GroupId(1);

/// Finished jobs kept for `GET /job`: enough to look back, few enough to travel with each copy.
pub const FINISHED_JOBS_KEPT: usize = 64;

/// Finished writes to reference tables kept beside them, so that many of these do not push out other
/// jobs. A proxy that waits for one has long looked; a later retry is answered by the first shard.
pub const FINISHED_WRITES_KEPT: usize = 64;

/// Writes to reference tables that may wait: each takes some milliseconds, so these take a second or so.
pub const MAX_WAITING_WRITES: usize = 256;

/// Bytes that they may take together: they travel with each copy of the registry.
pub const MAX_WAITING_WRITE_BYTES: usize = 1 << 20;

/// Bytes of one write to a reference table, for the same reason.
pub const MAX_REFERENCE_WRITE_BYTES: usize = 256 << 10;

/// Bytes that such a write may answer with RETURNING, for the same reason.
pub const MAX_REFERENCE_RESULT_BYTES: usize = 16 << 10;

/// Rows of a table that becomes a reference table, or of one that a further shard gets a copy of: they
/// are copied while nobody writes.
pub const MAX_COPIED_ROWS: u64 = 100_000;

/// Bytes of such a table: about a second of copying.
pub const MAX_COPIED_BYTES: u64 = 16 << 20;

/// Columns of such a table: twice as many are read.
pub const MAX_COPIED_COLUMNS: usize = 500;

/// For how long after its table was made the rows of `CREATE TABLE … AS` may be put in: half the time for which
/// shards remember a write, so that clocks may differ and a write may take its time.
pub const MAX_FILL_US: i64 = 300_000_000;

/// A process that hosts replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Random id of its data folder: a wiped node comes back with another.
    pub instance: u128,
    /// `host:port` of the internal port.
    pub raft_addr: String,
    /// `host:port` of its HTTP API.
    pub http_addr: String,
    /// Where it stands, as its operator calls it.
    pub zone: Option<String>,
    /// Left for good.
    pub removed: bool,
}

/// One replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Where it is.
    pub node: NodeId,
    /// Its raft id.
    pub replica: ReplicaId,
    /// It votes; one that does not is a *reader*: it follows and serves reads.
    pub votes: bool,
}

impl ReplicaInfo {
    /// The JSON form of `GET /shard`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "node": self.node, "replica": self.replica, "votes": self.votes })
    }
}

/// Tables, shards, placements, nodes and jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Registry {
    /// Raised by every change; what a watch compares.
    pub version: u64,
    /// Names the cluster for ever.
    pub cluster: u128,
    /// Raised by every schema change.
    pub schema_version: SchemaVersion,
    /// All nodes that ever joined.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// All groups with their replicas.
    pub groups: BTreeMap<GroupId, Vec<ReplicaInfo>>,
    /// Nodes that get no new replicas, because somebody drains them.
    pub draining: BTreeSet<NodeId>,
    /// Replicas that were taken out and that their nodes have not dropped yet.
    pub left: Vec<(GroupId, ReplicaInfo)>,
    /// All placements.
    pub placements: BTreeMap<PlacementId, Placement>,
    /// Tables by lower-case name.
    pub tables: BTreeMap<String, Table>,
    /// All schema objects in an order in which they can be created.
    pub objects: Vec<SchemaObject>,
    /// Jobs: running ones, the last [`FINISHED_JOBS_KEPT`] finished, and the last
    /// [`FINISHED_WRITES_KEPT`] finished writes.
    pub jobs: BTreeMap<JobId, Job>,
    /// Next integer key to hand out, by lower-case table name.
    pub next_key: BTreeMap<String, i64>,
    /// Who shall lead.
    pub leaders: LeaderRules,
    /// Last numbers given out.
    pub counters: Counters,
}

/// Last numbers given out; they only grow, so no id is used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Last node id.
    pub node: u64,
    /// Last replica id.
    pub replica: u64,
    /// Last placement id.
    pub placement: u32,
    /// Last job id.
    pub job: u64,
    /// Last move of slots.
    pub moves: u64,
    /// Last time that slot indexes were needed.
    pub generation: u64,
    /// Highest group that was taken out.
    pub group: u32,
    /// Last exchange of replicas.
    pub exchange: u64,
}

impl Registry {
    /// The table of that name, in any case.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(&name.to_ascii_lowercase())
    }

    /// The placement of that table; [`HOME`] for one the registry does not know.
    pub fn placement_of(&self, table: &str) -> Option<&Placement> {
        let id = self.table(table).map_or(HOME, |table| table.placement);
        self.placements.get(&id)
    }

    /// All shards, in order.
    pub fn shards(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied().filter(|group| group.is_shard())
    }

    /// Replicas of a group that live on nodes that have not left.
    pub fn replicas(&self, group: GroupId) -> &[ReplicaInfo] {
        self.groups.get(&group).map_or(&[], Vec::as_slice)
    }

    /// The replica id that `node` holds of `group`.
    pub fn replica_on(&self, group: GroupId, node: NodeId) -> Option<ReplicaId> {
        self.replicas(group).iter().find(|replica| replica.node == node).map(|replica| replica.replica)
    }
}
