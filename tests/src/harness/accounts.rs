//! Accounts under load while their rows move: clients that change them, read them and add them all up,
//! and know at any moment what they must see.
//!
//! `accounts` has a row for each account, there all the time, with a count of its changes; `events`, which
//! lies together with it, gets a row for each change. Both carry the name that the test gives them, so
//! that one cluster may see many of them. Every change has an `Idempotency-Key`, so it counts once, however
//! often it was sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use super::cluster::ProxyProcess;
use super::session::{Session, Trouble};
use super::wait::{PATIENCE, eventually};

/// What each account holds.
pub const HELD: i64 = 100;

/// Rows of one INSERT when tables are filled.
const ROWS_PER_INSERT: i64 = 100;

/// Pause before a request without result is repeated.
const PAUSE: Duration = Duration::from_millis(20);

/// Two tables.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Name of the table of accounts; that of events ends with `_events`.
    pub name: String,
    /// How many accounts, numbered from 0.
    pub count: i64,
}

/// How many clients do what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix {
    /// Only change accounts.
    pub writers: u64,
    /// Only read some accounts.
    pub readers: u64,
    /// Only read all accounts.
    pub counters: u64,
    /// Four reads for each write.
    pub mixed: u64,
}

/// When a request was first sent, and how long it took to its result.
pub type Latency = (Instant, Duration);

/// What a load did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Latencies of writes.
    pub writes: Vec<Latency>,
    /// Latencies of reads.
    pub reads: Vec<Latency>,
    /// Requests that had no result at once.
    pub failed: u64,
    /// Totals that were read; each was exact.
    pub totals: u64,
}

/// What all clients share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Changes that were asked for, and those that were acknowledged.
    asked: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    totals: AtomicU64,
}

/// A client's own account of what it did.
#[derive(Default)]
struct Done {
    /// Changes by account.
    changes: BTreeMap<i64, u64>,
    writes: Vec<Latency>,
    reads: Vec<Latency>,
}

impl Accounts {
    /// Makes both tables, registers them with what `registration` adds to name and key, and fills in
    /// the accounts.
    ///
    /// # Panics
    /// When that fails.
    pub async fn make(&self, session: &mut Session, registration: Json) {
        let (name, events) = (&self.name, self.events());
        let sql = format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY, held INTEGER, n INTEGER, note TEXT)");
        session.execute(&sql, json!([])).await;
        let mut body = json!({ "table_name": name, "shard_key": "id" });
        body.as_object_mut().expect("an object").extend(registration.as_object().cloned().unwrap_or_default());
        session.post("/table/register", body).await;
        let sql = format!(
            "CREATE TABLE {events} (account INTEGER NOT NULL, client INTEGER, n INTEGER,
             PRIMARY KEY (account, client, n)) WITHOUT ROWID"
        );
        session.execute(&sql, json!([])).await;
        let together = json!({ "table_name": events, "shard_key": "account", "colocate_with": name });
        session.post("/table/register", together).await;
        let ids: Vec<i64> = (0..self.count).collect();
        for chunk in ids.chunks(ROWS_PER_INSERT as usize) {
            let rows: Vec<String> = chunk.iter().map(|id| format!("({id}, {HELD}, 0, 'note {id}')")).collect();
            let sql = format!("INSERT INTO {name} VALUES {}", rows.join(", "));
            session.post("/execute?allow_partial=true", json!({ "query": sql })).await;
        }
    }

    /// The table of events.
    pub fn events(&self) -> String {
        format!("{}_events", self.name)
    }
}

struct Client {
    session: Session,
    accounts: Accounts,
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
                    let latencies = if key.is_some() { &mut self.done.writes } else { &mut self.done.reads };
                    latencies.push((start, start.elapsed()));
                    return result;
                }
                Err(Trouble::Refused(why)) => panic!("client {}: {body}: {why}", self.number),
                Err(Trouble::Again(why)) => {
                    println!("client {}: {body}: {why}", self.number);
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    assert!(start.elapsed() < PATIENCE, "client {}: {why}", self.number);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    async fn change(&mut self, n: u64) {
        let Accounts { name, count } = &self.accounts;
        let account = ((n * 7919 + self.number * 104_729) % *count as u64) as i64;
        let update = json!({ "query": format!("UPDATE {name} SET n = n + 1 WHERE id = ?"), "args": [account] });
        let insert = json!({
            "query": format!("INSERT INTO {} (account, client, n) VALUES (?, ?, ?)", self.accounts.events()),
            "args": [account, self.number, n],
        });
        let key = format!("{name} {n} of client {}", self.number);
        self.shared.asked.fetch_add(1, Ordering::SeqCst);
        let result = self.insist("/execute", &update, Some(&format!("change of {key}"))).await;
        assert_eq!(result["results"][0]["rows_affected"], 1, "account {account}: {result}");
        self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
        self.insist("/execute", &insert, Some(&format!("event of {key}"))).await;
        *self.done.changes.entry(account).or_default() += 1;
    }

    async fn look(&mut self, n: u64) {
        let Accounts { name, count } = &self.accounts;
        let account = ((n * 6151 + self.number * 15_485_863) % *count as u64) as i64;
        let (sql, wanted) = match n % 3 {
            0 => (format!("SELECT held, id FROM {name} WHERE id = ?"), json!([[HELD, account]])),
            1 => {
                let there = (account..account + 3).filter(|id| id < count).count();
                (format!("SELECT count(*) FROM {name} WHERE id IN (?1, ?1 + 1, ?1 + 2, -1)"), json!([[there]]))
            }
            _ => {
                // What this client was told stays true.
                let own = self.done.changes.get(&account).copied().unwrap_or_default();
                let events = self.accounts.events();
                let sql = format!(
                    "SELECT count(*) FROM {name} JOIN {events} ON account = id WHERE id = ? AND client = {}",
                    self.number
                );
                (sql, json!([[own]]))
            }
        };
        let result = self.insist("/query", &json!({ "query": sql, "args": [account] }), None).await;
        assert_eq!(result["results"][0]["values"], wanted, "account {account}: {sql}");
    }

    async fn total(&mut self) {
        let Accounts { name, count } = &self.accounts;
        let sql = format!("SELECT count(*), sum(held), count(DISTINCT id), sum(n) FROM {name}");
        let wanted = [json!(count), json!(count * HELD), json!(count)];
        let before = self.shared.acknowledged.load(Ordering::SeqCst);
        let result = self.insist("/query", &json!({ "query": sql }), None).await;
        let after = self.shared.asked.load(Ordering::SeqCst);
        let row = result["results"][0]["values"][0].as_array().expect("a row");
        assert_eq!(row[..3], wanted, "each row is seen once");
        let changes = row[3].as_u64().expect("a count");
        assert!((before..=after).contains(&changes), "{changes} changes, not {before} to {after}");
        self.shared.totals.fetch_add(1, Ordering::Relaxed);
    }

    async fn work(mut self, task: Task) -> Done {
        for n in 0.. {
            if self.stopped() {
                break;
            }
            match task {
                Task::Write => self.change(n).await,
                Task::Read => self.look(n).await,
                Task::Count => self.total().await,
                Task::Mixed => {
                    // A change is two writes.
                    self.change(n).await;
                    for look in 0..8 {
                        self.look(n * 8 + look).await;
                    }
                }
            }
        }
        self.done
    }
}

#[derive(Clone, Copy)]
enum Task {
    Write,
    Read,
    Count,
    Mixed,
}

/// Clients at work.
pub struct Load {
    accounts: Accounts,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Done>>,
}

impl Load {
    /// Starts clients, evenly over these proxies.
    pub fn start(proxies: &[ProxyProcess], accounts: &Accounts, mix: Mix) -> Self {
        let shared = Arc::new(Shared::default());
        let tasks = [
            (mix.writers, Task::Write),
            (mix.readers, Task::Read),
            (mix.counters, Task::Count),
            (mix.mixed, Task::Mixed),
        ];
        let tasks = tasks.into_iter().flat_map(|(count, task)| (0..count).map(move |_| task));
        let clients = tasks.enumerate().map(|(number, task)| {
            let client = Client {
                session: Session::new(proxies.iter().map(|proxy| proxy.http.clone())).starting_at(number),
                accounts: accounts.clone(),
                shared: Arc::clone(&shared),
                number: number as u64,
                done: Done::default(),
            };
            tokio::spawn(client.work(task))
        });
        Self { clients: clients.collect(), accounts: accounts.clone(), shared }
    }

    /// Waits for this many more changes and totals.
    ///
    /// # Panics
    /// When they do not come within [`PATIENCE`], or a client saw what must not be.
    pub async fn progress(&self, changes: u64, totals: u64) {
        let (acknowledged, seen) = (&self.shared.acknowledged, &self.shared.totals);
        let wanted = (acknowledged.load(Ordering::SeqCst) + changes, seen.load(Ordering::SeqCst) + totals);
        eventually("clients go on", PATIENCE, async || {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client has ended");
            let now = (acknowledged.load(Ordering::SeqCst), seen.load(Ordering::SeqCst));
            if now.0 >= wanted.0 && now.1 >= wanted.1 { Ok(()) } else { Err(format!("{now:?} of {wanted:?}")) }
        })
        .await;
    }

    /// Requests so far that had no result at once.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Stops the clients; every change that was acknowledged is there once.
    ///
    /// # Panics
    /// When one is not, or a client saw what must not be.
    pub async fn finish(self, session: &mut Session) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        let (mut changes, mut report): (BTreeMap<i64, u64>, _) = (BTreeMap::new(), Report::default());
        for client in self.clients {
            let done = client.await.expect("a client");
            for (account, count) in done.changes {
                *changes.entry(account).or_default() += count;
            }
            report.writes.extend(done.writes);
            report.reads.extend(done.reads);
        }
        let (name, events) = (&self.accounts.name, self.accounts.events());
        for sql in [
            format!("SELECT id, n FROM {name} WHERE n > 0 ORDER BY id"),
            format!("SELECT account, count(*) FROM {events} GROUP BY account ORDER BY account"),
        ] {
            let rows = session.rows(&sql, json!([])).await;
            let count = |value: &Json| value.as_i64().expect("a number");
            let found = rows.iter().map(|row| (count(&row[0]), count(&row[1]) as u64)).collect();
            assert_eq!(changes, found, "{sql}: none lost, none twice");
        }
        let sql = format!("SELECT count(*) FROM {name} WHERE held = {HELD} AND note = 'note ' || id");
        assert_eq!(session.rows(&sql, json!([])).await, [[json!(self.accounts.count)]]);
        report.failed = self.shared.failed.load(Ordering::Relaxed);
        report.totals = self.shared.totals.load(Ordering::Relaxed);
        report
    }
}

/// The 99th percentile and the longest of what was sent from one moment to another.
pub fn longest(latencies: &[Latency], from: Instant, to: Instant) -> (Duration, Duration) {
    let mut during: Vec<Duration> =
        latencies.iter().filter(|(start, _)| (from..to).contains(start)).map(|(_, took)| *took).collect();
    during.sort();
    let at = |share: usize| during.get(during.len() * share / 100).copied().unwrap_or_default();
    (at(99), during.last().copied().unwrap_or_default())
}
