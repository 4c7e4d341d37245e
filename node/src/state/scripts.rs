//! Scripts: statements of one transaction that change the schema, or that run while foreign keys do not act.
//!
//! Input: a [`ScriptStep`]. Output: what its statements answered, and the schema after them. The whole of it runs
//! in a savepoint of its entry, in the batch's transaction, so a crash leaves all of it or nothing. SQLite ignores
//! `PRAGMA foreign_keys` inside a transaction; its C interface takes the same setting at any time, which is what
//! is used here, and put back whatever happens.
//!
//! Refused: what any statement is refused for, and new rows that refer to nothing. A script that was only tried
//! raises the schema version nevertheless: see [`flotilla_shared::script`], invariant 2.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_shared::copies::CopyState;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::Epoch;
use flotilla_shared::registry::{ForeignKey, HOME, mentions, quoted};
use flotilla_shared::script::{ForeignKeys, MAX_SCRIPT_RESULT_BYTES, ScriptReply, ScriptStep};
use flotilla_shared::wire::{ShardReply, StatementResult};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::apply::{Draft, Machine};
use super::copies::result_bytes;
use super::guard::Mode;
use super::statements::{self, Halt, Moment};
use super::steps::{Reply, improper_names, raise, schema_objects};

/// The step of a script that was tried. Kept: a driver that did not hear of it tries again, and a large table
/// takes longer than a driver waits. Slots that come or go meanwhile make it another step: they bring rows that were
/// not tried.
fn tried_at(epoch: Epoch) -> String {
    format!("script tried at {epoch}")
}

/// The step of a script that has taken effect.
const DONE: &str = "script";

/// Rows without a parent that a shard may have from before: more are not told apart from new ones.
const MAX_VIOLATIONS: usize = 10_000;

impl Machine {
    /// Runs a script, or tries it.
    pub(super) fn script(&mut self, draft: &mut Draft, step: &ScriptStep) -> Result<Reply, Halt> {
        // First, for the request is remembered by then.
        if let Some(kept) = self.kept(step.job, DONE)? {
            return Ok(Ok(kept));
        }
        if let Some(first) = step.request.and_then(|request| self.requests.find(request)) {
            return Ok(first.map(|results| reply(results, vec![], CopyState::Before)));
        }
        if step.dry_run {
            let owned = draft.ownership.placements.get(&step.placement).map(|owned| owned.epoch).unwrap_or_default();
            let done = self.once(step.job, &tried_at(owned), || self.tried(draft, step))?;
            if done.is_ok() {
                raise(draft, step.version);
            }
            return Ok(done);
        }
        let done = self.once(step.job, DONE, || self.carried_out(draft, step))?;
        if let Ok(ShardReply::Script(reply)) = &done {
            raise(draft, step.version);
            if let Some(request) = step.request {
                self.requests.remember(request, draft.applied.request_us, &Ok(reply.results.clone()));
            }
        }
        Ok(done)
    }

    fn tried(&self, draft: &mut Draft, step: &ScriptStep) -> Result<Reply, Halt> {
        let (counting, moves) = (draft.counting, Arc::clone(&draft.moves));
        self.db.execute_batch("SAVEPOINT dry")?;
        let done = self.run_script(draft, step)?;
        let objects = schema_objects(&self.db)?;
        self.db.execute_batch("ROLLBACK TO dry; RELEASE dry")?;
        (draft.counting, draft.moves) = (counting, moves);
        Ok(done.map(|results| reply(results, objects, CopyState::Tried)))
    }

    fn carried_out(&self, draft: &mut Draft, step: &ScriptStep) -> Result<Reply, Halt> {
        let moves = Arc::clone(&draft.moves);
        self.db.execute_batch("SAVEPOINT script")?;
        let results = match self.run_script(draft, step)? {
            Ok(results) => results,
            Err(error) => {
                self.db.execute_batch("ROLLBACK TO script; RELEASE script")?;
                draft.moves = moves;
                return Ok(Err(error));
            }
        };
        self.db.execute_batch("RELEASE script")?;
        draft.counting = statements::triggers_count(&self.db)?;
        // A table that was made anew and renamed looks like the one before it, and is not.
        if step.placement != HOME || draft.moves.is_outdated(&self.db)? {
            Arc::make_mut(&mut draft.moves).spoil(&self.db)?;
        }
        Ok(Ok(reply(results, schema_objects(&self.db)?, CopyState::Applied)))
    }

    /// Runs the statements, with the checks before and after. The caller undoes what a refusal leaves.
    fn run_script(&self, draft: &mut Draft, step: &ScriptStep) -> Result<Result<Vec<StatementResult>, Error>, Halt> {
        if let Err(busy) = draft.moves.check_schema() {
            return Ok(Err(busy));
        }
        let checked = step.foreign_keys == ForeignKeys::Checked;
        let before = match checked {
            true => violations(&self.db, step)?,
            false => Violations::new(),
        };
        if before.values().sum::<usize>() > MAX_VIOLATIONS {
            return Ok(Err(Error::new(Code::TooLarge, format!("over {MAX_VIOLATIONS} rows refer to nothing already"))));
        }
        let moment = Moment { at_us: step.at_us, seed: step.seed };
        let done = {
            let _unenforced = (step.foreign_keys != ForeignKeys::Enforced).then(|| Unenforced::begin(&self.db));
            self.statements(draft, Mode::Schema, &step.statements, moment)?
        };
        let results = match done {
            Ok(results) => results,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(error) = improper_names(&self.db, &draft.moves)? {
            return Ok(Err(error));
        }
        let bytes: usize = results.iter().map(result_bytes).sum();
        if bytes > MAX_SCRIPT_RESULT_BYTES {
            let message = format!("the statements return {bytes} bytes, over {MAX_SCRIPT_RESULT_BYTES}");
            return Ok(Err(Error::new(Code::TooLarge, message).hint("read rows in statements of their own")));
        }
        Ok(match checked {
            true => compare(&before, &violations(&self.db, step)?).map(|()| results),
            false => Ok(results),
        })
    }
}

fn reply(
    results: Vec<StatementResult>,
    objects: Vec<flotilla_shared::registry::SchemaObject>,
    state: CopyState,
) -> ShardReply {
    ShardReply::Script(Box::new(ScriptReply { results, objects, state }))
}

/// While it lives, no foreign key acts on this connection.
struct Unenforced<'a>(&'a Connection);

impl<'a> Unenforced<'a> {
    fn begin(db: &'a Connection) -> Self {
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).expect("SQLite takes a setting that it knows");
        Self(db)
    }
}

impl Drop for Unenforced<'_> {
    fn drop(&mut self) {
        let put_back = self.0.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true);
        put_back.expect("SQLite takes a setting that it had before");
    }
}

/// Rows that refer to nothing: by child, rowid and parent. Rows without a rowid are counted together.
type Violations = BTreeMap<(String, Option<i64>, String), usize>;

/// The violations that the script may have to do with: of tables that it names, and of those that refer to them.
/// Triggers may reach any table.
fn violations(db: &Connection, step: &ScriptStep) -> Result<Violations, Halt> {
    let named = |table: &str| step.statements.iter().any(|statement| mentions(&statement.sql, table));
    let triggers: bool =
        db.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger')", [], |row| row.get(0))?;
    let mut children: Vec<String> = ForeignKey::read(db)?
        .into_iter()
        .filter(|key| triggers || named(&key.child) || named(&key.parent))
        .map(|key| key.child)
        .collect();
    children.dedup();
    let mut found = Violations::new();
    for child in children {
        match violations_of(db, &child, &mut found) {
            Ok(()) => (),
            // The parent has no such key: SQLite refuses every write to the child then, and this check.
            Err(rusqlite::Error::SqliteFailure(failure, Some(why))) if failure.extended_code == 1 => {
                *found.entry((child, None, why)).or_default() += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn violations_of(db: &Connection, child: &str, found: &mut Violations) -> rusqlite::Result<()> {
    let mut check = db.prepare(&format!("PRAGMA foreign_key_check({})", quoted(child)))?;
    let mut rows = check.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        *found.entry((child.to_owned(), row.get(1)?, row.get(2)?)).or_default() += 1;
        count += 1;
        if count > MAX_VIOLATIONS {
            break;
        }
    }
    Ok(())
}

fn compare(before: &Violations, after: &Violations) -> Result<(), Error> {
    let known = |key| before.get(key).copied().unwrap_or_default();
    let new: Vec<_> = after.iter().filter(|(key, count)| **count > known(*key)).map(|(key, _)| key).collect();
    let Some((child, rowid, parent)) = new.first() else { return Ok(()) };
    let row = rowid.map_or_else(|| "a row".to_owned(), |rowid| format!("row {rowid}"));
    let more = match new.len() {
        1 => String::new(),
        more => format!(", and {} others", more - 1),
    };
    let message = format!("FOREIGN KEY constraint failed: {row} of {child} refers to no row of {parent}{more}");
    Err(Error::new(Code::Constraint, message).hint("nothing was changed; PRAGMA foreign_key_check lists such rows"))
}
