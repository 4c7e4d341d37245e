//! A leader hands its group over to another replica: on request, and before its node stops.
//!
//! The follower is chosen by what the leader knows of all ([`choose`]): it votes, has answered just now
//! and misses next to nothing of the log. Then openraft takes no more proposals, sends the follower
//! what is left, and lets it stand for election at once, with leave to ignore the lease. That takes two
//! round trips and two syncs. What comes meanwhile waits here until the new leader is known
//! ([`refused`], [`refused_read`]), and is sent on to it: a caller pays for the hand-over itself and
//! for one more hop, not for an election timeout, nor for guesses.
//!
//! openraft never takes a transfer back. If the follower does not take over after all, the group is
//! handed to the next one, and, should nobody take it, elects as it does after the loss of a leader.

use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::{Instant as _, RaftMetrics, ServerState};

use crate::consensus::Types;
use crate::host::{Raft, Replica};
use crate::propose::{read_error, write_error};

/// Entries that a follower may miss when it is asked to take over: what a healthy one has on the way
/// at any moment. The rest is sent while nobody may write.
const MAX_LAG_ENTRIES: u64 = 16;

/// How long a named follower may take to come that close before the request is refused.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How long a leader waits for the follower to take over, before it asks the next; a hand-over takes
/// some milliseconds, on a slow network some hundred. Two of these and [`CATCH_UP`] end within one try
/// of a caller.
const TAKE_OVER: Duration = Duration::from_millis(600);

/// Pause between two looks at a follower that catches up.
const LOOK: Duration = Duration::from_millis(5);

/// Followers that are asked, one after the other.
const MAX_ASKED: usize = 2;

/// What a leader knows of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Follower {
    replica: u64,
    node: NodeId,
    /// Entries of the leader's log that it has not acknowledged.
    lag: u64,
    /// When it last answered; never: `None`.
    silent_for: Option<Duration>,
}

/// Followers that vote and were heard of within `patience`, the one that misses least first, and of
/// equals the one heard of last.
fn heard(followers: &[Follower], patience: Duration) -> Vec<Follower> {
    let mut heard: Vec<Follower> = followers
        .iter()
        .copied()
        .filter(|follower| follower.silent_for.is_some_and(|silent| silent <= patience))
        .collect();
    heard.sort_by_key(|follower| (follower.lag, follower.silent_for));
    heard
}

/// What to do about a wish to hand over.
#[derive(Debug)]
enum Choice {
    /// Ask these, in order.
    Ask(Vec<Follower>),
    /// They are there, but have to catch up first.
    Wait(Error),
    /// There is nobody.
    Refuse(Error),
}

/// The followers to ask, in order. `to` is asked first, and must be fit; the others only stand in.
fn choose(followers: &[Follower], to: Option<NodeId>, patience: Duration) -> Choice {
    let conflict = |why: String| Error::new(Code::Conflict, why).hint("GET /status shows the replicas and their lag");
    let mut heard = heard(followers, patience);
    let behind = |node, lag| Choice::Wait(conflict(format!("node {node} is {lag} entries behind the leader")));
    match to {
        None => match heard.first() {
            None => return Choice::Refuse(conflict("no other replica that votes answers the leader".to_owned())),
            Some(best) if best.lag > MAX_LAG_ENTRIES => return behind(best.node, best.lag),
            Some(_) => heard.retain(|follower| follower.lag <= MAX_LAG_ENTRIES),
        },
        Some(to) => match heard.iter().position(|follower| follower.node == to) {
            None if followers.iter().any(|follower| follower.node == to) => {
                return Choice::Refuse(conflict(format!("node {to} does not answer the leader")));
            }
            None => return Choice::Refuse(conflict(format!("node {to} holds no replica of this group that votes"))),
            Some(at) if heard[at].lag > MAX_LAG_ENTRIES => return behind(to, heard[at].lag),
            Some(at) => heard[..=at].rotate_right(1),
        },
    }
    heard.truncate(MAX_ASKED);
    Choice::Ask(heard)
}

fn followers(metrics: &RaftMetrics<Types>) -> Vec<Follower> {
    let members = metrics.membership_config.membership();
    let last = metrics.last_log_index.unwrap_or(0);
    let matched = |id: &u64| metrics.replication.as_ref().and_then(|all| all.get(id).copied().flatten());
    let heard = |id: &u64| metrics.heartbeat.as_ref().and_then(|all| all.get(id).copied().flatten());
    members
        .voter_ids()
        .filter(|id| *id != metrics.id)
        .filter_map(|id| {
            Some(Follower {
                replica: id,
                node: members.get_node(&id)?.node,
                lag: last.saturating_sub(matched(&id).map_or(0, |matched| matched.index)),
                silent_for: heard(&id).map(|at| at.elapsed()),
            })
        })
        .collect()
}

/// Who leads, as far as this replica knows; a leader that is handing over still names itself.
pub fn leader_of(metrics: &RaftMetrics<Types>) -> Option<NodeId> {
    metrics.membership_config.membership().get_node(&metrics.current_leader?).map(|peer| peer.node)
}

/// Hands the group over to node `to`, or to the follower that is best prepared, and says who leads then.
/// `patience` is how long a follower may have been silent. Asking again for what is so changes nothing.
///
/// # Errors
/// [`Code::NotLeader`]; [`Code::Conflict`] when there is nobody to take over, nothing has changed then;
/// [`Code::Timeout`] when a follower was asked and nobody, or another one, leads.
pub async fn hand_over(replica: &Replica, to: Option<NodeId>, patience: Duration) -> Result<NodeId, Error> {
    let raft = replica.raft();
    let look = || raft.metrics().borrow_watched().clone();
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    let asked = loop {
        let metrics = look();
        let leader = leader_of(&metrics);
        if metrics.state != ServerState::Leader {
            return match leader {
                Some(leader) if to == Some(leader) => Ok(leader),
                leader => Err(Error::not_leader(leader)),
            };
        }
        if let Some(leader) = leader.filter(|leader| to == Some(*leader)) {
            return Ok(leader);
        }
        match choose(&followers(&metrics), to, patience) {
            Choice::Ask(asked) => break asked,
            Choice::Refuse(error) => return Err(error),
            Choice::Wait(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Choice::Wait(_) => tokio::time::sleep(LOOK).await,
        }
    };
    let group = replica.group();
    for follower in asked {
        let start = tokio::time::Instant::now();
        if raft.trigger().transfer_leader(follower.replica).await.is_err() {
            return Err(Error::new(Code::ShuttingDown, "this replica has stopped"));
        }
        if let Some(leader) = successor(raft, TAKE_OVER).await {
            tracing::info!(%group, from = %replica.id(), to = %leader, took = ?start.elapsed(), "leadership was handed over");
            return match to {
                Some(to) if to != leader => {
                    Err(Error::new(Code::Timeout, format!("node {to} did not take over in time; node {leader} leads")))
                }
                _ => Ok(leader),
            };
        }
        tracing::warn!(%group, to = %follower.node, "leadership was not taken over in time");
    }
    Err(Error::new(Code::Timeout, format!("nobody took over {group} in time"))
        .hint("GET /status shows who leads; an election follows by itself"))
}

/// The node that leads once this replica does not, if that comes within `patience`.
async fn successor(raft: &Raft, patience: Duration) -> Option<NodeId> {
    let other = |metrics: &RaftMetrics<Types>| metrics.current_leader.is_some_and(|leader| leader != metrics.id);
    let metrics = raft.wait(Some(patience)).metrics(other, "another replica leads").await.ok()?;
    leader_of(&metrics)
}

/// What a refused request is told: during a hand-over, who leads when it is over.
async fn forwarded(raft: &Raft, forward: &ForwardToLeader<Types>) -> Option<Error> {
    match forward.reason {
        ForwardReason::LeadershipTransfer => Some(Error::not_leader(successor(raft, TAKE_OVER).await)),
        ForwardReason::NotLeader | ForwardReason::LeaseExpired => None,
    }
}

/// What a refused proposal is told.
pub async fn refused(raft: &Raft, error: &ClientWriteError<Types>) -> Error {
    let told = match error {
        ClientWriteError::ForwardToLeader(forward) => forwarded(raft, forward).await,
        _ => None,
    };
    told.unwrap_or_else(|| write_error(error))
}

/// What a refused read is told.
pub async fn refused_read(raft: &Raft, error: &RaftError<Types, LinearizableReadError<Types>>) -> Error {
    let told = match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => forwarded(raft, forward).await,
        _ => None,
    };
    told.unwrap_or_else(|| read_error(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(600);

    fn follower(node: u64, lag: u64, silent_ms: Option<u64>) -> Follower {
        Follower { replica: 100 + node, node: NodeId(node), lag, silent_for: silent_ms.map(Duration::from_millis) }
    }

    /// The nodes to ask; `Err(true)` to wait, `Err(false)` for a refusal.
    fn chosen(followers: &[Follower], to: Option<u64>) -> Result<Vec<u64>, bool> {
        match choose(followers, to.map(NodeId), PATIENCE) {
            Choice::Ask(asked) => Ok(asked.iter().map(|follower| follower.node.0).collect()),
            Choice::Wait(_) => Err(true),
            Choice::Refuse(_) => Err(false),
        }
    }

    /// Nobody is named: the follower that misses least is asked first; who is silent or far behind never is.
    #[test]
    fn the_best_prepared_follower_is_asked() {
        let all = [follower(1, 3, Some(10)), follower(2, 0, Some(90)), follower(3, 0, Some(20)), follower(4, 0, None)];
        assert_eq!(chosen(&all, None), Ok(vec![3, 2]));
        assert_eq!(chosen(&all[..1], None), Ok(vec![1]));
        assert_eq!(chosen(&[follower(1, 0, Some(601)), follower(2, 17, Some(1))], None), Err(true));
        assert_eq!(chosen(&[follower(1, 0, Some(601))], None), Err(false));
        assert_eq!(chosen(&[], None), Err(false));
    }

    /// A named follower is asked first, and only if it is fit; another one stands in if it fails after that.
    #[test]
    fn a_named_follower_is_asked_first() {
        let all = [follower(1, 9, Some(10)), follower(2, 0, Some(90)), follower(3, 20, Some(1)), follower(4, 0, None)];
        assert_eq!(chosen(&all, Some(1)), Ok(vec![1, 2]));
        assert_eq!(chosen(&all, Some(2)), Ok(vec![2, 1]));
        assert_eq!(chosen(&all, Some(3)), Err(true));
        assert_eq!(chosen(&all, Some(4)), Err(false));
        assert_eq!(chosen(&all, Some(5)), Err(false));
    }
}
