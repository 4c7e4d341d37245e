//! Where a statement runs: a pure function of its analysis, its arguments and the registry.
//!
//! Output: a [`Plan`] for the [`execute`](crate::execute) step, whose parts carry what they rely on
//! ([`Claim`]), so that a shard refuses a plan made from an old map. Rules, in order:
//!
//! 1. everything touched is owned by one shard: there, as written;
//! 2. one sharded table with its key fixed: the shards that own these keys;
//! 3. a plain SELECT on one sharded table: all its shards, rows put together;
//! 4. all else is refused by name.
//!
//! This is the place where a planner that merges will grow: it replaces rule 4, case by case.

pub mod keys;
pub mod split;
#[cfg(test)]
mod tests;
pub mod write;

use std::collections::BTreeMap;
use std::fmt;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, Slot};
use flotilla_shared::registry::{HOME_SHARD, Placement, Registry, Table};
use flotilla_shared::value::Params;
use flotilla_shared::wire::{Claim, Statement};

use crate::analyze::Verb;
use crate::mirror::Prepared;
use keys::{by_owner, claim_all, claim_slots, pinned_slots, sole_owner, stale};
pub use write::{missing_keys, row_owner};
use write::{plan_change, plan_insert, with_keys};

/// What one shard does.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The shard.
    pub shard: GroupId,
    /// What it must own.
    pub claims: Vec<Claim>,
    /// The statement, where it is not the one that was written.
    pub statement: Option<Statement>,
    /// Goes before it in the same transaction.
    pub guard: Option<Statement>,
    /// It holds the last row of an INSERT, whose rowid is the answer's.
    pub last_row: bool,
}

/// Where a statement runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// On one shard.
    One(Part),
    /// On some shards, by key.
    Some(Vec<Part>),
    /// On every shard that owns part of the table.
    All(Vec<Part>),
    /// Nowhere: the mirror answers it.
    Local,
    /// Not at all.
    Refused(Error),
}

impl Plan {
    /// The class, as metrics name it.
    pub fn class(&self) -> &'static str {
        match self {
            Self::One(_) => "one",
            Self::Some(_) => "some",
            Self::All(_) => "all",
            Self::Local => "local",
            Self::Refused(_) => "refused",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shard)?;
        for claim in &self.claims {
            match &claim.slots {
                Some(slots) => write!(f, " [placement {}: {} slots]", claim.placement, slots.len())?,
                None => write!(f, " [placement {} at {}]", claim.placement, claim.epoch)?,
            }
        }
        for statement in self.guard.iter().chain(&self.statement) {
            write!(f, " {}", statement.sql)?;
            if let Params::Positional(args) = &statement.params {
                let args: Vec<String> = args.iter().map(|value| value.to_json().to_string()).collect();
                write!(f, " <{}>", args.join(", "))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(part) => write!(f, "one {part}"),
            Self::Some(parts) | Self::All(parts) => {
                f.write_str(self.class())?;
                parts.iter().try_for_each(|part| write!(f, "\n  {part}"))
            }
            Self::Local => f.write_str("local"),
            Self::Refused(error) => write!(f, "refused {error}"),
        }
    }
}

/// What a plan is made from, besides the registry.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The statement.
    pub prepared: &'a Prepared,
    /// Its arguments.
    pub params: &'a Params,
    /// A write may reach several shards without being atomic.
    pub allow_partial: bool,
    /// Keys assigned to rows that had none, from [`missing_keys`].
    pub keys: &'a BTreeMap<usize, i64>,
}

/// Plans a statement.
pub fn plan(input: Input<'_>, registry: &Registry) -> Plan {
    match try_plan(input, registry) {
        Ok(plan) => plan,
        Err(error) => Plan::Refused(error),
    }
}

fn try_plan(input: Input<'_>, registry: &Registry) -> Result<Plan, Error> {
    let analysis = &input.prepared.analysis;
    if analysis.verb == Verb::Local {
        return Ok(Plan::Local);
    }
    if analysis.mixes_schema {
        return Err(Error::new(Code::Unroutable, "the statement reads both the schema and rows")
            .hint("ask for the schema in a statement of its own"));
    }
    if let Some(part) = one_owner(input, registry)? {
        return Ok(Plan::One(if input.keys.is_empty() { part } else { with_keys(input, registry, part)? }));
    }
    match analysis.verb {
        Verb::Select => plan_select(input, registry),
        Verb::Insert => plan_insert(input, registry),
        _ => plan_change(input, registry),
    }
}

fn placement<'a>(registry: &'a Registry, table: &Table) -> Result<&'a Placement, Error> {
    registry
        .placements
        .get(&table.placement)
        .ok_or_else(|| stale(format!("placement {} is not known", table.placement)))
}

/// Rule 1.
fn one_owner(input: Input<'_>, registry: &Registry) -> Result<Option<Part>, Error> {
    let analysis = &input.prepared.analysis;
    let mut shard = None;
    let mut claims = Vec::with_capacity(analysis.placements.len());
    for id in &analysis.placements {
        let placement = registry.placements.get(id).ok_or_else(|| stale(format!("placement {id} is not known")))?;
        match (sole_owner(placement), shard) {
            (Some(owner), None) => shard = Some(owner),
            (Some(owner), Some(known)) if owner == known => (),
            _ => return Ok(None),
        }
        claims.extend(shard.map(|shard| claim_all(placement, shard)));
    }
    let shard = shard.unwrap_or(HOME_SHARD);
    Ok(Some(Part { shard, claims, statement: None, guard: None, last_row: true }))
}

/// A part that runs the statement as written.
fn as_written(shard: GroupId, claim: Claim) -> Part {
    Part { shard, claims: vec![claim], statement: None, guard: None, last_row: true }
}

fn plan_select(input: Input<'_>, registry: &Registry) -> Result<Plan, Error> {
    let analysis = &input.prepared.analysis;
    let refused = |what: String| {
        Error::new(Code::CrossShardRead, what).hint(format!(
            "the rows of {} are on several shards; fix the shard key with = or IN, or read plainly without it",
            analysis.table_names()
        ))
    };
    if let [_, _, ..] = analysis.touched[..] {
        return Err(refused(format!(
            "the query reads several tables ({}) that are not all on one shard",
            analysis.table_names()
        )));
    }
    if let Some(view) = &analysis.view {
        return Err(refused(format!("the query reads view {view}, whose rows are on several shards")));
    }
    let syntax = analysis
        .syntax(&input.prepared.sql)
        .ok_or_else(|| refused("the query is not one that the planner can take apart".to_owned()))?;
    let table = syntax.table.as_deref().and_then(|name| registry.table(name));
    let across = |parts: usize| match syntax.constructs[..] {
        [] => Ok(()),
        _ => Err(refused(format!("the query would need rows of {parts} shards for {}", syntax.constructs.join(", ")))),
    };
    let Some(table) = table else {
        across(2)?;
        return Err(refused("the query is not about one table".to_owned()));
    };
    let placement = placement(registry, table)?;
    match pinned_slots(table, &syntax.pins, placement, input.prepared, input.params) {
        Some(slots) => {
            let parts = pinned_parts(placement, &slots)?;
            one_or(parts, |parts| across(parts.len()).map(|()| Plan::Some(parts)))
        }
        None => {
            let parts: Vec<Part> =
                placement.owners().map(|shard| as_written(shard, claim_all(placement, shard))).collect();
            across(parts.len())?;
            Ok(Plan::All(parts))
        }
    }
}

fn one_or(mut parts: Vec<Part>, several: impl FnOnce(Vec<Part>) -> Result<Plan, Error>) -> Result<Plan, Error> {
    if parts.len() == 1 { Ok(Plan::One(parts.remove(0))) } else { several(parts) }
}

/// One part per owner of the slots. No key at all (`IN ()`) matches no row anywhere, so any owner
/// gives the right answer.
fn pinned_parts(placement: &Placement, slots: &[Slot]) -> Result<Vec<Part>, Error> {
    if slots.is_empty() {
        let shard =
            placement.owners().next().ok_or_else(|| stale(format!("placement {} has no owner", placement.id)))?;
        return Ok(vec![as_written(shard, claim_all(placement, shard))]);
    }
    let owners = by_owner(placement, slots)?;
    Ok(owners.into_iter().map(|(shard, slots)| as_written(shard, claim_slots(placement, shard, slots))).collect())
}
