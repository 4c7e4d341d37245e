//! The one writer: turns a batch into bytes, puts them on disk, and says so.
//!
//! Input: a [`Batch`] of everything that waited. Output: one write and one sync, places for the
//! index, callbacks in order, old segments removed. Refuses nothing; any failure poisons the log.
//!
//! A batch goes through three steps, which a driver calls one after the other ([`Writer::write_batch`]
//! calls them all). A crash in or after each of them means:
//!
//! 1. [`Writer::write`]: the bytes are handed to the operating system, after a new segment was
//!    started if they do not fit. *Crash:* any part of the batch may be on disk. Recovery keeps it if
//!    it is whole, else drops it; nobody was told anything. A segment that was being started has no
//!    batch, and is removed or used.
//! 2. [`Writer::sync`]: *crash:* the batch is kept, nobody was told.
//! 3. [`Writer::finish`]: places go to the index, callbacks are called, segments below the batch's
//!    floor are removed. *Crash:* recovery finds the floor in the batch and removes them again.
//!
//! No byte of batch N+1 is written, and no segment is created for it, before batch N was synced:
//! [`segment`](super::segment) tells torn from damaged by that.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use flotilla_shared::ids::META;

use super::disk::Disk;
use super::error::LogError;
use super::index::Place;
use super::queue::{Batch, SegmentFile, Shared};
use super::reader::read_record;
use super::record::{
    BATCH_HEADER, BatchHead, Kind, RECORD_HEADER, SECTOR, put_batch_head, put_record, record_len, sector_up,
};
use super::segment::{SegmentHead, file_name};

/// The write buffer is kept between batches up to this size; a larger one was for a rare large batch.
const KEEP_BUFFER_BYTES: usize = 4 << 20;

/// Writes one log. There is one per open log; whoever drives it decides when and on which thread.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    segment: u64,
    file: Option<SegmentFile>,
    offset: u64,
    next_batch: u64,
    buffer: Vec<u8>,
    /// Whoever may write holds the folder.
    _lock: Box<dyn Any + Send + Sync>,
}

impl Writer {
    /// A writer that goes on at `offset` of the newest segment, or starts the first one.
    pub(super) fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        lock: Box<dyn Any + Send + Sync>,
        offset: u64,
        next_batch: u64,
    ) -> Self {
        let (segment, file) = {
            let core = shared.core();
            core.segments.last_key_value().map_or((0, None), |(number, file)| (*number, Some(file.clone())))
        };
        Self { shared, disk, segment, file, offset, next_batch, buffer: Vec::new(), _lock: lock }
    }

    /// Takes everything that waits, if anything does.
    pub fn take_batch(&mut self) -> Option<Batch> {
        match self.shared.poll_batch(&Context::from_waker(Waker::noop())) {
            Poll::Ready(batch) => batch,
            Poll::Pending => None,
        }
    }

    /// All steps of one batch: afterwards it is durable and everybody knows.
    ///
    /// # Errors
    /// What the disk said; the log is poisoned then and everybody knows that.
    pub fn write_batch(&mut self, mut batch: Batch) -> Result<(), LogError> {
        match self.write(&mut batch).and_then(|()| self.sync()) {
            Ok(()) => self.finish(batch),
            Err(error) => Err(self.poison(error, batch)),
        }
    }

    /// Fails the log and everybody who waits.
    pub(super) fn poison(&mut self, error: LogError, batch: Batch) -> LogError {
        self.shared.fail(&error, Some(batch));
        error
    }

    /// First step: the batch's bytes go to the operating system in one write. The steps of a batch are
    /// called in order, and those of one batch before those of the next.
    ///
    /// # Errors
    /// What the disk said, or damage in a record that was to be copied. The caller gives the batch up
    /// by dropping the writer; [`Writer::write_batch`] and the drivers tell everybody why.
    pub fn write(&mut self, batch: &mut Batch) -> Result<(), LogError> {
        self.load_moves(batch)?;
        let payloads = batch.ops.iter().map(|op| op.payload.len());
        let moved = batch.moves.iter().map(|record| record.place.len as usize);
        let floor = batch.floor.iter().map(|_| size_of::<u64>());
        let body: usize = payloads.chain(moved).chain(floor).map(record_len).sum();
        let len = sector_up((BATCH_HEADER + body) as u64);
        let file = match &self.file {
            Some(file) if self.offset + len <= file.size => file.clone(),
            _ => self.start_segment(SECTOR + len)?,
        };
        self.encode(batch, body);
        self.buffer.resize(len as usize, 0);
        file.file
            .write_at(&self.buffer, self.offset)
            .map_err(|error| LogError::io("write", &file_name(self.segment), error))?;
        self.offset += len;
        self.next_batch += 1;
        let stats = &self.shared.stats;
        stats.batches.fetch_add(1, Relaxed);
        stats.bytes.fetch_add(len, Relaxed);
        stats.records.fetch_add(batch.places.len() as u64, Relaxed);
        stats.moved_records.fetch_add(batch.moves.len() as u64, Relaxed);
        if self.buffer.capacity() > KEEP_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Copies need the bytes of what they copy; damage found here is not copied but ends the log.
    fn load_moves(&self, batch: &mut Batch) -> Result<(), LogError> {
        for record in batch.moves.iter_mut().filter(|record| record.bytes.is_none()) {
            let file = self.shared.core().segments.get(&record.place.segment).cloned();
            let file = file.ok_or_else(|| {
                let name = file_name(record.place.segment);
                LogError::damaged(&name, u64::from(record.place.offset), "a needed segment is gone")
            })?;
            let bytes = read_record(&*file.file, record.place, record.kind, record.group, record.index)?;
            record.bytes = Some(bytes);
        }
        Ok(())
    }

    fn encode(&mut self, batch: &mut Batch, body: usize) {
        let (segment, start) = (self.segment, self.offset);
        let ops = batch.ops.iter().map(|op| (op.kind, op.group, &op.payload[..]));
        let moves = batch.moves.iter().map(|m| (m.kind, m.group, m.bytes.as_deref().unwrap_or_default()));
        let floor = batch.floor.map(u64::to_le_bytes);
        let floor = floor.iter().map(|floor| (Kind::Floor, META, &floor[..]));
        let records = batch.ops.len() + batch.moves.len() + floor.len();
        let head = BatchHead { number: self.next_batch, body_len: body as u32, records: records as u32 };
        self.buffer.clear();
        self.buffer.extend_from_slice(&put_batch_head(head, segment, start));
        batch.places = Vec::with_capacity(records);
        for (kind, group, payload) in ops.chain(moves).chain(floor) {
            let offset = start + self.buffer.len() as u64;
            put_record(&mut self.buffer, segment, offset, kind, group, payload);
            batch.places.push(Place { segment, offset: offset as u32, len: payload.len() as u32 });
        }
        debug_assert_eq!(self.buffer.len(), BATCH_HEADER + body, "{RECORD_HEADER} bytes per record");
    }

    /// A new file counts only once its header and its name are durable, and before that nothing is
    /// written into it; so a crash leaves no segment, an empty one, or one without a valid header.
    fn start_segment(&mut self, needed: u64) -> Result<SegmentFile, LogError> {
        let number = self.segment + 1;
        let name = file_name(number);
        let size = self.shared.options.segment_bytes.max(needed);
        let floor = self.shared.core().floor;
        let head = SegmentHead { number, first_batch: self.next_batch, floor, size };
        let file = self.disk.create(&name, size).map_err(|error| LogError::io("create", &name, error))?;
        file.write_at(&head.to_bytes(), 0).map_err(|error| LogError::io("write", &name, error))?;
        file.sync_data().map_err(|error| LogError::io("sync", &name, error))?;
        self.disk.sync_dir().map_err(|error| LogError::io("sync", ".", error))?;
        let file = SegmentFile { file, size };
        self.shared.core().segments.insert(number, file.clone());
        self.segment = number;
        self.offset = SECTOR;
        self.file = Some(file.clone());
        Ok(file)
    }

    /// Second step: one sync. A sync that failed is never repeated: the operating system may have
    /// dropped the bytes, and would then call the second sync a success.
    ///
    /// # Errors
    /// What the disk said; the batch may or may not be durable.
    pub fn sync(&mut self) -> Result<(), LogError> {
        match &self.file {
            Some(file) => file.file.sync_data().map_err(|error| LogError::io("sync", &file_name(self.segment), error)),
            None => Ok(()),
        }
    }

    /// Third step: everybody is told, in order, and what nobody needs is removed.
    ///
    /// # Errors
    /// When a file cannot be removed; the log is poisoned then, though this batch is durable.
    pub fn finish(&mut self, batch: Batch) -> Result<(), LogError> {
        let Batch { ops, moves, floor, held_bytes, places } = batch;
        let mut dead = Vec::new();
        {
            let mut core = self.shared.core();
            let mut places = places.into_iter();
            for (op, place) in ops.iter().zip(places.by_ref()) {
                core.index.placed(op.group, op.kind, op.index, op.seq, place);
            }
            for (record, place) in moves.iter().zip(places) {
                core.index.moved(record.group, record.kind, record.index, record.place, place);
            }
            core.index.trim_cache();
            if let Some(floor) = floor {
                core.floor = floor;
                let needed = core.segments.split_off(&floor);
                dead.extend(std::mem::replace(&mut core.segments, needed).into_keys());
            }
            core.batch_done(held_bytes);
            self.shared.publish_gauges(&core);
        }
        for done in ops.into_iter().filter_map(|op| op.done) {
            done(Ok(()));
        }
        self.remove(&dead).inspect_err(|error| self.shared.fail(error, None))
    }

    /// The removals need no sync of the folder: until the next one, a file that is back after a
    /// crash lies below the floor and is removed again.
    fn remove(&self, dead: &[u64]) -> Result<(), LogError> {
        let _purging = (!dead.is_empty()).then(|| self.shared.stats.purges.begin());
        for number in dead {
            let name = file_name(*number);
            self.disk.remove(&name).map_err(|error| LogError::io("remove", &name, error))?;
        }
        Ok(())
    }

    /// Writes an empty batch: whatever was written before is known to have been durable, so that
    /// damage in it is never mistaken for a torn tail.
    pub(super) fn seal(&mut self) -> Result<(), LogError> {
        if let Some(error) = self.shared.core().failure() {
            return Err(error);
        }
        self.write_batch(Batch::default())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without its writer the log can do nothing: nobody may wait for ever.
        if self.shared.core().failure().is_none() {
            self.shared.fail(&LogError::Closed, None);
        }
    }
}
