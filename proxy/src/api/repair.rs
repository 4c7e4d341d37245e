//! `POST /repair`: replicas of dead nodes are made anew on others.
//!
//! Dead is who does not answer now and, as the leader of `meta` says, has not for longer than a bound.
//! Nothing is ever decided without a majority of a group: what has lost it is told, not touched.

use std::time::Duration;

use flotilla_shared::client::unexpected;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::{META, NodeId};
use flotilla_shared::registry::{JobKind, Registry, ReplicaGoal, Sight};
use flotilla_shared::wire::{Request, Response};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::cluster::{known_nodes, listed};
use super::params::{Fields, with_optional_fields};
use super::replicas::{look, patience_ms, plan_json};
use crate::Proxy;

/// How long a node must be silent to count as dead, unless the caller says otherwise: longer than a
/// restart takes, so that nobody copies what comes back by itself.
const DEAD_AFTER: Duration = Duration::from_secs(60);

/// Makes the replicas of dead nodes anew, those of the groups with the least margin first.
pub async fn repair(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let fields = ["dead_after", "nodes", "dry_run", "patience"];
    let body = with_optional_fields(&mut request, &fields)?;
    let fields = Fields::new(&request, Some(&body));
    let options = fields.options(proxy, false)?;
    let (dry_run, patience_ms) = (fields.flag("dry_run")?.unwrap_or(false), patience_ms(&fields)?);
    let dead_after = fields.duration("dead_after")?.unwrap_or(DEAD_AFTER);
    let named = listed::<NodeId>(&body, "nodes", |json| json.as_u64().map(NodeId))?;
    let registry = known_nodes(proxy, &named, options.deadline).await?;
    let sight = look(proxy, &registry).await;
    let silence = silence(proxy, options.deadline).await?;
    let dead = dead(&registry, &sight, &silence, &named, dead_after)?;
    let kind = JobKind::Replicas { goal: ReplicaGoal::Repair { nodes: dead.clone() }, patience_ms };
    let (plan, error) = registry.plan_exchanges(&kind, &sight);
    let left = left(&registry, &sight, error.as_ref());
    if plan.is_empty() {
        return match left.first() {
            Some((_, why)) => Err(Error { code: Code::Conflict, ..why.clone() }),
            None => {
                let message = "every replica is on a node that answers";
                Ok(http::json(200, &json!({ "state": "done", "dead": dead, "steps": [], "message": message })))
            }
        };
    }
    let left: Vec<Json> =
        left.iter().map(|(group, why)| json!({ "group": group, "message": why.message, "hint": why.hint })).collect();
    let mut answer = json!({ "dead": dead, "steps": plan_json(&registry, &plan), "left": left });
    if dry_run {
        answer["dry_run"] = json!(true);
        return Ok(http::json(200, &answer));
    }
    answer["job"] = json!(proxy.start(options.id, kind, options.deadline).await?.to_string());
    Ok(http::json(202, &answer))
}

async fn silence(proxy: &Proxy, deadline: Instant) -> Result<Vec<(NodeId, u64)>, Error> {
    match proxy.cluster.call(META, Request::Silence, deadline).await? {
        Response::Silence(silence) => Ok(silence),
        other => Err(unexpected(&other)),
    }
}

/// The nodes to give up: those that are named, or all that hold replicas and have been silent for long
/// enough.
fn dead(
    registry: &Registry,
    sight: &Sight,
    silence: &[(NodeId, u64)],
    named: &[NodeId],
    dead_after: Duration,
) -> Result<Vec<NodeId>, Error> {
    let wanted = |node: &NodeId| match named {
        [] => !sight.sees(*node) && registry.replicas_on(*node).next().is_some(),
        named => named.contains(node),
    };
    let (mut dead, mut too_early) = (Vec::new(), None);
    for (node, silent_ms) in silence.iter().filter(|(node, _)| wanted(node)) {
        let silent = Duration::from_millis(*silent_ms);
        if sight.sees(*node) {
            return Err(Error::new(Code::Conflict, format!("node {node} answers"))
                .hint(format!("POST /node/{node}/drain moves its replicas away")));
        }
        if silent >= dead_after {
            dead.push(*node);
            continue;
        }
        let message =
            format!("node {node} has been silent for {:.0?} only; it counts as dead after {dead_after:.0?}", silent);
        too_early = Some(Error::new(Code::Conflict, message).hint("ask again later, or with a shorter `dead_after`"));
    }
    match too_early {
        Some(error) if dead.is_empty() || !named.is_empty() => Err(error),
        _ => Ok(dead),
    }
}

/// What a repair cannot do, and what is left to be done by somebody.
fn left(registry: &Registry, sight: &Sight, error: Option<&Error>) -> Vec<(String, Error)> {
    let lost = registry.groups.keys().filter(|group| !registry.quorum(**group, sight).is_there());
    let mut left: Vec<(String, Error)> =
        lost.map(|group| (group.to_string(), registry.lost_majority(*group, sight))).collect();
    if let (Some(error), true) = (error, left.is_empty()) {
        left.push((String::new(), error.clone()));
    }
    left
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flotilla_shared::ids::{GroupId, ReplicaId};
    use flotilla_shared::registry::{NodeInfo, ReplicaInfo};

    use super::*;

    /// Three nodes with a replica each, of which these answer, and how long the others have been silent.
    fn ground(up: &[u64]) -> (Registry, Sight, Vec<(NodeId, u64)>) {
        let mut registry = Registry::default();
        let (mut hosted, mut silence) = (BTreeMap::new(), vec![]);
        for n in 1..=3 {
            let (node, addr) = (NodeId(n), format!("h:{n}"));
            let info = NodeInfo { instance: 1, raft_addr: addr.clone(), http_addr: addr, zone: None, removed: false };
            registry.nodes.insert(node, info);
            let replica = ReplicaInfo { node, replica: ReplicaId(n), votes: true };
            registry.groups.entry(GroupId(1)).or_default().push(replica);
            silence.push((node, if up.contains(&n) { 0 } else { 10_000 }));
            if up.contains(&n) {
                hosted.insert(node, vec![(GroupId(1), ReplicaId(n))]);
            }
        }
        (registry, Sight { hosted, leaders: vec![] }, silence)
    }

    /// Who answers is not dead, nor who has just fallen silent; the bound is the caller's.
    #[test]
    fn who_is_dead() {
        let (registry, sight, silence) = ground(&[1, 3]);
        let of = |named: &[u64], seconds| {
            let named: Vec<NodeId> = named.iter().copied().map(NodeId).collect();
            dead(&registry, &sight, &silence, &named, Duration::from_secs(seconds))
        };
        assert_eq!(of(&[], 10), Ok(vec![NodeId(2)]));
        assert_eq!(of(&[2], 5), Ok(vec![NodeId(2)]));
        assert_eq!(of(&[], 11).unwrap_err().code, Code::Conflict);
        assert_eq!(of(&[1], 0).unwrap_err().message, "node 1 answers");
        let (registry, sight, silence) = ground(&[1, 2, 3]);
        assert_eq!(dead(&registry, &sight, &silence, &[], DEAD_AFTER), Ok(vec![]));
    }

    /// A group without a majority is told with the nodes that would help.
    #[test]
    fn what_is_left() {
        let (registry, sight, _) = ground(&[1]);
        let left = left(&registry, &sight, None);
        assert_eq!(left[0].1.message, "shard1 has lost its majority: 1 of 3 voters answer");
        assert_eq!(left[0].1.hint, "start 1 of these nodes again, with their data: 2, 3");
    }
}
