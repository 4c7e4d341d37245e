//! Every process is killed at one moment, or some in the middle of moving a snapshot: what was
//! acknowledged is there after the restart, once, within seconds, in the same database files.

use std::time::{Duration, Instant};

use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::writers::{self, Writers};
use flotilla_tests::harness::{Cluster, Layout, eventually};

/// From the first process that starts to the last shard that answers; generous, it takes about two.
const RESTART_LIMIT: Duration = Duration::from_secs(15);

fn flags(list: &[&str]) -> Vec<String> {
    list.iter().map(|flag| (*flag).to_owned()).collect()
}

/// Kills everything, starts it again and says how long that took.
async fn crash(cluster: &mut Cluster) -> Duration {
    cluster.kill_all();
    let files: Vec<_> = (0..cluster.nodes.len()).map(|node| cluster.databases(node)).collect();
    let start = Instant::now();
    cluster.start_all();
    cluster.ready().await;
    let took = start.elapsed();
    for (node, before) in files.iter().enumerate() {
        assert_eq!(*before, cluster.databases(node), "node {} has other database files", node + 1);
    }
    assert!(took < RESTART_LIMIT, "the restart took {took:?}");
    took
}

/// SIGKILL of every process while writers run, twice: they go on after the restart under the same keys,
/// and in the end every row is there once. No database is rebuilt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_is_killed_twice() {
    let mut cluster = Cluster::start(Layout { proxies: 2, ..Layout::default() }).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 16, 200, true);
    for round in 1..=2 {
        writers.progress(2000).await;
        let took = crash(&mut cluster).await;
        println!("restart {round} after {} writes: all shards answer after {took:.2?}", writers.acknowledged());
    }
    writers.progress(500).await;
    let journals = writers.stop().await;
    writers::check(&mut cluster.session(), &journals, 200).await;
    cluster.contents().await;
}

/// SIGKILL of every process at the moment when a node begins a new log segment, twice, with a log that
/// is compacted all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_killed_as_the_log_rotates() {
    const ROW_BYTES: usize = 150_000;
    let layout = Layout { shards: 2, flags: flags(&["--snapshot-threshold", "32"]), ..Layout::default() };
    let mut cluster = Cluster::start(layout).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 8, ROW_BYTES, true);
    for round in 1..=2 {
        writers.progress(10).await;
        let newest = |cluster: &Cluster, node| cluster.segments(node).pop();
        let before: Vec<_> = (0..3).map(|node| newest(&cluster, node)).collect();
        let node = eventually("a node begins a segment", PATIENCE, async || {
            (0..3).find(|node| newest(&cluster, *node) != before[*node]).ok_or_else(|| format!("still {before:?}"))
        })
        .await;
        let took = crash(&mut cluster).await;
        let (node, done) = (node + 1, writers.acknowledged());
        println!("killed as node {node} began a segment, round {round}, {done} writes: back after {took:.2?}");
    }
    writers.progress(10).await;
    let journals = writers.stop().await;
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
    let kept = (0..3).map(|node| cluster.segments(node).len()).max().unwrap();
    assert!(kept <= 6, "{kept} segments are kept though all entries were compacted");
}

/// A follower that fell behind is fed pages over a slow link. It is killed while they come, then, at the
/// next try, the leader is: in the end it has caught up and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_of_a_snapshot_are_killed() {
    const ROW_BYTES: usize = 60_000;
    let layout = Layout { shards: 1, relays: true, flags: flags(&["--snapshot-threshold", "32"]), ..Layout::default() };
    let mut cluster = Cluster::start(layout).await;
    writers::make_table(&mut cluster.session()).await;
    let leader = cluster.leader("shard1").await;
    let follower = (leader + 1) % 3;
    cluster.nodes[follower].process.kill();
    let writers = Writers::start(&cluster, 0, 4, ROW_BYTES, true);
    eventually("the log is compacted", PATIENCE, async || {
        let replica = cluster.replica(leader, "shard1").await.ok_or("no replica")?;
        if replica["purged"].as_u64() > Some(100) { Ok(()) } else { Err(replica.to_string()) }
    })
    .await;

    // A round trip for every few chunks: the transfer takes seconds.
    let slow = Duration::from_millis(100);
    cluster.nodes[follower].relay.as_ref().unwrap().delay(slow, slow);
    cluster.nodes[follower].process.start();
    await_transfer(&cluster, follower).await;
    cluster.nodes[follower].process.kill();
    assert!(!cluster.incoming(follower, "shard1").is_empty(), "the transfer was over before the kill");
    cluster.nodes[follower].process.start();
    await_transfer(&cluster, follower).await;
    let leader = cluster.leader("shard1").await;
    cluster.nodes[leader].process.kill();
    let left = cluster.incoming(follower, "shard1").len();
    println!("the leader was killed with {left} transfer under way");
    writers.progress(20).await;
    cluster.nodes[follower].relay.as_ref().unwrap().delay(Duration::ZERO, Duration::ZERO);
    cluster.nodes[leader].process.start();
    cluster.ready().await;
    writers.progress(20).await;
    let journals = writers.stop().await;
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
    for node in 0..3 {
        eventually("files of ended transfers are gone", PATIENCE, async || match cluster.incoming(node, "shard1") {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        })
        .await;
    }
}

/// Waits until pages arrive at a node.
async fn await_transfer(cluster: &Cluster, node: usize) {
    eventually("pages arrive", PATIENCE, async || {
        let files = cluster.incoming(node, "shard1");
        let bytes: u64 = files.iter().filter_map(|file| Some(std::fs::metadata(file).ok()?.len())).sum();
        if bytes > 1 << 20 { Ok(()) } else { Err(format!("{bytes} bytes in {files:?}")) }
    })
    .await;
}
