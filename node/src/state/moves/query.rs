//! What the driver of a move asks: how large slots are, the next piece of a copy, what a stage holds.
//!
//! Answered on a read connection of the leader, in one read transaction with [`Moves`]; only remembered
//! requests come from memory ([`Machine::export_requests`]). Frozen slots do not change, so a copy of
//! several pieces, even from several leaders, is one of one moment.

use std::collections::BTreeMap;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{MoveId, PlacementId, Slot};
use flotilla_shared::moves::{Cursor, MoveAnswer, MoveQuery, MovedRow, Piece, SlotDigest};
use flotilla_shared::registry::SlotSet;
use rusqlite::Connection;

use super::index::{Index, add};
use super::{Moves, Refusal, Step, not_open};
use crate::state::apply::Machine;
use crate::state::reads::PIECE_BYTES;

/// Rows of one move: it is deleted and inserted in one entry each, and its writers wait meanwhile.
pub const MAX_MOVE_ROWS: u64 = 4096;

/// Bytes of one move, for the same reason.
pub const MAX_MOVE_BYTES: u64 = 4 << 20;

/// Slots of one move: looking for the rows of an empty one costs some microseconds, too.
pub const MAX_MOVE_SLOTS: usize = 256;

/// Rows of a single slot that may move: a slot moves whole, so its writers wait for a second or so.
pub const MAX_SLOT_ROWS: u64 = 64 << 10;

/// Bytes of a single slot that may move, for the same reason.
pub const MAX_SLOT_BYTES: u64 = 64 << 20;

/// Answers a query, but for remembered requests.
///
/// # Errors
/// That the move is not open here, or what SQLite says.
pub fn answer(db: &Connection, query: &MoveQuery) -> Result<MoveAnswer, Error> {
    let run = || -> Step<MoveAnswer> {
        db.execute_batch("BEGIN")?;
        let answer = in_transaction(db, query);
        db.execute_batch("ROLLBACK")?;
        answer
    };
    run().map_err(|refusal| match refusal {
        Refusal::Refused(error) => error,
        Refusal::Sqlite(error) => Error::new(Code::Storage, error.to_string()),
    })
}

fn in_transaction(db: &Connection, query: &MoveQuery) -> Step<MoveAnswer> {
    let moves = Moves::load(db)?;
    match query {
        MoveQuery::Sizes { placement, slots } => Ok(MoveAnswer::Digests(sizes(db, &moves, *placement, slots)?)),
        MoveQuery::Export { id, from } => Ok(MoveAnswer::Piece(export(db, &moves, *id, from)?)),
        MoveQuery::Digests { id } => {
            moves.staging(*id)?;
            Ok(MoveAnswer::Digests(staged(db)?))
        }
    }
}

fn index(moves: &Moves) -> Step<&Index> {
    Ok(moves.index.as_ref().ok_or_else(|| Error::new(Code::Conflict, "the tables have no slot index here"))?)
}

/// Sizes of the first of these slots, as many as make one move.
fn sizes(db: &Connection, moves: &Moves, placement: PlacementId, slots: &SlotSet) -> Step<Vec<SlotDigest>> {
    let index = index(moves)?;
    if index.placement() != placement {
        return Err(Error::new(Code::Conflict, "another placement has a slot index here").into());
    }
    let scans = index.scans(db)?;
    let (mut sizes, mut rows, mut bytes) = (Vec::new(), 0, 0);
    for slot in slots.iter().take(MAX_MOVE_SLOTS) {
        let mut size = SlotDigest { slot, ..SlotDigest::default() };
        let first = sizes.is_empty();
        let over = |size: &SlotDigest| match first {
            true => size.rows > MAX_SLOT_ROWS || size.bytes > MAX_SLOT_BYTES,
            false => rows + size.rows > MAX_MOVE_ROWS || bytes + size.bytes > MAX_MOVE_BYTES,
        };
        for scan in &scans {
            scan.rows(db, slot, None, |found| {
                add(&mut size, scan.number(), &found.packed);
                !over(&size)
            })?;
        }
        if over(&size) {
            match first {
                true => return Err(too_large(slot).into()),
                false => break,
            }
        }
        (rows, bytes) = (rows + size.rows, bytes + size.bytes);
        sizes.push(size);
    }
    Ok(sizes)
}

fn too_large(slot: Slot) -> Error {
    let message = format!("slot {slot} has over {MAX_SLOT_ROWS} rows or {MAX_SLOT_BYTES} bytes");
    Error::new(Code::TooLarge, message).hint("rows of one slot move together; delete some, or use a finer shard key")
}

fn export(db: &Connection, moves: &Moves, id: MoveId, from: &Cursor) -> Step<Piece> {
    let open = moves.frozen(id)?;
    let Cursor::Rows { table, slot, after } = from else { return Err(not_open(id).into()) };
    let (mut rows, mut bytes, mut full) = (Vec::new(), 0, None);
    for scan in index(moves)?.scans(db)?.iter().skip(usize::from(*table)) {
        let here = scan.number() == *table;
        for at in open.slots.iter().filter(|at| !here || at >= slot) {
            let after = after.as_deref().filter(|_| here && at == *slot);
            scan.rows(db, at, after, |found| {
                bytes += found.packed.len();
                rows.push(MovedRow { table: scan.number(), slot: at, packed: found.packed });
                if bytes >= PIECE_BYTES {
                    full = Some(Cursor::Rows { table: scan.number(), slot: at, after: Some(found.identity) });
                }
                full.is_none()
            })?;
            if let Some(next) = full {
                return Ok(Piece { rows, requests: vec![], next });
            }
        }
    }
    Ok(Piece { rows, requests: vec![], next: Cursor::Requests(0) })
}

fn staged(db: &Connection) -> Step<Vec<SlotDigest>> {
    let mut digests: BTreeMap<Slot, SlotDigest> = BTreeMap::new();
    let mut query = db.prepare_cached("SELECT tbl, slot, packed FROM _flotilla_staged_rows")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let slot = Slot(row.get(1)?);
        let digest = digests.entry(slot).or_insert(SlotDigest { slot, ..SlotDigest::default() });
        add(digest, row.get(0)?, row.get_ref(2)?.as_blob()?);
    }
    Ok(digests.into_values().collect())
}

/// The first slot whose rows are not the same in both lists, which hold slots with rows, in order.
pub(super) fn differ(ours: &[SlotDigest], theirs: &[SlotDigest]) -> Option<(SlotDigest, SlotDigest)> {
    let find = |list: &[SlotDigest], slot: Slot| {
        list.iter().find(|digest| digest.slot == slot).copied().unwrap_or(SlotDigest { slot, ..SlotDigest::default() })
    };
    if ours == theirs {
        return None;
    }
    let slots = ours.iter().chain(theirs).map(|digest| digest.slot);
    slots.map(|slot| (find(ours, slot), find(theirs, slot))).find(|(ours, theirs)| ours != theirs)
}

impl Machine {
    /// The next remembered requests that touched the slots of a frozen move.
    ///
    /// # Errors
    /// That the move is not open here.
    pub fn export_requests(&self, id: MoveId, after: u64) -> Result<Piece, Error> {
        let open = self.moves().frozen(id)?;
        let (requests, next) = self.requests().of_slots(open.set.placement.id, &open.slots, after, PIECE_BYTES);
        Ok(Piece { rows: vec![], requests, next: next.map_or(Cursor::End, Cursor::Requests) })
    }
}
