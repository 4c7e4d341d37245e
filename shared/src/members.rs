//! Members of a group, as the jobs that change them and the group's leader speak of them.
//!
//! A [`MemberChange`] goes to the leader, once or many times; the answer, [`GroupMembers`], tells who
//! the members are after it. The order of the changes, and what a crash between two of them means, is
//! told where the job is: `node/src/jobs/membership.rs`.

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, ReplicaId};

/// How a group's membership changes; one step at a time. Each may come again, at any time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Changes nothing.
    Look,
    /// Adds a replica that does not vote, and does not wait for it.
    AddLearner {
        /// Its raft id.
        replica: ReplicaId,
        /// Its node.
        node: NodeId,
        /// Its node's internal address.
        addr: String,
    },
    /// Lets a learner vote.
    Promote(ReplicaId),
    /// Lets a learner vote in the place of a voter, which is taken out; the group never has fewer voters,
    /// nor more.
    Swap {
        /// Votes from now on.
        add: ReplicaId,
        /// Is taken out.
        remove: ReplicaId,
    },
    /// Takes a replica out.
    Remove(ReplicaId),
    /// Takes a replica out, unless it votes already.
    Forget(ReplicaId),
}

/// Who belongs to a group, as its leader knows it to be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMembers {
    /// Those who vote.
    pub voters: Vec<ReplicaId>,
    /// Those who follow only, with the index up to which each is known to hold the log.
    pub learners: Vec<(ReplicaId, u64)>,
    /// Index of the leader's last log entry.
    pub last_log: u64,
}

impl GroupMembers {
    /// Entries that a learner is behind; `None` for who is none.
    pub fn behind(&self, replica: ReplicaId) -> Option<u64> {
        let (_, held) = self.learners.iter().find(|(learner, _)| *learner == replica)?;
        Some(self.last_log.saturating_sub(*held))
    }

    /// Does the replica vote?
    pub fn votes(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica)
    }
}
