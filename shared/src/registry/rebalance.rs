//! What the registry records of a job that moves slots. Which ones should move is told in [`super::balance`].
//!
//! The registry names each move before any shard hears of it, and forgets it after both shards have
//! ended it. A shard takes part in one move at a time, whichever jobs they belong to. The driver may die at any
//! moment: the next one reads here which moves are under way, and from the shards how far they are.

use serde::{Deserialize, Serialize};

use super::{Job, JobKind, JobState, MetaCommand, MetaReply, Registry, ReplicaInfo, SlotSet, SlotSize};
use crate::error::{Code, Error};
use crate::ids::{Epoch, GroupId, JobId, MoveId, PlacementId};

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
    /// The moves under way, of which no two have a shard in common.
    pub moving: Vec<Move>,
    /// A table that is being taken off a shard which has none of its slots any more.
    pub leave: Option<Leave>,
    /// Replicas of the shard that was taken out, which are still to be dropped.
    pub dropping: Vec<ReplicaInfo>,
    /// What is left to move, as far as the driver knew when the last move began.
    pub left: Left,
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
    /// When the job began or was resumed, and the bytes that had moved by then: rates are since then.
    pub since: Mark,
    /// When the last round of moves began, and the bytes that had moved by then: the next one waits until this
    /// one was no faster than the job may be.
    pub round: Mark,
}

/// Tables that are being taken off a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// Names it for ever, among all moves.
    pub id: MoveId,
    /// Their placement.
    pub placement: PlacementId,
    /// The shard.
    pub shard: GroupId,
    /// Their names.
    pub tables: Vec<String>,
}

/// What is left to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Slots.
    pub slots: u64,
    /// What they hold, if they were measured.
    pub size: Option<SlotSize>,
}

/// A moment in the life of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When, microseconds since 1970.
    pub at_us: i64,
    /// Bytes that had moved.
    pub bytes: u64,
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
        /// What is left to move, this among it.
        left: Left,
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
    /// Names the tables that a shard is to forget next.
    Leave {
        /// Their placement.
        placement: PlacementId,
        /// The shard.
        shard: GroupId,
    },
    /// The shard has forgotten them.
    Left {
        /// Under this number.
        id: MoveId,
        /// The shard's version of the placement now.
        epoch: Epoch,
    },
    /// The shard has not forgotten them and never will under this number.
    Stay {
        /// The number.
        id: MoveId,
    },
    /// A shard that holds nothing any more is taken out.
    DropShard {
        /// The shard.
        shard: GroupId,
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

impl Progress {
    /// Is something under way that must come to its end before any other job goes on?
    pub fn is_under_way(&self) -> bool {
        !self.moving.is_empty() || self.leave.is_some()
    }

    /// When the next round of moves may begin, microseconds since 1970.
    pub fn next_round_us(&self, max_bytes_per_second: Option<u64>) -> i64 {
        let moved = self.bytes - self.round.bytes;
        let pause_us = max_bytes_per_second.map_or(0, |rate| u128::from(moved) * 1_000_000 / u128::from(rate.max(1)));
        self.round.at_us.saturating_add(i64::try_from(pause_us).unwrap_or(i64::MAX))
    }

    /// How far the job is, 0 to 99: by bytes where these are known, else by slots.
    pub fn percent(&self) -> u8 {
        let (done, left) = match self.left.size.map(|size| size.bytes) {
            Some(bytes) if bytes + self.bytes > 0 => (self.bytes, bytes),
            _ => (self.slots, self.left.slots),
        };
        (u128::from(done) * 100 / u128::from(done + left).max(1)).min(99) as u8
    }

    /// What is left to move. What was not measured is guessed from the slots that have moved.
    fn size_left(&self) -> Option<SlotSize> {
        let guess = |moved: u64| (u128::from(moved) * u128::from(self.left.slots) / u128::from(self.slots)) as u64;
        match self.left.size {
            None if self.slots > 0 => Some(SlotSize { rows: guess(self.rows), bytes: guess(self.bytes) }),
            size => size,
        }
    }

    /// The JSON form of `GET /job/{id}`.
    pub fn to_json(&self, job: &Job) -> serde_json::Value {
        let elapsed_us = (self.at_us - self.since.at_us).max(0) as u128;
        let moved = u128::from(self.bytes - self.since.bytes);
        let rate = (moved * 1_000_000).checked_div(elapsed_us).unwrap_or(0) as u64;
        let ended = job.ended();
        let left = if ended { Left::default() } else { self.left };
        let size_left = if ended { Some(SlotSize::default()) } else { self.size_left() };
        serde_json::json!({
            "moves": self.moves,
            "already_even": job.state == JobState::Done && self.moves == 0,
            "slots_moved": self.slots,
            "slots_left": left.slots,
            "rows_moved": self.rows,
            "rows_left": size_left.map(|size| size.rows),
            "bytes_moved": self.bytes,
            "bytes_left": size_left.map(|size| size.bytes),
            "measured": self.left.size.is_some(),
            "bytes_per_second": rate,
            "seconds_left": size_left.and_then(|size| size.bytes.checked_div(rate)),
            "moving": self.moving.iter().map(|moving| serde_json::json!({
                "move": moving.id,
                "from": moving.transfer.from,
                "to": moving.transfer.to,
                "slots": moving.transfer.slots.len(),
            })).collect::<Vec<_>>(),
        })
    }
}

impl Registry {
    /// What a new job records, if it moves slots.
    pub(super) fn new_progress(&mut self, at_us: i64, kind: &JobKind) -> Option<Box<Progress>> {
        // A job that splits first gets it when it is done with that.
        let at_once = kind.moves_slots() && !matches!(kind, JobKind::Split { .. });
        at_once.then(|| self.fresh_progress(at_us))
    }

    pub(super) fn fresh_progress(&mut self, at_us: i64) -> Box<Progress> {
        let since = Mark { at_us, bytes: 0 };
        Box::new(Progress { generation: self.next_generation(), since, ..Progress::default() })
    }

    /// All moves under way.
    pub fn moves(&self) -> impl Iterator<Item = &Move> {
        self.jobs.values().filter_map(|job| job.progress.as_deref()).flat_map(|progress| &progress.moving)
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
            MoveChange::Begin { placement, transfer, left } => {
                self.check_begin(job, &progress, placement, &transfer)?;
                self.counters.moves += 1;
                let id = MoveId(self.counters.moves);
                let step = format!("moving {} slots from {} to {}", transfer.slots.len(), transfer.from, transfer.to);
                let progress = self.progress(job)?;
                if progress.moving.is_empty() {
                    progress.round = Mark { at_us, bytes: progress.bytes };
                }
                progress.left = left;
                progress.moving.push(Move { id, placement, transfer });
                self.show(job, Some(step))?;
            }
            MoveChange::Flip { id, from_epoch, to_epoch, rows, bytes } => {
                let moving = under_way(&progress, id)?;
                if let Some(placement) = self.placements.get_mut(&moving.placement) {
                    let Transfer { from, to, slots } = &moving.transfer;
                    let left = placement.owned.get(from).cloned().unwrap_or_default().minus(slots);
                    let more = placement.owned.get(to).cloned().unwrap_or_default().union(slots);
                    placement.owned.insert(*from, left);
                    placement.owned.insert(*to, more);
                    placement.raise(*from, from_epoch);
                    placement.raise(*to, to_epoch);
                }
                let (slots, progress) = (moving.transfer.slots.len() as u64, self.progress(job)?);
                progress.moving.retain(|moving| moving.id != id);
                progress.moves += 1;
                progress.slots += slots;
                progress.rows += rows;
                progress.bytes += bytes;
                progress.at_us = at_us;
                progress.left.slots = progress.left.slots.saturating_sub(slots);
                if let Some(size) = &mut progress.left.size {
                    (size.rows, size.bytes) = (size.rows.saturating_sub(rows), size.bytes.saturating_sub(bytes));
                }
                self.show(job, None)?;
            }
            MoveChange::Abandon { id } => {
                under_way(&progress, id)?;
                self.progress(job)?.moving.retain(|moving| moving.id != id);
            }
            MoveChange::Leave { placement, shard } => {
                let leave = self.check_forget(job, &progress, placement, shard)?;
                self.counters.moves += 1;
                let id = MoveId(self.counters.moves);
                self.progress(job)?.leave = Some(Leave { id, ..leave });
                self.show(job, Some(format!("taking tables off {shard}")))?;
            }
            MoveChange::Left { id, epoch } => {
                let Leave { placement, shard, .. } = leaving(&progress, id)?;
                if let Some(placement) = self.placements.get_mut(&placement) {
                    placement.shards.retain(|other| *other != shard);
                    placement.owned.remove(&shard);
                    // Stays: versions go on from there if the shard ever gets the table again.
                    placement.raise(shard, epoch);
                }
                self.progress(job)?.leave = None;
            }
            MoveChange::Stay { id } => {
                leaving(&progress, id)?;
                self.progress(job)?.leave = None;
            }
            MoveChange::DropShard { shard } => {
                self.check_drop(job, shard)?;
                let replicas = self.groups.remove(&shard).unwrap_or_default();
                self.counters.group = self.counters.group.max(shard.0);
                self.progress(job)?.dropping = replicas;
                self.show(job, Some(format!("dropping the replicas of {shard}")))?;
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
                if progress.wish != Wish::Pause || progress.is_under_way() {
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
        progress.since = Mark { at_us, bytes: progress.bytes };
        if let Some(job) = self.jobs.get_mut(&id) {
            match wish {
                Wish::Run => job.state = JobState::Running,
                Wish::Cancel => (job.state, job.ended_us) = (JobState::Cancelled, at_us),
                Wish::Pause => (),
            }
        }
        Ok(())
    }

    /// Shows how far a job is; what it last stumbled over is overcome.
    fn show(&mut self, id: JobId, step: Option<String>) -> Result<(), Error> {
        let percent = self.progress(id)?.percent();
        if let Some(job) = self.jobs.get_mut(&id) {
            (job.percent, job.error) = (percent, None);
            job.step = step.unwrap_or_else(|| std::mem::take(&mut job.step));
        }
        Ok(())
    }

    fn progress(&mut self, job: JobId) -> Result<&mut Progress, Error> {
        let progress = self.jobs.get_mut(&job).and_then(|job| job.progress.as_deref_mut());
        progress.ok_or_else(|| Error::new(Code::NoSuchObject, format!("there is no job {job} that moves slots")))
    }

    /// The tables that are being taken off a shard.
    pub(super) fn leave_under_way(&self) -> Option<&Leave> {
        self.jobs.values().find_map(|job| job.progress.as_ref()?.leave.as_ref())
    }

    /// May a shard forget a placement now?
    fn check_forget(&self, job: JobId, progress: &Progress, id: PlacementId, shard: GroupId) -> Result<Leave, Error> {
        let running = self.jobs.get(&job).is_some_and(|job| job.state == JobState::Running);
        let moved = self.moves().any(|other| other.transfer.from == shard || other.transfer.to == shard);
        let relied_on = self.is_relied_on(Some(id), shard);
        let allowed = running && progress.wish == Wish::Run && !moved && !relied_on && self.leave_under_way().is_none();
        let known = self.placements.get(&id).filter(|known| allowed && !self.keeps(known, shard));
        match known.filter(|known| self.leaving(known.id).contains(&shard)) {
            Some(_) => {
                let tables = self.tables_of(id).map(str::to_owned).collect();
                Ok(Leave { id: MoveId(0), placement: id, shard, tables })
            }
            None => Err(Error::new(Code::Conflict, format!("placement {id} is not to leave {shard} now"))),
        }
    }

    /// May a shard be taken out now?
    fn check_drop(&self, job: JobId, shard: GroupId) -> Result<(), Error> {
        let asked = self.jobs.get(&job).is_some_and(|job| match &job.kind {
            JobKind::RemoveShard { shard: other, .. } => *other == shard && job.state == JobState::Running,
            _ => false,
        });
        let moved = self.moves().any(|other| other.transfer.from == shard || other.transfer.to == shard);
        let holds = self.placements.values().any(|placement| placement.shards.contains(&shard))
            || self.is_relied_on(None, shard);
        match asked && !moved && !holds && self.groups.contains_key(&shard) {
            true => self.check_departure(shard),
            false => Err(Error::new(Code::Conflict, format!("{shard} is not to be taken out now"))),
        }
    }

    /// A driver that fell behind may ask for a move that another one has made.
    fn check_begin(
        &self,
        job: JobId,
        progress: &Progress,
        placement: PlacementId,
        transfer: &Transfer,
    ) -> Result<(), Error> {
        let busy =
            |shard: GroupId| self.moves().find(|other| other.transfer.from == shard || other.transfer.to == shard);
        if let Some(other) = busy(transfer.from).or_else(|| busy(transfer.to)) {
            return Err(Error::new(Code::Conflict, format!("move {} is under way", other.id)));
        }
        if self.is_joined(placement) {
            return Err(Error::new(Code::Conflict, "a table is about to join the placement"));
        }
        let known = self.jobs.get(&job).filter(|job| job.state == JobState::Running);
        let options = known.and_then(|job| job.kind.move_options()).filter(|_| progress.wish == Wish::Run);
        if options.is_none_or(|options| progress.moving.len() >= usize::from(options.max_parallel)) {
            return Err(Error::new(Code::Conflict, format!("job {job} is to move nothing more")));
        }
        let fits = self.placements.get(&placement).is_some_and(|placement| {
            placement.owned.get(&transfer.from).is_some_and(|owned| transfer.slots.is_within(owned))
                && placement.shards.contains(&transfer.to)
                && transfer.from != transfer.to
                && !self.leaving(placement.id).contains(&transfer.to)
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

fn leaving(progress: &Progress, id: MoveId) -> Result<Leave, Error> {
    let leave = progress.leave.clone().filter(|leave| leave.id == id);
    leave.ok_or_else(|| Error::new(Code::Conflict, format!("{id} takes no table off a shard")))
}

fn under_way(progress: &Progress, id: MoveId) -> Result<Move, Error> {
    let moving = progress.moving.iter().find(|moving| moving.id == id);
    moving.cloned().ok_or_else(|| Error::new(Code::Conflict, format!("move {id} is not under way")))
}

#[cfg(test)]
mod tests;
