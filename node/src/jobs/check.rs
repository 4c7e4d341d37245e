//! Whether a table may be registered as asked: a pure function of the registry and the request.
//!
//! Everything that would make rows of different shards depend on each other is refused with its reason:
//! a UNIQUE set without the shard key, or that compares it more coarsely, a foreign key that may lead to another shard, a trigger that
//! looks beyond its row. What passes says how the table will lie.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::{
    ForeignKey, Function, HOME, Placement, Registration, Registry, SlotSet, Spread, Table, mentions, row_only,
    schema_database, unique_beyond_shard,
};
use flotilla_shared::slot::KeyColumn;

/// A registration that may go ahead.
#[derive(Debug)]
pub(super) struct Checked<'a> {
    pub table: &'a Table,
    /// Indexes of the key columns.
    pub key: Vec<usize>,
    pub lie: Lie<'a>,
}

/// Where the table goes.
#[derive(Debug)]
pub(super) enum Lie<'a> {
    /// Into a placement of its own.
    New {
        function: Function,
        /// Who gets what if the table is empty.
        shares: BTreeMap<GroupId, SlotSet>,
        /// Shards that get the table.
        shards: Vec<GroupId>,
    },
    /// Into the placement of another table.
    With(&'a Placement),
}

impl Lie<'_> {
    fn is_reference(&self) -> bool {
        matches!(self, Self::New { function: Function::Reference, .. })
    }
}

fn unsafe_because<T>(why: String, hint: &str) -> Result<T, Error> {
    Err(Error::new(Code::UnsafeRegistration, why).hint(hint))
}

/// How the table will lie, or why it cannot.
pub(super) fn check<'a>(registry: &'a Registry, registration: &Registration) -> Result<Checked<'a>, Error> {
    checked(registry, registration, false)
}

/// How the table will lie, once its shards were decided on and recorded: none of them is kept out any more.
pub(super) fn check_decided<'a>(registry: &'a Registry, registration: &Registration) -> Result<Checked<'a>, Error> {
    checked(registry, registration, true)
}

fn checked<'a>(registry: &'a Registry, registration: &Registration, decided: bool) -> Result<Checked<'a>, Error> {
    let table = registry
        .table(&registration.table)
        .ok_or_else(|| Error::new(Code::NoSuchTable, format!("no such table: {}", registration.table)))?;
    if table.placement != HOME {
        return Err(Error::new(Code::AlreadyRegistered, format!("{} is registered already", table.name)));
    }
    let key = key(table, registration)?;
    let compare: Vec<KeyColumn> = key.iter().map(|index| table.columns[*index].compare).collect();
    let lie = match &registration.colocate_with {
        Some(other) => Lie::With(colocated(registry, table, &compare, other)?),
        None => placed(registry, &compare, registration, decided)?,
    };
    if lie.is_reference() {
        super::copy::check(registry, table)?;
    } else {
        unique_sets(registry, table, &key)?;
    }
    let checked = Checked { table, key, lie };
    foreign_keys(registry, &checked)?;
    triggers(registry, table)?;
    Ok(checked)
}

fn key(table: &Table, registration: &Registration) -> Result<Vec<usize>, Error> {
    let mut key = Vec::new();
    for name in &registration.key {
        match table.column(name) {
            Some(index) if table.columns[index].generated => {
                return unsafe_because(format!("{name} is a generated column"), "choose a stored column");
            }
            Some(index) if key.contains(&index) => {
                return unsafe_because(format!("{name} is there twice"), "name each key column once");
            }
            Some(index) => key.push(index),
            None => return unsafe_because(format!("{} has no column {name}", table.name), "name columns of the table"),
        }
    }
    match (registration.spread == Spread::Reference, key.is_empty()) {
        (false, true) => return unsafe_because("a shard key has at least one column".into(), "give `shard_key`"),
        (true, false) => {
            return unsafe_because("a reference table has no shard key".into(), "leave out `shard_key`");
        }
        _ => (),
    }
    let may_be_null = |index: &&usize| !table.columns[**index].not_null && table.rowid_alias != Some(**index);
    if let Some(index) = key.iter().find(may_be_null).filter(|_| !registration.nullable) {
        return unsafe_because(
            format!("key column {} may hold NULL", table.columns[*index].name),
            "declare it NOT NULL, or say \"nullable\": true; rows with NULL then live together on one shard",
        );
    }
    Ok(key)
}

fn unique_sets(registry: &Registry, table: &Table, key: &[usize]) -> Result<(), Error> {
    let db = schema_database(&registry.objects)?;
    let beyond = unique_beyond_shard(&db, table, key).map_err(|error| Error::from_sqlite(&error))?;
    match beyond.into_iter().next() {
        None => Ok(()),
        Some(why) => unsafe_because(
            why,
            "rows that must be unique together have to live on one shard: shard by a column of it, and compare it as the column does",
        ),
    }
}

fn colocated<'a>(
    registry: &'a Registry,
    table: &Table,
    compare: &[KeyColumn],
    other: &str,
) -> Result<&'a Placement, Error> {
    let placement = match registry.table(other) {
        None => return Err(Error::new(Code::NoSuchTable, format!("no such table: {other}"))),
        Some(other) if other.placement == HOME => {
            return unsafe_because(format!("{} is not sharded", other.name), "register it first");
        }
        Some(other) => &registry.placements[&other.placement],
    };
    if placement.is_reference() {
        return unsafe_because(
            format!("{other} is a reference table, which is on every shard anyway"),
            "leave out `colocate_with`",
        );
    }
    if placement.key != compare {
        return unsafe_because(
            format!("the shard keys of {} and {other} do not compare alike", table.name),
            "colocated tables need as many key columns, of the same affinity and collation",
        );
    }
    Ok(placement)
}

fn placed<'a>(
    registry: &Registry,
    compare: &[KeyColumn],
    registration: &Registration,
    decided: bool,
) -> Result<Lie<'a>, Error> {
    let departing = if decided { BTreeSet::new() } else { registry.departing() };
    // A copy is needed as long as there is anything to join it with.
    let stays = |shard: &GroupId| registration.spread == Spread::Reference || !departing.contains(shard);
    let mut shards: Vec<GroupId> = match registration.shards.is_empty() {
        true => registry.shards().filter(stays).collect(),
        false => registration.shards.clone(),
    };
    let (function, listed) = match &registration.spread {
        Spread::Hash => (Function::Hash, None),
        Spread::Range { points } => (Function::range(compare, points.clone())?, None),
        Spread::List { values, default } => {
            let (function, owned) = Function::list(compare, values, *default)?;
            shards = owned.keys().copied().collect();
            (function, Some(owned))
        }
        Spread::Reference => (Function::Reference, None),
    };
    let known = |shard: &GroupId| shard.is_shard() && registry.groups.contains_key(shard);
    if let Some(unknown) = shards.iter().find(|shard| !known(shard)) {
        return Err(Error::new(Code::NoSuchObject, format!("there is no shard {unknown}")).hint("see GET /shard"));
    }
    if let Some(leaves) = shards.iter().find(|shard| !stays(shard)) {
        return Err(Error::new(Code::Conflict, format!("{leaves} is being taken out of the cluster"))
            .hint("name other shards, or cancel that job; see GET /job"));
    }
    let shares = match (listed, &function) {
        (Some(owned), _) => owned,
        (None, Function::Reference) => shards.iter().map(|shard| (*shard, SlotSet::all(1))).collect(),
        (None, function) => Placement::even_shares(function.slots(), &shards),
    };
    Ok(Lie::New { function, shares, shards })
}

/// A foreign key is safe when the rows that it ties are on one shard: both tables in one placement and
/// their shard keys paired, or the parent on every shard.
fn foreign_keys(registry: &Registry, checked: &Checked<'_>) -> Result<(), Error> {
    let table = checked.table;
    let name = table.name.to_ascii_lowercase();
    let is_reference = |other: &Table| registry.placements.get(&other.placement).is_some_and(Placement::is_reference);
    let db = schema_database(&registry.objects)?;
    let keys = ForeignKey::read(&db).map_err(|error| Error::from_sqlite(&error))?;
    for key in keys.iter().filter(|key| key.child == name || key.parent == name) {
        let (child, parent) = (registry.table(&key.child), registry.table(&key.parent));
        let will_be_reference =
            |other: &Table| if other.name == table.name { checked.lie.is_reference() } else { is_reference(other) };
        let together = |other: &Table| match &checked.lie {
            _ if other.name == table.name => true,
            Lie::With(placement) => other.placement == placement.id,
            Lie::New { .. } => false,
        };
        let key_names = |other: &Table| -> Vec<String> {
            let columns = if other.name == table.name { &checked.key } else { &other.key };
            columns.iter().map(|index| other.columns[*index].name.clone()).collect()
        };
        let safe = match (child, parent) {
            (Some(_), Some(parent)) if will_be_reference(parent) => true,
            (Some(child), Some(parent)) if !will_be_reference(child) && together(child) && together(parent) => {
                let (from, to) = (key_names(child), key_names(parent));
                key.pairs_all(from.iter().map(String::as_str), to.iter().map(String::as_str))
            }
            _ => false,
        };
        if !safe {
            return unsafe_because(
                format!("the foreign key of {} to {} may lead to another shard", key.child, key.parent),
                "colocate both tables by the columns that it pairs, the parent first, before the child is created; or make the parent a reference table",
            );
        }
    }
    Ok(())
}

fn triggers(registry: &Registry, table: &Table) -> Result<(), Error> {
    for trigger in registry.objects.iter().filter(|object| object.kind == "trigger" && !row_only(&object.sql)) {
        if trigger.table.eq_ignore_ascii_case(&table.name) {
            return unsafe_because(
                format!("trigger {} looks beyond the row at hand, and might touch rows of another shard", trigger.name),
                "drop the trigger first; one that only checks its row with RAISE may stay",
            );
        }
        if mentions(&trigger.sql, &table.name) {
            return unsafe_because(
                format!(
                    "trigger {} of {} names {}, which would leave its shard",
                    trigger.name, trigger.table, table.name
                ),
                "drop the trigger first",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
