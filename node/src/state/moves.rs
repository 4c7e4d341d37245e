//! Moves of slots on one shard: copied ahead, frozen and released at the source, staged and activated at the target.
//!
//! What a shard knows of moves is one value, [`Moves`], in its own database: it changes only in apply,
//! travels with snapshots, and is read by the driver's queries in the same transaction as the rows.
//!
//! # Invariants
//! 1. At most one move is open on a shard. Moves are numbered in the order in which the registry named
//!    them, and a step of a move that is not newer than the last one that ended here is answered with
//!    how that one ended, or refused. So no step does anything twice, and none does anything late.
//! 2. From the start of a move until its release, each row of its slots that changes is noted at the source,
//!    whoever changes it ([`watch`]). Each piece of a copy is of one moment, with the number of the last change before it; so
//!    what changed later is known, and copied again.
//! 3. From the freeze on no write that was routed touches the slots ([`Moves::check`]).
//! 4. The source gives up slots and version in one entry, and only if nothing was noted since its content
//!    was compared with the target's. After that entry the move can only go forward.
//! 5. Staged rows are in tables that no statement of a client sees.
//! 6. Rows are deleted and inserted in chunks, so that no other write of the shard waits for long behind one
//!    of them. From the first chunk to the registry's new map the version of the shard is one that no plan knows. So no read of
//!    all its rows sees some of them; reads and writes by key do not look at slots that they do not name.
//! 7. Rows are moved as they are: no trigger fires, no foreign key acts, no conflict clause replaces
//!    another row. A row that does not go in is an error when it is staged.
//!
//! The pieces: [`index`] finds the rows of a slot, [`watch`] hears what changes, [`layout`] reads and writes
//! rows as packed bytes, [`source`] and [`target`] take the steps, [`split`]
//! splits slots, [`query`] answers the driver.

mod forget;
pub mod index;
pub mod layout;
mod measure;
pub mod query;
mod source;
mod split;
mod target;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, MoveId, PlacementId, Slot};
use flotilla_shared::moves::{Cursor, MoveReply, MoveStep, MovedSet, SlotDigest};
use flotilla_shared::registry::SlotSet;
use flotilla_shared::wire::{Claim, Route, ShardReply};
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

/// Rows that one entry deletes, inserts or clears away: all other writes of the shard wait meanwhile, for
/// some milliseconds.
pub(crate) const CHUNK_ROWS: usize = 128;

/// Bytes that one entry inserts, for the same reason.
const CHUNK_BYTES: usize = 128 << 10;

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
    phase: Phase,
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Phase {
    /// At the source: what changes is noted.
    Noting,
    /// At the source: the tables are others now, or not all changes are known. It can only be cancelled.
    Spoilt,
    /// At the source: nobody writes.
    Frozen,
    /// At the source: given up, but some rows are still there.
    Releasing { epoch: Epoch, rows: u64, bytes: u64 },
    /// At the target.
    Staging(Stage),
    /// At the target: some rows are in.
    Activating,
    /// At the target: cancelled, but something is still staged.
    Clearing,
}

/// What is staged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stage {
    /// Where the next piece begins.
    next: Cursor,
    /// The last change of the source that is part of it.
    changes: u64,
    /// What it holds of each slot.
    slots: BTreeMap<Slot, SlotDigest>,
}

impl Phase {
    fn at_source(&self) -> bool {
        matches!(self, Self::Noting | Self::Spoilt | Self::Frozen | Self::Releasing { .. })
    }
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
        let Some(Open { set, slots, phase: Phase::Frozen, .. }) = &self.open else { return Ok(()) };
        let touches = route.claims.iter().filter(|claim| claim.placement == set.placement.id);
        for claim in touches {
            if claim.slots.as_ref().is_none_or(|claimed| claimed.meets(slots)) {
                let message = format!("slots of placement {} are on their way to another shard", claim.placement);
                return Err(Error::new(Code::StaleRoute, message).hint("the proxy waits; a client may simply retry"));
            }
        }
        Ok(())
    }

    /// Are rows of slots that were given up still here? A replica that is behind may have the version that the
    /// registry names and these rows, too.
    ///
    /// # Errors
    /// [`Code::StaleRoute`] for a read of all that the shard owns; one of named slots does not meet such rows.
    pub fn check_left_over(&self, route: &Route) -> Result<(), Error> {
        let Some(Open { set, phase: Phase::Releasing { .. }, .. }) = &self.open else { return Ok(()) };
        let whole = |claim: &Claim| claim.placement == set.placement.id && claim.slots.is_none();
        match route.claims.iter().any(whole) {
            true => Err(Error::new(Code::StaleRoute, "slots were given up, and some of their rows are still here")),
            false => Ok(()),
        }
    }

    /// Is this the name of a side table of ours?
    pub fn has_named(&self, name: &str) -> bool {
        self.index.as_ref().is_some_and(|index| index.has_named(name))
    }

    /// Must definitions of tables stay as they are? While rows are between two shards, they must.
    ///
    /// # Errors
    /// [`Code::Unavailable`]: it will not take long.
    pub fn check_schema(&self) -> Result<(), Error> {
        match self.open.as_ref().map(|open| &open.phase) {
            Some(Phase::Frozen | Phase::Releasing { .. } | Phase::Activating) => {
                Err(Error::new(Code::Unavailable, "slots are on their way at this moment"))
            }
            _ => Ok(()),
        }
    }

    /// After a schema statement: is the index still one of the tables as they are?
    ///
    /// # Errors
    /// What SQLite says.
    pub fn is_outdated(&self, db: &Connection) -> rusqlite::Result<bool> {
        self.index.as_ref().filter(|index| index.is_kept()).map_or(Ok(false), |index| index.is_outdated(db))
    }

    /// The index no longer tells where all rows are, nor what has changed. Jobs make another one.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn spoil(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if let Some(index) = &mut self.index {
            index.spoil();
        }
        self.interrupt(db)?;
        self.save(db)
    }

    /// A move that is not released cannot go on.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn interrupt(&mut self, db: &Connection) -> rusqlite::Result<()> {
        match self.open.as_mut().filter(|open| matches!(open.phase, Phase::Noting | Phase::Frozen)) {
            Some(open) => open.phase = Phase::Spoilt,
            None => return Ok(()),
        }
        self.save(db)
    }

    /// The slots whose changes are noted.
    fn noting(&self) -> Option<&SlotSet> {
        let open = self.open.as_ref()?;
        matches!(open.phase, Phase::Noting | Phase::Frozen).then_some(&open.slots)
    }

    /// No move is open that relies on the index.
    fn at_rest(&self) -> Result<(), Error> {
        match self.open.as_ref().filter(|open| open.phase.at_source()) {
            None => Ok(()),
            Some(open) => Err(Error::new(Code::Conflict, format!("move {} is open here", open.id))),
        }
    }

    fn opened(&self, id: MoveId) -> Result<&Open, Error> {
        self.open.as_ref().filter(|open| open.id == id).ok_or_else(|| not_open(id))
    }

    /// The move that is open at its source, and not released.
    fn exporting(&self, id: MoveId) -> Result<&Open, Error> {
        let open = self.opened(id)?;
        match open.phase {
            Phase::Noting | Phase::Frozen => Ok(open),
            Phase::Spoilt => Err(Error::new(Code::Conflict, "the tables of the move have changed")),
            _ => Err(not_open(id)),
        }
    }

    fn staging(&self, id: MoveId) -> Result<(&Open, &Stage), Error> {
        match self.opened(id)? {
            open @ Open { phase: Phase::Staging(stage), .. } => Ok((open, stage)),
            _ => Err(not_open(id)),
        }
    }

    fn set_phase(&mut self, phase: Phase) {
        if let Some(open) = &mut self.open {
            open.phase = phase;
        }
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

/// While it lives, no trigger fires and no foreign key acts on this connection, and no change is noted.
struct Quiet<'a>(&'a Connection, #[expect(dead_code, reason = "ends with it")] watch::Pause);

impl<'a> Quiet<'a> {
    fn begin(db: &'a Connection, watch: &watch::Watch) -> rusqlite::Result<Self> {
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        let quiet = Self(db, watch.pause());
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
                let done = index::extend(&self.db, Arc::make_mut(&mut draft.moves), *generation, set)?;
                return Ok(MoveReply::Index { done });
            }
            MoveStep::DropIndex { generation } => {
                let done = index::shrink(&self.db, Arc::make_mut(&mut draft.moves), *generation)?;
                return Ok(MoveReply::Index { done });
            }
            _ => (),
        }
        if let Some(ended) = draft.moves.past(id_of(step))? {
            return Ok(ended);
        }
        match step {
            MoveStep::Ahead { id, set, slots } => self.ahead(draft, *id, set, slots),
            MoveStep::Freeze { id } => self.freeze(draft, *id),
            MoveStep::Open { id, set, slots } => self.open(draft, *id, set, slots),
            MoveStep::Stage { id, from, piece } => self.stage(draft, *id, from, piece),
            MoveStep::Release { id, content } => self.release(draft, *id, content),
            MoveStep::Activate { id, rows } => self.activate(draft, *id, *rows),
            MoveStep::Forget { id, placement, tables, copies } => self.forget(draft, *id, *placement, tables, *copies),
            MoveStep::Cancel { id } => self.cancel(draft, *id),
            MoveStep::Index { .. } | MoveStep::DropIndex { .. } => Err(not_open(MoveId::default()).into()),
        }
    }

    /// Ends a move on either side.
    fn cancel(&self, draft: &mut Draft, id: MoveId) -> Step<MoveReply> {
        let moves = Arc::make_mut(&mut draft.moves);
        match moves.open.as_ref() {
            Some(open) if open.id != id => return Err(Error::new(Code::Conflict, "another move is open here").into()),
            Some(Open { phase: Phase::Releasing { epoch, rows, bytes }, .. }) => {
                return Ok(MoveReply::Released { epoch: *epoch, rows: *rows, bytes: *bytes, done: false });
            }
            Some(Open { phase: Phase::Activating, .. }) => return Err(not_open(id).into()),
            Some(open) if open.phase.at_source() => source::forget_changes(&self.db)?,
            Some(_) if !target::clear_some(&self.db)? => {
                moves.set_phase(Phase::Clearing);
                return Ok(MoveReply::Cancelling);
            }
            _ => (),
        }
        moves.end(id, MoveReply::Cancelled);
        Ok(MoveReply::Cancelled)
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

fn id_of(step: &MoveStep) -> MoveId {
    match step {
        MoveStep::Index { .. } | MoveStep::DropIndex { .. } => MoveId::default(),
        MoveStep::Ahead { id, .. }
        | MoveStep::Freeze { id }
        | MoveStep::Open { id, .. }
        | MoveStep::Stage { id, .. }
        | MoveStep::Release { id, .. }
        | MoveStep::Activate { id, .. }
        | MoveStep::Forget { id, .. }
        | MoveStep::Cancel { id } => *id,
    }
}
