//! Replicas come and go while writers run: added, promoted, replaced, removed, made anew for a dead node,
//! moved off a node that is drained. No row is lost or doubled, and no request fails but for a kill.

use flotilla_shared::ids::{GroupId, NodeId, RequestId};
use flotilla_shared::registry::{JobKind, MetaCommand, MetaReply, ReplicaChange, ReplicaGoal};
use flotilla_tests::harness::cluster::process_ready;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::writers::{self, Journal, Writers};
use flotilla_tests::harness::{Client, Cluster, Layout, eventually};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// Bytes of a row.
const ROW_BYTES: usize = 300;

async fn post(cluster: &Cluster, path: &str, body: Json) -> Json {
    let mut client = Client::new(&cluster.proxies[0].http);
    client.post(path, &body).await.unwrap().expect(path)
}

/// The status and code of a refusal, and what it says.
async fn refused(cluster: &Cluster, path: &str, body: Json) -> (u16, String) {
    let reply = Client::new(&cluster.proxies[0].http).post(path, &body).await.unwrap();
    (reply.status.as_u16(), reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned())
}

/// A job, whose `error` is not one of the call.
async fn job(cluster: &Cluster, id: &Json) -> Json {
    let path = format!("/job/{}", id.as_str().expect("a job"));
    let ask = async || Client::new(&cluster.proxies[0].http).get(&path).await.map(|reply| reply.json());
    eventually(&format!("{path} is answered"), PATIENCE, ask).await
}

async fn is_done(cluster: &Cluster, id: &Json) {
    eventually(&format!("job {id} is done"), PATIENCE, async || {
        let job = job(cluster, id).await;
        assert!(job["state"] != "failed", "{job}");
        if job["state"] == "done" { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
}

async fn run(cluster: &Cluster, path: &str, body: Json) {
    let started = post(cluster, path, body).await;
    is_done(cluster, &started["job"]).await;
}

/// Nodes with a replica of a group, those that vote and those that read.
async fn holders(cluster: &Cluster, group: &str) -> (Vec<u64>, Vec<u64>) {
    let status = cluster.session().insist_get("/status").await;
    let groups = status["groups"].as_array().unwrap();
    let group = groups.iter().find(|known| known["id"] == group).unwrap();
    let all = group["replicas"].as_array().unwrap().iter().map(|r| (r["node"].as_u64().unwrap(), r["votes"] == true));
    let (voters, readers): (Vec<_>, Vec<_>) = all.partition(|(_, votes)| *votes);
    let ids = |list: Vec<(u64, bool)>| list.into_iter().map(|(node, _)| node).collect();
    (ids(voters), ids(readers))
}

/// What a node itself says that it hosts.
async fn hosted(cluster: &Cluster, node: usize) -> Result<Vec<String>, String> {
    let status = Client::new(&cluster.nodes[node].http).get("/status").await?.json();
    Ok(status["groups"].as_array().unwrap().iter().map(|group| group["id"].as_str().unwrap().to_owned()).collect())
}

async fn hosts_nothing(cluster: &Cluster, node: usize) {
    eventually(&format!("node {} hosts nothing", node + 1), PATIENCE, async || match hosted(cluster, node).await {
        Ok(none) if none.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

fn failures(journals: &[Journal]) -> u64 {
    journals.iter().map(|journal| journal.failures).sum()
}

async fn is_up(cluster: &Cluster, node: u64) {
    eventually(&format!("node {node} has joined"), PATIENCE, async || {
        let nodes = cluster.session().insist_get("/node").await;
        let known = nodes["nodes"].as_array().unwrap().iter().find(|known| known["id"] == node).cloned();
        known.filter(|known| known["state"] == "up").map(drop).ok_or_else(|| nodes.to_string())
    })
    .await;
}

/// Replicas of a shard and of `meta` are added, replaced, promoted and removed under load, and a node is
/// drained, until other nodes hold everything: no request fails. What would lose a majority or contradicts
/// itself is refused with the reason, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_move_and_nobody_notices() {
    let mut cluster = Cluster::start(Layout { shards: 2, proxies: 2, ..Layout::default() }).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 8, ROW_BYTES, true);
    writers.progress(200).await;
    for node in [4, 5, 6] {
        cluster.join("");
        is_up(&cluster, node).await;
    }
    assert_eq!(hosted(&cluster, 3).await, Ok(vec![]));

    let path = "/shard/shard1/replicas";
    let plan = post(&cluster, path, json!({ "replace": { "1": 4 }, "dry_run": true })).await;
    assert_eq!(plan["steps"][0]["add"]["node"], 4, "{plan}");
    assert_eq!(holders(&cluster, "shard1").await, (vec![1, 2, 3], vec![]), "a dry run changes nothing");
    for (body, status) in [
        (json!({ "replace": { "1": 2 } }), 409),
        (json!({ "promote": [4] }), 409),
        (json!({ "add": [9] }), 404),
        (json!({ "add": [4], "remove": [4] }), 400),
        (json!({}), 400),
    ] {
        assert_eq!(refused(&cluster, path, body.clone()).await.0, status, "{body}");
    }

    run(&cluster, path, json!({ "add_readers": [4] })).await;
    assert_eq!(holders(&cluster, "shard1").await, (vec![1, 2, 3], vec![4]));
    let reader = cluster.replica(3, "shard1").await.unwrap();
    assert_eq!(reader["role"], "learner", "{reader}");
    writers.progress(100).await;
    run(&cluster, path, json!({ "promote": [4] })).await;
    assert_eq!(holders(&cluster, "shard1").await, (vec![1, 2, 3, 4], vec![]));
    // The one that leads goes: it hands over first.
    let leader = cluster.leader("shard1").await as u64 + 1;
    run(&cluster, path, json!({ "remove": [leader] })).await;
    let (voters, _) = holders(&cluster, "shard1").await;
    assert!(voters.len() == 3 && !voters.contains(&leader), "{voters:?}");
    let again = post(&cluster, path, json!({ "remove": [leader] })).await;
    assert_eq!(again["state"], "done", "{again}");
    let leader = cluster.leader("meta").await as u64 + 1;
    run(&cluster, "/shard/meta/replicas", json!({ "replace": { leader.to_string(): 5 } })).await;
    let (voters, _) = holders(&cluster, "meta").await;
    assert!(voters.len() == 3 && voters.contains(&5) && !voters.contains(&leader), "{voters:?}");
    writers.progress(100).await;

    for node in [2_u64, 3] {
        run(&cluster, &format!("/node/{node}/drain"), json!({})).await;
        hosts_nothing(&cluster, node as usize - 1).await;
        let (status, why) = refused(&cluster, path, json!({ "add": [node] })).await;
        assert_eq!((status, why), (409, format!("node {node} is drained")));
    }
    let (status, why) = refused(&cluster, "/node/1/drain", json!({ "dry_run": true })).await;
    assert!(status == 409 || holders(&cluster, "shard2").await.0.len() == 3, "{why}");
    run(&cluster, "/remove", json!({ "node": 2 })).await;
    post(&cluster, "/node/3/undrain", json!({})).await;
    run(&cluster, path, json!({ "add": [3] })).await;
    writers.progress(100).await;

    let journals = writers.stop().await;
    assert_eq!(failures(&journals), 0, "a request failed");
    cluster.kill_all();
    cluster.start_all();
    eventually("all replicas are back", PATIENCE, async || {
        let status = cluster.session().insist_get("/status").await;
        match status["groups"].as_array().unwrap().iter().all(|group| group["leader"].is_number()) {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    })
    .await;
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
}

/// A node dies for good. Its replicas are made anew elsewhere, on request, once it has been silent long
/// enough; a replica that leaves the rest without a majority is not removed. The dead node comes back,
/// finds itself taken out, drops what it has, and never votes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced() {
    let mut cluster = Cluster::start(Layout { shards: 2, proxies: 2, ..Layout::default() }).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 4, ROW_BYTES, true);
    for node in [4, 5] {
        cluster.join("");
        is_up(&cluster, node).await;
    }
    let whole = post(&cluster, "/repair", json!({ "dry_run": true })).await;
    assert_eq!((&whole["state"], &whole["dead"]), (&json!("done"), &json!([])), "{whole}");
    writers.progress(100).await;
    cluster.nodes[1].process.kill();
    eventually("two of three is a margin of none", PATIENCE, async || {
        match refused(&cluster, "/shard/shard1/replicas", json!({ "remove": [3] })).await {
            (409, why) if why.contains("would have no majority") => Ok(()),
            (status, why) => Err(format!("{status} {why}")),
        }
    })
    .await;
    let (status, why) = refused(&cluster, "/repair", json!({})).await;
    assert!(status == 409 && why.contains("counts as dead after 60s"), "{status} {why}");
    let plan = eventually("the node counts as dead", PATIENCE, async || {
        let body = json!({ "dead_after": "2s", "dry_run": true });
        let reply = Client::new(&cluster.proxies[0].http).post("/repair", &body).await.unwrap();
        if reply.status.is_success() { Ok(reply.json()) } else { Err(reply.to_string()) }
    })
    .await;
    assert_eq!((&plan["dead"], plan["steps"].as_array().map(Vec::len)), (&json!([2]), Some(3)), "{plan}");
    run(&cluster, "/repair", json!({ "dead_after": "1s" })).await;
    for group in ["meta", "shard1", "shard2"] {
        let (voters, _) = holders(&cluster, group).await;
        assert!(voters.len() == 3 && !voters.contains(&2), "{group}: {voters:?}");
    }
    writers.progress(100).await;
    cluster.nodes[1].process.start();
    hosts_nothing(&cluster, 1).await;
    eventually("its data is dropped", PATIENCE, async || {
        let folders = std::fs::read_dir(cluster.nodes[1].data.join("groups")).unwrap().count();
        if folders == 0 { Ok(()) } else { Err(format!("{folders} replicas are left")) }
    })
    .await;
    let member = &mut cluster.nodes[1];
    process_ready(&mut member.process, &member.http).await;
    let journals = writers.stop().await;
    writers::check(&mut cluster.session(), &journals, ROW_BYTES).await;
    cluster.contents().await;
}

/// The node that is to get a replica hangs: the job gives it up in time and says why, or is cancelled;
/// the group is as before both times. Asked for while it hangs, it is refused at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_never_comes_is_given_up() {
    let mut cluster = Cluster::start(Layout { shards: 1, ..Layout::default() }).await;
    cluster.join("");
    is_up(&cluster, 4).await;
    cluster.nodes[3].process.signal(Signal::STOP);
    let path = "/shard/shard1/replicas";
    let (status, why) = refused(&cluster, path, json!({ "add": [4] })).await;
    assert_eq!((status, why.as_str()), (409, "node 4 does not answer"));
    // As if the node had hung between the call and the job.
    let client = flotilla_shared::client::Cluster::new(vec![cluster.nodes[0].raft.clone()]);
    let start = async |patience_ms| {
        let changes = vec![ReplicaChange::Add { node: NodeId(4), votes: true }];
        let kind = JobKind::Replicas { goal: ReplicaGoal::Group { group: GroupId(1), changes }, patience_ms };
        let create = MetaCommand::CreateJob { request: RequestId::random(), kind };
        match client.meta(create, tokio::time::Instant::now() + PATIENCE).await.unwrap() {
            MetaReply::Job(id) => json!(id.to_string()),
            other => panic!("{other:?}"),
        }
    };
    let ends = async |id: &Json| {
        eventually("the job ends", PATIENCE, async || {
            let job = job(&cluster, id).await;
            if job["state"] == "running" { Err(job.to_string()) } else { Ok(job) }
        })
        .await
    };
    let failed = ends(&start(2000).await).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("node 4"), "{failed}");
    let waiting = start(600_000).await;
    eventually("it says what it waits for", PATIENCE, async || {
        let job = job(&cluster, &waiting).await;
        if job["error"].is_null() || job["exchange"].is_null() { Err(job.to_string()) } else { Ok(()) }
    })
    .await;
    post(&cluster, &format!("/job/{}/cancel", waiting.as_str().unwrap()), json!({})).await;
    assert_eq!(ends(&waiting).await["state"], "cancelled");
    assert_eq!(holders(&cluster, "shard1").await, (vec![1, 2, 3], vec![]));
    cluster.nodes[3].process.signal(Signal::CONT);
    run(&cluster, path, json!({ "add": [4] })).await;
    assert_eq!(holders(&cluster, "shard1").await.0, [1, 2, 3, 4]);
    cluster.contents().await;
}
