//! Whether rows are what they were when a write was decided on them.
//!
//! `flotilla_digest(value, …)` gives 16 bytes that tell values apart in type and in every bit: reals
//! bit for bit, text without any collation. A write in two steps takes it of the rows that it
//! reads. `flotilla_unchanged(found, wanted)` fails with [`ROWS_CHANGED`] unless both are the same
//! number: with it such a write begins, over a count of its rows that still have their digests.
//!
//! Both read nothing but their arguments. Neither may be part of a schema, so that a database file is read and
//! written by any SQLite.

use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};
use xxhash_rust::xxh3::Xxh3Default;

use crate::value::Value;

/// The extended result code of a write whose rows are no longer what they were: one that SQLite itself
/// does not use, of the family of violated constraints.
pub const ROWS_CHANGED: i32 = ffi::SQLITE_CONSTRAINT | (200 << 8);

/// The digest of values, in order. Text that is not UTF-8 counts as what it is read as, with its bad bytes
/// replaced: it may be computed from values that have been sent.
pub fn digest<'a>(values: impl IntoIterator<Item = ValueRef<'a>>) -> [u8; 16] {
    let mut hash = Xxh3Default::new();
    let mut put = |tag: u8, bytes: &[u8]| {
        hash.update(&[tag]);
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for value in values {
        match value {
            ValueRef::Null => put(0, &[]),
            ValueRef::Integer(n) => put(1, &n.to_le_bytes()),
            ValueRef::Real(r) => put(2, &r.to_bits().to_le_bytes()),
            ValueRef::Text(text) => put(3, String::from_utf8_lossy(text).as_bytes()),
            ValueRef::Blob(bytes) => put(4, bytes),
        }
    }
    hash.digest128().to_le_bytes()
}

/// The digest of values, as the SQL function gives it.
pub fn digest_of(values: &[Value]) -> Value {
    fn raw(value: &Value) -> ValueRef<'_> {
        match value {
            Value::Null => ValueRef::Null,
            Value::Integer(n) => ValueRef::Integer(*n),
            Value::Real(r) => ValueRef::Real(*r),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }
    Value::Blob(digest(values.iter().map(raw)).to_vec())
}

/// Makes the functions known to a connection.
///
/// # Errors
/// What SQLite says.
pub fn install(db: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    db.create_scalar_function("flotilla_digest", -1, flags | FunctionFlags::SQLITE_DETERMINISTIC, |context| {
        Ok(digest((0..context.len()).map(|n| context.get_raw(n))).to_vec())
    })?;
    db.create_scalar_function("flotilla_unchanged", 2, flags, |context| {
        match (context.get_raw(0), context.get_raw(1)) {
            (ValueRef::Integer(found), ValueRef::Integer(wanted)) if found == wanted => Ok(false),
            _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ROWS_CHANGED), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};

    fn one(db: &Connection, sql: &str) -> Result<Vec<u8>, Error> {
        db.query_row(sql, [], |row| row.get(0)).map_err(|error| Error::from_sqlite(&error))
    }

    /// Values that SQLite calls equal and that are not the same have other digests, and so have those that are
    /// split in other places.
    #[test]
    fn digests_tell_values_apart() {
        let db = crate::sqlite::open_in_memory().unwrap();
        let lists = [
            "",
            "NULL",
            "NULL, NULL",
            "1",
            "1.0",
            "'1'",
            "x'31'",
            "'a'",
            "'A'",
            "'a '",
            "'a', 'b'",
            "'ab', ''",
            "'', 'ab'",
            "0",
            "0.0",
            "-0.0",
            "''",
            "x''",
            "9223372036854775807",
            "9223372036854775806",
            "1e999",
            "-1e999",
            "9007199254740993",
            "9007199254740992.0",
        ];
        let mut seen = std::collections::HashSet::new();
        for list in lists {
            let sql = format!("SELECT flotilla_digest({list})");
            let first = one(&db, &sql).unwrap();
            assert_eq!(first.len(), 16);
            assert_eq!(one(&db, &sql).unwrap(), first, "{list}");
            assert!(seen.insert(first), "{list}");
        }
        let value = crate::value::Value::from(ValueRef::Text(b"a\xff"));
        let crate::value::Value::Text(sent) = value else { unreachable!() };
        assert_eq!(digest([ValueRef::Text(b"a\xff")]), digest([ValueRef::Text(sent.as_bytes())]), "as it is sent");
    }

    /// A count that is not the wanted one is an error of its own.
    #[test]
    fn changed_rows_are_an_error() {
        let db = crate::sqlite::open_in_memory().unwrap();
        let guard = |wanted: u32| {
            let sql = format!(
                "SELECT x'' FROM (SELECT count(*) AS n FROM (VALUES (1), (2))) WHERE flotilla_unchanged(n, {wanted})"
            );
            one(&db, &sql).unwrap_err().code
        };
        assert_eq!(guard(3), Code::RowsChanged);
        assert_eq!(guard(1), Code::RowsChanged);
        assert_eq!(guard(2), Code::SqlError, "no row, which is what `query_row` complains of");
        assert_eq!(one(&db, "SELECT flotilla_unchanged(2, '2')").unwrap_err().code, Code::RowsChanged);
    }

    /// No index, column or view depends on them.
    #[test]
    fn they_are_no_part_of_a_schema() {
        let db = crate::sqlite::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (a)").unwrap();
        db.execute_batch("CREATE INDEX i ON t (flotilla_digest(a))").unwrap_err();
        db.execute_batch("CREATE TABLE g (a, b AS (flotilla_digest(a)))").unwrap_err();
        db.execute_batch("CREATE VIEW v AS SELECT flotilla_digest(a) FROM t").unwrap();
        db.execute_batch("SELECT * FROM v").unwrap_err();
    }
}
