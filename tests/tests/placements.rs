//! Tables of each placement through HTTP, and reference tables while the leader of `meta` dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use flotilla_tests::harness::cluster::process_ready;
use flotilla_tests::harness::session::rows_of;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Cluster, Layout, Session, Trouble, eventually};
use serde_json::{Value as Json, json};

/// Writers of reference tables at work.
const WRITERS: u64 = 4;

async fn register(session: &mut Session, body: Json) -> Json {
    let reply = session.attempt("/table/register", &body, None).await;
    reply.unwrap_or_else(|why| panic!("{body}: {why:?}"))["table"].clone()
}

/// What one shard answers, whatever the plan would be.
async fn on_shard(session: &mut Session, shard: &str, sql: &str) -> Vec<Vec<Json>> {
    let path = format!("/query?auto_route=false&shard={shard}");
    rows_of(&session.insist(&path, &json!({ "query": sql }), None).await["results"][0])
}

async fn counts(cluster: &Cluster, table: &str) -> Vec<u64> {
    let mut found = vec![];
    for shard in cluster.shard_names() {
        let rows = on_shard(&mut cluster.session(), &shard, &format!("SELECT count(*) FROM {table}")).await;
        found.push(rows[0][0].as_u64().unwrap());
    }
    found
}

async fn refused(session: &mut Session, path: &str, body: Json, code: &str) {
    match session.attempt(path, &body, None).await {
        Err(Trouble::Refused(why)) => assert!(why.contains(code), "{body}: {why}"),
        other => panic!("{body}: {other:?}"),
    }
}

/// One table of each kind, some with rows before they are registered: rows go where their placement
/// says, reads find them, joins with reference tables work on every shard, and what is unsafe is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_each_kind() {
    let cluster = Cluster::start(Layout::default()).await;
    let mut session = cluster.session();
    for sql in [
        "CREATE TABLE days (day TEXT NOT NULL, n INT NOT NULL, PRIMARY KEY (day, n))",
        "CREATE TABLE people (country TEXT NOT NULL COLLATE NOCASE, id INT NOT NULL, PRIMARY KEY (country, id))",
        "CREATE TABLE countries (code TEXT NOT NULL PRIMARY KEY, name TEXT)",
        "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT DEFAULT CURRENT_TIMESTAMP, x DEFAULT (random()), raw)",
        "CREATE TABLE old (id INTEGER PRIMARY KEY, v TEXT)",
        "INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France')",
        "INSERT INTO log (id, raw) VALUES (40, CAST(x'ff61' AS TEXT)), (50, x'00'), (60, 1.5)",
        "DELETE FROM log WHERE id = 60",
        "INSERT INTO old VALUES (5, 'five'), (15, 'fifteen')",
    ] {
        session.execute(sql, json!([])).await;
    }
    let range = json!({"table_name": "days", "shard_key": ["day", "n"], "shard_func": "range", "split_points": [["2025", 500], "2024"]});
    assert_eq!(register(&mut session, range).await["split_points"], json!(["2024", ["2025", 500]]));
    let list = json!({"table_name": "people", "shard_key": "country", "shard_func": "list",
        "values": {"shard1": ["de", "fr"], "shard2": ["us"]}, "default": "shard3"});
    register(&mut session, list).await;
    for table in ["countries", "log"] {
        let shown = register(&mut session, json!({"table_name": table, "shard_func": "reference"})).await;
        assert_eq!(shown["shards"].as_array().unwrap().len(), 3, "{shown}");
    }
    let old = json!({"table_name": "old", "shard_key": "id", "shard_func": "range", "split_points": [10]});
    register(&mut session, old).await;
    session
        .create(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, country TEXT REFERENCES countries(code))",
            "users",
            "id",
            None,
        )
        .await;

    // Rows that were there before are there now, on each copy or where they were.
    assert_eq!(counts(&cluster, "countries").await, [2, 2, 2]);
    assert_eq!(counts(&cluster, "old").await, [2, 0, 0]);
    assert_eq!(session.rows("SELECT v FROM old WHERE id = 15", json!([])).await, [[json!("fifteen")]]);
    for day in ["2023-01-01", "2024-06-01", "2025", "2026-01-01"] {
        session.execute("INSERT INTO days VALUES (?, 499)", json!([day])).await;
        session.execute("INSERT INTO days VALUES (?, 500)", json!([day])).await;
    }
    assert_eq!(counts(&cluster, "days").await, [2, 3, 3]);
    for (country, id) in [("DE", 1), ("fr", 2), ("Us", 3), ("jp", 4)] {
        session.execute("INSERT INTO people VALUES (?, ?)", json!([country, id])).await;
    }
    assert_eq!(counts(&cluster, "people").await, [2, 1, 1]);
    assert_eq!(session.rows("SELECT id FROM people WHERE country = 'US'", json!([])).await, [[json!(3)]]);

    // A write reaches every copy with the same time and randomness, behind the largest id that ever was.
    let added = session.execute("INSERT INTO log (raw) VALUES (hex(randomblob(8))) RETURNING id", json!([])).await;
    assert_eq!((&added["values"], &added["last_insert_id"]), (&json!([[61]]), &json!(61)), "{added}");
    let rows = "SELECT id, at, x, typeof(raw), hex(raw) FROM log ORDER BY id";
    let first = on_shard(&mut session, "shard1", rows).await;
    assert_eq!(first[0][3..], [json!("text"), json!("FF61")]);
    for shard in ["shard2", "shard3"] {
        assert_eq!(on_shard(&mut session, shard, rows).await, first, "{shard}");
    }
    // A row refers to a copy, on whatever shard it is; joins and home tables see copies, too.
    for id in 1..=30 {
        session.execute("INSERT INTO users VALUES (?, 'de')", json!([id])).await;
    }
    refused(&mut session, "/execute", json!({"query": "INSERT INTO users VALUES (31, 'xx')"}), "constraint").await;
    let joined = "SELECT count(*), min(name) FROM users JOIN countries ON code = country";
    assert_eq!(session.rows(joined, json!([])).await, [[json!(30), json!("Germany")]]);
    session.execute("CREATE TABLE home (name TEXT)", json!([])).await;
    session.execute("INSERT INTO home SELECT name FROM countries", json!([])).await;
    session.execute("UPDATE home SET name = (SELECT code FROM countries c WHERE c.name = home.name)", json!([])).await;
    assert_eq!(session.rows("SELECT name FROM home ORDER BY 1", json!([])).await, [[json!("de")], [json!("fr")]]);

    let execute = |sql: &str| json!({ "query": sql });
    for (sql, code) in [
        ("DELETE FROM countries WHERE code = 'de'", "unroutable"),
        ("INSERT INTO countries SELECT 'x', name FROM home", "unroutable"),
        ("INSERT INTO countries VALUES ('de', 'twice')", "constraint"),
    ] {
        refused(&mut session, "/execute", execute(sql), code).await;
    }
    assert_eq!(counts(&cluster, "countries").await, [2, 2, 2]);
    // A registration that fails when other shards have the table leaves nothing there: they go on, and
    // it may be tried again.
    session.execute("CREATE TABLE late (country TEXT NOT NULL COLLATE NOCASE, n INT)", json!([])).await;
    session.execute("INSERT INTO late VALUES ('de', 1)", json!([])).await;
    let late = json!({"table_name": "late", "shard_key": "country", "colocate_with": "people"});
    refused(&mut session, "/table/register", late.clone(), "holds rows").await;
    assert_eq!(session.rows("SELECT count(*) FROM people", json!([])).await, [[json!(4)]]);
    session.execute("DELETE FROM late", json!([])).await;
    register(&mut session, late).await;
    for country in ["fr", "us", "jp"] {
        session.execute("INSERT INTO late VALUES (?, 1)", json!([country])).await;
    }
    assert_eq!(counts(&cluster, "late").await, [1, 1, 1]);
    session.execute("CREATE TABLE nullable (k TEXT PRIMARY KEY)", json!([])).await;
    let mut body = json!({"table_name": "nullable", "shard_key": "k"});
    refused(&mut session, "/table/register", body.clone(), "may hold NULL").await;
    body["nullable"] = json!(true);
    register(&mut session, body).await;
    session.execute("INSERT INTO nullable VALUES (NULL)", json!([])).await;
    assert_eq!(session.rows("SELECT count(*) FROM nullable WHERE k IS NULL", json!([])).await, [[json!(1)]]);
}

/// Writes until told to stop; each is one row with the writer's next number.
async fn write(mut session: Session, writer: u64, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql = "INSERT INTO log (writer, n) VALUES (?, ?)";
        let body = json!({ "query": sql, "args": [writer, n] });
        let result = session.insist("/execute", &body, Some(&format!("{writer}-{n}"))).await;
        assert_eq!(result["results"][0]["rows_affected"], 1, "{result}");
        n += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    n
}

/// Reads that go to all shards in turn never see less than an earlier one saw.
async fn read(mut session: Session, stop: Arc<AtomicBool>) -> u64 {
    let (mut seen, mut reads) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let rows = session.rows("SELECT count(*) FROM log WHERE ? = ?", json!([reads, reads])).await;
        let now = rows[0][0].as_u64().unwrap();
        assert!(now >= seen, "{now} rows after {seen}");
        (seen, reads) = (now, reads + 1);
    }
    reads
}

/// The leader of `meta` is killed twice in the middle of reference writes: every acknowledged write is
/// on every copy once, in the same order with the same time and randomness, and no read goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_stay_equal_when_the_leader_of_meta_dies() {
    let mut cluster = Cluster::start(Layout { proxies: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    let sql = "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, writer INT, n INT, at DEFAULT CURRENT_TIMESTAMP, x DEFAULT (random()))";
    session.execute(sql, json!([])).await;
    register(&mut session, json!({"table_name": "log", "shard_func": "reference"})).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let session = cluster.session().starting_at(writer as usize);
            tokio::spawn(write(session, writer, Arc::clone(&stop), Arc::clone(&done)))
        })
        .collect();
    let reader = tokio::spawn(read(cluster.session(), Arc::clone(&stop)));
    let start = Instant::now();
    for _ in 0..2 {
        progress(&done, 60).await;
        let leader = cluster.leader("meta").await;
        cluster.nodes[leader].process.kill();
        progress(&done, 30).await;
        let node = &mut cluster.nodes[leader];
        node.process.start();
        process_ready(&mut node.process, &node.http).await;
    }
    progress(&done, 60).await;
    stop.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    let reads = reader.await.unwrap();
    println!("{written} writes of {WRITERS} writers and {reads} reads in {:.1?}, two leaders killed", start.elapsed());
    assert!(reads > 20, "{reads} reads");

    let rows = "SELECT * FROM log ORDER BY id";
    let first = on_shard(&mut session, "shard1", rows).await;
    assert_eq!(first.len() as u64, written);
    let mut once: Vec<String> = first.iter().map(|row| format!("{} {}", row[1], row[2])).collect();
    once.sort();
    once.dedup();
    assert_eq!(once.len() as u64, written, "a write was applied twice");
    for shard in ["shard2", "shard3"] {
        assert_eq!(on_shard(&mut session, shard, rows).await, first, "{shard}");
    }
    // A retry of an early write, whose job is long forgotten, gets its first result and writes nothing.
    let body = json!({ "query": "INSERT INTO log (writer, n) VALUES (?, ?)", "args": [0, 0] });
    let again = session.insist("/execute", &body, Some("0-0")).await;
    assert_eq!(again["results"][0]["rows_affected"], 1, "{again}");
    assert_eq!(counts(&cluster, "log").await, [written; 3]);
    cluster.contents().await;
}

async fn progress(done: &AtomicU64, more: u64) {
    let wanted = done.load(Ordering::Relaxed) + more;
    eventually("writes go on", PATIENCE, async || match done.load(Ordering::Relaxed) {
        now if now >= wanted => Ok(()),
        now => Err(format!("{now} of {wanted}")),
    })
    .await;
}

/// A shard that is made after a reference table gets a copy before it holds rows of any other table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_shard_gets_copies() {
    let cluster = Cluster::start(Layout { shards: 2, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.execute("CREATE TABLE countries (code TEXT NOT NULL PRIMARY KEY, name TEXT)", json!([])).await;
    register(&mut session, json!({"table_name": "countries", "shard_func": "reference"})).await;
    session.execute("INSERT INTO countries VALUES ('de', 'Germany')", json!([])).await;
    let made = session.insist("/shard", &json!({}), Some("third")).await;
    assert_eq!(made["shard"], "shard3", "{made}");
    session
        .create(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, country TEXT REFERENCES countries(code))",
            "users",
            "id",
            None,
        )
        .await;
    session.execute("INSERT INTO countries VALUES ('fr', 'France')", json!([])).await;
    for shard in ["shard1", "shard2", "shard3"] {
        let rows = on_shard(&mut session, shard, "SELECT code FROM countries ORDER BY 1").await;
        assert_eq!(rows, [[json!("de")], [json!("fr")]], "{shard}");
    }
    for id in 1..=20 {
        session.execute("INSERT INTO users VALUES (?, 'fr')", json!([id])).await;
    }
    let joined = "SELECT count(*) FROM users JOIN countries ON code = country WHERE name = 'France'";
    assert_eq!(session.rows(joined, json!([])).await, [[json!(20)]]);
}
