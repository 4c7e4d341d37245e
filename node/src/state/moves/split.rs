//! A shard gives up a slot for those that it is split into.
//!
//! It knows nothing of split points, only numbers of slots: what was planned with the old number is refused from
//! here on. Why the step needs no memory of its own, and what else must hold, is told in
//! `shared/src/registry/split.rs`.

use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::{SlotSet, Split};
use flotilla_shared::wire::ShardReply;

use super::Moves;
use crate::state::apply::{Draft, Machine};
use crate::state::statements::Halt;
use crate::state::steps::Reply;

impl Moves {
    /// Are slots of this placement on their way to or from this shard?
    pub(in crate::state) fn are_of(&self, placement: PlacementId) -> bool {
        self.open.as_ref().is_some_and(|open| open.set.placement.id == placement)
    }

    /// Is there a slot index of this placement that is relied on?
    fn keeps_index_of(&self, placement: PlacementId) -> bool {
        self.index.as_ref().is_some_and(|index| index.is_kept() && index.placement() == placement)
    }
}

impl Machine {
    /// Takes the step; a second time it changes nothing and answers alike.
    pub(in crate::state) fn split(&self, draft: &mut Draft, split: &Split) -> Result<Reply, Halt> {
        let owned = draft.ownership.placements.get(&split.placement).cloned().unwrap_or_default();
        let (old, new) = (SlotSet::range(split.slot, split.slot), split.slots());
        if new.is_within(&owned.slots) && !old.meets(&owned.slots) {
            return Ok(Ok(ShardReply::Split(owned.epoch)));
        }
        if new.meets(&owned.slots) || !old.is_within(&owned.slots) {
            let message = format!("slot {} of placement {} is not there to be split", split.slot, split.placement);
            return Ok(Err(Error::new(Code::Conflict, message)));
        }
        if draft.moves.are_of(split.placement) {
            return Ok(Err(Error::new(Code::Unavailable, "slots of the placement are on their way at this moment")));
        }
        let epoch = self.change_owned(draft, split.placement, |owned| split.of(owned))?;
        if draft.moves.keeps_index_of(split.placement) {
            Arc::make_mut(&mut draft.moves).spoil(&self.db)?;
        }
        Ok(Ok(ShardReply::Split(epoch)))
    }
}
