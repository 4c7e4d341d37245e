//! Applying a batch of entries: one SQLite transaction, each write undone alone when it fails.
//!
//! [`Machine::apply`] is the pure function of DESIGN 3.4. What the transaction cannot undo for a
//! single write (see [`super`], invariant 4) aborts the attempt; the write is marked as failed with
//! the error that it met, and the batch starts over. Each attempt marks one write more, so there are
//! at most as many attempts as writes.

use std::collections::HashMap;
use std::io;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::ids::{Epoch, JobId, SchemaVersion};
use flotilla_shared::registry::{HOME, HOME_SHARD, Registry, SchemaObject, SlotSet};
use flotilla_shared::wire::{
    Body, Command, NewHome, Outcome, Rows, ShardCommand, ShardReply, Statement, StatementResult, Write, WriteResult,
};
use rusqlite::{Connection, OptionalExtension, ffi};

use super::guard::{self, Guard, Mode};
use super::ownership::{Owned, Ownership};
use super::requests::Requests;
use super::store::{Applied, storage};
use super::world;
use crate::consensus::{Entry, Payload, StoredMembership};

/// Rows that RETURNING, or a SELECT inside a transaction, may answer.
pub const MAX_RETURNED_ROWS: usize = 10_000;

/// Bytes that they may take.
pub const MAX_RETURNED_BYTES: usize = 4 << 20;

/// Answers to jobs that are kept, so that a repeated step answers like the first.
const KEPT_JOBS: i64 = 64;

/// The state of a group: its database and what is kept of it in memory.
pub struct Machine {
    db: Connection,
    guard: Guard,
    /// As of the last committed batch.
    pub applied: Applied,
    ownership: Ownership,
    requests: Requests,
    /// In the `meta` group.
    registry: Option<Registry>,
    /// Whether some table defers foreign keys, so that writes must be checked for them.
    defers: bool,
}

/// Why an attempt ended.
enum Stop {
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

type Marks = HashMap<(usize, usize), Error>;

/// State that a batch changes in memory; put in place once it is committed.
struct Draft {
    applied: Applied,
    ownership: Ownership,
    registry: Option<Registry>,
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
            let mut applied = Applied::load(&db)?;
            let mut ownership = Ownership::load(&db)?;
            if group == HOME_SHARD && !ownership.placements.contains_key(&HOME) {
                // Every shard 1 is born with the home placement, before its first entry.
                ownership.set(&db, HOME, Owned { epoch: flotilla_shared::ids::Epoch(1), slots: SlotSet::all(1) })?;
            }
            applied.first_request = applied.first_request.max(0);
            let requests = Requests::load(&db, applied.first_request)?;
            let registry = match group.is_shard() {
                true => None,
                false => Some(load_registry(&db)?),
            };
            let defers = defers_foreign_keys(&db)?;
            Ok(Self { db, guard, applied, ownership, requests, registry, defers })
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

    /// The remembered requests.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Applies entries in order and answers each.
    ///
    /// # Errors
    /// Only what must stop the replica.
    pub fn apply(&mut self, entries: &[Entry]) -> io::Result<Vec<Outcome>> {
        let mut marks = Marks::new();
        loop {
            self.begin().map_err(storage)?;
            match self.attempt(entries, &marks) {
                Ok((outcomes, draft)) => {
                    self.db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map_err(storage)?;
                    self.requests.settle();
                    (self.applied, self.ownership, self.registry) = (draft.applied, draft.ownership, draft.registry);
                    return Ok(outcomes);
                }
                Err(stop) => {
                    self.requests.abandon();
                    if !self.db.is_autocommit() {
                        self.db.execute_batch("ROLLBACK").map_err(storage)?;
                    }
                    match stop {
                        Stop::Mark { entry, write, error } => marks.insert((entry, write), error),
                        Stop::Storage(error) => return Err(error),
                    };
                }
            }
        }
    }

    fn begin(&self) -> rusqlite::Result<()> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    fn attempt(&mut self, entries: &[Entry], marks: &Marks) -> Result<(Vec<Outcome>, Draft), Stop> {
        let mut draft =
            Draft { applied: self.applied.clone(), ownership: self.ownership.clone(), registry: self.registry.clone() };
        let mut outcomes = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
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
        draft.applied.at_us = draft.applied.at_us.max(command.at_us);
        let at_us = draft.applied.at_us;
        self.requests.expire(at_us);
        match &command.body {
            Body::Writes(writes) => {
                let mut results = Vec::with_capacity(writes.len());
                for (number, write) in writes.iter().enumerate() {
                    // Distinct writes of one entry see distinct randomness.
                    let seed = command.seed ^ (number as u64).wrapping_mul(0xA076_1D64_78BD_642F);
                    let mark = marks.get(&(index, number));
                    results.push(self.write(draft, (index, number), write, (at_us, seed), mark)?);
                }
                Ok(Outcome::Writes(results))
            }
            Body::Shard(step) => {
                let mark = marks.get(&(index, 0));
                Ok(Outcome::Shard(self.shard_step(draft, index, step, (at_us, command.seed), mark)?))
            }
            Body::Meta(change) => {
                let Some(registry) = draft.registry.as_mut() else {
                    return Ok(Outcome::Meta(Err(Error::new(Code::Internal, "this group holds no registry"))));
                };
                let reply = registry.apply(at_us, (**change).clone());
                if reply.is_ok() {
                    save_registry(&self.db, registry)?;
                }
                Ok(Outcome::Meta(reply))
            }
        }
    }

    fn write(
        &mut self,
        draft: &Draft,
        (entry, number): (usize, usize),
        write: &Write,
        (at_us, seed): (i64, u64),
        mark: Option<&Error>,
    ) -> Result<WriteResult, Stop> {
        if let Some(first) = self.requests.find(write.id) {
            return Ok(first);
        }
        if let Some(route) = &write.route
            && let Err(stale) = draft.ownership.check(draft.applied.schema, route)
        {
            return Ok(Err(stale));
        }
        let result = match mark {
            Some(error) => Err(error.clone()),
            None => {
                self.statements(&write.statements, Mode::Write, at_us, seed).map_err(|stop| stop.at(entry, number))?
            }
        };
        self.requests.remember(write.id, at_us, &result);
        Ok(result)
    }

    /// Runs statements that take effect together or not at all.
    fn statements(
        &self,
        statements: &[Statement],
        mode: Mode,
        at_us: i64,
        seed: u64,
    ) -> Result<WriteResult, LocalStop> {
        let several = statements.len() > 1;
        let _world = world::enter(&self.db, at_us, seed);
        if several {
            self.db.prepare_cached("SAVEPOINT w")?.execute([])?;
        }
        let mut results = Vec::with_capacity(statements.len());
        for statement in statements {
            match self.guard.within(mode, || run(&self.db, statement)) {
                Ok(result) => results.push(result),
                Err(failure) => {
                    let error = failure.reply()?;
                    if self.db.is_autocommit() {
                        return Err(LocalStop::Mark(error));
                    }
                    if several {
                        self.undo()?;
                    }
                    return Ok(Err(error));
                }
            }
            world::statement_done();
        }
        if world::rowid_exhausted() {
            return Err(LocalStop::Mark(
                Error::new(Code::Constraint, "the largest rowid is not available")
                    .hint("beyond it SQLite picks rowids at random, which replicas cannot agree on"),
            ));
        }
        if self.defers && deferred_violations(&self.db) {
            return Err(LocalStop::Mark(Error::new(Code::Constraint, "FOREIGN KEY constraint failed")));
        }
        if several {
            self.db.prepare_cached("RELEASE w")?.execute([])?;
        }
        Ok(Ok(results))
    }

    fn undo(&self) -> rusqlite::Result<()> {
        self.db.prepare_cached("ROLLBACK TO w")?.execute([])?;
        self.db.prepare_cached("RELEASE w")?.execute([])?;
        Ok(())
    }

    fn shard_step(
        &mut self,
        draft: &mut Draft,
        entry: usize,
        step: &ShardCommand,
        (at_us, seed): (i64, u64),
        mark: Option<&Error>,
    ) -> Result<Result<ShardReply, Error>, Stop> {
        if let Some(error) = mark {
            return Ok(Err(error.clone()));
        }
        match step {
            ShardCommand::Own { placement, epoch, slots } => {
                let known = draft.ownership.placements.get(placement).map(|owned| owned.epoch).unwrap_or_default();
                if known < *epoch {
                    draft.ownership.set(&self.db, *placement, Owned { epoch: *epoch, slots: slots.clone() })?;
                }
                Ok(Ok(ShardReply::Ok))
            }
            ShardCommand::Schema { job, version, sql, dry_run } => {
                let statements: Vec<Statement> = sql.iter().map(Statement::bare).collect();
                if *dry_run {
                    self.db.execute_batch("SAVEPOINT dry")?;
                    let result =
                        self.statements(&statements, Mode::Schema, at_us, seed).map_err(|stop| stop.at(entry, 0))?;
                    self.db.execute_batch("ROLLBACK TO dry; RELEASE dry")?;
                    return Ok(result.map(|_| ShardReply::Ok));
                }
                if self.kept_reply(*job)?.is_none() {
                    let result =
                        self.statements(&statements, Mode::Schema, at_us, seed).map_err(|stop| stop.at(entry, 0))?;
                    if let Err(error) = result {
                        return Ok(Err(error));
                    }
                    draft.applied.schema = SchemaVersion(draft.applied.schema.0.max(version.0));
                    self.keep_reply(*job, &ShardReply::Ok)?;
                    self.defers = defers_foreign_keys(&self.db)?;
                }
                Ok(Ok(ShardReply::Schema(schema_objects(&self.db)?)))
            }
            ShardCommand::Register { job, table, into, version } => {
                if let Some(reply) = self.kept_reply(*job)? {
                    return Ok(Ok(reply));
                }
                let had_rows = match has_rows(&self.db, table)? {
                    Some(had_rows) => had_rows,
                    None => return Ok(Err(Error::new(Code::NoSuchTable, format!("no such table: {table}")))),
                };
                match into {
                    NewHome::New { placement, share, all } => {
                        let slots = if had_rows { all.clone() } else { share.clone() };
                        draft.ownership.set(&self.db, *placement, Owned { epoch: Epoch(1), slots })?;
                    }
                    NewHome::Existing { rows_may_stay } if had_rows && !rows_may_stay => {
                        return Ok(Err(Error::new(
                            Code::UnsafeRegistration,
                            format!("{table} holds rows, and the table to colocate with is spread over other shards"),
                        )
                        .hint("register it before rows are inserted")));
                    }
                    NewHome::Existing { .. } => (),
                }
                // Whoever still plans with the table in the home placement is sent back to plan anew.
                let mut home = draft.ownership.placements.get(&HOME).cloned().unwrap_or_default();
                home.epoch.0 += 1;
                draft.ownership.set(&self.db, HOME, home.clone())?;
                draft.applied.schema = SchemaVersion(draft.applied.schema.0.max(version.0));
                let reply = ShardReply::Registered { had_rows, home_epoch: home.epoch };
                self.keep_reply(*job, &reply)?;
                Ok(Ok(reply))
            }
            ShardCommand::Describe => Ok(Ok(ShardReply::Schema(schema_objects(&self.db)?))),
        }
    }

    fn kept_reply(&self, job: JobId) -> Result<Option<ShardReply>, Stop> {
        let blob: Option<Vec<u8>> = self
            .db
            .query_row("SELECT reply FROM _flotilla_jobs WHERE job = ?1", [job.0 as i64], |row| row.get(0))
            .optional()?;
        blob.map(|blob| postcard::from_bytes(&blob).map_err(|error| Stop::Storage(io::Error::other(error)))).transpose()
    }

    /// Job 0 stands for steps that may be repeated as they are.
    fn keep_reply(&self, job: JobId, reply: &ShardReply) -> rusqlite::Result<()> {
        if job.0 == 0 {
            return Ok(());
        }
        self.db.execute(
            "INSERT INTO _flotilla_jobs (job, reply) VALUES (?1, ?2)",
            rusqlite::params![job.0 as i64, postcard::to_stdvec(reply).expect("replies encode")],
        )?;
        self.db.execute("DELETE FROM _flotilla_jobs WHERE job <= ?1", [job.0 as i64 - KEPT_JOBS])?;
        Ok(())
    }
}

/// Why a write's statements stopped.
enum LocalStop {
    Mark(Error),
    Storage(io::Error),
}

impl From<rusqlite::Error> for LocalStop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(storage(error))
    }
}

impl LocalStop {
    fn at(self, entry: usize, write: usize) -> Stop {
        match self {
            Self::Mark(error) => Stop::Mark { entry, write, error },
            Self::Storage(error) => Stop::Storage(error),
        }
    }
}

/// Why one statement failed.
enum Failure {
    Refused(Error),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Failure {
    /// The answer to the client, or the fault of the disk that must stop the replica.
    fn reply(self) -> Result<Error, LocalStop> {
        let error = match self {
            Self::Refused(error) => return Ok(error),
            Self::Sqlite(error) => error,
        };
        if guard::is_step_limit(&error) {
            return Ok(Error::new(Code::TooLarge, format!("the statement took more than {} steps", guard::MAX_STEPS))
                .hint("split the statement into smaller ones"));
        }
        if let rusqlite::Error::SqliteFailure(failure, _) = &error {
            let primary = failure.extended_code & 0xff;
            let fatal = [
                ffi::SQLITE_IOERR,
                ffi::SQLITE_CORRUPT,
                ffi::SQLITE_FULL,
                ffi::SQLITE_NOMEM,
                ffi::SQLITE_CANTOPEN,
                ffi::SQLITE_NOTADB,
                ffi::SQLITE_BUSY,
                ffi::SQLITE_LOCKED,
                ffi::SQLITE_READONLY,
                ffi::SQLITE_PROTOCOL,
            ];
            if fatal.contains(&primary) {
                return Err(LocalStop::Storage(storage(error)));
            }
        }
        Ok(Error::from_sqlite(&error))
    }
}

/// Runs one statement of a client.
fn run(db: &Connection, statement: &Statement) -> Result<StatementResult, Failure> {
    let mut prepared = db.prepare_cached(&statement.sql)?;
    statement.params.bind(&mut prepared).map_err(Failure::Refused)?;
    guard::reset_step_count(&prepared);
    let readonly = prepared.readonly();
    let rows = match prepared.column_count() {
        0 => {
            let mut rows = prepared.raw_query();
            while rows.next()?.is_some() {}
            None
        }
        _ => Some(collect(&mut prepared, MAX_RETURNED_ROWS, MAX_RETURNED_BYTES)?),
    };
    Ok(StatementResult {
        last_insert_id: db.last_insert_rowid(),
        rows_affected: if readonly { 0 } else { db.changes() },
        rows,
    })
}

/// Reads all rows of a bound statement, within bounds.
fn collect(prepared: &mut rusqlite::Statement<'_>, max_rows: usize, max_bytes: usize) -> Result<Rows, Failure> {
    super::reads::collect(prepared, max_rows, max_bytes).map_err(|error| match error {
        super::reads::ReadFailure::Refused(error) => Failure::Refused(error),
        super::reads::ReadFailure::Sqlite(error) => Failure::Sqlite(error),
    })
}

/// All schema objects that are not ours, in an order in which they can be created.
fn schema_objects(db: &Connection) -> rusqlite::Result<Vec<SchemaObject>> {
    let mut query = db.prepare_cached(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema
         WHERE sql IS NOT NULL AND name NOT LIKE '\\_flotilla\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, rowid",
    )?;
    let objects = query.query_map([], |row| {
        Ok(SchemaObject { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)?, placement: HOME })
    })?;
    objects.collect()
}

/// Does the table hold rows? `None` when there is no such table.
fn has_rows(db: &Connection, table: &str) -> rusqlite::Result<Option<bool>> {
    let known: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE)",
        [table],
        |row| row.get(0),
    )?;
    if !known {
        return Ok(None);
    }
    db.query_row(&format!("SELECT EXISTS (SELECT 1 FROM \"{}\")", table.replace('"', "\"\"")), [], |row| row.get(0))
        .map(Some)
}

fn defers_foreign_keys(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%REFERENCES%' AND sql LIKE '%DEFERR%')",
        [],
        |row| row.get(0),
    )
}

fn deferred_violations(db: &Connection) -> bool {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: the handle is valid while `db` is borrowed, and the places are ours.
    unsafe { ffi::sqlite3_db_status(db.handle(), ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &mut current, &mut highest, 0) };
    current != 0
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
