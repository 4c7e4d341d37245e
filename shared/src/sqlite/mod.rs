//! SQLite as every process of Flotilla sets it up.
//!
//! A statement must mean the same wherever it runs: inside apply, on a node's reader, on the proxy's mirror, in
//! its merge database, and where the proxy computes a constant. [`install`] gives a connection what it needs for that:
//! one time zone for the whole process ([`local_time`]), math that gives the same bits on every host ([`math`]),
//! regular expressions ([`regexp`]), what sums over shards are made of ([`sums`]), and whether rows are what they were
//! ([`digest`]). It is called once for each connection that prepares or runs statements of clients.
//!
//! To add an SQL function of our own: give it a module here with an `install(&Connection)`, and call that
//! from [`install`]. A function that clients may not call has a name that begins with
//! [`INTERNAL_FUNCTION_PREFIX`]; it must be deterministic and without effects, because a node does not refuse it.

pub mod digest;
pub mod exact;
pub mod local_time;
pub mod math;
pub mod pattern;
pub mod regexp;
pub mod sums;

use std::ffi::c_int;

use rusqlite::{Connection, ffi};

/// Names of functions that only Flotilla's own statements call.
pub const INTERNAL_FUNCTION_PREFIX: &str = "flotilla_";

/// Is this the name of a function that clients may not call, in any case?
pub fn is_internal_function(name: &str) -> bool {
    let start = name.as_bytes().get(..INTERNAL_FUNCTION_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(INTERNAL_FUNCTION_PREFIX.as_bytes()))
}

/// Sets up a connection. Nothing may run on it yet.
///
/// # Errors
/// What SQLite says.
pub fn install(db: &Connection) -> rusqlite::Result<()> {
    local_time::use_utc();
    math::install(db)?;
    regexp::install(db)?;
    sums::install(db)?;
    digest::install(db)
}

/// The result of a call of SQLite's C interface.
fn done(code: c_int) -> rusqlite::Result<()> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// An empty database in memory, set up.
///
/// # Errors
/// What SQLite says.
pub fn open_in_memory() -> rusqlite::Result<Connection> {
    let db = Connection::open_in_memory()?;
    install(&db)?;
    Ok(db)
}
