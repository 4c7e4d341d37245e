//! The file of a group: where it is, how it is opened, how it becomes durable.
//!
//! ```text
//! <data>/groups/shard1-101/CURRENT      names the generation in use
//! <data>/groups/shard1-101/gen-3.db     the SQLite file (with -wal and -shm beside it)
//! ```
//!
//! A snapshot from the leader becomes a new generation ([`super::generations`]), never a new file with
//! an old file's WAL.
//!
//! Nothing here opens a database file but SQLite: closing any descriptor of it would drop the locks
//! that SQLite holds on it, and another process could then delete the WAL under us
//! (<https://sqlite.org/howtocorrupt.html>, section 2.2).

use std::ffi::{c_int, c_void};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use flotilla_shared::ids::SchemaVersion;
use flotilla_shared::sqlite;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags, ffi};
use serde::{Deserialize, Serialize};

use super::generations::{
    check_generations, generation_path, read_current, remove_other_generations, sync_folder, write_current,
};
use super::reads::ReadPool;
use super::{slot_function, vfs, world};
use crate::busy::Busy;
use crate::consensus::{LogId, StoredMembership};

/// Prepared statements kept per connection.
const STATEMENT_CACHE: usize = 256;

/// Bytes of WAL after which they are moved into the database file, in the background. Little enough that a
/// sync of the log, on the same disk, does not wait for long behind that of the database.
const CHECKPOINT_BYTES: u64 = 8 << 20;

/// Bytes of WAL after which it starts over. For that apply waits for the disk, so not too often; its file keeps
/// this size.
const RESTART_BYTES: u64 = 64 << 20;

/// Checkpoints in the background before that, each of what was written during the one before: so apply waits for a
/// little only.
const CLOSING_PASSES: usize = 3;

/// How long apply waits for reads under way, once for every [`RESTART_BYTES`], so that the WAL can
/// start over. Reads that begin meanwhile do not count; without any wait, reads that never pause keep
/// the WAL growing.
const RESTART_WAIT: Duration = Duration::from_millis(50);

/// Bytes of WAL after which reads that take long are waited for, too.
const LONG_WAL_BYTES: u64 = 256 << 20;

/// How long they are waited for.
const LONG_WAL_WAIT: Duration = Duration::from_secs(1);

/// Page cache of the connection on which entries are applied, in KiB.
const CACHE_KIB: i64 = 8 << 10;

/// How long the writer waits for a lock that only a short checkpoint can hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// Where blocking work runs. A node has threads for it; a simulation runs everything in one.
pub trait Executor: Send + Sync + 'static {
    /// Runs work that may take long, without holding up other tasks of this thread.
    fn block(&self, work: &mut dyn FnMut());
    /// Runs work some time soon, elsewhere.
    fn spawn(&self, work: Box<dyn FnOnce() + Send>);
}

/// Runs work on the spot.
pub struct Inline;

impl Executor for Inline {
    fn block(&self, work: &mut dyn FnMut()) {
        work();
    }

    fn spawn(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

/// Runs `work` on an executor and returns its result.
pub fn block<T>(executor: &dyn Executor, work: impl FnOnce() -> T) -> T {
    let (mut work, mut result) = (Some(work), None);
    executor.block(&mut || {
        if let Some(work) = work.take() {
            result = Some(work());
        }
    });
    result.expect("an executor runs its work")
}

/// What a database says of itself, in the same transaction as its rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Last entry.
    pub log_id: Option<LogId>,
    /// Members as of the last membership entry.
    pub membership: StoredMembership,
    /// Time of the last entry: entries never go back in time.
    pub at_us: i64,
    /// Time by which request ids grow old ([`super::requests`]).
    pub request_us: i64,
    /// Version of the schema.
    pub schema: SchemaVersion,
    /// Sequence number of the oldest request id that counts.
    pub first_request: u64,
}

impl Applied {
    /// Reads it; the default for a new database.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut query = db.prepare_cached("SELECT value FROM _flotilla_state WHERE key = 'applied'")?;
        let mut rows = query.query([])?;
        let Some(row) = rows.next()? else { return Ok(Self::default()) };
        postcard::from_bytes(row.get_ref(0)?.as_blob()?)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error)))
    }

    /// Writes it.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn save(&self, db: &Connection) -> rusqlite::Result<()> {
        db.prepare_cached("REPLACE INTO _flotilla_state (key, value) VALUES ('applied', ?1)")?
            .execute([postcard::to_stdvec(self).expect("state encodes")])?;
        Ok(())
    }
}

/// Our own tables, in every group's database.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS _flotilla_state (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _flotilla_ownership (placement INTEGER PRIMARY KEY, epoch INTEGER, slots BLOB);
    CREATE TABLE IF NOT EXISTS _flotilla_requests (first_seq INTEGER PRIMARY KEY, last_seq INTEGER, body BLOB);
    CREATE TABLE IF NOT EXISTS _flotilla_request_slots (seq INTEGER, touched BLOB, PRIMARY KEY (seq, touched)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _flotilla_staged (seq INTEGER PRIMARY KEY, tbl INTEGER, identity BLOB, slot INTEGER, packed BLOB, UNIQUE (tbl, identity));
    CREATE TABLE IF NOT EXISTS _flotilla_staged_requests (seq INTEGER PRIMARY KEY, packed BLOB);
    CREATE TABLE IF NOT EXISTS _flotilla_changed (seq INTEGER PRIMARY KEY, tbl INTEGER, identity BLOB, UNIQUE (tbl, identity));
    CREATE TABLE IF NOT EXISTS _flotilla_jobs (job INTEGER, step TEXT, reply BLOB, PRIMARY KEY (job, step)) WITHOUT ROWID;
";

/// Their names.
pub const TABLES: &[&str] = &[
    "_flotilla_state",
    "_flotilla_ownership",
    "_flotilla_requests",
    "_flotilla_request_slots",
    "_flotilla_jobs",
    "_flotilla_staged",
    "_flotilla_staged_requests",
    "_flotilla_changed",
];

/// A group's database on disk.
pub struct Store {
    folder: PathBuf,
    generation: AtomicU64,
    executor: Arc<dyn Executor>,
    pool: RwLock<Arc<ReadPool>>,
    durable: Mutex<Applied>,
    checkpointing: AtomicBool,
    /// The WAL is long, and has been moved into the database but for its latest frames.
    restart_due: AtomicBool,
    /// Size of the WAL, from where it started over.
    wal_bytes: Arc<AtomicU64>,
    /// At which the next checkpoint starts.
    next_checkpoint_bytes: AtomicU64,
    checkpoints: Busy,
    /// Held while files are synced or replaced, so that neither happens to files that are gone.
    files: Mutex<()>,
}

impl Store {
    /// Opens or creates the database in `folder`, and makes what it holds durable: after a power loss
    /// SQLite finds less than before, and what is found now is what compaction may rely on.
    ///
    /// # Errors
    /// What the disk or SQLite says, and when `CURRENT` names no file that is there.
    pub fn open(folder: &Path, executor: Arc<dyn Executor>, readers: usize) -> io::Result<(Arc<Self>, Connection)> {
        vfs::register();
        fs::create_dir_all(folder)?;
        let current = read_current(folder)?;
        check_generations(folder, current)?;
        let generation = current.unwrap_or(1);
        remove_other_generations(folder, generation)?;
        let path = generation_path(folder, generation);
        let store = Arc::new(Self {
            folder: folder.to_owned(),
            generation: AtomicU64::new(generation),
            executor,
            pool: RwLock::new(Arc::new(ReadPool::new(path, readers))),
            durable: Mutex::default(),
            checkpointing: AtomicBool::new(false),
            restart_due: AtomicBool::new(false),
            wal_bytes: Arc::default(),
            next_checkpoint_bytes: AtomicU64::new(CHECKPOINT_BYTES),
            checkpoints: Busy::default(),
            files: Mutex::default(),
        });
        let db = store.connect()?;
        store.make_durable()?;
        if current.is_none() {
            write_current(folder, generation)?;
        }
        Ok((store, db))
    }

    /// The database file in use.
    pub fn path(&self) -> PathBuf {
        generation_path(&self.folder, self.generation.load(Ordering::Acquire))
    }

    /// The folder of the group.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where blocking work runs.
    pub fn executor(&self) -> &dyn Executor {
        &*self.executor
    }

    /// A connection that writes.
    fn connect(&self) -> io::Result<Connection> {
        let open = || -> rusqlite::Result<Connection> {
            let flags =
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let mut db = Connection::open_with_flags_and_vfs(self.path(), flags, vfs::VFS_NAME)?;
            db.pragma_update(None, "journal_mode", "wal")?;
            db.pragma_update(None, "synchronous", "normal")?;
            db.pragma_update(None, "wal_autocheckpoint", 0)?;
            db.pragma_update(None, "cache_size", -CACHE_KIB)?;
            db.pragma_update(None, "temp_store", "memory")?;
            db.pragma_update(None, "trusted_schema", false)?;
            db.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
            db.busy_timeout(BUSY_TIMEOUT)?;
            let (wal_bytes, frame_bytes) = (Arc::clone(&self.wal_bytes), frame_bytes(&db)?);
            // After the setting above, which takes the hook for itself.
            db.wal_hook(Some(move |_: &mut Wal, frames: c_int| {
                wal_bytes.store(u64::from(frames.unsigned_abs()) * frame_bytes, Ordering::Release);
                Ok(())
            }))?;
            db.execute_batch(SCHEMA)?;
            world::install(&mut db)?;
            sqlite::install(&db)?;
            slot_function::install(&db)?;
            Ok(db)
        };
        open().map_err(storage)
    }

    /// The readers of the generation in use.
    pub fn readers(&self) -> Arc<ReadPool> {
        Arc::clone(&self.pool.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known to survive a power loss: entries up to its log id may be purged.
    pub fn durable(&self) -> Applied {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock_files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable what is applied now, without stopping writers: the state is noted first, then
    /// the WAL is moved into the database as far as readers allow, then both files are synced. What
    /// was noted is in one of them.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn make_durable(&self) -> io::Result<Applied> {
        let _files = self.lock_files();
        let _working = self.checkpoints.begin();
        let open = || -> rusqlite::Result<(Connection, Applied)> {
            let db = Connection::open_with_flags_and_vfs(
                self.path(),
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
                vfs::VFS_NAME,
            )?;
            db.pragma_update(None, "wal_autocheckpoint", 0)?;
            // The last connection to close would otherwise checkpoint once more and delete the WAL.
            db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            let noted = Applied::load(&db)?;
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            Ok((db, noted))
        };
        let (db, noted) = open().map_err(storage)?;
        sync_file(&db, ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
        sync_file(&db, ffi::SQLITE_FCNTL_FILE_POINTER)?;
        sync_folder(&self.folder)?;
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.log_id <= noted.log_id {
            *durable = noted.clone();
        }
        Ok(noted)
    }

    /// How long the WAL was being moved into the database, or made durable.
    pub fn checkpoints(&self) -> &Busy {
        &self.checkpoints
    }

    /// Bytes that the WAL holds since it started over.
    pub fn wal_bytes(&self) -> u64 {
        self.wal_bytes.load(Ordering::Acquire)
    }

    /// Keeps the WAL from growing. Moving it into the database runs in the background and holds up
    /// nobody; but under steady writes that never catches up with the last frames, without which
    /// SQLite cannot start the WAL over. The few that are left are moved by [`Self::restart_wal`].
    pub fn check_wal(self: &Arc<Self>) {
        let due = self.next_checkpoint_bytes.load(Ordering::Acquire);
        if self.wal_bytes() < due || self.checkpointing.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = Arc::clone(self);
        self.executor.spawn(Box::new(move || {
            let restart = store.wal_bytes() >= RESTART_BYTES;
            let passes = if restart { 1 + CLOSING_PASSES } else { 1 };
            match (0..passes).try_for_each(|_| store.make_durable().map(drop)) {
                Ok(()) if restart => store.restart_due.store(true, Ordering::Release),
                Ok(()) => (),
                Err(error) => tracing::warn!(%error, "a checkpoint failed; the WAL grows until the next one"),
            }
            // Should readers keep the WAL in use, there is another try after as much again.
            store.next_checkpoint_bytes.store(store.wal_bytes() + CHECKPOINT_BYTES, Ordering::Release);
            store.checkpointing.store(false, Ordering::Release);
        }));
    }

    /// Between two batches, on the connection that writes: moves what is left of the WAL, so that the next
    /// write starts it over, unless a reader still uses it.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn restart_wal(&self, db: &Connection) -> io::Result<()> {
        if !self.restart_due.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let _working = self.checkpoints.begin();
        let long = self.wal_bytes() >= LONG_WAL_BYTES;
        let restart = || -> rusqlite::Result<bool> {
            db.busy_timeout(if long { LONG_WAL_WAIT } else { RESTART_WAIT })?;
            // To cut the file off takes as long as it is large.
            let sql = if long { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(RESTART)" };
            let busy = db.query_row(sql, [], |row| row.get(0));
            db.busy_timeout(BUSY_TIMEOUT)?;
            busy
        };
        if !restart().map_err(storage)? {
            self.wal_bytes.store(0, Ordering::Release);
            self.next_checkpoint_bytes.store(CHECKPOINT_BYTES, Ordering::Release);
        }
        Ok(())
    }

    /// What a database file says of itself that is not in use yet.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn peek(file: &Path) -> io::Result<Applied> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || Applied::load(&Connection::open_with_flags_and_vfs(file, flags, vfs::VFS_NAME)?);
        open().map_err(storage)
    }

    /// Puts a complete, synced database file in the place of the one in use.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn replace(&self, file: &Path) -> io::Result<Connection> {
        let _files = self.lock_files();
        let next = self.generation.load(Ordering::Acquire) + 1;
        let path = generation_path(&self.folder, next);
        fs::rename(file, &path)?;
        // The name must be on disk before `CURRENT` speaks of it.
        sync_folder(&self.folder)?;
        write_current(&self.folder, next)?;
        self.generation.store(next, Ordering::Release);
        let readers = self.readers().size();
        *self.pool.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ReadPool::new(path, readers));
        self.wal_bytes.store(0, Ordering::Release);
        self.next_checkpoint_bytes.store(CHECKPOINT_BYTES, Ordering::Release);
        let db = self.connect()?;
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = Applied::load(&db).map_err(storage)?;
        remove_other_generations(&self.folder, next)?;
        Ok(db)
    }
}

/// What a page takes in the WAL.
fn frame_bytes(db: &Connection) -> rusqlite::Result<u64> {
    const FRAME_HEADER_BYTES: u64 = 24;
    let page_bytes: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    Ok(page_bytes.unsigned_abs() + FRAME_HEADER_BYTES)
}

/// An error of SQLite outside of a client's statement: the replica must stop.
pub fn storage(error: rusqlite::Error) -> io::Error {
    io::Error::other(error)
}

/// Syncs the database file or the WAL of a connection, through SQLite's own descriptor.
fn sync_file(db: &Connection, which: c_int) -> io::Result<()> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the handle is valid while `db` is borrowed. Both controls store a pointer to a file that
    // lives as long as the connection; its methods are SQLite's.
    let code = unsafe {
        let place = (&raw mut file).cast::<c_void>();
        match ffi::sqlite3_file_control(db.handle(), c"main".as_ptr(), which, place) {
            ffi::SQLITE_OK if !file.is_null() && !(*file).pMethods.is_null() => match (*(*file).pMethods).xSync {
                Some(sync) => sync(file, ffi::SQLITE_SYNC_NORMAL),
                None => ffi::SQLITE_ERROR,
            },
            ffi::SQLITE_OK => ffi::SQLITE_ERROR,
            code => code,
        }
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(storage(rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("sync of a database".into())))),
    }
}
