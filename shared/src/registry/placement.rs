//! Placements: the map from slots to shards, and sets of slots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Function;
use crate::ids::{Epoch, GroupId, PlacementId, Slot};
use crate::slot::KeyColumn;

/// Slots `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotRange {
    /// First slot of the range.
    pub first: Slot,
    /// Last slot, inclusive.
    pub last: Slot,
}

/// A set of slots as sorted ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSet(Vec<SlotRange>);

impl SlotSet {
    /// Slots `first..=last`.
    pub fn range(first: Slot, last: Slot) -> Self {
        Self(vec![SlotRange { first, last }])
    }

    /// All slots of a placement with `slots` slots.
    pub fn all(slots: u16) -> Self {
        Self::range(Slot(0), Slot(slots - 1))
    }

    /// Is the slot in the set?
    pub fn contains(&self, slot: Slot) -> bool {
        let after = self.0.partition_point(|range| range.first <= slot);
        after > 0 && slot <= self.0[after - 1].last
    }

    /// How many slots.
    pub fn len(&self) -> usize {
        self.0.iter().map(|range| usize::from(range.last.0 - range.first.0) + 1).sum()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// The slots, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Slot> + '_ {
        self.0.iter().flat_map(|range| (range.first.0..=range.last.0).map(Slot))
    }

    /// Slots of either set.
    pub fn union(&self, other: &Self) -> Self {
        let mut sorted: Vec<SlotRange> = self.0.iter().chain(&other.0).copied().collect();
        // Two runs, each in order: the sort merges them.
        sorted.sort();
        let mut ranges: Vec<SlotRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match ranges.last_mut() {
                Some(last) if u32::from(range.first.0) <= u32::from(last.last.0) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => ranges.push(range),
            }
        }
        Self(ranges)
    }

    /// Slots of both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            let (first, last) = (a.first.max(b.first), a.last.min(b.last));
            if first <= last {
                ranges.push(SlotRange { first, last });
            }
            if a.last <= b.last {
                ours.next()
            } else {
                theirs.next()
            };
        }
        Self(ranges)
    }

    /// Slots that the other set does not have.
    pub fn minus(&self, other: &Self) -> Self {
        self.iter().filter(|slot| !other.contains(*slot)).collect()
    }

    /// Have the sets a slot in common?
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().any(|range| {
            let after = other.0.partition_point(|o| o.first <= range.last);
            after > 0 && other.0[after - 1].last >= range.first
        })
    }

    /// Is every slot of this set in the other one?
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().all(|range| {
            let after = other.0.partition_point(|o| o.first <= range.first);
            after > 0 && range.last <= other.0[after - 1].last
        })
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut sorted: Vec<Slot> = slots.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut ranges: Vec<SlotRange> = Vec::new();
        for slot in sorted {
            match ranges.last_mut() {
                Some(range) if range.last.0 + 1 == slot.0 => range.last = slot,
                _ => ranges.push(SlotRange { first: slot, last: slot }),
            }
        }
        Self(ranges)
    }
}

/// Which shard owns which slot, for one colocation set of tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// Its id.
    pub id: PlacementId,
    /// How a key becomes a slot.
    pub function: Function,
    /// How the key columns compare; all tables of the set agree on it.
    pub key: Vec<KeyColumn>,
    /// How many numbers of slots were given out; only a split takes further ones, and gives one up for good.
    pub slots: u16,
    /// Shards that may hold its tables: each has the schema. In order.
    pub shards: Vec<GroupId>,
    /// Who owns which slots, as of `epochs`.
    pub owned: BTreeMap<GroupId, SlotSet>,
    /// The ownership version of each shard that this map was made from.
    pub epochs: BTreeMap<GroupId, Epoch>,
}

impl Placement {
    /// The shard that owns a slot according to this map.
    pub fn owner(&self, slot: Slot) -> Option<GroupId> {
        self.owned.iter().find(|(_, set)| set.contains(slot)).map(|(group, _)| *group)
    }

    /// Shards that own at least one slot.
    pub fn owners(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.owned.iter().filter(|(_, set)| !set.is_empty()).map(|(group, _)| *group)
    }

    /// The ownership version of a shard; 0 when it never owned anything.
    pub fn epoch(&self, group: GroupId) -> Epoch {
        self.epochs.get(&group).copied().unwrap_or_default()
    }

    /// A shard's version is at least this. It never goes back: what is told late is over by then.
    pub(super) fn raise(&mut self, shard: GroupId, epoch: Epoch) {
        let known = self.epochs.entry(shard).or_default();
        *known = (*known).max(epoch);
    }

    /// May slots have changed their shard since the placement was made? Each that gave some up has raised
    /// its version.
    pub fn may_have_moved(&self) -> bool {
        self.epochs.values().any(|epoch| *epoch > Epoch(1))
    }

    /// Slots in equal shares over `shards`, the first ones one larger where it does not divide.
    pub fn even_shares(slots: u16, shards: &[GroupId]) -> BTreeMap<GroupId, SlotSet> {
        let (slots, count) = (usize::from(slots), shards.len());
        let mut shares = BTreeMap::new();
        let mut first = 0;
        for (index, group) in shards.iter().enumerate() {
            let share = slots / count + usize::from(index < slots % count);
            if share > 0 {
                shares.insert(*group, SlotSet::range(Slot(first as u16), Slot((first + share - 1) as u16)));
            }
            first += share;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares cover every slot once, for any number of shards.
    #[test]
    fn shares_cover_every_slot_once() {
        for count in [1, 2, 3, 7, 100] {
            let shards: Vec<GroupId> = (1..=count).map(GroupId).collect();
            let shares = Placement::even_shares(16_384, &shards);
            assert_eq!(shares.values().map(SlotSet::len).sum::<usize>(), 16_384);
            for slot in (0..16_384).step_by(61) {
                assert_eq!(shares.values().filter(|set| set.contains(Slot(slot))).count(), 1);
            }
        }
    }

    /// A set collected from slots in any order holds just these.
    #[test]
    fn sets_from_slots() {
        let set: SlotSet = [5, 1, 2, 9, 2, 3].map(Slot).into_iter().collect();
        assert_eq!(set.ranges().len(), 3);
        assert_eq!(set.len(), 5);
        for slot in 0..12 {
            assert_eq!(set.contains(Slot(slot)), [1, 2, 3, 5, 9].contains(&slot), "{slot}");
        }
    }

    /// Sets behave as bit masks do: all pairs of sets of seven slots.
    #[test]
    fn sets_as_bit_masks() {
        let set = |mask: u32| -> SlotSet { (0..7).filter(|slot| mask >> slot & 1 == 1).map(Slot).collect() };
        let sets: Vec<SlotSet> = (0..128).map(set).collect();
        for (a, one) in sets.iter().enumerate() {
            for (b, other) in sets.iter().enumerate() {
                assert_eq!(one.union(other), sets[a | b], "{a} {b}");
                assert_eq!(one.intersection(other), sets[a & b], "{a} {b}");
                assert_eq!(one.minus(other), sets[a & !b], "{a} {b}");
                assert_eq!((one.meets(other), one.is_within(other)), (a & b != 0, a & !b == 0), "{a} {b}");
            }
        }
        let last = SlotSet::range(Slot(u16::MAX), Slot(u16::MAX));
        assert_eq!(last.union(&SlotSet::range(Slot(0), Slot(u16::MAX - 1))).len(), 1 << 16);
    }
}
