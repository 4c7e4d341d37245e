//! A slot that is too large to be moved in one go, and a byte that is flipped on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flotilla_tests::harness::session::Session;
use flotilla_tests::harness::{Cluster, Layout, eventually};
use serde_json::{Value as Json, json};

/// Clients that write while the slot moves.
const WRITERS: u64 = 4;

async fn post(session: &mut Session, path: &str, body: Json) -> Json {
    session.attempt(path, &body, None).await.unwrap_or_else(|why| panic!("{path} {body}: {why:?}"))
}

/// A table of two ranges on shard 1, of which the upper one has rows: ids from 1000 on.
async fn two_ranges(session: &mut Session, rows: u64, note: &str) {
    session.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, n INTEGER, note TEXT)", json!([])).await;
    let range = json!({ "table_name": "things", "shard_key": "id", "shard_func": "range", "split_points": [1000], "shards": ["shard1"] });
    post(session, "/table/register", range).await;
    let ids: Vec<u64> = (1000..1000 + rows).collect();
    for chunk in ids.chunks(1000) {
        let (first, last) = (chunk[0], chunk[chunk.len() - 1]);
        let rows: Vec<String> = (first..=last).map(|id| format!("({id}, 0, '{note} {id}')")).collect();
        session.execute(&format!("INSERT INTO things VALUES {}", rows.join(", ")), json!([])).await;
    }
    post(session, "/table/add-to-shard", json!({ "table_name": "things", "shard_id": "shard2" })).await;
}

/// The job, once it has ended.
async fn ended(session: &mut Session, id: &str) -> Json {
    let session = tokio::sync::Mutex::new(session);
    eventually(&format!("job {id} has ended"), Duration::from_secs(300), async || {
        let job = session.lock().await.insist_get(&format!("/job/{id}")).await;
        if job["state"] == "running" { Err(job.to_string()) } else { Ok(job) }
    })
    .await
}

async fn rebalance(session: &mut Session) -> Json {
    let started = post(session, "/table/rebalance", json!({ "table_name": "things" })).await;
    ended(session, started["job"].as_str().expect("a job")).await
}

/// Slots of the shards that have any.
async fn slots(session: &mut Session) -> Vec<u64> {
    let table = session.insist_get("/table/things").await;
    let table = if table["shards"].is_null() { table["table"].clone() } else { table };
    table["shards"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|shard| shard["slots"].as_u64())
        .filter(|slots| *slots > 0)
        .collect()
}

/// What one client did: rows that it counted up, inserted and deleted, and its longest wait.
struct Done {
    counted: u64,
    inserted: u64,
    deleted: u64,
    longest: Duration,
}

/// Counts rows up, inserts and deletes some, until it is told to stop; no request fails.
async fn write(mut session: Session, number: u64, rows: u64, stop: Arc<AtomicBool>) -> Done {
    let mut done = Done { counted: 0, inserted: 0, deleted: 0, longest: Duration::ZERO };
    for n in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        let old = 1000 + (n * 7919 + number * 104_729) % rows;
        let new = 10_000_000 + number * 1_000_000 + n;
        let (sql, args) = match n % 8 {
            6 => ("INSERT INTO things VALUES (?, 0, 'new')", json!([new])),
            // The row of the write before.
            7 if n % 16 == 7 => ("DELETE FROM things WHERE id = ?", json!([new - 1])),
            _ => ("UPDATE things SET n = n + 1 WHERE id = ?", json!([old])),
        };
        let body = json!({ "query": sql, "args": args });
        let key = format!("{number} {n}");
        let result =
            session.attempt("/execute", &body, Some(&key)).await.unwrap_or_else(|why| panic!("{body}: {why:?}"));
        assert_eq!(result["results"][0]["rows_affected"], 1, "{body}: {result}");
        match sql.as_bytes()[0] {
            b'I' => done.inserted += 1,
            b'D' => done.deleted += 1,
            _ => done.counted += 1,
        }
        done.longest = done.longest.max(start.elapsed());
    }
    done
}

/// One slot with many rows moves while clients change them: no request fails, no change is lost or made
/// twice, reads of everything are exact. FLOTILLA_ROWS asks for more rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_slot_moves() {
    let rows = std::env::var("FLOTILLA_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000_u64);
    let cluster = Cluster::start(Layout { shards: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    two_ranges(&mut session, rows, &"a note that makes the row as long as rows are".repeat(2)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..WRITERS).map(|number| tokio::spawn(write(cluster.session(), number, rows, Arc::clone(&stop)))).collect();
    let start = Instant::now();
    let job = rebalance(&mut session).await;
    let took = start.elapsed();
    assert_eq!((&job["state"], &job["moves"]), (&json!("done"), &json!(1)), "{job}");
    assert!(job["rows_moved"].as_u64().unwrap() >= rows, "{job}");
    assert_eq!(slots(&mut session).await, [1, 1]);
    stop.store(true, Ordering::Relaxed);
    let (mut counted, mut left, mut longest) = (0, rows, Duration::ZERO);
    for writer in writers {
        let done = writer.await.expect("a writer");
        counted += done.counted;
        left = left + done.inserted - done.deleted;
        longest = longest.max(done.longest);
    }
    println!("{rows} rows moved in {took:.1?}, {counted} changes meanwhile, longest wait {longest:.0?}: {job}");
    assert!(counted > 0);
    let totals = session.rows("SELECT count(*), sum(n), count(DISTINCT id) FROM things", json!([])).await;
    assert_eq!(totals, [[json!(left), json!(counted), json!(left)]]);
}

/// A byte of a row that is flipped between two nodes stops the job: the source stays the owner, its rows
/// are as they were, and the job does its work once the link is sound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_stops_the_job() {
    let cluster = Cluster::start(Layout { shards: 2, relays: true, ..Layout::default() }).await;
    let mut session = cluster.session();
    two_ranges(&mut session, 300, "the marked row").await;
    let relays = || cluster.nodes.iter().filter_map(|node| node.relay.as_ref());
    for relay in relays() {
        relay.flip_next_answer(b"the marked row");
    }
    let job = rebalance(&mut session).await;
    assert!(relays().map(|relay| relay.flip_no_more()).sum::<u32>() > 0, "a byte was flipped");
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("failed"), &json!("move_mismatch")), "{job}");
    assert_eq!(slots(&mut session).await, [2], "all where it was");
    let sql = "SELECT count(*), count(DISTINCT note) FROM things WHERE note = 'the marked row ' || id";
    assert_eq!(session.rows(sql, json!([])).await, [[json!(300), json!(300)]]);
    session.execute("UPDATE things SET n = n + 1 WHERE id = 1000", json!([])).await;
    let job = rebalance(&mut session).await;
    assert_eq!((&job["state"], &job["rows_moved"]), (&json!("done"), &json!(300)), "{job}");
    assert_eq!(session.rows(sql, json!([])).await, [[json!(300), json!(300)]]);
}
