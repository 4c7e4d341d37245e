//! A move at its target: rows are staged out of sight, then they go in, then the slots are taken.

use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::MoveId;
use flotilla_shared::moves::{Cursor, MoveReply, MovedRow, MovedSet, Piece, RowName, SlotDigest};
use flotilla_shared::registry::SlotSet;
use rusqlite::{Connection, OptionalExtension, params};

use super::index::{add, subtract};
use super::layout::Layout;
use super::query::{MAX_SLOT_BYTES, MAX_SLOT_ROWS, too_large};
use super::{CHUNK_BYTES, CHUNK_ROWS, Open, Phase, Quiet, Stage, Step, not_open};
use crate::state::apply::{Draft, Machine};

impl Machine {
    pub(super) fn open(&self, draft: &mut Draft, id: MoveId, set: &MovedSet, slots: &SlotSet) -> Step<MoveReply> {
        if draft.moves.open.is_none() {
            let owned = draft.ownership.placements.get(&set.placement.id);
            if owned.is_some_and(|owned| slots.meets(&owned.slots)) {
                return Err(Error::new(Code::Conflict, "the slots are owned here already").into());
            }
            inserts(&self.db, set)?;
            let stage = Stage { next: Cursor::start(slots), changes: 0, slots: Default::default() };
            let open = Open { id, set: set.clone(), slots: slots.clone(), phase: Phase::Staging(stage) };
            Arc::make_mut(&mut draft.moves).open = Some(open);
        }
        let (_, stage) = draft.moves.staging(id)?;
        Ok(MoveReply::Staged(stage.next.clone()))
    }

    pub(super) fn stage(&self, draft: &mut Draft, id: MoveId, from: &Cursor, piece: &Piece) -> Step<MoveReply> {
        let (open, stage) = draft.moves.staging(id)?;
        if stage.next != *from {
            // Another driver was faster; who sent this one goes on from there.
            return Ok(MoveReply::Staged(stage.next.clone()));
        }
        if let Some(row) = piece.rows.iter().find(|row| !open.slots.contains(row.slot)) {
            return Err(Error::new(Code::MoveMismatch, format!("slot {} is not part of move {id}", row.slot)).into());
        }
        let mut stage = stage.clone();
        for name in &piece.changed {
            remove(&self.db, &mut stage, name)?;
        }
        for row in &piece.rows {
            put(&self.db, &mut stage, row)?;
        }
        let (rows, bytes) =
            stage.slots.values().fold((0, 0), |(rows, bytes), slot| (rows + slot.rows, bytes + slot.bytes));
        if rows > MAX_SLOT_ROWS || bytes > MAX_SLOT_BYTES {
            return Err(too_large(open.slots.iter().next().unwrap_or_default()).into());
        }
        self.try_in(open, piece)?;
        let mut insert = self.db.prepare_cached("INSERT INTO _flotilla_staged_requests (packed) VALUES (?1)")?;
        for request in &piece.requests {
            insert.execute([request])?;
        }
        stage.next = piece.next.clone();
        stage.changes = piece.last_change;
        Arc::make_mut(&mut draft.moves).set_phase(Phase::Staging(stage));
        Ok(MoveReply::Staged(piece.next.clone()))
    }

    /// Would the rows go in? If they do not, the source must know before it gives anything up.
    fn try_in(&self, open: &Open, piece: &Piece) -> Step<()> {
        if piece.rows.is_empty() {
            return Ok(());
        }
        let _quiet = Quiet::begin(&self.db, &self.watch)?;
        let inserts = inserts(&self.db, &open.set)?;
        self.db.execute_batch("SAVEPOINT trying")?;
        for row in &piece.rows {
            let sql = inserts.get(usize::from(row.name.table)).ok_or_else(|| not_open(open.id))?;
            insert_row(&self.db, sql, &row.packed)?;
        }
        self.db.execute_batch("ROLLBACK TO trying; RELEASE trying")?;
        Ok(())
    }

    pub(super) fn activate(&mut self, draft: &mut Draft, id: MoveId, rows: u64) -> Step<MoveReply> {
        let open = draft.moves.opened(id)?.clone();
        let placement = open.set.placement.id;
        match &open.phase {
            Phase::Activating => (),
            Phase::Staging(stage) => {
                let staged: u64 = stage.slots.values().map(|slot| slot.rows).sum();
                if stage.next != Cursor::End || staged != rows {
                    let message = format!("{staged} rows are staged here, {rows} were released");
                    return Err(Error::new(Code::MoveMismatch, message).into());
                }
            }
            _ => return Err(not_open(id).into()),
        }
        let done = self.insert_some(&open)?;
        let moves = Arc::make_mut(&mut draft.moves);
        if let Some(index) = &mut moves.index {
            index.start_over(placement);
        }
        if !done {
            if open.phase != Phase::Activating {
                // The version of the rows that were here before is over.
                self.change_owned(draft, placement, SlotSet::clone)?;
                Arc::make_mut(&mut draft.moves).set_phase(Phase::Activating);
            }
            return Ok(MoveReply::Activating);
        }
        let epoch = self.change_owned(draft, placement, |owned| owned.union(&open.slots))?;
        let activated = MoveReply::Activated { epoch };
        Arc::make_mut(&mut draft.moves).end(id, activated.clone());
        // Last, because what is remembered cannot be forgotten again for one step alone.
        let requests: Vec<Vec<u8>> = self
            .db
            .prepare_cached("SELECT packed FROM _flotilla_staged_requests ORDER BY seq")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        self.db.execute_batch("DELETE FROM _flotilla_staged_requests")?;
        self.requests.adopt(draft.applied.request_us, &requests)?;
        Ok(activated)
    }

    /// Puts a chunk of the staged rows in; tells whether none is left.
    fn insert_some(&self, open: &Open) -> Step<bool> {
        let _quiet = Quiet::begin(&self.db, &self.watch)?;
        let inserts = inserts(&self.db, &open.set)?;
        let mut query = self.db.prepare_cached("SELECT seq, tbl, packed FROM _flotilla_staged ORDER BY seq")?;
        let mut rows = query.query([])?;
        let (mut count, mut bytes, mut last) = (0, 0, 0_i64);
        let mut done = true;
        while let Some(row) = rows.next()? {
            if count >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                done = false;
                break;
            }
            let packed = row.get_ref(2)?.as_blob()?;
            let sql = inserts.get(usize::from(row.get::<_, u16>(1)?)).ok_or_else(|| not_open(open.id))?;
            insert_row(&self.db, sql, packed)?;
            (count, bytes, last) = (count + 1, bytes + packed.len(), row.get(0)?);
        }
        drop(rows);
        self.db.prepare_cached("DELETE FROM _flotilla_staged WHERE seq <= ?1")?.execute([last])?;
        Ok(done)
    }
}

fn inserts(db: &Connection, set: &MovedSet) -> Step<Vec<String>> {
    set.tables
        .iter()
        .map(|table| {
            let sql = Layout::of(db, table)?.insert();
            db.prepare_cached(&sql)?;
            Ok(sql)
        })
        .collect()
}

fn insert_row(db: &Connection, sql: &str, packed: &[u8]) -> Step<()> {
    super::watch::bind(&mut *db.prepare_cached(sql)?, None, packed)?.raw_execute()?;
    Ok(())
}

/// Stages a row, in the place of an older state of it.
fn put(db: &Connection, stage: &mut Stage, row: &MovedRow) -> Step<()> {
    let sql = "INSERT OR IGNORE INTO _flotilla_staged (tbl, identity, slot, packed) VALUES (?1, ?2, ?3, ?4)";
    let mut insert = db.prepare_cached(sql)?;
    let values = params![row.name.table, row.name.identity, row.slot.0, row.packed];
    if insert.execute(values)? == 0 {
        remove(db, stage, &row.name)?;
        insert.execute(values)?;
    }
    let digest = stage.slots.entry(row.slot).or_insert(SlotDigest { slot: row.slot, ..SlotDigest::default() });
    add(digest, row.name.table, &row.packed);
    Ok(())
}

/// Takes a row out of the stage, if it is there.
fn remove(db: &Connection, stage: &mut Stage, name: &RowName) -> Step<()> {
    let gone: Option<(u16, Vec<u8>)> = db
        .prepare_cached("DELETE FROM _flotilla_staged WHERE tbl = ?1 AND identity = ?2 RETURNING slot, packed")?
        .query_row(params![name.table, name.identity], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((slot, packed)) = gone else { return Ok(()) };
    let slot = flotilla_shared::ids::Slot(slot);
    if let Some(digest) = stage.slots.get_mut(&slot) {
        subtract(digest, name.table, &packed);
        if digest.rows == 0 {
            stage.slots.remove(&slot);
        }
    }
    Ok(())
}

/// Clears a chunk of what is staged; tells whether nothing is left.
pub(super) fn clear_some(db: &Connection) -> rusqlite::Result<bool> {
    let sql = format!(
        "DELETE FROM _flotilla_staged WHERE seq IN (SELECT seq FROM _flotilla_staged ORDER BY seq LIMIT {CHUNK_ROWS})"
    );
    if db.prepare_cached(&sql)?.execute([])? >= CHUNK_ROWS {
        return Ok(false);
    }
    db.execute_batch("DELETE FROM _flotilla_staged_requests")?;
    Ok(true)
}
