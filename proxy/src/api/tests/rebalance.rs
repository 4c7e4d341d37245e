//! What the proxy itself says of a rebalancing, against the fake node. The moves are tested with real ones.

use super::*;

/// What is even says so and starts no job; a plan is shown without one; what has no slots is refused.
#[tokio::test]
async fn even_tables_and_plans() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", json!([])).await;
    b.sql("CREATE TABLE plain (a)", json!([])).await;
    let register = json!({ "table_name": "t", "shard_key": "id" }).to_string();
    assert_eq!(b.post("/table/register", &register).await.0, 200);
    let (status, json) = b.post("/table/rebalance", r#"{"table_name":"T"}"#).await;
    assert_eq!((status, &json["already_even"], &json["job"]), (200, &json!(true), &Json::Null), "{json}");
    let (status, json) = b.post("/table/rebalance", r#"{"table_name":"t","dry_run":true}"#).await;
    assert_eq!((status, &json["slots"], &json["moves"]), (200, &json!(0), &json!([])), "{json}");
    let (status, json) = b.post("/table/rebalance", r#"{"table_name":"plain"}"#).await;
    assert_eq!((status, &json["error"]["code"]), (409, &json!("conflict")), "{json}");
    let (status, json) = b.post("/job/1/pause", "").await;
    assert_eq!((status, &json["error"]["code"]), (404, &json!("no_such_object")), "it has ended: {json}");
}

/// Options that do not fit are refused by name, before any job is started.
#[tokio::test]
async fn options_are_refused() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", json!([])).await;
    let register = json!({ "table_name": "t", "shard_key": "id" }).to_string();
    assert_eq!(b.post("/table/register", &register).await.0, 200);
    for (options, named) in [
        (r#""by":"size""#, "size"),
        (r#""weights":{"shard9":1}"#, "shard9"),
        (r#""weights":{"nobody":1}"#, "nobody"),
        (r#""weights":{"shard1":-1}"#, "shard1"),
        (r#""weights":[1]"#, "weights"),
        (r#""max_parallel":0"#, "max_parallel"),
        (r#""max_parallel":"many""#, "max_parallel"),
        (r#""max_bytes_per_second":0"#, "max_bytes_per_second"),
    ] {
        let (status, json) = b.post("/table/rebalance", &format!(r#"{{"table_name":"t",{options}}}"#)).await;
        assert_eq!((status, &json["error"]["code"]), (400, &json!("bad_request")), "{options}: {json}");
        assert!(json["error"]["message"].as_str().unwrap().contains(named), "{options}: {json}");
    }
    let (status, json) =
        b.post("/table/rebalance", r#"{"table_name":"t","weights":{"shard1":1},"max_parallel":2}"#).await;
    assert_eq!((status, &json["already_even"]), (200, &json!(true)), "{json}");
}

/// What cannot leave its shard is refused by name; so is what is no key, no shard and no shard of the table.
#[tokio::test]
async fn leaving_is_refused() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", json!([])).await;
    b.sql("CREATE TABLE plain (a)", json!([])).await;
    b.sql("CREATE TABLE l (c TEXT NOT NULL)", json!([])).await;
    for register in [
        json!({ "table_name": "t", "shard_key": "id" }),
        json!({ "table_name": "l", "shard_key": "c", "shard_func": "list", "values": { "shard1": ["a"], "shard2": ["b"] },
            "default": "shard1" }),
    ] {
        let (status, json) = b.post("/table/register", &register.to_string()).await;
        assert_eq!(status, 200, "{json}");
    }
    for (path, body, status, code) in [
        ("/table/remove-from-shard", r#"{"table_name":"t","shard_id":"shard1"}"#, 409, "cannot_leave"),
        ("/table/remove-from-shard", r#"{"table_name":"l","shard_id":"shard2"}"#, 409, "cannot_leave"),
        ("/table/remove-from-shard", r#"{"table_name":"plain","shard_id":"shard1"}"#, 409, "cannot_leave"),
        ("/table/remove-from-shard", r#"{"table_name":"t","shard_id":"x"}"#, 400, "bad_request"),
        ("/table/remove-from-shard", r#"{"table_name":"u","shard_id":"shard2"}"#, 404, "no_such_table"),
        ("/shard/shard1/remove", "", 409, "cannot_leave"),
        ("/shard/meta/remove", "", 409, "cannot_leave"),
        ("/shard/shard2/remove", "", 409, "cannot_leave"),
        ("/shard/shard2/remove", r#"{"weights":{"shard1":1}}"#, 400, "bad_request"),
        ("/shard/shard77/remove", "", 404, "no_such_object"),
        ("/table/split", r#"{"table_name":"t","values":[1],"to":"shard77"}"#, 404, "no_such_object"),
        ("/table/split", r#"{"table_name":"t","values":[[1,2]],"to":"shard2"}"#, 400, "bad_request"),
        ("/table/split", r#"{"table_name":"t","values":[],"to":"shard2"}"#, 400, "bad_request"),
        ("/table/split", r#"{"table_name":"t","at":[5]}"#, 400, "bad_request"),
        ("/table/split", r#"{"table_name":"t","values":[5],"to":"shard2","max_parallel":0}"#, 400, "bad_request"),
        ("/table/split", r#"{"table_name":"l","values":["c"],"to":"shard2"}"#, 400, "unlisted_value"),
        ("/table/split", r#"{"table_name":"t","default":true,"to":"shard2"}"#, 400, "bad_request"),
    ] {
        let (answered, json) = b.post(path, body).await;
        assert_eq!((answered, &json["error"]["code"]), (status, &json!(code)), "{path} {body}: {json}");
    }
    let (status, json) =
        b.post("/table/split", r#"{"table_name":"l","values":["a"],"to":"shard2","dry_run":true}"#).await;
    assert_eq!((status, &json["slots"]), (200, &json!(1)), "{json}");
    let (_, json) = b
        .post("/table/split", r#"{"table_name":"l","default":true,"values":["a"],"to":"shard2","dry_run":true}"#)
        .await;
    assert_eq!(json["slots"], 2, "{json}");
}

/// A write with a generated key claims the slot of its id as well, so that its id moves to where a retry goes.
#[tokio::test]
async fn ids_of_generated_keys() {
    use crate::execute::{Options, claim_slot_of_id};
    use flotilla_shared::ids::{RequestId, Slot};
    use flotilla_shared::value::Params;

    let b = Bench::new().await;
    b.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", json!([])).await;
    let register = json!({ "table_name": "t", "shard_key": "id" }).to_string();
    assert_eq!(b.post("/table/register", &register).await.0, 200);
    let options = Options {
        id: RequestId(1),
        keyed: true,
        deadline: tokio::time::Instant::now() + std::time::Duration::from_secs(5),
        level: flotilla_shared::wire::Level::Linearizable,
        freshness_ms: None,
        shard: None,
        allow_partial: false,
        reads_only: false,
        internal: false,
        any_rows: false,
        at_us: None,
    };
    let (sql, params) = ("INSERT INTO t (v) VALUES (1)", Params::default());
    let ready = b.proxy.ready(sql, &options).await.unwrap();
    for id in [RequestId(5), RequestId(9000), RequestId(16_383)] {
        let keys = b.proxy.assign_keys(&ready, &params, id, None, &options).await.unwrap();
        let mut plan = crate::plan::plan(crate::execute::input(&ready, &params, &keys, &options), &ready.registry);
        claim_slot_of_id(&mut plan, &ready, id, &keys);
        let crate::plan::Plan::One(part) = plan else { panic!("{plan:?}") };
        let slots = part.claims[0].slots.clone().unwrap();
        assert!(slots.len() <= 2 && slots.contains(Slot(id.0 as u16)), "{slots:?}");
    }
}
