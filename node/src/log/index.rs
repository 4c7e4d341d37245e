//! What every group's log holds right now, and where on disk each piece lies.
//!
//! Input: operations in the order in which they are queued, then the places that the writer gave
//! them, or the replay of recovery. Output: what readers see, which segments are still needed, and
//! which records keep the oldest one alive. Does no I/O.
//!
//! The index is changed when an operation is queued, before it is on disk, so that an entry can be
//! read as soon as its append returned. Such a piece has [`Place::segment`] 0 and keeps its bytes in
//! memory until the writer reports its place. Every piece carries the unique number of the operation
//! that made it: a place that arrives after the piece was truncated, purged or replaced is dropped.
//!
//! Memory is one [`Slot`] per live entry, plus the bytes of unwritten entries (bounded by the queue)
//! and of the last [`WalOptions::cache_bytes`](super::WalOptions::cache_bytes) that were written.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use flotilla_shared::ids::GroupId;

use super::error::LogError;
use super::record::{Kind, record_len};

/// Where a record lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The segment; 0 while it is not written.
    pub segment: u64,
    /// Offset of the record in the file.
    pub offset: u32,
    /// Length of its payload.
    pub len: u32,
}

impl Place {
    fn unwritten(payload: &Bytes) -> Self {
        Self { segment: 0, offset: 0, len: payload.len() as u32 }
    }

    /// Bytes that the record takes on disk.
    pub(super) fn record_len(self) -> u64 {
        record_len(self.len as usize) as u64
    }
}

/// One live entry.
#[derive(Clone, Debug)]
pub struct Slot {
    seq: u64,
    place: Place,
    bytes: Option<Bytes>,
}

/// A value of which only the latest counts: vote, committed, purge mark.
#[derive(Clone, Debug)]
pub struct Mark {
    seq: u64,
    place: Place,
    bytes: Bytes,
}

/// The state of one group.
#[derive(Clone, Debug, Default)]
struct GroupIndex {
    marks: BTreeMap<Kind, Mark>,
    /// Index of the last purged entry, if any was.
    purged: Option<u64>,
    /// Index of the first of `entries`.
    first: u64,
    entries: VecDeque<Slot>,
}

/// What one segment is still needed for.
#[derive(Clone, Debug, Default, PartialEq)]
struct Live {
    /// Live records by group; never zero.
    groups: BTreeMap<GroupId, u64>,
    bytes: u64,
}

/// A live record that is to be copied out of an old segment.
#[derive(Clone, Debug)]
pub struct LiveRecord {
    /// Its group.
    pub group: GroupId,
    /// What it is.
    pub kind: Kind,
    /// The entry's index; zero for marks.
    pub index: u64,
    /// Where it lies.
    pub place: Place,
    /// Its payload, if that is in memory.
    pub bytes: Option<Bytes>,
}

/// An entry found for a reader: in memory, or to be read from its place.
#[derive(Clone, Debug)]
pub enum Found {
    /// The payload.
    Cached(Bytes),
    /// Where the payload is.
    At(Place),
}

/// All groups of one log.
#[derive(Debug, Default)]
pub struct Index {
    groups: BTreeMap<GroupId, GroupIndex>,
    live: BTreeMap<u64, Live>,
    live_bytes: u64,
    /// Written entries whose bytes are kept, oldest first: group, index, operation, charged bytes.
    cache: VecDeque<(GroupId, u64, u64, usize)>,
    cached_bytes: usize,
    cache_limit: usize,
}

/// Charged to the cache for each entry beside its payload, so that tiny entries are bounded too.
const CACHE_ENTRY_BYTES: usize = 64;

impl Index {
    /// An empty index that keeps up to `cache_limit` bytes of written entries.
    pub fn new(cache_limit: usize) -> Self {
        Self { cache_limit, ..Self::default() }
    }

    /// Groups of which anything is known.
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.keys().copied().collect()
    }

    /// Payload of the latest vote, committed mark or purge mark.
    pub fn mark(&self, group: GroupId, kind: Kind) -> Option<Bytes> {
        Some(self.groups.get(&group)?.marks.get(&kind)?.bytes.clone())
    }

    /// Index of the last purged entry, if any was.
    pub fn purged(&self, group: GroupId) -> Option<u64> {
        self.groups.get(&group)?.purged
    }

    /// First live index and the one after the last.
    pub fn bounds(&self, group: GroupId) -> (u64, u64) {
        self.groups.get(&group).map_or((0, 0), |g| (g.first, g.first + g.entries.len() as u64))
    }

    /// The live entries from `start` to before `end`, until their payloads exceed `max_bytes`; at
    /// least one if there is one.
    pub fn find(&self, group: GroupId, start: u64, end: u64, max_bytes: usize) -> Vec<Found> {
        let Some(g) = self.groups.get(&group) else { return Vec::new() };
        let from = start.saturating_sub(g.first).min(g.entries.len() as u64) as usize;
        let to = end.saturating_sub(g.first).min(g.entries.len() as u64) as usize;
        let mut bytes = 0_usize;
        let mut found = Vec::new();
        for slot in g.entries.range(from..to.max(from)) {
            bytes = bytes.saturating_add(slot.place.len as usize);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(slot.bytes.clone().map_or(Found::At(slot.place), Found::Cached));
        }
        found
    }

    /// The groups with most bytes of live entries, each with the index of the last entry of their first half, until
    /// these halves hold `excess` bytes.
    pub fn halves_of_largest(&self, mut excess: u64) -> Vec<(GroupId, u64)> {
        let bytes_of = |g: &GroupIndex| g.entries.iter().map(|slot| slot.place.record_len()).sum::<u64>();
        let mut sizes: Vec<_> = self.groups.iter().map(|(group, g)| (bytes_of(g), *group, g)).collect();
        sizes.retain(|(bytes, ..)| *bytes > 0);
        sizes.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        let mut halves = vec![];
        for (bytes, group, g) in sizes {
            if excess == 0 {
                break;
            }
            let mut before = 0;
            let half = g.entries.iter().take_while(|slot| {
                before += slot.place.record_len();
                before * 2 <= bytes
            });
            // At least one goes, however large the others are.
            halves.push((group, g.first + (half.count() as u64).max(1) - 1));
            excess = excess.saturating_sub(bytes / 2);
        }
        halves
    }

    /// Which index must come next; none if any may.
    pub fn expected(&self, group: GroupId) -> Option<u64> {
        let g = self.groups.get(&group)?;
        match g.entries.is_empty() {
            true => g.purged.map(|purged| purged + 1),
            false => Some(g.first + g.entries.len() as u64),
        }
    }

    /// Adds an entry behind the last one.
    ///
    /// # Errors
    /// [`LogError::NotConsecutive`].
    pub fn append(&mut self, group: GroupId, index: u64, seq: u64, payload: Bytes) -> Result<(), LogError> {
        match self.expected(group) {
            Some(expected) if expected != index => {
                return Err(LogError::NotConsecutive { group, index, expected });
            }
            _ => {}
        }
        let g = self.groups.entry(group).or_default();
        if g.entries.is_empty() {
            g.first = index;
        }
        g.entries.push_back(Slot { seq, place: Place::unwritten(&payload), bytes: Some(payload) });
        Ok(())
    }

    /// Drops all entries from `from` on.
    pub fn truncate(&mut self, group: GroupId, from: u64) {
        let Some(g) = self.groups.get_mut(&group) else { return };
        let keep = from.saturating_sub(g.first).min(g.entries.len() as u64) as usize;
        for slot in g.entries.split_off(keep) {
            release(&mut self.live, &mut self.live_bytes, group, slot.place);
        }
    }

    /// Drops all entries up to `upto` and remembers that. An older purge changes nothing.
    pub fn purge(&mut self, group: GroupId, upto: u64, seq: u64, payload: Bytes) {
        let g = self.groups.entry(group).or_default();
        if g.purged.is_some_and(|purged| purged > upto) {
            return;
        }
        g.purged = Some(upto);
        while g.first <= upto
            && let Some(slot) = g.entries.pop_front()
        {
            g.first += 1;
            release(&mut self.live, &mut self.live_bytes, group, slot.place);
        }
        if g.entries.is_empty() {
            g.first = upto + 1;
        }
        self.set_mark(group, Kind::Purge, seq, payload);
    }

    /// Replaces the vote, the committed mark or (from [`Index::purge`] only) the purge mark.
    pub fn set_mark(&mut self, group: GroupId, kind: Kind, seq: u64, payload: Bytes) {
        let mark = Mark { seq, place: Place::unwritten(&payload), bytes: payload };
        if let Some(old) = self.groups.entry(group).or_default().marks.insert(kind, mark) {
            release(&mut self.live, &mut self.live_bytes, group, old.place);
        }
    }

    /// Forgets the group.
    pub fn remove_group(&mut self, group: GroupId) {
        let Some(g) = self.groups.remove(&group) else { return };
        let places = g.entries.iter().map(|s| s.place).chain(g.marks.values().map(|m| m.place));
        for place in places {
            release(&mut self.live, &mut self.live_bytes, group, place);
        }
    }

    fn place_mut(&mut self, group: GroupId, kind: Kind, index: u64) -> Option<(u64, &mut Place)> {
        let g = self.groups.get_mut(&group)?;
        if kind == Kind::Entry {
            let slot = g.entries.get_mut(usize::try_from(index.checked_sub(g.first)?).ok()?)?;
            return Some((slot.seq, &mut slot.place));
        }
        let mark = g.marks.get_mut(&kind)?;
        Some((mark.seq, &mut mark.place))
    }

    /// The operation `seq` is on disk at `place`.
    pub fn placed(&mut self, group: GroupId, kind: Kind, index: u64, seq: u64, place: Place) {
        let Some((owner, slot)) = self.place_mut(group, kind, index) else { return };
        if owner != seq {
            return;
        }
        *slot = place;
        hold(&mut self.live, &mut self.live_bytes, group, place);
        if kind == Kind::Entry {
            let charge = place.len as usize + CACHE_ENTRY_BYTES;
            self.cache.push_back((group, index, seq, charge));
            self.cached_bytes += charge;
        }
    }

    /// The record at `old` was copied to `new`.
    pub fn moved(&mut self, group: GroupId, kind: Kind, index: u64, old: Place, new: Place) {
        let Some((_, slot)) = self.place_mut(group, kind, index) else { return };
        if *slot != old {
            return;
        }
        *slot = new;
        hold(&mut self.live, &mut self.live_bytes, group, new);
        release(&mut self.live, &mut self.live_bytes, group, old);
    }

    /// Lets go of the bytes of the entries written longest ago, down to the limit. What was purged
    /// meanwhile still counts until its turn: the cache is the last so many bytes that were written.
    pub fn trim_cache(&mut self) {
        while self.cached_bytes > self.cache_limit
            && let Some((group, index, seq, charge)) = self.cache.pop_front()
        {
            self.cached_bytes -= charge;
            let slot = self.groups.get_mut(&group).and_then(|g| {
                let at = usize::try_from(index.checked_sub(g.first)?).ok()?;
                g.entries.get_mut(at)
            });
            if let Some(slot) = slot
                && slot.seq == seq
            {
                slot.bytes = None;
            }
        }
    }

    /// The lowest segment that holds a live record.
    pub fn oldest_live(&self) -> Option<u64> {
        self.live.keys().next().copied()
    }

    /// Bytes of live records in one segment.
    pub fn live_in(&self, segment: u64) -> u64 {
        self.live.get(&segment).map_or(0, |live| live.bytes)
    }

    /// Bytes of live records in all segments.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Live records of a segment, until they exceed `max_bytes`; at least one if there is one.
    pub fn live_records(&self, segment: u64, max_bytes: u64) -> Vec<LiveRecord> {
        let mut records: Vec<LiveRecord> = Vec::new();
        let mut bytes = 0;
        let Some(live) = self.live.get(&segment) else { return records };
        let groups = live.groups.keys().filter_map(|id| Some((*id, self.groups.get(id)?)));
        for (group, g) in groups {
            let marks = g.marks.iter().map(|(kind, m)| (*kind, 0, m.place, Some(m.bytes.clone())));
            let entries = (g.first..).zip(&g.entries);
            let entries = entries.map(|(index, s)| (Kind::Entry, index, s.place, s.bytes.clone()));
            for (kind, index, place, payload) in marks.chain(entries) {
                if place.segment != segment {
                    continue;
                }
                bytes += place.record_len();
                if bytes > max_bytes && !records.is_empty() {
                    return records;
                }
                records.push(LiveRecord { group, kind, index, place, bytes: payload });
            }
        }
        records
    }

    /// Counts again what each segment is needed for: do the running counts agree? Takes time in
    /// proportion to all live entries; for tests.
    pub fn counts_agree(&self) -> bool {
        let (mut live, mut total) = (BTreeMap::new(), 0);
        for (group, g) in &self.groups {
            let places = g.entries.iter().map(|s| s.place).chain(g.marks.values().map(|m| m.place));
            for place in places.filter(|place| place.segment > 0) {
                hold(&mut live, &mut total, *group, place);
            }
        }
        live == self.live && total == self.live_bytes
    }

    /// Takes over what recovery found for one group; `entries` are consecutive from `first`.
    pub fn restore(
        &mut self,
        group: GroupId,
        marks: impl IntoIterator<Item = (Kind, Place, Bytes)>,
        purged: Option<u64>,
        first: u64,
        entries: impl IntoIterator<Item = Place>,
    ) {
        let mut g = GroupIndex { purged, first, ..GroupIndex::default() };
        for (kind, place, bytes) in marks {
            hold(&mut self.live, &mut self.live_bytes, group, place);
            g.marks.insert(kind, Mark { seq: 0, place, bytes });
        }
        for place in entries {
            hold(&mut self.live, &mut self.live_bytes, group, place);
            g.entries.push_back(Slot { seq: 0, place, bytes: None });
        }
        self.groups.insert(group, g);
    }
}

fn hold(live: &mut BTreeMap<u64, Live>, total: &mut u64, group: GroupId, place: Place) {
    let segment = live.entry(place.segment).or_default();
    *segment.groups.entry(group).or_default() += 1;
    segment.bytes += place.record_len();
    *total += place.record_len();
}

fn release(live: &mut BTreeMap<u64, Live>, total: &mut u64, group: GroupId, place: Place) {
    if place.segment == 0 {
        return;
    }
    let Some(segment) = live.get_mut(&place.segment) else { return };
    segment.bytes -= place.record_len();
    *total -= place.record_len();
    if let Some(count) = segment.groups.get_mut(&group) {
        *count -= 1;
        if *count == 0 {
            segment.groups.remove(&group);
        }
    }
    if segment.groups.is_empty() {
        live.remove(&place.segment);
    }
}
