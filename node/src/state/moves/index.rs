//! The slot index: which rows a slot has, for as long as a job moves slots.
//!
//! For each table a side table (slot, what names the row), kept by triggers from its start and filled in
//! chunks through the log. It may name rows that are gone or have another slot by now: `REPLACE` deletes
//! rows without telling triggers. It never lacks one. So whoever uses it looks at the row itself,
//! too ([`Scan`]), and finds just the rows of the slot.
//!
//! What the triggers do is invisible to clients: SQLite restores `last_insert_rowid()`, `changes()` and
//! the count of changed rows after a trigger. They do nothing that a conflict clause of the client's
//! statement could turn into something else, because they insert only what is not there.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{PlacementId, Slot};
use flotilla_shared::moves::{MovedSet, SlotDigest};
use flotilla_shared::registry::{SlotSet, quoted};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::layout::{Layout, list, pack, unpack};
use super::{Moves, Step};
use crate::state::slot_function;

/// Rows that one entry adds to or takes from an index: some ten milliseconds of apply.
const CHUNK_ROWS: usize = 4096;

/// What the names of side tables and their triggers begin with.
pub const SIDE_PREFIX: &str = "_flotilla_slots_";

/// What the triggers of a side table wait for; their names end with it.
const EVENTS: [&str; 3] = ["insert", "update", "delete"];

/// The index of one placement's tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Index {
    generation: u64,
    set: MovedSet,
    filled: Vec<Filled>,
    /// It is being taken away: the triggers are gone.
    dropping: bool,
}

/// How far a side table is filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Filled {
    Nothing,
    /// Up to this row.
    UpTo(Vec<u8>),
    All,
}

impl Index {
    /// Does it find all rows of these tables?
    pub fn is_complete(&self, set: &MovedSet) -> bool {
        !self.dropping && self.set == *set && self.filled.iter().all(|filled| *filled == Filled::All)
    }

    /// Rows of a placement came in past the triggers.
    pub fn start_over(&mut self, placement: PlacementId) {
        if self.set.placement.id == placement {
            self.filled.fill(Filled::Nothing);
        }
    }

    /// The placement that it is for.
    pub fn placement(&self) -> PlacementId {
        self.set.placement.id
    }

    /// Is this the name of a side table, or of a trigger that keeps it?
    pub fn has_named(&self, name: &str) -> bool {
        (0..self.set.tables.len()).any(|number| {
            let side = side(&self.set, number);
            name == side || EVENTS.iter().any(|event| name == format!("{side}_{event}"))
        })
    }

    /// One scan for each table.
    pub fn scans(&self, db: &Connection) -> Step<Vec<Scan>> {
        (0..self.set.tables.len()).map(|number| Scan::new(db, &self.set, number)).collect()
    }

    fn remove(&self, db: &Connection) -> rusqlite::Result<()> {
        self.remove_triggers(db)?;
        (0..self.set.tables.len())
            .try_for_each(|number| db.execute_batch(&format!("DROP TABLE IF EXISTS {}", side(&self.set, number))))
    }

    fn remove_triggers(&self, db: &Connection) -> rusqlite::Result<()> {
        for number in 0..self.set.tables.len() {
            for event in EVENTS {
                db.execute_batch(&format!("DROP TRIGGER IF EXISTS {}_{event}", side(&self.set, number)))?;
            }
        }
        Ok(())
    }
}

/// The name of a side table. It follows from ids, so it needs no quotes.
fn side(set: &MovedSet, number: usize) -> String {
    format!("{SIDE_PREFIX}{}_{number}", set.placement.id)
}

/// Makes the index, or fills it further; tells whether it is complete.
pub(super) fn extend(db: &Connection, moves: &mut Moves, generation: u64, set: &MovedSet) -> Step<bool> {
    let late = moves.index.as_ref().is_some_and(|index| index.generation > generation);
    if late || generation <= moves.dropped {
        return Err(Error::new(Code::Conflict, format!("slot indexes of generation {generation} are over")).into());
    }
    let fits = |index: &Index| index.generation == generation && index.set == *set && !index.dropping;
    if let Some(other) = moves.index.take_if(|index| !fits(index)) {
        other.remove(db)?;
    }
    let index = match &mut moves.index {
        Some(index) => index,
        none => {
            (0..set.tables.len()).try_for_each(|number| make(db, set, number))?;
            let filled = vec![Filled::Nothing; set.tables.len()];
            none.insert(Index { generation, set: set.clone(), filled, dropping: false })
        }
    };
    if let Some(number) = index.filled.iter().position(|filled| *filled != Filled::All) {
        index.filled[number] = fill(db, set, number, &index.filled[number])?;
    }
    Ok(index.filled.iter().all(|filled| *filled == Filled::All))
}

/// Takes a piece of the index away; tells whether nothing is left.
pub(super) fn shrink(db: &Connection, moves: &mut Moves, generation: u64) -> Step<bool> {
    moves.dropped = moves.dropped.max(generation);
    let Some(index) = moves.index.as_mut().filter(|index| index.generation <= generation) else { return Ok(true) };
    if !index.dropping {
        index.remove_triggers(db)?;
        index.dropping = true;
    }
    for number in 0..index.set.tables.len() {
        let side = side(&index.set, number);
        let known: bool = db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)")?
            .query_row([&side], |row| row.get(0))?;
        if !known {
            continue;
        }
        let key: Vec<String> = db
            .prepare_cached("SELECT name FROM pragma_table_info(?1)")?
            .query_map([&side], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let key = key.join(", ");
        let deleted = db.execute(
            &format!("DELETE FROM {side} WHERE ({key}) IN (SELECT {key} FROM {side} LIMIT {CHUNK_ROWS})"),
            [],
        )?;
        if deleted > 0 {
            return Ok(false);
        }
        db.execute_batch(&format!("DROP TABLE {side}"))?;
    }
    moves.index = None;
    Ok(true)
}

fn make(db: &Connection, set: &MovedSet, number: usize) -> Step<()> {
    let table = &set.tables[number];
    let layout = Layout::of(db, table)?;
    let side = side(set, number);
    let names = list(&layout.identity, |n, _| format!("k{n}"), ", ");
    let columns = list(&layout.identity, |n, (_, coll)| format!("k{n} COLLATE {coll}"), ", ");
    // A job that lost its index to a dropped table leaves the side table behind.
    db.execute_batch(&format!(
        "DROP TABLE IF EXISTS {side};
         CREATE TABLE {side} (slot INTEGER, {columns}, PRIMARY KEY (slot, {names})) WITHOUT ROWID"
    ))?;
    let slot = |row: &str| slot_call(set, number, row);
    let values = |row: &str| list(&layout.identity, |_, (name, _)| format!("{row}.{}", quoted(name)), ", ");
    let same = |row: &str| list(&layout.identity, |n, (name, _)| format!("k{n} = {row}.{}", quoted(name)), " AND ");
    let insert = format!(
        "INSERT INTO {side} SELECT {slot}, {values} WHERE NOT EXISTS (SELECT 1 FROM {side} WHERE slot = {slot} AND {same});",
        slot = slot("NEW"),
        values = values("NEW"),
        same = same("NEW"),
    );
    let key = table.key.iter().chain(layout.identity.iter().map(|(name, _)| name));
    let changed: Vec<String> = key.map(|name| format!("NEW.{0} IS NOT OLD.{0}", quoted(name))).collect();
    let on = quoted(&table.name);
    db.execute_batch(&format!(
        "CREATE TRIGGER {side}_insert AFTER INSERT ON {on} BEGIN {insert} END;
         CREATE TRIGGER {side}_update AFTER UPDATE ON {on} WHEN {} BEGIN {insert} END;
         CREATE TRIGGER {side}_delete AFTER DELETE ON {on} BEGIN
             DELETE FROM {side} WHERE slot = {} AND {};
         END;",
        changed.join(" OR "),
        slot("OLD"),
        same("OLD"),
    ))?;
    Ok(())
}

/// The slot of a row, in SQL.
fn slot_call(set: &MovedSet, number: usize, row: &str) -> String {
    let key = list(&set.tables[number].key, |_, name| format!("{row}.{}", quoted(name)), ", ");
    format!("flotilla_slot('{}', {key})", slot_function::spec(&set.placement))
}

fn fill(db: &Connection, set: &MovedSet, number: usize, from: &Filled) -> Step<Filled> {
    let layout = Layout::of(db, &set.tables[number])?;
    let width = layout.identity.len();
    let identity = list(&layout.identity, |_, (name, coll)| format!("m.{} COLLATE {coll}", quoted(name)), ", ");
    let marks = list(&layout.identity, |n, _| format!("?{}", n + 1), ", ");
    let behind = match from {
        Filled::UpTo(_) => format!("WHERE ({identity}) > ({marks})"),
        _ => String::new(),
    };
    let sql = format!(
        "SELECT {}, {identity} FROM {} m {behind} ORDER BY {identity} LIMIT {CHUNK_ROWS}",
        slot_call(set, number, "m"),
        quoted(&set.tables[number].name)
    );
    let after = match from {
        Filled::UpTo(row) => unpack(row)?,
        _ => vec![],
    };
    let values = list(&layout.identity, |n, _| format!("?{}", n + 2), ", ");
    let mut insert =
        db.prepare_cached(&format!("INSERT OR IGNORE INTO {} VALUES (?1, {values})", side(set, number)))?;
    let mut query = db.prepare_cached(&sql)?;
    let mut rows = query.query(params_from_iter(after))?;
    let (mut count, mut last) = (0, None);
    while let Some(row) = rows.next()? {
        let entry: Vec<Value> = (0..=width).map(|column| row.get(column)).collect::<Result<_, _>>()?;
        insert.execute(params_from_iter(entry))?;
        count += 1;
        if count == CHUNK_ROWS {
            last = Some(pack(row, 1, width)?);
        }
    }
    Ok(last.map_or(Filled::All, Filled::UpTo))
}

/// Finds the rows of a slot in one table.
pub(super) struct Scan {
    number: usize,
    layout: Layout,
    side: String,
    /// Up to where rows behind another one would be asked for.
    select: String,
}

/// A row that a scan found.
pub(super) struct Found {
    /// What names it in its table, packed.
    pub identity: Vec<u8>,
    /// Itself, packed.
    pub packed: Vec<u8>,
}

impl Scan {
    fn new(db: &Connection, set: &MovedSet, number: usize) -> Step<Self> {
        let layout = Layout::of(db, &set.tables[number])?;
        let side = side(set, number);
        let identity = list(&layout.identity, |_, (name, _)| format!("m.{}", quoted(name)), ", ");
        let columns = list(&layout.columns, |_, name| format!("m.{}", quoted(name)), ", ");
        let same =
            list(&layout.identity, |n, (name, coll)| format!("m.{} COLLATE {coll} = s.k{n}", quoted(name)), " AND ");
        let select = format!(
            "SELECT {identity}, {columns} FROM {side} s CROSS JOIN {} m ON {same} WHERE s.slot = ?1 AND {} = ?1",
            quoted(&layout.table),
            slot_call(set, number, "m"),
        );
        Ok(Self { number, layout, side, select })
    }

    /// Gives the rows of a slot, behind one of them, until `take` says no; tells whether it never did.
    pub fn rows(
        &self,
        db: &Connection,
        slot: Slot,
        after: Option<&[u8]>,
        mut take: impl FnMut(Found) -> bool,
    ) -> Step<bool> {
        let width = self.layout.identity.len();
        let names = list(&self.layout.identity, |n, _| format!("s.k{n}"), ", ");
        let marks = list(&self.layout.identity, |n, _| format!("?{}", n + 2), ", ");
        let behind = after.map_or(String::new(), |_| format!(" AND ({names}) > ({marks})"));
        let mut query = db.prepare_cached(&format!("{}{behind} ORDER BY {names}", self.select))?;
        query.raw_bind_parameter(1, slot.0)?;
        for (n, value) in unpack(after.unwrap_or_default())?.into_iter().enumerate() {
            query.raw_bind_parameter(n + 2, value)?;
        }
        let mut rows = query.raw_query();
        while let Some(row) = rows.next()? {
            let packed = pack(row, width, self.layout.columns.len())?;
            if !take(Found { identity: pack(row, 0, width)?, packed }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The number of its table.
    pub fn number(&self) -> u16 {
        self.number as u16
    }
}

/// Counts a row in.
pub(super) fn add(digest: &mut SlotDigest, table: u16, packed: &[u8]) {
    let mut hash = Xxh3::new();
    hash.update(&table.to_le_bytes());
    hash.update(packed);
    digest.rows += 1;
    digest.bytes += packed.len() as u64;
    digest.sum = digest.sum.wrapping_add(hash.digest128());
}

/// Deletes all rows of slots and says what they were.
pub(super) fn take_rows(db: &Connection, index: &Index, slots: &SlotSet) -> Step<Vec<SlotDigest>> {
    let scans = index.scans(db)?;
    let mut digests = Vec::new();
    for slot in slots.iter() {
        let mut digest = SlotDigest { slot, ..SlotDigest::default() };
        for scan in &scans {
            let mut identities = Vec::new();
            scan.rows(db, slot, None, |found| {
                add(&mut digest, scan.number(), &found.packed);
                identities.push(found.identity);
                true
            })?;
            let mut delete = db.prepare_cached(&scan.layout.delete())?;
            for identity in &identities {
                delete.execute(params_from_iter(unpack(identity)?))?;
            }
            db.prepare_cached(&format!("DELETE FROM {} WHERE slot = ?1", scan.side))?.execute([slot.0])?;
        }
        if digest.rows > 0 {
            digests.push(digest);
        }
    }
    Ok(digests)
}
