//! Segment files: their names, their header, and the reading of one whole file.
//!
//! Input: the bytes of one file, from recovery. Output: every record of every complete batch, in
//! order, and where the data ends. Refuses, as [`LogError::LogDamaged`], whatever a crash cannot have
//! left behind.
//!
//! A segment is `<number as 16 hex digits>.log`: one sector of header, then batches (see
//! [`record`](super::record)), then zeros to its preallocated end. Files are never recycled.
//!
//! ```text
//! header = magic u64 | number u64 | first_batch u64 | floor u64 | size u64 | crc u32 | zeros
//! ```
//!
//! # Torn tail or damage
//!
//! The writer keeps one rule: *batch N+1 is written, or its segment created, only after batch N was
//! synced*. So wherever a trace of a later batch or segment exists, batch N was durable and must be
//! whole; if it is not, that is damage. Only the newest batch of the newest segment can be torn, and
//! any of its sectors may be missing. For a batch that is not whole, in the newest segment:
//!
//! - its header is valid, so its end is known: any byte after that end that is not zero is a trace of
//!   a later batch: damage. Otherwise torn;
//! - its header is not valid: a valid batch header on any later sector is a later batch: damage.
//!   Otherwise torn, and all bytes from there on are remains of this one batch;
//! - its records are all valid, but a byte of the padding is not zero: damage, no crash does that.
//!
//! Recovery zeroes a torn tail and syncs that before the log is used again, so remains of an old torn
//! batch never lie behind a new one. What cannot be told from a torn tail is damage inside the very
//! last batch of the log when nothing was written after it. The log writes an empty batch when it is
//! opened and when it is closed, which seals everything before it.

use super::error::LogError;
use super::record::{BATCH_HEADER, BatchHead, Record, SECTOR, get_batch_head, get_record, record_len, sector_up};

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"FLOTLOG1");
const HEADER_LEN: usize = 44;

/// File name of a segment.
pub fn file_name(number: u64) -> String {
    format!("{number:016x}.log")
}

/// The segment that a file name stands for, if it is one.
pub fn number_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

/// First sector of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// The segment's own number, from 1, without gaps.
    pub number: u64,
    /// Number of the first batch that is written into it.
    pub first_batch: u64,
    /// The lowest segment that was still needed when this one was created.
    pub floor: u64,
    /// Length of the file, in bytes.
    pub size: u64,
}

impl SegmentHead {
    /// The sector's bytes.
    pub fn to_bytes(self) -> [u8; SECTOR as usize] {
        let mut bytes = [0; SECTOR as usize];
        let fields = [SEGMENT_MAGIC, self.number, self.first_batch, self.floor, self.size];
        for (field, place) in fields.into_iter().zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..HEADER_LEN - 4]);
        bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header in these bytes, if it is whole and that of segment `number`.
    pub fn from_bytes(bytes: &[u8], number: u64) -> Option<Self> {
        let bytes = bytes.get(..SECTOR as usize)?;
        let field = |n: usize| bytes[n * 8..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let head = Self { number: field(1), first_batch: field(2), floor: field(3), size: field(4) };
        (head.number == number && head.to_bytes() == bytes).then_some(head)
    }
}

/// Where a segment's data ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// First byte after the last complete batch.
    pub end: u64,
    /// First byte after the remains of a torn batch; not above `end` if there are none.
    pub junk_end: u64,
    /// Where the last complete batch starts, if there is one.
    pub last_batch: Option<u64>,
    /// Number of the batch that comes next.
    pub next_batch: u64,
}

/// Why the bytes at some offset are no batch.
struct Bad {
    offset: u64,
    what: &'static str,
    /// End of the batch, if its header can be trusted.
    end: Option<u64>,
    /// Could a crash have done it?
    crash_like: bool,
}

/// Is there a valid batch header on any sector of a file?
pub fn any_batch(bytes: &[u8], number: u64, from: u64) -> bool {
    let start = sector_up(from);
    (start..bytes.len() as u64)
        .step_by(SECTOR as usize)
        .any(|at| get_batch_head(&bytes[at as usize..], number, at).is_some())
}

/// Reads a whole segment and gives every record of its complete batches to `each`, in order.
///
/// `newest` says that no segment follows, so that a torn tail is allowed.
///
/// # Errors
/// [`LogError::LogDamaged`] by the rules above, or what `each` refuses.
pub fn scan(
    bytes: &[u8],
    head: SegmentHead,
    newest: bool,
    each: &mut dyn FnMut(Record<'_>) -> Result<(), LogError>,
) -> Result<Tail, LogError> {
    let file = file_name(head.number);
    let mut tail = Tail { end: SECTOR, junk_end: 0, last_batch: None, next_batch: head.first_batch };
    while tail.end < bytes.len() as u64 {
        match get_batch(bytes, head.number, tail.end, tail.next_batch) {
            Ok((records, end)) => {
                for record in records {
                    each(record)?;
                }
                tail.last_batch = Some(tail.end);
                tail.end = end;
                tail.next_batch += 1;
            }
            Err(bad) => {
                let used_end = used_end(bytes, tail.end);
                if used_end <= tail.end {
                    break;
                }
                let later = match bad.end {
                    Some(end) => used_end > end,
                    None => any_batch(bytes, head.number, tail.end + SECTOR),
                };
                if !newest || !bad.crash_like || later {
                    return Err(LogError::damaged(&file, bad.offset, bad.what));
                }
                tail.junk_end = used_end;
                break;
            }
        }
    }
    Ok(tail)
}

/// First byte after the last one that is not zero; `from` if all are zero.
fn used_end(bytes: &[u8], from: u64) -> u64 {
    let rest = &bytes[from as usize..];
    let last_used = rest.chunks(SECTOR as usize).rposition(|sector| sector.iter().any(|&byte| byte != 0));
    last_used.map_or(from, |sector| (from + (sector as u64 + 1) * SECTOR).min(bytes.len() as u64))
}

fn get_batch(bytes: &[u8], segment: u64, offset: u64, number: u64) -> Result<(Vec<Record<'_>>, u64), Bad> {
    let bad = |offset, what, end, crash_like| Bad { offset, what, end, crash_like };
    let Some(BatchHead { number: found, body_len, records: count }) =
        get_batch_head(&bytes[offset as usize..], segment, offset)
    else {
        return Err(bad(offset, "the header of a batch is not valid", None, true));
    };
    if found != number {
        return Err(bad(offset, "a batch has the wrong number", None, false));
    }
    let body = offset + BATCH_HEADER as u64;
    let body_end = body + u64::from(body_len);
    let end = sector_up(body_end);
    if end > bytes.len() as u64 {
        return Err(bad(offset, "a batch is longer than its file", None, false));
    }
    // Not sized by `count`: it is only as good as a checksum of 32 bits.
    let mut records = Vec::new();
    let mut at = body;
    while at < body_end {
        let record = get_record(&bytes[at as usize..body_end as usize], segment, at)
            .map_err(|what| bad(at, what, Some(end), true))?;
        at += record_len(record.payload.len()) as u64;
        records.push(record);
    }
    if records.len() != count as usize {
        return Err(bad(offset, "a batch has the wrong number of records", Some(end), false));
    }
    if let Some(at) = bytes[body_end as usize..end as usize].iter().position(|&byte| byte != 0) {
        return Err(bad(body_end + at as u64, "the padding after a batch is not zero", Some(end), false));
    }
    Ok((records, end))
}
