//! Schema statements on tables in different placements.

use serde_json::json;

use super::Bench;

/// A view over several placements is kept beside the home tables, and works like any other.
#[tokio::test]
async fn views_over_several_placements() {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, body)", json!([])).await;
    b.sql("CREATE VIEW names AS SELECT name FROM users", json!([])).await;
    b.sql("CREATE VIEW pairs AS SELECT u.name, n.body FROM users u JOIN notes n ON n.id = u.id", json!([])).await;
    for id in 1..=5 {
        b.sql("INSERT INTO users (id, name) VALUES (?1, 'u' || ?1)", json!([id])).await;
    }
    b.sql("INSERT INTO notes VALUES (2, 'two'), (5, 'five')", json!([])).await;
    let pairs = b.sql("SELECT * FROM pairs ORDER BY 1", json!([])).await;
    assert_eq!(pairs["values"], json!([["u2", "two"], ["u5", "five"]]));
    b.sql("CREATE TABLE more (a)", json!([])).await;
    assert_eq!(b.sql("SELECT count(*) FROM names", json!([])).await["values"], json!([[5]]));
    b.sql("INSERT INTO more SELECT body || name FROM pairs", json!([])).await;
    b.sql("DELETE FROM notes WHERE body IN (SELECT body FROM pairs WHERE name = 'u2')", json!([])).await;
    assert_eq!(b.sql("SELECT count(*) FROM pairs", json!([])).await["values"], json!([[1]]));
    b.sql("DROP VIEW pairs", json!([])).await;
    assert_eq!(b.fails("SELECT * FROM pairs").await, "no_such_table");
    assert_eq!(b.node.on_shard(3, "SELECT count(*) FROM names"), b.node.on_shard(3, "SELECT count(*) FROM users"));
}

/// A trigger that only looks at its row works on every shard.
#[tokio::test]
async fn row_triggers_run_where_the_row_is() {
    let b = Bench::new().await;
    b.users().await;
    b.sql(
        "CREATE TRIGGER named BEFORE INSERT ON users WHEN new.name IS NULL BEGIN SELECT raise(ABORT, 'a name is needed'); END",
        json!([]),
    )
    .await;
    for id in 1..=6 {
        b.sql("INSERT INTO users (id, name) VALUES (?, 'x')", json!([id])).await;
    }
    for id in 7..=12 {
        assert_eq!(b.fails(&format!("INSERT INTO users (id) VALUES ({id})")).await, "constraint");
    }
    assert_eq!(
        b.fails("INSERT INTO users (id, name) SELECT id + 100, NULL FROM users WHERE id = 1").await,
        "constraint"
    );
    assert_eq!(b.sql("SELECT count(*) FROM users", json!([])).await["values"], json!([[6]]));
}

/// A table made from a query has SQLite's columns and the query's rows, wherever they come from.
#[tokio::test]
async fn create_table_as() {
    let b = Bench::new().await;
    b.users().await;
    for id in 1..=9 {
        b.sql("INSERT INTO users (id, name) VALUES (?1, 'n' || (?1 % 3))", json!([id])).await;
    }
    let one = rusqlite::Connection::open_in_memory().unwrap();
    one.execute_batch(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT);
         CREATE TABLE copy AS SELECT name, count(*) AS n, max(id) + 1, email AS \"e x\" FROM users GROUP BY name;",
    )
    .unwrap();
    let ddl: String = one.query_row("SELECT sql FROM sqlite_schema WHERE name = 'copy'", [], |row| row.get(0)).unwrap();
    b.sql(
        "CREATE TABLE copy AS SELECT name, count(*) AS n, max(id) + 1, email AS \"e x\" FROM users WHERE id > ? GROUP BY name;",
        json!([0]),
    )
    .await;
    let rows = b.sql("SELECT * FROM copy ORDER BY name", json!([])).await;
    assert_eq!(rows["values"], json!([["n0", 3, 10, null], ["n1", 3, 8, null], ["n2", 3, 9, null]]));
    let made = b.sql("SELECT sql FROM sqlite_schema WHERE name = 'copy'", json!([])).await;
    assert_eq!(made["values"], json!([[ddl]]));
    b.sql("CREATE TABLE IF NOT EXISTS copy AS SELECT 1 AS x", json!([])).await;
    b.sql("CREATE TABLE again AS WITH c AS (SELECT * FROM copy) SELECT n FROM c", json!([])).await;
    assert_eq!(b.sql("SELECT sum(n) FROM again", json!([])).await["values"], json!([[9]]));
    assert_eq!(b.fails("CREATE TABLE copy AS SELECT 1 AS x").await, "sql_error");
    assert_eq!(b.fails("CREATE TABLE bad AS SELECT nope FROM users").await, "sql_error");
    let (status, json) =
        b.post("/sql", r#"{"sql":"CREATE TABLE bad AS SELECT abs(-9223372036854775807 - id) FROM users"}"#).await;
    assert!(status >= 400 && json["error"]["message"].as_str().unwrap().contains("bad was created"), "{json}");
    let key = Some("once");
    let body = r#"{"sql":"CREATE TABLE keyed AS SELECT id FROM users"}"#;
    let first = b.call(hyper::Method::POST, "/sql", body, key).await;
    assert_eq!(first.0, 200, "{}", first.1);
    assert_eq!(b.call(hyper::Method::POST, "/sql", body, key).await, first);
    assert_eq!(b.sql("SELECT count(*) FROM keyed", json!([])).await["values"], json!([[9]]));
}

/// ANALYZE and REINDEX of everything reach every shard that holds a table.
#[tokio::test]
async fn analyze_and_reindex_everything() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, body)", json!([])).await;
    b.sql("CREATE INDEX by_body ON notes (body)", json!([])).await;
    b.sql("ANALYZE", json!([])).await;
    b.users().await;
    b.sql("CREATE INDEX by_name ON users (name)", json!([])).await;
    for id in 1..=12 {
        b.sql("INSERT INTO users (id, name) VALUES (?1, ?1)", json!([id])).await;
    }
    b.sql("INSERT INTO notes (body) VALUES (1)", json!([])).await;
    b.sql("ANALYZE", json!([])).await;
    let known = b.count("SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'users'");
    assert_eq!(known, ["[[1]]", "[[1]]", "[[1]]"]);
    assert_eq!(b.node.on_shard(1, "SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'notes'"), "[[1]]");
    b.sql("REINDEX", json!([])).await;
    b.sql("REINDEX by_name", json!([])).await;
    b.sql("REINDEX nocase", json!([])).await;
    assert_eq!(b.fails("REINDEX nothing").await, "sql_error");
}

/// What a row of an unsharded table sets off is refused where it leads to a sharded one, in every form,
/// and works where it stays with the unsharded tables.
#[tokio::test]
async fn home_triggers() {
    let b = Bench::new().await;
    b.users().await;
    for sql in [
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, body)",
        "CREATE TABLE log (id INTEGER PRIMARY KEY, what)",
        "CREATE TABLE plain (id INTEGER PRIMARY KEY, a)",
        "CREATE TRIGGER out AFTER INSERT ON notes BEGIN INSERT INTO users (name) VALUES (new.body); END",
        "CREATE TRIGGER away AFTER UPDATE ON notes BEGIN DELETE FROM users; END",
        "CREATE TRIGGER stay AFTER INSERT ON plain BEGIN INSERT INTO log (what) VALUES (new.a); END",
        "INSERT INTO users (id, name) VALUES (1, 'a')",
        "INSERT INTO plain (a) SELECT name FROM users",
        "UPDATE plain SET a = (SELECT max(name) FROM users) RETURNING a",
    ] {
        b.sql(sql, json!([])).await;
    }
    for sql in [
        "INSERT INTO notes (body) VALUES ('x')",
        "INSERT INTO notes (body) SELECT name FROM users",
        "INSERT INTO notes (body) SELECT what FROM log",
    ] {
        assert_eq!(b.fails(sql).await, "unroutable", "{sql}");
    }
    b.sql("DROP TRIGGER out", json!([])).await;
    b.sql("INSERT INTO notes VALUES (1, 'x')", json!([])).await;
    for sql in [
        "UPDATE notes SET body = 'y'",
        "UPDATE notes SET body = (SELECT max(what) FROM log)",
        "UPDATE notes SET body = (SELECT max(name) FROM users)",
    ] {
        assert_eq!(b.fails(sql).await, "unroutable", "{sql}");
    }
    assert_eq!(b.sql("SELECT what FROM log", json!([])).await["values"], json!([["a"]]));
    assert_eq!(b.sql("SELECT count(*) FROM users", json!([])).await["values"], json!([[1]]));
    assert_eq!(b.sql("SELECT * FROM notes", json!([])).await["values"], json!([[1, "x"]]));
}

/// What would ask for the clock in an index, a CHECK constraint or a generated column is refused when it is made, on
/// an empty table too, and leaves nothing behind.
#[tokio::test]
async fn schemas_without_a_clock() {
    let b = Bench::new().await;
    b.users().await;
    for sql in [
        "CREATE INDEX i ON users (datetime('now'))",
        "CREATE INDEX i ON users (name) WHERE name > strftime('%Y')",
        "CREATE TABLE x (a, CHECK (a < unixepoch('now')))",
        "ALTER TABLE users ADD COLUMN day AS (date('now'))",
    ] {
        assert_eq!(b.fails(sql).await, "sql_error", "{sql}");
    }
    assert_eq!(b.sql("SELECT count(*) FROM sqlite_schema", json!([])).await["values"], json!([[1]]));
    b.sql("CREATE TABLE x (a DEFAULT (datetime('now')))", json!([])).await;
    b.sql("CREATE INDEX i ON users (strftime('%Y', name))", json!([])).await;
    b.sql("CREATE VIEW v AS SELECT datetime('now') AS now, id FROM users", json!([])).await;
}

/// What would be made for one connection alone, or could not be named, is refused by name, and nothing is made.
#[tokio::test]
async fn temporary_and_nameless_objects() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, body)", json!([])).await;
    for sql in [
        "CREATE TEMP TABLE t (a)",
        "CREATE TABLE temp.t (a)",
        "CREATE TABLE IF NOT EXISTS temp.t (a)",
        "CREATE TABLE \"temp\".notes (a)",
        "CREATE TABLE temp.t AS SELECT 1 AS a",
        "CREATE VIEW temp.v AS SELECT 1",
        "CREATE TRIGGER temp.tr AFTER INSERT ON notes BEGIN SELECT 1; END",
        "CREATE TEMP TRIGGER tr AFTER INSERT ON notes BEGIN SELECT 1; END",
        "CREATE TABLE \"\" (a)",
        "CREATE TABLE t (a, \"\" INT)",
        "CREATE INDEX \"\" ON notes (body)",
        "CREATE VIEW \"\" AS SELECT 1",
        "CREATE TRIGGER \"\" AFTER INSERT ON notes BEGIN SELECT 1; END",
        "ALTER TABLE notes RENAME TO \"\"",
        "ALTER TABLE notes RENAME COLUMN body TO \"\"",
        "ALTER TABLE notes ADD COLUMN \"\"",
    ] {
        assert_eq!(b.fails(sql).await, "forbidden_statement", "{sql}");
    }
    let made = b.sql("SELECT name FROM sqlite_schema", json!([])).await;
    assert_eq!(made["values"], json!([["notes"]]));
}

/// What a registration refuses is refused as well when it is added later; so later writes go on.
#[tokio::test]
async fn ties_that_come_later() {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, body)", json!([])).await;
    for sql in [
        "CREATE TRIGGER spill AFTER INSERT ON users BEGIN INSERT INTO notes (body) VALUES (new.name); END",
        "CREATE TRIGGER spill AFTER INSERT ON users BEGIN SELECT raise(ABORT, 'no') WHERE new.id IN notes; END",
        "ALTER TABLE users ADD COLUMN note REFERENCES notes (id)",
        "ALTER TABLE users ADD COLUMN up REFERENCES users (id)",
        "ALTER TABLE users ADD COLUMN note REFERENCES nowhere (id)",
        "CREATE TABLE other (id INTEGER PRIMARY KEY, name REFERENCES users (name))",
    ] {
        assert_eq!(b.fails(sql).await, "unsafe_registration", "{sql}");
    }
    for id in 1..=6 {
        b.sql("INSERT INTO users (id, name) VALUES (?, 'u')", json!([id])).await;
    }
}

/// A shard key may get another name; rows are found by it, and what names it follows.
#[tokio::test]
async fn a_shard_key_is_renamed() {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE VIEW named AS SELECT id, name FROM users", json!([])).await;
    b.sql(
        "CREATE TRIGGER checks BEFORE INSERT ON users WHEN new.id < 0 BEGIN SELECT raise(ABORT, 'no'); END",
        json!([]),
    )
    .await;
    for id in 1..=6 {
        b.sql("INSERT INTO users (id, name) VALUES (?1, 'u' || ?1)", json!([id])).await;
    }
    b.sql("ALTER TABLE users RENAME COLUMN id TO uid", json!([])).await;
    for id in 7..=12 {
        b.sql("INSERT INTO users (uid, name) VALUES (?1, 'u' || ?1)", json!([id])).await;
    }
    b.sql("INSERT INTO users (name) VALUES ('generated')", json!([])).await;
    for id in 1..=12 {
        let found = b.sql("SELECT name FROM users WHERE uid = ?", json!([id])).await;
        assert_eq!(found["values"], json!([[format!("u{id}")]]));
    }
    assert_eq!(b.sql("SELECT count(*), max(length(name)) FROM named", json!([])).await["values"], json!([[13, 9]]));
    assert_eq!(b.fails("INSERT INTO users (uid) VALUES (-1)").await, "constraint");
    assert_eq!(b.fails("SELECT id FROM users").await, "sql_error");
    let (_, table) = b.get("/table/users").await;
    assert_eq!(table["shard_key"], json!(["uid"]), "{table}");
    b.sql("ALTER TABLE users RENAME COLUMN uid TO id", json!([])).await;
    b.sql("UPDATE users SET name = 'x' WHERE id = 3", json!([])).await;
    assert_eq!(b.fails("ALTER TABLE users DROP COLUMN id").await, "sql_error");
}

/// A unique index that compares the shard key more coarsely than the key's column is refused when it is created, and
/// so nothing conflicts by it.
#[tokio::test]
async fn unique_indexes_compare_as_the_shard_key_does() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE kk (k TEXT NOT NULL, v)", json!([])).await;
    b.shard("kk", json!("k"), None).await;
    for sql in ["CREATE UNIQUE INDEX fine ON kk (v COLLATE NOCASE, k DESC)", "CREATE UNIQUE INDEX own ON kk (k)"] {
        b.sql(sql, json!([])).await;
    }
    b.sql("CREATE INDEX plain ON kk (k COLLATE NOCASE)", json!([])).await;
    for terms in ["(k COLLATE NOCASE)", "(v, k COLLATE RTRIM DESC) WHERE v > 0", "(lower(k))", "(v)"] {
        assert_eq!(b.fails(&format!("CREATE UNIQUE INDEX u ON kk {terms}")).await, "unsafe_registration", "{terms}");
    }
    let upsert = "INSERT INTO kk VALUES ('b', 1) ON CONFLICT (k COLLATE NOCASE) DO NOTHING";
    assert_eq!(b.fails(upsert).await, "sql_error");
    b.sql("ALTER TABLE kk ADD COLUMN w", json!([])).await;
    b.sql("ALTER TABLE kk RENAME COLUMN v TO z", json!([])).await;
}
