//! A table grows from two shards to four while clients read and write it.

use std::time::{Duration, Instant};

use flotilla_tests::harness::accounts::{Accounts, Load, Mix, longest};
use flotilla_tests::harness::session::Session;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Cluster, Layout, eventually};
use serde_json::{Value as Json, json};

const MIX: Mix = Mix { writers: 4, readers: 4, counters: 2, mixed: 0 };

fn accounts() -> Accounts {
    Accounts { name: "accounts".into(), count: 2000 }
}

/// Two tables that lie together on two shards of four, with rows, and one for rows with generated keys.
async fn fill(session: &mut Session) {
    accounts().make(session, json!({ "shards": ["shard1", "shard2"] })).await;
    session.execute("CREATE TABLE made (id INTEGER PRIMARY KEY, what TEXT)", json!([])).await;
    let together = json!({ "table_name": "made", "shard_key": "id", "colocate_with": "accounts" });
    session.post("/table/register", together).await;
}

/// Inserts rows whose keys the cluster makes up, each under a key of its own; their ids.
async fn make(session: &mut Session, what: &str) -> Vec<i64> {
    let mut ids = vec![];
    for n in 0..40 {
        let insert = json!({ "query": "INSERT INTO made (what) VALUES (?)", "args": [what] });
        let result = session.attempt("/execute", &insert, Some(&format!("made {n}"))).await.expect("a row");
        ids.push(result["results"][0]["last_insert_id"].as_i64().expect("an id"));
    }
    ids
}

async fn add_shards(session: &mut Session) {
    for shard in ["shard3", "shard4"] {
        session.post("/table/add-to-shard", json!({ "table_name": "accounts", "shard_id": shard })).await;
    }
}

async fn job(cluster: &Cluster, id: &str) -> Json {
    cluster.session().insist_get(&format!("/job/{id}")).await
}

async fn done(cluster: &Cluster, id: &str) -> Json {
    eventually(&format!("job {id} is done"), Duration::from_secs(120), async || {
        let job = job(cluster, id).await;
        assert!(!matches!(job["state"].as_str(), Some("failed" | "cancelled")), "{job}");
        if job["state"] == "done" { Ok(job) } else { Err(job.to_string()) }
    })
    .await
}

async fn shares(cluster: &Cluster) -> Vec<u64> {
    let table = cluster.session().insist_get("/table/accounts").await;
    let table = if table["shards"].is_null() { table["table"].clone() } else { table };
    table["shards"].as_array().unwrap().iter().map(|shard| shard["slots"].as_u64().unwrap()).collect()
}

/// From two shards to four under load: no request fails, no row is lost or doubled, every total is
/// exact; what is even stays as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_become_four() {
    let cluster = Cluster::start(Layout { shards: 4, proxies: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    fill(&mut session).await;
    let even = session.post("/table/rebalance", json!({ "table_name": "accounts" })).await;
    assert_eq!((&even["state"], &even["already_even"]), (&json!("done"), &json!(true)), "{even}");
    add_shards(&mut session).await;
    let plan = session.post("/table/rebalance", json!({ "table_name": "accounts", "dry_run": true })).await;
    assert_eq!(plan["slots"], 8192, "{plan}");

    let made = make(&mut session, "first").await;
    let load = Load::start(&cluster.proxies, &accounts(), MIX);
    load.progress(200, 5).await;
    let start = Instant::now();
    let started = session.post("/table/rebalance", json!({ "table_name": "accounts_events" })).await;
    let ended = done(&cluster, started["job"].as_str().unwrap()).await;
    let end = Instant::now();
    load.progress(200, 5).await;
    assert_eq!(shares(&cluster).await, [4096; 4]);
    let report = load.finish(&mut session).await;
    let before = longest(&report.writes, start - Duration::from_secs(60), start);
    let during = longest(&report.writes, start, end);
    println!("rebalanced in {:.1?}: {ended}", end - start);
    println!("writes, p99 and longest: {before:.0?} before, {during:.0?} during; {} totals read", report.totals);
    assert_eq!(report.failed, 0, "no request failed");
    assert!(ended["rows_moved"].as_u64().unwrap() > 800, "{ended}");
    let again = session.post("/table/rebalance", json!({ "table_name": "accounts" })).await;
    assert_eq!(again["already_even"], true, "{again}");
    assert_eq!(make(&mut session, "first").await, made, "what was applied before the move is not applied again");
    assert_eq!(session.rows("SELECT count(*) FROM made", json!([])).await, [[json!(made.len())]]);
}

/// The leader of a source shard is killed in the middle, and the node with the driver of the job after
/// it: clients repeat what was cut off, and nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_die_in_the_middle() {
    let mut cluster = Cluster::start(Layout { shards: 4, proxies: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    fill(&mut session).await;
    add_shards(&mut session).await;
    let load = Load::start(&cluster.proxies, &accounts(), MIX);
    load.progress(100, 2).await;
    let started = session.post("/table/rebalance", json!({ "table_name": "accounts" })).await;
    let id = started["job"].as_str().unwrap().to_owned();
    for (group, moves) in [("shard1", 1), ("meta", 3)] {
        eventually("some moves are done", PATIENCE, async || {
            let job = job(&cluster, &id).await;
            if job["moves"].as_u64().unwrap() >= moves { Ok(()) } else { Err(job.to_string()) }
        })
        .await;
        let leader = cluster.leader(group).await;
        cluster.nodes[leader].process.kill();
        load.progress(20, 1).await;
        cluster.nodes[leader].process.start();
        cluster.ready().await;
    }
    let ended = done(&cluster, &id).await;
    println!("rebalanced: {ended}; {} requests repeated", load.failed());
    load.progress(100, 2).await;
    assert_eq!(shares(&cluster).await, [4096; 4]);
    load.finish(&mut session).await;
}

/// A job halts on request, leaves nothing frozen, goes on, and ends on request with what it has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_resume_cancel() {
    let cluster = Cluster::start(Layout { nodes: 1, shards: 4, ..Layout::default() }).await;
    let mut session = cluster.session();
    fill(&mut session).await;
    add_shards(&mut session).await;
    let load = Load::start(&cluster.proxies, &accounts(), MIX);
    let started = session.post("/table/rebalance", json!({ "table_name": "accounts" })).await;
    let id = started["job"].as_str().unwrap().to_owned();
    let same = session.post("/table/rebalance", json!({ "table_name": "accounts" })).await;
    assert_eq!(same["job"], started["job"], "the one that is under way");
    let is = async |wanted: &str| {
        eventually(&format!("the job is {wanted}"), PATIENCE, async || {
            let job = job(&cluster, &id).await;
            if job["state"] == wanted { Ok(()) } else { Err(job.to_string()) }
        })
        .await;
    };
    session.post(&format!("/job/{id}/pause"), json!({})).await;
    is("paused").await;
    let moved = job(&cluster, &id).await["slots_moved"].clone();
    load.progress(50, 2).await;
    session.execute("ALTER TABLE accounts ADD COLUMN later DEFAULT 5", json!([])).await;
    assert_eq!(job(&cluster, &id).await["slots_moved"], moved);
    session.post(&format!("/job/{id}/resume"), json!({})).await;
    eventually("more slots have moved", PATIENCE, async || {
        let job = job(&cluster, &id).await;
        if job["slots_moved"].as_u64() > moved.as_u64() { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
    session.post(&format!("/job/{id}/cancel"), json!({})).await;
    is("cancelled").await;
    load.progress(50, 2).await;
    load.finish(&mut session).await;
    let shares = shares(&cluster).await;
    assert_eq!(shares.iter().sum::<u64>(), 16_384, "{shares:?}");
    let rows = session.rows("SELECT count(*), sum(later) FROM accounts", json!([])).await;
    assert_eq!(rows, [[json!(accounts().count), json!(5 * accounts().count)]]);
}
