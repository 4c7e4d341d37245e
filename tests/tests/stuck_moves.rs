//! Moves that cannot go on before anything is frozen: the job says why, can be paused and cancelled, and no writer
//! waits for it.

use flotilla_tests::harness::accounts::{Accounts, Load, Mix};
use flotilla_tests::harness::cluster::process_ready;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::walk::Pauses;
use flotilla_tests::harness::{Client, Cluster, Layout, Session, eventually};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

const MIX: Mix = Mix { writers: 3, readers: 1, counters: 1, mixed: 0 };

/// Slots of the table: few, so that its moves are few.
const SLOTS: i64 = 24;

const ROWS_PER_SLOT: i64 = 20;

/// Waits until a job looks as wanted.
async fn looks(session: &mut Session, id: &str, what: &str, wanted: impl Fn(&Json) -> bool) -> Json {
    eventually(&format!("job {id} {what}"), PATIENCE, async || {
        let job = session.insist_get(&format!("/job/{id}")).await;
        if wanted(&job) { Ok(job) } else { Err(job.to_string()) }
    })
    .await
}

/// Asks something of a job. The answer is the job, whose error is not one of the call.
async fn wish(cluster: &Cluster, id: &str, wish: &str) {
    let path = format!("/job/{id}/{wish}");
    let reply = Client::new(&cluster.proxies[0].http).post(&path, &json!({})).await.expect("an answer");
    assert!(reply.status.is_success(), "{path}: {reply}");
}

/// The only replica of the target hangs while rows are copied ahead. The job goes on trying, and shows the step and
/// what keeps it; clients notice nothing, since nothing is frozen. Asked to end or to halt, it does so when the
/// target answers; resumed, it comes to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_stuck_is_cancelled_and_paused() {
    let pauses = Pauses::new();
    let layout = Layout { shards: 2, proxies: 2, flags: pauses.flags(), ..Layout::default() };
    let mut cluster = Cluster::start(layout).await;
    let mut session = cluster.session();
    let accounts = Accounts { name: "accounts".into(), count: SLOTS * ROWS_PER_SLOT };
    let points: Vec<i64> = (1..SLOTS).map(|slot| slot * ROWS_PER_SLOT).collect();
    accounts.make(&mut session, json!({ "shard_func": "range", "split_points": points })).await;
    let fourth = cluster.join("");
    let member = &mut cluster.nodes[fourth];
    process_ready(&mut member.process, &member.http).await;
    let made = session.post("/shard", json!({ "nodes": [4] })).await;
    assert_eq!(made["shard"], "shard3", "{made}");
    session.post("/table/add-to-shard", json!({ "table_name": accounts.name, "shard_id": "shard3" })).await;
    let load = Load::start(&cluster.proxies, &accounts, MIX);
    load.progress(20, 1).await;

    for (asked, state) in [("cancel", "cancelled"), ("pause", "paused")] {
        pauses.ask("after-open");
        let started = session.post("/table/rebalance", json!({ "table_name": accounts.name })).await;
        let id = started["job"].as_str().expect("a job").to_owned();
        pauses.wait("after-open").await;
        cluster.nodes[fourth].process.signal(Signal::STOP);
        pauses.go_on("after-open");
        let job = looks(&mut session, &id, "says what keeps it", |job| !job["error"].is_null()).await;
        let step = job["step"].as_str().unwrap_or_default();
        assert!(job["state"] == "running" && step.ends_with("to shard3"), "{job}");
        load.progress(50, 1).await;
        let before = pauses.times("before-cancel");
        wish(&cluster, &id, asked).await;
        // An attempt that began before would go on as soon as the target answers, to the end of its move.
        eventually("the driver gives the move up", PATIENCE, async || match pauses.times("before-cancel") {
            now if now > before => Ok(()),
            now => Err(format!("{now} tries")),
        })
        .await;
        load.progress(50, 1).await;
        assert!(!pauses.passed().contains("before-freeze"), "nothing was frozen");
        cluster.nodes[fourth].process.signal(Signal::CONT);
        let job = looks(&mut session, &id, "ends", |job| job["state"] == state).await;
        assert_eq!(job["moving"], json!([]), "{job}");
        cluster.check_owners_at_rest(&accounts.name).await;
        if asked == "pause" {
            wish(&cluster, &id, "resume").await;
            let job = looks(&mut session, &id, "ends", |job| job["state"] != "running").await;
            assert_eq!((&job["state"], &job["error"]), (&json!("done"), &Json::Null), "{job}");
        }
    }
    let report = load.finish(&mut session).await;
    assert_eq!(report.failed, 0, "no request failed");
    cluster.check_owners_at_rest(&accounts.name).await;
    let placement = cluster.placement(&accounts.name).await;
    assert!(placement.owned.values().all(|slots| slots.len() == SLOTS as usize / 3), "{:?}", placement.owned);
}
