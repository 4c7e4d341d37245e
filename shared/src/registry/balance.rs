//! Which slots should move: a pure function of who has them, what is wished, and how large they are.
//!
//! A plan is made anew before each move, from the owners of that moment. It cannot go back and forth: each of
//! its transfers takes from a shard that has too much, or is to be empty, and gives to one that has too little.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Placement, SlotSet, Transfer};
use crate::error::{Code, Error};
use crate::ids::{GroupId, Slot};

/// Shards whose rows or bytes are within this share of what they should be are even: to be exact, whole
/// slots would have to go back and forth with each insert.
pub const EVEN_WITHIN_PERCENT: u64 = 5;

/// A rebalancing that has begun goes on until shards are this close: what it leaves shall not be uneven again
/// after the next few inserts.
pub const AIM_WITHIN_PERCENT: u64 = 2;

/// Largest weight of a shard: sums of weights and products with bytes stay far from overflow.
pub const MAX_WEIGHT: u32 = 1000;

/// Moves at the same time: each takes two shards, whose leaders are busy with it.
pub const MAX_PARALLEL: u16 = 16;

/// What shards shall have equally much of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Slots: needs no look at the rows, and with a hash rows follow.
    #[default]
    Slots,
    /// Rows.
    Rows,
    /// Bytes.
    Bytes,
}

impl Measure {
    /// The word of the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Rows => "rows",
            Self::Bytes => "bytes",
        }
    }
}

impl std::str::FromStr for Measure {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Slots, Self::Rows, Self::Bytes].into_iter().find(|one| one.name() == text).ok_or_else(|| {
            Error::new(Code::BadRequest, format!("nothing is evened out by `{text}`"))
                .hint("`by` is slots, rows or bytes")
        })
    }
}

/// How slots shall move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOptions {
    /// How much each shard shall have compared with the others; 1 unless given, 0 takes all away.
    pub weights: BTreeMap<GroupId, u32>,
    /// Of what.
    pub by: Measure,
    /// How many bytes of rows may move in a second, on average over each round of moves.
    pub max_bytes_per_second: Option<u64>,
    /// How many moves may be under way at once; a shard takes part in one of them at a time.
    pub max_parallel: u16,
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self { weights: BTreeMap::new(), by: Measure::Slots, max_bytes_per_second: None, max_parallel: 1 }
    }
}

impl MoveOptions {
    /// Do the options fit the placement?
    ///
    /// # Errors
    /// [`Code::BadRequest`], which names the option.
    pub fn check(&self, placement: &Placement) -> Result<(), Error> {
        let bad = |message: String, hint: String| Err(Error::new(Code::BadRequest, message).hint(hint));
        if let Some(shard) = self.weights.keys().find(|shard| !placement.shards.contains(shard)) {
            let shards: Vec<String> = placement.shards.iter().map(GroupId::to_string).collect();
            return bad(
                format!("`weights` names {shard}, which may not hold the table"),
                format!("it may be on {}; POST /table/add-to-shard adds a shard", shards.join(", ")),
            );
        }
        if let Some((shard, weight)) = self.weights.iter().find(|(_, weight)| **weight > MAX_WEIGHT) {
            return bad(format!("the weight {weight} of {shard} is over {MAX_WEIGHT}"), "use smaller weights".into());
        }
        if placement.shards.iter().all(|shard| self.weights.get(shard) == Some(&0)) {
            return bad("`weights` leave no shard to hold the table".into(), "give one shard a weight over 0".into());
        }
        self.check_rates()
    }

    /// Do the options fit what may be done at once?
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_rates(&self) -> Result<(), Error> {
        let bad = |message: String, hint: &str| Err(Error::new(Code::BadRequest, message).hint(hint));
        if !(1..=MAX_PARALLEL).contains(&self.max_parallel) {
            let message = format!("`max_parallel` is {}", self.max_parallel);
            return bad(message, &format!("it is at least 1 and at most {MAX_PARALLEL}"));
        }
        if self.max_bytes_per_second == Some(0) {
            return bad("`max_bytes_per_second` is 0".into(), "POST /job/{id}/pause halts a job");
        }
        Ok(())
    }
}

/// How much a slot, or several, hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSize {
    /// Rows, of all tables of the placement.
    pub rows: u64,
    /// Bytes that they take packed.
    pub bytes: u64,
}

impl std::ops::AddAssign for SlotSize {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// Sizes of the slots of a placement; those that are not there hold nothing.
pub type Sizes = BTreeMap<Slot, SlotSize>;

/// What all these slots hold.
pub fn total_size(sizes: &Sizes, slots: &SlotSet) -> SlotSize {
    let mut total = SlotSize::default();
    slots.iter().filter_map(|slot| sizes.get(&slot)).for_each(|size| total += *size);
    total
}

/// What a job wants of a placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// All shards have equally much, by their weights.
    Even {
        /// Slots have moved already, so [`AIM_WITHIN_PERCENT`] holds.
        begun: bool,
    },
    /// A shard has nothing; nothing else moves.
    Drain(GroupId),
    /// A shard has these slots; nothing else moves.
    Give(SlotSet, GroupId),
}

impl Placement {
    /// What would have to move so that all its shards own equally many slots, with as few slots as
    /// possible. Nothing for placements that cannot be balanced.
    pub fn transfers(&self) -> Vec<Transfer> {
        self.plan(&Goal::Even { begun: false }, &MoveOptions::default(), &BTreeSet::new(), &Sizes::new())
    }

    /// What would have to move to reach a goal. `leaving` get nothing. Sizes matter only when they are what is
    /// to be evened out.
    pub fn plan(
        &self,
        goal: &Goal,
        options: &MoveOptions,
        leaving: &BTreeSet<GroupId>,
        sizes: &Sizes,
    ) -> Vec<Transfer> {
        if self.key.is_empty() || self.shards.is_empty() {
            return vec![];
        }
        let drained = match goal {
            Goal::Give(slots, to) => return self.give(slots, *to),
            Goal::Drain(shard) => Some(*shard),
            Goal::Even { .. } => None,
        };
        let weight = |shard: GroupId| match self.shards.contains(&shard) && !leaving.contains(&shard) {
            true if drained != Some(shard) => u64::from(options.weights.get(&shard).copied().unwrap_or(1)),
            _ => 0,
        };
        if self.shards.iter().all(|shard| weight(*shard) == 0) {
            return vec![];
        }
        match (options.by, goal) {
            (Measure::Slots, Goal::Drain(shard)) => self.drain_slots(*shard, weight),
            (Measure::Slots, _) => self.even_slots(weight),
            (by, goal) => {
                let load = |slot: Slot| {
                    let size = sizes.get(&slot).copied().unwrap_or_default();
                    if by == Measure::Rows { size.rows } else { size.bytes }
                };
                Scales::new(self, weight, load).plan(goal)
            }
        }
    }

    fn slots_of(&self, shard: GroupId) -> usize {
        self.owned.get(&shard).map_or(0, SlotSet::len)
    }

    fn give(&self, slots: &SlotSet, to: GroupId) -> Vec<Transfer> {
        let others = self.owned.iter().filter(|(from, _)| **from != to);
        let taken = others.map(|(from, owned)| Transfer {
            from: *from,
            to,
            slots: owned.iter().filter(|slot| slots.contains(*slot)).collect(),
        });
        taken.filter(|transfer| !transfer.slots.is_empty()).collect()
    }

    fn even_slots(&self, weight: impl Fn(GroupId) -> u64) -> Vec<Transfer> {
        let all: u64 = self.owned.values().map(|owned| owned.len() as u64).sum();
        let sum: u64 = self.shards.iter().map(|shard| weight(*shard)).sum();
        let mut shares: BTreeMap<GroupId, usize> =
            self.shards.iter().map(|shard| (*shard, (all * weight(*shard) / sum) as usize)).collect();
        let left = all as usize - shares.values().sum::<usize>();
        // Who has too much anyway keeps one of those that are left over: it need not move.
        let mut divided: Vec<GroupId> =
            self.shards.iter().copied().filter(|shard| !(all * weight(*shard)).is_multiple_of(sum)).collect();
        divided.sort_by_key(|shard| {
            let owned = self.slots_of(*shard);
            (Reverse(owned > shares[shard]), Reverse(all * weight(*shard) % sum), Reverse(owned), *shard)
        });
        for shard in &divided[..left] {
            *shares.entry(*shard).or_default() += 1;
        }
        let keeps = |shard: GroupId| shares.get(&shard).copied().unwrap_or(0);
        let spare = self.owned.iter().map(|(shard, owned)| (*shard, owned.iter().skip(keeps(*shard)).collect()));
        let missing: Vec<(GroupId, usize)> =
            shares.iter().map(|(shard, share)| (*shard, share.saturating_sub(self.slots_of(*shard)))).collect();
        hand_out(spare.collect(), &missing)
    }

    /// Each slot goes to whoever has the fewest for its weight; runs of slots stay together.
    fn drain_slots(&self, shard: GroupId, weight: impl Fn(GroupId) -> u64) -> Vec<Transfer> {
        let slots: Vec<Slot> = self.owned.get(&shard).map_or_else(Vec::new, |owned| owned.iter().collect());
        let takers: Vec<GroupId> = self.shards.iter().copied().filter(|shard| weight(*shard) > 0).collect();
        let mut given: BTreeMap<GroupId, usize> = takers.iter().map(|shard| (*shard, 0)).collect();
        for _ in &slots {
            let level = |shard: GroupId| ((self.slots_of(shard) + given[&shard]) as u64, weight(shard));
            let lowest = takers.iter().copied().min_by(|a, b| {
                let ((a, wa), (b, wb)) = (level(*a), level(*b));
                (a * wb).cmp(&(b * wa))
            });
            lowest.and_then(|shard| given.get_mut(&shard)).into_iter().for_each(|count| *count += 1);
        }
        hand_out(vec![(shard, slots)], &given.into_iter().collect::<Vec<_>>())
    }
}

/// Gives slots that are to spare to shards that miss some, in runs.
fn hand_out(mut spare: Vec<(GroupId, Vec<Slot>)>, missing: &[(GroupId, usize)]) -> Vec<Transfer> {
    spare.retain(|(_, slots)| !slots.is_empty());
    let mut transfers = Vec::new();
    for (to, count) in missing {
        let mut count = *count;
        while let (Some((from, slots)), true) = (spare.last_mut(), count > 0) {
            let taken = slots.split_off(slots.len() - count.min(slots.len()));
            count -= taken.len();
            transfers.push(Transfer { from: *from, to: *to, slots: taken.into_iter().collect() });
            if slots.is_empty() {
                spare.pop();
            }
        }
    }
    transfers.sort_by_key(|transfer| (transfer.from, transfer.to));
    transfers
}

/// A shard on the scales.
struct Side {
    shard: GroupId,
    weight: i128,
    load: i128,
    /// Slots that may still be taken away, by their load.
    slots: BTreeSet<(i128, Slot)>,
    /// How many slots it has, with those that it gets.
    count: u64,
}

/// Shards with what they have and what they should have.
struct Scales {
    sides: Vec<Side>,
    total: i128,
    weights: i128,
    moved: BTreeMap<(GroupId, GroupId), Vec<Slot>>,
}

impl Scales {
    fn new(placement: &Placement, weight: impl Fn(GroupId) -> u64, load: impl Fn(Slot) -> u64) -> Self {
        let shards: BTreeSet<GroupId> = placement.shards.iter().chain(placement.owned.keys()).copied().collect();
        let sides = shards.into_iter().map(|shard| {
            let owned = placement.owned.get(&shard);
            let slots: BTreeSet<(i128, Slot)> = owned
                .map_or_else(BTreeSet::new, |owned| owned.iter().map(|slot| (i128::from(load(slot)), slot)).collect());
            let load = slots.iter().map(|(load, _)| load).sum();
            Side { shard, weight: weight(shard).into(), load, count: slots.len() as u64, slots }
        });
        let sides: Vec<Side> = sides.collect();
        let total = sides.iter().map(|side| side.load).sum();
        let weights = sides.iter().map(|side| side.weight).sum();
        Self { sides, total, weights, moved: BTreeMap::new() }
    }

    fn plan(mut self, goal: &Goal) -> Vec<Transfer> {
        match goal {
            Goal::Drain(shard) => self.empty(|side| side.shard == *shard),
            _ => self.empty(|side| side.weight == 0),
        }
        if let Goal::Even { begun } = goal {
            // What must go anyway is a beginning, too; so a plan is the same before and after it.
            let begun = *begun || !self.moved.is_empty();
            let within = if begun { AIM_WITHIN_PERCENT } else { EVEN_WITHIN_PERCENT };
            if !self.is_even(within) {
                while !self.is_even(AIM_WITHIN_PERCENT) && self.improve() {}
            }
        }
        let transfers = self.moved.into_iter();
        transfers.map(|((from, to), slots)| Transfer { from, to, slots: slots.into_iter().collect() }).collect()
    }

    /// How much too much a shard has, times the sum of the weights.
    fn excess(&self, side: usize) -> i128 {
        self.sides[side].load * self.weights - self.total * self.sides[side].weight
    }

    fn is_even(&self, within_percent: u64) -> bool {
        (0..self.sides.len()).all(|side| {
            let share = self.total * self.sides[side].weight;
            self.sides[side].weight == 0 || self.excess(side).abs() * 100 <= share * i128::from(within_percent)
        })
    }

    fn shift(&mut self, from: usize, to: usize, load: i128, slot: Slot) {
        self.sides[from].slots.remove(&(load, slot));
        (self.sides[from].load, self.sides[from].count) = (self.sides[from].load - load, self.sides[from].count - 1);
        // A slot moves once in a plan: it is not put among those that may be taken away.
        (self.sides[to].load, self.sides[to].count) = (self.sides[to].load + load, self.sides[to].count + 1);
        self.moved.entry((self.sides[from].shard, self.sides[to].shard)).or_default().push(slot);
    }

    /// All slots go, the largest first, to whoever lacks most; empty ones to whoever has the fewest.
    fn empty(&mut self, which: impl Fn(&Side) -> bool) {
        for from in 0..self.sides.len() {
            if !which(&self.sides[from]) {
                continue;
            }
            while let Some((load, slot)) = self.sides[from].slots.last().copied() {
                let takers = (0..self.sides.len()).filter(|side| *side != from && self.sides[*side].weight > 0);
                let per_weight = |side: usize| i128::from(self.sides[side].count) * 1_000_000 / self.sides[side].weight;
                let Some(to) = takers.min_by_key(|side| match load {
                    0 => (per_weight(*side), 0),
                    _ => (self.excess(*side), per_weight(*side)),
                }) else {
                    return;
                };
                self.shift(from, to, load, slot);
            }
        }
    }

    /// One slot goes from a shard that has too much to one that has too little, the largest that neither of
    /// them notices as too much; tells whether there was one.
    fn improve(&mut self) -> bool {
        let mut order: Vec<(i128, usize)> = (0..self.sides.len()).map(|side| (self.excess(side), side)).collect();
        order.retain(|(_, side)| self.sides[*side].weight > 0);
        order.sort_unstable();
        for (over, from) in order.iter().rev().take_while(|(over, _)| *over > 0) {
            for (under, to) in order.iter().take_while(|(under, _)| *under < 0) {
                let fits = (*over).min(-under) / self.weights;
                let slots = &self.sides[*from].slots;
                let below = slots.range(..=(fits, Slot(u16::MAX))).next_back().filter(|(load, _)| *load > 0);
                let better = |(load, _): &&(i128, Slot)| {
                    let load = load * self.weights;
                    (over - load).abs().max((under + load).abs()) < (*over).max(-under)
                };
                let above = || slots.range((fits + 1, Slot(0))..).next().filter(better);
                if let Some((load, slot)) = below.or_else(above).copied() {
                    self.shift(*from, *to, load, slot);
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
pub(in crate::registry) mod tests;
