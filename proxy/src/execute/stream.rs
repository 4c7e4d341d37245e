//! Results that are pulled from their shards piece by piece, and so may be larger than memory.
//!
//! A plain read, of one shard or many, is opened on all its shards before the first row is given, so
//! that each of them checks the plan and holds its moment; then they are read one after the other. A
//! plan made from an old map is noticed while nothing has been said yet, and made anew. A read that
//! needs more than putting rows one behind the other is run as a whole, within its bounds, and given
//! from memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::client::{Cluster, unexpected};
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, NodeId, RequestId};
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Read, Request, Response, Statement};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::Proxy;
use crate::analyze::Verb;
use crate::execute::send::{Job, MAX_FAN_OUT};
use crate::execute::{FIRST_PAUSE, Options, input};
use crate::metrics::Metrics;
use crate::plan::{self, Part, Plan};
use crate::respond::Output;

/// Streams open at once; each holds up to one piece per shard, and a place on the nodes.
pub const MAX_STREAMS: usize = 32;

/// How long a stream may take from its first row to its last: meanwhile the shards cannot use the
/// space of their WALs again.
pub const MAX_LIFE: Duration = Duration::from_secs(300);

/// Some rows of a piece, all of them in memory.
type Values = Vec<Vec<Value>>;

/// How long telling a node to close a stream may take.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// One shard's part.
pub(crate) struct Source {
    cluster: Arc<Cluster>,
    node: NodeId,
    stream: RequestId,
    /// The piece at hand.
    values: Values,
    more: bool,
}

/// Columns, their types, and where the rows come from.
type Opened = (Vec<String>, Vec<String>, VecDeque<Source>);

/// Rows on their way.
pub struct RowStream {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Their declared types.
    pub types: Vec<String>,
    /// When it ends, complete or not.
    pub end: Instant,
    sources: VecDeque<Source>,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl RowStream {
    /// Some more rows; `None` after the last.
    ///
    /// # Errors
    /// What a shard says, or that it cannot be reached any more.
    pub async fn next(&mut self) -> Result<Option<Values>, Error> {
        while let Some(source) = self.sources.front_mut() {
            match source.next(self.end, &self.metrics).await? {
                Some(values) => return Ok(Some(values)),
                None => drop(self.sources.pop_front()),
            }
        }
        Ok(None)
    }
}

impl Source {
    /// Some more rows; `None` after the last.
    ///
    /// # Errors
    /// What the shard says, or that it cannot be reached any more.
    pub(crate) async fn next(&mut self, end: Instant, metrics: &Metrics) -> Result<Option<Values>, Error> {
        loop {
            if !self.values.is_empty() {
                return Ok(Some(std::mem::take(&mut self.values)));
            }
            if !self.more {
                return Ok(None);
            }
            match self.cluster.ask(self.node, Request::Pull(self.stream), end).await? {
                Response::Piece { values, more, .. } => {
                    metrics.pulled(&values);
                    (self.values, self.more) = (values, more);
                }
                other => return Err(unexpected(&other)),
            }
        }
    }
}

impl Drop for Source {
    /// Tells the shard that nobody wants the rest. Where that does not arrive, the end of the stream's
    /// time or of the connection makes up for it.
    fn drop(&mut self) {
        if !self.more {
            return;
        }
        let (cluster, node, stream) = (Arc::clone(&self.cluster), self.node, self.stream);
        tokio::spawn(async move {
            cluster.ask(node, Request::Close(stream), Instant::now() + CLOSE_TIME).await.ok();
        });
    }
}

impl Proxy {
    /// Opens the result of one read.
    pub(crate) async fn open_stream(&self, statement: &Statement, options: &Options) -> Result<RowStream, Error> {
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Error::new(Code::Overloaded, format!("{MAX_STREAMS} streams are open on this proxy")).hint("retry later")
        })?;
        let options = &Options { reads_only: true, any_rows: true, ..options.clone() };
        let (columns, types, sources) = self.open_sources(statement, options).await?;
        Ok(RowStream {
            columns,
            types,
            end: Instant::now() + MAX_LIFE,
            sources,
            metrics: Arc::clone(&self.metrics),
            _place: place,
        })
    }

    async fn open_sources(&self, statement: &Statement, options: &Options) -> Result<Opened, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let ready = self.ready(&statement.sql, options).await?;
            ready.prepared.check_args(&statement.params)?;
            let none = BTreeMap::new();
            let plan = match (ready.prepared.analysis.verb, options.shard) {
                (Verb::Select, None) => plan::plan(input(&ready, &statement.params, &none, options), &ready.registry),
                _ => Plan::Local,
            };
            let class = plan.class();
            let parts = match plan {
                Plan::One(part) => vec![part],
                Plan::Some(parts) | Plan::All(parts) => parts,
                _ => return self.run_whole(statement, options).await,
            };
            self.metrics.planned(class);
            let job = Job { prepared: &ready.prepared, statement, schema: ready.mirror.version, options };
            match self.open_parts(job, &parts).await {
                Ok(sources) => {
                    return Ok((ready.prepared.columns.clone(), ready.prepared.types.clone(), sources.into()));
                }
                Err(error) if error.code == Code::StaleRoute => {
                    self.await_newer(error, ready.registry.version, &mut pause, options).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The rows of a read that is run as a whole.
    async fn run_whole(&self, statement: &Statement, options: &Options) -> Result<Opened, Error> {
        let Output::Rows(rows) = self.run(statement, 0, options).await? else {
            return Err(Error::new(Code::NotARead, "the statement is not a read"));
        };
        let cluster = Arc::clone(&self.cluster);
        let whole = Source { cluster, node: NodeId(0), stream: RequestId(0), values: rows.values, more: false };
        Ok((rows.columns, rows.types, [whole].into()))
    }

    async fn open_parts(&self, job: Job<'_>, parts: &[Part]) -> Result<Vec<Source>, Error> {
        let options = job.options.at_one_time(job.prepared);
        let job = Job { options: &options, ..job };
        let opened: Vec<_> = parts.iter().map(|part| self.open_on(part.shard, job.read(part), job.options)).collect();
        futures::stream::iter(opened).buffered(MAX_FAN_OUT).try_collect().await
    }

    /// Opens a read on one shard.
    pub(crate) async fn open_on(&self, group: GroupId, read: Read, options: &Options) -> Result<Source, Error> {
        let stream = RequestId::random();
        let life_ms = (MAX_LIFE + options.deadline.saturating_duration_since(Instant::now())).as_millis() as u64;
        let request = |read| match options.at_us {
            Some(at_us) => Request::ReadAt { group, read, at_us, stream: Some((stream, life_ms)) },
            None => Request::Open { group, read, stream, life_ms },
        };
        match self.ask_replica(group, read, request, options.deadline).await? {
            Response::Piece { node, values, more } => {
                self.metrics.pulled(&values);
                Ok(Source { cluster: Arc::clone(&self.cluster), node, stream, values, more })
            }
            other => Err(unexpected(&other)),
        }
    }
}
