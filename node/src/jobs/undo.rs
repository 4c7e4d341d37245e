//! How a job fails that may have changed shards: one shard decides that it will never be done, then what it did
//! is undone on all others, then the registry learns. Every driver goes this way, also one that found nothing done: an
//! earlier driver may have been further, and its calls may still arrive.
//!
//! The shard that decides is one that a job which will be done comes to in a step behind which nothing is refused:
//!
//! | job | the shard | the step |
//! |---|---|---|
//! | a schema statement | the last one | the statement |
//! | a schema statement that cannot be undone | the first one: from there on it only goes forward | the statement |
//! | a registration | the home shard | letting the table go |
//! | a further shard for a table | that shard | the first copy that it serves, or the definition |
//! | a write to reference tables | the home shard | the write |
//!
//! If it has taken that step, the job is not undone anywhere, and goes on until it is done. If not, it is undone
//! there, and refuses that step from then on. Which shards a job is about does not change meanwhile
//! (`shared/src/registry/begin.rs`); so all drivers ask the same one.
//!
//! A job that has not begun has changed nothing, and just ends: no shard that is down keeps it from that.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::{
    HOME, HOME_SHARD, Job, JobKind, JobState, MetaCommand, Registry, SchemaObject, quoted,
};
use flotilla_shared::steps::{REGISTER_STEP, SCHEMA_STEP, WRITE_STEP};
use flotilla_shared::wire::{JobAction, JobStep, ShardCommand, ShardReply};
use rusqlite::Connection;

use super::schema::next_version;
use super::{Driver, after_failure, register, write};

/// What is to be undone, and where.
struct Undoing {
    /// Of the shard that decides.
    unless: String,
    /// The one that decides comes first.
    shards: Vec<(GroupId, Vec<String>)>,
}

/// Ends the job as failed, or finds out that it goes on.
///
/// # Errors
/// That it goes on, or what keeps the driver from undoing it now.
pub(super) async fn fail(driver: &Driver<'_>, error: Error) -> Result<(), Error> {
    let registry = driver.registry().await?;
    let Some(job) = registry.jobs.get(&driver.job.id) else {
        return Err(Error::new(Code::Unavailable, "the job is gone"));
    };
    let Some(undoing) = undoing(&registry, job)? else {
        return match job.kind {
            JobKind::Schema { .. } | JobKind::Register(_) | JobKind::AddToShard { .. } => {
                driver.meta(MetaCommand::GiveUp { job: job.id, error }).await.map(drop)
            }
            _ => {
                let left = after_failure(&job.kind, &error);
                driver.end(JobState::Failed, Some(error), left).await
            }
        };
    };
    let mut why = error;
    for (at, (shard, sql)) in undoing.shards.into_iter().enumerate() {
        let unless = (at == 0).then(|| undoing.unless.clone());
        let action = JobAction::Undo { version: next_version(&registry), sql, unless, why: why.clone() };
        let step = ShardCommand::Job(JobStep { job: job.id, action });
        match driver.shard(shard, step).await.map_err(|error| write::forward(shard, error))? {
            // An earlier driver may have given another reason.
            ShardReply::Undone(first) => why = first,
            ShardReply::Ok => return Err(write::forward(shard, why)),
            other => return Err(Error::new(Code::Internal, format!("a shard gave another answer: {other:?}"))),
        }
    }
    let left = after_failure(&job.kind, &why);
    driver.end(JobState::Failed, Some(why), left).await
}

/// `None` for a job that has not begun.
fn undoing(registry: &Registry, job: &Job) -> Result<Option<Undoing>, Error> {
    match &job.kind {
        JobKind::Schema { sql, table } => Ok(schema(registry, job, sql, table.as_deref())),
        JobKind::Write(_) => Ok(Some(Undoing { unless: WRITE_STEP.to_owned(), shards: vec![(HOME_SHARD, vec![])] })),
        JobKind::Register(registration) if job.begun().is_some() => {
            let others = registration.shards.iter().filter(|shard| **shard != HOME_SHARD);
            let mut shards = vec![(HOME_SHARD, vec![])];
            for shard in others {
                shards.push((*shard, register::undefine(registry, &registration.table, *shard)?));
            }
            Ok(Some(Undoing { unless: REGISTER_STEP.to_owned(), shards }))
        }
        JobKind::AddToShard { table, shard } if job.begun().is_some() => {
            let (unless, sql) = register::unadd(registry, table, *shard)?;
            Ok(Some(Undoing { unless, shards: vec![(*shard, sql)] }))
        }
        _ => Ok(None),
    }
}

fn schema(registry: &Registry, job: &Job, sql: &str, table: Option<&str>) -> Option<Undoing> {
    let unless = SCHEMA_STEP.to_owned();
    let placement = table.and_then(|name| registry.table(name)).map_or(HOME, |table| table.placement);
    let shards = registry.placements.get(&job.begun().unwrap_or(placement))?.shards.clone();
    match &shards[..] {
        [only] => Some(Undoing { unless, shards: vec![(*only, vec![])] }),
        [first, ..] if job.begun().is_some() => match inverse(registry, sql) {
            None => Some(Undoing { unless, shards: vec![(*first, vec![])] }),
            Some(sql) => {
                // The last one decides.
                let shards = shards.iter().rev().map(|shard| (*shard, sql.clone())).collect();
                Some(Undoing { unless, shards })
            }
        },
        _ => None,
    }
}

/// The schema after a statement, found out on an empty database; `None` where that cannot run it.
pub(super) fn after(registry: &Registry, sql: &str) -> Option<Vec<SchemaObject>> {
    let db = all_objects(registry)?;
    db.execute_batch(sql).ok()?;
    objects(&db).ok()
}

/// Statements that undo a statement; `None` if it takes something away that statements do not bring back.
fn inverse(registry: &Registry, sql: &str) -> Option<Vec<String>> {
    let db = all_objects(registry)?;
    let before = described(&db).ok()?;
    db.execute_batch(sql).ok()?;
    let now = described(&db).ok()?;
    let mut statements = Vec::new();
    for (object, columns) in &before {
        let (changed, more) = now.iter().find(|(now, _)| (&now.kind, &now.name) == (&object.kind, &object.name))?;
        if changed.sql == object.sql {
            continue;
        }
        let added = more.strip_prefix(&columns[..]).filter(|added| !added.is_empty())?;
        let drop = |column: &String| format!("ALTER TABLE {} DROP COLUMN {}", quoted(&object.name), quoted(column));
        statements.extend(added.iter().map(drop));
    }
    let known = |object: &SchemaObject| before.iter().any(|(o, _)| (&o.kind, &o.name) == (&object.kind, &object.name));
    let new: Vec<&SchemaObject> = now.iter().map(|(object, _)| object).filter(|object| !known(object)).collect();
    for object in new.iter().rev() {
        let with_table = object.kind != "table" && new.iter().any(|o| o.kind == "table" && o.name == object.table);
        if !with_table {
            let kind = object.kind.to_ascii_uppercase();
            statements.push(format!("DROP {kind} IF EXISTS {}", quoted(&object.name)));
        }
    }
    db.execute_batch(&statements.join(";")).ok()?;
    let same = |a: &[(SchemaObject, Vec<String>)], b: &[(SchemaObject, Vec<String>)]| {
        let names = |list: &[(SchemaObject, Vec<String>)]| -> Vec<(String, Vec<String>)> {
            list.iter().map(|(object, columns)| (object.name.clone(), columns.clone())).collect()
        };
        names(a) == names(b)
    };
    same(&described(&db).ok()?, &before).then_some(statements)
}

fn all_objects(registry: &Registry) -> Option<Connection> {
    let db = Connection::open_in_memory().ok()?;
    let order = ["table", "index", "view", "trigger"];
    for kind in order {
        for object in registry.objects.iter().filter(|object| object.kind == kind) {
            db.execute_batch(&object.sql).ok()?;
        }
    }
    Some(db)
}

fn objects(db: &Connection) -> rusqlite::Result<Vec<SchemaObject>> {
    let mut query = db.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema
         WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid",
    )?;
    let objects = query.query_map([], |row| {
        Ok(SchemaObject { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)?, placement: HOME })
    })?;
    objects.collect()
}

/// All objects, tables with the names of their columns.
fn described(db: &Connection) -> rusqlite::Result<Vec<(SchemaObject, Vec<String>)>> {
    let mut described = Vec::new();
    for object in objects(db)? {
        let mut query = db.prepare_cached("SELECT name FROM pragma_table_xinfo(?1) WHERE ?2")?;
        let columns = query.query_map((&object.name, object.kind == "table"), |row| row.get(0))?;
        let columns = columns.collect::<Result<_, _>>()?;
        described.push((object, columns));
    }
    Ok(described)
}

#[cfg(test)]
mod tests;
