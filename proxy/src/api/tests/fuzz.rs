//! Generated bodies through the whole proxy: any JSON, and what is none.
//!
//! Whatever comes is answered: with JSON, within a moment, and never with a fault of the program.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::testing::fuzz::check;

/// Fields that some call reads.
const FIELDS: &[&str] = &[
    "query",
    "sql",
    "q",
    "args",
    "statements",
    "transaction",
    "timeout",
    "level",
    "freshness",
    "auto_route",
    "shard",
    "allow_partial",
    "table_name",
    "shard_key",
    "shard_func",
    "shards",
    "colocate_with",
    "shard_id",
    "wait",
    "node",
    "nodes",
    "groups",
    "blob",
    "real",
    ":a",
    "a",
    "1",
    "",
];

const TEXTS: &[&str] = &[
    "SELECT 1",
    "SELECT * FROM users",
    "SELECT ?, :a",
    "SELECT count(*) FROM users",
    "INSERT INTO users (name) VALUES (?)",
    "INSERT INTO users VALUES (:a, 1, 2)",
    "DELETE FROM users WHERE id = ?1",
    "CREATE TABLE t (a)",
    "PRAGMA table_info(t)",
    "users",
    "id",
    "t",
    "a",
    "hash",
    "range",
    "list",
    "reference",
    "shard1",
    "shard9",
    "meta",
    "none",
    "lease",
    "true",
    "5s",
    "-1",
    "inf",
    "-inf",
    "nan",
    "AAEC",
    "=",
    "",
    "é\0🚢",
    "'",
];

const CALLS: &[&str] = &[
    "/execute",
    "/query",
    "/sql",
    "/explain",
    "/table/register",
    "/table/add-to-shard",
    "/table/rebalance",
    "/join",
    "/remove",
    "/nowhere",
    "/kv/a",
    "/kv",
];

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        (0u64..5).prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        ".{0,6}".prop_map(Json::from),
        select(TEXTS).prop_map(Json::from),
        select(TEXTS).prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let field = (select(FIELDS), inner.clone());
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Json::from),
            vec(field.clone(), 1..2)
                .prop_map(|list| list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            vec(field, 0..6).prop_map(|list| list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

fn statement() -> impl Strategy<Value = Json> {
    (select(vec!["query", "sql", "q"]), select(TEXTS), json())
        .prop_map(|(name, text, args)| json!({ name: text, "args": args }))
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let valid = prop_oneof![
        json(),
        statement(),
        vec(prop_oneof![statement(), json()], 0..4)
            .prop_map(|list| json!({ "statements": list, "transaction": list.len() % 2 == 0 })),
        (select(TEXTS), json(), json()).prop_map(|(table, key, function)| json!({
            "table_name": table, "shard_key": key, "shard_func": function
        })),
    ];
    let text = valid.prop_map(|json| json.to_string());
    let nested = (select(vec!["[", "{\"args\":", "{\"query\":[", "[[],"]), 1usize..20_000);
    prop_oneof![
        8 => text.clone().prop_map(String::into_bytes),
        2 => (text.clone(), select(vec!["&auto_route=true", "&timeout=1&level=none", "&&=%", "&shard=%zz", "}", ",1", "&transaction"]))
            .prop_map(|(text, fields)| format!("{text}{fields}").into_bytes()),
        2 => (text, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        1 => vec(any::<u8>(), 0..100),
        1 => nested.prop_map(|(piece, count)| piece.repeat(count).into_bytes()),
    ]
}

/// No body brings the proxy down, whatever call it is sent to, with any method that takes one.
#[test]
fn generated_bodies() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let b = runtime.block_on(async {
        let b = Bench::new().await;
        b.users().await;
        b
    });
    let methods = select(vec![Method::POST, Method::POST, Method::POST, Method::PUT, Method::GET, Method::DELETE]);
    check(
        "generated_bodies",
        3000,
        &(methods, select(CALLS), bodies(), any::<bool>()),
        |(method, path, body, lines)| {
            let accept = if lines { "application/x-ndjson" } else { "*/*" };
            let request = HttpRequest {
                method,
                path: path.to_owned(),
                params: vec![],
                headers: HeaderMap::from_iter([(hyper::header::ACCEPT, accept.parse().unwrap())]),
                body: body.into(),
            };
            let (status, body) = runtime.block_on(async {
                let response = b.proxy.handle(request).await;
                (response.status(), response.into_body().collect().await.unwrap().to_bytes())
            });
            assert_ne!(status.as_u16(), 500, "{}", String::from_utf8_lossy(&body));
            if path != "/kv/a" || !status.is_success() {
                let values: Result<Vec<Json>, _> = serde_json::Deserializer::from_slice(&body).into_iter().collect();
                assert!(values.is_ok_and(|values| !values.is_empty()), "{}", String::from_utf8_lossy(&body));
            }
        },
    );
}
