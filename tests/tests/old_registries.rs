//! A proxy that is cut off from `meta`, but not from the shards, while slots move and the schema changes:
//! whatever it answers is right; what it cannot know it refuses, so that a client may repeat it elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_shared::error::{Class, Code};
use flotilla_tests::harness::accounts::{Accounts, Load, Mix};
use flotilla_tests::harness::session::rows_of;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Client, Cluster, Layout, Session, Trouble, eventually};
use serde_json::{Value as Json, json};

/// Clients of the proxy that is cut off.
const CLIENTS: i64 = 4;

/// Rows of each of them.
const ROWS: i64 = 50;

/// How long the proxy is cut off at least; `FLOTILLA_CUT_SECONDS` asks for more.
const CUT: Duration = Duration::from_secs(8);

/// How long one try at that proxy may take: long enough for what it can do, short where it has to give up.
const TIMEOUT: &str = "timeout=700ms";

const MIX: Mix = Mix { writers: 2, readers: 2, counters: 1, mixed: 0 };

/// What a client asks of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Point,
    Replica,
    Total,
    Gather,
    Stream,
    Write,
    Transaction,
}

const KINDS: [Kind; 7] =
    [Kind::Point, Kind::Replica, Kind::Total, Kind::Gather, Kind::Stream, Kind::Write, Kind::Transaction];

/// By kind: requests that were answered, and those that were refused.
#[derive(Default)]
struct Tally([[AtomicU64; 2]; KINDS.len()]);

impl Tally {
    fn note(&self, kind: Kind, answered: bool) {
        self.0[kind as usize][usize::from(!answered)].fetch_add(1, Ordering::SeqCst);
    }

    fn now(&self) -> BTreeMap<Kind, [u64; 2]> {
        KINDS.map(|kind| (kind, [0, 1].map(|at| self.0[kind as usize][at].load(Ordering::SeqCst)))).into()
    }

    /// Waits until each kind was tried some more times, and was answered if it must be.
    async fn grows(&self, times: u64, answered: bool) {
        let before = self.now();
        eventually("clients go on", PATIENCE, async || {
            let now = self.now();
            let more = |kind, at: usize| now[kind][at] - before[kind][at];
            let enough = |kind| more(kind, 0) + if answered { 0 } else { more(kind, 1) } >= times;
            if KINDS.iter().all(enough) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }
}

/// A client with rows that nobody else changes, so it knows what each of them must be. It changes them
/// through other proxies, and through the old one, and reads them through the old one.
struct Owner {
    number: i64,
    old: Client,
    others: Session,
    /// What each row's `n` is.
    rows: BTreeMap<i64, i64>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

/// The rows, or nothing when the request may be repeated.
fn judge(reply: Result<flotilla_tests::harness::Reply, String>, what: &str) -> Option<Json> {
    let reply = reply.unwrap_or_else(|why| panic!("{what}: {why}"));
    let body = reply.json();
    let error = match body["results"].as_array().and_then(|results| results.iter().find(|r| !r["error"].is_null())) {
        Some(result) => &result["error"],
        None if reply.status.is_success() => return Some(body),
        None => &body["error"],
    };
    let code = Code::ALL.iter().find(|code| error["code"] == code.as_str());
    let class = code.map(|code| code.class());
    assert!(matches!(class, Some(Class::Retry | Class::Unknown)), "{what}: {reply}");
    None
}

impl Owner {
    fn new(number: i64, old: &str, others: Session, tally: &Arc<Tally>, stop: &Arc<AtomicBool>) -> Self {
        let rows = (0..ROWS).map(|n| (n * CLIENTS + number, 0)).collect();
        let (tally, stop) = (Arc::clone(tally), Arc::clone(stop));
        Self { number, old: Client::new(old), others, rows, tally, stop }
    }

    async fn run(mut self) {
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let id = n * 13 % ROWS * CLIENTS + self.number;
            let key = format!("{n} of {}", self.number);
            self.others.insist("/execute", &update(id), Some(&format!("before {key}"))).await;
            self.changed(id);
            for kind in KINDS {
                let answered = match kind {
                    Kind::Point | Kind::Replica | Kind::Total | Kind::Gather => self.read(kind, id).await,
                    Kind::Stream => self.stream().await,
                    Kind::Write => self.write(id, &format!("write {key}"), "/execute", update(id)).await,
                    Kind::Transaction => {
                        let log = json!({ "query": "INSERT INTO own_log VALUES (?, ?)", "args": [id, n] });
                        let both = json!({ "statements": [update(id), log], "transaction": true });
                        self.write(id, &format!("transaction {key}"), "/execute", both).await
                    }
                };
                self.tally.note(kind, answered);
            }
        }
    }

    fn changed(&mut self, id: i64) {
        *self.rows.get_mut(&id).expect("a row of this client") += 1;
    }

    async fn read(&mut self, kind: Kind, id: i64) -> bool {
        let (sum, most) = (self.rows.values().sum::<i64>(), self.rows.values().max());
        let (sql, level, wanted) = match kind {
            Kind::Point => ("SELECT n, who FROM own WHERE id = ?1", "", json!([[self.rows[&id], self.number]])),
            // Some older moment.
            Kind::Replica => ("SELECT n FROM own WHERE id = ?1", "&level=none", Json::Null),
            Kind::Total => ("SELECT count(*), sum(n) FROM own WHERE who = ?2", "", json!([[ROWS, sum]])),
            _ => {
                let sql = "SELECT count(*), max(a.n) FROM own a, (SELECT max(n) AS n FROM own WHERE who = ?2) b
                           WHERE who = ?2 AND a.n <= b.n";
                (sql, "", json!([[ROWS, most]]))
            }
        };
        let both = json!([if sql.contains("?1") { json!(id) } else { Json::Null }, self.number]);
        let args = if sql.contains("?2") { both } else { json!([id]) };
        let body = json!({ "query": sql, "args": args });
        let reply = self.old.post(&format!("/query?{TIMEOUT}{level}"), &body).await;
        let Some(body) = judge(reply, sql) else { return false };
        let values = &body["results"][0]["values"];
        match wanted {
            Json::Null => assert!((0..=self.rows[&id]).contains(&values[0][0].as_i64().expect("n")), "{sql}: {body}"),
            wanted => assert_eq!(*values, wanted, "{sql} of client {}, row {id}", self.number),
        }
        true
    }

    async fn stream(&mut self) -> bool {
        let body = json!({ "query": "SELECT id, n FROM own WHERE who = ?", "args": [self.number] });
        let headers = [("accept", "application/x-ndjson")];
        let reply = self.old.send("POST", &format!("/query?{TIMEOUT}"), &headers, body.to_string()).await;
        let reply = reply.expect("an answer");
        if !reply.status.is_success() {
            return judge(Ok(reply), "stream").is_some();
        }
        let text = String::from_utf8(reply.body.to_vec()).expect("text");
        let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
        let (last, rows) = lines[1..].split_last().expect("a last line");
        assert_eq!(*last, json!({ "rows": ROWS }), "a stream of client {}", self.number);
        let number = |value: &Json| value.as_i64().expect("a number");
        let found: BTreeMap<i64, i64> = rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect();
        assert_eq!(found, self.rows, "a stream of client {}", self.number);
        true
    }

    /// A write at the old proxy; if that does not do it, again at another one, under the same key.
    async fn write(&mut self, id: i64, key: &str, path: &str, body: Json) -> bool {
        let headers = [("idempotency-key", key)];
        let reply = self.old.send("POST", &format!("{path}?{TIMEOUT}"), &headers, body.to_string()).await;
        let result = judge(reply, key);
        let answered = result.is_some();
        let result = match result {
            Some(result) => result,
            None => self.others.insist(path, &body, Some(key)).await,
        };
        assert_eq!(result["results"][0]["rows_affected"], 1, "{key}: {result}");
        self.changed(id);
        answered
    }
}

fn update(id: i64) -> Json {
    json!({ "query": "UPDATE own SET n = n + 1 WHERE id = ?", "args": [id] })
}

async fn fill(session: &mut Session, accounts: &Accounts) {
    accounts.make(session, json!({ "shards": ["shard1", "shard2"] })).await;
    session.create("CREATE TABLE own (id INTEGER PRIMARY KEY, who INT, n INT)", "own", "id", Some("accounts")).await;
    let log = "CREATE TABLE own_log (id INTEGER NOT NULL, n INT NOT NULL, PRIMARY KEY (id, n))";
    session.create(log, "own_log", "id", Some("accounts")).await;
    let again = "CREATE TABLE again (a INTEGER NOT NULL, b INTEGER)";
    session.create(again, "again", "a", None).await;
    session.execute("CREATE TABLE whole (a INTEGER, b INTEGER)", json!([])).await;
    for id in 0..ROWS * CLIENTS {
        session.execute("INSERT INTO own VALUES (?, ?, 0)", json!([id, id % CLIENTS])).await;
    }
}

/// The proxy with the old registry answers with a retryable error, or as the others do.
async fn as_others(old: &str, others: &mut Session, path: &str, body: Json) -> bool {
    let Some(answer) = judge(Client::new(old).post(&format!("{path}?{TIMEOUT}"), &body).await, &body.to_string())
    else {
        return false;
    };
    let wanted = others.insist(path, &body, None).await;
    assert_eq!(answer["results"], wanted["results"], "{body}");
    true
}

/// Schema changes through another proxy; the old one then answers as before them in no way.
async fn change_schema(old: &str, others: &mut Session, round: u64) {
    let fresh = format!("fresh{round}");
    for sql in [
        format!("ALTER TABLE own ADD COLUMN more{round} INTEGER DEFAULT {round}"),
        "DROP TABLE again".to_owned(),
        // The columns have changed places.
        "CREATE TABLE again (b INTEGER NOT NULL, a INTEGER)".to_owned(),
    ] {
        others.execute(&sql, json!([])).await;
    }
    others.post("/table/register", json!({ "table_name": "again", "shard_key": "b" })).await;
    others.create(&format!("CREATE TABLE {fresh} (k INTEGER PRIMARY KEY, v)"), &fresh, "k", None).await;
    others.execute(&format!("INSERT INTO {fresh} VALUES (1, 'one')"), json!([])).await;
    for sql in [
        "SELECT * FROM own WHERE id = 3".to_owned(),
        "SELECT * FROM own ORDER BY id LIMIT 3".to_owned(),
        "SELECT * FROM again WHERE a = 1".to_owned(),
        "SELECT * FROM again".to_owned(),
        "SELECT * FROM whole".to_owned(),
        format!("SELECT more{round} FROM own WHERE id = 5"),
        format!("SELECT sum(more{round}) FROM own"),
        format!("SELECT * FROM {fresh}"),
    ] {
        as_others(old, others, "/query", json!({ "query": sql })).await;
    }
    // By the old map `a` is the key, by the new one `b`.
    for (sql, key) in [("INSERT INTO again VALUES (1, 2)", "again"), ("INSERT INTO again (b) VALUES (7)", "key")] {
        let (body, key) = (json!({ "query": sql }), format!("{key} {round}"));
        let headers = [("idempotency-key", key.as_str())];
        let reply = Client::new(old).send("POST", &format!("/execute?{TIMEOUT}"), &headers, body.to_string()).await;
        if judge(reply, sql).is_none() {
            others.insist("/execute", &body, Some(&key)).await;
        }
    }
    let rows = others.rows("SELECT b, a FROM again ORDER BY b", json!([])).await;
    assert_eq!(rows, [[json!(1), json!(2)], [json!(7), Json::Null]]);
}

/// While 8,192 slots move and tables change, a proxy knows nothing of it: it never reads or writes
/// wrongly. Once it hears of everything it is like the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_from_meta() {
    let layout = Layout { nodes: 2, shards: 4, proxies: 3, meta_alone: true, relays: true, ..Layout::default() };
    let cluster = Cluster::start(layout).await;
    let accounts = Accounts { name: "accounts".into(), count: 400 };
    let (others, old) = cluster.proxies.split_at(2);
    let session = || Session::new(others.iter().map(|proxy| proxy.http.clone()));
    let mut admin = session();
    fill(&mut admin, &accounts).await;
    let old_http = old[0].http.clone();

    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let owners: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(Owner::new(n, &old_http, session(), &tally, &stop).run())).collect();
    let load = Load::start(others, &accounts, MIX);
    tally.grows(3, true).await;
    let refused: u64 = tally.now().values().map(|[_, refused]| refused).sum();
    assert_eq!(refused, 0, "nothing is refused while all is well: {:?}", tally.now());

    let cut = Instant::now();
    cluster.nodes[0].relay.as_ref().expect("a relay").cut_for(old[0].process.id());
    tally.grows(3, true).await;
    println!("cut off: {:?}", tally.now());
    for shard in ["shard3", "shard4"] {
        // The schema of their tables stays as it is for the shards that have them already.
        admin.post("/table/add-to-shard", json!({ "table_name": "accounts", "shard_id": shard })).await;
    }
    let started = admin.post("/table/rebalance", json!({ "table_name": "accounts" })).await;
    let job = format!("/job/{}", started["job"].as_str().expect("a job"));
    eventually("the job is done", PATIENCE, async || {
        let job = session().insist_get(&job).await;
        if job["state"] == "done" { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
    println!("slots have moved: {:?}", tally.now());
    let limit = std::env::var("FLOTILLA_CUT_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let limit = limit.map_or(CUT, Duration::from_secs);
    for round in 0.. {
        change_schema(&old_http, &mut admin, round).await;
        tally.grows(2, false).await;
        if cut.elapsed() > limit {
            break;
        }
    }
    println!("tables have changed: {:?}", tally.now());
    let refused = tally.now();
    assert!(KINDS.iter().all(|kind| refused[kind][1] > 0), "the proxy was not cut off: {refused:?}");

    cluster.nodes[0].relay.as_ref().expect("a relay").heal();
    tally.grows(3, true).await;
    stop.store(true, Ordering::Relaxed);
    for owner in owners {
        owner.await.expect("a client");
    }
    let report = load.finish(&mut admin).await;
    assert_eq!(report.failed, 0, "no other client noticed anything");
    let mut healed = Session::new([old_http]);
    let all = healed.rows("SELECT count(*), sum(n) FROM own", json!([])).await;
    assert_eq!(all, admin.rows("SELECT count(*), sum(n) FROM own", json!([])).await);
    match healed.attempt("/query", &json!({ "query": "SELECT k, v FROM fresh0" }), None).await {
        Ok(body) => assert_eq!(rows_of(&body["results"][0]), [[json!(1), json!("one")]]),
        Err(Trouble::Again(why) | Trouble::Refused(why)) => panic!("{why}"),
    }
}
