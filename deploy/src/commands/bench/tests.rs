//! Workloads against a server that answers at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

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
        rate: None,
    }
}

fn target(server: &TestServer) -> Target {
    Target { url: server.url.clone(), own: None }
}

/// Every client writes, ids do not repeat, and what is counted is at most what was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes() {
    let server = TestServer::start(|_| Answer::Json(200, json!({ "results": [{ "rows_affected": 1 }] }))).await;
    let workload = PointWrite::new("bench", 5);
    workload.set_up(&target(&server)).await.unwrap();
    let outcome = driver::run(&settings(&server, 5, 2), workload, std::future::pending()).await.unwrap();
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
    workload().set_up(&target(&server)).await.unwrap();
    let batches: Vec<usize> =
        server.seen().iter().filter_map(|seen| seen.body["statements"].as_array().map(Vec::len)).collect();
    assert_eq!(batches, [500, 200]);
    let before = server.seen().len();
    workload().set_up(&target(&server)).await.unwrap();
    assert_eq!(server.seen().len(), before + 3, "loaded twice");
    let outcome =
        driver::run(&settings(&server, 2, 1), PointRead::new("bench", 8, None), std::future::pending()).await.unwrap();
    assert!(outcome.recorder.succeeded() > 0);
    assert_eq!(outcome.recorder.errors.keys().collect::<Vec<_>>(), ["wrong_row"]);
}

/// An open loop keeps its rate while the server answers, and ends when it is told to; requests that were
/// due during a stall count from then, though only one of them was in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_sees_a_stall() {
    let answered = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&answered);
    let server = TestServer::start(move |_| {
        if counted.fetch_add(1, Ordering::Relaxed) == 100 {
            std::thread::sleep(Duration::from_millis(200));
        }
        Answer::Json(200, json!({ "results": [{ "rows_affected": 1 }] }))
    })
    .await;
    let settings = Settings {
        rate: Some(500.0),
        duration: Duration::from_secs(3600),
        warmup: Duration::ZERO,
        ..settings(&server, 1, 1)
    };
    let end = async {
        while answered.load(Ordering::Relaxed) < 300 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let outcome = driver::run(&settings, PointWrite::new("bench", 1), end).await.unwrap();
    let recorder = &outcome.recorder;
    // Each request that was due was answered or is told to be missing, but for one that was waited for.
    let told = recorder.succeeded() + recorder.errors.get("not_sent_in_time").unwrap_or(&0);
    let due = (500.0 * outcome.measured.as_secs_f64()).ceil() as u64;
    assert!(told <= due && told + 1 >= due, "{told} of {due}");
    // A closed loop would have seen one slow request; 100 were due in those 200 ms.
    let slow = recorder.latency_us.count_between(50_000, 1_000_000_000);
    assert!(slow >= 70, "{slow} requests saw the stall");
    assert!(!outcome.stopped_early);
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
        rate: None,
    };
    let outcome = driver::run(&settings, PointWrite::new("bench", 2), std::future::pending()).await.unwrap();
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
    assert_eq!((args.clients, args.duration, args.no_setup), (vec![64], Duration::from_millis(500), true));
    let Ok(WorkloadArgs::Write(args)) = parse("bench write --no-setup --setup") else { panic!("refused") };
    assert!(!args.no_setup);
    assert!(parse("bench").is_err() && parse("bench write --clients 0").is_err());
    assert!(parse("bench read --rows 0").is_err() && parse("bench write --table a;b").is_err());
    assert!(parse("bench write --duration soon").is_err());
}
