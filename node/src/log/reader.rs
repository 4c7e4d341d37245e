//! Reading entries: from memory if they are recent, else back from their segment.
//!
//! Input: a group and a range of indexes. Output: the payloads, in order. Refuses to give bytes whose
//! checksum, kind, group or index is not what the index says: that is [`LogError::LogDamaged`].
//!
//! What to read is decided under the lock in one go, so a read never shows half of a truncation. The
//! files are read after it is released: a segment that is removed meanwhile stays readable through
//! its open file, and a segment's bytes never change once a place in it is known.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use flotilla_shared::ids::GroupId;

use super::disk::DiskFile;
use super::error::LogError;
use super::index::{Found, Place};
use super::record::{Kind, RECORD_HEADER, get_record, record_len};
use super::segment::file_name;
use super::wal::Wal;

/// Neighbours in a segment are read together up to this many bytes: one call for a batch of small
/// entries, little waste when entries of other groups lie between them.
const READ_SPAN_BYTES: u64 = 256 << 10;

/// Reads one record and checks that it is what it should be.
pub(super) fn read_record(
    file: &dyn DiskFile,
    place: Place,
    kind: Kind,
    group: GroupId,
    index: u64,
) -> Result<Bytes, LogError> {
    let bytes = read_span(file, place, u64::from(place.offset) + record_len(place.len as usize) as u64)?;
    cut_record(&bytes, place, u64::from(place.offset), kind, group, index)
}

fn read_span(file: &dyn DiskFile, from: Place, end: u64) -> Result<Bytes, LogError> {
    let start = u64::from(from.offset);
    let mut buffer = vec![0; (end - start) as usize];
    file.read_at(&mut buffer, start).map_err(|error| LogError::io("read", &file_name(from.segment), error))?;
    Ok(buffer.into())
}

fn cut_record(
    span: &Bytes,
    place: Place,
    span_start: u64,
    kind: Kind,
    group: GroupId,
    index: u64,
) -> Result<Bytes, LogError> {
    let offset = u64::from(place.offset);
    let damaged = |what| LogError::damaged(&file_name(place.segment), offset, what);
    let start = (offset - span_start) as usize;
    let bytes = span.slice(start..start + record_len(place.len as usize));
    let record = get_record(&bytes, place.segment, offset).map_err(damaged)?;
    let expected_index = if kind == Kind::Entry { index } else { record.number() };
    if record.kind != kind
        || record.group != group
        || record.number() != expected_index
        || record.payload.len() != place.len as usize
    {
        return Err(damaged("another record lies here"));
    }
    Ok(bytes.slice(RECORD_HEADER..))
}

impl Wal {
    /// The entries of `group` from index `start` to before `end` that the log has, as payloads that
    /// start with the index. Stops before the sum of payloads exceeds `max_bytes`, but not before
    /// the first entry.
    ///
    /// Blocks for the disk if an entry is no longer in memory.
    ///
    /// # Errors
    /// [`LogError::LogDamaged`], or what the disk said.
    pub fn read(&self, group: GroupId, start: u64, end: u64, max_bytes: usize) -> Result<Vec<Bytes>, LogError> {
        let (first, found, files) = {
            let core = self.shared.core();
            let found = core.index.find(group, start, end, max_bytes);
            let file_of = |found: &Found| match found {
                Found::At(place) => core.segments.get(&place.segment).map(|s| Arc::clone(&s.file)),
                Found::Cached(_) => None,
            };
            let files: Vec<_> = found.iter().map(file_of).collect();
            (start.max(core.index.bounds(group).0), found, files)
        };
        let mut payloads = Vec::with_capacity(found.len());
        let mut span: Option<(Place, u64, Bytes)> = None;
        for (n, item) in found.iter().enumerate() {
            let place = match item {
                Found::Cached(bytes) => {
                    payloads.push(bytes.clone());
                    continue;
                }
                Found::At(place) => *place,
            };
            let (offset, end) = (u64::from(place.offset), span_end(place));
            let covers = |(from, to, _): &(Place, u64, Bytes)| {
                from.segment == place.segment && u64::from(from.offset) <= offset && end <= *to
            };
            if !span.as_ref().is_some_and(covers) {
                let Some(file) = &files[n] else {
                    let name = file_name(place.segment);
                    return Err(LogError::damaged(&name, offset, "a needed segment is gone"));
                };
                let to = extend_span(place, &found[n + 1..]);
                span = Some((place, to, read_span(&**file, place, to)?));
            }
            let Some((from, _, bytes)) = &span else { continue };
            let index = first + n as u64;
            payloads.push(cut_record(bytes, place, u64::from(from.offset), Kind::Entry, group, index)?);
            self.shared.stats.disk_reads.fetch_add(1, Relaxed);
        }
        Ok(payloads)
    }
}

fn span_end(place: Place) -> u64 {
    u64::from(place.offset) + record_len(place.len as usize) as u64
}

/// How far one read may go so that it also covers the entries that follow.
fn extend_span(from: Place, next: &[Found]) -> u64 {
    let mut end = span_end(from);
    for item in next {
        match item {
            Found::At(place)
                if place.segment == from.segment
                    && u64::from(place.offset) >= end
                    && span_end(*place) - u64::from(from.offset) <= READ_SPAN_BYTES =>
            {
                end = span_end(*place);
            }
            _ => break,
        }
    }
    end
}
