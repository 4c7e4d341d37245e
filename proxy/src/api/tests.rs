//! Calls of the API against a fake node with three shards.

mod aggregates;
mod batch;
mod by_key;
mod fuzz;
mod kv;
mod moment;
mod once;
mod pinned;
mod placements;
mod random_writes;
mod reads;
mod rebalance;
mod recall;
mod repeats;
mod schema;
mod scripts;
mod split;
mod stream;
mod strict;
mod transactions;
mod unready;
mod values;
mod writes;

use std::sync::Arc;

use flotilla_shared::client::Cluster;
use flotilla_shared::http::HttpRequest;
use http_body_util::BodyExt;
use hyper::{HeaderMap, Method};
use serde_json::{Value as Json, json};

use crate::testing::fake::FakeNode;
use crate::{Proxy, ProxyOptions};

struct Bench {
    node: Arc<FakeNode>,
    cluster: Arc<Cluster>,
    proxy: Arc<Proxy>,
}

impl Bench {
    async fn new() -> Self {
        Self::with(3, ProxyOptions::default()).await
    }

    async fn with(shards: u32, options: ProxyOptions) -> Self {
        let (node, cluster) = FakeNode::start(shards).await;
        Self { node, proxy: Proxy::new(Arc::clone(&cluster), options), cluster }
    }

    async fn call(&self, method: Method, target: &str, body: &str, key: Option<&str>) -> (u16, Json) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert("idempotency-key", key.parse().unwrap());
        }
        let params = query.split('&').filter_map(|pair| pair.split_once('='));
        let request = HttpRequest {
            method,
            path: path.to_owned(),
            params: params.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            headers,
            body: body.to_owned().into(),
        };
        let response = self.proxy.handle(request).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Json) {
        self.call(Method::POST, path, body, None).await
    }

    async fn get(&self, target: &str) -> (u16, Json) {
        self.call(Method::GET, target, "", None).await
    }

    /// The one result of a statement that must work.
    async fn sql(&self, sql: &str, args: Json) -> Json {
        let (status, mut json) = self.post("/sql", &json!({ "sql": sql, "args": args }).to_string()).await;
        assert_eq!(status, 200, "{sql}: {json}");
        json["results"][0].take()
    }

    /// The code of the error that a statement must give.
    async fn fails(&self, sql: &str) -> String {
        let (status, json) = self.post("/sql", &json!({ "sql": sql }).to_string()).await;
        assert!(status >= 400, "{sql}: {json}");
        json["error"]["code"].as_str().unwrap().to_owned()
    }

    async fn users(&self) {
        self.sql("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT)", json!([])).await;
        let (status, json) =
            self.post("/table/register", r#"{"table_name":"users","shard_key":"id","shard_func":"hash"}"#).await;
        assert_eq!((status, &json["state"]), (200, &json!("done")), "{json}");
    }

    fn count(&self, sql: &str) -> Vec<String> {
        (1..=3).map(|shard| self.node.on_shard(shard, sql)).collect()
    }
}

/// The calls of the README, in their order, give what one SQLite would.
#[tokio::test]
async fn the_calls_of_the_readme() {
    let b = Bench::new().await;
    let (status, json) = b
        .post(
            "/execute",
            r#"{"query":"CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT, email TEXT)"}"#,
        )
        .await;
    assert_eq!((status, json), (200, json!({"results":[{"last_insert_id":0,"rows_affected":0,"job":"1"}]})));
    let (_, json) =
        b.post("/execute", r#"{"query":"CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY)"}"#).await;
    assert_eq!(json, json!({"results":[{"last_insert_id":0,"rows_affected":0}]}), "no job for what is there");
    let (status, json) =
        b.post("/table/register", r#"{"table_name":"users", "shard_key":"id", "shard_func":"hash"}"#).await;
    assert_eq!((status, &json["table"]["shard_key"]), (200, &json!(["id"])), "{json}");
    let (status, json) = b.post("/table/register", r#"{"table_name":"users", "shard_key":"id"}"#).await;
    assert_eq!((status, &json["already_registered"]), (200, &json!(true)));
    let (status, json) = b.post("/table/register", r#"{"table_name":"users", "shard_key":["name"]}"#).await;
    assert_eq!((status, &json["error"]["code"]), (409, &json!("already_registered")));
    let (status, json) = b.post("/table/add-to-shard", r#"{"table_name":"users", "shard_id":"shard1"}"#).await;
    assert_eq!((status, &json["already_there"]), (200, &json!(true)));
    let (status, json) = b
        .post(
            "/execute",
            r#"{"query":"INSERT INTO users (name, email) VALUES (?, ?)", "args":["John Doe", "john@example.com"]}"#,
        )
        .await;
    assert_eq!((status, &json["results"][0]["rows_affected"]), (200, &json!(1)), "{json}");
    assert!(json["results"][0]["last_insert_id"].as_i64().unwrap() > 0);
    let body = r#"{"query":"INSERT INTO users (id, name, email) VALUES (?, ?, ?)", "args":["456", "Jane Doe", "jane@example.com"]}&auto_route=true"#;
    let (status, json) = b.post("/execute", body).await;
    assert_eq!((status, json), (200, json!({"results":[{"last_insert_id":456,"rows_affected":1}]})));
    let (status, json) = b.get("/query?q=SELECT * FROM users WHERE id=456&auto_route=true").await;
    assert_eq!(
        (status, &json["results"][0]["values"]),
        (200, &json!([[456, "Jane Doe", "jane@example.com"]])),
        "{json}"
    );
    let (_, json) = b.post("/sql", r#"{"sql":"SELECT * FROM users"}"#).await;
    assert_eq!(json["results"][0]["values"].as_array().unwrap().len(), 2);
    assert_eq!(json["results"][0]["columns"], json!(["id", "name", "email"]));
    let (status, json) = b.get("/status").await;
    assert_eq!((status, &json["nodes"][0]["state"]), (200, &json!("up")), "{json}");
    assert_eq!(json["tables"][0]["key"], json!(["id"]));
    let (status, json) = b.get("/table/users").await;
    let rows: i64 = json["shards"].as_array().unwrap().iter().map(|s| s["rows"].as_i64().unwrap()).sum();
    assert_eq!((status, rows), (200, 2), "{json}");
}

/// A retry with the same Idempotency-Key is applied once, also when the first answer was lost and
/// the row had no key, and answers the same.
#[tokio::test]
async fn a_retry_is_applied_once() {
    let b = Bench::new().await;
    b.users().await;
    let body = r#"{"query":"INSERT INTO users (name) VALUES ('x') RETURNING id"}"#;
    let first = b.call(Method::POST, "/execute", body, Some("k1")).await;
    assert_eq!(b.call(Method::POST, "/execute", body, Some("k1")).await, first);
    b.node.lose_answers(1);
    let (status, _) = b.call(Method::POST, "/execute?timeout=300", body, Some("k2")).await;
    assert_eq!(status, 504);
    let again = b.call(Method::POST, "/execute", body, Some("k2")).await;
    assert_eq!(again.0, 200, "{}", again.1);
    assert_eq!(b.sql("SELECT * FROM users", json!([])).await["values"].as_array().unwrap().len(), 2);
    assert_eq!(b.node.applied(), 2);
}

/// Integer keys that were given explicitly do not get in the way of generated ones.
#[tokio::test]
async fn generated_keys_step_over_explicit_ones() {
    let b = Bench::new().await;
    b.users().await;
    for id in 1..40 {
        b.sql("INSERT INTO users (id, name) VALUES (?, 'explicit')", json!([id])).await;
    }
    for form in [
        "INSERT INTO users (name) VALUES ('new')",
        "REPLACE INTO users (name) VALUES ('new')",
        "INSERT OR IGNORE INTO users (name) VALUES ('new')",
    ] {
        for _ in 0..5 {
            let result = b.sql(form, json!([])).await;
            assert!(result["last_insert_id"].as_i64().unwrap() >= 40, "{form}: {result}");
        }
    }
    let rows = b.sql("SELECT * FROM users", json!([])).await;
    assert_eq!(rows["values"].as_array().unwrap().len(), 39 + 15);
    b.sql("CREATE UNIQUE INDEX one_name ON users (id, name)", json!([])).await;
    assert_eq!(b.fails("INSERT INTO users (id, name) VALUES (1, 'again')").await, "constraint");
    assert_eq!(b.fails("CREATE UNIQUE INDEX one_mail ON users (email)").await, "unsafe_registration");
    assert_eq!(b.fails("ALTER TABLE users DROP COLUMN id").await, "sql_error");
    b.sql("CREATE INDEX by_mail ON users (email)", json!([])).await;
    b.sql("ALTER TABLE users ADD COLUMN age INT", json!([])).await;
    b.sql("DROP INDEX by_mail", json!([])).await;
    b.sql("ANALYZE users", json!([])).await;
}

/// Rows without keys of one statement stay together, so that the statement is atomic.
#[tokio::test]
async fn rows_without_keys_stay_together() {
    let b = Bench::new().await;
    b.users().await;
    for n in 0..20 {
        let result = b.sql("INSERT INTO users (name) VALUES (?1), (?1), (?1), (?1)", json!([n])).await;
        assert_eq!(result["rows_affected"], 4);
    }
    let (status, json) = b
        .post("/execute", r#"{"transaction":true,"statements":["INSERT INTO users (name) VALUES ('a')",["INSERT INTO users (name) VALUES (?)","b"],"INSERT INTO users (name) VALUES ('c'), ('d')"]}"#)
        .await;
    assert_eq!(status, 200, "{json}");
    let counts = b.count("SELECT count(*) FROM users");
    assert!(counts.iter().all(|count| count != "[[0]]"), "{counts:?}");
    let ids = b.sql("SELECT id FROM users", json!([])).await;
    let mut ids: Vec<i64> = ids["values"].as_array().unwrap().iter().map(|row| row[0].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 84, "each key once");
}

/// A map that is out of date costs a new plan, and neither a wrong row nor an error.
#[tokio::test]
async fn a_stale_map_is_planned_again() {
    let b = Bench::new().await;
    b.users().await;
    for id in 1..=30 {
        b.sql("INSERT INTO users (id, name) VALUES (?, 'x')", json!([id])).await;
    }
    b.node.hold_registry(true);
    b.node.move_all("users", 2, 3);
    let release = async {
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        b.node.hold_registry(false);
    };
    let reads = async {
        for id in 1..=30 {
            let row = b.sql("SELECT name FROM users WHERE id = ?", json!([id])).await;
            assert_eq!(row["values"], json!([["x"]]));
        }
        b.sql("SELECT id FROM users", json!([])).await
    };
    let (rows, ()) = tokio::join!(reads, release);
    assert_eq!(rows["values"].as_array().unwrap().len(), 30, "each row once");
    let (status, json) = b.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(json.as_str().unwrap().contains("flotilla_proxy_retries_total{reason=\"stale_route\"}"), "{json}");
}

/// A batch runs in order, each statement for itself; an error stays in its place.
#[tokio::test]
async fn batches() {
    let b = Bench::new().await;
    let body = json!({"statements": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n UNIQUE)",
        ["INSERT INTO t (n) VALUES (?)", 1],
        ["INSERT INTO t (n) VALUES (?)", 1],
        {"query": "INSERT INTO t (n) VALUES (:n)", "args": {"n": 2}},
        "SELECT n FROM t ORDER BY n",
        "nonsense",
        "INSERT INTO t (n) VALUES (?)",
        "UPDATE t SET n = n + 10",
        "SELECT sum(n) FROM t",
    ]});
    let (status, json) = b.post("/execute", &body.to_string()).await;
    assert_eq!(status, 200, "{json}");
    let r = &json["results"];
    assert_eq!(r[1]["last_insert_id"], 1);
    assert_eq!(r[2]["error"]["code"], "constraint");
    assert_eq!(r[3]["rows_affected"], 1);
    assert_eq!(r[4]["values"], json!([[1], [2]]));
    assert_eq!(r[5]["error"]["code"], "sql_error");
    assert_eq!(r[6]["error"]["code"], "wrong_arg_count");
    assert_eq!(r[7]["rows_affected"], 2);
    assert_eq!(r[8]["values"], json!([[23]]));
}

/// Statements of a wave go to their shards together and come back in order.
#[tokio::test]
async fn waves() {
    let b = Bench::new().await;
    b.users().await;
    let statements: Vec<Json> =
        (1..=100).map(|id| json!(["INSERT INTO users (id, name) VALUES (?, ?) RETURNING id", id, "n"])).collect();
    let (_, json) = b.post("/execute", &json!(statements).to_string()).await;
    for (n, result) in json["results"].as_array().unwrap().iter().enumerate() {
        assert_eq!(result["values"], json!([[n + 1]]), "{result}");
    }
    let counts = b.count("SELECT count(*) > 0 FROM users");
    assert_eq!(counts, ["[[1]]", "[[1]]", "[[1]]"]);
}

/// A transaction is all or nothing, on one shard, and reads what it wrote.
#[tokio::test]
async fn transactions() {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, body UNIQUE)", json!([])).await;
    let run = |statements: Json| {
        let body = json!({"statements": statements, "transaction": true}).to_string();
        let b = &b;
        async move { b.post("/execute", &body).await }
    };
    let (_, json) = run(json!([
        "INSERT INTO notes (body) VALUES ('a')",
        "SELECT count(*) FROM notes",
        "UPDATE notes SET body = 'b'"
    ]))
    .await;
    assert_eq!(json["results"][1]["values"], json!([[1]]), "{json}");
    let (status, json) =
        run(json!(["INSERT INTO notes (body) VALUES ('c')", "INSERT INTO notes (body) VALUES ('b')"])).await;
    assert_eq!((status, &json["error"]["code"]), (409, &json!("constraint")));
    assert_eq!(b.sql("SELECT count(*) FROM notes", json!([])).await["values"], json!([[1]]));
    let (status, json) = run(json!([
        "INSERT INTO users (id) VALUES (1)",
        "INSERT INTO users (id) VALUES (2)",
        "INSERT INTO users (id) VALUES (3)",
        "INSERT INTO users (id) VALUES (4)"
    ]))
    .await;
    assert_eq!((status, &json["error"]["code"]), (400, &json!("cross_shard_write")), "{json}");
    let (status, json) =
        run(json!(["UPDATE users SET name = 'z' WHERE id = 7", "SELECT name FROM users WHERE id = '7'"])).await;
    assert_eq!(status, 200, "{json}");
}

/// What one proxy created another one sees at once.
#[tokio::test]
async fn a_table_made_elsewhere_is_found() {
    let b = Bench::new().await;
    assert_eq!(b.fails("SELECT * FROM t").await, "no_such_table");
    b.sql("CREATE TABLE t (a)", json!([])).await;
    assert_eq!(b.sql("SELECT * FROM t", json!([])).await, json!({"columns": ["a"], "types": [""], "values": []}));
    assert_eq!(b.fails("CREATE TABLE t (a)").await, "sql_error");
    assert_eq!(b.sql("DROP TABLE IF EXISTS nope", json!([])).await.get("job"), None);
    b.sql("CREATE VIEW v AS SELECT a FROM t", json!([])).await;
    assert_eq!(b.sql("SELECT count(*) FROM v", json!([])).await["values"], json!([[0]]));
    b.sql("DROP VIEW v", json!([])).await;
    b.sql("ALTER TABLE t ADD COLUMN b TEXT", json!([])).await;
    assert_eq!(b.sql("PRAGMA table_info(t)", json!([])).await["values"].as_array().unwrap().len(), 2);
    b.sql("DROP TABLE t", json!([])).await;
    assert_eq!(b.fails("SELECT * FROM t").await, "no_such_table");
}

/// Bad requests are refused by name and leave the proxy working.
#[tokio::test]
async fn bad_requests() {
    let b = Bench::new().await;
    for (method, target, body, status, code) in [
        (Method::POST, "/execute", "{", 400, "bad_request"),
        (Method::POST, "/execute", "", 400, "bad_request"),
        (Method::POST, "/execute", "[1]", 400, "bad_request"),
        (Method::POST, "/execute", r#"{"query":"SELECT 1","args":[[1]]}"#, 400, "bad_request"),
        (Method::POST, "/execute?timeout=soon", r#"{"query":"SELECT 1"}"#, 400, "bad_request"),
        (Method::POST, "/execute?auto_route=false", r#"{"query":"SELECT 1"}"#, 400, "bad_request"),
        (Method::POST, "/execute?auto_route=false&shard=shard9", r#"{"query":"SELECT 1"}"#, 404, "no_such_object"),
        (Method::POST, "/query", r#"{"query":"CREATE TABLE t (a)"}"#, 400, "not_a_read"),
        (Method::GET, "/query", "", 400, "bad_request"),
        (Method::GET, "/query?q=SELECT 1&level=maybe", "", 400, "bad_request"),
        (Method::GET, "/execute", "", 405, "method_not_allowed"),
        (Method::GET, "/nothing", "", 404, "not_found"),
        (Method::POST, "/table/rebalance", "{}", 400, "bad_request"),
        (Method::POST, "/table/rebalance", r#"{"table_name":"nope"}"#, 404, "no_such_table"),
        (Method::POST, "/job/7/cancel", "", 404, "no_such_object"),
        (Method::POST, "/job/7/explode", "", 404, "not_found"),
        (Method::GET, "/job/7/cancel", "", 405, "method_not_allowed"),
        (Method::POST, "/join", "{}", 400, "bad_request"),
        (Method::POST, "/shard", r#"{"nodes":[9]}"#, 404, "no_such_object"),
        (Method::GET, "/job/99", "", 404, "no_such_object"),
        (Method::GET, "/table/nope", "", 404, "no_such_table"),
        (Method::POST, "/table/register", r#"{"table_name":"nope","shard_key":"a"}"#, 404, "no_such_table"),
        (
            Method::POST,
            "/table/register",
            r#"{"table_name":"nope","shard_key":"a","shard_func":"range"}"#,
            400,
            "bad_request",
        ),
        (Method::POST, "/table/register", r#"{"shard_key":"a"}"#, 400, "bad_request"),
        (Method::POST, "/remove", r#"{"node":77}"#, 404, "no_such_object"),
    ] {
        let (got, json) = b.call(method.clone(), target, body, None).await;
        assert_eq!((got, json["error"]["code"].as_str()), (status, Some(code)), "{method} {target} {body}: {json}");
    }
    let big = "x".repeat(5 << 20);
    b.sql("CREATE TABLE t (a)", json!([])).await;
    let (status, json) =
        b.post("/execute", &json!({"query": "INSERT INTO t VALUES (?)", "args": [big]}).to_string()).await;
    assert_eq!((status, &json["error"]["code"]), (413, &json!("too_large")));
    for target in ["/healthz", "/readyz", "/shard", "/node", "/job", "/job/1", "/table", "/table/t", "/metrics"] {
        assert_eq!(b.get(target).await.0, 200, "{target}");
    }
    assert_eq!(b.sql("SELECT count(*) FROM t", json!([])).await["values"], json!([[0]]));
}

/// With allow_partial a write on several shards is done shard by shard; else it is refused.
#[tokio::test]
async fn partial_writes() {
    let b = Bench::new().await;
    b.users().await;
    let rows =
        json!({"query": "INSERT INTO users (id, name) VALUES (1,'a'),(2,'b'),(3,'c'),(4,'d'),(5,'e')"}).to_string();
    let (status, json) = b.post("/execute", &rows).await;
    assert_eq!((status, &json["error"]["code"]), (400, &json!("cross_shard_write")));
    let (status, json) = b.post("/execute?allow_partial=true", &rows).await;
    assert_eq!((status, json), (200, json!({"results":[{"last_insert_id":5,"rows_affected":5}]})));
    b.sql("DELETE FROM users WHERE id IN (1, 1.0)", json!([])).await;
    let (status, json) = b.post("/execute?allow_partial=true", &rows).await;
    assert!(status == 409 || json["results"][0]["partial"] == true, "{json}");
    let (_, json) = b.post("/execute?allow_partial=true", r#"{"query":"UPDATE users SET name = 'z'"}"#).await;
    assert_eq!(
        json["results"][0]["rows_affected"],
        b.sql("SELECT * FROM users WHERE name = 'z'", json!([])).await["values"].as_array().unwrap().len()
    );
}

/// Whatever is not refused gives what one SQLite with all rows gives: random statements from a
/// fixed seed over a table with a NOCASE text key, rows compared as sets.
#[tokio::test]
async fn differential() {
    let b = Bench::new().await;
    let one = rusqlite::Connection::open_in_memory().unwrap();
    let ddl = "CREATE TABLE t (k TEXT COLLATE NOCASE, n, PRIMARY KEY (k, n))";
    one.execute_batch(ddl).unwrap();
    b.sql(ddl, json!([])).await;
    assert_eq!(b.post("/table/register", r#"{"table_name":"t","shard_key":"k"}"#).await.0, 200);
    let keys = [
        "'a'", "'A'", "5", "'5'", "5.0", "'5.0'", "x'61'", "''", "' '", "'b '", "\"zz\"", "0x5", "-1", "'é'", "'É'",
        "1e3", "NULL",
    ];
    let mut state = 7_u64;
    let mut pick = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut same, mut refused) = (0, 0);
    for round in 0..1500 {
        let (k, l, n) = (keys[pick(keys.len())], keys[pick(keys.len())], pick(9));
        let sql = match pick(12) {
            0..=3 => format!("INSERT OR IGNORE INTO t VALUES ({k}, {n})"),
            4 => format!("UPDATE OR IGNORE t SET n = n + 1 WHERE k = {k} AND n < {n} RETURNING *"),
            5 => format!("DELETE FROM t WHERE {k} = k AND n = {n}"),
            6 => format!("SELECT k, n FROM t WHERE k IN ({k}, {l}) AND n > {n}"),
            7 => format!("SELECT n, typeof(k) FROM t WHERE t.k IS {k} AND (n = {n} OR n > 3)"),
            8 => format!("SELECT count(*), sum(n) FROM t WHERE k == {k}"),
            9 => format!("SELECT * FROM t WHERE k = {k} OR k = {l}"),
            10 => format!("SELECT upper(k) FROM t WHERE k = {k} COLLATE BINARY"),
            _ => format!("REPLACE INTO t (n, k) VALUES ({n}, {k}), ({n} + 1, {k})"),
        };
        let (status, json) = b.post("/sql", &json!({ "sql": sql }).to_string()).await;
        if status != 200 {
            let code = json["error"]["code"].as_str().unwrap();
            assert!(["cross_shard_write", "no_shard_key", "sql_error"].contains(&code), "{sql}: {json}");
            refused += 1;
            continue;
        }
        let mut wanted = one.prepare(&sql).unwrap();
        let width = wanted.column_count();
        let mut values = Vec::new();
        let mut rows = wanted.raw_query();
        while let Some(row) = rows.next().unwrap() {
            let cells: Vec<Json> =
                (0..width).map(|i| flotilla_shared::value::Value::from(row.get_ref(i).unwrap()).to_json()).collect();
            values.push(json!(cells).to_string());
        }
        let result = &json["results"][0];
        let mut got: Vec<String> =
            result["values"].as_array().map_or(vec![], |rows| rows.iter().map(Json::to_string).collect());
        got.sort();
        values.sort();
        assert_eq!(got, values, "round {round}: {sql}");
        if width == 0 {
            drop(rows);
            drop(wanted);
            assert_eq!(result["rows_affected"], one.changes(), "round {round}: {sql}");
        }
        same += 1;
    }
    assert!(same > 1000, "{same} compared, {refused} refused");
    let all = b.sql("SELECT * FROM t", json!([])).await["values"].as_array().unwrap().len();
    assert_eq!(all, one.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap() as usize);
    assert!(b.count("SELECT count(*) > 0 FROM t").iter().filter(|count| *count == "[[1]]").count() > 1);
}

/// The listener is served until told to stop, and requests are answered over a real connection.
#[tokio::test]
async fn serving() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let b = Bench::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(Arc::clone(&b.proxy).serve(listener, stopped));
    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    socket.write_all(b"GET /query?q=SELECT+1+AS+a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"[{"columns":["a"],"types":[""],"values":[[1]]}]}"#),
        "{answer}"
    );
    stop.send(true).unwrap();
    serving.await.unwrap();
}
