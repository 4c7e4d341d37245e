//! Registrations of each kind, and what goes on with them, against the fake node.

use super::*;

impl Bench {
    async fn register(&self, body: Json) -> Json {
        let (status, json) = self.post("/table/register", &body.to_string()).await;
        assert_eq!(status, 200, "{body}: {json}");
        json
    }
}

/// Range and list tables are registered, shown, written and read; the same registration again is no
/// error, and another one is.
#[tokio::test]
async fn ranges_and_lists() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE days (day TEXT NOT NULL PRIMARY KEY, n)", json!([])).await;
    b.sql("CREATE TABLE people (country TEXT NOT NULL COLLATE NOCASE, id INT)", json!([])).await;
    let days =
        json!({"table_name": "days", "shard_key": "day", "shard_func": "range", "split_points": ["2025", "2024"]});
    let shown = b.register(days.clone()).await;
    assert_eq!(shown["table"]["split_points"], json!(["2024", "2025"]), "{shown}");
    assert_eq!((&shown["table"]["shard_func"], &shown["table"]["slots"]), (&json!("range"), &json!(3)));
    let people = json!({"table_name": "people", "shard_key": "country", "shard_func": "list",
        "values": {"shard1": ["de", "fr"], "shard2": ["us"]}});
    b.register(people.clone()).await;
    assert_eq!(b.register(people).await["already_registered"], true);
    assert_eq!(b.register(days).await["already_registered"], true);
    let other = json!({"table_name": "days", "shard_key": "day", "shard_func": "range", "split_points": ["2025"]});
    assert_eq!(b.post("/table/register", &other.to_string()).await.0, 409);
    for n in 2022..2028 {
        b.sql("INSERT INTO days VALUES (?, 1)", json!([format!("{n}-06-01")])).await;
    }
    assert_eq!(b.count("SELECT count(*) FROM days"), ["[[2]]", "[[1]]", "[[3]]"]);
    assert_eq!(b.sql("SELECT count(*) FROM days", json!([])).await["values"], json!([[6]]));
    b.sql("INSERT INTO people VALUES ('DE', 1), ('fr', 2)", json!([])).await;
    b.sql("INSERT INTO people VALUES ('Us', 3)", json!([])).await;
    assert_eq!(b.count("SELECT count(*) FROM people"), ["[[2]]", "[[1]]", "[[0]]"]);
    assert_eq!(b.fails("INSERT INTO people VALUES ('jp', 4)").await, "unlisted_value");
    assert_eq!(b.sql("SELECT id FROM people WHERE country = 'us'", json!([])).await["values"], json!([[3]]));
    let (_, shown) = b.get("/table/people").await;
    let values: Vec<&Json> = shown["shards"].as_array().unwrap().iter().map(|shard| &shard["values"]).collect();
    assert_eq!(values, [&json!(["de", "fr"]), &json!(["us"]), &json!([])], "{shown}");
}

/// A list that names a thing twice is refused, and nothing is registered: of a shard that is named twice one share
/// would belong to nobody.
#[tokio::test]
async fn nothing_is_named_twice() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE t (a INTEGER NOT NULL, b INTEGER NOT NULL)", json!([])).await;
    for body in [
        json!({"shard_key": "a", "shards": ["shard2", "shard2"]}),
        json!({"shard_key": "a", "shards": ["shard1", "shard2", "shard1"]}),
        json!({"shard_key": ["a", "A"]}),
        json!({"shard_key": "a", "shard_func": "range", "split_points": [1, 2, 1]}),
        json!({"shard_key": "a", "shard_func": "list", "values": {"shard1": [1, 1]}}),
        json!({"shard_key": "a", "shard_func": "list", "values": {"shard1": [1], "shard2": [1]}}),
    ] {
        let mut body = body;
        body["table_name"] = json!("t");
        let (status, json) = b.post("/table/register", &body.to_string()).await;
        assert_eq!(status, 400, "{body}: {json}");
        assert!(json["error"]["message"].as_str().unwrap().contains("twice"), "{body}: {json}");
    }
    b.register(json!({"table_name": "t", "shard_key": "a", "shards": ["shard2"]})).await;
}

/// A write of a reference table reaches every copy once, whatever is repeated; a transaction of such
/// writes is one.
#[tokio::test]
async fn reference_tables() {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE TABLE countries (code TEXT PRIMARY KEY, name TEXT)", json!([])).await;
    let body = json!({"table_name": "countries", "shard_func": "reference"});
    b.register(body.clone()).await;
    assert_eq!(b.register(body).await["already_registered"], true);
    let wrong = r#"{"table_name":"countries","shard_key":"code"}"#;
    assert_eq!(b.post("/table/register", wrong).await.0, 409);
    let insert =
        json!({"sql": "INSERT INTO countries VALUES (?, ?) RETURNING name", "args": ["de", "Germany"]}).to_string();
    for _ in 0..2 {
        let (status, json) = b.call(Method::POST, "/execute", &insert, Some("one")).await;
        assert_eq!(status, 200, "{json}");
        assert_eq!(
            (&json["results"][0]["rows_affected"], &json["results"][0]["values"]),
            (&json!(1), &json!([["Germany"]]))
        );
    }
    assert_eq!(b.count("SELECT count(*) FROM countries"), ["[[1]]", "[[1]]", "[[1]]"]);
    assert_eq!(b.fails("INSERT INTO countries VALUES ('de', '')").await, "constraint");
    let both = json!({"transaction": true, "statements": [
        "INSERT INTO countries VALUES ('fr', 'France')", "UPDATE countries SET name = upper(name)"]});
    let (status, json) = b.call(Method::POST, "/execute", &both.to_string(), Some("two")).await;
    assert_eq!((status, &json["results"][1]["rows_affected"]), (200, &json!(2)), "{json}");
    assert_eq!(b.count("SELECT group_concat(name) FROM countries"), [r#"[["GERMANY,FRANCE"]]"#; 3]);
    // Beside a row of one shard, copies are read there.
    let (status, json) = b
        .post(
            "/execute",
            &json!({"transaction": true, "statements": [
        "SELECT count(*) FROM countries",
        "INSERT INTO users (id, name) VALUES (77, 'x')",
        "SELECT name FROM users WHERE id = 77",
        "SELECT name FROM countries WHERE code = 'de'"]})
            .to_string(),
        )
        .await;
    assert_eq!((status, &json["results"][3]["values"]), (200, &json!([["GERMANY"]])), "{json}");
    let mixed = json!({"transaction": true, "statements": ["DELETE FROM countries", "DELETE FROM users WHERE id = 1"]});
    let (status, json) = b.post("/execute", &mixed.to_string()).await;
    assert_eq!((status, &json["error"]["code"]), (400, &json!("cross_shard_write")), "{json}");
    assert_eq!(b.count("SELECT count(*) FROM countries"), ["[[2]]", "[[2]]", "[[2]]"]);
}

/// A write that was planned before the schema changed is planned anew, and still runs once.
#[tokio::test]
async fn stale_reference_writes_are_planned_anew() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE countries (code TEXT PRIMARY KEY, name TEXT)", json!([])).await;
    b.register(json!({"table_name": "countries", "shard_func": "reference"})).await;
    b.sql("INSERT INTO countries VALUES ('de', 'Germany')", json!([])).await;
    let other = Proxy::new(Arc::clone(&b.cluster), ProxyOptions::default());
    let second = Bench { node: Arc::clone(&b.node), cluster: Arc::clone(&b.cluster), proxy: other };
    second.sql("CREATE TABLE more (a)", json!([])).await;
    b.sql("INSERT INTO countries VALUES ('fr', 'France')", json!([])).await;
    assert_eq!(b.count("SELECT count(*) FROM countries"), ["[[2]]", "[[2]]", "[[2]]"]);
}
