//! Writes that take the whole transaction with them, or that leave a part of theirs behind: the
//! others must not notice, wherever the borders of batches are.

use flotilla_shared::closed::DEFER_FOREIGN_KEYS;

use super::*;

const SCHEMA: &[&str] = &[
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)",
    "CREATE TABLE log (at TEXT DEFAULT CURRENT_TIMESTAMP, r DEFAULT (random()))",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
    "CREATE TABLE child (p REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE both (now REFERENCES parent (id), later REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TRIGGER refuse BEFORE INSERT ON t WHEN new.v = 'refused' BEGIN SELECT RAISE(ROLLBACK, 'refused'); END",
    "CREATE TRIGGER partly BEFORE INSERT ON t WHEN new.v = 'partly' BEGIN SELECT RAISE(FAIL, 'partly'); END",
];

/// Statements that fail in a way that one statement's rollback does not undo.
const BAD: &[&str] = &[
    "INSERT OR ROLLBACK INTO t (v) VALUES ('new'), ('taken')",
    "UPDATE OR ROLLBACK t SET v = 'taken' WHERE v <> 'taken'",
    "INSERT INTO t (v) VALUES ('new'), ('refused')",
    "INSERT INTO child VALUES (99)",
    "DELETE FROM parent",
    "INSERT INTO both VALUES (99, 99)",
    "INSERT OR FAIL INTO t (v) VALUES ('new'), ('taken')",
    "INSERT INTO t (v) VALUES ('new'), ('partly')",
    "INSERT INTO t (v) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 10001)
        SELECT x FROM c RETURNING id",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) INSERT INTO t (v) SELECT x FROM c",
    "INSERT INTO t (id) VALUES (9223372036854775807)",
    "INSERT INTO t (id) VALUES (9223372036854775807), (NULL)",
];

fn prepare() -> (Replica, Log) {
    let (replica, mut log) = with_schema(SCHEMA);
    replica.apply(&[log.writes(&[
        "INSERT INTO t (v) VALUES ('taken'), ('free')",
        "INSERT INTO parent VALUES (1), (2)",
        "INSERT INTO child VALUES (1)",
    ])]);
    replica.handle().lock().guard.set_max_steps(2_000_000);
    (replica, log)
}

/// Each such statement is refused, changes nothing, and the writes around it stay, in one entry as in
/// several.
#[test]
fn other_writes_stay() {
    for bad in BAD {
        let (together, mut log) = prepare();
        let (apart, _) = prepare();
        let good = "INSERT INTO log DEFAULT VALUES RETURNING *";
        let bad_write = log.write(bad);
        let pair = log.write_of(vec![Statement::bare(good), Statement::bare(*bad)]);
        let first = log.entry(Body::Writes(vec![log_write(1, good), bad_write.clone(), log_write(2, good)]));
        let entries = [first, log.entry(Body::Writes(vec![pair, bad_write])), log.writes(&[good, good])];
        let outcomes = together.apply(&entries);
        let alone: Vec<Outcome> = entries.iter().flat_map(|entry| apart.apply(std::slice::from_ref(entry))).collect();
        assert_eq!(outcomes, alone, "{bad}");
        assert_eq!(together.hash(), apart.hash(), "{bad}");
        assert!(results(&outcomes[0])[1].is_err(), "{bad}");
        assert!(results(&outcomes[1])[0].is_err(), "{bad}");
        assert_eq!(results(&outcomes[0])[1], results(&outcomes[1])[1], "remembered: {bad}");
        assert_eq!(together.count("log"), Value::Integer(4), "{bad}");
        assert_eq!(together.query("SELECT v FROM t ORDER BY id").len(), 2, "{bad}");
        assert_eq!((together.count("parent"), together.count("child")), (Value::Integer(2), Value::Integer(1)));
    }
}

fn log_write(number: u128, sql: &str) -> Write {
    Write { id: RequestId((1 << 100) + number), route: None, statements: vec![Statement::bare(sql)] }
}

/// The codes and words of these failures.
#[test]
fn what_they_answer() {
    let (replica, mut log) = prepare();
    let outcomes = replica.apply(&[log.writes(BAD)]);
    let errors: Vec<(Code, &str)> = results(&outcomes[0])
        .iter()
        .map(|result| result.as_ref().unwrap_err())
        .map(|error| (error.code, error.message.as_str()))
        .collect();
    let taken = (Code::Constraint, "UNIQUE constraint failed: t.v");
    let foreign = (Code::Constraint, "FOREIGN KEY constraint failed");
    assert_eq!(
        errors[..8],
        [taken, taken, (Code::Constraint, "refused"), foreign, foreign, foreign, taken, (Code::Constraint, "partly"),]
    );
    assert_eq!([errors[8].0, errors[9].0], [Code::TooLarge; 2]);
    assert_eq!([errors[10].0, errors[11].0], [Code::Constraint; 2]);
}

/// An entry of nothing but such writes comes to an end.
#[test]
fn many_in_one_entry() {
    let (replica, mut log) = prepare();
    let mut sql = vec![];
    for _ in 0..100 {
        sql.extend(["INSERT OR ROLLBACK INTO t (v) VALUES ('taken')", "INSERT INTO log DEFAULT VALUES"]);
    }
    let outcomes = replica.apply(&[log.writes(&sql)]);
    assert_eq!(results(&outcomes[0]).iter().filter(|result| result.is_err()).count(), 100);
    assert_eq!(replica.count("log"), Value::Integer(100));
}

/// A schema step before such a write, in the same batch, is undone and done again with it.
#[test]
fn schema_steps_are_redone() {
    let (replica, mut log) = prepare();
    let entries = [
        log.writes(&["INSERT INTO child VALUES (98)"]),
        log.schema(2, &["DROP TABLE child", "ALTER TABLE log ADD COLUMN more CHECK (more <> 1)", "CREATE TABLE n (x)"]),
        log.writes(&["INSERT INTO n VALUES (1)", BAD[0], "INSERT INTO n SELECT count(*) FROM n"]),
        log.schema(3, &["CREATE TABLE n (x)"]),
        log.schema(4, &["CREATE TABLE m (x)"]),
    ];
    let outcomes = replica.apply(&entries);
    assert_eq!(code(&results(&outcomes[0])[0]), Code::Constraint, "deferred, in a schema that is about to go");
    assert!(matches!(&outcomes[1], Outcome::Shard(Ok(_))), "{outcomes:?}");
    assert!(matches!(&outcomes[3], Outcome::Shard(Err(error)) if error.message == "table n already exists"));
    assert!(matches!(&outcomes[4], Outcome::Shard(Ok(_))));
    assert_eq!(integers(&replica.query("SELECT x FROM n")), [1, 1]);
}

/// Once a sequence has been raised to the largest rowid, by a row that was ignored or by hand, further
/// rows are refused with an answer: SQLite's code for it is that of a full disk.
#[test]
fn exhausted_sequences_are_answers() {
    let (replica, mut log) = with_schema(&["CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE)"]);
    let entry = log.writes(&[
        "INSERT INTO a (v) VALUES ('one')",
        "INSERT OR IGNORE INTO a (id, v) VALUES (9223372036854775807, 'one'), (NULL, 'two')",
        "INSERT OR IGNORE INTO a (id, v) VALUES (9223372036854775807, 'one')",
        "INSERT INTO a (v) VALUES ('three')",
        "UPDATE sqlite_sequence SET seq = 5",
        "INSERT INTO a (v) VALUES ('four')",
    ]);
    let outcomes = replica.apply(&[entry]);
    let results = results(&outcomes[0]);
    assert_eq!([code(&results[1]), code(&results[3])], [Code::Constraint; 2]);
    assert!(results[2].is_ok() && results[4].is_ok());
    assert_eq!(integers(&replica.query("SELECT id FROM a")), [1, 6]);
}

/// The step limit counts each statement from zero, whatever ran before it or is prepared already, and
/// does not count what we run for ourselves.
#[test]
fn steps_are_counted_alike() {
    let (mut replica, mut log) = with_schema(SCHEMA);
    let steps = |rows: usize| {
        format!(
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {rows})
             INSERT INTO parent SELECT max(x) FROM c WHERE 1 ON CONFLICT DO NOTHING"
        )
    };
    // Somewhere between the two the limit falls; it must fall on the same number of rows every time.
    let limit = |replica: &Replica, log: &mut Log| {
        replica.handle().lock().guard.set_max_steps(3_000_000);
        let fits = |log: &mut Log, rows| only(&replica.apply(&[log.writes(&[&steps(rows)])])).is_ok();
        let (mut low, mut high) = (10_000, 1_000_000);
        while high - low > 100 {
            let middle = (low + high) / 2;
            if fits(log, middle) { low = middle } else { high = middle }
        }
        assert!((0..3).all(|_| fits(log, low) && !fits(log, high)));
        low
    };
    let first = limit(&replica, &mut log);
    assert_eq!(limit(&replica, &mut log), first);
    replica.reopen();
    assert_eq!(limit(&replica, &mut log), first);
    replica.handle().lock().guard.set_max_steps(1_000_000_000);
    let fill = "WITH RECURSIVE c(x) AS (SELECT 3 UNION ALL SELECT x + 1 FROM c WHERE x < 200000)
        INSERT OR REPLACE INTO parent SELECT x FROM c";
    assert!(only(&replica.apply(&[log.writes(&[fill])])).is_ok());
    replica.handle().lock().guard.set_max_steps(1_000_000);
    for _ in 0..5 {
        replica.hash();
    }
}

/// Foreign keys of a write that says so are checked at its end, and those of the writes after it as ever,
/// whatever became of it.
#[test]
fn foreign_keys_are_checked_at_the_end() {
    let (replica, mut log) = with_schema(&["CREATE TABLE tree (id INTEGER PRIMARY KEY, up REFERENCES tree (id))"]);
    replica.apply(&[log.writes(&["INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2)"])]);
    let [one, two, three] =
        ["DELETE FROM tree WHERE id = 1", "DELETE FROM tree WHERE id = 2", "DELETE FROM tree WHERE id = 3"];
    let (orphan, parent) = ("INSERT INTO tree VALUES (9, 8)", "INSERT INTO tree VALUES (8, NULL)");
    for _ in 0..2 {
        let lists: &[(&[&str], Option<Code>)] = &[
            (&[one, two, three], Some(Code::Constraint)),
            (&[DEFER_FOREIGN_KEYS, one, "nonsense"], Some(Code::SqlError)),
            (&[one, two, three], Some(Code::Constraint)),
            (&[DEFER_FOREIGN_KEYS, one, two], Some(Code::Constraint)),
            (&[orphan, parent], Some(Code::Constraint)),
            (&[DEFER_FOREIGN_KEYS, one, two, three], None),
            (&[orphan, parent], Some(Code::Constraint)),
            (&[DEFER_FOREIGN_KEYS, orphan, parent], None),
            (&[DEFER_FOREIGN_KEYS, "DELETE FROM tree WHERE id = 8", "UPDATE tree SET up = NULL"], None),
            (&[DEFER_FOREIGN_KEYS, "DELETE FROM tree", "INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2)"], None),
            (&[one], Some(Code::Constraint)),
        ];
        let writes = lists.iter().map(|(list, _)| log.write_of(list.iter().map(|sql| Statement::bare(*sql)).collect()));
        let writes: Vec<Write> = writes.collect();
        let outcomes = replica.apply(&[log.entry(Body::Writes(writes))]);
        for ((list, wanted), result) in lists.iter().zip(results(&outcomes[0])) {
            assert_eq!(result.as_ref().err().map(|error| error.code), *wanted, "{list:?}: {result:?}");
            assert!(result.as_ref().is_ok_and(|results| results.len() == list.len()) || wanted.is_some(), "{list:?}");
        }
        assert_eq!(replica.count("tree"), Value::Integer(3));
    }
}
