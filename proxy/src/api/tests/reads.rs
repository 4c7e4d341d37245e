//! Reads of several shards through the API, and their plans.

use super::*;

impl Bench {
    /// 40 rows over three shards, with NULLs and ties.
    async fn people(&self) {
        self.users().await;
        let rows: Vec<String> = (1..=40)
            .map(|id| match id % 7 {
                0 => format!("({id}, NULL, 'e{}')", id % 3),
                n => format!("({id}, 'name {n}', 'e{}')", id % 3),
            })
            .collect();
        let sql = format!("INSERT INTO users VALUES {}", rows.join(", "));
        let (status, json) = self.post("/sql?allow_partial=true", &json!({ "sql": sql }).to_string()).await;
        assert_eq!((status, &json["results"][0]["rows_affected"]), (200, &json!(40)), "{json}");
        self.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, user INT, body TEXT)", json!([])).await;
        self.sql("INSERT INTO notes (user, body) VALUES (1, 'a'), (2, 'b'), (2, 'c'), (99, 'd')", json!([])).await;
    }
}

/// Whatever a SELECT asks for, it gives what one SQLite with all rows gives.
#[tokio::test]
async fn any_select() {
    let b = Bench::new().await;
    b.people().await;
    let one = rusqlite::Connection::open_in_memory().unwrap();
    one.execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT); CREATE TABLE notes (id INTEGER PRIMARY KEY, user INT, body TEXT)").unwrap();
    for (table, width) in [("users", 3), ("notes", 3)] {
        let rows = b.sql(&format!("SELECT * FROM {table}"), json!([])).await;
        for row in rows["values"].as_array().unwrap() {
            let values = row.as_array().unwrap().iter().map(|v| flotilla_shared::value::Value::from_json(v).unwrap());
            let marks = vec!["?"; width].join(",");
            one.execute(&format!("INSERT INTO {table} VALUES ({marks})"), rusqlite::params_from_iter(values)).unwrap();
        }
    }
    for sql in [
        "SELECT count(*), count(name), min(id), max(name), avg(id), sum(id), total(id) FROM users",
        "SELECT name, count(*) AS n, avg(id) FROM users GROUP BY name HAVING n > 2 ORDER BY n DESC, name",
        "SELECT count(*) FROM users WHERE id > 1000",
        "SELECT DISTINCT email FROM users ORDER BY email DESC",
        "SELECT * FROM users ORDER BY name NULLS LAST, id DESC LIMIT 7 OFFSET 3",
        "SELECT count(DISTINCT email) FROM users",
        "SELECT group_concat(id) FROM (SELECT id FROM users ORDER BY id)",
        "SELECT u.id, body FROM users u LEFT JOIN notes n ON n.user = u.id ORDER BY u.id, body",
        "SELECT body, name FROM users u RIGHT JOIN notes n ON n.user = u.id ORDER BY body",
        "SELECT id FROM users WHERE id IN (SELECT user FROM notes) ORDER BY 1",
        "SELECT id, (SELECT count(*) FROM notes WHERE user = users.id) FROM users ORDER BY id",
        "SELECT id FROM users UNION SELECT user FROM notes ORDER BY 1",
        "SELECT id FROM users EXCEPT SELECT user FROM notes ORDER BY 1 DESC LIMIT 3",
        "SELECT id, rank() OVER (PARTITION BY email ORDER BY id DESC) FROM users ORDER BY id",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5) SELECT n, name FROM c JOIN users ON id = n ORDER BY n",
        "SELECT a.id, b.id FROM users a JOIN users b ON a.id = b.id + 1 WHERE a.name = 'name 3' ORDER BY 1",
        "SELECT id + 1 AS next FROM users WHERE name IS NULL ORDER BY next",
    ] {
        let answer = b.sql(sql, json!([])).await;
        let mut statement = one.prepare(sql).unwrap();
        let columns: Vec<String> = statement.column_names().map(|name| name.to_owned()).collect();
        let width = columns.len();
        let rows = statement.query_map([], |row| {
            (0..width)
                .map(|i| Ok(flotilla_shared::value::Value::from(row.get_ref(i)?).to_json()))
                .collect::<Result<Vec<_>, _>>()
        });
        let rows: Vec<Vec<Json>> = rows.unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!((&answer["columns"], &answer["values"]), (&json!(columns), &json!(rows)), "{sql}");
    }
}

/// What a merge may pull is bounded, by name.
#[tokio::test]
async fn pulls_are_bounded() {
    let mut b = Bench::new().await;
    b.people().await;
    let options = ProxyOptions { max_pulled_rows: 20, ..ProxyOptions::default() };
    b.proxy = Proxy::new(Arc::clone(&b.cluster), options);
    assert_eq!(b.fails("SELECT rank() OVER (ORDER BY name) FROM users").await, "too_large");
    assert_eq!(b.sql("SELECT count(name) FROM users", json!([])).await["values"], json!([[35]]));
}

/// A plan tells the shards, their slots, what they are asked and what finishes, at both levels.
#[tokio::test]
async fn plans_are_shown() {
    let b = Bench::new().await;
    b.people().await;
    let (status, json) = b.get("/explain?q=SELECT name, count(*) FROM users GROUP BY name").await;
    assert_eq!((status, &json["class"]), (200, &json!("merge")), "{json}");
    assert_eq!(json["steps"][0]["shards"].as_array().unwrap().len(), 3);
    assert_eq!(json["steps"][0]["shards"][0], json!({"shard": "shard1", "slots": 5462}));
    assert_eq!(
        json["text"],
        "shards do GROUP BY and partial aggregates, SQLite in the proxy finishes\n  \
         _flotilla_parts from shard1 (5462 slots), shard2 (5461 slots), shard3 (5461 slots): \
         SELECT NULL, name , count (*) FROM users GROUP BY name\n    \
         SCAN users\n    USE TEMP B-TREE FOR GROUP BY\n  \
         finish: SELECT _flotilla_g0 , ifnull(sum(_flotilla_p0), 0) FROM _flotilla_parts GROUP BY _flotilla_g0\n    \
         SCAN _flotilla_parts\n    USE TEMP B-TREE FOR GROUP BY"
    );
    let rows = b.sql("EXPLAIN QUERY PLAN SELECT * FROM users WHERE id = ?", json!([7])).await;
    let details: Vec<&Json> = rows["values"].as_array().unwrap().iter().map(|row| &row[3]).collect();
    assert_eq!(details.len(), 3, "{rows}");
    assert_eq!(details[0], "one shard runs it");
    assert_eq!(details[2], "SEARCH users USING INTEGER PRIMARY KEY (rowid=?)");
    let (_, json) = b.post("/explain", r#"{"sql":"UPDATE users SET name = 1"}"#).await;
    assert_eq!(
        (&json["class"], &json["steps"][0]["sql"]),
        (&json!("staged"), &json!("SELECT 1 FROM main.\"users\" LIMIT 1"))
    );
    let (_, json) = b.post("/explain", r#"{"sql":"DELETE FROM users WHERE id IN (SELECT max(id) FROM users)"}"#).await;
    assert_eq!((&json["class"], &json["read"]["class"]), (&json!("staged"), &json!("merge")), "{json}");
    let (_, json) = b.post("/explain", r#"{"sql":"INSERT INTO users (name) VALUES ('x')"}"#).await;
    assert_eq!(json["class"], "one");
    let (_, json) = b.post("/explain", r#"{"sql":"CREATE TABLE x (y)"}"#).await;
    assert_eq!(json["class"], "schema");
}

/// Views and triggers follow their tables; a trigger that would span placements is refused when it is
/// made.
#[tokio::test]
async fn views_live_beside_their_tables() {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, body)", json!([])).await;
    b.sql("CREATE VIEW names AS SELECT name FROM users", json!([])).await;
    assert_eq!(b.node.on_shard(3, "SELECT count(*) FROM names"), "[[0]]");
    b.sql("INSERT INTO users (id, name) VALUES (77, 'x')", json!([])).await;
    assert_eq!(b.sql("SELECT * FROM names", json!([])).await["values"], json!([["x"]]));
    b.sql("DROP VIEW names", json!([])).await;
    let log = "CREATE TRIGGER log AFTER INSERT ON users BEGIN INSERT INTO notes (body) VALUES (new.name); END";
    assert_eq!(b.fails(log).await, "unsafe_registration");
    b.sql("INSERT INTO users (id) VALUES (1000000)", json!([])).await;
}

/// A condition that no row can meet is answered without any shard: no rows, a row of aggregates, no
/// rows affected; also beside other statements in a transaction.
#[tokio::test]
async fn nothing_to_find() {
    let b = Bench::new().await;
    b.people().await;
    for (sql, args, values) in [
        ("SELECT * FROM users WHERE id = ?", json!([null]), json!([])),
        ("SELECT id, name, email FROM users WHERE id IN (1, 2) AND id = 3 ORDER BY name", json!([]), json!([])),
        ("SELECT count(*), max(name), 1 + 1 FROM users WHERE id = 1 AND id = 2", json!([]), json!([[0, null, 2]])),
    ] {
        let result = b.sql(sql, args).await;
        assert_eq!(result["values"], values, "{sql}");
    }
    let result = b.sql("SELECT id, name FROM users WHERE id = NULL", json!([])).await;
    assert_eq!(result["columns"], json!(["id", "name"]));
    assert_eq!(result["types"], json!(["integer", "text"]));
    let result = b.sql("DELETE FROM users WHERE id = NULL RETURNING name", json!([])).await;
    assert_eq!((&result["rows_affected"], &result["columns"]), (&json!(0), &json!(["name"])));
    let body = json!({ "transaction": true, "statements": [
        "SELECT count(*) FROM users WHERE id = NULL",
        "UPDATE users SET name = 'x' WHERE id = 4",
        "SELECT name FROM users WHERE id = 4 AND id = 5",
    ]});
    let (status, json) = b.post("/execute", &body.to_string()).await;
    assert_eq!(status, 200, "{json}");
    assert_eq!(json["results"][0]["values"], json!([[0]]));
    assert_eq!(json["results"][1]["rows_affected"], 1);
    assert_eq!(json["results"][2]["values"], json!([]));
}

/// What a connection holds and moves for each statement is small: large futures of rare cases are boxed.
#[tokio::test]
async fn a_statement_is_a_small_future() {
    const LARGEST_BYTES: usize = 5 << 10;
    let bench = Bench::new().await;
    let request = HttpRequest {
        method: Method::POST,
        path: "/sql".into(),
        params: vec![],
        headers: HeaderMap::new(),
        body: "\"SELECT 1\"".into(),
    };
    let answer = bench.proxy.handle(request);
    assert!(size_of_val(&answer) <= LARGEST_BYTES, "{} bytes", size_of_val(&answer));
    assert_eq!(answer.await.status(), 400);
}
