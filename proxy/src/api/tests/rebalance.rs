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
        any_rows: false,
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
