//! Writes that read first and then write by key hit the rows that SQLite would: each statement runs on
//! three shards and on one SQLite, over the same rows.

use serde_json::json;

use super::writes::Pair;

/// Tables, of which `h` is not sharded.
const TABLES: &[&str] = &[
    "CREATE TABLE p (id INTEGER PRIMARY KEY, g)",
    "CREATE TABLE k (id INTEGER PRIMARY KEY)",
    "CREATE TABLE h (id INTEGER PRIMARY KEY, x, v)",
    "CREATE TABLE a (x INTEGER PRIMARY KEY, u)",
    "CREATE TABLE b (x INTEGER PRIMARY KEY, w)",
];

const ROWS: &[&str] = &[
    "INSERT INTO p VALUES (1, 1), (2, 1), (4, 3)",
    "INSERT INTO k VALUES (4)",
    "INSERT INTO h VALUES (1, 9, 0), (2, 4, 0), (3, 5, 0)",
    "INSERT INTO a VALUES (4, 1), (5, 2)",
    "INSERT INTO b VALUES (4, 77), (9, 99)",
];

/// Runs each statement on both sides over fresh rows, and compares all tables.
async fn all(statements: &[&str]) {
    let sharded = [("p", json!("id")), ("k", json!("id")), ("a", json!("x")), ("b", json!("x"))];
    let pair = Pair::new(TABLES, &sharded).await;
    let mut reset = ROWS.join(";");
    for sql in statements {
        for statement in reset.split(';') {
            pair.both(statement).await;
        }
        pair.both(sql).await;
        for table in ["p", "k", "h", "a", "b"] {
            pair.same_after(table, sql).await;
        }
        reset =
            format!("DELETE FROM p; DELETE FROM k; DELETE FROM h; DELETE FROM a; DELETE FROM b; {}", ROWS.join(";"));
    }
}

/// The target of an UPDATE or DELETE is a table, also where a CTE has its name; what else names it means
/// the CTE.
#[tokio::test]
async fn a_target_is_never_a_cte() {
    all(&[
        "WITH p AS (SELECT id, 1 AS g FROM k) DELETE FROM p WHERE g = 1",
        "WITH p AS (SELECT id, 1 AS g FROM k) DELETE FROM p WHERE p.g = 1 RETURNING *",
        "WITH P (id, g) AS (SELECT id, 1 FROM k) UPDATE p SET g = g + 10 WHERE g = 1 RETURNING id, g",
        "WITH p AS (SELECT id, 1 AS g FROM k) UPDATE p SET g = 7",
        "WITH p AS (SELECT id FROM k) DELETE FROM p WHERE id IN (SELECT id FROM p)",
        "WITH p AS (SELECT id FROM k) DELETE FROM p WHERE id IN p",
        "WITH p AS (SELECT id FROM k) DELETE FROM p WHERE id NOT IN (SELECT id FROM main.p WHERE g = 1)",
        "WITH p AS (SELECT id, g + 10 AS g FROM main.p) DELETE FROM p WHERE g + 10 IN (SELECT g FROM p WHERE g < 13)",
        "WITH c AS (SELECT id FROM k) DELETE FROM p WHERE id IN c AND id IN (SELECT id FROM p WHERE g = 3)",
        "WITH c AS (SELECT id, 1 AS g FROM k) DELETE FROM p AS c WHERE c.g = 1",
        "WITH c AS (SELECT 4 AS id, 5 AS g) UPDATE main.p AS c SET g = c.g + (SELECT g FROM c) WHERE c.g = 1",
        "WITH p AS (SELECT 4 AS id) UPDATE p SET g = (SELECT count(*) FROM p) WHERE id > 1",
        "WITH p AS (SELECT id, 50 AS g FROM k) UPDATE p SET g = q.g FROM p AS q WHERE q.id = p.id",
        "WITH RECURSIVE p (id, g) AS (SELECT 1, 1 UNION ALL SELECT id + 1, 1 FROM p WHERE id < 9) UPDATE p SET g = 2 WHERE g = 3",
        "WITH h AS (SELECT id, 1 AS x, 2 AS v FROM k) UPDATE h SET v = 5 WHERE x > 4",
        "WITH h AS (SELECT id, 1 AS x, 2 AS v FROM k) DELETE FROM h WHERE x = 9",
        "WITH h AS (SELECT id FROM k) UPDATE h SET v = (SELECT max(id) FROM h) WHERE x = 9",
        "WITH p AS (SELECT id FROM k) UPDATE p SET id = id + 100 WHERE g = 3",
    ])
    .await;
}

/// Several sources of UPDATE … FROM are joined among themselves first: no column of the target takes
/// part in USING or NATURAL, and outer joins are not about its rows.
#[tokio::test]
async fn sources_are_joined_without_the_target() {
    all(&[
        "UPDATE h SET v = b.w FROM a JOIN b USING (x) WHERE h.id = 1",
        "UPDATE h SET v = b.w FROM a NATURAL JOIN b WHERE h.id = 1",
        "UPDATE h SET v = b.w FROM a JOIN b ON a.x = b.x WHERE h.id = 1",
        "UPDATE h SET v = b.w FROM a, b WHERE a.x = b.x AND h.x = b.x",
        "UPDATE h SET v = coalesce(w, -1) FROM a LEFT JOIN b USING (x) WHERE h.x = a.x",
        "UPDATE h SET v = coalesce(u, -1) FROM a RIGHT JOIN b USING (x) WHERE h.x = b.x",
        "UPDATE h SET v = coalesce(u, 0) + coalesce(w, 0) FROM a FULL JOIN b ON a.x = b.x WHERE h.x = coalesce(a.x, b.x)",
        "UPDATE h SET v = w FROM a CROSS JOIN b WHERE h.x = a.x AND b.x = 9",
        "UPDATE h SET v = j.w FROM (a JOIN b USING (x)) AS j WHERE h.x = j.x",
        "UPDATE h SET v = w FROM (a JOIN b USING (x)) WHERE h.x = b.x",
        "UPDATE h SET v = j.w FROM (SELECT * FROM a JOIN b USING (x)) AS j WHERE h.x = j.x",
        "UPDATE h SET v = b.w FROM (a), b WHERE a.x = b.x AND h.x = a.x",
        "UPDATE h SET v = w FROM a JOIN k ON k.id = a.x LEFT JOIN b USING (x) WHERE h.id = k.id - 2",
        "UPDATE h SET v = c.n FROM (SELECT 4 AS x, 8 AS n) AS c NATURAL JOIN b WHERE h.id = 3 RETURNING h.id, v",
        "UPDATE h AS t SET v = t.v + b.w FROM a NATURAL LEFT JOIN b WHERE t.x = a.x AND b.w IS NOT NULL",
        "UPDATE p SET g = b.w FROM a JOIN b USING (x) WHERE p.id = 1",
        "UPDATE p SET g = h.v FROM k JOIN h ON h.x = k.id WHERE p.g = 3",
        "UPDATE p SET g = h.x FROM k CROSS JOIN h WHERE p.id = h.id AND p.g = 1 AND k.id = 4",
        "UPDATE a SET u = b.w FROM h JOIN b USING (x) WHERE a.x = h.x",
        "UPDATE a SET u = 5 FROM b NATURAL JOIN k WHERE b.w = 77 AND a.u = 1",
        "UPDATE a SET x = b.w FROM h JOIN b USING (x) WHERE a.x = b.x",
        "WITH a AS (SELECT 9 AS x) UPDATE h SET v = b.w FROM a JOIN b USING (x) WHERE h.x = 5",
    ])
    .await;
}
