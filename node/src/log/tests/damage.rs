//! Torn tails are dropped, damage is named.

use std::collections::BTreeMap;

use super::record::SECTOR;
use super::segment::{SegmentHead, file_name, scan};
use super::*;

type Files = BTreeMap<String, Vec<u8>>;

/// Nothing is copied, so that segment 1 is still there.
fn keep_all() -> WalOptions {
    WalOptions { keep_segments: 100, ..options() }
}

/// Several segments with batches of one and of several records; the last batch is not sealed.
fn sample() -> (Files, Files) {
    let mut log = Log::try_open(&SimDisk::new(), keep_all()).unwrap();
    for index in 0..12 {
        log.append(A, index, &[index as u8 + 1; 500]);
        log.append(B, index, &[0x55; 60]);
        log.flush();
    }
    let before = log.disk.files();
    for index in 12..16 {
        log.append(A, index, &[index as u8 + 1; 300]);
    }
    log.flush();
    assert!(log.disk.files().len() > 2);
    (before, log.disk.files())
}

fn newest(files: &Files) -> (u64, String) {
    let name = files.keys().next_back().unwrap().clone();
    (segment::number_of(&name).unwrap(), name)
}

/// First byte of each piece of a whole segment (header, batch, record, padding byte), and the end.
fn pieces(bytes: &[u8], number: u64) -> (Vec<u64>, segment::Tail) {
    let head = SegmentHead::from_bytes(bytes, number).unwrap();
    let mut starts = vec![0];
    let tail = scan(bytes, head, true, &mut |record| {
        starts.push(record.offset);
        starts.push(record.offset + record::record_len(record.payload.len()) as u64);
        Ok(())
    })
    .unwrap();
    let mut at = SECTOR;
    while at < tail.end {
        starts.push(at);
        let head = record::get_batch_head(&bytes[at as usize..], number, at).unwrap();
        let body_end = at + record::BATCH_HEADER as u64 + u64::from(head.body_len);
        at = record::sector_up(body_end);
        starts.extend(body_end..at);
    }
    starts.push(tail.end);
    starts.sort_unstable();
    starts.dedup();
    (starts, tail)
}

fn reopen(files: &Files) -> Result<Log, LogError> {
    Log::try_open(&SimDisk::with_files(files.clone()), keep_all())
}

fn state(log: &Log) -> [Vec<(u64, Vec<u8>)>; 2] {
    [log.entries(A), log.entries(B)]
}

/// Any byte flipped in any segment, except in the last batch of the newest: the error names the file
/// and the piece that it lies in.
#[test]
fn damage_anywhere_is_named() {
    let (_, files) = sample();
    let (last, _) = newest(&files);
    for (name, bytes) in &files {
        let number = segment::number_of(name).unwrap();
        let (starts, tail) = pieces(bytes, number);
        let end = if number == last { tail.last_batch.unwrap() } else { bytes.len() as u64 };
        // Behind the data of an older segment are many zeros, all alike.
        for at in (0..end).filter(|at| *at < tail.end || at % 61 == 0) {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[at as usize] ^= 1 << (at % 8);
            let piece = starts[starts.partition_point(|start| *start <= at) - 1];
            match reopen(&damaged).err() {
                Some(LogError::LogDamaged { file, offset, .. }) => {
                    assert_eq!((&file, offset), (name, piece), "byte {at}");
                }
                other => panic!("byte {at} of {name}: {other:?}"),
            }
        }
    }
}

/// The last batch cut at every byte, by zeros or by the end of the file, and with every set of its
/// sectors missing: exactly the earlier batches are there, and the log goes on from them.
#[test]
fn torn_tail() {
    let (before, files) = sample();
    let (number, name) = newest(&files);
    let (_, tail) = pieces(&files[&name], number);
    let start = tail.last_batch.unwrap() as usize;
    let whole = state(&reopen(&files).unwrap());
    let earlier = state(&reopen(&before).unwrap());
    assert_ne!(whole, earlier);
    let check = |bytes: Vec<u8>, what: &str| {
        let mut torn = files.clone();
        let mut padded = bytes.clone();
        padded.resize(files[&name].len(), 0);
        let expected = if padded == files[&name] { &whole } else { &earlier };
        torn.insert(name.clone(), bytes);
        let mut log = reopen(&torn).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(&state(&log), expected, "{what}");
        let next = log.wal.bounds(A).1;
        log.append(A, next, b"goes on");
        log.flush();
        let log = Log::open(&log.crash(1));
        assert_eq!(log.entries(A).len(), expected[0].len() + 1, "{what}");
    };
    for cut in start..tail.end as usize {
        let mut bytes = files[&name].clone();
        bytes[cut..].fill(0);
        check(bytes, &format!("zeros from {cut}"));
        check(files[&name][..cut].to_vec(), &format!("cut at {cut}"));
    }
    let sectors = (tail.end as usize - start) / SECTOR as usize;
    for missing in 1_u32..1 << sectors {
        let mut bytes = files[&name].clone();
        for sector in (0..sectors).filter(|sector| missing & (1 << sector) != 0) {
            let at = start + sector * SECTOR as usize;
            bytes[at..at + SECTOR as usize].fill(0);
        }
        check(bytes, &format!("sectors {missing:b} missing"));
    }
}

/// A closed log is sealed: damage in its last entries is named, not taken for a torn tail.
#[test]
fn closed_log_is_sealed() {
    let mut log = Log::open(&SimDisk::new());
    log.append(A, 1, &[0x77; 100]);
    log.flush();
    log.writer.seal().unwrap();
    let mut files = log.disk.files();
    let (_, name) = newest(&files);
    let at = files[&name].iter().position(|byte| *byte == 0x77).unwrap();
    files.get_mut(&name).unwrap()[at] = 0;
    assert!(matches!(reopen(&files).err(), Some(LogError::LogDamaged { .. })));
}

/// A crash while a segment is started: whatever is there of the new file, nothing is lost and the
/// log goes on.
#[test]
fn torn_rotation() {
    let (_, files) = sample();
    let expected = state(&reopen(&files).unwrap());
    let (number, name) = newest(&files);
    let (_, tail) = pieces(&files[&name], number);
    let head = SegmentHead { number: number + 1, first_batch: tail.next_batch, floor: 1, size: 4096 };
    let mut whole = head.to_bytes().to_vec();
    whole.resize(4096, 0);
    let mut variants = vec![Vec::new(), vec![0; 4096], vec![0; 100], whole.clone(), head.to_bytes().to_vec()];
    for cut in 0..44 {
        variants.push(head.to_bytes()[..cut].to_vec());
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        variants.push(torn);
    }
    for bytes in variants {
        let mut torn = files.clone();
        torn.insert(file_name(number + 1), bytes);
        let mut log = reopen(&torn).unwrap();
        assert_eq!(state(&log), expected);
        for index in 16..30 {
            log.append(A, index, &[9; 400]);
            log.flush();
        }
        let log = Log::open(&log.crash(2));
        assert_eq!(log.entries(A).len(), 30);
    }
}

/// Missing segments are damage, at the front, in the middle, and behind a header without batches.
#[test]
fn missing_segment() {
    let (_, files) = sample();
    let (last, _) = newest(&files);
    for gone in 1..last {
        let mut less = files.clone();
        less.remove(&file_name(gone));
        match reopen(&less).err() {
            Some(LogError::LogDamaged { file, .. }) => assert_eq!(file, file_name(gone)),
            other => panic!("{gone}: {other:?}"),
        }
    }
}

/// A read checks what it reads: damage that came after the log was opened is an error, not data.
#[test]
fn damage_is_never_served() {
    let (_, files) = sample();
    let log = reopen(&files).unwrap();
    let name = file_name(1);
    let at = files[&name].iter().position(|byte| *byte == 0x55).unwrap();
    log.disk.open(&name).unwrap().write_at(&[0x54], at as u64).unwrap();
    let read = log.wal.read(B, 0, 1, usize::MAX);
    match read {
        Err(LogError::LogDamaged { file, offset, .. }) => {
            assert_eq!(file, name);
            assert!(offset <= at as u64 && at as u64 - offset < 100);
        }
        other => panic!("{other:?}"),
    }
}
