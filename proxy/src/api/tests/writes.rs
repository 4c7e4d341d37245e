//! Writes of every form: the same statements on three shards and on one SQLite.

use flotilla_shared::value::Value;
use serde_json::{Value as Json, json};

use super::Bench;

/// A cluster and one SQLite with the same tables.
pub(super) struct Pair {
    pub b: Bench,
    pub one: rusqlite::Connection,
}

impl Pair {
    /// Makes the tables and shards those that are listed with their keys.
    pub async fn new(ddl: &[&str], sharded: &[(&str, Json)]) -> Self {
        let pair = Self { b: Bench::new().await, one: rusqlite::Connection::open_in_memory().unwrap() };
        for sql in ddl {
            pair.one.execute_batch(sql).unwrap();
            pair.b.sql(sql, json!([])).await;
        }
        for (table, key) in sharded {
            pair.b.shard(table, key.clone(), None).await;
        }
        pair
    }

    /// Runs a statement on the one SQLite: rows as sorted texts, and rows affected.
    pub fn on_one(&self, sql: &str) -> Result<(Vec<String>, u64), String> {
        let mut statement = self.one.prepare(sql).map_err(|error| error.to_string())?;
        let width = statement.column_count();
        let mut values = Vec::new();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(|error| error.to_string())? {
            let cells: Vec<Json> = (0..width).map(|i| Value::from(row.get_ref(i).unwrap()).to_json()).collect();
            values.push(json!(cells).to_string());
        }
        drop(rows);
        let affected = if statement.readonly() { 0 } else { self.one.changes() };
        values.sort();
        Ok((values, affected))
    }

    /// The same, on the cluster; the error's code where it is refused.
    pub async fn on_cluster(&self, target: &str, sql: &str) -> Result<(Vec<String>, u64), String> {
        let (status, json) = self.b.post(target, &json!({ "sql": sql }).to_string()).await;
        if status != 200 {
            return Err(json["error"]["code"].as_str().unwrap_or("no code").to_owned());
        }
        let result = &json["results"][0];
        assert!(result.get("partial").is_none(), "{sql}: {json}");
        let rows = result["values"].as_array();
        let mut values: Vec<String> = rows.map_or(vec![], |rows| rows.iter().map(Json::to_string).collect());
        values.sort();
        Ok((values, result["rows_affected"].as_u64().unwrap_or(0)))
    }

    /// A statement that must work and do the same on both. `allow_partial` is set, so that all shards
    /// may take part.
    pub async fn both(&self, sql: &str) {
        let wanted = self.on_one(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(self.on_cluster("/sql?allow_partial=true", sql).await, Ok(wanted), "{sql}");
    }

    /// A statement that must fail on both, with nothing changed.
    pub async fn both_fail(&self, sql: &str, code: &str) {
        let before = self.one.total_changes();
        self.on_one(sql).expect_err(sql);
        assert_eq!(self.one.total_changes(), before, "{sql}");
        assert_eq!(self.on_cluster("/sql?allow_partial=true", sql).await, Err(code.to_owned()), "{sql}");
    }

    /// The table has the same rows on both.
    pub async fn same(&self, table: &str) {
        self.same_after(table, "").await;
    }

    /// The same, after a statement.
    pub async fn same_after(&self, table: &str, done: &str) {
        let sql = format!("SELECT * FROM {table}");
        assert_eq!(self.on_cluster("/sql", &sql).await.unwrap().0, self.on_one(&sql).unwrap().0, "{table} {done}");
    }
}

impl Bench {
    /// Shards a table.
    pub(super) async fn shard(&self, table: &str, key: Json, beside: Option<&str>) {
        let mut body = json!({ "table_name": table, "shard_key": key });
        if let Some(other) = beside {
            body["colocate_with"] = json!(other);
        }
        let (status, json) = self.post("/table/register", &body.to_string()).await;
        assert_eq!(status, 200, "{json}");
    }
}

const USERS: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, n INT DEFAULT 7)";
const NOTES: &str = "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)";
const KV: &str = "CREATE TABLE kv (k TEXT PRIMARY KEY COLLATE NOCASE, v, UNIQUE (k, v))";

async fn pair() -> Pair {
    let pair = Pair::new(&[USERS, NOTES, KV], &[("users", json!("id")), ("kv", json!("k"))]).await;
    pair.both("INSERT INTO users VALUES (1,'a',1),(2,'b',2),(3,'c',3),(4,'d',4),(5,'e',5),(6,'f',6),(7,'g',7)").await;
    pair.both("INSERT INTO notes VALUES (1,'x'),(2,'y'),(9,'z')").await;
    pair
}

/// Rows of a query go where they belong, from any placement to any other, with the target's types.
#[tokio::test]
async fn insert_select() {
    let p = pair().await;
    for sql in [
        "INSERT INTO notes SELECT id + 100, name FROM users RETURNING *",
        "INSERT INTO users (id, name) SELECT id + 20, body FROM notes WHERE id < 10 RETURNING id, n, name",
        "INSERT INTO kv SELECT name, id FROM users",
        "INSERT INTO kv (v, k) SELECT CAST(id AS TEXT), body || id FROM notes",
        "INSERT INTO users SELECT id + 1000, n, name FROM users WHERE n > 3",
        "WITH c (a) AS (VALUES (500), (501)) INSERT INTO users (id, name) SELECT a, 'c' FROM c",
        "INSERT INTO users (id) WITH RECURSIVE c (a) AS (VALUES (600) UNION ALL SELECT a + 1 FROM c WHERE a < 640) SELECT a FROM c",
        "WITH o AS (SELECT 700 AS a) INSERT INTO users (id) WITH i AS (SELECT a + 1 AS b FROM o) SELECT b FROM i",
        "INSERT OR IGNORE INTO users SELECT id, 'again', 0 FROM users",
        "INSERT OR REPLACE INTO kv SELECT upper(k), 'new' FROM kv WHERE v = 3",
        "INSERT INTO users SELECT id, body, 99 FROM notes WHERE true ON CONFLICT (id) DO UPDATE SET n = excluded.n + 1, name = name || excluded.name RETURNING *",
        "INSERT INTO users (id, name) SELECT 1, 2 WHERE 0 RETURNING *",
        "INSERT INTO users VALUES ((SELECT 800), (SELECT max(body) FROM notes), 1) RETURNING *",
    ] {
        p.both(sql).await;
    }
    for table in ["users", "notes", "kv"] {
        p.same(table).await;
    }
    p.both_fail("INSERT INTO users SELECT id, 1, 1 FROM users WHERE id = 1", "constraint").await;
    assert_eq!(p.b.fails("INSERT INTO users SELECT id + 2000, 1, 1 FROM users").await, "cross_shard_write");
    assert_eq!(p.b.fails("INSERT INTO notes (body) SELECT 'q' FROM users RETURNING (SELECT 1)").await, "unroutable");
    let all = p.b.sql("SELECT id FROM users", json!([])).await;
    assert!(p.b.count("SELECT count(*) FROM users").iter().all(|count| count != "[[0]]"), "{all}");
}

/// Rows of a query that come without the integer key get cluster-unique ones.
#[tokio::test]
async fn insert_select_generates_keys() {
    let p = pair().await;
    for (sql, rows) in [
        ("INSERT INTO users (name) SELECT name FROM users", 7),
        ("INSERT INTO users SELECT NULL, body, 1 FROM notes RETURNING id", 3),
        ("INSERT OR REPLACE INTO users (name) SELECT body FROM notes", 3),
    ] {
        let result = p.b.sql(sql, json!([])).await;
        assert_eq!(result["rows_affected"], rows, "{sql}: {result}");
        assert!(result["last_insert_id"].as_i64().unwrap() > 7, "{result}");
    }
    let rows = p.b.sql("SELECT id FROM users", json!([])).await;
    let mut ids: Vec<i64> = rows["values"].as_array().unwrap().iter().map(|row| row[0].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20, "each row under its own key");
}

/// More rows than one statement takes go in several, and more than one transaction takes need leave.
#[tokio::test]
async fn insert_select_of_many_rows() {
    let p = pair().await;
    let copies = "CREATE TABLE copies (id INTEGER PRIMARY KEY, pad)";
    p.one.execute_batch(copies).unwrap();
    p.b.sql(copies, json!([])).await;
    p.both(
        "INSERT INTO users (id) WITH RECURSIVE c (a) AS (VALUES (1000) UNION ALL SELECT a + 1 FROM c WHERE a < 3999) SELECT a FROM c",
    )
    .await;
    p.both("INSERT INTO notes SELECT id + 10, id FROM users").await;
    p.same("notes").await;
    let wide = "INSERT INTO copies SELECT id, zeroblob(2000) FROM users";
    assert_eq!(p.b.fails(wide).await, "too_large");
    assert_eq!(p.b.sql("SELECT count(*) FROM copies", json!([])).await["values"], json!([[0]]));
    p.both(wide).await;
    assert_eq!(p.b.sql("SELECT count(*) FROM copies", json!([])).await["values"], json!([[3007]]));
}

/// Keys that must be computed are computed, once, and name the row's shard.
#[tokio::test]
async fn computed_keys() {
    let p = pair().await;
    for sql in [
        "INSERT INTO users (id, name) VALUES (10 + 1, upper('x'))",
        "INSERT INTO users VALUES (abs(-12), 'y', 1) RETURNING id",
        "INSERT INTO users VALUES (length('abc') * 5, 'z', random() * 0)",
        "INSERT INTO kv VALUES (lower('ABC'), 1), ('d' || 'e', 2)",
        "REPLACE INTO kv VALUES (trim(' aBc '), 2)",
        "INSERT INTO kv VALUES (date('2024-02-29', '+1 day'), 1)",
        "INSERT INTO users (name, id) VALUES ('nn', coalesce(NULL, '77'))",
        "INSERT INTO kv VALUES (nullif('a', 'a'), 1)",
    ] {
        p.both(sql).await;
    }
    p.same("users").await;
    p.same("kv").await;
    let result =
        p.b.sql("INSERT INTO users VALUES (abs(random() % 1000000) + 100, 'r', 1) RETURNING id", json!([])).await;
    let id = result["values"][0][0].as_i64().unwrap();
    assert_eq!(p.b.sql("SELECT name FROM users WHERE id = ?", json!([id])).await["values"], json!([["r"]]));
    let result = p.b.sql("INSERT INTO kv VALUES (hex(randomblob(8)), ?) RETURNING k", json!([5])).await;
    let found = p.b.sql("SELECT v FROM kv WHERE k = ?", json!([result["values"][0][0]])).await;
    assert_eq!(found["values"], json!([[5]]));
    let result = p.b.sql("INSERT INTO users VALUES (nullif(1, 1), 'k', 1)", json!([])).await;
    assert!(result["last_insert_id"].as_i64().unwrap() > 0);
    assert_eq!(p.b.fails("INSERT INTO users VALUES (abs(-9223372036854775807 - 1), 1, 1)").await, "sql_error");
}

/// A key column that is left out has its default, if that is a constant.
#[tokio::test]
async fn default_keys() {
    let p = Pair::new(
        &[
            "CREATE TABLE t (a TEXT DEFAULT ('x' || 1), b INT DEFAULT -5, c, PRIMARY KEY (a, b))",
            "CREATE TABLE s (at TEXT DEFAULT CURRENT_TIMESTAMP PRIMARY KEY, n)",
        ],
        &[("t", json!(["a", "b"])), ("s", json!("at"))],
    )
    .await;
    for sql in [
        "INSERT INTO t (c) VALUES (1)",
        "INSERT INTO t (b, c) VALUES (1, 2), (2, 3)",
        "INSERT INTO t (a) VALUES ('y') RETURNING *",
        "INSERT OR REPLACE INTO t DEFAULT VALUES",
        "SELECT c FROM t WHERE a = 'x1' AND b = -5",
    ] {
        p.both(sql).await;
    }
    p.same("t").await;
    assert_eq!(p.b.fails("INSERT INTO s (n) VALUES (1)").await, "no_shard_key");
}

/// Conflicts are found by the shard that has the row, whatever resolves them.
#[tokio::test]
async fn conflicts_are_local() {
    let p = pair().await;
    for sql in [
        "INSERT INTO kv VALUES ('a', 1), ('b', 2), ('c', 3)",
        "INSERT INTO kv VALUES ('A', 9) ON CONFLICT DO NOTHING",
        "INSERT INTO kv VALUES ('A', 5) ON CONFLICT (k) DO UPDATE SET v = v + excluded.v RETURNING k, v",
        "INSERT INTO kv VALUES ('B', 5), ('b', 6), ('z', 1) ON CONFLICT (k) DO UPDATE SET v = v * 10 WHERE v < 30",
        "INSERT OR REPLACE INTO kv VALUES ('C', 7), ('n', 8)",
        "INSERT OR IGNORE INTO kv VALUES ('c', 0), ('m', 0), ('M', 1)",
        "REPLACE INTO kv (v, k) VALUES (1, 'a')",
        "UPDATE OR REPLACE kv SET v = 1 WHERE k = 'a'",
        "UPDATE OR IGNORE users SET n = n + 1 WHERE id IN (1, 2, 3) RETURNING id, n",
        "UPDATE users SET n = n + 1, name = upper(name) WHERE n > 2 RETURNING *",
        "DELETE FROM kv WHERE v < 5 RETURNING k",
    ] {
        p.both(sql).await;
    }
    p.same("kv").await;
    p.same("users").await;
    p.both_fail("INSERT INTO kv VALUES ('Z', 1), ('z', 2)", "constraint").await;
    p.both_fail("INSERT INTO users VALUES (1, 'dup', 1)", "constraint").await;
    assert_eq!(
        p.b.fails("INSERT INTO users (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 50").await,
        "shard_key_update"
    );
}

/// A row whose shard key changes is found under its new key, whole, and nowhere else.
#[tokio::test]
async fn key_updates_move_rows() {
    let p = Pair::new(
        &[USERS, "CREATE TABLE e (seq INTEGER PRIMARY KEY, tenant TEXT COLLATE NOCASE NOT NULL, n, g AS (n * 2), UNIQUE (tenant, n))"],
        &[("users", json!("id")), ("e", json!("tenant"))],
    )
    .await;
    p.both("INSERT INTO users VALUES (1,'a',1),(2,'b',2),(3,'c',3),(4,'d',4),(5,'e',5)").await;
    p.both("INSERT INTO e (seq, tenant, n) VALUES (1,'t1',1),(2,'t1',2),(3,'t2',3),(4,'t3',x'00ff'),(5,'t4',2.5)")
        .await;
    for sql in [
        "UPDATE users SET id = 50 WHERE id = 5 RETURNING *",
        "UPDATE users SET id = id + 1000, name = name || id, n = n + 1 WHERE n > 1 RETURNING id, name, n",
        "UPDATE users SET rowid = '77' WHERE id = 1",
        "UPDATE users SET id = 78, n = n WHERE id = 404",
        "UPDATE users SET (id, name) = (79, upper(name)) WHERE id = 77",
        "UPDATE e SET tenant = upper(tenant) RETURNING seq, tenant, g",
        "UPDATE e SET tenant = 'x' || seq, n = n + 1 WHERE n < 3 RETURNING *",
        "UPDATE OR REPLACE e SET tenant = 't2', n = 3, seq = 9 WHERE seq = 4 RETURNING *",
    ] {
        p.both(sql).await;
        p.same("users").await;
        p.same("e").await;
    }
    let ids: Vec<i64> = serde_json::from_value(p.b.sql("SELECT id FROM users", json!([])).await["values"].take())
        .map(|rows: Vec<Vec<i64>>| rows.concat())
        .unwrap();
    for id in ids {
        let row = p.b.sql("SELECT id FROM users WHERE id = ?", json!([id])).await;
        assert_eq!(row["values"], json!([[id]]), "found by its key");
    }
    p.both("INSERT INTO users VALUES (1,'a',1),(2,'b',2),(3,'c',3),(4,'d',4)").await;
    p.both_fail("UPDATE users SET id = 79 WHERE id = 1", "constraint").await;
    p.both_fail("UPDATE e SET tenant = NULL WHERE seq = 1", "shard_key_update").await;
    p.same("users").await;
    let moving = "UPDATE users SET id = id + 300 WHERE id < 5";
    assert_eq!(p.b.fails(moving).await, "cross_shard_write");
    p.same("users").await;
    for sql in ["UPDATE users SET id = id + 1 WHERE id < 5", "UPDATE OR IGNORE users SET id = id + 500 WHERE id < 5"] {
        assert_eq!(p.on_cluster("/sql?allow_partial=true", sql).await, Err("shard_key_update".to_owned()), "{sql}");
    }
    p.same("users").await;
}

/// Conditions and values that need other rows are computed over all of them, and each row is written
/// where it is.
#[tokio::test]
async fn changes_with_queries() {
    let p = pair().await;
    p.both("INSERT INTO kv SELECT name, n FROM users WHERE id < 5").await;
    for sql in [
        "UPDATE users SET name = (SELECT body FROM notes WHERE notes.id = users.id) WHERE id IN (SELECT id FROM notes) RETURNING id, name",
        "UPDATE users SET n = (SELECT count(*) FROM users), name = name || n WHERE n = (SELECT max(n) FROM users) RETURNING *",
        "UPDATE users AS u SET n = u.n + k.v, name = k.k FROM kv k WHERE k.k = u.name",
        "UPDATE notes SET body = u.name FROM users u WHERE u.id = notes.id RETURNING *",
        "UPDATE notes SET body = (SELECT group_concat(name, '') FROM (SELECT name FROM users ORDER BY id)) WHERE id = 9",
        "UPDATE kv SET v = 100 WHERE v < (SELECT avg(v) FROM kv)",
        "UPDATE users SET (n, name) = (kv.v, 'row') FROM kv WHERE kv.k = 'C' AND users.id = 3",
        "WITH big AS (SELECT id FROM users WHERE n > 4) UPDATE users SET name = 'big' WHERE id IN big",
        "WITH b (i, t) AS (SELECT id, body FROM notes) UPDATE users SET name = b.t FROM b WHERE b.i = users.id RETURNING id",
        "UPDATE users SET n = 1, name = DATE('2020-01-01') WHERE EXISTS (SELECT 1 FROM kv WHERE k = name) IS DISTINCT FROM 0",
        "UPDATE users SET id = (SELECT max(id) FROM users) + 1 WHERE id = 2 RETURNING *",
        "DELETE FROM users WHERE id IN (SELECT id FROM notes WHERE id < 2) RETURNING *",
        "DELETE FROM notes WHERE NOT EXISTS (SELECT 1 FROM users WHERE users.id = notes.id)",
        "DELETE FROM kv WHERE (k, v) IN (SELECT k, max(v) FROM kv GROUP BY k HAVING k < 'c')",
        "DELETE FROM users WHERE n = (SELECT min(n) FROM users WHERE n > 100)",
        "DELETE FROM users WHERE id NOT IN (SELECT id FROM users ORDER BY n, id LIMIT 3 OFFSET 1)",
    ] {
        p.both(sql).await;
        for table in ["users", "notes", "kv"] {
            p.same(table).await;
        }
    }
    assert_eq!(p.b.fails("UPDATE users SET n = (SELECT count(*) FROM users)").await, "cross_shard_write");
    assert_eq!(p.b.fails("UPDATE users SET n = 1 ORDER BY id LIMIT 1").await, "sql_error");
    p.same("users").await;
}

/// A table without a primary key has no keys by which rows could be written.
#[tokio::test]
async fn rows_without_identity() {
    let p = Pair::new(&["CREATE TABLE t (a TEXT NOT NULL, b)", NOTES], &[("t", json!("a"))]).await;
    p.both("INSERT INTO t VALUES ('x', 1), ('y', 2), ('z', 3), ('x', 1)").await;
    p.both("UPDATE t SET b = b + 1 WHERE b < 3").await;
    p.both("DELETE FROM t WHERE b = 3").await;
    p.same("t").await;
    for sql in ["DELETE FROM t WHERE b IN (SELECT id FROM notes)", "UPDATE t SET a = 'w'"] {
        assert_eq!(p.b.fails(sql).await, "unroutable", "{sql}");
    }
}

/// A write without a fixed key is no write over several shards when one of them has all the rows.
#[tokio::test]
async fn rows_of_one_shard_need_no_leave() {
    let p = pair().await;
    for sql in [
        "UPDATE users SET n = n + 1 WHERE name = 'c' RETURNING *",
        "DELETE FROM users WHERE name = 'nobody' RETURNING *",
        "DELETE FROM users WHERE id IN (1, 100, 200, 300, 400, 500) RETURNING id",
        "UPDATE users SET name = 'z' WHERE id + 0 = 2",
    ] {
        let wanted = p.on_one(sql).unwrap();
        assert_eq!(p.on_cluster("/sql", sql).await, Ok(wanted), "{sql}");
    }
    p.same("users").await;
    assert_eq!(p.b.fails("DELETE FROM users").await, "cross_shard_write");
    assert_eq!(p.b.fails("UPDATE users SET n = 1 WHERE n > 2").await, "cross_shard_write");
    p.same("users").await;
}

/// Keys given explicitly, however large, do not collide with generated ones.
#[tokio::test]
async fn large_explicit_keys() {
    let p = Pair::new(
        &[
            "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, n)",
            "CREATE TABLE e (seq INTEGER PRIMARY KEY, tenant TEXT NOT NULL)",
        ],
        &[("a", json!("id")), ("e", json!("tenant"))],
    )
    .await;
    for table in ["a", "e"] {
        let other = if table == "a" { "n" } else { "tenant" };
        let own = if table == "a" { "id" } else { "seq" };
        p.b.sql(&format!("INSERT INTO {table} ({own}, {other}) VALUES (5000000, 'x')"), json!([])).await;
        let mut seen = std::collections::BTreeSet::from([5_000_000]);
        for n in 0..30 {
            let result = p.b.sql(&format!("INSERT INTO {table} ({other}) VALUES (?)"), json!([n.to_string()])).await;
            assert!(seen.insert(result["last_insert_id"].as_i64().unwrap()), "{table}: {result}");
        }
        let next = *seen.last().unwrap() + 1;
        p.b.sql(&format!("INSERT INTO {table} ({own}, {other}) VALUES (?, 'y')"), json!([next])).await;
        for n in 0..30 {
            let result = p.b.sql(&format!("INSERT INTO {table} ({other}) VALUES (?)"), json!([n.to_string()])).await;
            assert!(seen.insert(result["last_insert_id"].as_i64().unwrap()), "{table}: {result}");
        }
    }
}
