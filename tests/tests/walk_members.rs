//! A walk along all steps of the jobs that change replicas: before and behind each, the job waits, and something
//! is killed, or stopped for a while. Then everything goes on, and everything is as it should be.
//!
//! As in the walk along the steps of a move: the suite takes some cases at random and prints the seed;
//! `FLOTILLA_WALK=all` takes all of them (half an hour), `FLOTILLA_WALK=swap` those whose name has that in it, and
//! `FLOTILLA_SEED=7` those of a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use flotilla_shared::client::Cluster as Nodes;
use flotilla_shared::wire::{MemberChange, Request, Response};
use flotilla_tests::harness::cluster::process_ready;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::walk::{Pauses, chosen};
use flotilla_tests::harness::writers::{self, Writers};
use flotilla_tests::harness::{Client, Cluster, Layout, eventually};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// Cases in the suite.
const CASES: usize = 5;

/// Bytes of a row.
const ROW_BYTES: usize = 100;

/// Nodes that begin with a replica of each group.
const FOUNDERS: usize = 3;

/// Nodes that join without any.
const OTHERS: usize = 2;

/// The shard whose replicas change.
const SHARD: &str = "shard1";

/// How long a driver that is stopped stays so, if the job cannot end without it.
const STOPPED: Duration = Duration::from_secs(3);

/// How long a job may take once everything runs again.
const JOB: Duration = Duration::from_secs(120);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Add,
    Replace,
    Remove,
    /// A replica is to come, and somebody thinks better of it.
    Cancel,
    Drain,
    /// A node is dead.
    Repair,
}

const ASKS: [Ask; 6] = [Ask::Add, Ask::Replace, Ask::Remove, Ask::Cancel, Ask::Drain, Ask::Repair];

impl Ask {
    /// The calls of a driver, in order.
    fn calls(self) -> &'static [&'static str] {
        match self {
            Self::Add => &["begin", "createreplica", "addlearner", "promote", "done", "endjob"],
            Self::Replace | Self::Repair => &["begin", "createreplica", "addlearner", "swap", "done", "endjob"],
            Self::Remove => &["begin", "remove", "done", "endjob"],
            Self::Cancel => &["forget", "abandon", "endjob"],
            Self::Drain => &["handover", "begin", "createreplica", "addlearner", "swap", "done", "endjob"],
        }
    }

    /// Does it make a replica?
    fn adds(self) -> bool {
        self != Self::Remove
    }

    /// Does it take one away?
    fn removes(self) -> bool {
        !matches!(self, Self::Add | Self::Cancel)
    }
}

/// What is hit while the job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The node that leads `meta`, and with it the driver.
    Driver,
    /// The node that leads the group that changes.
    Leader,
    /// The node that gets a replica.
    Joining,
    /// The node that loses one. In a repair it is dead already: it comes back.
    Leaving,
    /// The driver is stopped, not killed; it goes on after another has taken over.
    StoppedDriver,
}

const VICTIMS: [Victim; 5] = [Victim::Driver, Victim::Leader, Victim::Joining, Victim::Leaving, Victim::StoppedDriver];

#[derive(Clone, Debug)]
struct Case {
    ask: Ask,
    when: &'static str,
    call: &'static str,
    victim: Victim,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = vec![];
        for ask in ASKS {
            let victims = VICTIMS.into_iter().filter(|victim| match victim {
                Victim::Joining => ask.adds(),
                Victim::Leaving => ask.removes(),
                _ => true,
            });
            for victim in victims {
                for call in ask.calls() {
                    cases.extend(["before", "after"].map(|when| Self { ask, when, call, victim }));
                }
            }
        }
        cases
    }

    fn place(&self) -> String {
        format!("{}-member-{}", self.when, self.call)
    }

    fn name(&self) -> String {
        format!("{:?} {}-{} {:?}", self.ask, self.when, self.call, self.victim)
    }
}

struct Walk {
    cluster: Cluster,
    pauses: Pauses,
}

impl Walk {
    async fn start() -> Self {
        let pauses = Pauses::new();
        let layout = Layout { shards: 1, flags: pauses.flags(), nodes: FOUNDERS, ..Layout::default() };
        let mut cluster = Cluster::start(layout).await;
        for _ in 0..OTHERS {
            let node = cluster.join("");
            let member = &mut cluster.nodes[node];
            process_ready(&mut member.process, &member.http).await;
        }
        writers::make_table(&mut cluster.session()).await;
        Self { cluster, pauses }
    }

    async fn post(&self, path: &str, body: Json) -> Json {
        eventually(&format!("{path} is accepted"), PATIENCE, async || {
            let reply = Client::new(&self.cluster.proxies[0].http).post(path, &body).await?;
            if reply.status.is_success() { Ok(reply.json()) } else { Err(reply.to_string()) }
        })
        .await
    }

    async fn job(&self, id: &str) -> Json {
        self.cluster.session().insist_get(&format!("/job/{id}")).await
    }

    async fn ended(&self, id: &str) -> Json {
        eventually(&format!("job {id} ends"), JOB, async || {
            let job = self.job(id).await;
            if job["state"] == "running" { Err(job.to_string()) } else { Ok(job) }
        })
        .await
    }

    /// Groups with the nodes that hold them, by the registry.
    async fn holders(&self) -> BTreeMap<String, BTreeSet<u64>> {
        let status = self.cluster.session().insist_get("/status").await;
        let groups = status["groups"].as_array().expect("groups").iter();
        let of = |group: &Json| {
            let replicas = group["replicas"].as_array().expect("replicas").iter();
            replicas.map(|replica| replica["node"].as_u64().expect("a node")).collect()
        };
        groups.map(|group| (group["id"].as_str().expect("a name").to_owned(), of(group))).collect()
    }

    async fn members(&self) -> BTreeSet<u64> {
        self.holders().await.remove(SHARD).expect("the shard")
    }

    /// A node without a replica of the shard.
    async fn free(&self) -> u64 {
        let members = self.members().await;
        (1..=(FOUNDERS + OTHERS) as u64).find(|node| !members.contains(node)).expect("a free node")
    }

    /// Asks for something and waits until it is done; nothing dies meanwhile.
    async fn quietly(&self, path: &str, body: Json) {
        let started = self.post(path, body).await;
        if let Some(id) = started["job"].as_str() {
            let ended = self.ended(id).await;
            assert_eq!(ended["state"], "done", "{ended}");
        }
    }

    /// Who votes in each group, and who only follows, by the group itself: whom the registry lists, and nobody else.
    async fn check_groups(&self) {
        let registry = self.cluster.registry().await;
        let nodes = Nodes::new(self.cluster.nodes.iter().map(|node| node.raft.clone()).collect());
        for (group, replicas) in &registry.groups {
            let request = Request::Membership { group: *group, change: MemberChange::Look };
            let members = match nodes.call(*group, request, tokio::time::Instant::now() + PATIENCE).await {
                Ok(Response::Members(members)) => members,
                other => panic!("{group}: {other:?}"),
            };
            let listed = |votes| replicas.iter().filter(move |info| info.votes == votes).map(|info| info.replica);
            let (voters, learners): (BTreeSet<_>, BTreeSet<_>) = (listed(true).collect(), listed(false).collect());
            assert_eq!(members.voters.iter().copied().collect::<BTreeSet<_>>(), voters, "voters of {group}");
            let follow: BTreeSet<_> = members.learners.iter().map(|(replica, _)| *replica).collect();
            assert_eq!(follow, learners, "learners of {group}");
        }
    }

    /// Waits until each node hosts what the registry says, and nothing else.
    async fn at_rest(&mut self) {
        self.check_groups().await;
        eventually("nodes host what the registry says", PATIENCE, async || {
            let holders = self.holders().await;
            for node in &self.cluster.nodes {
                let status = Client::new(&node.http).get("/status").await?.json();
                let groups = status["groups"].as_array().ok_or("no groups")?.iter();
                let hosted: BTreeSet<&str> = groups.filter_map(|group| group["id"].as_str()).collect();
                let listed = holders.iter().filter(|(_, nodes)| nodes.contains(&node.id));
                let listed: BTreeSet<&str> = listed.map(|(group, _)| group.as_str()).collect();
                if hosted != listed {
                    return Err(format!("node {} hosts {hosted:?}, the registry lists {listed:?}", node.id));
                }
            }
            Ok(())
        })
        .await;
        self.cluster.contents().await;
    }

    async fn run(&mut self, number: usize, case: &Case) {
        let start = Instant::now();
        let before = self.members().await;
        assert_eq!(before.len(), FOUNDERS, "{before:?}");
        let path = format!("/shard/{SHARD}/replicas");
        let joining = self.free().await;
        if case.ask == Ask::Remove {
            self.quietly(&path, json!({ "add": [joining] })).await;
        }
        let leader = self.cluster.leader(SHARD).await as u64 + 1;
        // Sometimes the one that leads goes, always where it has to hand over.
        let leads = number.is_multiple_of(2) || case.call == "handover";
        let members = self.members().await;
        let leaving = members.iter().copied().find(|node| (*node == leader) == leads).expect("such a node");
        let writers = Writers::start(&self.cluster, number as u64 * 10, 3, ROW_BYTES, true);
        writers.progress(20).await;
        let (path, body) = match case.ask {
            Ask::Add | Ask::Cancel => (path, json!({ "add": [joining] })),
            Ask::Replace => (path, json!({ "replace": { leaving.to_string(): joining } })),
            Ask::Remove => (path, json!({ "remove": [leaving] })),
            Ask::Drain => (format!("/node/{leaving}/drain"), json!({})),
            Ask::Repair => {
                self.cluster.nodes[leaving as usize - 1].process.kill();
                ("/repair".to_owned(), json!({ "dead_after": "1s" }))
            }
        };

        // A driver that waits before the job is cancelled is the one that finds something to give up.
        let first = if case.ask == Ask::Cancel { "after-member-addlearner".to_owned() } else { case.place() };
        self.pauses.ask(&first);
        let started = self.post(&path, body.clone()).await;
        let id = started["job"].as_str().unwrap_or_else(|| panic!("a job: {started}")).to_owned();
        self.pauses.wait(&first).await;
        if case.ask == Ask::Cancel {
            self.pauses.ask(&case.place());
            self.post(&format!("/job/{id}/cancel"), json!({})).await;
            let driver = self.cluster.leader("meta").await;
            self.cluster.nodes[driver].process.kill();
            self.cluster.nodes[driver].process.start();
            self.pauses.go_on(&first);
            self.pauses.wait(&case.place()).await;
        }
        let exchange = self.job(&id).await["exchange"].clone();
        self.hit(case, &exchange, (joining, leaving), &id, &writers).await;
        self.cluster.start_all();
        self.cluster.ready().await;
        let mut ended = self.ended(&id).await;
        let wanted = if case.ask == Ask::Cancel { "cancelled" } else { "done" };
        if matches!(case.ask, Ask::Drain | Ask::Repair) && ended["state"] == "failed" {
            // It found that a group would lose its majority, said so, and goes on when it is asked again.
            assert_eq!(ended["error"]["code"], "conflict", "{ended}");
            println!("asked again: {ended}");
            if case.ask == Ask::Drain {
                let again = self.post(&path, body).await;
                ended = match again["job"].as_str() {
                    Some(id) => self.ended(id).await,
                    None => again,
                };
            }
        }
        let mended = case.ask == Ask::Repair && ended["state"] == "failed";
        assert!(ended["state"] == wanted || mended, "{ended}");
        writers.progress(20).await;
        let journals = writers.stop().await;
        writers::check(&mut self.cluster.session(), &journals, ROW_BYTES).await;
        self.at_rest().await;
        self.check_members(case, &before, (joining, leaving), mended).await;
        println!("{}: {:.1?}", case.name(), start.elapsed());
    }

    /// The members are those that were asked for; then there are three again, and no node is drained.
    async fn check_members(
        &mut self,
        case: &Case,
        before: &BTreeSet<u64>,
        (joining, leaving): (u64, u64),
        mended: bool,
    ) {
        let now = self.members().await;
        let mut wanted = before.clone();
        match case.ask {
            Ask::Add => drop(wanted.insert(joining)),
            Ask::Cancel => (),
            Ask::Replace => {
                wanted.remove(&leaving);
                wanted.insert(joining);
            }
            Ask::Remove => {
                wanted.insert(joining);
                wanted.remove(&leaving);
            }
            Ask::Drain | Ask::Repair => {
                let holders = self.holders().await;
                let left: Vec<&String> =
                    holders.iter().filter(|(_, nodes)| nodes.contains(&leaving)).map(|(group, _)| group).collect();
                assert!(left.is_empty() || mended, "node {leaving} holds {left:?}");
                assert!(holders.values().all(|nodes| nodes.len() == FOUNDERS), "{holders:?}");
                wanted = now.clone();
            }
        }
        assert_eq!(now, wanted, "members of {SHARD}");
        if case.ask == Ask::Add {
            self.quietly(&format!("/shard/{SHARD}/replicas"), json!({ "remove": [joining] })).await;
        }
        if case.ask == Ask::Drain {
            self.post(&format!("/node/{leaving}/undrain"), json!({})).await;
        }
    }

    /// Kills or stops what the case says, lets the job go on, and brings back what was hit.
    async fn hit(&mut self, case: &Case, exchange: &Json, (joining, leaving): (u64, u64), id: &str, writers: &Writers) {
        let place = case.place();
        let node = match case.victim {
            Victim::Driver | Victim::StoppedDriver => self.cluster.leader("meta").await,
            Victim::Leader => self.cluster.leader(exchange["group"].as_str().unwrap_or(SHARD)).await,
            Victim::Joining => exchange["add"]["node"].as_u64().unwrap_or(joining) as usize - 1,
            Victim::Leaving => leaving as usize - 1,
        };
        // With a dead one and this one, what is left has no majority.
        let others_go_on = case.ask != Ask::Repair;
        let process = &mut self.cluster.nodes[node].process;
        if case.victim == Victim::StoppedDriver {
            process.signal(Signal::STOP);
            if others_go_on {
                writers.progress(10).await;
            }
            // Another driver brings the job further, or to its end; then the first one takes its next step,
            // much too late.
            let since = Instant::now();
            while others_go_on && since.elapsed() < STOPPED && self.job(id).await["state"] == "running" {
                writers.progress(1).await;
            }
            self.pauses.go_on(&place);
            self.cluster.nodes[node].process.signal(Signal::CONT);
            return;
        }
        if process.is_running() {
            process.kill();
            self.pauses.go_on(&place);
            if others_go_on {
                writers.progress(5).await;
            }
        } else {
            process.start();
            self.pauses.go_on(&place);
        }
    }
}

/// At each step of a job that changes replicas something dies: the job comes to its end, the members are those
/// that were asked for, no node hosts anything else, replicas are equal, and every acknowledged row is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_survives() {
    let cases = chosen(Case::all(), Case::name, CASES);
    let mut walk = Walk::start().await;
    for (number, case) in cases.iter().enumerate() {
        println!("case {number}: {}", case.name());
        walk.run(number, case).await;
    }
}

/// The names of cases: any part of them chooses.
#[test]
fn cases_are_named() {
    let all: BTreeSet<String> = Case::all().iter().map(Case::name).collect();
    assert_eq!(all.len(), Case::all().len());
    assert!(all.contains("Replace before-swap Leaving") && !all.contains("Add before-promote Leaving"));
}
