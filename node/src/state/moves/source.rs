//! A move at its source: what changes is noted, then nobody writes, then the slots are given up.

use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::MoveId;
use flotilla_shared::moves::{Content, MoveReply, MovedSet};
use flotilla_shared::registry::SlotSet;
use rusqlite::Connection;

use super::{CHUNK_ROWS, Open, Phase, Quiet, Step, not_open};
use crate::state::apply::{Draft, Machine};

impl Machine {
    pub(super) fn ahead(&self, draft: &mut Draft, id: MoveId, set: &MovedSet, slots: &SlotSet) -> Step<MoveReply> {
        if let Some(open) = &draft.moves.open {
            return match (open.id == id, &open.phase) {
                // Its tables are others by now.
                (true, Phase::Noting) if open.set != *set => Err(not_open(id).into()),
                (true, Phase::Noting) => Ok(MoveReply::Noting),
                (true, Phase::Frozen) => Ok(MoveReply::Frozen),
                (true, Phase::Releasing { epoch, rows, bytes }) => {
                    Ok(MoveReply::Released { epoch: *epoch, rows: *rows, bytes: *bytes, done: false })
                }
                _ => Err(not_open(id).into()),
            };
        }
        let owned = draft.ownership.placements.get(&set.placement.id);
        if slots.is_empty() || !owned.is_some_and(|owned| slots.is_within(&owned.slots)) {
            return Err(Error::new(Code::Conflict, "the slots are not owned here").into());
        }
        if !draft.moves.index.as_ref().is_some_and(|index| index.is_complete(set)) {
            return Err(Error::new(Code::Conflict, "the tables have no slot index here").into());
        }
        let open = Open { id, set: set.clone(), slots: slots.clone(), phase: Phase::Noting };
        Arc::make_mut(&mut draft.moves).open = Some(open);
        Ok(MoveReply::Noting)
    }

    pub(super) fn freeze(&self, draft: &mut Draft, id: MoveId) -> Step<MoveReply> {
        match draft.moves.opened(id)?.phase {
            Phase::Noting | Phase::Frozen => {
                Arc::make_mut(&mut draft.moves).set_phase(Phase::Frozen);
                Ok(MoveReply::Frozen)
            }
            Phase::Releasing { epoch, rows, bytes } => Ok(MoveReply::Released { epoch, rows, bytes, done: false }),
            _ => Err(not_open(id).into()),
        }
    }

    pub(super) fn release(&self, draft: &mut Draft, id: MoveId, content: &Content) -> Step<MoveReply> {
        let open = draft.moves.opened(id)?.clone();
        let (epoch, rows, bytes) = match open.phase {
            Phase::Releasing { epoch, rows, bytes } => (epoch, rows, bytes),
            Phase::Frozen => {
                if last_change(&self.db)? != content.changes {
                    let message = "rows of frozen slots were changed, past the routing";
                    return Err(Error::new(Code::Conflict, message).hint("the move starts over").into());
                }
                forget_changes(&self.db)?;
                let epoch = self.change_owned(draft, open.set.placement.id, |owned| owned.minus(&open.slots))?;
                (epoch, content.rows(), content.bytes())
            }
            _ => return Err(not_open(id).into()),
        };
        let done = self.delete_some(draft, &open)?;
        let released = MoveReply::Released { epoch, rows, bytes, done };
        let moves = Arc::make_mut(&mut draft.moves);
        match done {
            true => moves.end(id, released.clone()),
            false => moves.set_phase(Phase::Releasing { epoch, rows, bytes }),
        }
        Ok(released)
    }

    /// Deletes a chunk of the rows that were given up; tells whether none is left.
    fn delete_some(&self, draft: &Draft, open: &Open) -> Step<bool> {
        let Some(index) = &draft.moves.index else { return Err(not_open(open.id).into()) };
        let _quiet = Quiet::begin(&self.db, &self.watch)?;
        let mut room = CHUNK_ROWS;
        for scan in index.scans(&self.db)? {
            for slot in open.slots.iter() {
                room -= scan.delete(&self.db, slot, room)?;
                if room == 0 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// The number of the last noted change.
pub(super) fn last_change(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT coalesce(max(seq), 0) FROM _flotilla_changed")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(|seq| seq as u64)
}

/// Forgets what was noted. There are no more of them than rows that changed while they were copied.
pub(super) fn forget_changes(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("DELETE FROM _flotilla_changed")
}
