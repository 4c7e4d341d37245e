//! The VFS of all our connections: SQLite's own, with another clock and a note of full disks.
//!
//! *Time*: every road to the clock (`'now'` in all date functions, `CURRENT_*`, defaults, triggers,
//! views) ends in the VFS, so there is no list of functions to keep complete. While an entry is
//! applied the clock answers the entry's time ([`super::world`]). `localtime` is UTC ([`local_time`]). *Full disks*: SQLite has one code for a disk
//! without space, which must stop the replica, and for a table without rowids, which is an answer to
//! the client; only the VFS knows which it was.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

use flotilla_shared::sqlite::local_time;
use rusqlite::ffi;

use super::world;

/// Name of the VFS.
pub const VFS_NAME: &CStr = c"flotilla";

/// SQLite's own VFS: how it opens files, and how they are written.
struct Base {
    open: Open,
    /// Per table of file methods: the original, our copy of it, and the original's write.
    methods: Mutex<Vec<(Methods, Methods)>>,
    write: OnceLock<Write>,
}

type Open = unsafe extern "C" fn(
    *mut ffi::sqlite3_vfs,
    ffi::sqlite3_filename,
    *mut ffi::sqlite3_file,
    c_int,
    *mut c_int,
) -> c_int;
type Write = unsafe extern "C" fn(*mut ffi::sqlite3_file, *const c_void, c_int, ffi::sqlite3_int64) -> c_int;

/// SQLite's tables of methods are constants and ours are leaked, so any thread may use them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Methods(*const ffi::sqlite3_io_methods);
// SAFETY: see above; nothing is ever written through the pointer.
unsafe impl Send for Methods {}

static BASE: OnceLock<Base> = OnceLock::new();

thread_local! {
    static DISK_FULL: Cell<bool> = const { Cell::new(false) };
}

/// Has a write of this thread met a full disk since this was last asked?
pub fn take_disk_full() -> bool {
    DISK_FULL.replace(false)
}

/// Registers the VFS and the process-wide UTC rule, once.
pub fn register() {
    local_time::use_utc();
    BASE.get_or_init(|| {
        // SAFETY: sqlite3_vfs_find returns the default VFS, which lives as long as the process. The
        // copy keeps all of its methods, which use nothing of the struct but fields that are copied
        // too; it is leaked, as SQLite keeps the pointer for ever. The replaced methods have the same
        // signatures.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK, "SQLite starts");
            let base = ffi::sqlite3_vfs_find(std::ptr::null());
            assert!(!base.is_null(), "SQLite has a default VFS");
            let mut vfs = *base;
            let open = vfs.xOpen.expect("a VFS opens files");
            vfs.zName = VFS_NAME.as_ptr();
            vfs.pNext = std::ptr::null_mut();
            vfs.xOpen = Some(open_file);
            vfs.xCurrentTime = Some(current_time);
            vfs.xCurrentTimeInt64 = Some(current_time_ms);
            let vfs = Box::leak(Box::new(vfs));
            assert_eq!(ffi::sqlite3_vfs_register(vfs, 0), ffi::SQLITE_OK, "the VFS registers");
            Base { open, methods: Mutex::default(), write: OnceLock::new() }
        }
    });
}

fn base() -> &'static Base {
    BASE.get().expect("files are opened after the VFS is registered")
}

unsafe extern "C" fn open_file(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let base = base();
    // SAFETY: SQLite's own arguments go to SQLite's own method, which sets the methods of `file` on
    // success; a copy of them with another write takes their place.
    unsafe {
        let code = (base.open)(vfs, name, file, flags, out_flags);
        if code == ffi::SQLITE_OK && !(*file).pMethods.is_null() {
            (*file).pMethods = base.with_our_write(Methods((*file).pMethods)).0;
        }
        code
    }
}

impl Base {
    /// # Safety
    /// `original` is a table of methods of SQLite's VFS.
    unsafe fn with_our_write(&self, original: Methods) -> Methods {
        let mut known = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ours)) = known.iter().find(|(theirs, _)| *theirs == original) {
            return *ours;
        }
        // SAFETY: see above.
        let mut methods = unsafe { *original.0 };
        let write = methods.xWrite.expect("files can be written");
        // All tables of the Unix VFS share it; with two of them we could not tell which to call.
        assert!(std::ptr::fn_addr_eq(*self.write.get_or_init(|| write), write), "the VFS has one write method");
        methods.xWrite = Some(write_file);
        let ours = Methods(Box::leak(Box::new(methods)));
        known.push((original, ours));
        ours
    }
}

unsafe extern "C" fn write_file(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let write = base().write.get().expect("known since the file was opened");
    // SAFETY: SQLite's own arguments go to SQLite's own method.
    let code = unsafe { write(file, bytes, count, offset) };
    if code == ffi::SQLITE_FULL {
        DISK_FULL.set(true);
    }
    code
}

/// The Julian day of 1970-01-01 in milliseconds, which SQLite counts in.
const UNIX_EPOCH_JULIAN_MS: i64 = 210_866_760_000_000;

fn now_ms() -> i64 {
    let unix_us = world::entry_time_us().unwrap_or_else(|| {
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
