//! Exactly once: the ids of applied writes with their results.
//!
//! Kept in the group's own database, one row per applied batch, and in memory; so they travel with
//! snapshots. An id is remembered for [`WINDOW_US`] and while it is among the last [`MAX_REQUESTS`]. The
//! time is that of the entries, but no entry lets more than [`MAX_STEP_US`] pass: a leader whose clock
//! jumps ahead must not make the group forget what was just applied. Both limits are computed entry by entry from the log alone, not from batches,
//! whose borders differ between replicas; rows are only deleted later, once nothing in them counts
//! any more. Results take [`MAX_KEPT_BYTES`] together: beyond, an id is remembered without its rows.
//!
//! What a write touched goes along with the slots that move. A shard that gets another piece of a write that it
//! remembers widens what it remembers; the piece has a row of its own, so that no batch is written anew.

mod touched;

use std::collections::{HashMap, VecDeque};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{PlacementId, RequestId};
use flotilla_shared::registry::SlotSet;
use flotilla_shared::wire::{Route, StatementResult, WriteResult};
use rusqlite::Connection;
use rusqlite::types::Type;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use touched::Touched;

/// How long an id is remembered: ten times the longest deadline of a proxy.
pub const WINDOW_US: i64 = 600_000_000;

/// How much of that time one entry may take. When entries are rare, ids are remembered for longer.
pub const MAX_STEP_US: i64 = 1_000_000;

/// How many ids are remembered at most: at 10,000 writes/s still more than any proxy's deadline.
pub const MAX_REQUESTS: usize = 1 << 20;

/// Results above this are not kept; a retry then learns that the write was applied, not its rows.
const MAX_RESULT_BYTES: usize = 64 << 10;

/// What all kept results may take, beside the common ones that need no allocation: a replica's memory
/// and its start must not depend on how much clients let their writes return.
pub const MAX_KEPT_BYTES: usize = 128 << 20;

/// Bytes of one row in the database, about: far below the largest value that SQLite takes.
const ROW_BYTES: usize = 1 << 20;

/// A result as it is kept: the common case without an allocation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kept {
    One { last_insert_id: i64, rows_affected: u64 },
    Full(Box<WriteResult>),
    TooLarge,
    Failed(Code),
}

impl Kept {
    fn of(result: &WriteResult, room_bytes: usize) -> Self {
        if let Ok(list) = result
            && let [StatementResult { last_insert_id, rows_affected, rows: None }] = list.as_slice()
        {
            return Self::One { last_insert_id: *last_insert_id, rows_affected: *rows_affected };
        }
        // That of a write without statements is always kept: its two bytes say that nothing was done and never will be,
        // and without them the answer would be that something was.
        let fits = size_bytes(result) <= MAX_RESULT_BYTES.min(room_bytes) || *result == Ok(vec![]);
        match (fits, result) {
            (true, _) => Self::Full(Box::new(result.clone())),
            (false, Ok(_)) => Self::TooLarge,
            (false, Err(error)) => Self::Failed(error.code),
        }
    }

    fn result(&self) -> WriteResult {
        match self {
            Self::One { last_insert_id, rows_affected } => {
                Ok(vec![StatementResult { last_insert_id: *last_insert_id, rows_affected: *rows_affected, rows: None }])
            }
            Self::Full(result) => (**result).clone(),
            Self::TooLarge => Err(Error::new(
                Code::ResultForgotten,
                "this request was applied before; its result was too large to be kept",
            )),
            Self::Failed(code) => {
                Err(Error::new(*code, "this request failed before; its message was too large to be kept"))
            }
        }
    }

    /// Of a write without statements.
    fn is_fence(&self) -> bool {
        matches!(self, Self::Full(result) if **result == Ok(vec![]))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Full(result) => size_bytes(result),
            _ => 0,
        }
    }
}

fn size_bytes(result: &WriteResult) -> usize {
    postcard::experimental::serialized_size(result).unwrap_or(usize::MAX)
}

/// One remembered write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    id: RequestId,
    /// In the time of request ids.
    at_us: i64,
    kept: Kept,
    touched: Touched,
}

fn decoded<T: DeserializeOwned>(blob: &[u8]) -> rusqlite::Result<T> {
    postcard::from_bytes(blob)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, Type::Blob, Box::new(error)))
}

/// What has been applied, the batch under way included. Requests have sequence numbers in the order
/// in which they are applied:
///
/// ```text
/// base              first               settled            end
///  | made forgettable | count, committed   | count, under way |
///  | under way        |                    |                  |
/// ```
#[derive(Default)]
pub struct Requests {
    order: VecDeque<Remembered>,
    by_id: HashMap<RequestId, u64>,
    base: u64,
    first: u64,
    settled: u64,
    /// Of the results that count.
    kept_bytes: usize,
    /// As it was before the batch under way.
    settled_bytes: usize,
    /// Places of ids that the batch under way applied anew, since they no longer counted.
    displaced: Vec<(RequestId, u64)>,
    /// Settled ids whose slots the batch under way found to be more: what came, and what was there before.
    widened: Vec<(u64, Touched, Touched)>,
}

impl Requests {
    /// Reads what a database remembers; ids below `first` no longer count.
    ///
    /// # Errors
    /// What SQLite says, or a row that does not decode.
    pub fn load(db: &Connection, first: u64) -> rusqlite::Result<Self> {
        let mut requests = Self { base: first, first, ..Self::default() };
        let mut query = db.prepare("SELECT first_seq, body FROM _flotilla_requests ORDER BY first_seq")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let start: i64 = row.get(0)?;
            let list: Vec<Remembered> = decoded(row.get_ref(1)?.as_blob()?)?;
            for (seq, remembered) in (start as u64..).zip(list) {
                if seq >= first {
                    requests.kept_bytes += remembered.kept.bytes();
                    requests.by_id.insert(remembered.id, seq);
                    requests.order.push_back(remembered);
                }
            }
        }
        (requests.settled, requests.settled_bytes) = (requests.end(), requests.kept_bytes);
        let mut query = db.prepare("SELECT seq, touched FROM _flotilla_request_slots WHERE seq >= ?1")?;
        let mut rows = query.query([requests.base as i64])?;
        while let Some(row) = rows.next()? {
            let (seq, more): (i64, Touched) = (row.get(0)?, decoded(row.get_ref(1)?.as_blob()?)?);
            if let Some(remembered) = requests.order.get_mut((seq as u64 - requests.base) as usize) {
                remembered.touched = remembered.touched.union(&more);
            }
        }
        Ok(requests)
    }

    fn end(&self) -> u64 {
        self.base + self.order.len() as u64
    }

    fn at(&self, seq: u64) -> &Remembered {
        &self.order[(seq - self.base) as usize]
    }

    /// Sequence number of the oldest id that still counts, the batch under way included.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Forgets what is too old at the time of an entry. Called at the start of each entry.
    pub fn expire(&mut self, now_us: i64) {
        while self.first < self.end() {
            let oldest = self.at(self.first);
            let young = oldest.at_us.saturating_add(WINDOW_US) >= now_us;
            if young && self.end() - self.first <= MAX_REQUESTS as u64 {
                break;
            }
            self.kept_bytes -= oldest.kept.bytes();
            self.first += 1;
        }
    }

    /// The result of an earlier application of this id.
    pub fn find(&self, id: RequestId) -> Option<WriteResult> {
        let seq = *self.by_id.get(&id)?;
        (seq >= self.first).then(|| self.at(seq).kept.result())
    }

    /// Remembers a result, in the batch under way.
    pub fn remember(&mut self, id: RequestId, at_us: i64, result: &WriteResult) {
        self.remember_for(None, id, at_us, result);
    }

    /// Remembers a result of a write with a route: the id moves with the slots that the route names.
    pub fn remember_for(&mut self, route: Option<&Route>, id: RequestId, at_us: i64, result: &WriteResult) {
        let kept = Kept::of(result, MAX_KEPT_BYTES.saturating_sub(self.kept_bytes));
        self.push(Remembered { id, at_us, kept, touched: Touched::of(route) });
    }

    fn push(&mut self, remembered: Remembered) {
        self.kept_bytes += remembered.kept.bytes();
        let id = remembered.id;
        if let Some(before) = self.by_id.insert(id, self.end()) {
            self.displaced.push((id, before));
        }
        self.order.push_back(remembered);
    }

    /// Ids of writes that touched these slots, packed, from number `after` on, about `max_bytes` of them;
    /// where the next ones begin, and whether there are any. Of all that a write touched only these slots
    /// go along: one of many rows goes with each move, and shall not take much room in any.
    pub fn of_slots(
        &self,
        placement: PlacementId,
        slots: &SlotSet,
        after: u64,
        max_bytes: usize,
    ) -> (Vec<Vec<u8>>, u64, bool) {
        let (mut packed, mut bytes) = (Vec::new(), 0);
        let mut seq = after.max(self.first);
        while seq < self.end() && bytes < max_bytes {
            let remembered = self.at(seq);
            if let Some(touched) = remembered.touched.within(placement, slots) {
                let Remembered { id, at_us, kept, .. } = remembered;
                let one = postcard::to_stdvec(&(id, at_us, kept, touched)).expect("results encode");
                bytes += one.len();
                packed.push(one);
            }
            seq += 1;
        }
        (packed, seq, seq < self.end())
    }

    /// Remembers what another shard did to slots that are ours now, as if it had been done just now: for
    /// too long rather than too short a time. What is remembered here already stays, and is about these slots, too.
    /// But a result takes the place of a write without statements: these only keep others with their id
    /// from taking effect, and one of those took effect.
    ///
    /// # Errors
    /// [`Code::MoveMismatch`] for what does not decode; nothing is remembered then.
    pub fn adopt(&mut self, at_us: i64, packed: &[Vec<u8>]) -> Result<(), Error> {
        let decoded: Result<Vec<Remembered>, _> = packed.iter().map(|one| postcard::from_bytes(one)).collect();
        let decoded = decoded.map_err(|_| Error::new(Code::MoveMismatch, "a remembered request does not decode"))?;
        for mut remembered in decoded {
            if let Some(seq) = self.by_id.get(&remembered.id).copied().filter(|seq| *seq >= self.first) {
                let known = self.at(seq);
                if !known.kept.is_fence() || remembered.kept.is_fence() {
                    self.widen(seq, remembered.touched);
                    continue;
                }
                remembered.touched = known.touched.union(&remembered.touched);
            }
            if self.kept_bytes + remembered.kept.bytes() > MAX_KEPT_BYTES {
                remembered.kept = Kept::of(&remembered.kept.result(), 0);
            }
            self.push(Remembered { at_us, ..remembered });
        }
        Ok(())
    }

    /// A remembered write is about these slots, too.
    fn widen(&mut self, seq: u64, more: Touched) {
        let remembered = &mut self.order[(seq - self.base) as usize];
        if remembered.touched.covers(&more) {
            return;
        }
        let whole = remembered.touched.union(&more);
        let before = std::mem::replace(&mut remembered.touched, whole);
        if seq < self.settled {
            self.widened.push((seq, more, before));
        }
    }

    /// Gives up the batch under way.
    pub fn abandon(&mut self) {
        for remembered in self.order.drain((self.settled - self.base) as usize..) {
            self.by_id.remove(&remembered.id);
        }
        // Latest first: an id that was displaced twice ends where it was.
        for (id, seq) in self.displaced.drain(..).rev() {
            if seq < self.settled {
                self.by_id.insert(id, seq);
            }
        }
        for (seq, _, before) in std::mem::take(&mut self.widened).into_iter().rev() {
            self.order[(seq - self.base) as usize].touched = before;
        }
        (self.first, self.kept_bytes) = (self.base, self.settled_bytes);
    }

    /// Writes the batch under way and deletes rows that no longer count.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn write(&self, db: &Connection) -> rusqlite::Result<()> {
        let mut seq = self.settled;
        while seq < self.end() {
            let start = seq;
            let (mut list, mut bytes) = (Vec::new(), 0);
            while seq < self.end() && bytes < ROW_BYTES {
                let remembered = self.at(seq);
                bytes += remembered.kept.bytes();
                list.push(remembered);
                seq += 1;
            }
            db.prepare_cached("INSERT INTO _flotilla_requests (first_seq, last_seq, body) VALUES (?1, ?2, ?3)")?
                .execute(rusqlite::params![
                    start as i64,
                    seq as i64 - 1,
                    postcard::to_stdvec(&list).expect("results encode")
                ])?;
        }
        for (seq, more, _) in &self.widened {
            db.prepare_cached("INSERT OR IGNORE INTO _flotilla_request_slots (seq, touched) VALUES (?1, ?2)")?
                .execute(rusqlite::params![*seq as i64, postcard::to_stdvec(more).expect("slots encode")])?;
        }
        if self.first > self.base {
            db.prepare_cached("DELETE FROM _flotilla_request_slots WHERE seq < ?1")?.execute([self.first as i64])?;
            // Rows follow one another, so the first condition finds them along the key.
            db.prepare_cached("DELETE FROM _flotilla_requests WHERE first_seq < ?1 AND last_seq < ?1")?
                .execute([self.first as i64])?;
        }
        Ok(())
    }

    /// The batch under way was committed.
    pub fn settle(&mut self) {
        while self.base < self.first {
            let Some(gone) = self.order.pop_front() else { break };
            if self.by_id.get(&gone.id) == Some(&self.base) {
                self.by_id.remove(&gone.id);
            }
            self.base += 1;
        }
        (self.settled, self.settled_bytes) = (self.end(), self.kept_bytes);
        self.displaced.clear();
        self.widened.clear();
    }

    /// How many ids are remembered.
    pub fn len(&self) -> usize {
        (self.end() - self.first) as usize
    }

    /// Is none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that counts, in order, for the content hash.
    pub fn digest(&self, mut take: impl FnMut(&[u8])) {
        for remembered in self.order.iter().skip((self.first - self.base) as usize) {
            take(&postcard::to_stdvec(remembered).expect("results encode"));
        }
    }
}
