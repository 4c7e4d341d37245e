//! Sends parts of a plan to their shards and puts the answers together.

use flotilla_shared::client::unexpected;
use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{GroupId, RequestId, SchemaVersion};
use flotilla_shared::value::Value;
use flotilla_shared::wire::{
    Level, Read, Request, Response, Route, Rows, Statement, StatementResult, Write, WriteResult,
};
use futures::StreamExt;
use tokio::time::Instant;

use crate::Proxy;
use crate::execute::Options;
use crate::execute::once::is_fence;
use crate::metrics::Stage;
use crate::mirror::Prepared;
use crate::plan::Part;
use crate::respond::Output;

/// Shards asked at once for one statement: all of a usual cluster, and a bound for a large one.
pub const MAX_FAN_OUT: usize = 64;

/// Largest write, in bytes of its statements and arguments: several must fit a log entry.
pub const MAX_WRITE_BYTES: usize = 4 << 20;

/// Bytes of one merged result, like the largest frame that a shard may answer with.
pub const MAX_RESULT_BYTES: usize = 64 << 20;

/// A statement on its way.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// As prepared.
    pub prepared: &'a Prepared,
    /// As written.
    pub statement: &'a Statement,
    /// The schema that it was planned with.
    pub schema: SchemaVersion,
    /// How to run it.
    pub options: &'a Options,
}

impl Job<'_> {
    fn route(&self, part: &Part) -> Option<Route> {
        Some(Route { schema: self.schema, claims: part.claims.clone() })
    }

    fn statement(&self, part: &Part) -> Statement {
        part.statement.clone().unwrap_or_else(|| self.statement.clone())
    }

    /// The read that a part makes.
    pub fn read(&self, part: &Part) -> Read {
        Read {
            route: self.route(part),
            statement: self.statement(part),
            level: self.options.level,
            freshness_ms: self.options.freshness_ms,
        }
    }

    /// The write that a part makes.
    pub fn write(&self, part: &Part, id: RequestId) -> Write {
        let statements = part.guard.clone().into_iter().chain([self.statement(part)]).collect();
        Write { id, route: self.route(part), statements }
    }
}

/// The result of the statement itself, behind any guard.
pub fn last_result(results: Vec<StatementResult>) -> Result<StatementResult, Error> {
    results.into_iter().last().ok_or_else(|| Error::new(Code::WrongPeer, "a write was answered without a result"))
}

/// A later try of the same request came between.
pub(crate) fn fenced_off() -> Error {
    Error::new(Code::Conflict, "another try of this request made sure that this one does nothing")
        .hint("nothing was changed; use a new Idempotency-Key")
}

/// Refuses a write that no log entry could hold.
///
/// # Errors
/// [`Code::TooLarge`].
pub fn check_size(write: &Write) -> Result<(), Error> {
    if write.size_bytes() > MAX_WRITE_BYTES {
        return Err(Error::new(
            Code::TooLarge,
            format!("the write has {} bytes, over {MAX_WRITE_BYTES}", write.size_bytes()),
        )
        .hint("split it, or store large values in pieces"));
    }
    Ok(())
}

impl Proxy {
    /// Runs a read on one shard: on any replica if its level allows that.
    pub(crate) async fn send_read(&self, shard: GroupId, read: Read, options: &Options) -> Result<Rows, Error> {
        let request = |read| match options.at_us {
            Some(at_us) => Request::ReadAt { group: shard, read, at_us, stream: None },
            None => Request::Read { group: shard, read },
        };
        let sent = Instant::now();
        let answer = self.ask_replica(shard, read, request, options.deadline).await;
        self.metrics.took(Stage::Node, sent.elapsed());
        match answer? {
            Response::Rows(rows) => {
                self.metrics.pulled(&rows.values);
                Ok(rows)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Asks whichever replica may answer a read of that level.
    pub(crate) async fn ask_replica(
        &self,
        shard: GroupId,
        read: Read,
        request: impl Fn(Read) -> Request,
        deadline: Instant,
    ) -> Result<Response, Error> {
        match read.level {
            Level::None => {
                Box::pin(self.cluster.read_near(shard, read, self.options.zone.as_deref(), request, deadline)).await
            }
            Level::Linearizable | Level::Lease => self.cluster.call(shard, request(read), deadline).await,
        }
    }

    /// Runs one write on one shard.
    pub(crate) async fn send_one(
        &self,
        shard: GroupId,
        write: Write,
        options: &Options,
    ) -> Result<Vec<StatementResult>, Error> {
        self.send_writes(shard, vec![write], options).await?.remove(0)
    }

    /// Runs writes on one shard, in order; one result each.
    pub(crate) async fn send_writes(
        &self,
        shard: GroupId,
        writes: Vec<Write>,
        options: &Options,
    ) -> Result<Vec<WriteResult>, Error> {
        let count = writes.len();
        let sent = Instant::now();
        let answer = self.cluster.call(shard, Request::Write { group: shard, writes }, options.deadline).await;
        self.metrics.took(Stage::Node, sent.elapsed());
        match answer? {
            Response::Writes(results) if results.len() == count => Ok(results),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn read_part(&self, job: Job<'_>, part: &Part) -> Result<Rows, Error> {
        self.send_read(part.shard, job.read(part), job.options).await
    }

    /// Writes a part; `None` when a fence is in the way.
    pub(crate) async fn write_part(
        &self,
        job: Job<'_>,
        part: &Part,
        id: RequestId,
    ) -> Result<Option<StatementResult>, Error> {
        let write = job.write(part, id);
        check_size(&write)?;
        let results = self.send_one(part.shard, write, job.options).await?;
        if is_fence(&results) { Ok(None) } else { last_result(results).map(Some) }
    }

    /// Reads all parts and puts their rows one behind the other.
    pub(crate) async fn read_parts(&self, job: Job<'_>, parts: &[Part]) -> Result<Rows, Error> {
        let options = job.options.at_one_time(job.prepared);
        let job = Job { options: &options, ..job };
        let reads: Vec<_> = parts.iter().map(|part| self.read_part(job, part)).collect();
        let mut answers = futures::stream::iter(reads).buffered(MAX_FAN_OUT);
        let mut merged =
            Rows { columns: job.prepared.columns.clone(), types: job.prepared.types.clone(), values: Vec::new() };
        let mut bytes = 0;
        while let Some(rows) = answers.next().await {
            let rows = rows?;
            bytes += rows.values.iter().flatten().map(Value::size_bytes).sum::<usize>();
            if merged.values.len() + rows.values.len() > self.options.max_rows || bytes > MAX_RESULT_BYTES {
                return Err(Error::new(
                    Code::TooLarge,
                    format!("the result is over {} rows or {MAX_RESULT_BYTES} bytes", self.options.max_rows),
                )
                .hint("narrow the query, or read it in pieces by key"));
            }
            merged.values.extend(rows.values);
        }
        Ok(merged)
    }

    /// Writes all parts, each for itself. When all were planned from an old map, none was applied,
    /// and the whole is planned again; a part that alone is refused is reported as it is.
    pub(crate) async fn write_parts(&self, job: Job<'_>, parts: &[Part], id: RequestId) -> Result<Output, Error> {
        let writes: Vec<_> = parts
            .iter()
            .map(|part| async move {
                let written = self.write_part(job, part, id.part(u64::from(part.shard.0))).await;
                (part, written.and_then(|result| result.ok_or_else(fenced_off)))
            })
            .collect();
        let outcomes: Vec<(&Part, Result<StatementResult, Error>)> =
            futures::stream::iter(writes).buffered(MAX_FAN_OUT).collect().await;
        total(outcomes.into_iter().map(|(part, outcome)| (part.shard, part.last_row, outcome)).collect())
    }
}

/// Puts together what the parts of a write did: their shard, whether the last row of an INSERT is
/// among theirs, and the result.
///
/// # Errors
/// When no part took effect: why; what is not known to have failed goes first.
pub fn total(outcomes: Vec<(GroupId, bool, Result<StatementResult, Error>)>) -> Result<Output, Error> {
    let mut sum = StatementResult::default();
    let mut shards = Vec::with_capacity(outcomes.len());
    for (shard, last_row, outcome) in outcomes {
        shards.push((shard, outcome.as_ref().map(|result| result.rows_affected).map_err(Clone::clone)));
        let Ok(result) = outcome else { continue };
        sum.rows_affected += result.rows_affected;
        if last_row {
            sum.last_insert_id = result.last_insert_id;
        }
        match (&mut sum.rows, result.rows) {
            (Some(sum), Some(rows)) => sum.values.extend(rows.values),
            (none, rows) => *none = none.take().or(rows),
        }
    }
    let failed: Vec<&Error> = shards.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).collect();
    let unknown = failed.iter().find(|error| error.code.class() == Class::Unknown);
    match unknown.or(failed.first()) {
        None => Ok(Output::Write(sum)),
        Some(error) if failed.len() == shards.len() => Err((*error).clone()),
        _ => Ok(Output::Partial { result: sum, shards }),
    }
}
