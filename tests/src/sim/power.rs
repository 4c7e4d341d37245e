//! What a crash leaves of a replica's SQLite folder.
//!
//! The state machine writes to real files, in memory-backed storage where there is one. A crash of a
//! simulated node copies its folder for the next life, while the dead one keeps the old folder, so
//! that whatever it still does is seen by nobody.
//!
//! *Killed process.* The operating system still holds everything that was written: the copy is exact,
//! but for the `-shm` file, which SQLite rebuilds when it is the first to open the database.
//!
//! *Power loss.* The copy holds what was synced, and any part of the rest:
//!
//! - The database file is copied as it is. In WAL mode SQLite changes it in checkpoints only, and a
//!   checkpoint syncs the WAL before it writes and the file after; here a checkpoint runs to its end
//!   within one step of the simulation, so that no crash sees one half done. A file that came as a
//!   snapshot is synced before `CURRENT` names it.
//! - The WAL was last synced as a whole at the end of `Store::make_durable` (and of `Store::open`,
//!   which calls it). [`SyncedWal`] keeps a copy of it as of then. What was written since survives
//!   sector by sector (512 bytes), as a prefix, wholly or not at all, as the dice say; a sector that
//!   did not survive shows what was there before, or zeros.
//! - The WAL's header survives always. SQLite writes it when it starts the WAL over, and syncs it
//!   before the first frame (`walFrames`, with `synchronous` at NORMAL too), because frames of a new
//!   round under the old header would hide parts of the old round, which the database file already has.
//! - `CURRENT` is copied: it is written aside, synced and renamed. A file of an unfinished page
//!   transfer survives in part.
//!
//! Not modelled: a crash within a checkpoint or within the exchange of `CURRENT`, and damage to
//! synced bytes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::random::Rng;

const SECTOR: usize = 512;

/// Bytes of the header of SQLite's WAL.
const WAL_HEADER: usize = 32;

/// SQLite's WAL as of its last sync.
#[derive(Clone, Default)]
pub struct SyncedWal {
    database: PathBuf,
    bytes: Vec<u8>,
}

impl SyncedWal {
    /// Call it right after everything was synced.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note(&mut self, database: PathBuf) -> io::Result<()> {
        self.bytes = read_or_empty(&wal_path(&database))?;
        self.database = database;
        Ok(())
    }

    /// A new database took the place of the old one; nothing of its WAL is synced.
    pub fn replaced(&mut self, database: PathBuf) {
        *self = Self { database, bytes: Vec::new() };
    }
}

/// Copies a folder as a killed process leaves it.
///
/// # Errors
/// What the disk says.
pub fn after_kill(from: &Path, to: &Path) -> io::Result<()> {
    copy(from, to, |_, bytes| bytes)
}

/// Copies a folder as a power loss leaves it.
///
/// # Errors
/// What the disk says.
pub fn after_power_loss(from: &Path, to: &Path, synced: &SyncedWal, rng: &mut Rng) -> io::Result<()> {
    let empty = SyncedWal::default();
    copy(from, to, |path, bytes| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("incoming-") {
            return bytes[..rng.below(bytes.len() as u64 + 1) as usize].to_vec();
        }
        if !name.ends_with("-wal") {
            return bytes;
        }
        let base = if wal_path(&synced.database) == path { &synced.bytes } else { &empty.bytes };
        survivors(base, &bytes, rng)
    })
}

/// Part of what was written after `base` was synced.
fn survivors(base: &[u8], now: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mode = rng.below(4);
    let prefix = rng.below((now.len() / SECTOR) as u64 + 2) as usize;
    let mut left = base.to_vec();
    for (number, sector) in now.chunks(SECTOR).enumerate() {
        let kept = match mode {
            0 => false,
            1 => true,
            2 => number < prefix,
            _ => rng.percent(60),
        };
        if kept {
            let start = number * SECTOR;
            left.resize(left.len().max(start + sector.len()), 0);
            left[start..start + sector.len()].copy_from_slice(sector);
        }
    }
    if now.len() >= WAL_HEADER {
        left.resize(left.len().max(WAL_HEADER), 0);
        left[..WAL_HEADER].copy_from_slice(&now[..WAL_HEADER]);
    }
    left
}

fn copy(from: &Path, to: &Path, mut change: impl FnMut(&Path, Vec<u8>) -> Vec<u8>) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut paths = fs::read_dir(from)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    // The order in which a folder lists its files is not the same in two runs.
    paths.sort();
    for path in paths {
        let Some(name) = path.file_name() else { continue };
        if name.to_string_lossy().ends_with("-shm") {
            continue;
        }
        fs::write(to.join(name), change(&path, fs::read(&path)?))?;
    }
    Ok(())
}

/// SQLite's WAL of a database file.
fn wal_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn read_or_empty(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}
