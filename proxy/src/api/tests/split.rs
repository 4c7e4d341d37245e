//! Ranges that get new split points: what the call answers, and requests that are repeated after it.

use flotilla_shared::registry::SlotSet;
use flotilla_shared::value::Value;

use super::*;

/// Table `t`, sharded by ranges of `id`: below 100 on shard 1, below 200 on shard 2, the rest on shard 3.
async fn bench() -> Bench {
    let b = Bench::new().await;
    b.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", json!([])).await;
    let register = json!({ "table_name": "t", "shard_key": "id", "shard_func": "range", "split_points": [100, 200] });
    assert_eq!(b.post("/table/register", &register.to_string()).await.0, 200);
    b
}

impl Bench {
    async fn split_at(&self, at: Json) {
        let body = json!({ "table_name": "t", "at": at, "wait": true });
        let (status, json) = self.post("/table/split", &body.to_string()).await;
        assert_eq!((status, &json["state"]), (200, &json!("done")), "{json}");
        self.newest().await;
    }

    /// Waits until the proxy has the newest map.
    async fn newest(&self) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        self.cluster.refresh(deadline).await.unwrap();
    }

    async fn values(&self, sql: &str) -> Json {
        self.sql(sql, json!([])).await["values"].take()
    }
}

/// A split is a job; the table then shows its points and slots; what is there is no work; a plan changes nothing; and
/// the table may be registered again as it was, and as it is.
#[tokio::test]
async fn points_are_put_in() {
    let b = bench().await;
    let (status, plan) =
        b.post("/table/split", r#"{"table_name":"t","at":["50",250,70],"to":"shard3","dry_run":true}"#).await;
    assert_eq!((status, &plan["split_points"]), (200, &json!([50, 70, 100, 200, 250])), "{plan}");
    let parts = |count: usize| vec![json!({ "rows": 0, "bytes": 0 }); count];
    let splits = json!([
        { "shard": "shard1", "at": [50, 70], "parts": parts(3) },
        { "shard": "shard3", "at": [250], "parts": parts(2) },
    ]);
    assert_eq!((&plan["splits"], &plan["slots"]), (&splits, &json!(2)), "{plan}");
    assert_eq!(plan["moves"][0]["from"], "shard1", "{plan}");
    let shown = b.get("/table/t").await.1;
    assert_eq!((&shown["slots"], &shown["split_points"]), (&json!(3), &json!([100, 200])), "{shown}");
    b.split_at(json!(["50", 250, 70])).await;
    let shown = b.get("/table/t").await.1;
    assert_eq!((&shown["slots"], &shown["split_points"]), (&json!(6), &json!([50, 70, 100, 200, 250])), "{shown}");
    assert_eq!(shown["shard_func"], "range");
    let slots: Vec<&Json> = shown["shards"].as_array().unwrap().iter().map(|shard| &shard["slots"]).collect();
    assert_eq!(slots, [3, 1, 2]);
    let ranges = |shard: usize| &shown["shards"][shard]["ranges"];
    assert_eq!(ranges(2), &json!([{ "from": 200, "to": 250 }, { "from": 250, "to": null }]), "{shown}");
    assert_eq!(ranges(0)[0], json!({ "from": null, "to": 50 }), "{shown}");
    for body in
        [json!({ "table_name": "t", "at": [250, "70"] }), json!({ "table_name": "t", "at": [250], "to": "shard3" })]
    {
        let (status, json) = b.post("/table/split", &body.to_string()).await;
        assert_eq!((status, &json["already_split"], &json["job"]), (200, &json!(true), &Json::Null), "{json}");
    }
    for (points, status) in [(json!([100, 200]), 200), (json!([50, 70, 100, 200, 250]), 200), (json!([100]), 409)] {
        let body = json!({ "table_name": "t", "shard_key": "id", "shard_func": "range", "split_points": points });
        let (answered, json) = b.post("/table/register", &body.to_string()).await;
        assert_eq!(answered, status, "{points}: {json}");
    }
    let (_, plan) = b.get("/explain?q=SELECT * FROM t WHERE id BETWEEN 60 AND 90").await;
    assert_eq!(
        (&plan["steps"][0]["shards"][0]["slots"], &plan["steps"][0]["shards"][1]),
        (&json!(2), &Json::Null),
        "{plan}"
    );
}

/// What is no split is refused by name.
#[tokio::test]
async fn splits_are_refused() {
    let b = bench().await;
    b.sql("CREATE TABLE h (id INTEGER PRIMARY KEY)", json!([])).await;
    assert_eq!(b.post("/table/register", r#"{"table_name":"h","shard_key":"id"}"#).await.0, 200);
    for (body, status, code) in [
        (r#"{"table_name":"h","at":[5]}"#, 400, "bad_request"),
        (r#"{"table_name":"u","at":[5]}"#, 404, "no_such_table"),
        (r#"{"table_name":"t","at":5}"#, 400, "bad_request"),
        (r#"{"table_name":"t","at":[]}"#, 400, "bad_request"),
        (r#"{"table_name":"t","at":[5,"5"]}"#, 400, "bad_request"),
        (r#"{"table_name":"t","at":[[5,6]]}"#, 400, "bad_request"),
        (r#"{"table_name":"t","at":[5],"values":[7],"to":"shard2"}"#, 400, "bad_request"),
        (r#"{"table_name":"t","at":[5],"to":"shard9"}"#, 404, "no_such_object"),
        (r#"{"table_name":"t","at":[5],"to":7}"#, 400, "bad_request"),
        (r#"{"table_name":"t","at":[5],"to":"shard2","max_parallel":0}"#, 400, "bad_request"),
    ] {
        let (answered, json) = b.post("/table/split", body).await;
        assert_eq!((answered, &json["error"]["code"]), (status, &json!(code)), "{body}: {json}");
    }
}

/// A write of two rows that were in one slot gives its first result when they are in several: on one shard, then on
/// two, then on one again; with and without `allow_partial`, and as a transaction.
#[tokio::test]
async fn one_slot_became_several() {
    let b = bench().await;
    for id in [2, 4, 6, 8] {
        b.sql("INSERT INTO t VALUES (?, '')", json!([id])).await;
    }
    let one = "UPDATE t SET v = v || 'x' WHERE id IN (2, 8)";
    let many = "INSERT INTO t VALUES (3, ''), (7, '')";
    let transaction =
        json!({ "statements": ["UPDATE t SET v = v || 'y' WHERE id = 2", "UPDATE t SET v = v || 'y' WHERE id = 8"],
        "transaction": true })
        .to_string();
    let sends = [
        ("/sql", json!({ "sql": one }).to_string()),
        ("/sql?allow_partial=true", json!({ "sql": one }).to_string()),
        ("/sql", json!({ "sql": many }).to_string()),
        ("/sql?allow_partial=true", json!({ "sql": many.replace("3", "1").replace("7", "9") }).to_string()),
        ("/execute", transaction),
    ];
    let mut first = vec![];
    for (n, (target, body)) in sends.iter().enumerate() {
        let answer = b.call(Method::POST, target, body, Some(&format!("k{n}"))).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
        first.push(answer);
    }
    let rows = b.values("SELECT id, v FROM t ORDER BY id").await;
    let again = async |when: &str| {
        for (n, (target, body)) in sends.iter().enumerate() {
            let answer = b.call(Method::POST, target, body, Some(&format!("k{n}"))).await;
            assert_eq!(answer, first[n], "{target} {body}, {when}");
        }
        assert_eq!(b.values("SELECT id, v FROM t ORDER BY id").await, rows, "{when}");
    };
    b.split_at(json!([5])).await;
    again("after the split").await;
    b.node.move_ids("t", 1, 2, &[6, 7, 8, 9]);
    b.newest().await;
    again("on two shards").await;
    b.node.move_ids("t", 2, 1, &[6, 7, 8, 9]);
    b.newest().await;
    again("on one again").await;
}

/// Such a write that never took effect before is applied once, in parts, after the split.
#[tokio::test]
async fn parts_of_a_split_slot() {
    let b = bench().await;
    b.split_at(json!([5])).await;
    b.node.move_ids("t", 1, 2, &[7]);
    b.newest().await;
    let body = json!({ "sql": "INSERT INTO t VALUES (3, ''), (7, '')" }).to_string();
    for _ in 0..2 {
        let (status, json) = b.call(Method::POST, "/sql?allow_partial=true", &body, Some("k")).await;
        assert_eq!((status, &json["results"][0]["rows_affected"]), (200, &json!(2)), "{json}");
    }
    assert_eq!(b.values("SELECT id FROM t").await.as_array().unwrap().len(), 2);
}

/// An insert that gets its key from the proxy is applied once, though the next try gets a later key, beyond a split
/// point, on another shard. In a transaction such a key is refused under an Idempotency-Key.
#[tokio::test]
async fn generated_keys() {
    let b = bench().await;
    let insert = json!({ "sql": "INSERT INTO t (v) VALUES ('a')" }).to_string();
    let mut answers = vec![];
    for n in 0..6 {
        let key = format!("early {n}");
        let answer = b.call(Method::POST, "/sql", &insert, Some(&key)).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
        answers.push((key, answer));
    }
    let largest = b.values("SELECT max(id) FROM t").await[0][0].as_i64().unwrap();
    let owner = if largest < 100 { 1 } else { 3 };
    b.split_at(json!([largest + 1])).await;
    b.node.move_ids("t", owner, 2, &[largest + 1]);
    b.newest().await;
    for n in 0..6 {
        let key = format!("late {n}");
        let answer = b.call(Method::POST, "/sql", &insert, Some(&key)).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
        answers.push((key, answer));
    }
    assert_ne!(b.node.on_shard(2, "SELECT count(*) FROM t"), "[[0]]", "keys have passed the split point");
    for (key, answer) in &answers {
        assert_eq!(b.call(Method::POST, "/sql", &insert, Some(key)).await, *answer, "{key}");
    }
    assert_eq!(b.values("SELECT count(*) FROM t").await, json!([[12]]));
    let transaction = json!({ "statements": ["INSERT INTO t (v) VALUES ('b')"], "transaction": true }).to_string();
    let (status, json) = b.call(Method::POST, "/execute", &transaction, Some("t")).await;
    assert_eq!((status, &json["error"]["code"]), (400, &json!("cross_shard_write")), "{json}");
    assert_eq!(b.post("/execute", &transaction).await.0, 200, "nobody repeats it");
}

/// A key of which the proxy makes up only the second part is in one range at each try, until that is split within:
/// what was done before is found, and a transaction is still one.
#[tokio::test]
async fn generated_keys_behind_a_tenant() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE t (tenant INT NOT NULL, id INTEGER PRIMARY KEY, v)", json!([])).await;
    let register =
        json!({ "table_name": "t", "shard_key": ["tenant", "id"], "shard_func": "range", "split_points": [10, 20] });
    assert_eq!(b.post("/table/register", &register.to_string()).await.0, 200);
    let insert = json!({ "sql": "INSERT INTO t (tenant, v) VALUES (5, 'a')" }).to_string();
    let transaction =
        json!({ "statements": ["INSERT INTO t (tenant, v) VALUES (5, 'b')"], "transaction": true }).to_string();
    let mut first = vec![];
    for (target, body, key) in [("/sql", &insert, "s"), ("/execute", &transaction, "t")] {
        let answer = b.call(Method::POST, target, body, Some(key)).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
        first.push((target, body, key, answer));
    }
    let largest = b.values("SELECT max(id) FROM t").await[0][0].as_i64().unwrap();
    b.split_at(json!([[5, largest + 1]])).await;
    for moved in [false, true] {
        if moved {
            let placement = b.cluster.registry().placement_of("t").unwrap().clone();
            let slot = placement.slot(&[Value::Integer(5), Value::Integer(largest + 1)]).unwrap();
            b.node.move_slots("t", 1, 2, &SlotSet::range(slot, slot), "false");
            b.newest().await;
        }
        for (target, body, key, answer) in &first {
            assert_eq!(b.call(Method::POST, target, body, Some(key)).await, *answer, "{key}, {moved}");
        }
    }
    assert_eq!(b.values("SELECT count(*) FROM t").await, json!([[2]]));
}
