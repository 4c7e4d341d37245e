//! Undoing a job, in each order in which the calls of two drivers, and those of later jobs, can arrive.

use flotilla_shared::ids::Slot;
use flotilla_shared::registry::{HOME, HOME_SHARD};
use flotilla_shared::steps::{REGISTER_STEP, SCHEMA_STEP, WRITE_STEP};
use flotilla_shared::wire::{CopyState, CopyWrite, JobAction, JobStep, NewHome};

use super::*;

fn shard(replica: &Replica, log: &mut Log, step: ShardCommand) -> Result<ShardReply, Error> {
    match replica.apply(&[log.entry(Body::Shard(step))]).remove(0) {
        Outcome::Shard(reply) => reply,
        other => panic!("not a shard's answer: {other:?}"),
    }
}

fn forward(job: u64, sql: &str) -> ShardCommand {
    ShardCommand::Schema { job: JobId(job), version: SchemaVersion(job), sql: vec![sql.into()], dry_run: false }
}

fn dry(job: u64, sql: &str) -> ShardCommand {
    ShardCommand::Schema { job: JobId(job), version: SchemaVersion(job), sql: vec![sql.into()], dry_run: true }
}

fn why(message: &str) -> Error {
    Error::new(Code::Constraint, message)
}

fn act(job: u64, action: JobAction) -> ShardCommand {
    ShardCommand::Job(JobStep { job: JobId(job), action })
}

fn undo(job: u64, sql: &str) -> ShardCommand {
    let sql = vec![sql.to_owned()];
    act(job, JobAction::Undo { version: SchemaVersion(job), sql, unless: None, why: why("rows are in the way") })
}

fn undo_unless(job: u64, sql: &str, step: &str) -> ShardCommand {
    let (sql, unless) = (vec![sql.to_owned()], Some(step.to_owned()));
    act(job, JobAction::Undo { version: SchemaVersion(job), sql, unless, why: why("rows are in the way") })
}

fn undone() -> Result<ShardReply, Error> {
    Ok(ShardReply::Undone(why("rows are in the way")))
}

fn tables(replica: &Replica) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_flotilla%' ESCAPE '\\'
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let name = |row: &Vec<Value>| if let Value::Text(name) = &row[0] { name.to_string() } else { panic!("{row:?}") };
    replica.query(sql).iter().map(name).collect()
}

/// What the job did is gone, and a step of it that comes later, of whichever driver, is answered with the reason.
#[test]
fn a_late_step_of_an_undone_job_is_refused() {
    let (mut replica, mut log) = (Replica::new(), Log::new());
    shard(&replica, &mut log, forward(5, "CREATE TABLE a (v)")).unwrap();
    assert_eq!(shard(&replica, &mut log, undo(5, "DROP TABLE a")), undone());
    replica.reopen();
    for late in [forward(5, "CREATE TABLE a (v)"), dry(5, "CREATE TABLE a (v)")] {
        assert_eq!(shard(&replica, &mut log, late).unwrap_err(), why("rows are in the way"));
    }
    assert!(tables(&replica).is_empty());
}

/// The step comes after the undoing on a shard that had not taken it yet: nothing is undone, and nothing done.
#[test]
fn undone_before_it_was_done() {
    let (replica, mut log) = with_schema(&["CREATE TABLE a (v)"]);
    assert_eq!(shard(&replica, &mut log, undo(5, "DROP TABLE a")), undone(), "the table is none of this job");
    assert_eq!(shard(&replica, &mut log, forward(5, "CREATE TABLE b (v)")).unwrap_err(), why("rows are in the way"));
    assert_eq!(tables(&replica), ["a"]);
}

/// Undoing twice answers alike and runs nothing the second time, also when a table of that name was made past the
/// jobs since.
#[test]
fn undone_twice() {
    let (mut replica, mut log) = (Replica::new(), Log::new());
    shard(&replica, &mut log, forward(5, "CREATE TABLE a (v)")).unwrap();
    for _ in 0..2 {
        assert_eq!(shard(&replica, &mut log, undo(5, "DROP TABLE a")), undone());
        replica.reopen();
    }
    shard(&replica, &mut log, forward(6, "CREATE TABLE a (v)")).unwrap();
    assert_eq!(shard(&replica, &mut log, undo(5, "DROP TABLE a")), undone());
    assert_eq!(tables(&replica), ["a"], "it is the later job's");
}

/// A driver that was superseded undoes what the next one has finished: the shard that decides has taken the last
/// step, so nothing is undone there, and the driver goes no further.
#[test]
fn a_job_that_is_done_is_not_undone() {
    let (replica, mut log) = (Replica::new(), Log::new());
    shard(&replica, &mut log, forward(5, "CREATE TABLE a (v)")).unwrap();
    let decided = shard(&replica, &mut log, undo_unless(5, "DROP TABLE a", SCHEMA_STEP));
    assert_eq!(decided, Ok(ShardReply::Ok));
    assert_eq!(tables(&replica), ["a"]);
}

/// The same, after other jobs: right after one, and once so many have passed that the kept answer is purged.
#[test]
fn nothing_is_undone_after_a_later_job() {
    for later in [1, 63, 64, 65, 200] {
        let (replica, mut log) = (Replica::new(), Log::new());
        shard(&replica, &mut log, forward(5, "CREATE TABLE a (v)")).unwrap();
        for job in 6..6 + later {
            shard(&replica, &mut log, forward(job, "CREATE TABLE IF NOT EXISTS b (v)")).unwrap();
        }
        for late in [undo(5, "DROP TABLE a"), undo_unless(5, "DROP TABLE a", SCHEMA_STEP), undo(4, "DROP TABLE a")] {
            let refused = shard(&replica, &mut log, late).unwrap_err();
            assert_eq!(refused.code, Code::Conflict, "{later}");
        }
        assert_eq!(tables(&replica), ["a", "b"], "{later}");
    }
}

/// The job failed and was undone; a later job made a table of the same name; the late undoing of the superseded driver,
/// and its late step, leave that alone, however many jobs have passed.
#[test]
fn a_later_jobs_table_stays() {
    for later in [1, 64, 65] {
        let (replica, mut log) = (Replica::new(), Log::new());
        shard(&replica, &mut log, forward(5, "CREATE TABLE a (v)")).unwrap();
        assert_eq!(shard(&replica, &mut log, undo(5, "DROP TABLE a")), undone());
        for job in 6..6 + later {
            shard(&replica, &mut log, forward(job, "CREATE TABLE IF NOT EXISTS a (v)")).unwrap();
        }
        shard(&replica, &mut log, undo(5, "DROP TABLE a")).ok();
        assert!(shard(&replica, &mut log, forward(5, "DROP TABLE a")).is_err());
        assert_eq!(tables(&replica), ["a"], "{later}");
    }
}

/// Several statements are undone together or not at all; while they are not, the job's answers are kept.
#[test]
fn undone_wholly_or_not_at_all() {
    let (replica, mut log) = (Replica::new(), Log::new());
    shard(&replica, &mut log, forward(5, "CREATE TABLE a (v)")).unwrap();
    let half = ["DROP TABLE a", "DROP TABLE nope"].map(str::to_owned).to_vec();
    let half = act(5, JobAction::Undo { version: SchemaVersion(5), sql: half, unless: None, why: why("x") });
    assert_eq!(shard(&replica, &mut log, half).unwrap_err().code, Code::NoSuchTable);
    assert_eq!(tables(&replica), ["a"]);
    assert!(shard(&replica, &mut log, forward(5, "CREATE TABLE a (v)")).is_ok(), "still answered as before");
    assert_eq!(shard(&replica, &mut log, undo(5, "DROP TABLE a")), undone());
}

/// Rows that refer to one another do not keep what the job made, in whatever order it is dropped; foreign keys hold
/// again after it.
#[test]
fn foreign_keys_do_not_hinder() {
    let (replica, mut log) = (Replica::new(), Log::new());
    let sql = ["CREATE TABLE p (k PRIMARY KEY)", "CREATE TABLE c (k REFERENCES p)"].map(str::to_owned).to_vec();
    let made = ShardCommand::Schema { job: JobId(5), version: SchemaVersion(5), sql, dry_run: false };
    shard(&replica, &mut log, made).unwrap();
    replica.apply(&[log.writes(&["INSERT INTO p VALUES (1)", "INSERT INTO c VALUES (1)"])]);
    let sql = ["DROP TABLE p", "DROP TABLE c"].map(str::to_owned).to_vec();
    let step =
        act(5, JobAction::Undo { version: SchemaVersion(5), sql, unless: None, why: why("rows are in the way") });
    assert_eq!(shard(&replica, &mut log, step), undone());
    shard(&replica, &mut log, forward(6, "CREATE TABLE p (k PRIMARY KEY, c REFERENCES p)")).unwrap();
    let outcomes = replica.apply(&[log.writes(&["INSERT INTO p VALUES (1, 2)"])]);
    assert_eq!(code(only(&outcomes)), Code::Constraint);
}

/// A registration that is undone cannot take the table out of its home any more; one that has is not undone.
#[test]
fn registrations() {
    let (replica, mut log) = (Replica::of(HOME_SHARD), Log::new());
    shard(&replica, &mut log, forward(1, "CREATE TABLE t (v)")).unwrap();
    let register = |job: u64| ShardCommand::Register {
        job: JobId(job),
        table: "t".into(),
        into: NewHome::New {
            placement: PlacementId(job as u32),
            share: SlotSet::range(Slot(0), Slot(9)),
            all: SlotSet::range(Slot(0), Slot(99)),
        },
        version: SchemaVersion(job),
    };
    let decide = |job| {
        act(
            job,
            JobAction::Undo {
                version: SchemaVersion(job),
                sql: vec![],
                unless: Some(REGISTER_STEP.to_owned()),
                why: why("rows are in the way"),
            },
        )
    };
    assert_eq!(shard(&replica, &mut log, decide(2)), undone());
    assert_eq!(shard(&replica, &mut log, register(2)).unwrap_err(), why("rows are in the way"));
    assert_eq!(replica.owned(HOME).0, Epoch(1));
    assert!(shard(&replica, &mut log, register(3)).is_ok());
    assert_eq!(shard(&replica, &mut log, decide(3)), Ok(ShardReply::Ok));
    assert_eq!(replica.owned(PlacementId(3)).1.len(), 10);
}

/// A write to a reference table that has failed is not applied by a late call, which would make copies differ.
#[test]
fn reference_writes() {
    let (replica, mut log) = with_schema(&["CREATE TABLE t (v)"]);
    let write = |job, dry_run| {
        ShardCommand::WriteCopy(CopyWrite {
            job: JobId(job),
            request: Some(RequestId(7)),
            at_us: EPOCH_US,
            seed: 1,
            statements: vec![Statement::bare("INSERT INTO t VALUES (1)")],
            epochs: vec![],
            dry_run,
        })
    };
    assert!(shard(&replica, &mut log, write(2, true)).is_ok());
    let decide = |job| {
        let (unless, why) = (Some(WRITE_STEP.to_owned()), why("rows are in the way"));
        act(job, JobAction::Undo { version: SchemaVersion(0), sql: vec![], unless, why })
    };
    assert_eq!(shard(&replica, &mut log, decide(2)), undone());
    for dry_run in [true, false] {
        assert_eq!(shard(&replica, &mut log, write(2, dry_run)).unwrap_err(), why("rows are in the way"));
    }
    assert_eq!(replica.count("t"), Value::Integer(0));
    assert!(!replica.remembers(RequestId(7)));
    let Ok(ShardReply::Written { state: CopyState::Applied, .. }) = shard(&replica, &mut log, write(3, false)) else {
        panic!("not written");
    };
    assert_eq!(shard(&replica, &mut log, decide(3)), Ok(ShardReply::Ok));
    assert_eq!(replica.count("t"), Value::Integer(1));
}

/// A forgotten placement is refused to plans that come late, and a late call of its registration does not bring it back.
#[test]
fn placements_are_forgotten_for_good() {
    let (mut replica, mut log) = (Replica::new(), Log::new());
    let placement = PlacementId(7);
    let take = |job, epoch| {
        act(job, JobAction::Take { placement, epoch: Epoch(epoch), slots: SlotSet::range(Slot(0), Slot(9)) })
    };
    let forget = |job, placement| act(job, JobAction::Forget { placement });
    for _ in 0..2 {
        assert_eq!(shard(&replica, &mut log, take(2, 1)), Ok(ShardReply::Ok));
    }
    assert_eq!(replica.owned(placement).0, Epoch(1));
    for _ in 0..2 {
        assert_eq!(shard(&replica, &mut log, forget(3, placement)), Ok(ShardReply::Ok));
        replica.reopen();
    }
    let claims = vec![Claim { placement, epoch: Epoch(1), slots: Some(SlotSet::range(Slot(3), Slot(3))) }];
    let route = Some(Route { schema: SchemaVersion(99), claims });
    let stale = replica.read(&Read { route, ..select("SELECT 1") }).unwrap_err();
    assert_eq!(stale.code, Code::StaleRoute);
    assert_eq!(shard(&replica, &mut log, take(2, 1)), Ok(ShardReply::Ok), "answered as before");
    for job in 4..70 {
        shard(&replica, &mut log, forward(job, "CREATE TABLE IF NOT EXISTS b (v)")).unwrap();
    }
    assert_eq!(shard(&replica, &mut log, take(2, 1)).unwrap_err().code, Code::Conflict, "no longer kept");
    assert_eq!(replica.owned(placement), (Epoch(0), SlotSet::default()));
    assert_eq!(shard(&replica, &mut log, forget(70, HOME)).unwrap_err().code, Code::Conflict);
}
