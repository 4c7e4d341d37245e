//! Split points that a range placement gets after its registration.
//!
//! A slot that is split is given up for good, and each of its parts gets a number that was never used. So numbers
//! never change their meaning, and what was planned before the split cannot pass for what is planned after it.
//!
//! # Invariants
//! 1. A key that was not in the slot has the slot that it had before. A key that was in it has one of the new ones.
//! 2. The shard that owns the slot takes the new ones in its place, in one entry, and raises its version: from there
//!    on it refuses a plan that claims the old slot, or all that it owned. No other shard ever owned it, so
//!    none has to know. The registry learns after the shard, as with every change of owners.
//! 3. The numbers of the new slots follow from the registry alone. So the shard's step is a comparison: it has the old
//!    slot and takes the new ones, or it has done so, or it is not the owner. A step that comes late finds the
//!    old slot gone and changes nothing, since no shard gets that number again.
//! 4. A request that is remembered under the old slot may be about rows of any of its parts. It goes where any of
//!    them goes ([`Placement::with_origins`]). That is too far for some, which does no harm: an id names one request,
//!    and whoever asks for it anywhere means that one.
//! 5. Where rows without a key go follows from the request's id, by a number that a split does not change
//!    ([`Placement::slot_by_number`]); what it leads to is the slot of the first part, whatever was split.
//! 6. No slot is split while slots of its placement are on their way, and the slot index of the old numbers is spoilt
//!    in the entry that splits.

use serde::{Deserialize, Serialize};

use super::function::{check_bounds, normalized, stored};
use super::{Function, Job, JobKind, MetaReply, Placement, Registry, SlotRange, SlotSet};
use crate::error::{Code, Error};
use crate::ids::{Epoch, GroupId, JobId, PlacementId, Slot};
use crate::slot::{KeyColumn, compare_keys};
use crate::value::Value;

/// What a split point is called in errors.
const POINT: &str = "split point";

/// Ranges of which some were split after the registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranges {
    /// Sorted.
    points: Vec<Vec<Value>>,
    /// The slot of each range, in the order of the ranges: one more than points.
    slots: Vec<Slot>,
    /// What was split, in the order in which it was.
    cuts: Vec<Cut>,
}

/// A slot that there is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cut {
    slot: Slot,
    into: SlotRange,
}

/// A slot that is to be split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Its placement.
    pub placement: PlacementId,
    /// The slot.
    pub slot: Slot,
    /// The new split points, all within its range. Sorted.
    pub points: Vec<Vec<Value>>,
    /// What takes its place, one more than points, in the order of the keys. Numbers that were never used.
    pub into: SlotRange,
}

impl Split {
    /// The new slots.
    pub fn slots(&self) -> SlotSet {
        SlotSet::range(self.into.first, self.into.last)
    }

    /// What a shard owns after it.
    pub fn of(&self, owned: &SlotSet) -> SlotSet {
        owned.minus(&SlotSet::range(self.slot, self.slot)).union(&self.slots())
    }
}

/// What the registry records of a job that splits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SplitStep {
    /// The shard has split a slot.
    Taken {
        /// What was split.
        split: Split,
        /// The owner.
        shard: GroupId,
        /// The owner's version of the placement now.
        epoch: Epoch,
    },
    /// All split points are there; what begins at them moves from now on.
    Move,
}

impl Ranges {
    pub(super) fn points(&self) -> &[Vec<Value>] {
        &self.points
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How many numbers were given out.
    pub(super) fn numbers(&self) -> u16 {
        self.cuts.last().map_or(self.slots.len() as u16, |cut| cut.into.last.0 + 1)
    }

    /// How many slots there were at the registration.
    fn registered(&self) -> u16 {
        self.cuts.first().map_or(self.slots.len() as u16, |cut| cut.into.first.0)
    }

    /// What is the first part of a slot now.
    fn first_part(&self, slot: Slot) -> Slot {
        self.cuts.iter().fold(slot, |slot, cut| if cut.slot == slot { cut.into.first } else { slot })
    }
}

impl Function {
    /// The split points of the registration, sorted; none without ranges.
    pub fn registered_points(&self) -> Vec<Vec<Value>> {
        let Self::SplitRange(ranges) = self else { return self.points().to_vec() };
        let firsts: Vec<Slot> = (1..ranges.registered()).map(|slot| ranges.first_part(Slot(slot))).collect();
        let begins = ranges.points.iter().zip(&ranges.slots[1..]);
        begins.filter(|(_, slot)| firsts.contains(slot)).map(|(point, _)| point.clone()).collect()
    }
}

impl Placement {
    /// The slots that there are.
    pub fn all_slots(&self) -> SlotSet {
        match &self.function {
            Function::SplitRange(ranges) => ranges.slots.iter().copied().collect(),
            _ => SlotSet::all(self.slots),
        }
    }

    /// How many slots there are.
    pub fn slot_count(&self) -> usize {
        match &self.function {
            Function::SplitRange(ranges) => ranges.slots.len(),
            _ => usize::from(self.slots),
        }
    }

    /// The slot of each range, in order, with the split points where it begins and ends; nothing without ranges.
    pub fn ranges(&self) -> impl Iterator<Item = (Slot, Option<&[Value]>, Option<&[Value]>)> {
        let points = self.function.points();
        let point = |at: Option<usize>| at.and_then(|at| points.get(at)).map(Vec::as_slice);
        let count = if self.may_split() { points.len() + 1 } else { 0 };
        (0..count).map(move |at| (self.function.slot_at(at), point(at.checked_sub(1)), point(Some(at))))
    }

    /// May a slot be split some day? Then rows of one slot may be on two shards later.
    pub fn may_split(&self) -> bool {
        matches!(self.function, Function::Range { .. } | Function::SplitRange(_))
    }

    /// Was a slot split?
    pub fn is_split(&self) -> bool {
        matches!(self.function, Function::SplitRange(_))
    }

    /// A slot by any number, in equal shares over those of the registration; of one that was split, its first part.
    pub fn slot_by_number(&self, number: u128) -> Slot {
        match &self.function {
            Function::SplitRange(ranges) => ranges.first_part(Slot((number % u128::from(ranges.registered())) as u16)),
            _ => Slot((number % u128::from(self.slots)) as u16),
        }
    }

    /// These slots with all that they were split from.
    pub fn with_origins(&self, slots: &SlotSet) -> SlotSet {
        let Function::SplitRange(ranges) = &self.function else { return slots.clone() };
        let mut all = slots.clone();
        for cut in ranges.cuts.iter().rev() {
            if all.meets(&SlotSet::range(cut.into.first, cut.into.last)) {
                all = all.union(&SlotSet::range(cut.slot, cut.slot));
            }
        }
        all
    }

    /// The ranges that begin at these points, as far as they are split points.
    pub fn slots_from(&self, points: &[Vec<Value>]) -> SlotSet {
        let known = self.function.points();
        let position = |point: &Vec<Value>| find(&self.key, known, &stored(&self.key, point)).ok();
        points.iter().filter_map(position).map(|position| self.function.slot_at(position + 1)).collect()
    }

    /// What has to be split, one slot after the other, for the placement to have these points. Nothing for those
    /// that it has.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a placement without ranges, equal points, or one that does not fit the key;
    /// [`Code::TooLarge`] for too many.
    pub fn splits(&self, at: &[Vec<Value>]) -> Result<Vec<Split>, Error> {
        if !self.may_split() {
            let message = format!("the table is sharded by {}, and has no split points", self.function);
            return Err(Error::new(Code::BadRequest, message).hint(
                "\"values\" and \"to\" bring slots to another shard; split points are for shard_func \"range\"",
            ));
        }
        let fits = |point: &Vec<Value>| (1..=self.key.len()).contains(&point.len());
        let known = self.function.points();
        let mut new = normalized(&self.key, at.to_vec(), fits, POINT)?;
        new.retain(|point| find(&self.key, known, point).is_err());
        check_bounds(known.iter().chain(&new), POINT)?;
        let mut splits: Vec<Split> = Vec::new();
        let mut next = self.slots;
        for point in new {
            let (Ok(position) | Err(position)) = find(&self.key, known, &point);
            let slot = self.function.slot_at(position);
            match splits.last_mut().filter(|split| split.slot == slot) {
                Some(split) => {
                    split.points.push(point);
                    split.into.last.0 += 1;
                    next += 1;
                }
                None => {
                    let into = SlotRange { first: Slot(next), last: Slot(next + 1) };
                    splits.push(Split { placement: self.id, slot, points: vec![point], into });
                    next += 2;
                }
            }
        }
        Ok(splits)
    }

    /// Records that the owner of a slot has split it; false if the slot is not there to be split.
    pub fn split(&mut self, split: &Split, shard: GroupId, epoch: Epoch) -> bool {
        let points = self.function.points();
        let Some(position) = (0..=points.len()).find(|at| self.function.slot_at(*at) == split.slot) else {
            return false;
        };
        if !self.may_split() || split.into.first.0 != self.slots {
            return false;
        }
        let mut ranges = match &self.function {
            Function::SplitRange(ranges) => ranges.clone(),
            other => Ranges {
                points: points.to_vec(),
                slots: (0..=points.len()).map(|at| other.slot_at(at)).collect(),
                cuts: vec![],
            },
        };
        ranges.points.splice(position..position, split.points.iter().cloned());
        ranges.slots.splice(position..=position, split.slots().iter());
        ranges.cuts.push(Cut { slot: split.slot, into: split.into });
        self.slots = ranges.numbers();
        self.function = Function::SplitRange(ranges);
        let owned = split.of(&self.owned.get(&shard).cloned().unwrap_or_default());
        self.owned.insert(shard, owned);
        self.epochs.insert(shard, epoch);
        true
    }
}

fn find(key: &[KeyColumn], sorted: &[Vec<Value>], point: &[Value]) -> Result<usize, usize> {
    sorted.binary_search_by(|known| compare_keys(key, known, point))
}

impl Registry {
    pub(super) fn change_split(&mut self, at_us: i64, id: JobId, step: SplitStep) -> Result<MetaReply, Error> {
        let table = match self.running_job(id)? {
            Job { kind: JobKind::Split { table, .. }, progress: None, .. } => table.clone(),
            _ => return Err(Error::new(Code::Conflict, format!("job {id} is to split nothing"))),
        };
        match step {
            SplitStep::Taken { split, shard, epoch } => {
                let of_table = self.table(&table).is_some_and(|table| table.placement == split.placement);
                let Some(placement) = self.placements.get_mut(&split.placement).filter(|_| of_table) else {
                    return Err(Error::new(Code::Conflict, format!("job {id} is to split another placement")));
                };
                // Another driver may have told before.
                if placement.split(&split, shard, epoch) {
                    self.follow(&split);
                }
            }
            SplitStep::Move => {
                let progress = self.fresh_progress(at_us);
                self.running_job(id)?.progress = Some(progress);
            }
        }
        Ok(MetaReply::Ok)
    }

    /// What was to go to a shard with the old slot goes there with the new ones.
    fn follow(&mut self, split: &Split) {
        let tables = &self.tables;
        for job in self.jobs.values_mut().filter(|job| !job.ended()) {
            if let JobKind::Give { table, slots, .. } = &mut job.kind
                && slots.contains(split.slot)
                && tables.get(&table.to_ascii_lowercase()).is_some_and(|table| table.placement == split.placement)
            {
                *slots = split.of(slots);
            }
        }
    }
}

#[cfg(test)]
mod tests;
