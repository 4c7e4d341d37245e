//! Reads: a pool of read-only connections. Reads that were confirmed together may share a transaction:
//! its locks, and the law as it sees it, are then paid for once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::sqlite;
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Read, Rows};
use rusqlite::{Connection, OpenFlags};

use super::guard::{Guard, Mode};
use super::ownership::Seen;
use super::{slot_function, vfs, world};

/// Rows that one read may answer: the rest must be asked for with LIMIT.
pub const MAX_ROWS: usize = 1_000_000;

/// Bytes that one read may answer; they must fit a frame.
pub const MAX_BYTES: usize = 48 << 20;

/// Bytes of one piece of a read that is answered in pieces: large enough that the round trips between
/// them do not matter, small enough to be held several times over by each end of many streams.
pub const PIECE_BYTES: usize = 512 << 10;

/// Steps of SQLite's virtual machine between two looks at the clock.
const STEPS_PER_CHECK: i32 = 10_000;

/// Page cache of one reader, in KiB.
const CACHE_KIB: i64 = 2 << 10;

struct Reader {
    db: Connection,
    guard: Guard,
    deadline: Arc<Deadline>,
}

/// When the read under way must end, in nanoseconds since `start`; 0: never.
struct Deadline {
    start: Instant,
    at_ns: AtomicU64,
}

/// Read-only connections of one database file.
pub struct ReadPool {
    path: PathBuf,
    size: usize,
    idle: Mutex<Vec<Reader>>,
}

/// Why rows could not be collected.
pub enum ReadFailure {
    /// A bound.
    Refused(Error),
    /// SQLite's word.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for ReadFailure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl ReadPool {
    /// A pool that keeps up to `size` connections.
    pub fn new(path: PathBuf, size: usize) -> Self {
        Self { path, size: size.max(1), idle: Mutex::default() }
    }

    /// How many connections are kept.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Runs one read, to which the clock shows `at_us` if that is given.
    ///
    /// # Errors
    /// What the statement, its route or a bound says.
    pub fn read_at(&self, read: &Read, at_us: Option<i64>, timeout: Duration) -> Result<Rows, Error> {
        let _time = world::read_at(at_us);
        self.read(read, timeout)
    }

    /// Runs one read.
    ///
    /// # Errors
    /// What the statement, its route or a bound says.
    pub fn read(&self, read: &Read, timeout: Duration) -> Result<Rows, Error> {
        self.with(|reader| reader.moment().rows(read, timeout))
    }

    /// Runs reads one after the other, all of one moment, and hands out the rows of each as soon as they are
    /// there. The moment is that of the first one; one that ends with an error may make the next begin another.
    /// The time that the clock shows is each one's own.
    pub fn read_each<T>(
        &self,
        reads: Vec<T>,
        read: impl Fn(&T) -> (&Read, Option<i64>),
        timeout: Duration,
        mut give: impl FnMut(T, Result<Rows, Error>),
    ) {
        let mut left = reads.into_iter();
        let opened = self.with(|reader| {
            let mut moment = reader.moment();
            for one in left.by_ref() {
                let (asked, at_us) = read(&one);
                let time = world::read_at(at_us);
                let rows = moment.rows(asked, timeout);
                drop(time);
                give(one, rows);
            }
            Ok(())
        });
        if let Err(error) = opened {
            left.for_each(|one| give(one, Err(error.clone())));
        }
    }

    /// Runs one read and hands its rows to `give` in pieces, with whether more follow, until it says
    /// no. All pieces are of one moment; while `give` waits, the read transaction stays open.
    ///
    /// # Errors
    /// What the statement, its route or a bound says.
    pub fn read_in_pieces(
        &self,
        read: &Read,
        at_us: Option<i64>,
        life: Duration,
        give: impl FnMut(Vec<Vec<Value>>, bool) -> bool,
    ) -> Result<(), Error> {
        let _time = world::read_at(at_us);
        self.with(|reader| reader.moment().run(read, life, |prepared| pieces(prepared, give)))
    }

    /// Runs `work` with a connection on which only SELECTs of ours run.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn inspect<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        self.with(|reader| work(&reader.db).map_err(|error| Error::new(Code::Storage, error.to_string())))
    }

    fn with<T>(&self, work: impl FnOnce(&Reader) -> Result<T, Error>) -> Result<T, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = match idle {
            Some(reader) => reader,
            None => Reader::open(&self.path).map_err(|error| Error::new(Code::Storage, error.to_string()))?,
        };
        let result = work(&reader);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.size && reader.db.is_autocommit() {
            idle.push(reader);
        }
        result
    }
}

impl Reader {
    fn open(path: &PathBuf) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags_and_vfs(path, flags, vfs::VFS_NAME)?;
        db.pragma_update(None, "cache_size", -CACHE_KIB)?;
        db.pragma_update(None, "temp_store", "memory")?;
        db.pragma_update(None, "trusted_schema", false)?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.set_prepared_statement_cache_capacity(128);
        sqlite::install(&db)?;
        slot_function::install(&db)?;
        let guard = Guard::install(&mut db)?;
        let deadline = Arc::new(Deadline { start: Instant::now(), at_ns: AtomicU64::new(0) });
        let clock = Arc::clone(&deadline);
        db.progress_handler(
            STEPS_PER_CHECK,
            Some(move || {
                let at_ns = clock.at_ns.load(Ordering::Relaxed);
                at_ns != 0 && clock.start.elapsed().as_nanos() as u64 > at_ns
            }),
        )?;
        Ok(Self { db, guard, deadline })
    }

    fn moment(&self) -> Moment<'_> {
        Moment { reader: self, seen: None }
    }

    fn answer<T>(
        &self,
        read: &Read,
        work: impl FnOnce(&mut rusqlite::Statement<'_>) -> Result<T, ReadFailure>,
    ) -> Result<T, Error> {
        self.guard.within(Mode::Read, || {
            let explain = |error: rusqlite::Error| self.guard.explain(&error);
            let mut prepared = self.guard.prepare(&self.db, Mode::Read, &read.statement.sql).map_err(explain)?;
            if !prepared.readonly() && prepared.is_explain() == 0 {
                return Err(Error::new(Code::NotARead, "the statement writes").hint("send it to /execute"));
            }
            read.statement.params.bind(&mut prepared)?;
            work(&mut prepared).map_err(|failure| match failure {
                ReadFailure::Refused(error) => error,
                ReadFailure::Sqlite(error) => explain(error),
            })
        })
    }
}

/// A read transaction, from the first read on.
struct Moment<'a> {
    reader: &'a Reader,
    seen: Option<Seen<'a>>,
}

impl<'a> Moment<'a> {
    fn rows(&mut self, read: &Read, timeout: Duration) -> Result<Rows, Error> {
        self.run(read, timeout, |prepared| collect(prepared, MAX_ROWS, MAX_BYTES))
    }

    /// Runs a statement; `work` takes its rows.
    fn run<T>(
        &mut self,
        read: &Read,
        timeout: Duration,
        work: impl FnOnce(&mut rusqlite::Statement<'_>) -> Result<T, ReadFailure>,
    ) -> Result<T, Error> {
        let storage = |error: rusqlite::Error| Error::new(Code::Storage, error.to_string());
        let Reader { db, deadline, .. } = self.reader;
        // Some errors end the transaction that they happen in.
        if db.is_autocommit() {
            self.seen = None;
            db.prepare_cached("BEGIN").and_then(|mut begin| begin.execute([])).map_err(storage)?;
        }
        if let Some(route) = &read.route {
            let seen = match &mut self.seen {
                Some(seen) => seen,
                none => none.insert(Seen::load(db).map_err(storage)?),
            };
            seen.check(route, read.level)?;
        }
        let at = deadline.start.elapsed().saturating_add(timeout);
        deadline.at_ns.store(at.as_nanos() as u64, Ordering::Relaxed);
        let result = self.reader.answer(read, work);
        deadline.at_ns.store(0, Ordering::Relaxed);
        result
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        let db = &self.reader.db;
        if !db.is_autocommit() {
            // A reader that stays in its transaction does not go back to the pool.
            db.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([])).ok();
        }
    }
}

/// Reads all rows of a bound statement, within bounds.
///
/// # Errors
/// A bound, or what SQLite says.
pub fn collect(prepared: &mut rusqlite::Statement<'_>, max_rows: usize, max_bytes: usize) -> Result<Rows, ReadFailure> {
    let mut header = None;
    let mut values = Vec::new();
    let mut bytes = 0;
    let mut rows = prepared.raw_query();
    while let Some(row) = rows.next()? {
        let (columns, _) = header.get_or_insert_with(|| header_of(row.as_ref()));
        let mut line = Vec::with_capacity(columns.len());
        for index in 0..columns.len() {
            line.push(Value::from(row.get_ref(index)?));
        }
        bytes += line.iter().map(Value::size_bytes).sum::<usize>();
        if values.len() >= max_rows || bytes > max_bytes {
            return Err(ReadFailure::Refused(
                Error::new(Code::TooLarge, format!("the result is over {max_rows} rows or {max_bytes} bytes"))
                    .hint("narrow it with WHERE or LIMIT"),
            ));
        }
        values.push(line);
    }
    drop(rows);
    let (columns, types) = header.unwrap_or_else(|| header_of(prepared));
    Ok(Rows { columns, types, values })
}

/// Hands out all rows of a bound statement in pieces of about [`PIECE_BYTES`].
fn pieces(
    prepared: &mut rusqlite::Statement<'_>,
    mut give: impl FnMut(Vec<Vec<Value>>, bool) -> bool,
) -> Result<(), ReadFailure> {
    let mut values = Vec::new();
    let mut bytes = 0;
    let mut rows = prepared.raw_query();
    while let Some(row) = rows.next()? {
        let width = row.as_ref().column_count();
        let line = (0..width).map(|index| row.get_ref(index).map(Value::from)).collect::<Result<Vec<_>, _>>()?;
        let line_bytes = line.iter().map(Value::size_bytes).sum::<usize>();
        if line_bytes > MAX_BYTES {
            return Err(ReadFailure::Refused(
                Error::new(Code::TooLarge, format!("a row has {line_bytes} bytes, over {MAX_BYTES}"))
                    .hint("name fewer columns"),
            ));
        }
        if !values.is_empty() && bytes + line_bytes > PIECE_BYTES {
            if !give(std::mem::take(&mut values), true) {
                return Ok(());
            }
            bytes = 0;
        }
        bytes += line_bytes;
        values.push(line);
    }
    give(values, false);
    Ok(())
}

/// Names and declared types of the columns. Only known once the statement has run: when the schema has
/// changed since a cached one was prepared, its first step prepares it anew.
fn header_of(statement: &rusqlite::Statement<'_>) -> (Vec<String>, Vec<String>) {
    let names = statement.column_names().map(str::to_owned).collect();
    let types = statement.columns().map(|column| column.decl_type().unwrap_or("").to_ascii_lowercase()).collect();
    (names, types)
}
