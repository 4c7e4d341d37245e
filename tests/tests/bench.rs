//! `flotilla bench --self`: a cluster of its own for one measurement, of which nothing is left afterwards.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flotilla_tests::harness::binary::flotilla;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Client, Reply, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

/// One cluster at a time has the machine.
static TURN: Mutex<()> = Mutex::new(());

/// A folder in which benchmarks put their data, and the right to run one.
struct Place {
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { folder: tempfile::tempdir().unwrap(), _turn: turn }
    }

    fn start(&self, line: &str) -> Child {
        let mut command = Command::new(flotilla());
        command.arg("bench").args(line.split(' ')).args(["--json", "--self", "--folder"]).arg(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    }

    /// Runs a benchmark to its end and gives its report.
    fn report(&self, line: &str) -> Json {
        self.checked(self.start(line).wait_with_output().unwrap())
    }

    fn checked(&self, output: Output) -> Json {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {out}{err}", output.status);
        println!("{out}");
        self.nothing_is_left();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    fn nothing_is_left(&self) {
        assert_eq!(processes_with(self.folder.path()), Vec::<String>::new());
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 0, "files are left");
    }
}

/// Command lines of processes that name this folder as their data, which proxies do not; but their cluster's.
fn processes_with(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.map(|line| line.replace('\0', " ")).filter(|line| line.contains(&format!("{folder}/"))).collect()
}

/// Writes and reads on a cluster of three processes and two shards; the report names the machine, the
/// cluster and what its processes used.
#[test]
fn a_cluster_for_one_measurement() {
    let place = Place::new();
    let plot = tempfile::NamedTempFile::new().unwrap();
    let sweep = "write --nodes 3 --shards 2 --clients 2,4 --duration 500ms --warmup 200ms --repeat 2 --plot";
    let report = place.report(&format!("{sweep} {}", plot.path().display()));
    assert_eq!(report["cluster"]["nodes"], 3);
    assert_eq!(report["cluster"]["shards"], 2);
    assert!(report["machine"]["sync_us"]["p50"].as_u64().is_some(), "{report}");
    assert!(report["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{report}");
    let points = report["points"].as_array().unwrap();
    let picture = std::fs::read_to_string(plot.path()).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("3 nodes, 2 shards"), "{picture}");
    assert_eq!(points.len(), 2);
    for point in points {
        assert_eq!(point["runs"].as_array().unwrap().len(), 2);
        assert!(point["succeeded"].as_u64().unwrap() > 0 && point["failed"] == 0, "{point}");
        let processes = point["processes"].as_array().unwrap();
        assert_eq!(processes.len(), 4, "three nodes and a proxy: {point}");
        assert!(processes.iter().all(|process| process["peak_rss_bytes"].as_u64().unwrap() > 1 << 20), "{point}");
    }
    let report = place.report("write --nodes 3 --clients 2 --duration 500ms --warmup 200ms --breakdown");
    let stages = report["breakdown"]["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    for stage in ["parse", "plan", "node", "queue", "replicate", "propose", "append", "fsync", "apply", "respond"] {
        assert!(names.contains(&stage), "{stage} is missing: {report}");
    }
    let mean_us = |name: &str| stages.iter().find(|s| s["stage"] == name).unwrap()["mean_us"].as_f64().unwrap();
    let within = mean_us("queue") + mean_us("replicate") + mean_us("apply");
    let (node, client) = (mean_us("node"), report["latency_us"]["mean"].as_f64().unwrap());
    assert!(within < node * 1.1 && node < client * 1.1, "{within} µs of {node} µs of {client} µs");
    let report = place.report("read --nodes 1 --rows 50 --clients 2 --rate 50 --duration 500ms --warmup 100ms --bare");
    assert!(report["succeeded"].as_u64().unwrap() > 0 && report["failed"] == 0, "{report}");
    assert_eq!(report["settings"]["loop"], "open");
    assert!(report["bare"]["per_second"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["bare"]["ratio"].as_f64().unwrap() > 0.0, "{report}");
}

/// A round trip between nodes is seen by each write once, not a second time between proxy and leader: the
/// median is above one and below two of them.
#[test]
fn a_round_trip_between_nodes() {
    let place = Place::new();
    let report = place.report("write --nodes 3 --rtt 100ms --clients 1 --duration 2s --warmup 500ms");
    assert_eq!(report["cluster"]["rtt_ms"], 100.0);
    let written_us = report["latency_us"]["p50"].as_u64().unwrap();
    assert!((100_000..190_000).contains(&written_us), "{written_us} µs");
}

/// An idle cluster's processes are looked at, then with connections, then while these write.
#[test]
fn an_idle_cluster() {
    let place = Place::new();
    let report = place.report("idle --nodes 1 --shards 2 --clients 20 --duration 500ms");
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 2, "a node and a proxy: {report}");
    for process in processes {
        for memory in ["idle_rss_bytes", "connected_rss_bytes", "loaded_peak_rss_bytes"] {
            assert!(process[memory].as_u64().unwrap() > 1 << 20, "{memory}: {report}");
        }
    }
    assert!(report["idle_cpu_percent"].as_f64().unwrap() >= 0.0, "{report}");
}

/// Each of YCSB's mixes does all its kinds of operations, and queries over all shards give the right answers.
#[test]
fn mixes_and_scatters() {
    let place = Place::new();
    let run = "--nodes 1 --shards 2 --clients 2 --duration 1s --warmup 100ms";
    for (mix, kinds) in [
        ("a", &["read", "update"][..]),
        ("d --keys latest", &["insert", "read"]),
        ("e --keys uniform", &["insert", "scan"]),
        ("f", &["read", "read-modify-write"]),
    ] {
        let report = place.report(&format!("mixed --ycsb {mix} --rows 300 --fields 3 {run}"));
        assert_eq!(report["failed"], 0, "{report}");
        let done: Vec<&String> = report["operations"].as_object().unwrap().keys().collect();
        // Few in a hundred are inserts: none may come in time on a slow machine.
        assert!(done.iter().all(|kind| kinds.contains(&kind.as_str())), "{report}");
        assert!(done.len() == 2 || report["succeeded"].as_u64().unwrap() < 150, "{report}");
    }
    let report = place.report(&format!("scatter --rows 500 --groups 10 {run}"));
    assert_eq!(report["failed"], 0, "{report}");
    let done: Vec<&String> = report["operations"].as_object().unwrap().keys().collect();
    assert_eq!(done, ["aggregate", "group", "top"]);
}

/// A table is brought to a second shard while clients update its rows: what was moved, what they noticed,
/// and what it took are told.
#[test]
fn a_move() {
    let place = Place::new();
    let report = place
        .report("move --nodes 1 --shards 1 --bytes 300kB --row-bytes 300 --add-shards 1 --clients 2 --before 500ms");
    assert_eq!(report["settings"]["rows"], 1000);
    assert_eq!(report["cluster"]["shards"], 2);
    assert_eq!(report["slots"], 8192);
    let rows = report["rows"].as_u64().unwrap();
    assert!((350..650).contains(&rows), "half of 1000 rows, not {rows}");
    for figure in ["took_s", "bytes_per_second", "rows_per_second", "log_written_bytes"] {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{figure}: {report}");
    }
    for when in ["clients_before", "clients_during"] {
        assert!(report[when]["succeeded"].as_u64().unwrap() > 0 && report[when]["failed"] == 0, "{when}: {report}");
    }
    let processes = report["processes"].as_array().unwrap();
    assert!(processes.iter().all(|process| process["peak_rss_bytes"].as_u64().unwrap() > 1 << 20), "{report}");
}

/// A table grows, is written with each number of rows, while compactions are watched, and a killed follower
/// comes back.
#[test]
fn growth() {
    let place = Place::new();
    let report = place.report("growth --rows 500,3000 --clients 4 --duration 2s --warmup 200ms");
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.iter().map(|step| step["rows"].as_u64().unwrap()).collect::<Vec<_>>(), [500, 3000]);
    for step in steps {
        let succeeded = step["succeeded"].as_u64().unwrap();
        assert!(succeeded > 0 && step["failed"] == 0, "{step}");
        for figure in ["load_s", "p50_of_first", "p99_of_first"] {
            assert!(step[figure].as_f64().unwrap() > 0.0, "{figure}: {step}");
        }
        for files in ["database_bytes", "log_bytes"] {
            let nodes: Vec<u64> = step[files].as_array().unwrap().iter().map(|bytes| bytes.as_u64().unwrap()).collect();
            assert!(nodes.len() == 3 && nodes.iter().all(|bytes| *bytes > 10_000), "{files}: {step}");
        }
        assert_eq!(step["processes"].as_array().unwrap().len(), 4, "{step}");
    }
    assert_eq!(steps[0]["p99_of_first"], 1.0);
    let restart = &report["restart"];
    let [answers, ready] = ["answers_s", "ready_s"].map(|name| restart[name].as_f64().unwrap());
    assert!(answers > 0.0 && answers <= ready && restart["caught_up_s"].as_f64().unwrap() > 0.0, "{restart}");
}

/// Statements that a proxy has answered, by its own count.
fn executed(metrics: &Reply) -> u64 {
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("flotilla_proxy_requests_total{"));
    let line = lines.find(|line| line.contains("call=\"/execute\"") && line.contains("status=\"200\""));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Ctrl-C during the measurement prints what there is; during the start it ends at once. Either way no
/// process and no file is left.
#[tokio::test]
async fn ctrl_c_leaves_nothing() {
    let place = Place::new();
    let interrupt = |child: &Child| {
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    };
    let mut child = place.start("write --nodes 1 --duration 1h --warmup 200ms");
    let said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = said.map(|line| line.expect("text"));
    let measuring = said.find(|line| line.starts_with("measuring")).expect("it measures");
    let address = measuring.split(' ').nth(1).and_then(|url| url.strip_prefix("http://")).expect("an address");
    let mut client = Client::new(address);
    let mut first = None;
    eventually("writes are answered", PATIENCE, async || {
        let answered = executed(&client.get("/metrics").await?);
        match *first.get_or_insert(answered) + 10 {
            wanted if answered >= wanted => Ok(()),
            wanted => Err(format!("{answered} of {wanted}")),
        }
    })
    .await;
    interrupt(&child);
    let report = place.checked(child.wait_with_output().unwrap());
    assert_eq!(report["stopped_early"], true);

    let child = place.start("write --nodes 3 --duration 1h");
    eventually("a node is started", PATIENCE, async || match processes_with(place.folder.path()) {
        lines if lines.is_empty() => Err("no process".to_owned()),
        _ => Ok(()),
    })
    .await;
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    place.nothing_is_left();
}
