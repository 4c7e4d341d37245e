//! Nodes join, leave, step down, hang and come back, while writers run and lose nothing.

use std::time::{Duration, Instant};

use flotilla_tests::harness::cluster::process_ready;
use flotilla_tests::harness::ports::free_port;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::writers::{self, Journal, Writers};
use flotilla_tests::harness::{Cluster, Layout, Process, eventually};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// How long a node may take to stop: it hands over and drains.
const STOP: Duration = Duration::from_secs(15);

/// Bytes of a row.
const ROW_BYTES: usize = 300;

/// How long writers may stand still while a group elects a leader; elections take a second or two.
const ELECTION: Duration = Duration::from_secs(10);

async fn group(cluster: &Cluster, id: &str) -> Json {
    let status = cluster.session().insist_get("/status").await;
    status["groups"].as_array().unwrap().iter().find(|group| group["id"] == id).unwrap().clone()
}

/// Ids of the nodes that hold a replica.
fn holders(group: &Json) -> Vec<u64> {
    group["replicas"].as_array().unwrap().iter().map(|replica| replica["node"].as_u64().unwrap()).collect()
}

async fn job_is_done(cluster: &Cluster, id: &str) {
    eventually(&format!("job {id} is done"), PATIENCE, async || {
        let job = cluster.session().insist_get(&format!("/job/{id}")).await;
        assert!(job["state"] != "failed", "{job}");
        if job["state"] == "done" { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
}

fn failures(journals: &[Journal]) -> u64 {
    journals.iter().map(|journal| journal.failures).sum()
}

fn longest_gap(journals: &[Journal]) -> Duration {
    journals.iter().map(|journal| journal.longest_gap).max().unwrap()
}

/// A fourth node joins all groups, the first one is removed, everything is killed and started again:
/// the membership is what it was, and every row is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_and_another_leaves() {
    let mut cluster = Cluster::start(Layout { shards: 2, proxies: 2, ..Layout::default() }).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 8, ROW_BYTES, true);
    writers.progress(300).await;
    let start = Instant::now();
    let fourth = cluster.join("meta,shard1,shard2");
    for id in ["meta", "shard1", "shard2"] {
        eventually(&format!("node 4 votes in {id}"), PATIENCE, async || {
            let replica = cluster.replica(fourth, id).await.ok_or("no replica")?;
            let members = holders(&group(&cluster, id).await);
            match replica["role"].as_str() {
                Some("follower" | "leader") if members == [1, 2, 3, 4] => Ok(()),
                _ => Err(format!("{replica}, members {members:?}")),
            }
        })
        .await;
    }
    println!("a fourth node holds all groups after {:.1?}", start.elapsed());
    writers.progress(200).await;

    let removed = cluster.session().attempt("/remove", &json!({ "node": 1 }), None).await.unwrap();
    job_is_done(&cluster, removed["job"].as_str().unwrap()).await;
    for id in ["meta", "shard1", "shard2"] {
        assert_eq!(holders(&group(&cluster, id).await), [2, 3, 4], "{id}");
    }
    let nodes = cluster.session().insist_get("/node").await;
    assert_eq!(nodes["nodes"][0]["state"], "removed", "{nodes}");
    cluster.nodes[0].process.signal(Signal::TERM);
    cluster.nodes[0].process.exit(STOP).await;
    writers.progress(200).await;

    cluster.kill_all();
    let gone = cluster.nodes.remove(0);
    cluster.start_all();
    cluster.ready().await;
    writers.progress(200).await;
    for id in ["meta", "shard1", "shard2"] {
        assert_eq!(holders(&group(&cluster, id).await), [2, 3, 4], "{id} after the restart");
    }
    let journals = writers.stop().await;
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
    drop(gone);
}

/// SIGTERM of the node that leads: it hands its groups over and ends well; writers notice next to
/// nothing. Then the same for all nodes, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_hands_leadership_over() {
    let mut cluster = Cluster::start(Layout::default()).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 8, ROW_BYTES, true);
    writers.progress(300).await;
    for round in 0..3 {
        let leader = if round == 0 { cluster.leader("shard1").await } else { round };
        let start = Instant::now();
        cluster.nodes[leader].process.signal(Signal::TERM);
        let status = cluster.nodes[leader].process.exit(STOP).await;
        assert!(status.success(), "{status}");
        println!("node {} stepped down and stopped in {:.2?}", leader + 1, start.elapsed());
        let next = cluster.leader("shard1").await;
        assert_ne!(leader, next);
        writers.progress(100).await;
        let node = &mut cluster.nodes[leader];
        node.process.start();
        process_ready(&mut node.process, &node.http).await;
        writers.progress(100).await;
    }
    let journals = writers.stop().await;
    let (failed, gap) = (failures(&journals), longest_gap(&journals));
    println!("three nodes stopped in turn: {failed} failed tries of 8 writers, longest pause {gap:.2?}");
    assert!(failed <= 24, "{failed} tries failed");
    assert!(gap < ELECTION, "writers waited {gap:?}");
    cluster.ready().await;
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
}

/// SIGSTOP of a leader: its connections stay open and it says nothing, yet writes go on after an
/// election. SIGCONT: it finds out, follows, and holds what the others hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hangs_is_replaced_and_rejoins() {
    let mut cluster = Cluster::start(Layout::default()).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 8, ROW_BYTES, true);
    writers.progress(300).await;
    let leader = cluster.leader("shard1").await;
    cluster.nodes[leader].process.signal(Signal::STOP);
    let next = eventually("another node leads", PATIENCE, async || match cluster.leader("shard1").await {
        same if same == leader => Err("the stopped one".to_owned()),
        next => Ok(next),
    })
    .await;
    writers.progress(300).await;
    cluster.nodes[leader].process.signal(Signal::CONT);
    eventually("the old leader follows", PATIENCE, async || {
        let replica = cluster.replica(leader, "shard1").await.ok_or("no answer")?;
        if replica["role"] == "follower" { Ok(()) } else { Err(replica.to_string()) }
    })
    .await;
    writers.progress(300).await;
    let journals = writers.stop().await;
    let gap = longest_gap(&journals);
    println!("node {} hung, node {} took over, longest pause of a writer {gap:.2?}", leader + 1, next + 1);
    assert!(gap < ELECTION, "writers waited {gap:?}");
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
}

/// A second process on the data folder of a running node is refused and does no harm; so is a bad
/// setting, by its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_data_is_refused() {
    let mut cluster = Cluster::start(Layout { nodes: 1, shards: 1, ..Layout::default() }).await;
    let data = cluster.nodes[0].data.display().to_string();
    let (http, raft) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let join = cluster.nodes[0].raft.clone();
    let args = ["node", "--data", &data, "--http", &http, "--raft", &raft, "--join", &join];
    let with = |more: &[&str]| args.iter().chain(more).map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let wrong: [(&[&str], &str); 5] = [
        (&[], "in use by another process"),
        (&["--heartbeat-interval", "5s"], "heartbeat-interval"),
        (&["--snapshot-threshold", "1"], "snapshot-threshold"),
        (&["--log-level", "?=!"], "log-level"),
        (&["--groups", "wheel"], "groups"),
    ];
    for (number, (more, told)) in wrong.into_iter().enumerate() {
        let mut second = Process::new("second", with(more), cluster.folder().join(format!("second-{number}.log")));
        second.start();
        let status = second.exit(STOP).await;
        assert!(!status.success(), "{more:?}: {status}");
        let output = second.output();
        assert!(output.contains(told), "{more:?}: {output}");
    }
    cluster.session().execute("CREATE TABLE t (a)", json!([])).await;
    assert!(cluster.nodes[0].process.is_running());
}
