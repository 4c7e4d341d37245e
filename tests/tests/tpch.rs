//! TPC-H data goes in over HTTP and comes out, row by row, as a single SQLite file with the same rows
//! has it: once undisturbed, and once while the leader of a shard, the leader of `meta` and a proxy are
//! killed in the middle of the load.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use flotilla_shared::value::Value;
use flotilla_tests::harness::load::{fill, inserts};
use flotilla_tests::harness::session::rows_of;
use flotilla_tests::harness::tpch::{Row, TableData, tables};
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Cluster, Layout, Session, eventually};
use rusqlite::Connection;
use serde_json::{Value as Json, json};

/// About 87,000 rows in eight tables.
const SCALE: f64 = 0.01;

/// Clients that load and read at the same time.
const CLIENTS: usize = 8;

/// Statements of one request.
const BATCH: usize = 250;

/// Reads of one request.
const READS: usize = 250;

/// Keys of one IN list.
const KEYS_PER_LIST: usize = 50;

/// Arrivals: rows of a table without any constraint, one for every so many orders.
const ORDERS_PER_ARRIVAL: usize = 3;

/// The body of one request.
type Request = Json;

/// All requests of a load, those of different tables mixed.
fn requests(data: &[TableData]) -> VecDeque<Request> {
    let mut by_table: Vec<VecDeque<Request>> = vec![];
    for table in data {
        // Requests of many rows are kept small.
        let size = if table.shard_key.is_empty() { BATCH / 10 } else { BATCH };
        by_table.push(inserts(table).chunks(size).map(|batch| json!({ "statements": batch })).collect());
    }
    let orders = data.iter().find(|table| table.name == "orders").expect("orders").rows.len();
    let arrivals: Vec<Json> = (0..orders / ORDERS_PER_ARRIVAL)
        .map(|seq| json!(["INSERT INTO arrivals (seq, word) VALUES (?, ?)", seq, format!("arrival {seq}")]))
        .collect();
    by_table.push(arrivals.chunks(BATCH).map(|batch| json!({ "statements": batch })).collect());
    let mut mixed = VecDeque::new();
    while by_table.iter().any(|requests| !requests.is_empty()) {
        mixed.extend(by_table.iter_mut().filter_map(VecDeque::pop_front));
    }
    mixed
}

async fn create(session: &mut Session, data: &[TableData]) {
    for table in data {
        session.create(table.create, table.name, table.shard_key, table.colocate_with).await;
    }
    session.create("CREATE TABLE arrivals (seq INTEGER NOT NULL, word TEXT)", "arrivals", "seq", None).await;
}

/// Sends all requests, each under its own key, and counts those that are done.
struct Load {
    total: usize,
    done: Arc<AtomicUsize>,
    repeats: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster, requests: VecDeque<Request>) -> Self {
        let (total, done, repeats) = (requests.len(), Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let queue = Arc::new(Mutex::new(requests.into_iter().enumerate()));
        let tasks = (0..CLIENTS).map(|client| {
            let mut session = cluster.session().starting_at(client);
            let (queue, done, repeats) = (Arc::clone(&queue), Arc::clone(&done), Arc::clone(&repeats));
            tokio::spawn(async move {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((number, request)) = next else { break };
                    session.insist("/execute", &request, Some(&format!("request {number}"))).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                repeats.fetch_add(session.repeats(), Ordering::Relaxed);
            })
        });
        Self { total, tasks: tasks.collect(), done, repeats }
    }

    /// Waits until this part of all requests is done.
    async fn reaches(&self, percent: usize) {
        eventually(&format!("{percent} % of the load"), PATIENCE * 2, async || {
            match self.done.load(Ordering::Relaxed) {
                done if done * 100 >= self.total * percent => Ok(()),
                done => Err(format!("{done} of {} requests", self.total)),
            }
        })
        .await;
    }

    async fn end(self) -> u64 {
        for task in self.tasks {
            task.await.expect("a client");
        }
        self.repeats.load(Ordering::Relaxed)
    }
}

fn reference(data: &[TableData], cluster: &Cluster) -> Connection {
    let mut db = Connection::open(cluster.folder().join("reference.db")).unwrap();
    fill(&mut db, data);
    db
}

fn local_rows(db: &Connection, sql: &str, key: &[Value]) -> Vec<Row> {
    let mut query = db.prepare_cached(sql).unwrap();
    let width = query.column_count();
    let rows = query.query_map(rusqlite::params_from_iter(key), |row| {
        (0..width).map(|column| row.get_ref(column).map(Value::from)).collect()
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

fn remote_rows(result: &Json) -> Vec<Row> {
    rows_of(result).iter().map(|row| row.iter().map(|value| Value::from_json(value).unwrap()).collect()).collect()
}

/// How rows are read.
#[derive(Clone, Copy)]
enum By {
    /// One statement per key.
    Key,
    /// One statement for many keys, on as many shards as these are on.
    ListOfKeys,
}

impl By {
    /// Statements for these keys, and the order that makes their rows comparable.
    fn reads(self, table: &TableData, keys: &[Value]) -> Vec<(String, Vec<Value>)> {
        let (name, column) = (table.name, table.columns[table.key[0]]);
        match self {
            Self::Key => {
                keys.iter().map(|key| (format!("SELECT * FROM {name} WHERE {column} = ?"), vec![key.clone()])).collect()
            }
            Self::ListOfKeys => keys
                .chunks(KEYS_PER_LIST)
                .map(|keys| {
                    let places = vec!["?"; keys.len()].join(", ");
                    (format!("SELECT * FROM {name} WHERE {column} IN ({places})"), keys.to_vec())
                })
                .collect(),
        }
    }
}

/// Reads all rows of a table by the first column of its key, and all keys together, and compares with
/// the file.
async fn compare(cluster: &Cluster, db: &Connection, table: &TableData, by: By) {
    let mut keys: Vec<Value> = table.rows.iter().map(|row| row[table.key[0]].clone()).collect();
    keys.sort_by_key(integer);
    keys.dedup();
    let reads = by.reads(table, &keys);
    let (send, mut receive) = tokio::sync::mpsc::channel(CLIENTS);
    let chunks = Arc::new(Mutex::new(VecDeque::from_iter(reads.chunks(READS).map(<[_]>::to_vec))));
    for client in 0..CLIENTS {
        let mut session = cluster.session().starting_at(client);
        let (chunks, send) = (Arc::clone(&chunks), send.clone());
        tokio::spawn(async move {
            loop {
                let next = chunks.lock().unwrap().pop_front();
                let Some(reads) = next else { return };
                let args = |key: &[Value]| key.iter().map(Value::to_json).collect::<Vec<_>>();
                let statements: Vec<Json> =
                    reads.iter().map(|(sql, key)| json!({ "query": sql, "args": args(key) })).collect();
                let answer = session.insist("/query", &json!({ "statements": statements }), None).await;
                send.send((reads, answer)).await.unwrap();
            }
        });
    }
    drop(send);
    let sorted = |mut rows: Vec<Row>| {
        rows.sort_by_key(|row| table.key.iter().map(|column| integer(&row[*column])).collect::<Vec<_>>());
        rows
    };
    let mut compared = 0;
    while let Some((reads, answer)) = receive.recv().await {
        for ((sql, key), result) in reads.iter().zip(answer["results"].as_array().unwrap()) {
            let there = sorted(remote_rows(result));
            compared += there.len();
            assert_eq!(there, sorted(local_rows(db, sql, key)), "{}: {key:?}", table.name);
        }
    }
    assert_eq!(compared, table.rows.len(), "rows of {}", table.name);
    // A row that no key finds would be seen here, and so would one that is there twice.
    let names: Vec<&str> = table.key.iter().map(|column| table.columns[*column]).collect();
    let all = format!("SELECT {} FROM {}", names.join(", "), table.name);
    let all_keys = |mut rows: Vec<Row>| {
        rows.sort_by_key(|row| row.iter().map(integer).collect::<Vec<_>>());
        rows
    };
    let answer = cluster.session().insist("/query", &json!({ "query": all }), None).await;
    let there = all_keys(remote_rows(&answer["results"][0]));
    assert!(there == all_keys(local_rows(db, &all, &[])), "keys of {} differ", table.name);
}

/// Keys are integers.
fn integer(value: &Value) -> i64 {
    match value {
        Value::Integer(n) => *n,
        other => panic!("{other:?} is no key"),
    }
}

/// The same count from every shard, as `GET /table` tells it.
async fn compare_counts(cluster: &Cluster, data: &[TableData]) {
    let mut session = cluster.session();
    for table in data {
        let shown = session.client().get(&format!("/table/{}", table.name)).await.unwrap().expect("a table");
        let shards = shown["shards"].as_array().unwrap();
        let rows: BTreeMap<&str, u64> =
            shards.iter().map(|s| (s["id"].as_str().unwrap(), s["rows"].as_u64().unwrap())).collect();
        assert_eq!(rows.values().sum::<u64>(), table.rows.len() as u64, "{}: {rows:?}", table.name);
        let spread = if table.shard_key.is_empty() { 1 } else { 3 };
        assert_eq!(rows.values().filter(|rows| **rows > 0).count(), spread, "{}: {rows:?}", table.name);
    }
}

/// Each arrival is there once, though no constraint would have kept out a second.
async fn compare_arrivals(cluster: &Cluster, data: &[TableData]) {
    let orders = data.iter().find(|table| table.name == "orders").unwrap().rows.len();
    let rows = cluster.session().rows("SELECT seq, word FROM arrivals", json!([])).await;
    let mut seqs: Vec<u64> = rows.iter().map(|row| row[0].as_u64().unwrap()).collect();
    seqs.sort_unstable();
    let wanted: Vec<u64> = (0..(orders / ORDERS_PER_ARRIVAL) as u64).collect();
    assert!(seqs == wanted, "{} arrivals instead of {}, doubles or losses", seqs.len(), wanted.len());
    assert!(rows.iter().all(|row| row[1] == format!("arrival {}", row[0])));
}

async fn verify(cluster: &mut Cluster, data: &[TableData], by: By) {
    let start = Instant::now();
    let db = reference(data, cluster);
    compare_counts(cluster, data).await;
    compare_arrivals(cluster, data).await;
    for table in data {
        compare(cluster, &db, table, by).await;
    }
    cluster.contents().await;
    let rows: usize = data.iter().map(|table| table.rows.len()).sum();
    println!("{rows} rows read by key and compared in {:.1?}", start.elapsed());
}

/// All rows arrive, on three shards, without faults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_equals_one_sqlite_file() {
    let mut cluster = Cluster::start(Layout { proxies: 2, ..Layout::default() }).await;
    let data = tables(SCALE);
    create(&mut cluster.session(), &data).await;
    let start = Instant::now();
    let load = Load::start(&cluster, requests(&data));
    let total = load.total;
    let repeats = load.end().await;
    println!("{total} requests of up to {BATCH} statements in {:.1?}, {repeats} repeated", start.elapsed());
    verify(&mut cluster, &data, By::Key).await;
}

/// All rows arrive once though the leader of a shard, the leader of `meta` and then a proxy are killed
/// while they are sent, each started again somewhat later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_survives_killed_leaders_and_proxies() {
    let mut cluster = Cluster::start(Layout { proxies: 2, ..Layout::default() }).await;
    let data = tables(SCALE);
    create(&mut cluster.session(), &data).await;
    let start = Instant::now();
    let load = Load::start(&cluster, requests(&data));
    load.reaches(15).await;
    let leader = cluster.leader("shard2").await;
    cluster.nodes[leader].process.kill();
    load.reaches(30).await;
    cluster.nodes[leader].process.start();
    load.reaches(45).await;
    let leader = cluster.leader("meta").await;
    cluster.nodes[leader].process.kill();
    load.reaches(60).await;
    cluster.nodes[leader].process.start();
    load.reaches(70).await;
    cluster.proxies[0].process.kill();
    load.reaches(85).await;
    cluster.proxies[0].process.start();
    let repeats = load.end().await;
    println!("loaded in {:.1?} with three kills, {repeats} requests repeated", start.elapsed());
    cluster.ready().await;
    verify(&mut cluster, &data, By::ListOfKeys).await;
}
