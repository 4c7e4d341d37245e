//! What a call does not know is refused by name, and nothing is done.

use hyper::Method;

use super::*;

/// A misspelt option of any call is refused, wherever it stands, with the ones that the call knows.
#[tokio::test]
async fn unknown_fields_and_parameters() {
    let b = Bench::new().await;
    b.users().await;
    let insert = r#""INSERT INTO users (id) VALUES (1)""#;
    for (method, target, body, name) in [
        ("POST", "/execute", format!(r#"{{"statements":[{insert}],"transction":true}}"#), "transction"),
        ("POST", "/execute", format!(r#"{{"statements":[{insert}],"args":[]}}"#), "args"),
        ("POST", "/execute", format!(r#"{{"query":{insert},"arg":[]}}"#), "arg"),
        ("POST", "/execute", format!(r#"{{"query":{insert},"wait":false}}"#), "wait"),
        ("POST", "/execute", format!(r#"{{"query":{insert},"Timeout":"5s"}}"#), "Timeout"),
        ("POST", "/execute", format!(r#"{{"statements":[{{"query":{insert},"transaction":true}}]}}"#), "transaction"),
        ("POST", "/execute", format!(r#"[{{"query":{insert},"timeout":"5s"}}]"#), "timeout"),
        ("POST", "/execute", format!(r#"{{"query":{insert}}}&transction=true"#), "transction"),
        ("POST", "/execute?transction=true", format!(r#"{{"query":{insert}}}"#), "transction"),
        ("POST", "/execute?q=SELECT 1", format!(r#"{{"query":{insert}}}"#), "q"),
        ("POST", "/sql?prefix=a", format!("[{insert}]"), "prefix"),
        ("POST", "/query", r#"{"sql":"SELECT 1","fresh":"5s"}"#.into(), "fresh"),
        ("GET", "/query?q=SELECT 1&arg=[]", String::new(), "arg"),
        ("GET", "/query?q=SELECT 1&lvl=none", String::new(), "lvl"),
        ("GET", "/explain?q=SELECT 1&verbose=1", String::new(), "verbose"),
        ("POST", "/explain", r#"{"sql":"SELECT 1","analyze":true}"#.into(), "analyze"),
        ("GET", "/kv?prefx=a", String::new(), "prefx"),
        ("GET", "/kv/a?prefix=a", String::new(), "prefix"),
        ("PUT", "/kv/a?ttl=5s", "x".into(), "ttl"),
        ("DELETE", "/kv/a?if=x", String::new(), "if"),
        ("GET", "/table?name=users", String::new(), "name"),
        ("GET", "/table/users?level=none", String::new(), "level"),
        ("GET", "/shard?id=1", String::new(), "id"),
        ("GET", "/node?id=1", String::new(), "id"),
        ("GET", "/job?state=done", String::new(), "state"),
        ("GET", "/job/1?wait=true", String::new(), "wait"),
        ("GET", "/status?full=1", String::new(), "full"),
        ("POST", "/job/1/cancel", r#"{"why":"x"}"#.into(), "why"),
        ("POST", "/job/1/pause?now=1", String::new(), "now"),
        ("POST", "/node/1/undrain", r#"{"dry_run":true}"#.into(), "dry_run"),
        ("POST", "/table/rebalance?dryrun=true", r#"{"table_name":"users"}"#.into(), "dryrun"),
        ("POST", "/table/rebalance?weights=1", r#"{"table_name":"users"}"#.into(), "weights"),
        ("POST", "/table/split?at=1", r#"{"table_name":"users"}"#.into(), "at"),
        ("POST", "/table/register?shard_key=id", r#"{"table_name":"users"}"#.into(), "shard_key"),
        ("POST", "/shard?replicas=1", String::new(), "replicas"),
        ("POST", "/repair?nodes=1", String::new(), "nodes"),
    ] {
        let (status, json) = b.call(method.parse::<Method>().unwrap(), target, &body, None).await;
        let message = json["error"]["message"].as_str().unwrap_or_default();
        assert_eq!((status, &json["error"]["code"]), (400, &json!("bad_request")), "{method} {target} {body}: {json}");
        assert!(message.contains(&format!("`{name}` is not known here")), "{method} {target} {body}: {json}");
        assert!(json["error"]["hint"].as_str().unwrap().contains("this call takes"), "{json}");
    }
    assert_eq!(b.sql("SELECT count(*) FROM users", json!([])).await["values"], json!([[0]]));
    assert_eq!(b.get("/kv").await.1["keys"], json!([]));
}

/// What is given twice is refused: as two names of one thing, in two places, or as one name in an object.
#[tokio::test]
async fn given_twice() {
    let b = Bench::new().await;
    for (target, body) in [
        ("/query", r#"{"sql":"SELECT 1","query":"SELECT 2"}"#),
        ("/query", r#"{"sql":"SELECT 1","sql":"SELECT 2"}"#),
        ("/query", r#"{"sql":"SELECT :a","args":{"a":1,"a":2}}"#),
        ("/query?level=none", r#"{"sql":"SELECT 1","level":"lease"}"#),
        ("/query", r#"{"sql":"SELECT 1","level":"none"}&level=none"#),
        ("/query", r#"{"sql":"SELECT 1"}&level=none&level=lease"#),
        ("/query?level=none", r#"{"sql":"SELECT 1"}&level=none"#),
    ] {
        let (status, json) = b.post(target, body).await;
        assert_eq!((status, &json["error"]["code"]), (400, &json!("bad_request")), "{target} {body}: {json}");
        assert!(json["error"]["message"].as_str().unwrap().contains("twice"), "{target} {body}: {json}");
    }
}

/// A key in the body or among the parameters means what the header means.
#[tokio::test]
async fn keys_outside_of_the_header() {
    let b = Bench::new().await;
    b.users().await;
    let body = r#"{"sql":"INSERT INTO users (name) VALUES ('a')","idempotency_key":"k"}"#;
    let first = b.post("/sql", body).await;
    assert_eq!(first.0, 200, "{}", first.1);
    assert_eq!(b.post("/sql", body).await, first);
    let plain = r#"{"sql":"INSERT INTO users (name) VALUES ('a')"}"#;
    assert_eq!(b.post("/sql?idempotency_key=k", plain).await, first);
    assert_eq!(b.call(Method::POST, "/sql", plain, Some("k")).await, first);
    assert_eq!(b.call(Method::POST, "/sql", body, Some("k")).await, first);
    let (status, json) = b.call(Method::POST, "/sql", body, Some("other")).await;
    assert_eq!((status, &json["error"]["code"]), (400, &json!("bad_request")), "{json}");
    assert_eq!(b.sql("SELECT count(*) FROM users", json!([])).await["values"], json!([[1]]));
}

/// `-0` is the integer that it is in SQL; with a point it is a real.
#[tokio::test]
async fn minus_zero() {
    let b = Bench::new().await;
    for (sql, args) in [
        ("SELECT typeof(?), typeof(?), ?", "[-0,-0.0,-0]"),
        ("SELECT typeof(:a), typeof(:b), :a", r#"{"a":-0,"b":-0.0}"#),
    ] {
        let (status, json) = b.post("/sql", &format!(r#"{{"sql":"{sql}","args":{args}}}"#)).await;
        assert_eq!((status, &json["results"][0]["values"]), (200, &json!([["integer", "real", 0]])), "{json}");
    }
    let (_, json) = b.get("/query?q=SELECT typeof(?)&args=[-0]").await;
    assert_eq!(json["results"][0]["values"], json!([["integer"]]), "{json}");
}
