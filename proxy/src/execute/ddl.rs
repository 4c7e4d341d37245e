//! Schema statements and other jobs: recorded in the registry, driven by the leader of `meta`,
//! waited for here.
//!
//! A proxy that dies while it waits loses nothing: the job goes on, and `GET /job/{id}` tells of it.
//! A retry with the same `Idempotency-Key` finds the job and gets its result, as long as the registry
//! lists it; any other finds the change done, and SQLite's own words say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{JobId, RequestId};
use flotilla_shared::registry::{HOME, Job, JobKind, JobState, MetaCommand, MetaReply, Placement, Registry};
use flotilla_shared::value::Params;
use flotilla_shared::wire::{Statement, StatementResult};
use tokio::time::Instant;

use crate::Proxy;
use crate::execute::{Options, input};
use crate::mirror::{CreateAs, SchemaChange, check_schema_statement};
use crate::plan::{self, Plan};
use crate::respond::Output;

impl Proxy {
    /// Runs a schema statement as a job and waits for its end.
    pub(crate) async fn run_schema(
        &self,
        statement: &Statement,
        index: u64,
        options: &Options,
    ) -> Result<Output, Error> {
        // Schema statements are rare and depend on each other; each is judged by the newest schema.
        let registry = self.refreshed(options.deadline).await?;
        let request = request_of(statement, index, options);
        let create_as = CreateAs::read(&statement.sql);
        if let Some(output) = self.done_before(&registry, statement, index, options).await? {
            return Ok(output);
        }
        let ready = self.ready(&statement.sql, options).await?;
        ready.prepared.check_args(&statement.params)?;
        let (mirror, prepared) = (Arc::clone(&ready.mirror), Arc::clone(&ready.prepared));
        let tried = tokio::task::spawn_blocking(move || check_schema_statement(&mirror, &prepared)).await;
        let change = tried.map_err(|_| Error::new(Code::Internal, "a schema statement could not be tried"))??;
        let written = statement.sql.trim().to_owned();
        let job = match change {
            SchemaChange::Nothing => return Ok(Output::Schema(None)),
            SchemaChange::Change { table } => {
                self.start(request, JobKind::Schema { sql: written, table }, options.deadline).await?
            }
            SchemaChange::Everywhere => {
                let mut last = None;
                for table in everywhere(&registry) {
                    let part = request_at(request, table.as_deref());
                    let kind = JobKind::Schema { sql: written.clone(), table };
                    let job = self.start(part, kind, options.deadline).await?;
                    self.finish(job, options.deadline).await?;
                    last = Some(job);
                }
                return Ok(Output::Schema(last));
            }
            SchemaChange::Filled(sql) => {
                // What the query cannot do is told before there is a table.
                if let Some(create) = &create_as {
                    self.could_read(&create.query, &statement.params, options).await?;
                }
                self.start(request, JobKind::Schema { sql, table: None }, options.deadline).await?
            }
        };
        self.finish(job, options.deadline).await?;
        if let Some(create) = create_as {
            self.fill_once(&create, &statement.params, request, job, options).await?;
        }
        Ok(Output::Schema(Some(job)))
    }

    /// The result of a schema statement that an earlier try of the request has begun; what it left to do
    /// is done.
    pub(crate) async fn done_before(
        &self,
        registry: &Registry,
        statement: &Statement,
        index: u64,
        options: &Options,
    ) -> Result<Option<Output>, Error> {
        let request = request_of(statement, index, options);
        let Some(known) = registry.jobs.values().find(|job| job.request == request) else { return Ok(None) };
        self.finish(known.id, options.deadline).await?;
        if let Some(create) = CreateAs::read(&statement.sql) {
            self.fill_once(&create, &statement.params, request, known.id, options).await?;
        }
        Ok(Some(Output::Schema(Some(known.id))))
    }

    async fn could_read(&self, query: &str, params: &Params, options: &Options) -> Result<(), Error> {
        let ready = self.ready(query, options).await?;
        let none = BTreeMap::new();
        match plan::plan(input(&ready, params, &none, options), &ready.registry) {
            Plan::Refused(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Fills a table that a job of `CREATE TABLE … AS` has made, unless the job says that it was filled. Shards
    /// forget writes earlier than the registry forgets jobs, so the registry is asked for leave each time.
    async fn fill_once(
        &self,
        create: &CreateAs,
        params: &Params,
        request: RequestId,
        job: JobId,
        options: &Options,
    ) -> Result<(), Error> {
        let left = |error: Error| Error {
            message: format!("table {} was created, but not all of its rows: {}", create.name, error.message),
            hint: format!("DROP TABLE {}, and try again; {}", create.name, error.hint),
            ..error
        };
        let registry = self.refreshed(options.deadline).await.map_err(left)?;
        if registry.jobs.get(&job).is_some_and(|job| !job.results.is_empty()) {
            return Ok(());
        }
        self.cluster.meta(MetaCommand::BeginFill { job }, options.deadline).await.map_err(left)?;
        let result = self.fill(create, params, request, options).await.map_err(left)?;
        // Lost, it costs a late retry its answer, not the table a row.
        self.cluster.meta(MetaCommand::EndFill { job, result }, options.deadline).await.ok();
        Ok(())
    }

    /// Nobody knows the table yet, so what does not fit one transaction goes in several.
    async fn fill(
        &self,
        create: &CreateAs,
        params: &Params,
        request: RequestId,
        options: &Options,
    ) -> Result<StatementResult, Error> {
        let fill = Statement { sql: create.fill(), params: params.clone() };
        let options = Options { id: request, allow_partial: true, ..options.clone() };
        match Box::pin(self.run(&fill, 1, &options)).await? {
            Output::Partial { shards, .. } => {
                let failed = shards.into_iter().find_map(|(_, outcome)| outcome.err());
                Err(failed.unwrap_or_else(|| Error::new(Code::Conflict, "a part was not written")))
            }
            Output::Write(result) => Ok(result),
            _ => Ok(StatementResult::default()),
        }
    }

    /// Records a job; the same request gets the same job.
    pub(crate) async fn start(&self, request: RequestId, kind: JobKind, deadline: Instant) -> Result<JobId, Error> {
        match self.cluster.meta(MetaCommand::CreateJob { request, kind }, deadline).await? {
            MetaReply::Job(job) => Ok(job),
            other => Err(Error::new(Code::WrongPeer, format!("the registry answered {other:?} to a new job"))),
        }
    }

    /// Waits until a job has ended well.
    ///
    /// # Errors
    /// The job's own error; [`Code::OutcomeUnknown`] when it is still at work at the deadline.
    pub(crate) async fn finish(&self, id: JobId, deadline: Instant) -> Result<(), Error> {
        // A job that the registry no longer lists ended long ago.
        let ended = |registry: &Registry| registry.jobs.get(&id).map_or(registry.counters.job >= id.0, Job::ended);
        let registry = self.cluster.wait_until(deadline, ended).await.map_err(|_| {
            Error::new(Code::OutcomeUnknown, format!("job {id} is still at work"))
                .hint(format!("it goes on without this request; see GET /job/{id}"))
        })?;
        match registry.jobs.get(&id) {
            Some(Job { state: JobState::Failed | JobState::Cancelled, error, .. }) => {
                Err(error.clone().unwrap_or_else(|| Error::new(Code::Conflict, format!("job {id} was cancelled"))))
            }
            _ => Ok(()),
        }
    }
}

/// Names the job of a schema statement: the same statement of the same request asks for the same job. The
/// position is part of the name, for a request may say one text twice and mean it twice.
fn request_of(statement: &Statement, index: u64, options: &Options) -> RequestId {
    RequestId::from_key(&format!("{} {index} {}", options.id, statement.sql))
}

/// Names the job of a statement that runs everywhere, for the shards of one table. By the table's name: a retry
/// may meet other placements, in another order.
fn request_at(request: RequestId, table: Option<&str>) -> RequestId {
    RequestId::from_key(&format!("{request} at {}", table.unwrap_or_default()))
}

/// Tables whose shards together are all shards that hold any table: none for the home tables, and one of
/// each placement that adds a shard, the widest first.
fn everywhere(registry: &Registry) -> Vec<Option<String>> {
    let mut placements: Vec<&Placement> = registry.placements.values().collect();
    placements.sort_by_key(|placement| (std::cmp::Reverse(placement.shards.len()), placement.id));
    let mut covered = BTreeSet::new();
    let mut list = Vec::new();
    for placement in placements {
        let table = registry.tables.values().find(|table| table.placement == placement.id);
        if placement.id != HOME && table.is_none() {
            continue;
        }
        let before = covered.len();
        covered.extend(placement.shards.iter().copied());
        if covered.len() > before {
            list.push(table.filter(|_| placement.id != HOME).map(|table| table.name.clone()));
        }
    }
    list
}
