//! A table grows from two shards to four and shrinks to three, under a steady load of 64 clients at three
//! proxies, four reads to a write: no request fails, no row is lost or doubled, every total is exact.
//!
//! The suite takes a table of few slots; `FLOTILLA_GROWTH=full` takes one of 16,384, which makes as many
//! moves as there are in earnest. What writers had to wait is printed, and means something on a machine
//! that has nothing else to do.

use std::time::{Duration, Instant};

use flotilla_tests::harness::accounts::{Accounts, Latency, Load, Mix, longest};
use flotilla_tests::harness::wait::eventually;
use flotilla_tests::harness::{Cluster, Layout, Session};
use serde_json::{Value as Json, json};

const MIX: Mix = Mix { writers: 0, readers: 0, counters: 2, mixed: 62 };

/// Slots of the table of few slots.
const SLOTS: i64 = 48;

const ROWS: i64 = 4800;

/// How long one rebalancing may take on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(300);

/// Longest that a write may wait for anything but a fault: it is acknowledged long before its deadline.
const LONGEST: Duration = Duration::from_secs(9);

/// Starts a rebalancing and waits for its end; the job, and from when to when it ran.
async fn rebalance(session: &mut Session, weights: Json) -> (Json, Instant, Instant) {
    let start = Instant::now();
    let started = session.post("/table/rebalance", json!({ "table_name": "accounts", "weights": weights })).await;
    let id = started["job"].as_str().unwrap_or_else(|| panic!("{started}")).to_owned();
    let ended = eventually("the job is done", LIMIT, async || {
        let job = session.insist_get(&format!("/job/{id}")).await;
        assert!(!matches!(job["state"].as_str(), Some("failed" | "cancelled")), "{job}");
        if job["state"] == "done" { Ok(job) } else { Err(job.to_string()) }
    })
    .await;
    (ended, start, Instant::now())
}

fn show(what: &str, writes: &[Latency], (from, to): (Instant, Instant)) {
    let count = writes.iter().filter(|(start, _)| (from..to).contains(start)).count();
    let (p99, most) = longest(writes, from, to);
    println!("writes {what}: {count} in {:.1?}, p99 {p99:.0?}, longest {most:.0?}", to - from);
}

/// From two shards to four and back to three, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_to_four_to_three() {
    let mut cluster = Cluster::start(Layout { shards: 4, proxies: 3, ..Layout::default() }).await;
    let accounts = Accounts { name: "accounts".into(), count: ROWS };
    let mut session = cluster.session();
    let points: Vec<i64> = (1..SLOTS).map(|slot| slot * (ROWS / SLOTS)).collect();
    let full = std::env::var("FLOTILLA_GROWTH").is_ok_and(|form| form == "full");
    let registration = match full {
        true => json!({ "shards": ["shard1", "shard2"] }),
        false => json!({ "shards": ["shard1", "shard2"], "shard_func": "range", "split_points": points }),
    };
    accounts.make(&mut session, registration).await;
    for shard in ["shard3", "shard4"] {
        session.post("/table/add-to-shard", json!({ "table_name": "accounts", "shard_id": shard })).await;
    }
    let begin = Instant::now();
    let load = Load::start(&cluster.proxies, &accounts, MIX);
    load.progress(300, 4).await;
    let (grown, from, to) = rebalance(&mut session, json!({})).await;
    load.progress(100, 2).await;
    let (shrunk, from_again, to_again) = rebalance(&mut session, json!({ "shard4": 0 })).await;
    load.progress(100, 2).await;
    let report = load.finish(&mut session).await;

    show("before", &report.writes, (begin, from));
    show("while it grows", &report.writes, (from, to));
    show("while it shrinks", &report.writes, (from_again, to_again));
    println!("{} reads, {} totals; grown: {grown}; shrunk: {shrunk}", report.reads.len(), report.totals);
    assert_eq!(report.failed, 0, "no request failed");
    let (_, most) = longest(&report.writes, begin, Instant::now());
    assert!(most < LONGEST, "a write waited for {most:?}");
    assert!(report.reads.len() >= report.writes.len() * 4, "four reads to a write");
    cluster.check_owners_at_rest("accounts").await;
    let placement = cluster.placement("accounts").await;
    let slots: Vec<usize> = placement.owned.values().map(|slots| slots.len()).filter(|slots| *slots > 0).collect();
    let third = usize::from(placement.slots) / 3;
    assert!(slots.len() == 3 && slots.iter().all(|slots| slots.abs_diff(third) <= 1), "{slots:?}");
}
