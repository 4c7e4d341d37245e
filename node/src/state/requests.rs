//! Exactly once: the ids of applied writes with their results.
//!
//! Kept in the group's own database, one row per applied batch, and in a map in memory; so they
//! travel with snapshots. An id is remembered for [`WINDOW_US`] of entry time and while it is among
//! the last [`MAX_REQUESTS`]. Both limits are computed entry by entry from the log alone, not from
//! batches, whose borders differ between replicas; rows are only deleted later, once nothing in them
//! counts any more.

use std::collections::{HashMap, VecDeque};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::RequestId;
use flotilla_shared::wire::{StatementResult, WriteResult};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

/// How long an id is remembered: ten times the longest deadline of a proxy.
pub const WINDOW_US: i64 = 600_000_000;

/// How many ids are remembered at most: at 10,000 writes/s still more than any proxy's deadline.
pub const MAX_REQUESTS: usize = 1 << 20;

/// Results above this are not kept; a retry then learns that the write was applied, not its rows.
const MAX_KEPT_BYTES: usize = 64 << 10;

/// A result as it is kept: the common case without an allocation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kept {
    One { last_insert_id: i64, rows_affected: u64 },
    Full(Box<WriteResult>),
    TooLarge,
}

impl Kept {
    fn of(result: &WriteResult) -> Self {
        match result {
            Ok(list) => match list.as_slice() {
                [StatementResult { last_insert_id, rows_affected, rows: None }] => {
                    Self::One { last_insert_id: *last_insert_id, rows_affected: *rows_affected }
                }
                _ if postcard::experimental::serialized_size(result).is_ok_and(|size| size <= MAX_KEPT_BYTES) => {
                    Self::Full(Box::new(result.clone()))
                }
                _ => Self::TooLarge,
            },
            Err(_) => Self::Full(Box::new(result.clone())),
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
        }
    }
}

/// One remembered write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    id: RequestId,
    at_us: i64,
    kept: Kept,
}

/// What has been applied, and what the batch under way adds.
#[derive(Default)]
pub struct Requests {
    by_id: HashMap<RequestId, Kept>,
    /// In order of application; the front has sequence number `first`.
    order: VecDeque<(RequestId, i64)>,
    first: u64,
    /// Of the batch under way.
    pending: Vec<Remembered>,
    /// Where in `pending` an id is.
    pending_at: HashMap<RequestId, usize>,
    /// How many ids the batch under way has made forgettable.
    expired: usize,
}

impl Requests {
    /// Reads what a database remembers; ids below `first` no longer count.
    ///
    /// # Errors
    /// What SQLite says, or a row that does not decode.
    pub fn load(db: &Connection, first: u64) -> rusqlite::Result<Self> {
        let mut requests = Self { first, ..Self::default() };
        let mut query = db.prepare("SELECT first_seq, body FROM _flotilla_requests ORDER BY first_seq")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let start: i64 = row.get(0)?;
            let list: Vec<Remembered> = postcard::from_bytes(row.get_ref(1)?.as_blob()?).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Blob, Box::new(error))
            })?;
            for (offset, remembered) in list.into_iter().enumerate() {
                if start as u64 + offset as u64 >= first {
                    requests.order.push_back((remembered.id, remembered.at_us));
                    requests.by_id.insert(remembered.id, remembered.kept);
                }
            }
        }
        Ok(requests)
    }

    /// Sequence number of the oldest id that still counts, the batch under way included.
    pub fn first(&self) -> u64 {
        self.first + self.expired as u64
    }

    /// Forgets what is too old at the time of an entry. Called at the start of each entry.
    pub fn expire(&mut self, now_us: i64) {
        let count = self.order.len() + self.pending.len();
        while self.expired < self.order.len() {
            let (_, at_us) = self.order[self.expired];
            if at_us + WINDOW_US >= now_us && count - self.expired <= MAX_REQUESTS {
                break;
            }
            self.expired += 1;
        }
    }

    /// The result of an earlier application of this id.
    pub fn find(&self, id: RequestId) -> Option<WriteResult> {
        if let Some(at) = self.pending_at.get(&id) {
            return Some(self.pending[*at].kept.result());
        }
        let kept = self.by_id.get(&id)?;
        // An id that this very batch made forgettable is gone, though still in the map.
        let gone = self.expired > 0 && self.order.iter().take(self.expired).any(|(other, _)| *other == id);
        (!gone).then(|| kept.result())
    }

    /// Remembers a result, in the batch under way.
    pub fn remember(&mut self, id: RequestId, at_us: i64, result: &WriteResult) {
        self.pending_at.insert(id, self.pending.len());
        self.pending.push(Remembered { id, at_us, kept: Kept::of(result) });
    }

    /// Gives up the batch under way.
    pub fn abandon(&mut self) {
        self.pending.clear();
        self.pending_at.clear();
        self.expired = 0;
    }

    /// Writes the batch under way, as one row, and deletes rows that no longer count.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn write(&self, db: &Connection) -> rusqlite::Result<()> {
        if !self.pending.is_empty() {
            let seq = self.first + self.order.len() as u64;
            db.prepare_cached("INSERT INTO _flotilla_requests (first_seq, last_seq, body) VALUES (?1, ?2, ?3)")?
                .execute(rusqlite::params![
                    seq as i64,
                    (seq + self.pending.len() as u64 - 1) as i64,
                    postcard::to_stdvec(&self.pending).expect("results encode")
                ])?;
        }
        if self.expired > 0 {
            db.prepare_cached("DELETE FROM _flotilla_requests WHERE last_seq < ?1")?.execute([self.first() as i64])?;
        }
        Ok(())
    }

    /// The batch under way was committed.
    pub fn settle(&mut self) {
        for _ in 0..self.expired {
            if let Some((id, _)) = self.order.pop_front() {
                self.by_id.remove(&id);
            }
        }
        self.first += self.expired as u64;
        self.expired = 0;
        self.pending_at.clear();
        for remembered in self.pending.drain(..) {
            self.order.push_back((remembered.id, remembered.at_us));
            self.by_id.insert(remembered.id, remembered.kept);
        }
    }

    /// How many ids are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Is none?
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Everything that counts, in order, for the content hash.
    pub fn digest(&self, mut take: impl FnMut(&[u8])) {
        for (id, at_us) in &self.order {
            let kept = self.by_id.get(id);
            take(&postcard::to_stdvec(&(id, at_us, kept)).expect("results encode"));
        }
    }
}
