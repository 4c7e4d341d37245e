//! `GET /shard`, `/node`, `/job`, `/job/{id}` and `/status`; `POST /shard`, `/join` and `/remove`.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::{GroupId, JobId, NodeId};
use flotilla_shared::registry::{Job, JobKind, Registry, ReplicaInfo};
use flotilla_shared::wire::{NodeStatus, ReplicaStatus};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::leaders::{preferred_zone, set_preferred};
use super::params::{Fields, bad, with_fields, with_optional_fields};
use super::placements::table_json;
use super::replicas::look;
use crate::Proxy;
use crate::execute::Options;

/// Replicas of a new shard, unless the caller says otherwise: one node's failure must not stop it.
const REPLICAS: u32 = 3;

/// Most replicas that a shard is made with: a write goes to all of them.
const MAX_REPLICAS: u64 = 9;

/// All shards with their replicas.
pub async fn shards(proxy: &Proxy, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let registry = proxy.registry(Fields::shown(request)?.deadline(proxy)?).await?;
    let shards: Vec<Json> = registry
        .shards()
        .map(|shard| {
            let tables: Vec<&str> = registry
                .tables
                .values()
                .filter(|table| registry.placements.get(&table.placement).is_some_and(|p| p.shards.contains(&shard)))
                .map(|table| table.name.as_str())
                .collect();
            json!({
                "id": shard,
                "leader": proxy.cluster.leader(shard),
                "preferred_zone": registry.leaders.preferred.get(&shard),
                "replicas": registry.replicas(shard).iter().map(ReplicaInfo::to_json).collect::<Vec<_>>(),
                "tables": tables,
            })
        })
        .collect();
    Ok(http::json(200, &json!({ "shards": shards })))
}

/// All nodes.
pub async fn nodes(proxy: &Proxy, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let registry = proxy.registry(Fields::shown(request)?.deadline(proxy)?).await?;
    let states = proxy.cluster.states(&registry).await;
    Ok(http::json(200, &json!({ "nodes": nodes_json(&registry, &states) })))
}

/// All jobs, the latest first.
pub async fn jobs(proxy: &Proxy, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let registry = proxy.registry(Fields::shown(request)?.deadline(proxy)?).await?;
    Ok(http::json(200, &json!({ "jobs": registry.jobs.values().rev().map(Job::to_json).collect::<Vec<_>>() })))
}

/// One job.
pub async fn job(proxy: &Proxy, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let deadline = Fields::shown(request)?.deadline(proxy)?;
    let text = request.path.trim_start_matches("/job/");
    let id: JobId = text.parse().map_err(|_| bad(format!("`{text}` is no job id")))?;
    let mut registry = proxy.registry(deadline).await?;
    if !registry.jobs.contains_key(&id) {
        registry = proxy.refreshed(deadline).await?;
    }
    let job = registry.jobs.get(&id).ok_or_else(|| {
        Error::new(Code::NoSuchObject, format!("there is no job {id}")).hint("GET /job lists those that are kept")
    })?;
    Ok(http::json(200, &job.to_json()))
}

/// Takes a node out of the cluster.
pub async fn remove(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_fields(&mut request, &["node"])?;
    let Options { id, deadline, .. } = Fields::new(&request, Some(&body)).options(proxy, false)?;
    let node = match body.get("node") {
        Some(Json::Number(number)) => number.as_u64().map(NodeId),
        Some(Json::String(text)) => text.parse().ok(),
        _ => None,
    };
    let node = node.ok_or_else(|| bad("`node` is the id of a node").hint("send {\"node\": 3}"))?;
    proxy.registry(deadline).await?;
    let registry = proxy.refreshed(deadline).await?;
    match registry.nodes.get(&node) {
        None => {
            Err(Error::new(Code::NoSuchObject, format!("there is no node {node}")).hint("GET /node lists the nodes"))
        }
        Some(info) if info.removed => Err(Error::new(Code::Conflict, format!("node {node} has left"))),
        Some(_) => {
            let job = proxy.start(id, JobKind::Remove { node }, deadline).await?;
            Ok(http::json(202, &json!({ "job": job.to_string() })))
        }
    }
}

/// Makes a new shard, on given nodes or on those that hold the fewest replicas, in as many zones as there are.
pub async fn create_shard(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let fields = ["nodes", "replicas", "preferred_zone"];
    let body = with_optional_fields(&mut request, &fields)?;
    let Options { id, deadline, .. } = Fields::new(&request, Some(&body)).options(proxy, false)?;
    let nodes = listed::<NodeId>(&body, "nodes", |json| json.as_u64().map(NodeId))?;
    let zone = preferred_zone(&body)?.flatten();
    if let Some(twice) = nodes.iter().find(|node| nodes.iter().filter(|other| other == node).count() > 1) {
        return Err(bad(format!("`nodes` names node {twice} twice")));
    }
    let replicas = match body.get("replicas") {
        None | Some(Json::Null) => REPLICAS,
        Some(_) if !nodes.is_empty() => return Err(bad("`nodes` says already how many `replicas` there are to be")),
        Some(count) => count
            .as_u64()
            .filter(|count| (1..=MAX_REPLICAS).contains(count))
            .ok_or_else(|| bad(format!("`replicas` is a number from 1 to {MAX_REPLICAS}")))?
            as u32,
    };
    let registry = known_nodes(proxy, &nodes, deadline).await?;
    nodes.iter().try_for_each(|node| registry.check_takes(*node))?;
    let takers = registry.takers(&look(proxy, &registry).await);
    if nodes.is_empty() && body.get("replicas").is_some() && takers.len() < replicas as usize {
        let message = format!("{} nodes can take a replica, not {replicas}", takers.len());
        return Err(Error::new(Code::Conflict, message).hint("ask for fewer, or let more nodes join"));
    }
    let job = proxy.start(id, JobKind::CreateShard { nodes, replicas }, deadline).await?;
    proxy.finish(job, deadline).await?;
    let registry = proxy.refreshed(deadline).await?;
    let made = registry.jobs.get(&job).and_then(|job| Some(job.members.as_ref()?.founding.as_ref()?.group));
    if let (Some(shard), true) = (made, zone.is_some()) {
        set_preferred(proxy, shard, zone, deadline).await?;
    }
    Ok(http::json(200, &json!({ "job": job.to_string(), "shard": made })))
}

/// Gives a node replicas of more groups.
pub async fn join(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_fields(&mut request, &["node", "groups"])?;
    let Options { id, deadline, .. } = Fields::new(&request, Some(&body)).options(proxy, false)?;
    let node = body["node"].as_u64().map(NodeId).ok_or_else(|| {
        bad("`node` is the id of a node that is up")
            .hint("a new node joins by being started with --join <address of a node>")
    })?;
    let groups = listed::<GroupId>(&body, "groups", |json| json.as_str().and_then(|text| text.parse().ok()))?;
    let registry = known_nodes(proxy, &[node], deadline).await?;
    if let Some(unknown) = groups.iter().find(|group| !registry.groups.contains_key(group)) {
        return Err(Error::new(Code::NoSuchObject, format!("there is no group {unknown}")).hint("see GET /shard"));
    }
    let job = proxy.start(id, JobKind::Join { node, groups }, deadline).await?;
    Ok(http::json(202, &json!({ "job": job.to_string() })))
}

pub(super) fn listed<T>(body: &Json, name: &str, read: impl Fn(&Json) -> Option<T>) -> Result<Vec<T>, Error> {
    match body.get(name) {
        None | Some(Json::Null) => Ok(vec![]),
        Some(Json::Array(list)) => {
            list.iter().map(|json| read(json).ok_or_else(|| bad(format!("`{name}` holds {json}")))).collect()
        }
        Some(_) => Err(bad(format!("`{name}` is a list"))),
    }
}

/// The registry, if all these nodes are in it.
pub(super) async fn known_nodes(proxy: &Proxy, nodes: &[NodeId], deadline: Instant) -> Result<Arc<Registry>, Error> {
    proxy.registry(deadline).await?;
    let registry = proxy.refreshed(deadline).await?;
    match nodes.iter().find(|node| registry.nodes.get(node).is_none_or(|info| info.removed)) {
        None => Ok(registry),
        Some(node) => {
            Err(Error::new(Code::NoSuchObject, format!("there is no node {node}")).hint("GET /node lists the nodes"))
        }
    }
}

/// The whole cluster at a glance.
pub async fn status(proxy: &Proxy, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let registry = proxy.registry(Fields::shown(request)?.deadline(proxy)?).await?;
    let states = proxy.cluster.states(&registry).await;
    let groups: Vec<Json> = registry.groups.keys().map(|group| group_json(&registry, *group, &states)).collect();
    let tables: Vec<Json> = registry
        .tables
        .values()
        .map(|table| {
            let json = table_json(&registry, table);
            json!({ "name": json["name"], "placement": json["placement"], "key": json["shard_key"], "shards": json["shards"] })
        })
        .collect();
    Ok(http::json(
        200,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster": format!("{:032x}", registry.cluster),
            "registry_version": registry.version,
            "schema_version": registry.schema_version,
            "nodes": nodes_json(&registry, &states),
            "leaders": balancer_json(&registry, &states),
            "groups": groups,
            "tables": tables,
            "jobs": registry.jobs.values().rev().map(Job::to_json).collect::<Vec<_>>(),
        }),
    ))
}

/// What the balancer says; when it is not heard, only whether it shall run.
fn balancer_json(registry: &Registry, states: &BTreeMap<NodeId, NodeStatus>) -> Json {
    match states.values().find_map(|status| status.balancer.as_ref()) {
        Some(balancer) => balancer.to_json(),
        None => json!({ "balance": !registry.leaders.still }),
    }
}

fn nodes_json(registry: &Registry, states: &BTreeMap<NodeId, NodeStatus>) -> Vec<Json> {
    let nodes = registry.nodes.iter().map(|(node, info)| {
        let state = match (info.removed, states.contains_key(node)) {
            (true, _) => "removed",
            (false, true) => "up",
            (false, false) => "down",
        };
        let leads = states.get(node).map(|status| status.replicas.iter().filter(|r| r.role == "leader").count());
        json!({
            "id": node,
            "raft_addr": info.raft_addr,
            "http_addr": info.http_addr,
            "zone": info.zone,
            "state": state,
            "draining": registry.draining.contains(node),
            "replicas": registry.replicas_on(*node).count(),
            "leads": leads,
        })
    });
    nodes.collect()
}

fn group_json(registry: &Registry, group: GroupId, states: &BTreeMap<NodeId, NodeStatus>) -> Json {
    let found: Vec<(NodeId, &ReplicaStatus)> = states
        .iter()
        .flat_map(|(node, status)| status.replicas.iter().map(|replica| (*node, replica)))
        .filter(|(_, replica)| replica.group == group)
        .collect();
    // Of several that believe to lead, the one of the newest term is right.
    let leader = found.iter().filter(|(_, replica)| replica.role == "leader").max_by_key(|(_, replica)| replica.term);
    let committed = found.iter().map(|(_, replica)| replica.committed).max().unwrap_or(0);
    let replicas: Vec<Json> = registry
        .replicas(group)
        .iter()
        .map(|member| {
            match found.iter().find(|(node, replica)| *node == member.node && replica.replica == member.replica) {
                Some((node, replica)) => json!({
                    "node": node,
                    "replica": replica.replica,
                    "votes": member.votes,
                    "role": if replica.role == "learner" { "reader" } else { replica.role.as_str() },
                    "last_log": replica.last_log,
                    "committed": replica.committed,
                    "applied": replica.applied,
                    "lag": committed.saturating_sub(replica.applied),
                }),
                None => {
                    json!({ "node": member.node, "replica": member.replica, "votes": member.votes, "role": "unknown" })
                }
            }
        })
        .collect();
    json!({
        "id": group,
        "leader": leader.map(|(node, _)| node),
        "preferred_zone": registry.leaders.preferred.get(&group),
        "term": found.iter().map(|(_, replica)| replica.term).max(),
        "replicas": replicas,
    })
}
