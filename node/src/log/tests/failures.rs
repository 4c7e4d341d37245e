//! Disks that say no, locks, and the real driver.

use super::*;

/// A failed sync poisons the log: whoever waits and whoever comes later gets the error, the host is
/// told, nothing is retried; after a restart of the process what is shown is durable.
#[test]
fn sync_error_poisons() {
    for seed in 0..20 {
        let mut log = Log::open(&SimDisk::new());
        log.append(A, 1, b"one");
        log.flush();
        let told = Told::default();
        now(log.wal.append(A, vec![numbered(2, b"two")], told.done())).unwrap();
        let wal = log.wal.clone();
        let mut vote = Box::pin(async move { wal.save_vote(A, Bytes::from_static(b"v")).await });
        assert!(vote.as_mut().now_or_never().is_none());
        let mut failure = Box::pin(log.wal.failure());
        assert!(failure.as_mut().now_or_never().is_none());
        log.disk.fail_next_sync();
        let batch = log.writer.take_batch().expect("a batch waits");
        assert!(matches!(log.writer.write_batch(batch), Err(LogError::Io { action: "sync", .. })));
        assert_eq!((told.yes(), told.no()), (0, 1));
        assert!(now(vote).is_err());
        assert!(matches!(now(failure), LogError::Io { .. }));
        let syncs = log.disk.syncs();
        assert!(now(log.wal.append(A, vec![numbered(3, b"")], None)).is_err());
        assert!(log.wal.save_committed(A, Bytes::new()).is_err());
        assert!(log.writer.take_batch().is_none());
        assert_eq!(log.disk.syncs(), syncs);

        // The process restarts and may see the batch, though the disk does not have it yet.
        let log = Log::open(&log.disk.kill());
        let seen = log.entries(A);
        assert!(!seen.is_empty());
        let log = Log::open(&log.crash(seed));
        assert_eq!(log.entries(A), seen, "seed {seed}");
    }
}

/// A disk that is full when a segment must be started poisons the log; with space it opens again and
/// has all that was acknowledged.
#[test]
fn full_disk() {
    let disk = SimDisk::new();
    let mut log = Log::open(&disk);
    disk.set_capacity(Some(4096));
    let mut acknowledged = 0;
    for index in 0.. {
        log.append(A, index, &[1; 600]);
        let Some(batch) = log.writer.take_batch() else { panic!("a batch waits") };
        match log.writer.write_batch(batch) {
            Ok(()) => acknowledged = index + 1,
            Err(LogError::Io { source, .. }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(acknowledged > 1);
    let disk = log.disk.kill();
    disk.set_capacity(None);
    let mut log = Log::open(&disk);
    assert_eq!(log.entries(A).len() as u64, acknowledged);
    log.append(A, acknowledged, b"");
    log.flush();
}

/// When the writer goes away, nobody waits for ever.
#[test]
fn lost_writer() {
    let Log { wal, writer, .. } = Log::open(&SimDisk::new());
    let told = Told::default();
    now(wal.append(A, vec![numbered(1, b"")], told.done())).unwrap();
    drop(writer);
    assert_eq!(told.no(), 1);
    assert!(matches!(now(wal.failure()), LogError::Closed));
    assert!(now(wal.save_vote(A, Bytes::new())).is_err());
}

/// One folder belongs to one log at a time, on the simulated and on the real disk.
#[test]
fn lock() {
    let folder = tempfile::tempdir().unwrap();
    let disks: [Arc<dyn Disk>; 2] =
        [Arc::new(SimDisk::new()), Arc::new(RealDisk::new(folder.path().join("wal")).unwrap())];
    for disk in disks {
        let first = Wal::open(disk.clone(), options()).unwrap();
        assert!(matches!(Wal::open(disk.clone(), options()), Err(LogError::Locked)));
        drop(first);
        Wal::open(disk, options()).unwrap();
    }
}

/// Options out of range are refused by name.
#[test]
fn bad_options() {
    let bad = WalOptions { segment_bytes: 100, ..options() };
    let refused = Log::try_open(&SimDisk::new(), bad).err();
    assert!(matches!(refused, Some(LogError::BadOption { name: "segment_bytes", .. })));
}

/// The thread on a real disk: everything that was acknowledged is there after it was closed, and a
/// slow disk makes batches larger, not slower in sum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_thread() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let disk = Arc::new(RealDisk::new(folder.path().join("wal")).unwrap());
        let options = WalOptions { fsync_delay: Duration::from_millis(2), ..WalOptions::default() };
        Wal::open(disk, options).unwrap()
    };
    let (wal, writer) = open();
    let thread = writer.spawn().unwrap();
    let told = Told::default();
    let tasks: Vec<_> = (1..=8)
        .map(|group| {
            let (wal, told) = (wal.clone(), told.clone());
            tokio::spawn(async move {
                for index in 0..100 {
                    let entry = numbered(index, &[group as u8; 100]);
                    wal.append(GroupId(group), vec![entry], told.done()).await.unwrap();
                }
                wal.save_vote(GroupId(group), Bytes::from_static(b"v")).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(told.yes(), 800, "a vote is durable after the appends before it");
    assert!(wal.stats().batches.load(SeqCst) < 100);
    drop(thread);
    assert!(now(wal.append(A, vec![numbered(100, b"")], None)).is_err());
    let (wal, _writer) = open();
    for group in 1..=8 {
        let entries = wal.read(GroupId(group), 0, 1000, usize::MAX).unwrap();
        assert_eq!(entries.len(), 100);
        assert!(entries.iter().all(|e| e[8..] == [group as u8; 100]));
    }
}
