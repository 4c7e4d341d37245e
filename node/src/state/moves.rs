//! Moves of slots on one shard: freeze and release at the source, stage and activate at the target.
//!
//! What a shard knows of moves is one value, [`Moves`], in its own database: it changes only in apply,
//! travels with snapshots, and is read by the driver's queries in the same transaction as the rows.
//!
//! # Invariants
//! 1. At most one move is open on a shard. Moves are numbered in the order in which the registry named
//!    them, and a step of a move that is not newer than the last one that ended here is answered with
//!    how that one ended, or refused. So no step does anything twice, and none does anything late.
//! 2. While a move is open at its source, no write touches its slots ([`Moves::check`]): what was
//!    exported stays what is there.
//! 3. The source gives up rows, slots and version in one entry, and only if its rows are those that
//!    the target says it has. After that entry the move can only go forward.
//! 4. Staged rows are in tables that no statement of a client sees. They become rows, the slots become
//!    the target's, and the remembered requests become its own, in one entry.
//! 5. Rows are moved as they are: no trigger fires, no foreign key acts, no conflict clause replaces
//!    another row. A row that does not go in is an error before the source releases ([`MoveStep::Try`]).
//!
//! The pieces: [`index`] finds the rows of a slot, [`layout`] reads and writes rows as packed bytes,
//! [`query`] answers the driver.

pub mod index;
pub mod layout;
pub mod query;

use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, MoveId, PlacementId};
use flotilla_shared::moves::{Cursor, MoveReply, MoveStep, MovedSet, Piece, SlotDigest};
use flotilla_shared::registry::SlotSet;
use flotilla_shared::wire::{Route, ShardReply};
use rusqlite::config::DbConfig;
use rusqlite::types::FromSqlError;
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::apply::{Draft, Machine};
use super::ownership::Owned;
use super::statements::{Failure, Halt, Moment, no_rowid};
use super::steps::Reply;
use super::world;
use index::Index;
use layout::Layout;

/// What a shard knows of moves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moves {
    /// The last move that ended here, and how.
    last: MoveId,
    ended: Option<MoveReply>,
    open: Option<Open>,
    index: Option<Index>,
    /// Generations of indexes up to this one are over.
    dropped: u64,
}

/// A move that is open here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Open {
    id: MoveId,
    set: MovedSet,
    slots: SlotSet,
    /// At the target: where the next piece begins. At the source: nothing.
    staged: Option<Cursor>,
}

impl Moves {
    /// Reads it.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn load(db: &Connection) -> rusqlite::Result<Self> {
        let blob: Option<Vec<u8>> = db
            .prepare_cached("SELECT value FROM _flotilla_state WHERE key = 'moves'")?
            .query_row([], |row| row.get(0))
            .optional()?;
        let Some(blob) = blob else { return Ok(Self::default()) };
        postcard::from_bytes(&blob)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error)))
    }

    fn save(&self, db: &Connection) -> rusqlite::Result<()> {
        db.prepare_cached("REPLACE INTO _flotilla_state (key, value) VALUES ('moves', ?1)")?
            .execute([postcard::to_stdvec(self).expect("moves encode")])?;
        Ok(())
    }

    /// Does a write touch slots that are on their way?
    ///
    /// # Errors
    /// [`Code::StaleRoute`]: nothing was done; it goes on at whoever has the slots then.
    pub fn check(&self, route: &Route) -> Result<(), Error> {
        let Some(Open { set, slots, staged: None, .. }) = &self.open else { return Ok(()) };
        let touches = route.claims.iter().filter(|claim| claim.placement == set.placement.id);
        for claim in touches {
            if claim.slots.as_ref().is_none_or(|claimed| claimed.meets(slots)) {
                let message = format!("slots of placement {} are on their way to another shard", claim.placement);
                return Err(Error::new(Code::StaleRoute, message).hint("the proxy waits; a client may simply retry"));
            }
        }
        Ok(())
    }

    /// Is this the name of a side table of ours, or of a trigger that keeps it?
    pub fn has_named(&self, name: &str) -> bool {
        self.index.as_ref().is_some_and(|index| index.has_named(name))
    }

    /// The move that is open at its source.
    fn frozen(&self, id: MoveId) -> Result<&Open, Error> {
        self.open.as_ref().filter(|open| open.id == id && open.staged.is_none()).ok_or_else(|| not_open(id))
    }

    fn staging(&self, id: MoveId) -> Result<&Open, Error> {
        self.open.as_ref().filter(|open| open.id == id && open.staged.is_some()).ok_or_else(|| not_open(id))
    }

    /// How a move ended here, if it was the last one; refuses older ones.
    fn past(&self, id: MoveId) -> Result<Option<MoveReply>, Error> {
        match (&self.ended, id.cmp(&self.last)) {
            (_, std::cmp::Ordering::Greater) => Ok(None),
            (Some(ended), std::cmp::Ordering::Equal) => Ok(Some(ended.clone())),
            _ => Err(Error::new(Code::Conflict, format!("move {id} has ended: a later one was here"))),
        }
    }

    fn end(&mut self, id: MoveId, how: MoveReply) {
        (self.last, self.ended, self.open) = (id, Some(how), None);
    }
}

fn not_open(id: MoveId) -> Error {
    Error::new(Code::Conflict, format!("move {id} is not open here"))
}

/// Why a step was not taken.
pub(super) enum Refusal {
    Refused(Error),
    Sqlite(rusqlite::Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<FromSqlError> for Refusal {
    fn from(error: FromSqlError) -> Self {
        Self::Sqlite(error.into())
    }
}

type Step<T> = Result<T, Refusal>;

/// While it lives, no trigger fires and no foreign key acts on this connection.
struct Quiet<'a>(&'a Connection);

impl<'a> Quiet<'a> {
    fn begin(db: &'a Connection) -> rusqlite::Result<Self> {
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        let quiet = Self(db);
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        Ok(quiet)
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        for setting in [DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER] {
            self.0.set_db_config(setting, true).expect("SQLite takes a setting that it had before");
        }
    }
}

impl Machine {
    /// Applies one step of a move: wholly or not at all.
    pub(super) fn move_step(&mut self, draft: &mut Draft, step: &MoveStep, moment: Moment) -> Result<Reply, Halt> {
        let before = (Arc::clone(&draft.moves), draft.ownership.clone());
        let _world = world::enter(&self.db, moment.at_us, moment.seed, false);
        self.db.execute_batch("SAVEPOINT move")?;
        let taken = self.take(draft, step).and_then(|reply| {
            match world::rowid_exhausted() {
                true => return Err(no_rowid().into()),
                false => draft.moves.save(&self.db)?,
            }
            Ok(reply)
        });
        let error = match taken {
            Ok(reply) => {
                self.db.execute_batch("RELEASE move")?;
                return Ok(Ok(ShardReply::Move(reply)));
            }
            Err(Refusal::Refused(error)) => error,
            Err(Refusal::Sqlite(error)) => self.answer(Failure::Sqlite(error))?,
        };
        self.db.execute_batch("ROLLBACK TO move; RELEASE move")?;
        (draft.moves, draft.ownership) = before;
        Ok(Err(error))
    }

    fn take(&mut self, draft: &mut Draft, step: &MoveStep) -> Step<MoveReply> {
        match step {
            MoveStep::Index { generation, set } => {
                let moves = Arc::make_mut(&mut draft.moves);
                let done = index::extend(&self.db, moves, *generation, set)?;
                draft.counting = super::statements::triggers_count(&self.db)?;
                Ok(MoveReply::Index { done })
            }
            MoveStep::DropIndex { generation } => {
                let moves = Arc::make_mut(&mut draft.moves);
                let done = index::shrink(&self.db, moves, *generation)?;
                draft.counting = super::statements::triggers_count(&self.db)?;
                Ok(MoveReply::Index { done })
            }
            MoveStep::Freeze { id, set, slots } => self.freeze(draft, *id, set, slots),
            MoveStep::Open { id, set, slots } => self.open(draft, *id, set, slots),
            MoveStep::Stage { id, from, piece } => self.stage(draft, *id, from, piece),
            MoveStep::Try { id } => self.try_in(draft, *id),
            MoveStep::Release { id, staged } => self.release(draft, *id, staged),
            MoveStep::Activate { id, rows } => self.activate(draft, *id, *rows),
            MoveStep::Cancel { id } => self.cancel(draft, *id),
        }
    }

    fn freeze(&self, draft: &mut Draft, id: MoveId, set: &MovedSet, slots: &SlotSet) -> Step<MoveReply> {
        if let Some(ended) = draft.moves.past(id)? {
            return Ok(ended);
        }
        if draft.moves.open.is_some() {
            draft.moves.frozen(id)?;
            return Ok(MoveReply::Frozen);
        }
        let owned = draft.ownership.placements.get(&set.placement.id);
        if slots.is_empty() || !owned.is_some_and(|owned| slots.is_within(&owned.slots)) {
            return Err(Error::new(Code::Conflict, "the slots are not owned here").into());
        }
        if !draft.moves.index.as_ref().is_some_and(|index| index.is_complete(set)) {
            return Err(Error::new(Code::Conflict, "the tables have no slot index here").into());
        }
        let open = Open { id, set: set.clone(), slots: slots.clone(), staged: None };
        Arc::make_mut(&mut draft.moves).open = Some(open);
        Ok(MoveReply::Frozen)
    }

    fn open(&self, draft: &mut Draft, id: MoveId, set: &MovedSet, slots: &SlotSet) -> Step<MoveReply> {
        if let Some(ended) = draft.moves.past(id)? {
            return Ok(ended);
        }
        if draft.moves.open.is_none() {
            let owned = draft.ownership.placements.get(&set.placement.id);
            if owned.is_some_and(|owned| slots.meets(&owned.slots)) {
                return Err(Error::new(Code::Conflict, "the slots are owned here already").into());
            }
            for table in &set.tables {
                self.db.prepare_cached(&Layout::of(&self.db, table)?.insert())?;
            }
            let open = Open { id, set: set.clone(), slots: slots.clone(), staged: Some(Cursor::start(slots)) };
            Arc::make_mut(&mut draft.moves).open = Some(open);
        }
        let staged = draft.moves.staging(id)?.staged.clone().unwrap_or(Cursor::End);
        Ok(MoveReply::Staged(staged))
    }

    fn stage(&self, draft: &mut Draft, id: MoveId, from: &Cursor, piece: &Piece) -> Step<MoveReply> {
        if let Some(ended) = draft.moves.past(id)? {
            return Ok(ended);
        }
        let open = draft.moves.staging(id)?;
        if let Some(at) = open.staged.as_ref().filter(|at| *at != from) {
            // Another driver was faster; who sent this one goes on from there.
            return Ok(MoveReply::Staged(at.clone()));
        }
        if let Some(row) = piece.rows.iter().find(|row| !open.slots.contains(row.slot)) {
            return Err(Error::new(Code::MoveMismatch, format!("slot {} is not part of move {id}", row.slot)).into());
        }
        let mut insert =
            self.db.prepare_cached("INSERT INTO _flotilla_staged_rows (tbl, slot, packed) VALUES (?1, ?2, ?3)")?;
        for row in &piece.rows {
            insert.execute(rusqlite::params![row.table, row.slot.0, row.packed])?;
        }
        let mut insert = self.db.prepare_cached("INSERT INTO _flotilla_staged_requests (packed) VALUES (?1)")?;
        for request in &piece.requests {
            insert.execute([request])?;
        }
        if let Some(open) = &mut Arc::make_mut(&mut draft.moves).open {
            open.staged = Some(piece.next.clone());
        }
        Ok(MoveReply::Staged(piece.next.clone()))
    }

    fn try_in(&self, draft: &Draft, id: MoveId) -> Step<MoveReply> {
        if let Some(ended) = draft.moves.past(id)? {
            return Ok(ended);
        }
        let open = draft.moves.staging(id)?;
        self.db.execute_batch("SAVEPOINT trying")?;
        self.insert_staged(open)?;
        self.db.execute_batch("ROLLBACK TO trying; RELEASE trying")?;
        Ok(MoveReply::Tried)
    }

    fn release(&self, draft: &mut Draft, id: MoveId, staged: &[SlotDigest]) -> Step<MoveReply> {
        if let Some(ended) = draft.moves.past(id)? {
            return Ok(ended);
        }
        let open = draft.moves.frozen(id)?.clone();
        let Some(index) = &draft.moves.index else { return Err(not_open(id).into()) };
        let _quiet = Quiet::begin(&self.db)?;
        let found = index::take_rows(&self.db, index, &open.slots)?;
        if let Some((ours, theirs)) = query::differ(&found, staged) {
            let message = format!(
                "slot {}: {} rows of {} bytes here, {} rows of {} bytes at the target, and their content differs",
                ours.slot, ours.rows, ours.bytes, theirs.rows, theirs.bytes
            );
            return Err(Error::new(Code::MoveMismatch, message).into());
        }
        let epoch = self.change_owned(draft, open.set.placement.id, |owned| owned.minus(&open.slots))?;
        let (rows, bytes) = (found.iter().map(|slot| slot.rows).sum(), found.iter().map(|slot| slot.bytes).sum());
        let released = MoveReply::Released { epoch, rows, bytes };
        Arc::make_mut(&mut draft.moves).end(id, released.clone());
        Ok(released)
    }

    fn activate(&mut self, draft: &mut Draft, id: MoveId, rows: u64) -> Step<MoveReply> {
        if let Some(ended) = draft.moves.past(id)? {
            return Ok(ended);
        }
        let open = draft.moves.staging(id)?.clone();
        let inserted = self.insert_staged(&open)?;
        if open.staged != Some(Cursor::End) || inserted != rows {
            let message = format!("{inserted} rows are staged here, {rows} were released");
            return Err(Error::new(Code::MoveMismatch, message).into());
        }
        let epoch = self.change_owned(draft, open.set.placement.id, |owned| owned.union(&open.slots))?;
        let moves = Arc::make_mut(&mut draft.moves);
        if let Some(index) = &mut moves.index {
            index.start_over(open.set.placement.id);
        }
        let activated = MoveReply::Activated { epoch };
        moves.end(id, activated.clone());
        // Last, because what is remembered cannot be forgotten again for one step alone.
        let requests: Vec<Vec<u8>> = self
            .db
            .prepare_cached("SELECT packed FROM _flotilla_staged_requests ORDER BY seq")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        clear_stage(&self.db)?;
        self.requests.adopt(draft.applied.request_us, &requests)?;
        Ok(activated)
    }

    fn cancel(&self, draft: &mut Draft, id: MoveId) -> Step<MoveReply> {
        if let Some(ended) = draft.moves.past(id)? {
            return Ok(ended);
        }
        if draft.moves.open.as_ref().is_some_and(|open| open.id != id) {
            return Err(Error::new(Code::Conflict, "another move is open here").into());
        }
        clear_stage(&self.db)?;
        Arc::make_mut(&mut draft.moves).end(id, MoveReply::Cancelled);
        Ok(MoveReply::Cancelled)
    }

    fn insert_staged(&self, open: &Open) -> Step<u64> {
        let _quiet = Quiet::begin(&self.db)?;
        let mut inserted = 0;
        for (number, table) in open.set.tables.iter().enumerate() {
            let mut insert = self.db.prepare_cached(&Layout::of(&self.db, table)?.insert())?;
            let mut query =
                self.db.prepare_cached("SELECT packed FROM _flotilla_staged_rows WHERE tbl = ?1 ORDER BY seq")?;
            let mut rows = query.query([number as i64])?;
            while let Some(row) = rows.next()? {
                inserted +=
                    insert.execute(rusqlite::params_from_iter(layout::unpack(row.get_ref(0)?.as_blob()?)?))? as u64;
            }
        }
        Ok(inserted)
    }

    fn change_owned(
        &self,
        draft: &mut Draft,
        placement: PlacementId,
        change: impl FnOnce(&SlotSet) -> SlotSet,
    ) -> rusqlite::Result<Epoch> {
        let owned = draft.ownership.placements.get(&placement).cloned().unwrap_or_default();
        let epoch = Epoch(owned.epoch.0 + 1);
        draft.ownership.set(&self.db, placement, Owned { epoch, slots: change(&owned.slots) })?;
        Ok(epoch)
    }
}

fn clear_stage(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("DELETE FROM _flotilla_staged_rows; DELETE FROM _flotilla_staged_requests")
}
