//! Running the statements of one write, or of one schema step: together or not at all.
//!
//! A failed statement is an answer. [`Halt`] is for the two cases that are not: what only a rollback
//! of the whole transaction undoes (or has undone already), and a fault that must stop the replica.

use std::io;
use std::sync::Arc;

use flotilla_shared::closed::DEFER_FOREIGN_KEYS;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::wire::{Rows, Statement, StatementResult, WriteResult};
use rusqlite::{Connection, ffi};

use super::apply::{Draft, Machine};
use super::guard::{self, Guard, Mode};
use super::reads::{self, ReadFailure};
use super::store::storage;
use super::{moves, vfs, world};

/// Rows that RETURNING, or a SELECT inside a transaction, may answer.
pub const MAX_RETURNED_ROWS: usize = 10_000;

/// Bytes that they may take.
pub const MAX_RETURNED_BYTES: usize = 4 << 20;

/// Longest error message, in bytes: SQLite may quote a whole token, and errors are remembered.
const MAX_MESSAGE_BYTES: usize = 1 << 10;

/// The time and randomness of an entry.
#[derive(Clone, Copy)]
pub struct Moment {
    /// Microseconds since 1970.
    pub at_us: i64,
    /// Where the generator starts.
    pub seed: u64,
}

impl Moment {
    /// The moment of one of the writes of an entry: distinct writes see distinct randomness.
    pub fn of_write(self, number: usize) -> Self {
        Self { seed: self.seed ^ (number as u64).wrapping_mul(0xA076_1D64_78BD_642F), ..self }
    }
}

/// Why statements ended without an answer.
pub enum Halt {
    /// The transaction is gone, or must go; the error is the answer once it was started over.
    Undo(Error),
    /// The replica must stop.
    Storage(io::Error),
}

impl From<rusqlite::Error> for Halt {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(storage(error))
    }
}

/// Why one statement failed.
pub(super) enum Failure {
    Refused(Error),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<ReadFailure> for Failure {
    fn from(failure: ReadFailure) -> Self {
        match failure {
            ReadFailure::Refused(error) => Self::Refused(error),
            ReadFailure::Sqlite(error) => Self::Sqlite(error),
        }
    }
}

impl Machine {
    /// Runs statements that take effect together or not at all.
    pub(super) fn statements(
        &self,
        draft: &mut Draft,
        mode: Mode,
        statements: &[Statement],
        moment: Moment,
    ) -> Result<WriteResult, Halt> {
        let db = &self.db;
        self.watch.follow(db, &draft.moves).map_err(watching)?;
        let several = statements.len() > 1;
        if draft.counting {
            // Sets the connection's own count to zero: a trigger sees it before its own statements count.
            db.prepare_cached("DELETE FROM _flotilla_jobs WHERE 0")?.execute([])?;
        }
        let _world = world::enter(db, moment.at_us, moment.seed, draft.counting);
        if several {
            db.prepare_cached("SAVEPOINT w")?.execute([])?;
        }
        let mut results = Vec::with_capacity(statements.len());
        let deferred = Deferred::of(db, statements)?;
        for statement in statements {
            if deferred.is_some() && results.is_empty() {
                results.push(StatementResult::default());
                continue;
            }
            let changes = db.total_changes();
            match self.guard.within(mode, || run(db, &self.guard, mode, statement)) {
                Ok(result) => results.push(result),
                Err(failure) => {
                    let error = self.answer(failure)?;
                    if world::rowid_exhausted() {
                        return Err(Halt::Undo(no_rowid()));
                    }
                    if db.is_autocommit() {
                        return Err(Halt::Undo(error));
                    }
                    if several {
                        db.prepare_cached("ROLLBACK TO w")?.execute([])?;
                        db.prepare_cached("RELEASE w")?.execute([])?;
                    } else if db.total_changes() != changes || deferred_violations(db) {
                        // One statement has no savepoint; OR FAIL keeps the rows before the failing one,
                        // and a result over its bound is noticed when the rows are already changed. A row that
                        // violates an immediate and a deferred foreign key stays counted among the deferred
                        // violations, and the commit of the batch would fail.
                        return Err(Halt::Undo(error));
                    }
                    return Ok(Err(error));
                }
            }
            world::statement_done();
        }
        if world::rowid_exhausted() {
            return Err(Halt::Undo(no_rowid()));
        }
        if deferred_violations(db) {
            return Err(Halt::Undo(Error::new(Code::Constraint, "FOREIGN KEY constraint failed")));
        }
        if several {
            db.prepare_cached("RELEASE w")?.execute([])?;
        }
        if !self.watch.flush(db, &draft.moves).map_err(watching)? {
            Arc::make_mut(&mut draft.moves).spoil(db)?;
        }
        Ok(Ok(results))
    }

    /// The answer to the client, or the fault of the disk that must stop the replica.
    pub(super) fn answer(&self, failure: Failure) -> Result<Error, Halt> {
        let error = match failure {
            Failure::Refused(error) => return Ok(error),
            Failure::Sqlite(error) => error,
        };
        if guard::is_step_limit(&error) {
            return Ok(Error::new(Code::TooLarge, format!("the statement took more than {} steps", guard::MAX_STEPS))
                .hint("split the statement into smaller ones"));
        }
        if let rusqlite::Error::SqliteFailure(sqlite, _) = &error {
            match sqlite.extended_code & 0xff {
                // No disk was full, so it is what AUTOINCREMENT says after the largest rowid.
                ffi::SQLITE_FULL if !vfs::take_disk_full() => return Ok(no_rowid()),
                ffi::SQLITE_IOERR
                | ffi::SQLITE_CORRUPT
                | ffi::SQLITE_FULL
                | ffi::SQLITE_NOMEM
                | ffi::SQLITE_CANTOPEN
                | ffi::SQLITE_NOTADB
                | ffi::SQLITE_BUSY
                | ffi::SQLITE_LOCKED
                | ffi::SQLITE_READONLY
                | ffi::SQLITE_PROTOCOL => return Err(Halt::Storage(storage(error))),
                _ => {}
            }
        }
        let mut answer = self.guard.explain(&error);
        if answer.message.len() > MAX_MESSAGE_BYTES {
            answer.message.truncate(answer.message.floor_char_boundary(MAX_MESSAGE_BYTES));
        }
        Ok(answer)
    }
}

/// Foreign keys are checked at the end of this write. It ends with that: the batch goes on in the same transaction.
struct Deferred<'db>(&'db Connection);

impl<'db> Deferred<'db> {
    /// What a write begins with, if it is that. The setting changes what statements are prepared to, so it is made
    /// anew each time, and not by a statement that stays prepared.
    fn of(db: &'db Connection, statements: &[Statement]) -> rusqlite::Result<Option<Self>> {
        if statements.first().is_none_or(|first| first.sql != DEFER_FOREIGN_KEYS) {
            return Ok(None);
        }
        db.execute_batch(DEFER_FOREIGN_KEYS)?;
        Ok(Some(Self(db)))
    }
}

impl Drop for Deferred<'_> {
    fn drop(&mut self) {
        // Where it fails there is no transaction any more, and SQLite has reset it.
        self.0.execute_batch("PRAGMA defer_foreign_keys=OFF").ok();
    }
}

/// Keeping the slot index failed, which no statement of a client can bring about.
fn watching(refusal: moves::Refusal) -> Halt {
    match refusal {
        moves::Refusal::Refused(error) => Halt::Storage(io::Error::other(error)),
        moves::Refusal::Sqlite(error) => error.into(),
    }
}

pub(super) fn no_rowid() -> Error {
    Error::new(Code::Constraint, "the largest rowid is not available")
        .hint("beyond it SQLite picks rowids at random, which replicas cannot agree on")
}

/// Runs one statement of a client.
fn run(db: &Connection, guard: &Guard, mode: Mode, statement: &Statement) -> Result<StatementResult, Failure> {
    let mut prepared = guard.prepare(db, mode, &statement.sql)?;
    if prepared.is_explain() != 0 {
        // It shows root pages, which replicas need not share.
        let error = Error::new(Code::Forbidden, "EXPLAIN is a read").hint("send it to /query");
        return Err(Failure::Refused(error));
    }
    statement.params.bind(&mut prepared).map_err(Failure::Refused)?;
    let before = db.total_changes();
    let rows = match prepared.column_count() {
        0 => {
            let mut rows = prepared.raw_query();
            while rows.next()?.is_some() {}
            None
        }
        _ => {
            let mut rows = reads::collect(&mut prepared, MAX_RETURNED_ROWS, MAX_RETURNED_BYTES)?;
            name_alike(&mut rows);
            Some(rows)
        }
    };
    Ok(StatementResult {
        last_insert_id: db.last_insert_rowid(),
        // A statement that changes no row, a schema statement say, leaves the count of the one before it, which is
        // no state.
        rows_affected: if db.total_changes() == before { 0 } else { db.changes() },
        rows,
    })
}

/// From the sixth column of the same name on, SQLite makes names up with random numbers; we number by
/// position, so that replicas answer alike.
fn name_alike(rows: &mut Rows) {
    for index in 0..rows.columns.len() {
        if let Some(base) = random_name_base(&rows.columns[index], &rows.columns[..index]) {
            rows.columns[index] = format!("{base}:{}", index + 1);
        }
    }
}

/// What was numbered, if SQLite made up this name with a random number.
pub(super) fn random_name_base<'a>(name: &'a str, others: &[String]) -> Option<&'a str> {
    let (base, number) = name.rsplit_once(':')?;
    let random = number.parse::<u32>().is_ok_and(|number| number > 4);
    (random && others.iter().any(|other| other.eq_ignore_ascii_case(base))).then_some(base)
}

/// Does some trigger ask for `changes()`? It could see the count of an earlier write.
pub(super) fn triggers_count(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND sql LIKE '%changes%')",
        [],
        |row| row.get(0),
    )
}

/// Would a commit now fail because of a deferred foreign key? Each write must leave none behind: the
/// batch has one commit for all of them.
fn deferred_violations(db: &Connection) -> bool {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: the handle is valid while `db` is borrowed, and the places are ours.
    unsafe { ffi::sqlite3_db_status(db.handle(), ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &mut current, &mut highest, 0) };
    current != 0
}
