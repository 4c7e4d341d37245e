//! Tables leave a shard that has none of their slots any more, and a shard leaves the cluster.
//!
//! 1. *leave*, in the registry: names the tables, under a number of its own among the moves. From here until 3 no
//!    other job begins that relies on the shard or on the placement, and none that has begun is there. Other jobs go on,
//!    also while the shard has no leader.
//! 2. *forget*, at the shard: drops the tables and raises its version. A later driver asks again and gets the same
//!    answer; a call that comes late, after the shard got the table again, gets it, too, and changes nothing. If
//!    somebody wishes to end the job the shard is asked to end this instead, and tells whether it was too late.
//! 3. *left*, in the registry: the placement no longer names the shard. Until then a proxy that looks for a copy
//!    there is refused and looks again.
//!
//! A shard that no placement names is taken out of the registry, which keeps the list of its replicas with the
//! job; then they are dropped, in any order, any number of times.

use flotilla_shared::error::Error;
use flotilla_shared::ids::{GroupId, PlacementId};
use flotilla_shared::moves::{MoveReply, MoveStep};
use flotilla_shared::registry::{JobKind, JobState, Leave, MoveChange, Placement, Wish};

use super::next::Next;
use super::{Attempt, Ground, STEP, Worker, is_final, odd};

impl<G: Ground> Worker<'_, G> {
    /// Nothing of the placement is left on the shard: it shall forget the tables.
    pub(super) async fn begin_leave(&self, placement: PlacementId, shard: GroupId) -> Result<Next, Error> {
        self.record(MoveChange::Leave { placement, shard }).await.map(|()| Next::More)
    }

    /// Brings it to its end.
    pub(super) async fn forget(&self, leave: &Leave) -> Result<Attempt, Error> {
        let Leave { id, placement, shard, tables } = leave.clone();
        let copies = self.registry.placements.get(&placement).is_some_and(Placement::is_reference);
        let step = match self.progress.wish {
            Wish::Cancel => MoveStep::Cancel { id },
            Wish::Run | Wish::Pause => MoveStep::Forget { id, placement, tables, copies },
        };
        let (reply, refused) = match self.ground.step(shard, step, STEP).await {
            Err(error) if is_final(&error) => {
                (self.ground.step(shard, MoveStep::Cancel { id }, STEP).await?, Some(error))
            }
            // Nobody waits for it: other jobs take their turns.
            Err(error) => return Ok(Attempt::Ahead(Some(error))),
            Ok(reply) => (reply, None),
        };
        match (reply, refused) {
            (MoveReply::Forgotten { epoch }, _) => self.record(MoveChange::Left { id, epoch }).await?,
            (MoveReply::Cancelled, refused) => {
                self.record(MoveChange::Stay { id }).await?;
                if refused.is_some() {
                    return self.end(JobState::Failed, refused).await;
                }
            }
            (other, _) => return Err(odd(&other)),
        }
        Ok(Attempt::More)
    }

    /// No placement has anything left to leave.
    pub(super) async fn last(&self) -> Result<Next, Error> {
        let JobKind::RemoveShard { shard, .. } = &self.job.kind else { return Ok(Next::Done) };
        if self.registry.groups.contains_key(shard) {
            return self.record(MoveChange::DropShard { shard: *shard }).await.map(|()| Next::More);
        }
        for replica in &self.progress.dropping {
            self.ground.drop_replica(*shard, *replica).await?;
        }
        Ok(Next::Done)
    }
}
