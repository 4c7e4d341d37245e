//! How a cluster comes into being, and how a node finds its place in one that exists.
//!
//! The first seed makes the plan: it waits until all seeds answer and none belongs to a cluster,
//! numbers nodes and replicas, writes the plan to `bootstrap.json`, and only then carries it out:
//! replicas are made on their nodes, each group is started at one of its members, and the registry
//! gets its first entry. Every step may be repeated, so a crash at any of them is mended by starting
//! again. The other seeds wait to be told.
//!
//! A node with a cluster announces its address at each start. A node without one that finds itself
//! named in the registry under another instance has lost its disk: it joins again, and its replicas
//! come back under new raft ids.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::client::{Cluster, unexpected};
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, META, NodeId, ReplicaId, RequestId};
use flotilla_shared::registry::{JobKind, MetaCommand, MetaReply, NodeInfo, ReplicaInfo};
use flotilla_shared::wire::{Identity, ReplicaStatus, Request, Response};
use openraft::async_runtime::WatchReceiver;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::handover::leader_of;
use crate::host::{Host, Replica};
use crate::manifest::write_synced;

/// Pause between looks at nodes that are not there yet.
const PAUSE: Duration = Duration::from_millis(100);

/// How long one question to a node may take.
const ASK: Duration = Duration::from_secs(2);

/// How long a change of the registry may take before it is tried anew.
const CHANGE: Duration = Duration::from_secs(10);

/// Pause between looks at a replica that catches up.
const CATCH_UP_LOOK: Duration = Duration::from_millis(50);

/// What the first seed decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    cluster: u128,
    nodes: Vec<(NodeId, NodeInfo)>,
    groups: Vec<(GroupId, Vec<ReplicaInfo>)>,
}

/// Finds this node's place; returns when it has one.
///
/// # Errors
/// What cannot be mended by waiting: a node id in use, a node that has left for good.
pub async fn settle(host: &Arc<Host>) -> Result<(), Error> {
    let options = host.options();
    if let Some(plan) = read_plan(host)? {
        carry_out(host, &plan).await;
        std::fs::remove_file(options.data.join("bootstrap.json")).ok();
    }
    if host.identity().cluster != 0 {
        return announce(host).await;
    }
    if options.join.is_some() {
        return join(host).await;
    }
    if options.seed_nodes.is_empty() {
        return Err(Error::new(Code::BadRequest, "a node without a cluster needs `seed-nodes` or `join`"));
    }
    loop {
        let others = ask_seeds(host).await;
        if others.iter().flatten().any(|identity| identity.cluster != 0) && is_registered_elsewhere(host).await {
            tracing::warn!("this node's data folder is new, but the cluster knows its address: it joins again");
            return join(host).await;
        }
        if host.identity().cluster != 0 {
            return Ok(());
        }
        let all: Option<Vec<Identity>> = others.into_iter().collect();
        if let Some(all) = all.filter(|all| all.iter().all(|identity| identity.cluster == 0))
            && options.seed_nodes[0] == options.raft
        {
            let plan = make_plan(all)?;
            let bytes = serde_json::to_vec_pretty(&plan).expect("plans encode");
            write_synced(&options.data, "bootstrap.json", &bytes).map_err(storage)?;
            carry_out(host, &plan).await;
            std::fs::remove_file(options.data.join("bootstrap.json")).map_err(storage)?;
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn storage(error: io::Error) -> Error {
    Error::new(Code::Storage, error.to_string())
}

fn read_plan(host: &Host) -> Result<Option<Plan>, Error> {
    match std::fs::read(host.options().data.join("bootstrap.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::new(Code::Storage, format!("bootstrap.json is damaged: {error}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(storage(error)),
    }
}

async fn identify(cluster: &Cluster, addr: &str) -> Option<Identity> {
    match cluster.pool().request(addr, Request::Identify, ASK).await {
        Ok(Ok(Response::Identity(identity))) => Some(identity),
        _ => None,
    }
}

async fn ask_seeds(host: &Host) -> Vec<Option<Identity>> {
    let mut answers = Vec::new();
    for addr in &host.options().seed_nodes {
        answers.push(match *addr == host.options().raft {
            true => Some(host.identity()),
            false => identify(host.cluster(), addr).await,
        });
    }
    answers
}

/// Does the registry of a living cluster know this node's address under another instance?
async fn is_registered_elsewhere(host: &Host) -> bool {
    let us = host.identity();
    let registry = host.cluster().registry();
    registry.nodes.values().any(|node| node.raft_addr == us.raft_addr && node.instance != us.instance && !node.removed)
}

/// Numbers nodes and replicas. Ids that the operator gave are kept; the rest follow the seeds' order.
fn make_plan(seeds: Vec<Identity>) -> Result<Plan, Error> {
    let mut given = BTreeSet::new();
    for identity in seeds.iter().filter(|identity| identity.node != NodeId(0)) {
        if !given.insert(identity.node) {
            return Err(Error::new(Code::BadRequest, format!("setting `id`: two seeds are node {}", identity.node)));
        }
    }
    let mut free = (1..).map(NodeId).filter(|id| !given.contains(id));
    let seeds: Vec<(NodeId, Identity)> = seeds
        .into_iter()
        .map(|identity| match identity.node {
            NodeId(0) => (free.next().expect("numbers do not end"), identity),
            id => (id, identity),
        })
        .collect();
    let names: BTreeSet<GroupId> = seeds.iter().flat_map(|(_, identity)| identity.groups.iter().copied()).collect();
    if !names.contains(&META) || !names.contains(&GroupId(1)) {
        return Err(Error::new(
            Code::BadRequest,
            "setting `groups`: the seeds together must host `meta` and at least `shard1`",
        ));
    }
    let mut next = 100;
    let groups = names
        .into_iter()
        .map(|group| {
            let replicas = seeds
                .iter()
                .filter(|(_, identity)| identity.groups.contains(&group))
                .map(|(node, _)| {
                    next += 1;
                    ReplicaInfo { node: *node, replica: ReplicaId(next), votes: true }
                })
                .collect();
            (group, replicas)
        })
        .collect();
    let nodes = seeds.into_iter().map(|(id, identity)| (id, node_info(&identity))).collect();
    Ok(Plan { cluster: RequestId::random().0.max(1), nodes, groups })
}

fn node_info(identity: &Identity) -> NodeInfo {
    NodeInfo {
        instance: identity.instance,
        raft_addr: identity.raft_addr.clone(),
        http_addr: identity.http_addr.clone(),
        zone: identity.zone.clone(),
        removed: false,
    }
}

/// Repeats each step until it has been taken.
async fn carry_out(host: &Arc<Host>, plan: &Plan) {
    let addr_of = |node: NodeId| {
        plan.nodes.iter().find(|(id, _)| *id == node).map(|(_, info)| info.raft_addr.clone()).unwrap_or_default()
    };
    for (group, replicas) in &plan.groups {
        for replica in replicas {
            let request = Request::CreateReplica {
                cluster: plan.cluster,
                node: replica.node,
                group: *group,
                replica: replica.replica,
            };
            insist(host, &addr_of(replica.node), request).await;
        }
    }
    for (group, replicas) in &plan.groups {
        let members: Vec<_> = replicas.iter().map(|r| (r.replica, r.node, addr_of(r.node))).collect();
        // Spread over the members, so that leaders start out spread over the nodes.
        let first = &members[group.0 as usize % members.len()];
        let request = Request::InitGroup { group: *group, members: members.clone() };
        insist(host, &first.2, request).await;
    }
    let bootstrap =
        MetaCommand::Bootstrap { cluster: plan.cluster, nodes: plan.nodes.clone(), groups: plan.groups.clone() };
    let metas = &plan.groups.iter().find(|(group, _)| *group == META).expect("plans have meta").1;
    for replica in metas.iter().cycle() {
        let request = Request::Meta(bootstrap.clone());
        match host.cluster().pool().request(&addr_of(replica.node), request, ASK).await {
            Ok(Ok(_)) => break,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    tracing::info!(cluster = %format!("{:x}", plan.cluster), "the cluster has been made");
}

async fn insist(host: &Arc<Host>, addr: &str, request: Request) {
    let mut warned = false;
    loop {
        let why = match host.cluster().pool().request(addr, request.clone(), ASK).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if !warned {
            tracing::warn!(%addr, %why, "waiting for a seed node");
            warned = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells the registry where this node is now.
async fn announce(host: &Arc<Host>) -> Result<(), Error> {
    let identity = host.identity();
    loop {
        let known = host.cluster().registry();
        let current = known.nodes.get(&identity.node);
        if current.is_some_and(|node| *node == node_info(&identity)) {
            return Ok(());
        }
        let command = MetaCommand::Announce { node: identity.node, info: node_info(&identity) };
        // An old registry cannot hurt: announcing what is known already changes nothing.
        match host.cluster().meta(command, Instant::now() + CHANGE).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code == Code::Conflict => return Err(error),
            Err(error) => tracing::debug!(%error, "cannot announce this node yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Joins a cluster that exists, as a new node or in the place of a lost one.
async fn join(host: &Arc<Host>) -> Result<(), Error> {
    let identity = host.identity();
    let registry = loop {
        match host.cluster().refresh(Instant::now() + CHANGE).await {
            Ok(registry) if registry.cluster != 0 => break registry,
            Ok(_) => (),
            Err(error) => tracing::info!(%error, "looking for the cluster to join"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    let named = match identity.node {
        NodeId(0) => registry
            .nodes
            .iter()
            .find(|(_, node)| node.raft_addr == identity.raft_addr && !node.removed)
            .map(|(id, _)| *id),
        id => Some(id),
    };
    if let Some((id, known)) = named.and_then(|id| registry.nodes.get_key_value(&id))
        && known.instance != identity.instance
        && known.raft_addr != identity.raft_addr
        && identify(host.cluster(), &known.raft_addr).await.is_some()
    {
        return Err(Error::new(Code::Conflict, format!("setting `id`: node {id} is up at {}", known.raft_addr)));
    }
    let node = loop {
        let command = MetaCommand::Announce { node: named.unwrap_or_default(), info: node_info(&identity) };
        match host.cluster().meta(command, Instant::now() + CHANGE).await {
            Ok(MetaReply::Node { node, .. }) => break node,
            Ok(other) => return Err(unexpected(&Response::Meta(other))),
            Err(error) if error.code == Code::Conflict => return Err(error),
            Err(error) => tracing::info!(%error, "cannot join yet"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    // One that was here before comes back to what it had and was not given to others meanwhile.
    let is_new = registry.nodes.get(&node).is_none_or(|known| known.instance == identity.instance);
    // A crash before this is noted repeats the announcement, which then finds the same instance.
    let groups: BTreeSet<GroupId> = registry
        .groups
        .iter()
        .filter(|(_, replicas)| replicas.iter().any(|replica| replica.node == node))
        .map(|(group, _)| *group)
        .chain(identity.groups.iter().copied().filter(|group| is_new && registry.groups.contains_key(group)))
        .collect();
    let kind = JobKind::Join { node, groups: groups.into_iter().collect() };
    let create = MetaCommand::CreateJob { request: RequestId::random(), kind };
    loop {
        match host.cluster().meta(create.clone(), Instant::now() + CHANGE).await {
            Ok(_) => break,
            Err(error) => tracing::info!(%error, "cannot join yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    host.adopt(registry.cluster, node)
}

/// Watches the replicas that were here when the node started until each has caught up with its leader once.
pub async fn catch_up(host: Arc<Host>) {
    let replicas = host.replicas();
    futures::future::join_all(replicas.iter().map(|replica| catch_up_one(&host, replica))).await;
}

async fn catch_up_one(host: &Host, replica: &Replica) {
    let (group, own) = (replica.group(), host.identity().node);
    let mut goal = None;
    loop {
        let metrics = replica.raft().metrics().borrow_watched().clone();
        let registry = host.cluster().registry();
        // One that was taken out of its group while the node was down has nobody to catch up with.
        let is_member = registry.cluster == 0 || registry.replica_on(group, own) == Some(replica.id());
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        if !is_member || replica.leads() || goal.is_some_and(|goal| applied >= goal) {
            return replica.has_caught_up();
        }
        if let (None, Some(leader)) = (goal, leader_of(&metrics)) {
            let answer = host.cluster().ask(leader, Request::Status, Instant::now() + ASK).await;
            if let Ok(Response::Status(status)) = answer {
                let leads = |other: &&ReplicaStatus| other.group == group && other.role == "leader";
                goal = status.replicas.iter().find(leads).map(|leader| leader.committed);
            }
        }
        tokio::time::sleep(CATCH_UP_LOOK).await;
    }
}
