//! Writes in two steps: what they read.

use super::{Bench, int};

/// What needs other rows than those at hand is read first; the query is SQLite's own words.
#[test]
fn reads() {
    let bench = Bench::new();
    for (sql, args, wanted) in [
        ("INSERT INTO users SELECT * FROM users", vec![], "insert of SELECT * FROM users <>"),
        (
            "WITH c AS (SELECT ?2 AS a) INSERT INTO notes (id) SELECT a FROM c, users WHERE id > ?1 RETURNING id",
            vec![int(1), int(2)],
            "insert of WITH c AS (SELECT ?1 AS a) SELECT a FROM c, users WHERE id > ?2 <2, 1>",
        ),
        ("INSERT INTO users VALUES (random(), ?, 1)", vec![int(3)], "insert of VALUES (random(), ?1, 1) <3>"),
        ("UPDATE users SET name = 1", vec![], "as written where there is SELECT 1 FROM main.\"users\" LIMIT 1 <>"),
        (
            "DELETE FROM users AS u WHERE u.id IN (1,2,3,4,5,6,7,8) AND name = ? RETURNING id",
            vec![int(9)],
            "as written where there is SELECT 1 FROM main.\"users\" AS \"u\" WHERE u.id IN (1,2,3,4,5,6,7,8) AND name = ?1 LIMIT 1 <9>",
        ),
        (
            "UPDATE users SET name = (SELECT max(name) FROM users), email = ? WHERE id = ?",
            vec![int(1), int(4)],
            "by key of SELECT \"users\".\"id\", ((SELECT max(name) FROM users)), flotilla_digest(\"users\".\"id\", \"users\".\"name\") FROM main.\"users\" WHERE id = ?1 <4>",
        ),
        (
            "UPDATE events AS e SET n = t.id FROM notes t WHERE e.n = t.id",
            vec![],
            "by key of SELECT \"e\".\"seq\", \"e\".\"tenant\", (t.id), flotilla_digest(\"e\".\"seq\", \"e\".\"tenant\", \"e\".\"n\") FROM main.\"events\" AS \"e\", notes t WHERE e.n = t.id <>",
        ),
        (
            "DELETE FROM users WHERE id IN bodies",
            vec![],
            "by key of SELECT \"users\".\"id\", flotilla_digest(\"users\".\"id\") FROM main.\"users\" WHERE id IN bodies <>",
        ),
        (
            "UPDATE users SET id = 5 WHERE id = 4",
            vec![],
            "by key of SELECT \"users\".\"id\", \"users\".\"name\", \"users\".\"email\", (5), flotilla_digest(\"users\".\"id\", \"users\".\"name\", \"users\".\"email\") FROM main.\"users\" WHERE id = 4 <>",
        ),
        (
            "UPDATE notes SET body = (SELECT name FROM users u WHERE u.id = notes.id)",
            vec![],
            "by key of SELECT \"notes\".\"id\", ((SELECT name FROM users u WHERE u.id = notes.id)), flotilla_digest(\"notes\".\"id\") FROM main.\"notes\" <>",
        ),
    ] {
        assert_eq!(bench.plan(sql, &args), format!("staged {wanted}"), "{sql}");
    }
}

/// Constant keys are computed by SQLite and name one shard; the statement goes there as written.
#[test]
fn folded_keys() {
    let bench = Bench::new();
    let home = bench.shard("SELECT * FROM users WHERE id = 12", &[]);
    for sql in [
        "INSERT INTO users (id, name) VALUES (abs(-12), random())",
        "INSERT INTO users (id) VALUES (6 * 2)",
        "INSERT INTO users (id) VALUES (coalesce(NULL, '12'))",
    ] {
        let plan = bench.plan(sql, &[]);
        assert!(plan.starts_with(&format!("one {home} [placement 1: 1 slots]")) && !plan.contains("INSERT"), "{plan}");
    }
    let plan = bench.plan("INSERT INTO users (id, name) VALUES (nullif(1, 1), 'x')", &[]);
    assert!(plan.ends_with("INSERT INTO users (id, name) VALUES (?1, 'x') <1000>"), "{plan}");
}

/// What one shard can find alone it does alone, as written: then it is one transaction.
#[test]
fn one_step_where_one_shard_has_all() {
    let bench = Bench::new();
    let home = bench.shard("SELECT * FROM orders WHERE o_id = 7", &[]);
    let sql = "INSERT INTO items (line, o_id, price) SELECT 1, o.o_id, o.total * 2 FROM orders AS o WHERE o.o_id = 7 ON CONFLICT DO NOTHING";
    assert_eq!(bench.plan(sql, &[]), format!("one {home} [placement 3: 1 slots]"));
    assert_eq!(bench.shard("INSERT INTO items SELECT o_id, line + 10, price FROM items WHERE o_id = 7", &[]), home);
    for sql in [
        "UPDATE orders SET total = (SELECT sum(price) FROM items WHERE items.o_id = 7 AND line > 1) WHERE o_id = 7",
        "WITH i AS (SELECT price FROM items WHERE o_id = 7) UPDATE orders SET total = (SELECT max(price) FROM i) WHERE o_id = 7",
        "UPDATE items AS i SET price = (SELECT total FROM orders o WHERE o.o_id = 7 AND o.total > i.price) WHERE i.o_id = 7",
    ] {
        assert_eq!(bench.plan(sql, &[]), format!("one {home} [placement 3: 1 slots]"), "{sql}");
    }
    let other = (8..100).find(|id| bench.shard("SELECT * FROM orders WHERE o_id = ?", &[int(*id)]) != home).unwrap();
    for sql in [
        &format!("UPDATE orders SET total = (SELECT sum(price) FROM items WHERE items.o_id = {other}) WHERE o_id = 7"),
        "UPDATE orders SET total = (SELECT sum(price) FROM items) WHERE o_id = 7",
        "UPDATE orders SET total = (SELECT sum(price) FROM items WHERE o_id = 7 OR line = 1) WHERE o_id = 7",
        "UPDATE orders SET total = (SELECT count(*) FROM notes WHERE id = 7) WHERE o_id = 7",
        "UPDATE orders SET total = 1 WHERE o_id = 7 AND total IN (SELECT id FROM bodies, notes)",
        "UPDATE orders SET total = (7, 1.0) IN orders WHERE o_id = 7",
        "INSERT INTO items (line, o_id) SELECT o_id, 1 FROM orders WHERE o_id = 7",
        "INSERT INTO items (line, o_id) SELECT 1, o_id + 0 FROM orders WHERE o_id = 7",
        "INSERT INTO items (line, o_id) SELECT 1, 'o_id' FROM orders WHERE o_id = 7",
        "INSERT INTO items (line, o_id) SELECT line, o_id FROM items",
        "INSERT INTO items (line, o_id) SELECT 1, id FROM users WHERE id = 7",
        "INSERT INTO items (line, o_id) SELECT 1, o_id FROM orders WHERE o_id = 7 UNION SELECT 2, 8",
        "INSERT INTO users (name) SELECT name FROM users WHERE id = 7",
        "INSERT INTO events SELECT seq + 1, tenant, n FROM events WHERE tenant = 't'",
    ] {
        assert_eq!(bench.shard(sql, &[]), "staged", "{sql}");
    }
}

/// What two steps cannot do rightly is refused by name.
#[test]
fn refusals() {
    let bench = Bench::new();
    for (sql, code) in [
        ("UPDATE users SET name = 1 WHERE id = 1 RETURNING (SELECT 1)", "unroutable"),
        ("INSERT INTO users SELECT 1, 2, 3 RETURNING (SELECT 1)", "unroutable"),
        ("UPDATE users SET (name, email) = (SELECT 1, 2)", "unroutable"),
        ("UPDATE orders SET o_id = 5 WHERE o_id = 4", "shard_key_update"),
        ("UPDATE checked SET id = 5 WHERE id = 4", "shard_key_update"),
        ("UPDATE replacing SET id = 5 WHERE id = 4", "shard_key_update"),
        ("UPDATE audited SET n = (SELECT 1)", "unroutable"),
    ] {
        assert_eq!(bench.shard(sql, &[]), code, "{sql}");
    }
}
