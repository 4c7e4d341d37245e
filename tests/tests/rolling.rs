//! `deploy/rolling-restart.sh`: node by node, while clients write and read and no request fails.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_tests::harness::binary::repository;
use flotilla_tests::harness::script::{ScriptedCluster, run, text};
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Client, eventually};
use serde_json::json;
use tokio::task::JoinHandle;

/// Clients that write, and as many that read.
const CLIENTS: u64 = 4;

/// Clients at work that never try twice.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<(u64, Duration)>>,
}

impl Load {
    fn start(proxy: &str) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..2 * CLIENTS).map(|client| {
            let (mut http, stop, written) = (Client::new(proxy), Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(async move {
                let (mut count, mut longest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    if client < CLIENTS {
                        let insert = json!({ "query": "INSERT INTO t VALUES (?, ?)", "args": [client, count] });
                        http.post("/execute", &insert).await.unwrap().expect("a write");
                        written.fetch_add(1, Ordering::Relaxed);
                    } else {
                        // What was acknowledged before the read is seen by it.
                        let before = written.load(Ordering::Relaxed);
                        let read = json!({ "query": "SELECT count(*) FROM t" });
                        let seen = http.post("/query", &read).await.unwrap().expect("a read");
                        let seen = seen["results"][0]["values"][0][0].as_u64().unwrap();
                        assert!(seen >= before, "{seen} of {before} rows");
                    }
                    count += 1;
                    longest = longest.max(start.elapsed());
                }
                (count, longest)
            })
        });
        Self { tasks: tasks.collect(), stop, written }
    }

    async fn progress(&self, more: u64) {
        let wanted = self.written.load(Ordering::Relaxed) + more;
        eventually("writes go on", PATIENCE, async || match self.written.load(Ordering::Relaxed) {
            now if now >= wanted => Ok(()),
            now => Err(format!("{now} of {wanted}")),
        })
        .await;
    }

    /// What each writer wrote, and the longest time that a request took.
    async fn stop(self) -> (Vec<u64>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut counts, mut longest) = (vec![], Duration::ZERO);
        for task in self.tasks {
            let (count, slowest) = task.await.expect("no request fails");
            counts.push(count);
            longest = longest.max(slowest);
        }
        counts.truncate(CLIENTS as usize);
        (counts, longest)
    }
}

/// All six nodes are restarted under load: no request fails, and every row is there once. Then a node is dead:
/// nothing is restarted, and the script says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nodes_are_restarted_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, _) = ScriptedCluster::up(folder.path(), 1);
    let data = cluster.data();
    let create = "CREATE TABLE t (writer INTEGER NOT NULL, seq INTEGER NOT NULL)";
    cluster.session().create(create, "t", "writer", None).await;
    let load = Load::start(cluster.proxy());
    load.progress(50).await;
    let rolling = |args: &[&str]| tokio::task::block_in_place(|| run("rolling-restart.sh", args));

    let planned = rolling(&["--data", data, "--dry-run"]);
    assert!(planned.status.success(), "{}", text(&planned));
    assert_eq!(text(&planned).matches("would restart").count(), 6, "{}", text(&planned));
    let start = Instant::now();
    let done = rolling(&["--data", data]);
    let shown = text(&done);
    assert!(done.status.success() && shown.contains("6 of 6 nodes were restarted"), "{shown}");
    let took = start.elapsed();
    // Whoever led meta and shard1 was restarted, too, and did not leave it to an election.
    let names = cluster.run(&["list"]);
    let logs = names.lines().filter_map(|line| line.split_once(' ')).map(|(name, _)| cluster.run(&["logs", name]));
    let handed_over: usize = logs.map(|log| log.matches("leadership was handed over").count()).sum();
    assert!(handed_over >= 2, "{handed_over} hand-overs");
    let command = format!("{}/deploy/cluster.sh restart {{name}} --data '{data}'", repository().display());
    let list = cluster.run(&["list"]).trim().replace(' ', "=").replace('\n', ",");
    let done = rolling(&["--nodes", &list, "--restart", &command, "--only", "shard1/2"]);
    assert!(done.status.success() && text(&done).contains("1 of 6 nodes were restarted"), "{}", text(&done));
    load.progress(50).await;
    let (counts, longest) = load.stop().await;
    println!(
        "6 nodes restarted in {took:.1?} under {} writes, none failed; the slowest request took {longest:.1?}",
        counts.iter().sum::<u64>()
    );
    let rows = cluster
        .session()
        .rows("SELECT writer, count(*), count(DISTINCT seq), max(seq) FROM t GROUP BY 1 ORDER BY 1", json!([]))
        .await;
    for (writer, (row, count)) in rows.iter().zip(&counts).enumerate() {
        assert_eq!(*row, [json!(writer), json!(count), json!(count), json!(count - 1)]);
    }
    assert_eq!(rows.len(), counts.len());

    cluster.run(&["kill", "shard1/2"]);
    let refused = rolling(&["--data", data, "--timeout", "1"]);
    let shown = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{shown}");
    assert!(shown.contains("shard1/2 is not ready") && !shown.contains("restarting"), "{shown}");
    for wrong in
        [&["--nodes", "a=http://b"][..], &["--colour"], &["--data", data, "--only", "shard9/9"], &["--timeout", "x"]]
    {
        assert_eq!(rolling(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// The scripts pass shellcheck, where there is one. No pipe ends in a command that may leave before it has read all:
/// under `pipefail` the one that still writes then fails the pipe, now and then.
#[test]
fn scripts_pass_shellcheck() {
    let scripts = ["cluster.sh", "rolling-restart.sh"].map(|name| repository().join("deploy").join(name));
    for script in &scripts {
        let source = std::fs::read_to_string(script).unwrap();
        for (at, line) in source.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')) {
            let early = ["| head", "| grep -q", "| grep -Fxq", "| grep -Fq", "| grep -Eq", "| sed -n '1p;q"];
            assert!(!early.iter().any(|leaver| line.contains(leaver)), "{}:{}: {line}", script.display(), at + 1);
        }
    }
    match Command::new("shellcheck").args(&scripts).output() {
        Ok(output) => assert!(output.status.success(), "{}", text(&output)),
        Err(error) => println!("SKIPPED: shellcheck cannot be run ({error}); install it to check {scripts:?}"),
    }
}
