//! What openraft is told about us: types of ids, entries and answers. The only other places that
//! know openraft are the log ([`crate::log`]), the state machine ([`crate::state`]), the network
//! ([`crate::network`]) and the host ([`crate::host`]).
//!
//! Everything below the host is generic over [`Consensus`], so that it runs on tokio in a node and
//! on a simulated runtime, with virtual time and a seed, in tests.

use std::fmt;

use flotilla_shared::ids::{GroupId, NodeId};
use flotilla_shared::wire::{Command, Outcome};
use openraft::{Config, RaftTypeConfig, SnapshotPolicy};
use serde::{Deserialize, Serialize};

use crate::options::NodeOptions;

/// Entries that a slow follower may still get from the log after compaction, instead of pages.
const KEPT_ENTRIES: u64 = 1000;

/// Entries of one append request: a request is bounded in bytes by the log, this keeps openraft's own
/// bookkeeping per request small.
const MAX_ENTRIES_PER_APPEND: u64 = 512;

/// Where a replica is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its node.
    pub node: NodeId,
    /// The node's internal address when it joined; the registry knows a later one.
    pub addr: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at {}", self.node, self.addr)
    }
}

/// A leader is named by its term alone: one leader per term, as in the Raft paper.
pub type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
/// The leader that committed an entry.
pub type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
/// A vote.
pub type Vote = openraft::impls::Vote<LeaderId>;
/// Position of an entry.
pub type LogId = openraft::LogId<CommittedLeaderId>;
/// What an entry carries.
pub type Payload = openraft::EntryPayload<Command, u64, Peer>;
/// A log entry.
pub type Entry = openraft::Entry<CommittedLeaderId, Payload>;
/// Members of a group as of some entry.
pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Peer>;
/// Which state a snapshot holds.
pub type SnapshotMeta = openraft::storage::SnapshotMeta<CommittedLeaderId, u64, Peer>;

/// All of our type configurations; they differ in the runtime alone.
pub trait Consensus:
    RaftTypeConfig<
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
        Term = u64,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = Entry,
    >
{
}

impl<C> Consensus for C where
    C: RaftTypeConfig<
            D = Command,
            R = Outcome,
            NodeId = u64,
            Node = Peer,
            Term = u64,
            LeaderId = LeaderId,
            Vote = Vote,
            Payload = Payload,
            Entry = Entry,
        >
{
}

/// Declares a type configuration on a runtime.
#[macro_export]
macro_rules! consensus_types {
    ($(#[$doc:meta])* $name:ident, $runtime:ty) => {
        openraft::declare_raft_types!(
            $(#[$doc])*
            pub $name:
                D = flotilla_shared::wire::Command,
                R = flotilla_shared::wire::Outcome,
                Node = $crate::consensus::Peer,
                LeaderId = $crate::consensus::LeaderId,
                AsyncRuntime = $runtime,
        );
    };
}

consensus_types!(
    /// The configuration of a real node: tokio.
    Types,
    openraft::impls::TokioRuntime
);

/// What openraft is told about a group. A simulation runs with the same, but for times and bounds, and, having no
/// [pulse](crate::pulse), with openraft's own heartbeats.
pub fn raft_config(options: &NodeOptions, group: GroupId) -> Config {
    Config {
        cluster_name: group.to_string(),
        // The pulse sends them.
        enable_heartbeat: false,
        heartbeat_interval: options.heartbeat_interval.as_millis() as u64,
        election_timeout_min: options.election_timeout_min.as_millis() as u64,
        election_timeout_max: options.election_timeout_max.as_millis() as u64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_threshold),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES.min(options.snapshot_threshold),
        replication_lag_threshold: options.snapshot_threshold * 2 + KEPT_ENTRIES,
        purge_batch_size: 256,
        max_payload_entries: MAX_ENTRIES_PER_APPEND,
        enable_pre_vote: Some(true),
        // A leader's own disk is not waited for, so the followers may hold, and have committed, entries
        // that a restarted leader has lost. If it went on leading in its old term, it would give their
        // indexes to other entries, and nobody could tell the two apart.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}
