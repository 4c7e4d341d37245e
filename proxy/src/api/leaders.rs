//! `POST /shard/{id}/leader`: who leads a group.

use flotilla_shared::client::unexpected;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::{GroupId, NodeId};
use flotilla_shared::registry::Registry;
use flotilla_shared::wire::{Request, Response};
use serde_json::json;

use super::params::{Fields, bad};
use crate::Proxy;

/// The group that a path names, behind `/shard/` and before `suffix`.
fn group_in(path: &str, suffix: &str, registry: &Registry) -> Result<GroupId, Error> {
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
    let body = request.json()?;
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
