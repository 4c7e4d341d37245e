//! Writes to reference tables: jobs of the metadata group, which bring them to every shard in one order.
//!
//! The job is named by the request, so a retry finds it; when the registry no longer lists it, the
//! retry makes a new one, and the first shard, which remembers the request, gives the first result. A
//! write that waited while the schema changed is planned anew under a further name.

use std::collections::BTreeMap;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{RequestId, SchemaVersion};
use flotilla_shared::registry::{Job as RegistryJob, JobKind, JobState, MAX_REFERENCE_WRITE_BYTES, ReferenceWrite};
use flotilla_shared::wire::{Statement, StatementResult};

use crate::Proxy;
use crate::execute::send::{self, Job};
use crate::execute::{FIRST_PAUSE, Options, input};
use crate::plan::Plan;
use crate::plan::reference::{Copies, plan_write};
use crate::respond::Output;

/// Part numbers of request ids for writes that were planned anew lie beyond all others.
const ATTEMPT_PART: u64 = 1 << 41;

/// How often a write is planned anew because the schema changed while it waited.
const MAX_ATTEMPTS: u64 = 16;

impl Proxy {
    pub(crate) async fn write_copies(&self, job: Job<'_>, copies: &Copies, id: RequestId) -> Result<Output, Error> {
        let write = ReferenceWrite {
            request: id,
            schema: job.schema,
            placements: copies.placements.clone(),
            statements: vec![job.statement.clone()],
        };
        let results = self.write_everywhere(&write, job.options).await?;
        Ok(Output::Write(send::last_result(results)?))
    }

    /// Runs a transaction of nothing but writes to reference tables; `None` for any other.
    pub(crate) async fn run_copies(
        &self,
        statements: &[Statement],
        options: &Options,
    ) -> Result<Option<Vec<Output>>, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let Some((write, version)) = self.plan_copies(statements, options).await else { return Ok(None) };
            match self.write_everywhere(&write, options).await {
                Err(error) if error.code == Code::StaleRoute => {
                    self.await_newer(error, version, &mut pause, options).await?;
                }
                results => return Ok(Some(results?.into_iter().map(Output::Write).collect())),
            }
        }
    }

    async fn plan_copies(&self, statements: &[Statement], options: &Options) -> Option<(ReferenceWrite, u64)> {
        let (request, schema) = (options.id, SchemaVersion(u64::MAX));
        let mut write = ReferenceWrite { request, schema, placements: vec![], statements: statements.to_vec() };
        let mut version = u64::MAX;
        let none = BTreeMap::new();
        for statement in statements.iter().filter(|_| options.shard.is_none()) {
            let ready = self.ready(&statement.sql, options).await.ok()?;
            ready.prepared.check_args(&statement.params).ok()?;
            let input = input(&ready, &statement.params, &none, options);
            let Ok(Some(Plan::Copies(copies))) = plan_write(input, &ready.registry) else { return None };
            write.schema = write.schema.min(ready.mirror.version);
            write.placements.extend(copies.placements);
            version = version.min(ready.registry.version);
        }
        write.placements.sort_unstable();
        write.placements.dedup();
        (!write.placements.is_empty()).then_some((write, version))
    }

    async fn write_everywhere(&self, write: &ReferenceWrite, options: &Options) -> Result<Vec<StatementResult>, Error> {
        if write.size_bytes() > MAX_REFERENCE_WRITE_BYTES {
            let bytes = write.size_bytes();
            let message =
                format!("the write has {bytes} bytes, over {MAX_REFERENCE_WRITE_BYTES} for a reference table");
            return Err(Error::new(Code::TooLarge, message).hint("split it into smaller statements"));
        }
        for attempt in 0..MAX_ATTEMPTS {
            let request = if attempt == 0 { write.request } else { write.request.part(ATTEMPT_PART + attempt) };
            match self.write_job(request, write, options).await? {
                Ended::Done(ended) => return Ok(ended.results),
                Ended::Failed(error, _) if error.code != Code::StaleRoute => return Err(error),
                Ended::Failed(error, ended) => match &ended.kind {
                    // An earlier plan of this request was stale; this one may not be.
                    JobKind::Write(earlier) if earlier.schema < write.schema => (),
                    _ => return Err(error),
                },
            }
        }
        Err(Error::new(Code::Unavailable, "the schema changes too often").hint("retry"))
    }

    /// Makes the job of a write, or finds it, and waits for its end.
    async fn write_job(&self, request: RequestId, write: &ReferenceWrite, options: &Options) -> Result<Ended, Error> {
        loop {
            let id = self.start(request, JobKind::Write(write.clone()), options.deadline).await?;
            let finished = self.finish(id, options.deadline).await;
            match (self.cluster.registry().jobs.get(&id), finished) {
                (Some(ended), Ok(())) => return Ok(Ended::Done(ended.clone())),
                (Some(ended), Err(error)) if ended.state == JobState::Failed => {
                    return Ok(Ended::Failed(error, ended.clone()));
                }
                (_, Err(error)) => return Err(error),
                // So many came after it that it is forgotten; its shard is not.
                (None, Ok(())) => (),
            }
        }
    }
}

/// How a job ended.
enum Ended {
    Done(RegistryJob),
    Failed(Error, RegistryJob),
}
