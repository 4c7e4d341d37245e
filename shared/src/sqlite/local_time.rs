//! `localtime` is UTC in every process of Flotilla.
//!
//! Replicas, and the proxies that finish what shards began, need not run in one time zone. SQLite asks the C library
//! for the local time, which follows `TZ` and the host's settings; a test control of SQLite replaces that question for
//! the whole process.

use std::ffi::{c_int, c_void};
use std::sync::Once;

use rusqlite::ffi;

/// Makes the modifiers `localtime` and `utc` take UTC for the local time, for all connections of this process.
pub fn use_utc() {
    static ONCE: Once = Once::new();
    // SAFETY: the test control is documented for this use and takes a function
    // `int(const void *time_t, void *tm)`, which `gmtime_r` is wrapped to be.
    ONCE.call_once(|| unsafe {
        ffi::sqlite3_test_control(
            ffi::SQLITE_TESTCTRL_LOCALTIME_FAULT,
            2 as c_int,
            utc_as_local_time as unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int,
        );
    });
}

unsafe extern "C" {
    /// POSIX; std links the C library that has it.
    fn gmtime_r(time: *const c_void, tm: *mut c_void) -> *mut c_void;
}

unsafe extern "C" fn utc_as_local_time(time: *const c_void, tm: *mut c_void) -> c_int {
    // SAFETY: SQLite passes a `time_t` and a `struct tm`.
    c_int::from(unsafe { gmtime_r(time, tm) }.is_null())
}
