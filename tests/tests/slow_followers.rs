//! Memory stays within its bounds while a follower, or the leader's disk, stands still under load.
//!
//! What may grow then, by its bounds: the entries that the leader has not written ([`WalOptions::queue_bytes`])
//! and those that it keeps for followers ([`WalOptions::cache_bytes`]); for each peer what waits for its socket
//! ([`SEND_QUEUE_BYTES`]); writes that wait to be proposed ([`MAX_WAITING_BYTES`]); and in the proxy the bodies
//! of requests ([`MAX_BODIES_BYTES`]) beside what waits for the leader's socket.

use std::process::{Child, Command, Stdio};

use flotilla_node::log::WalOptions;
use flotilla_node::propose::{MAX_GROUP_WAITING_BYTES, MAX_WAITING_BYTES};
use flotilla_shared::http::MAX_BODIES_BYTES;
use flotilla_shared::rpc::SEND_QUEUE_BYTES;
use flotilla_tests::harness::wait::{PATIENCE, eventually};
use flotilla_tests::harness::writers::{self, Writers};
use flotilla_tests::harness::{Client, Cluster, Layout, Process};
use rustix::process::{Pid, Signal, kill_process};

/// Clients that write at the same time.
const WRITERS: u64 = 64;

/// Of each row.
const ROW_BYTES: usize = 32 << 10;

/// Rows written before anything stands still, so that caches are full, and then again: some 50 MB.
const ROWS: u64 = 1600;

/// Clients that write large rows, and bytes of each: more than a leader takes at a time.
const LARGE_WRITERS: u64 = 80;
const LARGE_BYTES: usize = 1 << 20;

/// What a node holds that is not one of the bounds above: code, connections, SQLite's caches, requests that are
/// remembered, and what the allocator keeps. All in all leaders held 135 to 300 MiB when this was written.
const ELSE_BYTES: u64 = 160 << 20;

/// What a node may hold with two peers.
fn node_bound() -> u64 {
    let log = WalOptions::default();
    (log.queue_bytes + log.cache_bytes + 2 * SEND_QUEUE_BYTES + MAX_WAITING_BYTES) as u64 + ELSE_BYTES
}

/// What the proxy may hold. A body is there as bytes, as JSON, as values and as a message.
fn proxy_bound() -> u64 {
    (4 * MAX_BODIES_BYTES + SEND_QUEUE_BYTES) as u64 + ELSE_BYTES
}

struct Scene {
    cluster: Cluster,
    leader: usize,
    /// A follower that leads nothing.
    follower: usize,
}

impl Scene {
    async fn new() -> Self {
        let cluster = Cluster::start(Layout { shards: 1, ..Layout::default() }).await;
        writers::make_table(&mut cluster.session()).await;
        let (leader, meta) = (cluster.leader("shard1").await, cluster.leader("meta").await);
        let follower = (0..3).find(|node| *node != leader && *node != meta).unwrap();
        Self { cluster, leader, follower }
    }

    fn forget_peaks(&self) {
        self.cluster.nodes.iter().for_each(|node| node.process.forget_peak());
        self.cluster.proxies[0].process.forget_peak();
    }

    /// Tells and checks what the leader and the proxy have held at most.
    fn within_bounds(&self, when: &str) -> [u64; 2] {
        let peak = |process: &Process| process.peak_memory_kib() << 10;
        let held = [peak(&self.cluster.nodes[self.leader].process), peak(&self.cluster.proxies[0].process)];
        let bounds = [node_bound(), proxy_bound()];
        let [leader, proxy] = held.map(|bytes| bytes >> 20);
        println!("{when}: leader {leader} of {} MiB, proxy {proxy} of {} MiB", bounds[0] >> 20, bounds[1] >> 20);
        assert!(held[0] <= bounds[0] && held[1] <= bounds[1], "{when}: over the bound");
        held
    }

    async fn applied(&self, node: usize) -> Option<u64> {
        self.cluster.replica(node, "shard1").await?["applied"].as_u64()
    }

    /// Waits until a node has applied all that the leader has.
    async fn catches_up(&self, node: usize) {
        let leader = self.cluster.leader("shard1").await;
        let wanted = self.applied(leader).await.expect("the leader answers");
        eventually("it has caught up", PATIENCE, async || match self.applied(node).await {
            Some(applied) if applied >= wanted => Ok(()),
            applied => Err(format!("{applied:?} of {wanted}")),
        })
        .await;
    }
}

/// A follower is stopped while 64 clients write 50 MB: writes go on, and neither leader nor proxy holds more
/// than what its bounds allow, of which the stopped peer's queue is one; afterwards it catches up.
#[tokio::test]
async fn a_follower_stands_still() {
    let mut scene = Scene::new().await;
    let writers = Writers::start(&scene.cluster, 0, WRITERS, ROW_BYTES, true);
    writers.progress(ROWS).await;
    let [before, _] = scene.within_bounds("all well");
    scene.forget_peaks();
    scene.cluster.nodes[scene.follower].process.signal(Signal::STOP);
    writers.progress(ROWS).await;
    let [during, _] = scene.within_bounds("a follower stands still");
    assert!(during <= before + 2 * SEND_QUEUE_BYTES as u64 + (64 << 20), "{before} bytes before, {during} since");
    scene.cluster.nodes[scene.follower].process.signal(Signal::CONT);
    let journals = writers.stop().await;
    scene.catches_up(scene.follower).await;
    scene.within_bounds("it has caught up");
    writers::check(&mut scene.cluster.session(), &journals, ROW_BYTES).await;
    scene.cluster.contents().await;
}

/// One follower is stopped and each sync of the other's disk takes 4 s, so little is committed, while clients
/// send large rows, each of them again and again: the leader takes as many as it has room for and refuses the
/// others, and when the followers go on, rows are written again, each once.
#[tokio::test]
async fn slow_majority() {
    let mut scene = Scene::new().await;
    let [stopped, slow] = [scene.follower, 3 - scene.leader - scene.follower];
    let Some(slow) = SlowDisk::of(&scene.cluster.nodes[slow].process, 4_000_000).await else {
        println!("SKIPPED: strace cannot slow a disk down here");
        return;
    };
    scene.cluster.nodes[stopped].process.signal(Signal::STOP);
    scene.forget_peaks();
    let writers = Writers::start(&scene.cluster, 0, LARGE_WRITERS, LARGE_BYTES, true);
    let (room, mut most) = (MAX_GROUP_WAITING_BYTES as f64, 0_f64);
    eventually("the leader has no room for another row", PATIENCE, async || {
        let waiting = metric(&scene.cluster.nodes[scene.leader].http, "flotilla_node_waiting_writes_bytes").await?;
        assert!(waiting <= room, "{waiting} bytes wait");
        most = most.max(waiting);
        if most + LARGE_BYTES as f64 > room { Ok(()) } else { Err(format!("{most} of {room} bytes")) }
    })
    .await;
    scene.within_bounds("a slow majority");
    drop(slow);
    scene.cluster.nodes[stopped].process.signal(Signal::CONT);
    writers.progress(8).await;
    let journals = writers.stop().await;
    scene.within_bounds("it goes on");
    writers::check(&mut scene.cluster.session(), &journals, LARGE_BYTES).await;
    scene.cluster.contents().await;
}

async fn metric(http: &str, name: &str) -> Result<f64, String> {
    let reply = Client::new(http).get("/metrics").await?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.ok_or_else(|| format!("no {name}"))
}

/// `strace` that lets each sync of a process take longer, until it ends.
struct SlowDisk(Child);

impl SlowDisk {
    /// Of that process; none where processes cannot be traced.
    async fn of(process: &Process, us: u32) -> Option<Self> {
        let log = tempfile::NamedTempFile::new().ok()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]);
        command.arg("-e").arg(format!("inject=fdatasync,fsync:delay_enter={us}"));
        command.arg("-p").arg(process.id().to_string()).stdin(Stdio::null()).stderr(log.reopen().ok()?);
        let mut child = command.spawn().ok()?;
        let status = format!("/proc/{}/status", process.id());
        let traced = || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            text.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
        };
        eventually("strace has attached or given up", PATIENCE, async || match (traced(), child.try_wait()) {
            (false, Ok(None)) => Err("neither".to_owned()),
            _ => Ok(()),
        })
        .await;
        traced().then_some(Self(child))
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // On SIGTERM it lets go of the process; on SIGKILL it might leave it stopped.
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            kill_process(pid, Signal::TERM).ok();
        }
        self.0.wait().ok();
    }
}

/// Each sync of the leader's disk takes 4 s while 64 clients write, some of them large rows: what is written
/// goes on with the others or is refused for the moment, nothing acknowledged is lost, and neither the old
/// leader nor the proxy holds more than its bounds allow.
#[tokio::test]
async fn the_leaders_disk_stands_still() {
    let mut scene = Scene::new().await;
    let Some(slow) = SlowDisk::of(&scene.cluster.nodes[scene.leader].process, 4_000_000).await else {
        println!("SKIPPED: strace cannot slow a disk down here");
        return;
    };
    let writers = Writers::start(&scene.cluster, 0, WRITERS, ROW_BYTES, true);
    writers.progress(ROWS).await;
    let large = Writers::start(&scene.cluster, WRITERS, 16, LARGE_BYTES, true);
    large.progress(64).await;
    scene.within_bounds("the leader's disk stands still");
    drop(slow);
    let (journals, large) = (writers.stop().await, large.stop().await);
    scene.catches_up(scene.leader).await;
    scene.within_bounds("it goes on");
    writers::check(&mut scene.cluster.session(), &journals, ROW_BYTES).await;
    writers::check(&mut scene.cluster.session(), &large, LARGE_BYTES).await;
    scene.cluster.contents().await;
}
