//! Old segments go away, whoever is in them.

use super::*;

fn segments(log: &Log) -> usize {
    log.disk.files().len()
}

/// A group that wrote once and then fell silent does not keep old segments: its vote, entries, purge
/// and committed marks are copied forward, and all of it survives a crash at any time.
#[test]
fn cold_group_is_moved() {
    let mut log = Log::open(&SimDisk::new());
    now(log.wal.purge(A, numbered(9, b"id9"))).unwrap();
    for index in 10..15 {
        log.append(A, index, &[index as u8; 50]);
    }
    log.wal.save_committed(A, Bytes::from_static(b"c")).unwrap();
    let wal = log.wal.clone();
    let mut vote = Box::pin(async move { wal.save_vote(A, Bytes::from_static(b"v")).await });
    assert!(vote.as_mut().now_or_never().is_none());
    log.flush();
    now(vote).unwrap();
    for index in 0..300 {
        log.append(B, index, &[2; 200]);
        if index >= 3 {
            now(log.wal.purge(B, numbered(index - 3, b""))).unwrap();
        }
        log.flush();
        assert!(segments(&log) <= 4, "{} segments at {index}", segments(&log));
        if index % 10 == 0 {
            let disk = log.crash(index);
            log = Log::open(&disk);
        }
        assert_eq!(log.entries(A), (10..15).map(|i| (i, vec![i as u8; 50])).collect::<Vec<_>>());
        assert_eq!(log.wal.mark(A, Kind::Vote).as_deref(), Some(&b"v"[..]));
        assert_eq!(log.wal.mark(A, Kind::Committed).as_deref(), Some(&b"c"[..]));
        assert_eq!(log.wal.mark(A, Kind::Purge), Some(numbered(9, b"id9")));
    }
    assert!(log.disk.files().keys().all(|name| segment::number_of(name).unwrap() > 10));
}

/// A cold group that fills whole segments is moved too once most of the log is dead, and moving
/// comes to an end.
#[test]
fn large_cold_group_is_moved() {
    let mut log = Log::open(&SimDisk::new());
    for index in 0..60 {
        log.append(A, index, &[1; 200]);
        log.flush();
    }
    for index in 0..400 {
        log.append(B, index, &[2; 200]);
        now(log.wal.purge(B, numbered(index, b""))).unwrap();
        log.flush();
    }
    let live = log.wal.stats().live_bytes.load(SeqCst) as usize;
    assert!(segments(&log) * 4096 <= 2 * live + 3 * 4096, "{} segments, {live} live", segments(&log));
    assert_eq!(log.entries(A).len(), 60);
    let log = Log::open(&log.crash(1));
    assert_eq!(log.entries(A).len(), 60);
}

/// Without live records to keep, purging alone frees the segments.
#[test]
fn purged_segments_are_removed() {
    let mut log = Log::open(&SimDisk::new());
    for index in 0..100 {
        log.append(A, index, &[1; 400]);
        log.flush();
    }
    assert!(segments(&log) > 5);
    now(log.wal.purge(A, numbered(99, b""))).unwrap();
    log.flush();
    assert_eq!(segments(&log), 1);
}

/// A purge that is only queued frees nothing: a crash may undo it.
#[test]
fn queued_purge_frees_nothing() {
    for seed in 0..50 {
        let mut log = Log::open(&SimDisk::new());
        for index in 0..50 {
            log.append(A, index, &[1; 400]);
            log.flush();
        }
        log.append(B, 1, b"");
        let batch = log.writer.take_batch().unwrap();
        now(log.wal.purge(A, numbered(49, b""))).unwrap();
        log.writer.write_batch(batch).unwrap();
        let log = Log::open(&log.crash(seed));
        assert_eq!(log.entries(A).len(), 50, "seed {seed}");
    }
}

/// Damage in a record that is about to be copied ends the log; it is not copied with a new checksum.
#[test]
fn damage_is_not_moved() {
    let uncached = WalOptions { cache_bytes: 0, ..options() };
    let mut log = Log::try_open(&SimDisk::new(), uncached).unwrap();
    log.append(A, 1, &[0xAA; 100]);
    log.flush();
    let mut index = 0;
    let failed = loop {
        log.append(B, index, &[2; 400]);
        now(log.wal.purge(B, numbered(index, b""))).unwrap();
        index += 1;
        let Some(batch) = log.writer.take_batch() else { panic!("a batch waits") };
        if !batch.moves.is_empty() {
            let file = log.disk.open(&segment::file_name(1)).unwrap();
            let at = log.disk.files()[&segment::file_name(1)].iter().position(|b| *b == 0xAA).unwrap();
            file.write_at(&[0xAB], at as u64).unwrap();
            break log.writer.write_batch(batch);
        }
        log.writer.write_batch(batch).unwrap();
    };
    match failed {
        Err(LogError::LogDamaged { file, .. }) => assert_eq!(file, segment::file_name(1)),
        other => panic!("{other:?}"),
    }
}

/// The groups with most bytes are named, as many as are needed, with the entry that half of these end at; one large
/// entry goes whole, and without any entries there is nothing to name.
#[test]
fn halves_of_the_largest_groups() {
    let mut log = Log::open(&SimDisk::default());
    assert_eq!(log.wal.halves_of_largest(1), []);
    for index in 1..=10 {
        log.append(A, index, &[1; 100]);
    }
    log.append(B, 5, &[2; 400]);
    assert_eq!(log.wal.halves_of_largest(1), [(A, 5)]);
    log.flush();
    assert_eq!(log.wal.halves_of_largest(1), [(A, 5)]);
    assert_eq!(log.wal.halves_of_largest(u64::MAX), [(A, 5), (B, 5)]);
    log.append(B, 6, &[2; 4000]);
    assert_eq!(log.wal.halves_of_largest(1), [(B, 5)]);
    now(log.wal.purge(B, numbered(5, &[]))).unwrap();
    assert_eq!(log.wal.halves_of_largest(1), [(B, 6)]);
}
