//! The one queue of the log, and the lock around it.
//!
//! Input: operations of all groups, from [`Wal`](super::Wal). Output: a [`Batch`] of everything that
//! waits, whenever the [`Writer`](super::Writer) asks. Refuses everything once the log failed or was
//! closed.
//!
//! One lock orders everything: an operation changes the index and enters the queue under it, and a
//! batch takes the whole queue under it. So at that moment the index shows exactly what the disk will
//! say after this batch, which is when to decide which segments nobody needs any more. (Deciding
//! later could drop a segment because of a purge that is only queued and that a crash then undoes.)
//!
//! Memory is bounded: an operation whose bytes do not fit waits, in order of arrival, until a batch
//! was written. One that is larger than the whole bound is let in when nothing else is held.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use flotilla_shared::ids::GroupId;

use super::WalOptions;
use super::disk::DiskFile;
use super::error::LogError;
use super::index::{Index, LiveRecord, Place};
use super::record::Kind;
use super::stats::WalStats;

/// Bytes of live records that one batch copies out of an old segment, so that callers in the same
/// batch wait for one short write more, not for a whole segment.
const MOVE_BATCH_BYTES: u64 = 1 << 20;

/// Bytes that may be copied for each byte that is queued. Copying is paid for by writing, so it ends
/// by itself when nothing is written, even if records pack so badly that copying frees nothing; and
/// at two to one it still empties segments faster than writing fills them.
const MOVE_CREDIT_PER_BYTE: u64 = 2;

/// Charged to the queue for each operation beside its payload.
pub(super) const OP_BYTES: usize = 64;

/// Called once, by the writer, when an operation is durable or can never be.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// One queued operation: the record to write, and whom to tell.
pub struct Op {
    pub(super) seq: u64,
    pub(super) group: GroupId,
    pub(super) kind: Kind,
    /// The entry's index; zero for other kinds.
    pub(super) index: u64,
    pub(super) payload: Bytes,
    pub(super) done: Option<Done>,
}

impl Op {
    fn cost(&self) -> usize {
        self.payload.len() + OP_BYTES
    }
}

/// What one write and one sync make durable.
#[derive(Default)]
pub struct Batch {
    pub(super) ops: Vec<Op>,
    /// Live records of the oldest segment, copied behind the operations.
    pub(super) moves: Vec<LiveRecord>,
    /// Once this batch is durable, segments below this number may go.
    pub(super) floor: Option<u64>,
    /// Bytes that the queue gets back.
    pub(super) held_bytes: usize,
    /// Where the records of `ops` and then of `moves` were written.
    pub(super) places: Vec<Place>,
}

/// An open segment file.
#[derive(Clone)]
pub(super) struct SegmentFile {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) size: u64,
}

/// Everything behind the lock.
pub(super) struct Core {
    pub(super) index: Index,
    /// All segments from the floor on; the last one is being written.
    pub(super) segments: BTreeMap<u64, SegmentFile>,
    pub(super) floor: u64,
    queue: Vec<Op>,
    /// Latest committed marks: they ride along with the next batch and never cause one.
    pub(super) lazy: BTreeMap<GroupId, Op>,
    held_bytes: usize,
    next_seq: u64,
    waiting: VecDeque<(u64, Waker)>,
    next_ticket: u64,
    failed: Option<LogError>,
    pub(super) failure_wakers: Vec<Waker>,
    closed: bool,
    /// A segment can go, or must be emptied, although nothing is queued.
    housekeeping: bool,
    driver: Option<Waker>,
    keep_segments: u64,
    /// Bytes that may still be copied out of old segments.
    move_credit: u64,
}

/// Shared by all handles, readers and the writer of one log.
pub(super) struct Shared {
    core: Mutex<Core>,
    work: Condvar,
    pub(super) options: WalOptions,
    pub(super) stats: WalStats,
}

impl Shared {
    pub(super) fn new(options: WalOptions, index: Index, segments: BTreeMap<u64, SegmentFile>, floor: u64) -> Self {
        let core = Core {
            index,
            segments,
            floor,
            queue: Vec::new(),
            lazy: BTreeMap::new(),
            held_bytes: 0,
            next_seq: 1,
            waiting: VecDeque::new(),
            next_ticket: 0,
            failed: None,
            failure_wakers: Vec::new(),
            closed: false,
            housekeeping: true,
            driver: None,
            keep_segments: options.keep_segments,
            move_credit: 0,
        };
        Self { core: Mutex::new(core), work: Condvar::new(), options, stats: WalStats::default() }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        // No code that runs under the lock leaves the core half changed when it panics.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until there is a batch to write; none when the log is closed and empty, or failed.
    pub(super) fn wait_batch(&self) -> Option<Batch> {
        let mut core = self.core();
        loop {
            match core.take_batch() {
                Poll::Ready(batch) => return batch,
                Poll::Pending => core = self.work.wait(core).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The same for a task.
    pub(super) fn poll_batch(&self, cx: &Context<'_>) -> Poll<Option<Batch>> {
        let mut core = self.core();
        let batch = core.take_batch();
        if batch.is_pending() {
            core.driver = Some(cx.waker().clone());
        }
        batch
    }

    pub(super) fn wake_writer(&self, core: &mut Core) {
        self.work.notify_one();
        if let Some(waker) = core.driver.take() {
            waker.wake();
        }
    }

    pub(super) fn publish_gauges(&self, core: &Core) {
        self.stats.segments.store(core.segments.len() as u64, Relaxed);
        self.stats.live_bytes.store(core.index.live_bytes(), Relaxed);
        self.stats.queue_bytes.store(core.held_bytes as u64, Relaxed);
    }

    /// Poisons the log: every operation that waits, now or later, gets the error.
    pub(super) fn fail(&self, error: &LogError, batch: Option<Batch>) {
        let mut orphans: Vec<Op> = batch.map(|b| b.ops).unwrap_or_default();
        {
            let mut core = self.core();
            core.failed.get_or_insert_with(|| error.clone());
            orphans.append(&mut core.queue);
            core.lazy.clear();
            for waker in std::mem::take(&mut core.failure_wakers) {
                waker.wake();
            }
            for (_, waker) in std::mem::take(&mut core.waiting) {
                waker.wake();
            }
            self.wake_writer(&mut core);
        }
        for done in orphans.into_iter().filter_map(|op| op.done) {
            done(Err(error.clone()));
        }
    }
}

impl Core {
    pub(super) fn failure(&self) -> Option<LogError> {
        self.failed.clone()
    }

    pub(super) fn usable(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.closed => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    pub(super) fn next_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    pub(super) fn push(
        &mut self,
        seq: u64,
        group: GroupId,
        kind: Kind,
        index: u64,
        payload: Bytes,
        done: Option<Done>,
    ) {
        self.queue.push(Op { seq, group, kind, index, payload, done });
    }

    /// The newest segment.
    pub(super) fn current(&self) -> u64 {
        self.segments.keys().next_back().copied().unwrap_or(1)
    }

    fn lowest_needed(&self) -> u64 {
        let current = self.current();
        self.index.oldest_live().unwrap_or(current).min(current)
    }

    /// The segment whose live records must be copied, if there is one: there are more segments than
    /// wanted, and either the oldest holds little that is alive (so copying it frees much), or most
    /// of the whole log is dead (so something cold at the front pins it, and copying even a full
    /// segment frees more than it costs).
    fn to_empty(&self) -> Option<u64> {
        if self.move_credit == 0 {
            return None;
        }
        let lowest = self.lowest_needed();
        let size = self.segments.get(&lowest)?.size;
        let kept = self.segments.range(lowest..);
        if kept.clone().count() as u64 <= self.keep_segments.max(1) || lowest == self.current() {
            return None;
        }
        let total: u64 = kept.map(|(_, s)| s.size).sum();
        let little = self.index.live_in(lowest) <= size / 4;
        (little || self.index.live_bytes() <= total / 2).then_some(lowest)
    }

    fn take_batch(&mut self) -> Poll<Option<Batch>> {
        if self.failed.is_some() {
            return Poll::Ready(None);
        }
        let idle = self.queue.is_empty();
        if idle && !self.housekeeping && !self.closed {
            return Poll::Pending;
        }
        let mut batch = Batch { ops: std::mem::take(&mut self.queue), ..Batch::default() };
        batch.held_bytes = batch.ops.iter().map(Op::cost).sum();
        // At most as much is saved up as would copy the whole log.
        let credit = self.move_credit + MOVE_CREDIT_PER_BYTE * batch.held_bytes as u64;
        self.move_credit = credit.min(self.index.live_bytes());
        batch.ops.extend(std::mem::take(&mut self.lazy).into_values());
        self.housekeeping = false;
        let lowest = self.lowest_needed();
        if lowest > self.floor {
            batch.floor = Some(lowest);
        }
        if let Some(segment) = self.to_empty() {
            batch.moves = self.index.live_records(segment, MOVE_BATCH_BYTES.min(self.move_credit));
            let moved: u64 = batch.moves.iter().map(|record| record.place.record_len()).sum();
            self.move_credit = self.move_credit.saturating_sub(moved);
        }
        if batch.ops.is_empty() && batch.moves.is_empty() && batch.floor.is_none() {
            return if self.closed { Poll::Ready(None) } else { Poll::Pending };
        }
        Poll::Ready(Some(batch))
    }

    /// Bookkeeping after a batch is durable and its places are in the index.
    pub(super) fn batch_done(&mut self, held_bytes: usize) {
        self.held_bytes -= held_bytes;
        self.housekeeping = self.lowest_needed() > self.floor || self.to_empty().is_some();
        self.wake_first_waiting();
    }

    /// Takes nothing more; those who wait for room are told.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for (_, waker) in std::mem::take(&mut self.waiting) {
            waker.wake();
        }
    }

    fn wake_first_waiting(&self) {
        if let Some((_, waker)) = self.waiting.front() {
            waker.wake_by_ref();
        }
    }
}

/// A place in the line of those who wait for room in the queue.
pub(super) struct Turn<'a> {
    shared: &'a Shared,
    ticket: Option<u64>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, ticket: None }
    }

    /// Runs `act` once it is this one's turn and `bytes` fit; what `act` queued then counts.
    pub(super) fn poll<F>(&mut self, cx: &Context<'_>, bytes: usize, act: &mut Option<F>) -> Poll<Result<(), LogError>>
    where
        F: FnOnce(&mut Core) -> Result<(), LogError>,
    {
        let shared = self.shared;
        let mut core = shared.core();
        if let Err(error) = core.usable() {
            return Poll::Ready(Err(error));
        }
        let first = match self.ticket {
            None => core.waiting.is_empty(),
            Some(ticket) => core.waiting.front().is_some_and(|(id, _)| *id == ticket),
        };
        let fits = core.held_bytes == 0 || core.held_bytes + bytes <= shared.options.queue_bytes;
        if !(first && fits) {
            let waker = cx.waker().clone();
            match self.ticket {
                Some(ticket) => {
                    if let Some(place) = core.waiting.iter_mut().find(|(id, _)| *id == ticket) {
                        place.1 = waker;
                    }
                }
                None => {
                    let ticket = core.next_ticket;
                    core.next_ticket += 1;
                    self.ticket = Some(ticket);
                    core.waiting.push_back((ticket, waker));
                }
            }
            return Poll::Pending;
        }
        if self.ticket.take().is_some() {
            core.waiting.pop_front();
        }
        let Some(act) = act.take() else { return Poll::Ready(Err(LogError::Closed)) };
        let before = core.queue.len();
        let result = act(&mut core);
        let added: usize = core.queue[before..].iter().map(Op::cost).sum();
        core.held_bytes += added;
        shared.stats.queue_bytes.store(core.held_bytes as u64, Relaxed);
        core.wake_first_waiting();
        shared.wake_writer(&mut core);
        Poll::Ready(result)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut core = self.shared.core();
            core.waiting.retain(|(id, _)| *id != ticket);
            core.wake_first_waiting();
        }
    }
}
