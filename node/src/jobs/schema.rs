//! Schema statements: one statement on every shard that holds the table.
//!
//! On several shards the statement first runs where its failure is harmless: it is rolled back
//! everywhere ([`ShardCommand::Schema`] with `dry_run`). What then still fails, because rows changed
//! in between, is undone where it had been done. The registry learns the schema from the first
//! shard's own answer, never from reading the statement.

use super::Driver;
use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{GroupId, JobId, PlacementId, SchemaVersion};
use flotilla_shared::registry::{Effect, HOME, Registry, SchemaObject, quoted, read_tables};
use flotilla_shared::wire::{ShardCommand, ShardReply};

/// The schema version that the running job makes; jobs run one at a time.
pub(super) fn next_version(registry: &Registry) -> SchemaVersion {
    SchemaVersion(registry.schema_version.0 + 1)
}

/// Steps under this id are not remembered: undoing may be repeated.
const UNDO: JobId = JobId(0);

pub(super) async fn run(
    driver: &Driver<'_>,
    registry: &Registry,
    sql: &str,
    table: Option<&str>,
) -> Result<Vec<Effect>, Error> {
    // The proxy looked, too, but tables may have been sharded since.
    registry.check_ties_of(sql)?;
    let placement = table.and_then(|name| registry.table(name)).map_or(HOME, |table| table.placement);
    let shards = registry.placements.get(&placement).map(|placement| placement.shards.clone()).unwrap_or_default();
    if shards.len() > 1 {
        for shard in &shards {
            step(driver, registry, *shard, driver.job.id, vec![sql.to_owned()], true).await?;
        }
    }
    let mut first: Option<Vec<SchemaObject>> = None;
    for (done, shard) in shards.iter().enumerate() {
        let percent = (100 * done / shards.len()) as u8;
        driver.note(&format!("schema statement on {shard}"), percent, None).await;
        match step(driver, registry, *shard, driver.job.id, vec![sql.to_owned()], false).await {
            Ok(objects) => drop(first.get_or_insert(objects)),
            Err(error) if error.code.class() == Class::Refused => {
                if let Some(objects) = &first {
                    undo(driver, registry, &shards[..done], objects, placement).await?;
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
    let objects = first.ok_or_else(|| Error::new(Code::Conflict, "no shard holds this table"))?;
    Ok(vec![effect(registry, shards[0], objects, placement)?])
}

/// Runs statements on a shard, once per step id, and returns its schema after them.
pub(super) async fn step(
    driver: &Driver<'_>,
    registry: &Registry,
    shard: GroupId,
    job: JobId,
    sql: Vec<String>,
    dry_run: bool,
) -> Result<Vec<SchemaObject>, Error> {
    let command = ShardCommand::Schema { job, version: next_version(registry), sql, dry_run };
    match driver.shard(shard, command).await? {
        ShardReply::Schema(objects) => Ok(objects),
        ShardReply::Ok if dry_run => Ok(vec![]),
        other => Err(Error::new(Code::Internal, format!("a shard gave another answer: {other:?}"))),
    }
}

/// Drops on `shards` what the statement added there.
async fn undo(
    driver: &Driver<'_>,
    registry: &Registry,
    shards: &[GroupId],
    after: &[SchemaObject],
    placement: PlacementId,
) -> Result<(), Error> {
    let known =
        |object: &&SchemaObject| !registry.objects.iter().any(|o| o.kind == object.kind && o.name == object.name);
    let mut statements: Vec<String> = after
        .iter()
        .filter(known)
        .map(|object| format!("DROP {} {}", object.kind.to_ascii_uppercase(), quoted(&object.name)))
        .collect();
    if statements.is_empty() {
        let now = read_tables(after)?;
        for table in now.iter().filter(|table| registry.placement_of(&table.name).is_some_and(|p| p.id == placement)) {
            let Some(before) = registry.table(&table.name) else { continue };
            for column in table.columns.iter().filter(|column| before.column(&column.name).is_none()) {
                statements.push(format!("ALTER TABLE {} DROP COLUMN {}", quoted(&table.name), quoted(&column.name)));
            }
        }
    }
    for shard in shards {
        for statement in &statements {
            undo_step(driver, registry, *shard, statement.clone()).await?;
        }
    }
    Ok(())
}

/// Runs a statement that undoes what this job did on a shard.
pub(super) async fn undo_step(
    driver: &Driver<'_>,
    registry: &Registry,
    shard: GroupId,
    statement: String,
) -> Result<(), Error> {
    match step(driver, registry, shard, UNDO, vec![statement], false).await {
        Ok(_) => Ok(()),
        // An earlier try of this job has undone it.
        Err(error) if error.code.class() == Class::Refused => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the registry learns from a shard's schema: everything that lives on that shard.
fn effect(
    registry: &Registry,
    shard: GroupId,
    mut objects: Vec<SchemaObject>,
    placement: PlacementId,
) -> Result<Effect, Error> {
    let placements: Vec<PlacementId> =
        registry.placements.values().filter(|p| p.shards.contains(&shard)).map(|p| p.id).collect();
    let mut tables = read_tables(&objects)?;
    // At most one table is new, and one gone: that is a rename, and the key goes along.
    let gone = registry.tables.values().find(|old| {
        placements.contains(&old.placement) && !tables.iter().any(|new| new.name.eq_ignore_ascii_case(&old.name))
    });
    for table in &mut tables {
        let before = registry.table(&table.name).or(gone);
        table.placement = registry.table(&table.name).map_or(placement, |before| before.placement);
        if let Some(before) = before.filter(|before| before.placement == table.placement) {
            let renamed = before.columns.len() == table.columns.len();
            table.key = before
                .key
                .iter()
                .filter_map(|index| {
                    let name = &before.columns[*index].name;
                    table.column(name).or(renamed.then_some(*index))
                })
                .collect();
            if table.key.len() != before.key.len() {
                return Err(Error::new(Code::Conflict, format!("{} would lose its shard key", table.name)));
            }
        }
    }
    for object in &mut objects {
        let table = tables.iter().find(|table| table.name.eq_ignore_ascii_case(&object.table));
        // A view has no table; one that was there before stays where it was made.
        let known = registry.objects.iter().find(|old| old.kind == object.kind && old.name == object.name);
        let before = known.map(|old| old.placement).filter(|old| placements.contains(old));
        object.placement = table.map(|table| table.placement).or(before).unwrap_or(placement);
    }
    Ok(Effect::Schema { placements, objects, tables })
}
