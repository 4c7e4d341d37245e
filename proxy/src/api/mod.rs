//! The HTTP API: one file per group of calls.
//!
//! [`sql`] runs statements, [`explain`] shows their plans, [`kv`] keeps values by key, [`tables`]
//! registers and shows tables, [`cluster`] shows and changes
//! nodes, shards and jobs, [`replicas`] says which nodes hold them, [`repair`] makes those of dead nodes anew, [`leaders`] says who leads, [`health`] answers machines, and [`params`] reads what they have in
//! common. Input: an [`HttpRequest`] with its body read. Output: JSON, or an error with the status
//! that its code maps to. Refused here: unknown paths, wrong methods, and requests beyond
//! [`MAX_REQUESTS_IN_WORK`](crate::MAX_REQUESTS_IN_WORK). Each call refuses parameters and fields that it does
//! not know, except those that answer machines: a load balancer may send what it likes.

pub mod cluster;
pub mod explain;
pub mod health;
pub mod kv;
pub mod leaders;
pub mod params;
mod placements;
pub mod rebalance;
mod repair;
pub mod replicas;
pub mod split;
pub mod sql;
pub mod stream;
pub mod tables;
#[cfg(test)]
mod tests;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use hyper::Method;
use hyper::header::{ALLOW, HeaderValue};
use tokio::time::Instant;

use crate::Proxy;

/// What an unknown path is counted as, so that metrics do not grow with what clients make up.
const UNKNOWN: &str = "unknown";

/// A call of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Execute,
    Query,
    Sql,
    Register,
    AddToShard,
    RemoveFromShard,
    Rebalance,
    Balance,
    Split,
    RemoveShard,
    HandOver,
    Prefer,
    Tables,
    Table,
    Shards,
    Nodes,
    Jobs,
    Job,
    JobWish,
    Status,
    Health,
    Ready,
    Metrics,
    Join,
    Remove,
    Replicas,
    Drain,
    Repair,
    Undrain,
    Explain,
    KeyValue,
}

/// The call that a path means, its name in metrics, and the methods that it takes.
fn call(path: &str) -> Option<(Call, &'static str, &'static str)> {
    Some(match path {
        "/execute" => (Call::Execute, "/execute", "POST"),
        "/query" => (Call::Query, "/query", "GET, POST"),
        "/sql" => (Call::Sql, "/sql", "POST"),
        "/table/register" => (Call::Register, "/table/register", "POST"),
        "/table/add-to-shard" => (Call::AddToShard, "/table/add-to-shard", "POST"),
        "/table/remove-from-shard" => (Call::RemoveFromShard, "/table/remove-from-shard", "POST"),
        "/table/rebalance" => (Call::Rebalance, "/table/rebalance", "POST"),
        "/table/split" => (Call::Split, "/table/split", "POST"),
        "/table" => (Call::Tables, "/table", "GET"),
        "/shard" => (Call::Shards, "/shard", "GET, POST"),
        "/node" => (Call::Nodes, "/node", "GET"),
        "/job" => (Call::Jobs, "/job", "GET"),
        "/status" => (Call::Status, "/status", "GET"),
        "/healthz" => (Call::Health, "/healthz", "GET"),
        "/readyz" => (Call::Ready, "/readyz", "GET"),
        "/metrics" => (Call::Metrics, "/metrics", "GET"),
        "/leaders" => (Call::Balance, "/leaders", "POST"),
        "/join" => (Call::Join, "/join", "POST"),
        "/remove" => (Call::Remove, "/remove", "POST"),
        "/repair" => (Call::Repair, "/repair", "POST"),
        "/explain" => (Call::Explain, "/explain", "GET, POST"),
        "/kv" => (Call::KeyValue, "/kv", "GET"),
        _ if path.starts_with("/shard/") && path.ends_with("/leader") => (Call::HandOver, "/shard/{id}/leader", "POST"),
        _ if path.starts_with("/shard/") && !path[7..].contains('/') => (Call::Prefer, "/shard/{id}", "POST"),
        _ if path.starts_with("/shard/") && path.ends_with("/remove") => {
            (Call::RemoveShard, "/shard/{id}/remove", "POST")
        }
        _ if path.starts_with("/shard/") && path.ends_with("/replicas") => {
            (Call::Replicas, "/shard/{id}/replicas", "POST")
        }
        _ if path.starts_with("/node/") && path.ends_with("/drain") => (Call::Drain, "/node/{id}/drain", "POST"),
        _ if path.starts_with("/node/") && path.ends_with("/undrain") => (Call::Undrain, "/node/{id}/undrain", "POST"),
        _ if path.starts_with("/table/") => (Call::Table, "/table/{name}", "GET"),
        _ if path.starts_with("/job/") && path[5..].contains('/') => (Call::JobWish, "/job/{id}/{wish}", "POST"),
        _ if path.starts_with("/job/") => (Call::Job, "/job/{id}", "GET"),
        _ if path.starts_with("/kv/") => (Call::KeyValue, "/kv/{key}", "GET, PUT, DELETE"),
        _ => return None,
    })
}

/// Answers a request.
pub async fn answer(proxy: &Proxy, request: HttpRequest) -> HttpResponse {
    let start = Instant::now();
    let known = call(&request.path);
    let name = known.map_or(UNKNOWN, |(_, name, _)| name);
    let response = match known {
        Some((call, _, methods)) => dispatch(proxy, call, methods, request).await,
        None => http::error(
            &Error::new(Code::NotFound, format!("there is no {}", request.path))
                .hint("see /execute, /query, /sql, /table, /shard, /node, /job, /status"),
        ),
    };
    proxy.metrics.answered(name, response.status().as_u16(), start.elapsed());
    response
}

async fn dispatch(proxy: &Proxy, call: Call, methods: &'static str, request: HttpRequest) -> HttpResponse {
    // HEAD is what health checkers of load balancers send; hyper leaves out the body.
    let method = if request.method == Method::HEAD { "GET" } else { request.method.as_str() };
    if !methods.split(", ").any(|known| known == method) {
        let mut response = http::error(
            &Error::new(Code::MethodNotAllowed, format!("{} does not take {}", request.path, request.method))
                .hint(format!("use {methods}")),
        );
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        return response;
    }
    match call {
        Call::Health => return health::healthz(),
        Call::Ready => return health::readyz(proxy),
        Call::Metrics => return health::metrics(proxy),
        _ => (),
    }
    let Ok(_place) = proxy.in_work.try_acquire() else {
        return http::error(
            &Error::new(Code::Overloaded, format!("{} requests are in work", proxy.options.max_requests))
                .hint("retry later"),
        );
    };
    let outcome = match call {
        Call::Execute | Call::Query | Call::Sql => sql::run(proxy, call == Call::Query, request).await,
        // Each connection holds and moves a future as large as its largest branch: what is rare is boxed.
        _ => Box::pin(rare(proxy, call, method == "GET", request)).await,
    };
    outcome.unwrap_or_else(|error| http::error(&error))
}

/// The calls that are not statements.
async fn rare(proxy: &Proxy, call: Call, is_get: bool, request: HttpRequest) -> Result<HttpResponse, Error> {
    match call {
        Call::Register => tables::register(proxy, request).await,
        Call::AddToShard => tables::add_to_shard(proxy, request).await,
        Call::RemoveFromShard => rebalance::remove_from_shard(proxy, request).await,
        Call::Rebalance => rebalance::rebalance(proxy, request).await,
        Call::Split => split::split(proxy, request).await,
        Call::RemoveShard => rebalance::remove_shard(proxy, request).await,
        Call::HandOver => leaders::hand_over(proxy, request).await,
        Call::Balance => leaders::balance(proxy, request).await,
        Call::Prefer => leaders::prefer(proxy, request).await,
        Call::JobWish => rebalance::wish(proxy, request).await,
        Call::Tables => tables::list(proxy, &request).await,
        Call::Table => tables::show(proxy, &request).await,
        Call::Shards if is_get => cluster::shards(proxy, &request).await,
        Call::Shards => cluster::create_shard(proxy, request).await,
        Call::Join => cluster::join(proxy, request).await,
        Call::Nodes => cluster::nodes(proxy, &request).await,
        Call::Jobs => cluster::jobs(proxy, &request).await,
        Call::Job => cluster::job(proxy, &request).await,
        Call::Status => cluster::status(proxy, &request).await,
        Call::Remove => cluster::remove(proxy, request).await,
        Call::Replicas => replicas::change(proxy, request).await,
        Call::Repair => repair::repair(proxy, request).await,
        Call::Drain => replicas::drain(proxy, request).await,
        Call::Undrain => replicas::undrain(proxy, request).await,
        Call::Explain => explain::explain(proxy, request).await,
        Call::KeyValue => kv::run(proxy, request).await,
        Call::Execute | Call::Query | Call::Sql | Call::Health | Call::Ready | Call::Metrics => {
            Err(Error::new(Code::Internal, "statements and machines are answered before others"))
        }
    }
}
