//! Nodes come and go: replicas are made, caught up, given a vote, and taken away, one at a time.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, NodeId, ReplicaId};
use flotilla_shared::registry::{Effect, MetaCommand, MetaReply, NodeInfo, Registry, ReplicaInfo};
use flotilla_shared::wire::{MemberChange, Request, Response};

use super::Driver;

/// Gives a node its replicas. Those that the registry has on this node, but the node itself does not
/// host, were lost with its disk: they are taken out first and never come back under their ids.
pub(super) async fn join(
    driver: &Driver<'_>,
    registry: &Registry,
    node: NodeId,
    groups: &[GroupId],
) -> Result<Vec<Effect>, Error> {
    let info = node_info(registry, node)?;
    let hosted = hosted(driver, info).await?;
    for (done, group) in groups.iter().enumerate() {
        let percent = (100 * done / groups.len()) as u8;
        let mut replicas = registry.replicas(*group).to_vec();
        if let Some(present) = registry.replica_on(*group, node) {
            if hosted.contains(&(*group, present)) {
                continue;
            }
            driver.note(&format!("taking lost replica {present} out of {group}"), percent, None).await;
            change(driver, *group, MemberChange::Remove(present)).await?;
            replicas.retain(|replica| replica.replica != present);
            set_replicas(driver, *group, &replicas).await?;
        }
        // A replica made by an earlier try of this job is used again.
        let made = hosted.iter().find(|(g, _)| g == group).map(|(_, replica)| *replica);
        let replica = match made {
            Some(replica) => replica,
            None => reserve(driver).await?,
        };
        driver.note(&format!("replica {replica} of {group} catches up"), percent, None).await;
        let create = Request::CreateReplica { cluster: registry.cluster, node, group: *group, replica };
        driver.node(&info.raft_addr, create).await?;
        change(driver, *group, MemberChange::AddLearner { replica, node, addr: info.raft_addr.clone() }).await?;
        change(driver, *group, MemberChange::Promote(replica)).await?;
        replicas.push(ReplicaInfo { node, replica });
        set_replicas(driver, *group, &replicas).await?;
    }
    Ok(vec![])
}

/// Replicas of a new shard: one node's failure must not stop it.
const REPLICAS: usize = 3;

/// Makes a group on `nodes`. The registry learns of it last; until then a driver that starts over
/// finds the replicas that were made, by their group, on the nodes themselves.
pub(super) async fn create_shard(
    driver: &Driver<'_>,
    registry: &Registry,
    nodes: &[NodeId],
) -> Result<Vec<Effect>, Error> {
    let group = registry.next_shard();
    let nodes = match nodes {
        [] => registry.nodes_for_replicas(&[], REPLICAS),
        given => given.to_vec(),
    };
    let (mut replicas, mut members) = (Vec::new(), Vec::new());
    for node in nodes {
        let info = node_info(registry, node)?;
        let made = hosted(driver, info).await?.iter().find(|(g, _)| *g == group).map(|(_, replica)| *replica);
        let replica = match made {
            Some(replica) => replica,
            None => reserve(driver).await?,
        };
        driver.note(&format!("replica {replica} of {group} on node {node}"), 50, None).await;
        let create = Request::CreateReplica { cluster: registry.cluster, node, group, replica };
        driver.node(&info.raft_addr, create).await?;
        replicas.push(ReplicaInfo { node, replica });
        members.push((replica, node, info.raft_addr.clone()));
    }
    let Some((_, _, first)) = members.first().cloned() else {
        return Err(Error::new(Code::Conflict, "there is no node to hold a replica"));
    };
    driver.node(&first, Request::InitGroup { group, members }).await?;
    set_replicas(driver, group, &replicas).await?;
    Ok(vec![])
}

/// Takes all replicas off a node.
pub(super) async fn remove(driver: &Driver<'_>, registry: &Registry, node: NodeId) -> Result<Vec<Effect>, Error> {
    let info = node_info(registry, node)?;
    let groups: Vec<(GroupId, ReplicaId)> =
        registry.groups.keys().filter_map(|group| Some((*group, registry.replica_on(*group, node)?))).collect();
    if let Some((group, _)) = groups.iter().find(|(group, _)| registry.replicas(*group).len() == 1) {
        return Err(Error::new(Code::Conflict, format!("node {node} holds the only replica of {group}"))
            .hint("let another node join with that group first"));
    }
    for (done, (group, replica)) in groups.iter().enumerate() {
        driver.note(&format!("taking replica {replica} out of {group}"), (100 * done / groups.len()) as u8, None).await;
        change(driver, *group, MemberChange::Remove(*replica)).await?;
        let left: Vec<ReplicaInfo> =
            registry.replicas(*group).iter().copied().filter(|other| other.replica != *replica).collect();
        set_replicas(driver, *group, &left).await?;
        // The node may be gone already; then there is nothing to drop.
        driver.node(&info.raft_addr, Request::DropReplica { group: *group, replica: *replica }).await.ok();
    }
    Ok(vec![Effect::NodeRemoved(node)])
}

fn node_info(registry: &Registry, node: NodeId) -> Result<&NodeInfo, Error> {
    match registry.nodes.get(&node) {
        Some(info) if !info.removed => Ok(info),
        _ => Err(Error::new(Code::NoSuchObject, format!("there is no node {node}"))),
    }
}

async fn hosted(driver: &Driver<'_>, info: &NodeInfo) -> Result<Vec<(GroupId, ReplicaId)>, Error> {
    match driver.node(&info.raft_addr, Request::Status).await? {
        Response::Status(status) if status.identity.instance == info.instance => {
            Ok(status.replicas.iter().map(|replica| (replica.group, replica.replica)).collect())
        }
        _ => Err(Error::new(Code::Unavailable, format!("another node answers at {}", info.raft_addr))),
    }
}

async fn reserve(driver: &Driver<'_>) -> Result<ReplicaId, Error> {
    match driver.cluster.meta(MetaCommand::ReserveReplica, driver.deadline()).await? {
        MetaReply::Replica(replica) => Ok(replica),
        other => Err(Error::new(Code::Internal, format!("no replica id was given: {other:?}"))),
    }
}

async fn change(driver: &Driver<'_>, group: GroupId, change: MemberChange) -> Result<(), Error> {
    let request = Request::Membership { group, change };
    match driver.cluster.call(group, request, driver.deadline()).await {
        Ok(_) => Ok(()),
        // Another change of the group's membership is under way; it ends.
        Err(error) if error.code == Code::Conflict => Err(Error { code: Code::Unavailable, ..error }),
        Err(error) => Err(error),
    }
}

async fn set_replicas(driver: &Driver<'_>, group: GroupId, replicas: &[ReplicaInfo]) -> Result<(), Error> {
    let command = MetaCommand::SetReplicas { group, replicas: replicas.to_vec() };
    driver.cluster.meta(command, driver.deadline()).await.map(drop)
}
