//! What no client may run: each is refused and changes nothing.

use super::*;

const SCHEMA: &[&str] = &[
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
    "CREATE VIEW inside AS SELECT * FROM _flotilla_state",
    "CREATE TABLE source (v)",
    "CREATE TRIGGER into_ours AFTER INSERT ON source WHEN new.v = 1 BEGIN DELETE FROM _flotilla_requests; END",
    "CREATE TRIGGER from_ours AFTER INSERT ON source WHEN new.v = 2 BEGIN
        INSERT INTO t (v) SELECT value FROM _flotilla_state; END",
];

/// For writes, with the code of the answer: SQLite says some things before it asks the guard.
const FORBIDDEN_WRITES: &[(&str, Code)] = &[
    ("ATTACH '/tmp/other.db' AS other", Code::Forbidden),
    ("ATTACH ':memory:' AS other", Code::Forbidden),
    ("DETACH main", Code::Forbidden),
    ("BEGIN", Code::Forbidden),
    ("BEGIN IMMEDIATE", Code::Forbidden),
    ("COMMIT", Code::Forbidden),
    (" commit ;", Code::Forbidden),
    ("END", Code::Forbidden),
    ("ROLLBACK", Code::Forbidden),
    ("SAVEPOINT w", Code::Forbidden),
    ("RELEASE w", Code::Forbidden),
    ("ROLLBACK TO w", Code::Forbidden),
    ("VACUUM", Code::SqlError),
    ("VACUUM INTO '/tmp/copy.db'", Code::SqlError),
    ("PRAGMA journal_mode = delete", Code::Forbidden),
    ("PRAGMA journal_mode", Code::Forbidden),
    ("PRAGMA synchronous = off", Code::Forbidden),
    ("PRAGMA writable_schema = on", Code::Forbidden),
    ("PRAGMA foreign_keys = off", Code::Forbidden),
    ("PRAGMA defer_foreign_keys = on", Code::Forbidden),
    ("PRAGMA case_sensitive_like = on", Code::Forbidden),
    ("PRAGMA recursive_triggers = on", Code::Forbidden),
    ("PRAGMA user_version = 5", Code::Forbidden),
    ("PRAGMA wal_checkpoint(TRUNCATE)", Code::Forbidden),
    ("PRAGMA optimize", Code::Forbidden),
    ("PRAGMA table_info(t)", Code::Forbidden),
    ("INSERT INTO t (v) SELECT name FROM pragma_module_list", Code::Forbidden),
    ("INSERT INTO t (v) SELECT page_count FROM pragma_page_count", Code::Forbidden),
    ("INSERT INTO t (v) SELECT load_extension('x')", Code::Forbidden),
    ("INSERT INTO t (v) SELECT SQLITE_LOG(1, 'x')", Code::Forbidden),
    ("SELECT * FROM _flotilla_state", Code::Forbidden),
    ("SELECT count(*) FROM _flotilla_state", Code::Forbidden),
    ("SELECT 1 FROM main._FLOTILLA_Requests", Code::Forbidden),
    ("INSERT INTO t (v) SELECT value FROM \"_Flotilla_State\"", Code::Forbidden),
    ("INSERT INTO _flotilla_state VALUES ('x', 1)", Code::Forbidden),
    ("REPLACE INTO [_FLOTILLA_STATE] VALUES ('applied', x'00')", Code::Forbidden),
    ("UPDATE `_flotilla_ownership` SET epoch = 9", Code::Forbidden),
    ("DELETE FROM '_flotilla_jobs'", Code::Forbidden),
    ("DELETE FROM t WHERE id IN (SELECT job FROM _flotilla_jobs)", Code::Forbidden),
    ("WITH _flotilla AS (SELECT * FROM _flotilla_jobs) INSERT INTO t (v) SELECT job FROM _flotilla", Code::Forbidden),
    ("INSERT INTO t (v) SELECT value FROM inside", Code::Forbidden),
    ("INSERT INTO source VALUES (1)", Code::Forbidden),
    ("INSERT INTO source VALUES (2)", Code::Forbidden),
    ("INSERT INTO t (v) SELECT data FROM sqlite_dbpage", Code::Forbidden),
    ("UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 1", Code::Forbidden),
    ("INSERT INTO t (v) SELECT pageno FROM dbstat", Code::Forbidden),
    ("INSERT INTO t (v) SELECT rootpage FROM sqlite_schema", Code::Forbidden),
    ("INSERT INTO t (v) SELECT s.[ROOTPAGE] FROM main.sqlite_master s", Code::Forbidden),
    ("EXPLAIN INSERT INTO t (v) VALUES (1)", Code::Forbidden),
    ("EXPLAIN QUERY PLAN SELECT * FROM t", Code::Forbidden),
    ("CREATE TEMP TABLE x (v)", Code::Forbidden),
    ("CREATE TEMPORARY VIEW x AS SELECT 1", Code::Forbidden),
    ("CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", Code::Forbidden),
    ("CREATE TABLE x (v)", Code::Forbidden),
    ("CREATE TABLE IF NOT EXISTS t (v)", Code::Forbidden),
    ("CREATE TABLE x AS SELECT * FROM t", Code::Forbidden),
    ("CREATE INDEX x ON t (v)", Code::Forbidden),
    ("CREATE VIEW x AS SELECT 1", Code::Forbidden),
    ("CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", Code::Forbidden),
    ("CREATE VIRTUAL TABLE x USING fts5(v)", Code::Forbidden),
    ("CREATE VIRTUAL TABLE temp.x USING dbstat", Code::Forbidden),
    ("DROP TABLE t", Code::Forbidden),
    ("DROP VIEW inside", Code::Forbidden),
    ("DROP TRIGGER into_ours", Code::Forbidden),
    ("ALTER TABLE t ADD COLUMN w", Code::Forbidden),
    ("ALTER TABLE t RENAME TO u", Code::Forbidden),
    ("REINDEX", Code::Forbidden),
    ("ANALYZE", Code::Forbidden),
    ("DROP TABLE _flotilla_state", Code::Forbidden),
    ("INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 0, 'CREATE TABLE x (v)')", Code::SqlError),
    ("UPDATE sqlite_master SET sql = ''", Code::SqlError),
    ("DELETE FROM sqlite_schema", Code::SqlError),
];

/// What ends a transaction or shows pages, and what is ours, is refused in writes.
#[test]
fn writes() {
    let (replica, mut log) = with_schema(SCHEMA);
    // So that our own statements are in the cache of prepared ones, under their texts.
    let pair = log.write_of(vec![Statement::bare("INSERT INTO t (v) VALUES (1)"), Statement::bare("INSERT INTO nope")]);
    replica.apply(&[log.entry(Body::Writes(vec![pair])), log.writes(&["INSERT INTO t (v) VALUES (1)"])]);
    let before = content(&replica);
    for (sql, wanted) in FORBIDDEN_WRITES {
        let outcomes = replica.apply(&[log.writes(&[sql])]);
        let error = only(&outcomes).clone().expect_err(sql);
        assert_eq!(error.code, *wanted, "{sql}: {error}");
        assert_eq!(content(&replica), before, "{sql}");
        assert!(replica.handle().lock().db().is_autocommit(), "{sql}");
    }
}

/// All rows but those of our own bookkeeping, which every entry changes.
fn content(replica: &Replica) -> Vec<Vec<Value>> {
    let mut all = replica.query("SELECT type, name, tbl_name, sql FROM sqlite_schema");
    for table in ["t", "source", "sqlite_sequence"] {
        all.extend(replica.query(&format!("SELECT rowid, * FROM {table}")));
    }
    all
}

/// A statement that we prepared for ourselves is not at hand for a client who sends the same text.
#[test]
fn our_own_texts() {
    let (replica, mut log) = with_schema(SCHEMA);
    let pair = log.write_of(vec![Statement::bare("INSERT INTO t (v) VALUES (1)"); 2]);
    replica.apply(&[log.entry(Body::Writes(vec![pair]))]);
    replica.read(&select("SELECT 1")).unwrap();
    let route = Route { schema: SchemaVersion(9), claims: vec![] };
    replica.read(&Read { route: Some(route), ..select("SELECT 1") }).unwrap();
    let forge = Statement {
        sql: "REPLACE INTO _flotilla_state (key, value) VALUES ('applied', ?1)".into(),
        params: Params::Positional(vec![Value::Blob(vec![0])]),
    };
    let forge = log.write_of(vec![forge]);
    assert_eq!(code(only(&replica.apply(&[log.entry(Body::Writes(vec![forge]))]))), Code::Forbidden);
    for sql in ["BEGIN", "ROLLBACK", "SELECT value FROM _flotilla_state WHERE key = 'applied'"] {
        assert_eq!(replica.read(&select(sql)).unwrap_err().code, Code::Forbidden, "{sql}");
    }
    let (replica, mut log) = with_schema(&["CREATE TABLE IF NOT EXISTS t (v)"]);
    let again = log.schema(2, &["CREATE TABLE IF NOT EXISTS t (v)"]);
    let client = log.writes(&["CREATE TABLE IF NOT EXISTS t (v)"]);
    let outcomes = replica.apply(&[again, client]);
    assert_eq!(code(&results(&outcomes[1])[0]), Code::Forbidden, "a schema job's statement is not a client's");
}

/// Reads may tell about the schema, and no more than that.
#[test]
fn reads() {
    let (replica, mut log) = with_schema(SCHEMA);
    replica.apply(&[log.writes(&["INSERT INTO t (v) VALUES (1)"])]);
    let refused = [
        "SELECT * FROM _flotilla_requests",
        "SELECT count(*) FROM '_FLOTILLA_state'",
        "SELECT * FROM inside",
        "SELECT data FROM sqlite_dbpage('main')",
        "SELECT * FROM dbstat",
        "ATTACH '/etc/passwd' AS x",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT w",
        "PRAGMA journal_mode = delete",
        "PRAGMA wal_checkpoint",
        "PRAGMA writable_schema = 1",
        "SELECT * FROM pragma_integrity_check",
        "SELECT load_extension('x')",
        "SELECT sqlite_log(1, 'x')",
    ];
    for sql in refused {
        let error = replica.read(&select(sql)).expect_err(sql);
        assert_eq!(error.code, Code::Forbidden, "{sql}: {error}");
    }
    let allowed = [
        "SELECT name, rootpage FROM sqlite_schema",
        "PRAGMA table_info(t)",
        "PRAGMA index_list(t)",
        "SELECT * FROM pragma_table_list",
        "EXPLAIN SELECT * FROM t",
        "EXPLAIN QUERY PLAN UPDATE t SET v = 1",
        "SELECT * FROM json_each('[1,2]')",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3) SELECT * FROM c",
    ];
    for sql in allowed {
        replica.read(&select(sql)).expect(sql);
    }
}

/// Schema jobs may do what belongs to a schema, and nothing to our tables or under our names.
#[test]
fn schema_jobs() {
    let (replica, mut log) = with_schema(&["CREATE TABLE t (id INTEGER PRIMARY KEY, v, w)"]);
    replica.apply(&[log.writes(&["INSERT INTO t (v, w) VALUES (1, 2)"])]);
    let allowed = [
        "CREATE TABLE u AS SELECT v FROM t",
        "ALTER TABLE t ADD COLUMN c CHECK (c <> 5)",
        "ALTER TABLE t ADD COLUMN d NOT NULL DEFAULT 6",
        "ALTER TABLE t ADD COLUMN g AS (v + 1)",
        "ALTER TABLE t RENAME COLUMN v TO vv",
        "ALTER TABLE t DROP COLUMN w",
        "CREATE INDEX i ON t (vv)",
        "CREATE VIEW seen AS SELECT vv FROM t",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM u; END",
        "ALTER TABLE t RENAME TO s",
        "REINDEX i",
        "DROP TRIGGER tr",
        "DROP VIEW seen",
        "DROP INDEX i",
        "DROP TABLE u",
    ];
    for (number, sql) in allowed.into_iter().enumerate() {
        let outcomes = replica.apply(&[log.schema(number as u64 + 2, &[sql])]);
        assert!(matches!(&outcomes[0], Outcome::Shard(Ok(_))), "{sql}: {outcomes:?}");
    }
    assert_eq!(
        replica.query("SELECT vv, c, d, g FROM s"),
        [[Value::Integer(1), Value::Null, Value::Integer(6), Value::Integer(2)]]
    );
    let refused = [
        "DROP TABLE _flotilla_state",
        "ALTER TABLE _flotilla_state ADD COLUMN x",
        "ALTER TABLE s RENAME TO _Flotilla_s",
        "CREATE TABLE _flotilla_new (v)",
        "CREATE VIEW _flotilla_new AS SELECT 1",
        "CREATE INDEX _flotilla_new ON s (vv)",
        "CREATE TRIGGER _flotilla_new AFTER INSERT ON s BEGIN SELECT 1; END",
        "CREATE TRIGGER x AFTER INSERT ON _flotilla_requests BEGIN SELECT 1; END",
        "CREATE TABLE x AS SELECT * FROM _flotilla_state",
        "CREATE TABLE x AS SELECT rootpage FROM sqlite_schema",
        "CREATE TEMP TABLE x (v)",
        "CREATE VIRTUAL TABLE x USING fts5(v)",
        "ATTACH ':memory:' AS x",
        "PRAGMA writable_schema = on",
        "COMMIT",
        "ANALYZE",
    ];
    let before = replica.query("SELECT * FROM sqlite_schema");
    for sql in refused {
        let outcomes = replica.apply(&[log.schema(50, &[sql])]);
        assert!(
            matches!(&outcomes[0], Outcome::Shard(Err(error)) if error.code == Code::Forbidden),
            "{sql}: {outcomes:?}"
        );
        assert_eq!(replica.query("SELECT * FROM sqlite_schema"), before, "{sql}");
    }
}
