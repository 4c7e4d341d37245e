//! A walk along all steps of a job that moves slots: before and behind each, the job waits, and something
//! is killed, or stopped for a while. Then everything goes on, and everything is as it should be.
//!
//! The suite takes some steps at random and prints the seed; `FLOTILLA_WALK=all` takes every step with
//! every victim (half an hour), `FLOTILLA_WALK=release` all cases whose name has that in it, and
//! `FLOTILLA_SEED=7` those of a seed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flotilla_tests::harness::accounts::{Accounts, Load, Mix};
use flotilla_tests::harness::walk::{Pauses, chosen};
use flotilla_tests::harness::{Cluster, Layout, eventually};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// The calls of a driver, in order; some are made again when the slots are frozen.
const CALLS: [&str; 18] = [
    "index",
    "sizes",
    "begin",
    "ahead",
    "open",
    "export",
    "stage",
    "freeze",
    "frozen export",
    "frozen stage",
    "content",
    "release",
    "activate",
    "flip",
    "cancel",
    "abandon",
    "dropindex",
    "end",
];

/// Calls that are only made when somebody ends the job while a move is under way.
const WHEN_CANCELLED: [&str; 2] = ["cancel", "abandon"];

/// Calls that a job makes in some races only: of two drivers, or with a wish to halt.
const IN_RACES: [&str; 2] = ["renew", "halt"];

/// Cases in the suite.
const CASES: usize = 6;

const MIX: Mix = Mix { writers: 3, readers: 1, counters: 1, mixed: 0 };

/// Slots of a table: few, so that a job has few moves, and each case all of its steps.
const SLOTS: i64 = 24;

const ROWS_PER_SLOT: i64 = 10;

/// What is hit while the job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The node that leads `meta`, and with it the driver.
    Driver,
    /// The node that leads the source.
    Source,
    /// The node that leads the target.
    Target,
    /// A node that leads neither, if there is one.
    Other,
    /// The proxy that clients use first.
    Proxy,
    /// All processes at one moment, as when power fails.
    Everything,
    /// The driver is stopped, not killed; it goes on after another has taken over.
    StoppedDriver,
    /// The leader of the source is stopped for a while.
    StoppedSource,
}

const VICTIMS: [Victim; 8] = [
    Victim::Driver,
    Victim::Source,
    Victim::Target,
    Victim::Other,
    Victim::Proxy,
    Victim::Everything,
    Victim::StoppedDriver,
    Victim::StoppedSource,
];

#[derive(Clone, Debug)]
struct Case {
    when: &'static str,
    call: &'static str,
    victim: Victim,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = vec![];
        for call in CALLS {
            for when in ["before", "after"] {
                cases.extend(VICTIMS.map(|victim| Self { when, call, victim }));
            }
        }
        cases
    }

    fn is_frozen(&self) -> bool {
        self.call.starts_with("frozen ")
    }

    fn place(&self) -> String {
        format!("{}-{}", self.when, self.call.trim_start_matches("frozen "))
    }

    fn name(&self) -> String {
        format!("{}-{} {:?}", self.when, self.call, self.victim)
    }
}

struct Walk {
    cluster: Cluster,
    pauses: Pauses,
}

impl Walk {
    async fn start() -> Self {
        let pauses = Pauses::new();
        let cluster = Cluster::start(Layout { proxies: 2, flags: pauses.flags(), ..Layout::default() }).await;
        Self { cluster, pauses }
    }

    async fn job(&self, id: &str) -> Json {
        self.cluster.session().insist_get(&format!("/job/{id}")).await
    }

    /// The node that a case hits.
    async fn victim(&self, case: &Case, moving: &Json) -> Option<usize> {
        let (source, target) = (moving["from"].as_str().unwrap_or("shard1"), moving["to"].as_str().unwrap_or("shard3"));
        match case.victim {
            Victim::Driver | Victim::StoppedDriver => Some(self.cluster.leader("meta").await),
            Victim::Source | Victim::StoppedSource => Some(self.cluster.leader(source).await),
            Victim::Target => Some(self.cluster.leader(target).await),
            Victim::Other => {
                let (source, target) = (self.cluster.leader(source).await, self.cluster.leader(target).await);
                Some((0..3).find(|node| *node != source && *node != target).unwrap_or_default())
            }
            Victim::Proxy | Victim::Everything => None,
        }
    }

    async fn run(&mut self, number: usize, case: &Case) {
        let start = Instant::now();
        let mut session = self.cluster.session();
        let accounts = Accounts { name: format!("walk{number}"), count: SLOTS * ROWS_PER_SLOT };
        let points: Vec<i64> = (1..SLOTS).map(|slot| slot * ROWS_PER_SLOT).collect();
        let range = json!({ "shard_func": "range", "split_points": points, "shards": ["shard1", "shard2"] });
        accounts.make(&mut session, range).await;
        session.post("/table/add-to-shard", json!({ "table_name": accounts.name, "shard_id": "shard3" })).await;
        let load = Load::start(&self.cluster.proxies, &accounts, MIX);
        load.progress(20, 1).await;

        let cancelled = WHEN_CANCELLED.contains(&case.call);
        if cancelled {
            // So that the next driver finds a move to cancel.
            self.pauses.ask("after-stage");
        }
        if case.is_frozen() {
            self.pauses.ask("after-freeze");
        } else {
            self.pauses.ask(&case.place());
        }
        let started = session.post("/table/rebalance", json!({ "table_name": accounts.name })).await;
        let id = started["job"].as_str().expect("a job").to_owned();
        if cancelled {
            self.pauses.wait("after-stage").await;
            session.post(&format!("/job/{id}/cancel"), json!({})).await;
            let driver = self.cluster.leader("meta").await;
            self.cluster.nodes[driver].process.kill();
            self.cluster.nodes[driver].process.start();
            self.cluster.ready().await;
            self.pauses.go_on("after-stage");
        }
        if case.is_frozen() {
            self.pauses.wait("after-freeze").await;
            self.pauses.ask(&case.place());
            self.pauses.go_on("after-freeze");
        }
        self.pauses.wait(&case.place()).await;
        self.cluster.check_owners_now(&accounts.name).await;
        let moving = self.job(&id).await["moving"][0].clone();

        self.hit(case, &moving, &id, &load).await;
        self.cluster.ready().await;
        let ended = self.ended(&id).await;
        assert_eq!(ended["state"], if cancelled { "cancelled" } else { "done" }, "{ended}");
        load.progress(10, 1).await;
        load.finish(&mut session).await;
        self.cluster.check_owners_at_rest(&accounts.name).await;
        if !cancelled {
            let placement = self.cluster.placement(&accounts.name).await;
            assert!(placement.owned.values().all(|slots| slots.len() == SLOTS as usize / 3), "{:?}", placement.owned);
        }
        for table in [accounts.events(), accounts.name] {
            session.execute(&format!("DROP TABLE {table}"), json!([])).await;
        }
        println!("{}: {:.1?}", case.name(), start.elapsed());
    }

    /// Kills or stops what the case says, lets the job go on, and brings back what was hit.
    async fn hit(&mut self, case: &Case, moving: &Json, id: &str, load: &Load) {
        let place = case.place();
        let node = self.victim(case, moving).await;
        match case.victim {
            Victim::Everything => {
                self.cluster.kill_all();
                self.pauses.go_on(&place);
                self.cluster.start_all();
            }
            Victim::Proxy => {
                self.cluster.proxies[0].process.kill();
                self.pauses.go_on(&place);
                load.progress(5, 1).await;
                self.cluster.start_all();
            }
            Victim::StoppedDriver => {
                let process = &mut self.cluster.nodes[node.expect("a node")].process;
                process.signal(Signal::STOP);
                // Another driver brings the job further, or to its end; then the first one takes its next
                // step, much too late.
                load.progress(10, 1).await;
                self.ended(id).await;
                self.pauses.go_on(&place);
                self.cluster.nodes[node.expect("a node")].process.signal(Signal::CONT);
            }
            Victim::StoppedSource => {
                let node = node.expect("a node");
                self.cluster.nodes[node].process.signal(Signal::STOP);
                self.pauses.go_on(&place);
                load.progress(10, 1).await;
                self.cluster.nodes[node].process.signal(Signal::CONT);
            }
            Victim::Driver | Victim::Source | Victim::Target | Victim::Other => {
                let node = node.expect("a node");
                self.cluster.nodes[node].process.kill();
                self.pauses.go_on(&place);
                // With the others alone.
                load.progress(5, 1).await;
                self.cluster.start_all();
            }
        }
    }

    async fn ended(&self, id: &str) -> Json {
        eventually(&format!("job {id} ends"), Duration::from_secs(120), async || {
            let job = self.job(id).await;
            if job["state"] == "running" { Err(job.to_string()) } else { Ok(job) }
        })
        .await
    }
}

/// At each step of a rebalancing something dies: the job comes to its end, each slot has one owner at
/// each moment, by the shards' own tables, and clients find every row once and every total exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_survives() {
    let cases = chosen(Case::all(), Case::name, CASES);
    let mut walk = Walk::start().await;
    for (number, case) in cases.iter().enumerate() {
        println!("case {number}: {}", case.name());
        walk.run(number, case).await;
    }
    let in_races = IN_RACES.iter().flat_map(|call| [format!("before-{call}"), format!("after-{call}")]);
    let known: BTreeSet<String> = Case::all().iter().map(Case::place).chain(in_races).collect();
    let unknown: Vec<String> = walk.pauses.passed().difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "this walk knows nothing of {unknown:?}");
}

/// The names of cases: any part of them chooses.
#[test]
fn cases_are_named() {
    let all: BTreeSet<String> = Case::all().iter().map(Case::name).collect();
    assert_eq!(all.len(), CALLS.len() * 2 * VICTIMS.len());
    assert!(all.contains("before-release Source"));
}
