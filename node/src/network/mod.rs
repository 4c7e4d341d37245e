//! Raft messages between nodes, on the connections that all groups share.
//!
//! Input: openraft's calls for one target replica ([`client`]), and frames from peers
//! ([`receive`]). A stream of appends is pipelined: requests go out as openraft makes them, up to a
//! bound, and answers come back in order. Frames of one connection keep their order, so one
//! connection per peer carries all groups without reordering any. Refused: messages for a replica
//! that this node does not host.

mod client;
mod receive;

use flotilla_shared::ids::{GroupId, ReplicaId};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

pub use client::Network;
pub use receive::RaftSession;

use crate::consensus::{SnapshotMeta, Types, Vote};

/// Frame kind of Raft messages, on the internal port.
pub const KIND_RAFT: u8 = 2;

/// A message to one replica.
#[derive(Serialize, Deserialize)]
struct RaftRequest {
    group: GroupId,
    to: ReplicaId,
    message: Message,
}

#[derive(Serialize, Deserialize)]
enum Message {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    /// Pages of a snapshot, in order; the first of a transfer starts it.
    Pages {
        transfer: u64,
        first: bool,
        chunk: Vec<u8>,
    },
    /// All pages were sent.
    Install {
        transfer: u64,
        hash: u64,
        vote: Vote,
        meta: SnapshotMetaWire,
    },
}

/// openraft's snapshot description only knows how to be read; this one is both.
#[derive(Serialize, Deserialize)]
struct SnapshotMetaWire {
    last_log_id: Option<crate::consensus::LogId>,
    last_membership: crate::consensus::StoredMembership,
}

impl From<SnapshotMetaWire> for SnapshotMeta {
    fn from(wire: SnapshotMetaWire) -> Self {
        Self { last_log_id: wire.last_log_id, last_membership: wire.last_membership }
    }
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Append(StreamAppendResult<Types>),
    Vote(VoteResponse<Types>),
    Transferred,
    Received,
    Installed(SnapshotResponse<Types>),
    /// The message was not handled; the sender tries again.
    Failed(String),
}
