//! Reference tables: every shard has a copy, so any shard reads them, and a write goes to all.
//!
//! A part of a plan that reads copies claims them at its shard's ownership version, which each write
//! raises: a read that is planned before a write is refused where the write is applied already, so no
//! query sees it on one shard and misses it on another. Writes are not sent to shards at all; they become
//! a job ([`Plan::Copies`]).

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, PlacementId};
use flotilla_shared::registry::{ForeignKey, Placement, Registry, mentions};
use flotilla_shared::value::{Params, Value};

use super::keys::{claim_all, stale};
use super::{Input, Part, Plan};
use crate::analyze::Verb;

/// A write of reference tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Copies {
    /// The placements that it writes.
    pub placements: Vec<PlacementId>,
    /// The shards that have them.
    pub shards: Vec<GroupId>,
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards: Vec<String> = self.shards.iter().map(GroupId::to_string).collect();
        f.write_str(&shards.join(", "))?;
        self.placements.iter().try_for_each(|placement| write!(f, " [placement {placement}]"))
    }
}

/// The reference placements among those that a statement touches.
pub fn touched<'a>(input: Input<'_>, registry: &'a Registry) -> impl Iterator<Item = &'a Placement> {
    let ids = input.prepared.analysis.placements.clone();
    ids.into_iter().filter_map(|id| registry.placements.get(&id)).filter(|placement| placement.is_reference())
}

/// Does the statement touch reference tables and nothing else?
pub fn only(input: Input<'_>, registry: &Registry) -> bool {
    let placements = &input.prepared.analysis.placements;
    !placements.is_empty() && touched(input, registry).count() == placements.len()
}

/// Can this shard read all copies that the statement needs?
pub fn has_copies(input: Input<'_>, registry: &Registry, shard: GroupId) -> bool {
    touched(input, registry).all(|placement| placement.owned.contains_key(&shard))
}

/// The shard that reads reference tables alone: by the text and its arguments, so that different
/// statements are spread over all shards.
pub fn any_shard(input: Input<'_>, registry: &Registry) -> Option<GroupId> {
    let mut shards: Vec<GroupId> = touched(input, registry).next()?.owners().collect();
    shards.retain(|shard| has_copies(input, registry, *shard));
    let mut hasher = DefaultHasher::new();
    input.prepared.sql.hash(&mut hasher);
    match input.params {
        Params::Positional(list) => list.iter().for_each(|value| hash(value, &mut hasher)),
        Params::Named(list) => list.iter().for_each(|(_, value)| hash(value, &mut hasher)),
    }
    shards.get((hasher.finish() % shards.len().max(1) as u64) as usize).copied()
}

fn hash(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => (),
        Value::Integer(n) => n.hash(hasher),
        Value::Real(r) => r.to_bits().hash(hasher),
        Value::Text(text) => text.hash(hasher),
        Value::Blob(bytes) => bytes.hash(hasher),
    }
}

/// A part that reads reference tables alone, on a given shard: a transaction keeps to its own.
pub fn part_on(input: Input<'_>, registry: &Registry, shard: GroupId) -> Option<Part> {
    let fits = input.prepared.analysis.verb == Verb::Select && only(input, registry);
    (fits && has_copies(input, registry, shard)).then(|| Part {
        shard,
        claims: touched(input, registry).map(|placement| claim_all(placement, shard)).collect(),
        statement: None,
        guard: None,
        last_row: true,
    })
}

/// Adds to each part the claims of the copies that it reads.
///
/// # Errors
/// [`Code::StaleRoute`] for a shard that has no copy: it gets one before it holds any row.
pub fn claim(input: Input<'_>, registry: &Registry, plan: &mut Plan) -> Result<(), Error> {
    let mut parts: Vec<&mut Part> = match plan {
        Plan::One(part) => vec![part],
        Plan::Some(parts) | Plan::All(parts) => parts.iter_mut().collect(),
        Plan::Merge(merge) => merge.pulls.iter_mut().flat_map(|pull| &mut pull.parts).collect(),
        Plan::Staged(_) | Plan::Copies(_) | Plan::Local | Plan::Refused(_) => return Ok(()),
    };
    for placement in touched(input, registry) {
        for part in &mut parts {
            if !placement.owned.contains_key(&part.shard) {
                return Err(stale(format!("{} has no copy of placement {} yet", part.shard, placement.id)));
            }
            if !part.claims.iter().any(|claim| claim.placement == placement.id) {
                part.claims.push(claim_all(placement, part.shard));
            }
        }
    }
    Ok(())
}

/// The plan of a write that changes reference tables; `None` for all other statements.
///
/// # Errors
/// [`Code::Unroutable`] when it touches other tables, too, whose rows are not on every shard.
pub fn plan_write(input: Input<'_>, registry: &Registry) -> Result<Option<Plan>, Error> {
    let analysis = &input.prepared.analysis;
    if !matches!(analysis.verb, Verb::Insert | Verb::Update | Verb::Delete) {
        return Ok(None);
    }
    let written = |placement: &&Placement| {
        analysis.touched.iter().any(|(name, id)| *id == placement.id && analysis.record.writes.contains(name))
    };
    let placements: Vec<&Placement> = touched(input, registry).filter(written).collect();
    let Some(first) = placements.first() else { return Ok(None) };
    let is_reference = |id: &PlacementId| registry.placements.get(id).is_some_and(Placement::is_reference);
    let names = |wanted: bool| {
        let list = analysis.touched.iter().filter(|(_, id)| is_reference(id) == wanted);
        list.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let refused = |why: String| {
        Error::new(Code::Unroutable, why)
            .hint("read what it needs first, and write the reference table with literals or arguments")
    };
    // A child that the statement does not name is looked at by its foreign key alone, which a new parent
    // cannot violate; what can is refused below.
    let is_child = |name: &str| {
        let refers = |key: &&ForeignKey| key.child == name && analysis.record.writes.contains(&key.parent);
        analysis.view.is_none()
            && !mentions(&input.prepared.sql, name)
            && input.mirror.schema.foreign_keys.iter().any(|key| refers(&key))
    };
    if analysis.touched.iter().any(|(name, id)| !is_reference(id) && !is_child(name)) {
        return Err(refused(format!(
            "the statement writes a reference table ({}) and touches {}, which is not on every shard",
            names(true),
            names(false)
        )));
    }
    if let Some(why) = &analysis.reaches {
        return Err(refused(why.clone()));
    }
    Ok(Some(Plan::Copies(Copies {
        placements: placements.iter().map(|placement| placement.id).collect(),
        shards: first.shards.clone(),
    })))
}
