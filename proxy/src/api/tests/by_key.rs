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

/// A table that has rowids which no column stands for: each shard counts its own, so rows are not told apart by them.
#[tokio::test]
async fn rows_without_a_name_for_their_rowid() {
    let tables = [
        "CREATE TABLE o (k TEXT NOT NULL, c INTEGER, PRIMARY KEY (k))",
        "CREATE TABLE x (k INT NOT NULL, num INTEGER, PRIMARY KEY (k))",
    ];
    let pair = Pair::new(&tables, &[("o", json!("k")), ("x", json!("k"))]).await;
    for n in 1..=8 {
        pair.both(&format!("INSERT INTO o VALUES ('k{n}', {})", n % 4)).await;
        pair.both(&format!("INSERT INTO x VALUES ({n}, {})", n % 3)).await;
    }
    for n in 1..=8 {
        let matched = format!("o.c = s1.c AND s1.c = s2.num AND o.k = 'k{n}'");
        pair.both(&format!("UPDATE o SET c = -3 FROM o AS s1, x AS s2 WHERE {matched}")).await;
        let joined = "o AS s1 RIGHT JOIN x AS s2 ON s1.c = s2.num";
        pair.both(&format!("UPDATE x SET num = 9 FROM {joined} WHERE x.num = s2.k AND x.k = {n}")).await;
    }
}

/// A key is unique by the collations of the PRIMARY KEY, so rows are told apart by these.
#[tokio::test]
async fn keys_compare_as_the_primary_key_does() {
    let tables = [
        "CREATE TABLE n (g INT NOT NULL, k TEXT COLLATE NOCASE, v INT, PRIMARY KEY (g, k COLLATE BINARY))",
        "CREATE TABLE r (g INT NOT NULL, k TEXT COLLATE RTRIM, v INT, PRIMARY KEY (k COLLATE BINARY, g)) WITHOUT ROWID",
        "CREATE TABLE c (k TEXT COLLATE NOCASE, v INT, PRIMARY KEY (k COLLATE BINARY))",
        "CREATE TABLE f (g INT NOT NULL, k TEXT, v INT, PRIMARY KEY (g, k COLLATE NOCASE))",
    ];
    let pair = Pair::new(&tables, &[("n", json!("g")), ("r", json!("g")), ("f", json!("g"))]).await;
    pair.both("INSERT INTO n VALUES (1, 'a', 1), (1, 'A', 2), (2, 'a', 3), (1, 'b', 4)").await;
    pair.both("INSERT INTO r VALUES (1, 'a', 1), (1, 'a ', 2), (2, 'a', 3), (1, 'a  ', 4)").await;
    pair.both("INSERT INTO c VALUES ('a', 1), ('A', 2), ('b', 3)").await;
    pair.both("INSERT INTO f VALUES (1, 'a', 1), (1, 'b', 2), (2, 'A', 3)").await;
    for sql in [
        "UPDATE n SET v = 10 + (SELECT count(*) FROM r) WHERE v = (SELECT min(v) FROM n)",
        "DELETE FROM n WHERE v = (SELECT min(v) FROM n)",
        "UPDATE n SET g = 7 WHERE v = (SELECT max(v) FROM n)",
        "UPDATE r SET v = v + 10 WHERE v IN (SELECT v FROM r WHERE v < 3)",
        "UPDATE r SET v = (SELECT count(*) FROM n) WHERE v = 11",
        "DELETE FROM r WHERE v = (SELECT max(v) FROM r)",
        "UPDATE r SET g = 9, v = 0 WHERE k = 'a' AND v = (SELECT 4)",
        "UPDATE c SET v = v + 10 WHERE v < (SELECT max(g) FROM f)",
        "DELETE FROM c WHERE v = (SELECT min(g) + 10 FROM f)",
        "UPDATE f SET v = v + (SELECT count(*) FROM f) WHERE v < (SELECT max(v) FROM f)",
        "DELETE FROM f WHERE v = (SELECT max(v) FROM f)",
    ] {
        pair.both(sql).await;
        for table in ["n", "r", "c", "f"] {
            pair.same_after(table, sql).await;
        }
    }
}

/// What a subquery of SET sees of the rows changed before is refused, since it sees none of it here; all
/// else is what SQLite gives.
#[tokio::test]
async fn subqueries_that_see_earlier_rows() {
    let pair = Pair::new(TABLES, &[("k", json!("id")), ("a", json!("x"))]).await;
    pair.both("INSERT INTO h VALUES (1, 1, 0), (2, 1, 0), (3, 2, 0)").await;
    pair.both("INSERT INTO k VALUES (4)").await;
    pair.both("INSERT INTO a VALUES (1, 5), (2, 6)").await;
    for sql in [
        "UPDATE h SET v = (SELECT max(x.v) + 1 FROM h x, k WHERE h.id > 0)",
        "UPDATE h AS t SET v = (SELECT max(x.v) + 1 FROM h x, k WHERE x.x = t.x)",
        "UPDATE h AS t SET v = (SELECT max(x.v) + 1 FROM h x, k WHERE x.x = \"t\".\"x\")",
        "WITH c AS (SELECT v FROM h) UPDATE h SET v = 1 + (SELECT sum(v) FROM c, k WHERE id > h.id)",
        "UPDATE h SET v = CASE WHEN id > 1 THEN (SELECT sum(v) FROM h, k) ELSE 5 END",
        "UPDATE h SET v = coalesce(nullif(v, 0), (SELECT count(DISTINCT v) FROM h, k))",
        "UPDATE a SET u = (SELECT count(*) FROM a b WHERE b.u < a.u)",
        "UPDATE a SET x = x + 10, u = (SELECT count(*) FROM a b WHERE b.x > a.x)",
        "UPDATE a SET u = u IN (SELECT u FROM a)",
    ] {
        assert_eq!(pair.on_cluster("/sql?allow_partial=true", sql).await, Err("unroutable".to_owned()), "{sql}");
    }
    for sql in [
        "UPDATE h SET v = (SELECT max(x.v) + 1 FROM h x, k WHERE h.id > 0) WHERE id = 2",
        "UPDATE h SET v = (SELECT sum(v) + 1 FROM h, k)",
        "UPDATE h SET v = (SELECT u FROM a WHERE a.x = h.x) WHERE x IN (SELECT x FROM a)",
        "UPDATE h SET v = (SELECT count(*) FROM h o, k WHERE o.x = h.x)",
        "UPDATE h SET v = (SELECT count(*) FROM k WHERE k.id > h.v)",
        "UPDATE h SET v = c.n FROM (SELECT o.x, sum(o.v) + count(k.id) AS n FROM h o, k GROUP BY o.x) AS c WHERE c.x = h.x",
        "UPDATE h SET v = v + 1 WHERE v < (SELECT max(x.v) FROM h x, k WHERE x.x <> h.x)",
        "UPDATE a SET u = (SELECT count(*) FROM a b WHERE b.x < a.x)",
        "UPDATE a SET u = u + (SELECT max(u) FROM a)",
    ] {
        pair.both(sql).await;
        for table in ["h", "a"] {
            pair.same_after(table, sql).await;
        }
    }
}

/// Workers that ask for the next job at the same time get different ones, and each job is handed out once.
#[tokio::test]
async fn a_claim_is_handed_out_once() {
    const JOBS: usize = 60;
    const WORKERS: usize = 8;
    let pair = Pair::new(&["CREATE TABLE q (id INTEGER PRIMARY KEY, state TEXT)"], &[("q", json!("id"))]).await;
    let rows: Vec<String> = (1..=JOBS).map(|id| format!("({id}, 'ready')")).collect();
    pair.both(&format!("INSERT INTO q VALUES {}", rows.join(", "))).await;
    let body = json!({ "sql": "UPDATE q SET state = 'run' WHERE state = 'ready' AND id = (SELECT id FROM q WHERE state = 'ready' LIMIT 1) RETURNING id" });
    let body = body.to_string();
    let worker = |number: usize| {
        let (pair, body) = (&pair, &body);
        async move {
            let mut claimed = Vec::new();
            loop {
                let key = format!("{number}-{}", claimed.len());
                let key = number.is_multiple_of(2).then_some(key.as_str());
                let (status, json) = pair.b.call(hyper::Method::POST, "/sql?timeout=60s", body, key).await;
                assert_eq!(status, 200, "{json}");
                match json["results"][0]["values"][0][0].as_u64() {
                    Some(id) => claimed.push(id),
                    None => return claimed,
                }
            }
        }
    };
    let claimed = futures::future::join_all((0..WORKERS).map(worker)).await;
    let mut all = claimed.concat();
    all.sort_unstable();
    assert_eq!(all, (1..=JOBS as u64).collect::<Vec<_>>());
}

/// A row that changes between the read and the write is decided on anew, whatever the write is, and a
/// retry of the request finds what it did.
#[tokio::test]
async fn rows_that_change_are_read_again() {
    const CLAIM: &str = "UPDATE t SET state = 'run' WHERE state = 'ready' AND id = (SELECT min(id) FROM t WHERE state = 'ready') RETURNING id";
    let cases = [
        (CLAIM, "UPDATE t SET state = 'run' WHERE id = 1"),
        (CLAIM, "DELETE FROM t WHERE id = 1"),
        (CLAIM, "UPDATE t SET n = 50 WHERE id = 1"),
        (CLAIM, "UPDATE t SET state = 'READY' WHERE id = 1"),
        ("DELETE FROM t WHERE id < 2 AND n < (SELECT avg(n) FROM t) RETURNING id", "UPDATE t SET n = 100 WHERE id = 1"),
        (
            "DELETE FROM t WHERE id < 2 AND n < (SELECT avg(n) FROM t) RETURNING id",
            "UPDATE t SET state = 'x' WHERE id = 1",
        ),
        ("UPDATE t SET n = n + (SELECT max(n) FROM t) WHERE id = 2 RETURNING n", "UPDATE t SET n = 3 WHERE id = 2"),
        ("UPDATE t SET n = n + (SELECT max(n) FROM t) WHERE id = 2 RETURNING n", "UPDATE t SET n = 2.0 WHERE id = 2"),
        (
            "UPDATE t SET n = m.v FROM m WHERE m.id = t.n AND t.id = 1 RETURNING t.id, n",
            "UPDATE t SET n = 2 WHERE id = 1",
        ),
    ];
    let moves: Vec<(String, &str)> = (100..108)
        .flat_map(|by| {
            let sql = format!("UPDATE t SET id = id + {by} WHERE n = (SELECT min(n) FROM t) RETURNING id, state");
            [(sql.clone(), "UPDATE t SET state = 'late' WHERE id = 1"), (sql, "UPDATE t SET n = 70 WHERE id = 1")]
        })
        .collect();
    let all = cases.iter().map(|(sql, change)| ((*sql).to_owned(), *change)).chain(moves);
    let pair = Pair::new(
        &[
            "CREATE TABLE t (id INTEGER PRIMARY KEY, state TEXT COLLATE NOCASE, n)",
            "CREATE TABLE m (id INTEGER PRIMARY KEY, v)",
        ],
        &[("t", json!("id"))],
    )
    .await;
    for (n, (sql, change)) in all.enumerate() {
        for (held, keyed) in [(0, false), (1, false), (1, true), (2, true)] {
            let what = format!("{sql}; {change}; write {held} held, keyed: {keyed}");
            pair.both("DELETE FROM t").await;
            pair.both("DELETE FROM m").await;
            pair.both("INSERT INTO t VALUES (1, 'ready', 1), (2, 'ready', 2), (3, 'ready', 30), (4, 'done', 40)").await;
            pair.both("INSERT INTO m VALUES (1, 5), (2, 6)").await;
            let key = format!("{n}-{held}");
            let key = keyed.then_some(key.as_str());
            pair.b.node.hold_write_after(held);
            let body = json!({ "sql": sql }).to_string();
            let ask = || pair.b.call(hyper::Method::POST, "/sql?allow_partial=true", &body, key);
            let mut changed = false;
            let mut asked = std::pin::pin!(ask());
            let (status, answer) = tokio::select! {
                // There is no such write.
                answer = &mut asked => answer,
                () = pair.b.node.until_held() => {
                    pair.both(change).await;
                    changed = true;
                    pair.b.node.release_write();
                    asked.await
                }
            };
            pair.b.node.hold_no_write();
            assert_eq!(status, 200, "{what}: {answer}");
            assert!(answer["results"][0].get("partial").is_none(), "{what}: {answer}");
            let (wanted, affected) = pair.on_one(&sql).unwrap();
            let result = &answer["results"][0];
            let mut rows: Vec<String> =
                result["values"].as_array().unwrap().iter().map(|row| row.to_string()).collect();
            rows.sort();
            assert!(changed || held > 0, "{what}");
            assert_eq!((rows, result["rows_affected"].as_u64().unwrap()), (wanted, affected), "{what}");
            pair.same_after("t", &what).await;
            if keyed {
                assert_eq!(ask().await.1, answer, "{what}");
                pair.same_after("t", &what).await;
            }
        }
    }
}

/// Foreign keys are checked when all rows of a statement are written, however many statements that takes on a shard.
#[tokio::test]
async fn foreign_keys_are_checked_at_the_end_of_a_statement() {
    const ROWS: usize = 1300;
    let tables = [
        "CREATE TABLE tree (id INTEGER PRIMARY KEY, up INTEGER REFERENCES tree (id), n)",
        "CREATE TABLE k (id INTEGER PRIMARY KEY, up)",
    ];
    let pair = Pair::new(&tables, &[("k", json!("id"))]).await;
    // Each row refers to one that another statement writes, later or earlier.
    let rows: Vec<String> = (1..=ROWS).map(|id| format!("({id}, {})", (id + 699) % ROWS + 1)).collect();
    pair.both(&format!("INSERT INTO k VALUES {}", rows.join(", "))).await;
    for sql in [
        "INSERT INTO tree SELECT id, up, 0 FROM k",
        "UPDATE tree SET n = 1, up = k.up FROM k WHERE k.id = tree.id",
        "UPDATE tree SET id = tree.id + 5000, up = k.up + 5000 FROM k WHERE k.id = tree.id",
        "DELETE FROM tree WHERE id - 5000 IN (SELECT id FROM k)",
    ] {
        pair.both(sql).await;
        pair.same_after("tree", sql).await;
    }
    pair.both("INSERT INTO tree VALUES (1, 1, 0), (2, 1, 0)").await;
    pair.both_fail("DELETE FROM tree WHERE id IN (SELECT 1 FROM k)", "constraint").await;
    pair.both_fail("UPDATE tree SET up = k.id FROM k WHERE k.id = tree.id + 7", "constraint").await;
    pair.same("tree").await;
}
