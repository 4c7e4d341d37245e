//! Snapshots by pages: read from a transaction while writes go on, written aside at the follower.
//!
//! The leader opens a read transaction and reads pages through SQLite's `sqlite_dbpage` table, which
//! sees the database as of that transaction, WAL included. The follower writes them to a file of its
//! own, checks count and hash, syncs, and only then hands the file to its state machine. A transfer
//! that ends early leaves an `incoming-` file, which the next start removes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use xxhash_rust::xxh3::Xxh3;

use super::store::{Applied, Store, storage};
use super::vfs;

/// Bytes of pages in one message: large enough to amortize a round trip, small enough that
/// heartbeats on the same connection are not held up.
const CHUNK_BYTES: usize = 256 << 10;

/// The pages of a database as of one moment.
pub struct Outgoing {
    db: Connection,
    /// The state that the pages hold.
    pub applied: Applied,
    pages: i64,
    per_chunk: i64,
    next: i64,
    hash: Xxh3,
}

impl Outgoing {
    /// Opens a read transaction.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(store: &Store) -> io::Result<Self> {
        let open = || -> rusqlite::Result<Self> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let db = Connection::open_with_flags_and_vfs(store.path(), flags, vfs::VFS_NAME)?;
            db.execute_batch("BEGIN")?;
            let applied = Applied::load(&db)?;
            let pages = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            let page_bytes: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
            let per_chunk = (CHUNK_BYTES as i64 / page_bytes).max(1);
            Ok(Self { db, applied, pages, per_chunk, next: 1, hash: Xxh3::new() })
        };
        open().map_err(storage)
    }

    /// The next pages, or `None` after the last.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.next > self.pages {
            return Ok(None);
        }
        let last = (self.next + self.per_chunk - 1).min(self.pages);
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let mut read = || -> rusqlite::Result<()> {
            let mut query = self.db.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
            for page in self.next..=last {
                query.query_row([page], |row| {
                    chunk.extend_from_slice(row.get_ref(0)?.as_blob()?);
                    Ok(())
                })?;
            }
            Ok(())
        };
        read().map_err(storage)?;
        self.next = last + 1;
        self.hash.update(&chunk);
        Ok(Some(chunk))
    }

    /// Hash of all chunks so far.
    pub fn digest(&self) -> u64 {
        self.hash.digest()
    }
}

/// A database file in the making.
pub struct Incoming {
    path: PathBuf,
    file: File,
    hash: Xxh3,
    complete: bool,
}

impl Incoming {
    /// Starts a file in the group's folder.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(folder: &Path, id: u64) -> io::Result<Self> {
        let path = folder.join(format!("incoming-{id:016x}.db"));
        Ok(Self { file: File::create(&path)?, path, hash: Xxh3::new(), complete: false })
    }

    /// Adds pages.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.hash.update(chunk);
        self.file.write_all(chunk)
    }

    /// Checks the whole and syncs it.
    ///
    /// # Errors
    /// When the hash differs, or what the disk says.
    pub fn finish(mut self, hash: u64) -> io::Result<PathBuf> {
        if self.hash.digest() != hash {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "pages of a snapshot were damaged on the way"));
        }
        self.file.sync_all()?;
        self.complete = true;
        Ok(self.path.clone())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.complete {
            std::fs::remove_file(&self.path).ok();
        }
    }
}
