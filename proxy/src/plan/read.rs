//! Plans SELECTs whose rows are on several shards.
//!
//! With the key fixed to one shard, the statement goes there as written. Else its
//! [`Shape`] says how the rows of several shards become the answer; here the
//! shards are named, with what they must own, and the arguments are put in.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::{Placement, Registry, SchemaObject, Table};
use flotilla_shared::wire::{Claim, Statement};

use super::keys::{by_owner, claim_all, claim_slots, merge_claims, sole_owner, stale};
use super::route::{Keys, slots};
use super::shape::gather::{Gather, view_without_hints};
use super::shape::{PARTS, Shape, TwoPhase, Why};
use super::{Input, Part, Plan, as_written, one_or, pinned_parts, placement};

/// Rows of several shards, finished by the proxy's own SQLite.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// Makes the tables and views.
    pub setup: Vec<String>,
    /// What is pulled into them.
    pub pulls: Vec<Pull>,
    /// Makes indexes, once many rows are there.
    pub indexes: Vec<String>,
    /// What runs over them.
    pub finish: Statement,
    /// What the shards do of the statement, for people.
    pub pushed: &'static str,
    /// Why they do no more, for people.
    pub why: Why,
}

impl Merge {
    /// Are whole tables pulled?
    pub fn pulls_tables(&self) -> bool {
        !self.why.is_empty()
    }
}

/// Rows for one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Pull {
    /// The table, for people.
    pub table: String,
    /// Takes one row.
    pub insert: String,
    /// Where the rows come from.
    pub parts: Vec<Part>,
}

/// The plan of a SELECT that no shard alone can answer for all its tables.
///
/// # Errors
/// When the registry is too old.
pub fn plan_select(input: Input<'_>, registry: &Registry) -> Result<Plan, Error> {
    let reaches = reaches(input, registry)?;
    // The first source is never the right side of a LEFT JOIN: without rows of it there are none. Over
    // empty tables the statement gives the same, a row of aggregates included.
    if matches!(reaches.first(), Some(Reach { keys: Keys::None, .. })) {
        return Ok(Plan::Local);
    }
    let pinned = pinned(&reaches)?;
    if let Some([only]) = pinned.as_deref() {
        return Ok(Plan::One(only.clone()));
    }
    let shape = input.mirror.shape(input.prepared);
    let pinned = match (pinned, shape) {
        (None, Shape::Concat { .. } | Shape::TwoPhase(_)) => first_parts(input, registry)?,
        (pinned, _) => pinned,
    };
    match shape {
        Shape::Concat { placement } => match pinned {
            Some(parts) => one_or(parts, |parts| Ok(Plan::Some(parts))),
            None => one_or(all_parts(registry, *placement)?, |parts| Ok(Plan::All(parts))),
        },
        Shape::TwoPhase(phases) => {
            let parts = pinned.map_or_else(|| all_parts(registry, phases.placement), Ok)?;
            one_or(parts, |parts| Ok(Plan::Merge(Box::new(two_phases(input, phases, parts)?))))
        }
        Shape::Gather(_) if input.prepared.analysis.record.reads.contains("sqlite_sequence") => {
            Err(Error::new(Code::Unroutable, "sqlite_sequence tells of one shard alone")
                .hint("read it in a statement of its own"))
        }
        Shape::Gather(gather) => Ok(Plan::Merge(Box::new(gathered(input, registry, gather, &reaches)?))),
    }
}

/// A table of the statement's FROM, and where those of its rows are that matter.
struct Reach<'a> {
    table: &'a Table,
    placement: &'a Placement,
    keys: Keys,
}

/// All sources of a statement that draws its rows from nothing but tables of its own FROM; none of
/// any other statement.
fn reaches<'a>(input: Input<'_>, registry: &'a Registry) -> Result<Vec<Reach<'a>>, Error> {
    let analysis = &input.prepared.analysis;
    let predicates = match analysis.syntax(&input.prepared.sql) {
        Some(syntax) if analysis.view.is_none() && !syntax.nested => analysis.predicates(&input.prepared.sql, registry),
        _ => None,
    };
    let Some(predicates) = predicates else { return Ok(vec![]) };
    let mut reaches = Vec::with_capacity(predicates.sources.len());
    for (index, source) in predicates.sources.iter().enumerate() {
        let Some(table) = source.table.as_deref().and_then(|name| registry.table(name)) else { return Ok(vec![]) };
        let placement = placement(registry, table)?;
        let keys = slots(index, predicates, table, placement, input.prepared, input.params);
        reaches.push(Reach { table, placement, keys });
    }
    let is_source = |name: &str| reaches.iter().any(|reach| reach.table.name.eq_ignore_ascii_case(name));
    let complete = analysis.touched.iter().all(|(name, _)| is_source(name));
    Ok(if complete { reaches } else { vec![] })
}

/// The shards that have all rows that matter: those of the keys of a single table, or one for a join.
fn pinned(reaches: &[Reach<'_>]) -> Result<Option<Vec<Part>>, Error> {
    if let [Reach { placement, keys, .. }] = reaches {
        return match keys {
            Keys::Some(slots) => pinned_parts(placement, slots).map(Some),
            _ => Ok(None),
        };
    }
    let mut only = None;
    let mut claims: Vec<Claim> = Vec::with_capacity(reaches.len());
    // Copies of reference tables are on each shard; what they claim is added to the plan.
    let (copies, others): (Vec<&Reach<'_>>, Vec<&Reach<'_>>) =
        reaches.iter().partition(|reach| reach.placement.is_reference());
    for Reach { placement, keys, .. } in others {
        let owner = match keys {
            Keys::Some(slots) => {
                let owners = by_owner(placement, slots)?;
                if owners.len() > 1 { None } else { owners.into_keys().next() }
            }
            Keys::All => sole_owner(placement),
            // Wherever it is empty, as long as it is there.
            Keys::None => only.filter(|shard| placement.shards.contains(shard)),
        };
        let Some(owner) = owner.filter(|owner| only.is_none_or(|known| known == *owner)) else { return Ok(None) };
        only = Some(owner);
        match keys {
            Keys::Some(slots) => claims.push(claim_slots(placement, owner, slots.iter().copied())),
            Keys::All => claims.push(claim_all(placement, owner)),
            Keys::None => (),
        }
    }
    let only = only.filter(|shard| copies.iter().all(|copy| copy.placement.owned.contains_key(shard)));
    let part = |shard| Part { shard, claims: merge_claims(claims), statement: None, guard: None, last_row: true };
    Ok(only.map(|shard| vec![part(shard)]))
}

/// The shards of the first source's keys, where all rows of the statement's tables, those of its
/// subqueries too, lie beside the first source's rows that they meet. No row of the answer is without
/// a row of that source.
fn first_parts(input: Input<'_>, registry: &Registry) -> Result<Option<Vec<Part>>, Error> {
    let predicates = input.prepared.analysis.predicates(&input.prepared.sql, registry);
    let table = predicates.and_then(|predicates| registry.table(predicates.sources.first()?.table.as_deref()?));
    let (Some(predicates), Some(table)) = (predicates, table) else { return Ok(None) };
    let placement = placement(registry, table)?;
    if placement.is_reference() {
        return Ok(None);
    }
    match slots(0, predicates, table, placement, input.prepared, input.params) {
        Keys::All => Ok(None),
        Keys::Some(slots) => pinned_parts(placement, &slots).map(Some),
        Keys::None => pinned_parts(placement, &[]).map(Some),
    }
}

/// The shards that have rows of `table` that matter. Each claims all that it owns: what it sends beyond
/// its keys must not come from another shard as well.
fn table_parts(registry: &Registry, table: &Table, reaches: &[Reach<'_>]) -> Result<Vec<Part>, Error> {
    let own = reaches.iter().filter(|reach| reach.table.name == table.name);
    let keys = own.map(|reach| reach.keys.clone()).reduce(Keys::or).unwrap_or(Keys::All);
    let mut parts = all_parts(registry, table.placement)?;
    match keys {
        Keys::All => (),
        Keys::Some(slots) => {
            let owners = by_owner(known(registry, table.placement)?, &slots)?;
            parts.retain(|part| owners.contains_key(&part.shard));
        }
        Keys::None => parts.truncate(1),
    }
    Ok(parts)
}

fn known(registry: &Registry, id: PlacementId) -> Result<&Placement, Error> {
    registry.placements.get(&id).ok_or_else(|| stale(format!("placement {id} is not known")))
}

/// Every shard that owns slots of the placement, with the statement as written.
fn all_parts(registry: &Registry, id: PlacementId) -> Result<Vec<Part>, Error> {
    let placement = known(registry, id)?;
    // Each copy of a reference table has all its rows.
    let owners = placement.owners().take(if placement.is_reference() { 1 } else { usize::MAX });
    let parts: Vec<Part> = owners.map(|shard| as_written(shard, claim_all(placement, shard))).collect();
    match parts.is_empty() {
        true => Err(stale(format!("placement {id} has no owner"))),
        false => Ok(parts),
    }
}

fn with_statement(parts: Vec<Part>, statement: &Statement) -> Vec<Part> {
    parts.into_iter().map(|part| Part { statement: Some(statement.clone()), ..part }).collect()
}

fn insert(table: &str, columns: Option<&[String]>, width: usize) -> String {
    let marks: Vec<String> = (1..=width).map(|n| format!("?{n}")).collect();
    let columns = columns.map_or(String::new(), |columns| format!(" ({})", columns.join(", ")));
    match width {
        0 => format!("INSERT INTO {table} DEFAULT VALUES"),
        _ => format!("INSERT INTO {table}{columns} VALUES ({})", marks.join(", ")),
    }
}

fn two_phases(input: Input<'_>, phases: &TwoPhase, parts: Vec<Part>) -> Result<Merge, Error> {
    let shard = phases.shard.fill(input.prepared, input.params)?;
    Ok(Merge {
        setup: vec![phases.create()],
        pulls: vec![Pull {
            table: PARTS.to_owned(),
            insert: insert(PARTS, None, phases.columns.len()),
            parts: with_statement(parts, &shard),
        }],
        indexes: vec![],
        finish: phases.finish.fill(input.prepared, input.params)?,
        pushed: phases.pushed,
        why: "",
    })
}

fn gathered(input: Input<'_>, registry: &Registry, gather: &Gather, reaches: &[Reach<'_>]) -> Result<Merge, Error> {
    let mut merge = Merge {
        setup: gather.tables.iter().map(|table| table.create.clone()).collect(),
        pulls: Vec::with_capacity(gather.tables.len()),
        indexes: gather.tables.iter().flat_map(|table| table.indexes.iter().cloned()).collect(),
        finish: match &gather.finish {
            Some(finish) => finish.fill(input.prepared, input.params)?,
            None => Statement { sql: input.prepared.sql.clone(), params: input.params.clone() },
        },
        pushed: "columns",
        why: gather.why,
    };
    if gather.views {
        let view = |object: &&SchemaObject| object.kind == "view";
        merge.setup.extend(registry.objects.iter().filter(view).map(|object| view_without_hints(&object.sql)));
    }
    for pulled in &gather.tables {
        let table = registry.table(&pulled.table).ok_or_else(|| stale(format!("{} is not known", pulled.table)))?;
        let select = pulled.select.fill(input.prepared, input.params)?;
        merge.pulls.push(Pull {
            table: table.name.clone(),
            insert: insert(&super::split::quote(&table.name), Some(&pulled.columns), pulled.columns.len()),
            parts: with_statement(table_parts(registry, table, reaches)?, &select),
        });
        if pulled.filtered {
            merge.pushed = "columns and conditions";
        }
    }
    Ok(merge)
}
