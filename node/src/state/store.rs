//! The file of a group: where it is, how it is opened, how it becomes durable.
//!
//! ```text
//! <data>/groups/shard1-101/CURRENT      names the generation in use
//! <data>/groups/shard1-101/gen-3.db     the SQLite file (with -wal and -shm beside it)
//! ```
//!
//! A snapshot from the leader becomes a new generation: its file is complete and synced before
//! `CURRENT` names it (write aside, sync, rename, sync the folder), so a crash leaves the old
//! generation or the new one, and never a new file with an old file's WAL. Other generations are
//! deleted when the store opens.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use flotilla_shared::ids::SchemaVersion;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use super::reads::ReadPool;
use super::world;
use crate::consensus::{LogId, StoredMembership};

/// Prepared statements kept per connection.
const STATEMENT_CACHE: usize = 256;

/// Bytes of WAL after which it is moved into the database file, in the background.
const CHECKPOINT_BYTES: u64 = 32 << 20;

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
    CREATE TABLE IF NOT EXISTS _flotilla_jobs (job INTEGER PRIMARY KEY, reply BLOB);
";

/// A group's database on disk.
pub struct Store {
    folder: PathBuf,
    generation: AtomicU64,
    executor: Arc<dyn Executor>,
    pool: RwLock<Arc<ReadPool>>,
    durable: Mutex<Applied>,
    checkpointing: AtomicBool,
    /// The WAL has been moved into the database but for its latest frames.
    truncate_due: AtomicBool,
    /// Size of the WAL at which the next checkpoint starts.
    next_checkpoint_bytes: AtomicU64,
    /// A file that is being made durable is not replaced meanwhile.
    files: Mutex<()>,
}

impl Store {
    /// Opens or creates the database in `folder`, and makes what it holds durable: after a power loss
    /// SQLite finds less than before, and what is found now is what compaction may rely on.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn open(folder: &Path, executor: Arc<dyn Executor>, readers: usize) -> io::Result<(Arc<Self>, Connection)> {
        world::register_vfs();
        fs::create_dir_all(folder)?;
        let generation = match fs::read_to_string(folder.join("CURRENT")) {
            Ok(text) => text.trim().parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", folder.join("CURRENT").display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_current(folder, 1)?;
                1
            }
            Err(error) => return Err(error),
        };
        remove_other_generations(folder, generation)?;
        let path = generation_path(folder, generation);
        let store = Arc::new(Self {
            folder: folder.to_owned(),
            generation: AtomicU64::new(generation),
            executor,
            pool: RwLock::new(Arc::new(ReadPool::new(path, readers))),
            durable: Mutex::default(),
            checkpointing: AtomicBool::new(false),
            truncate_due: AtomicBool::new(false),
            next_checkpoint_bytes: AtomicU64::new(CHECKPOINT_BYTES),
            files: Mutex::default(),
        });
        let db = store.connect()?;
        store.make_durable()?;
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
            let mut db = Connection::open_with_flags_and_vfs(self.path(), flags, world::VFS_NAME)?;
            db.pragma_update(None, "journal_mode", "wal")?;
            db.pragma_update(None, "synchronous", "normal")?;
            db.pragma_update(None, "wal_autocheckpoint", 0)?;
            db.pragma_update(None, "cache_size", -CACHE_KIB)?;
            db.pragma_update(None, "temp_store", "memory")?;
            db.pragma_update(None, "trusted_schema", false)?;
            db.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
            db.busy_timeout(BUSY_TIMEOUT)?;
            db.execute_batch(SCHEMA)?;
            world::install(&mut db)?;
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

    /// Makes durable what is applied now, without stopping writers: the state is noted first, then
    /// the WAL is moved into the database as far as readers allow, then both files are synced. What
    /// was noted is in one of them.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn make_durable(&self) -> io::Result<Applied> {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path();
        let noted = || -> rusqlite::Result<Applied> {
            let db = Connection::open_with_flags_and_vfs(
                &path,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
                world::VFS_NAME,
            )?;
            db.pragma_update(None, "wal_autocheckpoint", 0)?;
            // The last connection to close would otherwise checkpoint once more and delete the WAL.
            db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            let noted = Applied::load(&db)?;
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            Ok(noted)
        };
        let noted = noted().map_err(storage)?;
        let wal = wal_path(&path);
        if wal.exists() {
            File::open(wal)?.sync_all()?;
        }
        File::open(&path)?.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.log_id <= noted.log_id {
            *durable = noted.clone();
        }
        Ok(noted)
    }

    /// Keeps the WAL from growing. Moving it into the database runs in the background and holds up
    /// nobody; but under steady writes that never catches up with the last frames, without which
    /// SQLite cannot start the WAL over. The few that are left are moved by [`Self::truncate_wal`].
    pub fn check_wal(self: &Arc<Self>) {
        let Ok(wal) = fs::metadata(wal_path(&self.path())) else { return };
        let due = self.next_checkpoint_bytes.load(Ordering::Acquire);
        if wal.len() < due || self.checkpointing.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = Arc::clone(self);
        self.executor.spawn(Box::new(move || {
            match store.make_durable() {
                Ok(_) => store.truncate_due.store(true, Ordering::Release),
                Err(error) => tracing::warn!(%error, "a checkpoint failed; the WAL grows until the next one"),
            }
            // Should readers keep the WAL in use, there is another try after as much again.
            store.next_checkpoint_bytes.store(wal.len() + CHECKPOINT_BYTES, Ordering::Release);
            store.checkpointing.store(false, Ordering::Release);
        }));
    }

    /// Between two batches, on the connection that writes: moves what is left of the WAL and empties
    /// it, unless a reader still uses it.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn truncate_wal(&self, db: &Connection) -> io::Result<()> {
        if !self.truncate_due.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let truncate = || -> rusqlite::Result<bool> {
            db.busy_timeout(Duration::ZERO)?;
            let busy = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
            db.busy_timeout(BUSY_TIMEOUT)?;
            busy
        };
        if !truncate().map_err(storage)? {
            self.next_checkpoint_bytes.store(CHECKPOINT_BYTES, Ordering::Release);
        }
        Ok(())
    }

    /// Puts a complete, synced database file in the place of the one in use.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn replace(&self, file: &Path) -> io::Result<Connection> {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.generation.load(Ordering::Acquire) + 1;
        let path = generation_path(&self.folder, next);
        fs::rename(file, &path)?;
        File::open(&path)?.sync_all()?;
        write_current(&self.folder, next)?;
        self.generation.store(next, Ordering::Release);
        let readers = self.readers().size();
        *self.pool.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ReadPool::new(path, readers));
        let db = self.connect()?;
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = Applied::load(&db).map_err(storage)?;
        remove_other_generations(&self.folder, next)?;
        Ok(db)
    }
}

/// An error of SQLite outside of a client's statement: the replica must stop.
pub fn storage(error: rusqlite::Error) -> io::Error {
    io::Error::other(error)
}

fn generation_path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("gen-{generation}.db"))
}

/// SQLite's WAL of a database file.
pub fn wal_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn write_current(folder: &Path, generation: u64) -> io::Result<()> {
    let aside = folder.join("CURRENT.new");
    let mut file = File::create(&aside)?;
    writeln!(file, "{generation}")?;
    file.sync_all()?;
    fs::rename(&aside, folder.join("CURRENT"))?;
    File::open(folder)?.sync_all()
}

fn remove_other_generations(folder: &Path, current: u64) -> io::Result<()> {
    let keep = format!("gen-{current}.db");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let other = name.starts_with("gen-") && !name.starts_with(&keep);
        if other || name.starts_with("incoming-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
