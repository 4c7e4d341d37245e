//! Workloads against a server that answers at once.

use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::commands::test_server::{Answer, TestServer};

fn settings(server: &TestServer, clients: u32, threads: u32) -> Settings {
    Settings {
        url: server.url.clone(),
        clients,
        threads,
        duration: Duration::from_millis(300),
        warmup: Duration::from_millis(50),
    }
}

/// Every client writes, ids do not repeat, and what is counted is at most what was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes() {
    let server = TestServer::start(|_| Answer::Json(200, json!({ "results": [{ "rows_affected": 1 }] }))).await;
    let workload = PointWrite::new("bench", 5);
    workload.set_up(&mut server.client()).await.unwrap();
    let outcome = driver::run(&settings(&server, 5, 2), workload).await.unwrap();
    assert!(outcome.recorder.errors.is_empty(), "{:?}", outcome.recorder.errors);
    let seen = server.seen();
    assert!(seen[0].body["query"].as_str().unwrap().starts_with("CREATE TABLE IF NOT EXISTS bench"));
    assert_eq!(seen[1].body, json!({ "table_name": "bench", "shard_key": "id", "shard_func": "hash" }));
    let ids: std::collections::HashSet<i64> =
        seen[2..].iter().map(|seen| seen.body["args"][0].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), seen.len() - 2);
    assert!((1..=ids.len() as u64).contains(&outcome.recorder.succeeded()));
    let clients: std::collections::HashSet<i64> = ids.iter().map(|id| id % 5).collect();
    assert_eq!(clients.len(), 5);
}

/// Loads only what is missing; a table registered before is no error; answers are checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads() {
    let loaded: Mutex<Vec<i64>> = Mutex::default();
    let server = TestServer::start(move |seen| {
        if seen.path == "/table/register" {
            return Answer::Json(409, json!({ "error": { "code": "already_registered", "message": "m" } }));
        }
        if let Some(statements) = seen.body["statements"].as_array() {
            loaded.lock().unwrap().extend(statements.iter().map(|one| one["args"][0].as_i64().unwrap()));
            return Answer::Json(200, json!({ "results": vec![json!({ "rows_affected": 1 }); statements.len()] }));
        }
        let id = seen.body["args"][0].as_i64().unwrap_or(0);
        // Row 7 was lost.
        let found = id != 7 && loaded.lock().unwrap().contains(&id);
        let values = if found { vec![json!([id, 0, format!("loaded row {id}")])] } else { Vec::new() };
        Answer::Json(200, json!({ "results": [{ "columns": ["id", "ts", "name"], "values": values }] }))
    })
    .await;
    let workload = || PointRead::new("bench", 700, None);
    workload().set_up(&mut server.client()).await.unwrap();
    let batches: Vec<usize> =
        server.seen().iter().filter_map(|seen| seen.body["statements"].as_array().map(Vec::len)).collect();
    assert_eq!(batches, [500, 200]);
    let before = server.seen().len();
    workload().set_up(&mut server.client()).await.unwrap();
    assert_eq!(server.seen().len(), before + 3, "loaded twice");
    let outcome = driver::run(&settings(&server, 2, 1), PointRead::new("bench", 8, None)).await.unwrap();
    assert!(outcome.recorder.succeeded() > 0);
    assert_eq!(outcome.recorder.errors.keys().collect::<Vec<_>>(), ["wrong_row"]);
}

/// Nobody listens: the errors are counted under a name, and the run ends on time.
#[tokio::test]
async fn nobody_listens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Settings {
        url: format!("http://{free}").parse().unwrap(),
        clients: 2,
        threads: 1,
        duration: Duration::from_millis(200),
        warmup: Duration::ZERO,
    };
    let outcome = driver::run(&settings, PointWrite::new("bench", 2)).await.unwrap();
    assert_eq!(outcome.recorder.succeeded(), 0);
    assert_eq!(outcome.recorder.errors.keys().collect::<Vec<_>>(), ["cannot_connect"]);
}

/// Flags with their defaults and bounds.
#[test]
fn arguments() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }
    let parse = |line: &str| <Cli as clap::Parser>::try_parse_from(line.split(' ')).map(|cli| cli.args.workload);
    let Ok(WorkloadArgs::Write(args)) = parse("bench write --clients 64 --duration 500ms --no-setup") else {
        panic!("refused")
    };
    assert_eq!((args.clients, args.duration, args.no_setup), (64, Duration::from_millis(500), true));
    let Ok(WorkloadArgs::Write(args)) = parse("bench write --no-setup --setup") else { panic!("refused") };
    assert!(!args.no_setup);
    assert!(parse("bench").is_err() && parse("bench write --clients 0").is_err());
    assert!(parse("bench read --rows 0").is_err() && parse("bench write --table a;b").is_err());
    assert!(parse("bench write --duration soon").is_err());
}
