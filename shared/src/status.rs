//! What a node tells of itself and its replicas.

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::leaders::BalancerStatus;

/// A node, as it presents itself before it belongs to a cluster and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The id it was configured with, or got.
    pub node: NodeId,
    /// Random id of its data folder.
    pub instance: u128,
    /// Its cluster; 0 while it has none.
    pub cluster: u128,
    /// Its internal address.
    pub raft_addr: String,
    /// Its HTTP address.
    pub http_addr: String,
    /// Where it stands.
    pub zone: Option<String>,
    /// Groups that it shall hold a replica of at bootstrap.
    pub groups: Vec<GroupId>,
}

/// One replica's state, for `/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its group.
    pub group: GroupId,
    /// Its raft id.
    pub replica: ReplicaId,
    /// `leader`, `follower`, `learner`, `candidate` or `stopped`.
    pub role: String,
    /// Whom it believes to lead.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// Index of its last log entry.
    pub last_log: u64,
    /// Index of the last entry it knows to be committed.
    pub committed: u64,
    /// Index of the last entry it applied.
    pub applied: u64,
    /// Index up to which its log was purged.
    pub purged: u64,
    /// Raft ids of the voters.
    pub voters: Vec<ReplicaId>,
}

/// One node's state, for `/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Who it is.
    pub identity: Identity,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// It is about to stop: nothing is for it to lead any more.
    pub stopping: bool,
    /// The balancer of leaders, if it runs here.
    pub balancer: Option<BalancerStatus>,
}
