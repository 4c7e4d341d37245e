//! Results as newline-delimited JSON.

use std::time::Duration;

use flotilla_shared::http::{Body, HttpResponse};

use super::*;
use crate::testing::fake::PIECE_ROWS;

impl Bench {
    async fn open(&self, path: &str, body: Json) -> HttpResponse {
        let accept = "text/html, application/x-ndjson;q=0.9".parse().unwrap();
        let request = HttpRequest {
            method: Method::POST,
            path: path.to_owned(),
            params: vec![],
            headers: HeaderMap::from_iter([(hyper::header::ACCEPT, accept)]),
            body: body.to_string().into(),
        };
        self.proxy.handle(request).await
    }

    /// The lines of a stream.
    async fn lines(&self, sql: &str) -> Vec<Json> {
        let response = self.open("/sql", json!({ "sql": sql })).await;
        assert_eq!(response.status(), 200, "{sql}");
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        body.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    async fn many_users(&self, count: usize) {
        self.users().await;
        let rows: Vec<Json> =
            (1..=count).map(|id| json!(["INSERT INTO users (id, name) VALUES (?, 'x')", id])).collect();
        assert_eq!(self.post("/execute", &json!(rows).to_string()).await.0, 200);
    }
}

/// Many shards, one shard, no row, the schema: the columns, then a line per row, then their number.
#[tokio::test]
async fn lines_of_rows() {
    let b = Bench::new().await;
    b.many_users(100).await;
    let head = json!({ "columns": ["id", "name"], "types": ["integer", "text"] });
    let all = b.lines("SELECT id, name FROM users").await;
    assert_eq!((&all[0], &all[101]), (&head, &json!({ "rows": 100 })));
    let mut ids: Vec<i64> = all[1..101].iter().map(|row| row[0].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=100).collect::<Vec<_>>());
    assert_eq!(
        b.lines("SELECT id, name FROM users WHERE id = 7").await,
        [head.clone(), json!([7, "x"]), json!({ "rows": 1 })]
    );
    assert_eq!(b.lines("SELECT id, name FROM users WHERE id = -7").await, [head, json!({ "rows": 0 })]);
    let schema = b.lines("SELECT name FROM sqlite_schema").await;
    assert_eq!(schema[1..], [json!(["users"]), json!({ "rows": 1 })]);
    assert_eq!(b.node.streams(), 0, "all were read to their end");
}

/// A result over the bound on rows is streamed all the same.
#[tokio::test]
async fn more_rows_than_a_result_may_have() {
    let b = Bench::with(3, ProxyOptions { max_rows: 50, ..ProxyOptions::default() }).await;
    b.many_users(200).await;
    assert_eq!(b.fails("SELECT id FROM users").await, "too_large");
    assert_eq!(b.lines("SELECT id FROM users").await.len(), 202);
    assert_eq!(b.fails("SELECT DISTINCT id FROM users ORDER BY id DESC").await, "too_large");
    let sorted = b.lines("SELECT DISTINCT id FROM users ORDER BY id DESC").await;
    assert_eq!((sorted.len(), &sorted[1], &sorted[201]), (202, &json!([200]), &json!({ "rows": 200 })));
}

/// What is wrong before the first row has its own status; later it is the last line.
#[tokio::test]
async fn errors() {
    let b = Bench::new().await;
    b.many_users(100).await;
    for (body, status, code) in [
        (json!({ "sql": "SELECT * FROM nowhere" }), 404, "no_such_table"),
        (json!({ "sql": "DELETE FROM users" }), 400, "not_a_read"),
        (json!({ "sql": "SELECT ?" }), 400, "wrong_arg_count"),
        (json!({ "statements": ["SELECT 1", "SELECT 2"] }), 400, "bad_request"),
    ] {
        let response = b.open("/sql", body.clone()).await;
        let got = response.status().as_u16();
        let json: Json = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!((got, json["error"]["code"].as_str()), (status, Some(code)), "{body}: {json}");
    }
    // Ends well within the first piece of the first shard's stream, so pulls follow.
    let mut rows = b
        .proxy
        .open_stream(&flotilla_shared::wire::Statement::bare("SELECT id FROM users"), &options(&b))
        .await
        .unwrap();
    assert_eq!(rows.next().await.unwrap().unwrap().len(), PIECE_ROWS);
    b.node.lose_streams();
    assert_eq!(rows.next().await.unwrap_err().code, flotilla_shared::error::Code::Timeout);
}

fn options(b: &Bench) -> crate::execute::Options {
    let request = HttpRequest {
        method: Method::GET,
        path: String::new(),
        params: vec![],
        headers: HeaderMap::new(),
        body: Default::default(),
    };
    super::super::params::Fields::new(&request, None).options(&b.proxy, true).unwrap()
}

/// A client that goes away leaves no stream open, and one that does not read holds up its own alone.
#[tokio::test]
async fn clients_that_leave() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE big (id INTEGER PRIMARY KEY, text)", json!([])).await;
    let wide = "w".repeat(40_000);
    for id in 0..3 * PIECE_ROWS {
        b.sql("INSERT INTO big VALUES (?, ?)", json!([id, wide])).await;
    }
    let mut response = b.open("/sql", json!({ "sql": "SELECT * FROM big" })).await;
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"columns\":[\"id\",\"text\"]"));
    assert!(matches!(response.body(), Body::Stream(_)));
    assert_eq!(b.node.streams(), 1, "pulled as far as the client has read, not to its end");
    assert_eq!(b.lines("SELECT id FROM big WHERE id < 3").await.len(), 5);
    drop(response);
    let closed = async {
        while b.node.streams() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("the stream is closed");
}

/// A map that is out of date is noticed before the first line.
#[tokio::test]
async fn a_stale_map() {
    let b = Bench::new().await;
    b.many_users(60).await;
    b.node.hold_registry(true);
    b.node.move_all("users", 2, 3);
    let refused = "flotilla_proxy_retries_total{reason=\"stale_route\"}";
    let release = async {
        while !b.get("/metrics").await.1.as_str().unwrap().contains(refused) {
            tokio::task::yield_now().await;
        }
        b.node.hold_registry(false);
    };
    let (lines, ()) = tokio::join!(b.lines("SELECT id FROM users"), release);
    assert_eq!(lines.last(), Some(&json!({ "rows": 60 })));
    assert_eq!(b.node.streams(), 0);
}
