//! A job's steps: once each, whatever comes twice or late.

use flotilla_shared::ids::Slot;
use flotilla_shared::registry::{HOME, HOME_SHARD, SchemaObject};
use flotilla_shared::wire::NewHome;

use super::*;

fn shard(replica: &Replica, log: &mut Log, step: ShardCommand) -> Result<ShardReply, Error> {
    match replica.apply(&[log.entry(Body::Shard(step))]).remove(0) {
        Outcome::Shard(reply) => reply,
        other => panic!("not a shard's answer: {other:?}"),
    }
}

fn schema(job: u64, sql: &str, dry_run: bool) -> ShardCommand {
    ShardCommand::Schema { job: JobId(job), version: SchemaVersion(job), sql: vec![sql.into()], dry_run }
}

fn names(reply: &Result<ShardReply, Error>) -> Vec<&str> {
    match reply {
        Ok(ShardReply::Schema(objects)) => objects.iter().map(|object: &SchemaObject| object.name.as_str()).collect(),
        other => panic!("not a schema: {other:?}"),
    }
}

fn version(replica: &Replica) -> u64 {
    replica.handle().lock().applied.schema.0
}

fn owned(replica: &Replica, placement: PlacementId) -> Option<(i64, usize)> {
    let check = |epoch: u64, slots: Option<SlotSet>| {
        let route =
            Route { schema: SchemaVersion(u64::MAX), claims: vec![Claim { placement, epoch: Epoch(epoch), slots }] };
        replica.read(&Read { route: Some(route), ..select("SELECT 1") }).is_ok()
    };
    let epoch = (0..10).find(|epoch| check(*epoch, None))?;
    let slots = (0..100).filter(|slot| check(epoch, Some(SlotSet::range(Slot(*slot), Slot(*slot))))).count();
    Some((epoch as i64, slots))
}

/// A schema step runs once per job, also after a restart; a failed one may be tried again.
#[test]
fn schema_once_per_job() {
    let (mut replica, mut log) = (Replica::new(), Log::new());
    let failed = shard(&replica, &mut log, schema(1, "CREATE INDEX i ON t (v)", false));
    assert_eq!(failed.unwrap_err().message, "no such table: main.t");
    assert_eq!(version(&replica), 0);
    let sql = ["CREATE TABLE t (v)", "CREATE INDEX i ON t (v)", "CREATE VIEW w AS SELECT v FROM t", "DROP VIEW w"];
    let several = ShardCommand::Schema {
        job: JobId(1),
        version: SchemaVersion(4),
        sql: sql.map(str::to_owned).into(),
        dry_run: false,
    };
    assert_eq!(names(&shard(&replica, &mut log, several)), ["t", "i"]);
    replica.reopen();
    assert_eq!(names(&shard(&replica, &mut log, schema(1, "DROP TABLE t", false))), ["t", "i"]);
    assert_eq!(version(&replica), 4);
    let half = ShardCommand::Schema {
        job: JobId(2),
        version: SchemaVersion(5),
        sql: ["DROP INDEX i", "DROP INDEX nope"].map(str::to_owned).into(),
        dry_run: false,
    };
    assert!(shard(&replica, &mut log, half).is_err());
    assert_eq!(names(&shard(&replica, &mut log, ShardCommand::Describe)), ["t", "i"], "all or nothing");
}

/// A step of a job that ended, which comes after a later job's, does nothing.
#[test]
fn late_steps_are_refused() {
    let (replica, mut log) = (Replica::of(HOME_SHARD), Log::new());
    names(&shard(&replica, &mut log, schema(5, "CREATE TABLE t (v)", false)));
    assert_eq!(shard(&replica, &mut log, schema(4, "DROP TABLE t", false)).unwrap_err().code, Code::Conflict);
    for job in 6..100 {
        names(&shard(&replica, &mut log, schema(job, "CREATE TABLE IF NOT EXISTS t (v)", false)));
    }
    assert_eq!(shard(&replica, &mut log, schema(5, "DROP TABLE t", false)).unwrap_err().code, Code::Conflict);
    assert_eq!(replica.count("t"), Value::Integer(0));
}

/// Steps of no job, of which logs may hold some, run every time.
#[test]
fn steps_of_no_job_run_every_time() {
    let (replica, mut log) = (Replica::new(), Log::new());
    names(&shard(&replica, &mut log, schema(5, "CREATE TABLE a (v)", false)));
    names(&shard(&replica, &mut log, schema(6, "CREATE TABLE b (v)", false)));
    assert_eq!(names(&shard(&replica, &mut log, schema(0, "DROP TABLE a", false))), ["b"]);
    assert!(names(&shard(&replica, &mut log, schema(0, "DROP TABLE b", false))).is_empty());
    assert_eq!(shard(&replica, &mut log, schema(0, "DROP TABLE b", false)).unwrap_err().code, Code::NoSuchTable);
}

/// A driver dies, or waits in vain for an answer, with the statement carried out on some shards: whoever starts the
/// job over finds nothing against the rest. The walk along the steps of a move found a `DROP TABLE` that had been
/// done on one shard alone, and was answered with "no such table".
#[test]
fn a_dry_run_passes_what_its_job_has_done() {
    for sql in ["DROP TABLE t", "CREATE TABLE u (v)", "ALTER TABLE t ADD COLUMN w", "CREATE INDEX i ON t (v)"] {
        let (mut replica, mut log) = with_schema(&["CREATE TABLE t (v)"]);
        assert_eq!(shard(&replica, &mut log, schema(2, sql, true)), Ok(ShardReply::Ok), "{sql}");
        names(&shard(&replica, &mut log, schema(2, sql, false)));
        replica.reopen();
        assert_eq!(shard(&replica, &mut log, schema(2, sql, true)), Ok(ShardReply::Ok), "{sql}");
        assert!(shard(&replica, &mut log, schema(3, sql, true)).is_err(), "{sql}");
    }
}

/// A dry run tells whether a statement would succeed and changes nothing.
#[test]
fn dry_runs() {
    let (replica, mut log) = with_schema(&["CREATE TABLE t (v)"]);
    replica.apply(&[log.writes(&["INSERT INTO t VALUES (1), (1)"])]);
    let before = replica.query("SELECT * FROM sqlite_schema");
    let dry = |log: &mut Log, sql: &str| shard(&replica, log, schema(2, sql, true));
    assert_eq!(dry(&mut log, "CREATE TABLE u (v)"), Ok(ShardReply::Ok));
    assert_eq!(dry(&mut log, "CREATE TABLE u (v)"), Ok(ShardReply::Ok));
    assert_eq!(dry(&mut log, "CREATE UNIQUE INDEX u ON t (v)").unwrap_err().code, Code::Constraint);
    assert_eq!(dry(&mut log, "ALTER TABLE t RENAME TO _flotilla_t").unwrap_err().code, Code::Forbidden);
    assert_eq!(dry(&mut log, "DROP TABLE t"), Ok(ShardReply::Ok));
    assert_eq!(replica.query("SELECT * FROM sqlite_schema"), before);
    assert_eq!((replica.count("t"), version(&replica)), (Value::Integer(2), 1));
    names(&shard(&replica, &mut log, schema(2, "CREATE TABLE u (v)", false)));
}

/// What a shard owns of a placement only moves forward, and survives a restart.
#[test]
fn ownership() {
    let (mut replica, mut log) = (Replica::new(), Log::new());
    let placement = PlacementId(7);
    let own = |epoch, last| {
        let slots = SlotSet::range(Slot(0), Slot(last));
        ShardCommand::Own { placement, epoch: Epoch(epoch), slots }
    };
    assert_eq!(owned(&replica, placement), None);
    for (step, wanted) in [(own(1, 9), (1, 10)), (own(1, 4), (1, 10)), (own(3, 4), (3, 5)), (own(2, 9), (3, 5))] {
        assert_eq!(shard(&replica, &mut log, step), Ok(ShardReply::Ok));
        assert_eq!(owned(&replica, placement), Some(wanted));
        replica.reopen();
        assert_eq!(owned(&replica, placement), Some(wanted));
    }
}

/// An empty table leaves the home placement with its share, a full one with every slot; repeated, the
/// step answers like the first time, even when the table has rows by then.
#[test]
fn registration() {
    let (replica, mut log) = (Replica::of(HOME_SHARD), Log::new());
    assert_eq!(owned(&replica, HOME), Some((1, 1)));
    names(&shard(&replica, &mut log, schema(1, "CREATE TABLE empty (v)", false)));
    names(&shard(&replica, &mut log, schema(2, "CREATE TABLE full (v)", false)));
    replica.apply(&[log.writes(&["INSERT INTO full VALUES (1)"])]);
    let register = |job, table: &str, into| ShardCommand::Register {
        job: JobId(job),
        table: table.into(),
        into,
        version: SchemaVersion(job),
    };
    let new = |placement| NewHome::New {
        placement: PlacementId(placement),
        share: SlotSet::range(Slot(0), Slot(9)),
        all: SlotSet::range(Slot(0), Slot(99)),
    };
    let registered = |had_rows, epoch| Ok(ShardReply::Registered { had_rows, home_epoch: Epoch(epoch) });
    assert_eq!(shard(&replica, &mut log, register(3, "EMPTY", new(1))), registered(false, 2));
    replica.apply(&[log.writes(&["INSERT INTO empty VALUES (1)"])]);
    assert_eq!(shard(&replica, &mut log, register(3, "empty", new(1))), registered(false, 2));
    assert_eq!(shard(&replica, &mut log, register(4, "full", new(2))), registered(true, 3));
    assert_eq!(owned(&replica, PlacementId(1)), Some((1, 10)));
    assert_eq!(owned(&replica, PlacementId(2)), Some((1, 100)));
    assert_eq!((owned(&replica, HOME), version(&replica)), (Some((3, 1)), 4));
    let refused = |log: &mut Log, table, into| shard(&replica, log, register(5, table, into)).unwrap_err().code;
    assert_eq!(refused(&mut log, "nope", new(3)), Code::NoSuchTable);
    assert_eq!(refused(&mut log, "_flotilla_state", new(3)), Code::NoSuchTable);
    assert_eq!(refused(&mut log, "full", new(2)), Code::Conflict, "a version never goes back");
    let colocate = |rows_may_stay| NewHome::Existing { rows_may_stay };
    assert_eq!(refused(&mut log, "full", colocate(false)), Code::UnsafeRegistration);
    assert_eq!(shard(&replica, &mut log, register(5, "full", colocate(true))), registered(true, 4));
}

/// The registry lives in the `meta` group; a refused change leaves it as it was, on disk and in memory.
#[test]
fn registry() {
    use flotilla_shared::registry::MetaCommand;
    let (mut replica, mut log) = (Replica::of(flotilla_shared::ids::META), Log::new());
    let meta = |command| Body::Meta(Box::new(command));
    let keys = |at_least| MetaCommand::ReserveKeys { table: "t".into(), count: 10, at_least };
    let watch = replica.handle().registry();
    let outcomes = replica.apply(&[log.entry(meta(keys(1)))]);
    assert!(matches!(&outcomes[0], Outcome::Meta(Ok(_))));
    let registry = replica.handle().lock().registry().cloned();
    let outcomes = replica.apply(&[log.entry(meta(keys(i64::MAX)))]);
    assert!(matches!(&outcomes[0], Outcome::Meta(Err(_))));
    assert_eq!(replica.handle().lock().registry().cloned(), registry);
    drop(watch);
    replica.reopen();
    assert_eq!(replica.handle().lock().registry().cloned(), registry);
    assert!(matches!(&Replica::new().apply(&[log.entry(meta(keys(1)))])[0], Outcome::Meta(Err(_))));
}
