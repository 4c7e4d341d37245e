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
