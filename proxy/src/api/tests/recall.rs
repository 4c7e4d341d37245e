//! A request is repeated after its rows moved apart, or together: it is applied once.

use hyper::Method;
use serde_json::{Value as Json, json};

use super::Bench;

/// Users 1 to 60, and the ids of those on the first shard.
async fn bench() -> (Bench, Vec<i64>) {
    let b = Bench::new().await;
    b.users().await;
    for id in 1..=60 {
        b.sql("INSERT INTO users (id, name, email) VALUES (?, '', '')", json!([id])).await;
    }
    let ids: Vec<(i64,)> = serde_json::from_str(&b.node.on_shard(1, "SELECT id FROM users ORDER BY id")).unwrap();
    (b, ids.into_iter().map(|(id,)| id).collect())
}

fn grow(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
    format!("UPDATE users SET name = name || 'x' WHERE id IN ({})", ids.join(","))
}

impl Bench {
    /// Waits until the proxy has the newest map.
    async fn known(&self) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        self.cluster.refresh(deadline).await.unwrap();
    }

    /// The lengths of all names together: how often names grew.
    async fn grown(&self) -> Json {
        self.sql("SELECT sum(length(name)) FROM users", json!([])).await["values"][0][0].take()
    }

    async fn keyed_transaction(&self, statements: Json, key: &str) -> (u16, Json) {
        let body = json!({ "statements": statements, "transaction": true }).to_string();
        self.call(Method::POST, "/execute", &body, Some(key)).await
    }
}

/// A write of two rows that were on one shard gives its first result when they no longer are, on
/// whichever shards they have come to by then, with and without `allow_partial`.
#[tokio::test]
async fn rows_moved_apart() {
    for target in ["/sql", "/sql?allow_partial=true"] {
        let (b, ids) = bench().await;
        let sql = grow(&ids[..2]);
        let first = b.keyed(target, &sql, "k").await;
        assert_eq!((first.0, &first.1["results"][0]["rows_affected"]), (200, &json!(2)), "{}", first.1);
        for (from, to, moved) in [(1, 2, 0), (1, 3, 1), (2, 3, 0), (3, 2, 1), (2, 1, 0), (2, 1, 1)] {
            b.node.move_ids("users", from, to, &ids[moved..=moved]);
            b.known().await;
            assert_eq!(b.keyed(target, &sql, "k").await, first, "{target}, after {moved} went to {to}");
        }
        assert_eq!(b.grown().await, 2);
    }
}

/// What was refused because its rows were on several shards is not applied by a try that comes late,
/// but by one that finds them together, once.
#[tokio::test]
async fn rows_moved_together() {
    let (b, ids) = bench().await;
    let sql = grow(&ids[..2]);
    b.node.move_ids("users", 1, 2, &ids[..1]);
    b.known().await;
    let (status, json) = b.keyed("/sql", &sql, "k").await;
    assert_eq!((status, &json["error"]["code"]), (400, &json!("cross_shard_write")), "{json}");
    assert_eq!(b.grown().await, 0);
    b.node.move_ids("users", 2, 1, &ids[..1]);
    b.known().await;
    let first = b.keyed("/sql", &sql, "k").await;
    assert_eq!((first.0, &first.1["results"][0]["rows_affected"]), (200, &json!(2)), "{}", first.1);
    assert_eq!(b.keyed("/sql", &sql, "k").await, first);
    assert_eq!(b.grown().await, 2);
    b.node.move_ids("users", 1, 3, &ids[..1]);
    b.known().await;
    assert_eq!(b.keyed("/sql", &sql, "k").await, first);
    assert_eq!(b.grown().await, 2);
}

/// With `allow_partial` a write of several shards is applied once to each row, wherever the rows are
/// when it is repeated.
#[tokio::test]
async fn parts_that_moved() {
    let (b, ids) = bench().await;
    b.node.move_ids("users", 1, 2, &ids[..1]);
    b.known().await;
    let sql = grow(&ids[..3]);
    let first = b.keyed("/sql?allow_partial=true", &sql, "k").await;
    assert_eq!((first.0, &first.1["results"][0]["rows_affected"]), (200, &json!(3)), "{}", first.1);
    for (from, to, moved) in [(2, 3, 0), (1, 3, 1), (1, 3, 2), (3, 1, 0), (3, 2, 1)] {
        b.node.move_ids("users", from, to, &ids[moved..=moved]);
        b.known().await;
        assert_eq!(b.keyed("/sql?allow_partial=true", &sql, "k").await, first, "after {moved} went to {to}");
    }
    assert_eq!(b.grown().await, 3);
}

/// A write that reads its own table runs on one shard as long as that has all rows, and in steps after.
#[tokio::test]
async fn from_one_shard_to_steps() {
    let b = Bench::new().await;
    b.users().await;
    b.node.move_all("users", 2, 1);
    b.node.move_all("users", 3, 1);
    b.known().await;
    b.sql("INSERT INTO users (id, name) VALUES (1, ''), (2, ''), (3, ''), (4, '')", json!([])).await;
    let sql = "UPDATE users SET name = name || (SELECT count(*) FROM users) WHERE id = 3";
    let first = b.keyed("/sql", sql, "k").await;
    assert_eq!((first.0, &first.1["results"][0]["rows_affected"]), (200, &json!(1)), "{}", first.1);
    b.node.move_ids("users", 1, 3, &[1, 3]);
    b.known().await;
    assert_eq!(b.keyed("/sql", sql, "k").await, first);
    assert_eq!(b.sql("SELECT name FROM users WHERE id = 3", json!([])).await["values"], json!([["4"]]));
    let other = b.keyed("/sql", sql, "other").await;
    assert_eq!(other.0, 200, "{}", other.1);
    assert_eq!(b.keyed("/sql", sql, "other").await, other);
    assert_eq!(b.sql("SELECT name FROM users WHERE id = 3", json!([])).await["values"], json!([["44"]]));
}

/// The same for a batch: each of its statements has an id of its own.
#[tokio::test]
async fn a_batch() {
    let (b, ids) = bench().await;
    let body = json!({ "statements": [grow(&ids[..2]), grow(&ids[1..2]), grow(&ids[2..4])] }).to_string();
    for target in ["/execute", "/execute?allow_partial=true"] {
        let first = b.call(Method::POST, target, &body, Some(target)).await;
        assert_eq!(first.0, 200, "{}", first.1);
        b.node.move_ids("users", 1, 3, &ids[1..3]);
        assert_eq!(b.call(Method::POST, target, &body, Some(target)).await, first, "{target}");
        b.node.move_ids("users", 3, 1, &ids[1..3]);
        assert_eq!(b.call(Method::POST, target, &body, Some(target)).await, first, "{target}");
    }
    assert_eq!(b.grown().await, 10);
}

/// A transaction whose rows moved apart gives its first results; one that never took effect is refused,
/// and no late try of it is applied.
#[tokio::test]
async fn a_transaction() {
    let (b, ids) = bench().await;
    let read = format!("SELECT length(name) FROM users WHERE id = {}", ids[0]);
    let statements = json!([grow(&ids[..2]), read, format!("{} RETURNING id", grow(&ids[1..2]))]);
    let first = b.keyed_transaction(statements.clone(), "k").await;
    assert_eq!(first.0, 200, "{}", first.1);
    b.node.move_ids("users", 1, 2, &ids[..1]);
    b.known().await;
    assert_eq!(b.keyed_transaction(statements.clone(), "k").await, first);
    let (status, json) = b.keyed_transaction(statements.clone(), "never").await;
    assert_eq!((status, &json["error"]["code"]), (400, &json!("cross_shard_write")), "{json}");
    b.node.move_ids("users", 2, 1, &ids[..1]);
    b.known().await;
    assert_eq!(b.keyed_transaction(statements.clone(), "k").await, first);
    let (status, json) = b.keyed_transaction(statements, "never").await;
    assert_eq!((status, &json["error"]["code"]), (409, &json!("conflict")), "{json}");
    assert_eq!(b.grown().await, 3);
    assert_eq!(b.keyed_transaction(json!([]), "empty").await.0, 200);
}
