//! Shards lose a table, get it again, and leave the cluster, while clients read and write.

use std::time::{Duration, Instant};

use flotilla_tests::harness::accounts::{Accounts, Load, Mix, longest};
use flotilla_tests::harness::session::{Session, Trouble};
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Cluster, Layout, eventually};
use serde_json::{Value as Json, json};

const MIX: Mix = Mix { writers: 3, readers: 3, counters: 2, mixed: 0 };

/// How long a job may take on a busy machine.
const JOB: Duration = Duration::from_secs(180);

async fn done(cluster: &Cluster, started: &Json) -> Json {
    let id = started["job"].as_str().unwrap_or_else(|| panic!("no job: {started}")).to_owned();
    eventually(&format!("job {id} is done"), JOB, async || {
        let job = cluster.session().insist_get(&format!("/job/{id}")).await;
        assert!(!matches!(job["state"].as_str(), Some("failed" | "cancelled")), "{job}");
        if job["state"] == "done" { Ok(job) } else { Err(job.to_string()) }
    })
    .await
}

/// Why a call is refused.
async fn refusal(session: &mut Session, path: &str, body: Json) -> String {
    match session.attempt(path, &body, None).await {
        Err(Trouble::Refused(why)) => why.to_string(),
        other => panic!("{path} {body}: {other:?}"),
    }
}

/// Slots by shard.
async fn shares(session: &mut Session, table: &str) -> Vec<(String, u64)> {
    let table = session.insist_get(&format!("/table/{table}")).await;
    let shards = table["shards"].as_array().unwrap().iter();
    shards.map(|shard| (shard["id"].as_str().unwrap().to_owned(), shard["slots"].as_u64().unwrap())).collect()
}

fn names(shares: &[(String, u64)]) -> Vec<&str> {
    shares.iter().map(|(name, _)| name.as_str()).collect()
}

/// Four shards become three, four again and three for good: no request fails, no row is lost or doubled, every
/// total is exact; the shard that goes takes its replicas along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_leaves() {
    let mut cluster = Cluster::start(Layout { shards: 4, proxies: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    let accounts = Accounts { name: "accounts".into(), count: 1000 };
    accounts.make(&mut session, json!({})).await;
    session.execute("CREATE TABLE zones (zone TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID", json!([])).await;
    session.post("/table/register", json!({ "table_name": "zones", "shard_func": "reference" })).await;
    session.execute("INSERT INTO zones VALUES ('a', 'first')", json!([])).await;
    session.execute("CREATE TABLE people (country TEXT NOT NULL, n INTEGER)", json!([])).await;
    let list = json!({ "table_name": "people", "shard_key": "country", "shard_func": "list",
        "values": { "shard2": ["de"], "shard4": ["us", "fr"] } });
    session.post("/table/register", list).await;
    for country in ["de", "us", "fr", "us"] {
        session.execute("INSERT INTO people VALUES (?, 1)", json!([country])).await;
    }
    // The values of a table that is dropped keep no shard.
    session.execute("CREATE TABLE short (country TEXT NOT NULL)", json!([])).await;
    let list = json!({ "table_name": "short", "shard_key": "country", "shard_func": "list",
        "values": { "shard4": ["us"] } });
    session.post("/table/register", list).await;
    session.execute("INSERT INTO short VALUES ('us')", json!([])).await;
    session.execute("DROP TABLE short", json!([])).await;
    let load = Load::start(&cluster.proxies, &accounts, MIX);
    load.progress(50, 2).await;
    let start = Instant::now();

    // What must stay is refused by name.
    for (path, body) in [
        ("/table/remove-from-shard", json!({ "table_name": "accounts", "shard_id": "shard1" })),
        ("/table/remove-from-shard", json!({ "table_name": "zones", "shard_id": "shard4" })),
        ("/table/remove-from-shard", json!({ "table_name": "people", "shard_id": "shard4" })),
        ("/shard/shard1/remove", json!({})),
        ("/shard/shard4/remove", json!({})),
    ] {
        let why = refusal(&mut session, path, body.clone()).await;
        assert!(why.contains("cannot_leave"), "{path} {body}: {why}");
    }

    // The table leaves shard 4 and comes back.
    let leave = json!({ "table_name": "accounts_events", "shard_id": "shard4", "max_parallel": 2 });
    let mut dry = leave.clone();
    dry["dry_run"] = json!(true);
    let plan = session.post("/table/remove-from-shard", dry).await;
    assert_eq!((&plan["slots"], plan["moves"].as_array().unwrap().len()), (&json!(4096), 3), "{plan}");
    assert!(plan["rows"].as_u64().unwrap() > 200, "{plan}");
    let started = session.post("/table/remove-from-shard", leave.clone()).await;
    let again =
        refusal(&mut session, "/table/add-to-shard", json!({ "table_name": "accounts", "shard_id": "shard4" })).await;
    assert!(again.contains("conflict"), "{again}");
    let ended = done(&cluster, &started).await;
    assert_eq!(ended["slots_moved"], 4096, "{ended}");
    let three = shares(&mut session, "accounts").await;
    assert_eq!(names(&three), ["shard1", "shard2", "shard3"]);
    assert!(three.iter().all(|(_, slots)| (5461..=5462).contains(slots)), "{three:?}");
    cluster.check_owners_at_rest("accounts").await;
    let gone = session.post("/table/remove-from-shard", leave).await;
    assert_eq!(gone["already_gone"], true, "{gone}");
    load.progress(50, 2).await;
    session.post("/table/add-to-shard", json!({ "table_name": "accounts", "shard_id": "shard4" })).await;
    let by_rows = json!({ "table_name": "accounts", "by": "rows", "max_parallel": 2 });
    let started = session.post("/table/rebalance", by_rows.clone()).await;
    let ended = done(&cluster, &started).await;
    println!("by rows: {ended}");
    assert_eq!(ended["measured"], true, "{ended}");
    let back = shares(&mut session, "accounts").await;
    assert!(back[3].1 > 0, "{back:?}");
    cluster.check_owners_at_rest("accounts").await;

    // Its values are given away, then the shard goes for good.
    let split = json!({ "table_name": "people", "values": ["us", "fr"], "to": "shard2" });
    let started = session.post("/table/split", split).await;
    done(&cluster, &started).await;
    let started = session.post("/shard/shard4/remove", json!({ "max_parallel": 3 })).await;
    let ended = done(&cluster, &started).await;
    println!("removed: {ended}");
    load.progress(50, 2).await;
    let report = load.finish(&mut session).await;
    println!(
        "writes, p99 and longest: {:.0?}; {} totals",
        longest(&report.writes, start, Instant::now()),
        report.totals
    );
    assert_eq!(report.failed, 0, "no request failed");
    let listed = session.insist_get("/shard").await;
    assert_eq!(listed["shards"].as_array().unwrap().len(), 3, "{listed}");
    for table in ["accounts", "zones", "people"] {
        assert!(!names(&shares(&mut session, table).await).contains(&"shard4"), "{table}");
    }
    cluster.check_owners_now("accounts").await;
    for node in 0..cluster.nodes.len() {
        assert!(cluster.database(node, "shard4").is_none(), "node {node} has dropped its replica");
    }
    let rows =
        session.rows("SELECT country, count(*), name FROM people, zones GROUP BY country ORDER BY 1", json!([])).await;
    assert_eq!(
        rows,
        [
            [json!("de"), json!(1), json!("first")],
            [json!("fr"), json!(1), json!("first")],
            [json!("us"), json!(2), json!("first")]
        ]
    );
    session.execute("UPDATE zones SET name = 'second'", json!([])).await;

    // Its number is not used again; the new shard gets tables, copies and rows.
    let made = session.post("/shard", json!({})).await;
    assert_eq!(made["shard"], "shard5", "{made}");
    session.post("/table/add-to-shard", json!({ "table_name": "accounts", "shard_id": "shard5" })).await;
    let weights = json!({ "table_name": "accounts", "weights": { "shard2": 0, "shard5": 2 } });
    let started = session.post("/table/rebalance", weights).await;
    done(&cluster, &started).await;
    let shares = shares(&mut session, "accounts").await;
    assert_eq!(shares.iter().map(|(_, slots)| *slots).collect::<Vec<_>>(), [4096, 0, 4096, 8192]);
    let rows =
        session.rows("SELECT count(*), sum(held) FROM accounts, zones WHERE zones.name = 'second'", json!([])).await;
    assert_eq!(rows, [[json!(1000), json!(100_000)]]);
}

/// The driver is killed again and again while a shard leaves, and so is the leader of that shard: nothing is lost,
/// and the shard goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_die_while_a_shard_leaves() {
    let mut cluster = Cluster::start(Layout { shards: 2, proxies: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    let accounts = Accounts { name: "accounts".into(), count: 1000 };
    accounts.make(&mut session, json!({})).await;
    let load = Load::start(&cluster.proxies, &accounts, MIX);
    load.progress(20, 1).await;
    let started = session.post("/shard/shard2/remove", json!({})).await;
    let path = format!("/job/{}", started["job"].as_str().unwrap());
    for (group, moves) in [("meta", 1), ("shard2", 5), ("meta", 10)] {
        eventually("some moves are done", PATIENCE, async || {
            let job = cluster.session().insist_get(&path).await;
            if job["moves"].as_u64().unwrap() >= moves { Ok(()) } else { Err(job.to_string()) }
        })
        .await;
        let leader = cluster.leader(group).await;
        cluster.nodes[leader].process.kill();
        load.progress(5, 1).await;
        cluster.nodes[leader].process.start();
        cluster.ready().await;
    }
    let ended = done(&cluster, &started).await;
    println!("removed: {ended}; {} requests repeated", load.failed());
    load.progress(20, 1).await;
    load.finish(&mut session).await;
    assert_eq!(shares(&mut session, "accounts").await, [("shard1".to_owned(), 16_384)]);
    for node in 0..cluster.nodes.len() {
        assert!(cluster.database(node, "shard2").is_none(), "node {node} has dropped its replica");
    }
}
