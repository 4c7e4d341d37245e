//! Tests of the whole log, most of them on a simulated disk and without threads: a test queues
//! operations, lets the writer take a step, and crashes wherever it likes.

mod damage;
mod failures;
mod model;
mod space;
mod suite;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flotilla_shared::ids::GroupId;
use futures::FutureExt;

use super::*;

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 4096,
        queue_bytes: 1 << 20,
        cache_bytes: 2000,
        keep_segments: 2,
        fsync_delay: Duration::ZERO,
    }
}

/// The result of a future that must not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("this does not wait")
}

/// A log whose writer moves only when the test says so.
struct Log {
    disk: SimDisk,
    wal: Wal,
    writer: Writer,
}

impl Log {
    fn open(disk: &SimDisk) -> Self {
        Self::try_open(disk, options()).expect("the log opens")
    }

    fn try_open(disk: &SimDisk, options: WalOptions) -> Result<Self, LogError> {
        let (wal, writer) = Wal::open(Arc::new(disk.clone()), options)?;
        Ok(Self { disk: disk.clone(), wal, writer })
    }

    /// Writes all that waits, and what follows from it.
    fn flush(&mut self) {
        while let Some(batch) = self.writer.take_batch() {
            self.writer.write_batch(batch).expect("the batch is written");
        }
    }

    fn append(&self, group: GroupId, index: u64, rest: &[u8]) {
        now(self.wal.append(group, vec![numbered(index, rest)], None)).expect("the entry is taken");
    }

    /// All entries, as (index, rest).
    fn entries(&self, group: GroupId) -> Vec<(u64, Vec<u8>)> {
        let payloads = self.wal.read(group, 0, u64::MAX, usize::MAX).expect("entries can be read");
        let split = |p: &Bytes| (record::leading_number(p), p[8..].to_vec());
        payloads.iter().map(split).collect()
    }

    fn crash(self, seed: u64) -> SimDisk {
        self.disk.crash(seed)
    }
}

/// Counts callbacks that said yes, and those that said no.
#[derive(Clone, Default)]
struct Told(Arc<(AtomicUsize, AtomicUsize)>);

impl Told {
    fn done(&self) -> Option<Done> {
        let told = self.clone();
        Some(Box::new(move |result| {
            let counter = if result.is_ok() { &told.0.0 } else { &told.0.1 };
            counter.fetch_add(1, SeqCst);
        }))
    }

    fn yes(&self) -> usize {
        self.0.0.load(SeqCst)
    }

    fn no(&self) -> usize {
        self.0.1.load(SeqCst)
    }
}

/// One batch: entries of many groups become durable with one sync, and callbacks come in order.
#[test]
fn group_commit() {
    let mut log = Log::open(&SimDisk::new());
    log.flush();
    let order = Arc::new(Mutex::new(Vec::new()));
    for n in 0..20_u32 {
        let order = order.clone();
        let done: Done = Box::new(move |_| order.lock().unwrap().push(n));
        now(log.wal.append(GroupId(n), vec![numbered(5, b"x")], Some(done))).unwrap();
    }
    assert_eq!(log.entries(GroupId(7)), [(5, b"x".to_vec())], "readable before it is durable");
    assert!(order.lock().unwrap().is_empty());
    let syncs = log.disk.syncs();
    log.flush();
    assert_eq!(log.disk.syncs(), syncs + 1);
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(log.wal.groups().len(), 20);
}

/// A vote is durable when its save returns, and not before.
#[test]
fn vote_waits_for_the_disk() {
    let mut log = Log::open(&SimDisk::new());
    let wal = log.wal.clone();
    let mut save = Box::pin(async move { wal.save_vote(A, Bytes::from_static(b"v1")).await });
    assert!(save.as_mut().now_or_never().is_none());
    log.flush();
    now(save).unwrap();
    let log = Log::open(&log.crash(1));
    assert_eq!(log.wal.mark(A, Kind::Vote).as_deref(), Some(&b"v1"[..]));
}

/// Appends that leave a hole or overwrite are refused and change nothing.
#[test]
fn holes_are_refused() {
    let log = Log::open(&SimDisk::new());
    log.append(A, 3, b"");
    for index in [0, 2, 3, 5] {
        let refused = now(log.wal.append(A, vec![numbered(index, b"")], None));
        assert!(matches!(refused, Err(LogError::NotConsecutive { expected: 4, .. })), "{index}");
    }
    let refused = now(log.wal.append(B, vec![numbered(1, b""), numbered(3, b"")], None));
    assert!(matches!(refused, Err(LogError::NotConsecutive { expected: 2, .. })));
    assert_eq!(log.entries(A).len(), 1);
    assert_eq!(log.entries(B).len(), 0);
}

/// A full queue makes callers wait, in order, until a batch was written; a single piece larger than
/// the whole queue still gets through.
#[test]
fn full_queue_waits() {
    let small = WalOptions { queue_bytes: 1024, ..options() };
    let mut log = Log::try_open(&SimDisk::new(), small).unwrap();
    let append = |index, len| {
        let wal = log.wal.clone();
        Box::pin(async move { wal.append(A, vec![numbered(index, &vec![7; len])], None).await })
    };
    let mut first = append(1, 700);
    let mut large = append(2, 5000);
    let mut third = append(3, 10);
    assert!(first.as_mut().now_or_never().is_some());
    assert!(large.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_none(), "nobody overtakes");
    log.flush();
    assert!(third.as_mut().now_or_never().is_none(), "nobody overtakes");
    now(large).unwrap();
    assert!(third.as_mut().now_or_never().is_none(), "no room yet");
    log.flush();
    now(third).unwrap();
    assert_eq!(log.entries(A).len(), 3);
}

/// A caller that gives up while it waits does not hold up those behind it.
#[test]
fn waiting_can_be_given_up() {
    let small = WalOptions { queue_bytes: 1024, ..options() };
    let mut log = Log::try_open(&SimDisk::new(), small).unwrap();
    log.append(A, 1, &[0; 900]);
    let wal = log.wal.clone();
    let mut gone = Box::pin(async move { wal.append(B, vec![numbered(1, &[0; 900])], None).await });
    assert!(gone.as_mut().now_or_never().is_none());
    drop(gone);
    log.flush();
    log.append(A, 2, b"");
    assert_eq!(log.entries(B).len(), 0);
}

/// Purging behind the last entry, as after a received snapshot: the log is empty and goes on there.
#[test]
fn purge_beyond_last() {
    let mut log = Log::open(&SimDisk::new());
    log.append(A, 1, b"one");
    now(log.wal.purge(A, numbered(20, b"id20"))).unwrap();
    now(log.wal.purge(A, numbered(7, b"older, ignored"))).unwrap();
    assert_eq!(log.wal.bounds(A), (21, 21));
    log.flush();
    let mut log = Log::open(&log.crash(3));
    assert_eq!(log.wal.mark(A, Kind::Purge), Some(numbered(20, b"id20")));
    assert_eq!(log.wal.bounds(A), (21, 21));
    log.append(A, 21, b"next");
    log.flush();
    let log = Log::open(&log.crash(4));
    assert_eq!(log.entries(A), [(21, b"next".to_vec())]);
}

/// A purge that would leave a hole behind it is refused.
#[test]
fn purge_before_first() {
    let log = Log::open(&SimDisk::new());
    log.append(A, 5, b"five");
    assert!(matches!(now(log.wal.purge(A, numbered(3, b""))), Err(LogError::NotConsecutive { .. })));
    now(log.wal.purge(A, numbered(4, b""))).unwrap();
    now(log.wal.purge(A, numbered(2, b"older, ignored"))).unwrap();
    assert_eq!(log.wal.mark(A, Kind::Purge), Some(numbered(4, b"")));
    assert_eq!(log.entries(A).len(), 1);
}

/// Truncate, append other entries, crash: the old entries do not come back, and before the new batch
/// is durable they are all still there.
#[test]
fn truncate_then_crash() {
    for durable in [false, true] {
        for seed in 0..50 {
            let mut log = Log::open(&SimDisk::new());
            for index in 1..=5 {
                log.append(A, index, b"old");
            }
            log.flush();
            now(log.wal.truncate_from(A, 3)).unwrap();
            log.append(A, 3, b"new");
            assert_eq!(log.entries(A).len(), 3);
            if durable {
                log.flush();
            }
            let log = Log::open(&log.crash(seed));
            let values: Vec<_> = log.entries(A).into_iter().map(|(_, value)| value).collect();
            let old = vec![b"old".to_vec(); 5];
            let new = [&old[..2], &[b"new".to_vec()]].concat();
            assert_eq!(values, if durable { new } else { old }, "seed {seed}");
        }
    }
}

/// A removed group is gone after a restart, and its number can be used again.
#[test]
fn remove_group() {
    let mut log = Log::open(&SimDisk::new());
    log.append(A, 1, b"one");
    log.append(B, 1, b"stays");
    log.wal.save_committed(A, Bytes::from_static(b"c")).unwrap();
    let wal = log.wal.clone();
    let mut removal = Box::pin(async move { wal.remove_group(A).await });
    assert!(removal.as_mut().now_or_never().is_none());
    log.flush();
    now(removal).unwrap();
    let mut log = Log::open(&log.crash(5));
    assert_eq!(log.wal.groups(), [B]);
    log.append(A, 9, b"again");
    log.flush();
    let log = Log::open(&log.crash(6));
    assert_eq!(log.entries(A), [(9, b"again".to_vec())]);
}

/// The committed mark causes no write of its own, rides along, and is written when the log closes.
#[test]
fn committed_is_lazy() {
    let mut log = Log::open(&SimDisk::new());
    log.flush();
    log.wal.save_committed(A, Bytes::from_static(b"c1")).unwrap();
    assert!(log.writer.take_batch().is_none());
    log.append(A, 1, b"");
    log.flush();
    let mut log = Log::open(&log.crash(1));
    assert_eq!(log.wal.mark(A, Kind::Committed).as_deref(), Some(&b"c1"[..]));
    log.wal.save_committed(A, Bytes::from_static(b"c2")).unwrap();
    log.wal.close();
    log.flush();
    let log = Log::open(&log.crash(2));
    assert_eq!(log.wal.mark(A, Kind::Committed).as_deref(), Some(&b"c2"[..]));
}

/// Bounded reads give at least one entry, and stop at the bound, from memory and from disk alike.
#[test]
fn reads_are_bounded() {
    let mut log = Log::open(&SimDisk::new());
    for index in 0..20 {
        log.append(A, index, &[index as u8; 300]);
    }
    for _ in 0..2 {
        assert_eq!(log.wal.read(A, 0, 20, 1).unwrap().len(), 1);
        assert_eq!(log.wal.read(A, 3, 20, 1000).unwrap().len(), 3);
        assert_eq!(log.wal.read(A, 18, 99, 9000).unwrap().len(), 2);
        assert_eq!(log.wal.read(A, 30, 99, 9000).unwrap().len(), 0);
        assert_eq!(log.wal.read(A, 9, 3, 9000).unwrap().len(), 0);
        log.flush();
    }
    assert!(log.wal.stats().disk_reads.load(SeqCst) > 0, "the cache holds 2000 bytes only");
    for (index, value) in log.entries(A) {
        assert_eq!(value, [index as u8; 300]);
    }
}
