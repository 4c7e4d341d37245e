//! A table grows from two shards to four while clients read and write it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_tests::harness::session::{Session, Trouble};
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Cluster, Layout, eventually};
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

/// Rows of `accounts`, which are there all the time.
const ACCOUNTS: i64 = 2000;

/// What each of them holds.
const HELD: i64 = 100;

/// Clients that change `accounts` and add to `events`.
const WRITERS: u64 = 4;

/// Clients that read single rows.
const READERS: u64 = 4;

/// Clients that read everything.
const COUNTERS: u64 = 2;

/// What all clients share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Changes of `accounts` that were asked for, and those that were acknowledged.
    asked: AtomicU64,
    acknowledged: AtomicU64,
    /// Requests that gave no result at once.
    failed: AtomicU64,
    /// Totals that were read.
    totals: AtomicU64,
}

/// A client's own account of what it did.
#[derive(Default)]
struct Done {
    /// Changes by account.
    changes: BTreeMap<i64, u64>,
    latencies: Vec<(Instant, Duration)>,
}

struct Client {
    session: Session,
    shared: Arc<Shared>,
    number: u64,
    done: Done,
}

impl Client {
    /// Repeats a request until it has a result; counts what did not have one at once.
    async fn insist(&mut self, path: &str, body: &Json, key: Option<&str>) -> Json {
        let start = Instant::now();
        loop {
            match self.session.attempt(path, body, key).await {
                Ok(result) => {
                    self.done.latencies.push((start, start.elapsed()));
                    return result;
                }
                Err(Trouble::Refused(why)) => panic!("client {}: {body}: {why}", self.number),
                Err(Trouble::Again(why)) => {
                    println!("client {}: {body}: {why}", self.number);
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    assert!(start.elapsed() < PATIENCE, "client {}: {why}", self.number);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    async fn write(mut self) -> Done {
        for n in 0_u64.. {
            if self.stopped() {
                break;
            }
            let account = ((n * 7919 + self.number * 104_729) % ACCOUNTS as u64) as i64;
            let key = format!("change {n} of client {}", self.number);
            self.shared.asked.fetch_add(1, Ordering::SeqCst);
            let update = json!({ "query": "UPDATE accounts SET n = n + 1 WHERE id = ?", "args": [account] });
            let result = self.insist("/execute", &update, Some(&key)).await;
            assert_eq!(result["results"][0]["rows_affected"], 1, "account {account}: {result}");
            self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
            let insert = json!({
                "query": "INSERT INTO events (account, client, n) VALUES (?, ?, ?)",
                "args": [account, self.number, n],
            });
            self.insist("/execute", &insert, Some(&format!("event {n} of client {}", self.number))).await;
            *self.done.changes.entry(account).or_default() += 1;
        }
        self.done
    }

    async fn read(mut self) -> Done {
        for n in 0_u64.. {
            if self.stopped() {
                break;
            }
            let account = ((n * 6151 + self.number * 15_485_863) % ACCOUNTS as u64) as i64;
            let (sql, wanted) = match n % 3 {
                0 => ("SELECT held, id FROM accounts WHERE id = ?", json!([[HELD, account]])),
                1 => ("SELECT count(*) FROM accounts WHERE id IN (?1, ?1 + 1, ?1 + 2, -1)", {
                    json!([[(account..account + 3).filter(|id| *id < ACCOUNTS).count()]])
                }),
                _ => ("SELECT count(*), max(held) FROM accounts JOIN events ON account = id WHERE id = ?", {
                    Json::Null
                }),
            };
            let read = json!({ "query": sql, "args": [account] });
            let result = self.insist("/query", &read, None).await;
            if wanted != Json::Null {
                assert_eq!(result["results"][0]["values"], wanted, "account {account}");
            }
        }
        self.done
    }

    async fn count(mut self) -> Done {
        let sql = "SELECT count(*), sum(held), sum(n), count(DISTINCT id) FROM accounts";
        while !self.stopped() {
            let before = self.shared.acknowledged.load(Ordering::SeqCst);
            let result = self.insist("/query", &json!({ "query": sql }), None).await;
            let after = self.shared.asked.load(Ordering::SeqCst);
            let row = &result["results"][0]["values"][0];
            assert_eq!(
                (&row[0], &row[1], &row[3]),
                (&json!(ACCOUNTS), &json!(ACCOUNTS * HELD), &json!(ACCOUNTS)),
                "each row is seen once"
            );
            let changes = row[2].as_u64().unwrap();
            assert!((before..=after).contains(&changes), "{changes} changes, not {before} to {after}");
            self.shared.totals.fetch_add(1, Ordering::Relaxed);
        }
        self.done
    }
}

struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Done>>,
    others: Vec<JoinHandle<Done>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let shared = Arc::new(Shared::default());
        let client = |number: u64| Client {
            session: cluster.session().starting_at(number as usize),
            shared: Arc::clone(&shared),
            number,
            done: Done::default(),
        };
        let writers = (0..WRITERS).map(|number| tokio::spawn(client(number).write())).collect();
        let readers = (10..10 + READERS).map(|number| tokio::spawn(client(number).read()));
        let counters = (20..20 + COUNTERS).map(|number| tokio::spawn(client(number).count()));
        let others = readers.chain(counters).collect();
        Self { shared, writers, others }
    }

    async fn progress(&self, changes: u64, totals: u64) {
        let (acknowledged, seen) = (&self.shared.acknowledged, &self.shared.totals);
        let wanted = (acknowledged.load(Ordering::SeqCst) + changes, seen.load(Ordering::SeqCst) + totals);
        eventually("clients go on", PATIENCE, async || {
            let now = (acknowledged.load(Ordering::SeqCst), seen.load(Ordering::SeqCst));
            if now.0 >= wanted.0 && now.1 >= wanted.1 { Ok(()) } else { Err(format!("{now:?} of {wanted:?}")) }
        })
        .await;
    }

    /// Stops the clients; every change that was acknowledged is there once.
    async fn finish(self, cluster: &Cluster) -> Vec<(Instant, Duration)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let (mut changes, mut latencies): (BTreeMap<i64, u64>, _) = (BTreeMap::new(), vec![]);
        for writer in self.writers {
            let done = writer.await.expect("a writer");
            for (account, count) in done.changes {
                *changes.entry(account).or_default() += count;
            }
            latencies.extend(done.latencies);
        }
        for other in self.others {
            other.await.expect("a reader");
        }
        let mut session = cluster.session();
        for (sql, what) in [
            ("SELECT id, n FROM accounts WHERE n > 0 ORDER BY id", "changes"),
            ("SELECT account, count(*) FROM events GROUP BY account ORDER BY account", "events"),
        ] {
            let rows = session.rows(sql, json!([])).await;
            let found: BTreeMap<i64, u64> =
                rows.iter().map(|row| (row[0].as_i64().unwrap(), row[1].as_u64().unwrap())).collect();
            assert_eq!(found, changes, "{what}: none lost, none twice");
        }
        latencies
    }
}

async fn post(session: &mut Session, path: &str, body: Json) -> Json {
    session.attempt(path, &body, None).await.unwrap_or_else(|why| panic!("{path} {body}: {why:?}"))
}

/// Two tables that lie together on two shards of four, with rows.
async fn fill(cluster: &Cluster) {
    let mut session = cluster.session();
    session
        .execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, held INTEGER, n INTEGER, note TEXT)", json!([]))
        .await;
    let accounts = json!({ "table_name": "accounts", "shard_key": "id", "shards": ["shard1", "shard2"] });
    post(&mut session, "/table/register", accounts).await;
    let events = "CREATE TABLE events (account INTEGER NOT NULL, client INTEGER, n INTEGER,
                  PRIMARY KEY (account, client, n)) WITHOUT ROWID";
    session.execute(events, json!([])).await;
    let together = json!({ "table_name": "events", "shard_key": "account", "colocate_with": "accounts" });
    post(&mut session, "/table/register", together).await;
    session.execute("CREATE TABLE made (id INTEGER PRIMARY KEY, what TEXT)", json!([])).await;
    let together = json!({ "table_name": "made", "shard_key": "id", "colocate_with": "accounts" });
    post(&mut session, "/table/register", together).await;
    let ids: Vec<i64> = (0..ACCOUNTS).collect();
    for chunk in ids.chunks(100) {
        let rows: Vec<String> = chunk.iter().map(|id| format!("({id}, {HELD}, 0, 'note {id}')")).collect();
        let sql = format!("INSERT INTO accounts VALUES {}", rows.join(", "));
        post(&mut session, "/execute?allow_partial=true", json!({ "query": sql })).await;
    }
}

/// Inserts rows whose keys the cluster makes up, each under a key of its own; their ids.
async fn make(session: &mut Session, what: &str) -> Vec<i64> {
    let mut ids = vec![];
    for n in 0..40 {
        let insert = json!({ "query": "INSERT INTO made (what) VALUES (?)", "args": [what] });
        let result = session.attempt("/execute", &insert, Some(&format!("made {n}"))).await.expect("a row");
        ids.push(result["results"][0]["last_insert_id"].as_i64().expect("an id"));
    }
    ids
}

async fn add_shards(session: &mut Session) {
    for shard in ["shard3", "shard4"] {
        post(session, "/table/add-to-shard", json!({ "table_name": "accounts", "shard_id": shard })).await;
    }
}

async fn job(cluster: &Cluster, id: &str) -> Json {
    cluster.session().insist_get(&format!("/job/{id}")).await
}

async fn done(cluster: &Cluster, id: &str) -> Json {
    eventually(&format!("job {id} is done"), Duration::from_secs(120), async || {
        let job = job(cluster, id).await;
        assert!(!matches!(job["state"].as_str(), Some("failed" | "cancelled")), "{job}");
        if job["state"] == "done" { Ok(job) } else { Err(job.to_string()) }
    })
    .await
}

async fn shares(cluster: &Cluster) -> Vec<u64> {
    let table = cluster.session().insist_get("/table/accounts").await;
    let table = if table["shards"].is_null() { table["table"].clone() } else { table };
    table["shards"].as_array().unwrap().iter().map(|shard| shard["slots"].as_u64().unwrap()).collect()
}

fn longest(latencies: &[(Instant, Duration)], from: Instant, to: Instant) -> (Duration, Duration) {
    let mut during: Vec<Duration> =
        latencies.iter().filter(|(start, _)| (from..to).contains(start)).map(|(_, took)| *took).collect();
    during.sort();
    let at = |share: usize| during.get(during.len() * share / 100).copied().unwrap_or_default();
    (at(99), during.last().copied().unwrap_or_default())
}

/// From two shards to four under load: no request fails, no row is lost or doubled, every total is
/// exact; what is even stays as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_become_four() {
    let cluster = Cluster::start(Layout { shards: 4, proxies: 2, ..Layout::default() }).await;
    fill(&cluster).await;
    let mut session = cluster.session();
    let even = post(&mut session, "/table/rebalance", json!({ "table_name": "accounts" })).await;
    assert_eq!((&even["state"], &even["already_even"]), (&json!("done"), &json!(true)), "{even}");
    add_shards(&mut session).await;
    let plan = post(&mut session, "/table/rebalance", json!({ "table_name": "accounts", "dry_run": true })).await;
    assert_eq!(plan["slots"], 8192, "{plan}");

    let made = make(&mut session, "first").await;
    let load = Load::start(&cluster);
    load.progress(200, 5).await;
    let start = Instant::now();
    let started = post(&mut session, "/table/rebalance", json!({ "table_name": "events" })).await;
    let ended = done(&cluster, started["job"].as_str().unwrap()).await;
    let end = Instant::now();
    load.progress(200, 5).await;
    assert_eq!(shares(&cluster).await, [4096; 4]);
    let failed = load.shared.failed.load(Ordering::Relaxed);
    let totals = load.shared.totals.load(Ordering::Relaxed);
    let latencies = load.finish(&cluster).await;
    let before = longest(&latencies, start - Duration::from_secs(60), start);
    let during = longest(&latencies, start, end);
    println!("rebalanced in {:.1?}: {ended}", end - start);
    println!("writes, p99 and longest: {before:.0?} before, {during:.0?} during; {totals} totals read");
    assert_eq!(failed, 0, "no request failed");
    assert!(ended["rows_moved"].as_u64().unwrap() > 800, "{ended}");
    let again = post(&mut session, "/table/rebalance", json!({ "table_name": "accounts" })).await;
    assert_eq!(again["already_even"], true, "{again}");
    assert_eq!(make(&mut session, "first").await, made, "what was applied before the move is not applied again");
    assert_eq!(session.rows("SELECT count(*) FROM made", json!([])).await, [[json!(made.len())]]);
}

/// The leader of a source shard is killed in the middle, and the node with the driver of the job after
/// it: clients repeat what was cut off, and nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_die_in_the_middle() {
    let mut cluster = Cluster::start(Layout { shards: 4, proxies: 2, ..Layout::default() }).await;
    fill(&cluster).await;
    let mut session = cluster.session();
    add_shards(&mut session).await;
    let load = Load::start(&cluster);
    load.progress(100, 2).await;
    let started = post(&mut session, "/table/rebalance", json!({ "table_name": "accounts" })).await;
    let id = started["job"].as_str().unwrap().to_owned();
    for (group, moves) in [("shard1", 1), ("meta", 3)] {
        eventually("some moves are done", PATIENCE, async || {
            let job = job(&cluster, &id).await;
            if job["moves"].as_u64().unwrap() >= moves { Ok(()) } else { Err(job.to_string()) }
        })
        .await;
        let leader = cluster.leader(group).await;
        cluster.nodes[leader].process.kill();
        load.progress(20, 1).await;
        cluster.nodes[leader].process.start();
        cluster.ready().await;
    }
    let ended = done(&cluster, &id).await;
    println!("rebalanced: {ended}; {} requests repeated", load.shared.failed.load(Ordering::Relaxed));
    load.progress(100, 2).await;
    assert_eq!(shares(&cluster).await, [4096; 4]);
    load.finish(&cluster).await;
}

/// A job halts on request, leaves nothing frozen, goes on, and ends on request with what it has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_resume_cancel() {
    let cluster = Cluster::start(Layout { nodes: 1, shards: 4, ..Layout::default() }).await;
    fill(&cluster).await;
    let mut session = cluster.session();
    add_shards(&mut session).await;
    let load = Load::start(&cluster);
    let started = post(&mut session, "/table/rebalance", json!({ "table_name": "accounts" })).await;
    let id = started["job"].as_str().unwrap().to_owned();
    let same = post(&mut session, "/table/rebalance", json!({ "table_name": "accounts" })).await;
    assert_eq!(same["job"], started["job"], "the one that is under way");
    let is = async |wanted: &str| {
        eventually(&format!("the job is {wanted}"), PATIENCE, async || {
            let job = job(&cluster, &id).await;
            if job["state"] == wanted { Ok(()) } else { Err(job.to_string()) }
        })
        .await;
    };
    post(&mut session, &format!("/job/{id}/pause"), json!({})).await;
    is("paused").await;
    let moved = job(&cluster, &id).await["slots_moved"].clone();
    load.progress(50, 2).await;
    session.execute("ALTER TABLE accounts ADD COLUMN later DEFAULT 5", json!([])).await;
    assert_eq!(job(&cluster, &id).await["slots_moved"], moved);
    post(&mut session, &format!("/job/{id}/resume"), json!({})).await;
    eventually("more slots have moved", PATIENCE, async || {
        let job = job(&cluster, &id).await;
        if job["slots_moved"].as_u64() > moved.as_u64() { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
    post(&mut session, &format!("/job/{id}/cancel"), json!({})).await;
    is("cancelled").await;
    load.progress(50, 2).await;
    load.finish(&cluster).await;
    let shares = shares(&cluster).await;
    assert_eq!(shares.iter().sum::<u64>(), 16_384, "{shares:?}");
    let rows = session.rows("SELECT count(*), sum(later) FROM accounts", json!([])).await;
    assert_eq!(rows, [[json!(ACCOUNTS), json!(5 * ACCOUNTS)]]);
}
