//! Plans SELECTs whose rows are on several shards.
//!
//! With the key fixed to one shard, the statement goes there as written. Else its
//! [`Shape`] says how the rows of several shards become the answer; here the
//! shards are named, with what they must own, and the arguments are put in.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::{Placement, Registry, SchemaObject};
use flotilla_shared::wire::{Claim, Statement};

use super::keys::{by_owner, claim_all, claim_slots, merge_claims, sole_owner, stale};
use super::route::{Keys, slots};
use super::shape::gather::Gather;
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
    let pinned = match pinned(input, registry)? {
        Pinned::Nothing => return Ok(Plan::Local),
        Pinned::Parts(mut parts) if parts.len() == 1 => return Ok(Plan::One(parts.remove(0))),
        Pinned::Parts(parts) => Some(parts),
        Pinned::Free => None,
    };
    match input.mirror.shape(input.prepared) {
        Shape::Concat { placement } => Ok(match pinned {
            Some(parts) => Plan::Some(parts),
            None => one_or(all_parts(registry, *placement)?, |parts| Ok(Plan::All(parts)))?,
        }),
        Shape::TwoPhase(phases) => {
            let parts = pinned.map_or_else(|| all_parts(registry, phases.placement), Ok)?;
            one_or(parts, |parts| Ok(Plan::Merge(Box::new(two_phases(input, phases, parts)?))))
        }
        Shape::Gather(_) if input.prepared.analysis.record.reads.contains("sqlite_sequence") => {
            Err(Error::new(Code::Unroutable, "sqlite_sequence tells of one shard alone")
                .hint("read it in a statement of its own"))
        }
        Shape::Gather(gather) => Ok(Plan::Merge(Box::new(gathered(input, registry, gather)?))),
    }
}

/// What the keys leave of a statement that draws all its rows from the tables of its own FROM.
enum Pinned {
    /// No row at all.
    Nothing,
    /// Its rows are on these shards.
    Parts(Vec<Part>),
    /// Nothing is known.
    Free,
}

fn pinned(input: Input<'_>, registry: &Registry) -> Result<Pinned, Error> {
    let analysis = &input.prepared.analysis;
    let predicates = match analysis.syntax(&input.prepared.sql) {
        Some(syntax) if analysis.view.is_none() && !syntax.nested => analysis.predicates(&input.prepared.sql, registry),
        _ => None,
    };
    let Some(predicates) = predicates else { return Ok(Pinned::Free) };
    let mut sources = Vec::with_capacity(predicates.sources.len());
    for (index, source) in predicates.sources.iter().enumerate() {
        let Some(table) = source.table.as_deref().and_then(|name| registry.table(name)) else {
            return Ok(Pinned::Free);
        };
        let placement = placement(registry, table)?;
        sources.push((placement, slots(index, predicates, table, placement, input.prepared, input.params)));
    }
    match &sources[..] {
        [] => Ok(Pinned::Free),
        // Nothing to join with: over empty tables the statement gives the same, aggregates included.
        [(_, Keys::None), ..] => Ok(Pinned::Nothing),
        [(placement, Keys::Some(slots))] => Ok(Pinned::Parts(pinned_parts(placement, slots)?)),
        _ => joined(&sources),
    }
}

/// A join goes to one shard as written when that shard has all rows of each table that matter.
fn joined(sources: &[(&Placement, Keys)]) -> Result<Pinned, Error> {
    let mut only = None;
    let mut claims: Vec<Claim> = Vec::with_capacity(sources.len());
    for (placement, keys) in sources {
        let owner = match keys {
            Keys::Some(slots) => {
                let owners = by_owner(placement, slots)?;
                if owners.len() > 1 { None } else { owners.into_keys().next() }
            }
            Keys::All => sole_owner(placement),
            // Wherever it is empty, as long as it is there.
            Keys::None => only.filter(|shard| placement.shards.contains(shard)),
        };
        let Some(owner) = owner.filter(|owner| only.is_none_or(|known| known == *owner)) else {
            return Ok(Pinned::Free);
        };
        only = Some(owner);
        match keys {
            Keys::Some(slots) => claims.push(claim_slots(placement, owner, slots.iter().copied())),
            Keys::All => claims.push(claim_all(placement, owner)),
            Keys::None => (),
        }
    }
    let part = |shard| Part { shard, claims: merge_claims(claims), statement: None, guard: None, last_row: true };
    Ok(only.map_or(Pinned::Free, |shard| Pinned::Parts(vec![part(shard)])))
}

fn known(registry: &Registry, id: PlacementId) -> Result<&Placement, Error> {
    registry.placements.get(&id).ok_or_else(|| stale(format!("placement {id} is not known")))
}

/// Every shard that owns slots of the placement, with the statement as written.
fn all_parts(registry: &Registry, id: PlacementId) -> Result<Vec<Part>, Error> {
    let placement = known(registry, id)?;
    let parts: Vec<Part> = placement.owners().map(|shard| as_written(shard, claim_all(placement, shard))).collect();
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

fn gathered(input: Input<'_>, registry: &Registry, gather: &Gather) -> Result<Merge, Error> {
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
        merge.setup.extend(registry.objects.iter().filter(view).map(|object| object.sql.clone()));
    }
    for pulled in &gather.tables {
        let table = registry.table(&pulled.table).ok_or_else(|| stale(format!("{} is not known", pulled.table)))?;
        let select = pulled.select.fill(input.prepared, input.params)?;
        merge.pulls.push(Pull {
            table: table.name.clone(),
            insert: insert(&super::split::quote(&table.name), Some(&pulled.columns), pulled.columns.len()),
            parts: with_statement(all_parts(registry, table.placement)?, &select),
        });
        if pulled.filtered {
            merge.pushed = "columns and conditions";
        }
    }
    Ok(merge)
}
