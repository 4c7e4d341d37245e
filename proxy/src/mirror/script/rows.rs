//! What a transaction on every shard of a placement may do with rows: only what is decided row by row, so that
//! all shards together do what one database would.
//!
//! - `INSERT … SELECT` whose rows are made on one shard each ([`Shape::Concat`]) and keep their shard key: it must
//!   be a plain column, as that of the table it comes from. So a row stays in its slot. Where the rows of a new
//!   table come from first tells what its shard key is. What is unique in it includes that key, or was unique in
//!   the table that the rows come from. No trigger looks beyond its row, and no foreign key leads to another shard,
//!   unless foreign keys do not act: they are checked at the end then.
//! - UPDATE and DELETE that the planner would send to shards as written.
//!
//! All else is refused: a query would see one shard's rows only, and `INSERT … VALUES` would insert on each.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::registry::{Registry, Table};
use flotilla_shared::wire::Statement;

use super::{Course, unroutable};
use crate::analyze::Verb;
use crate::mirror::{Mirror, Prepared};
use crate::plan::shape::Shape;
use crate::plan::stage::Change;
use crate::plan::{Input, Plan, Staged, plan};

const HINT: &str = "on sharded tables a transaction that changes the schema copies rows with INSERT … SELECT of plain \
                    columns, and updates or deletes them by conditions on their own columns";

impl Course<'_> {
    /// Refuses what shards would not do together as one database would.
    pub(super) fn check_rows(&mut self, statement: &Statement) -> Result<(), Error> {
        if !self.is_sharded() {
            return Ok(());
        }
        let registry = self.registry_now()?;
        let mut mirror = Mirror::build(registry.clone())?;
        if !self.enforced {
            mirror = mirror.without_foreign_keys();
        }
        let (prepared, _) = mirror.prepare(&statement.sql)?;
        if !prepared.columns.is_empty() {
            return Err(unroutable("a statement that returns rows would return those of each shard".into()).hint(HINT));
        }
        match prepared.analysis.verb {
            Verb::Insert => self.check_insert(&mirror, &registry, &prepared, statement),
            _ => check_change(&mirror, &registry, &prepared, statement),
        }
    }

    fn check_insert(
        &mut self,
        mirror: &Mirror,
        registry: &Registry,
        prepared: &Prepared,
        statement: &Statement,
    ) -> Result<(), Error> {
        let refused = |why: &str| unroutable(format!("an INSERT on every shard {why}")).hint(HINT);
        let target = prepared.analysis.record.target.clone().unwrap_or_default();
        let table = registry.table(&target).ok_or_else(|| refused("goes into a table"))?;
        let shape = prepared.analysis.change(&prepared.sql).filter(|shape| !shape.source.is_empty());
        let shape = shape.ok_or_else(|| refused("takes its rows from a table"))?;
        if prepared.analysis.insert(&prepared.sql).is_some() || shape.tail_queries {
            return Err(refused("takes its rows from a table, and looks at no other in its ON CONFLICT"));
        }
        if let Some(why) = &prepared.analysis.reaches {
            return Err(refused(&format!("sets nothing else off, but {why}")));
        }
        let source = Change { mirror, prepared, params: &statement.params, shape, table }.source()?;
        let (source, _) = mirror.prepare(&source.sql)?;
        let placement = self.placement().map(|placement| placement.id);
        match mirror.shape(&source) {
            Shape::Concat { placement: of } if Some(*of) == placement => (),
            _ => return Err(refused("would see one shard's rows only")),
        }
        let columns: Vec<String> = match &shape.columns {
            Some(columns) => columns.clone(),
            None => table.columns.iter().filter(|column| !column.generated).map(|c| c.name.clone()).collect(),
        };
        let key =
            kept_key(registry, table, &columns, &source).ok_or_else(|| refused("keeps the shard key of each row"))?;
        // A shard does not see the rows that others have.
        let alone = |set: &&Vec<String>| {
            let has = |name: &String| set.iter().any(|column| column.eq_ignore_ascii_case(name));
            key.iter().all(has) || source_has(registry, &source, set)
        };
        if let Some(set) = table.unique.iter().find(|set| !alone(set)) {
            let message = format!("no shard alone can keep ({}) unique in {}", set.join(", "), table.name);
            return Err(
                Error::new(Code::UnsafeRegistration, message).hint("let the unique columns include the shard key")
            );
        }
        if let Some(traced) = self.tables.get_mut(&target) {
            traced.key = key;
        }
        Ok(())
    }
}

/// Has the table that rows come from the same UNIQUE constraint?
fn source_has(registry: &Registry, source: &Prepared, set: &[String]) -> bool {
    let names: std::collections::BTreeSet<&String> = source.origins.iter().flatten().map(|(name, _)| name).collect();
    names.into_iter().filter_map(|name| registry.table(name)).any(|table| table.unique.iter().any(|old| old == set))
}

/// The shard key that rows have after an INSERT, if it is the one that they had before.
fn kept_key(registry: &Registry, table: &Table, columns: &[String], source: &Prepared) -> Option<Vec<String>> {
    let from = |n: usize| {
        let (name, column) = source.origins.get(n)?.as_ref()?;
        let of = registry.table(name)?;
        Some((of, of.column(column)?))
    };
    let (of, _) = (0..columns.len()).find_map(|n| from(n).filter(|(of, column)| of.key.contains(column)))?;
    let mut key = Vec::with_capacity(of.key.len());
    for index in &of.key {
        let is_it = |n: &usize| from(*n).is_some_and(|(other, column)| other.name == of.name && column == *index);
        let place = (0..columns.len()).find(is_it)?;
        let column = table.column(&columns[place])?;
        if table.columns[column].compare != of.columns[*index].compare {
            return None;
        }
        key.push(table.columns[column].name.clone());
    }
    let known: Vec<&str> = table.key_names().collect();
    if !known.is_empty() && known != key {
        return None;
    }
    // A generated rowid would be given on each shard.
    if let Some(alias) = table.rowid_alias {
        let place = columns.iter().position(|column| table.column(column) == Some(alias))?;
        let (of, column) = from(place)?;
        if of.rowid_alias != Some(column) && !of.key.contains(&column) {
            return None;
        }
    }
    Some(key)
}

fn check_change(mirror: &Mirror, registry: &Registry, prepared: &Prepared, statement: &Statement) -> Result<(), Error> {
    let none = std::collections::BTreeMap::new();
    let input = Input { mirror, prepared, params: &statement.params, allow_partial: true, keys: &none };
    let as_written = |plan: &Plan| match plan {
        Plan::Staged(Staged::Find(..)) => true,
        Plan::One(_) | Plan::Some(_) | Plan::All(_) => plan.parts().iter().all(|part| part.statement.is_none()),
        Plan::Local => true,
        _ => false,
    };
    let queries = prepared.analysis.change(&prepared.sql).is_none_or(|shape| shape.queries);
    match plan(input, registry) {
        Plan::Refused(error) => Err(error),
        planned if as_written(&planned) && !queries => Ok(()),
        _ => Err(unroutable("the statement would see one shard's rows only".into()).hint(HINT)),
    }
}
