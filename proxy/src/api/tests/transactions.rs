//! Batches with `"transaction": true`: on one shard, all or nothing, reading what they wrote.

use serde_json::{Value as Json, json};

use super::Bench;

async fn bench() -> Bench {
    let b = Bench::new().await;
    b.sql("CREATE TABLE orders (o_id INTEGER PRIMARY KEY, total REAL, state TEXT)", json!([])).await;
    b.sql("CREATE TABLE items (o_id INT NOT NULL, line INT, price REAL, PRIMARY KEY (o_id, line))", json!([])).await;
    b.sql("CREATE TABLE log (id INTEGER PRIMARY KEY, what TEXT)", json!([])).await;
    b.shard("orders", json!("o_id"), None).await;
    b.shard("items", json!("o_id"), Some("orders")).await;
    b
}

impl Bench {
    async fn transaction(&self, statements: Json) -> (u16, Json) {
        self.post("/execute", &json!({ "statements": statements, "transaction": true }).to_string()).await
    }
}

/// Every kind of statement works inside and sees what those before it did.
#[tokio::test]
async fn all_kinds_of_statements() {
    let b = bench().await;
    let (status, json) = b
        .transaction(json!([
            ["INSERT INTO orders VALUES (?, 0, 'new') RETURNING o_id, state", 7],
            "INSERT INTO items VALUES (7, 1, 2.5), (7, 2, 4.0), (7, 3, 1.5)",
            "INSERT INTO items VALUES (7, 3, 9) ON CONFLICT (o_id, line) DO UPDATE SET price = price + excluded.price RETURNING price",
            "INSERT OR IGNORE INTO items VALUES (7, 1, 100)",
            "REPLACE INTO items VALUES (7, 2, 5.0)",
            "SELECT sum(price), count(*) FROM items WHERE o_id = 7",
            {"query": "UPDATE orders SET total = (SELECT sum(price) FROM items WHERE o_id = 7), state = :s WHERE o_id = 7 RETURNING total", "args": {"s": "done"}},
            "INSERT INTO items SELECT o_id, line + 10, price FROM items WHERE o_id = 7",
            "DELETE FROM items WHERE o_id = 7 AND line > 11 RETURNING line",
            "SELECT o_id, total, state FROM orders WHERE o_id = 7",
        ]))
        .await;
    assert_eq!(status, 200, "{json}");
    let r = &json["results"];
    assert_eq!(r[0]["values"], json!([[7, "new"]]));
    assert_eq!(r[1]["rows_affected"], 3);
    assert_eq!(r[2]["values"], json!([[10.5]]));
    assert_eq!(r[3]["rows_affected"], 0);
    assert_eq!(r[4]["rows_affected"], 1);
    assert_eq!(r[5]["values"], json!([[18.0, 3]]));
    assert_eq!((&r[6]["values"], &r[6]["rows_affected"]), (&json!([[18.0]]), &json!(1)));
    assert_eq!(r[7]["rows_affected"], 3);
    assert_eq!(r[8]["values"].as_array().unwrap().len(), 2);
    assert_eq!(r[9]["values"], json!([[7, 18.0, "done"]]));
    assert_eq!(b.sql("SELECT count(*) FROM items WHERE o_id = 7", json!([])).await["values"], json!([[4]]));
}

/// An error anywhere undoes all of it.
#[tokio::test]
async fn all_or_nothing() {
    let b = bench().await;
    b.sql("INSERT INTO orders VALUES (1, 5, 'old')", json!([])).await;
    let (status, json) = b
        .transaction(json!([
            "UPDATE orders SET total = total + 1 WHERE o_id = 1 RETURNING total",
            "INSERT INTO items VALUES (1, 1, 1)",
            "INSERT INTO items VALUES (1, 1, 2)",
        ]))
        .await;
    assert_eq!((status, &json["error"]["code"]), (409, &json!("constraint")), "{json}");
    assert_eq!(b.sql("SELECT total FROM orders", json!([])).await["values"], json!([[5.0]]));
    assert_eq!(b.sql("SELECT count(*) FROM items", json!([])).await["values"], json!([[0]]));
}

/// Home tables have transactions of their own, with any statement that SQLite has.
#[tokio::test]
async fn home_tables() {
    let b = bench().await;
    let (status, json) = b
        .transaction(json!([
            "INSERT INTO log (what) VALUES ('a'), ('b')",
            "INSERT INTO log (what) SELECT what || '!' FROM log RETURNING what",
            "UPDATE log SET what = (SELECT max(what) FROM log) WHERE id = (SELECT min(id) FROM log)",
            "SELECT group_concat(what) FROM (SELECT what FROM log ORDER BY id)",
            "SELECT 1 + 1",
        ]))
        .await;
    assert_eq!(status, 200, "{json}");
    assert_eq!(json["results"][3]["values"], json!([["b!,b,a!,b!"]]));
    assert_eq!(json["results"][4]["values"], json!([[2]]));
}

/// What would take several shards, or rows that must be read first, is refused whole and by name.
#[tokio::test]
async fn refusals() {
    let b = bench().await;
    for id in 1..=8 {
        b.sql("INSERT INTO orders VALUES (?, 1, 'x')", json!([id])).await;
    }
    for second in [
        "INSERT INTO log (what) SELECT state FROM orders",
        "UPDATE orders SET state = 'y'",
        "UPDATE orders SET o_id = 99 WHERE o_id = 1",
        "DELETE FROM orders WHERE o_id IN (SELECT id FROM log)",
        "SELECT count(*) FROM orders",
    ] {
        let (status, json) = b.transaction(json!(["UPDATE orders SET total = 2 WHERE o_id = 1", second])).await;
        assert_eq!((status, &json["error"]["code"]), (400, &json!("cross_shard_write")), "{second}: {json}");
        assert!(json["error"]["message"].as_str().unwrap().contains("statement 2"), "{json}");
    }
    let (_, json) = b.transaction(json!(["UPDATE orders SET total = 2 WHERE o_id = 1", "DROP TABLE orders"])).await;
    assert_eq!(json["error"]["code"], "unroutable");
    assert_eq!(b.sql("SELECT sum(total) FROM orders", json!([])).await["values"], json!([[8.0]]));
    assert_eq!(b.sql("SELECT count(*) FROM log", json!([])).await["values"], json!([[0]]));
}
