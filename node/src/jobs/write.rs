//! Writes to reference tables: every shard that has a copy runs them, all in the order of their jobs.
//!
//! The write is first tried and undone everywhere, so that an error leaves nothing behind and a shard
//! that is down holds it up before anything changed. Then the first shard applies it; from there on the
//! write only goes forward. Last come all others. Each shard raises its ownership version with the
//! write, and the registry learns all of them at once, at the end: a read that was planned before is
//! refused where the write is applied already, and one that is planned after meets it everywhere.

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{Epoch, GroupId};
use flotilla_shared::registry::{Effect, HOME_SHARD, Placement, ReferenceWrite, Registry};
use flotilla_shared::wire::{CopyState, CopyWrite, ShardCommand, ShardReply, StatementResult};
use futures::StreamExt;

use super::{Done, Driver};

/// Shards asked at once.
pub(super) const FAN_OUT: usize = 16;

type Answer = (Vec<StatementResult>, CopyState);

pub(super) async fn run(driver: &Driver<'_>, registry: &Registry, write: &ReferenceWrite) -> Result<Done, Error> {
    if write.schema < registry.schema_version {
        let message = format!("planned with schema {}, now it is {}", write.schema, registry.schema_version);
        return Err(Error::new(Code::StaleRoute, message).hint("the proxy plans it again; a client may simply retry"));
    }
    let placements: Vec<&Placement> = write.placements.iter().filter_map(|id| registry.placements.get(id)).collect();
    let Some(first) = placements.first().filter(|_| placements.len() == write.placements.len()) else {
        return Err(Error::new(Code::NoSuchObject, "the tables are gone"));
    };
    if let Some(other) = placements.iter().find(|other| other.shards != first.shards || !other.is_reference()) {
        let message = format!("placements {} and {} are on different shards", first.id, other.id);
        return Err(Error::new(Code::Conflict, message).hint("POST /table/add-to-shard brings a table to more shards"));
    }
    let others: Vec<GroupId> = first.shards.iter().copied().filter(|shard| *shard != HOME_SHARD).collect();
    let step = |shard: GroupId, dry_run: bool| {
        let epochs = placements.iter().map(|placement| (placement.id, next_epoch(placement, shard))).collect();
        send(driver, shard, copy_write(driver, write, shard, epochs, dry_run))
    };

    let all: Vec<GroupId> = first.shards.clone();
    let tries = all.iter().map(|shard| step(*shard, true)).collect::<Vec<_>>();
    let tries: Vec<Result<Answer, Error>> = futures::stream::iter(tries).buffered(FAN_OUT).collect().await;
    let decided = all.iter().zip(&tries).find(|(shard, _)| **shard == HOME_SHARD).map(|(_, answer)| answer.clone());
    let (results, state) = decided.unwrap_or_else(|| Err(Error::new(Code::Internal, "no shard decides")))?;
    if state == CopyState::Before {
        return Ok(Done { effects: vec![], results });
    }
    for (shard, answer) in all.iter().zip(tries) {
        answer.map_err(|error| if state == CopyState::Applied { forward(*shard, error) } else { error })?;
    }

    let (results, _) = step(HOME_SHARD, false).await?;
    let rest = others.iter().map(|shard| step(*shard, false)).collect::<Vec<_>>();
    let answers: Vec<Result<Answer, Error>> = futures::stream::iter(rest).buffered(FAN_OUT).collect().await;
    for (shard, answer) in others.iter().zip(answers) {
        let (copy, _) = answer.map_err(|error| forward(*shard, error))?;
        if copy != results {
            tracing::error!(job = %driver.job.id, %shard, "a copy of a reference table gave another result");
        }
    }
    let epochs = placements.iter().flat_map(|placement| {
        first.shards.iter().map(|shard| Effect::Epoch {
            placement: placement.id,
            shard: *shard,
            epoch: next_epoch(placement, *shard),
        })
    });
    Ok(Done { effects: epochs.collect(), results })
}

/// The version that the write makes. The registry's own stands still while the job runs, so a driver
/// that starts over asks for the same.
fn next_epoch(placement: &Placement, shard: GroupId) -> Epoch {
    Epoch(placement.epoch(shard).0 + 1)
}

fn copy_write(
    driver: &Driver<'_>,
    write: &ReferenceWrite,
    shard: GroupId,
    epochs: Vec<(flotilla_shared::ids::PlacementId, Epoch)>,
    dry_run: bool,
) -> CopyWrite {
    CopyWrite {
        job: driver.job.id,
        request: (shard == HOME_SHARD).then_some(write.request),
        at_us: driver.job.created_us,
        // The id is random or a hash; its halves are as good a seed as any.
        seed: (write.request.0 as u64) ^ ((write.request.0 >> 64) as u64),
        statements: write.statements.clone(),
        epochs,
        dry_run,
    }
}

async fn send(driver: &Driver<'_>, shard: GroupId, write: CopyWrite) -> Result<Answer, Error> {
    match driver.shard(shard, ShardCommand::WriteCopy(write)).await? {
        ShardReply::Written { results, state } => Ok((results, state)),
        other => Err(Error::new(Code::Internal, format!("a shard gave another answer: {other:?}"))),
    }
}

/// What is applied on one shard must be applied on all: the job waits, visibly, instead of failing.
pub(super) fn forward(shard: GroupId, error: Error) -> Error {
    if error.code.class() != Class::Refused {
        return error;
    }
    Error::new(Code::Internal, format!("{shard} refuses what other shards have: {}", error.message))
        .hint("somebody has changed this copy with `shard=`; undo that, and the job goes on")
}
