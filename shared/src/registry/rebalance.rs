//! Rebalancing: which slots should move, and what the registry records of a job that moves them.
//!
//! The registry names each move before any shard hears of it, and forgets it after both shards have
//! ended it. So there is one move at a time, and its driver may die at any moment: the next one reads
//! here which move it is, and from the shards how far it is.

use serde::{Deserialize, Serialize};

use super::{Job, JobKind, JobState, MetaCommand, MetaReply, Placement, Registry, SlotSet};
use crate::error::{Code, Error};
use crate::ids::{Epoch, GroupId, JobId, MoveId, PlacementId, Slot};

/// Slots that change their shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The shard that has them.
    pub from: GroupId,
    /// The shard that gets them.
    pub to: GroupId,
    /// The slots.
    pub slots: SlotSet,
}

/// A move under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Names it for ever.
    pub id: MoveId,
    /// Whose slots.
    pub placement: PlacementId,
    /// What moves.
    pub transfer: Transfer,
}

/// What somebody asked of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// To do its work.
    #[default]
    Run,
    /// To halt, in a state in which nothing is frozen and no index is kept.
    Pause,
    /// To end; what has moved stays where it is.
    Cancel,
}

/// How far a job that moves slots is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Numbers the time since the job began or was resumed; slot indexes carry it.
    pub generation: u64,
    /// The move under way.
    pub moving: Option<Move>,
    /// What is asked of the job.
    pub wish: Wish,
    /// Moves that are done.
    pub moves: u64,
    /// Slots that have moved.
    pub slots: u64,
    /// Rows that have moved.
    pub rows: u64,
    /// Bytes that have moved.
    pub bytes: u64,
    /// When the last move was done, microseconds since 1970.
    pub at_us: i64,
}

/// A change of what is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MoveChange {
    /// Names the next move.
    Begin {
        /// The placement.
        placement: PlacementId,
        /// What moves.
        transfer: Transfer,
    },
    /// A move is done: the map changes.
    Flip {
        /// The move.
        id: MoveId,
        /// The source's version now.
        from_epoch: Epoch,
        /// The target's version now.
        to_epoch: Epoch,
        /// How many rows moved.
        rows: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A move was cancelled on both shards.
    Abandon {
        /// The move.
        id: MoveId,
    },
    /// Somebody asks something of the job.
    Wish(Wish),
    /// The indexes of this generation are gone: the job needs another one.
    Renew {
        /// The generation that is over.
        generation: u64,
    },
    /// The job has halted, after the indexes of this generation were taken away.
    Halt {
        /// The generation.
        generation: u64,
    },
    /// The job has ended, after the indexes of this generation were taken away.
    End {
        /// The generation.
        generation: u64,
        /// How it ended.
        state: JobState,
        /// Why it failed.
        error: Option<Error>,
    },
}

impl Placement {
    /// What would have to move so that all its shards own equally many slots, with as few slots as
    /// possible. Nothing for placements that cannot be balanced.
    pub fn transfers(&self) -> Vec<Transfer> {
        if self.key.is_empty() || self.shards.is_empty() {
            return vec![];
        }
        let empty = SlotSet::default();
        let owned = |shard: &GroupId| self.owned.get(shard).unwrap_or(&empty);
        let all: usize = self.owned.values().map(SlotSet::len).sum();
        let mut shards = self.shards.clone();
        // Who has most keeps the one that is left over.
        shards.sort_by_key(|shard| (std::cmp::Reverse(owned(shard).len()), *shard));
        let share = |n: usize| all / shards.len() + usize::from(n < all % shards.len());
        let mut spare: Vec<(GroupId, Vec<Slot>)> = Vec::new();
        for shard in self.owned.keys() {
            let keeps = shards.iter().position(|other| other == shard).map_or(0, share);
            let slots: Vec<Slot> = owned(shard).iter().skip(keeps).collect();
            if !slots.is_empty() {
                spare.push((*shard, slots));
            }
        }
        let mut transfers = Vec::new();
        for (n, to) in shards.iter().enumerate() {
            let mut missing = share(n).saturating_sub(owned(to).len());
            while let (Some((from, slots)), true) = (spare.last_mut(), missing > 0) {
                let taken = slots.split_off(slots.len() - missing.min(slots.len()));
                missing -= taken.len();
                transfers.push(Transfer { from: *from, to: *to, slots: taken.into_iter().collect() });
                if slots.is_empty() {
                    spare.pop();
                }
            }
        }
        transfers.sort_by_key(|transfer| (transfer.from, transfer.to));
        transfers
    }
}

impl Progress {
    /// The JSON form of `GET /job/{id}`.
    pub fn to_json(&self, job: &Job) -> serde_json::Value {
        let elapsed_us = (self.at_us - job.created_us).max(0);
        let rate = |count: u64| match elapsed_us {
            0 => 0,
            us => (u128::from(count) * 1_000_000 / us as u128) as u64,
        };
        serde_json::json!({
            "moves": self.moves,
            "slots_moved": self.slots,
            "rows_moved": self.rows,
            "bytes_moved": self.bytes,
            "bytes_per_second": rate(self.bytes),
            "seconds_left": match job.percent {
                0 => None,
                percent => Some(elapsed_us / 1_000_000 * i64::from(100 - percent.min(100)) / i64::from(percent)),
            },
            "moving": self.moving.as_ref().map(|moving| serde_json::json!({
                "move": moving.id,
                "from": moving.transfer.from,
                "to": moving.transfer.to,
                "slots": moving.transfer.slots.len(),
            })),
        })
    }
}

impl Registry {
    /// What a new job records, if it moves slots.
    pub(super) fn new_progress(&mut self, kind: &JobKind) -> Option<Box<Progress>> {
        matches!(kind, JobKind::Rebalance { .. })
            .then(|| Box::new(Progress { generation: self.next_generation(), ..Progress::default() }))
    }

    fn next_generation(&mut self) -> u64 {
        self.counters.generation += 1;
        self.counters.generation
    }

    pub(super) fn change_move(&mut self, at_us: i64, job: JobId, change: MoveChange) -> Result<MetaReply, Error> {
        let known = self.jobs.get(&job).filter(|job| !job.ended());
        let (state, progress) = match known.map(|job| (job.state, job.progress.as_deref())) {
            Some((state, Some(progress))) => (state, progress.clone()),
            Some((_, None)) => {
                let message = format!("job {job} cannot be halted, only waited for");
                return Err(Error::new(Code::Conflict, message));
            }
            None => return Err(Error::new(Code::NoSuchObject, format!("there is no running job {job}"))),
        };
        match change {
            MoveChange::Begin { placement, transfer } => {
                self.check_begin(job, &progress, placement, &transfer)?;
                self.counters.moves += 1;
                let id = MoveId(self.counters.moves);
                self.progress(job)?.moving = Some(Move { id, placement, transfer });
            }
            MoveChange::Flip { id, from_epoch, to_epoch, rows, bytes } => {
                let moving = under_way(&progress, id)?;
                if let Some(placement) = self.placements.get_mut(&moving.placement) {
                    let Transfer { from, to, slots } = &moving.transfer;
                    let left = placement.owned.get(from).cloned().unwrap_or_default().minus(slots);
                    let more = placement.owned.get(to).cloned().unwrap_or_default().union(slots);
                    placement.owned.insert(*from, left);
                    placement.owned.insert(*to, more);
                    placement.epochs.insert(*from, from_epoch);
                    placement.epochs.insert(*to, to_epoch);
                }
                let progress = self.progress(job)?;
                progress.moving = None;
                progress.moves += 1;
                progress.slots += moving.transfer.slots.len() as u64;
                progress.rows += rows;
                progress.bytes += bytes;
                progress.at_us = at_us;
            }
            MoveChange::Abandon { id } => {
                under_way(&progress, id)?;
                self.progress(job)?.moving = None;
            }
            MoveChange::Wish(wish) if state == JobState::Paused => self.wish_of_paused(at_us, job, wish)?,
            MoveChange::Wish(wish) => self.progress(job)?.wish = wish,
            MoveChange::Renew { generation } => {
                check_generation(&progress, generation)?;
                let next = self.next_generation();
                self.progress(job)?.generation = next;
            }
            MoveChange::Halt { generation } => {
                check_generation(&progress, generation)?;
                if progress.wish != Wish::Pause || progress.moving.is_some() {
                    return Err(Error::new(Code::Conflict, format!("job {job} is not to halt now")));
                }
                if let Some(job) = self.jobs.get_mut(&job) {
                    (job.state, job.step) = (JobState::Paused, "paused".to_owned());
                }
            }
            MoveChange::End { generation, state, error } => {
                check_generation(&progress, generation)?;
                self.change(at_us, MetaCommand::EndJob { job, state, error, effects: vec![], results: vec![] })?;
            }
        }
        Ok(MetaReply::Ok)
    }

    fn wish_of_paused(&mut self, at_us: i64, id: JobId, wish: Wish) -> Result<(), Error> {
        let generation = self.next_generation();
        let progress = self.progress(id)?;
        (progress.wish, progress.generation) = (wish, generation);
        if let Some(job) = self.jobs.get_mut(&id) {
            match wish {
                Wish::Run => job.state = JobState::Running,
                Wish::Cancel => (job.state, job.ended_us) = (JobState::Cancelled, at_us),
                Wish::Pause => (),
            }
        }
        Ok(())
    }

    fn progress(&mut self, job: JobId) -> Result<&mut Progress, Error> {
        let progress = self.jobs.get_mut(&job).and_then(|job| job.progress.as_deref_mut());
        progress.ok_or_else(|| Error::new(Code::NoSuchObject, format!("there is no job {job} that moves slots")))
    }

    /// A driver that fell behind may ask for a move that another one has made.
    fn check_begin(
        &self,
        job: JobId,
        progress: &Progress,
        placement: PlacementId,
        transfer: &Transfer,
    ) -> Result<(), Error> {
        let other = self.jobs.values().find_map(|job| job.progress.as_ref().and_then(|p| p.moving.as_ref()));
        if let Some(other) = other {
            return Err(Error::new(Code::Conflict, format!("move {} is under way", other.id)));
        }
        let running = self.jobs.get(&job).is_some_and(|job| job.state == JobState::Running);
        if !running || progress.wish != Wish::Run {
            return Err(Error::new(Code::Conflict, format!("job {job} is to move nothing more")));
        }
        let fits = self.placements.get(&placement).is_some_and(|placement| {
            placement.owned.get(&transfer.from).is_some_and(|owned| transfer.slots.is_within(owned))
                && placement.shards.contains(&transfer.to)
                && transfer.from != transfer.to
        });
        match fits && !transfer.slots.is_empty() {
            true => Ok(()),
            false => Err(Error::new(Code::Conflict, "the slots are no longer where they were to be taken from")),
        }
    }
}

/// A call that comes late must not end what was taken up again.
fn check_generation(progress: &Progress, generation: u64) -> Result<(), Error> {
    match progress.generation == generation {
        true => Ok(()),
        false => Err(Error::new(Code::Conflict, format!("generation {generation} is over"))),
    }
}

fn under_way(progress: &Progress, id: MoveId) -> Result<Move, Error> {
    progress
        .moving
        .clone()
        .filter(|moving| moving.id == id)
        .ok_or_else(|| Error::new(Code::Conflict, format!("move {id} is not under way")))
}

#[cfg(test)]
mod tests;
