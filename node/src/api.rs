//! The node's HTTP API: what the proxy's API offers, for the groups that this node hosts, by name.
//!
//! `GET /status`, `/node`, `/shard`, `/healthz`, `/readyz`, `/metrics`; `POST /execute?shard=…` and
//! `/query?shard=…` run as written on that shard, for inspection; `POST /remove {"node":N}`. A parameter or
//! field that a call does not know is refused, except by those that answer machines.

use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{HttpRequest, HttpResponse, bytes, error, json, unknown_field};
use flotilla_shared::ids::{GroupId, NodeId, RequestId};
use flotilla_shared::registry::{HOME, JobKind, MetaCommand, MetaReply, mentions};
use flotilla_shared::value::Params;
use flotilla_shared::wire::{Read, Request, Response, Rows, Statement, Write};
use hyper::Method;
use hyper::header::HeaderValue;
use serde_json::{Value as Json, json as object};
use tokio::time::Instant;

use crate::host::Host;
use crate::metrics;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers one request.
pub async fn handle(host: Arc<Host>, request: HttpRequest) -> HttpResponse {
    match route(&host, request).await {
        Ok(response) => response,
        Err(refusal) => error(&refusal),
    }
}

async fn route(host: &Arc<Host>, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let path = request.path.clone();
    if matches!(path.as_str(), "/status" | "/node" | "/shard") {
        request.has_only(&[])?;
    }
    match (&request.method, path.as_str()) {
        (&Method::GET, "/healthz") => healthz(host),
        (&Method::GET, "/readyz") => readyz(host),
        (&Method::GET, "/status") => Ok(json(200, &status(host))),
        (&Method::GET, "/node") => Ok(json(200, &object!({ "nodes": [node(host)] }))),
        (&Method::GET, "/shard") => Ok(json(200, &object!({ "shards": shards(host) }))),
        (&Method::GET, "/metrics") => Ok(bytes(
            200,
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
            metrics::render(host).into(),
        )),
        (&Method::POST, "/execute") => execute(host, &mut request).await,
        (&Method::GET | &Method::POST, "/query") => query(host, &mut request).await,
        (&Method::POST, "/remove") => remove(host, &mut request).await,
        (
            _,
            "/healthz" | "/readyz" | "/status" | "/node" | "/shard" | "/metrics" | "/execute" | "/query" | "/remove",
        ) => Err(Error::new(Code::MethodNotAllowed, format!("{path} is not called with {}", request.method))),
        _ => Err(Error::new(Code::NotFound, format!("a node has no {path}")).hint("ask a proxy for the whole API")),
    }
}

/// Healthy: the log takes writes and no replica has stopped. What is not healthy wants a restart.
fn healthz(host: &Host) -> Result<HttpResponse, Error> {
    if let Some(failure) = host.wal().failed() {
        return Err(Error::new(Code::Storage, failure.to_string()));
    }
    match host.status().replicas.iter().find(|replica| replica.role == "stopped") {
        None => Ok(json(200, &object!({ "status": "ok" }))),
        Some(replica) => Err(Error::new(Code::Storage, format!("the replica of {} has stopped", replica.group))
            .hint("the log of this process says why; restart the node")),
    }
}

/// Ready: this node belongs to a cluster, and each of its replicas knows a leader and has caught up with it
/// since the start. So whoever restarts nodes one by one goes on when this says yes.
fn readyz(host: &Host) -> Result<HttpResponse, Error> {
    let status = host.status();
    if status.identity.cluster == 0 {
        return Err(Error::new(Code::Unavailable, "this node belongs to no cluster yet"));
    }
    if let Some(replica) = status.replicas.iter().find(|replica| replica.leader.is_none()) {
        return Err(Error::new(Code::Unavailable, format!("{} has no leader yet", replica.group)));
    }
    match host.replicas().iter().find(|replica| !replica.caught_up()) {
        None => Ok(json(200, &object!({ "status": "ready" }))),
        Some(replica) => Err(Error::new(Code::Unavailable, format!("{} has not caught up yet", replica.group()))),
    }
}

fn node(host: &Host) -> Json {
    let identity = host.identity();
    object!({
        "id": identity.node.0,
        "raft_addr": identity.raft_addr,
        "http_addr": identity.http_addr,
        "zone": identity.zone,
        "state": "up",
    })
}

fn shards(host: &Host) -> Vec<Json> {
    host.status()
        .replicas
        .iter()
        .map(|replica| {
            object!({
                "id": replica.group.to_string(),
                "leader": replica.leader.map(|node| node.0),
                "term": replica.term,
                "replicas": [{
                    "node": host.identity().node.0,
                    "replica": replica.replica.0,
                    "role": replica.role,
                    "last_log": replica.last_log,
                    "committed": replica.committed,
                    "applied": replica.applied,
                    "purged": replica.purged,
                    "lag": replica.committed.saturating_sub(replica.applied),
                }],
            })
        })
        .collect()
}

fn status(host: &Host) -> Json {
    let registry = host.cluster().registry();
    object!({
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": format!("{:x}", host.identity().cluster),
        "registry_version": registry.version,
        "schema_version": registry.schema_version.0,
        "nodes": [node(host)],
        "groups": shards(host),
    })
}

fn shard_of(request: &HttpRequest) -> Result<GroupId, Error> {
    request.parsed::<GroupId>("shard")?.ok_or_else(|| {
        Error::new(Code::BadRequest, "a node runs statements on one named shard")
            .hint("add `shard=shard1`, or ask a proxy, which routes by itself")
    })
}

/// The body of a request, if it is an object with no other fields than these, and no other parameters are there.
fn body(request: &mut HttpRequest, fields: &[&str], params: &[&str]) -> Result<Json, Error> {
    let body = request.json()?;
    request.has_only(params)?;
    let Some(map) = body.as_object() else {
        return Err(Error::new(Code::BadRequest, "the body is not an object").hint("send {\"name\": value, …}"));
    };
    match map.keys().find(|name| !fields.contains(&name.as_str())) {
        Some(unknown) => Err(unknown_field(unknown, "field", fields)),
        None => Ok(body),
    }
}

fn statement(sql: Option<&str>, args: Option<&Json>) -> Result<Statement, Error> {
    match sql {
        Some(sql) => Ok(Statement { sql: sql.to_owned(), params: Params::from_json(args)? }),
        None => Err(Error::new(Code::BadRequest, "`query` is missing").hint("send {\"query\":\"SELECT 1\"}")),
    }
}

async fn execute(host: &Arc<Host>, request: &mut HttpRequest) -> Result<HttpResponse, Error> {
    let body = body(request, &["query", "args"], &["shard"])?;
    let group = shard_of(request)?;
    let key = request.headers.get("idempotency-key").map(|key| key.to_str()).transpose();
    let key = key.map_err(|_| Error::new(Code::BadRequest, "Idempotency-Key is not visible ASCII"))?;
    let id = key.map_or_else(RequestId::random, RequestId::from_key);
    let statement = statement(body["query"].as_str(), body.get("args"))?;
    routed_by_nobody(host, &statement.sql)?;
    let write = Write { id, route: None, statements: vec![statement] };
    let request = Request::Write { group, writes: vec![write] };
    let response = host.cluster().call(group, request, Instant::now() + TIMEOUT).await?;
    let Response::Writes(results) = response else { return Err(flotilla_shared::client::unexpected(&response)) };
    let results = results.into_iter().next().unwrap_or_else(|| Ok(vec![]))?;
    let results: Vec<Json> = results
        .iter()
        .map(|result| {
            let mut line = object!({ "last_insert_id": result.last_insert_id, "rows_affected": result.rows_affected });
            if let Some(rows) = &result.rows {
                line["columns"] = object!(rows.columns);
                line["values"] = values(rows);
            }
            line
        })
        .collect();
    Ok(json(200, &object!({ "results": results })))
}

/// A node has no plan of a statement, so it takes none that may write rows which another shard owns.
fn routed_by_nobody(host: &Host, sql: &str) -> Result<(), Error> {
    let registry = host.cluster().registry();
    let named = |kind: &str| matches!(kind, "table" | "view");
    let mut spread = registry.objects.iter().filter(|object| object.placement != HOME && named(&object.kind));
    match spread.find(|object| mentions(sql, &object.name)) {
        None => Ok(()),
        Some(object) => {
            Err(Error::new(Code::Unroutable, format!("{} is sharded, and a node does not route", object.name))
                .hint("send the statement to a proxy"))
        }
    }
}

fn values(rows: &Rows) -> Json {
    rows.values.iter().map(|row| row.iter().map(|value| value.to_json()).collect::<Json>()).collect()
}

async fn query(host: &Arc<Host>, request: &mut HttpRequest) -> Result<HttpResponse, Error> {
    let params = ["shard", "level", "freshness"];
    let (sql, args) = match request.body.is_empty() {
        true => {
            request.has_only(&[&params[..], &["q"]].concat())?;
            (request.param("q").map(str::to_owned), None)
        }
        false => {
            let mut body = body(request, &["query", "args"], &params)?;
            (body["query"].as_str().map(str::to_owned), Some(body["args"].take()))
        }
    };
    let group = shard_of(request)?;
    let level = match request.param("level") {
        None => Default::default(),
        Some(text) => serde_json::from_value(text.into())
            .map_err(|_| Error::new(Code::BadRequest, "`level` is linearizable, lease or none"))?,
    };
    let statement = statement(sql.as_deref(), args.as_ref())?;
    let read = Read { route: None, statement, level, freshness_ms: request.parsed("freshness")? };
    match crate::server::handle(host, Request::Read { group, read }, TIMEOUT).await? {
        Response::Rows(rows) => Ok(json(
            200,
            &object!({ "results": [{ "columns": rows.columns, "types": rows.types, "values": values(&rows) }] }),
        )),
        other => Err(flotilla_shared::client::unexpected(&other)),
    }
}

async fn remove(host: &Arc<Host>, request: &mut HttpRequest) -> Result<HttpResponse, Error> {
    let body = body(request, &["node"], &[])?;
    let node = body["node"]
        .as_u64()
        .map(NodeId)
        .ok_or_else(|| Error::new(Code::BadRequest, "`node` is the id of the node that leaves"))?;
    let registry = host.cluster().refresh(Instant::now() + TIMEOUT).await?;
    match registry.nodes.get(&node) {
        None => return Err(Error::new(Code::NoSuchObject, format!("there is no node {node}"))),
        Some(info) if info.removed => return Err(Error::new(Code::Conflict, format!("node {node} has left"))),
        Some(_) => (),
    }
    let create = MetaCommand::CreateJob { request: RequestId::random(), kind: JobKind::Remove { node } };
    match host.cluster().meta(create, Instant::now() + TIMEOUT).await? {
        MetaReply::Job(job) => Ok(json(202, &object!({ "job": job.to_string() }))),
        other => Err(Error::new(Code::Internal, format!("no job was made: {other:?}"))),
    }
}
