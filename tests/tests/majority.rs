//! A commit waits for the fastest majority and for nobody else: not for a distant follower, nor for the
//! leader's own slow disk. Nodes reach each other through relays that delay.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_tests::harness::{Cluster, Layout, Session};
use rustix::process::Signal;
use serde_json::json;

/// Writes measured, one after the other.
const WRITES: usize = 50;

/// Writes before them: connections and caches get warm.
const WARM_UP: usize = 10;

/// What a write must not wait for, in ms: far longer than all the rest takes on a busy machine. Heartbeats have 150 ms.
const LONG_MS: u64 = 100;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Latencies of single-row writes to shard 1, as their client sees them, sorted.
async fn latencies(session: &mut Session, series: &str) -> Vec<Duration> {
    let mut found = vec![];
    for n in 0..WARM_UP + WRITES {
        let body = json!({ "query": "INSERT INTO t (series, n) VALUES (?, ?)", "args": [series, n] });
        let start = Instant::now();
        session.insist("/execute", &body, Some(&format!("{series} {n}"))).await;
        if n >= WARM_UP {
            found.push(start.elapsed());
        }
    }
    found.sort();
    found
}

fn median(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() / 2]
}

fn show(what: &str, sorted: &[Duration]) {
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    println!("{what}: median {:.2?}, p90 {:.2?}, p99 {:.2?}", at(50), at(90), at(99));
}

/// One shard on three nodes behind relays, and a table on it.
async fn cluster(node_flags: BTreeMap<usize, Vec<String>>) -> Cluster {
    let layout = Layout { shards: 1, relays: true, node_flags, ..Layout::default() };
    let cluster = Cluster::start(layout).await;
    cluster.session().create("CREATE TABLE t (series TEXT, n INTEGER)", "t", "", None).await;
    cluster
}

/// Sets the round trips to the three nodes.
fn round_trips(cluster: &Cluster, trips: &[(usize, Duration)]) {
    for (node, trip) in trips {
        cluster.nodes[*node].relay.as_ref().unwrap().delay(*trip / 2, *trip / 2);
    }
}

/// Followers at 2 ms and 100 ms: commits take the near one's round trip and a sync. With both at 100 ms they
/// take that, which shows that the delays are real.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_wait_for_the_near_follower_only() {
    let cluster = cluster(BTreeMap::new()).await;
    let mut session = cluster.session();
    let leader = cluster.leader("shard1").await;
    let (near, far) = ((leader + 1) % 3, (leader + 2) % 3);
    let undelayed = latencies(&mut session, "undelayed").await;
    show("followers at 0 ms", &undelayed);
    round_trips(&cluster, &[(near, ms(2)), (far, ms(LONG_MS))]);
    let mixed = latencies(&mut session, "mixed").await;
    show("followers at 2 ms and 100 ms", &mixed);
    round_trips(&cluster, &[(near, ms(LONG_MS))]);
    let distant = latencies(&mut session, "distant").await;
    show("followers at 100 ms", &distant);
    assert_eq!(cluster.leader("shard1").await, leader, "another node leads, so the figures mean nothing");
    assert!(median(&mixed) >= ms(2), "the relays do not delay");
    assert!(median(&mixed) < ms(LONG_MS / 2), "the median is {:?}", median(&mixed));
    assert!(median(&distant) >= ms(LONG_MS), "the relays do not delay");
}

/// The leader's disk takes 100 ms for each sync: commits are those of its followers' disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_do_not_wait_for_the_leaders_disk() {
    const SLOW: usize = 1;
    let flags = vec!["--test-fsync-delay".to_owned(), format!("{LONG_MS}ms")];
    let mut cluster = cluster(BTreeMap::from([(SLOW, flags)])).await;
    make_leader(&mut cluster, SLOW).await;
    let mut session = cluster.session();
    let slow_disk = latencies(&mut session, "slow disk").await;
    show("the leader syncs in 100 ms", &slow_disk);
    assert_eq!(cluster.leader("shard1").await, SLOW, "another node leads, so the figures mean nothing");
    assert!(median(&slow_disk) < ms(LONG_MS / 2), "the median is {:?}", median(&slow_disk));

    // Without one follower the slow disk is needed for a majority: proof that it is slow.
    let other = (SLOW + 1) % 3;
    cluster.nodes[other].process.kill();
    let needed = latencies(&mut session, "needed").await;
    show("and a follower is down", &needed);
    assert_eq!(cluster.leader("shard1").await, SLOW, "another node leads, so the figures mean nothing");
    assert!(median(&needed) >= ms(LONG_MS), "the disk is not slow");
}

/// Stops whoever leads, until it is the wanted node's turn.
async fn make_leader(cluster: &mut Cluster, wanted: usize) {
    for _ in 0..20 {
        let leader = cluster.leader("shard1").await;
        if leader == wanted {
            return;
        }
        cluster.nodes[leader].process.signal(Signal::TERM);
        cluster.nodes[leader].process.exit(Duration::from_secs(20)).await;
        cluster.nodes[leader].process.start();
        cluster.ready().await;
    }
    panic!("node {} has not come to lead", wanted + 1);
}
