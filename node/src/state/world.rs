//! The world as apply may see it: the time and the randomness of the entry, and nothing else.
//!
//! *Time*: a copy of SQLite's VFS whose clock answers the entry's time while an entry is applied.
//! Every road to the clock (`'now'` in all date functions, `CURRENT_*`, defaults, triggers, views)
//! ends there, so there is no list of functions to keep complete. `localtime` is UTC, for the whole
//! process, since replicas need not share a time zone. *Randomness*: `random()` and `randomblob()`
//! are replaced by a generator seeded from the entry (SplitMix64; Steele, Lea and Flood 2014).
//! *History*: `changes()` and `total_changes()` count from the start of the write, because a replica
//! that restarted has counted less.
//!
//! SQLite falls back to random rowids once the largest has been used, from a generator that we do
//! not control; so a row with that rowid is refused ([`rowid_exhausted`]).

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::{Connection, ffi};

/// Name of the VFS whose clock follows the entry.
pub const VFS_NAME: &CStr = c"flotilla";

/// Largest `randomblob()`: SQLite's own limit on values is set per connection, this keeps the
/// generator from being asked for more.
const MAX_RANDOM_BYTES: i64 = 16 << 20;

#[derive(Clone, Copy)]
struct World {
    /// Microseconds since 1970 while an entry is applied.
    at_us: Option<i64>,
    random: u64,
    changes_before: i64,
    statements_run: bool,
    rowid_exhausted: bool,
}

thread_local! {
    static WORLD: Cell<World> = const {
        Cell::new(World { at_us: None, random: 0, changes_before: 0, statements_run: false, rowid_exhausted: false })
    };
}

/// While it lives, this thread's SQLite sees the entry's world.
pub struct Scope(());

/// Enters the world of one write.
pub fn enter(db: &Connection, at_us: i64, seed: u64) -> Scope {
    // SAFETY: the handle is valid while `db` is borrowed; these calls only read and set counters.
    let changes_before = unsafe {
        ffi::sqlite3_set_last_insert_rowid(db.handle(), 0);
        ffi::sqlite3_total_changes64(db.handle())
    };
    WORLD.set(World {
        at_us: Some(at_us),
        random: seed,
        changes_before,
        statements_run: false,
        rowid_exhausted: false,
    });
    Scope(())
}

impl Drop for Scope {
    fn drop(&mut self) {
        WORLD.set(World { at_us: None, ..WORLD.get() });
    }
}

/// Notes that a statement of the write has run, so that `changes()` has something to tell.
pub fn statement_done() {
    WORLD.set(World { statements_run: true, ..WORLD.get() });
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
    let mut z = world.random;
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
        Ok(if WORLD.get().statements_run { changes } else { 0 })
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

fn random_blob(context: &Context<'_>) -> rusqlite::Result<Vec<u8>> {
    // As SQLite: anything below 1 gives one byte.
    let length = context
        .get::<Option<f64>>(0)
        .ok()
        .flatten()
        .map_or_else(|| context.get::<Option<i64>>(0).ok().flatten().unwrap_or(1), |real| real as i64);
    if length > MAX_RANDOM_BYTES {
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

/// Registers the VFS and the process-wide UTC rule, once.
pub fn register_vfs() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: sqlite3_vfs_find returns the default VFS, which lives as long as the process. The
        // copy keeps all of its methods, which use nothing of the struct but fields that are copied
        // too; it is leaked, as SQLite keeps the pointer for ever. The clock methods replace ones of
        // the same signature. The test control is documented for this use and takes a function
        // `int(const void *time_t, void *tm)`, which `gmtime_r` is wrapped to be.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK, "SQLite starts");
            let base = ffi::sqlite3_vfs_find(std::ptr::null());
            assert!(!base.is_null(), "SQLite has a default VFS");
            let mut vfs = *base;
            vfs.zName = VFS_NAME.as_ptr();
            vfs.pNext = std::ptr::null_mut();
            vfs.xCurrentTime = Some(current_time);
            vfs.xCurrentTimeInt64 = Some(current_time_ms);
            let vfs = Box::leak(Box::new(vfs));
            assert_eq!(ffi::sqlite3_vfs_register(vfs, 0), ffi::SQLITE_OK, "the VFS registers");
            ffi::sqlite3_test_control(
                ffi::SQLITE_TESTCTRL_LOCALTIME_FAULT,
                2 as c_int,
                utc_as_localtime as unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int,
            );
        }
    });
}

unsafe extern "C" {
    /// POSIX; std links the C library that has it.
    fn gmtime_r(time: *const c_void, tm: *mut c_void) -> *mut c_void;
}

unsafe extern "C" fn utc_as_localtime(time: *const c_void, tm: *mut c_void) -> c_int {
    // SAFETY: SQLite passes a `time_t` and a `struct tm`.
    c_int::from(unsafe { gmtime_r(time, tm) }.is_null())
}

/// The Julian day of 1970-01-01 in milliseconds, which SQLite counts in.
const UNIX_EPOCH_JULIAN_MS: i64 = 210_866_760_000_000;

fn now_ms() -> i64 {
    let unix_us = WORLD.get().at_us.unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
    });
    UNIX_EPOCH_JULIAN_MS + unix_us.div_euclid(1000)
}

unsafe extern "C" fn current_time_ms(_: *mut ffi::sqlite3_vfs, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *out = now_ms() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: as above.
    unsafe { *out = now_ms() as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}
