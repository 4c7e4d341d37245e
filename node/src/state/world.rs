//! The world as apply may see it: the time and the randomness of the entry, and nothing else.
//!
//! *Time*: the clock of [`super::vfs`] answers the entry's time while a [`Scope`] lives. *Randomness*:
//! `random()` and `randomblob()` are replaced by a generator seeded from the entry (SplitMix64;
//! Steele, Lea and Flood 2014). *History*: `changes()`, `total_changes()` and `last_insert_rowid()`
//! count from the start of the write, because a replica that restarted has counted less.
//!
//! SQLite falls back to random rowids once the largest has been used, from a generator that we do
//! not control; so a row with that rowid is refused ([`rowid_exhausted`]).

use std::cell::Cell;

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

use super::guard::MAX_VALUE_BYTES;

#[derive(Clone, Copy)]
struct World {
    /// Microseconds since 1970 while an entry is applied, or a read that brings its time is run.
    at_us: Option<i64>,
    random: u64,
    changes_before: i64,
    /// `changes()` tells what this write did, not what the connection did before.
    changes_known: bool,
    rowid_exhausted: bool,
}

const NO_WORLD: World =
    World { at_us: None, random: 0, changes_before: 0, changes_known: false, rowid_exhausted: false };

thread_local! {
    static WORLD: Cell<World> = const { Cell::new(NO_WORLD) };
}

/// While it lives, this thread's SQLite sees the entry's world.
pub struct Scope(());

/// Enters the world of one write. `changes_known`: the connection's own count was set to zero.
pub fn enter(db: &Connection, at_us: i64, seed: u64, changes_known: bool) -> Scope {
    // SAFETY: the handle is valid while `db` is borrowed; these calls only read and set counters.
    let changes_before = unsafe {
        ffi::sqlite3_set_last_insert_rowid(db.handle(), 0);
        ffi::sqlite3_total_changes64(db.handle())
    };
    // Mixed first: the generator counts, so of two seeds that differ by a few steps one would repeat the other.
    WORLD.set(World { at_us: Some(at_us), random: mixed(seed), changes_before, changes_known, ..NO_WORLD });
    Scope(())
}

/// While it lives, this thread's reads see that time, in microseconds since 1970; without one, the machine's clock.
pub fn read_at(at_us: Option<i64>) -> Scope {
    WORLD.set(World { at_us, ..NO_WORLD });
    Scope(())
}

impl Drop for Scope {
    fn drop(&mut self) {
        WORLD.set(NO_WORLD);
    }
}

/// The time of the entry that this thread applies, or of the read that it runs, in microseconds since 1970.
pub fn entry_time_us() -> Option<i64> {
    WORLD.get().at_us
}

/// Notes that a statement of the write has run, so that `changes()` has something to tell.
pub fn statement_done() {
    WORLD.set(World { changes_known: true, ..WORLD.get() });
}

/// Did the write use the largest rowid? SQLite would go on with random ones.
pub fn rowid_exhausted() -> bool {
    WORLD.get().rowid_exhausted
}

/// Next number of the entry's generator.
fn next_random() -> u64 {
    let mut world = WORLD.get();
    world.random = world.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    WORLD.set(world);
    mixed(world.random)
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Prepares a connection on which entries are applied.
///
/// # Errors
/// What SQLite says.
pub fn install(db: &mut Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    db.create_scalar_function("random", 0, flags, |_| Ok(next_random() as i64))?;
    db.create_scalar_function("randomblob", 1, flags, random_blob)?;
    db.create_scalar_function("changes", 0, flags, |context| {
        let db = unsafe { context.get_connection()? };
        // SAFETY: SQLite calls us from inside this connection.
        let changes = unsafe { ffi::sqlite3_changes64(db.handle()) };
        Ok(if WORLD.get().changes_known { changes } else { 0 })
    })?;
    db.create_scalar_function("total_changes", 0, flags, |context| {
        let db = unsafe { context.get_connection()? };
        // SAFETY: as above.
        Ok(unsafe { ffi::sqlite3_total_changes64(db.handle()) } - WORLD.get().changes_before)
    })?;
    db.update_hook(Some(|_: rusqlite::hooks::Action, _: &str, _: &str, rowid: i64| {
        if rowid == i64::MAX {
            WORLD.set(World { rowid_exhausted: true, ..WORLD.get() });
        }
    }))
}

/// As SQLite's: the argument as an integer, and one byte for anything below 1.
fn random_blob(context: &Context<'_>) -> rusqlite::Result<Vec<u8>> {
    let length = match context.get_raw(0) {
        ValueRef::Integer(n) => n,
        ValueRef::Real(real) => real as i64,
        ValueRef::Text(text) | ValueRef::Blob(text) => leading_integer(text),
        ValueRef::Null => 0,
    };
    if length > i64::from(MAX_VALUE_BYTES) {
        return Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_TOOBIG),
            Some("string or blob too big".into()),
        ));
    }
    let mut bytes = vec![0; length.max(1) as usize];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next_random().to_le_bytes()[..chunk.len()]);
    }
    Ok(bytes)
}

/// The integer that a text begins with, as `CAST(… AS INTEGER)` finds it.
fn leading_integer(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let value = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0_i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if negative { -value } else { value }
}
