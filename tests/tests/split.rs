//! Ranges get new split points while clients read and write, and one side of them moves: no request fails, no
//! total is wrong, nothing is applied twice; and a proxy that knows nothing of it never reads or writes wrongly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_tests::harness::accounts::{Accounts, HELD, Load, Mix, longest};
use flotilla_tests::harness::session::Trouble;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Cluster, Layout, Session, eventually};
use serde_json::{Value as Json, json};

const MIX: Mix = Mix { writers: 3, readers: 3, counters: 2, mixed: 0 };

/// Accounts, in ranges of 300 at the start.
const COUNT: i64 = 900;

/// Clients of the proxy that hears of nothing.
const STALE: i64 = 3;

/// How long a job may take on a busy machine.
const JOB: Duration = Duration::from_secs(120);

/// How long one try at the proxy without news may take: it has to give up what it cannot know.
const TIMEOUT: &str = "timeout=500ms";

async fn done(session: &mut Session, started: &Json) -> Json {
    let path = format!("/job/{}", started["job"].as_str().unwrap_or_else(|| panic!("no job: {started}")));
    eventually(&format!("{path} is done"), JOB, async || {
        let job = session.insist_get(&path).await;
        assert!(!matches!(job["state"].as_str(), Some("failed" | "cancelled")), "{job}");
        if job["state"] == "done" { Ok(job) } else { Err(job.to_string()) }
    })
    .await
}

async fn split_points(session: &mut Session) -> Json {
    session.insist_get("/table/accounts").await["split_points"].take()
}

/// What requests through the proxy without news came to.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
}

/// Asks the proxy without news, for rows on both sides of the split points and for all rows, and writes through it: an
/// answer is right, anything else may be repeated elsewhere, and then it is. Tells how many of its writes there
/// must be.
async fn stale_client(
    number: i64,
    mut old: Session,
    mut others: Session,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
) -> i64 {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return n;
        }
        let id = (n * 37 + number * 211) % COUNT;
        let point = json!({ "query": "SELECT held, id FROM accounts WHERE id = ?", "args": [id] });
        let some =
            json!({ "query": "SELECT count(*) FROM accounts WHERE id BETWEEN ?1 - 60 AND ?1 + 60", "args": [id] });
        let some_rows = (id + 60).min(COUNT - 1) - (id - 60).max(0) + 1;
        let all = json!({ "query": "SELECT count(*), sum(held) FROM accounts" });
        let reads = [(point, json!([[HELD, id]])), (some, json!([[some_rows]])), (all, json!([[COUNT, COUNT * HELD]]))];
        for (body, wanted) in reads {
            match old.attempt(&format!("/query?{TIMEOUT}"), &body, None).await {
                Ok(result) => {
                    assert_eq!(result["results"][0]["values"], wanted, "{body}");
                    tally.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(Trouble::Again(_)) => drop(tally.refused.fetch_add(1, Ordering::Relaxed)),
                Err(Trouble::Refused(why)) => panic!("{body}: {why}"),
            }
        }
        let body = json!({ "query": "UPDATE marks SET n = n + 1 WHERE id = ?", "args": [id] });
        let key = format!("stale {n} of {number}");
        match old.attempt(&format!("/execute?{TIMEOUT}"), &body, Some(&key)).await {
            Ok(result) => assert_eq!(result["results"][0]["rows_affected"], 1, "{result}"),
            Err(Trouble::Again(_)) => {
                let result = others.insist("/execute", &body, Some(&key)).await;
                assert_eq!(result["results"][0]["rows_affected"], 1, "{result}");
            }
            Err(Trouble::Refused(why)) => panic!("{body}: {why}"),
        }
    }
    unreachable!("the loop ends by a stop");
}

/// A hot range is split and its upper side moves to another shard; then several ranges are split at once, and
/// the table is evened out. Requests that were answered before are repeated after each of it, and one proxy hears of
/// nothing meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_range_is_split() {
    let layout = Layout { nodes: 3, proxies: 3, meta_alone: true, relays: true, ..Layout::default() };
    let mut cluster = Cluster::start(layout).await;
    let accounts = Accounts { name: "accounts".into(), count: COUNT };
    let (others, old) = cluster.proxies.split_at(2);
    let session = || Session::new(others.iter().map(|proxy| proxy.http.clone()));
    let mut admin = session();
    accounts.make(&mut admin, json!({ "shard_func": "range", "split_points": [300, 600] })).await;
    let marks = "CREATE TABLE marks (id INTEGER PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0)";
    admin.create(marks, "marks", "id", Some("accounts")).await;
    for first in (0..COUNT).step_by(300) {
        let rows: Vec<String> = (first..first + 300).map(|id| format!("({id})")).collect();
        admin.execute(&format!("INSERT INTO marks (id) VALUES {}", rows.join(", ")), json!([])).await;
    }

    // Requests that find all their rows in one slot now, and will not later.
    let update = json!({ "query": "UPDATE marks SET n = n + 1000000 WHERE id IN (310, 590)" });
    let insert = |first: i64| json!({ "query": format!("INSERT INTO accounts_events VALUES ({first}, -1, 0), (599, -1, {first})") });
    let both = json!({ "statements": ["UPDATE marks SET n = n + 1000000 WHERE id = 310",
        "UPDATE marks SET n = n + 1000000 WHERE id = 590"], "transaction": true });
    let requests = [
        ("/execute", update.clone()),
        ("/execute?allow_partial=true", update),
        ("/execute", insert(301)),
        ("/execute?allow_partial=true", insert(302)),
        ("/execute", both),
        // All of its rows move.
        ("/execute", json!({ "query": "UPDATE marks SET n = n + 1000000 WHERE id = 595" })),
    ];
    let mut answers = vec![];
    for (n, (path, body)) in requests.iter().enumerate() {
        answers.push(admin.insist(path, body, Some(&format!("early {n}"))).await);
    }
    let again = async |when: &str| {
        for (n, (path, body)) in requests.iter().enumerate() {
            let answer = session().insist(path, body, Some(&format!("early {n}"))).await;
            assert_eq!(answer, answers[n], "{path} {body}, {when}");
        }
    };
    admin.execute("DELETE FROM accounts_events WHERE account = 301", json!([])).await;
    admin.execute("DELETE FROM accounts_events WHERE account = 302", json!([])).await;
    admin.execute("DELETE FROM accounts_events WHERE account = 599", json!([])).await;

    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let stale: Vec<_> = (0..STALE)
        .map(|number| {
            let (old, tally, stop) = (Session::new([old[0].http.clone()]), Arc::clone(&tally), Arc::clone(&stop));
            tokio::spawn(stale_client(number, old, session(), tally, stop))
        })
        .collect();
    let load = Load::start(others, &accounts, MIX);
    load.progress(30, 2).await;
    let relay = cluster.nodes[0].relay.as_ref().expect("a relay");
    relay.cut_for(old[0].process.id());
    let start = Instant::now();

    let body = json!({ "table_name": "accounts", "at": [450], "to": "shard3" });
    let mut dry = body.clone();
    dry["dry_run"] = json!(true);
    let plan = admin.post("/table/split", dry).await;
    assert_eq!(plan["split_points"], json!([300, 450, 600]), "{plan}");
    assert_eq!((&plan["splits"][0]["shard"], &plan["moves"][0]["to"]), (&json!("shard2"), &json!("shard3")), "{plan}");
    assert!(plan["splits"][0]["parts"][1]["rows"].as_i64().unwrap() >= 300, "{plan}");
    assert_eq!(split_points(&mut admin).await, json!([300, 600]));
    let started = admin.post("/table/split", body.clone()).await;
    let ended = done(&mut admin, &started).await;
    println!("split and moved: {ended}");
    assert_eq!((&ended["kind"], &ended["slots_moved"]), (&json!("split"), &json!(1)), "{ended}");
    assert!(ended["rows_moved"].as_i64().unwrap() >= 300, "{ended}");
    assert_eq!(split_points(&mut admin).await, json!([300, 450, 600]));
    let same = admin.post("/table/split", body).await;
    assert_eq!(same["already_split"], true, "{same}");
    again("after the split").await;
    let refused = tally.refused.load(Ordering::Relaxed);
    eventually("the proxy without news refuses what it cannot know", PATIENCE, async || {
        let now = tally.refused.load(Ordering::Relaxed);
        if now > refused + 5 { Ok(()) } else { Err(format!("{now} refusals, {refused} before")) }
    })
    .await;
    load.progress(30, 2).await;

    let started = admin.post("/table/split", json!({ "table_name": "marks", "at": [100, 200, 500, 700] })).await;
    let ended = done(&mut admin, &started).await;
    assert_eq!(split_points(&mut admin).await, json!([100, 200, 300, 450, 500, 600, 700]), "{ended}");
    again("after more splits").await;
    let started = admin.post("/table/rebalance", json!({ "table_name": "accounts", "by": "rows" })).await;
    let ended = done(&mut admin, &started).await;
    println!("evened out: {ended}");
    assert!(ended["slots_moved"].as_i64().unwrap() > 0, "{ended}");
    again("after a rebalancing").await;
    load.progress(30, 2).await;

    stop.store(true, Ordering::Relaxed);
    relay.heal();
    let mut written = 0;
    for client in stale {
        written += client.await.expect("a client");
    }
    let report = load.finish(&mut admin).await;
    println!(
        "writes, p99 and longest: {:.0?}; {} totals; without news {} answers, {} refusals",
        longest(&report.writes, start, Instant::now()),
        report.totals,
        tally.answered.load(Ordering::Relaxed),
        tally.refused.load(Ordering::Relaxed),
    );
    assert_eq!(report.failed, 0, "no request failed");
    let sums = admin.rows("SELECT count(*), sum(n) FROM marks", json!([])).await;
    assert_eq!(sums, [[json!(COUNT), json!(written + 7_000_000)]], "each write once");
    let mut healed = Session::new([old[0].http.clone()]);
    eventually("the proxy has heard of everything", PATIENCE, async || {
        let points = split_points(&mut healed).await;
        if points.as_array().map(Vec::len) == Some(7) { Ok(()) } else { Err(points.to_string()) }
    })
    .await;
    assert_eq!(healed.rows("SELECT count(*), sum(n) FROM marks", json!([])).await, sums);
    cluster.check_owners_at_rest("accounts").await;
}
