//! Nodes and shards come and go while slots move: what changes where replicas are, and what changes which
//! shard owns which rows, at the same time, under load.

use std::time::{Duration, Instant};

use flotilla_shared::error::Code;
use flotilla_shared::ids::{GroupId, NodeId, ReplicaId};
use flotilla_shared::rpc::Pool;
use flotilla_shared::wire::{Request, Response};
use flotilla_tests::harness::accounts::{Accounts, Load, Mix, longest};
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Client, Cluster, Layout, Session, eventually};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

const MIX: Mix = Mix { writers: 3, readers: 3, counters: 2, mixed: 0 };

/// Slots of the table: few, so that its moves are few.
const SLOTS: i64 = 24;

const ROWS: i64 = 480;

/// How long a job may take on a busy machine.
const JOB: Duration = Duration::from_secs(180);

/// How long a node that hosts nothing may take to stop.
const STOP: Duration = Duration::from_secs(15);

/// Waits until jobs are done; they end in any order.
async fn done(session: &mut Session, started: &[Json]) {
    for job in started {
        let id = job["job"].as_str().unwrap_or_else(|| panic!("no job: {job}"));
        eventually(&format!("job {id} is done"), JOB, async || {
            let job = session.insist_get(&format!("/job/{id}")).await;
            assert!(!matches!(job["state"].as_str(), Some("failed" | "cancelled")), "{job}");
            if job["state"] == "done" { Ok(()) } else { Err(job.to_string()) }
        })
        .await;
    }
}

/// Groups and the nodes that hold their replicas.
async fn holders(session: &mut Session) -> Vec<(String, Vec<u64>)> {
    let status = session.insist_get("/status").await;
    let nodes = |group: &Json| {
        let replicas = group["replicas"].as_array().unwrap().iter();
        let mut nodes: Vec<u64> = replicas.map(|replica| replica["node"].as_u64().unwrap()).collect();
        nodes.sort();
        nodes
    };
    let groups = status["groups"].as_array().unwrap().iter();
    groups.map(|group| (group["id"].as_str().unwrap().to_owned(), nodes(group))).collect()
}

/// Waits until a node has dropped its replica of a group.
async fn dropped(cluster: &Cluster, node: usize, group: &str) {
    eventually(&format!("node {} has dropped its replica of {group}", node + 1), PATIENCE, async || {
        if cluster.database(node, group).is_none() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await;
}

/// Waits until a node has joined.
async fn is_up(session: &mut Session, id: u64) {
    eventually(&format!("node {id} has joined"), PATIENCE, async || {
        let nodes = session.insist_get("/node").await;
        let joined = nodes["nodes"].as_array().unwrap().iter().any(|node| node["id"] == id && node["state"] == "up");
        if joined { Ok(()) } else { Err(nodes.to_string()) }
    })
    .await;
}

/// Slots of the accounts by shard, in the registry.
async fn shares(cluster: &Cluster) -> Vec<usize> {
    cluster.placement("accounts").await.owned.values().map(|slots| slots.len()).filter(|slots| *slots > 0).collect()
}

/// A fourth node joins; a shard is made on it and gets a third of the table while a replica of the source is
/// replaced; the shard goes again while a node that holds a replica of it is drained, and that node leaves for
/// good. No request fails, every total is exact, no row is lost or doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_shards_come_and_go_at_once() {
    let mut cluster = Cluster::start(Layout { shards: 2, proxies: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    let accounts = Accounts { name: "accounts".into(), count: ROWS };
    let points: Vec<i64> = (1..SLOTS).map(|slot| slot * (ROWS / SLOTS)).collect();
    accounts.make(&mut session, json!({ "shard_func": "range", "split_points": points })).await;
    let start = Instant::now();
    let load = Load::start(&cluster.proxies, &accounts, MIX);
    load.progress(20, 1).await;

    let fourth = cluster.join("");
    is_up(&mut session, 4).await;
    let made = session.post("/shard", json!({ "nodes": [1, 2, 4] })).await;
    assert_eq!(made["shard"], "shard3", "{made}");
    let third = json!({ "table_name": "accounts", "shard_id": "shard3" });
    session.post("/table/add-to-shard", third).await;
    let leader = cluster.leader("shard2").await as u64 + 1;
    let replace = json!({ "replace": { leader.to_string(): 4 } });
    let both = [
        session.post("/table/rebalance", json!({ "table_name": "accounts" })).await,
        session.post("/shard/shard2/replicas", replace).await,
    ];
    done(&mut session, &both).await;
    let of_shard2: Vec<u64> = (1..=4).filter(|node| *node != leader).collect();
    let known = holders(&mut session).await;
    for wanted in [("shard2".to_owned(), of_shard2), ("shard3".to_owned(), vec![1, 2, 4])] {
        assert!(known.contains(&wanted), "{wanted:?} is not in {known:?}");
    }
    assert_eq!(shares(&cluster).await, [8, 8, 8]);
    dropped(&cluster, leader as usize - 1, "shard2").await;
    cluster.check_owners_at_rest("accounts").await;
    load.progress(20, 1).await;

    let both = [
        session.post("/shard/shard3/remove", json!({})).await,
        session.post("/node/1/drain", json!({ "patience": "1m" })).await,
    ];
    done(&mut session, &both).await;
    eventually("node 1 hosts nothing", PATIENCE, async || {
        let status = Client::new(&cluster.nodes[0].http).get("/status").await?.json();
        if status["groups"] == json!([]) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let left = [session.post("/remove", json!({ "node": 1 })).await];
    done(&mut session, &left).await;
    cluster.nodes[0].process.signal(Signal::TERM);
    let status = cluster.nodes[0].process.exit(STOP).await;
    assert!(status.success(), "{status}");
    load.progress(20, 1).await;

    let took = start.elapsed();
    let report = load.finish(&mut session).await;
    println!(
        "{took:.1?}: {} writes, p99 and longest {:.0?}, {} reads, {} exact totals",
        report.writes.len(),
        longest(&report.writes, start, Instant::now()),
        report.reads.len(),
        report.totals
    );
    assert_eq!(report.failed, 0, "no request failed");
    let rest = ["meta", "shard1", "shard2"].map(|group| (group.to_owned(), vec![2, 3, 4]));
    assert_eq!(holders(&mut session).await, rest);
    assert_eq!(shares(&cluster).await, [12, 12]);
    for node in 0..=fourth {
        dropped(&cluster, node, "shard3").await;
    }
    cluster.check_owners_at_rest("accounts").await;
}

/// A driver that fell behind makes a replica of a shard just before that leaves, and another one afterwards: the
/// node drops the first when it learns that the shard is gone, and does not make the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_replica_outlives_its_shard() {
    let mut cluster = Cluster::start(Layout { nodes: 1, shards: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    let second = cluster.join("");
    is_up(&mut session, 2).await;
    let (pool, in_cluster) = (Pool::default(), cluster.registry().await.cluster);
    let late = async || {
        // No job knows of this replica.
        let (group, replica) = (GroupId(2), ReplicaId(999));
        let create = Request::CreateReplica { cluster: in_cluster, node: NodeId(2), group, replica };
        pool.request(&cluster.nodes[second].raft, create, PATIENCE).await.expect("an answer")
    };
    let made = late().await;
    assert!(matches!(made, Ok(Response::Ok)), "{made:?}");
    assert!(cluster.database(second, "shard2").is_some());
    let removed = [session.post("/shard/shard2/remove", json!({})).await];
    done(&mut session, &removed).await;
    for node in [0, second] {
        dropped(&cluster, node, "shard2").await;
    }
    let refused = late().await;
    assert!(matches!(&refused, Err(error) if error.code == Code::NoSuchObject), "{refused:?}");
    assert!(cluster.database(second, "shard2").is_none());
}
