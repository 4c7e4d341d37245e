//! From the keys that a statement names to slots, and from slots to shards.

use std::collections::BTreeMap;
use std::ops::Bound;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, Slot};
use flotilla_shared::registry::{Function, Placement, SlotSet, Table};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Claim;

use crate::analyze::resolve::scope::column_of;
use crate::analyze::term::Term;
use crate::mirror::Prepared;

/// Keys that one statement may name: beyond it, asking every shard is no dearer.
pub const MAX_KEYS: usize = 1000;

/// Does `name` mean column `index`? The rowid has names of its own unless a column takes them.
pub fn is_column(table: &Table, index: usize, name: &str) -> bool {
    column_of(table, name) == Some(Some(index))
}

/// The value of a term; none for one that must be computed.
pub fn resolve<'a>(term: &'a Term, prepared: &Prepared, params: &'a Params) -> Option<&'a Value> {
    match term {
        Term::Value(value) => Some(value),
        Term::Param(index) => prepared.arg(params, *index),
        Term::Computed(_) => None,
    }
}

/// Slots that may hold rows whose first key column is between the bounds; none when any slot may: a hash
/// knows no order.
pub fn slots_between(placement: &Placement, low: Bound<&Value>, high: Bound<&Value>) -> Option<SlotSet> {
    match placement.function {
        Function::Home | Function::Hash | Function::Reference => None,
        Function::Range { .. } | Function::SplitRange(_) | Function::List { .. } => {
            Some(placement.slots_between(low, high))
        }
    }
}

/// The shard that owns all slots of a placement, if one does.
pub fn sole_owner(placement: &Placement) -> Option<GroupId> {
    let mut owners = placement.owned.iter().filter(|(_, set)| !set.is_empty());
    let (shard, set) = owners.next()?;
    (owners.next().is_none() && set.len() == placement.slot_count()).then_some(*shard)
}

/// Slots by the shard that owns them.
///
/// # Errors
/// [`Code::StaleRoute`] for a slot without an owner: it is on its way, and a newer map says where.
pub fn by_owner(placement: &Placement, slots: &[Slot]) -> Result<BTreeMap<GroupId, Vec<Slot>>, Error> {
    let mut owners: BTreeMap<GroupId, Vec<Slot>> = BTreeMap::new();
    for slot in slots {
        let owner = placement
            .owner(*slot)
            .ok_or_else(|| stale(format!("slot {slot} of placement {} has no owner", placement.id)))?;
        owners.entry(owner).or_default().push(*slot);
    }
    Ok(owners)
}

/// A claim of just these slots.
pub fn claim_slots(placement: &Placement, shard: GroupId, slots: impl IntoIterator<Item = Slot>) -> Claim {
    Claim {
        placement: placement.id,
        epoch: placement.epoch(shard),
        slots: Some(slots.into_iter().collect::<SlotSet>()),
    }
}

/// A claim of all that the shard owns.
pub fn claim_all(placement: &Placement, shard: GroupId) -> Claim {
    Claim { placement: placement.id, epoch: placement.epoch(shard), slots: None }
}

/// One claim per placement: all that any of them needs.
pub fn merge_claims(claims: Vec<Claim>) -> Vec<Claim> {
    let mut merged: Vec<Claim> = Vec::new();
    for claim in claims {
        match merged.iter_mut().find(|known| known.placement == claim.placement) {
            Some(known) => known.slots = known.slots.take().zip(claim.slots).map(|(ours, theirs)| ours.union(&theirs)),
            None => merged.push(claim),
        }
    }
    merged
}

/// The map at hand is too old.
pub fn stale(message: String) -> Error {
    Error::new(Code::StaleRoute, message).hint("retry")
}
