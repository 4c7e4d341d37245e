//! Generated texts through all that reads SQL: tokens, mirror, analysis, plan.
//!
//! No text may panic, run away, or make a plan that is out of proportion to it; and what a plan writes
//! anew must be SQL that the mirror prepares.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::wire::Statement;
use rusqlite::Connection;

use crate::lex::Tokens;
use crate::merge::{Bounds, Session, until};
use crate::plan::read::Merge;
use crate::testing::fuzz::{CASE_LIMIT, check};

/// Statements of every kind that the planner knows.
const VALID: &[&str] = &[
    "SELECT * FROM users WHERE id IN (1, 2, ?) AND name = 'x''y' ORDER BY \"name\" DESC LIMIT 3 OFFSET 1",
    "SELECT count(*), sum(balance), avg(balance) FILTER (WHERE kind > 1), group_concat(name, ',') FROM accounts",
    "SELECT tenant, count(DISTINCT n) AS c FROM events GROUP BY tenant HAVING c > 1 ORDER BY 2, 1",
    "SELECT o.o_id, i.price FROM orders o LEFT JOIN items AS i USING (o_id) WHERE o.total BETWEEN 1 AND 2.5e3",
    "SELECT u.name, (SELECT max(total) FROM orders WHERE o_id = u.id) FROM users u WHERE EXISTS (SELECT 1 FROM notes)",
    "SELECT name FROM users UNION ALL SELECT kind FROM accounts EXCEPT SELECT body FROM notes INTERSECT VALUES (1)",
    "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 9) SELECT c.x, n FROM c, events",
    "SELECT sum(n) OVER (PARTITION BY tenant ORDER BY seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM events",
    "SELECT DISTINCT a, b FROM pair WHERE (a, b) = (1, 'x') OR a IS NULL AND b LIKE '%é' COLLATE NOCASE",
    "SELECT CASE WHEN id = :a THEN x'00ff' ELSE CAST(id AS TEXT) END FROM named NATURAL JOIN bodies",
    "INSERT OR REPLACE INTO main.users AS u (id, name) VALUES (?1, x'00'), (-1.5e3, :a) RETURNING *",
    "INSERT INTO users (name) VALUES ('a'), (?) ON CONFLICT (id) DO UPDATE SET name = excluded.name WHERE id > 0",
    "INSERT INTO pair SELECT a, b, 1 FROM pair WHERE a = 7",
    "INSERT INTO events DEFAULT VALUES",
    "REPLACE INTO kv VALUES ('k', zeroblob(3))",
    "UPDATE users SET name = ?3, email = upper(name) WHERE rowid IS NOT 5 AND (id) == [id] /* é */",
    "UPDATE accounts SET balance = balance - 1 FROM users WHERE users.name = accounts.name RETURNING balance",
    "DELETE FROM items WHERE o_id = 0x1F AND line IN (SELECT line FROM items) -- c",
    "WITH d AS (SELECT 1 AS k) DELETE FROM users WHERE id IN (SELECT k FROM d)",
    "CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b DEFAULT (1+2) CHECK (b > 0), c AS (a) STORED)",
    "CREATE UNIQUE INDEX i ON users (name COLLATE NOCASE DESC) WHERE email NOT NULL",
    "CREATE TRIGGER tr AFTER UPDATE OF name ON users BEGIN SELECT raise(ABORT, 'no'); END",
    "CREATE VIEW v (x) AS SELECT id FROM users",
    "ALTER TABLE users RENAME COLUMN name TO nick",
    "DROP TABLE IF EXISTS notes",
    "EXPLAIN QUERY PLAN SELECT * FROM users, accounts",
    "PRAGMA table_info(users)",
    "SELECT json_extract(n, '$.a') ->> 'b', random(), datetime('now') FROM events, json_each('[1]')",
];

/// Words and marks that any statement may be made of.
const TOKENS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "HAVING",
    "ORDER BY",
    "LIMIT",
    "OFFSET",
    "UNION",
    "ALL",
    "EXCEPT",
    "DISTINCT",
    "JOIN",
    "LEFT",
    "ON",
    "USING",
    "NATURAL",
    "WITH",
    "RECURSIVE",
    "AS",
    "IN",
    "IS",
    "NOT",
    "NULL",
    "AND",
    "OR",
    "BETWEEN",
    "LIKE",
    "ESCAPE",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "CAST",
    "COLLATE",
    "NOCASE",
    "EXISTS",
    "OVER",
    "PARTITION BY",
    "ROWS",
    "FILTER",
    "INSERT",
    "REPLACE",
    "INTO",
    "VALUES",
    "DEFAULT",
    "CONFLICT",
    "DO",
    "UPDATE",
    "SET",
    "DELETE",
    "RETURNING",
    "CREATE",
    "TABLE",
    "INDEX",
    "VIEW",
    "TRIGGER",
    "DROP",
    "ALTER",
    "EXPLAIN",
    "PRAGMA",
    "ATTACH",
    "VACUUM",
    "BEGIN",
    "INDEXED BY",
    "users",
    "accounts",
    "orders",
    "items",
    "events",
    "pair",
    "notes",
    "kv",
    "named",
    "id",
    "name",
    "o_id",
    "tenant",
    "a",
    "b",
    "rowid",
    "main",
    "temp",
    "sqlite_schema",
    "_flotilla_state",
    "count",
    "sum",
    "max",
    "group_concat",
    "(",
    ")",
    ",",
    ".",
    ";",
    "*",
    "=",
    "==",
    "<>",
    "<=",
    "||",
    "->>",
    "-",
    "+",
    "~",
    "%",
    "?",
    "?1",
    "?999999",
    "?99999999999",
    ":a",
    "@b",
    "$c::d(e)",
    "1",
    "0",
    "9223372036854775807",
    "9223372036854775808",
    "1e999",
    ".5",
    "0x",
    "0xFF",
    "1_000",
    "'x'",
    "''",
    "'",
    "\"",
    "\"id\"",
    "[id]",
    "[",
    "`",
    "x'00'",
    "x'0",
    "--",
    "/*",
    "*/",
    "é",
    "🚢",
    "\u{feff}",
    "\n",
    "\u{b}",
    "#",
    "@",
    "$",
    "!",
    "\\",
    "&",
    "|",
];

/// What is repeated to nest deeply.
const NESTING: &[&str] = &[
    "(",
    "NOT ",
    "-",
    "~",
    "SELECT (",
    "EXISTS (SELECT ",
    "CASE WHEN ",
    "1 + (",
    "id = 1 AND ",
    "id = 1 OR (",
    "((SELECT 1),",
    "1,",
    "a.",
    "SELECT * FROM (",
    "WITH c AS (",
    "VALUES (1), (",
    "?,",
    "'a' || ",
    "SELECT 1 UNION ALL ",
    "users, ",
    "[",
    "/*",
];

/// One change of a statement's list of tokens.
type Edit = (u8, Index, Index, &'static str);

fn edited(statement: &str, edits: &[Edit]) -> String {
    let tokens = Tokens::read(statement).unwrap();
    let mut list: Vec<&str> = (0..tokens.list.len()).map(|index| tokens.text(index)).collect();
    for (kind, at, other, token) in edits {
        if list.is_empty() {
            break;
        }
        let (at, other) = (at.index(list.len()), other.index(list.len()));
        match kind {
            0 => drop(list.remove(at)),
            1 => list.insert(at, token),
            2 => list[at] = token,
            3 => list.swap(at, other),
            4 => list.truncate(at),
            _ => {
                let piece = list[at.min(other)..=at.max(other)].to_vec();
                list.splice(at..at, piece);
            }
        }
    }
    list.join(" ")
}

fn texts() -> impl Strategy<Value = String> {
    let edits = vec((0u8..6, any::<Index>(), any::<Index>(), select(TOKENS)), 0..8);
    let nested = (select(VALID), select(NESTING), 1usize..4000, any::<Index>(), select(TOKENS));
    prop_oneof![
        1 => vec(any::<u8>(), 0..200).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        2 => (vec(select(TOKENS), 0..40), select(vec!["", " "])).prop_map(|(list, between)| list.join(between)),
        8 => (select(VALID), edits).prop_map(|(statement, edits)| edited(statement, &edits)),
        1 => nested.prop_map(|(statement, piece, count, at, end)| {
            let places: Vec<usize> = statement.char_indices().map(|(place, _)| place).collect();
            let (before, after) = statement.split_at(places[at.index(places.len())]);
            format!("{before} {}{end} {after}", piece.repeat(count))
        }),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        (-3i64..9).prop_map(Value::Integer),
        any::<f64>().prop_map(Value::Real),
        ".{0,8}".prop_map(Value::Text),
        vec(any::<u8>(), 0..8).prop_map(Value::Blob),
    ]
}

/// Every text is planned or refused, within a moment, and what is written anew can be read.
#[test]
fn generated_texts() {
    let bench = Bench::new();
    let known = VALID.iter().filter(|sql| bench.mirror.prepare(sql).is_ok()).count();
    assert!(known > VALID.len() - 3, "only {known} of {} statements are ones", VALID.len());
    let cases = (texts(), vec(values(), 1..5), any::<bool>());
    check("generated_texts", 4000, &cases, |(sql, args, partial)| {
        let wanted = match bench.mirror.prepare(&sql) {
            // As many arguments as it takes, unless that would be the bulk of the work.
            Ok((prepared, _)) => prepared.params.len().min(1000),
            Err(_) => 0,
        };
        let args: Vec<Value> = args.into_iter().cycle().take(wanted).collect();
        let size = sql.len() + args.iter().map(Value::size_bytes).sum::<usize>();
        let plan = bench.plan_with(&sql, &Params::Positional(args), partial).to_string();
        assert!(plan.len() < 64 * (size + 4096), "a plan of {} bytes for {size}", plan.len());
    });
}

/// Carries a merge out on empty tables; how many rows that gives.
fn carried_out(merge: &Merge, empty: &Connection) -> Result<usize, Error> {
    let bounds = Bounds { pulled_rows: 1000, pulled_bytes: 1 << 20, result_rows: 1000, result_bytes: 1 << 20 };
    let mut session = Session::open(&merge.setup, bounds, until(CASE_LIMIT))?;
    for pull in &merge.pulls {
        for part in &pull.parts {
            let statement = part.statement.as_ref().expect("a merge says what it pulls");
            session.load(&pull.insert, &rows(empty, statement)?)?;
        }
    }
    session.index(&merge.indexes)?;
    session.finish(&merge.finish).map(|rows| rows.len())
}

fn rows(db: &Connection, statement: &Statement) -> Result<Vec<Vec<Value>>, Error> {
    let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
    let mut prepared = db.prepare(&statement.sql).map_err(sqlite)?;
    statement.params.bind(&mut prepared)?;
    let width = prepared.column_count();
    let mut rows = prepared.raw_query();
    let mut list = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite)? {
        list.push((0..width).map(|at| row.get_ref(at).map(Value::from)).collect::<Result<_, _>>().map_err(sqlite)?);
        if list.len() > 1000 {
            return Err(Error::new(Code::TooLarge, "enough"));
        }
    }
    Ok(list)
}

/// What is pulled and what finishes are statements that run: without any row in the tables they give as
/// many rows as the SELECT that was written.
#[test]
fn generated_merges_run() {
    let bench = Bench::new();
    let mut empty = flotilla_shared::sqlite::open_in_memory().unwrap();
    empty.execute_batch(DDL).unwrap();
    let start = Arc::new(std::sync::Mutex::new(std::time::Instant::now()));
    let clock = Arc::clone(&start);
    empty.progress_handler(1000, Some(move || clock.lock().unwrap().elapsed() > CASE_LIMIT / 20)).unwrap();
    let merged = std::cell::Cell::new(0);
    let reads: Vec<&str> = VALID.iter().copied().filter(|sql| sql.starts_with("SELECT")).collect();
    let edits = vec((0u8..6, any::<Index>(), any::<Index>(), select(TOKENS)), 0..4);
    let texts = (select(reads), edits).prop_map(|(statement, edits)| edited(statement, &edits));
    let cases = (texts, vec(values(), 1..5));
    check("generated_merges_run", 6000, &cases, |(sql, args)| {
        let Ok((prepared, _)) = bench.mirror.prepare(&sql) else { return };
        let args = args.into_iter().cycle().take(prepared.params.len().min(1000)).collect();
        let params = Params::Positional(args);
        let Plan::Merge(merge) = bench.plan_with(&sql, &params, false) else { return };
        *start.lock().unwrap() = std::time::Instant::now();
        // What SQLite itself refuses as it runs, or does not end, may be refused otherwise.
        let Ok(wanted) = rows(&empty, &Statement { sql, params }) else { return };
        *start.lock().unwrap() = std::time::Instant::now() + CASE_LIMIT;
        merged.set(merged.get() + 1);
        assert_eq!(carried_out(&merge, &empty), Ok(wanted.len()), "{merge:?}");
    });
    assert!(merged.get() > 500, "only {} merges", merged.get());
}
