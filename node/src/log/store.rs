//! One group's log, as the consensus library wants it.
//!
//! Input: entries, votes and log ids of one [`RaftTypeConfig`]. Output: the same as bytes to the
//! [`Wal`], and back. An entry is serialised once, when it is appended; followers and the state
//! machine decode those bytes. Refuses what the [`Wal`] refuses; bytes that do not decode are an
//! error, never skipped.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::time::Instant;

use bytes::Bytes;
use flotilla_shared::ids::GroupId;
use futures::Stream;
use futures::stream;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::alias::{LogIdOf, VoteOf};
use openraft::{LogState, OptionalSend, RaftLogReader, RaftTypeConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::LogError;
use super::queue::Done;
use super::record::Kind;
use super::wal::Wal;
use crate::stages::Stage;

/// Bytes of entries that one bounded read gives out: one message to a follower, or one step of
/// apply. Large enough to fill a network pipe, small enough to be copied for every follower.
pub const MAX_READ_BYTES: usize = 1 << 20;

/// Appends are queued in pieces of about this size, so that a large one cannot fill the queue alone.
const APPEND_PIECE_BYTES: usize = 1 << 20;

/// The log of one group. Cheap to clone; all clones are the same log. It is its own reader.
pub struct GroupLog<C> {
    wal: Wal,
    group: GroupId,
    config: PhantomData<fn() -> C>,
}

impl<C> Clone for GroupLog<C> {
    fn clone(&self) -> Self {
        Self { wal: self.wal.clone(), group: self.group, config: PhantomData }
    }
}

/// A payload that starts with a number, as [`Wal::append`] and [`Wal::purge`] take it.
pub fn numbered(number: u64, rest: &[u8]) -> Bytes {
    let mut payload = Vec::with_capacity(8 + rest.len());
    payload.extend_from_slice(&number.to_le_bytes());
    payload.extend_from_slice(rest);
    payload.into()
}

impl<C> GroupLog<C> {
    /// The log of `group`. A group of which nothing is known has an empty log.
    pub fn new(wal: Wal, group: GroupId) -> Self {
        Self { wal, group, config: PhantomData }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The node's log that it is part of.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    fn encode(&self, prefix: &[u8], value: &impl Serialize) -> Result<Bytes, LogError> {
        let encoded = postcard::to_extend(value, prefix.to_vec());
        encoded.map(Bytes::from).map_err(|source| LogError::Codec {
            group: self.group,
            what: "a value cannot be serialised",
            source,
        })
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, LogError> {
        postcard::from_bytes(bytes).map_err(|source| LogError::Codec {
            group: self.group,
            what: "a stored value cannot be read",
            source,
        })
    }

    fn decode_entries<E: DeserializeOwned>(&self, payloads: &[Bytes]) -> Result<Vec<E>, LogError> {
        payloads.iter().map(|payload| self.decode(&payload[8..])).collect()
    }

    fn read<E: DeserializeOwned>(&self, start: u64, end: u64, max_bytes: usize) -> Result<Vec<E>, LogError> {
        self.decode_entries(&self.wal.read(self.group, start, end, max_bytes)?)
    }
}

/// `start..end` of any range over indexes.
fn range_of(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl<C> GroupLog<C>
where
    C: RaftTypeConfig,
    C::Entry: Serialize + DeserializeOwned,
    C::Vote: Serialize + DeserializeOwned,
    LogIdOf<C>: Serialize + DeserializeOwned,
{
    /// Drops entries that the applied state contradicts. Call it before the consensus library starts.
    ///
    /// A replica applies what the others have committed without waiting for its own disk. If it crashes
    /// then, the state may hold an entry of a newer leader while the log still ends with entries of an
    /// older one, which were being replaced. They can never be committed, and the library refuses to
    /// start over such a log; what it does handle is a log that ends before the applied entry.
    ///
    /// # Errors
    /// The log's failure.
    pub async fn drop_contradicted(&mut self, applied: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let Some(applied) = applied else { return Ok(()) };
        let last = self.get_log_state().await?.last_log_id;
        if last.is_some_and(|last| last < applied && last.index >= applied.index) {
            self.wal.truncate_from(self.group, applied.index).await?;
        }
        Ok(())
    }
}

impl<C> RaftLogReader<C> for GroupLog<C>
where
    C: RaftTypeConfig,
    C::Entry: Serialize + DeserializeOwned,
    C::Vote: Serialize + DeserializeOwned,
    LogIdOf<C>: Serialize + DeserializeOwned,
{
    /// Entries in pieces of at most [`MAX_READ_BYTES`]: the range may be the whole log.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<C::Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        use futures::{StreamExt, TryStreamExt};
        let (start, end) = range_of(&range);
        let log = self.clone();
        let pieces = stream::try_unfold((log, start, false), move |(log, start, started)| async move {
            if start >= end {
                return Ok(None);
            }
            let entries: Vec<C::Entry> = log.read(start, end, MAX_READ_BYTES)?;
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(None) };
            // Only the front of the range may be missing, not what a purge took away in the middle.
            if started && first.index() != start {
                return Err(io::Error::new(io::ErrorKind::NotFound, "entries were purged while being read"));
            }
            let next = last.index() + 1;
            Ok(Some((stream::iter(entries.into_iter().map(Ok)), (log, next, true))))
        });
        pieces.try_flatten().boxed()
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<C::Entry>, io::Error> {
        let (start, end) = range_of(&range);
        Ok(self.read(start, end, usize::MAX)?)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<C>>, io::Error> {
        let vote = self.wal.mark(self.group, Kind::Vote);
        Ok(vote.map(|bytes| self.decode(&bytes)).transpose()?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<C::Entry>, io::Error> {
        Ok(self.read(start, end, MAX_READ_BYTES)?)
    }
}

impl<C> RaftLogStorage<C> for GroupLog<C>
where
    C: RaftTypeConfig,
    C::Entry: Serialize + DeserializeOwned,
    C::Vote: Serialize + DeserializeOwned,
    LogIdOf<C>: Serialize + DeserializeOwned,
{
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        let purged = self.wal.mark(self.group, Kind::Purge);
        let last_purged_log_id: Option<LogIdOf<C>> = purged.map(|payload| self.decode(&payload[8..])).transpose()?;
        let (start, end) = self.wal.bounds(self.group);
        let last: Vec<C::Entry> = match start < end {
            true => self.read(end - 1, end, MAX_READ_BYTES)?,
            false => Vec::new(),
        };
        let last_log_id = last.last().map(RaftEntry::log_id).or_else(|| last_purged_log_id.clone());
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> Result<(), io::Error> {
        let vote = self.encode(&[], vote)?;
        Ok(self.wal.save_vote(self.group, vote).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let committed = self.encode(&[], &committed)?;
        Ok(self.wal.save_committed(self.group, committed)?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<C>>, io::Error> {
        match self.wal.mark(self.group, Kind::Committed) {
            Some(bytes) => Ok(self.decode(&bytes)?),
            None => Ok(None),
        }
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let begun = Instant::now();
        let mut piece = Vec::new();
        let mut piece_bytes = 0;
        for entry in entries {
            if piece_bytes >= APPEND_PIECE_BYTES {
                self.wal.append(self.group, std::mem::take(&mut piece), None).await?;
                piece_bytes = 0;
            }
            let payload = self.encode(&entry.index().to_le_bytes(), &entry)?;
            piece_bytes += payload.len();
            piece.push(payload);
        }
        let stages = self.wal.stats().stages.clone();
        let done: Done = Box::new(move |result| {
            stages.observe(Stage::Append, begun.elapsed());
            callback.io_completed(result.map_err(io::Error::from));
        });
        Ok(self.wal.append(self.group, piece, Some(done)).await?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        Ok(self.wal.truncate_from(self.group, from).await?)
    }

    async fn purge(&mut self, log_id: LogIdOf<C>) -> Result<(), io::Error> {
        let _purging = self.wal.stats().purges.begin();
        let purged = self.encode(&log_id.index.to_le_bytes(), &log_id)?;
        Ok(self.wal.purge(self.group, purged).await?)
    }
}
