//! One statement, one time, on however many shards it reads; and writes whose rows meet those of
//! reference tables.

use std::collections::BTreeSet;

use super::*;

/// A statement that may ask for the time brings one time to all shards that it reads, and only then.
#[tokio::test]
async fn one_time_for_all_shards() {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE VIEW recent AS SELECT id FROM users WHERE name < CURRENT_TIMESTAMP", json!([])).await;
    b.node.take_times();
    for (sql, shards) in [
        ("SELECT id FROM users WHERE name < datetime('now')", 3),
        ("SELECT id, CURRENT_TIME FROM users ORDER BY 1 LIMIT 3", 3),
        ("SELECT count(*) FROM users WHERE name < unixepoch('now', 'subsec')", 3),
        ("SELECT id FROM users WHERE date(name) = email", 3),
        ("SELECT id FROM users WHERE (SELECT 1 FROM users x WHERE x.id = users.id AND x.name < julianday()) = 1", 3),
        ("SELECT id FROM recent", 3),
    ] {
        b.sql(sql, json!([])).await;
        let times = b.node.take_times();
        assert_eq!(times.len(), shards, "{sql}");
        let different: BTreeSet<_> = times.iter().collect();
        assert!(
            different.len() == 1 && times[0].is_some_and(|at_us| at_us > 1_700_000_000_000_000),
            "{sql}: {times:?}"
        );
    }
    for sql in ["SELECT id FROM users", "SELECT id, datetime('now') FROM users WHERE id = 1"] {
        b.sql(sql, json!([])).await;
        assert!(b.node.take_times().iter().all(Option::is_none), "{sql}");
    }
}

/// What a condition compares with the clock and what the answer shows of it is one time: where the shards
/// would look at one clock and the proxy at another, the proxy does both.
#[tokio::test]
async fn one_time_in_all_places() {
    let b = Bench::new().await;
    b.users().await;
    for (sql, pulls) in [
        ("SELECT count(*), datetime('now') FROM users WHERE name < datetime('now')", true),
        ("SELECT count(*), CURRENT_TIMESTAMP FROM users", false),
        ("SELECT count(*) FROM users WHERE name < datetime('now')", false),
        ("SELECT name, count(*) FROM users WHERE name < date() GROUP BY name HAVING max(id) < unixepoch()", true),
    ] {
        let (_, json) = b.post("/explain", &json!({ "sql": sql }).to_string()).await;
        assert_eq!(json["why"] != json!(""), pulls, "{sql}: {json}");
    }
}

/// UPDATE … FROM a reference table changes the rows that SQLite changes, wherever the key is fixed or not.
#[tokio::test]
async fn updates_from_reference_tables() {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE TABLE names (id INTEGER PRIMARY KEY, user INT, name TEXT)", json!([])).await;
    let body = json!({ "table_name": "names", "shard_func": "reference" }).to_string();
    assert_eq!(b.post("/table/register", &body).await.0, 200);
    let one = rusqlite::Connection::open_in_memory().unwrap();
    one.execute_batch(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT);
         CREATE TABLE names (id INTEGER PRIMARY KEY, user INT, name TEXT)",
    )
    .unwrap();
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 'n{id}', 'e')")).collect();
    let users = format!("INSERT INTO users VALUES {}", rows.join(", "));
    let names = "INSERT INTO names VALUES (1, 3, 'three'), (2, 5, 'five'), (3, 7, 'seven'), (4, 3, 'drei')";
    for sql in [users.as_str(), names] {
        let (status, json) = b.post("/sql?allow_partial=true", &json!({ "sql": sql }).to_string()).await;
        assert_eq!(status, 200, "{json}");
        one.execute_batch(sql).unwrap();
    }
    for sql in [
        "UPDATE users SET name = names.name FROM names WHERE users.id = names.user AND users.id = 5",
        "UPDATE users SET name = r.name FROM names r WHERE users.id = r.user AND r.id = 2",
        "UPDATE users SET email = 'f' FROM names WHERE users.id IN (3, 5, 8) AND names.user = users.id",
        "UPDATE users SET email = r.name FROM names r WHERE r.user = 7 AND users.id = r.user + 1",
        "UPDATE users AS x SET email = 'all' FROM names r WHERE r.id = 1",
        "UPDATE users SET email = email || 'x' FROM (SELECT user FROM names) q WHERE users.id = q.user AND users.id = 7",
    ] {
        let (status, json) = b.post("/sql?allow_partial=true", &json!({ "sql": sql }).to_string()).await;
        let changed = one.execute(sql, []).unwrap();
        assert_eq!((status, &json["results"][0]["rows_affected"]), (200, &json!(changed)), "{sql}: {json}");
        let answer = b.sql("SELECT * FROM users ORDER BY id", json!([])).await;
        let mut statement = one.prepare("SELECT * FROM users ORDER BY id").unwrap();
        let wanted: Vec<(i64, String, String)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(answer["values"], json!(wanted), "{sql}");
    }
}
