//! A disk in memory that loses power, for the simulation and for tests of the log.
//!
//! Input: the calls of [`Disk`], and the moment and seed of a crash. Output: after
//! [`SimDisk::crash`], a new disk with what a real one might hold; after [`SimDisk::kill`], one with
//! what the operating system still held. Refuses every call on the old disk from then on, so that a
//! process that does not know yet that it is dead can change and acknowledge nothing.
//!
//! What a power loss does, chosen by the seed: unsynced writes survive all, none, or sector by sector
//! (512 bytes), and a sector may survive as a prefix of its bytes; unsynced names and removals
//! survive or not, one by one. A sync that fails (see [`SimDisk::fail_next_sync`]) drops what it
//! should have written for ever, though it can still be read until the power is lost: that is how
//! Linux treats its page cache.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    dead: bool,
    locked: bool,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    capacity_bytes: Option<u64>,
    fail_next_sync: bool,
    fail_next_write: bool,
    syncs: u64,
}

#[derive(Clone, Default)]
struct FileState {
    /// What a read gives.
    bytes: Vec<u8>,
    /// What a power loss leaves.
    durable: Vec<u8>,
    /// Writes since the last sync: offset and bytes.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// How many have it open; a removed file lives as long as that, or until its removal is durable.
    opened: u32,
}

/// A small generator, so that a crash is the same for the same seed on every version of everything
/// (SplitMix64, Steele et al. 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

impl SimDisk {
    /// An empty disk without errors or limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// The power goes: this disk is dead, and the result is what one finds afterwards. The same seed
    /// on the same state gives the same result.
    pub fn crash(&self, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut old = self.state();
        let mut new = State { capacity_bytes: old.capacity_bytes, next_file: old.next_file, ..State::default() };
        let mut names = old.durable_names.clone();
        let touched = old.durable_names.keys().chain(old.names.keys());
        for name in touched {
            let after = old.names.get(name);
            if old.durable_names.get(name) != after && dice.roll(2) == 0 {
                match after {
                    Some(id) => drop(names.insert(name.clone(), *id)),
                    None => drop(names.remove(name)),
                }
            }
        }
        let mode = dice.roll(4);
        for id in names.values() {
            let Some(file) = old.files.get(id) else { continue };
            let bytes = file.after_power_loss(mode, &mut dice);
            new.files.insert(*id, FileState { durable: bytes.clone(), bytes, ..FileState::default() });
        }
        new.durable_names = names.clone();
        new.names = names;
        old.dead = true;
        Self { state: Arc::new(Mutex::new(new)) }
    }

    /// The process is killed but the machine stays up: this disk is dead, and the result has all
    /// that was written, synced or not.
    pub fn kill(&self) -> Self {
        let mut old = self.state();
        let mut new = State { locked: false, fail_next_sync: false, fail_next_write: false, ..old.clone() };
        for file in new.files.values_mut() {
            file.opened = 0;
        }
        old.dead = true;
        Self { state: Arc::new(Mutex::new(new)) }
    }

    /// The next sync of a file fails, and loses what it should have written.
    pub fn fail_next_sync(&self) {
        self.state().fail_next_sync = true;
    }

    /// The next write to a file fails, after a part of it was written.
    pub fn fail_next_write(&self) {
        self.state().fail_next_write = true;
    }

    /// Limits the sum of file lengths; none lifts it. What needs more fails with
    /// [`io::ErrorKind::StorageFull`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// How many syncs of files succeeded.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Names and contents of all files, as a process would read them.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let content = |id| state.files.get(id).map(|f| f.bytes.clone()).unwrap_or_default();
        state.names.iter().map(|(name, id)| (name.clone(), content(id))).collect()
    }

    /// A disk on which all of these files are durable.
    pub fn with_files(files: BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::new();
        {
            let mut state = disk.state();
            for (name, bytes) in files {
                let id = state.next_file;
                state.next_file += 1;
                state.names.insert(name, id);
                state.files.insert(id, FileState { durable: bytes.clone(), bytes, ..FileState::default() });
            }
            state.durable_names = state.names.clone();
        }
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        match state.dead {
            true => Err(io::Error::other("the simulated power is off")),
            false => Ok(state),
        }
    }

    fn file(&self, id: u64) -> Arc<dyn DiskFile> {
        if let Some(file) = self.state().files.get_mut(&id) {
            file.opened += 1;
        }
        Arc::new(SimFile { disk: self.clone(), id })
    }
}

impl State {
    fn forget_unreachable(&mut self) {
        let named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        self.files.retain(|id, file| file.opened > 0 || named.contains(id));
    }

    fn check_space(&self, more: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity_bytes else { return Ok(()) };
        let files = self.names.values().filter_map(|id| self.files.get(id));
        let used: u64 = files.map(|file| file.bytes.len() as u64).sum();
        if used + more > capacity { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn file_mut(&mut self, id: u64) -> io::Result<&mut FileState> {
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl FileState {
    fn after_power_loss(&self, mode: u64, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (offset, written) in &self.unsynced {
            let mut at = 0;
            while at < written.len() {
                let sector_end = SECTOR - (offset + at) % SECTOR;
                let len = sector_end.min(written.len() - at);
                let kept = match mode {
                    0 => 0,
                    1 => len,
                    _ => match dice.roll(3) {
                        0 => 0,
                        1 => len,
                        _ => dice.roll(len as u64 + 1) as usize,
                    },
                };
                let start = offset + at;
                if kept > 0 {
                    bytes.resize(bytes.len().max(start + kept), 0);
                    bytes[start..start + kept].copy_from_slice(&written[at..at + kept]);
                }
                at += len;
            }
        }
        if dice.roll(2) == 0 {
            bytes.resize(bytes.len().max(self.bytes.len()), 0);
        }
        bytes
    }
}

struct SimLock(SimDisk);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.alive()?;
        if state.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked = true;
        Ok(Box::new(SimLock(self.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.alive()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.names.insert(name.to_owned(), id);
        state.files.insert(id, FileState::default());
        drop(state);
        let file = self.file(id);
        file.allocate(len)?;
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.alive()?;
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        drop(state);
        Ok(self.file(id))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        // The content stays for those who have it open, and for a crash that undoes the removal.
        self.alive()?.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        state.durable_names = state.names.clone();
        state.forget_unreachable();
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if let Some(file) = state.files.get_mut(&self.id) {
            file.opened -= 1;
            if file.opened == 0 {
                state.forget_unreachable();
            }
        }
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let fails = std::mem::take(&mut state.fail_next_write);
        let written = if fails { &bytes[..bytes.len() / 2] } else { bytes };
        let start = offset as usize;
        let end = start + written.len();
        let more = end.saturating_sub(state.file_mut(self.id)?.bytes.len());
        state.check_space(more as u64)?;
        let file = state.file_mut(self.id)?;
        file.bytes.resize(file.bytes.len().max(end), 0);
        file.bytes[start..end].copy_from_slice(written);
        file.unsynced.push((start, written.to_vec()));
        if fails { Err(io::Error::other("a simulated write error")) } else { Ok(()) }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let file = state.file_mut(self.id)?;
        let start = offset as usize;
        let bytes = file.bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let fails = std::mem::take(&mut state.fail_next_sync);
        state.syncs += u64::from(!fails);
        let file = state.file_mut(self.id)?;
        let unsynced = std::mem::take(&mut file.unsynced);
        if fails {
            return Err(io::Error::other("a simulated sync error"));
        }
        let len = file.bytes.len();
        file.durable.resize(len, 0);
        for (start, bytes) in unsynced {
            file.durable[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.alive()?.file_mut(self.id)?.bytes.len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let more = len.saturating_sub(state.file_mut(self.id)?.bytes.len() as u64);
        state.check_space(more)?;
        let file = state.file_mut(self.id)?;
        file.bytes.resize(file.bytes.len().max(len as usize), 0);
        Ok(())
    }
}
