//! Reads that any replica may answer: whom to ask first, and whom next.
//!
//! Near ones go first, by the zones of the reader and of the nodes. Of equals each gets its share, but for the
//! leader, which has other things to do and comes behind them. Who could not answer a short time ago goes last.
//! A replica checks the read against what it holds: one that is behind refuses, and the next one is asked. At
//! last the leader is asked, which has to prove that it leads; so no read fails for replicas that are behind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Cluster;
use crate::error::{Code, Error};
use crate::ids::{GroupId, NodeId};
use crate::registry::ReplicaInfo;
use crate::rpc::{RpcError, encode};
use crate::wire::{Level, Read, Request, Response};

/// How long an answer may take before the node is asked whether it is there at all, and how long that may
/// take: a round trip around the world. A long read on a node that is there is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long a node that did not answer is asked last: about as long as a process takes to start again.
const SILENT: Duration = Duration::from_secs(5);

/// How long one is asked last that answered, but could not serve the read: it may take a while to find that out.
const UNFIT: Duration = Duration::from_secs(1);

/// A replica that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    node: NodeId,
    addr: String,
    /// It could not answer a short time ago.
    failed: bool,
    /// It is in another zone than the reader.
    far: bool,
    leads: bool,
}

impl Candidate {
    fn rank(&self) -> (bool, bool, bool) {
        (self.failed, self.far, self.leads)
    }
}

/// In which order to ask; `turn` goes round among equals.
fn in_order(mut candidates: Vec<Candidate>, turn: usize) -> Vec<Candidate> {
    candidates.sort_by_key(Candidate::rank);
    for equals in candidates.chunk_by_mut(|a, b| a.rank() == b.rank()) {
        equals.rotate_left(turn % equals.len());
    }
    candidates
}

/// May another replica answer what this one has refused?
fn goes_on(code: Code) -> bool {
    use Code::{NotFresh, NotLeader, Overloaded, ShuttingDown, Storage, Unavailable};
    matches!(code, NotLeader | NotFresh | Unavailable | ShuttingDown | Overloaded | Storage)
}

/// What a node says to a read, or why nothing came from it.
type Answer = Result<Result<Response, Error>, RpcError>;

impl Cluster {
    /// Reads from any replica of `group`, near ones first; `zone` is where the reader is, if it is said.
    /// `request` makes the request, of the read as it is, and at last of one for the leader.
    ///
    /// # Errors
    /// What is wrong with the read, or what the leader says at last.
    pub async fn read_near(
        &self,
        group: GroupId,
        read: Read,
        zone: Option<&str>,
        request: impl Fn(Read) -> Request,
        deadline: Instant,
    ) -> Result<Response, Error> {
        for Candidate { node, addr, .. } in self.replicas_in_order(group, zone) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.ask_near(&addr, request(read.clone()), left).await {
                Some(Ok(Ok(response))) => {
                    self.failed.remove(&node);
                    return Ok(response);
                }
                // It is behind, or the plan is: the leader knows.
                Some(Ok(Err(error))) if error.code == Code::StaleRoute => break,
                Some(Ok(Err(error))) if goes_on(error.code) => drop(self.failed.insert(node, Instant::now() + UNFIT)),
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(_)) | None => drop(self.failed.insert(node, Instant::now() + SILENT)),
            }
        }
        let proven = Read { level: Level::Linearizable, freshness_ms: None, ..read };
        self.call(group, request(proven), deadline).await
    }

    fn replicas_in_order(&self, group: GroupId, zone: Option<&str>) -> Vec<Candidate> {
        let (registry, leader) = (self.registry.load(), self.leader(group));
        let has_failed = |node: &NodeId| self.failed.get(node).is_some_and(|until| Instant::now() < *until);
        let candidate = |replica: &ReplicaInfo| {
            let (node, info) = registry.nodes.get_key_value(&replica.node)?;
            Some(Candidate {
                node: *node,
                addr: info.raft_addr.clone(),
                failed: has_failed(node),
                far: zone.is_some() && info.zone.as_deref() != zone,
                leads: leader == Some(*node),
            })
        };
        let candidates = registry.replicas(group).iter().filter_map(candidate).collect();
        in_order(candidates, self.first.fetch_add(1, Ordering::Relaxed))
    }

    /// The answer of one node; none when it does not even say that it is there.
    async fn ask_near(&self, addr: &str, request: Request, left: Duration) -> Option<Answer> {
        let mut answer = std::pin::pin!(self.pool.send(addr, encode(request, left), left));
        loop {
            if let Ok(answer) = tokio::time::timeout(PATIENCE, &mut answer).await {
                return Some(answer);
            }
            let there = tokio::time::timeout(PATIENCE, self.pool.request(addr, Request::Identify, PATIENCE));
            tokio::select! {
                answer = &mut answer => return Some(answer),
                there = there => if !matches!(there, Ok(Ok(_))) { return None },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: u64, failed: bool, far: bool, leads: bool) -> Candidate {
        Candidate { node: NodeId(node), addr: String::new(), failed, far, leads }
    }

    fn order(candidates: &[Candidate], turn: usize) -> Vec<u64> {
        in_order(candidates.to_vec(), turn).iter().map(|candidate| candidate.node.0).collect()
    }

    /// Near before far, followers before the leader, to each of equals its share, and who has failed last.
    #[test]
    fn whom_to_ask_first() {
        let all = [
            candidate(1, false, false, true),
            candidate(2, false, false, false),
            candidate(3, false, true, false),
            candidate(4, true, false, false),
            candidate(5, false, false, false),
        ];
        assert_eq!(order(&all, 0), [2, 5, 1, 3, 4]);
        assert_eq!(order(&all, 1), [5, 2, 1, 3, 4]);
        assert_eq!(order(&all, 2), order(&all, 0));
        assert_eq!(order(&all[..1], usize::MAX), [1]);
        assert_eq!(order(&[], 3), [0; 0]);
    }
}
