//! From what a statement's conditions say to the slots where its rows can be.
//!
//! Input: [`Predicates`], the table and placement of one source, and the arguments. Output: [`Keys`],
//! which may hold too many slots and never too few. Columns that are equal form classes; each class
//! collects the values it may have and the range it lies in. Alternatives (`OR`) are tried one by one,
//! and their slots put together. All of it is bounded; past a bound a condition is left out.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Bound;

use flotilla_shared::ids::Slot;
use flotilla_shared::registry::{Placement, SlotSet, Table};
use flotilla_shared::slot::{Affinity, KeyColumn, apply_affinity, compare as order};
use flotilla_shared::value::{Params, Value};

use super::keys::{MAX_KEYS, resolve, slots_between};
use crate::analyze::predicate::{ColumnAt, Condition, End, Predicates};
use crate::analyze::term::Term;
use crate::mirror::Prepared;

/// Conditions that are applied for one source, over all alternatives: some hundred microseconds.
const MAX_STEPS: usize = 10_000;

/// Comparisons made to find the values that two lists share; past it, the shorter list stands.
const MAX_COMPARISONS: usize = 10_000;

/// Values that a range of an integer key stands for, at most: beyond it most shards have some.
const MAX_ENUMERATED: i64 = 64;

/// Where the rows of a source that matter can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// Anywhere.
    All,
    /// In these slots: sorted, each once, at least one.
    Some(Vec<Slot>),
    /// Nowhere: no row can meet the conditions.
    None,
}

impl Keys {
    /// Where rows of either can be.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::None, keys) | (keys, Self::None) => keys,
            (Self::Some(mut slots), Self::Some(more)) => {
                slots.extend(more);
                Self::of(slots)
            }
        }
    }

    fn of(mut slots: Vec<Slot>) -> Self {
        slots.sort_unstable();
        slots.dedup();
        if slots.is_empty() { Self::None } else { Self::Some(slots) }
    }
}

/// The slots where the rows of source `source`, which is `table`, can be.
pub fn slots(
    source: usize,
    predicates: &Predicates,
    table: &Table,
    placement: &Placement,
    prepared: &Prepared,
    params: &Params,
) -> Keys {
    let known = predicates.sources.get(source).and_then(|instance| instance.table.as_deref());
    if !known.is_some_and(|name| name.eq_ignore_ascii_case(&table.name)) {
        return Keys::All;
    }
    let mut router = Router { source, table, placement, prepared, params, steps: 0 };
    if predicates.is_plain
        && let Some(keys) = router.plain(predicates.of(source))
    {
        return keys;
    }
    let (mut facts, mut choices) = (Facts::default(), Vec::new());
    router.apply(predicates.of(source), &mut facts, &mut choices);
    let without = router.leaf(&facts);
    match &without {
        // Alternatives could not make less of it.
        Keys::None => without,
        Keys::Some(slots) if slots.len() == 1 => without,
        _ if choices.is_empty() => without,
        _ => router.explore(facts, &choices).unwrap_or(without),
    }
}

type Choice<'a> = &'a [Vec<Condition>];

/// Columns that are equal, and what they can be.
#[derive(Clone)]
struct Class<'a> {
    columns: Vec<ColumnAt>,
    compare: KeyColumn,
    values: Option<Vec<Cow<'a, Value>>>,
    low: Bounded<'a>,
    high: Bounded<'a>,
}

/// An end of a range, and whether it belongs to it.
type Bounded<'a> = Option<(Cow<'a, Value>, bool)>;

impl<'a> Class<'a> {
    /// Keeps the values that are in `list` as well.
    fn among(&mut self, list: Vec<Cow<'a, Value>>) {
        self.values = Some(match self.values.take() {
            None => list,
            Some(old) if old.len().saturating_mul(list.len()) > MAX_COMPARISONS => {
                if old.len() < list.len() {
                    old
                } else {
                    list
                }
            }
            Some(mut old) => {
                old.retain(|value| list.iter().any(|other| order(self.compare, value, other).is_eq()));
                old
            }
        });
    }

    fn at_least(&mut self, end: Bounded<'a>) {
        let Some((value, included)) = end else { return };
        let tighter = self.low.as_ref().is_none_or(|(old, _)| match order(self.compare, &value, old) {
            Ordering::Equal => !included,
            order => order.is_gt(),
        });
        if tighter {
            self.low = Some((value, included));
        }
    }

    fn at_most(&mut self, end: Bounded<'a>) {
        let Some((value, included)) = end else { return };
        let tighter = self.high.as_ref().is_none_or(|(old, _)| match order(self.compare, &value, old) {
            Ordering::Equal => !included,
            order => order.is_lt(),
        });
        if tighter {
            self.high = Some((value, included));
        }
    }

    /// Drops the values outside the range; true when nothing is left.
    fn settle(&mut self) -> bool {
        let compare = self.compare;
        let above = |value: &Value, low: &Bounded<'_>| {
            low.as_ref().is_none_or(|(low, included)| match order(compare, value, low) {
                Ordering::Equal => *included,
                order => order.is_gt(),
            })
        };
        let below = |value: &Value, high: &Bounded<'_>| {
            high.as_ref().is_none_or(|(high, included)| match order(compare, value, high) {
                Ordering::Equal => *included,
                order => order.is_lt(),
            })
        };
        let ranged = self.low.is_some() || self.high.is_some();
        if let Some(values) = &mut self.values {
            values.retain(|value| {
                (!ranged || **value != Value::Null) && above(value, &self.low) && below(value, &self.high)
            });
            return values.is_empty();
        }
        match (&self.low, &self.high) {
            (Some((low, with_low)), Some((high, with_high))) => match order(compare, low, high) {
                Ordering::Less => false,
                Ordering::Equal => !(*with_low && *with_high),
                Ordering::Greater => true,
            },
            _ => false,
        }
    }
}

#[derive(Clone, Default)]
struct Facts<'a> {
    classes: Vec<Class<'a>>,
    never: bool,
}

impl<'a> Facts<'a> {
    fn class(&mut self, column: ColumnAt) -> usize {
        let found = self.classes.iter().position(|class| has(class, column.source, column.column));
        found.unwrap_or_else(|| {
            let (columns, compare) = (vec![column], column.compare);
            self.classes.push(Class { columns, compare, values: None, low: None, high: None });
            self.classes.len() - 1
        })
    }

    fn equal(&mut self, a: ColumnAt, b: ColumnAt) {
        let (a, b) = (self.class(a), self.class(b));
        if a == b {
            return;
        }
        let other = self.classes.swap_remove(a.max(b));
        let class = &mut self.classes[a.min(b)];
        class.columns.extend(other.columns);
        class.at_least(other.low);
        class.at_most(other.high);
        if let Some(values) = other.values {
            class.among(values);
        }
    }
}

fn has(class: &Class<'_>, source: usize, column: usize) -> bool {
    class.columns.iter().any(|at| at.source == source && at.column == column)
}

struct Router<'a> {
    source: usize,
    table: &'a Table,
    placement: &'a Placement,
    prepared: &'a Prepared,
    params: &'a Params,
    steps: usize,
}

impl<'a> Router<'a> {
    /// The common case, `k = ?`: one source, each condition a column of its own and one term.
    fn plain(&self, conditions: &[Condition]) -> Option<Keys> {
        let mut key = Vec::with_capacity(self.table.key.len());
        for condition in conditions {
            let Condition::Among { terms, .. } = condition else { return None };
            if resolve(terms.first()?, self.prepared, self.params)? == &Value::Null {
                return Some(Keys::None);
            }
        }
        for index in &self.table.key {
            let terms = conditions.iter().find_map(|condition| match condition {
                Condition::Among { column, terms, .. } if column.column == *index => Some(terms),
                _ => None,
            })?;
            key.push(resolve(terms.first()?, self.prepared, self.params)?.clone());
        }
        Some(self.slot(&key).map_or(Keys::None, |slot| Keys::Some(vec![slot])))
    }

    /// Adds conditions to the facts, and alternatives to the choices.
    fn apply(&mut self, conditions: &'a [Condition], facts: &mut Facts<'a>, choices: &mut Vec<Choice<'a>>) {
        self.steps += conditions.len();
        for condition in conditions {
            match condition {
                Condition::Among { column, terms, nulls } => {
                    let Some(list) = self.values(*column, terms, *nulls) else { continue };
                    let class = facts.class(*column);
                    facts.classes[class].among(list);
                }
                Condition::Within { column, low, high } => {
                    for (end, lower) in [(low, true), (high, false)] {
                        let Some(end) = self.end(*column, end) else { continue };
                        facts.never |= *end.0 == Value::Null;
                        let class = facts.class(*column);
                        match lower {
                            true => facts.classes[class].at_least(Some(end)),
                            false => facts.classes[class].at_most(Some(end)),
                        }
                    }
                }
                Condition::Equal(a, b) => facts.equal(*a, *b),
                Condition::Either(arms) => choices.push(arms),
                Condition::Holds(term) => {
                    facts.never |= matches!(
                        self.value(term).as_deref(),
                        Some(Value::Null | Value::Integer(0)) | Some(Value::Real(0.0))
                    );
                }
            }
        }
        facts.never |= facts.classes.iter_mut().any(Class::settle);
    }

    /// The values of a list of terms; none when one of them is not known.
    fn values(&self, column: ColumnAt, terms: &'a [Term], nulls: bool) -> Option<Vec<Cow<'a, Value>>> {
        if terms.len() > MAX_KEYS {
            return None;
        }
        let mut values = Vec::with_capacity(terms.len());
        for term in terms {
            let value = self.value(term)?;
            if nulls || *value != Value::Null {
                values.push(compared(column.compare, value));
            }
        }
        Some(values)
    }

    fn end(&self, column: ColumnAt, end: &'a End) -> Option<(Cow<'a, Value>, bool)> {
        let (term, included) = end.as_ref()?;
        Some((compared(column.compare, self.value(term)?), *included))
    }

    fn value(&self, term: &'a Term) -> Option<Cow<'a, Value>> {
        match term {
            Term::Computed(computed) => computed.value(|index| self.prepared.arg(self.params, index)).map(Cow::Owned),
            plain => resolve(plain, self.prepared, self.params).map(Cow::Borrowed),
        }
    }

    /// All ways through the choices; none when they are too many.
    fn explore(&mut self, facts: Facts<'a>, choices: &[Choice<'a>]) -> Option<Keys> {
        if facts.never {
            return Some(Keys::None);
        }
        let Some((first, rest)) = choices.split_first() else { return Some(self.leaf(&facts)) };
        let mut keys = Keys::None;
        for arm in *first {
            let (mut facts, mut choices) = (facts.clone(), rest.to_vec());
            self.apply(arm, &mut facts, &mut choices);
            self.steps += 1 + facts.classes.len();
            if self.steps > MAX_STEPS {
                return None;
            }
            keys = keys.or(self.explore(facts, &choices)?);
            if keys == Keys::All {
                break;
            }
        }
        Some(keys)
    }

    /// The slots that facts leave.
    fn leaf(&self, facts: &Facts<'a>) -> Keys {
        if facts.never {
            return Keys::None;
        }
        let of = |index: &usize| facts.classes.iter().find(|class| has(class, self.source, *index));
        let lists: Vec<Cow<'_, [Cow<'_, Value>]>> =
            self.table.key.iter().map_while(|index| self.list(of(index)?, *index)).collect();
        let count = lists.iter().fold(1usize, |count, list| count.saturating_mul(list.len()));
        if lists.len() == self.table.key.len() && !lists.is_empty() && count <= MAX_KEYS {
            let keys = (0..count).map(|mut n| {
                let mut pick = |list: &Cow<'_, [Cow<'_, Value>]>| {
                    let value = list[n % list.len()].clone().into_owned();
                    n /= list.len();
                    value
                };
                lists.iter().map(&mut pick).collect::<Vec<Value>>()
            });
            return Keys::of(keys.filter_map(|key| self.slot(&key)).collect());
        }
        self.first_column(self.table.key.first().and_then(of))
    }

    /// What the first key column alone says: where keys lie in order, its values or its range do.
    fn first_column(&self, class: Option<&Class<'a>>) -> Keys {
        let Some(class) = class else { return Keys::All };
        let sets: Option<Vec<SlotSet>> = match &class.values {
            Some(values) => {
                let one = |value: &Cow<'_, Value>| {
                    slots_between(self.placement, Bound::Included(value.as_ref()), Bound::Included(value.as_ref()))
                };
                values.iter().map(one).collect()
            }
            None => slots_between(self.placement, bound(&class.low), bound(&class.high)).map(|set| vec![set]),
        };
        let slots = |set: SlotSet| {
            let ranges = set.ranges().to_vec();
            ranges.into_iter().flat_map(|range| (range.first.0..=range.last.0).map(Slot))
        };
        sets.map_or(Keys::All, |sets| Keys::of(sets.into_iter().flat_map(slots).collect()))
    }

    /// The values of a class, for the key column `index`.
    fn list<'f>(&self, class: &'f Class<'a>, index: usize) -> Option<Cow<'f, [Cow<'a, Value>]>> {
        if let Some(values) = &class.values {
            return Some(Cow::Borrowed(values));
        }
        // Only the rowid is sure to hold integers; a column of INTEGER affinity may hold 2.5.
        let (Some((low, _)), Some((high, _))) = (&class.low, &class.high) else { return None };
        if self.table.rowid_alias != Some(index) {
            return None;
        }
        let low = match **low {
            Value::Integer(n) => n,
            Value::Real(r) => r.floor() as i64,
            _ => return None,
        };
        let high = match **high {
            Value::Integer(n) => n,
            Value::Real(r) => r.ceil() as i64,
            _ => return None,
        };
        let width = high.checked_sub(low)?;
        (width < MAX_ENUMERATED).then(|| (low..=high).map(|n| Cow::Owned(Value::Integer(n))).collect())
    }

    /// The slot of a key; none when no row can have it.
    fn slot(&self, key: &[Value]) -> Option<Slot> {
        self.placement.slot(key).ok()
    }
}

fn bound<'v>(end: &'v Bounded<'_>) -> Bound<&'v Value> {
    match end {
        None => Bound::Unbounded,
        Some((value, true)) => Bound::Included(value),
        Some((value, false)) => Bound::Excluded(value),
    }
}

/// A value as it is when it is compared with the column. A REAL column compares with an integer as it
/// is: rounded, it would equal numbers that it is not.
fn compared(column: KeyColumn, value: Cow<'_, Value>) -> Cow<'_, Value> {
    let affinity = match column.affinity {
        Affinity::Real => Affinity::Numeric,
        affinity => affinity,
    };
    match (affinity, &*value) {
        (Affinity::Integer | Affinity::Numeric, Value::Integer(_)) | (Affinity::Text, Value::Text(_)) => value,
        (Affinity::Blob, _) | (_, Value::Null | Value::Blob(_)) => value,
        _ => Cow::Owned(apply_affinity(affinity, &value)),
    }
}
