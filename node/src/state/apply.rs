//! Applying a batch of entries: one SQLite transaction, each write undone alone when it fails.
//!
//! [`Machine::apply`] is the pure function of DESIGN 3.4. What the transaction cannot undo for a
//! single write (see [`super`], invariant 4) ends the attempt; what came before its entry is applied
//! again and committed, and the entry starts over on its own with that write marked as failed. So an
//! entry is run at most twice, plus once for each of its writes that ended an attempt.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, PlacementId};
use flotilla_shared::registry::{HOME, HOME_SHARD, MetaCommand, MetaReply, Registry, SlotSet};
use flotilla_shared::wire::{Body, Command, Outcome, Write, WriteResult};
use rusqlite::{Connection, OptionalExtension};

use super::guard::{Guard, Mode};
use super::moves::Moves;
use super::moves::watch::Watch;
use super::ownership::{Owned, Ownership};
use super::requests::{MAX_STEP_US, Requests};
use super::statements::{self, Halt, Moment};
use super::store::{Applied, storage};
use crate::consensus::{Entry, Payload, StoredMembership};

/// The state of a group: its database and what is kept of it in memory.
pub struct Machine {
    pub(super) db: Connection,
    pub(super) guard: Guard,
    /// As of the last committed batch.
    pub applied: Applied,
    ownership: Ownership,
    moves: Arc<Moves>,
    pub(super) watch: Watch,
    pub(super) requests: Requests,
    /// In the `meta` group.
    registry: Option<Registry>,
    /// Some trigger asks for `changes()`.
    counting: bool,
}

/// Why an attempt ended.
pub(super) enum Stop {
    /// Start over with this write marked.
    Mark { entry: usize, write: usize, error: Error },
    /// The replica must stop.
    Storage(io::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(storage(error))
    }
}

impl Stop {
    fn of(halt: Halt, entry: usize, write: usize) -> Self {
        match halt {
            Halt::Undo(error) => Self::Mark { entry, write, error },
            Halt::Storage(error) => Self::Storage(error),
        }
    }
}

/// Writes that failed in an earlier attempt, by entry and number.
type Marks = HashMap<(usize, usize), Error>;

/// State that a batch changes in memory; put in place once it is committed.
pub(super) struct Draft {
    pub applied: Applied,
    pub ownership: Ownership,
    pub moves: Arc<Moves>,
    registry: Option<Registry>,
    pub counting: bool,
}

impl Machine {
    /// Takes over a database.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn new(mut db: Connection, group: GroupId) -> io::Result<Self> {
        let load = move || -> rusqlite::Result<Self> {
            let guard = Guard::install(&mut db)?;
            guard.limit_steps(&mut db)?;
            let applied = Applied::load(&db)?;
            let mut ownership = Ownership::load(&db)?;
            if group == HOME_SHARD && !ownership.placements.contains_key(&HOME) {
                // Shard 1 is born with the home placement, before its first entry.
                ownership.set(&db, HOME, Owned { epoch: Epoch(1), slots: SlotSet::all(1) })?;
            }
            let moves = Arc::new(Moves::load(&db)?);
            let requests = Requests::load(&db, applied.first_request)?;
            let registry = match group.is_shard() {
                true => None,
                false => Some(load_registry(&db)?),
            };
            let counting = statements::triggers_count(&db)?;
            let watch = Watch::default();
            Ok(Self { db, guard, applied, ownership, moves, watch, requests, registry, counting })
        };
        load().map_err(storage)
    }

    /// The registry, in the `meta` group.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// The connection, for checks in tests and the content hash.
    pub fn db(&self) -> &Connection {
        &self.db
    }

    /// The slots of a placement that this shard owns.
    pub fn owned(&self, placement: PlacementId) -> Option<&SlotSet> {
        self.ownership.placements.get(&placement).map(|owned| &owned.slots)
    }

    /// The version of that.
    pub fn version(&self, placement: PlacementId) -> Epoch {
        self.ownership.placements.get(&placement).map(|owned| owned.epoch).unwrap_or_default()
    }

    /// The moves of slots that this shard knows of.
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// The remembered requests.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Applies entries in order and answers each. Entries that are applied already are passed over
    /// and answered with [`Outcome::Empty`]; that happens after a snapshot that holds more than its
    /// leader was asked for.
    ///
    /// # Errors
    /// Only what must stop the replica.
    pub fn apply(&mut self, entries: &[Entry]) -> io::Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while !rest.is_empty() {
            match self.transaction(rest, &Marks::new()) {
                Ok(list) => {
                    outcomes.extend(list);
                    break;
                }
                Err(Stop::Mark { entry, write, error }) => {
                    let (before, after) = rest.split_at(entry);
                    outcomes.extend(self.apply(before)?);
                    let marks = Marks::from([((0, write), error)]);
                    outcomes.extend(self.apply_alone(&after[..1], marks)?);
                    rest = &after[1..];
                }
                Err(Stop::Storage(error)) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    /// Applies one entry, of which some writes are known to fail.
    fn apply_alone(&mut self, entry: &[Entry], mut marks: Marks) -> io::Result<Vec<Outcome>> {
        loop {
            match self.transaction(entry, &marks) {
                Ok(outcomes) => return Ok(outcomes),
                Err(Stop::Mark { entry, write, error }) => marks.insert((entry, write), error),
                Err(Stop::Storage(error)) => return Err(error),
            };
        }
    }

    /// One attempt in a transaction of its own, which leaves no trace unless it succeeds.
    fn transaction(&mut self, entries: &[Entry], marks: &Marks) -> Result<Vec<Outcome>, Stop> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let attempt = self.attempt(entries, marks).and_then(|done| {
            self.db.prepare_cached("COMMIT")?.execute([])?;
            Ok(done)
        });
        match attempt {
            Ok((outcomes, draft)) => {
                self.requests.settle();
                (self.applied, self.ownership, self.moves) = (draft.applied, draft.ownership, draft.moves);
                (self.registry, self.counting) = (draft.registry, draft.counting);
                Ok(outcomes)
            }
            Err(stop) => {
                self.requests.abandon();
                if !self.db.is_autocommit() {
                    let undone = self.db.execute_batch("ROLLBACK");
                    // The first error says more than what follows from it.
                    if !matches!(stop, Stop::Storage(_)) {
                        undone?;
                    }
                }
                Err(stop)
            }
        }
    }

    fn attempt(&mut self, entries: &[Entry], marks: &Marks) -> Result<(Vec<Outcome>, Draft), Stop> {
        let mut draft = Draft {
            applied: self.applied.clone(),
            ownership: self.ownership.clone(),
            moves: Arc::clone(&self.moves),
            registry: self.registry.clone(),
            counting: self.counting,
        };
        let mut outcomes = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            if draft.applied.log_id.is_some_and(|done| entry.log_id.index <= done.index) {
                outcomes.push(Outcome::Empty);
                continue;
            }
            draft.applied.log_id = Some(entry.log_id);
            outcomes.push(match &entry.payload {
                Payload::Blank => Outcome::Empty,
                Payload::Membership(membership) => {
                    draft.applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    Outcome::Empty
                }
                Payload::Normal(command) => self.command(&mut draft, index, command, marks)?,
            });
        }
        self.requests.write(&self.db)?;
        draft.applied.first_request = self.requests.first();
        draft.applied.save(&self.db)?;
        Ok((outcomes, draft))
    }

    fn command(&mut self, draft: &mut Draft, index: usize, command: &Command, marks: &Marks) -> Result<Outcome, Stop> {
        let advance_us = command.at_us.saturating_sub(draft.applied.at_us).max(0);
        draft.applied.at_us = draft.applied.at_us.max(command.at_us);
        draft.applied.request_us += advance_us.min(MAX_STEP_US);
        let moment = Moment { at_us: draft.applied.at_us, seed: command.seed };
        self.requests.expire(draft.applied.request_us);
        match &command.body {
            Body::Writes(writes) => {
                let mut results = Vec::with_capacity(writes.len());
                for (number, write) in writes.iter().enumerate() {
                    let mark = marks.get(&(index, number));
                    let result = self.write(draft, write, moment.of_write(number), mark);
                    results.push(result.map_err(|halt| Stop::of(halt, index, number))?);
                }
                Ok(Outcome::Writes(results))
            }
            Body::Shard(step) => match marks.get(&(index, 0)) {
                Some(error) => Ok(Outcome::Shard(Err(error.clone()))),
                None => match self.shard_step(draft, step, moment) {
                    Ok(reply) => Ok(Outcome::Shard(reply)),
                    Err(halt) => Err(Stop::of(halt, index, 0)),
                },
            },
            Body::Meta(change) => Ok(Outcome::Meta(self.meta_change(draft, moment, change)?)),
        }
    }

    fn write(
        &mut self,
        draft: &mut Draft,
        write: &Write,
        moment: Moment,
        mark: Option<&Error>,
    ) -> Result<WriteResult, Halt> {
        if let Some(first) = self.requests.find(write.id) {
            return Ok(first);
        }
        // Not remembered: planned anew, the same request may succeed.
        if let Some(route) = &write.route
            && let Err(stale) =
                draft.ownership.check(draft.applied.schema, route).and_then(|()| draft.moves.check(route))
        {
            return Ok(Err(stale));
        }
        let result = match mark {
            Some(error) => Err(error.clone()),
            None => self.statements(draft, Mode::Write, &write.statements, moment)?,
        };
        self.requests.remember_for(write.route.as_ref(), write.id, draft.applied.request_us, &result);
        Ok(result)
    }

    fn meta_change(
        &self,
        draft: &mut Draft,
        moment: Moment,
        change: &MetaCommand,
    ) -> Result<Result<MetaReply, Error>, Stop> {
        let Some(registry) = &draft.registry else {
            return Ok(Err(Error::new(Code::Internal, "this group holds no registry")));
        };
        // On a copy: a refusal must leave the registry as the database has it.
        let mut registry = registry.clone();
        let reply = registry.apply(moment.at_us, change.clone());
        if reply.is_ok() {
            save_registry(&self.db, &registry)?;
            draft.registry = Some(registry);
        }
        Ok(reply)
    }
}

fn load_registry(db: &Connection) -> rusqlite::Result<Registry> {
    let blob: Option<Vec<u8>> =
        db.query_row("SELECT value FROM _flotilla_state WHERE key = 'registry'", [], |row| row.get(0)).optional()?;
    match blob {
        None => Ok(Registry::default()),
        Some(blob) => postcard::from_bytes(&blob).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
        }),
    }
}

fn save_registry(db: &Connection, registry: &Registry) -> rusqlite::Result<()> {
    db.prepare_cached("REPLACE INTO _flotilla_state (key, value) VALUES ('registry', ?1)")?
        .execute([postcard::to_stdvec(registry).expect("the registry encodes")])?;
    Ok(())
}
