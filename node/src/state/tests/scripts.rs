//! Scripts: transactions with schema statements, in which foreign keys do not act.

use flotilla_shared::copies::CopyState;
use flotilla_shared::script::{ForeignKeys, ScriptReply, ScriptStep};

use super::*;

fn step(job: u64, statements: &[&str], foreign_keys: ForeignKeys, dry_run: bool) -> ScriptStep {
    ScriptStep {
        job: JobId(job),
        request: None,
        version: SchemaVersion(job),
        placement: PlacementId(1),
        at_us: EPOCH_US,
        seed: 7,
        statements: statements.iter().map(|sql| Statement::bare(*sql)).collect(),
        foreign_keys,
        dry_run,
    }
}

fn script(replica: &Replica, log: &mut Log, step: ScriptStep) -> Result<ScriptReply, Error> {
    let command = ShardCommand::Script(Box::new(step));
    match replica.apply(&[log.entry(Body::Shard(command))]).remove(0) {
        Outcome::Shard(Ok(ShardReply::Script(reply))) => Ok(*reply),
        Outcome::Shard(Err(error)) => Err(error),
        other => panic!("not a script's answer: {other:?}"),
    }
}

fn version(replica: &Replica) -> u64 {
    replica.handle().lock().applied.schema.0
}

/// A parent with two rows and a child with three, which go when their parent does.
fn family() -> (Replica, Log) {
    with_schema(&[
        "CREATE TABLE account (id INTEGER PRIMARY KEY, name)",
        "CREATE TABLE note (id INTEGER PRIMARY KEY, account_id REFERENCES account (id) ON DELETE CASCADE)",
        "INSERT INTO account VALUES (1, 'ann'), (2, 'bob')",
        "INSERT INTO note VALUES (1, 1), (2, 1), (3, 2)",
    ])
}

const REBUILD: [&str; 4] = [
    "CREATE TABLE new_account (id INTEGER PRIMARY KEY, name NOT NULL DEFAULT 'x')",
    "INSERT INTO new_account SELECT id, name FROM account",
    "DROP TABLE account",
    "ALTER TABLE new_account RENAME TO account",
];

fn counts(replica: &Replica) -> (Value, Value) {
    (replica.count("account"), replica.count("note"))
}

/// A table is made anew without its children's noticing; and afterwards foreign keys act again.
#[test]
fn a_rebuild_keeps_the_children() {
    let (mut replica, mut log) = family();
    let reply = script(&replica, &mut log, step(20, &REBUILD, ForeignKeys::Checked, false)).unwrap();
    assert_eq!(reply.state, CopyState::Applied);
    let affected: Vec<u64> = reply.results.iter().map(|result| result.rows_affected).collect();
    assert_eq!(affected, [0, 2, 0, 0]);
    assert!(reply.objects.iter().any(|object| object.name == "account" && object.sql.contains("DEFAULT 'x'")));
    assert_eq!(counts(&replica), (Value::Integer(2), Value::Integer(3)));
    assert_eq!(version(&replica), 20);
    replica.reopen();
    let again = script(&replica, &mut log, step(20, &REBUILD, ForeignKeys::Checked, false)).unwrap();
    assert_eq!(again, reply, "once");
    let error = script(&replica, &mut log, step(21, &["INSERT INTO note VALUES (9, 9)"], ForeignKeys::Enforced, false));
    assert_eq!(error.unwrap_err().code, Code::Constraint);
    script(&replica, &mut log, step(22, &["DELETE FROM account WHERE id = 1"], ForeignKeys::Enforced, false)).unwrap();
    assert_eq!(counts(&replica), (Value::Integer(1), Value::Integer(1)), "they cascade");
}

/// What foreign keys would forbid undoes all of it, and is named; so does a statement that fails. Foreign keys
/// act again after each.
#[test]
fn violations_undo_the_whole() {
    let (replica, mut log) = family();
    let hash = replica.query("SELECT * FROM note, account ORDER BY 1, 2, 3");
    for (job, statements, message) in [
        (
            20,
            &["CREATE TABLE z (a)", "DELETE FROM account WHERE id = 1"][..],
            "row 1 of note refers to no row of account",
        ),
        (21, &["DROP TABLE account"], "of note refers to no row of account, and 2 others"),
        (22, &["DROP TABLE note", "DELETE FROM account", "INSERT INTO gone VALUES (1)"], "no such table: gone"),
        (23, &["CREATE TABLE late (a REFERENCES account (id))", "INSERT INTO late VALUES (3)"], "row 1 of late"),
    ] {
        let error = script(&replica, &mut log, step(job, statements, ForeignKeys::Checked, false)).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert_eq!(replica.query("SELECT * FROM note, account ORDER BY 1, 2, 3"), hash, "{statements:?}");
        let orphan = step(job + 100, &["INSERT INTO note VALUES (9, 9)"], ForeignKeys::Enforced, false);
        assert_eq!(script(&replica, &mut log, orphan).unwrap_err().code, Code::Constraint);
    }
    assert!(version(&replica) < 20, "nothing of it happened");
}

/// Parts of a load are not checked, and rows that were wrong before are no reason against a later script.
#[test]
fn unchecked_parts() {
    let (replica, mut log) = family();
    script(&replica, &mut log, step(20, &["INSERT INTO note VALUES (9, 9)"], ForeignKeys::Unchecked, false)).unwrap();
    script(&replica, &mut log, step(21, &REBUILD, ForeignKeys::Checked, false)).unwrap();
    let worse = step(22, &["UPDATE note SET account_id = 8 WHERE id = 1"], ForeignKeys::Checked, false);
    assert!(script(&replica, &mut log, worse).unwrap_err().message.contains("row 1 of note"));
    assert_eq!(counts(&replica), (Value::Integer(2), Value::Integer(4)));
}

/// A try changes nothing but the schema version, so that plans made before are refused until the job has ended;
/// it is answered again without being run again.
#[test]
fn a_try_holds_up_writes() {
    let (mut replica, mut log) = family();
    let before = version(&replica);
    let tried = script(&replica, &mut log, step(20, &REBUILD, ForeignKeys::Checked, true)).unwrap();
    assert_eq!((tried.state, counts(&replica)), (CopyState::Tried, (Value::Integer(2), Value::Integer(3))));
    let route = Route { schema: SchemaVersion(before), claims: vec![] };
    let stale = replica.read(&Read { route: Some(route), ..select("SELECT 1") }).unwrap_err();
    assert_eq!((stale.code, version(&replica)), (Code::StaleRoute, 20));
    replica.reopen();
    assert_eq!(script(&replica, &mut log, step(20, &REBUILD, ForeignKeys::Checked, true)).unwrap(), tried);
    let come = ShardCommand::Own { placement: PlacementId(1), epoch: Epoch(2), slots: SlotSet::all(4) };
    replica.apply(&[log.entry(Body::Shard(come))]);
    let anew = script(&replica, &mut log, step(20, &["DROP TABLE gone"], ForeignKeys::Checked, true));
    assert_eq!(anew.unwrap_err().message, "no such table: gone", "slots came, with rows that were not tried");
    let done = script(&replica, &mut log, step(20, &REBUILD, ForeignKeys::Checked, false)).unwrap();
    assert_eq!((done.state, &done.results, &done.objects), (CopyState::Applied, &tried.results, &tried.objects));
    // A driver that was superseded tries once more.
    assert_eq!(script(&replica, &mut log, step(20, &REBUILD, ForeignKeys::Checked, true)).unwrap(), done);
    let late = script(&replica, &mut log, step(19, &REBUILD, ForeignKeys::Checked, false)).unwrap_err();
    assert_eq!(late.code, Code::Conflict);
}

/// A shard that remembers the request answers a later job of it with the first results.
#[test]
fn a_request_takes_effect_once() {
    let (replica, mut log) = family();
    let of = |job, dry_run| ScriptStep {
        request: Some(RequestId(5)),
        ..step(job, &["CREATE TABLE z (a)", "INSERT INTO z VALUES (1), (2)"], ForeignKeys::Checked, dry_run)
    };
    let first = script(&replica, &mut log, of(20, false)).unwrap();
    for dry_run in [true, false] {
        let again = script(&replica, &mut log, of(30, dry_run)).unwrap();
        assert_eq!((again.state, again.results), (CopyState::Before, first.results.clone()));
    }
    assert_eq!(replica.count("z"), Value::Integer(2));
}
