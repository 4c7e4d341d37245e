//! Plans of writes: which shards an INSERT, UPDATE or DELETE on sharded tables goes to.
//!
//! Input and output are those of [`plan`](super::plan), which has ruled out that one shard owns all
//! that is touched. Rows that come without their integer key get it here ([`missing_keys`]).

use std::collections::BTreeMap;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, Slot};
use flotilla_shared::registry::{HOME, Placement, Registry, Table};
use flotilla_shared::slot::slot_of;
use flotilla_shared::value::Value;
use flotilla_shared::wire::Statement;

use super::keys::{by_owner, claim_all, claim_slots, is_column, key_columns, resolve};
use super::route::Keys;
use super::split::{Assigned, KeyPlace, key_guard, rewrite};
use super::{Input, Part, Plan, as_written, first_slots, one_or, pinned_parts, placement};
use crate::analyze::Verb;
use crate::analyze::insert::InsertShape;

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

/// The sharded table that a write is about.
fn target<'a>(input: Input<'_>, registry: &'a Registry) -> Result<(&'a Table, &'a Placement), Error> {
    let analysis = &input.prepared.analysis;
    let unroutable = |why: String| {
        Error::new(Code::Unroutable, why)
            .hint("the statement would need rows of several shards; write the tables one by one, by key")
    };
    let name = analysis.record.target.as_deref().unwrap_or("");
    let table = registry.table(name).ok_or_else(|| unroutable(format!("`{name}` is not a table")))?;
    if let Some(why) = &analysis.reaches {
        return Err(unroutable(why.clone()));
    }
    if let Some((other, _)) = analysis.touched.iter().find(|(_, placement)| *placement != table.placement) {
        return Err(unroutable(format!(
            "the statement writes {name} and touches {other}, which is sharded differently"
        )));
    }
    if let Some(column) =
        table.key_names().find(|column| analysis.record.updated.contains(&column.to_ascii_lowercase()))
    {
        return Err(Error::new(Code::ShardKeyUpdate, format!("column {column} is the shard key of {}", table.name))
            .hint("insert the row with its new key, then delete the old one"));
    }
    Ok((table, placement(registry, table)?))
}

fn across_shards(shards: usize, table: &Table, what: &str) -> Error {
    Error::new(Code::CrossShardWrite, format!("{what} rows of {} on {shards} shards", table.name)).hint(
        "fix the shard key with = or IN, write each shard's rows in a statement of their own, or set allow_partial=true to do without atomicity",
    )
}

pub(super) fn plan_change(input: Input<'_>, registry: &Registry) -> Result<Plan, Error> {
    let (table, placement) = target(input, registry)?;
    let unroutable =
        |why: String| Error::new(Code::Unroutable, why).hint("fix the shard key with = or IN and use no subquery");
    let syntax = input.prepared.analysis.syntax(&input.prepared.sql);
    let syntax =
        syntax.ok_or_else(|| unroutable("the statement is not one that the planner can take apart".to_owned()))?;
    if let [first, ..] = syntax.constructs[..] {
        return Err(unroutable(format!("the statement changes {} by {first}", table.name)));
    }
    let (parts, all) = match first_slots(input, registry, table, placement) {
        // Any owner finds no row.
        Keys::None => (pinned_parts(placement, &[])?, false),
        Keys::Some(slots) => (pinned_parts(placement, &slots)?, false),
        Keys::All => (placement.owners().map(|shard| as_written(shard, claim_all(placement, shard))).collect(), true),
    };
    one_or(parts, |parts| match (input.allow_partial, all) {
        (false, _) => Err(across_shards(parts.len(), table, "the statement would change")),
        (true, true) => Ok(Plan::All(parts)),
        (true, false) => Ok(Plan::Some(parts)),
    })
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
    let table = table.filter(|table| table.placement != HOME);
    let Some((table, alias)) = table.and_then(|table| Some((table, table.rowid_alias?))) else { return missing };
    let Some(shape) = analysis.insert(&input.prepared.sql) else { return missing };
    let Ok(item) = item_of(table, shape, alias) else { return missing };
    for (n, row) in shape.rows.iter().enumerate() {
        match item {
            None => {
                missing.insert(n, KeyPlace::Append);
            }
            Some(position) => {
                let term = row.items.get(position).and_then(|item| item.term.as_ref());
                if term.and_then(|term| resolve(term, input.prepared, input.params)) == Some(&Value::Null) {
                    missing.insert(n, KeyPlace::Replace(position));
                }
            }
        }
    }
    missing
}

pub(super) fn plan_insert(input: Input<'_>, registry: &Registry) -> Result<Plan, Error> {
    let (table, placement) = target(input, registry)?;
    let Some(shape) = input.prepared.analysis.insert(&input.prepared.sql) else {
        return Err(Error::new(
            Code::CrossShardWrite,
            format!("rows for {} come from a query, and may belong on several shards", table.name),
        )
        .hint("read the rows first, then INSERT … VALUES with literals or arguments"));
    };
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
    if shards.len() > 1 && !input.allow_partial {
        return Err(across_shards(shards.len(), table, "the statement would insert"));
    }
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
        let position =
            item_of(table, shape, *index)?.ok_or_else(|| no_key(table, row, &format!("has no value for {name}")))?;
        let term = shape.rows[row].items.get(position).and_then(|item| item.term.as_ref());
        let term = term.ok_or_else(|| no_key(table, row, &format!("computes the value of {name}")))?;
        match resolve(term, input.prepared, input.params) {
            Some(Value::Null) | None => return Err(no_key(table, row, &format!("has NULL for {name}"))),
            Some(value) => key.push(value.clone()),
        }
    }
    Ok(slot_of(&key_columns(table), &key, placement.slots))
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

fn no_key(table: &Table, row: usize, what: &str) -> Error {
    let names: Vec<&str> = table.key_names().collect();
    Error::new(Code::NoShardKey, format!("row {} {what}; {} is sharded by {}", row + 1, table.name, names.join(", ")))
        .hint("give each row its shard key as a literal or an argument")
}
