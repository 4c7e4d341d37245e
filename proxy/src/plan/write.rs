//! Plans of writes: which shards an INSERT, UPDATE or DELETE on sharded tables goes to.
//!
//! Input and output are those of [`plan`](super::plan), which has ruled out that one shard owns all
//! that is touched. Rows that come without their integer key get it here ([`missing_keys`]).

use std::collections::BTreeMap;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, PlacementId, Slot};
use flotilla_shared::registry::{HOME, Placement, Registry, Table};
use flotilla_shared::value::Value;
use flotilla_shared::wire::Statement;

use super::across::{self, Spread};
use super::alone::{keeps_keys, one_shard};
use super::keys::{by_owner, claim_all, claim_slots, is_column};
use super::route::Keys;
use super::split::{Assigned, KeyPlace, item_value, key_guard, rewrite};
use super::stage::{Change, Staged};
use super::{Input, Part, Plan, as_written, first_slots, one_or, pinned_parts, placement};
use crate::analyze::Verb;
use crate::analyze::insert::{InsertShape, Item};

/// Puts generated keys into an INSERT that one shard takes as a whole.
pub(super) fn with_keys(input: Input<'_>, registry: &Registry, part: Part) -> Result<Part, Error> {
    let analysis = &input.prepared.analysis;
    let table = analysis.record.target.as_deref().and_then(|name| registry.table(name));
    let (Some(table), Some(shape)) = (table, analysis.insert(&input.prepared.sql)) else { return Ok(part) };
    let rows: Vec<usize> = (0..shape.rows.len()).collect();
    let assigned = assigned(input, registry, table);
    let statement = Some(rewrite(input.prepared, shape, input.params, &rows, Some(&assigned))?);
    Ok(Part { statement, guard: guard(input, table, shape, &assigned, &rows), ..part })
}

fn assigned<'a>(input: Input<'_>, registry: &Registry, table: &'a Table) -> Assigned<'a> {
    let places = missing_keys(input, registry);
    let column = table.rowid_alias.map_or("", |alias| table.columns[alias].name.as_str());
    let keys = places.iter().filter_map(|(row, place)| Some((*row, (*place, *input.keys.get(row)?)))).collect();
    Assigned { column, keys }
}

/// What must go before an INSERT that resolves conflicts, when rows of it have generated keys.
fn guard(
    input: Input<'_>,
    table: &Table,
    shape: &InsertShape,
    assigned: &Assigned<'_>,
    rows: &[usize],
) -> Option<Statement> {
    let keys: Vec<i64> = rows.iter().filter_map(|row| assigned.keys.get(row)).map(|(_, key)| *key).collect();
    let resolves = shape.resolves_conflicts || input.prepared.analysis.target_resolves_conflicts;
    (resolves && !keys.is_empty()).then(|| key_guard(&table.name, assigned.column, &keys))
}

/// The table that a write is about.
fn target<'a>(input: Input<'_>, registry: &'a Registry) -> Result<(&'a Table, &'a Placement), Error> {
    let name = input.prepared.analysis.record.target.as_deref().unwrap_or("");
    let table = registry.table(name).ok_or_else(|| {
        Error::new(Code::Unroutable, format!("`{name}` is not a table"))
            .hint("the statement would need rows of several shards; write the tables one by one, by key")
    })?;
    Ok((table, placement(registry, table)?))
}

/// Refuses a write that may reach rows beyond those that it names.
fn confined(input: Input<'_>) -> Result<(), Error> {
    match &input.prepared.analysis.reaches {
        Some(why) => Err(Error::new(Code::Unroutable, why.clone())
            .hint("the statement would need rows of several shards; write the tables one by one, by key")),
        None => Ok(()),
    }
}

fn updated_key<'a>(input: Input<'_>, table: &'a Table) -> Option<&'a str> {
    table.key_names().find(|column| input.prepared.analysis.record.updated.contains(&column.to_ascii_lowercase()))
}

fn refused_key_update(table: &Table, column: &str, why: &str) -> Error {
    Error::new(Code::ShardKeyUpdate, format!("column {column} is the shard key of {}{why}", table.name))
        .hint("insert the row with its new key, then delete the old one")
}

/// Plans an UPDATE or DELETE. What can be decided where the row is runs as written on the shards that
/// have such rows; what holds a query, or moves rows, is read first and then written by key.
pub(super) fn plan_change(input: Input<'_>, registry: &Registry) -> Result<Plan, Error> {
    let (table, placement) = target(input, registry)?;
    let analysis = &input.prepared.analysis;
    let unroutable =
        |why: String| Error::new(Code::Unroutable, why).hint("fix the shard key with = or IN and use no subquery");
    let shape = analysis
        .change(&input.prepared.sql)
        .ok_or_else(|| unroutable("the statement is not one that the planner can take apart".to_owned()))?;
    if shape.tail_queries {
        return Err(unroutable("RETURNING holds a query".to_owned()));
    }
    let change = Change { prepared: input.prepared, params: input.params, shape, table, mirror: input.mirror };
    let moved = updated_key(input, table);
    if let (Some(column), Some(why)) = (moved, &analysis.target_stays) {
        return Err(refused_key_update(table, column, &format!(", and {why}")));
    }
    let by_key =
        moved.is_some() || shape.queries || analysis.touched.iter().any(|(_, other)| *other != table.placement);
    // What rows of a home table set off is looked at once more when they are written by key.
    if !by_key || table.placement != HOME {
        confined(input)?;
    }
    if by_key {
        // What one shard can find alone it can change alone, in one transaction and as written.
        let alone = one_shard(input, registry, &change.read()?);
        if let Some(part) = alone.filter(|_| moved.is_none() && analysis.reaches.is_none()) {
            return Ok(Plan::One(part));
        }
        return Ok(Plan::Staged(Staged::ByKey(change.guarded_read()?)));
    }
    let (parts, all) = match first_slots(input, registry, table, placement) {
        // Any owner finds no row.
        Keys::None => (pinned_parts(placement, &[])?, false),
        Keys::Some(slots) => (pinned_parts(placement, &slots)?, false),
        Keys::All => (placement.owners().map(|shard| as_written(shard, claim_all(placement, shard))).collect(), true),
    };
    one_or(parts, |parts| match (input.allow_partial, all) {
        (false, _) => Ok(Plan::Staged(Staged::Find(change.probe()?, parts))),
        (true, true) => Ok(Plan::All(parts)),
        (true, false) => Ok(Plan::Some(parts)),
    })
}

/// The parts of a write in two steps, for what follows its read.
pub fn staged_change<'a>(input: Input<'a>, registry: &'a Registry) -> Result<(Change<'a>, &'a Placement), Error> {
    let (table, placement) = target(input, registry)?;
    let shape = input.prepared.analysis.change(&input.prepared.sql);
    let shape = shape.ok_or_else(|| Error::new(Code::Internal, "a write in two steps has no parts"))?;
    Ok((Change { prepared: input.prepared, params: input.params, shape, table, mirror: input.mirror }, placement))
}

/// Where the rows of an INSERT hold column `index` of the table; `None` when they do not.
fn item_of(table: &Table, shape: &InsertShape, index: usize) -> Result<Option<usize>, Error> {
    match &shape.columns {
        None if shape.default_values => Ok(None),
        None => Ok(Some(table.columns.iter().take(index).filter(|column| !column.generated).count())),
        Some(names) => {
            let mut found = (0..names.len()).filter(|at| is_column(table, index, &names[*at]));
            match (found.next(), found.next()) {
                (first, None) => Ok(first),
                _ => Err(Error::new(Code::NoShardKey, format!("column {} is given twice", table.columns[index].name))
                    .hint("name it once")),
            }
        }
    }
}

/// Rows of an INSERT into a sharded table that lack the integer key, and where it would go. Nothing
/// for all other statements.
pub fn missing_keys(input: Input<'_>, registry: &Registry) -> BTreeMap<usize, KeyPlace> {
    let mut missing = BTreeMap::new();
    let analysis = &input.prepared.analysis;
    if analysis.verb != Verb::Insert {
        return missing;
    }
    let table = analysis.record.target.as_deref().and_then(|name| registry.table(name));
    // The copies of a reference table count alike by themselves.
    let is_reference = |id: &PlacementId| registry.placements.get(id).is_some_and(Placement::is_reference);
    let table = table.filter(|table| table.placement != HOME && !is_reference(&table.placement));
    let Some((table, alias)) = table.and_then(|table| Some((table, table.rowid_alias?))) else { return missing };
    let Some(shape) = analysis.insert(&input.prepared.sql) else { return missing };
    let Ok(item) = item_of(table, shape, alias) else { return missing };
    for (n, row) in shape.rows.iter().enumerate() {
        match item {
            None => {
                missing.insert(n, KeyPlace::Append);
            }
            Some(position) => {
                let value = row.items.get(position).and_then(|item| value_of(input, shape, item));
                if value == Some(Value::Null) {
                    missing.insert(n, KeyPlace::Replace(position));
                }
            }
        }
    }
    missing
}

/// Plans an INSERT. Rows that come from a query, or whose keys are not the same each time they are
/// computed, are read first and then inserted as values.
pub(super) fn plan_insert(input: Input<'_>, registry: &Registry) -> Result<Plan, Error> {
    let (table, placement) = target(input, registry)?;
    if let Some(column) = updated_key(input, table) {
        return Err(refused_key_update(table, column, "; DO UPDATE cannot change it"));
    }
    let known = input.prepared.analysis.insert(&input.prepared.sql);
    let Some(shape) = known.filter(|shape| !computes_anew(input, table, shape)) else {
        // Rows for a home table are planned once more as values.
        if table.placement != HOME {
            confined(input)?;
        }
        return plan_insert_of_rows(input, registry, table);
    };
    confined(input)?;
    let places = missing_keys(input, registry);
    if let Some(row) = places.keys().find(|row| !input.keys.contains_key(row)) {
        return Err(no_key(table, *row, "has no key"));
    }
    let assigned = assigned(input, registry, table);
    let mut shards: BTreeMap<GroupId, (Vec<usize>, Vec<Slot>)> = BTreeMap::new();
    for row in 0..shape.rows.len() {
        let slot = row_slot(input, table, placement, shape, row)?;
        for owner in by_owner(placement, &[slot])?.into_keys() {
            let (rows, slots) = shards.entry(owner).or_default();
            rows.push(row);
            slots.push(slot);
        }
    }
    across::decide(Spread::Shards(shards.len()), input.allow_partial, "insert", &table.name)?;
    let single = shards.len() == 1;
    let mut parts = Vec::with_capacity(shards.len());
    for (shard, (rows, slots)) in shards {
        let statement = match single && assigned.keys.is_empty() {
            true => None,
            false => Some(rewrite(input.prepared, shape, input.params, &rows, Some(&assigned))?),
        };
        parts.push(Part {
            shard,
            claims: vec![claim_slots(placement, shard, slots)],
            statement,
            guard: guard(input, table, shape, &assigned, &rows),
            last_row: rows.last() == Some(&(shape.rows.len() - 1)),
        });
    }
    one_or(parts, |parts| Ok(Plan::Some(parts)))
}

fn plan_insert_of_rows(input: Input<'_>, registry: &Registry, table: &Table) -> Result<Plan, Error> {
    let refused = |why: &str| {
        Error::new(Code::Unroutable, format!("rows for {} come from a query, and {why}", table.name))
            .hint("read the rows first, then INSERT … VALUES with literals or arguments")
    };
    let shape = input.prepared.analysis.change(&input.prepared.sql);
    let shape = shape.ok_or_else(|| refused("the statement is not one that the planner can take apart"))?;
    if shape.tail_queries {
        return Err(refused("another query is in ON CONFLICT or RETURNING"));
    }
    let change = Change { prepared: input.prepared, params: input.params, shape, table, mirror: input.mirror };
    let read = change.source()?;
    let alone = keeps_keys(input, registry, change, &read).then(|| one_shard(input, registry, &read)).flatten();
    Ok(alone.map_or(Plan::Staged(Staged::Insert(read)), Plan::One))
}

/// Is there a row whose key must be computed, and may differ each time?
fn computes_anew(input: Input<'_>, table: &Table, shape: &InsertShape) -> bool {
    let columns = table.key.iter().copied().chain(table.rowid_alias);
    let positions: Vec<usize> = columns.filter_map(|index| item_of(table, shape, index).ok()?).collect();
    shape.rows.iter().any(|row| {
        let mut items = positions.iter().filter_map(|position| row.items.get(*position));
        items.any(|item| item.term.is_none() && value_of(input, shape, item).is_none())
    })
}

fn value_of(input: Input<'_>, shape: &InsertShape, item: &Item) -> Option<Value> {
    item_value(input.prepared, shape, input.params, item)
}

/// The slot of one row.
fn row_slot(
    input: Input<'_>,
    table: &Table,
    placement: &Placement,
    shape: &InsertShape,
    row: usize,
) -> Result<Slot, Error> {
    let mut key = Vec::with_capacity(table.key.len());
    for index in &table.key {
        if let Some(assigned) = input.keys.get(&row).filter(|_| table.rowid_alias == Some(*index)) {
            key.push(Value::Integer(*assigned));
            continue;
        }
        let name = &table.columns[*index].name;
        let value = match item_of(table, shape, *index)? {
            Some(position) => match shape.rows[row].items.get(position) {
                Some(item) => value_of(input, shape, item)
                    .ok_or_else(|| no_key(table, row, &format!("computes the value of {name}")))?,
                None => Value::Null,
            },
            None => match input.prepared.analysis.key_defaults.get(index) {
                Some(default) => default.clone(),
                None => return Err(no_key(table, row, &format!("has no value for {name}"))),
            },
        };
        match value {
            Value::Null if !table.columns[*index].not_null && table.rowid_alias != Some(*index) => {
                key.push(Value::Null);
            }
            Value::Null => return Err(no_key(table, row, &format!("has NULL for {name}"))),
            value => key.push(value),
        }
    }
    placement.slot(&key)
}

/// The shard that row `row` belongs to with the generated key `key`; `None` when the key does not
/// decide it or the plan will refuse the row.
pub fn row_owner(input: Input<'_>, registry: &Registry, row: usize, key: i64) -> Option<GroupId> {
    let table = registry.table(input.prepared.analysis.record.target.as_deref()?)?;
    let placement = registry.placements.get(&table.placement)?;
    let shape = input.prepared.analysis.insert(&input.prepared.sql)?;
    if !table.rowid_alias.is_some_and(|alias| table.key.contains(&alias)) {
        return None;
    }
    let keys = BTreeMap::from([(row, key)]);
    placement.owner(row_slot(Input { keys: &keys, ..input }, table, placement, shape, row).ok()?)
}

/// Do the generated keys decide in which range a row is? Each try of a request makes up others, later ones.
pub fn keys_wander(input: Input<'_>, registry: &Registry) -> bool {
    let analysis = &input.prepared.analysis;
    let table = analysis.record.target.as_deref().and_then(|name| registry.table(name));
    let Some((table, shape)) = table.and_then(|table| Some((table, analysis.insert(&input.prepared.sql)?))) else {
        return false;
    };
    let Some(placement) = registry.placements.get(&table.placement).filter(|placement| placement.may_split()) else {
        return false;
    };
    let slot = |row: usize, key: i64| {
        let keys = BTreeMap::from([(row, key)]);
        row_slot(Input { keys: &keys, ..input }, table, placement, shape, row).ok()
    };
    // What lies between two keys of one range is in it, too.
    input.keys.keys().any(|row| slot(*row, i64::MIN) != slot(*row, i64::MAX))
}

fn no_key(table: &Table, row: usize, what: &str) -> Error {
    let names: Vec<&str> = table.key_names().collect();
    Error::new(Code::NoShardKey, format!("row {} {what}; {} is sharded by {}", row + 1, table.name, names.join(", ")))
        .hint("give each row its shard key as a literal or an argument")
}
