//! Opening a log: from files to an index and a writer.
//!
//! Input: a [`Disk`]. Output: a [`Wal`] that shows what was durable, and its [`Writer`]. Refuses a
//! folder that another process has, and damage (by the rules in [`segment`](super::segment)); a
//! refused log is not changed at all, so that it can be looked at.
//!
//! In order, and what a crash in between leaves:
//!
//! 1. Take the lock, list the segments. A newest file without a valid header and without any batch is
//!    a segment that was being started: it is removed at the end.
//! 2. Replay all records in order. Segments need not start at 1: everything below the **floor** (the
//!    highest number in a segment header or a [`Kind::Floor`] record) was copied or is dead; a missing
//!    segment above it is damage.
//! 3. Check that the entries of each group have no hole and start right behind its purge mark.
//! 4. Zero the remains of a torn batch, write the last whole batch once more, sync; only then remove
//!    files, because the floor itself may be in that batch. *Why once more:* after a failed sync the operating system may show bytes that are not on the disk and that it
//!    does not plan to write; what is read here must be durable before anyone acts on it. Only the
//!    last batch can be in that state, and a crash while it is overwritten with the same bytes does
//!    no harm.
//! 5. The first batch of the new writer is empty: it seals what is before it.
//!
//! Memory: one segment file at a time, plus the index.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_shared::ids::GroupId;

use super::WalOptions;
use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::index::{Index, Place};
use super::queue::{SegmentFile, Shared};
use super::record::{Kind, Record, SECTOR};
use super::segment::{SegmentHead, Tail, any_batch, file_name, number_of, scan};
use super::wal::Wal;
use super::writer::Writer;

/// One segment file, read into memory.
struct Loaded {
    number: u64,
    file: Arc<dyn DiskFile>,
    bytes: Vec<u8>,
}

/// What the records said so far.
#[derive(Default)]
struct Replay {
    groups: BTreeMap<GroupId, GroupReplay>,
    floor: u64,
}

#[derive(Default)]
struct GroupReplay {
    marks: BTreeMap<Kind, (Place, Bytes)>,
    purged: Option<u64>,
    entries: BTreeMap<u64, Place>,
}

impl Wal {
    /// Opens the log in a folder, or starts one in an empty folder, and seals what was there. Blocks for
    /// the disk. No operation becomes durable until the [`Writer`] is driven: spawn its thread or its
    /// task.
    ///
    /// # Errors
    /// [`LogError::BadOption`], [`LogError::Locked`], [`LogError::LogDamaged`], or what the disk said.
    pub fn open(disk: Arc<dyn Disk>, options: WalOptions) -> Result<(Self, Writer), LogError> {
        options.check()?;
        let lock = disk.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LogError::Locked,
            _ => LogError::io("lock", ".", error),
        })?;
        let names = disk.list().map_err(|error| LogError::io("list", ".", error))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        let unfinished = unfinished_segment(&*disk, &numbers)?;
        let whole = &numbers[..numbers.len() - unfinished.iter().len()];

        // Segments below a gap were being removed: see `Replay::floor`.
        let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
        let run = whole.get(gap.map_or(0, |at| at + 1)..).unwrap_or_default();
        let mut replay = Replay { floor: 1, ..Replay::default() };
        let mut segments = BTreeMap::new();
        let mut newest: Option<(Loaded, Tail)> = None;
        for &number in run {
            let previous = newest.take().map(|(_, tail)| tail.next_batch);
            let mut loaded = load(&*disk, number)?;
            let last = Some(&number) == run.last();
            // A file that was being started behind this one proves that this one is complete.
            let torn_allowed = last && unfinished.is_none();
            let (tail, size) = replay.segment(&mut loaded, previous, torn_allowed)?;
            segments.insert(number, SegmentFile { file: Arc::clone(&loaded.file), size });
            newest = Some((loaded, tail));
        }
        let oldest = run.first().copied().or(unfinished).unwrap_or(1);
        if replay.floor < oldest {
            return Err(LogError::damaged(&file_name(oldest - 1), 0, "a needed segment is gone"));
        }
        let index = replay.index(options.cache_bytes)?;

        let floor = replay.floor;
        // Before anything is removed: the floor itself may be in a batch that is not yet durable.
        let (offset, next_batch) = match &newest {
            Some((loaded, tail)) => {
                settle(loaded, *tail)?;
                (tail.end, tail.next_batch)
            }
            None => (0, 1),
        };
        let dead = numbers.iter().filter(|&&number| number < floor || Some(number) == unfinished);
        for name in dead.map(|number| file_name(*number)) {
            disk.remove(&name).map_err(|error| LogError::io("remove", &name, error))?;
        }
        disk.sync_dir().map_err(|error| LogError::io("sync", ".", error))?;
        segments.retain(|number, _| *number >= floor);
        let shared = Arc::new(Shared::new(options, index, segments, floor));
        let mut writer = Writer::new(Arc::clone(&shared), disk, lock, offset, next_batch);
        writer.seal()?;
        Ok((Self { shared }, writer))
    }
}

/// The newest segment, if a crash came between its creation and its first use.
fn unfinished_segment(disk: &dyn Disk, numbers: &[u64]) -> Result<Option<u64>, LogError> {
    let Some(&number) = numbers.last() else { return Ok(None) };
    let loaded = load(disk, number)?;
    if SegmentHead::from_bytes(&loaded.bytes, number).is_some() {
        return Ok(None);
    }
    if any_batch(&loaded.bytes, number, 0) {
        return Err(LogError::damaged(&file_name(number), 0, "the header of the segment is not valid"));
    }
    Ok(Some(number))
}

fn load(disk: &dyn Disk, number: u64) -> Result<Loaded, LogError> {
    let name = file_name(number);
    let file = disk.open(&name).map_err(|error| LogError::io("open", &name, error))?;
    let read = || {
        let len = file.len()?;
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| LogError::io("read", &name, error))?;
    Ok(Loaded { number, file, bytes })
}

/// Makes durable what was read from the newest segment, and only that.
fn settle(newest: &Loaded, tail: Tail) -> Result<(), LogError> {
    let name = file_name(newest.number);
    let junk = tail.junk_end.saturating_sub(tail.end) as usize;
    let start = tail.last_batch.unwrap_or(0);
    let rewrite = || {
        newest.file.allocate(newest.bytes.len() as u64)?;
        newest.file.write_at(&vec![0; junk], tail.end)?;
        newest.file.write_at(&newest.bytes[start as usize..tail.end as usize], start)
    };
    rewrite().map_err(|error| LogError::io("write", &name, error))?;
    newest.file.sync_data().map_err(|error| LogError::io("sync", &name, error))
}

impl Replay {
    fn segment(
        &mut self,
        loaded: &mut Loaded,
        expected_batch: Option<u64>,
        torn_allowed: bool,
    ) -> Result<(Tail, u64), LogError> {
        let name = file_name(loaded.number);
        let head = SegmentHead::from_bytes(&loaded.bytes, loaded.number)
            .ok_or_else(|| LogError::damaged(&name, 0, "the header of the segment is not valid"))?;
        if expected_batch.is_some_and(|expected| expected != head.first_batch) {
            return Err(LogError::damaged(&name, 0, "batches before this segment are missing"));
        }
        let len = loaded.bytes.len() as u64;
        if len < head.size {
            // A power loss may forget the length of a file, but not what was synced in it.
            if !torn_allowed {
                return Err(LogError::damaged(&name, len, "the segment is cut off"));
            }
            loaded.bytes.resize(head.size as usize, 0);
        }
        self.floor = self.floor.max(head.floor);
        let tail = scan(&loaded.bytes, head, torn_allowed, &mut |record| {
            self.record(loaded.number, record);
            Ok(())
        })?;
        Ok((tail, head.size.max(SECTOR)))
    }

    fn record(&mut self, segment: u64, record: Record<'_>) {
        let place = Place { segment, offset: record.offset as u32, len: record.payload.len() as u32 };
        let number = record.number();
        match record.kind {
            Kind::Floor => self.floor = self.floor.max(number),
            Kind::RemoveGroup => drop(self.groups.remove(&record.group)),
            kind => self.groups.entry(record.group).or_default().record(kind, number, place, record.payload),
        }
    }

    fn index(&mut self, cache_bytes: usize) -> Result<Index, LogError> {
        let mut index = Index::new(cache_bytes);
        for (group, g) in std::mem::take(&mut self.groups) {
            let first = g.first();
            for (expected, (index, place)) in (first..).zip(&g.entries) {
                if expected != *index {
                    let name = file_name(place.segment);
                    let offset = u64::from(place.offset);
                    return Err(LogError::damaged(&name, offset, "entries before this one are missing"));
                }
            }
            if g.marks.is_empty() && g.entries.is_empty() {
                continue;
            }
            let marks = g.marks.into_iter().map(|(kind, (place, bytes))| (kind, place, bytes));
            index.restore(group, marks, g.purged, first, g.entries.into_values());
        }
        Ok(index)
    }
}

impl GroupReplay {
    fn record(&mut self, kind: Kind, number: u64, place: Place, payload: &[u8]) {
        match kind {
            // Also a copy out of an older segment, which may come after entries that follow it.
            Kind::Entry => drop(self.entries.insert(number, place)),
            Kind::TruncateAfter => drop(self.entries.split_off(&number)),
            Kind::Purge if self.purged.is_some_and(|purged| purged > number) => {}
            Kind::Purge => {
                self.purged = Some(number);
                self.entries = self.entries.split_off(&(number + 1));
                self.marks.insert(kind, (place, Bytes::copy_from_slice(payload)));
            }
            _ => drop(self.marks.insert(kind, (place, Bytes::copy_from_slice(payload)))),
        }
    }

    /// Where the entries must start.
    fn first(&self) -> u64 {
        let found = self.entries.keys().next().copied().unwrap_or(0);
        self.purged.map_or(found, |purged| purged + 1)
    }
}
