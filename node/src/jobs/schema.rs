//! Schema statements: one statement on every shard that holds the table.
//!
//! On several shards the statement first runs where its failure is harmless: it is rolled back
//! everywhere ([`ShardCommand::Schema`] with `dry_run`). What then still fails, because rows changed
//! in between, is undone where it had been done ([`super::undo`]). The registry learns the schema from the first
//! shard's own answer, never from reading the statement.
//!
//! A placement whose last table is gone is forgotten: by its shards, and then by the registry, in the entry that ends
//! the job. Nothing is left of it that would keep a shard in the cluster, and its id never means anything else.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Driver, undo};
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, JobId, PlacementId, SchemaVersion};
use flotilla_shared::registry::{Effect, HOME, Placement, Registry, SchemaObject, read_tables};
use flotilla_shared::wire::{JobAction, JobStep, ShardCommand, ShardReply};

/// The schema version that the running job makes; jobs run one at a time.
pub(super) fn next_version(registry: &Registry) -> SchemaVersion {
    SchemaVersion(registry.schema_version.0 + 1)
}

/// How long a shard that had a placement's tables before is waited for: what it keeps of them is a few bytes.
const LEFT_PATIENCE: Duration = Duration::from_secs(1);

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
        // What the registry could not take is refused while nothing is done.
        if let Some(after) = undo::after(registry, sql) {
            effect(registry, shards[0], after, placement)?;
        }
        driver.begin(Some(placement), shards.clone()).await?;
    }
    let mut first: Option<Vec<SchemaObject>> = None;
    for (done, shard) in shards.iter().enumerate() {
        let percent = (100 * done / shards.len()) as u8;
        driver.note(&format!("schema statement on {shard}"), percent, None).await;
        let objects = step(driver, registry, *shard, driver.job.id, vec![sql.to_owned()], false).await?;
        first.get_or_insert(objects);
    }
    let objects = first.ok_or_else(|| Error::new(Code::Conflict, "no shard holds this table"))?;
    let schema = effect(registry, shards[0], objects, placement)?;
    let mut effects = forget_empty(driver, registry, &schema, placement).await?;
    effects.insert(0, schema);
    Ok(effects)
}

/// Placements that no table is left in are forgotten.
async fn forget_empty(
    driver: &Driver<'_>,
    registry: &Registry,
    schema: &Effect,
    of_statement: PlacementId,
) -> Result<Vec<Effect>, Error> {
    let Effect::Schema { placements, tables, .. } = schema else { return Ok(vec![]) };
    let others = registry.tables.values().filter(|table| !placements.contains(&table.placement));
    let used: BTreeSet<PlacementId> = others.chain(tables).map(|table| table.placement).collect();
    let empty = |placement: &&Placement| placement.id != HOME && !used.contains(&placement.id);
    // A job that names a table of it may be about to end its moves.
    let moved = |placement: &&Placement| registry.moves().any(|moving| moving.placement == placement.id);
    let mut effects = Vec::new();
    for placement in registry.placements.values().filter(empty).filter(|p| p.id == of_statement || !moved(p)) {
        driver.note("forgetting the placement", 90, None).await;
        let forget =
            ShardCommand::Job(JobStep { job: driver.job.id, action: JobAction::Forget { placement: placement.id } });
        for shard in placement.epochs.keys().chain(&placement.shards).collect::<BTreeSet<_>>() {
            let told = driver.shard(*shard, forget.clone());
            match placement.shards.contains(shard) && placement.id == of_statement {
                true => drop(told.await?),
                false if registry.groups.contains_key(shard) => {
                    drop(tokio::time::timeout(LEFT_PATIENCE, told).await);
                }
                false => (),
            }
        }
        effects.push(Effect::Forget(placement.id));
    }
    Ok(effects)
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

/// What the registry learns from a shard's schema: everything that lives on that shard.
pub(super) fn effect(
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
