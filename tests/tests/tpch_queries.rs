//! The 22 queries of TPC-H give on three shards what one SQLite database gives: `orders` and `lineitem`
//! lie beside each other by order key, `customer` by its own, the other tables are not sharded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use flotilla_tests::differential::Outcome;
use flotilla_tests::differential::{Case, Kind, Local, Order, Remote, Rule, Verdict, compare};
use flotilla_tests::harness::binary::repository;
use flotilla_tests::harness::load::{fill, inserts};
use flotilla_tests::harness::tpch::{TableData, tables};
use flotilla_tests::harness::{Dev, Session};
use serde_json::{Value as Json, json};

/// About 87,000 rows in eight tables.
const SCALE: f64 = 0.01;

/// Clients that load at the same time.
const CLIENTS: usize = 4;

/// Statements of one request of a table whose rows go one by one.
const BATCH: usize = 500;

/// Queries that are refused; none should be.
const REFUSED: &[&str] = &[];

/// Queries without rows at this scale: nothing that they do is compared.
const WITHOUT_ROWS: &[&str] = &[];

async fn load(address: &str, data: &[TableData]) {
    let mut session = Session::new([address.to_owned()]);
    for table in data {
        session.create(table.create, table.name, table.shard_key, table.colocate_with).await;
    }
    let mut requests: VecDeque<Json> = VecDeque::new();
    for table in data {
        // Requests of many rows are kept small.
        let size = if table.shard_key.is_empty() { BATCH / 20 } else { BATCH };
        requests.extend(inserts(table).chunks(size).map(|batch| json!({ "statements": batch })));
    }
    let queue = Arc::new(Mutex::new(requests.into_iter().enumerate()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (queue, mut session) = (Arc::clone(&queue), Session::new([address.to_owned()]));
            tokio::spawn(async move {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((number, request)) = next else { break };
                    session.insist("/execute", &request, Some(&format!("request {number}"))).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

fn queries() -> Vec<(String, String)> {
    let folder = repository().join("deploy/src/commands/bench/tpch/queries");
    let mut queries: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    queries.sort();
    queries
}

/// Every query of TPC-H at scale 0.01 gives the rows that one SQLite database gives, in its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_give_what_sqlite_gives() {
    let data = tables(SCALE);
    let dev = Dev::start(1, 3).await;
    let start = Instant::now();
    load(&dev.address, &data).await;
    let mut local = Local::new();
    fill(local.connection(), &data);
    println!("loaded in {:.1?}", start.elapsed());
    let mut remote = Remote::at(&dev.address, 3);
    let queries = queries();
    assert_eq!(queries.len(), 22);
    let (mut wrong, mut refused, mut empty) = (vec![], vec![], vec![]);
    for (name, sql) in queries {
        let order = if sql.contains("ORDER BY") { Order::Fixed } else { Order::Open };
        let rule = Rule { order, close: true, ..Rule::default() };
        let case = Case { rule, ..Case::plain(Kind::Join, sql) };
        let start = Instant::now();
        let wanted = local.run(&case.statement());
        let alone = start.elapsed();
        let start = Instant::now();
        let found = remote.run(&[case.statement()]).await.remove(0);
        let Outcome::Rows(rows) = &wanted else { panic!("{name}: {wanted:?}") };
        println!("{name}: {} rows, {alone:.1?} alone, {:.1?} on three shards", rows.values.len(), start.elapsed());
        if rows.values.is_empty() {
            empty.push(name.clone());
        }
        match compare(&wanted, &found, &case.rule, None) {
            Verdict::Same => (),
            Verdict::Refused(_) => refused.push(name),
            Verdict::Different(what) => wrong.push(format!("{name}: {what}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(refused, REFUSED);
    assert_eq!(empty, WITHOUT_ROWS);
}
