//! Who belongs to a group: what its leader does to change it, and what a node does with replicas that
//! were taken out.
//!
//! A [`MemberChange`] comes from the job that changes replicas, to the leader, perhaps more than once.
//! What is to be proposed is decided purely ([`decide`]) from the members as the group has committed
//! them; the answer tells what they are then. A change of voters goes through a joint configuration, so
//! that it needs a majority of the old voters and of the new ones; one that a leader left half done is
//! finished by the next call. Refused: what would leave the group without a majority that answers.
//!
//! The registry tells each node what was taken out while it was away; [`sweep`] drops that, and whatever is
//! here of a shard that has left the cluster: a replica may have come to it as it left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, ReplicaId};
use flotilla_shared::registry::{MetaCommand, Registry};
use flotilla_shared::wire::{GroupMembers, MemberChange};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use tokio::time::Instant;

use crate::consensus::{Peer, Types};
use crate::handover::hand_over;
use crate::host::{Host, Replica};
use crate::propose::write_error;

/// How long the registry may take to hear that a replica was dropped, before that is tried anew.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a try that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What a change needs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Needed {
    Nothing,
    Learner(u64, Peer),
    Voters(BTreeSet<u64>),
    NoNode(u64),
}

/// The members that a group has committed: one set of voters, or two while a change is half done.
struct Committed<'a> {
    voters: &'a [BTreeSet<u64>],
    nodes: &'a BTreeSet<u64>,
}

fn decide(now: &Committed<'_>, change: &MemberChange) -> Needed {
    let votes = |id: &ReplicaId| now.voters.iter().any(|voters| voters.contains(&id.0));
    let target = now.voters.last().cloned().unwrap_or_default();
    let voters = |add: Option<ReplicaId>, remove: Option<ReplicaId>| {
        let mut wanted = target.clone();
        wanted.extend(add.map(|id| id.0));
        remove.inspect(|id| _ = wanted.remove(&id.0));
        match now.voters.len() == 1 && wanted == target {
            true => Needed::Nothing,
            false => Needed::Voters(wanted),
        }
    };
    match change {
        MemberChange::Look => Needed::Nothing,
        MemberChange::AddLearner { replica, .. } if now.nodes.contains(&replica.0) => Needed::Nothing,
        MemberChange::AddLearner { replica, node, addr } => {
            Needed::Learner(replica.0, Peer { node: *node, addr: addr.clone() })
        }
        MemberChange::Promote(id) => voters(Some(*id), None),
        MemberChange::Swap { add, remove } => voters(Some(*add), Some(*remove)),
        MemberChange::Remove(id) if votes(id) => voters(None, Some(*id)),
        MemberChange::Forget(id) if votes(id) => Needed::Nothing,
        MemberChange::Remove(id) | MemberChange::Forget(id) if now.nodes.contains(&id.0) => Needed::NoNode(id.0),
        MemberChange::Remove(_) | MemberChange::Forget(_) => Needed::Nothing,
    }
}

/// Changes a group's members, at its leader; `silence` is how long a voter may have said nothing and still
/// counts as one that answers.
///
/// # Errors
/// That this replica does not lead, or that the change cannot be made now.
pub async fn change(replica: &Replica, change: &MemberChange, silence: Duration) -> Result<GroupMembers, Error> {
    let raft = replica.raft();
    let needed = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.committed_membership_config.membership();
        let nodes = members.nodes().map(|(id, _)| *id).collect();
        decide(&Committed { voters: members.get_joint_config(), nodes: &nodes }, change)
    };
    let changed = match needed {
        Needed::Nothing => return Ok(members(replica)),
        Needed::Learner(id, peer) => raft.add_learner(id, peer, false).await,
        Needed::Voters(voters) => {
            check_alive(replica, &voters, silence)?;
            let_go(replica, &voters, silence).await?;
            raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await
        }
        Needed::NoNode(id) => raft.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false).await,
    };
    match changed {
        Ok(_) => Ok(members(replica)),
        Err(RaftError::APIError(error)) => Err(refusal(&error)),
        Err(RaftError::Fatal(error)) => Err(Error::new(Code::ShuttingDown, error.to_string())),
    }
}

/// Another change that is under way ends; the same may be asked again.
fn refusal(error: &ClientWriteError<Types>) -> Error {
    match error {
        ClientWriteError::ChangeMembershipError(error) => Error::new(Code::Unavailable, error.to_string()),
        other => write_error(other),
    }
}

fn members(replica: &Replica) -> GroupMembers {
    let metrics = replica.raft().metrics();
    let metrics = metrics.borrow_watched();
    let members = metrics.committed_membership_config.membership();
    let held = |id: u64| {
        let matched = metrics.replication.as_ref().and_then(|progress| progress.get(&id).cloned().flatten());
        matched.map_or(0, |log_id| log_id.index)
    };
    GroupMembers {
        voters: members.voter_ids().map(ReplicaId).collect(),
        learners: members.learner_ids().map(|id| (ReplicaId(id), held(id))).collect(),
        last_log: metrics.last_log_index.unwrap_or(0),
    }
}

/// The group must be able to commit with these voters, those that have just been heard of.
fn check_alive(replica: &Replica, voters: &BTreeSet<u64>, silence: Duration) -> Result<(), Error> {
    let metrics = replica.raft().metrics();
    let metrics = metrics.borrow_watched();
    let heard = |id: &u64| {
        let at = metrics.heartbeat.as_ref().and_then(|heard| heard.get(id).cloned().flatten());
        *id == replica.id().0 || at.is_some_and(|at| at.elapsed() <= silence)
    };
    let live = voters.iter().filter(|id| heard(id)).count();
    match live * 2 > voters.len() {
        true => Ok(()),
        false => {
            let message =
                format!("{} would have no majority: {live} of {} voters answer", replica.group(), voters.len());
            Err(Error::new(Code::Unavailable, message).hint("start the nodes that are down"))
        }
    }
}

/// A leader that is to go lets another lead first: writes then wait for one transfer, not for an
/// election. The caller finds the next leader. Where nobody else votes, the leader goes at the end.
async fn let_go(replica: &Replica, voters: &BTreeSet<u64>, silence: Duration) -> Result<(), Error> {
    let us = replica.id().0;
    let heirs = {
        let metrics = replica.raft().metrics();
        let metrics = metrics.borrow_watched();
        let now: BTreeSet<u64> = metrics.committed_membership_config.membership().voter_ids().collect();
        now.intersection(voters).count()
    };
    if voters.contains(&us) || heirs == 0 {
        return Ok(());
    }
    match hand_over(replica, None, silence).await {
        Ok(leader) => Err(Error::not_leader(Some(leader))),
        Err(error) if error.code == Code::Conflict => Err(Error { code: Code::Unavailable, ..error }),
        Err(error) => Err(error),
    }
}

/// Drops what was taken out of its group, whenever the registry says so, and tells the registry. Never
/// returns.
pub async fn sweep(host: Arc<Host>) {
    let mut changes = host.cluster().changes();
    loop {
        changes.borrow_and_update();
        let registry = host.cluster().registry();
        match drop_left(&host, &registry).await {
            // The sender lives as long as the host's client.
            Ok(()) => drop(changes.changed().await),
            Err(error) => {
                tracing::debug!(%error, "replicas that were taken out are still here");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn drop_left(host: &Arc<Host>, registry: &Registry) -> Result<(), Error> {
    let us = host.identity();
    let Some(info) = registry.nodes.get(&us.node).filter(|_| us.cluster != 0 && registry.cluster == us.cluster) else {
        return Ok(());
    };
    if info.removed && info.instance == us.instance {
        for replica in host.replicas() {
            drop_one(host, replica.group(), replica.id()).await?;
        }
        return Ok(());
    }
    for replica in host.replicas().iter().filter(|replica| registry.is_gone(replica.group())) {
        drop_one(host, replica.group(), replica.id()).await?;
    }
    for (group, left) in registry.left.iter().filter(|(_, left)| left.node == us.node) {
        drop_one(host, *group, left.replica).await?;
        let dropped = MetaCommand::Dropped { group: *group, replica: left.replica };
        host.cluster().meta(dropped, Instant::now() + PATIENCE).await?;
    }
    Ok(())
}

async fn drop_one(host: &Host, group: GroupId, replica: ReplicaId) -> Result<(), Error> {
    if host.replica(group).is_some_and(|here| here.id() == replica) {
        tracing::info!(%group, %replica, "this replica was taken out of its group; its data is dropped");
    }
    host.drop_replica(group, replica).await
}

#[cfg(test)]
mod tests {
    use flotilla_shared::ids::NodeId;

    use super::*;

    fn needed(voters: &[&[u64]], learners: &[u64], change: MemberChange) -> Needed {
        let voters: Vec<BTreeSet<u64>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let nodes = voters.iter().flatten().chain(learners).copied().collect();
        decide(&Committed { voters: &voters, nodes: &nodes }, &change)
    }

    fn wanted(ids: &[u64]) -> Needed {
        Needed::Voters(ids.iter().copied().collect())
    }

    /// Each change is proposed once; what is there already needs nothing.
    #[test]
    fn changes_are_idempotent() {
        let [one, four] = [ReplicaId(1), ReplicaId(4)];
        let swap = MemberChange::Swap { add: four, remove: one };
        assert_eq!(needed(&[&[1, 2, 3]], &[4], swap.clone()), wanted(&[2, 3, 4]));
        assert_eq!(needed(&[&[2, 3, 4]], &[], swap), Needed::Nothing);
        assert_eq!(needed(&[&[1, 2, 3]], &[4], MemberChange::Promote(four)), wanted(&[1, 2, 3, 4]));
        assert_eq!(needed(&[&[1, 4]], &[], MemberChange::Promote(four)), Needed::Nothing);
        assert_eq!(needed(&[&[1, 4]], &[], MemberChange::Remove(one)), wanted(&[4]));
        assert_eq!(needed(&[&[4]], &[], MemberChange::Remove(one)), Needed::Nothing);
        assert_eq!(needed(&[&[1]], &[4], MemberChange::Remove(four)), Needed::NoNode(4));
        let add = MemberChange::AddLearner { replica: four, node: NodeId(4), addr: "a:1".into() };
        assert_eq!(needed(&[&[1]], &[4], add.clone()), Needed::Nothing);
        assert_eq!(needed(&[&[1]], &[], add), Needed::Learner(4, Peer { node: NodeId(4), addr: "a:1".into() }));
    }

    /// A change that a leader left half done is finished by the same call; giving up a replica that votes
    /// by then changes nothing.
    #[test]
    fn half_done_changes_are_finished() {
        let [one, four] = [ReplicaId(1), ReplicaId(4)];
        let swap = MemberChange::Swap { add: four, remove: one };
        assert_eq!(needed(&[&[1, 2, 3], &[2, 3, 4]], &[], swap), wanted(&[2, 3, 4]));
        assert_eq!(needed(&[&[1, 2], &[1, 2, 4]], &[], MemberChange::Promote(four)), wanted(&[1, 2, 4]));
        assert_eq!(needed(&[&[1, 2, 3], &[2, 3]], &[], MemberChange::Remove(one)), wanted(&[2, 3]));
        assert_eq!(needed(&[&[1, 2, 3], &[2, 3, 4]], &[], MemberChange::Forget(four)), Needed::Nothing);
        assert_eq!(needed(&[&[1, 2, 3]], &[4], MemberChange::Forget(four)), Needed::NoNode(4));
    }
}
