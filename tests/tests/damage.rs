//! A log that was damaged on disk is refused by file and offset, never served; its node is wiped and
//! comes back, while the others serve all along.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::writers::{self, Writers};
use flotilla_tests::harness::{Cluster, Layout, eventually};

/// How long a node may take to refuse its log.
const REFUSAL: Duration = Duration::from_secs(20);

/// Inverts one byte in the middle of what is written in a segment, and returns where.
fn flip_a_byte(segment: &Path) -> u64 {
    let bytes = std::fs::read(segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let at = end / 2;
    let file = OpenOptions::new().write(true).open(segment).unwrap();
    file.write_all_at(&[!bytes[at]], at as u64).unwrap();
    at as u64
}

/// A flipped byte keeps a node from starting: it ends with an error that names file and offset, again
/// and again. Emptied, the node comes back under new raft ids and catches up. Writers never stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_and_a_wiped_node_comes_back() {
    let mut cluster = Cluster::start(Layout { proxies: 2, ..Layout::default() }).await;
    writers::make_table(&mut cluster.session()).await;
    let writers = Writers::start(&cluster, 0, 8, 300, true);
    writers.progress(500).await;
    let victim = cluster.leader("shard1").await;
    let before = cluster.replica(victim, "shard1").await.unwrap();
    cluster.nodes[victim].process.kill();
    let segment = cluster.segments(victim).remove(0);
    let offset = flip_a_byte(&segment);
    println!("byte {offset} of {} was inverted", segment.file_name().unwrap().display());

    for _ in 0..2 {
        let process = &mut cluster.nodes[victim].process;
        process.start();
        let status = process.exit(REFUSAL).await;
        assert!(!status.success(), "it ended with {status}");
        let output = process.output();
        let told = output.lines().last().unwrap_or_default();
        println!("{told}");
        assert!(told.contains(&*segment.file_name().unwrap().to_string_lossy()), "{told}");
        let named: u64 = told
            .split("at byte ")
            .nth(1)
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .unwrap_or_else(|| panic!("no offset: {told}"));
        // What is found is the record, or the batch of records, that the byte belongs to.
        assert!(named <= offset && offset - named < 1 << 20, "byte {offset} was inverted, {named} is named");
    }
    writers.progress(200).await;

    let node = &mut cluster.nodes[victim];
    std::fs::remove_dir_all(&node.data).unwrap();
    node.process.start();
    for group in ["meta", "shard1", "shard2", "shard3"] {
        eventually(&format!("{group} has a new replica"), PATIENCE, async || {
            let replica = cluster.replica(victim, group).await.ok_or("none")?;
            match replica["role"].as_str() {
                Some("follower" | "leader") if replica["replica"] != before["replica"] => Ok(()),
                _ => Err(replica.to_string()),
            }
        })
        .await;
    }
    writers.progress(200).await;
    let journals = writers.stop().await;
    cluster.ready().await;
    writers::check(&mut cluster.session(), &journals, 300).await;
    cluster.contents().await;
    // Proxies hear of each change at once; one that asked the wrong node once heard of it 10 s later.
    eventually("the proxy knows the new replicas", Duration::from_secs(5), async || {
        let status = cluster.session().insist_get("/status").await;
        let groups = status["groups"].as_array().unwrap();
        let whole = |group: &&serde_json::Value| {
            let replicas = group["replicas"].as_array().unwrap();
            replicas.len() == 3 && replicas.iter().all(|replica| replica["role"] != "unknown")
        };
        groups.iter().find(|group| !whole(group)).map_or(Ok(()), |group| Err(group.to_string()))
    })
    .await;
}
