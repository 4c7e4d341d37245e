//! The log of a node stays within its bytes also where its entries are few and large.

use flotilla_tests::harness::wait::{PATIENCE, eventually};
use flotilla_tests::harness::{Client, Cluster, Layout};
use serde_json::json;

/// What the log of a node may hold, after a look or two.
const MAX_LOG_BYTES: u64 = 4 << 20;

/// Rows, and bytes of each: several times as much, in a hundredth of the entries after which a log is compacted.
const ROWS: u64 = 40;
const ROW_BYTES: usize = 512 << 10;

/// A figure of a node, for shard 1 where it is told for each group.
async fn figure(cluster: &Cluster, node: usize, name: &str) -> f64 {
    let reply = Client::new(&cluster.nodes[node].http).get("/metrics").await.expect("a node that runs answers");
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let of = |line: &str| {
        let (key, value) = line.rsplit_once(' ')?;
        let (bare, labels) = key.split_once('{').unwrap_or((key, ""));
        (bare == name && (labels.is_empty() || labels.contains("\"shard1\""))).then(|| value.parse().ok())?
    };
    text.lines().find_map(of).unwrap_or_else(|| panic!("no {name}: {text}"))
}

/// Some large rows are written while a follower is down: the logs of the others are purged to their bytes, long
/// before they have the number of entries at which they are compacted, and the follower, which needs what went,
/// comes to hold the same rows.
#[tokio::test]
async fn large_entries_are_purged() {
    let flags = vec!["--max-log-bytes".to_owned(), MAX_LOG_BYTES.to_string()];
    let mut cluster = Cluster::start(Layout { shards: 1, flags, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.create("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)", "t", "id", None).await;
    let leader = cluster.leader("shard1").await;
    let (down, up) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[down].process.kill();
    for id in 0..ROWS {
        let body = json!({ "query": "INSERT INTO t VALUES (?, ?)", "args": [id, "x".repeat(ROW_BYTES)] });
        session.insist("/execute", &body, Some(&format!("row {id}"))).await;
    }
    for node in [leader, up] {
        eventually("the log is purged to its bytes", PATIENCE, async || {
            match figure(&cluster, node, "flotilla_node_log_live_bytes").await as u64 {
                bytes if bytes <= MAX_LOG_BYTES => Ok(()),
                bytes => Err(format!("{bytes} bytes")),
            }
        })
        .await;
        assert!(figure(&cluster, node, "flotilla_node_purged_index").await > 0.0);
        assert!(figure(&cluster, node, "flotilla_node_last_log_index").await < 1000.0);
    }
    cluster.nodes[down].process.start();
    cluster.ready().await;
    assert_eq!(session.rows("SELECT count(*), sum(length(body)) FROM t", json!([])).await[0][0], json!(ROWS));
    cluster.contents().await;
}
