//! The slot index: which rows a slot has, for as long as a job moves slots.
//!
//! For each table a side table (slot, what names the row), kept by [`super::watch`] from its start and filled
//! in chunks through the log. Clients see nothing of it. Whoever uses it looks at the row itself, too
//! ([`Scan`]), so an entry without its row would do no harm; a row without its entry would, and there is
//! none.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{PlacementId, Slot};
use flotilla_shared::moves::{MovedRow, MovedSet, RowName, SlotDigest};
use flotilla_shared::registry::quoted;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::layout::{Layout, list, pack, unpack};
use super::watch::bind;
use super::{Moves, Step};
use crate::state::slot_function;

/// Rows that one entry adds to or takes from an index: some milliseconds of apply.
const CHUNK_ROWS: usize = 512;

/// What the names of side tables begin with.
const SIDE_PREFIX: &str = "_flotilla_slots_";

/// The index of one placement's tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Index {
    generation: u64,
    set: MovedSet,
    filled: Vec<Filled>,
    /// A hash of the tables' definitions.
    shape: u64,
    /// It is no longer kept: it is being taken away, or its tables have changed.
    over: bool,
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
        !self.over && self.set == *set && self.filled.iter().all(|filled| *filled == Filled::All)
    }

    /// Rows of a placement came in unnoticed.
    pub fn start_over(&mut self, placement: PlacementId) {
        if self.set.placement.id == placement {
            self.filled.fill(Filled::Nothing);
        }
    }

    /// Is it to be kept up to date?
    pub fn is_kept(&self) -> bool {
        !self.over
    }

    /// It no longer says where all rows are.
    pub fn spoil(&mut self) {
        self.over = true;
    }

    /// Have its tables been defined anew?
    pub fn is_outdated(&self, db: &Connection) -> rusqlite::Result<bool> {
        Ok(self.shape != shape(db, &self.set)?)
    }

    /// Its generation and its tables.
    pub fn set(&self) -> (u64, &MovedSet) {
        (self.generation, &self.set)
    }

    /// The placement that it is for.
    pub fn placement(&self) -> PlacementId {
        self.set.placement.id
    }

    /// Is this the name of a side table?
    pub fn has_named(&self, name: &str) -> bool {
        (0..self.set.tables.len()).any(|number| name == side(&self.set, number))
    }

    /// One scan for each table.
    pub fn scans(&self, db: &Connection) -> Step<Vec<Scan>> {
        (0..self.set.tables.len()).map(|number| Scan::new(db, &self.set, number)).collect()
    }

    fn remove(&self, db: &Connection) -> rusqlite::Result<()> {
        (0..self.set.tables.len())
            .try_for_each(|number| db.execute_batch(&format!("DROP TABLE IF EXISTS {}", side(&self.set, number))))
    }
}

/// The definitions of tables, as far as it matters whether they are the same.
fn shape(db: &Connection, set: &MovedSet) -> rusqlite::Result<u64> {
    let mut hash = Xxh3::new();
    let mut query =
        db.prepare_cached("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE")?;
    for table in &set.tables {
        let sql: Option<String> = query.query_row([&table.name], |row| row.get(0)).optional()?;
        hash.update(sql.unwrap_or_default().as_bytes());
        hash.update(b";");
    }
    Ok(hash.digest())
}

/// The name of a side table. It follows from ids, so it needs no quotes.
pub(super) fn side(set: &MovedSet, number: usize) -> String {
    format!("{SIDE_PREFIX}{}_{number}", set.placement.id)
}

/// Makes the index, or fills it further; tells whether it is complete.
pub(super) fn extend(db: &Connection, moves: &mut Moves, generation: u64, set: &MovedSet) -> Step<bool> {
    let late = moves.index.as_ref().is_some_and(|index| index.generation > generation);
    if late || generation <= moves.dropped {
        return Err(Error::new(Code::Conflict, format!("slot indexes of generation {generation} are over")).into());
    }
    let fits = |index: &Index| index.generation == generation && index.set == *set && !index.over;
    if moves.index.as_ref().is_some_and(|index| !fits(index)) {
        moves.at_rest()?;
    }
    if let Some(other) = moves.index.take_if(|index| !fits(index)) {
        other.remove(db)?;
    }
    let index = match &mut moves.index {
        Some(index) => index,
        none => {
            (0..set.tables.len()).try_for_each(|number| make(db, set, number))?;
            let filled = vec![Filled::Nothing; set.tables.len()];
            none.insert(Index { generation, set: set.clone(), filled, shape: shape(db, set)?, over: false })
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
    if moves.index.as_ref().is_none_or(|index| index.generation > generation) {
        return Ok(true);
    }
    moves.at_rest()?;
    let Some(index) = &mut moves.index else { return Ok(true) };
    index.over = true;
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
    let layout = Layout::of(db, &set.tables[number])?;
    let side = side(set, number);
    let names = list(&layout.identity, |n, _| format!("k{n}"), ", ");
    let columns = list(&layout.identity, |n, (_, coll)| format!("k{n} COLLATE {coll}"), ", ");
    // A job that lost its index to a dropped table leaves the side table behind.
    db.execute_batch(&format!(
        "DROP TABLE IF EXISTS {side};
         CREATE TABLE {side} (slot INTEGER, {columns}, PRIMARY KEY (slot, {names})) WITHOUT ROWID"
    ))?;
    Ok(())
}

/// The slot of a row, in SQL.
pub(super) fn slot_call(set: &MovedSet, number: usize, row: &str) -> String {
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
    /// Reads slot, identity and columns of the row that an identity names.
    find: String,
    /// Deletes the row that an identity names, if its slot is the first parameter.
    delete: String,
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
        let find = format!(
            "SELECT {}, {identity}, {columns} FROM {} m WHERE {}",
            slot_call(set, number, "m"),
            quoted(&layout.table),
            layout.is_named(1)
        );
        let delete = format!(
            "DELETE FROM {} AS m WHERE {} AND {} = ?1",
            quoted(&layout.table),
            layout.is_named(2),
            slot_call(set, number, "m")
        );
        Ok(Self { number, layout, side, select, find, delete })
    }

    /// The row of an identity, wherever its slot is now.
    pub fn find(&self, db: &Connection, identity: &[u8]) -> Step<Option<MovedRow>> {
        let width = self.layout.identity.len();
        let mut query = db.prepare_cached(&self.find)?;
        let mut rows = query.query(params_from_iter(unpack(identity)?))?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let Ok(slot) = u16::try_from(row.get::<_, i64>(0)?) else { return Ok(None) };
        let name = RowName { table: self.number(), identity: pack(row, 1, width)? };
        Ok(Some(MovedRow { name, slot: Slot(slot), packed: pack(row, 1 + width, self.layout.columns.len())? }))
    }

    /// How many entries the index has of a slot.
    pub fn count(&self, db: &Connection, slot: Slot) -> rusqlite::Result<u64> {
        let sql = format!("SELECT count(*) FROM {} WHERE slot = ?1", self.side);
        db.prepare_cached(&sql)?.query_row([slot.0], |row| row.get::<_, i64>(0)).map(|count| count as u64)
    }

    /// Deletes rows of a slot, with their entries; how many entries there were, `limit` at most.
    pub fn delete(&self, db: &Connection, slot: Slot, limit: usize) -> Step<usize> {
        let names = list(&self.layout.identity, |n, _| format!("k{n}"), ", ");
        let sql = format!("SELECT {names} FROM {} WHERE slot = ?1 ORDER BY {names} LIMIT {limit}", self.side);
        let mut query = db.prepare_cached(&sql)?;
        let mut rows = query.query([slot.0])?;
        let mut delete = db.prepare_cached(&self.delete)?;
        let (mut count, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            let identity = pack(row, 0, self.layout.identity.len())?;
            bind(&mut delete, Some(slot.0.into()), &identity)?.raw_execute()?;
            count += 1;
            last = Some(identity);
        }
        drop(rows);
        let Some(last) = last else { return Ok(0) };
        let marks = list(&self.layout.identity, |n, _| format!("?{}", n + 2), ", ");
        let sql = format!("DELETE FROM {} WHERE slot = ?1 AND ({names}) <= ({marks})", self.side);
        bind(&mut *db.prepare_cached(&sql)?, Some(slot.0.into()), &last)?.raw_execute()?;
        Ok(count)
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
    digest.rows += 1;
    digest.bytes += packed.len() as u64;
    digest.sum = digest.sum.wrapping_add(hash(table, packed));
}

/// Counts a row out that was counted in.
pub(super) fn subtract(digest: &mut SlotDigest, table: u16, packed: &[u8]) {
    digest.rows -= 1;
    digest.bytes -= packed.len() as u64;
    digest.sum = digest.sum.wrapping_sub(hash(table, packed));
}

fn hash(table: u16, packed: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&table.to_le_bytes());
    hash.update(packed);
    hash.digest128()
}
