//! Writes to a shard that the client names: no row comes to a shard that does not own it.

use serde_json::{Value as Json, json};

use super::Bench;
use super::writes::Pair;

async fn pair() -> Pair {
    let tables = [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n)",
        "CREATE TABLE h (id INTEGER PRIMARY KEY, n)",
        "CREATE TABLE r (id INTEGER PRIMARY KEY, n)",
    ];
    let pair = Pair::new(&tables, &[("t", json!("id"))]).await;
    let (status, json) = pair.b.post("/table/register", r#"{"table_name":"r","shard_func":"reference"}"#).await;
    assert_eq!(status, 200, "{json}");
    pair
}

impl Bench {
    /// What each shard answers to a body: its status, or the code of its error.
    async fn on_each(&self, body: &Json) -> Vec<Result<Json, String>> {
        let mut answers = Vec::new();
        for shard in 1..=3 {
            let path = format!("/sql?auto_route=false&shard=shard{shard}");
            let (status, mut json) = self.post(&path, &body.to_string()).await;
            let failed = |json: &Json| json["error"]["code"].as_str().map(str::to_owned);
            answers.push(match failed(&json).or_else(|| failed(&json["results"][0])) {
                Some(code) => Err(code),
                None => {
                    assert_eq!(status, 200, "{json}");
                    Ok(json["results"].take())
                }
            });
        }
        answers
    }
}

/// A row can be inserted on its own shard only, whatever the form of the statement or the request.
#[tokio::test]
async fn rows_go_to_their_shard() {
    let p = pair().await;
    let forms = [
        "INSERT INTO t VALUES (?, 0)",
        "REPLACE INTO t VALUES (?, 0)",
        "INSERT OR IGNORE INTO t VALUES (?, 0)",
        "INSERT INTO t VALUES (?, 0) ON CONFLICT (id) DO UPDATE SET n = 9",
        "INSERT INTO t (n, id) VALUES (1, ?) RETURNING id",
    ];
    for (n, form) in forms.iter().enumerate() {
        for (m, transaction) in [None, Some(false), Some(true)].into_iter().enumerate() {
            let id = n * 3 + m;
            let one = json!({ "sql": form, "args": [id] });
            let body = match transaction {
                None => one,
                Some(false) => json!({ "statements": [one] }),
                Some(true) => json!({ "statements": [one, { "sql": "SELECT count(*) FROM t" }], "transaction": true }),
            };
            let answers = p.b.on_each(&body).await;
            let refused = answers.iter().filter(|answer| *answer == &Err("unroutable".to_owned())).count();
            let done = answers.iter().filter(|answer| answer.is_ok()).count();
            assert_eq!((done, refused), (1, 2), "{body}: {answers:?}");
            let counts = p.b.count(&format!("SELECT count(*) FROM t WHERE id = {id}"));
            assert_eq!(counts.iter().filter(|count| *count == "[[1]]").count(), 1, "{body}: {counts:?}");
            let row = p.b.sql("SELECT id FROM t WHERE id = ?", json!([id])).await;
            assert_eq!(row["values"], json!([[id]]), "found by its key");
        }
    }
}

/// Rows without a key get one of the shard that is named, rows are changed where they are, and what is not on one
/// shard is refused.
#[tokio::test]
async fn what_may_be_asked_of_one_shard() {
    let p = pair().await;
    for answer in p.b.on_each(&json!({ "sql": "INSERT INTO t (n) VALUES (1), (2) RETURNING id" })).await {
        let answer = answer.unwrap();
        for row in answer[0]["values"].as_array().unwrap() {
            assert_eq!(p.b.sql("SELECT id FROM t WHERE id = ?", row.clone()).await["values"], json!([row]));
        }
    }
    let changed = p.b.on_each(&json!({ "sql": "UPDATE t SET n = n + 10 WHERE n = 1" })).await;
    assert!(changed.iter().all(|answer| answer.as_ref().unwrap()[0]["rows_affected"] == 1), "{changed:?}");
    for (sql, wanted) in [
        (
            "INSERT INTO t VALUES (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)",
            ["cross_shard_write"; 3],
        ),
        ("INSERT INTO t SELECT id + 100, n FROM t", ["unroutable"; 3]),
        ("UPDATE t SET id = id + 1", ["unroutable"; 3]),
        ("UPDATE t SET n = (SELECT max(n) FROM t)", ["unroutable"; 3]),
        ("INSERT INTO r VALUES (1, 1)", ["unroutable"; 3]),
        ("INSERT INTO h VALUES (1, 1)", ["", "unroutable", "unroutable"]),
        ("UPDATE h SET n = 2", ["", "unroutable", "unroutable"]),
    ] {
        let answers = p.b.on_each(&json!({ "sql": sql })).await;
        let codes: Vec<String> = answers.into_iter().map(|answer| answer.err().unwrap_or_default()).collect();
        assert_eq!(codes, wanted, "{sql}");
    }
    let reads = p.b.on_each(&json!({ "sql": "SELECT count(*) FROM t" })).await;
    assert!(reads.iter().all(|answer| answer.as_ref().unwrap()[0]["values"] == json!([[2]])), "{reads:?}");
    let hint = p.b.post("/sql?auto_route=false&shard=shard2", r#"{"sql":"UPDATE h SET n = 3"}"#).await.1;
    assert_eq!(hint["error"]["hint"], "leave out auto_route=false, or name shard=shard1", "{hint}");
}
