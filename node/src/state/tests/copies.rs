//! Reference tables on a shard: writes that all shards repeat alike, and rows for new copies.

use flotilla_shared::registry::{HOME_SHARD, MAX_COPIED_ROWS};
use flotilla_shared::wire::{CopiedRow, CopyState, CopyWrite, NewHome, StatementResult};

use super::*;

const TABLE: &str = "CREATE TABLE r (id INTEGER PRIMARY KEY AUTOINCREMENT, n UNIQUE, at DEFAULT CURRENT_TIMESTAMP, x DEFAULT (random()))";

fn shard(replica: &Replica, log: &mut Log, step: ShardCommand) -> Result<ShardReply, Error> {
    match replica.apply(&[log.entry(Body::Shard(step))]).remove(0) {
        Outcome::Shard(reply) => reply,
        other => panic!("not a shard's answer: {other:?}"),
    }
}

fn write(job: u64, request: Option<u128>, sql: &[&str]) -> CopyWrite {
    CopyWrite {
        job: JobId(job),
        request: request.map(RequestId),
        at_us: EPOCH_US + 7,
        seed: 99,
        statements: sql.iter().map(|sql| Statement::bare(*sql)).collect(),
        epochs: vec![(PlacementId(1), Epoch(job))],
        dry_run: false,
    }
}

fn run(replica: &Replica, log: &mut Log, write: &CopyWrite) -> Result<(Vec<StatementResult>, CopyState), Error> {
    match shard(replica, log, ShardCommand::WriteCopy(write.clone()))? {
        ShardReply::Written { results, state } => Ok((results, state)),
        other => panic!("not a write: {other:?}"),
    }
}

/// A shard with the table, and what else it went through.
fn copy(history: &[&str]) -> (Replica, Log) {
    let (replica, mut log) = with_schema(&[TABLE, "CREATE TABLE other (v)"]);
    for sql in history {
        let outcomes = replica.apply(&[log.writes(&[*sql])]);
        only(&outcomes).as_ref().unwrap();
    }
    let slots = SlotSet::all(1);
    let own = ShardCommand::Own { placement: PlacementId(1), epoch: Epoch(1), slots };
    shard(&replica, &mut log, own).unwrap();
    (replica, log)
}

fn epoch_is(replica: &Replica, epoch: u64) -> bool {
    let claim = Claim { placement: PlacementId(1), epoch: Epoch(epoch), slots: None };
    let route = Route { schema: SchemaVersion(u64::MAX), claims: vec![claim] };
    replica.read(&Read { route: Some(route), ..select("SELECT 1") }).is_ok()
}

/// Shards with different pasts compute the same rows, whatever time and randomness their entries have;
/// a repeated step changes nothing, also after a restart, and each write raises the version once.
#[test]
fn copies_stay_equal() {
    let (mut a, mut log_a) = copy(&["INSERT INTO other VALUES (1), (2), (3)", "DELETE FROM other WHERE v > 1"]);
    let (b, mut log_b) = copy(&[]);
    let writes = [
        write(2, Some(1001), &["INSERT INTO r (n, x) VALUES (changes(), last_insert_rowid()), (7, total_changes())"]),
        write(
            3,
            Some(1002),
            &["INSERT INTO r (n) VALUES (hex(randomblob(4))) RETURNING *", "DELETE FROM r WHERE n = 7"],
        ),
        write(4, Some(1003), &["INSERT INTO r (n, x) SELECT n || 'x', julianday('now') FROM r"]),
    ];
    for one in &writes {
        let (results, state) = run(&a, &mut log_a, one).unwrap();
        assert_eq!(state, CopyState::Applied);
        assert_eq!(run(&b, &mut log_b, &CopyWrite { request: None, ..one.clone() }).unwrap(), (results.clone(), state));
        a.reopen();
        assert_eq!(run(&a, &mut log_a, one).unwrap(), (results, state), "the answer is kept");
    }
    let rows = "SELECT *, rowid FROM r ORDER BY id";
    assert_eq!(a.query(rows), b.query(rows));
    assert_eq!(a.count("r"), Value::Integer(4));
    assert!(epoch_is(&a, 4) && epoch_is(&b, 4) && !epoch_is(&a, 3));
}

/// A try leaves nothing behind, an error leaves nothing behind, and neither raises the version.
#[test]
fn tries_and_errors_leave_nothing() {
    let (a, mut log) = copy(&[]);
    run(&a, &mut log, &write(2, None, &["INSERT INTO r (n) VALUES (1)"])).unwrap();
    let hash = |replica: &Replica| replica.query("SELECT * FROM r, sqlite_sequence");
    let before = hash(&a);
    let dry = CopyWrite { dry_run: true, ..write(3, Some(5), &["INSERT INTO r (n) VALUES (2)"]) };
    assert_eq!(run(&a, &mut log, &dry).unwrap().1, CopyState::Tried);
    let twice = ["INSERT INTO r (n) VALUES (2)", "INSERT INTO r (n) VALUES (1)"];
    for dry_run in [true, false] {
        let failing = CopyWrite { dry_run, ..write(3, Some(5), &twice) };
        assert_eq!(run(&a, &mut log, &failing).unwrap_err().code, Code::Constraint);
        let long = CopyWrite { dry_run, ..write(3, Some(5), &["UPDATE r SET x = zeroblob(20000) RETURNING x"]) };
        assert_eq!(run(&a, &mut log, &long).unwrap_err().code, Code::TooLarge);
        let forbidden = CopyWrite { dry_run, ..write(3, Some(5), &["DELETE FROM _flotilla_jobs"]) };
        assert_eq!(run(&a, &mut log, &forbidden).unwrap_err().code, Code::Forbidden);
    }
    assert_eq!(hash(&a), before);
    assert!(epoch_is(&a, 2));
}

/// The shard that decides remembers the request like any write: a later job of the same request is told
/// so and does nothing, and a plain write of that request gets the same result.
#[test]
fn a_request_runs_once_over_jobs() {
    let (mut a, mut log) = copy(&[]);
    let (first, _) = run(&a, &mut log, &write(2, Some(5), &["INSERT INTO r (n) VALUES (1)"])).unwrap();
    a.reopen();
    let again = write(80, Some(5), &["INSERT INTO r (n) VALUES (1)"]);
    for dry_run in [true, false] {
        let again = CopyWrite { dry_run, ..again.clone() };
        assert_eq!(run(&a, &mut log, &again).unwrap(), (first.clone(), CopyState::Before));
    }
    let plain = Write { id: RequestId(5), route: None, statements: again.statements };
    assert_eq!(only(&a.apply(&[log.entry(Body::Writes(vec![plain]))])).as_ref().unwrap(), &first);
    assert_eq!(a.count("r"), Value::Integer(1));
    assert!(epoch_is(&a, 2));
}

/// Rows arrive as they were: any type, text that is no UTF-8, rowids without a name, a child before its
/// parent, and no trigger has a say; a repeated chunk adds nothing.
#[test]
fn copies_are_filled() {
    let (mut a, mut log) = with_schema(&[
        "CREATE TABLE t (v, up REFERENCES t(v), g AS (v || '!'))",
        "CREATE UNIQUE INDEX i ON t (v)",
        "CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT raise(ABORT, 'no'); END",
        "CREATE TABLE seq (id INTEGER PRIMARY KEY AUTOINCREMENT)",
    ]);
    let row = |values: Vec<Value>, texts: &[bool]| CopiedRow { values, texts: texts.to_vec() };
    let blob = |bytes: &[u8]| Value::Blob(bytes.to_vec());
    let rows = vec![
        row(vec![blob(b"a"), blob(b"\xff"), Value::Integer(40)], &[true, true, false]),
        row(vec![blob(b"\xff"), Value::Null, Value::Integer(-3)], &[true, false, false]),
        row(vec![blob(b"\xff"), Value::Null, Value::Integer(5)], &[false, false, false]),
        row(vec![Value::Real(0.5), Value::Null, Value::Integer(6)], &[false, false, false]),
    ];
    let fill = |table: &str, columns: &[&str], rows: Vec<CopiedRow>, sequence| ShardCommand::FillCopy {
        job: JobId(2),
        chunk: u64::from(table == "seq"),
        table: table.into(),
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        rows,
        sequence,
    };
    for _ in 0..2 {
        let columns = ["v", "up", "rowid"];
        assert_eq!(shard(&a, &mut log, fill("t", &columns, rows.clone(), None)), Ok(ShardReply::Ok));
        assert_eq!(shard(&a, &mut log, fill("seq", &["id"], vec![], Some(70))), Ok(ShardReply::Ok));
        a.reopen();
    }
    let got = a.query("SELECT rowid, typeof(v), hex(v), hex(up) FROM t ORDER BY rowid");
    let shown: Vec<String> = got.iter().map(|row| format!("{row:?}")).collect();
    assert_eq!(got.len(), 4);
    assert!(shown[0].contains("-3") && shown[0].contains("\"text\"") && shown[0].contains("FF"), "{shown:?}");
    assert!(shown[1].contains("\"blob\"") && shown[2].contains("real") && shown[3].contains("40"), "{shown:?}");
    let outcomes = a.apply(&[log.writes(&["INSERT INTO seq DEFAULT VALUES RETURNING id"])]);
    assert_eq!(only(&outcomes).as_ref().unwrap()[0].last_insert_id, 71);
    let outcomes = a.apply(&[log.writes(&["INSERT INTO t (v) VALUES (1)"])]);
    assert_eq!(code(only(&outcomes)), Code::Constraint, "triggers are on again");
    let collides = fill("t", &["v"], vec![row(vec![Value::Real(0.5)], &[false])], None);
    let ShardCommand::FillCopy { table, columns, rows, sequence, .. } = collides else { unreachable!() };
    let collides = ShardCommand::FillCopy { job: JobId(3), chunk: 0, table, columns, rows, sequence };
    assert_eq!(shard(&a, &mut log, collides).unwrap_err().code, Code::Constraint);
    assert_eq!(a.count("t"), Value::Integer(4));
}

/// A table over the bound does not become a reference table, and stays where it is.
#[test]
fn too_large_to_copy() {
    let (a, mut log) = (Replica::of(HOME_SHARD), Log::new());
    let register = |job, table: &str| ShardCommand::Register {
        job: JobId(job),
        table: table.into(),
        into: NewHome::Reference { placement: PlacementId(job as u32) },
        version: SchemaVersion(job),
    };
    a.apply(&[log.schema(1, &["CREATE TABLE many (v)", "CREATE TABLE wide (v)", "CREATE TABLE fits (v)"])]);
    let many = format!(
        "INSERT INTO many WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < {MAX_COPIED_ROWS}) SELECT i FROM n"
    );
    let wide = "INSERT INTO wide VALUES (zeroblob(9000000)), (zeroblob(9000000))";
    for result in results(&a.apply(&[log.writes(&[&many, wide, "INSERT INTO fits VALUES (1)"])])[0]) {
        result.as_ref().unwrap();
    }
    for (job, table) in [(2, "many"), (3, "wide")] {
        assert_eq!(shard(&a, &mut log, register(job, table)).unwrap_err().code, Code::TooLarge);
    }
    let reply = shard(&a, &mut log, register(4, "fits")).unwrap();
    assert!(matches!(reply, ShardReply::Registered { had_rows: true, .. }), "{reply:?}");
}
