//! `POST /shard/{id}/replicas` and `POST /node/{id}/drain` and `/undrain`: which nodes hold replicas.
//!
//! What is asked is planned here as the job would do it, with what the nodes say now, so that a plan
//! that cannot be carried out is refused before anything is changed; the job plans anew at each step.

use std::collections::BTreeSet;
use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::NodeId;
use flotilla_shared::registry::{
    JobKind, MetaCommand, PATIENCE_MS, Planned, Registry, ReplicaChange, ReplicaGoal, Sight,
};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::cluster::{known_nodes, listed};
use super::leaders::group_in;
use super::params::{Fields, bad, with_fields, with_optional_fields};
use crate::Proxy;

/// Shortest and longest time that a new replica may be allowed to stand still.
const PATIENCE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// What the nodes say now.
pub(super) async fn look(proxy: &Proxy, registry: &Registry) -> Sight {
    let states = proxy.cluster.states(registry).await;
    Sight::of(registry, states.iter().map(|(node, state)| (*node, state)))
}

/// Later it may be possible; now it is refused.
pub(super) fn refused(error: Error) -> Error {
    match error.code {
        Code::Unavailable => Error { code: Code::Conflict, ..error },
        _ => error,
    }
}

pub(super) fn planned_json(registry: &Registry, planned: &Planned) -> Json {
    let known = |node: NodeId| registry.replicas(planned.group).iter().any(|info| info.node == node && !info.votes);
    json!({
        "group": planned.group,
        "add": planned.add.map(|(node, votes)| json!({ "node": node, "votes": votes, "promote": votes && known(node) })),
        "remove": planned.remove.map(|info| info.to_json()),
    })
}

pub(super) fn plan_json(registry: &Registry, plan: &[Planned]) -> Vec<Json> {
    plan.iter().map(|planned| planned_json(registry, planned)).collect()
}

pub(super) fn patience_ms(fields: &Fields<'_>) -> Result<u64, Error> {
    match fields.duration("patience")? {
        None => Ok(PATIENCE_MS),
        Some(patience) if PATIENCE.contains(&patience) => Ok(patience.as_millis() as u64),
        Some(_) => Err(bad("`patience` is between 1s and a day")),
    }
}

/// Adds, promotes, replaces and removes replicas of a group, which may be `meta`, in this order.
pub async fn change(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let fields = ["add", "add_readers", "promote", "replace", "remove", "dry_run", "patience"];
    let body = with_fields(&mut request, &fields)?;
    let fields = Fields::new(&request, Some(&body));
    let options = fields.options(proxy, false)?;
    let (dry_run, patience_ms) = (fields.flag("dry_run")?.unwrap_or(false), patience_ms(&fields)?);
    let changes = changes(&body)?;
    let named: Vec<NodeId> = changes.iter().flat_map(nodes_of).collect();
    let registry = known_nodes(proxy, &named, options.deadline).await?;
    let group = group_in(&request.path, "/replicas", &registry)?;
    let kind = JobKind::Replicas { goal: ReplicaGoal::Group { group, changes }, patience_ms };
    let (plan, error) = registry.plan_exchanges(&kind, &look(proxy, &registry).await);
    if let Some(error) = error {
        return Err(refused(error));
    }
    let steps = plan_json(&registry, &plan);
    if dry_run {
        return Ok(http::json(200, &json!({ "dry_run": true, "steps": steps })));
    }
    if plan.is_empty() {
        let message = format!("the replicas of {group} are what they are to be");
        return Ok(http::json(200, &json!({ "state": "done", "message": message, "steps": [] })));
    }
    let job = proxy.start(options.id, kind, options.deadline).await?;
    Ok(http::json(202, &json!({ "job": job.to_string(), "steps": steps })))
}

fn nodes_of(change: &ReplicaChange) -> Vec<NodeId> {
    match *change {
        ReplicaChange::Add { node, .. } | ReplicaChange::Promote { node } | ReplicaChange::Remove { node } => {
            vec![node]
        }
        ReplicaChange::Replace { from, to } => vec![from, to],
    }
}

/// What a body asks for. A node that is named twice would make the outcome a matter of order.
fn changes(body: &Json) -> Result<Vec<ReplicaChange>, Error> {
    let nodes = |name: &str| listed::<NodeId>(body, name, |json| json.as_u64().map(NodeId));
    let mut changes = Vec::new();
    changes.extend(nodes("add")?.into_iter().map(|node| ReplicaChange::Add { node, votes: true }));
    changes.extend(nodes("add_readers")?.into_iter().map(|node| ReplicaChange::Add { node, votes: false }));
    changes.extend(nodes("promote")?.into_iter().map(|node| ReplicaChange::Promote { node }));
    match body.get("replace") {
        None | Some(Json::Null) => (),
        Some(Json::Object(pairs)) => {
            for (from, to) in pairs {
                let pair = from.parse().ok().zip(to.as_u64().map(NodeId));
                let (from, to) = pair.ok_or_else(|| {
                    bad(format!("`replace` holds {from:?}: {to}")).hint("send {\"replace\":{\"2\":4}}")
                })?;
                changes.push(ReplicaChange::Replace { from, to });
            }
        }
        Some(_) => return Err(bad("`replace` is an object").hint("send {\"replace\":{\"2\":4}}")),
    }
    changes.extend(nodes("remove")?.into_iter().map(|node| ReplicaChange::Remove { node }));
    let mut seen = BTreeSet::new();
    if let Some(node) = changes.iter().flat_map(nodes_of).find(|node| !seen.insert(*node)) {
        return Err(bad(format!("node {node} is named twice")).hint("ask for one thing after the other"));
    }
    match changes.is_empty() {
        false => Ok(changes),
        true => Err(bad("nothing is asked for").hint("send {\"add\":[4]}, or add_readers, promote, replace or remove")),
    }
}

/// The node that a path names, and the registry that knows it.
async fn node_in(
    proxy: &Proxy,
    request: &HttpRequest,
    suffix: &str,
    deadline: Instant,
) -> Result<(NodeId, std::sync::Arc<Registry>), Error> {
    let name = request.path.trim_start_matches("/node/").trim_end_matches(suffix);
    let node: NodeId = name.parse().map_err(|_| bad(format!("`{name}` is no node id")))?;
    Ok((node, known_nodes(proxy, &[node], deadline).await?))
}

/// Moves leaders and replicas off a node. It gets no new ones until it is undrained.
pub async fn drain(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let fields = ["dry_run", "patience"];
    let body = with_optional_fields(&mut request, &fields)?;
    let fields = Fields::new(&request, Some(&body));
    let options = fields.options(proxy, false)?;
    let (dry_run, patience_ms) = (fields.flag("dry_run")?.unwrap_or(false), patience_ms(&fields)?);
    let (node, registry) = node_in(proxy, &request, "/drain", options.deadline).await?;
    let goal = ReplicaGoal::Drain { node };
    let drains = |kind: &JobKind| matches!(kind, JobKind::Replicas { goal: other, .. } if *other == goal);
    if let Some(job) = registry.jobs.values().find(|job| !job.ended() && drains(&job.kind)).filter(|_| !dry_run) {
        return Ok(http::json(202, &json!({ "job": job.id.to_string() })));
    }
    let kind = JobKind::Replicas { goal, patience_ms };
    let (plan, error) = registry.plan_exchanges(&kind, &look(proxy, &registry).await);
    if let Some(error) = error {
        return Err(refused(error));
    }
    let steps = plan_json(&registry, &plan);
    if dry_run {
        return Ok(http::json(200, &json!({ "dry_run": true, "steps": steps })));
    }
    let job = proxy.start(options.id, kind, options.deadline).await?;
    Ok(http::json(202, &json!({ "job": job.to_string(), "steps": steps })))
}

/// Lets a node have replicas again; a job that drains it ends.
pub async fn undrain(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_optional_fields(&mut request, &[])?;
    let deadline = Fields::new(&request, Some(&body)).deadline(proxy)?;
    let (node, _) = node_in(proxy, &request, "/undrain", deadline).await?;
    proxy.cluster.meta(MetaCommand::Undrain { node }, deadline).await?;
    Ok(http::json(200, &json!({ "node": node, "draining": false })))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for in one call is done in this order; a node is named once.
    #[test]
    fn bodies() {
        let of = |body: Json| changes(&body);
        let all = of(json!({ "remove": [1], "replace": { "2": 4 }, "promote": [5], "add": [6], "add_readers": [7] }));
        let node = NodeId;
        assert_eq!(
            all.unwrap(),
            [
                ReplicaChange::Add { node: node(6), votes: true },
                ReplicaChange::Add { node: node(7), votes: false },
                ReplicaChange::Promote { node: node(5) },
                ReplicaChange::Replace { from: node(2), to: node(4) },
                ReplicaChange::Remove { node: node(1) },
            ]
        );
        for wrong in [
            json!({}),
            json!({ "add": [4], "remove": [4] }),
            json!({ "replace": { "2": 2 } }),
            json!({ "replace": { "x": 2 } }),
            json!({ "replace": [2, 4] }),
            json!({ "add": 4 }),
            json!({ "add": ["4"] }),
        ] {
            assert_eq!(of(wrong.clone()).unwrap_err().code, Code::BadRequest, "{wrong}");
        }
    }
}
