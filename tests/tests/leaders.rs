//! Who leads: handed over on request, and spread over nodes and zones by itself, while clients read and
//! write and nobody's request fails.

use std::time::{Duration, Instant};

use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::writers::{self, Journal, Writers};
use flotilla_tests::harness::{Client, Cluster, Layout, eventually};
use serde_json::{Value as Json, json};

/// Bytes of a row.
const ROW_BYTES: usize = 100;

/// Elections take this long here, so that whoever waited for one is found out.
const ELECTION: Duration = Duration::from_secs(3);

/// Longest that a writer may stand still: far less than an election, far more than a hand-over takes.
const LONGEST_WAIT: Duration = Duration::from_millis(1500);

fn slow_elections() -> Vec<String> {
    ["--election-timeout-min", "3s", "--election-timeout-max", "4s"].map(str::to_owned).into()
}

/// All writers' failed tries, and the longest time that one stood still.
fn trouble(journals: &[Journal]) -> (u64, Duration) {
    let failures = journals.iter().map(|journal| journal.failures).sum();
    (failures, journals.iter().map(|journal| journal.longest_gap).max().unwrap_or_default())
}

async fn hand_over(cluster: &Cluster, group: &str, node: usize) -> Json {
    let mut client = Client::new(&cluster.proxies[0].http);
    client.post(&format!("/shard/{group}/leader"), &json!({ "node": node + 1 })).await.unwrap().expect(group)
}

/// Leaders of all groups, `meta` too, go round while clients write and read: no request fails, and
/// nobody waits for an election. What is asked for twice changes nothing; what cannot be is refused at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_go_round_and_nobody_notices() {
    let layout = Layout { shards: 2, proxies: 2, flags: slow_elections(), ..Layout::default() };
    let mut cluster = Cluster::start(layout).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 8, ROW_BYTES, true);
    writers.progress(100).await;
    let reading = tokio::spawn({
        let mut client = Client::new(&cluster.proxies[1].http);
        async move {
            let mut longest = Duration::ZERO;
            for _ in 0..200 {
                let start = Instant::now();
                let body = json!({ "query": "SELECT count(*) FROM events" });
                client.post("/query", &body).await.unwrap().expect("a read");
                longest = longest.max(start.elapsed());
            }
            longest
        }
    });
    let mut longest = Duration::ZERO;
    for round in 0..5 {
        for group in ["meta", "shard1", "shard2"] {
            let to = (cluster.leader(group).await + 1) % 3;
            let start = Instant::now();
            let told = hand_over(&cluster, group, to).await;
            longest = longest.max(start.elapsed());
            assert_eq!(told, json!({ "shard": group, "leader": to + 1 }), "round {round}");
            assert_eq!(cluster.leader(group).await, to, "round {round}");
            assert_eq!(hand_over(&cluster, group, to).await["leader"], to + 1, "it leads already");
            writers.progress(20).await;
        }
    }
    let read = reading.await.unwrap();
    let journals = writers.stop().await;
    let (failed, gap) = trouble(&journals);
    println!(
        "15 hand-overs: the slowest took {longest:.1?}; longest wait of a writer {gap:.1?}, of a reader {read:.1?}"
    );
    assert_eq!(failed, 0, "tries failed");
    assert!(gap < LONGEST_WAIT && read < LONGEST_WAIT, "elections take {ELECTION:?}");

    let mut client = Client::new(&cluster.proxies[0].http);
    let leader = cluster.leader("shard1").await;
    let victim = (leader + 1) % 3;
    for (path, body, status) in [
        ("/shard/shard9/leader", json!({ "node": 1 }), 404),
        ("/shard/shard1/leader", json!({ "node": 9 }), 404),
        ("/shard/shard1/leader", json!({}), 400),
        ("/shard/wheel/leader", json!({ "node": 1 }), 400),
    ] {
        assert_eq!(client.post(path, &body).await.unwrap().status.as_u16(), status, "{path} {body}");
    }
    cluster.nodes[victim].process.kill();
    // The leader has heard of it just now; until it counts as silent a hand-over may fail, but harms nobody.
    let refused = loop {
        let reply = client.post("/shard/shard1/leader", &json!({ "node": victim + 1 })).await.unwrap();
        assert_ne!(reply.status.as_u16(), 200, "a dead node leads: {reply}");
        if reply.status.as_u16() == 409 {
            break reply.to_string();
        }
    };
    assert!(refused.contains("does not answer"), "{refused}");
    cluster.nodes[victim].process.start();
    cluster.ready().await;
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
}

/// How many groups each node leads, when `/status` says that nothing is left to move.
async fn evenly_led(cluster: &Cluster, wanted: &[u64]) {
    eventually(&format!("nodes lead {wanted:?} groups"), PATIENCE, async || {
        let status = cluster.session().insist_get("/status").await;
        let leads = |node: &Json| node["leads"].as_u64().unwrap_or(0);
        let led: Vec<u64> = status["nodes"].as_array().into_iter().flatten().map(leads).collect();
        match led == wanted && status["leaders"]["even"] == true {
            true => Ok(()),
            false => Err(format!("{led:?}, {}", status["leaders"])),
        }
    })
    .await;
}

/// A node dies and comes back: it is given its share of leaders again. A shard that prefers a zone is led
/// there. With the balancer off, leaders stay where an operator put them; on again, they are spread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_spread_and_kept_in_their_zones() {
    let flags = ["--election-timeout-min", "400ms", "--election-timeout-max", "600ms", "--heartbeat-interval", "100ms"];
    let zone = |name: &str| vec!["--zone".to_owned(), name.to_owned()];
    let layout = Layout {
        shards: 5,
        flags: flags.map(str::to_owned).into(),
        node_flags: [(0, zone("north")), (1, zone("south")), (2, zone("south"))].into(),
        ..Layout::default()
    };
    let mut cluster = Cluster::start(layout).await;
    let nodes = cluster.session().insist_get("/node").await;
    assert_eq!(nodes["nodes"][0]["zone"], "north", "{nodes}");
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 4, ROW_BYTES, true);
    evenly_led(&cluster, &[2, 2, 2]).await;

    let start = Instant::now();
    cluster.nodes[1].process.kill();
    writers.progress(200).await;
    cluster.nodes[1].process.start();
    evenly_led(&cluster, &[2, 2, 2]).await;
    println!("a killed node leads its share again after {:.1?}", start.elapsed());

    let mut client = Client::new(&cluster.proxies[0].http);
    let group = match cluster.leader("shard1").await {
        0 => "shard2",
        _ => "shard1",
    };
    let group = if cluster.leader(group).await == 0 { "shard3" } else { group };
    let told = client.post(&format!("/shard/{group}"), &json!({ "preferred_zone": "north" })).await.unwrap();
    assert_eq!(told.expect("zone"), json!({ "shard": group, "preferred_zone": "north" }));
    eventually(&format!("{group} is led in the north"), PATIENCE, async || match cluster.leader(group).await {
        0 => Ok(()),
        other => Err(format!("node {} leads", other + 1)),
    })
    .await;
    for (body, status) in
        [(json!({ "preferred_zone": "east" }), 409), (json!({ "preferred_zone": 1 }), 400), (json!({}), 400)]
    {
        let reply = client.post(&format!("/shard/{group}"), &body).await.unwrap();
        assert_eq!(reply.status.as_u16(), status, "{reply}");
    }
    client.post(&format!("/shard/{group}"), &json!({ "preferred_zone": null })).await.unwrap().expect("no zone");

    client.post("/leaders", &json!({ "balance": false })).await.unwrap().expect("off");
    eventually("the balancer is off", PATIENCE, async || {
        let status = cluster.session().insist_get("/status").await;
        if status["leaders"]["balance"] == false { Ok(()) } else { Err(status["leaders"].to_string()) }
    })
    .await;
    for group in ["meta", "shard1", "shard2", "shard3", "shard4", "shard5"] {
        hand_over(&cluster, group, 2).await;
    }
    let metrics = Client::new(&cluster.nodes[2].http).get("/metrics").await.unwrap();
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(!metrics.contains("\nflotilla_node_balancer_on 1"), "{metrics}");
    client.post("/leaders", &json!({ "balance": true })).await.unwrap().expect("on");
    evenly_led(&cluster, &[2, 2, 2]).await;
    let metrics = cluster.leader("meta").await;
    let metrics = Client::new(&cluster.nodes[metrics].http).get("/metrics").await.unwrap();
    assert!(String::from_utf8_lossy(&metrics.body).contains("\nflotilla_node_balancer_on 1"));

    let journals = writers.stop().await;
    let (failed, gap) = trouble(&journals);
    println!("writers: {failed} failed tries, longest wait {gap:.1?}");
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
}

/// Heartbeats that nobody asks for anything.
const SILENCE_BEATS: u32 = 20;

/// Nobody asks for anything for many heartbeats, several times the time after which followers of a silent leader
/// elect another: every group has the leader and the term that it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_do_nothing_keep_their_leaders() {
    let beat = Duration::from_millis(300);
    let flags = ["--election-timeout-min", "1500ms", "--election-timeout-max", "2s", "--heartbeat-interval", "300ms"];
    let layout = Layout { shards: 5, flags: flags.map(str::to_owned).into(), ..Layout::default() };
    let cluster = Cluster::start(layout).await;
    evenly_led(&cluster, &[2, 2, 2]).await;
    let before = terms(&cluster).await;
    // What is looked for is that nothing happens.
    tokio::time::sleep(SILENCE_BEATS * beat).await;
    assert_eq!(terms(&cluster).await, before);
}

/// Term and role of every replica.
async fn terms(cluster: &Cluster) -> Vec<Json> {
    let mut terms = vec![];
    for group in std::iter::once("meta".to_owned()).chain(cluster.shard_names()) {
        for node in 0..cluster.nodes.len() {
            let replica = cluster.replica(node, &group).await.expect("each node has a replica of each group");
            terms.push(json!([group, node, replica["role"], replica["term"]]));
        }
    }
    terms
}
