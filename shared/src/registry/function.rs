//! How a key becomes a slot: by hash, by split points, by a list of values, or not at all.
//!
//! Split points and listed values come from a registration. They are kept as the key columns would
//! store them, sorted, so that a lookup is a binary search with SQLite's own order.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{Placement, Ranges, SlotSet};
use crate::error::{Code, Error};
use crate::ids::{GroupId, Slot};
use crate::slot::{Affinity, KeyColumn, apply_affinity, compare, compare_keys, slot_of};
use crate::value::Value;

/// Split points or listed values of one placement. They are part of the registry, which travels
/// whole to each proxy with each change; beyond this number a hash does better.
pub const MAX_POINTS: usize = 1000;

/// Bytes that they may take together, for the same reason.
pub const MAX_POINTS_BYTES: usize = 64 << 10;

/// How a key becomes a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Function {
    /// No key: the one slot of unregistered tables.
    Home,
    /// `xxh3_64(canonical(key)) % slots`.
    Hash,
    /// As many slots as split points, plus one: slot `n` holds the keys from point `n - 1` on and below
    /// point `n`. A point may name fewer columns than the key has.
    Range {
        /// Sorted.
        points: Vec<Vec<Value>>,
    },
    /// A slot for each value, in their order, and the last one for all other keys, if there is a default.
    List {
        /// Sorted.
        values: Vec<Vec<Value>>,
        /// Keys that are not listed have a slot, too.
        default: bool,
    },
    /// No key: one slot, of which every shard has a copy.
    Reference,
    /// As [`Function::Range`], but some ranges were split after the registration.
    SplitRange(Ranges),
}

impl Function {
    /// The word of the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Hash => "hash",
            Self::Range { .. } | Self::SplitRange(_) => "range",
            Self::List { .. } => "list",
            Self::Reference => "reference",
        }
    }

    /// A range function with these split points, in any order.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for none, too many, equal ones, or one that does not fit the key.
    pub fn range(columns: &[KeyColumn], points: Vec<Vec<Value>>) -> Result<Self, Error> {
        let fits = |point: &Vec<Value>| (1..=columns.len()).contains(&point.len());
        Ok(Self::Range { points: normalized(columns, points, fits, "split point")? })
    }

    /// A list function, and what each shard owns by it.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for no values, too many, equal ones, or one that does not fit the key.
    pub fn list(
        columns: &[KeyColumn],
        shards: &[(GroupId, Vec<Vec<Value>>)],
        default: Option<GroupId>,
    ) -> Result<(Self, BTreeMap<GroupId, SlotSet>), Error> {
        let all = shards.iter().flat_map(|(_, values)| values.iter().cloned()).collect();
        let values = normalized(columns, all, |value| value.len() == columns.len(), "listed value")?;
        let mut owned: BTreeMap<GroupId, Vec<Slot>> = BTreeMap::new();
        for (shard, list) in shards {
            for value in list {
                let found = search(columns, &values, &stored(columns, value));
                owned.entry(*shard).or_default().extend(found.map(|at| Slot(at as u16)));
            }
        }
        if let Some(shard) = default {
            owned.entry(shard).or_default().push(Slot(values.len() as u16));
        }
        let owned = owned.into_iter().map(|(shard, slots)| (shard, slots.into_iter().collect())).collect();
        Ok((Self::List { values, default: default.is_some() }, owned))
    }

    /// How many numbers of slots a placement by this function has given out. Only a split makes it more than there
    /// are slots ([`Placement::all_slots`]).
    pub fn slots(&self) -> u16 {
        match self {
            Self::Home | Self::Reference => 1,
            Self::Hash => crate::slot::HASH_SLOTS,
            Self::Range { points } => points.len() as u16 + 1,
            Self::List { values, default } => values.len() as u16 + u16::from(*default),
            Self::SplitRange(ranges) => ranges.numbers(),
        }
    }

    /// The split points of ranges, sorted; none of all others.
    pub fn points(&self) -> &[Vec<Value>] {
        match self {
            Self::Range { points } => points,
            Self::SplitRange(ranges) => ranges.points(),
            _ => &[],
        }
    }

    /// The slot of the range at a position among the ranges.
    pub(super) fn slot_at(&self, position: usize) -> Slot {
        match self {
            Self::SplitRange(ranges) => ranges.slots()[position],
            _ => Slot(position as u16),
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Values as the key columns store them.
pub(super) fn stored(columns: &[KeyColumn], key: &[Value]) -> Vec<Value> {
    columns.iter().zip(key).map(|(column, value)| apply_affinity(column.affinity, value)).collect()
}

pub(super) fn search(columns: &[KeyColumn], sorted: &[Vec<Value>], key: &[Value]) -> Option<usize> {
    sorted.binary_search_by(|value| compare_keys(columns, value, key)).ok()
}

pub(super) fn normalized(
    columns: &[KeyColumn],
    points: Vec<Vec<Value>>,
    fits: impl Fn(&Vec<Value>) -> bool,
    what: &str,
) -> Result<Vec<Vec<Value>>, Error> {
    let bad = |message: String, hint: String| Err(Error::new(Code::BadRequest, message).hint(hint));
    if points.is_empty() {
        return bad(format!("there is no {what}"), format!("give at least one {what}"));
    }
    check_bounds(&points, what)?;
    if let Some(point) = points.iter().find(|point| !fits(point)) {
        let message = format!("{what} {} does not fit a key of {} columns", shown(point), columns.len());
        return bad(message, "give one value per key column".to_owned());
    }
    let mut sorted: Vec<Vec<Value>> = points.iter().map(|point| stored(columns, point)).collect();
    sorted.sort_by(|a, b| compare_keys(columns, a, b));
    if let Some(pair) = sorted.windows(2).find(|pair| compare_keys(columns, &pair[0], &pair[1]).is_eq()) {
        let message = format!("{what} {} is there twice", shown(&pair[1]));
        return bad(message, "values that the column calls equal are one value".to_owned());
    }
    Ok(sorted)
}

/// Are there few enough to be part of the registry?
pub(super) fn check_bounds<'a>(points: impl IntoIterator<Item = &'a Vec<Value>>, what: &str) -> Result<(), Error> {
    let (count, bytes) = points
        .into_iter()
        .fold((0, 0), |(count, bytes), point| (count + 1, bytes + point.iter().map(Value::size_bytes).sum::<usize>()));
    if count > MAX_POINTS || bytes > MAX_POINTS_BYTES {
        let message = format!("{count} of {what} with {bytes} bytes, over {MAX_POINTS} or {MAX_POINTS_BYTES} bytes");
        return Err(Error::new(Code::TooLarge, message).hint("use fewer, or shard by hash"));
    }
    Ok(())
}

/// A key for people.
fn shown(key: &[Value]) -> String {
    let values: Vec<String> = key.iter().map(|value| value.to_json().to_string()).collect();
    values.join(", ")
}

impl Placement {
    /// Is every shard's copy the whole of it?
    pub fn is_reference(&self) -> bool {
        self.function == Function::Reference
    }

    /// The slot of a key: one value per key column, with any affinity. Home and reference placements
    /// have one slot and look at no key.
    ///
    /// # Errors
    /// [`Code::UnlistedValue`] for a key that a list without a default does not name: no row has it.
    ///
    /// # Panics
    /// When the number of values is not that of the key columns.
    pub fn slot(&self, key: &[Value]) -> Result<Slot, Error> {
        let columns = &self.key;
        match &self.function {
            Function::Home | Function::Reference => Ok(Slot(0)),
            Function::Hash => Ok(slot_of(columns, key, self.slots)),
            function @ (Function::Range { .. } | Function::SplitRange(_)) => {
                let key = stored(columns, key);
                // A point of fewer columns is below all keys that begin with it.
                let before = |point: &Vec<Value>| compare_keys(columns, point, &key).is_le();
                Ok(function.slot_at(function.points().partition_point(before)))
            }
            Function::List { values, default } => match search(columns, values, &stored(columns, key)) {
                Some(at) => Ok(Slot(at as u16)),
                None if *default => Ok(Slot(values.len() as u16)),
                None => Err(Error::new(
                    Code::UnlistedValue,
                    format!("placement {} lists no shard for the key {}", self.id, shown(key)),
                )
                .hint("use one of the listed values; GET /table/{name} shows them")),
            },
        }
    }

    /// Slots that may hold rows whose first key column is between the bounds, compared with the
    /// column's own collation. A row outside them may be in these slots, too; one within them is nowhere
    /// else.
    pub fn slots_between(&self, low: Bound<&Value>, high: Bound<&Value>) -> SlotSet {
        let Some(column) = self.key.first().copied() else { return SlotSet::all(self.slots) };
        let (low, high) = (low.map(|value| compared(column, value)), high.map(|value| compared(column, value)));
        if let (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) = (&low, &high) {
            let both = matches!((&low, &high), (Bound::Included(_), Bound::Included(_)));
            let order = compare(column, a, b);
            if order.is_gt() || (order.is_eq() && !both) {
                return SlotSet::default();
            }
        }
        match &self.function {
            Function::Home | Function::Reference | Function::Hash => SlotSet::all(self.slots),
            function @ (Function::Range { .. } | Function::SplitRange(_)) => {
                let points = function.points();
                let below = |value: &Value, one: bool, equal: bool| {
                    points.partition_point(|point| match compare(column, &point[0], value) {
                        std::cmp::Ordering::Less => true,
                        std::cmp::Ordering::Equal => equal || (one && point.len() == 1),
                        std::cmp::Ordering::Greater => false,
                    })
                };
                let first = match &low {
                    Bound::Unbounded => 0,
                    // A point of the same first value and more columns may lie above the smallest such key.
                    Bound::Included(value) => below(value, true, false),
                    Bound::Excluded(value) => below(value, true, true),
                };
                let last = match &high {
                    Bound::Unbounded => points.len(),
                    Bound::Included(value) => below(value, true, true),
                    Bound::Excluded(value) => below(value, false, false),
                };
                match function {
                    _ if first > last => SlotSet::default(),
                    Function::SplitRange(ranges) => ranges.slots()[first..=last].iter().copied().collect(),
                    _ => SlotSet::range(Slot(first as u16), Slot(last as u16)),
                }
            }
            Function::List { values, default } => {
                let above = |value: &Value| match &low {
                    Bound::Unbounded => true,
                    Bound::Included(low) => compare(column, value, low).is_ge(),
                    Bound::Excluded(low) => compare(column, value, low).is_gt(),
                };
                let under = |value: &Value| match &high {
                    Bound::Unbounded => true,
                    Bound::Included(high) => compare(column, value, high).is_le(),
                    Bound::Excluded(high) => compare(column, value, high).is_lt(),
                };
                let listed = (0..values.len()).filter(|at| above(&values[*at][0]) && under(&values[*at][0]));
                listed.chain(default.then_some(values.len())).map(|at| Slot(at as u16)).collect()
            }
        }
    }
}

/// A value as it is when it is compared with the column. A REAL column compares with an integer as it
/// is: rounded, it might pass rows that it does not equal.
fn compared(column: KeyColumn, value: &Value) -> Value {
    match column.affinity {
        Affinity::Real => apply_affinity(Affinity::Numeric, value),
        affinity => apply_affinity(affinity, value),
    }
}

#[cfg(test)]
mod tests;
