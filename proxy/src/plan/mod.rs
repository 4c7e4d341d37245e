//! Where a statement runs: a pure function of its analysis, its arguments and the registry.
//!
//! Output: a [`Plan`] for the [`execute`](crate::execute) step, whose parts carry what they rely on
//! ([`Claim`]), so that a shard refuses a plan made from an old map. Rules, in order:
//!
//! 1. everything touched is owned by one shard: there, as written. Reference tables are on every shard
//!    ([`mod@reference`]); a write that changes them is a job for all;
//! 2. one sharded table with its key fixed: the shards that own these keys;
//! 3. a SELECT whose rows are made on one shard each and need nothing more: rows put together;
//! 4. any other SELECT: the shards do what they can, and SQLite finishes it in the proxy ([`read`]);
//! 5. all else is refused by name.

pub mod across;
pub mod alone;
pub mod identity;
pub mod keys;
mod moving;
pub mod pieces;
pub mod pinned;
pub mod read;
pub mod reference;
pub mod route;
mod self_reads;
pub mod shape;
pub mod split;
pub mod stage;
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
use crate::mirror::{Mirror, Prepared};
use keys::{by_owner, claim_all, claim_slots, sole_owner, stale};
use read::{Merge, plan_select};
use reference::Copies;
use route::Keys;
pub use stage::Staged;
pub use write::{keys_wander, missing_keys, row_owner, staged_change};
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
    /// On several shards, and then in the proxy's own SQLite.
    Merge(Box<Merge>),
    /// Rows are read first, then written.
    Staged(Staged),
    /// On every copy of reference tables, as a job.
    Copies(Copies),
    /// Nowhere: the mirror answers it, because it asks for the schema or can find no row.
    Local,
    /// Not at all.
    Refused(Error),
}

impl Plan {
    /// What shards do at once, without a step before or after.
    pub fn parts(&self) -> &[Part] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::Some(parts) | Self::All(parts) => parts,
            _ => &[],
        }
    }

    /// The class, as metrics name it.
    pub fn class(&self) -> &'static str {
        match self {
            Self::One(_) => "one",
            Self::Some(_) => "some",
            Self::All(_) => "all",
            Self::Merge(_) => "merge",
            Self::Staged(_) => "staged",
            Self::Copies(_) => "copies",
            Self::Local => "local",
            Self::Refused(_) => "refused",
        }
    }
}

/// A statement with its arguments.
pub(crate) fn show(f: &mut fmt::Formatter<'_>, statement: &Statement) -> fmt::Result {
    write!(f, " {}", statement.sql)?;
    if let Params::Positional(args) = &statement.params {
        let args: Vec<String> = args.iter().map(|value| value.to_json().to_string()).collect();
        write!(f, " <{}>", args.join(", "))?;
    }
    Ok(())
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
        self.guard.iter().chain(&self.statement).try_for_each(|statement| show(f, statement))
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
            Self::Merge(merge) => {
                write!(f, "merge, pushed down: {}", merge.pushed)?;
                if !merge.why.is_empty() {
                    write!(f, "; no more, since {}", merge.why)?;
                }
                for pull in &merge.pulls {
                    write!(f, "\n  {}:", pull.table)?;
                    pull.parts.iter().try_for_each(|part| write!(f, "\n    {part}"))?;
                }
                write!(f, "\n  finish {}", merge.finish.sql)
            }
            Self::Staged(staged) => write!(f, "staged {staged}"),
            Self::Copies(copies) => write!(f, "copies {copies}"),
            Self::Local => f.write_str("local"),
            Self::Refused(error) => write!(f, "refused {error}"),
        }
    }
}

/// What a plan is made from, besides the registry.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The schema that the statement was prepared with.
    pub mirror: &'a Mirror,
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
    if let Some(plan) = reference::plan_write(input, registry)? {
        return Ok(plan);
    }
    if let Some(part) = one_owner(input, registry)? {
        if let Some(narrow) = narrowed(input, registry) {
            return Ok(Plan::One(narrow));
        }
        return Ok(Plan::One(if input.keys.is_empty() { part } else { with_keys(input, registry, part)? }));
    }
    let mut plan = match analysis.verb {
        Verb::Select => plan_select(input, registry),
        Verb::Insert => plan_insert(input, registry),
        _ => plan_change(input, registry),
    }?;
    reference::claim(input, registry, &mut plan)?;
    Ok(plan)
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
        if placement.is_reference() {
            continue;
        }
        match (sole_owner(placement), shard) {
            (Some(owner), None) => shard = Some(owner),
            (Some(owner), Some(known)) if owner == known => (),
            _ => return Ok(None),
        }
        claims.extend(shard.map(|shard| claim_all(placement, shard)));
    }
    let shard = match shard {
        Some(shard) if !reference::has_copies(input, registry, shard) => return Ok(None),
        Some(shard) => shard,
        None => reference::any_shard(input, registry).unwrap_or(HOME_SHARD),
    };
    claims.extend(reference::touched(input, registry).map(|placement| claim_all(placement, shard)));
    Ok(Some(Part { shard, claims, statement: None, guard: None, last_row: true }))
}

/// A write to the one owner of everything whose slots are known all the same: it claims just these. So it waits
/// for no move of others, and its id goes along with no others.
fn narrowed(input: Input<'_>, registry: &Registry) -> Option<Part> {
    let mut plan = match input.prepared.analysis.verb {
        Verb::Insert => plan_insert(input, registry),
        Verb::Update | Verb::Delete => plan_change(input, registry),
        _ => return None,
    }
    .ok()?;
    reference::claim(input, registry, &mut plan).ok()?;
    let of_slots = |part: &Part| part.claims.iter().any(|claim| claim.slots.is_some());
    match plan {
        Plan::One(part) if of_slots(&part) => Some(part),
        _ => None,
    }
}

/// A part that runs the statement as written.
fn as_written(shard: GroupId, claim: Claim) -> Part {
    Part { shard, claims: vec![claim], statement: None, guard: None, last_row: true }
}

fn one_or(mut parts: Vec<Part>, several: impl FnOnce(Vec<Part>) -> Result<Plan, Error>) -> Result<Plan, Error> {
    if parts.len() == 1 { Ok(Plan::One(parts.remove(0))) } else { several(parts) }
}

/// The slots of the statement's first source, which is `table`.
fn first_slots(input: Input<'_>, registry: &Registry, table: &Table, placement: &Placement) -> Keys {
    let predicates = input.prepared.analysis.predicates(&input.prepared.sql, registry);
    predicates
        .map_or(Keys::All, |predicates| route::slots(0, predicates, table, placement, input.prepared, input.params))
}

/// One part per owner of the slots. No key at all (`IN ()`) matches no row anywhere, so any owner
/// gives the right answer. Each of several owners gets all keys, so each must still own what it did: a
/// row that moved from one to the other between two answers would be in both.
fn pinned_parts(placement: &Placement, slots: &[Slot]) -> Result<Vec<Part>, Error> {
    if slots.is_empty() {
        let shard =
            placement.owners().next().ok_or_else(|| stale(format!("placement {} has no owner", placement.id)))?;
        return Ok(vec![as_written(shard, claim_all(placement, shard))]);
    }
    let owners = by_owner(placement, slots)?;
    let several = owners.len() > 1;
    let part = |(shard, slots)| match several {
        true => as_written(shard, claim_all(placement, shard)),
        false => as_written(shard, claim_slots(placement, shard, slots)),
    };
    Ok(owners.into_iter().map(part).collect())
}
