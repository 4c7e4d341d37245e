//! Rows of a table that `CREATE TABLE … AS` made: put in once.
//!
//! The job makes the table; the proxy that asked for it puts the rows in, by writes that shards remember for
//! some minutes only. A retry of the request finds the job for much longer. So the registry notes at the job
//! that the rows are in, and gives leave to put them in only while a repeated write is certain to be known.
//!
//! | a retry finds | the rows are |
//! |---|---|
//! | the job with a result | in: nothing is done |
//! | the job without, shortly after it ended | put in, each write at most once, for shards remember it |
//! | the job without, later | refused: they may be in, and what of them is not known |
//! | no job | refused by SQLite: the table is there |

use super::{Job, JobKind, JobState, MAX_FILL_US, MetaReply, Registry};
use crate::error::{Code, Error};
use crate::ids::JobId;
use crate::wire::StatementResult;

impl Registry {
    /// May the rows of the table that a job made be put in?
    pub(super) fn begin_fill(&mut self, at_us: i64, id: JobId) -> Result<MetaReply, Error> {
        let job = self.made_table(id)?;
        if job.results.is_empty() && at_us.saturating_sub(job.ended_us) > MAX_FILL_US {
            return Err(Error::new(Code::Conflict, "whether they were put in is no longer known"));
        }
        Ok(MetaReply::Ok)
    }

    /// The rows of the table that a job made are in.
    pub(super) fn end_fill(&mut self, id: JobId, result: StatementResult) -> Result<MetaReply, Error> {
        let job = self.made_table(id)?;
        if job.results.is_empty() {
            // The rows themselves are in the table.
            job.results = vec![StatementResult { rows: None, ..result }];
        }
        Ok(MetaReply::Ok)
    }

    fn made_table(&mut self, id: JobId) -> Result<&mut Job, Error> {
        match self.jobs.get_mut(&id) {
            Some(job) if matches!(job.kind, JobKind::Schema { .. }) && job.state == JobState::Done => Ok(job),
            Some(_) => Err(Error::new(Code::Conflict, format!("job {id} has made no table"))),
            None => Err(Error::new(Code::NoSuchObject, format!("job {id} is no longer known"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RequestId;
    use crate::registry::MetaCommand;

    fn made(registry: &mut Registry) -> JobId {
        let kind = JobKind::Schema { sql: "CREATE TABLE t(a)".into(), table: None };
        let Ok(MetaReply::Job(job)) = registry.apply(1, MetaCommand::CreateJob { request: RequestId(1), kind }) else {
            panic!("no job");
        };
        assert!(registry.apply(2, MetaCommand::BeginFill { job }).is_err(), "there is no table yet");
        let (state, error, effects, results) = (JobState::Done, None, vec![], vec![]);
        registry.apply(3, MetaCommand::EndJob { job, state, error, effects, results }).unwrap();
        job
    }

    /// Leave is given while shards remember the writes; afterwards only if the rows are known to be in.
    #[test]
    fn rows_are_put_in_once() {
        let mut registry = Registry::default();
        let job = made(&mut registry);
        registry.apply(3 + MAX_FILL_US, MetaCommand::BeginFill { job }).unwrap();
        registry.apply(4 + MAX_FILL_US, MetaCommand::BeginFill { job }).unwrap_err();
        let result = StatementResult { rows_affected: 7, ..StatementResult::default() };
        registry.apply(5 + MAX_FILL_US, MetaCommand::EndFill { job, result: result.clone() }).unwrap();
        registry.apply(6 + MAX_FILL_US, MetaCommand::BeginFill { job }).unwrap();
        let again = StatementResult { rows_affected: 9, ..result.clone() };
        registry.apply(7 + MAX_FILL_US, MetaCommand::EndFill { job, result: again }).unwrap();
        assert_eq!(registry.jobs[&job].results, [result], "the first result stays");
        let other = JobId(job.0 + 1);
        assert!(registry.apply(8, MetaCommand::EndFill { job: other, result: StatementResult::default() }).is_err());
    }
}
