//! Schema statements and other jobs: recorded in the registry, driven by the leader of `meta`,
//! waited for here.
//!
//! A proxy that dies while it waits loses nothing: the job goes on, and `GET /job/{id}` tells of it.
//! A retry of a schema statement may find it done; SQLite's own words then say so.

use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{JobId, RequestId};
use flotilla_shared::registry::{Job, JobKind, JobState, MetaCommand, MetaReply, Registry};
use flotilla_shared::wire::Statement;
use tokio::time::Instant;

use crate::Proxy;
use crate::execute::Options;
use crate::mirror::{SchemaChange, check_schema_statement};
use crate::respond::Output;

impl Proxy {
    /// Runs a schema statement as a job and waits for its end.
    pub(crate) async fn run_schema(&self, statement: &Statement, options: &Options) -> Result<Output, Error> {
        // Schema statements are rare and depend on each other; each is judged by the newest schema.
        let registry = self.refreshed(options.deadline).await?;
        let request = RequestId::from_key(&format!("{} {}", options.id, statement.sql));
        if let Some(known) = registry.jobs.values().find(|job| job.request == request) {
            self.finish(known.id, options.deadline).await?;
            return Ok(Output::Schema(Some(known.id)));
        }
        let ready = self.ready(&statement.sql, options).await?;
        ready.prepared.check_args(&statement.params)?;
        let (mirror, prepared) = (Arc::clone(&ready.mirror), Arc::clone(&ready.prepared));
        let tried = tokio::task::spawn_blocking(move || check_schema_statement(&mirror, &prepared)).await;
        let table = match tried.map_err(|_| Error::new(Code::Internal, "a schema statement could not be tried"))?? {
            SchemaChange::Nothing => return Ok(Output::Schema(None)),
            SchemaChange::Change { table } => table,
        };
        let kind = JobKind::Schema { sql: statement.sql.trim().to_owned(), table };
        let job = self.start(request, kind, options.deadline).await?;
        self.finish(job, options.deadline).await?;
        Ok(Output::Schema(Some(job)))
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
