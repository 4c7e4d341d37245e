//! What stays prepared on the connection that applies.

use rusqlite::ffi;

use super::*;

/// Statements that are prepared, and the bytes that they take.
fn prepared(replica: &Replica) -> (usize, i64) {
    let machine = replica.handle().lock();
    // SAFETY: the handle is valid while the machine is held, and nobody else uses it meanwhile.
    unsafe {
        let db = machine.db().handle();
        let (mut count, mut bytes) = (0, 0);
        let mut statement = ffi::sqlite3_next_stmt(db, std::ptr::null_mut());
        while !statement.is_null() {
            count += 1;
            bytes += i64::from(ffi::sqlite3_stmt_status(statement, ffi::SQLITE_STMTSTATUS_MEMUSED, 0));
            statement = ffi::sqlite3_next_stmt(db, statement);
        }
        (count, bytes)
    }
}

/// A bulk load by long statements, each with values of its own, leaves none of them prepared; a short statement
/// stays, and so does a long one with a thousand rows of arguments.
#[test]
fn long_statements_are_not_kept() {
    let (replica, mut log) = with_schema(&["CREATE TABLE t (id INTEGER PRIMARY KEY, ts INTEGER, name TEXT)"]);
    replica.apply(&[log.writes(&["INSERT INTO t (ts) VALUES (1)"])]);
    let (count, bytes) = prepared(&replica);
    for piece in 0..50 {
        let rows = (0..1000).map(|n| format!("({},0,'name {n}')", 10 + piece * 1000 + n));
        let sql = format!("INSERT INTO t (id, ts, name) VALUES {}", rows.collect::<Vec<_>>().join(","));
        let outcomes = replica.apply(&[log.writes(&[&sql])]);
        assert!(only(&outcomes).is_ok(), "{outcomes:?}");
    }
    assert_eq!(replica.count("t"), Value::Integer(50_001));
    assert_eq!(prepared(&replica), (count, bytes));
    let sql = format!("INSERT INTO t (id, ts, name) VALUES {}", vec!["(?,?,?)"; 1000].join(","));
    replica.apply(&[log.writes(&[&sql])]);
    assert_eq!(prepared(&replica).0, count + 1);
}
