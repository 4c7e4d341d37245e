//! Scripts: statements of one transaction that change the schema, or that run while foreign keys are not
//! enforced. A script is one job; every shard of its placement runs it as one log entry, and the home shard what of it
//! touches tables that nobody sharded.
//!
//! # Invariants
//! 1. A script takes effect on all its shards or on none, and everything of it or nothing.
//! 2. Between the first shard that runs it and the end of the job nobody reads or writes a table of these
//!    shards: each has raised its schema version before ([`ScriptStep::dry_run`]), plans with an older one are
//!    stale, and the registry has the new one only when the job ends.
//! 3. While it runs no foreign key acts, unless it says [`ForeignKeys::Enforced`]; at its end rows that refer to
//!    nothing, and did not before, undo it.
//! 4. A request's script takes effect once: its job is named by the request, and the first shard remembers the
//!    request when the registry no longer lists the job.
//!
//! # What may fail
//! | what | why it is harmless |
//! |---|---|
//! | the driver dies while shards try | nothing is changed; the next one tries again, or finds the answer kept |
//! | the driver dies between two shards | the next one finds the step kept on the first, and goes on |
//! | a superseded driver sends a step late | the shard knows the step, or a later job, and refuses |
//! | a shard refuses when tried | the job fails; the registry raises the schema version all the same, so plans reach the shards again |
//! | a shard refuses what others did | not by its rows, which nobody could change; the job waits, visibly |
//! | slots are on their way | the step is refused as unavailable and tried again; a move that only copies ahead is given up |
//! | a replica crashes inside the entry | entry and applied index are one SQLite transaction |
//!
//! The proxy decides what may be a script, and where ([`placement`](Script::placement)); see its `execute::script`.

use serde::{Deserialize, Serialize};

use crate::copies::CopyState;
use crate::ids::{GroupId, JobId, PlacementId, RequestId, SchemaVersion};
use crate::registry::{HOME_SHARD, Placement, SchemaObject};
use crate::wire::{Statement, StatementResult};

/// Bytes of one script: it waits in the registry, which travels whole with each of its changes.
pub const MAX_SCRIPT_BYTES: usize = 512 << 10;

/// Statements of one script: the registry keeps a result for each.
pub const MAX_SCRIPT_STATEMENTS: usize = 2_000;

/// Bytes that its statements may return, for the same reason.
pub const MAX_SCRIPT_RESULT_BYTES: usize = 64 << 10;

/// Scripts that may wait: each may rewrite a table, and they run one after the other.
pub const MAX_WAITING_SCRIPTS: usize = 8;

/// Finished scripts whose results the registry keeps, for the same reason. A retry of an older one learns only
/// that it was applied.
pub const SCRIPT_RESULTS_KEPT: usize = 8;

/// What foreign keys do while a script runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignKeys {
    /// They act, as in any write.
    #[default]
    Enforced,
    /// They do not act; what they would forbid undoes the script at its end.
    Checked,
    /// They do not act. For the parts of a load that is checked as a whole, later.
    Unchecked,
}

/// What a job of this kind does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// What the first shard remembers.
    pub request: RequestId,
    /// The schema that it was planned with.
    pub schema: SchemaVersion,
    /// Every shard that holds this placement runs it.
    pub placement: PlacementId,
    /// In order. Dropped when the job ends.
    pub statements: Vec<Statement>,
    /// Which of them the home shard runs, and no other: they touch tables that nobody sharded.
    pub home: Vec<bool>,
    /// What foreign keys do.
    pub foreign_keys: ForeignKeys,
}

impl Script {
    /// The shards that run some of it. The first remembers the request.
    pub fn shards(&self, placement: &Placement) -> Vec<GroupId> {
        let mut shards = placement.shards.clone();
        if self.home.contains(&true) && !shards.contains(&HOME_SHARD) {
            shards.insert(0, HOME_SHARD);
        }
        shards
    }

    /// The places of the statements that a shard runs.
    pub fn places(&self, placement: &Placement, shard: GroupId) -> Vec<usize> {
        let runs = |n: &usize| match self.home.get(*n) {
            Some(true) => shard == HOME_SHARD,
            _ => placement.shards.contains(&shard),
        };
        (0..self.statements.len()).filter(runs).collect()
    }

    /// About how many bytes it takes in the registry.
    pub fn size_bytes(&self) -> usize {
        self.statements.iter().map(|s| s.sql.len() + s.params.size_bytes()).sum()
    }
}

/// What one shard does for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScriptStep {
    /// The job.
    pub job: JobId,
    /// The request, on the shard that remembers it.
    pub request: Option<RequestId>,
    /// The schema version that this makes.
    pub version: SchemaVersion,
    /// The placement.
    pub placement: PlacementId,
    /// The job's time, so that all shards have one.
    pub at_us: i64,
    /// The job's randomness.
    pub seed: u64,
    /// In order, as one transaction.
    pub statements: Vec<Statement>,
    /// What foreign keys do.
    pub foreign_keys: ForeignKeys,
    /// Undo it again, but raise the schema version: plans made before are stale from now on.
    pub dry_run: bool,
}

/// What one shard answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScriptReply {
    /// One per statement.
    pub results: Vec<StatementResult>,
    /// The schema after it.
    pub objects: Vec<SchemaObject>,
    /// Has it taken effect?
    pub state: CopyState,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::registry::{HOME, JobKind, JobState, MetaCommand, MetaReply, Registry};

    fn ask(registry: &mut Registry, n: u128, bytes: usize) -> Result<JobId, Code> {
        let script = Script {
            request: RequestId(n),
            schema: SchemaVersion(0),
            placement: HOME,
            statements: vec![Statement::bare("x".repeat(bytes))],
            home: vec![false],
            foreign_keys: ForeignKeys::Checked,
        };
        let command = MetaCommand::CreateJob { request: RequestId(n), kind: JobKind::Script(script) };
        match registry.apply(1, command).map_err(|error| error.code)? {
            MetaReply::Job(job) => Ok(job),
            other => panic!("{other:?}"),
        }
    }

    /// Few scripts wait, none is large, and what they leave in the registry is little.
    #[test]
    fn bounds() {
        let mut registry = Registry::default();
        assert_eq!(ask(&mut registry, 1, MAX_SCRIPT_BYTES + 1), Err(Code::TooLarge));
        let mut jobs: Vec<JobId> =
            (0..MAX_WAITING_SCRIPTS).map(|n| ask(&mut registry, n as u128, MAX_SCRIPT_BYTES).unwrap()).collect();
        assert_eq!(ask(&mut registry, 99, 1), Err(Code::Overloaded));
        for n in 0..2 * SCRIPT_RESULTS_KEPT {
            let (state, results) = (JobState::Done, vec![StatementResult::default()]);
            let job = jobs[n];
            registry.apply(2, MetaCommand::EndJob { job, state, error: None, effects: vec![], results }).unwrap();
            jobs.push(ask(&mut registry, 100 + n as u128, 9).unwrap());
        }
        let ended = registry.jobs.values().filter(|job| job.ended());
        let kept = ended.clone().filter(|job| !job.results.is_empty()).count();
        assert_eq!((ended.count(), kept), (2 * SCRIPT_RESULTS_KEPT, SCRIPT_RESULTS_KEPT));
        let texts = registry.jobs.values().filter(|job| job.ended()).filter(|job| match &job.kind {
            JobKind::Script(script) => !script.statements.is_empty(),
            _ => true,
        });
        assert_eq!(texts.count(), 0);
        assert!(!registry.jobs[jobs.last().unwrap()].ended());
    }
}
