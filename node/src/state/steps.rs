//! A job's steps on a shard: ownership, schema, registration. Idempotent, because a job's next leader
//! starts its steps over: the answer of a step is kept with the job's id and given again.
//!
//! Jobs run one at a time, in order of their ids. So a step of a job that is not known here, while a
//! later job's is, comes late: its job has ended, and it is refused.
//!
//! A job may have two drivers for a while: a new one, and one that was superseded and whose calls still arrive. Each
//! call of either may come at any moment, also after the end of the job. So undoing is a step like any other.
//!
//! # Invariants
//! 1. A job that is undone here does nothing more here. The entry that undoes it also deletes the answers that were
//!    kept of its steps, and keeps the reason in their place: a step that comes later is answered with that.
//! 2. A job is undone here once; the second time it is answered alike, and nothing is run.
//! 3. It is not undone once a later job was here, whether its own answers are still kept or not: objects of the
//!    same names may be the later job's. The latest job that was here is never purged, so this is always known.
//! 4. Of each job one shard decides whether it fails, by a step that only a job which will be done takes there
//!    (`unless`): if it was taken the job is not undone there, and no driver goes on to undo it elsewhere; if the job
//!    is undone there the step is refused ever after, so no driver comes to the end of the job. `jobs/undo.rs`
//!    tells which shard that is.
//! 5. What was not done here is not undone here: the statements that undo run only if the job's own did.

use std::io;
use std::sync::Arc;

use flotilla_shared::closed::is_internal;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, JobId, PlacementId, SchemaVersion};
use flotilla_shared::registry::{HOME, SchemaObject, SlotSet, quoted};
use flotilla_shared::steps::{REGISTER_STEP, SCHEMA_STEP, take_step};
use flotilla_shared::wire::{JobAction, JobStep, NewHome, ShardCommand, ShardReply, Statement};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

use super::apply::{Draft, Machine};
use super::guard::Mode;
use super::moves::Moves;
use super::ownership::Owned;
use super::statements::{self, Halt, Moment};

/// Jobs whose answers are kept, so that a repeated step answers like the first.
const KEPT_JOBS: i64 = 64;

/// No job has this id. Steps under it run every time; drivers no longer send any, logs may hold some.
const NO_JOB: JobId = JobId(0);

/// The step under which it is kept that a job was undone.
const UNDONE: &str = "undone";

pub(super) type Reply = Result<ShardReply, Error>;

impl Machine {
    /// Applies one step.
    pub(super) fn shard_step(&mut self, draft: &mut Draft, step: &ShardCommand, moment: Moment) -> Result<Reply, Halt> {
        match step {
            ShardCommand::Own { placement, epoch, slots } => self.own(draft, *placement, *epoch, slots),
            // What an earlier driver of the job has carried out here is no reason against the rest of it.
            ShardCommand::Schema { job, sql, dry_run: true, .. } => {
                match (self.undone(*job)?, self.kept(*job, SCHEMA_STEP)?) {
                    (Some(why), _) => Ok(Err(why)),
                    (None, Some(_)) => Ok(Ok(ShardReply::Ok)),
                    (None, None) => self.dry_run(draft, sql, moment),
                }
            }
            ShardCommand::Schema { job, version, sql, dry_run: false } => {
                let done = self.once(*job, SCHEMA_STEP, || {
                    let done = self.schema(draft, sql, moment)?;
                    if done.is_ok() {
                        raise(draft, *version);
                    }
                    Ok(done)
                })?;
                // The schema is as of now even if the statement ran long ago.
                Ok(done.and(Ok(ShardReply::Schema(schema_objects(&self.db)?))))
            }
            ShardCommand::Register { job, table, into, version } => {
                self.once(*job, REGISTER_STEP, || self.register(draft, table, into, *version))
            }
            ShardCommand::WriteCopy(write) => self.write_copy(draft, write),
            ShardCommand::FillCopy { job, chunk, table, columns, rows, sequence } => {
                self.once(*job, &format!("fill {chunk}"), || self.fill_copy(table, columns, rows, *sequence))
            }
            ShardCommand::Move(step) => self.move_step(draft, step, moment),
            ShardCommand::Split(split) => self.split(draft, split),
            ShardCommand::Script(step) => self.script(draft, step),
            ShardCommand::Describe => Ok(Ok(ShardReply::Schema(schema_objects(&self.db)?))),
            ShardCommand::Job(step) => self.job_step(draft, step, moment),
        }
    }

    fn job_step(&self, draft: &mut Draft, step: &JobStep, moment: Moment) -> Result<Reply, Halt> {
        let job = step.job;
        match &step.action {
            JobAction::Undo { version, sql, unless, why } => {
                if let Some(kept) = self.kept(job, UNDONE)? {
                    return Ok(Ok(kept));
                }
                if let Some(late) = self.late(job)? {
                    return Ok(Err(late));
                }
                if let Some(step) = unless
                    && self.kept(job, step)?.is_some()
                {
                    return Ok(Ok(ShardReply::Ok));
                }
                if self.kept(job, SCHEMA_STEP)?.is_some() {
                    if let Err(error) = self.undo(draft, sql, moment)? {
                        return Ok(Err(error));
                    }
                    raise(draft, *version);
                }
                self.db.execute("DELETE FROM _flotilla_jobs WHERE job = ?1", [job.0 as i64])?;
                let undone = ShardReply::Undone(why.clone());
                self.keep(job, UNDONE, &undone)?;
                Ok(Ok(undone))
            }
            JobAction::Take { placement, epoch, slots } => {
                self.once(job, &take_step(*placement), || self.own(draft, *placement, *epoch, slots))
            }
            JobAction::Forget { placement } => {
                self.once(job, &format!("forget {placement}"), || self.forget_placement(draft, *placement))
            }
        }
    }

    /// Runs the statements that undo. Foreign keys stay out of it: they had no say about what goes either, and rows
    /// of a copy may refer to one another in any order.
    fn undo(&self, draft: &mut Draft, sql: &[String], moment: Moment) -> Result<Reply, Halt> {
        if sql.is_empty() {
            return Ok(Ok(ShardReply::Ok));
        }
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        let undone = self.schema(draft, sql, moment);
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
        undone
    }

    fn own(&self, draft: &mut Draft, id: PlacementId, epoch: Epoch, slots: &SlotSet) -> Result<Reply, Halt> {
        let known = draft.ownership.placements.get(&id).map(|owned| owned.epoch).unwrap_or_default();
        if known < epoch {
            draft.ownership.set(&self.db, id, Owned { epoch, slots: slots.clone() })?;
        }
        Ok(Ok(ShardReply::Ok))
    }

    /// Its id is never used again, so whoever still plans with it is refused for good.
    fn forget_placement(&self, draft: &mut Draft, id: PlacementId) -> Result<Reply, Halt> {
        if id == HOME {
            return Ok(Err(Error::new(Code::Conflict, "the home placement stays")));
        }
        if draft.moves.are_of(id) {
            let message = format!("slots of placement {id} are on their way at this moment");
            return Ok(Err(Error::new(Code::Unavailable, message)));
        }
        draft.ownership.remove(&self.db, id)?;
        Ok(Ok(ShardReply::Ok))
    }

    /// Runs a job's step unless it was run before, and keeps its answer if it succeeded.
    pub(super) fn once(
        &self,
        job: JobId,
        step: &str,
        run: impl FnOnce() -> Result<Reply, Halt>,
    ) -> Result<Reply, Halt> {
        if job == NO_JOB {
            return run();
        }
        if let Some(why) = self.undone(job)? {
            return Ok(Err(why));
        }
        if let Some(kept) = self.kept(job, step)? {
            return Ok(Ok(kept));
        }
        if let Some(late) = self.late(job)? {
            return Ok(Err(late));
        }
        let reply = run()?;
        if let Ok(reply) = &reply {
            self.keep(job, step, reply)?;
        }
        Ok(reply)
    }

    /// Why nothing more is to be done for a job that has ended.
    fn late(&self, job: JobId) -> Result<Option<Error>, Halt> {
        let latest: Option<i64> = self.db.query_row("SELECT max(job) FROM _flotilla_jobs", [], |row| row.get(0))?;
        let late = latest.is_some_and(|latest| (job.0 as i64) < latest);
        Ok(late.then(|| Error::new(Code::Conflict, format!("job {job} has ended: a later one was here"))))
    }

    fn keep(&self, job: JobId, step: &str, reply: &ShardReply) -> Result<(), Halt> {
        let job = job.0 as i64;
        self.db.execute(
            "INSERT INTO _flotilla_jobs (job, step, reply) VALUES (?1, ?2, ?3)",
            (job, step, postcard::to_stdvec(reply).expect("replies encode")),
        )?;
        self.db.execute("DELETE FROM _flotilla_jobs WHERE job <= ?1", [job.saturating_sub(KEPT_JOBS)])?;
        Ok(())
    }

    /// Why a job was undone here, if it was.
    pub(super) fn undone(&self, job: JobId) -> Result<Option<Error>, Halt> {
        match self.kept(job, UNDONE)? {
            Some(ShardReply::Undone(why)) => Ok(Some(why)),
            _ => Ok(None),
        }
    }

    /// The answer of a step that was run before.
    pub(super) fn kept(&self, job: JobId, step: &str) -> Result<Option<ShardReply>, Halt> {
        let kept: Option<Vec<u8>> = self
            .db
            .query_row("SELECT reply FROM _flotilla_jobs WHERE job = ?1 AND step = ?2", (job.0 as i64, step), |row| {
                row.get(0)
            })
            .optional()?;
        let read = |kept: Vec<u8>| postcard::from_bytes(&kept).map_err(|error| Halt::Storage(io::Error::other(error)));
        kept.map(read).transpose()
    }

    fn schema(&self, draft: &mut Draft, sql: &[String], moment: Moment) -> Result<Reply, Halt> {
        if let Err(busy) = draft.moves.check_schema() {
            return Ok(Err(busy));
        }
        let statements: Vec<Statement> = sql.iter().map(Statement::bare).collect();
        if let Err(error) = self.statements(draft, Mode::Schema, &statements, moment)? {
            return Ok(Err(error));
        }
        if let Some(error) = improper_names(&self.db, &draft.moves)? {
            return Err(Halt::Undo(error));
        }
        draft.counting = statements::triggers_count(&self.db)?;
        if draft.moves.is_outdated(&self.db)? {
            Arc::make_mut(&mut draft.moves).spoil(&self.db)?;
        }
        Ok(Ok(ShardReply::Ok))
    }

    /// Tells whether statements would succeed, and undoes them.
    fn dry_run(&self, draft: &mut Draft, sql: &[String], moment: Moment) -> Result<Reply, Halt> {
        let (counting, moves) = (draft.counting, Arc::clone(&draft.moves));
        self.db.execute_batch("SAVEPOINT dry")?;
        let reply = self.schema(draft, sql, moment)?;
        self.db.execute_batch("ROLLBACK TO dry; RELEASE dry")?;
        (draft.counting, draft.moves) = (counting, moves);
        Ok(reply)
    }

    fn register(&self, draft: &mut Draft, table: &str, into: &NewHome, version: SchemaVersion) -> Result<Reply, Halt> {
        if let Err(busy) = draft.moves.check_schema() {
            return Ok(Err(busy));
        }
        let Some(had_rows) = has_rows(&self.db, table)? else {
            return Ok(Err(Error::new(Code::NoSuchTable, format!("no such table: {table}"))));
        };
        match into {
            NewHome::New { placement, .. } | NewHome::Reference { placement }
                if draft.ownership.placements.contains_key(placement) =>
            {
                // Its version would be set back, and plans made with later ones would pass for good.
                let message = format!("placement {placement} is known to this shard already");
                return Ok(Err(Error::new(Code::Conflict, message)));
            }
            NewHome::New { placement, share, all } => {
                let slots = if had_rows { all } else { share };
                draft.ownership.set(&self.db, *placement, Owned { epoch: Epoch(1), slots: slots.clone() })?;
            }
            NewHome::Reference { placement } => {
                if let Some(error) = super::copies::too_large(&self.db, table)? {
                    return Ok(Err(error));
                }
                draft.ownership.set(&self.db, *placement, Owned { epoch: Epoch(1), slots: SlotSet::all(1) })?;
            }
            NewHome::Existing { rows_may_stay } if had_rows && !rows_may_stay => {
                let message = format!("{table} holds rows, and the table to colocate with is spread over other shards");
                return Ok(Err(
                    Error::new(Code::UnsafeRegistration, message).hint("register it before rows are inserted")
                ));
            }
            NewHome::Existing { .. } => (),
        }
        // A move that does not know of it would leave its rows behind.
        Arc::make_mut(&mut draft.moves).interrupt(&self.db)?;
        // Whoever still plans with the table in the home placement is sent back to plan anew.
        let mut home = draft.ownership.placements.get(&HOME).cloned().unwrap_or_default();
        home.epoch.0 += 1;
        draft.ownership.set(&self.db, HOME, home.clone())?;
        raise(draft, version);
        Ok(Ok(ShardReply::Registered { had_rows, home_epoch: home.epoch }))
    }
}

pub(super) fn raise(draft: &mut Draft, version: SchemaVersion) {
    draft.applied.schema = draft.applied.schema.max(version);
}

/// What the guard cannot see while a statement is prepared: a table that was renamed to a name of
/// ours, and columns that `CREATE TABLE … AS` gave random names.
pub(super) fn improper_names(db: &Connection, moves: &Moves) -> rusqlite::Result<Option<Error>> {
    let mut query = db.prepare("SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
    let objects: Vec<(String, String)> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (kind, name) in objects {
        let ours = super::store::TABLES.contains(&name.as_str()) || moves.has_named(&name);
        if is_internal(&name) && !ours {
            return Ok(Some(Error::new(
                Code::Forbidden,
                format!("{name}: names of that form are not open to clients"),
            )));
        }
        if kind != "table" {
            continue;
        }
        let mut query = db.prepare_cached("SELECT name FROM pragma_table_info(?1)")?;
        let columns: Vec<String> = query.query_map([&name], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let random = |index: usize| statements::random_name_base(&columns[index], &columns[..index]).is_some();
        if (0..columns.len()).any(random) {
            let error = Error::new(Code::SqlError, format!("too many columns of one name in {name}"));
            return Ok(Some(error.hint("name the columns with AS: SQLite would make names up at random")));
        }
    }
    Ok(None)
}

/// All schema objects that are not ours, in an order in which they can be created.
pub(super) fn schema_objects(db: &Connection) -> rusqlite::Result<Vec<SchemaObject>> {
    let mut query = db.prepare_cached(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema
         WHERE sql IS NOT NULL AND name NOT LIKE '\\_flotilla\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, rowid",
    )?;
    let objects = query.query_map([], |row| {
        Ok(SchemaObject { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)?, placement: HOME })
    })?;
    objects.collect()
}

/// Does the table hold rows? `None` when clients know no such table.
pub(super) fn has_rows(db: &Connection, table: &str) -> rusqlite::Result<Option<bool>> {
    let known: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE)",
        [table],
        |row| row.get(0),
    )?;
    if !known || is_internal(table) {
        return Ok(None);
    }
    db.query_row(&format!("SELECT EXISTS (SELECT 1 FROM {})", quoted(table)), [], |row| row.get(0)).map(Some)
}
