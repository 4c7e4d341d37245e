//! Writes that read first, on real processes: what they give, and that they take effect once.

use flotilla_tests::harness::{Cluster, Layout};
use serde_json::{Value as Json, json};

/// Requests that are raced.
const KEYS: usize = 12;

/// Tries of each at the same time.
const TRIES: usize = 4;

/// Tries of one request that read different rows, at the same time and on both shards: one takes effect,
/// and all of them get its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_tries_takes_effect() {
    let mut cluster = Cluster::start(Layout { shards: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.create("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)", "users", "id", None).await;
    session.create("CREATE TABLE source (a INTEGER PRIMARY KEY)", "source", "", None).await;
    for key in 0..KEYS {
        // Where the row goes depends on what the try has read.
        let sql = format!(
            "INSERT INTO users (id, name) SELECT {key} * 1000000 + count(*), 'k{key}' FROM source RETURNING id"
        );
        let tries = (0..TRIES).map(|_| {
            let (mut session, body) = (cluster.session(), json!({ "query": sql }));
            tokio::spawn(async move { session.insist("/execute", &body, Some(&format!("key {key}"))).await })
        });
        let tries: Vec<_> = tries.collect();
        for _ in 0..TRIES {
            session.execute("INSERT INTO source DEFAULT VALUES", json!([])).await;
        }
        let mut answers: Vec<Json> = Vec::new();
        for one in tries {
            answers.push(one.await.expect("a try ends")["results"][0]["values"].take());
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "key {key}: {answers:?}");
        let found = session.rows("SELECT id FROM users WHERE name = ?", json!([format!("k{key}")])).await;
        assert_eq!(json!(found), answers[0], "key {key}");
    }
    cluster.contents().await;
}

/// Tables, views and rows made from queries over both shards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_over_shards() {
    let mut cluster = Cluster::start(Layout { shards: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.create("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)", "users", "id", None).await;
    session.create("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)", "notes", "", None).await;
    let partial = "/execute?allow_partial=true";
    let mut run = async |sql: &str| session.insist(partial, &json!({ "query": sql }), None).await["results"][0].take();
    let many = "INSERT INTO users WITH RECURSIVE c (a) AS (VALUES (1) UNION ALL SELECT a + 1 FROM c WHERE a < 1200) \
                SELECT a, 'n' || (a % 7) FROM c";
    assert_eq!(run(many).await["rows_affected"], 1200);
    assert_eq!(run("INSERT INTO notes SELECT max(id), name FROM users GROUP BY name").await["rows_affected"], 7);
    run("CREATE VIEW latest AS SELECT u.id, n.body FROM users u JOIN notes n ON n.id = u.id").await;
    run("CREATE VIEW names AS SELECT name FROM users").await;
    run("CREATE TABLE counts AS SELECT name, count(*) AS n FROM names GROUP BY name").await;
    run("REINDEX").await;
    assert_eq!(run("UPDATE users SET name = 'last' WHERE id IN (SELECT id FROM latest)").await["rows_affected"], 7);
    assert_eq!(run("UPDATE users SET id = id + 5000 WHERE name = 'last' RETURNING id").await["rows_affected"], 7);
    assert_eq!(
        run("DELETE FROM users WHERE id <= (SELECT avg(id) FROM users WHERE id < 1000)").await["rows_affected"],
        500
    );
    run("DROP VIEW names").await;
    assert_eq!(run("SELECT count(*), sum(n) FROM counts").await["values"], json!([[7, 1200]]));
    assert_eq!(run("SELECT count(*), max(id) FROM users").await["values"], json!([[700, 6200]]));
    cluster.contents().await;
}
