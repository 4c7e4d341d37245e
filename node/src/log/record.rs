//! Records and batches as bytes.
//!
//! Input: operations from [`Writer`](super::Writer), or the bytes of a segment file from
//! [`scan`](super::segment::scan) and from readers. Output: bytes, or checked views of them. Refuses
//! bytes whose checksum does not fit the very place they are read from.
//!
//! A **batch** is what one write and one sync make durable. It starts on a sector boundary, so that
//! writing it never touches a sector with older, durable records:
//!
//! ```text
//! batch  = magic u32 | crc u32 | number u64 | body_len u32 | records u32 | body | zeros to the next sector
//! body   = record*
//! record = len u32 | crc u32 | kind u8 | group u32 | payload (len bytes)
//! ```
//!
//! All integers are little-endian. Both checksums are CRC-32C, and both start from the segment's
//! number and the offset in the file, so that bytes of another file or place are never taken for
//! records of this one. The batch's checksum covers its header (so its length can be trusted even if
//! the body is torn), a record's covers its header and payload.
//!
//! The payload of [`Kind::Entry`], [`Kind::Purge`], [`Kind::TruncateAfter`] and [`Kind::Floor`]
//! starts with a u64: the entry's index, the purged index, the first index cut off, the segment.

use flotilla_shared::ids::GroupId;

/// Unit of alignment of batches: the smallest piece that a disk writes.
pub const SECTOR: u64 = 512;

/// Bytes before a record's payload.
pub const RECORD_HEADER: usize = 13;

/// Bytes before a batch's body.
pub const BATCH_HEADER: usize = 24;

const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"FBAT");

/// What a record says. The numbers are on disk and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The group's vote; the latest one counts.
    Vote = 1,
    /// One log entry, appended or copied out of an old segment.
    Entry = 2,
    /// The group's last saved committed log id, possibly none; the latest one counts.
    Committed = 3,
    /// All entries from an index on are gone.
    TruncateAfter = 4,
    /// All entries up to an index are gone; carries the log id of the last one.
    Purge = 5,
    /// The group and all it had are gone.
    RemoveGroup = 6,
    /// No segment below this number is needed any more; of no group.
    Floor = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Vote,
            2 => Self::Entry,
            3 => Self::Committed,
            4 => Self::TruncateAfter,
            5 => Self::Purge,
            6 => Self::RemoveGroup,
            7 => Self::Floor,
            _ => return None,
        })
    }

    /// Does the payload have to start with a number?
    fn numbered(self) -> bool {
        matches!(self, Self::Entry | Self::TruncateAfter | Self::Purge | Self::Floor)
    }
}

/// A checked record, still inside the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What it says.
    pub kind: Kind,
    /// About which group.
    pub group: GroupId,
    /// Offset of the record in its file, in bytes.
    pub offset: u64,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// The number that the payload starts with; zero for kinds that have none.
    pub fn number(&self) -> u64 {
        leading_number(self.payload)
    }
}

/// The number at the start of a payload; zero if there is none.
pub fn leading_number(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Bytes that a record with this payload length takes.
pub fn record_len(payload_len: usize) -> usize {
    RECORD_HEADER + payload_len
}

/// Rounds a length or offset up to a whole number of sectors.
pub fn sector_up(offset: u64) -> u64 {
    offset.next_multiple_of(SECTOR)
}

fn checksum(segment: u64, offset: u64, parts: [&[u8]; 2]) -> u32 {
    let mut crc = crc32c::crc32c(&segment.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    for part in parts {
        crc = crc32c::crc32c_append(crc, part);
    }
    crc
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Appends one record to `buffer`, to be written at `offset` of `segment`.
pub fn put_record(buffer: &mut Vec<u8>, segment: u64, offset: u64, kind: Kind, group: GroupId, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("records are refused above MAX_RECORD_BYTES");
    let mut head = [0; 9];
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4] = kind as u8;
    head[5..].copy_from_slice(&group.0.to_le_bytes());
    let crc = checksum(segment, offset, [&head, payload]);
    buffer.extend_from_slice(&head[..4]);
    buffer.extend_from_slice(&crc.to_le_bytes());
    buffer.extend_from_slice(&head[4..]);
    buffer.extend_from_slice(payload);
}

/// The record that starts at `bytes[0]`, which is `offset` of `segment`, or why it is none.
pub fn get_record(bytes: &[u8], segment: u64, offset: u64) -> Result<Record<'_>, &'static str> {
    let head = bytes.get(..RECORD_HEADER).ok_or("a record's header is cut off")?;
    let len = u32_at(head, 0).unwrap_or(0) as usize;
    let payload = bytes[RECORD_HEADER..].get(..len).ok_or("a record is longer than its batch")?;
    let mut signed = [0; 9];
    signed[..4].copy_from_slice(&head[..4]);
    signed[4..].copy_from_slice(&head[8..]);
    if u32_at(head, 4) != Some(checksum(segment, offset, [&signed, payload])) {
        return Err("a record's checksum is wrong");
    }
    let kind = Kind::from_byte(head[8]).ok_or("a record is of a kind that this version does not know")?;
    if kind.numbered() && payload.len() < 8 {
        return Err("a record is too short for its kind");
    }
    let group = GroupId(u32_at(head, 9).unwrap_or(0));
    Ok(Record { kind, group, offset, payload })
}

/// A batch's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// Number of the batch; batches of a log are numbered without gaps.
    pub number: u64,
    /// Length of all its records, in bytes.
    pub body_len: u32,
    /// How many records follow.
    pub records: u32,
}

/// The bytes of `head` at `offset` of `segment`.
pub fn put_batch_head(head: BatchHead, segment: u64, offset: u64) -> [u8; BATCH_HEADER] {
    let mut bytes = [0; BATCH_HEADER];
    bytes[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&head.number.to_le_bytes());
    bytes[16..20].copy_from_slice(&head.body_len.to_le_bytes());
    bytes[20..].copy_from_slice(&head.records.to_le_bytes());
    let crc = checksum(segment, offset, [&bytes[..4], &bytes[8..]]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The batch header that starts at `bytes[0]`, which is `offset` of `segment`, if there is one.
pub fn get_batch_head(bytes: &[u8], segment: u64, offset: u64) -> Option<BatchHead> {
    let bytes = bytes.get(..BATCH_HEADER)?;
    if u32_at(bytes, 0) != Some(BATCH_MAGIC)
        || u32_at(bytes, 4) != Some(checksum(segment, offset, [&bytes[..4], &bytes[8..]]))
    {
        return None;
    }
    Some(BatchHead { number: leading_number(&bytes[8..]), body_len: u32_at(bytes, 16)?, records: u32_at(bytes, 20)? })
}
