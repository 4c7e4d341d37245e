//! The README's calls and commands, as written there, against `flotilla dev` and `deploy/cluster.sh`.

use std::path::Path;
use std::time::Duration;

use flotilla_tests::harness::binary::flotilla;
use flotilla_tests::harness::script::ScriptedCluster;
use flotilla_tests::harness::{Client, Dev};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// What `curl -d` sends.
async fn curl(client: &mut Client, path: &str, data: &str) -> Json {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    client.send("POST", path, &form, data.to_owned()).await.unwrap().expect(data)
}

/// The eight calls give the answers that a reader expects, and again when they are repeated.
async fn eight_calls(dev: &Dev) {
    let client = &mut Client::new(&dev.address);
    let create = r#"{"query":"CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT, email TEXT)"}"#;
    let register = r#"{"table_name":"users", "shard_key":"id", "shard_func":"hash"}"#;
    let add = r#"{"table_name":"users", "shard_id":"shard1"}"#;
    curl(client, "/execute", create).await;
    let registered = curl(client, "/table/register", register).await;
    assert_eq!(registered["table"]["shard_key"], json!(["id"]), "{registered}");
    curl(client, "/table/add-to-shard", add).await;

    let john = r#"{"query":"INSERT INTO users (name, email) VALUES (?, ?)", "args":["John Doe", "john@example.com"]}"#;
    let john = curl(client, "/execute", john).await["results"][0].take();
    assert_eq!(john["rows_affected"], 1);
    let id = john["last_insert_id"].as_i64().unwrap();
    assert!(id > 0 && id != 456, "{john}");

    // Two -d of curl are joined with an ampersand.
    let jane = r#"{"query":"INSERT INTO users (id, name, email) VALUES (?, ?, ?)", "args":["456", "Jane Doe", "jane@example.com"]}&auto_route=true"#;
    let jane = curl(client, "/execute", jane).await;
    assert_eq!(jane["results"], json!([{ "last_insert_id": 456, "rows_affected": 1 }]));

    let path = "/query?q=SELECT%20*%20FROM%20users%20WHERE%20id%3D456&auto_route=true";
    let found = client.get(path).await.unwrap().expect(path);
    let wanted = json!([{
        "columns": ["id", "name", "email"],
        "types": ["integer", "text", "text"],
        "values": [[456, "Jane Doe", "jane@example.com"]],
    }]);
    assert_eq!(found["results"], wanted);

    let all = curl(client, "/sql", r#"{"sql":"SELECT * FROM users"}"#).await;
    let mut rows = all["results"][0]["values"].as_array().unwrap().clone();
    rows.sort_by_key(|row| row[1].to_string());
    assert_eq!(rows, [json!([456, "Jane Doe", "jane@example.com"]), json!([id, "John Doe", "john@example.com"])]);

    let accept = [("accept", "application/x-ndjson")];
    let lines = client.send("GET", "/query?q=SELECT%20*%20FROM%20users", &accept, "").await.unwrap();
    let lines = String::from_utf8(lines.body.to_vec()).unwrap();
    assert!(lines.starts_with("{\"columns\":[\"id\",") && lines.ends_with("\n{\"rows\":2}\n"), "{lines}");

    let path = "/explain?q=SELECT%20name,%20count(*)%20FROM%20users%20GROUP%20BY%20name";
    let plan = client.get(path).await.unwrap().expect(path);
    assert_eq!(plan["class"], "merge", "{plan}");
    let status = client.get("/status").await.unwrap().expect("/status");
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    let groups: Vec<&str> = status["groups"].as_array().unwrap().iter().map(|g| g["id"].as_str().unwrap()).collect();
    assert_eq!(groups, ["meta", "shard1", "shard2", "shard3"]);
    assert!(status["groups"].as_array().unwrap().iter().all(|group| group["leader"].is_u64()), "{status}");

    // Nobody minds a second reading of the README.
    curl(client, "/execute", create).await;
    assert_eq!(curl(client, "/table/register", register).await["already_registered"], true);
    assert_eq!(curl(client, "/table/add-to-shard", add).await["already_there"], true);
}

/// A shard made at run time takes tables that are registered later, and ones that may come to it.
async fn a_new_shard(dev: &Dev) {
    let client = &mut Client::new(&dev.address);
    let made = curl(client, "/shard", "{}").await;
    assert_eq!(made["shard"], "shard4", "{made}");
    let refused = client.post("/shard", &json!({ "nodes": [9] })).await.unwrap();
    assert_eq!(refused.status.as_u16(), 404, "{refused}");

    let added = curl(client, "/table/add-to-shard", r#"{"table_name":"users", "shard_id":"shard4"}"#).await;
    assert_eq!(added["state"], "done", "{added}");
    curl(client, "/execute", r#"{"query":"CREATE TABLE later (k TEXT NOT NULL PRIMARY KEY, n INT)"}"#).await;
    curl(client, "/table/register", r#"{"table_name":"later", "shard_key":"k"}"#).await;
    for n in 0..40 {
        curl(
            client,
            "/sql",
            &json!({ "sql": "INSERT INTO later VALUES (?, ?)", "args": [format!("k{n}"), n] }).to_string(),
        )
        .await;
    }
    let path = "/query?q=SELECT%20count(*)%20FROM%20later&auto_route=false&shard=shard4";
    let here = client.get(path).await.unwrap().expect(path)["results"][0]["values"][0][0].as_i64().unwrap();
    assert!((1..40).contains(&here), "shard4 holds {here} of 40 rows");
    let all = curl(client, "/sql", r#"{"sql":"SELECT k FROM later"}"#).await;
    assert_eq!(all["results"][0]["values"].as_array().unwrap().len(), 40);
    let users = curl(client, "/sql", r#"{"sql":"SELECT id FROM users"}"#).await;
    assert!(users["results"][0]["values"].as_array().unwrap().len() >= 2, "{users}");
}

/// Values by key: stored, read, replaced, deleted; the table behind them is one like any other.
async fn keys_and_values(dev: &Dev) {
    let client = &mut Client::new(&dev.address);
    assert_eq!(client.get("/kv/greeting").await.unwrap().code().as_deref(), Some("no_such_object"));
    for value in ["hi", "hello"] {
        client.send("PUT", "/kv/greeting", &[], value).await.unwrap().expect("PUT");
        assert_eq!(client.get("/kv/greeting").await.unwrap().body, value);
    }
    let found = curl(client, "/sql", r#"{"sql":"SELECT CAST(value AS TEXT) FROM kv WHERE key = 'greeting'"}"#).await;
    assert_eq!(found["results"][0]["values"], json!([["hello"]]));
    client.send("PUT", "/kv/parting", &[], "bye").await.unwrap().expect("PUT");
    client.send("PUT", "/kv/g", &[], "g").await.unwrap().expect("PUT");
    for (query, keys, more) in [
        ("", json!(["g", "greeting", "parting"]), false),
        ("?prefix=g&limit=1", json!(["g"]), true),
        ("?prefix=g&after=g", json!(["greeting"]), false),
    ] {
        let listed = client.get(&format!("/kv{query}")).await.unwrap().expect("GET");
        assert_eq!(listed, json!({ "keys": keys, "more": more }), "{query}");
    }
    let deleted = client.send("DELETE", "/kv/greeting", &[], "").await.unwrap().expect("DELETE");
    assert_eq!(deleted, json!({ "key": "greeting", "deleted": true }));
    assert_eq!(client.get("/kv/greeting").await.unwrap().status.as_u16(), 404);
}

fn shell(dev: &Dev) {
    let shown = dev.succeeds(&["sql", "-c", "SELECT id, name FROM users WHERE id = 456"], None);
    assert!(shown.contains("456") && shown.contains("Jane Doe"), "{shown}");
    let script = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);\n-- a comment; with a semicolon\n\
                  INSERT INTO notes VALUES (1, 'one; two'), (2, 'it''s');\nSELECT text FROM notes ORDER BY id;\n";
    let shown = dev.succeeds(&["sql"], Some(script));
    assert!(shown.contains("one; two") && shown.contains("it's"), "{shown}");
    let failed = dev.command(&["sql", "-c", "SELECT * FROM nowhere"], None);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("no such table: nowhere"), "{failed:?}");

    let script = ".explain SELECT * FROM users WHERE id = 456\n.explain SELECT count(*) FROM users\n";
    let shown = dev.succeeds(&["sql"], Some(script));
    assert!(shown.contains("shard") && shown.contains("count"), "{shown}");

    let shown = dev.succeeds(&["status"], None);
    for word in ["meta", "shard1", "shard2", "shard3", "users", "leader"] {
        assert!(shown.contains(word), "{word} is missing: {shown}");
    }
    dev.succeeds(&["admin", "register", "notes", "--key", "id"], None);
    let shown = dev.succeeds(&["sql", "-c", "SELECT text FROM notes WHERE id = 2"], None);
    assert!(shown.contains("it's"), "{shown}");
}

/// The eight calls, the shell, `status`, `admin` and `bench` against one `flotilla dev`, which then stops
/// when told and leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_works_against_dev() {
    let mut dev = Dev::start(3, 3).await;
    eight_calls(&dev).await;
    keys_and_values(&dev).await;
    a_new_shard(&dev).await;
    shell(&dev);
    let shown = dev.succeeds(&["bench", "write", "--clients", "4", "--duration", "1s", "--json"], None);
    println!("{}", shown.trim());
    let report: Json = serde_json::from_str(&shown).unwrap();
    assert!(report.to_string().contains("p99"), "{report}");
    let shown = dev.succeeds(&["bench", "read", "--rows", "200", "--duration", "1s"], None);
    println!("{}", shown.trim());

    let shown = dev.succeeds(&["bench", "tpch", "--scale", "0.001", "--rounds", "1", "--json"], None);
    let report: Json = serde_json::from_str(&shown).unwrap();
    let queries = report["queries"].as_array().unwrap();
    assert!(queries.len() == 22 && queries.iter().all(|query| query["same"] == true), "{report}");

    dev.process.signal(Signal::TERM);
    let status = dev.process.exit(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
    assert!(!dev.folder.path().join("flotilla-data").exists());
}

/// `up`, a write, `kill` of a replica, a write, `start`, `down`, `up` again with both rows, `destroy`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_script_works() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, shown) = ScriptedCluster::up(folder.path(), 2);
    assert!(shown.contains("shard2/3"), "{shown}");
    let mut session = cluster.session();
    session.create("CREATE TABLE t (a INTEGER PRIMARY KEY)", "t", "a", None).await;
    let insert = |a: u64| json!({ "query": "INSERT INTO t VALUES (?)", "args": [a] });
    for a in 1..=20 {
        session.insist("/execute", &insert(a), Some(&format!("row {a}"))).await;
    }
    cluster.run(&["kill", "shard1/2"]);
    for a in 21..=40 {
        session.insist("/execute", &insert(a), Some(&format!("row {a}"))).await;
    }
    // By now there is a leader again; without one `status` fails, as it should.
    let shown = cluster.run(&["status"]);
    let line = shown.lines().find(|line| line.starts_with("shard1/2")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("stopped"), "{shown}");
    let shown = cluster.run(&["start", "shard1/2"]);
    assert!(shown.contains("ready"), "{shown}");
    let shown = cluster.run(&["status"]);
    assert_eq!(shown.lines().filter(|line| line.contains(" ready ")).count(), 10, "{shown}");
    cluster.run(&["down"]);
    cluster.run(&["up", "--bin", flotilla().to_str().unwrap()]);
    let rows = session.rows("SELECT a FROM t", json!([])).await;
    assert_eq!(rows.len(), 40);
    cluster.run(&["destroy"]);
    assert!(!Path::new(cluster.data()).exists());
}
