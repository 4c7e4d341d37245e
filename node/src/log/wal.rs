//! The handle of the log: every operation and every question, for all groups.
//!
//! Input: payloads as bytes, from [`GroupLog`](super::GroupLog) or directly. Output: operations in the
//! [`queue`](super::queue), answers from the [`Index`](super::index::Index) (entries: see
//! [`reader`](super::reader)). Refuses holes and records that are too large, without changing anything;
//! refuses everything once the log failed or was closed.
//!
//! What an operation changed can be read at once, before it is durable. A caller must not act on it
//! towards others before it was told: the consensus library does not answer a vote before
//! [`Wal::save_vote`] returned, nor count an entry before its callback.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use flotilla_shared::ids::GroupId;
use futures::channel::oneshot;

use super::error::LogError;
use super::queue::{Core, Done, OP_BYTES, Op, Shared, Turn};
use super::record::{Kind, leading_number};
use super::stats::WalStats;

/// Largest payload of one record, in bytes: an entry must be proposed, sent and read back in one
/// piece, and no statement that a client may send comes near it.
pub const MAX_RECORD_BYTES: usize = 64 << 20;

/// Handle of one node's log. Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub struct Wal {
    pub(super) shared: Arc<Shared>,
}

impl Wal {
    async fn enqueue(
        &self,
        payload_bytes: usize,
        ops: usize,
        act: impl FnOnce(&mut Core) -> Result<(), LogError> + Send,
    ) -> Result<(), LogError> {
        let mut turn = Turn::new(&self.shared);
        let mut act = Some(act);
        let bytes = payload_bytes + ops * OP_BYTES;
        poll_fn(|cx| turn.poll(cx, bytes, &mut act)).await
    }

    /// Appends entries (payloads that start with their index, see [`numbered`](super::numbered)).
    /// They are readable once this returns; `done` is called when they are durable. Waits for room
    /// in the queue, not for the disk.
    ///
    /// # Errors
    /// [`LogError::NotConsecutive`], [`LogError::TooLarge`] (nothing was done), or the log's failure.
    pub async fn append(&self, group: GroupId, entries: Vec<Bytes>, done: Option<Done>) -> Result<(), LogError> {
        if let Some(large) = entries.iter().find(|e| e.len() > MAX_RECORD_BYTES) {
            return Err(LogError::TooLarge { bytes: large.len(), limit: MAX_RECORD_BYTES });
        }
        if entries.is_empty() {
            if let Some(done) = done {
                done(Ok(()));
            }
            return Ok(());
        }
        debug_assert!(entries.iter().all(|payload| payload.len() >= 8), "payloads start with their index");
        let bytes = entries.iter().map(Bytes::len).sum();
        self.enqueue(bytes, entries.len(), move |core| {
            let mut expected = core.index.expected(group);
            for payload in &entries {
                let index = leading_number(payload);
                if let Some(expected) = expected.filter(|e| *e != index) {
                    return Err(LogError::NotConsecutive { group, index, expected });
                }
                expected = Some(index + 1);
            }
            let mut done = done;
            let last = entries.len().saturating_sub(1);
            for (n, payload) in entries.into_iter().enumerate() {
                let index = leading_number(&payload);
                let seq = core.next_seq();
                core.index.append(group, index, seq, payload.clone())?;
                let done = if n == last { done.take() } else { None };
                core.push(seq, group, Kind::Entry, index, payload, done);
            }
            Ok(())
        })
        .await
    }

    /// Saves the group's vote and waits until it is durable.
    ///
    /// # Errors
    /// The log's failure; the vote may or may not be on disk then.
    pub async fn save_vote(&self, group: GroupId, vote: Bytes) -> Result<(), LogError> {
        let (done, durable) = durability();
        self.enqueue(vote.len(), 1, move |core| {
            let seq = core.next_seq();
            core.index.set_mark(group, Kind::Vote, seq, vote.clone());
            core.push(seq, group, Kind::Vote, 0, vote, Some(done));
            Ok(())
        })
        .await?;
        durable.await.unwrap_or(Err(LogError::Closed))
    }

    /// Remembers the committed log id. It is written with whatever is written next.
    ///
    /// # Errors
    /// The log's failure.
    pub fn save_committed(&self, group: GroupId, committed: Bytes) -> Result<(), LogError> {
        let mut core = self.shared.core();
        core.usable()?;
        let seq = core.next_seq();
        core.index.set_mark(group, Kind::Committed, seq, committed.clone());
        let op = Op { seq, group, kind: Kind::Committed, index: 0, payload: committed, done: None };
        core.lazy.insert(group, op);
        Ok(())
    }

    /// Cuts off all entries from index `from` on. Takes effect at once for readers and becomes
    /// durable in order, not before this returns.
    ///
    /// # Errors
    /// The log's failure.
    pub async fn truncate_from(&self, group: GroupId, from: u64) -> Result<(), LogError> {
        let payload = Bytes::copy_from_slice(&from.to_le_bytes());
        self.enqueue(payload.len(), 1, move |core| {
            let (_, end) = core.index.bounds(group);
            if from < end {
                core.index.truncate(group, from);
                let seq = core.next_seq();
                core.push(seq, group, Kind::TruncateAfter, 0, payload, None);
            }
            Ok(())
        })
        .await
    }

    /// Drops all entries up to the index that `purged` starts with, which may lie behind the last
    /// entry. Takes effect at once for readers and becomes durable in order. A purge of what was purged
    /// before changes nothing.
    ///
    /// # Errors
    /// [`LogError::NotConsecutive`] if the first entry lies behind the purged index with a hole in
    /// between (nothing was done), or the log's failure.
    pub async fn purge(&self, group: GroupId, purged: Bytes) -> Result<(), LogError> {
        debug_assert!(purged.len() >= 8, "the payload starts with the index");
        self.enqueue(purged.len(), 1, move |core| {
            let upto = leading_number(&purged);
            if core.index.purged(group) > Some(upto) {
                return Ok(());
            }
            let (first, end) = core.index.bounds(group);
            if first < end && upto.saturating_add(1) < first {
                let expected = upto + 1;
                return Err(LogError::NotConsecutive { group, index: first, expected });
            }
            let seq = core.next_seq();
            core.index.purge(group, upto, seq, purged.clone());
            core.push(seq, group, Kind::Purge, 0, purged, None);
            Ok(())
        })
        .await
    }

    /// Forgets a group and waits until that is durable. Forgetting an unknown group is no error.
    ///
    /// # Errors
    /// The log's failure; the group may or may not be there after a restart.
    pub async fn remove_group(&self, group: GroupId) -> Result<(), LogError> {
        let (done, durable) = durability();
        self.enqueue(0, 1, move |core| {
            core.lazy.remove(&group);
            core.index.remove_group(group);
            let seq = core.next_seq();
            core.push(seq, group, Kind::RemoveGroup, 0, Bytes::new(), Some(done));
            Ok(())
        })
        .await?;
        durable.await.unwrap_or(Err(LogError::Closed))
    }

    /// Groups of which the log knows anything.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.core().index.groups()
    }

    /// Payload of a group's latest vote, committed mark or purge mark.
    pub fn mark(&self, group: GroupId, kind: Kind) -> Option<Bytes> {
        self.shared.core().index.mark(group, kind)
    }

    /// Index of the first entry and the one after the last; equal if there is none.
    pub fn bounds(&self, group: GroupId) -> (u64, u64) {
        self.shared.core().index.bounds(group)
    }

    /// The groups with most bytes of entries, and the index up to which lies half of them, until these halves hold
    /// `excess` bytes. Takes time in proportion to the entries.
    pub fn halves_of_largest(&self, excess: u64) -> Vec<(GroupId, u64)> {
        self.shared.core().index.halves_of_largest(excess)
    }

    /// The log's counters.
    pub fn stats(&self) -> &WalStats {
        &self.shared.stats
    }

    /// Why the log takes nothing any more, if so. [`LogError::Closed`] means that it was closed or
    /// its writer dropped.
    pub fn failed(&self) -> Option<LogError> {
        self.shared.core().failure()
    }

    /// Waits until the log fails or its writer ends. The host then stops the node.
    pub async fn failure(&self) -> LogError {
        poll_fn(|cx| {
            let mut core = self.shared.core();
            if let Some(error) = core.failure() {
                return Poll::Ready(error);
            }
            core.failure_wakers.retain(|waker| !waker.will_wake(cx.waker()));
            core.failure_wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Takes no more operations; what is queued is still written, then the writer ends.
    pub fn close(&self) {
        let mut core = self.shared.core();
        core.close();
        self.shared.wake_writer(&mut core);
    }
}

fn durability() -> (Done, oneshot::Receiver<Result<(), LogError>>) {
    let (tx, rx) = oneshot::channel();
    // The caller may have gone away; nobody to tell then.
    (Box::new(move |result| drop(tx.send(result))), rx)
}
