//! Apply is a function of state and entry: time, randomness and history come from nowhere else.

use std::collections::HashSet;

use super::*;

const SCHEMA: &[&str] = &[
    "CREATE TABLE out (v, w, x)",
    "CREATE TABLE d (id INTEGER PRIMARY KEY AUTOINCREMENT, at DEFAULT CURRENT_TIMESTAMP, day DEFAULT CURRENT_DATE,
        hour DEFAULT CURRENT_TIME, r DEFAULT (random()), b DEFAULT (randomblob(6)), j DEFAULT (julianday('now')))",
    "CREATE TABLE g (v, at TEXT DEFAULT (datetime('now', 'subsec')), u AS (upper(at)) STORED, l AS (length(at)))",
    "CREATE TABLE checked (v CHECK (v > unixepoch('2000-01-01') AND v < 9e9))",
    "CREATE TABLE counted (v, c, t, l)",
    "CREATE VIEW now AS SELECT CURRENT_TIMESTAMP AS at, random() AS r, strftime('%f', 'now') AS f",
    "CREATE TRIGGER stamp AFTER INSERT ON g BEGIN
        INSERT INTO out VALUES ('trigger', CURRENT_TIMESTAMP, random());
        UPDATE out SET x = changes() WHERE v = 'nothing';
        INSERT INTO counted VALUES (new.v, changes(), total_changes(), last_insert_rowid()); END",
    "CREATE TRIGGER first AFTER INSERT ON checked BEGIN
        INSERT INTO counted VALUES (new.v, changes(), total_changes(), last_insert_rowid());
        INSERT INTO counted SELECT v, changes(), total_changes(), last_insert_rowid() FROM counted; END",
    "CREATE TABLE full (id INTEGER PRIMARY KEY, v)",
    "CREATE TABLE odd (id INTEGER PRIMARY KEY)",
    "CREATE TRIGGER refuse AFTER INSERT ON odd WHEN new.id % 2 = 0 BEGIN SELECT RAISE(ABORT, 'even'); END",
];

/// Expressions over the clock, randomness, history and the library.
const EXPRESSIONS: &[&str] = &[
    "random()",
    "abs(random() / 2)",
    "hex(randomblob(16))",
    "hex(randomblob(0))",
    "hex(randomblob(-3))",
    "hex(randomblob('5'))",
    "hex(randomblob(3.7))",
    "hex(randomblob(NULL))",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "date()",
    "time()",
    "datetime()",
    "julianday()",
    "unixepoch()",
    "date('now')",
    "time('now')",
    "datetime('now')",
    "julianday('now')",
    "unixepoch('now')",
    "time('now', 'subsec')",
    "datetime('now', 'subsecond')",
    "unixepoch('now', 'subsec')",
    "datetime('now', 'localtime')",
    "datetime('now', 'utc')",
    "datetime('now', 'localtime', 'utc')",
    "datetime(unixepoch('now'), 'auto')",
    "datetime(julianday('now'), 'auto', 'localtime')",
    "date('now', 'start of month', '+1 month', '-1 day', 'weekday 2')",
    "date('now', 'start of year', 'ceiling')",
    "date('now', '+1 month', 'floor')",
    "strftime('%Y-%m-%d %H:%M:%f %J %s %w %W %j %u %e %G %V', 'now')",
    "strftime('%s')",
    "strftime('%Y %H', 'now', 'localtime')",
    "timediff('now', '2000-01-01')",
    "timediff('2100-01-01 10:00', 'now')",
    "typeof(now.at) || now.f",
    "now.r",
    "changes()",
    "total_changes()",
    "last_insert_rowid()",
    "sqlite_version()",
    "sqlite_source_id()",
    "sqlite_compileoption_used('THREADSAFE')",
    "printf('%d %s %e %.17g %!.20g', random(), CURRENT_TIME, random(), julianday('now'), 0.1)",
    "format('%p %x %c %q %w', 10, random(), 'ab', 'it''s', 'x\"y')",
    "(SELECT group_concat(v) FROM (SELECT v FROM out ORDER BY random() LIMIT 5))",
    "(SELECT count(*) FROM out WHERE random() % 2 = 0)",
    "(SELECT max(random()) OVER () FROM out LIMIT 1)",
    "CASE WHEN random() % 2 THEN datetime('now') ELSE random() END",
    "1e308 * 10 || '' || 0.1 + 0.2",
    "round(random() / 7.0, 3) || (random() % 100) / 3.0 || abs(-0.0)",
    "json_object('r', random(), 'at', CURRENT_TIMESTAMP)",
    "(SELECT group_concat(atom) FROM json_tree(json_array(random(), 1)))",
    "soundex('flotilla') || hex(zeroblob(3)) || unicode('é') || quote(random())",
    "likelihood(random(), 0.5)",
    "(SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema))",
];

/// Whole statements.
const STATEMENTS: &[&str] = &[
    "INSERT INTO d DEFAULT VALUES RETURNING *",
    "INSERT INTO d (id) VALUES (NULL), (NULL)",
    "INSERT INTO g (v) VALUES (random()), (2) RETURNING *",
    "INSERT INTO g (v) SELECT v FROM out ORDER BY random() LIMIT 2",
    "INSERT INTO checked VALUES (unixepoch())",
    "INSERT INTO checked VALUES (unixepoch() + 9e9)",
    "UPDATE d SET at = CURRENT_TIMESTAMP, r = random() WHERE id % 2",
    "DELETE FROM out WHERE rowid IN (SELECT rowid FROM out ORDER BY random() LIMIT 3)",
    "DELETE FROM d WHERE r < 0",
    "INSERT INTO full VALUES (9223372036854775807, 'last')",
    "INSERT INTO full VALUES (9223372036854775806, 'last but one'), (NULL, 'last'), (NULL, 'random')",
    "INSERT INTO full (v) VALUES (random())",
    "INSERT OR REPLACE INTO full VALUES (9223372036854775805, 'high')",
    "UPDATE full SET id = -id",
    "INSERT INTO odd VALUES (9223372036854775807), (NULL), (NULL)",
    "SELECT a, a, a, a, a, a, a FROM (SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a, 5 AS a, 6 AS a, 7 AS a)",
    "SELECT * FROM (SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a, 5 AS a, 6 AS a, 7 AS a)",
    "SELECT *, random() FROM now",
    "INSERT INTO counted VALUES (1, changes(), total_changes(), last_insert_rowid()) RETURNING changes(), c",
];

fn entries(seed: u64) -> Vec<Entry> {
    let (mut log, mut random) = (Log::new(), Random(seed));
    let mut entries = vec![log.schema(1, SCHEMA)];
    for _ in 0..40 {
        let mut writes = vec![];
        for _ in 0..1 + random.below(5) {
            let count = 1 + random.below(3);
            let mut statements = vec![];
            for _ in 0..count {
                let sql = match random.below(3) {
                    0 => random.pick(STATEMENTS).to_owned(),
                    _ => format!(
                        "INSERT INTO out SELECT {}, {}, {} FROM now RETURNING *",
                        random.pick(EXPRESSIONS),
                        random.pick(EXPRESSIONS),
                        random.pick(EXPRESSIONS)
                    ),
                };
                statements.push(Statement::bare(sql));
            }
            writes.push(log.write_of(statements));
        }
        log.at_us += random.below(100_000_000_000) as i64;
        entries.push(log.entry(Body::Writes(writes)));
    }
    entries
}

/// The three machines' surroundings differ in time zone, wall clock, what their process did before,
/// borders of batches and restarts.
fn machines(entries: &[Entry]) -> Vec<(Vec<Outcome>, u64)> {
    let mut all = vec![];
    for (machine, zone) in ["UTC", "America/New_York", "Asia/Kathmandu"].into_iter().enumerate() {
        // SAFETY: SQLite would read the zone through the C library; no other test reads it.
        unsafe { std::env::set_var("TZ", zone) };
        let mut replica = Replica::new();
        let mut outcomes = vec![];
        for (number, batch) in entries.chunks(1 + 6 * machine).enumerate() {
            if machine == 2 {
                replica.query("SELECT random(), randomblob(9), CURRENT_TIMESTAMP, changes() FROM sqlite_schema");
                if number % 2 == 0 {
                    replica.reopen();
                }
            }
            outcomes.extend(replica.apply(batch));
        }
        all.push((outcomes, replica.hash()));
        std::thread::sleep(Duration::from_millis(20));
    }
    all
}

/// Machines that differ in everything but their entries have equal content and give equal answers.
#[test]
fn machines_agree() {
    for seed in 1..=12 {
        println!("seed {seed}");
        let entries = entries(seed);
        let all = machines(&entries);
        for (index, entry) in entries.iter().enumerate() {
            assert_eq!(all[0].0[index], all[1].0[index], "seed {seed}: {entry:?}");
            assert_eq!(all[0].0[index], all[2].0[index], "seed {seed}: {entry:?}");
        }
        assert_eq!((all[0].1, all[1].1), (all[1].1, all[2].1), "seed {seed}");
        let failed = all[0].0.iter().skip(1).flat_map(results).filter(|result| result.is_err()).count();
        let total = all[0].0.iter().skip(1).flat_map(results).count();
        assert!(failed * 3 < total, "{failed} of {total} writes failed: the test tests little");
    }
}

/// Every expression works, and gives the same on a machine that restarts before each one.
#[test]
fn every_expression() {
    let (one, mut log) = with_schema(SCHEMA);
    let (mut two, _) = with_schema(SCHEMA);
    for expression in EXPRESSIONS {
        let entry = log.writes(&[&format!("INSERT INTO out SELECT {expression}, 1, 2 FROM now RETURNING v")]);
        let outcomes = one.apply(std::slice::from_ref(&entry));
        assert!(only(&outcomes).is_ok(), "{expression}: {outcomes:?}");
        two.reopen();
        assert_eq!(two.apply(&[entry]), outcomes, "{expression}");
    }
    for statement in STATEMENTS {
        let entry = log.writes(&[statement]);
        two.reopen();
        assert_eq!(two.apply(std::slice::from_ref(&entry)), one.apply(&[entry]), "{statement}");
    }
    assert_eq!(one.hash(), two.hash());
}

/// The clock is the entry's, to the millisecond, and local time is UTC.
#[test]
fn the_clock_is_the_entry() {
    let (replica, mut log) = with_schema(SCHEMA);
    log.at_us = EPOCH_US + 86_400_000_000 + 123_456;
    let entry = log.writes(&["INSERT INTO out VALUES (datetime('now', 'subsec'), CURRENT_TIMESTAMP,
        datetime('now', 'localtime'))"]);
    replica.apply(&[entry]);
    let text = |text: &str| Value::Text(text.into());
    assert_eq!(
        replica.query("SELECT v, w, x FROM out"),
        [[text("2024-01-02 00:00:01.123"), text("2024-01-02 00:00:01"), text("2024-01-02 00:00:01")]]
    );
    // A leader with a clock behind that of the one before it does not turn time back.
    log.at_us -= 50_000_000;
    replica.apply(&[log.writes(&["INSERT INTO out (v) VALUES (datetime('now', 'subsec'))"])]);
    assert_eq!(replica.query("SELECT v FROM out")[1], [text("2024-01-02 00:00:01.123")]);
    // Reads see the clock on the wall.
    assert_ne!(replica.value("SELECT date()"), text("2024-01-02"));
}

/// Randomness differs between rows, statements, writes and entries, and covers its range.
#[test]
fn randomness_differs() {
    let (replica, mut log) = with_schema(&["CREATE TABLE r (v)"]);
    for _ in 0..50 {
        let pair = log.write_of(vec![Statement::bare("INSERT INTO r VALUES (random()), (random())"); 2]);
        let blob = log.write("INSERT INTO r VALUES (randomblob(8))");
        replica.apply(&[log.entry(Body::Writes(vec![pair, blob]))]);
    }
    let values = replica.query("SELECT v FROM r");
    let distinct: HashSet<String> = values.iter().map(|row| format!("{row:?}")).collect();
    assert_eq!((values.len(), distinct.len()), (250, 250));
    let negative =
        integers(&replica.query("SELECT v FROM r WHERE typeof(v) = 'integer'")).iter().filter(|v| **v < 0).count();
    assert!((60..140).contains(&negative), "{negative} of 200");
}

/// What SQLite says of its own history is about the write at hand: as in a connection of its own.
#[test]
fn history_starts_with_the_write() {
    let (replica, mut log) = with_schema(SCHEMA);
    for _ in 0..2 {
        replica.apply(&[log.writes(&[
            "DELETE FROM counted",
            "DELETE FROM checked",
            "INSERT INTO out VALUES (1, 2, 3), (4, 5, 6)",
            "INSERT INTO checked VALUES (unixepoch())",
        ])]);
        let rows = replica.query("SELECT c, t, l FROM counted");
        // As SQLite counts inside a trigger: nothing yet, then one row by the trigger itself.
        let plain = rusqlite::Connection::open_in_memory().unwrap();
        for sql in SCHEMA {
            plain.execute_batch(sql).unwrap();
        }
        plain.execute_batch("INSERT INTO checked VALUES (unixepoch())").unwrap();
        let mut query = plain.prepare("SELECT c, t, l FROM counted").unwrap();
        let expected: Vec<Vec<Value>> = query
            .query_map([], |row| (0..3).map(|index| Ok(Value::Integer(row.get(index)?))).collect())
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(rows, expected);
    }
}

/// CREATE TABLE AS with many columns of one name is refused: SQLite gives them random names.
#[test]
fn random_column_names() {
    let (replica, mut log) = with_schema(SCHEMA);
    let five = "CREATE TABLE five AS SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a, 5 AS a";
    assert!(matches!(&replica.apply(&[log.schema(2, &[five])])[0], Outcome::Shard(Ok(_))));
    let seven = "CREATE TABLE seven AS SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a, 5 AS a, 6 AS a, 7 AS a";
    let outcomes = replica.apply(&[log.schema(3, &[seven])]);
    assert!(matches!(&outcomes[0], Outcome::Shard(Err(error)) if error.code == Code::SqlError), "{outcomes:?}");
}

/// The checks above can fail: on SQLite as it comes, two connections differ in nearly all of it.
#[test]
fn plain_sqlite_differs() {
    let run = |warm: bool| {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        for sql in SCHEMA {
            db.execute_batch(sql).unwrap();
        }
        if warm {
            db.execute_batch("INSERT INTO full (v) VALUES (1), (2); DELETE FROM full").unwrap();
        }
        let value = |expression: &str| -> String {
            let sql = format!("SELECT quote({expression}) FROM now");
            db.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        EXPRESSIONS.iter().map(|expression| value(expression)).collect::<Vec<String>>()
    };
    let one = run(false);
    std::thread::sleep(Duration::from_millis(1100));
    let two = run(true);
    let differ: Vec<&str> =
        (0..one.len()).filter(|index| one[*index] != two[*index]).map(|index| EXPRESSIONS[index]).collect();
    for wanted in ["random()", "CURRENT_TIMESTAMP", "julianday()", "changes()", "total_changes()", "unixepoch('now')"] {
        assert!(differ.contains(&wanted), "{wanted} does not differ: {differ:?}");
    }
    assert!(differ.len() > 25, "{differ:?}");
}
