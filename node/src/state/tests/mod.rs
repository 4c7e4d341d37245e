//! Tests of the state machine: a replica in a folder of its own, and entries to feed it.

mod apply;
mod copies;
mod determinism;
mod files;
mod guard;
mod kept;
mod measure;
pub(crate) mod moves;
mod property;
mod reads;
mod requests;
mod rollback;
mod scripts;
mod steps;
mod undo;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, JobId, PlacementId, RequestId, SchemaVersion};
use flotilla_shared::registry::SlotSet;
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{
    Body, Claim, Command, Level, Outcome, Read, Route, Rows, ShardCommand, ShardReply, Statement, StatementResult,
    Write, WriteResult,
};

use super::machine::{StateHandle, meta_of};
use super::pages::{Incoming, Outgoing};
use super::store::{Inline, Store};
use crate::consensus::{CommittedLeaderId, Entry, LogId, Payload};

/// A shard that is not the home shard.
const SHARD: GroupId = GroupId(2);

/// 2024-01-01T00:00:00Z in microseconds since 1970.
const EPOCH_US: i64 = 1_704_067_200_000_000;

/// One replica of a group on disk.
pub(crate) struct Replica {
    group: GroupId,
    folder: tempfile::TempDir,
    handle: Option<StateHandle>,
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self::of(SHARD)
    }

    pub(crate) fn of(group: GroupId) -> Self {
        let folder = scratch();
        let handle = Some(open(folder.path(), group));
        Self { group, folder, handle }
    }

    pub(crate) fn handle(&self) -> &StateHandle {
        self.handle.as_ref().unwrap()
    }

    /// As after a restart of the process.
    pub(crate) fn reopen(&mut self) {
        self.handle = None;
        self.handle = Some(open(self.folder.path(), self.group));
    }

    pub(crate) fn apply(&self, entries: &[Entry]) -> Vec<Outcome> {
        self.handle().lock().apply(entries).unwrap()
    }

    /// The index of the last entry.
    fn applied(&self) -> u64 {
        self.handle().lock().applied.log_id.map_or(0, |id| id.index)
    }

    fn hash(&self) -> u64 {
        self.handle().content_hash().unwrap().1
    }

    pub(crate) fn read(&self, read: &Read) -> Result<Rows, Error> {
        self.handle().store().readers().read(read, Duration::from_secs(5))
    }

    pub(crate) fn query(&self, sql: &str) -> Vec<Vec<Value>> {
        self.read(&select(sql)).unwrap().values
    }

    /// The first value of the first row.
    pub(crate) fn value(&self, sql: &str) -> Value {
        self.query(sql)[0][0].clone()
    }

    /// The version of what this shard owns of a placement, and its slots.
    pub(crate) fn owned(&self, placement: PlacementId) -> (Epoch, SlotSet) {
        let machine = self.handle().lock();
        let slots = machine.owned(placement).cloned().unwrap_or_default();
        (machine.version(placement), slots)
    }

    /// Is the result of a request known here?
    pub(crate) fn remembers(&self, id: RequestId) -> bool {
        self.handle().lock().requests().find(id).is_some()
    }

    fn count(&self, table: &str) -> Value {
        self.value(&format!("SELECT count(*) FROM {table}"))
    }

    /// Takes over the state of another replica, as a follower does.
    fn take_snapshot_of(&self, leader: &Self) {
        let mut outgoing = Outgoing::open(leader.handle().store()).unwrap();
        let file = receive(self.folder.path(), &mut outgoing);
        self.handle().install(&file, &meta_of(&outgoing.applied)).unwrap();
    }
}

/// A folder in memory, where there is such a place: no replica of these tests loses its power.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(folder: &Path, group: GroupId) -> StateHandle {
    let (store, db) = Store::open(folder, Arc::new(Inline), 2).unwrap();
    StateHandle::open(store, db, group).unwrap()
}

fn receive(folder: &Path, outgoing: &mut Outgoing) -> PathBuf {
    let mut incoming = Incoming::create(folder, 7).unwrap();
    while let Some(chunk) = outgoing.next_chunk().unwrap() {
        incoming.write(&chunk).unwrap();
    }
    incoming.finish(outgoing.digest()).unwrap()
}

/// Makes entries, one index and one second after the other.
pub(crate) struct Log {
    index: u64,
    at_us: i64,
    requests: u128,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { index: 0, at_us: EPOCH_US, requests: 0 }
    }

    pub(crate) fn entry(&mut self, body: Body) -> Entry {
        self.index += 1;
        self.at_us += 1_000_000;
        let seed = self.index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let command = Command { at_us: self.at_us, seed, body };
        entry_at(self.index, Payload::Normal(command))
    }

    fn write_of(&mut self, statements: Vec<Statement>) -> Write {
        self.requests += 1;
        Write { id: RequestId(self.requests), route: None, statements }
    }

    fn write(&mut self, sql: &str) -> Write {
        self.write_of(vec![Statement::bare(sql)])
    }

    /// One entry with one write for each statement.
    pub(crate) fn writes(&mut self, sql: &[&str]) -> Entry {
        let writes = sql.iter().map(|sql| self.write(sql)).collect();
        self.entry(Body::Writes(writes))
    }

    pub(crate) fn schema(&mut self, job: u64, sql: &[&str]) -> Entry {
        let sql = sql.iter().map(|sql| (*sql).to_owned()).collect();
        let version = SchemaVersion(job);
        self.entry(Body::Shard(ShardCommand::Schema { job: JobId(job), version, sql, dry_run: false }))
    }
}

fn entry_at(index: u64, payload: Payload) -> Entry {
    Entry { log_id: LogId { leader_id: CommittedLeaderId::new(1), index }, payload }
}

/// A replica after one schema entry, which must succeed.
fn with_schema(sql: &[&str]) -> (Replica, Log) {
    let (replica, mut log) = (Replica::new(), Log::new());
    let outcomes = replica.apply(&[log.schema(1, sql)]);
    assert!(matches!(&outcomes[..], [Outcome::Shard(Ok(ShardReply::Schema(_)))]), "{outcomes:?}");
    (replica, log)
}

/// The results of an entry of writes.
fn results(outcome: &Outcome) -> &[WriteResult] {
    match outcome {
        Outcome::Writes(results) => results,
        other => panic!("not writes: {other:?}"),
    }
}

/// The result of the only write of the only entry.
fn only(outcomes: &[Outcome]) -> &WriteResult {
    assert_eq!(outcomes.len(), 1);
    let results = results(&outcomes[0]);
    assert_eq!(results.len(), 1);
    &results[0]
}

/// The code of a failed write.
fn code(result: &WriteResult) -> Code {
    result.as_ref().expect_err("the write fails").code
}

fn select(sql: &str) -> Read {
    Read { route: None, statement: Statement::bare(sql), level: Level::None, freshness_ms: None }
}

fn integers(rows: &[Vec<Value>]) -> Vec<i64> {
    rows.iter().map(|row| if let Value::Integer(n) = row[0] { n } else { panic!("{row:?}") }).collect()
}

/// Copies all files of a folder, as a crash would leave them.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// SplitMix64 again, for tests that print their seed.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}
