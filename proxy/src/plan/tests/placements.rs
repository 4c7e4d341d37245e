//! Plans over range, list and reference placements.

use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::Spread;

use super::*;
use crate::testing::place;

const TABLES: &str = "
    CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT);
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, country TEXT REFERENCES countries(code));
    CREATE TABLE days (day TEXT NOT NULL, n INT NOT NULL, PRIMARY KEY (day, n)) WITHOUT ROWID;
    CREATE TABLE people (country TEXT NOT NULL COLLATE NOCASE, id INT NOT NULL, PRIMARY KEY (country, id));
    CREATE TABLE zones (zone TEXT, v);
    CREATE TABLE countries (code TEXT PRIMARY KEY, name TEXT);
    CREATE TABLE rates (id INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT REFERENCES countries(code), rate);
    CREATE TRIGGER checked BEFORE INSERT ON rates BEGIN SELECT raise(ABORT, 'rate') WHERE new.rate < 0; END;
    CREATE TABLE watched (id INTEGER PRIMARY KEY, n);
    CREATE TRIGGER spill AFTER INSERT ON watched BEGIN INSERT INTO countries VALUES (new.n, ''); END;";

fn bench() -> Bench {
    let mut registry = registry(3, TABLES, &[("users", &["id"], 1), ("watched", &["id"], 6)]);
    let points = vec![vec![text("2024")], vec![text("2025"), int(500)]];
    place(&mut registry, "days", &["day", "n"], 2, &Spread::Range { points });
    let one = |values: &[&str]| values.iter().map(|value| vec![text(value)]).collect();
    let values = vec![(GroupId(1), one(&["de", "fr"])), (GroupId(2), one(&["us"]))];
    place(&mut registry, "people", &["country"], 3, &Spread::List { values, default: Some(GroupId(3)) });
    let values = vec![(GroupId(2), one(&["north"])), (GroupId(3), vec![vec![Value::Null]])];
    place(&mut registry, "zones", &["zone"], 7, &Spread::List { values, default: None });
    place(&mut registry, "countries", &[], 4, &Spread::Reference);
    place(&mut registry, "rates", &[], 5, &Spread::Reference);
    Bench { mirror: Mirror::build(Arc::clone(&registry)).unwrap(), registry }
}

/// A key of a range goes to the slot between its split points; one of a list to its value's shard.
#[test]
fn ranges_and_lists() {
    let bench = bench();
    for (sql, wanted) in [
        ("SELECT * FROM days WHERE day = '2023-05-01' AND n = 7", "shard1"),
        ("INSERT INTO days VALUES ('2024', 1)", "shard2"),
        ("INSERT INTO days VALUES ('2025', 499)", "shard2"),
        ("INSERT INTO days VALUES ('2025', '500')", "shard3"),
        ("DELETE FROM days WHERE n = 0 AND day = '2026'", "shard3"),
        ("INSERT INTO days VALUES ('2023', 1), ('2026', 1)", "cross_shard_write"),
        ("SELECT * FROM days WHERE day < '2024'", "shard1"),
        ("SELECT * FROM days WHERE day <= '2024'", "some"),
        ("SELECT * FROM days WHERE day BETWEEN '2022' AND '2023'", "shard1"),
        ("SELECT * FROM days WHERE day > '2024' AND day < '2025'", "shard2"),
        ("SELECT * FROM days WHERE day = '2026'", "shard3"),
        ("DELETE FROM days WHERE day >= '2025-01'", "shard3"),
        ("SELECT * FROM people WHERE country = 'DE'", "shard1"),
        ("INSERT INTO people VALUES ('Us', 1)", "shard2"),
        ("INSERT INTO people VALUES ('jp', 1)", "shard3"),
        ("SELECT * FROM people WHERE country IN ('de', 'FR')", "shard1"),
        ("SELECT * FROM people WHERE country IN ('de', 'us')", "some"),
        ("INSERT INTO zones VALUES ('north', 1)", "shard2"),
        ("INSERT INTO zones VALUES (NULL, 1)", "shard3"),
        ("INSERT INTO zones VALUES ('south', 1)", "unlisted_value"),
        // No row has it, so no shard is asked, and any shard removes what there is.
        ("SELECT count(*) FROM zones WHERE zone = 'south'", "local"),
        ("DELETE FROM zones WHERE zone = 'south'", "shard2"),
    ] {
        assert_eq!(bench.shard(sql, &[]), wanted, "{sql}");
    }
}

/// A reference table is read beside anything, on the shard of the others, and claimed there.
#[test]
fn references_are_read_anywhere() {
    let bench = bench();
    let notes = "SELECT * FROM notes JOIN countries ON body = code";
    assert_eq!(bench.plan(notes, &[]), "one shard1 [placement 0 at 1] [placement 4 at 3]");
    let sql = "UPDATE notes SET body = (SELECT name FROM countries WHERE code = body)";
    assert_eq!(bench.plan(sql, &[]), "one shard1 [placement 0 at 1] [placement 4 at 3]");
    assert_eq!(
        bench.plan("INSERT INTO notes SELECT NULL, name FROM countries", &[]),
        "one shard1 [placement 0 at 1] [placement 4 at 3]"
    );
    let mut shards = std::collections::BTreeSet::new();
    for n in 0..30 {
        let plan = bench.plan("SELECT * FROM countries, rates WHERE rate = ?", &[int(n)]);
        let (shard, claims) = plan.strip_prefix("one ").unwrap().split_once(' ').unwrap();
        shards.insert(shard.to_owned());
        assert_eq!(claims, "[placement 4 at 3] [placement 5 at 3]");
    }
    assert_eq!(shards.len(), 3, "reads are spread: {shards:?}");
    // The key of a sharded row may refer to a copy.
    let insert = bench.plan("INSERT INTO users VALUES (1, 'a', 'de')", &[]);
    assert!(insert.starts_with("one shard"), "{insert}");
    // So does a write of one row that reads copies.
    let update = "UPDATE users SET name = (SELECT name FROM countries WHERE code = country) WHERE id = 1";
    let update = bench.plan(update, &[]);
    assert!(update.starts_with("one shard") && update.ends_with("[placement 4 at 3]"), "{update}");
    // A join with a sharded row goes where the row is.
    let insert = bench.plan("SELECT * FROM users u JOIN countries c ON c.code = u.country WHERE u.id = 1", &[]);
    assert!(insert.starts_with("one shard") && insert.ends_with("[placement 4 at 3]"), "{insert}");
    // No copy is read twice when rows are gathered.
    let plan = bench.plan("SELECT count(*) FROM users, countries, days", &[]);
    let copies = plan.split("countries:").nth(1).unwrap().lines().skip(1).take_while(|line| line.starts_with("    "));
    assert_eq!(copies.count(), 1, "{plan}");
}

/// Joins with copies are done by the shards, unless the copy is the side that keeps its rows.
#[test]
fn references_are_joined_everywhere() {
    let bench = bench();
    for (sql, wanted) in [
        ("SELECT u.name, c.name FROM users u JOIN countries c ON c.code = u.country", "all"),
        ("SELECT u.name, c.name FROM countries c, users u WHERE c.code = u.country", "all"),
        ("SELECT u.name, c.name FROM users u LEFT JOIN countries c ON c.code = u.country", "all"),
        ("SELECT * FROM users WHERE country IN (SELECT code FROM countries WHERE name > 'm')", "all"),
        ("SELECT c.name, count(*) FROM users u JOIN countries c ON c.code = u.country GROUP BY c.code, c.name", "two"),
        ("SELECT u.name, c.name FROM countries c LEFT JOIN users u ON c.code = u.country", "pulled"),
        ("SELECT u.name, c.name FROM users u RIGHT JOIN countries c ON c.code = u.country", "pulled"),
        ("SELECT u.name, c.name FROM users u FULL JOIN countries c ON c.code = u.country", "pulled"),
        ("SELECT * FROM countries WHERE code IN (SELECT country FROM users)", "pulled"),
        ("SELECT * FROM notes JOIN users USING (id) JOIN countries c ON c.code = country", "pulled"),
    ] {
        let plan = bench.plan(sql, &[]);
        let found = match plan.split_once(' ').unwrap().0.trim() {
            _ if plan.contains("no more, since") => "pulled",
            _ if plan.starts_with("merge") => "two",
            _ => plan.split_whitespace().next().unwrap(),
        };
        assert_eq!(found, wanted, "{sql}\n{plan}");
        assert!(plan.contains("placement 4 at 3"), "{plan}");
    }
}

/// Writes of reference tables become jobs, without keys of ours; what mixes them with other tables, or
/// might reach rows of one shard only, is refused.
#[test]
fn reference_writes_are_jobs() {
    let bench = bench();
    for sql in [
        "INSERT INTO countries VALUES ('de', 'Germany') RETURNING *",
        "INSERT INTO rates (code, rate) VALUES ('de', random()), (NULL, 2)",
        "INSERT INTO rates SELECT NULL, code, 1 FROM countries",
        "UPDATE rates SET rate = (SELECT count(*) FROM countries)",
        "DELETE FROM rates",
    ] {
        let plan = bench.plan(sql, &[]);
        assert!(plan.starts_with("copies shard1, shard2, shard3 [placement"), "{sql}: {plan}");
    }
    for (sql, about) in [
        ("INSERT INTO countries SELECT name, '' FROM users", "users"),
        ("INSERT INTO rates (rate) SELECT id FROM notes", "notes"),
        ("UPDATE countries SET name = (SELECT max(body) FROM notes)", "notes"),
        ("INSERT INTO watched VALUES (1, 'x')", "watched"),
        ("DELETE FROM countries WHERE code = 'de'", "foreign key of users"),
        ("UPDATE countries SET code = 'x'", "foreign key of users"),
        ("REPLACE INTO countries VALUES ('de', '')", "foreign key of users"),
    ] {
        let plan = bench.plan(sql, &[]);
        assert!(plan.starts_with("refused unroutable") && plan.contains(about), "{sql}: {plan}");
    }
    assert!(bench.plan("UPDATE countries SET name = 'x'", &[]).starts_with("copies"));
}
