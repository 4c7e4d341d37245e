//! What writes answer, and that each is applied once.

use super::*;

const TABLE: &[&str] = &["CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE, w DEFAULT 7)"];

fn done(last_insert_id: i64, rows_affected: u64) -> WriteResult {
    Ok(vec![StatementResult { last_insert_id, rows_affected, rows: None }])
}

/// Inserts, updates and deletes tell rowid and count, and RETURNING its rows.
#[test]
fn results_of_writes() {
    let (replica, mut log) = with_schema(TABLE);
    let entry = log.writes(&[
        "INSERT INTO t (v) VALUES ('a'), ('b')",
        "UPDATE t SET w = 8",
        "UPDATE t SET w = w WHERE 0",
        "DELETE FROM t WHERE v = 'b' RETURNING id, v AS x, w + 1",
        "UPDATE t SET w = 1 WHERE 0 RETURNING id",
        "SELECT v FROM t",
    ]);
    let outcomes = replica.apply(&[entry]);
    let results = results(&outcomes[0]);
    assert_eq!(results[0], done(2, 2));
    assert_eq!(results[1], done(0, 2), "the write inserted nothing itself");
    assert_eq!(results[2], done(0, 0));
    let deleted = &results[3].as_ref().unwrap()[0];
    assert_eq!(deleted.rows_affected, 1);
    let rows = deleted.rows.as_ref().unwrap();
    assert_eq!(rows.columns, ["id", "x", "w + 1"]);
    assert_eq!(rows.types, ["integer", "", ""]);
    assert_eq!(rows.values, [vec![Value::Integer(2), Value::Text("b".into()), Value::Integer(9)]]);
    let none = results[4].as_ref().unwrap()[0].rows.as_ref().unwrap();
    assert_eq!((none.columns.len(), none.values.len()), (1, 0));
    let selected = &results[5].as_ref().unwrap()[0];
    assert_eq!((selected.rows_affected, selected.rows.as_ref().unwrap().values.len()), (0, 1));
}

/// What SQLite says about a statement is an answer, and the other writes of the entry go on.
#[test]
fn sql_errors_are_answers() {
    let (replica, mut log) = with_schema(TABLE);
    let entry = log.writes(&[
        "INSERT INTO t (v) VALUES ('a')",
        "INSERT INTO t (v) VALUES ('a')",
        "INSERT INTO nope VALUES (1)",
        "INSERT INTO t (nope) VALUES (1)",
        "this is not SQL",
        "",
        " ;; -- nothing\n /* at */ /* all",
        "INSERT INTO t (v) VALUES (1); INSERT INTO t (v) VALUES (2)",
        "INSERT INTO t (v) VALUES (abs(-9223372036854775808))",
        "INSERT INTO t (v) VALUES (printf('%.*c', 20000000, 'x'))",
        "EXPLAIN INSERT INTO t (v) VALUES ('x')",
        "INSERT INTO t (v) VALUES ('b')",
    ]);
    let outcomes = replica.apply(&[entry]);
    let results = results(&outcomes[0]);
    let codes: Vec<Code> = results[1..11].iter().map(code).collect();
    assert_eq!(
        codes,
        [
            Code::Constraint,
            Code::NoSuchTable,
            Code::SqlError,
            Code::SqlError,
            Code::SqlError,
            Code::SqlError,
            Code::BadRequest,
            Code::SqlError,
            Code::TooLarge,
            Code::Forbidden,
        ]
    );
    assert_eq!(results[1].as_ref().unwrap_err().message, "UNIQUE constraint failed: t.v");
    assert_eq!(results[11], done(2, 1));
}

/// Arguments must match the parameters one to one.
#[test]
fn arguments() {
    let (replica, mut log) = with_schema(TABLE);
    let params = |list: &[i64]| Params::Positional(list.iter().copied().map(Value::Integer).collect());
    let sql = "INSERT INTO t (id, v) VALUES (?1, ?2)";
    let named = Params::Named(vec![("a".into(), Value::Integer(5)), (":b".into(), Value::Blob(vec![1]))]);
    let statements = [
        Statement { sql: sql.into(), params: params(&[1, 2]) },
        Statement { sql: sql.into(), params: params(&[1]) },
        Statement { sql: sql.into(), params: params(&[1, 2, 3]) },
        Statement { sql: "INSERT INTO t (id, v) VALUES (:a, :b)".into(), params: named.clone() },
        Statement { sql: "INSERT INTO t (id, v) VALUES (:a, :c)".into(), params: named },
    ];
    let writes = statements.into_iter().map(|statement| log.write_of(vec![statement])).collect();
    let outcomes = replica.apply(&[log.entry(Body::Writes(writes))]);
    let results = results(&outcomes[0]);
    assert_eq!(results[0], done(1, 1));
    assert_eq!(results[3], done(5, 1));
    assert!([1, 2, 4].iter().all(|index| code(&results[*index]) == Code::WrongArgCount), "{results:?}");
    assert_eq!(integers(&replica.query("SELECT id FROM t")), [1, 5]);
}

/// Several statements of one write take effect together or not at all.
#[test]
fn several_statements_are_atomic() {
    let (replica, mut log) = with_schema(TABLE);
    let all = |sql: &[&str]| sql.iter().map(|sql| Statement::bare(*sql)).collect::<Vec<_>>();
    let good = log.write_of(all(&[
        "INSERT INTO t (v) VALUES (1)",
        "INSERT INTO t (v) SELECT v + 1 FROM t RETURNING id",
        "SELECT count(*), changes(), total_changes(), last_insert_rowid() FROM t",
    ]));
    let bad = log.write_of(all(&["DELETE FROM t", "INSERT INTO t (v) VALUES (1)", "INSERT INTO t (v) VALUES (1)"]));
    let late = log.write_of(all(&["UPDATE t SET w = 0", "INSERT INTO nope VALUES (1)"]));
    let empty = log.write_of(vec![]);
    let outcomes = replica.apply(&[log.entry(Body::Writes(vec![good, bad, late, empty]))]);
    let results = results(&outcomes[0]);
    let good = results[0].as_ref().unwrap();
    assert_eq!(good[1].rows.as_ref().unwrap().values, [[Value::Integer(2)]]);
    assert_eq!(good[2].rows.as_ref().unwrap().values, [[2, 1, 2, 2].map(Value::Integer)]);
    assert_eq!(code(&results[1]), Code::Constraint);
    assert_eq!(code(&results[2]), Code::NoSuchTable);
    assert_eq!(results[3], Ok(vec![]));
    assert_eq!(replica.query("SELECT v, w FROM t"), [[1, 7].map(Value::Integer), [2, 7].map(Value::Integer)]);
}

/// A request that comes again, in the same entry, a later one, or after a restart, is not applied
/// again and gives the first result, errors included.
#[test]
fn duplicates_give_the_first_result() {
    let (mut replica, mut log) = with_schema(TABLE);
    let good = log.write("INSERT INTO t (v) VALUES (random()) RETURNING v");
    let failed = log.write("INSERT INTO t (id) VALUES ('no integer')");
    let bound = |log: &mut Log| log.entry(Body::Writes(vec![good.clone(), failed.clone(), good.clone()]));
    let first = replica.apply(&[bound(&mut log), bound(&mut log)]);
    let results = results(&first[0]);
    assert!(results[0].is_ok() && results[1].is_err());
    assert_eq!(results[0], results[2]);
    assert_eq!(first[0], first[1]);
    replica.reopen();
    assert_eq!(replica.apply(&[bound(&mut log)]), first[..1]);
    let follower = Replica::new();
    follower.take_snapshot_of(&replica);
    let again = bound(&mut log);
    assert_eq!(follower.apply(std::slice::from_ref(&again)), first[..1]);
    assert_eq!(replica.apply(&[again]), first[..1]);
    assert_eq!(follower.hash(), replica.hash());
    assert_eq!(replica.count("t"), Value::Integer(1));
}

/// A result that is too large to keep is not given again, but its request is not applied again either.
#[test]
fn large_results_are_not_kept() {
    let (replica, mut log) = with_schema(TABLE);
    let write = log.write("INSERT INTO t (v) VALUES (randomblob(100000)) RETURNING v");
    let body = Body::Writes(vec![write.clone(), write]);
    let outcomes = replica.apply(&[log.entry(body)]);
    let results = results(&outcomes[0]);
    assert!(results[0].is_ok());
    assert_eq!(code(&results[1]), Code::ResultForgotten);
    assert_eq!(replica.count("t"), Value::Integer(1));
}

/// A write planned with an old schema, or for a slot or version that this shard does not have, is
/// refused; since it is not remembered, it succeeds once it is planned anew.
#[test]
fn stale_routes() {
    let (replica, mut log) = with_schema(TABLE);
    let slots = |first, last| SlotSet::range(flotilla_shared::ids::Slot(first), flotilla_shared::ids::Slot(last));
    let placement = PlacementId(3);
    replica.apply(&[log.entry(Body::Shard(ShardCommand::Own { placement, epoch: Epoch(2), slots: slots(10, 20) }))]);
    let claim = |slots, epoch| Claim { placement, epoch: Epoch(epoch), slots };
    let route = |schema, claims: &[Claim]| Some(Route { schema: SchemaVersion(schema), claims: claims.to_vec() });
    let stale = [
        route(0, &[]),
        route(1, &[claim(Some(slots(9, 10)), 2)]),
        route(1, &[claim(Some(slots(11, 12)), 2), claim(Some(slots(20, 21)), 2)]),
        route(1, &[claim(None, 1)]),
        route(1, &[claim(None, 3)]),
        route(1, &[Claim { placement: PlacementId(4), epoch: Epoch(2), slots: Some(slots(10, 10)) }]),
    ];
    let fresh = [
        route(1, &[]),
        route(2, &[]),
        route(1, &[claim(Some(slots(10, 20)), 1)]),
        route(1, &[claim(None, 2), claim(Some(slots(15, 15)), 2)]),
    ];
    let write = log.write("INSERT INTO t (v) VALUES (1)");
    for route in stale {
        let write = Write { route: route.clone(), ..write.clone() };
        let outcomes = replica.apply(&[log.entry(Body::Writes(vec![write]))]);
        assert_eq!(code(only(&outcomes)), Code::StaleRoute, "{route:?}");
    }
    assert_eq!(replica.count("t"), Value::Integer(0));
    assert!(replica.handle().lock().requests().is_empty());
    let now = Write { route: fresh[3].clone(), ..write.clone() };
    let outcomes = replica.apply(&[log.entry(Body::Writes(vec![now]))]);
    assert_eq!(*only(&outcomes), done(1, 1));
    for (number, route) in fresh.into_iter().enumerate() {
        let write = Write { route, ..log.write(&format!("INSERT INTO t (v) VALUES ({number} + 10)")) };
        assert!(only(&replica.apply(&[log.entry(Body::Writes(vec![write]))])).is_ok());
    }
}

/// A replica that restarts goes on from the entry that it applied last, and passes over entries that
/// it has.
#[test]
fn restarts_continue_from_the_applied_index() {
    let (mut replica, mut log) = with_schema(TABLE);
    let other = Replica::new();
    let mut entries = vec![Log::new().schema(1, TABLE)];
    for number in 0..20 {
        entries.push(log.writes(&[&format!("INSERT INTO t (v, w) VALUES ({number}, random())")]));
    }
    other.apply(&entries);
    for pair in entries[1..].chunks(2) {
        assert_eq!(replica.applied(), pair[0].log_id.index - 1);
        replica.apply(pair);
        replica.reopen();
        assert_eq!(replica.applied(), pair[1].log_id.index);
    }
    assert_eq!(replica.hash(), other.hash());
    let passed = replica.apply(&entries[..5]);
    assert!(passed.iter().all(|outcome| *outcome == Outcome::Empty));
    assert_eq!(replica.hash(), other.hash());
}

/// Blank and membership entries only move the applied index, and the membership survives a restart.
#[test]
fn other_entries() {
    let mut replica = Replica::new();
    let membership = openraft::Membership::new_with_defaults(vec![[1, 2].into()], [3]);
    let entries = [entry_at(1, Payload::Blank), entry_at(2, Payload::Membership(membership.clone()))];
    assert_eq!(replica.apply(&entries), [Outcome::Empty, Outcome::Empty]);
    replica.reopen();
    let machine = replica.handle().lock();
    assert_eq!(machine.applied.log_id, Some(entries[1].log_id));
    assert_eq!(machine.applied.membership.membership(), &membership);
}

/// A cached RETURNING * tells the columns that the table has now.
#[test]
fn columns_after_a_schema_change() {
    let (replica, mut log) = with_schema(TABLE);
    let sql = "INSERT INTO t (v) VALUES (random()) RETURNING *";
    replica.apply(&[log.writes(&[sql])]);
    let alter = log.schema(2, &["ALTER TABLE t ADD COLUMN x DEFAULT 3"]);
    let outcomes = replica.apply(&[alter, log.writes(&[sql])]);
    let rows = results(&outcomes[1])[0].as_ref().unwrap()[0].rows.clone().unwrap();
    assert_eq!(rows.columns, ["id", "v", "w", "x"]);
    assert_eq!(rows.values[0][3], Value::Integer(3));
}

/// A write that begins with a guard does nothing when its rows are not what they were, and its id is used up: the same
/// write that comes late changes nothing either.
#[test]
fn guards_refuse_changed_rows() {
    let (replica, mut log) = with_schema(TABLE);
    replica.apply(&[log.writes(&["INSERT INTO t (id, v) VALUES (1, 'a'), (2, 'b')"])]);
    let guard = |seen: &str| {
        format!(
            "SELECT 1 FROM (SELECT count(*) AS n FROM main.t WHERE id IN (1, 2) AND flotilla_digest(id, v) IN ({seen})) WHERE flotilla_unchanged(n, 2)"
        )
    };
    let (right, wrong) =
        ("flotilla_digest(1, 'a'), flotilla_digest(2, 'b')", "flotilla_digest(1, 'a'), flotilla_digest(2, 'B')");
    let list = |guard: &str, write: &str| vec![Statement::bare(guard), Statement::bare(write)];
    let late = log.write_of(list(&guard(wrong), "DELETE FROM t"));
    let good = log.write_of(list(&guard(right), "UPDATE t SET w = 8 RETURNING id"));
    let change = log.write("UPDATE t SET v = 'B' WHERE id = 2");
    let entry = log.entry(Body::Writes(vec![late.clone(), good.clone(), change, late, good]));
    let outcomes = replica.apply(&[entry]);
    let results = results(&outcomes[0]);
    assert_eq!(results[0].as_ref().unwrap_err().code, Code::RowsChanged);
    let answers = results[1].as_ref().unwrap();
    assert_eq!(answers[0].rows.as_ref().unwrap().values.len(), 0, "a guard answers without rows");
    assert_eq!((answers[1].rows_affected, answers[1].rows.as_ref().unwrap().values.len()), (2, 2));
    assert_eq!(results[3], results[0], "remembered, though the rows are now what it was decided on");
    assert_eq!(results[4], results[1]);
    assert_eq!(replica.count("t"), Value::Integer(2));
}
