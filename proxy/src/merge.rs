//! The proxy's own SQLite, in which reads of several shards are finished.
//!
//! Input: rows as they come from the shards. Output: the rows of the last query. One [`Session`] per
//! statement, on a temporary database that SQLite keeps in memory up to [`CACHE_KIB`] and beyond that in a file
//! without a name, which is gone with the session. So sorting, grouping, collations, types and
//! errors are SQLite's own. Bounded: rows and bytes that go in and out, and the time of the last query.

use std::time::{Duration, Instant};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::sqlite;
use flotilla_shared::value::Value;
use flotilla_shared::wire::Statement;
use rusqlite::Connection;
use rusqlite::limits::Limit;

/// Memory of one session before it spills, in KiB: many small merges fit, a large one uses the disk.
const CACHE_KIB: i64 = 16 << 10;

/// Steps of SQLite between two looks at the clock.
const STEPS_PER_CHECK: i32 = 10_000;

/// With fewer rows, looking through all of them is as fast as making an index.
const ROWS_WORTH_AN_INDEX: usize = 500;

/// Largest value, in bytes: what the nodes accept as well.
const MAX_VALUE_BYTES: i32 = 16 << 20;

/// What a merge may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rows pulled from shards.
    pub pulled_rows: usize,
    /// Bytes of values pulled from shards.
    pub pulled_bytes: usize,
    /// Rows of the result.
    pub result_rows: usize,
    /// Bytes of the result.
    pub result_bytes: usize,
}

/// One statement's database.
pub struct Session {
    db: Connection,
    bounds: Bounds,
    rows: usize,
    bytes: usize,
}

impl Session {
    /// An empty database with what `setup` makes. Work stops at `deadline`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(setup: &[String], bounds: Bounds, deadline: Instant) -> Result<Self, Error> {
        let make = || -> rusqlite::Result<Connection> {
            let mut db = Connection::open("")?;
            sqlite::install(&db)?;
            db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            db.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
            db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
            db.pragma_update(None, "journal_mode", "off")?;
            db.pragma_update(None, "synchronous", "off")?;
            db.pragma_update(None, "cache_size", -CACHE_KIB)?;
            db.progress_handler(STEPS_PER_CHECK, Some(move || Instant::now() > deadline))?;
            db.execute_batch("BEGIN")?;
            for statement in setup {
                db.execute_batch(statement)?;
            }
            Ok(db)
        };
        let db = make().map_err(|error| internal(&error))?;
        Ok(Self { db, bounds, rows: 0, bytes: 0 })
    }

    /// Takes rows of one shard.
    ///
    /// # Errors
    /// [`Code::TooLarge`], or what SQLite says.
    pub fn load(&mut self, insert: &str, rows: &[Vec<Value>]) -> Result<(), Error> {
        self.rows += rows.len();
        self.bytes += rows.iter().flatten().map(Value::size_bytes).sum::<usize>();
        let Bounds { pulled_rows, pulled_bytes, .. } = self.bounds;
        if self.rows > pulled_rows || self.bytes > pulled_bytes {
            let message = format!("the query needs over {pulled_rows} rows or {pulled_bytes} bytes of several shards");
            return Err(Error::new(Code::TooLarge, message)
                .hint("narrow it by conditions on single tables, or colocate the tables that it joins"));
        }
        let mut statement = self.db.prepare_cached(insert).map_err(|error| internal(&error))?;
        let width = statement.parameter_count();
        for row in rows {
            for index in 0..width {
                let value = row.get(index).ok_or_else(|| Error::new(Code::WrongPeer, "a shard's row is too short"))?;
                statement.raw_bind_parameter(index + 1, value).map_err(|error| internal(&error))?;
            }
            statement.raw_execute().map_err(|error| internal(&error))?;
        }
        Ok(())
    }

    /// Makes indexes, where there are so many rows that a search gains by them.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn index(&self, indexes: &[String]) -> Result<(), Error> {
        if self.rows < ROWS_WORTH_AN_INDEX {
            return Ok(());
        }
        indexes.iter().try_for_each(|create| self.db.execute_batch(create)).map_err(|error| internal(&error))
    }

    /// Runs the last query.
    ///
    /// # Errors
    /// SQLite's own words; [`Code::TooLarge`]; [`Code::Timeout`].
    pub fn finish(self, finish: &Statement) -> Result<Vec<Vec<Value>>, Error> {
        let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
        let mut statement = self.db.prepare(&finish.sql).map_err(sqlite)?;
        finish.params.bind(&mut statement)?;
        let width = statement.column_count();
        let (mut values, mut bytes) = (Vec::new(), 0);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(sqlite)? {
            let cells = (0..width).map(|index| row.get_ref(index).map(Value::from)).collect::<Result<Vec<_>, _>>();
            let cells = cells.map_err(sqlite)?;
            bytes += cells.iter().map(Value::size_bytes).sum::<usize>();
            let Bounds { result_rows, result_bytes, .. } = self.bounds;
            if values.len() >= result_rows || bytes > result_bytes {
                return Err(Error::new(
                    Code::TooLarge,
                    format!("the result is over {result_rows} rows or {result_bytes} bytes"),
                )
                .hint("narrow the query, or read it in pieces"));
            }
            values.push(cells);
        }
        Ok(values)
    }
}

/// Our own statements failed: a full disk, a deadline, or a fault of the program.
fn internal(error: &rusqlite::Error) -> Error {
    match Error::from_sqlite(error) {
        error if error.code == Code::Timeout => error,
        error => Error::new(Code::Internal, format!("the merge database: {}", error.message)),
    }
}

/// Time left until `deadline`, as the clock that SQLite's handler looks at.
pub fn until(left: Duration) -> Instant {
    Instant::now() + left
}

#[cfg(test)]
mod tests;
