//! Jobs that have begun: what a job relies on is recorded before it changes any shard.
//!
//! A job of the kinds below is done by drivers that follow each other, or overlap. The first one records what it has
//! decided: the placement (a new id, or that of the tables at hand) and the shards. All others read that; what is
//! decided anew might differ, because a shard was made or taken out meanwhile, and slots that some shard
//! owns already would be given to another one. From the record until the job has ended
//!
//! 1. none of its shards is taken out of the cluster, and no table is taken off one of them, nor off any
//!    shard of the job's placement;
//! 2. no slots of the placement begin to move while a table joins it;
//! 3. the job does not just fail: its driver undoes first what it may have done ([`MetaCommand::GiveUp`] is for jobs
//!    that have not begun).
//!
//! Of a registration the shards are recorded in its own list; of other jobs they follow from the placement, which keeps
//! its shards because of 1.

use super::{Effect, HOME, Job, JobKind, JobState, MetaCommand, MetaReply, Registry, Spread};
use crate::error::{Code, Error};
use crate::ids::{GroupId, JobId, PlacementId};

impl Job {
    /// The placement that the job works on, once it has begun.
    pub fn begun(&self) -> Option<PlacementId> {
        match &self.kind {
            // An id alone may have been reserved by a driver that recorded no shards.
            JobKind::Register(registration) if registration.shards.is_empty() => None,
            JobKind::Schema { .. } | JobKind::Register(_) | JobKind::AddToShard { .. } => self.placement,
            _ => None,
        }
    }

    /// Does the job, which has begun, rely on what this shard holds of a placement? Of `None`: on the shard itself?
    fn relies_on(&self, placement: Option<PlacementId>, shard: GroupId) -> bool {
        let Some(begun) = self.begun().filter(|_| !self.ended()) else { return false };
        let named = match &self.kind {
            JobKind::Register(registration) => registration.shards.contains(&shard),
            JobKind::AddToShard { shard: other, .. } => *other == shard,
            _ => false,
        };
        named || placement == Some(begun)
    }
}

impl Registry {
    /// Has a job begun that relies on what a shard holds of a placement, or, of `None`, on the shard itself?
    pub(super) fn is_relied_on(&self, placement: Option<PlacementId>, shard: GroupId) -> bool {
        self.jobs.values().any(|job| job.relies_on(placement, shard))
    }

    /// Is a table about to join the placement?
    pub(super) fn is_joined(&self, placement: PlacementId) -> bool {
        let joins = |job: &&Job| matches!(job.kind, JobKind::Register(_)) && job.begun() == Some(placement);
        self.jobs.values().filter(|job| !job.ended()).any(|job| joins(&job))
    }

    /// Records what a job relies on; what an earlier driver has recorded stays.
    pub(super) fn begin_job(
        &mut self,
        id: JobId,
        placement: Option<PlacementId>,
        shards: Vec<GroupId>,
    ) -> Result<MetaReply, Error> {
        if let Some(begun) = self.running_job(id)?.begun() {
            return Ok(MetaReply::Placement(begun));
        }
        self.check_relied_on(id, placement, &shards)?;
        let next = PlacementId(self.counters.placement + 1);
        let job = self.running_job(id)?;
        let placement = placement.or(job.placement).unwrap_or(next);
        job.placement = Some(placement);
        if let JobKind::Register(registration) = &mut job.kind {
            registration.shards = shards;
        }
        self.counters.placement = self.counters.placement.max(placement.0);
        Ok(MetaReply::Placement(placement))
    }

    /// May a job rely on this? What was decided with an older registry is decided anew.
    fn check_relied_on(&self, id: JobId, placement: Option<PlacementId>, shards: &[GroupId]) -> Result<(), Error> {
        let old = |message: String| Err(Error::new(Code::Unavailable, message));
        if let Some(shard) = shards.iter().find(|shard| !shard.is_shard() || !self.groups.contains_key(shard)) {
            return old(format!("there is no shard {shard}"));
        }
        super::distinct::distinct(shards, "shard")?;
        let kind = self.jobs.get(&id).map(|job| &job.kind);
        let added = matches!(kind, Some(JobKind::AddToShard { .. }));
        if let Some(id) = placement {
            let known = self.placements.get(&id).is_some_and(|known| added || known.shards == shards);
            if !known {
                return old(format!("placement {id} has changed"));
            }
        }
        let copied = matches!(kind, Some(JobKind::Register(wanted)) if wanted.spread == Spread::Reference);
        let departing = self.departing();
        let leaves = |shard: &&GroupId| match placement {
            None => !copied && departing.contains(*shard),
            Some(id) => added && self.leaving(id).contains(*shard),
        };
        if let Some(shard) = shards.iter().find(leaves) {
            return old(format!("{shard} is being taken out of the cluster, or the table off it"));
        }
        match self.leave_under_way() {
            Some(leave) if Some(leave.placement) == placement || shards.contains(&leave.shard) => {
                old(format!("a table is being taken off {}", leave.shard))
            }
            _ => Ok(()),
        }
    }

    /// Ends a job that has changed nothing.
    pub(super) fn give_up(&mut self, at_us: i64, id: JobId, error: Error) -> Result<MetaReply, Error> {
        if self.running_job(id)?.begun().is_some() {
            let message = format!("job {id} has begun: what it did is undone first");
            return Err(Error::new(Code::Unavailable, message));
        }
        let (state, error) = (JobState::Failed, Some(error));
        self.change(at_us, MetaCommand::EndJob { job: id, state, error, effects: vec![], results: vec![] })
    }

    /// Effects tell what a driver found out about shards. While these change that may be over.
    pub(super) fn check_effects(&self, effects: &[Effect]) -> Result<(), Error> {
        for effect in effects {
            let id = match effect {
                Effect::Placement(placement) => placement.id,
                Effect::Holds { placement, .. }
                | Effect::Register { placement, .. }
                | Effect::Epoch { placement, .. }
                | Effect::Copy { placement, .. }
                | Effect::Forget(placement) => *placement,
                Effect::Schema { .. } | Effect::NodeRemoved(_) => continue,
            };
            if self.leave_under_way().is_some_and(|leave| leave.placement == id) {
                return Err(Error::new(Code::Unavailable, "a table is being taken off a shard"));
            }
            if matches!(effect, Effect::Forget(_)) && self.moves().any(|moving| moving.placement == id) {
                return Err(Error::new(Code::Unavailable, "slots of the table are on their way"));
            }
        }
        Ok(())
    }

    /// A placement without tables is gone for good: its id is never used again.
    pub(super) fn forget_placement(&mut self, id: PlacementId) {
        if id == HOME || self.tables.values().any(|table| table.placement == id) {
            return;
        }
        self.placements.remove(&id);
        // A view may have been made with its tables.
        for object in self.objects.iter_mut().filter(|object| object.placement == id) {
            object.placement = HOME;
        }
    }
}

#[cfg(test)]
mod tests;
