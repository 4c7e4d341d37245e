//! One process after the other ends and starts again, in random order, while clients work and slots move.
//!
//! The suite does a few rounds and prints the seed; `FLOTILLA_RESTARTS=100` does more of them, and
//! `FLOTILLA_SEED=7` those of a seed.

use std::time::{Duration, Instant};

use flotilla_shared::ids::RequestId;
use flotilla_tests::harness::accounts::{Accounts, Load, Mix};
use flotilla_tests::harness::{Cluster, Layout, Process, Session, eventually};
use flotilla_tests::sim::random::Rng;
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// Rounds in the suite.
const ROUNDS: u64 = 6;

const MIX: Mix = Mix { writers: 3, readers: 2, counters: 1, mixed: 0 };

/// Slots of the table: few, so that its rows go to and fro several times.
const SLOTS: i64 = 24;

const ROWS: i64 = 480;

/// How long a process may take to stop on SIGTERM: it hands over and lets its requests end.
const STOP: Duration = Duration::from_secs(30);

/// How long a rebalancing may take whose driver is restarted.
const JOB: Duration = Duration::from_secs(120);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A table that is on three shards, then on two, then on three again, one job after the other.
#[derive(Default)]
struct ToAndFro {
    job: Option<String>,
    /// Jobs that were started.
    count: u64,
}

impl ToAndFro {
    /// Starts the next job if none runs.
    async fn go_on(&mut self, session: &mut Session) {
        if let Some(id) = &self.job {
            let job = session.insist_get(&format!("/job/{id}")).await;
            match job["state"].as_str() {
                Some("running") => return,
                Some("done") => self.job = None,
                _ => panic!("{job}"),
            }
        }
        let weight = self.count % 2;
        let body = json!({ "table_name": "accounts", "weights": { "shard3": weight } });
        let key = format!("rebalancing {}", self.count);
        let started = session.insist("/table/rebalance", &body, Some(&key)).await;
        // None if the answer of a first try was lost and the job has ended since.
        self.job = started["job"].as_str().map(str::to_owned);
        self.count += 1;
    }

    /// Waits for the end of the job that runs.
    async fn rest(self, session: &mut Session) {
        let Some(id) = self.job else { return };
        eventually(&format!("job {id} is done"), JOB, async || {
            let job: Json = session.insist_get(&format!("/job/{id}")).await;
            assert!(!matches!(job["state"].as_str(), Some("failed" | "cancelled")), "{job}");
            if job["state"] == "done" { Ok(()) } else { Err(job.to_string()) }
        })
        .await;
    }
}

fn process(cluster: &mut Cluster, index: usize) -> &mut Process {
    let nodes = cluster.nodes.len();
    match index.checked_sub(nodes) {
        None => &mut cluster.nodes[index].process,
        Some(proxy) => &mut cluster.proxies[proxy].process,
    }
}

/// Nodes and proxies are killed or stopped and started again, in random order, while a table is rebalanced to
/// and fro: clients repeat what was cut off under its key, and in the end no row is lost or doubled, replicas
/// have equal content and each slot has one owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_restart_in_random_order() {
    let rounds = number("FLOTILLA_RESTARTS").unwrap_or(ROUNDS);
    let seed = number("FLOTILLA_SEED").unwrap_or_else(|| RequestId::random().0 as u16 as u64);
    println!("FLOTILLA_RESTARTS={rounds} FLOTILLA_SEED={seed}");
    let mut random = Rng::new(seed);
    let mut cluster = Cluster::start(Layout { proxies: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    let accounts = Accounts { name: "accounts".into(), count: ROWS };
    let points: Vec<i64> = (1..SLOTS).map(|slot| slot * (ROWS / SLOTS)).collect();
    accounts.make(&mut session, json!({ "shard_func": "range", "split_points": points })).await;
    let load = Load::start(&cluster.proxies, &accounts, MIX);
    load.progress(20, 1).await;

    let mut moves = ToAndFro::default();
    let all = cluster.nodes.len() + cluster.proxies.len();
    let start = Instant::now();
    for round in 1..=rounds {
        moves.go_on(&mut session).await;
        // So that it ends at any moment of a job.
        load.progress(random.below(20), 0).await;
        let victim = random.below(all as u64) as usize;
        let (killed, awaited) = (random.percent(50), random.percent(50));
        let victim = process(&mut cluster, victim);
        let name = victim.name().to_owned();
        if killed {
            victim.kill();
        } else {
            victim.signal(Signal::TERM);
            let status = victim.exit(STOP).await;
            assert!(status.success(), "{name} ended with {status}");
        }
        if awaited {
            // The others go on without it.
            load.progress(5, 1).await;
        }
        let again = Instant::now();
        cluster.start_all();
        cluster.ready().await;
        let how = if killed { "killed" } else { "stopped" };
        println!("round {round}: {name} was {how}, all is ready again after {:.1?}", again.elapsed());
    }
    let jobs = moves.count;
    moves.rest(&mut session).await;
    load.progress(20, 1).await;
    let report = load.finish(&mut session).await;
    println!(
        "{rounds} restarts and {jobs} rebalancings in {:.1?}: {} writes, {} reads, {} exact totals, {} tries repeated",
        start.elapsed(),
        report.writes.len(),
        report.reads.len(),
        report.totals,
        report.failed
    );
    cluster.check_owners_at_rest("accounts").await;
}
