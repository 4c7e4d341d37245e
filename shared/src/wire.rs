//! What proxies, nodes and jobs say to each other, and what a log entry holds. One type per
//! message; frames carry them in postcard ([`crate::rpc`]), the log carries [`Command`].

use serde::{Deserialize, Serialize};

pub use crate::copies::{CopiedRow, CopyState, CopyWrite};
use crate::error::Error;
use crate::ids::{Epoch, GroupId, JobId, NodeId, PlacementId, ReplicaId, RequestId, SchemaVersion};
pub use crate::members::{GroupMembers, MemberChange};
use crate::moves::{MoveAnswer, MoveQuery, MoveReply, MoveStep};
use crate::registry::{MetaCommand, MetaReply, Registry, SchemaObject, SlotSet, Split};
use crate::script::{ScriptReply, ScriptStep};
pub use crate::status::{Identity, NodeStatus, ReplicaStatus};
pub use crate::steps::{JobAction, JobStep};
use crate::value::{Params, Value};

/// One SQL statement with its arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// SQL, as written.
    pub sql: String,
    /// Its arguments.
    pub params: Params,
}

impl Statement {
    /// A statement without arguments.
    pub fn bare(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), params: Params::default() }
    }
}

/// Part of a placement that a request relies on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The placement.
    pub placement: PlacementId,
    /// The shard's ownership version that the plan was made from.
    pub epoch: Epoch,
    /// These slots must be owned; `None`: everything the shard owned at `epoch`, so the version must
    /// be the same.
    pub slots: Option<SlotSet>,
}

/// What a plan relies on. Checked where the request runs: writes inside apply, reads inside the
/// read transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The schema that the statement was planned with.
    pub schema: SchemaVersion,
    /// Ownership that it needs.
    pub claims: Vec<Claim>,
}

/// One write: statements that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Write {
    /// Names it for ever.
    pub id: RequestId,
    /// What it relies on; `None` runs as written on that shard, for inspection and repair.
    pub route: Option<Route>,
    /// In order. Several make one transaction.
    pub statements: Vec<Statement>,
}

impl Write {
    /// About how many bytes it takes in a log entry.
    pub fn size_bytes(&self) -> usize {
        64 + self.statements.iter().map(|s| s.sql.len() + s.params.size_bytes() + 8).sum::<usize>()
    }
}

/// Rows with their column names and declared types.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// Names.
    pub columns: Vec<String>,
    /// Declared types in lower case; empty for expressions.
    pub types: Vec<String>,
    /// Values, row by row.
    pub values: Vec<Vec<Value>>,
}

/// What one statement of a write did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatementResult {
    /// Rowid of the last row that this shard inserted.
    pub last_insert_id: i64,
    /// Rows inserted, updated or deleted by the statement itself.
    pub rows_affected: u64,
    /// Of RETURNING, or of a SELECT inside a transaction.
    pub rows: Option<Rows>,
}

/// What one write did: one result per statement, or the error that undid all of them.
pub type WriteResult = Result<Vec<StatementResult>, Error>;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Sees every write acknowledged before the read began (ReadIndex).
    #[default]
    Linearizable,
    /// The same under the assumption that clocks run at like speed (leader lease).
    Lease,
    /// What the replica at hand holds.
    None,
}

/// One read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// What it relies on; `None` runs as written on that shard.
    pub route: Option<Route>,
    /// The SELECT.
    pub statement: Statement,
    /// How fresh.
    pub level: Level,
    /// With [`Level::None`]: refuse what may lack a change that was acknowledged longer ago.
    pub freshness_ms: Option<u64>,
}

/// A change that a job makes on a shard. Idempotent: a second application answers like the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ShardCommand {
    /// Sets what the shard owns of a placement, unless it already is at `epoch` or later.
    Own {
        /// The placement.
        placement: PlacementId,
        /// The version that this makes.
        epoch: Epoch,
        /// What it owns then.
        slots: SlotSet,
    },
    /// Runs a schema statement once per job.
    Schema {
        /// The job.
        job: JobId,
        /// The version that this makes.
        version: SchemaVersion,
        /// Statements, in order.
        sql: Vec<String>,
        /// Undo them again: only tells whether they would succeed.
        dry_run: bool,
    },
    /// Takes a table out of the home placement.
    Register {
        /// The job.
        job: JobId,
        /// The table.
        table: String,
        /// Into a new placement, or one that exists.
        into: NewHome,
        /// The schema version that this makes.
        version: SchemaVersion,
    },
    /// Runs a write on this shard's copy of reference tables, once per job.
    WriteCopy(CopyWrite),
    /// Adds rows to a copy of a reference table that is being made, once per job and chunk.
    FillCopy {
        /// The job.
        job: JobId,
        /// Which part of the table it is.
        chunk: u64,
        /// The table.
        table: String,
        /// The columns, the rowid among them.
        columns: Vec<String>,
        /// Rows; texts are blobs here, because not all are UTF-8.
        rows: Vec<CopiedRow>,
        /// Where AUTOINCREMENT goes on.
        sequence: Option<i64>,
    },
    /// Tells the schema, in order with everything else in the log.
    Describe,
    /// Moves slots.
    Move(Box<MoveStep>),
    /// Gives up a slot for those that it is split into.
    Split(Split),
    /// A step that its job's id guards.
    Job(JobStep),
    /// Runs a script, once per job.
    Script(Box<ScriptStep>),
}

/// Where a table goes that leaves the home placement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NewHome {
    /// A placement of its own.
    New {
        /// Its id.
        placement: PlacementId,
        /// What the home shard owns of it if the table is empty.
        share: SlotSet,
        /// What it owns if the table holds rows: they stay where they are.
        all: SlotSet,
    },
    /// The placement of a colocated table; the table must be empty unless its rows may stay.
    Existing {
        /// Every slot of that placement is on the home shard.
        rows_may_stay: bool,
    },
    /// A reference placement, if the table is small enough to be copied.
    Reference {
        /// Its id.
        placement: PlacementId,
    },
}

/// What a shard answers to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ShardReply {
    /// Done.
    Ok,
    /// The schema after the statement.
    Schema(Vec<SchemaObject>),
    /// The table was registered.
    Registered {
        /// It held rows, so this shard owns every slot.
        had_rows: bool,
        /// The home placement's version now.
        home_epoch: Epoch,
    },
    /// What a write answered.
    Written {
        /// One per statement.
        results: Vec<StatementResult>,
        /// Has it taken effect?
        state: CopyState,
    },
    /// Of a step of a move.
    Move(MoveReply),
    /// The slot is split; the shard's version of the placement now.
    Split(Epoch),
    /// The job was undone here, for this reason.
    Undone(Error),
    /// What a script answered.
    Script(Box<ScriptReply>),
}

/// What a log entry holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The leader's clock when it proposed, microseconds since 1970: the only time that apply knows.
    pub at_us: i64,
    /// The only randomness that apply knows.
    pub seed: u64,
    /// What to do.
    pub body: Body,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// Client writes: everything that waited when the entry was proposed.
    Writes(Vec<Write>),
    /// A job's step on a shard.
    Shard(ShardCommand),
    /// A change of the registry, in the `meta` group.
    Meta(Box<MetaCommand>),
}

/// What applying an entry answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Blank and membership entries.
    #[default]
    Empty,
    /// One result per write.
    Writes(Vec<WriteResult>),
    /// A shard's answer to a job.
    Shard(Result<ShardReply, Error>),
    /// The registry's answer.
    Meta(Result<MetaReply, Error>),
}

/// A request to a node's internal port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you?
    Identify,
    /// Writes for one group, in order; answered by its leader.
    Write {
        /// The shard.
        group: GroupId,
        /// The writes.
        writes: Vec<Write>,
    },
    /// A read on one group.
    Read {
        /// The shard.
        group: GroupId,
        /// The read.
        read: Read,
    },
    /// A job's step on a shard; answered by its leader.
    Shard {
        /// The shard.
        group: GroupId,
        /// The step.
        command: ShardCommand,
    },
    /// A read for the driver of a move; answered by the group's leader.
    Moves {
        /// The shard.
        group: GroupId,
        /// What it asks.
        query: MoveQuery,
    },
    /// A change of the registry; answered by the leader of `meta`.
    Meta(MetaCommand),
    /// The registry once it is newer than `since`, or when the wait is over.
    Watch {
        /// The version at hand.
        since: u64,
        /// How long to wait.
        wait_ms: u64,
        /// Make sure first that the answer is not older than any acknowledged change.
        fresh: bool,
    },
    /// Makes a replica of a group on this node, unless it is there.
    CreateReplica {
        /// The cluster, which a fresh node joins by this.
        cluster: u128,
        /// The node's id in it.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// The raft id.
        replica: ReplicaId,
    },
    /// Drops a replica and its data.
    DropReplica {
        /// The group.
        group: GroupId,
        /// The raft id.
        replica: ReplicaId,
    },
    /// Starts a group: all first members, with node and address.
    InitGroup {
        /// The group.
        group: GroupId,
        /// Raft id, node and internal address of each.
        members: Vec<(ReplicaId, NodeId, String)>,
    },
    /// Changes a group's membership; answered by its leader.
    Membership {
        /// The group.
        group: GroupId,
        /// The change.
        change: MemberChange,
    },
    /// The state of the node and its replicas.
    Status,
    /// For how long each node has been silent; answered by the leader of `meta`.
    Silence,
    /// The content hash of a replica's database and the index it was taken at.
    ContentHash(GroupId),
    /// A read on one group that is answered in pieces, all of one moment. Answered by the first piece;
    /// the others are pulled on the same connection, and it ends with that connection.
    Open {
        /// The shard.
        group: GroupId,
        /// The read.
        read: Read,
        /// Names the stream; chosen at random, so that no other connection's stream is ever meant.
        stream: RequestId,
        /// How long it may stay open.
        life_ms: u64,
    },
    /// The next piece of a stream.
    Pull(RequestId),
    /// Nobody wants the rest of a stream.
    Close(RequestId),
    /// The leader hands its group over to a node, or to the one that is best prepared; it answers who leads.
    HandOver {
        /// The group.
        group: GroupId,
        /// The node.
        to: Option<NodeId>,
    },
    /// An index of the group's log that everything acknowledged before is within; answered by its leader.
    ReadIndex(GroupId),
    /// A read to which SQL's clock shows a given time: of a statement that reads several groups, all see one.
    ReadAt {
        /// The shard.
        group: GroupId,
        /// The read.
        read: Read,
        /// Microseconds since 1970.
        at_us: i64,
        /// With a stream and its life in milliseconds, it is answered in pieces like [`Request::Open`].
        stream: Option<(RequestId, u64)>,
    },
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// Done.
    Ok,
    /// Who it is.
    Identity(Identity),
    /// One result per write.
    Writes(Vec<WriteResult>),
    /// Rows.
    Rows(Rows),
    /// A shard's answer to a job.
    Shard(ShardReply),
    /// A shard's answer to the driver of a move.
    Moves(MoveAnswer),
    /// The registry's answer.
    Meta(MetaReply),
    /// The registry, or `None` when it is no newer.
    Registry(Option<Box<Registry>>),
    /// State.
    Status(NodeStatus),
    /// Nodes, and for how many milliseconds each has been silent.
    Silence(Vec<(NodeId, u64)>),
    /// The members of a group after a change.
    Members(GroupMembers),
    /// Applied index and content hash.
    ContentHash(u64, u64),
    /// A piece of a stream.
    Piece {
        /// The node that has the stream.
        node: NodeId,
        /// The next rows.
        values: Vec<Vec<Value>>,
        /// Others follow; without, the stream has ended.
        more: bool,
    },
    /// Who leads the group.
    Leader(NodeId),
    /// An index of a log.
    Index(u64),
}

/// A request with the time that its sender will wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Milliseconds; past them the receiver may drop the request.
    pub timeout_ms: u64,
    /// The request.
    pub request: Request,
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.body {
            Body::Writes(writes) => write!(f, "{} writes", writes.len()),
            Body::Shard(_) => f.write_str("a job's step"),
            Body::Meta(_) => f.write_str("a change of the registry"),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("nothing"),
            Self::Writes(results) => write!(f, "{} results", results.len()),
            Self::Shard(_) => f.write_str("a shard's answer"),
            Self::Meta(_) => f.write_str("the registry's answer"),
        }
    }
}
