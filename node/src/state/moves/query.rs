//! What the driver of a move asks: how large slots are, the next piece of a copy, what both sides hold.
//!
//! Answered on a read connection of the leader, in one read transaction with [`Moves`]; only remembered
//! requests come from memory. A piece of a copy is of one moment, and what changes later is noted under a
//! higher number; so pieces of several moments, even of several leaders, come to one state.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{MoveId, PlacementId, Slot};
use flotilla_shared::moves::{Content, Cursor, MoveAnswer, MoveQuery, MovedRow, Piece, RowName, SlotDigest};
use flotilla_shared::registry::SlotSet;
use rusqlite::Connection;

use super::index::{Index, Scan, add};
use super::measure::measure;
use super::{Moves, Open, Phase, Refusal, Step, not_open, source};
use crate::state::machine::StateHandle;

/// Rows of one move, if it has more than one slot: it is frozen for as long as it takes to delete and
/// insert them.
pub const MAX_MOVE_ROWS: u64 = 1024;

/// Bytes of one move, for the same reason.
pub const MAX_MOVE_BYTES: u64 = 1 << 20;

/// Slots of one move: looking for the rows of an empty one costs some microseconds, too.
pub const MAX_MOVE_SLOTS: usize = 256;

/// Rows of a single slot that may move: a slot moves whole, and its writers wait while its rows are compared, deleted and
/// inserted. On 2 busy cores that took 0.6 s for 5,000 rows of 120 bytes on 3 replicas, 2 s for 20,000 and 3 s for
/// 50,000, without optimization (`tests/tests/large_slots.rs` prints it); a proxy gives up after 10 s.
pub const MAX_SLOT_ROWS: u64 = 128 << 10;

/// Bytes of a single slot that may move, for the same reason.
pub const MAX_SLOT_BYTES: u64 = 128 << 20;

/// Rows of one piece: its target tries and stages them in one entry, for which other writers wait.
const PIECE_ROWS: usize = 256;

/// Bytes of one piece, for the same reason.
const PIECE_BYTES: usize = 128 << 10;

impl StateHandle {
    /// Answers the driver of a move.
    ///
    /// # Errors
    /// That the move is not open here, or what SQLite says.
    pub fn answer(&self, query: &MoveQuery) -> Result<MoveAnswer, Error> {
        let answered = self.store().readers().inspect(|db| {
            db.execute_batch("BEGIN")?;
            let answered = in_transaction(db, query);
            db.execute_batch("ROLLBACK")?;
            Ok(answered)
        })?;
        let (answer, open) = answered.map_err(|refusal| match refusal {
            Refusal::Refused(error) => error,
            Refusal::Sqlite(error) => Error::new(Code::Storage, error.to_string()),
        })?;
        match (answer, open) {
            (MoveAnswer::Piece(piece), Some(open)) => Ok(MoveAnswer::Piece(self.with_requests(piece, &open))),
            (answer, _) => Ok(answer),
        }
    }

    /// Adds the remembered requests to a piece that has all changed rows. They are looked at later than
    /// the rows: too many may come along, but none that belongs to the rows is left out.
    fn with_requests(&self, mut piece: Piece, open: &Open) -> Piece {
        let Cursor::Rest { changes, requests } = piece.next else { return piece };
        let placement = &open.set.placement;
        // What touched a slot that has been split since may be about these.
        let slots = placement.with_origins(&open.slots);
        let machine = self.lock();
        let (found, next, more) = machine.requests().of_slots(placement.id, &slots, requests, PIECE_BYTES);
        drop(machine);
        piece.requests = found;
        piece.next = match open.phase == Phase::Frozen && !more {
            true => Cursor::End,
            false => Cursor::Rest { changes, requests: next },
        };
        piece
    }
}

/// The answer; for a piece behind the rows, the move as it was then.
fn in_transaction(db: &Connection, query: &MoveQuery) -> Step<(MoveAnswer, Option<Open>)> {
    let moves = Moves::load(db)?;
    match query {
        MoveQuery::Sizes { placement, slots } => Ok((MoveAnswer::Digests(sizes(db, &moves, *placement, slots)?), None)),
        MoveQuery::Measure { set, from } => Ok((MoveAnswer::Measured(measure(db, set, from)?), None)),
        MoveQuery::Export { id, from } => {
            let open = moves.exporting(*id)?;
            let scans = index(&moves)?.scans(db)?;
            match from {
                Cursor::Rows { table, slot, after } => {
                    let piece = rows(db, &scans, &open.slots, (*table, *slot, after.as_deref()))?;
                    Ok((MoveAnswer::Piece(piece), None))
                }
                Cursor::Rest { changes, requests } => {
                    let (piece, full) = changed(db, &scans, &open.slots, *changes, *requests)?;
                    Ok((MoveAnswer::Piece(piece), (!full).then(|| open.clone())))
                }
                Cursor::End => Err(not_open(*id).into()),
            }
        }
        MoveQuery::Content { id } => Ok((MoveAnswer::Content(content(db, &moves, *id)?), None)),
    }
}

fn index(moves: &Moves) -> Step<&Index> {
    Ok(moves.index.as_ref().ok_or_else(not_indexed)?)
}

fn not_indexed() -> Error {
    Error::new(Code::Conflict, "the tables have no slot index here")
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
        let over = |size: &SlotDigest| rows + size.rows > MAX_MOVE_ROWS || bytes + size.bytes > MAX_MOVE_BYTES;
        for scan in &scans {
            scan.rows(db, slot, None, |found| {
                add(&mut size, scan.number(), &found.packed);
                !over(&size)
            })?;
        }
        if over(&size) {
            if sizes.is_empty() {
                // It moves alone. Its entries are counted, since reading so many rows would take too long.
                size.rows = scans.iter().map(|scan| scan.count(db, slot)).sum::<rusqlite::Result<u64>>()?;
                if size.rows > MAX_SLOT_ROWS {
                    return Err(too_large(slot).into());
                }
                sizes.push(size);
            }
            break;
        }
        (rows, bytes) = (rows + size.rows, bytes + size.bytes);
        sizes.push(size);
    }
    Ok(sizes)
}

pub(super) fn too_large(slot: Slot) -> Error {
    let message = format!("slot {slot} has over {MAX_SLOT_ROWS} rows or {MAX_SLOT_BYTES} bytes");
    Error::new(Code::TooLarge, message).hint("rows of one slot move together; delete some, or use a finer shard key")
}

/// A piece of the rows, behind a row of a table and slot.
fn rows(db: &Connection, scans: &[Scan], slots: &SlotSet, from: (u16, Slot, Option<&[u8]>)) -> Step<Piece> {
    let (table, slot, after) = from;
    let (mut rows, mut bytes, mut full) = (Vec::new(), 0, None);
    for scan in scans.iter().skip(usize::from(table)) {
        let here = scan.number() == table;
        for at in slots.iter().filter(|at| !here || *at >= slot) {
            let after = after.filter(|_| here && at == slot);
            scan.rows(db, at, after, |found| {
                bytes += found.packed.len();
                if bytes >= PIECE_BYTES || rows.len() + 1 >= PIECE_ROWS {
                    full = Some(Cursor::Rows { table: scan.number(), slot: at, after: Some(found.identity.clone()) });
                }
                let name = RowName { table: scan.number(), identity: found.identity };
                rows.push(MovedRow { name, slot: at, packed: found.packed });
                full.is_none()
            })?;
            if let Some(next) = full {
                return Ok(Piece { changed: vec![], rows, requests: vec![], last_change: 0, next });
            }
        }
    }
    let next = Cursor::Rest { changes: 0, requests: 0 };
    Ok(Piece { changed: vec![], rows, requests: vec![], last_change: 0, next })
}

/// A piece of what changed, and whether there is more of it.
fn changed(db: &Connection, scans: &[Scan], slots: &SlotSet, after: u64, requests: u64) -> Step<(Piece, bool)> {
    let (mut changed, mut rows, mut bytes, mut last, mut full) = (Vec::new(), Vec::new(), 0, after, false);
    let mut query =
        db.prepare_cached("SELECT seq, tbl, identity FROM _flotilla_changed WHERE seq > ?1 ORDER BY seq")?;
    let mut found = query.query([after as i64])?;
    while let Some(row) = found.next()? {
        if bytes >= PIECE_BYTES || changed.len() >= PIECE_ROWS {
            full = true;
            break;
        }
        let name = RowName { table: row.get(1)?, identity: row.get(2)? };
        let scan = scans.get(usize::from(name.table)).ok_or_else(not_indexed)?;
        // Another spelling may name the same row, which then was noted under its own as well.
        let is_it = |row: &MovedRow| row.name == name && slots.contains(row.slot);
        if let Some(row) = scan.find(db, &name.identity)?.filter(is_it) {
            bytes += row.packed.len();
            rows.push(row);
        }
        bytes += name.identity.len();
        changed.push(name);
        last = row.get::<_, i64>(0)? as u64;
    }
    let next = Cursor::Rest { changes: last, requests };
    Ok((Piece { changed, rows, requests: vec![], last_change: last, next }, full))
}

/// What frozen slots hold, at the source, and what is staged, at the target.
fn content(db: &Connection, moves: &Moves, id: MoveId) -> Step<Content> {
    if let Ok((_, stage)) = moves.staging(id) {
        return Ok(Content { slots: stage.slots.values().copied().collect(), changes: stage.changes });
    }
    let open = moves.exporting(id)?;
    if open.phase != Phase::Frozen {
        return Err(not_open(id).into());
    }
    let scans = index(moves)?.scans(db)?;
    let mut slots = Vec::new();
    for slot in open.slots.iter() {
        let mut digest = SlotDigest { slot, ..SlotDigest::default() };
        for scan in &scans {
            scan.rows(db, slot, None, |found| {
                add(&mut digest, scan.number(), &found.packed);
                true
            })?;
        }
        if digest.rows > 0 {
            slots.push(digest);
        }
    }
    Ok(Content { slots, changes: source::last_change(db)? })
}
