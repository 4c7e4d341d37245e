//! `POST /shard/{id}/leader`, `POST /shard/{id}` and `POST /leaders`: who leads a group, in which zone, and
//! whether leaders are spread over the nodes.

use flotilla_shared::client::unexpected;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::{GroupId, NodeId};
use flotilla_shared::registry::{LeaderRule, MetaCommand, Registry, check_zone};
use flotilla_shared::wire::{Request, Response};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::params::{Fields, bad, with_fields};
use crate::Proxy;

/// The group that a path names, behind `/shard/` and before `suffix`.
pub(super) fn group_in(path: &str, suffix: &str, registry: &Registry) -> Result<GroupId, Error> {
    let name = path.trim_start_matches("/shard/").trim_end_matches(suffix);
    let group: GroupId = name.parse().map_err(|_| bad(format!("`{name}` names no group")))?;
    match registry.groups.contains_key(&group) {
        true => Ok(group),
        false => {
            Err(Error::new(Code::NoSuchObject, format!("there is no {group}")).hint("GET /shard lists the shards"))
        }
    }
}

/// Lets a node lead a group, which may be `meta`. That node holds a replica that votes and has caught up.
pub async fn hand_over(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_fields(&mut request, &["node"])?;
    let deadline = Fields::new(&request, Some(&body)).deadline(proxy)?;
    let to = body["node"].as_u64().map(NodeId);
    let to = to.ok_or_else(|| bad("`node` is the id of the node that shall lead").hint("send {\"node\": 2}"))?;
    proxy.registry(deadline).await?;
    let registry = proxy.refreshed(deadline).await?;
    let group = group_in(&request.path, "/leader", &registry)?;
    if registry.replica_on(group, to).is_none() {
        return Err(Error::new(Code::NoSuchObject, format!("node {to} holds no replica of {group}"))
            .hint("GET /status shows who does"));
    }
    match proxy.cluster.call(group, Request::HandOver { group, to: Some(to) }, deadline).await? {
        Response::Leader(leader) => Ok(http::json(200, &json!({ "shard": group, "leader": leader }))),
        other => Err(unexpected(&other)),
    }
}

/// The preferred zone in a body: `None` when it says nothing, `Some(None)` when no zone is preferred.
///
/// # Errors
/// [`Code::BadRequest`] for what is no zone.
pub fn preferred_zone(body: &Json) -> Result<Option<Option<String>>, Error> {
    match body.get("preferred_zone") {
        None => Ok(None),
        Some(Json::Null) => Ok(Some(None)),
        Some(Json::String(zone)) => check_zone(zone).map(|()| Some(Some(zone.clone()))),
        Some(_) => Err(bad("`preferred_zone` is the zone of a node, or null").hint("GET /node shows the zones")),
    }
}

/// Records a group's preferred zone.
///
/// # Errors
/// That the registry cannot be changed.
pub async fn set_preferred(
    proxy: &Proxy,
    group: GroupId,
    zone: Option<String>,
    deadline: Instant,
) -> Result<(), Error> {
    let rule = LeaderRule::Prefer { group, zone };
    proxy.cluster.meta(MetaCommand::Leaders(rule), deadline).await.map(drop)
}

/// Chooses the zone in which a group's leader shall be. It moves there when a replica there has caught up.
pub async fn prefer(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_fields(&mut request, &["preferred_zone"])?;
    let deadline = Fields::new(&request, Some(&body)).deadline(proxy)?;
    let zone = preferred_zone(&body)?.ok_or_else(|| {
        bad("`preferred_zone` is missing").hint("send {\"preferred_zone\": \"eu-west\"}, or null for none")
    })?;
    proxy.registry(deadline).await?;
    let registry = proxy.refreshed(deadline).await?;
    let group = group_in(&request.path, "", &registry)?;
    let known = registry.replicas(group).iter().any(|replica| zone.as_deref() == registry.zone_of(replica.node));
    if let (Some(zone), false) = (&zone, known) {
        return Err(Error::new(Code::Conflict, format!("no replica of {group} is in zone {zone}"))
            .hint("GET /node shows the zones; add a replica there first"));
    }
    set_preferred(proxy, group, zone.clone(), deadline).await?;
    Ok(http::json(200, &json!({ "shard": group, "preferred_zone": zone })))
}

/// Switches the balancer on or off.
pub async fn balance(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_fields(&mut request, &["balance"])?;
    let fields = Fields::new(&request, Some(&body));
    let (deadline, on) = (fields.deadline(proxy)?, fields.flag("balance")?);
    let on = on.ok_or_else(|| bad("`balance` is missing").hint("send {\"balance\": true}, or false"))?;
    proxy.registry(deadline).await?;
    proxy.cluster.meta(MetaCommand::Leaders(LeaderRule::Balance(on)), deadline).await?;
    Ok(http::json(200, &json!({ "balance": on })))
}
