//! The stateless SQL proxy.
//!
//! A request comes in over HTTP ([`api`]). Its SQL is split into tokens ([`lex`]) and prepared on an
//! empty database with the cluster's schema ([`mirror`]), which gives errors in SQLite's own words
//! and a record of all that the statement touches. [`analyze`] finds the keys that it names, and
//! [`plan`] decides, from that and the registry alone, which shards it needs. [`execute`] sends it
//! there, plans again when the map was old, lets SQLite finish what several shards began ([`merge`]), and
//! [`respond`] writes the answer. [`metrics`] counts, [`explain`] shows plans to people.
//!
//! A proxy holds nothing that cannot be had again: caches, and blocks of integer keys. Any number of
//! them may serve one cluster, and killing one loses no more than the requests that it was answering.

pub mod analyze;
pub mod api;
pub mod execute;
pub mod explain;
pub mod merge;
pub mod metrics;
pub mod mirror;
pub mod plan;
pub mod respond;
#[cfg(test)]
mod testing;

pub use flotilla_shared::lex;

use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::client::Cluster;
use flotilla_shared::http::{HttpRequest, HttpResponse};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;

use execute::keys::KeyBlocks;
use execute::stream::MAX_STREAMS;
use metrics::Metrics;
use mirror::Mirrors;

/// Requests in work at once; more are refused with 429. Each may hold a body of
/// [`MAX_BODY_BYTES`](flotilla_shared::http::MAX_BODY_BYTES).
pub const MAX_REQUESTS_IN_WORK: usize = 1024;

/// Merges at work at once; more wait. Each may hold some tens of megabytes.
pub const MAX_MERGES: usize = 16;

/// How long requests under way may go on after `stop`.
pub const DRAIN: Duration = Duration::from_secs(5);

/// What can be set.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// How long a request may take that does not say so itself.
    pub default_timeout: Duration,
    /// Rows of a result put together from several shards.
    pub max_rows: usize,
    /// Requests in work at once.
    pub max_requests: usize,
    /// Rows that one statement may pull from shards to merge them.
    pub max_pulled_rows: usize,
    /// Bytes of values that one statement may pull from shards to merge them.
    pub max_pulled_bytes: usize,
    /// Where the proxy stands, by the names of the nodes' zones: reads that any replica may answer stay there.
    pub zone: Option<String>,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(10),
            max_rows: 100_000,
            max_requests: MAX_REQUESTS_IN_WORK,
            max_pulled_rows: 10_000_000,
            max_pulled_bytes: 2 << 30,
            zone: None,
        }
    }
}

/// A proxy.
pub struct Proxy {
    cluster: Arc<Cluster>,
    options: ProxyOptions,
    mirrors: Mirrors,
    keys: KeyBlocks,
    metrics: Arc<Metrics>,
    /// When the last look for a newer registry began.
    refresh: Mutex<Option<Instant>>,
    in_work: Semaphore,
    merges: Semaphore,
    streams: Arc<Semaphore>,
}

impl Proxy {
    /// A proxy for a cluster. Nothing is sent yet.
    pub fn new(cluster: Arc<Cluster>, options: ProxyOptions) -> Arc<Self> {
        let in_work = Semaphore::new(options.max_requests);
        Arc::new(Self {
            cluster,
            options,
            mirrors: Mirrors::default(),
            keys: KeyBlocks::default(),
            metrics: Arc::default(),
            refresh: Mutex::new(None),
            in_work,
            merges: Semaphore::new(MAX_MERGES),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        })
    }

    /// Follows the registry and serves HTTP on `listener` until `stop` turns true, then finishes
    /// what is under way within [`DRAIN`].
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: watch::Receiver<bool>) {
        let follower = tokio::spawn(Arc::clone(&self.cluster).follow());
        let handler = move |request: HttpRequest| {
            let proxy = Arc::clone(&self);
            async move { proxy.handle(request).await }
        };
        flotilla_shared::http::serve(listener, handler, stop, DRAIN).await;
        follower.abort();
    }

    /// Answers one request.
    pub async fn handle(&self, request: HttpRequest) -> HttpResponse {
        api::answer(self, request).await
    }
}
