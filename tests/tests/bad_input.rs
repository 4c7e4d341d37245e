//! Whatever is wrong with a request, the answer is an error with a code and a way out, every process
//! stays up, and nothing has changed.

#[path = "bad_input/changes.rs"]
mod changes;

use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Client, Cluster, Layout, Reply, eventually};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request, the status and the code that it must get.
struct Case {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
}

fn case(method: &'static str, path: &str, body: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Case {
    Case { method, path: path.to_owned(), headers: vec![], body: body.into(), status, code }
}

fn execute(sql: &str, args: Json, status: u16, code: &'static str) -> Case {
    case("POST", "/execute", json!({ "query": sql, "args": args }).to_string(), status, code)
}

fn bodies() -> Vec<Case> {
    let post = |body: &[u8]| case("POST", "/execute", body, 400, "bad_request");
    let deep = |depth: usize| [b"{\"query\":\"SELECT ?\",\"args\":".to_vec(), vec![b'['; depth]].concat();
    let many: Vec<&str> = vec!["SELECT 1"; 10_001];
    vec![
        post(b""),
        post(b"{\"query\":"),
        post(b"{\"query\":\"SELECT 1\""),
        post(b"SELECT 1"),
        post(b"{\"query\":\"SELECT 1\"} {\"query\":\"SELECT 2\"}"),
        post(b"{\"query\":\"SELECT 1\"}garbage"),
        post(b"\"SELECT 1\""),
        post(b"17"),
        post(b"{}"),
        post(b"{\"query\":17}"),
        post(b"{\"query\":null}"),
        post(b"{\"statements\":17}"),
        post(b"{\"statements\":[17]}"),
        post(b"{\"statements\":[[]]}"),
        post(b"{\"statements\":[[1,2]]}"),
        post(b"{\"query\":\"SELECT 1\",\"statements\":[]}"),
        post(b"{\"query\":\"SELECT '\xff\xfe'\"}"),
        post(b"\xff\xff\xff\xff"),
        post(b"\0\0\0\0"),
        post(b"{\"query\":\"SELECT \\ud800\"}"),
        post(&deep(10)),
        post(&deep(100_000)),
        case("POST", "/execute", json!({ "statements": many }).to_string(), 413, "too_large"),
        case("POST", "/execute", vec![b' '; (16 << 20) + 1], 413, "too_large"),
        case("POST", "/query", vec![b'x'; 20 << 20], 413, "too_large"),
    ]
}

fn arguments() -> Vec<Case> {
    let insert = "INSERT INTO users (id, name) VALUES (?, ?)";
    let blob = |bytes: usize| json!({ "blob": "A".repeat(bytes / 3 * 4) });
    vec![
        execute(insert, json!([1]), 400, "wrong_arg_count"),
        execute(insert, json!([1, "a", 2]), 400, "wrong_arg_count"),
        execute(insert, json!([]), 400, "wrong_arg_count"),
        execute("SELECT :a", json!({ "b": 1 }), 400, "wrong_arg_count"),
        execute("SELECT :a", json!({}), 400, "wrong_arg_count"),
        execute("SELECT 1", json!([1]), 400, "wrong_arg_count"),
        execute(insert, json!(7), 400, "bad_request"),
        execute(insert, json!([1, [2]]), 400, "bad_request"),
        execute(insert, json!([1, { "blob": "not base64!" }]), 400, "bad_request"),
        execute(insert, json!([1, { "blob": 7 }]), 400, "bad_request"),
        execute(insert, json!([1, { "thing": 7 }]), 400, "bad_request"),
        execute(insert, json!([u64::MAX, "a"]), 400, "bad_request"),
        execute(insert, json!([1, blob(5 << 20)]), 413, "too_large"),
        execute(insert, json!([1, blob(10 << 20)]), 413, "too_large"),
        execute(insert, json!([null, "a".repeat(6 << 20)]), 413, "too_large"),
        execute("INSERT INTO home (a, b) VALUES (1, ?)", json!([blob(5 << 20)]), 413, "too_large"),
        execute(&format!("SELECT '{}'", "x".repeat(1 << 20)), json!([]), 413, "too_large"),
    ]
}

fn statements() -> Vec<Case> {
    let forbidden = [
        "ATTACH '/tmp/other.db' AS other",
        "DETACH main",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA journal_mode",
        "PRAGMA synchronous = OFF",
        "PRAGMA writable_schema = 1",
        "PRAGMA user_version = 7",
        "PRAGMA wal_checkpoint",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT a",
        "RELEASE a",
        "VACUUM",
        "VACUUM INTO '/tmp/copy.db'",
        "SELECT * FROM _flotilla_state",
        "SELECT * FROM \"_Flotilla_requests\"",
        "DELETE FROM _flotilla_requests",
        "INSERT INTO _flotilla_state VALUES ('applied', 7)",
        "CREATE TABLE _flotilla_mine (a)",
        "DROP TABLE _flotilla_state",
        "SELECT load_extension('/tmp/evil.so')",
        "SELECT * FROM sqlite_dbpage",
        "CREATE TEMP TABLE mine (a)",
        "CREATE TRIGGER t AFTER INSERT ON home BEGIN DELETE FROM _flotilla_state; END",
    ];
    let mut cases: Vec<Case> =
        forbidden.iter().map(|sql| execute(sql, json!([]), 403, "forbidden_statement")).collect();
    cases.extend([
        execute("SELECT * FROM nowhere", json!([]), 404, "no_such_table"),
        execute("INSERT INTO nowhere VALUES (1)", json!([]), 404, "no_such_table"),
        execute("DROP TABLE nowhere", json!([]), 404, "no_such_table"),
        execute("", json!([]), 400, "bad_request"),
        execute("-- nothing", json!([]), 400, "bad_request"),
        execute("SELECT 1; DELETE FROM users", json!([]), 400, "bad_request"),
        execute("SELEKT 1", json!([]), 400, "sql_error"),
        execute("SELECT nothing FROM users WHERE id = 1", json!([]), 400, "sql_error"),
        execute("SELECT nofunction(1)", json!([]), 400, "sql_error"),
        execute("SELECT 'open", json!([]), 400, "sql_error"),
        execute("UPDATE sqlite_schema SET sql = ''", json!([]), 400, "sql_error"),
        execute("DELETE FROM sqlite_master", json!([]), 400, "sql_error"),
        execute("UPDATE users SET id = NULL WHERE id = 1", json!([]), 400, "shard_key_update"),
        execute("DELETE FROM users", json!([]), 400, "cross_shard_write"),
        execute(
            "INSERT INTO users (id, name) VALUES (11, 'a'), (12, 'b'), (13, 'c'), (14, 'd')",
            json!([]),
            400,
            "cross_shard_write",
        ),
        case("POST", "/query", json!({ "query": "DELETE FROM users WHERE id = 1" }).to_string(), 400, "not_a_read"),
        case("GET", "/query?q=DROP%20TABLE%20users", "", 400, "not_a_read"),
        case("GET", "/query", "", 400, "bad_request"),
        case("GET", "/query?q=SELECT%20?&args=oops", "", 400, "bad_request"),
    ]);
    cases
}

/// Texts that a careless parser would follow until its stack ends.
fn deep_statements() -> Vec<Case> {
    let n = 100_000;
    let texts = [
        format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)),
        format!("SELECT {}", "(".repeat(n)),
        format!("SELECT 1{}", "+1".repeat(n)),
        format!("SELECT 1{}", " OR 1".repeat(n)),
        format!("SELECT 'a'{}", "||'a'".repeat(n)),
        format!("SELECT {}1", "NOT ".repeat(n)),
        format!("SELECT {}1", "- ".repeat(n)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(n / 2)),
        format!("SELECT {}1{}", "abs(".repeat(n), ")".repeat(n)),
        format!("SELECT {}1{}", "CASE WHEN 1 THEN ".repeat(n / 4), " END".repeat(n / 4)),
        format!("SELECT * FROM {}users{}", "(SELECT * FROM ".repeat(n / 4), ")".repeat(n / 4)),
        format!("SELECT * FROM users WHERE id = 1{}", " AND id = 1".repeat(n / 2)),
        format!("SELECT 1 IN {}", "(1, ".repeat(n)),
        format!("SELECT 1{}", " COLLATE nocase".repeat(n / 2)),
        format!("SELECT 1{}", " BETWEEN 1 AND 1".repeat(n / 2)),
        format!("SELECT 1{}", "->'a'".repeat(n)),
        format!("SELECT * FROM users{}", " JOIN users".repeat(n / 2)),
        format!("{}SELECT 1", "EXPLAIN ".repeat(n)),
        format!("DELETE FROM users WHERE id = 1 AND {}1{}", "(".repeat(n), ")".repeat(n)),
        format!("INSERT INTO users VALUES (1, {}1{})", "(".repeat(n), ")".repeat(n)),
    ];
    // Whichever layer refuses it, by its own code.
    texts.iter().map(|sql| execute(sql, json!([]), 400, "")).collect()
}

fn options() -> Vec<Case> {
    let bad = |path: &str| case("POST", path, r#"{"query":"SELECT 1"}"#, 400, "bad_request");
    let in_body =
        |field: &str| case("POST", "/query", format!(r#"{{"query":"SELECT 1",{field}}}"#), 400, "bad_request");
    let keyed = |key: String| Case { headers: vec![("idempotency-key", key)], ..bad("/execute") };
    vec![
        bad("/query?level=strong"),
        bad("/query?level="),
        bad("/query?timeout=soon"),
        bad("/query?timeout=-1"),
        bad("/query?timeout=1e999"),
        bad("/query?freshness=old"),
        bad("/query?auto_route=maybe"),
        bad("/query?auto_route=false"),
        bad("/query?auto_route=false&shard=meta"),
        bad("/query?auto_route=false&shard=../etc"),
        bad("/query?shard=shard1"),
        bad("/query?level=none&level=lease"),
        bad("/query?lvl=none"),
        bad("/query?level=%FF"),
        bad("/query?level=%zz"),
        in_body(r#""transction":true"#),
        in_body(r#""level":"none","level":"none""#),
        case("GET", "/query?q=SELECT%20%27%FF%27", "", 400, "bad_request"),
        case("GET", "/query?q=SELECT%20?&args=[%22%FF%22]", "", 400, "bad_request"),
        case("GET", "/kv?prefix=%FF", "", 400, "bad_request"),
        case("GET", "/kv?prefix=100%", "", 400, "bad_request"),
        case("PUT", "/kv/%FF", "x", 400, "bad_request"),
        case("PUT", "/kv/100%", "x", 400, "bad_request"),
        case("POST", "/query", r#"{"query":"SELECT 1"}&level=%FF"#, 400, "bad_request"),
        case("POST", "/query?auto_route=false&shard=shard99", r#"{"query":"SELECT 1"}"#, 404, "no_such_object"),
        in_body(r#""level":"strong""#),
        in_body(r#""level":7"#),
        in_body(r#""timeout":"soon""#),
        in_body(r#""timeout":[]"#),
        in_body(r#""auto_route":"maybe""#),
        keyed(String::new()),
        keyed("k".repeat(300)),
    ]
}

fn paths() -> Vec<Case> {
    let register = |body: &str, status, code| case("POST", "/table/register", body, status, code);
    let add = |body: &str, status, code| case("POST", "/table/add-to-shard", body, status, code);
    vec![
        case("GET", "/", "", 404, "not_found"),
        case("GET", "/nowhere", "", 404, "not_found"),
        case("POST", "/execute/", "{}", 404, "not_found"),
        case("GET", "/%2e%2e/%2e%2e/etc/passwd", "", 404, "not_found"),
        case("GET", "/execute", "", 405, "method_not_allowed"),
        case("DELETE", "/query", "", 405, "method_not_allowed"),
        case("PUT", "/sql", "{}", 405, "method_not_allowed"),
        case("POST", "/status", "{}", 405, "method_not_allowed"),
        case("BREW", "/status", "", 405, "method_not_allowed"),
        case("GET", "/table/nowhere", "", 404, "no_such_table"),
        case("GET", "/job/999999", "", 404, "no_such_object"),
        case("GET", "/job/x", "", 400, "bad_request"),
        case("POST", "/table/rebalance", r#"{"table_name":"nowhere"}"#, 404, "no_such_table"),
        case("POST", "/table/rebalance", r#"{"table_name":"home"}"#, 409, "conflict"),
        case("POST", "/table/rebalance", r#"{"table_name":"users","dry_run":"maybe"}"#, 400, "bad_request"),
        case("POST", "/job/999999/pause", "", 404, "no_such_object"),
        case("POST", "/job/x/pause", "", 400, "bad_request"),
        case("GET", "/kv/nothing", "", 404, "no_such_object"),
        case("GET", "/kv/%FF", "", 400, "bad_request"),
        case("PUT", "/kv/", "x", 400, "bad_request"),
        case("POST", "/kv/a", "x", 405, "method_not_allowed"),
        register("{}", 400, "bad_request"),
        register("[]", 400, "bad_request"),
        register(r#"{"table_name":"home"}"#, 400, "bad_request"),
        register(r#"{"table_name":"home","shard_key":[]}"#, 400, "bad_request"),
        register(r#"{"table_name":"home","shard_key":7}"#, 400, "bad_request"),
        register(r#"{"table_name":"nowhere","shard_key":"id"}"#, 404, "no_such_table"),
        register(r#"{"table_name":"home","shard_key":"nothing"}"#, 400, "unsafe_registration"),
        register(r#"{"table_name":"users","shard_key":"name"}"#, 409, "already_registered"),
        register(r#"{"table_name":"home","shard_key":"a"}"#, 400, "unsafe_registration"),
        register(r#"{"table_name":"home","shard_key":"a","nullable":1}"#, 400, "bad_request"),
        register(r#"{"table_name":"home","shard_key":"a","shard_func":"modulo"}"#, 400, "bad_request"),
        register(r#"{"table_name":"home","shard_key":"a","shard_func":"range"}"#, 400, "bad_request"),
        register(
            r#"{"table_name":"home","shard_key":"a","nullable":true,"shard_func":"range","split_points":[1,"1"]}"#,
            400,
            "bad_request",
        ),
        register(
            r#"{"table_name":"home","shard_key":"a","nullable":true,"shard_func":"list","values":{"shard99":[1]}}"#,
            404,
            "no_such_object",
        ),
        register(r#"{"table_name":"home","shard_func":"reference","shards":["shard1"]}"#, 400, "bad_request"),
        register(r#"{"table_name":"home","shard_key":"a","shards":["meta"]}"#, 400, "bad_request"),
        add(r#"{"table_name":"nowhere","shard_id":"shard1"}"#, 404, "no_such_table"),
        add(r#"{"table_name":"users","shard_id":"shard99"}"#, 404, "no_such_object"),
        add(r#"{"table_name":"users","shard_id":"meta"}"#, 400, "bad_request"),
        add(r#"{"table_name":"users"}"#, 400, "bad_request"),
        case("POST", "/remove", r#"{"node":99}"#, 404, "no_such_object"),
        case("POST", "/remove", r#"{"node":"x"}"#, 400, "bad_request"),
        case("POST", "/leaders", r#"{"balance":"perhaps"}"#, 400, "bad_request"),
        case("POST", "/shard/shard1", r#"{"preferred_zone":"a b"}"#, 400, "bad_request"),
        case("POST", "/shard/shard99", r#"{"preferred_zone":null}"#, 404, "no_such_object"),
        case("POST", "/shard/shard1/leader", r#"{"node":99}"#, 404, "no_such_object"),
        case("POST", "/join", r#"{"node":99,"groups":["shard1"]}"#, 404, "no_such_object"),
    ]
}

/// What only the shard itself can refuse; it remembers the answer, for a retry.
fn at_the_shard() -> Vec<Case> {
    let several = json!({ "transaction": true, "statements": [
        "INSERT INTO home (a, b) VALUES (50, 'goes in')",
        "UPDATE home SET b = 'changed'",
        "INSERT INTO home (a, b) VALUES (-1, 'does not')",
    ] });
    vec![
        execute("INSERT INTO home (a, b) VALUES (1, zeroblob(100000000))", json!([]), 413, "too_large"),
        execute("INSERT INTO users (id, name) VALUES (1, 'again')", json!([]), 409, "constraint"),
        execute("INSERT INTO users (id, name) VALUES (2, NULL)", json!([]), 409, "constraint"),
        execute("INSERT INTO home (a, b) VALUES (-1, 1)", json!([]), 409, "constraint"),
        execute("INSERT INTO home (a, b) VALUES (60, 1), (61, 1), (-1, 1)", json!([]), 409, "constraint"),
        execute("UPDATE home SET a = a - 5", json!([]), 409, "constraint"),
        case("POST", "/execute", several.to_string(), 409, "constraint"),
    ]
}

/// What a node, asked directly, must refuse on its own.
fn at_a_node() -> Vec<Case> {
    let run = |sql: &str, status, code| {
        case("POST", "/execute?shard=shard1", json!({ "query": sql }).to_string(), status, code)
    };
    vec![
        run("ATTACH '/tmp/other.db' AS other", 403, "forbidden_statement"),
        run("PRAGMA synchronous = OFF", 403, "forbidden_statement"),
        run("PRAGMA journal_mode = DELETE", 403, "forbidden_statement"),
        run("BEGIN", 403, "forbidden_statement"),
        run("COMMIT", 403, "forbidden_statement"),
        run("SAVEPOINT a", 403, "forbidden_statement"),
        // Texts that the node itself uses, and has prepared already.
        run("BEGIN IMMEDIATE", 403, "forbidden_statement"),
        run("ROLLBACK", 403, "forbidden_statement"),
        run("SAVEPOINT w", 403, "forbidden_statement"),
        run("ROLLBACK TO w", 403, "forbidden_statement"),
        run("RELEASE w", 403, "forbidden_statement"),
        run("REPLACE INTO _flotilla_state (key, value) VALUES ('applied', ?1)", 403, "forbidden_statement"),
        run("SELECT value FROM _flotilla_state WHERE key = 'applied'", 403, "forbidden_statement"),
        run("VACUUM", 400, "sql_error"),
        run("DELETE FROM _flotilla_requests", 403, "forbidden_statement"),
        run("SELECT load_extension('/tmp/evil.so')", 403, "forbidden_statement"),
        run("DROP TABLE home", 403, "forbidden_statement"),
        run("SELEKT", 400, "sql_error"),
        run("SELECT * FROM nowhere", 404, "no_such_table"),
        case("POST", "/execute", r#"{"query":"SELECT 1"}"#, 400, "bad_request"),
        case("POST", "/execute?shard=shard1", "{", 400, "bad_request"),
        case("GET", "/nowhere", "", 404, "not_found"),
        case("DELETE", "/execute", "", 405, "method_not_allowed"),
        case("POST", "/remove", r#"{"node":99}"#, 404, "no_such_object"),
    ]
}

/// Sends all cases and collects what was not as it must be.
async fn run(address: &str, cases: Vec<Case>, wrong: &mut Vec<String>) {
    let mut client = Client::new(address);
    for case in cases {
        let shown: String = String::from_utf8_lossy(&case.body).chars().take(90).collect();
        let shown = format!("{} {} {shown}", case.method, case.path);
        let headers: Vec<(&str, &str)> = case.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match client.send(case.method, &case.path, &headers, case.body).await {
            Ok(reply) => wrong.extend(judge(&reply, case.status, case.code).map(|why| format!("{shown}: {why}"))),
            // A body that is far too large may be answered before all of it was sent.
            Err(_) if case.status == 413 => (),
            Err(why) => wrong.push(format!("{shown}: {why}")),
        }
    }
}

fn judge(reply: &Reply, status: u16, code: &str) -> Option<String> {
    let error = reply.json()["error"].clone();
    let found = error["code"].as_str().unwrap_or("");
    let told = |field: &str| error[field].as_str().is_some_and(|text| !text.is_empty());
    let as_wanted = match code {
        "" => (400..500).contains(&reply.status.as_u16()),
        code => reply.status.as_u16() == status && found == code,
    };
    let whole = !found.is_empty() && told("message") && told("hint");
    (!as_wanted || !whole).then(|| format!("wanted {status} {code}, got {reply}"))
}

/// All rows and the schema, shard by shard.
async fn dump(cluster: &Cluster) -> Vec<Json> {
    let mut found = vec![];
    for shard in cluster.shard_names() {
        for sql in ["SELECT * FROM sqlite_schema ORDER BY name", "SELECT * FROM users ORDER BY 1", "SELECT * FROM home"]
        {
            let path = format!("/query?auto_route=false&shard={shard}");
            if let Ok(rows) = cluster.session().attempt(&path, &json!({ "query": sql }), None).await {
                found.push(rows["results"].clone());
            }
        }
    }
    // The second shard has no `home`.
    assert_eq!(found.len(), 5, "{found:?}");
    found
}

/// Bytes that are no HTTP and no frame; the connection may be closed, nothing else.
async fn garbage(address: &str) {
    let pieces: [&[u8]; 6] = [
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /execute HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /execute HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{\"query\":",
        b"FLOTIL\x01\x00\xff\xff\xff\xff\x01\x01\x01\x01\x01\x01\x01\x01\x01",
        b"FLOTIL\x01\x00\x08\x00\x00\x00\x01\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for piece in pieces {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(piece).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = vec![];
        // Whether and how it answers is its own affair, but it lets go of the connection.
        let end = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{address} keeps a connection that sent {piece:?}");
    }
}

/// Malformed, oversized, forbidden and impossible requests at a proxy and at a node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_changes_nothing() {
    let mut cluster = Cluster::start(Layout { shards: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.create("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)", "users", "id", None).await;
    session.create("CREATE TABLE home (a INTEGER CHECK (a > 0), b)", "home", "", None).await;
    for id in 1..=10 {
        session.execute("INSERT INTO users (id, name) VALUES (?, ?)", json!([id, format!("name {id}")])).await;
        session.execute("INSERT INTO home (a, b) VALUES (?, ?)", json!([id, { "blob": "AAEC" }])).await;
    }
    let before = cluster.contents().await;
    let schema_before = session.client().get("/table").await.unwrap().expect("tables");

    let mut wrong = vec![];
    let proxy = cluster.proxies[0].http.clone();
    for cases in [
        bodies(),
        arguments(),
        statements(),
        deep_statements(),
        options(),
        paths(),
        changes::moves(),
        changes::members(),
    ] {
        run(&proxy, cases, &mut wrong).await;
        assert!(cluster.proxies[0].process.is_running(), "the proxy has ended; until then: {wrong:#?}");
    }
    // Refused schema statements leave failed jobs in `meta`, as a record; all else is as it was.
    let mut after = cluster.contents().await;
    let meta = flotilla_shared::ids::META;
    after.insert(meta, before[&meta]);
    assert_eq!(before, after, "{wrong:#?}");

    let rows_before = dump(&cluster).await;
    run(&proxy, at_the_shard(), &mut wrong).await;
    let leader = cluster.leader("shard1").await;
    let node = cluster.nodes[leader].http.clone();
    run(&node, at_a_node(), &mut wrong).await;
    garbage(&proxy).await;
    garbage(&node).await;
    garbage(&cluster.nodes[leader].raft.clone()).await;

    for node in &mut cluster.nodes {
        assert!(node.process.is_running(), "{} has ended: {wrong:#?}", node.process.name());
    }
    assert!(wrong.is_empty(), "{} answers are wrong: {wrong:#?}", wrong.len());
    assert_eq!(rows_before, dump(&cluster).await);
    cluster.contents().await;
    let schema_after = session.client().get("/table").await.unwrap().expect("tables");
    assert_eq!(schema_before, schema_after);
    eventually("reads go on", PATIENCE, async || {
        let rows = session.rows("SELECT name FROM users", json!([])).await;
        if rows.len() == 10 { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
}
