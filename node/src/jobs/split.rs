//! `POST /table/split` with `at`: ranges get new split points, and then one side of each may move.
//!
//! The slots that the points fall into are split one after the other, each in two steps:
//! 1. *split*, at the owner: it gives up the slot and takes the new ones. This is the commit point of that slot. From
//!    here to 2 requests for its rows are refused as planned with an old map, and wait at their proxies.
//! 2. *taken*, in the registry: proxies learn the new points and slots.
//!
//! A driver that dies after 1 is followed by one that finds the same slot to be split in the same way: the points are
//! the job's, and the numbers follow from the registry, which nothing but this job changes in this
//! respect while it is the first in its lane. The owner answers again; so does the registry. Two drivers
//! at the same time do no harm for the same reason. For the same reason a job that has taken a first step never
//! fails: what it could be refused for was as it is now when it began.
//!
//! When all points are there the job ends, or *moves*: it becomes one that moves slots, with the ranges that begin at
//! its points, and `node/src/jobs/rebalance.rs` tells the rest. That part can be paused and cancelled; the points
//! stay.

use std::sync::Arc;

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{Epoch, GroupId};
use flotilla_shared::registry::{Job, JobKind, MetaCommand, Registry, Split, SplitStep};

/// What a driver works with. Handed in, so that a test can let calls be lost or late.
pub(super) trait Ground: Sync {
    /// The registry, with everything acknowledged before, and proof that the job has not ended.
    fn registry(&self) -> impl Future<Output = Result<Arc<Registry>, Error>> + Send;
    /// Changes the registry.
    fn meta(&self, command: MetaCommand) -> impl Future<Output = Result<(), Error>> + Send;
    /// Lets a shard split a slot; its version then.
    fn split(&self, shard: GroupId, split: Split) -> impl Future<Output = Result<Epoch, Error>> + Send;
}

/// What is left to do.
#[derive(Debug, PartialEq)]
pub(super) enum Splitting {
    /// Nothing.
    Done,
    /// The job has become one that moves slots.
    Moves,
}

/// Puts all points in.
///
/// # Errors
/// Why the points cannot be put in, before anything is done; or what kept the driver from going on.
pub(super) async fn run<G: Ground>(ground: &G, job: &Job) -> Result<Splitting, Error> {
    let JobKind::Split { table, at, to, .. } = &job.kind else {
        return Err(Error::new(Code::Internal, format!("job {} splits nothing", job.id)));
    };
    loop {
        let registry = ground.registry().await?;
        let placement = registry.spread(table)?;
        let Some(split) = placement.splits(at)?.into_iter().next() else { break };
        if let Some(other) = registry.moves().find(|other| other.placement == placement.id) {
            return Err(Error::new(Code::Unavailable, format!("move {} of the same slots is under way", other.id)));
        }
        let Some(shard) = placement.owner(split.slot) else {
            return Err(Error::new(Code::Unavailable, format!("slot {} has no owner", split.slot)));
        };
        let epoch = ground.split(shard, split.clone()).await.map_err(not_now)?;
        let step = SplitStep::Taken { split, shard, epoch };
        ground.meta(MetaCommand::Split { job: job.id, step }).await.map_err(not_now)?;
    }
    if to.is_none() {
        return Ok(Splitting::Done);
    }
    ground.meta(MetaCommand::Split { job: job.id, step: SplitStep::Move }).await.map_err(not_now)?;
    Ok(Splitting::Moves)
}

/// What contradicts the registry comes from its being old, or from another driver: the next attempt looks again.
fn not_now(error: Error) -> Error {
    match error.code.class() {
        Class::Refused => Error { code: Code::Unavailable, ..error },
        _ => error,
    }
}

#[cfg(test)]
mod tests;
