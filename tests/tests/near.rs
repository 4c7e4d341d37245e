//! Reads of level `none`: any replica answers them, readers and near ones too, as long as it holds what the
//! read needs. One that is behind is passed over, so that no answer is older than allowed, or of two moments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Client, Cluster, Layout, Session, eventually};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// Reads of which each replica must get its share.
const READS: u64 = 120;

/// What a node counts of the reads of shard 1.
async fn served(cluster: &Cluster, node: usize) -> u64 {
    let text = Client::new(&cluster.nodes[node].http).get("/metrics").await.unwrap();
    let text = String::from_utf8(text.body.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("flotilla_node_reads{group=\"shard1\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

async fn all_served(cluster: &Cluster) -> Vec<u64> {
    let mut counts = vec![];
    for node in 0..cluster.nodes.len() {
        counts.push(served(cluster, node).await);
    }
    counts
}

async fn read(client: &mut Client, how: &str, sql: &str) -> Json {
    let reply = client.post(&format!("/query?{how}"), &json!({ "query": sql })).await.unwrap();
    reply.expect(sql)["results"][0]["values"].take()
}

/// Runs a job to its end.
async fn run(session: &mut Session, path: &str, body: Json) {
    let started = session.insist(path, &body, None).await;
    let Some(id) = started["job"].as_str() else { return };
    eventually(&format!("{path} is done"), PATIENCE, async || {
        let reply = session.client().get(&format!("/job/{id}")).await?.json();
        assert!(reply["state"] != "failed", "{reply}");
        if reply["state"] == "done" { Ok(()) } else { Err(reply.to_string()) }
    })
    .await;
}

/// All followers of a shard and a reader in a zone of its own share the reads of level `none`, and the leader
/// has none of them. They go on, each in time, while the leader is stopped and nobody leads. A proxy in the
/// reader's zone asks the reader alone, and others again when that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_gets_its_share() {
    let node_flags = BTreeMap::from([(3, ["--zone", "reading"].map(str::to_owned).to_vec())]);
    let mut cluster = Cluster::start(Layout { shards: 1, proxies: 2, node_flags, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.post("/leaders", json!({ "balance": false })).await;
    session.create("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)", "t", "id", None).await;
    session.execute("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)", json!([])).await;
    cluster.join("");
    eventually("node 4 has joined", PATIENCE, async || {
        let reply =
            session.client().post("/shard/shard1/replicas", &json!({ "add_readers": [4], "dry_run": true })).await?;
        if reply.status.is_success() { Ok(()) } else { Err(reply.to_string()) }
    })
    .await;
    run(&mut session, "/shard/shard1/replicas", json!({ "add_readers": [4] })).await;
    let leader = cluster.leader("shard1").await;

    // The proxy finds out who leads.
    read(session.client(), "", "SELECT 1 FROM t").await;
    let rows = json!([[1, 10], [2, 20], [3, 30]]);
    let all = "SELECT * FROM t ORDER BY id";
    eventually("all replicas hold the rows", PATIENCE, async || {
        let mut found = vec![];
        for node in &cluster.nodes {
            let body = json!({ "query": all });
            let reply = Client::new(&node.http).post("/query?shard=shard1&level=none", &body).await?;
            found.push(reply.json()["results"][0]["values"] == rows);
        }
        if found.iter().all(|same| *same) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let before = all_served(&cluster).await;
    for _ in 0..READS {
        assert_eq!(read(session.client(), "level=none", all).await, rows);
    }
    let after = all_served(&cluster).await;
    let shares: Vec<u64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    println!("reads by node: {shares:?}, node {} leads", leader + 1);
    for (node, share) in shares.iter().enumerate() {
        match node == leader {
            true => assert!(*share < READS / 10, "the leader: {shares:?}"),
            false => assert!((READS / 4..READS / 2).contains(share), "node {}: {shares:?}", node + 1),
        }
    }

    // The other proxy stands beside the reader.
    let near = &mut cluster.proxies[1];
    near.process.kill();
    near.process.args_mut().extend(["--zone", "reading"].map(str::to_owned));
    near.process.start();
    cluster.ready().await;
    let mut near = Client::new(&cluster.proxies[1].http);
    let before = all_served(&cluster).await;
    for _ in 0..READS {
        assert_eq!(read(&mut near, "level=none&freshness=60s", all).await, rows);
    }
    let after = all_served(&cluster).await;
    assert!(after[3] - before[3] >= READS, "{before:?} {after:?}");

    cluster.nodes[leader].process.signal(Signal::STOP);
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut answered = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        for client in [session.client(), &mut near] {
            let start = Instant::now();
            assert_eq!(read(client, "level=none&timeout=3s", all).await, rows);
            slowest = slowest.max(start.elapsed());
            answered += 1;
        }
    }
    println!("{answered} reads while the leader was stopped, the slowest took {slowest:.2?}");
    cluster.nodes[leader].process.signal(Signal::CONT);
    cluster.nodes[3].process.kill();
    assert_eq!(read(&mut near, "level=none&timeout=3s", all).await, rows);
}

/// The leader cannot reach a follower any more, which all others reach: what it holds gets old. Reads of level
/// `none` still get that, but not those that ask for `freshness`: the follower refuses them by name, and the
/// proxy has another replica answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_replica_is_passed_over() {
    const FRESHNESS: Duration = Duration::from_millis(400);
    let cluster = Cluster::start(Layout { shards: 1, relays: true, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.post("/leaders", json!({ "balance": false })).await;
    session.create("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)", "t", "id", None).await;
    session.execute("INSERT INTO t VALUES (1, 0)", json!([])).await;
    let sql = "SELECT v FROM t WHERE id = 1";
    let leader = cluster.leader("shard1").await;
    let old = (leader + 1) % 3;
    // All replicas are asked, so that each has proven itself once.
    for _ in 0..30 {
        read(session.client(), "level=none&freshness=400ms", sql).await;
    }
    cluster.nodes[old].relay.as_ref().unwrap().cut_for(cluster.nodes[leader].process.id());
    let update = json!({ "query": "UPDATE t SET v = 1 WHERE id = 1" });
    session.insist("/execute", &update, Some("update")).await;
    let acknowledged = Instant::now();
    let mut direct = Client::new(&cluster.nodes[old].http);
    let held = read(&mut direct, "shard=shard1&level=none", sql).await;
    assert_eq!(held, json!([[0]]), "it is cut off");
    let refusal = eventually("the old replica refuses", PATIENCE, async || {
        let reply = direct.post("/query?shard=shard1&level=none&freshness=400", &json!({ "query": sql })).await?;
        if reply.status.is_success() { Err(reply.to_string()) } else { Ok(reply) }
    })
    .await;
    assert_eq!(refusal.code().as_deref(), Some("not_fresh"), "{refusal}");
    println!("it refuses after {:.2?}: {refusal}", acknowledged.elapsed());
    let before = served(&cluster, old).await;
    let mut seen = BTreeMap::new();
    for _ in 0..READS {
        let due = acknowledged.elapsed() > FRESHNESS;
        let value = read(session.client(), "level=none&freshness=400ms", sql).await;
        assert!(!due || value == json!([[1]]), "{value} is older than allowed: {seen:?}");
        *seen.entry((due, value.to_string())).or_insert(0) += 1;
    }
    println!("with freshness: {seen:?}");
    assert_eq!(served(&cluster, old).await, before, "the old replica answered");
    eventually("without, it is asked again", PATIENCE, async || {
        match read(session.client(), "level=none", sql).await {
            value if value == json!([[0]]) => Ok(()),
            value => Err(value.to_string()),
        }
    })
    .await;
    assert_eq!(read(session.client(), "", sql).await, json!([[1]]));
}

/// Large slots move to and fro between two shards while a follower of both is always behind: reads of level
/// `none` of all rows give each of them once, whoever answers; reads by key find theirs; a schema change is seen
/// by none of the plans that were made after it as the table before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_behind_never_answer_twice() {
    const ROWS: i64 = 1200;
    let cluster = Cluster::start(Layout { shards: 2, relays: true, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.post("/leaders", json!({ "balance": false })).await;
    let create = json!({ "query": "CREATE TABLE t (area TEXT NOT NULL, n INTEGER, v TEXT)" });
    session.insist("/execute", &create, Some("create")).await;
    let register = json!({ "table_name": "t", "shard_key": "area", "shard_func": "list",
        "values": { "shard1": ["a", "b"], "shard2": ["c"] } });
    session.insist("/table/register", &register, None).await;
    for area in ["a", "b", "c"] {
        let sql = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
                   SELECT ?, i, hex(zeroblob(40)) FROM n";
        session.insist("/execute", &json!({ "query": sql, "args": [ROWS, area] }), Some(area)).await;
    }
    let leaders = [cluster.leader("shard1").await, cluster.leader("shard2").await];
    let behind = (0..3).find(|node| !leaders.contains(node)).unwrap();
    let delay = Duration::from_millis(400);
    cluster.nodes[behind].relay.as_ref().unwrap().delay(delay, Duration::ZERO);

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let reading: Vec<_> = [
        ("SELECT count(*), sum(n), count(DISTINCT n) FROM t", json!([[3 * ROWS, 3 * ROWS * (ROWS + 1) / 2, ROWS]])),
        ("SELECT count(*) FROM t WHERE area = 'b'", json!([[ROWS]])),
        ("SELECT a.n FROM t a, (SELECT max(n) AS n FROM t) b WHERE a.n = b.n", json!([[ROWS], [ROWS], [ROWS]])),
    ]
    .into_iter()
    .map(|(sql, wanted)| {
        let (mut client, stop, done) = (Client::new(&cluster.proxies[0].http), Arc::clone(&stop), Arc::clone(&done));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(read(&mut client, "level=none&timeout=10s", sql).await, wanted, "{sql}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    })
    .collect();
    for to in ["shard2", "shard1"] {
        run(&mut session, "/table/split", json!({ "table_name": "t", "values": ["a", "b"], "to": to })).await;
    }
    stop.store(true, Ordering::Relaxed);
    for reader in reading {
        reader.await.unwrap();
    }
    println!("{} reads of level none while slots moved", done.load(Ordering::Relaxed));
    for n in 0..4 {
        let sql = format!("ALTER TABLE t ADD COLUMN c{n} DEFAULT {n}");
        session.insist("/execute", &json!({ "query": sql }), Some(&sql)).await;
        let row = read(session.client(), "level=none", "SELECT * FROM t WHERE area = 'c' AND n = 1").await;
        assert_eq!(row[0].as_array().map(Vec::len), Some(4 + n), "{row}");
    }
}
