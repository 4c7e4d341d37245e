//! The key-value calls.

use super::*;

impl Bench {
    async fn put(&self, key: &str, value: &str) -> (u16, Json) {
        self.call(Method::PUT, &format!("/kv/{key}"), value, None).await
    }

    async fn delete(&self, key: &str) -> Json {
        self.call(Method::DELETE, &format!("/kv/{key}"), "", None).await.1
    }

    async fn code(&self, method: Method, target: &str, body: &str) -> (u16, String) {
        let (status, json) = self.call(method, target, body, None).await;
        (status, json["error"]["code"].as_str().unwrap_or("none").to_owned())
    }
}

/// Before the first PUT there is nothing; then values come back as they were stored, from several
/// shards, are replaced and deleted, and SQL sees the same rows.
#[tokio::test]
async fn values_by_key() {
    let b = Bench::new().await;
    assert_eq!(b.code(Method::GET, "/kv/a", "").await, (404, "no_such_object".into()));
    assert_eq!(b.get("/kv").await, (200, json!({ "keys": [], "more": false })));
    assert_eq!(b.delete("a").await, json!({ "key": "a", "deleted": false }));
    assert_eq!(b.get("/table").await.1["tables"], json!([]), "reads make no table");

    for n in 0..30 {
        let (status, json) = b.put(&format!("k{n}"), &format!("value {n}")).await;
        assert_eq!((status, json["key"].as_str()), (200, Some(format!("k{n}").as_str())), "{json}");
    }
    let shards: Vec<String> = b.count("SELECT count(*) FROM kv");
    assert!(shards.iter().all(|count| count != "[[0]]"), "{shards:?}");
    assert_eq!(b.get("/kv/k7").await, (200, json!("value 7")));
    assert_eq!(b.put("k7", "another").await, (200, json!({ "key": "k7", "bytes": 7 })));
    assert_eq!(b.get("/kv/k7").await, (200, json!("another")));
    assert_eq!(
        b.sql("SELECT value FROM kv WHERE key = 'k7'", json!([])).await["values"],
        json!([[{ "blob": "YW5vdGhlcg==" }]])
    );
    assert_eq!(b.delete("k7").await, json!({ "key": "k7", "deleted": true }));
    assert_eq!(b.delete("k7").await, json!({ "key": "k7", "deleted": false }));
    assert_eq!(b.get("/kv/k7").await.0, 404);
    assert_eq!(b.put("empty", "").await.0, 200);
    assert_eq!(b.get("/kv/empty").await, (200, json!("")));
    b.sql("INSERT INTO kv VALUES ('number', 12.5)", json!([])).await;
    assert_eq!(b.call(Method::GET, "/kv/number", "", None).await.1, json!(12.5));
    let table = b.get("/table/kv").await.1;
    assert_eq!((&table["shard_key"], &table["sharded"]), (&json!(["key"]), &json!(true)), "{table}");
}

/// Keys are any UTF-8, percent-encoded in the path, slashes and NUL included, each for itself.
#[tokio::test]
async fn keys_of_all_kinds() {
    let b = Bench::new().await;
    let keys =
        ["a/b", "a%2Fc", "%C3%A9", "%F0%9F%9A%A2", "a%00b", "a%20b", "+", "%25", "A", "a", "'; DROP TABLE kv", "?"];
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(
            b.call(Method::PUT, &format!("/kv/{}", key.replace('?', "%3F")), &n.to_string(), None).await.0,
            200,
            "{key}"
        );
    }
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(b.get(&format!("/kv/{}", key.replace('?', "%3F"))).await, (200, json!(n)), "{key}");
    }
    assert_eq!(b.get("/kv/a%2Fb").await, (200, json!(0)), "an encoded slash is a slash");
}

/// A PUT that is repeated with its Idempotency-Key does not bring an old value back.
#[tokio::test]
async fn a_repeated_put_changes_nothing() {
    let b = Bench::new().await;
    b.put("a", "0").await;
    let first = b.call(Method::PUT, "/kv/a", "1", Some("one")).await;
    b.put("a", "2").await;
    assert_eq!(b.call(Method::PUT, "/kv/a", "1", Some("one")).await, first);
    assert_eq!(b.get("/kv/a").await, (200, json!(2)));
}

/// Keys come in order, page by page, and a prefix ends where it should, from one shard and from several.
#[tokio::test]
async fn listing() {
    list(Bench::with(1, ProxyOptions::default()).await).await;
    list(Bench::new().await).await;
}

async fn list(b: Bench) {
    for key in ["b", "a/2", "a/10", "a/1", "a", "a0", "a/%F4%8F%BF%BF", "c"] {
        b.put(key, "x").await;
    }
    b.sql("INSERT INTO kv VALUES (x'00', 'a key that is no text')", json!([])).await;
    let keys = async |query: &str| {
        let (status, json) = b.get(&format!("/kv{query}")).await;
        assert_eq!(status, 200, "{query}: {json}");
        (json["keys"].clone(), json["more"] == true)
    };
    let all = json!(["a", "a/1", "a/10", "a/2", "a/\u{10ffff}", "a0", "b", "c"]);
    assert_eq!(keys("").await, (all.clone(), false));
    assert_eq!(keys("?limit=8").await, (all, false));
    assert_eq!(keys("?limit=2").await, (json!(["a", "a/1"]), true));
    assert_eq!(keys("?prefix=a/").await, (json!(["a/1", "a/10", "a/2", "a/\u{10ffff}"]), false));
    assert_eq!(keys("?prefix=a/&limit=2&after=a/1").await, (json!(["a/10", "a/2"]), true));
    assert_eq!(keys("?prefix=a/&after=a").await.0, json!(["a/1", "a/10", "a/2", "a/\u{10ffff}"]));
    assert_eq!(keys("?prefix=a/&after=b").await.0, json!([]));
    assert_eq!(keys("?prefix=z").await, (json!([]), false));
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?limit=-1"] {
        assert_eq!(b.code(Method::GET, &format!("/kv{query}"), "").await, (400, "bad_request".into()), "{query}");
    }
}

/// Proxies that make the table at the same time make it once; one that is dropped is made anew.
#[tokio::test]
async fn the_table_is_made_once() {
    let b = Bench::new().await;
    let other = |_| Bench {
        node: Arc::clone(&b.node),
        cluster: Arc::clone(&b.cluster),
        proxy: Proxy::new(Arc::clone(&b.cluster), ProxyOptions::default()),
    };
    let others: Vec<Bench> = (0..4).map(other).collect();
    let puts = others.iter().enumerate().map(|(n, other)| async move { other.put(&format!("k{n}"), "x").await.0 });
    assert_eq!(futures::future::join_all(puts).await, [200; 4]);
    let jobs = b.get("/job").await.1["jobs"].as_array().unwrap().len();
    assert_eq!(jobs, 2, "one to make it, one to shard it");
    b.sql("DROP TABLE kv", json!([])).await;
    assert_eq!(b.put("k", "again").await.0, 200);
    assert_eq!(b.get("/kv/k").await, (200, json!("again")));
    assert_eq!(b.get("/kv/k0").await.0, 404);
}

/// A table of that name with other columns is left alone; one that fits is sharded and used.
#[tokio::test]
async fn a_table_of_that_name() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB, extra)", json!([])).await;
    assert_eq!(b.code(Method::PUT, "/kv/a", "x").await, (409, "conflict".into()));
    b.sql("DROP TABLE kv", json!([])).await;
    b.sql("CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB)", json!([])).await;
    assert_eq!(b.put("a", "x").await.0, 200);
    assert_eq!(b.get("/table/kv").await.1["sharded"], json!(true));
}

/// Keys and values have bounds, and other methods are refused.
#[tokio::test]
async fn refusals() {
    let b = Bench::new().await;
    let (longest, too_long) = ("k".repeat(1024), "k".repeat(1025));
    assert_eq!(b.put(&longest, "x").await.0, 200);
    assert_eq!(b.code(Method::PUT, &format!("/kv/{too_long}"), "x").await, (413, "too_large".into()));
    let (largest, too_large) = ("v".repeat(2 << 20), "v".repeat((2 << 20) + 1));
    assert_eq!(b.put("large", &largest).await.0, 200);
    assert_eq!(b.get("/kv/large").await, (200, json!(largest)));
    assert_eq!(b.code(Method::PUT, "/kv/large", &too_large).await, (413, "too_large".into()));
    assert_eq!(b.code(Method::GET, "/kv/", "").await, (400, "bad_request".into()));
    assert_eq!(b.code(Method::GET, "/kv/%FF", "").await, (400, "bad_request".into()));
    assert_eq!(b.code(Method::GET, "/kv/a?auto_route=false&shard=shard1", "").await, (400, "bad_request".into()));
    assert_eq!(b.code(Method::POST, "/kv/a", "x").await, (405, "method_not_allowed".into()));
    assert_eq!(b.code(Method::PUT, "/kv", "x").await, (405, "method_not_allowed".into()));
}
