//! The same schema text several times in one request, and requests that are sent again.

use hyper::Method;
use serde_json::{Value as Json, json};

use super::Bench;

impl Bench {
    /// Runs statements as one batch under a key; all must work.
    async fn batch(&self, path: &str, key: &str, statements: &[&str]) -> Vec<Json> {
        let body = json!({ "statements": statements }).to_string();
        let (status, json) = self.call(Method::POST, path, &body, Some(key)).await;
        assert_eq!(status, 200, "{json}");
        let results = json["results"].as_array().unwrap().clone();
        for (sql, result) in statements.iter().zip(&results) {
            assert!(result.get("error").is_none(), "{sql}: {result}");
        }
        results
    }

    pub(super) async fn answer(&self, sql: &str) -> Json {
        self.sql(sql, json!([])).await["values"].take()
    }
}

/// Requests that say a schema text twice, with a query and what it must give.
const REPEATS: &[(&[&str], &str, &str)] = &[
    (
        &[
            "CREATE TABLE dd(x)",
            "INSERT INTO dd VALUES(1)",
            "DROP TABLE dd",
            "CREATE TABLE dd(x)",
            "INSERT INTO dd VALUES(2)",
        ],
        "SELECT x FROM dd",
        "[[2]]",
    ),
    (
        &["CREATE TABLE t(x)", "DROP TABLE t", "CREATE TABLE t(x)", "DROP TABLE t"],
        "SELECT count(*) FROM sqlite_schema WHERE name = 't'",
        "[[0]]",
    ),
    (
        &["CREATE TABLE i(x)", "CREATE INDEX ix ON i(x)", "DROP INDEX ix", "CREATE INDEX ix ON i(x)"],
        "SELECT count(*) FROM sqlite_schema WHERE name = 'ix'",
        "[[1]]",
    ),
    (&["CREATE VIEW v AS SELECT 1 AS a", "DROP VIEW v", "CREATE VIEW v AS SELECT 1 AS a"], "SELECT a FROM v", "[[1]]"),
    (
        &[
            "CREATE TABLE r(x)",
            "ALTER TABLE r RENAME TO s",
            "INSERT INTO s VALUES (1)",
            "CREATE TABLE r(x)",
            "DROP TABLE s",
            "ALTER TABLE r RENAME TO s",
        ],
        "SELECT count(*) FROM s",
        "[[0]]",
    ),
    (
        &[
            "CREATE TABLE c(x)",
            "ALTER TABLE c ADD COLUMN y",
            "DROP TABLE c",
            "CREATE TABLE c(x)",
            "ALTER TABLE c ADD COLUMN y",
        ],
        "SELECT count(y) FROM c",
        "[[0]]",
    ),
    (
        &[
            "CREATE TABLE f AS SELECT 1 AS a",
            "INSERT INTO f VALUES (2)",
            "DROP TABLE f",
            "CREATE TABLE f AS SELECT 1 AS a",
        ],
        "SELECT a FROM f",
        "[[1]]",
    ),
];

/// A text that is said twice is meant twice; the whole request, sent again, gives the first results and
/// changes nothing.
#[tokio::test]
async fn schema_texts_repeat() {
    for path in ["/execute", "/sql"] {
        let b = Bench::new().await;
        for (n, (statements, query, expected)) in REPEATS.iter().enumerate() {
            let key = format!("request {n}");
            let first = b.batch(path, &key, statements).await;
            assert_eq!(b.answer(query).await.to_string(), *expected, "{statements:?}");
            let jobs: Vec<&Json> = first.iter().filter_map(|result| result.get("job")).collect();
            let distinct: std::collections::BTreeSet<_> = jobs.iter().map(|job| job.to_string()).collect();
            assert_eq!(distinct.len(), jobs.len(), "each has a job of its own: {first:?}");
            assert_eq!(b.batch(path, &key, statements).await, first, "{statements:?}");
            assert_eq!(b.answer(query).await.to_string(), *expected, "{statements:?}, again");
        }
    }
}

/// A late retry of `CREATE TABLE … AS` finds the job after shards have forgotten the rows that it wrote, and
/// adds none; one whose first try may have stopped half way is refused by name.
#[tokio::test]
async fn a_table_is_filled_once() {
    let b = Bench::new().await;
    b.users().await;
    for id in 1..=9 {
        b.sql("INSERT INTO users (id, name) VALUES (?1, 'n')", json!([id])).await;
    }
    let body = r#"{"sql":"CREATE TABLE copy AS SELECT id FROM users"}"#;
    let first = b.call(Method::POST, "/sql", body, Some("k")).await;
    assert_eq!(first.0, 200, "{}", first.1);
    b.node.forget_writes();
    b.sql("DELETE FROM copy WHERE id > 4", json!([])).await;
    assert_eq!(b.call(Method::POST, "/sql", body, Some("k")).await, first);
    assert_eq!(b.answer("SELECT count(*) FROM copy").await, json!([[4]]));

    // The first try makes the table, and fails to fill it.
    let body = r#"{"sql":"CREATE TABLE half AS SELECT abs(-9223372036854775807 - id) AS a FROM users WHERE id < 2"}"#;
    let (status, json) = b.call(Method::POST, "/sql", body, Some("half")).await;
    assert!(status >= 400 && json["error"]["message"].as_str().unwrap().contains("half was created"), "{json}");
    b.node.forget_writes();
    let (status, json) = b.call(Method::POST, "/sql", body, Some("half")).await;
    assert_eq!((status, &json["error"]["code"]), (409, &json!("conflict")), "{json}");
    assert!(json["error"]["message"].as_str().unwrap().contains("no longer known"), "{json}");
    assert_eq!(b.answer("SELECT count(*) FROM half").await, json!([[0]]));
}
