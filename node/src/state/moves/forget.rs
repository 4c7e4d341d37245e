//! A shard forgets the tables of a placement of which it owns nothing.
//!
//! Numbered among the moves, so that it happens once: a call that comes late, when the shard has got the table
//! again, is answered with how it ended the first time.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{MoveId, PlacementId};
use flotilla_shared::moves::MoveReply;
use flotilla_shared::registry::{SlotSet, quoted};

use super::{Arc, Quiet, Step};
use crate::state::apply::{Draft, Machine};
use crate::state::{statements, steps};

impl Machine {
    /// Drops the tables and raises the version, so that whoever planned to find them here plans anew.
    pub(super) fn forget(
        &self,
        draft: &mut Draft,
        id: MoveId,
        placement: PlacementId,
        tables: &[String],
        copies: bool,
    ) -> Step<MoveReply> {
        let owned = draft.ownership.placements.get(&placement);
        if draft.moves.open.is_some() || (!copies && owned.is_some_and(|owned| !owned.slots.is_empty())) {
            return Err(Error::new(Code::Conflict, format!("slots of placement {placement} are owned here")).into());
        }
        for table in tables.iter().filter(|_| !copies) {
            if steps::has_rows(&self.db, table)? == Some(true) {
                let message = format!("{table} holds rows here, of slots that this shard does not own");
                return Err(Error::new(Code::MoveMismatch, message).into());
            }
        }
        // Rows of other tables may refer to copies; the registry has made sure that there are none.
        let quiet = Quiet::begin(&self.db, &self.watch)?;
        for table in tables {
            self.db.execute_batch(&format!("DROP TABLE IF EXISTS {}", quoted(table)))?;
        }
        drop(quiet);
        draft.counting = statements::triggers_count(&self.db)?;
        if draft.moves.is_outdated(&self.db)? {
            Arc::make_mut(&mut draft.moves).spoil(&self.db)?;
        }
        let epoch = self.change_owned(draft, placement, |_| SlotSet::default())?;
        let forgotten = MoveReply::Forgotten { epoch };
        Arc::make_mut(&mut draft.moves).end(id, forgotten.clone());
        Ok(forgotten)
    }
}
