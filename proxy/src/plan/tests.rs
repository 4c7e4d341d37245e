//! Plans as text, over a cluster of three shards with home tables, sharded tables and a composite
//! key.

mod answers;
mod fuzz;
mod hostile;
mod partitions;
mod placements;
mod reads;
mod routing;
mod soundness;
mod staged;

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_shared::registry::Registry;
use flotilla_shared::value::{Params, Value};

use super::{Input, Plan, missing_keys, plan};
use crate::mirror::Mirror;
use crate::testing::registry;

const DDL: &str = "
    CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT);
    CREATE TABLE tags (id INTEGER PRIMARY KEY, note INTEGER REFERENCES notes(id), tag TEXT);
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT);
    CREATE TABLE accounts (name TEXT COLLATE NOCASE, kind, balance INT, PRIMARY KEY (name)) WITHOUT ROWID;
    CREATE TABLE orders (o_id INT NOT NULL PRIMARY KEY, total REAL);
    CREATE TABLE items (o_id INT NOT NULL REFERENCES orders(o_id) ON DELETE CASCADE, line INT, price REAL, PRIMARY KEY (o_id, line));
    CREATE TABLE events (seq INTEGER PRIMARY KEY, tenant TEXT NOT NULL, g AS (seq + 1), n);
    CREATE TABLE pair (a INT, b TEXT, v, PRIMARY KEY (a, b));
    CREATE TABLE audited (id INTEGER PRIMARY KEY, n);
    CREATE TABLE checked (id INTEGER PRIMARY KEY, n);
    CREATE TRIGGER audit AFTER UPDATE ON audited BEGIN INSERT INTO notes (body) VALUES (new.n); END;
    CREATE TRIGGER guard BEFORE UPDATE ON checked BEGIN SELECT raise(ABORT, 'negative') WHERE new.n < 0; END;
    CREATE VIEW named AS SELECT id, name FROM users;
    CREATE VIEW bodies AS SELECT body FROM notes;
    CREATE TABLE replacing (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, n);
    CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB);
    CREATE TABLE lone (k INTEGER PRIMARY KEY);";

fn cluster() -> Arc<Registry> {
    registry(
        3,
        DDL,
        &[
            ("users", &["id"], 1),
            ("accounts", &["name"], 2),
            ("orders", &["o_id"], 3),
            ("items", &["o_id"], 3),
            ("events", &["tenant"], 4),
            ("pair", &["a", "b"], 5),
            ("audited", &["id"], 6),
            ("checked", &["id"], 6),
            ("replacing", &["id"], 7),
            ("kv", &["key"], 8),
            ("lone", &["k"], 9),
        ],
    )
}

struct Bench {
    mirror: Mirror,
    registry: Arc<Registry>,
}

impl Bench {
    fn new() -> Self {
        let registry = cluster();
        Self { mirror: Mirror::build(Arc::clone(&registry)).unwrap(), registry }
    }

    fn plan_with(&self, sql: &str, params: &Params, allow_partial: bool) -> Plan {
        let prepared = match self.mirror.prepare(sql) {
            Ok((prepared, _)) => prepared,
            Err(error) => return Plan::Refused(error),
        };
        if let Err(error) = prepared.check_args(params) {
            return Plan::Refused(error);
        }
        let none = BTreeMap::new();
        let input = Input { mirror: &self.mirror, prepared: &prepared, params, allow_partial, keys: &none };
        let keys = missing_keys(input, &self.registry).into_keys().zip(1000..).collect();
        let plan = plan(Input { keys: &keys, ..input }, &self.registry);
        if let Plan::One(part) = &plan {
            for statement in part.guard.iter().chain(&part.statement) {
                let (again, _) =
                    self.mirror.prepare(&statement.sql).unwrap_or_else(|e| panic!("{}: {e}", statement.sql));
                again.check_args(&statement.params).unwrap();
            }
        }
        plan
    }

    fn plan(&self, sql: &str, args: &[Value]) -> String {
        self.plan_with(sql, &Params::Positional(args.to_vec()), false).to_string()
    }

    /// The one shard that a statement goes to, or why it has none.
    fn shard(&self, sql: &str, args: &[Value]) -> String {
        match self.plan_with(sql, &Params::Positional(args.to_vec()), false) {
            Plan::One(part) => part.shard.to_string(),
            Plan::Refused(error) => error.code.to_string(),
            other => other.class().to_owned(),
        }
    }
}

fn int(n: i64) -> Value {
    Value::Integer(n)
}

fn text(s: &str) -> Value {
    Value::Text(s.into())
}

/// Equal keys meet on one shard, however they are written and whatever their type.
#[test]
fn equal_keys_meet() {
    let bench = Bench::new();
    let home = bench.shard("SELECT * FROM users WHERE id = 456", &[]);
    assert!(home.starts_with("shard"), "{home}");
    for (sql, args) in [
        ("SELECT * FROM users WHERE id = '456'", vec![]),
        ("SELECT * FROM users WHERE 456 = id", vec![]),
        ("SELECT * FROM users WHERE id == 456.0", vec![]),
        ("SELECT * FROM users WHERE id IS 456", vec![]),
        ("SELECT * FROM users WHERE (((id))) = (+456)", vec![]),
        ("SELECT * FROM users WHERE id = 0x1c8", vec![]),
        ("SELECT * FROM users WHERE id IN (456)", vec![]),
        ("SELECT * FROM users WHERE name = 'x' AND id = ? AND email IS NOT NULL", vec![text("456")]),
        ("SELECT * FROM users WHERE id = ?2 AND name = ?1", vec![text("x"), int(456)]),
        ("SELECT * FROM users u WHERE u.id = ?", vec![Value::Real(456.0)]),
        ("SELECT * FROM main.users WHERE users.\"id\" = ?", vec![int(456)]),
        ("SELECT * FROM users AS u WHERE rowid = 456", vec![]),
        ("SELECT count(*), max(name) FROM users WHERE id = 456 ORDER BY 1 LIMIT 3", vec![]),
        ("SELECT DISTINCT name FROM users WHERE [id] = 456 GROUP BY name HAVING count(*) > 0", vec![]),
        ("UPDATE users SET name = 'y' WHERE id = 456", vec![]),
        ("UPDATE users SET name = ? WHERE id = ?", vec![text("y"), text(" 456 ")]),
        ("DELETE FROM users WHERE id = :id", vec![int(456)]),
        ("INSERT INTO users (id, name) VALUES (?, ?)", vec![text("456"), text("x")]),
        ("INSERT INTO users VALUES (456, 'a', 'b')", vec![]),
        ("INSERT INTO users (name, ID) VALUES ('a', '456')", vec![]),
        ("REPLACE INTO users (name, rowid) VALUES ('a', 456)", vec![]),
        (
            "INSERT INTO users (id, name) VALUES (456, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING *",
            vec![],
        ),
    ] {
        assert_eq!(bench.shard(sql, &args), home, "{sql}");
    }
    let jane = bench.shard("SELECT * FROM accounts WHERE name = 'Jane'", &[]);
    for sql in [
        "SELECT * FROM accounts WHERE name = 'JANE'",
        "INSERT INTO accounts VALUES ('jANE', 1, 2)",
        "DELETE FROM accounts WHERE 'jane' = name",
    ] {
        assert_eq!(bench.shard(sql, &[]), jane, "{sql}");
    }
    let pair = bench.shard("SELECT * FROM pair WHERE a = 1 AND b = '2'", &[]);
    assert_eq!(bench.shard("SELECT * FROM pair WHERE b = 2 AND a IN ('1')", &[]), pair);
    assert_eq!(bench.shard("INSERT INTO pair VALUES ('1', 2, 0)", &[]), pair);
}

/// The parser takes what applications write around a fixed key.
#[test]
fn everyday_queries_are_understood() {
    let bench = Bench::new();
    for sql in [
        "SELECT users.*, count(*) FILTER (WHERE name > 'a') OVER (PARTITION BY email ORDER BY id) FROM users WHERE id = 1;",
        "SELECT id AS k, CAST(name AS VARCHAR(20)) c, CASE WHEN id > 5 THEN 'x' ELSE NULL END FROM users AS u WHERE u.id = 1 ORDER BY c COLLATE NOCASE DESC NULLS LAST LIMIT 5 OFFSET 2",
        "SELECT substr(name, 1, 2) || upper(email), strftime('%s', 'now'), coalesce(name, ''), iif(id, 1, 2), trim(name) FROM users WHERE id = 1 AND name LIKE 'a%' ESCAPE '!'",
        "SELECT name ->> '$.a', json_extract(name, '$.b'), replace(name, 'a', 'b'), date('now'), current_timestamp FROM users WHERE id = 1 AND name GLOB 'x*'",
        "SELECT * FROM users WHERE id = 1 AND (name = 'a' OR email BETWEEN 'a' AND 'b') AND name NOT LIKE 'x' AND email NOTNULL AND name ISNULL",
        "SELECT min(id), group_concat(DISTINCT name), total(id), round(avg(id), 2) FROM users WHERE id = 1 GROUP BY name, 2 + 3 HAVING max(id) > 1 ORDER BY 1, 2 DESC",
        "SELECT id FROM users WHERE id = 1 AND name IS NOT 'b' AND email IS DISTINCT FROM 'q' AND NOT (name > 5)",
        "UPDATE users AS u SET name = 'a' || ?1, (email) = lower(?2) WHERE u.id = 1 RETURNING id, name AS n",
        "UPDATE OR REPLACE users SET name = CASE id WHEN 1 THEN 'a' END WHERE id = 1 AND email <> 'x' AND 1 <= 2",
        "DELETE FROM users AS u WHERE u.id = 1 AND u.name != 'x' RETURNING *",
        "SELECT \"name\", `email`, [id] FROM \"users\" WHERE \"users\".\"id\" = 1",
        "SELECT hex(x'ab'), 1e3, .5, 0x10, -id, ~id, id % 3, id & 1, id << 2, typeof(id) FROM users NOT INDEXED WHERE id = 1",
        "SELECT * FROM users INDEXED BY sqlite_autoindex_users_1 WHERE id = 1",
    ] {
        let args: Vec<Value> = if sql.contains("?2") { vec![text("a"), text("b")] } else { vec![] };
        let got = bench.shard(sql, &args);
        assert!(
            got.starts_with("shard") || got == "sql_error" && sql.contains("INDEXED BY"),
            "{sql}\n{got} {}",
            bench.plan(sql, &args)
        );
    }
}

/// Nested text that SQLite accepts takes no more than a moment to plan.
#[test]
fn nesting_is_cheap() {
    let bench = Bench::new();
    for depth in [5, 10, 11, 20, 40] {
        let (open, close) = ("(".repeat(depth), ")".repeat(depth));
        for sql in [
            format!("SELECT * FROM {open}users{close} WHERE id = 1"),
            format!("SELECT * FROM users WHERE {open}id = 1{close}"),
            format!("SELECT * FROM users WHERE id = {open}1{close}"),
            format!("SELECT * FROM users WHERE {}name{close}", "abs(".repeat(depth)),
            format!("SELECT * FROM {}users{}", "(SELECT * FROM ".repeat(depth), ")".repeat(depth)),
            format!("SELECT * FROM users WHERE {}1{}", "CASE WHEN 1 THEN ".repeat(depth), " END".repeat(depth)),
            format!("SELECT * FROM users WHERE {}id = 1", "NOT ".repeat(depth)),
            format!("SELECT * FROM users WHERE id = {}1", "- ".repeat(depth)),
            format!("SELECT {open}1{close} FROM users WHERE name IN {open}1{close}"),
        ] {
            let start = std::time::Instant::now();
            let plan = bench.plan(&sql, &[]);
            assert!(start.elapsed().as_millis() < 1000, "{:?} for {sql}: {plan}", start.elapsed());
        }
    }
}

/// What does not surely fix the key is not taken to fix it.
#[test]
fn unsure_means_all() {
    let bench = Bench::new();
    for sql in [
        "SELECT * FROM users",
        "SELECT * FROM users WHERE id = 1 OR name = 'x'",
        "SELECT * FROM users WHERE NOT id = 1",
        "SELECT * FROM users WHERE id > 1",
        "SELECT * FROM users WHERE CAST(id AS TEXT) = '1'",
        "SELECT * FROM users WHERE id + 0 = 1",
        "SELECT * FROM users WHERE +id = 1",
        "SELECT * FROM users WHERE id = \"1\"",
        "SELECT * FROM users WHERE id = name",
        "SELECT * FROM users WHERE id NOT IN (1)",
        "SELECT * FROM users WHERE id IS NOT 1",
        "SELECT * FROM users WHERE (id = 1) IS NULL",
        "SELECT * FROM users WHERE id = 1 IS NULL",
        "SELECT * FROM users WHERE id = 1 = 0",
        "SELECT * FROM users WHERE 3 = id IN (1)",
        "SELECT * FROM users WHERE name LIKE id = 5",
        "SELECT * FROM users WHERE CASE WHEN id = 1 THEN 1 ELSE 1 END",
        "SELECT *, id = 1 FROM users",
        "SELECT * FROM accounts WHERE name COLLATE BINARY = 'x'",
        "SELECT * FROM accounts WHERE name = 'x' COLLATE BINARY",
        "SELECT * FROM pair WHERE a = 1",
        "SELECT * FROM users WHERE id = TRUE",
    ] {
        assert_eq!(bench.shard(sql, &[]), "all", "{sql}");
    }
    let many = (0..1200).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(bench.shard(&format!("SELECT * FROM users WHERE id IN ({many})"), &[]), "all");
}

/// Every refusal has its code, and names what it is about.
#[test]
fn refusals() {
    let bench = Bench::new();
    for (sql, code, about) in [
        ("INSERT INTO users (id) VALUES (1),(2),(3),(4),(5),(6),(7),(8)", "cross_shard_write", "3 shards"),
        ("INSERT INTO users (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 5", "shard_key_update", "id"),
        ("UPDATE audited SET n = 1 WHERE id = 1", "unroutable", "trigger audit"),
        ("INSERT INTO accounts (kind) VALUES (1)", "no_shard_key", "name"),
        ("INSERT INTO accounts (name) VALUES (NULL)", "no_shard_key", "NULL"),
        ("INSERT INTO pair (a) VALUES (1)", "no_shard_key", "b"),
        ("INSERT INTO accounts DEFAULT VALUES", "no_shard_key", "name"),
        ("SELECT * FROM nope", "no_such_table", "no such table: nope"),
        ("SELECT nope FROM users", "sql_error", "no such column: nope"),
        ("SELEC 1", "sql_error", "syntax error"),
        ("SELECT 1; SELECT 2", "bad_request", "one statement"),
        ("  -- nothing", "bad_request", "empty"),
        ("SELECT ?", "wrong_arg_count", "1 parameters, 0 arguments"),
        ("ATTACH 'x' AS y", "forbidden_statement", "ATTACH"),
        ("DETACH main", "forbidden_statement", "ATTACH"),
        ("BEGIN", "forbidden_statement", "BEGIN"),
        ("COMMIT", "forbidden_statement", "BEGIN"),
        ("SAVEPOINT a", "forbidden_statement", "BEGIN"),
        ("PRAGMA journal_mode = DELETE", "forbidden_statement", "journal_mode"),
        ("PRAGMA foreign_keys = 0", "forbidden_statement", "foreign_keys"),
        ("PRAGMA user_version", "forbidden_statement", "user_version"),
        ("VACUUM", "forbidden_statement", "VACUUM"),
        ("VACUUM INTO '/tmp/x'", "forbidden_statement", "VACUUM"),
        ("SELECT load_extension('x')", "forbidden_statement", "load_extension"),
        ("SELECT sqlite_log(1, 'x') FROM users", "forbidden_statement", "sqlite_log"),
        ("SELECT * FROM _FLOTILLA_requests", "forbidden_statement", "internal"),
        ("SELECT * FROM '_flotilla_requests'", "forbidden_statement", "_flotilla_"),
        ("CREATE TABLE \"_flotilla_x\" (a)", "forbidden_statement", "internal"),
        ("SELECT * FROM sqlite_dbpage", "forbidden_statement", "sqlite_dbpage"),
        ("SELECT * FROM dbstat", "forbidden_statement", "dbstat"),
        ("CREATE TEMP TABLE x (a)", "forbidden_statement", "temporary"),
        ("CREATE VIRTUAL TABLE x USING fts5(a)", "not_implemented", "fts5"),
        ("SELECT * FROM sqlite_schema JOIN notes", "unroutable", "schema"),
    ] {
        let plan = bench.plan(sql, &[]);
        assert!(plan.starts_with(&format!("refused {code}: ")), "{sql}\n{plan}");
        assert!(plan.contains(about), "{sql}\n{plan}");
    }
}

/// Statements on home tables, and on nothing, go to the home shard as they are.
#[test]
fn home_tables_need_no_key() {
    let bench = Bench::new();
    for sql in [
        "SELECT count(*) FROM notes n JOIN tags t ON t.note = n.id GROUP BY tag ORDER BY 1 LIMIT 3",
        "INSERT INTO tags (note, tag) SELECT id, body FROM notes",
        "UPDATE notes SET id = id + 1",
        "DELETE FROM notes",
        "SELECT * FROM bodies",
        "SELECT 1 + 1",
        "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 9) SELECT * FROM c",
        "SELECT value FROM json_each('[1,2]')",
        "INSERT INTO notes (body) VALUES ('x') RETURNING id",
    ] {
        let plan = bench.plan(sql, &[]);
        assert!(plan.starts_with("one shard1"), "{sql}\n{plan}");
    }
    for sql in [
        "PRAGMA table_info(users)",
        "SELECT name FROM sqlite_schema",
        "SELECT * FROM pragma_table_info('users')",
        "EXPLAIN QUERY PLAN SELECT * FROM users",
        "EXPLAIN DELETE FROM users",
    ] {
        assert_eq!(bench.plan(sql, &[]), "local", "{sql}");
    }
}

/// Foreign keys that pair the shard keys, and triggers that see only their row, stay on the shard.
#[test]
fn what_stays_on_the_shard_is_allowed() {
    let bench = Bench::new();
    let home = bench.shard("SELECT * FROM orders WHERE o_id = 7", &[]);
    for sql in [
        "INSERT INTO items (o_id, line) VALUES (7, 1), (7, 2)",
        "DELETE FROM orders WHERE o_id = 7",
        "UPDATE items SET price = 2 WHERE o_id = 7 AND line = 1",
        "UPDATE OR IGNORE items SET line = 2 WHERE o_id = 7",
    ] {
        assert_eq!(bench.shard(sql, &[]), home, "{sql}");
    }
    assert!(bench.shard("UPDATE checked SET n = 1 WHERE id = 1", &[]).starts_with("shard"));
}

/// Keys are put into rows that lack them, in every form of INSERT.
#[test]
fn generated_keys() {
    let bench = Bench::new();
    for (sql, args, wanted) in [
        (
            "INSERT INTO users (name, email) VALUES (?, ?)",
            vec![text("a"), text("b")],
            "INSERT INTO users (name, email, \"id\") VALUES (?1, ?2, ?3) <\"a\", \"b\", 1000>",
        ),
        (
            "INSERT INTO users VALUES (NULL, 'it''s', ?) RETURNING id",
            vec![int(1)],
            "INSERT INTO users VALUES (?1, 'it''s', ?2) RETURNING id <1000, 1>",
        ),
        (
            "INSERT INTO users (id, name) VALUES (:id, :name)",
            vec![Value::Null, text("x")],
            "INSERT INTO users (id, name) VALUES (?1, ?2) <1000, \"x\">",
        ),
        ("INSERT INTO users DEFAULT VALUES", vec![], "INSERT INTO users (\"id\") VALUES (?1) <1000>"),
        (
            "INSERT INTO users (name) VALUES (?2 || ?1)",
            vec![text("a"), text("b")],
            "INSERT INTO users (name, \"id\") VALUES (?1 || ?2, ?3) <\"b\", \"a\", 1000>",
        ),
        (
            "INSERT INTO events (tenant) VALUES ('t') -- why not",
            vec![],
            "INSERT INTO events (tenant, \"seq\") VALUES ('t', ?1) -- why not <1000>",
        ),
        ("INSERT INTO events VALUES (NULL, 't', 5)", vec![], "INSERT INTO events VALUES (?1, 't', 5) <1000>"),
    ] {
        let plan = bench.plan(sql, &args);
        assert!(plan.starts_with("one shard") && plan.ends_with(wanted), "{sql}\n{plan}");
    }
}

/// A sharded table that one shard holds alone gets generated keys as well: they must stay unique
/// when it spreads.
#[test]
fn generated_keys_on_a_single_owner() {
    let registry = registry(1, DDL, &[("users", &["id"], 1), ("audited", &["id"], 2)]);
    let bench = Bench { mirror: Mirror::build(Arc::clone(&registry)).unwrap(), registry };
    let plan = bench.plan("INSERT OR IGNORE INTO users (name) SELECT 'x'", &[]);
    assert_eq!(plan, "one shard1 [placement 1 at 3]");
    let plan = bench.plan("INSERT INTO users (name) VALUES (lower('x')), ('y')", &[]);
    assert_eq!(
        plan,
        "one shard1 [placement 1: 2 slots] INSERT INTO users (name, \"id\") VALUES (lower('x'), ?1), ('y', ?2) <1000, 1001>"
    );
    // Writes whose slots are known claim no more than these, as they would among several shards.
    for sql in [
        "INSERT INTO users (id) VALUES (7)",
        "UPDATE users SET name = 'x' WHERE id = 7",
        "DELETE FROM users WHERE id = 7",
    ] {
        assert_eq!(bench.plan(sql, &[]), "one shard1 [placement 1: 1 slots]", "{sql}");
    }
    assert_eq!(bench.plan("DELETE FROM users WHERE name = 'x'", &[]), "one shard1 [placement 1 at 3]");
    assert_eq!(bench.shard("SELECT count(*) FROM users u JOIN notes n ON n.id = u.id", &[]), "shard1");
    assert_eq!(bench.shard("UPDATE audited SET n = 1, id = 4", &[]), "shard1");
}

/// A generated key never lets an INSERT that resolves conflicts replace or skip a row in silence.
#[test]
fn generated_keys_are_guarded_against_conflict_clauses() {
    let bench = Bench::new();
    for sql in [
        "INSERT OR REPLACE INTO users (name) VALUES ('x')",
        "INSERT OR IGNORE INTO users (name) VALUES ('x')",
        "REPLACE INTO users (name) VALUES ('x')",
        "INSERT INTO users (name) VALUES ('x') ON CONFLICT DO NOTHING",
        "INSERT INTO replacing (n) VALUES (1)",
    ] {
        let plan = bench.plan(sql, &[]);
        assert!(plan.contains("INSERT OR ABORT INTO"), "{sql}\n{plan}");
    }
    assert!(!bench.plan("INSERT INTO users (name) VALUES ('x')", &[]).contains("ABORT"));
    assert!(!bench.plan("INSERT OR REPLACE INTO users (id) VALUES (1)", &[]).contains("ABORT"));
}

/// With allow_partial, rows are split by shard: each row once, arguments following their rows.
#[test]
fn rows_are_split_by_shard() {
    let bench = Bench::new();
    let sql = "INSERT INTO users (id, name) VALUES (?1, ?3), (2, ?2), (3, lower(?2)), (?4, 'd') ON CONFLICT DO NOTHING";
    let params = Params::Positional(vec![int(1), text("b"), text("a"), int(4)]);
    let plan = bench.plan_with(sql, &params, true);
    let Plan::Some(parts) = &plan else { panic!("{plan}") };
    let mut rows = 0;
    for part in parts {
        let statement = part.statement.as_ref().unwrap();
        let (again, _) = bench.mirror.prepare(&statement.sql).unwrap();
        again.check_args(&statement.params).unwrap();
        assert!(statement.sql.ends_with(" ON CONFLICT DO NOTHING"));
        rows += again.analysis.insert(&again.sql).unwrap().rows.len();
    }
    assert_eq!(rows, 4);
    assert_eq!(parts.iter().filter(|part| part.last_row).count(), 1);
    assert_eq!(bench.plan_with("DELETE FROM users", &Params::default(), true).class(), "all");
}

/// Claims say what a plan relies on: slots for keys, the whole version for scans.
#[test]
fn claims() {
    let bench = Bench::new();
    assert_eq!(
        bench.plan("SELECT * FROM users", &[]),
        "all\n  shard1 [placement 1 at 3]\n  shard2 [placement 1 at 3]\n  shard3 [placement 1 at 3]"
    );
    assert_eq!(bench.plan("SELECT * FROM notes", &[]), "one shard1 [placement 0 at 1]");
    assert!(bench.plan("SELECT * FROM users WHERE id = 1", &[]).ends_with("[placement 1: 1 slots]"));
    assert!(bench.plan("SELECT * FROM users WHERE id IN (1, 1.0, '1')", &[]).ends_with("[placement 1: 1 slots]"));
    assert_eq!(bench.plan("SELECT count(*) FROM users WHERE id IN ()", &[]), "local");
    assert_eq!(bench.plan("SELECT * FROM users WHERE id = 1 AND id = 2 ORDER BY name", &[]), "local");
    assert!(bench.plan("DELETE FROM users WHERE id = ?", &[Value::Null]).starts_with("one shard1"));
    assert!(bench.plan("SELECT * FROM users WHERE id IN (1,2,3,4,5,6,7,8)", &[]).starts_with("some\n  shard1"));
    assert!(bench.plan("SELECT value FROM kv WHERE key = 'a'", &[]).starts_with("one shard"));
    assert!(bench.plan("DELETE FROM kv WHERE kv.key = 'a'", &[]).starts_with("one shard"));
}
