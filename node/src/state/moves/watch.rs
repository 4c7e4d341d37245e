//! Which rows change while their slots have an index: SQLite says so before it changes one.
//!
//! SQLite calls a hook for every row that is inserted, updated or deleted, by whatever statement: also for
//! those that `REPLACE` deletes in silence, for cascades, and in tables without rowids; no trigger hears of all these.
//! What the hook hears is kept in memory until the write has succeeded ([`Watch::flush`]); then the
//! slot index is corrected, and rows of a move under way are noted in `_flotilla_changed`, both in the transaction of the write.
//! So clients notice nothing: there is no trigger in their schema, and nothing is counted among their changes.
//!
//! The hook is there only while a shard has a slot index, and costs nothing else.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_shared::ids::Slot;
use flotilla_shared::moves::MovedSet;
use flotilla_shared::registry::{Placement, SlotSet, Table, quoted};
use flotilla_shared::value::Value;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, ffi, params_from_iter};

use super::index::{self, Index};
use super::layout::{Layout, list, pack, pack_value, unpack};
use super::{Moves, Step};

/// Changed rows of one write that are kept in memory, at some ten bytes each. A write that changes more
/// spoils the index, which is then made anew.
const MAX_TOUCHED: usize = 1 << 20;

unsafe extern "C" {
    // Of SQLite's sqlite3.h; it is there because of `SQLITE_ENABLE_PREUPDATE_HOOK` in `.cargo/config.toml`.
    fn sqlite3_preupdate_hook(db: *mut ffi::sqlite3, hook: Option<Hook>, context: *mut c_void) -> *mut c_void;
    fn sqlite3_preupdate_old(db: *mut ffi::sqlite3, column: c_int, value: *mut *mut ffi::sqlite3_value) -> c_int;
    fn sqlite3_preupdate_new(db: *mut ffi::sqlite3, column: c_int, value: *mut *mut ffi::sqlite3_value) -> c_int;
}

type Hook = unsafe extern "C" fn(*mut c_void, *mut ffi::sqlite3, c_int, *const c_char, *const c_char, i64, i64);

type Read = unsafe extern "C" fn(*mut ffi::sqlite3, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

/// Watches the rows of one connection.
#[derive(Default)]
pub(in crate::state) struct Watch(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// What was looked at last: as long as it is the same one, so is what is watched.
    seen: Option<Arc<Moves>>,
    watched: Option<Watched>,
    /// Rows change by our own doing.
    paused: bool,
    touched: Vec<Touch>,
    /// Not all touched rows are known.
    lost: bool,
}

struct Watched {
    generation: u64,
    set: MovedSet,
    tables: Vec<WatchedTable>,
}

struct WatchedTable {
    layout: Layout,
    /// Columns of the identity; none: it is the rowid.
    identity: Vec<c_int>,
    /// Columns of the shard key.
    key: Vec<c_int>,
    /// Reads slot and identity of a row that its identity names.
    find: String,
    add: String,
    remove: String,
}

/// A row that a write has changed.
struct Touch {
    table: usize,
    /// What named it before, and its slot.
    old: Option<(Vec<u8>, Option<Slot>)>,
    /// What names it now.
    new: Option<Vec<u8>>,
    /// Neither name nor slot has changed.
    in_place: bool,
}

impl WatchedTable {
    fn of(db: &Connection, set: &MovedSet, number: usize) -> Step<Self> {
        let moved = &set.tables[number];
        let layout = Layout::of(db, moved)?;
        let table = Table::read(db, &moved.name)?;
        let columns = |names: &mut dyn Iterator<Item = &str>| -> Vec<c_int> {
            names.filter_map(|name| table.column(name)).map(|index| index as c_int).collect()
        };
        let identity = match layout.without_rowid {
            true => columns(&mut layout.identity.iter().map(|(name, _)| name.as_str())),
            false => vec![],
        };
        let key = columns(&mut moved.key.iter().map(String::as_str));
        let names = list(&layout.identity, |_, (name, _)| format!("m.{}", quoted(name)), ", ");
        let side = index::side(set, number);
        let marks = list(&layout.identity, |n, _| format!("?{}", n + 2), ", ");
        let same = list(&layout.identity, |n, _| format!("k{n} = ?{}", n + 2), " AND ");
        Ok(Self {
            find: format!(
                "SELECT {}, {names} FROM {} m WHERE {}",
                index::slot_call(set, number, "m"),
                quoted(&moved.name),
                layout.is_named(1)
            ),
            add: format!("INSERT OR IGNORE INTO {side} VALUES (?1, {marks})"),
            remove: format!("DELETE FROM {side} WHERE slot = ?1 AND {same}"),
            layout,
            identity,
            key,
        })
    }
}

impl Inner {
    /// Takes in what the hook says, if it is about a table of ours.
    fn note(&mut self, db: *mut ffi::sqlite3, table: &[u8], old: Option<i64>, new: Option<i64>) {
        let Some(watched) = self.watched.as_ref().filter(|_| !self.paused) else { return };
        let is_it = |one: &WatchedTable| one.layout.table.as_bytes().eq_ignore_ascii_case(table);
        let Some(number) = watched.tables.iter().position(is_it) else { return };
        if self.touched.len() >= MAX_TOUCHED {
            self.lost = true;
            return;
        }
        let (table, placement) = (&watched.tables[number], &watched.set.placement);
        let side = |rowid: Option<i64>, read: Read| match rowid {
            None => Some(None),
            Some(rowid) => Some(Some((table.identity(db, rowid, read)?, table.slot(db, placement, read)?))),
        };
        let (Some(old), Some(new)) = (side(old, sqlite3_preupdate_old), side(new, sqlite3_preupdate_new)) else {
            self.lost = true;
            return;
        };
        let in_place = old.is_some() && old == new;
        // The slot of what is new is read from the row itself, once it is there.
        self.touched.push(Touch { table: number, old, new: new.map(|(identity, _)| identity), in_place });
    }
}

impl WatchedTable {
    fn identity(&self, db: *mut ffi::sqlite3, rowid: i64, read: Read) -> Option<Vec<u8>> {
        let mut packed = Vec::new();
        if self.identity.is_empty() {
            pack_value(&mut packed, ValueRef::Integer(rowid));
        }
        for column in &self.identity {
            pack_value(&mut packed, value(db, *column, read)?);
        }
        Some(packed)
    }

    /// The slot; none for a key that belongs nowhere.
    fn slot(&self, db: *mut ffi::sqlite3, placement: &Placement, read: Read) -> Option<Option<Slot>> {
        let key: Option<Vec<Value>> = self.key.iter().map(|column| value(db, *column, read).map(Value::from)).collect();
        Some(placement.slot(&key?).ok())
    }
}

/// A value of the row that is about to change.
fn value<'a>(db: *mut ffi::sqlite3, column: c_int, read: Read) -> Option<ValueRef<'a>> {
    let mut value = std::ptr::null_mut();
    // SAFETY: only called from the hook, on its connection. The value lives until the hook returns, and
    // so does everything that is made of it here.
    unsafe {
        if read(db, column, &raw mut value) != ffi::SQLITE_OK || value.is_null() {
            return None;
        }
        let bytes = |start: *const u8| match ffi::sqlite3_value_bytes(value) {
            0 => &[][..],
            length => std::slice::from_raw_parts(start, length as usize),
        };
        Some(match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => ValueRef::Text(bytes(ffi::sqlite3_value_text(value))),
            ffi::SQLITE_BLOB => ValueRef::Blob(bytes(ffi::sqlite3_value_blob(value).cast())),
            _ => ValueRef::Null,
        })
    }
}

unsafe extern "C" fn before_change(
    context: *mut c_void,
    db: *mut ffi::sqlite3,
    what: c_int,
    _schema: *const c_char,
    table: *const c_char,
    old: i64,
    new: i64,
) {
    // SAFETY: the context is that of `Watch::follow`; the name is SQLite's, and ends with a zero.
    let (inner, table) = unsafe { (&*context.cast::<Mutex<Inner>>(), CStr::from_ptr(table)) };
    let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
    let old = (what != ffi::SQLITE_INSERT).then_some(old);
    let new = (what != ffi::SQLITE_DELETE).then_some(new);
    inner.note(db, table.to_bytes(), old, new);
}

/// While it lives, changes are not noted.
pub(super) struct Pause(Arc<Mutex<Inner>>);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).paused = false;
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a write: watches what these moves need to know, and forgets what was heard before.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn follow(&self, db: &Connection, moves: &Arc<Moves>) -> Step<()> {
        let mut inner = self.lock();
        inner.touched.clear();
        inner.lost = false;
        if inner.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, moves)) {
            return Ok(());
        }
        let wanted = moves.index.as_ref().filter(|index| index.is_kept()).map(Index::set);
        let same = match (&wanted, &inner.watched) {
            (Some((generation, set)), Some(watched)) => *generation == watched.generation && **set == watched.set,
            (None, None) => true,
            _ => false,
        };
        if !same {
            inner.watched = match wanted {
                None => None,
                Some((generation, set)) => {
                    let tables = (0..set.tables.len()).map(|number| WatchedTable::of(db, set, number));
                    Some(Watched { generation, set: set.clone(), tables: tables.collect::<Step<_>>()? })
                }
            };
            let hook: Option<Hook> = inner.watched.as_ref().map(|_| before_change as Hook);
            // SAFETY: the handle is valid while `db` is borrowed. The context lives as long as this
            // watch, which the connection's owner keeps until the connection is closed.
            unsafe { sqlite3_preupdate_hook(db.handle(), hook, Arc::as_ptr(&self.0).cast_mut().cast()) };
            // A DELETE without WHERE that was prepared without the hook drops all rows at once.
            db.flush_prepared_statement_cache();
        }
        inner.seen = Some(Arc::clone(moves));
        Ok(())
    }

    /// Does not listen to what we do ourselves.
    pub(super) fn pause(&self) -> Pause {
        self.lock().paused = true;
        Pause(Arc::clone(&self.0))
    }

    /// Ends a write that has succeeded: puts into the tables what was heard. False: not all of it could be
    /// heard, so the index is no longer one.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn flush(&self, db: &Connection, moves: &Moves) -> Step<bool> {
        let (watched, touched) = {
            let mut inner = self.lock();
            if inner.touched.is_empty() || inner.lost {
                return Ok(!inner.lost);
            }
            // Out of the lock: our own statements make the hook speak, too.
            (inner.watched.take(), std::mem::take(&mut inner.touched))
        };
        let flushed = watched.as_ref().map_or(Ok(()), |watched| {
            let moving = moves.noting();
            touched.iter().try_for_each(|touch| put(db, &watched.tables[touch.table], touch, moving))
        });
        self.lock().watched = watched;
        flushed.map(|()| true)
    }
}

fn put(db: &Connection, table: &WatchedTable, touch: &Touch, moving: Option<&SlotSet>) -> Step<()> {
    let moves = |slot: Option<Slot>| slot.is_some_and(|slot| moving.is_some_and(|moving| moving.contains(slot)));
    let number = |slot: Option<Slot>| slot.map_or(-1, |slot| i64::from(slot.0));
    let note = |identity: &[u8]| -> Step<()> {
        db.prepare_cached("REPLACE INTO _flotilla_changed (tbl, identity) VALUES (?1, ?2)")?
            .execute((touch.table as i64, identity))?;
        Ok(())
    };
    if let Some((identity, slot)) = &touch.old {
        if !touch.in_place {
            bind(&mut *db.prepare_cached(&table.remove)?, Some(number(*slot)), identity)?.raw_execute()?;
        }
        if moves(*slot) {
            note(identity)?;
        }
    }
    let Some(identity) = touch.new.as_ref().filter(|_| !touch.in_place) else { return Ok(()) };
    let mut find = db.prepare_cached(&table.find)?;
    let width = table.layout.identity.len();
    let found = find
        .query_row(params_from_iter(unpack(identity)?), |row| Ok((row.get::<_, i64>(0)?, pack(row, 1, width)?)))
        .optional()?;
    // The same write may have deleted it again.
    let Some((slot, identity)) = found else { return Ok(()) };
    bind(&mut *db.prepare_cached(&table.add)?, Some(slot), &identity)?.raw_execute()?;
    if moves(u16::try_from(slot).ok().map(Slot)) {
        note(&identity)?;
    }
    Ok(())
}

/// Binds a number and what names a row, in this order.
pub(super) fn bind<'s, 'db>(
    statement: &'s mut rusqlite::Statement<'db>,
    first: Option<i64>,
    identity: &[u8],
) -> Step<&'s mut rusqlite::Statement<'db>> {
    let mut at = 1;
    if let Some(first) = first {
        statement.raw_bind_parameter(at, first)?;
        at += 1;
    }
    for value in unpack(identity)? {
        statement.raw_bind_parameter(at, value)?;
        at += 1;
    }
    Ok(statement)
}
